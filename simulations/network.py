"""A virtual network: datagrams and streams with delay, loss and partitions, between hosts of one world.

Each node lives on a host of its own (an address in 10.0.0.0/8). A datagram is lost, or arrives after the
link's delay. A stream keeps its order, loses nothing while both ends live, stalls across a partition, and
breaks when its peer's process crashes. There is no TLS in here: what :class:`node.environment.Network` asks
for as a secure handshake is an exchange of the leaf certificates, so that the checks above it still run.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from node.environment import DATAGRAM_BATCH, Address, Datagrams, LinkCredentials, Listener, SecureStream
from simulations.kernel import Process, World

FIRST_ADDRESS: Final = ipaddress.IPv4Address("10.0.0.1")
STREAM_WINDOW_BYTES: Final = 1 << 20
"""Bytes a sender may have on the way before it must wait."""
DATAGRAM_QUEUE: Final = 4096
"""Datagrams a socket holds for a reader that does not read; more are dropped, as a kernel does."""


@dataclass(slots=True)
class Link:
    """How packets travel from one host to another.

    Args:
        delay_s: Shortest delay.
        jitter_s: Most that is added to it, uniformly.
        loss: Probability that a datagram is lost.
        cut: Whether nothing passes at all.
    """

    delay_s: float = 0.002
    jitter_s: float = 0.001
    loss: float = 0.0
    cut: bool = False


@dataclass(eq=False, slots=True)
class Host:
    """One node's place in the network, and its process."""

    name: str
    ip: str
    paused: bool = False
    fenced: bool = False
    next_port: int = 40_000
    sockets: dict[int, _Datagrams] = field(default_factory=dict)
    listeners: dict[int, _Listener] = field(default_factory=dict)
    streams: list[_Stream] = field(default_factory=list)


class VirtualNetwork:
    """All hosts and links of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.hosts: dict[str, Host] = {}
        self.links: dict[tuple[str, str], Link] = {}
        self.default = Link()
        self._random = world.stream("network")

    def host(self, name: str) -> Host:
        """The host of that name; a new one if there was none or its process crashed."""
        known = self.hosts.get(name)
        if known is None or known.fenced:
            ip = known.ip if known else str(FIRST_ADDRESS + len(self.hosts))
            self.hosts[name] = known = Host(name, ip)
        return known

    def by_ip(self, ip: str) -> Host | None:
        """The host with that address."""
        return next((host for host in self.hosts.values() if host.ip == ip), None)

    def link(self, source: str, target: str) -> Link:
        """The link of one direction, made on first use."""
        return self.links.setdefault(
            (source, target), Link(self.default.delay_s, self.default.jitter_s, self.default.loss)
        )

    def partition(self, *sides: tuple[str, ...]) -> None:
        """Cut every link between hosts of different sides."""
        side_of = {name: index for index, side in enumerate(sides) for name in side}
        for (one, here), (other, there) in itertools.product(side_of.items(), repeat=2):
            self.link(one, other).cut = here != there

    def heal(self) -> None:
        """Let everything pass again, and hand on what stalled."""
        for link in self.links.values():
            link.cut = False
        for host in self.hosts.values():
            for stream in host.streams:
                stream.flush()

    def fence(self, host: Host) -> None:
        """Crash a process, as the network sees it: sockets vanish, peers' streams are reset."""
        host.fenced = True
        host.sockets.clear()
        host.listeners.clear()
        for stream in list(host.streams):
            stream.reset()

    def arrival(self, source: Host, target: Host) -> float | None:
        """When a packet sent now arrives; None when the link is cut."""
        link = self.link(source.name, target.name)
        if link.cut:
            return None
        return self.world.now() + link.delay_s + self._random.random() * link.jitter_s

    def send_datagram(self, source: Host, port: int, data: bytes, to: Address) -> None:
        """Carry one datagram, or lose it."""
        target = self.by_ip(to[0])
        digest = hashlib.blake2b(data, digest_size=4).hexdigest()
        self.world.record(source.name, f"udp {to[0]}:{to[1]} {len(data)} {digest}")
        if target is None or source.fenced:
            return
        when = self.arrival(source, target)
        lost = self._random.random() < self.link(source.name, target.name).loss
        if when is None or lost:
            return

        def arrive() -> None:
            socket = target.sockets.get(to[1])
            if socket is not None:
                socket.deliver(data, (source.ip, port))

        self.world.at(when, arrive, target)


@dataclass(slots=True)
class HostNetwork:
    """The :class:`node.environment.Network` of one host."""

    network: VirtualNetwork
    host: Host

    async def open_datagrams(self, host: str, port: int) -> Datagrams:
        """Bind a virtual UDP socket."""
        del host
        await trio.lowlevel.checkpoint()
        port = port or self._free_port()
        if port in self.host.sockets:
            raise OSError(98, "Address already in use")
        self.host.sockets[port] = socket = _Datagrams(self.network, self.host, port)
        return socket

    async def listen(self, host: str, port: int) -> Listener:
        """Bind a virtual listener."""
        del host
        await trio.lowlevel.checkpoint()
        port = port or self._free_port()
        if port in self.host.listeners:
            raise OSError(98, "Address already in use")
        self.host.listeners[port] = listener = _Listener(self.host, port)
        return listener

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        """Connect after one round trip; refused where nobody listens, silent across a cut."""
        network, world = self.network, self.network.world
        done = trio.Event()
        target = network.by_ip(host)
        if target is None:
            raise OSError(113, "No route to host")
        refused = False
        opened: list[_Stream] = []

        def syn() -> None:  # answered by the machine, whatever its process is up to
            nonlocal refused
            there = network.hosts[target.name]
            listener = there.listeners.get(port)
            refused = listener is None
            if listener is not None:
                near, far = _Stream(network, self.host), _Stream(network, there)
                near.peer, far.peer = far, near
                opened.append(near)
                listener.offer(far)
            back = network.arrival(there, self.host)
            if back is not None:
                world.at(back, done.set, self.host)

        arrival = network.arrival(self.host, target)
        if arrival is not None:
            world.at(arrival, syn)
        await done.wait()
        if refused:
            raise ConnectionRefusedError(111, "Connection refused")
        return opened[0]

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Host names and addresses alike."""
        await trio.lowlevel.checkpoint()
        known = self.network.hosts.get(host)
        return [(known.ip if known else host, port)]

    async def secure_client(self, stream: trio.abc.Stream, credentials: LinkCredentials) -> SecureStream:
        """Exchange leaf certificates."""
        return await self._exchange(stream, credentials)

    async def secure_server(self, stream: trio.abc.Stream, credentials: LinkCredentials) -> SecureStream:
        """Exchange leaf certificates."""
        return await self._exchange(stream, credentials)

    async def _exchange(self, stream: trio.abc.Stream, credentials: LinkCredentials) -> SecureStream:
        leaf = credentials.leaf()
        await stream.send_all(len(leaf).to_bytes(4, "big") + leaf)
        size = int.from_bytes(await _exactly(stream, 4), "big")
        return SecureStream(stream, await _exactly(stream, size))

    def _free_port(self) -> int:
        self.host.next_port += 1
        return self.host.next_port


async def _exactly(stream: trio.abc.Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise trio.BrokenResourceError("closed in the handshake")
        data += bytes(more)
    return data


class _Datagrams:
    """A virtual UDP socket."""

    def __init__(self, network: VirtualNetwork, host: Host, port: int) -> None:
        self._network, self._host, self._port = network, host, port
        self._send, self._receive = trio.open_memory_channel[tuple[bytes, Address]](DATAGRAM_QUEUE)

    @property
    def address(self) -> Address:
        return self._host.ip, self._port

    def deliver(self, data: bytes, source: Address) -> None:
        try:
            self._send.send_nowait((data, source))
        except (trio.WouldBlock, trio.BrokenResourceError):
            return  # a full socket buffer drops, a closed one does not exist

    def send(self, data: bytes, to: Address) -> None:
        self._network.send_datagram(self._host, self._port, bytes(data), to)

    async def receive(self) -> list[tuple[bytes, Address]]:
        batch = [await self._receive.receive()]
        while len(batch) < DATAGRAM_BATCH:
            try:
                batch.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                break
        return batch

    def close(self) -> None:
        if self._host.sockets.get(self._port) is self:
            del self._host.sockets[self._port]
        self._receive.close()


class _Listener:
    """A virtual TCP listener."""

    def __init__(self, host: Host, port: int) -> None:
        self._host, self._port = host, port
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](math.inf)

    @property
    def address(self) -> Address:
        return self._host.ip, self._port

    def offer(self, stream: _Stream) -> None:
        self._send.send_nowait(stream)

    async def accept(self) -> trio.abc.Stream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        if self._host.listeners.get(self._port) is self:
            del self._host.listeners[self._port]
        self._receive.close()
        await trio.lowlevel.checkpoint()


class _Stream(trio.abc.Stream):
    """One end of a virtual connection."""

    peer: _Stream

    def __init__(self, network: VirtualNetwork, host: Host) -> None:
        self._network, self.host = network, host
        self._arrived = bytearray()
        self._stalled: deque[Callable[[], None]] = deque()
        self._on_the_way = 0
        self._last_arrival = 0.0
        self._ended = self._broken = self._closed = False
        self._changed = trio.Event()
        host.streams.append(self)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        payload = bytes(data)
        while self._on_the_way > STREAM_WINDOW_BYTES and not self._broken and not self._closed:
            await self._wait()
        await trio.lowlevel.checkpoint()
        self._check_open()
        self._on_the_way += len(payload)
        digest = hashlib.blake2b(payload, digest_size=4).hexdigest()
        self._network.world.record(self.host.name, f"tcp {self.peer.host.name} {len(payload)} {digest}")

        def arrive() -> None:
            self._on_the_way -= len(payload)
            self._wake()
            self.peer.take(payload)

        self._carry(arrive)

    async def wait_send_all_might_not_block(self) -> None:
        while self._on_the_way > STREAM_WINDOW_BYTES and not self._broken:
            await self._wait()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while not self._arrived and not self._ended and not self._broken and not self._closed:
            await self._wait()
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError
        if not self._arrived:
            if self._broken:
                raise trio.BrokenResourceError("connection reset")
            return b""
        taken = bytes(self._arrived[:max_bytes])
        del self._arrived[: len(taken)]
        return taken

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self.host.streams.remove(self)
            self._wake()
            if not self.host.fenced:
                self._carry(self.peer.end)
        await trio.lowlevel.checkpoint()

    def take(self, data: bytes) -> None:
        """Data arrives."""
        self._arrived += data
        self._wake()

    def end(self) -> None:
        """The peer has closed."""
        self._ended = True
        self._broken = self._broken or self._on_the_way > 0
        self._wake()

    def reset(self) -> None:
        """The process of this end crashed: its peer learns it, one delay later."""
        self.host.streams.remove(self)
        self._closed = True
        self._carry(self.peer.break_)

    def break_(self) -> None:
        """A reset arrives."""
        self._broken = True
        self._wake()

    def flush(self) -> None:
        """Carry what stalled at a cut that has healed."""
        stalled, self._stalled = self._stalled, deque()
        for callback in stalled:
            self._carry(callback)

    def _carry(self, callback: Callable[[], None]) -> None:
        when = self._network.arrival(self.host, self.peer.host)
        if when is None or self._stalled:
            self._stalled.append(callback)
            return
        self._last_arrival = max(when, self._last_arrival)
        self._network.world.at(self._last_arrival, callback, self.peer.host)

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._broken or self._ended or self.host.fenced:
            raise trio.BrokenResourceError("connection reset")

    async def _wait(self) -> None:
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _is_process(host: Host) -> Process:
    """A host is what happenings concern (checked by the type checker)."""
    return host
