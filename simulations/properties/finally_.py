"""What must hold at the end of a run, some time after everything was healed.

The four properties of views divide all that can be wrong with them between themselves: of each pair of
a live member and another at most one is violated.
"""

from __future__ import annotations

from collections.abc import Iterator

from simulations import production
from simulations.members import SimulatedMember
from simulations.properties.base import Context, Property
from simulations.timeline import US_PER_S
from swim.events import Event, MemberAlive, MemberDied, MemberLeft
from swim.members import Member


class _OfPairs(Property):
    """A property of each live member's view of each other one."""

    def finish(self) -> None:
        """Look at all pairs; the first violation of each observer is told."""
        live = self.context.cluster.live()
        for observer in live:
            held = {member.name: member for member in observer.swim.members()}
            for text in self._wrong(observer, held, live):
                self.violated(text)
                break

    def _wrong(
        self, observer: SimulatedMember, held: dict[str, Member], live: list[SimulatedMember]
    ) -> Iterator[str]:
        raise NotImplementedError

    def _others(self, observer: SimulatedMember, live: list[SimulatedMember]) -> Iterator[SimulatedMember]:
        """Whom an observer should know; where nothing was healed, only whom it can reach."""
        for member in live:
            if member is not observer and not self.context.truth.is_excused(observer.name, member.name):
                self.checks += 1
                yield member


class NoLiveMemberIsHeldDead(_OfPairs):
    """Nobody who lives and can be reached is held dead or departed."""

    name = "finally_no_live_member_is_held_dead"

    def _wrong(
        self, observer: SimulatedMember, held: dict[str, Member], live: list[SimulatedMember]
    ) -> Iterator[str]:
        for member in self._others(observer, live):
            view = held.get(member.name)
            if view is not None and not view.is_up:
                yield f"{observer.name} holds {member.name} {view.state.name}, which runs"


class EverybodyIsKnown(_OfPairs):
    """Nobody who lives and can be reached is unknown to anybody who could have been told."""

    name = "finally_everybody_is_known"

    def _wrong(
        self, observer: SimulatedMember, held: dict[str, Member], live: list[SimulatedMember]
    ) -> Iterator[str]:
        for member in self._others(observer, live):
            if member.name not in held and self.context.truth.are_acquainted(observer.name, member.name):
                yield f"{observer.name} does not know {member.name}"


class NobodyGoneIsHeldUp(_OfPairs):
    """Nobody who has gone is held up."""

    name = "finally_nobody_gone_is_held_up"

    def _wrong(
        self, observer: SimulatedMember, held: dict[str, Member], live: list[SimulatedMember]
    ) -> Iterator[str]:
        running = self.context.cluster.running
        for name, view in held.items():
            self.checks += 1
            if view.is_up and name not in running:
                yield f"{observer.name} holds {name} up, which does not run"


class ViewsAgree(_OfPairs):
    """Everybody holds the latest word of everybody whom it holds up."""

    name = "finally_views_agree"

    def _wrong(
        self, observer: SimulatedMember, held: dict[str, Member], live: list[SimulatedMember]
    ) -> Iterator[str]:
        for member in self._others(observer, live):
            view = held.get(member.name)
            if view is None or not view.is_up:
                continue
            own = (production.own_version(member.swim), member.swim.address)
            if (production.version_of(view), view.address) != own:
                yield (
                    f"{observer.name} holds incarnation {view.incarnation} of {member.name} "
                    f"at {view.address}, which says {own[0][2]} at {own[1]}"
                )


class StatesSettle(Property):
    """At the end nobody has changed between up and down for ``quiet_s``, in the eyes of those not cut off."""

    name = "finally_states_settle"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._last: tuple[int, str] | None = None

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Remember the last change."""
        subject = production.subject(event)
        if subject is None or not isinstance(event, MemberAlive | MemberDied | MemberLeft):
            return
        if not self.context.truth.is_cut_off(member.name):
            text = f"{type(event).__name__} of {subject.name} at {member.name}"
            self._last = (self.context.cluster.timeline.now_us, text)

    def finish(self) -> None:
        """Compare its time with the end."""
        quiet_s = self.context.bounds.quiet_s
        if not quiet_s:
            return
        self.checks += 1
        if self._last is not None:
            since_us = self.context.cluster.timeline.now_us - self._last[0]
            if since_us < quiet_s * US_PER_S:
                self.violated(f"{self._last[1]}, {since_us / US_PER_S:.3f} s before the end")
