"""In-memory clusters of buses: real storage and real buses, links with verbs instead of sockets."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from node.blobs.store import BlobLimits, BlobStore
from node.cluster.provider import ClusterView, Provider
from node.cluster.versions import best_offer
from node.config.model import MessagingConfig
from node.environment import Environment, SystemClock, SystemNetwork
from node.errors import StorageFailed
from node.message import Message
from node.messaging.bus import Bus
from node.messaging.delivery import Delivery, Draft
from node.messaging.partial_watches import PARTIALS
from node.messaging.settings import Timing
from node.storage import Storage
from node.telemetry.tracing import Tracing
from node.topics import matches
from node.transport.frames import Answer, DeliverItem, DeliveryKey, Grant, Outcome, Partial
from node.transport.proof import FrameProof
from node.vocabulary import Performative

LATENCY_S = 0.002
PROOF = FrameProof(b"credential", "receiver", (), b"", b"signature")


class VirtualClock(SystemClock):
    """Trio's clock, which the tests jump; wall time follows it."""

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now()


pause = SystemClock().sleep


class SeededRandomness:
    def __init__(self, seed: object) -> None:
        self._random = random.Random(repr(seed))
        self._seed = seed

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def stream(self, purpose: str) -> random.Random:
        return random.Random(repr((self._seed, purpose)))


class InlineWorkers:
    async def run(self, lane: str, job: Callable[..., Any], *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return job(*args)


def virtual_environment(seed: object) -> Environment:
    return Environment(VirtualClock(), SeededRandomness(seed), SystemNetwork(), InlineWorkers())


class FragileStorage(Storage):
    """Storage that can freeze its node before or after a write: the instant of a crash."""

    crash_before: str | None = None
    crash_after: str | None = None
    frozen: trio.Event

    async def write(self, job: Callable[..., Any]) -> Any:
        name = getattr(job, "__qualname__", "")
        if self.crash_before is not None and self.crash_before in name:
            await self._freeze()
        result = await super().write(job)
        if self.crash_after is not None and self.crash_after in name:
            await self._freeze()
        return result

    async def _freeze(self) -> None:
        self.frozen.set()
        await trio.sleep_forever()


class World:
    """What all nodes share: who is alive and who offers what."""

    def __init__(self) -> None:
        self.providers_: dict[tuple[str, str], Provider] = {}
        self.alive: dict[str, None] = {}
        self.lost: dict[str, None] = {}
        self._version, self._seen = 0, ""
        self.side = "majority"

    def version(self, wanted: str) -> int:
        seen = repr((self.providers_, self.alive))
        self._version, self._seen = self._version + (seen != self._seen), seen
        return self._version

    def is_alive(self, node: str) -> bool:
        return node in self.alive

    def view(self) -> ClusterView:
        return ClusterView(len(self.alive), len(self.alive) + len(self.lost), self.side, 1.5)

    def providers(self, capability: str) -> Sequence[Provider]:
        return [
            p
            for _, p in sorted(self.providers_.items())
            if p.node in self.alive and best_offer(p.capabilities, capability)
        ]

    def instances(self, agent: str) -> Sequence[Provider]:
        return [p for _, p in sorted(self.providers_.items()) if p.node in self.alive and p.agent == agent]

    def minority(self, capability: str) -> str:
        found = [p.minority for p in self.providers_.values() if best_offer(p.capabilities, capability)]
        return max(found, key=("serve", "queue", "refuse").index, default="serve")

    def topics_version(self) -> int:
        return self.version("")

    def subscribers(self, topic: str) -> Sequence[Provider]:
        return [
            p
            for _, p in sorted(self.providers_.items())
            if p.node in self.alive and any(matches(pattern, topic) for pattern, _ in p.topics)
        ]

    def expects(self, wanted: str) -> bool:
        return any(
            p.node in self.lost for p in self.providers_.values() if wanted in (p.agent, *p.capabilities)
        )

    def related(self, capability: str) -> Sequence[tuple[str, int]]:
        word = capability.split("-", maxsplit=1)[0]
        names = [c for p in self.providers_.values() for c in p.capabilities if c.split("-")[0] == word]
        return [(name, names.count(name)) for name in dict.fromkeys(names)]


class Link:
    def __init__(self) -> None:
        self.open = False
        self.items: list[DeliverItem] = []
        self.back: list[tuple[str, Any]] = []
        self.wake = trio.Event()
        self.scope = trio.CancelScope()


class MemoryLinks:
    """Links of one node: ordered while they are open; what is on them is lost when they are cut."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.links: dict[str, Link] = {}
        self.window = 10_000
        self.lose_acknowledgements = False
        self.lose_outcomes = False
        self.knows_credit = True
        self.refuse_partials = False
        self.old = False  # whether the node knows no questions but the first ones
        self.confirmed_s: dict[str, float] = {}

    def is_ready(self, peer: str) -> bool:
        link = self.links.get(peer)
        return link is not None and link.open and len(link.items) < self.window

    def deliver(self, peer: str, items: Sequence[DeliverItem]) -> int:
        if not self.is_ready(peer):
            return 0
        link = self.links[peer]
        taken = items[: self.window - len(link.items)]
        link.items.extend(taken)
        link.wake.set()
        return len(taken)

    def acknowledge(self, peer: str, keys: Sequence[DeliveryKey]) -> None:
        if not self.lose_acknowledgements:
            self._back(peer, "received", list(keys))

    def confirmed(self) -> dict[str, float]:
        return dict(self.confirmed_s)

    def settle(self, peer: str, outcomes: Sequence[Outcome]) -> None:
        if not self.lose_outcomes:
            self._back(peer, "settled", list(outcomes))

    def grant(self, peer: str, grants: Sequence[Grant]) -> None:
        node = self.cluster.nodes.get(peer)
        if node is not None and node.links.knows_credit:
            self._back(peer, "granted", list(grants))

    async def ask(self, peer: str, question: str, about: str, *, timeout_s: float) -> Answer | None:
        await pause(LATENCY_S)
        other = self.cluster.reach(self.name, peer)
        if other is None:
            await pause(timeout_s)
            return None
        if other.links.old and question == PARTIALS:
            return Answer(1, "unknown")
        body = await other.bus.on_ask(self.name, question, about)
        return Answer(1, "unknown") if body is None else Answer(1, "known", body)

    def partial(self, peer: str, partial: Partial) -> bool:
        node = self.cluster.nodes.get(peer)
        link = None if node is None else node.links.links.get(self.name)
        if link is None or not link.open or self.refuse_partials:
            return False
        link.back.append(("partial", partial))
        link.wake.set()
        return True

    def ensure(self, peer: str) -> None:
        node = self.cluster.nodes.get(self.name)
        if peer not in self.links and node is not None and node.nursery is not None:
            link = self.links[peer] = Link()
            node.nursery.start_soon(self._run, peer, link)

    def drop(self, peer: str) -> None:
        for name, other in ((self.name, peer), (peer, self.name)):
            node = self.cluster.nodes.get(name)
            link = None if node is None else node.links.links.get(other)
            if link is not None:
                link.scope.cancel()

    def _back(self, peer: str, kind: str, what: list[Any]) -> None:
        node = self.cluster.nodes.get(peer)
        link = None if node is None else node.links.links.get(self.name)
        if link is not None and link.open:
            link.back.append((kind, what))
            link.wake.set()

    async def _run(self, peer: str, link: Link) -> None:
        node = self.cluster.nodes.get(self.name)
        if node is None:  # it crashed before the link was dialled
            return
        bus = node.bus
        try:
            with link.scope:
                await self._connected(peer, link, bus)
        finally:
            if self.links.get(peer) is link:
                del self.links[peer]
            was_open, link.open = link.open, False
            if was_open:
                bus.on_link(peer, False, "cut")

    async def _connected(self, peer: str, link: Link, bus: Bus) -> None:
        await pause(LATENCY_S)
        other = self.cluster.reach(self.name, peer)
        if other is None:
            await pause(0.2)  # the pause before the next dial
            return
        other.bus.on_accepted(self.name, knows_credit=self.knows_credit)
        keys = bus.unsettled(peer)
        states = await other.bus.on_resume(self.name, bus.storage_id, keys)
        await pause(LATENCY_S)
        link.open = True
        if not (self.knows_credit and other.links.knows_credit):
            bus.on_granted(peer, None)
        await bus.on_resumed(peer, other.bus.storage_id, states)
        bus.on_link(peer, True, "")
        while self.cluster.reach(self.name, peer) is other:
            await link.wake.wait()
            link.wake = trio.Event()
            await pause(LATENCY_S)
            if self.cluster.reach(self.name, peer) is not other:
                return
            back, link.back = link.back, []
            for kind, what in back:
                if kind == "granted":
                    bus.on_granted(peer, what)
                elif kind == "partial":
                    bus.on_partial(peer, what)
                else:
                    await (bus.on_received(peer, what) if kind == "received" else bus.on_settled(peer, what))
            items, link.items = link.items, []
            if items:
                bus.on_writable(peer)
                with trio.CancelScope() as scope:
                    other.scopes[scope] = None
                    try:
                        await other.bus.on_deliver(self.name, [(items, PROOF)])
                    except StorageFailed:  # which closes a link
                        await pause(0.2)
                        return
                    finally:
                        del other.scopes[scope]
                if scope.cancelled_caught:
                    return


class Announcements:
    """What one node's mailboxes publish."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self.cluster, self.node = cluster, node

    def publish(self, agent: str, *, version: str, capabilities: tuple[str, ...], **rest: Any) -> None:
        self.cluster.publish(Provider(agent, self.node, version, capabilities, **rest))

    def withdraw(self, agent: str) -> None:
        self.cluster.withdraw(self.node, agent)


class Node:
    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.scope = trio.CancelScope()
        self.scopes: dict[trio.CancelScope, None] = {}
        self.nursery: trio.Nursery | None = None
        self.stopped = trio.Event()
        environment = virtual_environment((cluster.seed, name, cluster.starts))
        self.environment = environment
        self.storage = FragileStorage.open(
            cluster.directory / name / "caxton.db", durability=cluster.durability, environment=environment
        )
        self.storage.frozen = trio.Event()
        self.links = MemoryLinks(cluster, name)
        self.blobs = BlobStore(
            environment=environment,
            path=cluster.directory / name / "blobs.db",
            durability=cluster.durability,
            limits=BlobLimits(cluster.settings.blob_bytes, cluster.settings.blob_unused_s),
        )
        self.bus = Bus(
            environment=environment,
            node=name,
            storage=self.storage,
            registry=cluster.world,
            announce=Announcements(cluster, name),
            membership=cluster.world,
            tracing=cluster.tracing,
            settings=cluster.settings,
            links=self.links,
            timing=cluster.timing,
            blobs=self.blobs,
        )

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    self.nursery = nursery
                    await nursery.start(self.bus.run)
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self.stopped.set()

    def message(self, **fields: Any) -> Message:
        identifier = self.environment.new_id()
        defaults = {
            "id": identifier,
            "performative": Performative.REQUEST,
            "sender": f"client@{self.name}",
            "conversation_id": identifier,
            "reply_with": identifier,
            "timestamp_s": self.environment.clock.wall(),
        }
        return Message(**(defaults | fields))

    def attach(
        self,
        agent: str,
        handler: Any,
        *capabilities: str,
        capacity: int = 100,
        concurrency: int = 1,
        **provider: Any,
    ) -> None:
        self.bus.attach(agent, handler, capacity=capacity, concurrency=concurrency)
        if capabilities:
            self.cluster.publish(Provider(agent, self.name, "1.0.0", capabilities, **provider))


class Cluster:
    """Nodes by name, and verbs on them."""

    def __init__(self, directory: Path, nursery: trio.Nursery, **options: Any) -> None:
        self.directory = directory
        self.nursery = nursery
        self.world = World()
        self.nodes: dict[str, Node] = {}
        self.partitioned: dict[frozenset[str], None] = {}
        self.seed = options.get("seed", 0)
        self.starts = 0
        self.durability = options.get("durability", "normal")
        self.settings = MessagingConfig(**options.get("settings", {}))
        self.timing = options.get("timing", Timing())
        self.tracing = options.get("tracing", Tracing.off())

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    async def start(self, name: str) -> Node:
        self.starts += 1
        node = self.nodes[name] = Node(self, name)
        await self.nursery.start(node.run)
        self.world.alive[name] = None
        for other in self.nodes.values():
            other.bus.node_alive(name)
        return node

    async def crash(self, name: str) -> None:
        """kill -9: nothing more happens on the node; the others have not noticed yet."""
        node = self.nodes.pop(name)
        for scope in list(node.scopes):
            scope.cancel()
        node.scope.cancel()
        await node.stopped.wait()
        node.storage.abandon()
        node.blobs.close()
        for other in self.nodes.values():
            link = other.links.links.get(name)
            if link is not None:
                link.scope.cancel()

    def bury(self, name: str) -> None:
        """Membership notices that a node is dead."""
        self.world.alive.pop(name, None)
        for node in self.nodes.values():
            node.bus.node_died(name)

    def lose_disk(self, name: str) -> None:
        for file in (self.directory / name).iterdir():
            file.unlink()

    def cut(self, one: str, other: str) -> None:
        """Break the links between two nodes; they may be dialled again."""
        if one in self.nodes:
            self.nodes[one].links.drop(other)

    def partition(self, one: str, other: str) -> None:
        self.partitioned[frozenset((one, other))] = None
        self.cut(one, other)

    def heal(self) -> None:
        self.partitioned.clear()

    def reach(self, one: str, other: str) -> Node | None:
        return None if frozenset((one, other)) in self.partitioned else self.nodes.get(other)

    def publish(self, provider: Provider) -> None:
        self.world.providers_[provider.node, provider.agent] = provider
        self.changed()

    def withdraw(self, node: str, agent: str) -> None:
        self.world.providers_.pop((node, agent), None)
        self.changed()

    def changed(self) -> None:
        for node in self.nodes.values():
            node.bus.registry_changed()


@asynccontextmanager
async def cluster(directory: Path, *names: str, **options: Any) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        found = Cluster(directory, nursery, **options)
        for name in names:
            await found.start(name)
        try:
            yield found
        finally:
            for node in list(found.nodes.values()):
                node.scope.cancel()
                with trio.CancelScope(shield=True):
                    await node.stopped.wait()
                node.storage.close()
                node.blobs.close()
        nursery.cancel_scope.cancel()


def echo(label: str = "", log: list[Any] | None = None) -> Callable[[Delivery], Any]:
    """A handler that answers with what it was asked."""

    async def handle(delivery: Delivery) -> Sequence[Draft]:
        await trio.lowlevel.checkpoint()
        if log is not None:
            log.append(delivery.message.content)
        if not delivery.message.expects_reply:
            return []
        return [Draft(Performative.INFORM, {"echo": delivery.message.content, "by": label})]

    return handle


async def eventually(condition: Callable[[], Any], timeout_s: float = 120.0) -> None:
    deadline = VirtualClock().now() + timeout_s
    while not condition():
        assert VirtualClock().now() < deadline, "it did not happen in time"
        await pause(0.05)
