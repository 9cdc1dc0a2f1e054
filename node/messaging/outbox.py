"""The origin's side: accepts messages, gives them to providers, and sees each to its one end.

Theory of operation. Every message this node accepted and that has not ended is a :class:`Letter` in memory
and a row on disk. Decisions are taken synchronously and gathered in a :class:`_Changes`; one write makes them
durable; only then are they acted upon (sent, told, forgotten). What happens to a route is looked up in
:mod:`node.messaging.origin`. One task, :meth:`Outbox.run`, attends to everything that is a matter of time or
of membership: deaths, expiry, retries, providers that appear.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import apsw
import trio

from node.cluster.provider import CapabilityView
from node.config.model import MessagingConfig
from node.environment import Environment
from node.errors import CaxtonError, ResourceLimitExceeded
from node.message import Message
from node.messaging import dead_letters
from node.messaging.durably import durably
from node.messaging.history import MessageHistory
from node.messaging.lanes import Lanes, LocalDelivery
from node.messaging.letters import OPEN, Letter, Route
from node.messaging.origin import RouteAction, RouteEvent, RouteState, step
from node.messaging.placement import Placement
from node.messaging.ports import MembershipView
from node.messaging.settings import HOP_LIMIT, OUTBOX_BYTES_LIMIT, ROUTE_LIMIT, TTL_LIMIT_S, Timing
from node.storage import dead_letters as dead_letter_table
from node.storage import outbox as table
from node.storage.storage import Storage
from node.transport.frames import DeliveryKey, KeyState, Outcome

RECENT_LIMIT: Final = 10_000
"""Ended messages whose end is remembered, to tell late outcomes from repeated ones."""
LOAD_LIMIT: Final = 200_000
"""Most open messages taken up at a start; above any capacity."""

NO_PROVIDER: Final = "no provider"
NO_SUCH_AGENT: Final = "no such agent"
"""The refusal of a node that never had the agent: for an addressed message that is the end."""

_EVENTS: Final = {
    "settled": RouteEvent.SETTLED,
    "failed": RouteEvent.FAILED,
    "refused": RouteEvent.REFUSED,
    "held": RouteEvent.RECEIVED,
    "unknown": RouteEvent.UNKNOWN,
}


@dataclass(slots=True)
class _Changes:
    """What one round decided: written at once, then acted upon."""

    routes: dict[int, Route] = field(default_factory=dict)
    events: list[tuple[int, table.EventRow]] = field(default_factory=list)
    ended: list[Letter] = field(default_factory=list)
    queued: list[Route] = field(default_factory=list)

    def save(self, route: Route) -> None:
        self.routes[id(route)] = route

    def __bool__(self) -> bool:
        return bool(self.routes or self.events or self.ended)


class Outbox:
    """Messages this node accepted; see the module's docstring.

    Args:
        environment: Clock, ids and chance.
        node: This node's name.
        storage: The node's database.
        registry: Who offers what.
        membership: Who is there.
        settings: The section ``messaging``.
        timing: Times beside it.
        deliver_locally: Takes what is for this node's own agents.
        on_arrival: Called with the id of each message that a peer has on disk.
        on_end: Called for each message that ended, after that is durable.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        node: str,
        storage: Storage,
        registry: CapabilityView,
        membership: MembershipView,
        settings: MessagingConfig,
        timing: Timing,
        deliver_locally: LocalDelivery,
        on_arrival: Callable[[str], None],
        on_end: Callable[[Letter], None],
    ) -> None:
        self._environment = environment
        self._clock = environment.clock
        self._node = node
        self._storage = storage
        self._settings = settings
        self._timing = timing
        self._on_arrival = on_arrival
        self._on_end = on_end
        self._jitter = environment.randomness.stream("messaging.retry")
        self.lanes = Lanes(
            node=node,
            clock=environment.clock,
            window=settings.peer_window,
            due_after=lambda attempt: settings.delivery_timeout_s + self._backoff(attempt),
            deliver_locally=deliver_locally,
        )
        self._placement = Placement(
            environment=environment,
            node=node,
            registry=registry,
            membership=membership,
            in_flight=self.lanes.in_flight,
        )
        self._open: dict[str, Letter] = {}
        self._by_order: dict[tuple[str, str], dict[int, Letter]] = {}
        self._bytes = 0
        self._next_seq = 1
        self._recent: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self._lost_nodes: dict[str, str] = {}
        self._unwritten: list[_Changes] = []
        self._awaited: dict[str, None] = {}
        self._awaited_until = 0.0
        self._registry_changed = False
        self._attention = trio.Event()
        self._counts = dict.fromkeys(
            ("accepted", "settled", "failed", "expired", "rerouted", "resent", "late", "refused"), 0
        )

    # Acceptance

    def check_room(self, size: int) -> None:
        """Refuse a client's message when the outbox is full.

        Raises:
            ResourceLimitExceeded: it is.
        """
        capacity = self._settings.outbox_capacity
        if len(self._open) < capacity and self._bytes + size <= OUTBOX_BYTES_LIMIT:
            return
        raise ResourceLimitExceeded(
            "the outbox is full",
            why=f"{len(self._open)} messages ({self._bytes} bytes) have not been settled yet",
            fix="Wait for providers to catch up, add some, or raise messaging.outbox_capacity.",
            details={"open": len(self._open), "capacity": capacity, "retry_after_s": 1},
        )

    @property
    def overfull(self) -> bool:
        """Whether even replies must wait: handlers pause until it is over."""
        return len(self._open) >= 2 * self._settings.outbox_capacity or self._bytes > 2 * OUTBOX_BYTES_LIMIT

    def prepare(
        self, message: Message, sealed: bytes, *, traceparent: str, hops: int, ttl_s: float | None
    ) -> Letter:
        """Number and route a message; nothing is durable and nothing happens until :meth:`admit`."""
        now, wall = self._clock.now(), self._clock.wall()
        life_s = self._settings.default_ttl_s if ttl_s is None else ttl_s
        if message.reply_by_s is not None:
            life_s = min(life_s, message.reply_by_s - wall)
        life_s = min(max(life_s, 0.0), TTL_LIMIT_S)
        letter = Letter(self._next_seq, message, sealed, traceparent, hops, wall, wall + life_s, now + life_s)
        self._next_seq += 1
        if hops > HOP_LIMIT:
            letter.ended, letter.reason = "failed", f"more than {HOP_LIMIT} messages in one chain"
        else:
            self._place(letter, None)
        return letter

    def insert(self, connection: apsw.Connection, letter: Letter) -> None:
        """Write a prepared message; part of the caller's job."""
        ended = letter.ended != OPEN
        table.insert(connection, letter.row(letter.accepted_s if ended else None))
        for route in letter.routes.values():
            table.save_route(connection, route.row())
        if ended:
            history = MessageHistory.of_letter(letter).as_json()
            row = dead_letters.DeadLetter(
                letter.message.id, letter.accepted_s, letter.reason, history
            ).as_row()
            dead_letter_table.add(connection, row)

    def admit(self, letters: Iterable[Letter]) -> None:
        """Take up messages that are durable now, and send them on their way."""
        nodes: dict[str, bool] = {}
        if not self._open:
            self._attention.set()  # time matters again
        for letter in letters:
            self._counts["accepted"] += 1
            if letter.ended != OPEN:
                self._counts["failed"] += 1
                continue
            self._hold(letter)
            for route in letter.active_routes():
                route.decision = None
                self.lanes.queue(route)
                nodes[route.target[1]] = nodes.get(route.target[1], False) or letter.address is None
        for node, movable in nodes.items():
            self.lanes.pump(node)
            if movable and not self._placement.reaches(node):  # it died while the messages were being written
                self.node_lost(node, "died")

    # What peers say

    def unsettled(self, peer: str) -> list[DeliveryKey]:
        """Deliveries towards ``peer`` that have not ended, in order of acceptance."""
        return [
            DeliveryKey(letter.message.id, route.target[0], route.epoch)
            for letter in sorted(self._open.values(), key=lambda letter: letter.seq)
            for route in letter.active_routes()
            if route.target[1] == peer
        ]

    def unsettled_by_node(self) -> dict[str, int]:
        """How many deliveries each node has not settled yet, by name."""
        found: dict[str, int] = {}
        for letter in self._open.values():
            for route in letter.active_routes():
                found[route.target[1]] = found.get(route.target[1], 0) + 1
        return dict(sorted(found.items()))

    def received(self, peer: str, keys: Iterable[DeliveryKey]) -> None:
        """The peer has these on disk."""
        now, wall = self._clock.now(), self._clock.wall()
        for key in keys:
            route = self._route(key, peer)
            if route is None:
                continue
            if route.state is not RouteState.RECEIVED:
                route.received_s = wall
            route.state, _ = step(route.state, RouteEvent.RECEIVED)
            route.timeouts = 0
            route.due = now + self._timing.probe_s
            self._on_arrival(key.message_id)

    async def report(self, peer: str, states: Sequence[Outcome | KeyState]) -> None:
        """Take how deliveries ended at ``peer``, or what it says of them when a link opens."""
        changes = _Changes()
        held = [state.key for state in states if state.state == "held"]
        self.received(peer, held)
        for state in states:
            if state.state != "held":
                self._apply(peer, state, changes)
        await self._commit(changes)
        self.lanes.pump(peer)

    def link_lost(self, peer: str) -> bool:
        """The link to ``peer`` closed: what was on it is in line again, in order.

        Returns:
            Whether anything is under way to ``peer``, so that a new link is needed.
        """
        needed = False
        for letter in self._open.values():
            for route in letter.active_routes():
                if route.target[1] == peer:
                    self._step(route, RouteEvent.LINK_LOST)
                    needed = True
        return needed

    def answered(self, quoted: str, responder: str) -> None:
        """The first reply to a message is on disk here: its provider has handled it, whatever happens now."""
        letter = self._open.get(quoted)
        agent, _, node = responder.rpartition("@")
        route = None if letter is None else letter.routes.get((agent, node))
        if route is not None:
            route.answered = True

    def node_lost(self, node: str, how: str) -> None:
        """``node`` died or left: its work goes to others at the next round."""
        self._lost_nodes[node] = how
        self._attention.set()

    def registry_changed(self) -> None:
        """Providers came or went: see who waits for one."""
        self._registry_changed = True
        self._attention.set()

    # The one task

    async def load(self) -> None:
        """Take up what had not ended when the node stopped."""
        rows = await self._storage.read(lambda connection: table.load_open(connection, LOAD_LIMIT))
        self._next_seq = 1 + await self._storage.read(table.last_seq)
        now, wall = self._clock.now(), self._clock.wall()
        for row, route_rows in rows:
            letter = Letter(
                row.seq,
                Message.unseal(row.sealed),
                row.sealed,
                row.traceparent,
                row.hops,
                row.accepted_s,
                row.expires_s,
                now + min(row.expires_s - wall, TTL_LIMIT_S),  # the wall clock may have gone back
                answers=row.answers,
            )
            for stored in route_rows:
                route = Route(
                    letter, (stored.agent, stored.node), stored.epoch, stored.routed_s, None,
                    RouteState(stored.state), stored.attempts, 0, 0.0, stored.sent_s, stored.received_s,
                    stored.ended_s, stored.reason,
                )  # fmt: skip
                route.answered = row.answered_by == "@".join(route.target)
                letter.routes[route.target] = route
                letter.epoch = max(letter.epoch, route.epoch)
                if route.active:
                    route.state = RouteState.QUEUED
                    self.lanes.queue(route)
                    self._awaited[route.target[1]] = None
            letter.placements = letter.epoch + 1
            if not any(letter.active_routes()):
                letter.waiting_since = now
            self._hold(letter)
        self._awaited_until = now + self._timing.agent_wait_s

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Attend to time, membership and registry until cancelled."""
        task_status.started()
        swept_at = self._clock.now()
        while True:
            pause_s = self._timing.sweep_s if self._open else float("inf")
            with self._clock.move_on_after(pause_s):
                await self._attention.wait()
            self._attention = trio.Event()
            unwritten, self._unwritten = self._unwritten, []
            for left in unwritten:
                await self._commit(left)
            changes = _Changes()
            lost, self._lost_nodes = self._lost_nodes, {}
            for node, how in lost.items():
                self._leave_node(node, how, changes)
            changed, self._registry_changed = self._registry_changed, False
            now = self._clock.now()
            if changed or now - swept_at >= self._timing.sweep_s:
                swept_at = now
                self._sweep(now, changes, registry_changed=changed)
            await self._commit(changes)
            for node in self.lanes.nodes():
                self.lanes.pump(node)

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "open": len(self._open),
            "open_limit": self._settings.outbox_capacity,
            "open_bytes": self._bytes,
            "open_bytes_limit": OUTBOX_BYTES_LIMIT,
            **self._placement.statistics(),
            **self._counts,
            **self.lanes.statistics(),
        }

    # Routing

    def _place(self, letter: Letter, changes: _Changes | None) -> None:
        """Give a message to a provider, or let it wait for one."""
        decision = self._placement.decide(letter)
        if not decision.targets:
            if letter.waiting_since is None:
                letter.waiting_since = self._clock.now()
                if changes is not None:
                    self._placement.waits(letter)
                self._note(letter, "waiting", decision.reason, changes)
            return
        letter.waiting_since = None
        self._placement.waits_no_more(letter)
        letter.epoch += 1
        letter.placements += 1
        encoded, wall = decision.encode(), self._clock.wall()
        for target in decision.targets:
            route = letter.routes.get(target)
            if route is None:
                route = letter.routes[target] = Route(letter, target, letter.epoch, wall, encoded)
            else:
                route.assign(letter.epoch, wall, encoded)
            if changes is not None:
                changes.save(route)
                changes.queued.append(route)

    def _move(self, route: Route, how: str, changes: _Changes) -> None:
        """Give a route's message to another provider, and all that follow it in its conversation."""
        letter = route.letter
        self._placement.unstick(letter)
        for _, later in sorted(self._by_order.get(letter.order, {}).items()):
            same = later.routes.get(route.target)
            if later.seq < letter.seq or later.wanted != letter.wanted or same is None:
                continue
            if later is not letter and not same.active:
                continue
            if same.answered:  # nobody waits for the answer of another
                self._settled_by_its_reply(same, changes)
                continue
            self._step(same, RouteEvent.MOVE)
            same.reason = same.reason or how
            self.lanes.release(same)
            changes.save(same)
            self._counts["rerouted"] += 1
            self._note(later, "moved", f"from {route.target[0]}@{route.target[1]}: {how}", changes)
            if later.placements >= ROUTE_LIMIT:
                self._end(later, "failed", f"given to a provider {ROUTE_LIMIT} times", changes)
            else:
                self._place(later, changes)

    def _leave_node(self, node: str, how: str, changes: _Changes) -> None:
        for letter in list(self._open.values()):
            for route in [r for r in letter.active_routes() if r.target[1] == node]:
                if letter.ended != OPEN or letter.address is not None:
                    continue  # an addressed agent may come back with its node
                if route.answered:
                    self._settled_by_its_reply(route, changes)
                elif letter.broadcast:
                    self._fail_broadcast_route(route, f"its node {how}", changes)
                else:
                    self._move(route, f"its node {how}", changes)

    # Endings

    def _apply(self, peer: str, state: Outcome | KeyState, changes: _Changes) -> None:
        route = self._route(state.key, peer)
        if route is None:
            self._late(peer, state, changes)
            return
        event = _EVENTS[state.state]
        if event is RouteEvent.UNKNOWN and route.active and route.answered:
            self._settled_by_its_reply(route, changes)  # the peer has come back with an older disk
            return
        if event is RouteEvent.REFUSED and state.key.epoch < route.epoch:
            return  # about an earlier visit; the present one has its own answer
        action = self._step(route, event)
        if action is RouteAction.NONE:
            return
        letter = route.letter
        if action is RouteAction.RECORD_LATE:
            self._counts["late"] += 1
            self._note(letter, f"late_{state.state}", f"from {route.target[0]}@{peer}", changes)
            return
        if action is RouteAction.QUEUE:
            self._counts["resent"] += 1
            return
        route.reason, route.ended_s = state.reason, self._clock.wall()
        self.lanes.release(route)
        changes.save(route)
        if action is RouteAction.REPLACE:
            self._refused(route, changes)
        else:
            self._see_whether_ended(letter, route, changes)

    def _settled_by_its_reply(self, route: Route, changes: _Changes) -> None:
        """Reply and settled mark were written together, so the mark that was not heard is there."""
        self._step(route, RouteEvent.SETTLED)
        route.ended_s = self._clock.wall()
        self.lanes.release(route)
        changes.save(route)
        self._see_whether_ended(route.letter, route, changes)

    def _refused(self, route: Route, changes: _Changes) -> None:
        letter, reason, now = route.letter, route.reason or "refused", self._clock.now()
        self._counts["refused"] += 1
        pause_s = self._timing.refusal_pause_s * 2.0 ** min(letter.placements - 1, 16)
        letter.excluded[route.target] = now + min(pause_s, self._settings.retry_max_s)
        if letter.broadcast:
            self._fail_broadcast_route(route, reason, changes)
        elif letter.address is not None and reason == NO_SUCH_AGENT:
            self._end(letter, "failed", f"there is {reason} {letter.message.receiver}", changes)
        else:
            self._move(route, reason, changes)

    def _fail_broadcast_route(self, route: Route, reason: str, changes: _Changes) -> None:
        route.state, route.reason, route.ended_s = RouteState.FAILED, reason, self._clock.wall()
        self.lanes.release(route)
        changes.save(route)
        self._see_whether_ended(route.letter, route, changes)

    def _see_whether_ended(self, letter: Letter, route: Route, changes: _Changes) -> None:
        if not letter.broadcast:
            state = "settled" if route.state is RouteState.SETTLED else "failed"
            self._end(letter, state, route.reason, changes)
        elif not any(letter.active_routes()):
            settled = any(r.state is RouteState.SETTLED for r in letter.routes.values())
            self._end(letter, "settled" if settled else "failed", route.reason, changes)

    def _end(self, letter: Letter, state: str, reason: str, changes: _Changes) -> None:
        """The first end of a message wins; whatever else is on its way is late from now on."""
        if letter.ended != OPEN:
            return
        letter.ended, letter.reason = state, reason
        self._counts[state] += 1
        for route in letter.routes.values():
            if route.active:
                self._step(route, RouteEvent.GIVE_UP)
                changes.save(route)
            self.lanes.release(route)
        self._release(letter)
        changes.ended.append(letter)

    def _late(self, peer: str, state: Outcome | KeyState, changes: _Changes) -> None:
        """An outcome of a message that has ended: news only if it was handled by somebody else."""
        ended = self._recent.get(state.key.message_id)
        if ended is None or state.state != "settled" or ended[1] == f"{state.key.target}@{peer}":
            return
        self._counts["late"] += 1
        detail = f"from {state.key.target}@{peer}"
        changes.events.append((ended[0], table.EventRow(self._clock.wall(), "late_settled", detail)))

    # Time

    def _sweep(self, now: float, changes: _Changes, *, registry_changed: bool) -> None:
        if self._awaited and now >= self._awaited_until:
            awaited, self._awaited = self._awaited, {}
            for node in awaited:
                if not self._placement.reaches(node):
                    self._leave_node(node, "has not been seen since the start", changes)
        for letter in list(self._open.values()):
            if letter.ended != OPEN:
                continue
            if now >= letter.deadline:
                self._end(letter, "expired", "its time was up", changes)
            elif letter.waiting_since is not None:
                self._wait_on(letter, now, changes, registry_changed=registry_changed)
            else:
                for route in [r for r in letter.active_routes() if self._is_due(r, now)]:
                    self._overdue(route, changes)
                if registry_changed and letter.address is None and not letter.broadcast:
                    self._follow_registry(letter, changes)

    def _wait_on(self, letter: Letter, now: float, changes: _Changes, *, registry_changed: bool) -> None:
        """Look for a provider again, or give up when nobody in the cluster offers what is wanted."""
        waiting_since = now if letter.waiting_since is None else letter.waiting_since
        if registry_changed or now >= letter.retry_at:
            letter.retry_at = now + self._timing.refusal_pause_s
            self._place(letter, changes)
        if letter.waiting_since is None or letter.address is not None:
            return
        patient = now - waiting_since < self._timing.no_provider_grace_s
        if not patient and not self._placement.is_hopeful(letter):
            self._end(letter, "failed", NO_PROVIDER, changes)

    @staticmethod
    def _is_due(route: Route, now: float) -> bool:
        return route.state in (RouteState.SENT, RouteState.RECEIVED) and now >= route.due

    def _overdue(self, route: Route, changes: _Changes) -> None:
        letter = route.letter
        if route.state is RouteState.SENT:
            route.timeouts += 1
        if route.timeouts < self._settings.max_attempts:
            self._counts["resent"] += 1
            self._step(route, RouteEvent.OVERDUE)
        elif letter.broadcast:
            self._fail_broadcast_route(route, "never acknowledged", changes)
        elif letter.address is not None:
            self._end(letter, "failed", "never acknowledged", changes)
        else:
            letter.excluded[route.target] = self._clock.now() + self._timing.refusal_pause_s
            self._move(route, "never acknowledged", changes)

    def _follow_registry(self, letter: Letter, changes: _Changes) -> None:
        """A provider that withdrew before the message was sent to it is not waited for."""
        for route in [r for r in letter.active_routes() if r.state is RouteState.QUEUED]:
            if not self._placement.reaches(route.target[1]):
                continue  # it did not withdraw: it is dead, or not seen yet, which is another matter
            if all((p.agent, p.node) != route.target for p in self._placement.providers(letter)):
                self._move(route, "it withdrew", changes)

    def _backoff(self, attempt: int) -> float:
        pause_s = min(
            self._settings.retry_max_s, self._settings.retry_initial_s * 2.0 ** min(attempt - 1, 16)
        )
        return pause_s * (0.75 + 0.5 * self._jitter.random())

    # Making it so

    async def _commit(self, changes: _Changes) -> None:
        """Write what was decided, then act upon it.

        Who is cancelled before the write (its link has ended) leaves it to :meth:`run`.
        """
        if changes:
            lost = [letter for letter in changes.ended if letter.ended != "settled"]
            told = [self._tell(letter) for letter in lost if dead_letters.sender_is_told(letter.message)]
            try:
                await durably(self._storage, self._clock, self._job(changes, lost, told))
            except trio.Cancelled:  # nothing was written: a write that has begun is not cancelled
                self._unwritten.append(changes)
                self._attention.set()
                raise
            for route in changes.routes.values():
                route.decision = None
            for letter in changes.ended:
                self._on_end(letter)
            self.admit(told)
        nodes: dict[str, None] = {}
        for route in changes.queued:
            if route.state is RouteState.QUEUED:
                self.lanes.queue(route)
                nodes[route.target[1]] = None
        for node in nodes:
            self.lanes.pump(node)

    def _job(
        self, changes: _Changes, lost: list[Letter], told: list[Letter]
    ) -> Callable[[apsw.Connection], None]:
        wall = self._clock.wall()
        rows = [route.row() for route in changes.routes.values()]
        ends = [(letter.seq, letter.ended, letter.reason) for letter in changes.ended]
        dead = [(letter.message.id, letter.reason) for letter in lost]

        def job(connection: apsw.Connection) -> None:
            for row in rows:
                table.save_route(connection, row)
            for seq, event in changes.events:
                table.add_event(connection, seq, event)
            for seq, state, reason in ends:
                table.finish(connection, seq, state, wall, reason)
            for message_id, reason in dead:
                history = MessageHistory.load(connection, message_id).as_json()
                letter_row = dead_letters.DeadLetter(message_id, wall, reason, history)
                dead_letter_table.add(connection, letter_row.as_row())
            for letter in told:
                self.insert(connection, letter)

        return job

    def _tell(self, letter: Letter) -> Letter:
        """The FAILURE for the sender of a message that was given up."""
        error: CaxtonError
        if letter.reason == NO_PROVIDER:
            error = dead_letters.no_provider(letter.message, self._placement.related(letter))
        else:
            error = dead_letters.undelivered(letter.message, letter.reason)
        message = dead_letters.failure(
            letter.message,
            error,
            node=self._node,
            identifier=self._environment.new_id(),
            wall_s=self._clock.wall(),
        )
        return self.prepare(
            message,
            message.seal(),
            traceparent=letter.traceparent,
            hops=min(letter.hops, HOP_LIMIT),
            ttl_s=None,
        )

    def _step(self, route: Route, event: RouteEvent) -> RouteAction:
        route.state, action = step(route.state, event)
        if action is RouteAction.QUEUE:
            self.lanes.queue(route)
        return action

    def _note(self, letter: Letter, event: str, detail: str, changes: _Changes | None) -> None:
        if changes is not None:
            changes.events.append((letter.seq, table.EventRow(self._clock.wall(), event, detail)))

    def _route(self, key: DeliveryKey, peer: str) -> Route | None:
        letter = self._open.get(key.message_id)
        return None if letter is None else letter.routes.get((key.target, peer))

    def _hold(self, letter: Letter) -> None:
        self._open[letter.message.id] = letter
        self._by_order.setdefault(letter.order, {})[letter.seq] = letter
        self._bytes += len(letter.sealed)
        if letter.waiting_since is not None:
            self._placement.waits(letter)

    def _release(self, letter: Letter) -> None:
        del self._open[letter.message.id]
        self._placement.waits_no_more(letter)
        same_order = self._by_order[letter.order]
        del same_order[letter.seq]
        if not same_order:
            del self._by_order[letter.order]
        self._bytes -= len(letter.sealed)
        settled = [r.target for r in letter.routes.values() if r.state is RouteState.SETTLED]
        by = "@".join(settled[0]) if len(settled) == 1 else ""
        self._recent[letter.message.id] = (letter.seq, by)
        if len(self._recent) > RECENT_LIMIT:
            self._recent.popitem(last=False)
