"""All replicated state that one node holds, and the way each unit takes into it.

A unit's digest is looked up first (a unit that is held costs no more), then it is decoded, its
credential admitted, its rank compared with what is held, and only then its signature checked, once.
What is accepted is held and forwarded verbatim; what is not is dropped and counted by reason.
"""

from collections.abc import Callable
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
from swim.units import Bucket, Load, Register, Retirement

MAX_EVENTS: Final = 65_536

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


class State:
    """The maps, the tree over them, the units to pass on, and the events to report.

    Args:
        name: of this node, whose owner map is always accepted.
        authority: says whose credentials count.
        limits: bounds of everything that is held.
        max_unit_bytes: longer units are refused unread.
    """

    def __init__(self, name: str, authority: Authority, limits: Limits, max_unit_bytes: int) -> None:
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
        self.loads: dict[str, tuple[Load, bytes, bytes]] = {}  # owner -> unit, digest, data
        self.known: dict[str, None] = {name: None}
        self.own_bucket: OwnBucket = lambda _bucket: True
        self.notify: Callable[[], None] = lambda: None
        self.accepted = 0
        self.drops: dict[str, int] = {}
        self._authority = authority
        self._max_unit_bytes = max_unit_bytes
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
        digest = units.digest_of(data)
        reason = "held" if self._is_held(digest) else None
        if reason is None:
            try:
                unit = units.decode(data, max_bytes=self._max_unit_bytes)
            except ValueError:
                reason = "malformed"
            else:
                reason = self._take(unit, _Arrival(data, digest, peer_horizon), wall)
        if reason:
            self.drop(reason)
        else:
            self.accepted += 1
            if forward:
                self.queue.add(digest, data)
        return reason

    def hold_bucket(self, owner: str, bucket: Bucket, data: bytes, digest: bytes, not_after: float) -> None:
        """Hold a bucket that has been checked, and report what it changed."""
        if bucket.generation > self.maps.generation(owner):
            self.report(OwnerReset(owner, bucket.generation))
        changes, dropped = self.maps.accept(owner, bucket, data, digest, not_after)
        for at in dropped:
            self.queue.discard(at)
        for key, value in changes:
            self.report(EntryChanged(owner, key, value))

    def hold_register(self, register: Register, data: bytes, digest: bytes, author: str) -> bool:
        """Take note of a register that has been checked; say whether it is now the value."""
        before = self.cluster.get(register.key)
        lost_before = len(self.cluster.conflicts(register.key))
        is_value, dropped = self.cluster.accept(register, data, digest, author)
        if dropped is not None:
            self.queue.discard(dropped)
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
            self.queue.discard(held[1])
        self.loads[owner] = (load, digest, data)

    def agree(self, peer: str) -> None:
        """Take note that a healthy peer holds the same cluster map as this node."""
        for key in self.cluster.acknowledge(peer):
            self.report(ClusterChanged(key, None))

    def forget(self, owner: str) -> None:
        """Drop an owner's map and load, and report it."""
        load = self.loads.pop(owner, None)
        if load is not None:
            self.queue.discard(load[1])
        had_map = owner in self.maps
        gone, dropped = self.maps.forget(owner)
        for at in dropped:
            self.queue.discard(at)
        for key in gone:
            self.report(EntryChanged(owner, key, None))
        if had_map:
            self.report(OwnerForgotten(owner))

    def report(self, event: MapEvent) -> None:
        """Queue an event; when too many wait, all give way to one `EventsLost`."""
        if len(self._events) >= self.limits.max_events:
            self._events = [EventsLost()]
        self._events.append(event)
        if len(self._events) == 1:
            self.notify()

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
            "queued": len(self.queue),
            "events_waiting": len(self._events),
            **{f"dropped_{reason}": self.drops[reason] for reason in sorted(self.drops)},
        }

    def _is_held(self, digest: bytes) -> bool:
        return self.unit(digest) is not None or self.maps.is_waiting(digest)

    def _take(self, unit: units.Unit, arrival: "_Arrival", wall: float) -> str:
        if isinstance(unit, Register | Retirement):
            if self.clock_watch.is_ahead(unit.stamp, wall):
                return "future_stamp"
            # What is written for the cluster outlives its author's credential, which has to have
            # been valid when it was written.
            wall = wall_of(unit.stamp)
        admitted = self._authority.admit(unit.credential, wall)
        if admitted is None:
            return "credential_refused"
        match unit:
            case Bucket():
                return self._take_bucket(unit, arrival, admitted)
            case Register():
                return self._take_register(unit, arrival, admitted)
            case Retirement():
                return self._take_retirement(unit, arrival, admitted)
            case Load():
                return self._take_load(unit, arrival, admitted)

    def _take_bucket(self, bucket: Bucket, arrival: "_Arrival", admitted: Admitted) -> str:
        owner = admitted.name
        if owner not in self.known:
            self.maps.quarantine(owner, arrival.data, arrival.digest)
            return "unknown_owner"
        reason = self.maps.refusal(owner, bucket, arrival.digest)
        if reason and owner != self.name:
            return reason
        if not units.is_signed_by(admitted, bucket, arrival.data):
            return "bad_signature"
        if owner == self.name and (not self.own_bucket(bucket) or reason):
            return "own_bucket"
        self.hold_bucket(owner, bucket, arrival.data, arrival.digest, admitted.not_after)
        return ""

    def _take_register(self, register: Register, arrival: "_Arrival", admitted: Admitted) -> str:
        digest, author = arrival.digest, admitted.name
        reason = self.cluster.refusal(register, author, digest, arrival.peer_horizon)
        if reason:
            return reason
        if not units.is_signed_by(admitted, register, arrival.data):
            return "bad_signature"
        return "" if self.hold_register(register, arrival.data, digest, author) else "lost"

    def _take_retirement(self, retirement: Retirement, arrival: "_Arrival", admitted: Admitted) -> str:
        if self.cluster.roster and admitted.name not in self.cluster.roster:
            return "not_in_roster"
        if not self.cluster.is_newer_horizon(retirement, arrival.digest):
            return "stale"
        if not units.is_signed_by(admitted, retirement, arrival.data):
            return "bad_signature"
        self.move_horizon(retirement, arrival.data, arrival.digest)
        return ""

    def _take_load(self, load: Load, arrival: "_Arrival", admitted: Admitted) -> str:
        owner = admitted.name
        if owner not in self.known:
            return "unknown_owner"
        held = self.loads.get(owner)
        order = (load.generation, load.sequence)
        if held is not None and (held[0].generation, held[0].sequence) >= order:
            return "stale"
        if not units.is_signed_by(admitted, load, arrival.data):
            return "bad_signature"
        self.hold_load(owner, load, arrival.data, arrival.digest)
        return ""


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A unit as it came in, and where its sender stands."""

    data: bytes
    digest: bytes
    peer_horizon: int
