"""A virtual network for whole nodes: datagrams and streams over :mod:`simulations.links`, under Trio.

Each node lives on a host of its own (an address in 10.0.0.0/8). What a link does to a datagram and to a
connection is said in :mod:`simulations.links` and :mod:`simulations.tcp`; here are the sockets on top of it.
A process that ends resets its connections; a machine that loses its power leaves halves of them at its peers.
There is no TLS in here: what :class:`node.environment.Network` asks for as a secure handshake is an exchange
of the leaf certificates, so that the checks above it still run.
"""

from __future__ import annotations

import ipaddress
import math
import random
import zlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

import trio

from node.environment import DATAGRAM_BATCH, Address, Datagrams, LinkCredentials, Listener, SecureStream
from simulations.kernel import Process, World
from simulations.links import Change, Link, Links, Rule, separate
from simulations.tcp import Connection, Dial

FIRST_ADDRESS: Final = ipaddress.IPv4Address("10.0.0.1")
STREAM_WINDOW_BYTES: Final = 1 << 20
"""Bytes a sender may have on the way before it must wait."""
DATAGRAM_QUEUE: Final = 4096
"""Datagrams a socket holds for a reader that does not read; more are dropped, as a kernel does."""


@dataclass(eq=False, slots=True)
class Host:
    """One node's place in the network, and its process.

    Attributes:
        off: Whether its machine has lost its power, which ends this life; another one has another host.
        stood_still_s: Its longest pause since that was last asked for.
    """

    name: str
    ip: str
    paused: bool = False
    fenced: bool = False
    off: bool = False
    stood_still_s: float = 0.0
    next_port: int = 40_000
    sockets: dict[int, _Datagrams] = field(default_factory=dict)
    listeners: dict[int, _Listener] = field(default_factory=dict)
    streams: list[_Stream] = field(default_factory=list)


class VirtualNetwork:
    """All hosts and links of one world.

    Attributes:
        hosts: By name, in their present or last life; a machine that was never started is none of them.
        ips: Addresses by name; a machine keeps its own for ever.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.hosts: dict[str, Host] = {}
        self.ips: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self.links = Links()
        self._chances: dict[str, random.Random] = {}
        self.counts: Counter[str] = Counter()
        self._partition: list[Rule] = []

    def host(self, name: str) -> Host:
        """The host of that name; a new one, with power, if there was none or its process has ended."""
        known = self.hosts.get(name)
        if known is None or known.fenced:
            self.hosts[name] = known = Host(name, self.ip(name))
        return known

    def ip(self, name: str) -> str:
        """The address of a machine, which need not be there yet."""
        if name not in self.ips:
            self.ips[name] = ip = str(FIRST_ADDRESS + len(self.ips))
            self._names[ip] = name
        return self.ips[name]

    def name_at(self, ip: str) -> str | None:
        """The name of the machine with that address, whether it is there or not."""
        return self._names.get(ip)

    def is_silent(self, name: str) -> bool:
        """Whether a machine answers nothing: it has lost its power, or was never started."""
        return name not in self.hosts or self.hosts[name].off

    def link(self, source: str, target: str) -> Link:
        """The link of one direction, to be changed by hand."""
        return self.links.own(source, target)

    def partition(self, *sides: tuple[str, ...]) -> None:
        """Cut every link between hosts of different sides, instead of what was partitioned before."""
        self.links.remove(self._partition)
        self._partition = separate(sides, Change(cut=True))
        self.links.add(self._partition)

    def heal(self) -> None:
        """Let everything pass again; what stalled goes on when it is sent again."""
        self.links.clear()
        for link in self.links.owned():
            link.cut = link.cut_datagrams = False

    def break_streams(self, sources: Collection[str], targets: Collection[str]) -> int:
        """Break the connections between some hosts and some others at both ends; say how many there were."""
        found = [
            stream
            for name in sorted(sources)
            if name in self.hosts
            for stream in self.hosts[name].streams
            if stream.peer.host in targets
        ]
        for stream in found:
            for end in (stream, stream.peer):
                end.connection.stop(end)
                end.break_("connection reset")
        return len(found)

    def fence(self, host: Host, *, power: bool = False) -> None:
        """Crash a process, as the network sees it: sockets vanish, peers' streams are reset.

        Args:
            host: Whose process it is.
            power: Whether its machine goes too: then nobody is told, and nothing is answered until a new
                life of that name begins.
        """
        host.fenced, host.off = True, power
        host.sockets.clear()
        host.listeners.clear()
        for stream in list(host.streams):
            if power:
                stream.vanish()
            else:
                stream.reset()

    def connect(self, source: Host, target: Host, port: int, accepted_us: int) -> _Stream:
        """Open a connection that was agreed on, and let the other end accept it a little later."""
        near, far = _Stream(self, source), _Stream(self, target)
        near.peer, far.peer = far, near
        near.connection = far.connection = Connection(
            self.world, self.links.of, self.chance(source.name), near, far, counts=self.counts
        )
        near.connection.pipe(near).not_before(accepted_us)

        def accept() -> None:
            listener = target.listeners.get(port)
            if far.is_off:
                far.vanish()
            elif listener is None:
                far.reset()
            else:
                listener.offer(far)

        # Whoever has died since it answered will accept nothing, but its kernel says so.
        self.world.at_us(accepted_us, accept, process=None if target.fenced else target)
        return near

    def chance(self, name: str) -> random.Random:
        """What decides on the packets of a host, and on the connections that it opens, and of no other."""
        if name not in self._chances:
            self._chances[name] = self.world.stream(name, "network")
        return self._chances[name]

    def send_datagram(self, source: Host, port: int, data: bytes, to: Address) -> None:
        """Carry one datagram, or lose it."""
        target = self.hosts.get(self.name_at(to[0]) or "")
        self.world.record(source.name, f"udp {to[0]}:{to[1]} {len(data)} {zlib.crc32(data):08x}")
        if target is None or source.fenced:
            return
        flight = self.links.of(source.name, target.name).datagram(
            data, self.world.now_us, self.chance(source.name)
        )
        if not flight.arrives:
            return

        def arrive() -> None:
            socket = target.sockets.get(to[1])
            if socket is not None:
                socket.deliver(flight.data, (source.ip, port))

        self.world.after_us(flight.after_us, arrive, process=target)
        if flight.again_us is not None:
            self.world.after_us(flight.again_us, arrive, process=target)


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
        """Connect after a round trip; refused where nobody listens, silent across a cut or without power."""
        network, done = self.network, trio.Event()
        name = network.name_at(host)
        if name is None:
            raise OSError(113, "No route to host")
        outcome = ""
        target: Host | None = None
        opened: list[_Stream] = []

        def listens() -> bool | None:  # answered by the machine, whatever its process is up to
            nonlocal target
            if network.is_silent(name):
                return None
            target = network.hosts[name]
            return port in target.listeners

        def connected(how: str, accepted_us: int) -> None:
            nonlocal outcome
            outcome = how
            if how == "accepted" and target is not None:
                opened.append(network.connect(self.host, target, port, accepted_us))
            done.set()

        dial = Dial(
            network.world, network.links.of, network.chance(self.host.name),
            source=self.host.name, target=name, answer=listens, done=connected, process=self.host,
        )  # fmt: skip
        try:
            await done.wait()
        finally:
            dial.cancel()
        if outcome == "refused":
            raise ConnectionRefusedError(111, "Connection refused")
        if outcome == "timed out":
            raise OSError(110, "Connection timed out")
        return opened[0]

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Host names and addresses alike."""
        await trio.lowlevel.checkpoint()
        return [(self.network.ips.get(host, host), port)]

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
    connection: Connection

    def __init__(self, network: VirtualNetwork, host: Host) -> None:
        self._network, self.process = network, host
        self._arrived = bytearray()
        self._on_the_way = 0
        self._ended = self._broken = self._closed = False
        self._changed = trio.Event()
        host.streams.append(self)

    @property
    def host(self) -> str:
        return self.process.name

    @property
    def is_closed(self) -> bool:
        return self._closed or self.process.fenced

    @property
    def is_off(self) -> bool:
        return self._network.is_silent(self.host)

    @property
    def has_vanished(self) -> bool:
        return self.process.off

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        payload = bytes(data)
        while self._on_the_way > STREAM_WINDOW_BYTES and not self._broken and not self._closed:
            await self._wait()
        await trio.lowlevel.checkpoint()
        self._check_open()
        self._on_the_way += len(payload)
        self._network.world.record(
            self.host, f"tcp {self.peer.host} {len(payload)} {zlib.crc32(payload):08x}"
        )
        self.connection.pipe(self).send(payload)

    async def wait_send_all_might_not_block(self) -> None:
        while self._on_the_way > STREAM_WINDOW_BYTES and not self._broken and not self._closed:
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
            self.process.streams.remove(self)
            self._wake()
            if not self.process.fenced:
                self.connection.pipe(self).finish()
        await trio.lowlevel.checkpoint()

    def take(self, data: bytes) -> None:
        """Data arrives."""
        self._arrived += data
        self._wake()
        self.peer.taken(len(data))

    def taken(self, size: int) -> None:
        """Data has arrived at the other end."""
        self._on_the_way -= size
        self._wake()

    def end(self) -> None:
        """The peer has closed."""
        self._ended = True
        self._broken = self._broken or self._on_the_way > 0
        self._wake()

    def reset(self) -> None:
        """The process of this end crashed: its peer learns it, one delay later."""
        self.process.streams.remove(self)
        self._closed = True
        self.connection.reset(self)

    def vanish(self) -> None:
        """The machine of this end has lost its power: its peer learns nothing."""
        self.process.streams.remove(self)
        self._closed = True
        self.connection.vanish(self)

    def break_(self, reason: str) -> None:
        """The connection is no more."""
        del reason
        self._broken = True
        self._wake()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._broken or self._ended or self.process.fenced:
            raise trio.BrokenResourceError("connection reset")

    async def _wait(self) -> None:
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _is_process(host: Host) -> Process:
    """A host is what happenings concern (checked by the type checker)."""
    return host
