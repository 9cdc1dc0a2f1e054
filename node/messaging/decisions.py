"""What becomes of each open message: which provider gets it, when it moves, how it ends.

The open messages of the outbox, and every rule about them that is decided at once: nothing here waits,
writes or sends. A round of decisions is gathered in :class:`Changes`, which :mod:`node.messaging.outbox`
makes durable and then acts upon. What may happen to a route is looked up in :mod:`node.messaging.origin`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from node.config.model import MessagingConfig
from node.message import Message
from node.messaging.backlog import Backlog
from node.messaging.breakers import Breakers
from node.messaging.calendar import Calendar
from node.messaging.explanation import Decision, Target
from node.messaging.lanes import Lanes
from node.messaging.letters import OPEN, Letter, Route
from node.messaging.oldest import drop_oldest
from node.messaging.order import Order
from node.messaging.origin import ACTIVE, RouteAction, RouteEvent, RouteState, step
from node.messaging.placement import Placement
from node.messaging.ports import Time
from node.messaging.router import Choice
from node.messaging.settings import OUTBOX_BYTES_LIMIT, ROUTE_LIMIT, SHARES, Timing
from node.storage import outbox as table
from node.storage.decisions import DecisionRow
from node.transport.frames import DeliveryKey, KeyState, Outcome

RECENT_LIMIT: Final = 10_000
"""Ended messages whose end is remembered, to tell late outcomes from repeated ones."""
NO_SUCH_AGENT: Final = "no such agent"
"""The refusal of a node that never had the agent: for an addressed message that is the end."""
UNCERTAIN: Final = "it may have been handled, and is delivered at most once"

_EVENTS: Final = {
    "settled": RouteEvent.SETTLED,
    "failed": RouteEvent.FAILED,
    "refused": RouteEvent.REFUSED,
    "held": RouteEvent.RECEIVED,
    "unknown": RouteEvent.UNKNOWN,
}


@dataclass(slots=True)
class Changes:
    """What one round decided: written at once, then acted upon.

    Args:
        number: Tells it from those of other rounds.
        taken_up: Messages of the backlog, whose turn has come; they move to the outbox.
        lost: Of what ended, what was given up; known before it is written.
        told: The FAILUREs that tell its senders.
    """

    number: int = 0
    routes: dict[int, Route] = field(default_factory=dict)
    events: list[tuple[int, table.EventRow]] = field(default_factory=list)
    decisions: list[DecisionRow] = field(default_factory=list)
    ended: list[Letter] = field(default_factory=list)
    queued: list[Route] = field(default_factory=list)
    taken_up: list[Letter] = field(default_factory=list)
    lost: list[Letter] = field(default_factory=list)
    told: list[Letter] = field(default_factory=list)

    def save(self, route: Route) -> None:
        """A route is to be written as it stands at the end of the round."""
        self.routes[id(route)] = route

    def only_settles(self, count: int) -> bool:
        """Whether all it says is that so many messages, of one route each, are settled."""
        if self.events or self.decisions or self.queued or self.taken_up:
            return False
        settled = [letter for letter in self.ended if letter.ended == "settled"]
        return len(settled) == len(self.ended) == len(self.routes) == count

    def __bool__(self) -> bool:
        return bool(self.routes or self.events or self.decisions or self.ended or self.taken_up)


class Decisions:
    """The open messages and what is decided about them; see the module's docstring.

    Args:
        time: Now, and the time of day.
        settings: The section ``messaging``.
        timing: Times beside it.
        lanes: Where routes stand in line.
        placement: Chooses providers.
        calendar: When to look at which message.
        backlog: What waits on disk only.
        breakers: Who is left alone for now.
    """

    def __init__(
        self,
        *,
        time: Time,
        settings: MessagingConfig,
        timing: Timing,
        lanes: Lanes,
        placement: Placement,
        calendar: Calendar,
        backlog: Backlog,
        breakers: Breakers,
    ) -> None:
        self._time = time
        self._settings = settings
        self._timing = timing
        self.lanes = lanes
        self.placement = placement
        self.calendar = calendar
        self.backlog = backlog
        self.breakers = breakers
        self.open: dict[str, Letter] = {}
        """Open messages by id; bounded by the outbox's capacity."""
        self.bytes = 0
        """Of their sealed forms."""
        self.open_for: dict[str, int] = {}
        """How many of them are for each capability, receiver or topic."""
        self.order = Order()
        self.counts = dict.fromkeys(
            ("accepted", "settled", "failed", "expired", "rerouted", "resent", "late", "refused"), 0
        )
        self._recent: dict[str, tuple[int, Target | None]] = {}

    def place(self, letter: Letter, changes: Changes | None, now: float, *, follows: bool = False) -> None:
        """Give a message to a provider, or let it wait for one.

        Args:
            letter: The message.
            changes: What the round decides; None for a message that is not written yet.
            now: Monotonic seconds.
            follows: Whether it goes where the one before it in its conversation is; a new one does.
        """
        choice = self.placement.decide(
            letter, now, self.order.followed(letter) if follows or changes is None else None
        )
        decision, encoded = choice.decision, choice.encoded
        if not decision.targets and letter.message.topic is not None:
            self._nobody_listens(letter, choice, changes)
            return
        if not decision.targets:
            if letter.waiting_since is None:
                letter.waiting_since = now
                letter.wait = encoded
                if changes is not None:
                    self.placement.waits(letter)
                    self.calendar.by(letter, now)
                    self._keep(letter, letter.epoch + 1, letter.wait, changes)
                self.note(letter, "waiting", decision.reason, changes)
            return
        letter.waiting_since = None
        if changes is not None:  # one that is not held yet has not waited
            self.placement.waits_no_more(letter)
        letter.epoch += 1
        letter.placements += 1
        wall = letter.accepted_s if changes is None else self._time.wall()
        letter.wait = None
        if changes is not None:
            self._keep(letter, letter.epoch, encoded, changes)
        for target in decision.targets:
            route = letter.routes.get(target)
            if route is None:
                route = Route(letter, target, letter.epoch, wall, encoded)
                letter.give(route)
            else:
                route.assign(letter.epoch, wall, encoded)
            if changes is not None:
                changes.save(route)
                changes.queued.append(route)

    def _nobody_listens(self, letter: Letter, choice: Choice, changes: Changes | None) -> None:
        """A message to a topic is for whoever subscribes, be it nobody: it has reached them all."""
        if changes is None:
            letter.ended, letter.reason, letter.wait = "settled", choice.decision.reason, choice.encoded
            return
        self._keep(letter, letter.epoch + 1, choice.encoded, changes)
        self.end(letter, "settled", choice.decision.reason, changes)

    def _keep(self, letter: Letter, epoch: int, encoded: bytes, changes: Changes) -> None:
        """Keep a decision beside those of the routes, which hold one for each provider."""
        changes.decisions.append(DecisionRow(letter.seq, epoch, self._time.wall(), encoded))

    def move(self, route: Route, how: str, changes: Changes) -> None:
        """Give a route's message to another provider, and all that follow it in its conversation."""
        self.placement.unstick(route.letter)
        self._move(route, how, changes, follows=False)

    def rejoin(self, changes: Changes) -> None:
        """Give messages that are astray, and what follows them, to whoever has what is before them."""
        for route in self.order.astray():
            self._move(route, "its conversation has moved", changes, follows=True)

    def _move(self, route: Route, how: str, changes: Changes, *, follows: bool) -> None:
        for later in list(self.order.behind(route.letter)):
            same = later.routes.get(route.target)
            if same is None or (later is not route.letter and not same.active):
                continue
            if same.answered:  # nobody waits for the answer of another
                self.settled_by_its_reply(same, changes)
                continue
            if same.exposed:
                self._end_uncertain(same, how, changes)
                continue
            self.step(same, RouteEvent.MOVE)
            same.reason = same.reason or how
            self.lanes.release(same)
            changes.save(same)
            self.counts["rerouted"] += 1
            self.note(later, "moved", f"from {route.target[0]}@{route.target[1]}: {how}", changes)
            if later.placements >= ROUTE_LIMIT:
                self.end(later, "failed", f"given to a provider {ROUTE_LIMIT} times", changes)
            else:
                self.place(later, changes, self._time.now(), follows=follows)

    def _end_uncertain(self, route: Route, how: str, changes: Changes) -> None:
        """Give up a message that may have been handled, and must not be handled twice."""
        if route.letter.broadcast:
            self.fail_broadcast_route(route, f"{UNCERTAIN}: {how}", changes)
        else:
            self.end(route.letter, "failed", f"{UNCERTAIN}: {how}", changes)

    def leave_node(self, node: str, how: str, changes: Changes) -> None:
        """A node is gone: its work goes to others, but for what an answer proves to be done."""
        for letter in list(self.open.values()):
            for route in [r for r in letter.active_routes() if r.target[1] == node]:
                if letter.ended != OPEN or letter.address is not None:
                    continue  # an addressed agent may come back with its node
                if route.answered:
                    self.settled_by_its_reply(route, changes)
                elif letter.broadcast:
                    self.fail_broadcast_route(route, f"its node {how}", changes)
                else:
                    self.move(route, f"its node {how}", changes)

    def apply(self, peer: str, state: Outcome | KeyState, changes: Changes, wall: float) -> None:
        """Take how one delivery ended at ``peer``, or that it is not known there."""
        route = self.route(state.key, peer)
        if route is None:
            self._late(peer, state, changes)
            return
        event = _EVENTS[state.state]
        route.letter.settling = False
        if event is RouteEvent.SETTLED and route.state in ACTIVE and len(route.letter.routes) == 1:
            self._settled(route, state.reason, wall, changes)
            return
        if event is RouteEvent.UNKNOWN and route.active and route.answered:
            self.settled_by_its_reply(route, changes)  # the peer has come back with an older disk
            return
        if event is RouteEvent.UNKNOWN and route.exposed:
            self._end_uncertain(route, f"{peer} does not know it any more", changes)
            return
        if event is RouteEvent.REFUSED and state.key.epoch < route.epoch:
            return  # about an earlier visit; the present one has its own answer
        action = self.step(route, event)
        if action is RouteAction.NONE:
            return
        self._judge(route, event, changes)
        letter = route.letter
        if action is RouteAction.RECORD_LATE:
            self.counts["late"] += 1
            self.note(letter, f"late_{state.state}", f"from {route.target[0]}@{peer}", changes)
            return
        if action is RouteAction.QUEUE:
            self.counts["resent"] += 1
            return
        route.reason, route.ended_s = state.reason, wall
        self.lanes.release(route)
        changes.save(route)
        if action is RouteAction.REPLACE:
            self._refused(route, changes)
        else:
            self._see_whether_ended(letter, route, changes)

    def _settled(self, route: Route, reason: str, wall: float, changes: Changes) -> None:
        """The one provider that a message was ever given to has handled it: how nearly all of them end."""
        letter = route.letter
        route.state, _ = step(route.state, RouteEvent.SETTLED)
        if not self.breakers.are_untroubled:
            self.breakers.succeeded(route.target, self._time.now())
        route.reason, route.ended_s = reason, wall
        self.lanes.release(route)
        changes.routes[id(route)] = route
        self._ends(letter, "settled", reason, changes)

    def _judge(self, route: Route, event: RouteEvent, changes: Changes) -> None:
        """What a delivery says about its agent: when its breaker opens, its other work goes elsewhere."""
        if event is RouteEvent.SETTLED:
            self.breakers.succeeded(route.target, self._time.now())
        elif event is RouteEvent.FAILED and self.breakers.failed(route.target, self._time.now()):
            self.leave_alone(lambda target: target == route.target, "its breaker has opened", changes)

    def leave_alone(self, concerns: Callable[[Target], bool], how: str, changes: Changes) -> None:
        """Give the work of agents to others, as far as there are others who are not left alone, too."""
        now = self._time.now()
        for letter in list(self.open.values()):
            for route in [each for each in letter.active_routes() if concerns(each.target)]:
                if letter.ended != OPEN or letter.address is not None or letter.broadcast or route.answered:
                    continue
                if route.exposed:
                    continue  # nobody else may be given it, and whoever has it may handle it yet
                others = [(p.agent, p.node) for p in self.placement.providers(letter)]
                if any(not concerns(each) and not self.breakers.why_not(each, now) for each in others):
                    self.move(route, how, changes)

    def settled_by_its_reply(self, route: Route, changes: Changes) -> None:
        """Reply and settled mark were written together, so the mark that was not heard is there."""
        self.step(route, RouteEvent.SETTLED)
        route.ended_s = self._time.wall()
        self.lanes.release(route)
        changes.save(route)
        self._see_whether_ended(route.letter, route, changes)

    def _refused(self, route: Route, changes: Changes) -> None:
        letter, reason, now = route.letter, route.reason or "refused", self._time.now()
        self.counts["refused"] += 1
        pause_s = self._timing.refusal_pause_s * 2.0 ** min(letter.placements - 1, 16)
        letter.exclude(route.target, now + min(pause_s, self._settings.retry_max_s))
        if letter.broadcast:
            self.fail_broadcast_route(route, reason, changes)
        elif letter.address is not None and reason == NO_SUCH_AGENT:
            self.end(letter, "failed", f"there is {reason} {letter.message.receiver}", changes)
        elif self.order.followed(letter) == route.target:
            self._move(route, reason, changes, follows=True)  # it waits for what is before it there
        else:
            self.move(route, reason, changes)

    def fail_broadcast_route(self, route: Route, reason: str, changes: Changes) -> None:
        """One provider of a broadcast will not answer; no other is asked instead."""
        was_exposed = route.exposed
        route.state, route.reason, route.ended_s = RouteState.FAILED, reason, self._time.wall()
        self.lanes.release(route)
        changes.save(route)
        if not was_exposed:
            self._give_to_the_group(route, changes)
        self._see_whether_ended(route.letter, route, changes)

    def _give_to_the_group(self, route: Route, changes: Changes) -> None:
        """Another member of a queue group of a topic gets what one will not handle."""
        letter, wall = route.letter, self._time.wall()
        if letter.ended != OPEN or letter.placements >= ROUTE_LIMIT:
            return
        for target in self.placement.instead(letter, self._time.now()):
            letter.epoch += 1
            letter.placements += 1
            reason = f"{route.target[0]}@{route.target[1]} of its group: {route.reason}"
            encoded = Decision((target,), "load_balanced", reason, wanted=letter.wanted).encode()
            self._keep(letter, letter.epoch, encoded, changes)
            another = Route(letter, target, letter.epoch, wall, encoded)
            letter.give(another)
            changes.save(another)
            changes.queued.append(another)

    def _see_whether_ended(self, letter: Letter, route: Route, changes: Changes) -> None:
        if not letter.broadcast:
            state = "settled" if route.state is RouteState.SETTLED else "failed"
            self.end(letter, state, route.reason, changes)
        elif not any(letter.active_routes()):
            settled = any(r.state is RouteState.SETTLED for r in letter.routes.values())
            self.end(letter, "settled" if settled else "failed", route.reason, changes)

    def end(self, letter: Letter, state: str, reason: str, changes: Changes) -> None:
        """The first end of a message wins; whatever else is on its way is late from now on."""
        if letter.ended != OPEN or (letter.settling and state != "settled"):
            return
        for route in letter.routes.values():
            if route.active:
                self.step(route, RouteEvent.GIVE_UP)
                changes.save(route)
            if route.counted:
                self.lanes.release(route)
        self._ends(letter, state, reason, changes)

    def _ends(self, letter: Letter, state: str, reason: str, changes: Changes) -> None:
        """Nothing of a message is under way any more."""
        letter.ended, letter.reason = state, reason
        self.counts[state] += 1
        self._release(letter)
        if letter.parked:
            self.backlog.ended(letter.wanted)
        changes.ended.append(letter)

    def _late(self, peer: str, state: Outcome | KeyState, changes: Changes) -> None:
        """An outcome of a message that has ended: news only if it was handled by somebody else."""
        ended = self._recent.get(state.key.message_id)
        if ended is None or state.state != "settled" or ended[1] == (state.key.target, peer):
            return
        self.counts["late"] += 1
        detail = f"from {state.key.target}@{peer}"
        changes.events.append((ended[0], table.EventRow(self._time.wall(), "late_settled", detail)))

    def step(self, route: Route, event: RouteEvent) -> RouteAction:
        """Let an event happen to a route; says what is to be done, and does it where that is to queue."""
        route.state, action = step(route.state, event)
        if action is RouteAction.QUEUE:
            self.lanes.queue(route)
        return action

    def spare_bytes(self, count: int) -> int:
        """How many bytes so many more messages may have, whatever they are for; none where that matters."""
        if self.backlog or len(self.open) + count > self._settings.outbox_capacity // 2:
            return 0
        return max(0, OUTBOX_BYTES_LIMIT - self.bytes)

    def waiting_for_credit(self, message: Message, others: int) -> int:
        """How many wait for what a message is for, where that is too many and all who offer it are full.

        Half of the outbox is left to what others are wanted for, so that one slow capability fills no more.

        Args:
            message: Of a client.
            others: How many are to be accepted before it.
        """
        waiting = self.open_for.get(message.wanted, 0)
        if waiting + others < self._settings.outbox_capacity // 2 or message.goes_to_all:
            return 0
        return waiting if self.placement.out_of_credit(message) else 0

    def waits_for_long(self, letter: Letter, share: int) -> bool:
        """Whether a message is better on disk: nobody can take it now, and many wait for the same.

        Args:
            letter: The message, which is not open yet.
            share: How many of the outbox's capacity are left in memory to whoever is away.
        """
        placement, route = self.placement, letter.own
        if route is not None and letter.address is None:
            return False  # who is chosen for a capability is there
        is_crowded = len(self.open) >= SHARES // 2 * share or self.bytes >= OUTBOX_BYTES_LIMIT // 2
        enough = 1 if is_crowded else share
        if route is None:
            is_away = placement.waiting_for(letter.wanted) >= enough and placement.is_hopeful(letter)
        else:
            is_away = self.lanes.in_flight(route.target) >= enough and not placement.reaches(route.target[1])
        return is_away and self.backlog.has_room(letter.wanted, len(letter.sealed))

    def note(self, letter: Letter, event: str, detail: str, changes: Changes | None) -> None:
        """Add to the history of a message; of one that is not written yet, its first routes tell enough."""
        if changes is not None:
            changes.events.append((letter.seq, table.EventRow(self._time.wall(), event, detail)))

    def route(self, key: DeliveryKey, peer: str) -> Route | None:
        """The route of an open message that ``peer`` speaks of."""
        letter = self.open.get(key.message_id)
        return None if letter is None else letter.routes.get((key.target, peer))

    def hold(self, letter: Letter) -> None:
        """A message is durable, and open until it ends; :meth:`watch` is called for it next."""
        self.open[letter.message.id] = letter
        self.order.add(letter)
        self.bytes += len(letter.sealed)
        self.open_for[letter.wanted] = self.open_for.get(letter.wanted, 0) + 1
        if letter.waiting_since is not None:
            self.placement.waits(letter)

    def watch(self, letter: Letter) -> None:
        """Have an open message looked at when something is due for it."""
        if letter.slot is None:  # one that was sent has its place in the calendar
            waiting_since = letter.waiting_since
            self.calendar.at(letter, letter.deadline if waiting_since is None else waiting_since)

    def _release(self, letter: Letter) -> None:
        del self.open[letter.message.id]
        self.calendar.remove(letter)
        if self.placement.is_anybody_waiting:
            self.placement.waits_no_more(letter)
        self.order.remove(letter)
        self.bytes -= len(letter.sealed)
        wanted = letter.wanted
        left = self.open_for[wanted] - 1
        if left:
            self.open_for[wanted] = left
        else:
            del self.open_for[wanted]
        recent = self._recent
        recent[letter.message.id] = letter.seq, _who_settled(letter)
        if len(recent) > RECENT_LIMIT:
            drop_oldest(recent, RECENT_LIMIT)


def _who_settled(letter: Letter) -> Target | None:
    """The one provider that has handled a message; nobody where there are more."""
    if letter.own is not None and len(letter.routes) == 1:  # nearly all of them
        return letter.own.target if letter.own.state is RouteState.SETTLED else None
    settled = [route.target for route in letter.routes.values() if route.state is RouteState.SETTLED]
    return settled[0] if len(settled) == 1 else None
