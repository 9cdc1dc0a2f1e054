"""What must have happened some time after something else did, while other things go wrong."""

from __future__ import annotations

from simulations import production
from simulations.members import SimulatedMember
from simulations.properties.base import Property
from swim.events import Event, MemberDied, MemberLeft


class CrashesAreDetected(Property):
    """Every live member knows of a crash within the bound."""

    name = "eventually_crashes_are_detected"

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Look at everybody when the time is over."""
        if what in ("crashed", "left", "stopped"):
            context = self.context
            context.cluster.timeline.at_us(
                context.after_s(context.bounds.detect_s),
                self._judge,
                member.name,
                production.own_version(member.swim),
                context.cluster.timeline.now_us,
            )

    def _judge(self, name: str, version: production.Version, ended_us: int) -> None:
        truth = self.context.truth
        for observer in self.context.cluster.live():
            if truth.was_hampered(observer.name, ended_us):
                continue
            self.checks += 1
            held = observer.swim.member(name)
            if held is not None and held.is_up and production.version_of(held)[:2] == version[:2]:
                self.violated(
                    f"{observer.name} still holds {name} up, {self.context.bounds.detect_s:g} s after its end"
                )


class JoinersAreKnown(Property):
    """Every live member knows of a new one within the bound."""

    name = "eventually_joiners_are_known"

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Look at everybody when the time is over."""
        if what == "started" and member.introduced:
            context = self.context
            context.cluster.timeline.at_us(
                context.after_s(context.bounds.join_s), self._judge, member, context.cluster.timeline.now_us
            )

    def _judge(self, member: SimulatedMember, started_us: int) -> None:
        truth, name = self.context.truth, member.name
        if member.fenced or member.swim.has_left or truth.was_hampered(name, started_us):
            return
        boot = production.own_version(member.swim)[:2]
        for observer in self.context.cluster.live():
            other = observer.name
            if observer is member or truth.since_us[other] > started_us or not observer.introduced:
                continue
            if truth.was_hampered(other, started_us) or truth.is_excused(other, name):
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
        if member.fenced or member.paused or member.swim.has_left:
            return
        self.checks += 1
        held = member.swim.member(name)
        if held is not None and not held.is_up and held.changed_at == changed_at:
            age_s = (self.context.cluster.local_now(member)) - changed_at
            self.violated(f"{member.name} still keeps {name}, gone for {age_s:.3f} s")
