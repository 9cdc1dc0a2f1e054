"""The four things a node is handed and never reaches for: clock, randomness, network, blocking work.

Production wires :func:`system_environment`; ``simulations`` wires a virtual one, so that the same node
runs from a seed. Everything that reads time, draws a random number, opens a socket or blocks a thread
goes through here, and a lint rule keeps it so.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar, TypeVarTuple, Unpack

import trio

from node.tls import TlsStream
from swim.loop_lag import LoopLag, TrioLoopLag

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Address = tuple[str, int]
"""Host (an IP address in text) and port."""

DATAGRAM_BATCH = 64
"""Datagrams read in one pass of the event loop."""
DATAGRAM_BUFFER_BYTES = 2 * 1024 * 1024
_LANES = {
    "storage": 1,
    "checkpoint": 3,
    "memory_write": 1,
    "memory_read": 1,
    "crypto": 1,
    "wasm": 2,
    "wasm_waiting": 4,
    "wasm_compiling": 2,
    "model": 1,
    "files": 2,
    "blobs": 1,
    "graph": 4,
}
"""Blocking work runs in named lanes, each with a bound on its threads."""
WORK_S: Final = 0.002
"""How long a job that rests works between two rests, in seconds."""
REST_S: Final = 0.0005
"""How long it rests, in seconds."""


class Clock(Protocol):
    """Time, per node: one simulated node can pause or drift while the others go on."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def wall(self) -> float:
        """Unix time in seconds, as this node believes it to be."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep for ``seconds``."""
        ...

    async def sleep_until(self, deadline: float) -> None:
        """Sleep until :meth:`now` is ``deadline``."""
        ...

    def move_on_after(self, seconds: float) -> AbstractContextManager[trio.CancelScope, bool]:
        """A cancel scope that ends quietly after ``seconds``."""
        ...

    def loop_lag(self) -> LoopLag:
        """A meter of how late the event loop serves this node."""
        ...


class Randomness(Protocol):
    """Two kinds of chance: secrets and identifiers from ``token``, protocol choices from ``stream``."""

    def token(self, size: int) -> bytes:
        """``size`` bytes fit for keys, nonces and identifiers."""
        ...

    def stream(self, purpose: str) -> random.Random:
        """A generator for protocol choices only; one per purpose, so that a new draw shifts no other."""
        ...


class Datagrams(Protocol):
    """A bound UDP socket."""

    @property
    def address(self) -> Address:
        """Where it is bound."""
        ...

    def send(self, data: bytes, to: Address) -> None:
        """Send one datagram now; raises OSError where the system refuses it, or has no room for it."""
        ...

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for datagrams; those that have arrived, a few dozen at most, each with where it came from."""
        ...

    def close(self) -> None:
        """Close the socket."""
        ...


class Listener(Protocol):
    """A bound TCP listener."""

    @property
    def address(self) -> Address:
        """Where it is bound."""
        ...

    async def accept(self) -> trio.abc.Stream:
        """The next connection."""
        ...

    async def aclose(self) -> None:
        """Stop listening."""
        ...


class LinkCredentials(Protocol):
    """What this node shows on a peer link, and how it checks what it is shown (``node.security``)."""

    def client_context(self) -> ssl.SSLContext:
        """TLS 1.3, with this node's leaf, trusting only the cluster CA."""
        ...

    def server_context(self) -> ssl.SSLContext:
        """The same for the accepting side; a client certificate is required."""
        ...

    def leaf(self) -> bytes:
        """This node's leaf certificate (DER): what a simulated network, which has no TLS, shows."""
        ...


@dataclass(slots=True)
class SecureStream:
    """An encrypted stream and the leaf certificate (DER) its peer has proven to hold.

    The chain was verified against the cluster CA; that the leaf names its own issuer, and the expected
    node, is for the caller to check.
    """

    stream: trio.abc.Stream
    peer_leaf: bytes
    protocol: str = "simulated"
    """What protects it, as OpenSSL names it (``TLSv1.3``)."""


class Network(Protocol):
    """Sockets."""

    async def open_datagrams(self, host: str, port: int) -> Datagrams:
        """Bind a UDP socket; port 0 takes a free one."""
        ...

    async def listen(self, host: str, port: int) -> Listener:
        """Bind a TCP listener; port 0 takes a free one."""
        ...

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        """Connect by TCP; raises OSError."""
        ...

    async def resolve(self, host: str, port: int) -> list[Address]:
        """The addresses of a name, IPv4 and IPv6; raises OSError."""
        ...

    async def secure_client(self, stream: trio.abc.Stream, credentials: LinkCredentials) -> SecureStream:
        """Shake hands as the dialling side; raises OSError or trio.BrokenResourceError."""
        ...

    async def secure_server(self, stream: trio.abc.Stream, credentials: LinkCredentials) -> SecureStream:
        """Shake hands as the accepting side; raises OSError or trio.BrokenResourceError."""
        ...


class Rests:
    """Rests of a long job, which gives way before it is made to.

    A thread that is stopped by the system in the middle of its work has, as often as not, Python's lock, and
    then the event loop waits with it for a processor. Who sleeps often is seldom stopped.

    Args:
        now: Seconds.
        sleep: Sleeps for seconds, without Python's lock.
    """

    def __init__(self, now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._now, self._sleep = now, sleep
        self._since = now()

    def __call__(self) -> None:
        """Between two steps: rest, if the job has worked for :data:`WORK_S`."""
        if self._now() - self._since >= WORK_S:
            self._sleep(REST_S)
            self._since = self._now()


class CannotWait(Exception):
    """A job runs on the event loop itself, and cannot wait for what only the loop can do."""


class Workers(Protocol):
    """Blocking work, off the event loop in production and inline in simulation."""

    async def run(self, lane: str, job: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Run ``job(*args)`` in ``lane``: storage, memory_write, memory_read, crypto, model, graph ..."""
        ...

    def wait(self, work: Callable[[], Awaitable[T]]) -> T:
        """Inside a job: have the event loop do ``work``, and wait for it.

        The work is the job's caller's own: who cancels that one cancels it.

        Raises:
            CannotWait: jobs run on the event loop here.
            trio.Cancelled: nobody waits for the job any more.
        """
        ...

    def rests(self) -> Callable[[], None]:
        """Inside a job that is long: what to call between its steps, so that others get the processor."""
        ...


_DRAWN_BITS: Final = 0x3FFF_FFFF_FFFF_FFFF
"""What of an identifier is drawn."""
_VERSION_BITS: Final = 0x7000_8000_0000_0000_0000
"""Its version and variant."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What a node is given; see the module's docstring."""

    clock: Clock
    randomness: Randomness
    network: Network
    workers: Workers

    def new_id(self) -> str:
        """A new UUIDv7 (RFC 9562, 5.7 and 6.2 method 3): identifiers that sort by the time they were made.

        A quarter of a microsecond tells those of one process apart, since making one takes longer.
        """
        milliseconds, part = divmod(int(self.clock.wall() * 4_096_000), 4096)
        drawn = int.from_bytes(self.randomness.token(8), "big") & _DRAWN_BITS
        text = f"{milliseconds << 80 | part << 64 | drawn | _VERSION_BITS:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class SystemClock:
    """The machine's clocks under Trio."""

    def now(self) -> float:
        """Trio's clock, in seconds."""
        return trio.current_time()

    def wall(self) -> float:
        """Unix time in seconds."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep for ``seconds``."""
        await trio.sleep(seconds)

    async def sleep_until(self, deadline: float) -> None:
        """Sleep until :meth:`now` is ``deadline``."""
        await trio.sleep_until(deadline)

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        """A cancel scope that ends quietly after ``seconds``."""
        return trio.move_on_after(seconds)

    def loop_lag(self) -> LoopLag:
        """A meter of Trio's event loop."""
        return TrioLoopLag(time.perf_counter)  # twice in each pass of the loop: nothing that calls others


_WORD_BYTES: Final = 8
_WORDS_AT_ONCE: Final = 256
_words: deque[bytes] = deque()
"""Drawn, and given to nobody yet; a thread takes what no other one does (``deque.pop``)."""
os.register_at_fork(after_in_child=_words.clear)


class SystemRandomness:
    """The operating system's generator."""

    def token(self, size: int) -> bytes:
        """``size`` bytes of the system's cryptographic source.

        Those of identifiers, 8 each, are drawn many at a time: a draw lets go of the interpreter, and costs
        as much as the rest of making one.
        """
        if size != _WORD_BYTES:
            return os.urandom(size)
        try:
            return _words.pop()
        except IndexError:
            drawn = os.urandom(_WORD_BYTES * _WORDS_AT_ONCE)
        _words.extend([drawn[at : at + _WORD_BYTES] for at in range(_WORD_BYTES, len(drawn), _WORD_BYTES)])
        return drawn[:_WORD_BYTES]

    def stream(self, purpose: str) -> random.Random:
        """A generator seeded by the system; ``purpose`` matters only where runs are replayed."""
        del purpose
        return random.Random(int.from_bytes(os.urandom(16), "big"))


class SystemDatagrams:
    """A UDP socket, read in batches: a pass of the event loop for each datagram would cost more than it.

    Args:
        bound: A bound socket that does not block.
    """

    def __init__(self, bound: socket.socket) -> None:
        self._socket = bound

    @property
    def address(self) -> Address:
        """Where it is bound."""
        name = self._socket.getsockname()
        return name[0], name[1]

    def send(self, data: bytes, to: Address) -> None:
        """Send one datagram now; raises OSError where the system refuses it, or has no room for it."""
        self._socket.sendto(data, to)

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for datagrams; those that have arrived, at most 64, each with where it came from."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            batch: list[tuple[bytes, Address]] = []
            while len(batch) < DATAGRAM_BATCH:
                try:
                    data, source = self._socket.recvfrom(65_536)
                except BlockingIOError:
                    break
                except ConnectionError:  # an ICMP "port unreachable" for an earlier send is not an answer
                    continue
                batch.append((data, (source[0], source[1])))
            if batch:
                return batch

    def close(self) -> None:
        """Close the socket."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


class SystemListener:
    """A TCP listener of Trio."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener

    @property
    def address(self) -> Address:
        """Where it is bound."""
        name = self._listener.socket.getsockname()
        return name[0], name[1]

    async def accept(self) -> trio.abc.Stream:
        """The next connection, with Nagle's delay off."""
        stream = await self._listener.accept()
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        return stream

    async def aclose(self) -> None:
        """Stop listening."""
        await self._listener.aclose()


class SystemNetwork:
    """The machine's network under Trio."""

    async def open_datagrams(self, host: str, port: int) -> Datagrams:
        """Bind a UDP socket."""
        family, *_, address = (await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_DGRAM))[0]
        bound = socket.socket(family, socket.SOCK_DGRAM)
        try:
            bound.setblocking(False)
            # The system gives what it allows; a process that stalls finds more of what came meanwhile.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DATAGRAM_BUFFER_BYTES)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
        return SystemDatagrams(bound)

    async def listen(self, host: str, port: int) -> Listener:
        """Bind a TCP listener."""
        return SystemListener((await trio.open_tcp_listeners(port, host=host))[0])

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        """Connect by TCP, with Nagle's delay off."""
        return await trio.open_tcp_stream(host, port)

    async def resolve(self, host: str, port: int) -> list[Address]:
        """The addresses of a name."""
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        return list(dict.fromkeys((str(entry[4][0]), int(entry[4][1])) for entry in found))

    async def secure_client(self, stream: trio.abc.Stream, credentials: LinkCredentials) -> SecureStream:
        """Shake hands as the dialling side."""
        return await self._secure(TlsStream(stream, credentials.client_context()))

    async def secure_server(self, stream: trio.abc.Stream, credentials: LinkCredentials) -> SecureStream:
        """Shake hands as the accepting side."""
        context = credentials.server_context()
        return await self._secure(TlsStream(stream, context, server_side=True))

    async def _secure(self, stream: TlsStream) -> SecureStream:
        await stream.do_handshake()
        return SecureStream(stream, stream.getpeercert(), stream.version())


@dataclass(slots=True)
class ThreadWorkers:
    """Worker threads, bounded per lane."""

    _limiters: dict[str, trio.CapacityLimiter] = field(default_factory=dict)

    async def run(self, lane: str, job: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Run ``job(*args)`` on a thread of ``lane``; not abandoned when the caller is cancelled."""
        if lane not in self._limiters:
            self._limiters[lane] = trio.CapacityLimiter(_LANES[lane])
        return await trio.to_thread.run_sync(job, *args, limiter=self._limiters[lane])

    def wait(self, work: Callable[[], Awaitable[T]]) -> T:
        """From within a job: have the event loop do ``work``, in the task that called :meth:`run`."""
        return trio.from_thread.run(work)

    def rests(self) -> Callable[[], None]:
        """The rests of one job."""
        return Rests(time.monotonic, time.sleep)


def system_environment() -> Environment:
    """The machine's own clock, randomness, network and threads."""
    return Environment(SystemClock(), SystemRandomness(), SystemNetwork(), ThreadWorkers())
