"""Two or more nodes with links between them, on a network in memory, and verbs to disturb it."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio
import trio.testing

from node.environment import Address, Environment, LinkCredentials, SecureStream
from node.message import Envelope
from node.security import pki
from node.security.identity import NodeCredentials
from node.transport.frames import DeliverItem, DeliveryKey, Grant, KeyState, Outcome, Partial
from node.transport.handler import LinkLimits
from node.transport.links import Links
from node.transport.proof import FrameProof
from tests.node.security.environments import seeded

Tamper = Callable[[bytes], bytes]


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a connection, which can go silent or alter what is sent."""

    def __init__(self, inner: trio.abc.Stream, network: MemoryNetwork) -> None:
        self._inner, self._network = inner, network

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._network.silent:
            await trio.lowlevel.checkpoint()
            return
        await self._inner.send_all(self._network.tamper(bytes(data)))

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self._inner.aclose()


class MemoryListener:
    def __init__(self, address: Address) -> None:
        self.address = address
        self.send, self.receive = trio.open_memory_channel[trio.abc.Stream](100)

    async def accept(self) -> trio.abc.Stream:
        return await self.receive.receive()

    async def aclose(self) -> None:
        self.receive.close()


class MemoryNetwork:
    """Connections in memory; a secure handshake is an exchange of leaf certificates."""

    def __init__(self) -> None:
        self.listeners: dict[Address, MemoryListener] = {}
        self.streams: list[MemoryStream] = []
        self.silent = False
        self.dials = 0
        self.tamper: Tamper = lambda data: data

    async def listen(self, host: str, port: int) -> MemoryListener:
        listener = self.listeners[host, port] = MemoryListener((host, port))
        return listener

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dials += 1
        listener = self.listeners.get((host, port))
        if listener is None:
            raise ConnectionRefusedError(111, "refused")
        left, right = (MemoryStream(s, self) for s in trio.testing.memory_stream_pair())
        self.streams += [left, right]
        try:
            listener.send.send_nowait(right)
        except trio.BrokenResourceError:
            raise ConnectionRefusedError(111, "refused") from None
        return left

    async def secure_client(self, stream: trio.abc.Stream, credentials: LinkCredentials) -> SecureStream:
        return await self._secure(stream, credentials)

    async def secure_server(self, stream: trio.abc.Stream, credentials: LinkCredentials) -> SecureStream:
        return await self._secure(stream, credentials)

    async def _secure(self, stream: trio.abc.Stream, credentials: LinkCredentials) -> SecureStream:
        leaf = credentials.leaf()
        await stream.send_all(len(leaf).to_bytes(4, "big") + leaf)
        data = b""
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            more = await stream.receive_some(
                4 - len(data) if len(data) < 4 else 4 + int.from_bytes(data[:4], "big") - len(data)
            )
            if not more:
                raise trio.BrokenResourceError
            data += more
        return SecureStream(stream, data[4:])

    async def break_all(self) -> None:
        """Every connection ends, as if a cable were pulled and noticed."""
        streams, self.streams = self.streams, []
        for stream in streams:
            await trio.aclose_forcefully(stream)


class Room:
    """A message bus that keeps everything in memory and remembers what it was told."""

    def __init__(self, name: str) -> None:
        self.storage_id = f"disk-of-{name}"
        self.outbox: dict[DeliveryKey, DeliverItem] = {}
        self.inbox: dict[DeliveryKey, DeliverItem] = {}
        self.states: dict[DeliveryKey, KeyState] = {}
        self.arrivals: list[DeliveryKey] = []
        self.batches: list[int] = []
        self.together: list[int] = []
        self.proofs: list[FrameProof] = []
        self.received: list[DeliveryKey] = []
        self.settled: list[Outcome] = []
        self.resumed: list[tuple[str, list[KeyState]]] = []
        self.events: list[tuple[str, bool]] = []
        self.unreachable: list[tuple[str, str]] = []
        self.reasons: list[str] = []
        self.writable = 0
        self.partials: list[tuple[str, Partial]] = []
        self.hold: trio.Event | None = None
        self.auto_receive = self.auto_settle = True
        self.accepted: list[tuple[str, bool]] = []
        self.granted: list[tuple[Grant, ...] | None] = []
        self.asked: list[tuple[str, str, str]] = []
        self.on_question: Callable[[], Awaitable[None]] | None = None
        self.on_arrival: Callable[[], Awaitable[None]] | None = None
        self.links: Links

    def send(self, peer: str, *items: DeliverItem) -> list[bool]:
        """Accept into the outbox, then try the link: as the bus does."""
        self.outbox |= {item.key: item for item in items}
        return [self.links.deliver(peer, [item]) == 1 for item in items]

    def unsettled(self, peer: str) -> list[DeliveryKey]:
        return list(self.outbox)

    async def on_resume(self, peer: str, peer_storage_id: str, keys: Sequence[DeliveryKey]) -> list[KeyState]:
        return [
            self.states.get(key) or KeyState(key, "held" if key in self.inbox else "unknown") for key in keys
        ]

    async def on_resumed(self, peer: str, peer_storage_id: str, states: Sequence[KeyState]) -> None:
        self.resumed.append((peer_storage_id, list(states)))
        for state in states:
            if state.state == "unknown":
                self.links.deliver(peer, [self.outbox[state.key]])
            elif state.state != "held":
                self.outbox.pop(state.key, None)

    async def on_deliver(self, peer: str, frames: Sequence[tuple[Sequence[DeliverItem], FrameProof]]) -> None:
        if self.on_arrival is not None:
            await self.on_arrival()
        self.together.append(len(frames))
        for items, proof in frames:
            self.batches.append(len(items))
            self.proofs.append(proof)
            for item in items:
                self.arrivals.append(item.key)
                self.inbox[item.key] = item
            if self.auto_receive:
                self.links.acknowledge(peer, [item.key for item in items])
            if self.auto_settle:
                self.states |= {item.key: KeyState(item.key, "settled") for item in items}
                self.links.settle(peer, [Outcome(item.key, "settled") for item in items])

    async def on_received(self, peer: str, keys: Sequence[DeliveryKey]) -> None:
        self.received += keys

    async def on_settled(self, peer: str, outcomes: Sequence[Outcome]) -> None:
        if self.hold is not None:
            await self.hold.wait()
        self.settled += outcomes
        for outcome in outcomes:
            self.outbox.pop(outcome.key, None)

    def on_accepted(self, peer: str, *, knows_credit: bool) -> None:
        self.accepted.append((peer, knows_credit))

    def on_granted(self, peer: str, grants: Sequence[Grant] | None) -> None:
        self.granted.append(None if grants is None else tuple(grants))

    async def on_ask(self, peer: str, question: str, about: str) -> bytes | None:
        self.asked.append((peer, question, about))
        if self.on_question is not None:
            await self.on_question()
        return None if question == "nothing" else f"{peer} {about}".encode()

    def on_partial(self, peer: str, partial: Partial) -> None:
        self.partials.append((peer, partial))

    def on_writable(self, peer: str) -> None:
        self.writable += 1
        done = {*self.received, *self.arrivals_known()}
        for key, item in self.outbox.items():
            if key not in done and not self.links.deliver(peer, [item]):
                break

    def arrivals_known(self) -> list[DeliveryKey]:
        return [outcome.key for outcome in self.settled]

    def on_unreachable(self, peer: str, reason: str) -> None:
        self.unreachable.append((peer, reason))

    def on_link(self, peer: str, up: bool, reason: str) -> None:
        self.events.append((peer, up))
        self.reasons.append(reason)


class Cluster:
    """Nodes by name, on one memory network unless told otherwise."""

    def __init__(self, nursery: trio.Nursery, **limits: Any) -> None:
        self.nursery = nursery
        self.limits = LinkLimits(**limits)
        self.network = MemoryNetwork()
        self.environment, self.clock = seeded()
        self.secrets = pki.new_cluster(self.environment, "prod")
        self.addresses: dict[str, Address | None] = {}
        self.scopes: dict[str, trio.CancelScope] = {}

    def environment_for(self) -> Environment:
        return dataclasses.replace(self.environment, network=self.network)  # type: ignore[arg-type]

    async def start(
        self, name: str, room: Room | None = None, credentials: NodeCredentials | None = None
    ) -> Room:
        room = room or Room(name)
        room.links = Links(
            environment=self.environment_for(),
            credentials=credentials
            or NodeCredentials.ephemeral(name, self.environment, secrets=self.secrets),
            resolve=self.addresses.get,
            handler=room,
            limits=self.limits,
        )
        self.addresses[name] = await self.nursery.start(self._run, name, room)
        return room

    async def _run(self, name: str, room: Room, *, task_status: trio.TaskStatus[Address]) -> None:
        with trio.CancelScope() as self.scopes[name]:
            await room.links.run(name, 7947, task_status=task_status)

    def crash(self, name: str) -> None:
        self.scopes[name].cancel()


def item(number: int, size: int = 10, target: str = "agent") -> DeliverItem:
    return DeliverItem(Envelope(target), f"m{number:05}", number.to_bytes(4, "big") * (size // 4 + 1))


async def until(condition: Callable[[], object], clock: Any, limit_s: float = 60.0) -> None:
    """Let virtual time pass until ``condition`` holds."""
    deadline = clock.now() + limit_s
    while not condition():
        assert clock.now() < deadline, "it never came true"
        await clock.sleep(0.01)
