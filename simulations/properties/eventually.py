"""What must have happened some time after something else did, while other things go wrong."""

from __future__ import annotations

from simulations import production
from simulations.members import SimulatedMember
from simulations.properties.base import Context, Property
from swim.events import Event, MemberDied, MemberLeft


class CrashesAreDetected(Property):
    """Every live member knows of the end of another's life within the bound.

    Whoever starts later, with an old list on its disk, knows of it within the same time from then on; so does
    who is told the old word by such a one, and had never met the member before.
    """

    name = "eventually_crashes_are_detected"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._met_us: dict[tuple[str, int, str, tuple[int, bytes]], int] = {}

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Take note of when a life of a member was first met by a life of another."""
        subject = production.subject(event)
        if subject is not None and production.tells_up(event):
            met = (member.name, member.machine.boots, subject.name, production.version_of(subject)[:2])
            self._met_us.setdefault(met, self.context.cluster.timeline.now_us)

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Look at everybody when the time is over, or at a member that has read its disk."""
        context = self.context
        timeline = context.cluster.timeline
        over_us = context.after_s(context.bounds.detect_s)
        if what in ("crashed", "left", "stopped"):
            version = production.own_version(member.swim)
            timeline.at_us(over_us, self._judge_end, member.name, version, timeline.now_us)
        elif what == "started" and member.machine.boots > 1:
            timeline.at_us(over_us, self._judge_start, member, timeline.now_us)

    def _judge_end(self, name: str, version: production.Version, ended_us: int) -> None:
        truth = self.context.truth
        for observer in self.context.cluster.live():
            if truth.since_us[observer.name] <= ended_us:
                self._judge(observer, name, version, ended_us)

    def _judge_start(self, observer: SimulatedMember, started_us: int) -> None:
        truth = self.context.truth
        if observer.fenced or observer.leaving:
            return
        for held in observer.swim.members():
            version = production.version_of(held)
            if truth.gone_us.get(held.name, started_us) < started_us:
                self._judge(observer, held.name, version, started_us)

    def _judge(
        self, observer: SimulatedMember, name: str, version: production.Version, since_us: int
    ) -> None:
        self.checks += 1
        held = observer.swim.member(name)
        if held is None or not held.is_up or production.version_of(held)[:2] != version[:2]:
            return
        timeline = self.context.cluster.timeline
        met_us = self._met_us.get((observer.name, observer.machine.boots, name, version[:2]), since_us)
        if met_us > since_us:
            bound_us = self.context.after_s(self.context.bounds.detect_s) - timeline.now_us
            timeline.at_us(met_us + bound_us, self._judge_later, observer, name, version, met_us)
        elif not self.context.truth.was_hampered(observer.name, since_us):
            bound_s = self.context.bounds.detect_s
            self.violated(f"{observer.name} still holds {name} up, {bound_s:g} s after its end or the start")

    def _judge_later(
        self, observer: SimulatedMember, name: str, version: production.Version, met_us: int
    ) -> None:
        if not observer.fenced and not observer.leaving:
            self._judge(observer, name, version, met_us)


class JoinersAreKnown(Property):
    """Every live member knows of a new one within the bound."""

    name = "eventually_joiners_are_known"

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Look at everybody when the time is over."""
        if what == "started" and member.introducers and not member.acquainted:
            context = self.context
            context.cluster.timeline.at_us(
                context.after_s(context.bounds.join_s), self._judge, member, context.cluster.timeline.now_us
            )

    def _judge(self, member: SimulatedMember, started_us: int) -> None:
        truth, name = self.context.truth, member.name
        if member.fenced or member.leaving or truth.was_hampered(name, started_us):
            return
        if not truth.can_be_introduced(member, started_us):
            return
        boot = production.own_version(member.swim)[:2]
        for observer in self.context.cluster.live():
            if observer is member or truth.since_us[observer.name] > started_us:
                continue
            self.checks += 1
            held = observer.swim.member(name)
            if held is not None and held.is_up and production.version_of(held)[:2] == boot:
                continue
            if not self._is_excused(observer, member, started_us):
                join_s = self.context.bounds.join_s
                self.violated(f"{observer.name} does not know of {name}, {join_s:g} s after its start")

    def _is_excused(self, observer: SimulatedMember, member: SimulatedMember, since_us: int) -> bool:
        """Whether one of the two was hampered or out of the other's reach, or nobody could introduce them."""
        truth = self.context.truth
        return (
            truth.was_hampered(observer.name, since_us)
            or truth.is_excused(observer.name, member.name)
            or not truth.can_be_introduced(observer, since_us)
        )


class TheGoneAreReaped(Property):
    """Dead and departed members leave the table on schedule."""

    name = "eventually_the_gone_are_reaped"

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Look again when the time is over."""
        if not isinstance(event, MemberDied | MemberLeft):
            return
        context = self.context
        after_s = context.cluster.config.reap_after_s / member.machine.clock.rate
        context.cluster.timeline.at_us(
            context.after_s(after_s + context.bounds.reap_slack_s),
            self._judge,
            member,
            event.member.name,
            event.member.changed_at,
        )

    def _judge(self, member: SimulatedMember, name: str, changed_at: float) -> None:
        if member.fenced or member.paused or member.leaving:
            return
        self.checks += 1
        held = member.swim.member(name)
        if held is not None and not held.is_up and held.changed_at == changed_at:
            age_s = (self.context.cluster.local_now(member)) - changed_at
            self.violated(f"{member.name} still keeps {name}, gone for {age_s:.3f} s")
