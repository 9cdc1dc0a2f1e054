"""All replicated state that one node holds, and the way each unit takes into it.

A unit's digest is looked up first (a unit that is held costs no more), then it is decoded, its
credential admitted, its rank compared with what is held, and only then its signature checked, once.
What is accepted is held and forwarded verbatim; what is not is dropped and counted by reason. A unit
that is held and heard again counts as one of its transmissions (`swim/unit_queue.py`).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from swim import cluster_map, owner_maps, unit_queue, units
from swim.cluster_map import ClusterMap
from swim.hashtree import HashTree
from swim.hlc import ClockWatch, wall_of
from swim.identity import Admitted, Authority
from swim.map_events import (
    BehindHorizon,
    ClusterChanged,
    ClusterConflict,
    EntryChanged,
    EventsLost,
    MapEvent,
    OwnerForgotten,
    OwnerReset,
)
from swim.owner_maps import OwnerMaps
from swim.propagation import Propagation, PropagationLog
from swim.unit_reader import Read, UnitReader
from swim.units import Bucket, Load, Register, Retirement

MAX_EVENTS: Final = 65_536
MAX_SUPERSEDED: Final = 256
"""Units that were replaced, or came too late, of which is remembered that nobody need send them."""

OwnBucket = Callable[[Bucket], bool]
"""Told of a checked bucket under the own name; says whether to hold it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the replicated state.

    Attributes:
        max_owners: nodes whose maps are held.
        max_buckets: buckets held of one owner, each of at most 1,000 bytes of entries.
        max_quarantined: buckets of nodes unknown to the membership that wait.
        max_registers: keys of the cluster map, deleted ones included.
        max_queued: units that wait for room in a packet.
        max_events: events that wait to be drained.
    """

    max_owners: int = owner_maps.MAX_OWNERS
    max_buckets: int = owner_maps.MAX_BUCKETS
    max_quarantined: int = owner_maps.MAX_QUARANTINED
    max_registers: int = cluster_map.MAX_REGISTERS
    max_queued: int = unit_queue.MAX_QUEUED
    max_events: int = MAX_EVENTS


@dataclass(frozen=True, slots=True)
class HeldLoad:
    """A load vector that was checked and is held."""

    load: Load
    digest: bytes
    data: bytes


class State:
    """The maps, the tree over them, the units to pass on, and the events to report.

    Args:
        name: of this node, whose owner map is always accepted.
        authority: says whose credentials count.
        limits: bounds of everything that is held.
        max_unit_bytes: longer units are refused unread.
        reader: reads units.
    """

    def __init__(
        self, name: str, authority: Authority, limits: Limits, max_unit_bytes: int, reader: UnitReader
    ) -> None:
        self.name = name
        self.limits = limits
        self.clock_watch = ClockWatch()
        self.tree = HashTree()
        self.maps = OwnerMaps(
            self.tree,
            max_owners=limits.max_owners,
            max_buckets=limits.max_buckets,
            max_quarantined=limits.max_quarantined,
        )
        self.cluster = ClusterMap(self.tree, max_registers=limits.max_registers)
        self.queue = unit_queue.UnitQueue(limits.max_queued)
        self.bulk: dict[bytes, int] = {}
        """Own buckets that are spread over streams and not by gossip: version by digest."""
        self.propagation = PropagationLog()
        self.loads: dict[str, HeldLoad] = {}
        self.known: dict[str, None] = {name: None}
        self.wall = 0.0
        """The latest time that this node was told, in seconds since the epoch."""
        self.up_since = float("inf")
        """The time of the start, in seconds since the epoch."""
        self.own_bucket: OwnBucket = lambda _bucket: True
        self.notify: Callable[[], None] = lambda: None
        self.accepted = 0
        self.drops: dict[str, int] = {}
        self._authority = authority
        self._max_unit_bytes = max_unit_bytes
        self._reader = reader
        self._load_digests: dict[bytes, None] = {}
        self._superseded: OrderedDict[bytes, None] = OrderedDict()
        self._events: list[MapEvent] = []

    def unit(self, digest: bytes) -> bytes | None:
        """Return the unit with a digest, None if it is not held."""
        bucket = self.maps.by_digest.get(digest)
        if bucket is not None:
            return bucket.data
        register = self.cluster.by_digest.get(digest)
        if register is not None:
            return register.data
        retirement = self.cluster.retirement
        return retirement[1] if retirement is not None and retirement[0] == digest else None

    def is_unwanted(self, digest: bytes) -> bool:
        """Say of a unit that is not held that it waits in quarantine, or that something newer is held."""
        return digest in self._superseded or self.maps.is_waiting(digest)

    def receive(self, data: bytes, peer_horizon: int, wall: float, *, forward: bool) -> str:
        """Take in one unit, whoever sent it.

        Args:
            data: the unit.
            peer_horizon: where the sender stands.
            wall: seconds since the epoch.
            forward: whether to pass the unit on by gossip if it is news.

        Returns:
            "" if it was news, else the reason for which it was dropped.
        """
        self.wall = wall
        read = self._reader.recall(data)
        digest = units.digest_of(data) if read is None else read.digest
        if digest in self.maps.by_digest or self._is_held(digest):
            self.queue.heard(digest)
            self.drop("held")
            return "held"
        reason = self._take(read, data, digest, peer_horizon)
        if reason:
            self.drop(reason)
            if reason == "stale":
                self._supersede([digest])
        else:
            self.accepted += 1
            if forward:
                self.queue.add(digest, data)
        return reason

    def hold_bucket(self, owner: str, bucket: Bucket, data: bytes, digest: bytes, not_after: float) -> None:
        """Hold a bucket that has been checked, and report what it changed."""
        if bucket.generation > self.maps.of(owner).generation:
            self.report(OwnerReset(owner, bucket.generation))
        changes, dropped = self.maps.accept(owner, bucket, data, digest, not_after)
        self._supersede(dropped)
        self._report([EntryChanged(owner, key, value) for key, value in changes])

    def hold_register(self, register: Register, data: bytes, digest: bytes, author: str) -> bool:
        """Take note of a register that has been checked; say whether it is now the value."""
        before = self.cluster.get(register.key)
        lost_before = len(self.cluster.conflicts(register.key))
        is_value, dropped = self.cluster.accept(register, data, digest, author)
        if dropped is not None:
            self._supersede([dropped])
        if self.cluster.get(register.key) != before:
            self.report(ClusterChanged(register.key, register.value))
        if len(self.cluster.conflicts(register.key)) > lost_before:
            self.report(ClusterConflict(register.key))
        return is_value

    def move_horizon(self, retirement: Retirement, data: bytes, digest: bytes) -> None:
        """Take note of a retirement that has been checked."""
        was_there, dropped = self.cluster.move_horizon(retirement, data, digest)
        for at in dropped:
            self.queue.discard(at)
        if not was_there:
            self.report(BehindHorizon(retirement.stamp))

    def hold_load(self, owner: str, load: Load, data: bytes, digest: bytes) -> None:
        """Hold a load vector that has been checked."""
        held = self.loads.get(owner)
        if held is not None:
            self._drop_load(held)
        self.loads[owner] = HeldLoad(load, digest, data)
        self._load_digests[digest] = None

    def agree(self, peer: str) -> None:
        """Take note that a healthy peer holds the same cluster map as this node."""
        for key in self.cluster.acknowledge(peer):
            self.report(ClusterChanged(key, None))

    def forget(self, owner: str) -> None:
        """Drop an owner's map and load, and report it."""
        load = self.loads.pop(owner, None)
        if load is not None:
            self._drop_load(load)
        self.propagation.forget(owner)
        self._superseded.clear()  # what is forgotten may be accepted again from the beginning
        had_map = owner in self.maps
        gone, dropped = self.maps.forget(owner)
        for at in dropped:
            self.queue.discard(at)
        self._report([EntryChanged(owner, key, None) for key in gone])
        if had_map:
            self.report(OwnerForgotten(owner))

    def propagation_of(self, owner: str, wall: float) -> Propagation:
        """Return how old an owner's newest bucket is, and how long its buckets took to get here."""
        published_ms = self.maps.of(owner).published_ms
        if not published_ms:
            return self.propagation.of(owner, None)
        there = wall if owner == self.name else wall + self.clock_watch.offset_of(owner)
        return self.propagation.of(owner, max(0.0, there - published_ms / 1000))

    def adopt(self, other: "State") -> None:
        """Hold what another instance holds, but for the own map; tables are copied, units shared.

        Raises:
            ValueError: if this node holds something of others that the other one does not.
        """
        if self.cluster.is_behind or other.cluster.is_behind:
            raise ValueError("a node behind the horizon pulls from peers, and nobody adopts what it holds")
        own = self.maps.of(self.name).held.values()
        mine = dict.fromkeys(held.digest for held in own)
        held = (*self.maps.by_digest, *self.cluster.by_digest)
        if any(digest not in mine and other.unit(digest) is None for digest in held):
            raise ValueError("the other instance lacks something that this one holds")
        self.tree.become(other.tree)
        self.maps.adopt(other.maps, self.name)
        self.cluster.adopt(other.cluster)
        load = self.loads.get(self.name)
        self.loads = dict(other.loads)
        self.loads.pop(self.name, None)
        if load is not None:
            self.loads[self.name] = load
        self._load_digests = dict.fromkeys(load.digest for load in self.loads.values())
        self.known = {**other.known, **self.known}
        self._events = []
        self.report(EventsLost())

    def report(self, event: MapEvent) -> None:
        """Queue an event; when too many wait, all give way to one `EventsLost`."""
        self._report([event])

    def events(self) -> list[MapEvent]:
        """Return the events since the last call."""
        drained, self._events = self._events, []
        return drained

    def drop(self, reason: str) -> None:
        """Count something that was dropped."""
        self.drops[reason] = self.drops.get(reason, 0) + 1

    def statistics(self) -> dict[str, int]:
        """Count what is held, what waits, and what was dropped for which reason."""
        return {
            **self.maps.statistics(),
            **self.cluster.statistics(),
            "units_accepted": self.accepted,
            "loads": len(self.loads),
            "known_owners": len(self.known),
            **self.queue.statistics(),
            "in_bulk": len(self.bulk),
            **self.propagation.statistics(),
            "events_waiting": len(self._events),
            **{f"dropped_{reason}": self.drops[reason] for reason in sorted(self.drops)},
        }

    def _is_held(self, digest: bytes) -> bool:
        return digest in self._load_digests or self.unit(digest) is not None or self.maps.is_waiting(digest)

    def _report(self, events: list[MapEvent]) -> None:
        waited = bool(self._events)
        if len(self._events) + len(events) > self.limits.max_events:
            self._events = [EventsLost()]  # the maps have changed already, so it speaks for the new ones too
        else:
            self._events += events
        if self._events and not waited:
            self.notify()

    def _supersede(self, digests: Iterable[bytes]) -> None:
        for digest in digests:
            self.queue.discard(digest)
            self.bulk.pop(digest, None)
            self._superseded[digest] = None
            if len(self._superseded) > MAX_SUPERSEDED:
                self._superseded.popitem(last=False)

    def _drop_load(self, load: HeldLoad) -> None:
        self._load_digests.pop(load.digest, None)
        self.queue.discard(load.digest)

    def _take(self, read: Read | None, data: bytes, digest: bytes, peer_horizon: int) -> str:
        """Take in a unit that is not held; return the reason for which it is dropped, "" if it is not."""
        if read is None:
            try:
                read = self._reader.read(data, digest, max_bytes=self._max_unit_bytes)
            except ValueError:
                return "malformed"
        unit, wall = read.unit, self.wall
        if isinstance(unit, (Register, Retirement)):
            # What is written for the cluster outlives its author's credential, which has to have
            # been valid when it was written.
            written = wall_of(unit.stamp)
            if self.clock_watch.is_ahead(written, wall):
                return "future_stamp"
            wall = written
        admitted = self._authority.admit(unit.credential, wall)
        if admitted is None:
            return "credential_refused"
        match unit:
            case Bucket():
                return self._take_bucket(unit, read, admitted)
            case Register():
                return self._take_register(unit, read, admitted, peer_horizon)
            case Retirement():
                return self._take_retirement(unit, read, admitted)
            case Load():
                return self._take_load(unit, read, admitted)

    def _take_bucket(self, bucket: Bucket, read: Read, admitted: Admitted) -> str:
        owner = admitted.name
        if owner not in self.known:
            self.maps.quarantine(owner, read.data, read.digest)
            return "unknown_owner"
        reason = self.maps.refusal(owner, bucket, read.digest)
        if reason and owner != self.name:
            return reason
        if not units.is_signed_by(admitted, bucket, read.data):
            return "bad_signature"
        if owner == self.name and (not self.own_bucket(bucket) or reason):
            return "own_bucket"
        self.hold_bucket(owner, bucket, read.data, read.digest, admitted.not_after)
        self._measure(owner, bucket.published_ms / 1000)
        return ""

    def _measure(self, owner: str, published: float) -> None:
        """Take note of how long a bucket was on its way, if that can be told."""
        if self.clock_watch.is_ahead(published, self.wall):
            self.propagation.ignored += 1
            return
        delay_s = self.wall + self.clock_watch.offset_of(owner) - published
        if published and self.wall - delay_s >= self.up_since:
            self.propagation.arrived(owner, delay_s)

    def _take_register(self, register: Register, read: Read, admitted: Admitted, peer_horizon: int) -> str:
        digest, author = read.digest, admitted.name
        reason = self.cluster.refusal(register, author, digest, peer_horizon)
        if reason:
            return reason
        if not units.is_signed_by(admitted, register, read.data):
            return "bad_signature"
        return "" if self.hold_register(register, read.data, digest, author) else "lost"

    def _take_retirement(self, retirement: Retirement, read: Read, admitted: Admitted) -> str:
        if admitted.name not in self.cluster.roster:
            return "not_in_roster"
        if not self.cluster.is_newer_horizon(retirement, read.digest):
            return "stale"
        if not units.is_signed_by(admitted, retirement, read.data):
            return "bad_signature"
        self.move_horizon(retirement, read.data, read.digest)
        return ""

    def _take_load(self, load: Load, read: Read, admitted: Admitted) -> str:
        owner = admitted.name
        if owner not in self.known:
            return "unknown_owner"
        held = self.loads.get(owner)
        order = (load.generation, load.sequence)
        if held is not None and (held.load.generation, held.load.sequence) >= order:
            return "stale"
        if not units.is_signed_by(admitted, load, read.data):
            return "bad_signature"
        self.hold_load(owner, load, read.data, read.digest)
        return ""
