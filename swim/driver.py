"""The only I/O of membership: a Trio task set around `Swim`, over UDP and TCP on one port number.

Tasks: one reads datagrams, one keeps the timer, one accepts streams, and two per stream read and write it.
Datagrams are sent on the spot: the system takes them, or they are lost. Every input goes into the core, then
its effects are carried out or handed to those tasks and its events to the owner, all between two
checkpoints. Before a timer fires, datagrams that have already arrived are read: after a stall of this process
the answers are in the socket, and a verdict passed before reading them would be a false one.

A stream's failure ends that stream; a datagram that cannot be sent is lost, as datagrams are.
Network and clock are handed in, so that the same code runs under a simulator.
"""

import errno
import ipaddress
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

import trio

from swim.events import CloseStream, Effect, Event, OpenStream, SendDatagram, SendStream
from swim.loop_lag import LoopLag
from swim.members import Member
from swim.messages import Address
from swim.protocol import Swim

MAX_DRAINED_DATAGRAMS: Final = 4_096
"""Datagrams read before a due timer fires all the same."""
MAX_BIND_ATTEMPTS: Final = 32
"""Port numbers tried until TCP and UDP get the same one."""
UNSPECIFIED_HOSTS: Final = ("0.0.0.0", "::")  # noqa: S104 (refused, not bound)
MIN_LAG_S: Final = 0.05
"""A shorter lag of the event loop is nothing to tell."""
RECEIVE_BYTES: Final = 65_536
ACCEPT_PAUSE_S: Final = 0.1
"""Pause after a failed accept, when the process is out of file descriptors, say."""
RECEIVE_PAUSE_S: Final = 0.01
"""Pause after a failed receive, so that a broken socket cannot keep a core busy."""
CLOSE_GRACE_S: Final = 2.0
"""How long a closing stream may take to send what was queued."""


class Datagrams(Protocol):
    """A bound datagram socket."""

    @property
    def address(self) -> Address:
        """Where it is bound."""

    def send(self, data: bytes, to: Address) -> None:
        """Send one datagram now; may raise OSError, also where there is no room for it."""

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for datagrams; may raise OSError for one that could not be delivered earlier."""

    def close(self) -> None:
        """Close the socket."""


class Listener(Protocol):
    """A bound stream listener."""

    @property
    def address(self) -> Address:
        """Where it is bound."""

    async def accept(self) -> trio.abc.Stream:
        """Wait for one connection; may raise OSError."""

    async def aclose(self) -> None:
        """Close the listener."""


class Network(Protocol):
    """What reaches other processes."""

    async def open_datagrams(self, host: str, port: int) -> Datagrams:
        """Bind a datagram socket; port 0 picks a free one."""

    async def listen(self, host: str, port: int) -> Listener:
        """Bind a stream listener; port 0 picks a free one."""

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        """Open a stream."""

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host name; an IP address resolves to itself."""


class Clock(Protocol):
    """Monotonic and wall time, and waiting by them."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def wall(self) -> float:
        """Return seconds since the epoch."""

    async def sleep_until(self, deadline: float) -> None:
        """Wait until a monotonic time."""

    def move_on_after(self, seconds: float) -> AbstractContextManager[trio.CancelScope, bool]:
        """Return a scope that is cancelled after so many seconds."""

    def loop_lag(self) -> LoopLag:
        """Return a meter of the event loop, which tells how late this process is served."""


class SwimHandle:
    """A running member, for the code around it; use it from the same Trio loop.

    Attributes:
        swim: the core. Whoever changes it or its map directly calls `wake()` afterwards.
        address: what this member tells others to reach it by.
    """

    def __init__(self, driver: "_Driver") -> None:
        self._driver = driver
        self.swim = driver.swim
        self.address = driver.swim.address

    def join(self, seeds: Sequence[str]) -> None:
        """Try these seeds until one answers."""
        self.swim.join(seeds, self._driver.now())
        self._driver.pump()

    def update_meta(self, meta: bytes) -> None:
        """Change this member's metadata."""
        self.swim.update_meta(meta, self._driver.now())
        self._driver.pump()

    def wake(self) -> None:
        """Look at timers and effects again, after the map or the core was changed directly."""
        self._driver.pump()

    def members(self) -> list[Member]:
        """Return everybody known except this member."""
        return self.swim.members()

    async def leave(self) -> None:
        """Say goodbye and return when it has been said; `run_swim` ends then."""
        self.swim.leave(self._driver.now())
        self._driver.pump()
        await self._driver.finished.wait()

    def statistics(self) -> dict[str, int]:
        """Count what core and driver have seen."""
        return {**self.swim.statistics(), **self._driver.statistics()}


async def run_swim(
    swim: Swim,
    *,
    network: Network,
    clock: Clock,
    bind: Address,
    on_event: Callable[[Event], None],
    advertise: Address | None = None,
    task_status: trio.TaskStatus[SwimHandle] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a member until it has left or is cancelled.

    Args:
        swim: the member, not started yet.
        network: reaches other processes.
        clock: tells time and waits.
        bind: host and port to listen on, for datagrams and streams alike; port 0 picks one.
        on_event: called for each event, in order, between checkpoints; must not raise.
        advertise: what others reach this member by, if not the bound address: an IP address,
            because datagrams to names are not sent; port 0 in it stands for the bound port.
        task_status: gets a `SwimHandle` once both sockets are bound.

    Raises:
        OSError: if the port cannot be bound.
        ValueError: if there is no address to tell others.
    """
    listener, datagrams = await _bind(network, bind)
    port = datagrams.address[1]
    try:
        host, wanted_port = advertise or datagrams.address
        if host in UNSPECIFIED_HOSTS:
            raise ValueError(f"bound to {host}, so `advertise` must say where others reach this member")
        driver = _Driver(swim, network, clock, datagrams, on_event)
        swim.wall_offset = clock.wall() - clock.now()
        swim.start(clock.now(), (host, wanted_port or port))
        async with trio.open_nursery() as nursery:
            driver.nursery = nursery
            nursery.start_soon(driver.receive_datagrams)
            nursery.start_soon(driver.accept_streams, listener)
            nursery.start_soon(driver.keep_time)
            task_status.started(SwimHandle(driver))
            driver.pump()
            await driver.finished.wait()
            nursery.cancel_scope.cancel()
    finally:
        datagrams.close()
        with trio.CancelScope(shield=True):
            await listener.aclose()


def is_ip(host: str) -> bool:
    """Say whether a host is an IP address, and no name that has to be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _bind(network: Network, bind: Address) -> tuple[Listener, Datagrams]:
    """Bind TCP and UDP to one port number."""
    host, port = bind
    for attempt in range(MAX_BIND_ATTEMPTS):
        listener = await network.listen(host, port)
        try:
            return listener, await network.open_datagrams(host, listener.address[1])
        except OSError as error:
            await listener.aclose()
            taken = error.errno == errno.EADDRINUSE
            if port != 0 or not taken or attempt == MAX_BIND_ATTEMPTS - 1:
                raise
    raise OSError(errno.EADDRINUSE, "no port number is free for both TCP and UDP")


class _Stream:
    """The sending side of one stream; what is queued is bounded by the core's state limit."""

    def __init__(self) -> None:
        self.outgoing: list[bytes] = []
        self.changed = trio.Event()
        self.closing = False
        self.scope = trio.CancelScope()

    def notify(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class _Driver:
    """The task set; all its methods run in one Trio loop."""

    nursery: trio.Nursery

    def __init__(
        self,
        swim: Swim,
        network: Network,
        clock: Clock,
        datagrams: Datagrams,
        on_event: Callable[[Event], None],
    ) -> None:
        self.swim = swim
        self.finished = trio.Event()
        self._network = network
        self._clock = clock
        self._datagrams = datagrams
        self._on_event = on_event
        self._wake = trio.Event()
        self._sleeps_until: float | None = None
        self._pumping = False
        self._received = 0
        self._counts: Counter[str] = Counter()
        self._streams: dict[int, _Stream] = {}
        self._next_accepted = 2
        self._lag = clock.loop_lag()

    def now(self) -> float:
        """Return the time, and keep the core's idea of wall time fresh."""
        now = self._clock.now()
        self.swim.wall_offset = self._clock.wall() - now
        return now

    def statistics(self) -> dict[str, int]:
        """Count what the driver itself dropped."""
        return {**dict(sorted(self._counts.items())), "driver_streams": len(self._streams)}

    def pump(self) -> None:
        """Do the core's effects, tell its events, and let the timer task look again."""
        if self._pumping:
            return  # called from `on_event`; the loop below goes round again
        self._pumping = True
        try:
            while True:
                effects, events = self.swim.effects(), self.swim.events()
                if not effects and not events:
                    break
                for effect in effects:
                    self._do(effect)
                for event in events:
                    self._on_event(event)
        finally:
            self._pumping = False
        if self.swim.has_left:
            self.finished.set()
        due = self.swim.next_timer()
        if due is not None and (self._sleeps_until is None or due < self._sleeps_until):
            self._wake.set()

    async def receive_datagrams(self) -> None:
        """Feed datagrams to the core, for ever."""
        while True:
            try:
                batch = await self._datagrams.receive()
            except OSError:
                # An earlier datagram met a closed port (ICMP); it says nothing about the next one.
                self._counts["datagram_receive_errors"] += 1
                await self._clock.sleep_until(self._clock.now() + RECEIVE_PAUSE_S)
                continue
            self._received += len(batch)
            now = self.now()
            for data, source in batch:
                self.swim.receive(data, source, now)
            self.pump()

    async def keep_time(self) -> None:
        """Call the core's timer when it is due, and tell it how the event loop lags, for ever."""
        self._lag.start()
        try:
            await self._keep_time()
        finally:
            self._lag.stop()

    async def _keep_time(self) -> None:
        while True:
            self._wake = trio.Event()
            due = self._sleeps_until = self.swim.next_timer()
            if due is None:
                await self._wake.wait()
                continue
            with self._clock.move_on_after(max(0.0, due - self._clock.now())):
                await self._wake.wait()
            if due <= self._clock.now():
                lag_s = self._lag.take()
                if lag_s > MIN_LAG_S:
                    self.swim.loop_lagged(lag_s, self.now())
                await self._drain()
                self.swim.handle_timer(self.now())
                self.pump()

    async def accept_streams(self, listener: Listener) -> None:
        """Take streams that peers open, for ever."""
        while True:
            try:
                stream = await listener.accept()
            except OSError:
                self._counts["accept_errors"] += 1
                await self._clock.sleep_until(self._clock.now() + ACCEPT_PAUSE_S)
                continue
            number = self._next_accepted
            self._next_accepted += 2
            handle = self._streams[number] = _Stream()
            # Whoever is over the core's limit gets CloseStream at once, before the task starts.
            self.swim.stream_accepted(number, _peer_of(stream), self.now())
            self.pump()
            self.nursery.start_soon(self._run_stream, number, handle, stream)

    async def _drain(self) -> None:
        """Let the datagram task read what has already arrived."""
        first = self._received
        while self._received - first < MAX_DRAINED_DATAGRAMS:
            before = self._received
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            if self._received == before:
                return

    def _do(self, effect: Effect) -> None:
        if isinstance(effect, SendDatagram):
            if not is_ip(effect.to[0]):
                # To look a name up takes seconds when DNS is slow: a member that says it listens at a name
                # would stall the probes of all others.
                self._counts["datagrams_to_host_names"] += 1
                return
            try:
                self._datagrams.send(effect.data, effect.to)
            except (OSError, ValueError):
                self._counts["datagram_send_errors"] += 1
        elif isinstance(effect, OpenStream):
            handle = self._streams[effect.id] = _Stream()
            self.nursery.start_soon(self._open_stream, effect, handle)
        else:
            stream = self._streams.get(effect.id)
            if stream is None:
                return
            if isinstance(effect, CloseStream):
                stream.closing = True
            elif isinstance(effect, SendStream):
                stream.outgoing.append(effect.data)
            stream.notify()

    async def _open_stream(self, effect: OpenStream, handle: _Stream) -> None:
        timeout_s = self.swim.config.stream_timeout_s
        stream: trio.abc.Stream | None = None
        reason = f"no connection within {timeout_s:g} s"
        with self._clock.move_on_after(timeout_s):
            try:
                stream = await self._connect(effect.to)
            except (OSError, ValueError) as error:
                reason = _explain(error)
        if stream is None:
            self._streams.pop(effect.id, None)
            self.swim.stream_failed(effect.id, reason, self.now())
            self.pump()
            return
        self.swim.stream_opened(effect.id, self.now())
        self.pump()
        await self._run_stream(effect.id, handle, stream)

    async def _connect(self, to: Address) -> trio.abc.Stream:
        error = OSError(f"{to[0]} has no address")
        for host, port in await self._network.resolve(*to):
            try:
                return await self._network.connect(host, port)
            except OSError as failure:
                error = failure
        raise error

    async def _run_stream(self, number: int, handle: _Stream, stream: trio.abc.Stream) -> None:
        """Read and write one stream until either side closes it."""
        reason = ""
        try:
            with handle.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read_stream, number, handle, stream)
                    await self._write_stream(handle, stream)
                    nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as errors:
            self._counts["streams_broken"] += 1
            reason = _explain(errors.exceptions[0])
        finally:
            self._streams.pop(number, None)
            await trio.aclose_forcefully(stream)
        if reason:
            self.swim.stream_failed(number, reason, self.now())
            self.pump()

    async def _read_stream(self, number: int, handle: _Stream, stream: trio.abc.Stream) -> None:
        while not handle.closing:
            data = await stream.receive_some(RECEIVE_BYTES)
            if not data:
                self.swim.stream_closed(number, self.now())
                self.pump()
                return
            self.swim.stream_received(number, bytes(data), self.now())
            self.pump()

    async def _write_stream(self, handle: _Stream, stream: trio.abc.Stream) -> None:
        while True:
            changed = handle.changed
            if handle.outgoing:
                queued, handle.outgoing = handle.outgoing, []
                # The core gives up a stream after its own timeout; this only ends a stuck write.
                timeout_s = self.swim.config.stream_timeout_s + CLOSE_GRACE_S
                with self._clock.move_on_after(timeout_s) as scope:
                    for data in queued:
                        await stream.send_all(data)
                if scope.cancelled_caught:
                    return
            elif handle.closing:
                return
            else:
                await changed.wait()


def _peer_of(stream: trio.abc.Stream) -> Address:
    """Return the other end of a stream, an empty host if it cannot be told."""
    if not isinstance(stream, trio.SocketStream):
        return ("", 0)
    try:
        host, port, *_ = stream.socket.getpeername()
    except OSError:  # it is gone already
        return ("", 0)
    return (str(host), int(port))


def _explain(error: BaseException) -> str:
    """Say in words what an error means."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.errno is None and error.__cause__ is not None:
        return _explain(error.__cause__)  # "all attempts failed" hides why the last one did
    text = getattr(error, "strerror", None) or str(error)
    return text or type(error).__name__
