"""Leaping over a quiet stretch of time: thirty days of a partition without simulating each probe.

A leap is allowed only while nothing but the members' own maintenance would happen: nobody is suspected,
nobody stands still, no stream carries anything, and no fault is planned for the time between. Then:

1. timers are held while the packets that are on the way, and what they are answered with, arrive;
2. all clocks are set ahead, and with them the next probe of each member;
3. each member's timer fires once, everybody's as long after the leap as it would have fired without it, so
   that members do not fall into step.

What was due many times in between happens once: one attempt to reconnect, one visit of a seed, all members
due for it reaped. Whoever leaps lands a little early and lets the rest pass in full; ``tests/simulations``
compares a leap over an hour with an hour simulated in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from simulations import production
from simulations.faults import Fault, Jump
from simulations.members import MemberCluster, SimulatedMember
from simulations.timeline import US_PER_S

DRAIN_US: Final = 2 * US_PER_S
"""How long packets may take to arrive while timers are held."""

SKIPPED_US: Final = 2 * US_PER_S
"""What others planned for the time between, checks of properties say, happens so long after the leap: when
the timers have fired."""


MOST_LEAP_ATTEMPTS: Final = 60
"""Seconds that a leap may wait for quiet."""


class NotQuiet(Exception):
    """Something is going on that a leap would tear apart."""


def check_jump(jump: Jump, plan: Sequence[Fault], *, unquiet: tuple[type[Fault], ...]) -> None:
    """Check that a leap passes over no other fault of its plan.

    Args:
        jump: The leap.
        plan: All faults.
        unquiet: Faults that may not be going on either.

    Raises:
        NotQuiet: it does.
    """
    for fault in plan:
        between = any(jump.at_s < at_s < jump.to_s for at_s in (fault.at_s, fault.ends_s))
        goes_on = isinstance(fault, unquiet) and fault.at_s < jump.at_s < fault.ends_s
        if fault is not jump and (between or goes_on):
            raise NotQuiet(f"a jump from {jump.at_s:g} s to {jump.to_s:g} s leaps over a {fault.kind}")


def leap(cluster: MemberCluster, to_us: int) -> None:
    """Let time pass at one stroke.

    Args:
        cluster: Whose time.
        to_us: The time afterwards, in microseconds of the run.

    Raises:
        NotQuiet: something is going on; nothing has been changed but that packets have arrived.
    """
    members = list(cluster.running.values())
    for member in members:
        _check(member)
    places = _hold_timers(cluster, members)
    cluster.lines.add(cluster.timeline.now_us, "-", "fault", f"jump {to_us}")
    skipped_us = to_us - cluster.timeline.now_us
    cluster.timeline.leap(to_us, to_us + SKIPPED_US)
    for member, place_us in places:
        production.skipped(member.swim, skipped_us / US_PER_S)
        cluster.plan_timer_at(member, to_us + place_us)


def _check(member: SimulatedMember) -> None:
    if member.paused:
        raise NotQuiet(f"{member.name} stands still")
    if member.swim.statistics()[production.SUSPECTED]:
        raise NotQuiet(f"{member.name} suspects somebody")


def _hold_timers(cluster: MemberCluster, members: list[SimulatedMember]) -> list[tuple[SimulatedMember, int]]:
    """Hold all timers until nothing is on the way; return how long after now each would have fired."""
    timeline = cluster.timeline
    began_us = timeline.now_us
    places = [
        (member, max(0, (began_us if member.due_us is None else member.due_us) - began_us))
        for member in members
    ]
    cluster.hold_timers = True
    try:
        while cluster.on_the_way:
            due_us = timeline.due_us()
            if due_us is None or due_us - began_us > DRAIN_US:
                raise NotQuiet("packets are still on the way")
            timeline.run_until(due_us)
    finally:
        cluster.hold_timers = False
        for member in members:
            cluster.plan_timer_at(member, timeline.now_us)
    return places
