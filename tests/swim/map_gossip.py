"""A large cluster of replicated maps on a virtual clock: real units, real frames, no membership.

Members do what `swim.protocol` has them do under the profile `lan`: every 200 ms they send what
waits to three random others, every second they ping the next one of a shuffled list. Roots and
units ride on pings and acks. Packets take 1 to 3 ms, and a share of them is lost.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from functools import cache

from swim.map_events import EntryChanged
from swim.replicated import Replicated
from swim.unit_reader import UnitReader
from tests.swim.map_model import MAX_FRAME_BYTES, authority, identity

GOSSIP_INTERVAL_S = 0.2
GOSSIP_NODES = 3
PROBE_INTERVAL_S = 1.0
PIGGYBACK_BYTES = 1150
WALL = 1_000_000.0

KEYS = cache(identity)


class GossipCluster:
    """So many members that hold the same, and the packets between them.

    Args:
        members: how many.
        seed: of everything that is drawn.
        loss: share of packets that is lost.
        repair: whether foreign roots are compared at all.
    """

    def __init__(self, members: int, *, seed: int = 0, loss: float = 0.0, repair: bool = True) -> None:
        self.random = random.Random(seed)
        self.loss = loss
        self.repair = repair
        self.now = 0.0
        self.bytes_sent = 0
        self.largest_frame = 0
        self.on_change: Callable[[int, EntryChanged], None] = lambda member, event: None
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self.names = [f"n{number}" for number in range(members)]
        self.nodes = self._in_step()
        self._orders = [self._shuffled(number) for number in range(members)]
        for number in range(members):
            self._at(self.random.uniform(0, GOSSIP_INTERVAL_S), lambda number=number: self._gossip(number))
            self._at(self.random.uniform(0, PROBE_INTERVAL_S), lambda number=number: self._probe(number))

    def run_until(self, end: float) -> None:
        """Let everything happen that happens until then."""
        while self._due and self._due[0][0] <= end:
            self.now, _, act = heapq.heappop(self._due)
            act()
        self.now = end

    def put(self, member: int, key: str, value: bytes) -> None:
        self.nodes[member].put(key, value, self.wall)

    @property
    def wall(self) -> float:
        return WALL + self.now

    def total(self, name: str) -> int:
        """Return the sum of a statistic over all members."""
        return sum(node.statistics()[name] for node in self.nodes)

    def holders(self, owner: int, key: str, value: bytes) -> int:
        return sum(node.get(self.names[owner], key) == value for node in self.nodes)

    def are_in_step(self) -> bool:
        return len({node.root() for node in self.nodes}) == 1

    def _in_step(self) -> list[Replicated]:
        """Return members each of which has published an entry and holds those of all."""
        trusted, reader = authority(), UnitReader(4 * len(self.names))
        nodes = []
        for name in self.names:
            node = Replicated(
                KEYS(name),
                trusted,
                rng=random.Random(self.random.random()),
                entropy=self.random.randbytes,
                max_frame_bytes=MAX_FRAME_BYTES,
                reader=reader,
            )
            node.put("key", name.encode())
            node.start(0, 0.0, WALL)
            nodes.append(node)
        first = nodes[0]
        for name, node in zip(self.names, nodes, strict=True):
            first.admit_owner(name, WALL)
            for frame in node.bulk_units(first.bulk_digest()):
                first.bulk_receive(name, frame, 0.0, WALL)
        for node in nodes:
            node.adopt(first)
            node.broadcasts(1150, 1)
            while node.queued():
                node.broadcasts(100_000, 1)
            node.events()
        return nodes

    def _shuffled(self, number: int) -> list[int]:
        others = [other for other in range(len(self.names)) if other != number]
        self.random.shuffle(others)
        return others

    def _at(self, time: float, act: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._due, (time, self._sequence, act))

    def _gossip(self, number: int) -> None:
        self._at(self.now + GOSSIP_INTERVAL_S, lambda: self._gossip(number))
        node = self.nodes[number]
        for _ in range(GOSSIP_NODES):
            if not node.queued():
                return
            target = self.random.randrange(len(self.names) - 1)
            target += target >= number
            frames = node.broadcasts(8 * PIGGYBACK_BYTES, len(self.names))
            for frame in frames:
                self._send(number, target, None, [frame])

    def _probe(self, number: int) -> None:
        self._at(self.now + PROBE_INTERVAL_S, lambda: self._probe(number))
        node, order = self.nodes[number], self._orders[number]
        due = node.next_timer()
        if due is not None and due <= self.now:
            node.handle_timer(self.now, self.wall)
        if not order:
            order.extend(self._shuffled(number))
        frames = node.broadcasts(PIGGYBACK_BYTES, len(self.names))
        self._send(number, order.pop(), node.root(), frames, is_ping=True)

    def _send(
        self, source: int, target: int, root: bytes | None, frames: Sequence[bytes], *, is_ping: bool = False
    ) -> None:
        self.bytes_sent += sum(map(len, frames))
        self.largest_frame = max(self.largest_frame, *map(len, frames), 0)
        if self.random.random() < self.loss:
            return
        delay = self.random.uniform(0.001, 0.003)
        self._at(self.now + delay, lambda: self._arrive(source, target, root, frames, is_ping))

    def _arrive(
        self, source: int, target: int, root: bytes | None, frames: Sequence[bytes], is_ping: bool
    ) -> None:
        node, peer = self.nodes[target], self.names[source]
        for frame in frames:
            for reply in node.receive(peer, frame, self.now, self.wall):
                self._send(target, source, None, [reply])
        for event in node.events():
            if isinstance(event, EntryChanged):
                self.on_change(target, event)
        if is_ping:
            self._send(target, source, node.root(), node.broadcasts(PIGGYBACK_BYTES, len(self.names)))
        if root is not None:
            opening = node.peer_root(peer, root, self.now)
            if self.repair:
                for frame in opening:
                    self._send(target, source, None, [frame])
