"""What some run of a sweep must have met, or the sweep has tested less than it says."""

from __future__ import annotations

from collections import Counter

from simulations import production
from simulations.members import SimulatedMember
from simulations.properties.base import Context, Property
from swim.events import (
    Event,
    MemberAlive,
    MemberDied,
    MemberLeft,
    MemberReaped,
    MemberRefuted,
    MemberSuspected,
    MemberUpdated,
)


class Sometimes(Property):
    """Notes everything of the kind that the ``sometimes_`` names stand for.

    Attributes:
        seen: How often each was met, by name.
    """

    name = "sometimes_"
    NAMES = (
        "sometimes_a_suspicion_was_refuted",
        "sometimes_somebody_was_suspected",
        "sometimes_a_death_was_declared",
        "sometimes_a_goodbye_was_heard",
        "sometimes_a_member_came_back",
        "sometimes_somebody_was_reaped",
        "sometimes_a_live_member_was_held_dead",
        "sometimes_a_partition_healed",
        "sometimes_a_relay_saved_a_probe",
        "sometimes_a_late_timer_fired",
        "sometimes_corruption_was_dropped",
        "sometimes_a_packet_was_lost",
        "sometimes_a_packet_came_twice",
        "sometimes_a_socket_buffer_was_full",
        "sometimes_a_link_was_full",
        "sometimes_a_stream_sent_again",
        "sometimes_a_process_stood_still",
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.seen: Counter[str] = Counter()
        self._apart = False

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Note what members tell."""
        seen = self.seen
        if isinstance(event, MemberRefuted):
            seen["sometimes_a_suspicion_was_refuted"] += 1
        elif isinstance(event, MemberSuspected):
            seen["sometimes_somebody_was_suspected"] += 1
        elif isinstance(event, MemberDied):
            subject = event.member
            if self.context.truth.is_running(subject.name, production.version_of(subject)):
                seen["sometimes_a_live_member_was_held_dead"] += 1
                self._apart = True
            else:
                seen["sometimes_a_death_was_declared"] += 1
        elif isinstance(event, MemberLeft):
            seen["sometimes_a_goodbye_was_heard"] += 1
        elif isinstance(event, MemberReaped):
            seen["sometimes_somebody_was_reaped"] += 1
        if isinstance(event, MemberAlive | MemberUpdated | MemberRefuted) and event.restarted:
            seen["sometimes_a_member_came_back"] += 1

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Note pauses, and what a life that ends has counted."""
        if what == "resumed":
            self.seen["sometimes_a_process_stood_still"] += 1
        elif what in ("crashed", "left", "stopped"):
            self._count(member)

    def corrupted(self, member: SimulatedMember, dropped: int) -> None:
        """Note altered datagrams."""
        self.seen["sometimes_corruption_was_dropped"] += dropped

    def finish(self) -> None:
        """Add what members and links have counted."""
        cluster = self.context.cluster
        for member in cluster.running.values():
            self._count(member)
        for fate, name in (
            ("lost", "sometimes_a_packet_was_lost"),
            ("duplicate", "sometimes_a_packet_came_twice"),
            ("full", "sometimes_a_socket_buffer_was_full"),
            ("overflow", "sometimes_a_link_was_full"),
            ("retransmitted", "sometimes_a_stream_sent_again"),
        ):
            self.seen[name] += cluster.fates[fate]
        if self._apart and not self.context.views.wrong:
            self.seen["sometimes_a_partition_healed"] += 1

    def _count(self, member: SimulatedMember) -> None:
        statistics = member.swim.statistics()
        self.seen["sometimes_a_relay_saved_a_probe"] += statistics.get(production.SAVED_BY_RELAY, 0)
        self.seen["sometimes_a_late_timer_fired"] += statistics.get(production.STALLS, 0)
