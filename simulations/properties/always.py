"""What must hold at every moment, whatever goes wrong."""

from __future__ import annotations

from typing import Final

from simulations import production
from simulations.members import SimulatedMember
from simulations.properties.base import Context, Property
from simulations.timeline import US_PER_S
from swim.events import DuplicateName, Event, MemberDied, MemberReaped

PACKET_BYTES: Final = 1_400
"""What the protocol promises; not taken from the core, which might be wrong about it."""


Life = tuple[str, int, bytes]
"""A member's name and boot."""


class PacketsFit(Property):
    """No datagram is longer than 1,400 bytes."""

    name = "always_packets_fit"

    def sent(self, member: SimulatedMember, data: bytes, kind: str) -> None:
        """Look at the length."""
        self.checks += 1
        if len(data) > PACKET_BYTES:
            self.violated(f"{member.name} sent a {kind} of {len(data)} bytes")


class WordsGoForward(Property):
    """What a member holds of another's own word is never replaced by an older one."""

    name = "always_words_go_forward"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._held: dict[str, dict[str, production.Version]] = {}

    def changed(self, what: str, member: SimulatedMember) -> None:
        """A new life holds nothing yet."""
        if what == "started":
            self._held[member.name] = {}

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Compare with what was held before."""
        subject = production.subject(event)
        if subject is None:
            return
        held = self._held[member.name]
        version = production.version_of(subject)
        self.checks += 1
        if version < held.get(subject.name, version):
            self.violated(
                f"{member.name} went back to incarnation {version[2]} of {subject.name}, "
                f"from {held[subject.name][2]}"
            )
        held[subject.name] = version
        if isinstance(event, MemberReaped):
            del held[subject.name]

    def sample(self) -> None:
        """Compare the whole table with what events told."""
        for member in self.context.cluster.live():
            held = self._held[member.name]
            for other in member.swim.members():
                version = production.version_of(other)
                if version < held.get(other.name, version):
                    self.violated(f"{member.name} holds an older word of {other.name} than it told of")


class NoFalseDeath(Property):
    """Who runs, can be reached and stands still for no longer than the bound is not declared dead."""

    name = "always_no_false_death"

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Compare a verdict with the truth."""
        if not isinstance(event, MemberDied):
            return
        self.checks += 1
        truth, subject = self.context.truth, event.member
        if not truth.is_running(subject.name, production.version_of(subject)):
            return
        if not truth.is_excused(member.name, subject.name):
            self.violated(
                f"{member.name} holds {subject.name} dead, by {event.author} "
                f"with {', '.join(event.accusers) or 'nobody else'}"
            )


class WithinBounds(Property):
    """No table and no queue of a member exceeds its limit."""

    name = "always_within_bounds"

    def sample(self) -> None:
        """Compare all statistics with the parameters that bound them."""
        config = self.context.cluster.config
        for member in self.context.cluster.live():
            statistics = member.swim.statistics()
            self.checks += 1
            for what, count, limit in production.bounded(statistics, config):
                if count > limit:
                    self.violated(f"{member.name} has {count} {what}; the limit is {limit}")


class CorruptionIsDropped(Property):
    """A datagram that was altered on its way is counted as a drop."""

    name = "always_corruption_is_dropped"

    def corrupted(self, member: SimulatedMember, dropped: int) -> None:
        """Look at the receiver's count."""
        self.checks += 1
        if dropped != 1:
            self.violated(f"{member.name} took an altered datagram and counted {dropped} drops")


class EventsTellTheTable(Property):
    """Whoever follows a member's events knows whom it holds up."""

    name = "always_events_tell_the_table"

    def sample(self) -> None:
        """Compare each view with its member's table."""
        for member in self.context.cluster.live():
            view = self.context.views.up[member.name]
            table = {other.name for other in member.swim.members() if other.is_up}
            self.checks += 1
            if table != view.keys():
                differing = ", ".join(sorted(table ^ view.keys()))
                self.violated(f"the events of {member.name} do not tell how it holds {differing}")


class TheGoneStayGone(Property):
    """A member that knows of the end of a life does not show it as up again, whatever stale news it hears.

    News that were on their way when the life ended have ``detect_s`` to arrive. Who never knew of the end, a
    newcomer say, may be told of a life that is over, and finds out.
    """

    name = "always_the_gone_stay_gone"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._ended_us: dict[Life, int] = {}
        self._known: dict[str, set[Life]] = {}

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Note when lives end; a new one knows of no end."""
        if what == "started":
            self._known[member.name] = set()
        elif what in ("crashed", "left", "stopped"):
            life = (member.name, *production.own_version(member.swim)[:2])
            self._ended_us[life] = self.context.cluster.timeline.now_us

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Compare whoever is shown as up with what was known."""
        subject, is_up = production.subject(event), production.tells_up(event)
        if subject is None or is_up is None:
            return
        life = (subject.name, *production.version_of(subject)[:2])
        known = self._known[member.name]
        if not is_up:
            known.add(life)
            return
        self.checks += 1
        ended_us = self._ended_us.get(life)
        now_us = self.context.cluster.timeline.now_us
        bound_us = self.context.bounds.detect_s * US_PER_S
        if life in known and ended_us is not None and now_us - ended_us > bound_us:
            since_s = (now_us - ended_us) / US_PER_S
            self.violated(f"{member.name} shows {subject.name} as up again, which ended {since_s:.3f} s ago")


class NobodyIsTwice(Property):
    """No member takes itself for the double of another process, because there is never one."""

    name = "always_nobody_is_twice"

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Count the lives in which it could happen."""
        self.checks += what == "started"

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Nobody may tell of a double."""
        if isinstance(event, DuplicateName):
            self.violated(f"{member.name} believes that another process has its name")
