"""What must have happened some time after something else did, while other things go wrong."""

from __future__ import annotations

from simulations import production
from simulations.members import SimulatedMember
from simulations.properties.base import Property
from swim.events import Event, MemberDied, MemberLeft


class CrashesAreDetected(Property):
    """Every live member knows of the end of another's life within the bound.

    Whoever starts later, with an old list on its disk, knows of it within the same time from then on.
    """

    name = "eventually_crashes_are_detected"

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
            if truth.since_us[observer.name] <= ended_us and not truth.was_hampered(observer.name, ended_us):
                self._judge(observer, name, version)

    def _judge_start(self, observer: SimulatedMember, started_us: int) -> None:
        truth = self.context.truth
        if observer.fenced or observer.leaving or truth.was_hampered(observer.name, started_us):
            return
        for held in observer.swim.members():
            version = production.version_of(held)
            if truth.gone_us.get(held.name, started_us) < started_us:
                self._judge(observer, held.name, version)

    def _judge(self, observer: SimulatedMember, name: str, version: production.Version) -> None:
        self.checks += 1
        held = observer.swim.member(name)
        if held is not None and held.is_up and production.version_of(held)[:2] == version[:2]:
            bound_s = self.context.bounds.detect_s
            self.violated(f"{observer.name} still holds {name} up, {bound_s:g} s after its end or the start")


class JoinersAreKnown(Property):
    """Every live member knows of a new one within the bound."""

    name = "eventually_joiners_are_known"

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Look at everybody when the time is over."""
        if what == "started" and member.introducers:
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
            other = observer.name
            if observer is member or truth.since_us[other] > started_us:
                continue
            if truth.was_hampered(other, started_us) or truth.is_excused(other, name):
                continue
            if not truth.can_be_introduced(observer, started_us):
                continue
            self.checks += 1
            held = observer.swim.member(name)
            if held is None or not held.is_up or production.version_of(held)[:2] != boot:
                self.violated(
                    f"{other} does not know of {name}, {self.context.bounds.join_s:g} s after its start"
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
