"""What time and the registry demand of open messages: expiry, repetition, and the search for a provider."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from node.labels import Labels
from node.messaging.decisions import Changes, Decisions
from node.messaging.letters import OPEN, Letter, Route
from node.messaging.origin import RouteEvent, RouteState
from node.messaging.ports import Time
from node.messaging.settings import Timing

NO_PROVIDER: Final = "no provider"
IN_MINORITY: Final = "refused on the smaller side of a partition"


class Sweep:
    """Looks through the open messages, now and then.

    Args:
        time: Now.
        timing: How long things may take.
        max_attempts: Transmissions without an acknowledgement before another provider is looked for.
        decisions: The open messages.
    """

    def __init__(self, *, time: Time, timing: Timing, max_attempts: int, decisions: Decisions) -> None:
        self._time = time
        self._timing = timing
        self._max_attempts = max_attempts
        self._decisions = decisions
        self._awaited: dict[str, None] = {}
        self._awaited_until = 0.0

    def expect(self, nodes: Iterable[str], until: float) -> None:
        """These have work from before the start, and are given up if they are not there at ``until``."""
        self._awaited, self._awaited_until = dict.fromkeys(nodes), until

    def sweep(self, now: float, changes: Changes, *, registry_changed: bool) -> None:
        """See to the open messages that something is due for."""
        if self._awaited and now >= self._awaited_until:
            awaited, self._awaited = self._awaited, {}
            for node in awaited:
                if not self._decisions.placement.reaches(node):
                    self._decisions.leave_node(node, "has not been seen since the start", changes)
        if registry_changed:
            self._follow_registry(now, changes)
        calendar = self._decisions.calendar
        for letter in calendar.due(now):
            self._look(letter, now, changes, registry_changed=False)
            if letter.ended == OPEN:
                calendar.by(letter, self._next_look(letter, now))

    def _look(self, letter: Letter, now: float, changes: Changes, *, registry_changed: bool) -> None:
        if letter.ended != OPEN:
            return
        if now >= letter.deadline:
            self._decisions.end(letter, "expired", "its time was up", changes)
        elif letter.waiting_since is not None:
            self._wait_on(letter, now, changes, registry_changed=registry_changed)
        else:
            for route in [r for r in letter.active_routes() if self._is_due(r, now)]:
                self._overdue(route, changes)

    def _next_look(self, letter: Letter, now: float) -> float:
        """When something may be due for an open message."""
        if letter.waiting_since is not None:
            patience_ends = letter.waiting_since + self._timing.no_provider_grace_s
            soon = letter.retry_at if patience_ends <= now else min(letter.retry_at, patience_ends)
            return min(letter.deadline, max(soon, now + self._timing.sweep_s))
        dues = [r.due for r in letter.active_routes() if r.state in (RouteState.SENT, RouteState.RECEIVED)]
        return min((letter.deadline, *dues))

    def _wait_on(self, letter: Letter, now: float, changes: Changes, *, registry_changed: bool) -> None:
        """Look for a provider again, or give up when nobody in the cluster offers what is wanted."""
        waiting_since = now if letter.waiting_since is None else letter.waiting_since
        if registry_changed or now >= letter.retry_at:
            letter.retry_at = now + self._timing.refusal_pause_s
            self._decisions.place(letter, changes, now, follows=True)
        if letter.waiting_since is None or letter.address is not None:
            return
        if self._decisions.placement.minority(letter, now) == "refuse":
            self._decisions.end(letter, "failed", IN_MINORITY, changes)
            return
        patient = now - waiting_since < self._timing.no_provider_grace_s
        if not patient and not self._decisions.placement.is_hopeful(letter):
            self._decisions.end(letter, "failed", NO_PROVIDER, changes)

    @staticmethod
    def _is_due(route: Route, now: float) -> bool:
        return route.state in (RouteState.SENT, RouteState.RECEIVED) and now >= route.due

    def _overdue(self, route: Route, changes: Changes) -> None:
        letter = route.letter
        if route.state is RouteState.SENT:
            route.timeouts += 1
        if route.timeouts < self._max_attempts:
            self._decisions.counts["resent"] += 1
            self._decisions.step(route, RouteEvent.OVERDUE)
            return
        node = route.target[1]
        if self._decisions.breakers.unreachable(node, self._time.now()):
            self._decisions.leave_alone(lambda target: target[1] == node, "its node does not answer", changes)
        if letter.ended != OPEN or not route.active:
            return
        if letter.broadcast:
            self._decisions.fail_broadcast_route(route, "never acknowledged", changes)
        elif letter.address is not None:
            self._decisions.end(letter, "failed", "never acknowledged", changes)
        else:
            letter.exclude(route.target, self._time.now() + self._timing.refusal_pause_s)
            self._decisions.move(route, "never acknowledged", changes)

    def _follow_registry(self, now: float, changes: Changes) -> None:
        """Look for who waits; a provider that withdrew before it was sent a message is not waited for."""
        placement = self._decisions.placement
        for letter in placement.waiting():
            self._look(letter, now, changes, registry_changed=True)
        offered: dict[tuple[str, Labels, tuple[str, str]], bool] = {}
        for route in sorted(self._decisions.lanes.queued(), key=_SEQ):
            letter = route.letter
            if letter.address is not None or letter.broadcast or route.state is not RouteState.QUEUED:
                continue
            if not placement.reaches(route.target[1]):
                continue  # it did not withdraw: it is dead, or not seen yet, which is another matter
            asked = (letter.wanted, letter.message.require, route.target)
            if asked not in offered:
                providers = placement.providers(letter)
                offered[asked] = any((p.agent, p.node) == route.target for p in providers)
            if not offered[asked]:
                self._decisions.move(route, "it withdrew", changes)


_SEQ: Final = attrgetter("letter.seq")
