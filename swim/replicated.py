"""The state that gossips: one map per node, one map for all, and the packets that spread them.

`Replicated` ties the parts together and does no I/O. `swim/units.py` says what a signed unit looks
like, `swim/owner_maps.py` and `swim/cluster_map.py` which units count, `swim/state.py` how a unit
gets in, `swim/publisher.py` what this node says itself, `swim/comparisons.py` when two nodes compare
what they hold, `swim/anti_entropy.py` how they find what one of them lacks, `swim/unit_queue.py`
what rides on the next packet, and `swim/propagation.py` how long it took to arrive.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from swim import anti_entropy, cluster_map, units
from swim.anti_entropy import AntiEntropy, Frame
from swim.cluster_map import Lost
from swim.comparisons import Comparisons, Divergence
from swim.hlc import MAX_STAMP
from swim.identity import Authority, Identity
from swim.map_events import MapEvent
from swim.own_map import Changes
from swim.propagation import Propagation
from swim.publisher import LOAD_INTERVAL_S, Publisher, StateError
from swim.state import Limits, State
from swim.unit_reader import UnitReader
from swim.units import Generation

__all__ = ["Limits", "Replicated", "StateError"]

SWEEP_INTERVAL_S: Final = 5.0
"""Between two looks for expired credentials and for tombstones that may be retired."""


class Replicated:
    """Holds the replicated state of one node.

    Args:
        identity: signs what this node publishes.
        authority: says whose credentials count.
        rng: where repair begins when not everything fits into a reply.
        entropy: returns so many random bytes; the boot id comes from it.
        max_frame_bytes: size no frame exceeds.
        limits: bounds of everything that is held.
        reader: reads units; the members that a simulator runs in one process may share one, so that
            they decode each unit once and hold the same objects.
    """

    def __init__(
        self,
        identity: Identity,
        authority: Authority,
        *,
        rng: random.Random,
        entropy: Callable[[int], bytes],
        max_frame_bytes: int = 1150,
        limits: Limits | None = None,
        reader: UnitReader | None = None,
    ) -> None:
        overhead = units.overhead_bytes(identity.credential)
        room = max_frame_bytes - anti_entropy.FRAME_OVERHEAD_BYTES - anti_entropy.UNIT_HEADER_BYTES
        self.max_value_bytes = min(units.MAX_BUCKET_BYTES, room - overhead)
        """Bytes that key and value of an entry, or of a register, may take together."""
        if self.max_value_bytes < units.MAX_RETIRED * units.RETIRED_BYTES:
            raise ValueError(f"{max_frame_bytes} bytes are too few for a frame with a credential")
        self._identity = identity
        self._authority = authority
        self._entropy = entropy
        reader = UnitReader() if reader is None else reader  # an empty one is false
        self._state = State(identity.name, authority, limits or Limits(), room, reader)
        self._maps = self._state.maps
        self._cluster = self._state.cluster
        self._publisher = Publisher(identity, self._state, self.max_value_bytes)
        self._repair = AntiEntropy(
            self._state.tree,
            fetch=self._state.unit,
            is_unwanted=self._state.is_unwanted,
            stand=lambda: (self._cluster.horizon, self._cluster.shown_root()),
            first=lambda: self._cluster.retirement[0] if self._cluster.retirement else None,
            rng=rng,
            max_frame_bytes=max_frame_bytes,
        )
        self._comparisons = Comparisons()
        self._sweep_at: float | None = None
        self._frames_received = 0

    # The own map

    @property
    def name(self) -> str:
        """The name under which this node publishes."""
        return self._identity.name

    @property
    def generation(self) -> Generation | None:
        """(counter, boot id) of this life, None before `start`; the counter belongs on disk."""
        return self._publisher.generation

    def next_counter(self, counter_on_disk: int) -> int:
        """Return the least counter that `start` may choose, to be written to disk before."""
        return self._publisher.next_counter(counter_on_disk)

    def start(self, counter_on_disk: int, now: float, wall: float) -> Generation:
        """Begin to publish, under a counter above the disk's and all that peers hold.

        Exchange state with a peer first, if one can be reached: a node that lost its disk learns
        its counter there. Write the counter of the returned generation to disk before the first
        packet leaves.

        Args:
            counter_on_disk: of the last life, 0 if there was none.
            now: monotonic seconds.
            wall: seconds since the epoch.

        Raises:
            StateError: if the authority does not admit this node's own credential.
        """
        if self._authority.admit(self._identity.credential, wall) is None:
            raise StateError(
                "credential_refused",
                f"the credential of {self.name} is expired or of another cluster: "
                "issue a new node bundle with `caxton init DIR --node NAME`",
            )
        self._sweep_at = now + SWEEP_INTERVAL_S
        self._state.wall = self._state.up_since = wall
        generation = self._publisher.start(counter_on_disk, self._entropy)
        self._publisher.publish_load(now)
        return generation

    def put(self, key: str, value: bytes, wall: float | None = None) -> None:
        """Set an entry of the own map; before `start` it waits for it.

        Args:
            key: 1 to 160 bytes in UTF-8.
            value: key and value have at most `max_value_bytes` together.
            wall: seconds since the epoch, from which peers tell how long the entry was on its way;
                None for the time of the last packet or timer.

        Raises:
            StateError: if key or value or map is too large, or another process has the name.
        """
        self._told(wall)
        self._publisher.put(key, value)

    def delete(self, key: str, wall: float | None = None) -> None:
        """Remove an entry of the own map, if it is there; `wall` is as for `put`."""
        self._told(wall)
        self._publisher.delete(key)

    def put_many(self, changes: Changes, wall: float | None = None) -> None:
        """Set entries of the own map, and remove those whose value is None: all of it, or nothing.

        Each bucket that changes is signed once, however many of its entries do; where these are many
        buckets, they leave over streams (`swim/spreading.py`).

        Args:
            changes: values by key, each as for `put`.
            wall: as for `put`.

        Raises:
            StateError: if a key or value or the map is too large, or another process has the name.
        """
        self._told(wall)
        self._publisher.put_many(changes)

    def check(self, changes: Changes) -> None:
        """Raise what `put_many` would raise now, and change nothing."""
        self._publisher.check(changes)

    def get(self, owner: str, key: str) -> bytes | None:
        """Return an owner's value for a key, None if it has none."""
        return self._maps.of(owner).get(key)

    def entries(self, prefix: str = "") -> Iterator[tuple[str, str, bytes]]:
        """Yield (owner, key, value), in order, of all entries whose key begins with `prefix`."""
        return self._maps.entries(prefix)

    def owners(self) -> list[str]:
        """Return the nodes whose maps are held, in order."""
        return self._maps.names()

    def set_load(self, vector: bytes, now: float) -> None:
        """Publish this node's quantised load, at most once a second and only when it changed.

        Args:
            vector: at most 32 bytes.
            now: monotonic seconds.
        """
        self._publisher.set_load(vector, now)

    def load(self, owner: str) -> bytes | None:
        """Return the latest load vector of a node, None if none is known."""
        found = self._state.loads.get(owner)
        return found.load.vector if found else None

    # The cluster map

    def set_roster(self, names: Iterable[str]) -> None:
        """Say who has to hold a deletion before it may be forgotten, and may say that all do; nobody before.

        It is said before `load_units`: what others retired is taken from members of the roster only.
        """
        self._cluster.set_roster(names)

    def observe_clock(self, peer: str, offset_s: float) -> None:
        """Take note that the clock of `peer` is `offset_s` seconds ahead of the own one."""
        self._state.clock_watch.observe(peer, offset_s)

    def cluster_get(self, key: str) -> bytes | None:
        """Return the value of a key of the cluster map, None if it has none."""
        return self._cluster.get(key)

    def cluster_stamp(self, key: str) -> int:
        """Return the stamp of a key's last write, for a later `based_on`; 0 if there is none."""
        return self._cluster.stamp(key)

    def cluster_entries(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """Yield (key, value), in order, of the keys that begin with `prefix`."""
        return self._cluster.entries(prefix)

    def conflicts(self, key: str) -> list[Lost]:
        """Return the concurrent writes of a key that lost, at most 8."""
        return self._cluster.conflicts(key)

    def cluster_put(self, key: str, value: bytes, wall: float, based_on: int | None = None) -> int:
        """Write a key of the cluster map.

        Args:
            key: 1 to 160 bytes in UTF-8.
            value: key and value have at most `max_value_bytes` together.
            wall: seconds since the epoch.
            based_on: stamp of the write that the author had read; None means the one held here.

        Returns:
            The stamp of the write.

        Raises:
            ClockSkewError: if this node's clock is too far off.
            StateError: if the write is too large, or the map is full.
        """
        return self._publisher.write(key, value, wall, based_on)

    def cluster_delete(self, key: str, wall: float, based_on: int | None = None) -> int | None:
        """Delete a key of the cluster map; return the stamp, None if it had no value."""
        if self._cluster.get(key) is None:
            return None
        return self._publisher.write(key, None, wall, based_on)

    # Gossip

    def root(self) -> bytes:
        """Return the 8 bytes that stand for all that is held, to ride on probes."""
        root = self._state.tree.root
        return cluster_map.salted(root) if self._cluster.is_behind else root

    def peer_root(self, peer: str, root: bytes, now: float) -> list[bytes]:
        """Compare a root that came with a peer's ping or ack.

        Returns:
            Frames to send to that peer; none if the roots agree, or if it is too soon to compare
            (`swim/comparisons.py`).
        """
        own = self._state.tree.root
        shown = cluster_map.salted(own) if self._cluster.is_behind else own
        if root == own:
            self._state.agree(peer)
        elif root == shown:
            self._cluster.also_behind(peer)
        elif self._comparisons.differs(peer, shown, root, now):
            return self._repair.opening()
        else:
            return []
        self._comparisons.agrees(peer, shown, now)
        return []

    def receive(self, peer: str, frame: bytes, now: float, wall: float) -> list[bytes]:
        """Take in a frame that a peer sent; return the frames to send back, at most 8."""
        decoded = self._decode(frame, self._repair.max_frame_bytes)
        if decoded is None:
            return []
        reasons = self._receive_units(peer, decoded, wall, forward=True)
        replies = self._repair.answer(decoded)
        if "behind_horizon" in reasons and self._cluster.retirement is not None:
            replies = [self._repair.push_units([self._cluster.retirement[1]]), *replies]
        return self._comparisons.within_budget(peer, replies, now)

    def broadcasts(self, limit_bytes: int, members: int) -> list[bytes]:
        """Return frames of new units to send to somebody now, each counted as one transmission.

        No unit is in them twice.

        Args:
            limit_bytes: what the frames may have together, give or take what is lost at their ends.
            members: size of the cluster, which bounds how often a unit is sent.
        """
        if not self._state.queue:
            return []
        frame_bytes = min(limit_bytes, self._repair.max_frame_bytes)
        unit_bytes = frame_bytes - anti_entropy.FRAME_OVERHEAD_BYTES
        count = limit_bytes // frame_bytes if frame_bytes else 0
        chosen = self._state.queue.take(
            count * unit_bytes, members, anti_entropy.UNIT_HEADER_BYTES, max_unit_bytes=unit_bytes
        )
        return self._repair.push_all(chosen, frame_bytes)

    def queued(self) -> int:
        """Return how many units wait for `broadcasts`."""
        return len(self._state.queue)

    def fresh(self) -> bool:
        """Say whether a unit waits for `broadcasts` that was never sent."""
        return self._state.queue.fresh

    def bulk_digest(self) -> bytes:
        """Return what opens an exchange over a stream.

        It has 10 bytes per unit as long as these are few, and at most 41 kB however many they are,
        because they are hashed into 4,096 slots (`swim/hashtree.py`).
        """
        return self._repair.slots()

    def bulk_reply(self, digest: bytes) -> tuple[list[bytes], bytes]:
        """Answer a stream's opening digest with what its sender lacks, and with the own digest."""
        return self.bulk_units(digest), self.bulk_digest()

    def bulk_units(self, digest: bytes) -> list[bytes]:
        """Return, in frames for `bulk_receive`, what the sender of a digest lacks.

        No frame is longer than `max_frame_bytes`; there are about as many as what is lacking needs.
        """
        if digest == self.bulk_digest():
            return []
        decoded = self._decode(digest, anti_entropy.MAX_SLOTS_DIGEST_BYTES)
        if decoded is None:
            return []
        frames = self._repair.missing(decoded)
        if frames:  # a newcomer, or one that was away: load vectors are in no tree
            loads = [self._state.loads[name].data for name in sorted(self._state.loads)]
            frames += self._repair.push_all(loads, self._repair.max_frame_bytes)
        return frames

    def bulk_receive(self, peer: str, unit: bytes, now: float, wall: float) -> int:
        """Take in one frame of `bulk_units`; nothing of it is passed on by gossip.

        Returns:
            How many units were news.
        """
        decoded = self._decode(unit, self._repair.max_frame_bytes)
        return 0 if decoded is None else self._receive_units(peer, decoded, wall, forward=False).count("")

    def bulk_waits(self) -> int:
        """Return the version of the newest own bucket that is to be spread over streams, 0 if there is none.

        It grows with each change that brings so many buckets.
        """
        return next(reversed(self._state.bulk.values()), 0)

    def bulk_over(self, *, is_spread: bool) -> None:
        """Take note that spreading over streams is over; gossip spreads the buckets if it came to nothing."""
        bulk, self._state.bulk = self._state.bulk, {}
        for digest in () if is_spread else bulk:
            data = self._state.unit(digest)
            if data is not None:
                self._state.queue.add(digest, data)

    def admit_owner(self, owner: str, wall: float) -> None:
        """Accept an owner's map from now on, because the membership knows the node."""
        if owner in self._state.known:
            return
        if len(self._state.known) >= self._state.limits.max_owners:
            self._state.drop("too_many_owners")
            return
        self._state.known[owner] = None
        for data in self._maps.release(owner):
            self._state.receive(data, self._cluster.horizon, wall, forward=False)

    def forget(self, owner: str) -> None:
        """Drop the map of a reaped node, and refuse it until the node is admitted again."""
        if owner != self.name:
            self._state.known.pop(owner, None)
            self._state.clock_watch.forget(owner)
            self._comparisons.forget(owner)
            self._state.forget(owner)

    # Time

    def next_timer(self) -> float | None:
        """Return the monotonic second at which `handle_timer` has work to do, None before start."""
        if self._sweep_at is None:
            return None
        if self._publisher.pending_load is None or self._publisher.is_stopped:
            return self._sweep_at
        return min(self._sweep_at, self._publisher.load_published_at + LOAD_INTERVAL_S)

    def handle_timer(self, now: float, wall: float) -> None:
        """Do what is due: publish a load that waited, drop expired owners, retire tombstones."""
        self._state.wall = wall
        self._publisher.publish_load(now)
        if self._sweep_at is None or now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP_INTERVAL_S
        for owner in self._maps.expired(wall):
            self._state.forget(owner)
        self._publisher.retire()

    def when_changed(self, notify: Callable[[], None]) -> None:
        """Have `notify` called when the first event waits to be drained; it must not raise."""
        self._state.notify = notify

    def events(self) -> list[MapEvent]:
        """Return, once, what has changed since the last call, in order."""
        return self._state.events()

    # Disk

    def export(self) -> list[bytes]:
        """Return every unit that is held, for `load_units` after a restart."""
        owned = [self._maps.by_digest[at].data for at in sorted(self._maps.by_digest)]
        return self._cluster.units() + owned

    def own_units(self) -> list[bytes]:
        """Return the units of the own map, in the order of their digests."""
        own = self._maps.of(self.name).held.values()
        return [held.data for held in sorted(own, key=lambda held: held.digest)]

    def load_units(self, stored: Iterable[bytes], wall: float) -> None:
        """Take back what `export` returned, before `start`; altered units are dropped and counted.

        The own units of the last life only teach the counter. Maps of nodes that the membership
        has not admitted wait in quarantine.
        """
        for data in stored:
            self._state.receive(data, MAX_STAMP, wall, forward=False)

    def adopt(self, other: "Replicated") -> None:
        """Hold all that another instance holds, without a packet and without a check of signatures.

        For whoever runs many members in one process and trusts what one of them has verified: a
        simulator lets one member receive everything, and all others adopt it. They share its
        units, so that a member costs some tables of references. The own map stays as it is; what
        the other holds of it only teaches the counter. Nothing is queued for gossip, and one event
        tells the views to be built anew. A node in production has no other instance to adopt from.

        Args:
            other: an instance of the same cluster, which goes on independently.

        Raises:
            ValueError: if one of the two is behind the horizon, or if this one holds something of
                others that would be lost.
        """
        self._state.adopt(other._state)  # noqa: SLF001 - its own kind
        counter, _ = other._maps.of(self.name).generation  # noqa: SLF001 - its own kind
        self._publisher.learned_counter = max(self._publisher.learned_counter, counter)

    # Watching

    def propagation(self, wall: float) -> dict[str, Propagation]:
        """Return, by owner and in order, how old its newest bucket is, and what its buckets' way took.

        Args:
            wall: seconds since the epoch.
        """
        return {owner: self._state.propagation_of(owner, wall) for owner in self._maps.names()}

    def divergence(self, now: float) -> Divergence:
        """Return the own root, and which peers hold the same, or since when they do not.

        Args:
            now: monotonic seconds.
        """
        return self._comparisons.divergence(self.root(), now)

    def statistics(self) -> dict[str, int]:
        """Count what is held, what waits, and what was dropped for which reason."""
        return {
            **self._state.statistics(),
            **self._comparisons.statistics(),
            "frames_received": self._frames_received,
            "is_stopped": int(self._publisher.is_stopped),
        }

    def _decode(self, data: bytes, max_bytes: int) -> Frame | None:
        self._frames_received += 1
        try:
            return anti_entropy.decode(data, max_bytes=max_bytes)
        except ValueError:
            self._state.drop("malformed_frame")
            return None

    def _receive_units(self, peer: str, frame: Frame, wall: float, *, forward: bool) -> list[str]:
        """Take in a frame's units; return what became of each, "" for those that were news."""
        reasons = [self._state.receive(data, frame.horizon, wall, forward=forward) for data in frame.units]
        if "" in reasons:
            self._comparisons.brought_news(peer)
        if frame.cluster_root == self._cluster.root:
            self._state.agree(peer)
        elif self._cluster.is_behind and frame.cluster_root == self._cluster.shown_root():
            self._cluster.also_behind(peer)
        return reasons

    def _told(self, wall: float | None) -> None:
        if wall is not None:
            self._state.wall = wall
