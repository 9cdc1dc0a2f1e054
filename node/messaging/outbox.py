"""The origin's side: accepts messages, gives them to providers, and sees each to its one end.

Theory of operation. Every message this node accepted and that has not ended is a :class:`Letter` in memory
and a row on disk. What becomes of it is decided in :mod:`node.messaging.decisions`, without waiting, and
gathered in :class:`Changes`; one write makes that durable; only then is it acted upon (sent, told,
forgotten). One task, :meth:`Outbox.run`, attends to everything that is a matter of time or of membership:
deaths, expiry, retries, providers that appear (:mod:`node.messaging.sweep`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import apsw
import trio

from node.cluster.provider import CapabilityView
from node.config.model import MessagingConfig
from node.environment import Environment
from node.errors import CaxtonError, ResourceLimitExceeded
from node.message import Message
from node.messaging import dead_letters
from node.messaging.decisions import Changes, Decisions
from node.messaging.durably import durably
from node.messaging.history import MessageHistory
from node.messaging.lanes import Lanes, LocalDelivery
from node.messaging.letters import OPEN, Letter, Route
from node.messaging.origin import RouteEvent, RouteState, step
from node.messaging.placement import Placement
from node.messaging.ports import MembershipView
from node.messaging.settings import HOP_LIMIT, OUTBOX_BYTES_LIMIT, TTL_LIMIT_S, Timing
from node.messaging.sweep import NO_PROVIDER, Sweep
from node.storage import dead_letters as dead_letter_table
from node.storage import outbox as table
from node.storage.storage import Storage
from node.transport.frames import DeliveryKey, KeyState, Outcome

LOAD_LIMIT: Final = 200_000
"""Most open messages taken up at a start; above any capacity."""


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
        self._decisions = Decisions(
            clock=environment.clock,
            settings=settings,
            timing=timing,
            lanes=self.lanes,
            placement=Placement(
                environment=environment,
                node=node,
                registry=registry,
                membership=membership,
                in_flight=self.lanes.in_flight,
            ),
        )
        self._sweep = Sweep(
            clock=environment.clock,
            timing=timing,
            max_attempts=settings.max_attempts,
            decisions=self._decisions,
        )
        self._next_seq = 1
        self._lost_nodes: dict[str, str] = {}
        self._unwritten: list[Changes] = []
        self._registry_changed = False
        self._attention = trio.Event()

    # Acceptance

    def check_room(self, size: int) -> None:
        """Refuse a client's message when the outbox is full.

        Raises:
            ResourceLimitExceeded: it is.
        """
        capacity = self._settings.outbox_capacity
        if len(self._decisions.open) < capacity and self._decisions.bytes + size <= OUTBOX_BYTES_LIMIT:
            return
        held = self._decisions.bytes
        raise ResourceLimitExceeded(
            "the outbox is full",
            why=f"{len(self._decisions.open)} messages ({held} bytes) have not been settled yet",
            fix="Wait for providers to catch up, add some, or raise messaging.outbox_capacity.",
            details={"open": len(self._decisions.open), "capacity": capacity, "retry_after_s": 1},
        )

    @property
    def overfull(self) -> bool:
        """Whether even replies must wait: handlers pause until it is over."""
        return (
            len(self._decisions.open) >= 2 * self._settings.outbox_capacity
            or self._decisions.bytes > 2 * OUTBOX_BYTES_LIMIT
        )

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
        limit = (
            HOP_LIMIT if message.in_reply_to is None else HOP_LIMIT + 1
        )  # what was handled may be answered
        if hops > limit:
            letter.ended, letter.reason = "failed", f"more than {HOP_LIMIT} messages in one chain"
        else:
            self._decisions.place(letter, None)
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
        if not self._decisions.open:
            self._attention.set()  # time matters again
        for letter in letters:
            self._decisions.counts["accepted"] += 1
            if letter.ended != OPEN:
                self._decisions.counts["failed"] += 1
                continue
            self._decisions.hold(letter)
            for route in letter.active_routes():
                route.decision = None
                self.lanes.queue(route)
                nodes[route.target[1]] = nodes.get(route.target[1], False) or letter.address is None
        for node, movable in nodes.items():
            self.lanes.pump(node)
            if movable and not self._decisions.placement.reaches(
                node
            ):  # it died while the messages were being written
                self.node_lost(node, "died")

    # What peers say

    def unsettled(self, peer: str) -> list[DeliveryKey]:
        """Deliveries towards ``peer`` that have not ended, in order of acceptance."""
        return [
            DeliveryKey(letter.message.id, route.target[0], route.epoch)
            for letter in sorted(self._decisions.open.values(), key=lambda letter: letter.seq)
            for route in letter.active_routes()
            if route.target[1] == peer
        ]

    def unsettled_by_node(self) -> dict[str, int]:
        """How many deliveries each node has not settled yet, by name."""
        found: dict[str, int] = {}
        for letter in self._decisions.open.values():
            for route in letter.active_routes():
                found[route.target[1]] = found.get(route.target[1], 0) + 1
        return dict(sorted(found.items()))

    def received(self, peer: str, keys: Iterable[DeliveryKey]) -> None:
        """The peer has these on disk."""
        now, wall = self._clock.now(), self._clock.wall()
        for key in keys:
            route = self._decisions.route(key, peer)
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
        changes = Changes()
        held = [state.key for state in states if state.state == "held"]
        self.received(peer, held)
        for state in states:
            if state.state != "held":
                self._decisions.apply(peer, state, changes)
        await self._commit(changes)
        self.lanes.pump(peer)

    def link_lost(self, peer: str) -> bool:
        """The link to ``peer`` closed: what was on it is in line again, in order.

        Returns:
            Whether anything is under way to ``peer``, so that a new link is needed.
        """
        needed = False
        for letter in self._decisions.open.values():
            for route in letter.active_routes():
                if route.target[1] == peer:
                    self._decisions.step(route, RouteEvent.LINK_LOST)
                    needed = True
        return needed

    def answered(self, quoted: str, responder: str) -> None:
        """The first reply to a message is on disk here: its provider has handled it, whatever happens now."""
        letter = self._decisions.open.get(quoted)
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
        awaited: dict[str, None] = {}
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
                    awaited[route.target[1]] = None
            letter.placements = letter.epoch + 1
            if not any(letter.active_routes()):
                letter.waiting_since = now
            self._decisions.hold(letter)
        self._sweep.expect(awaited, now + self._timing.agent_wait_s)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Attend to time, membership and registry until cancelled."""
        task_status.started()
        swept_at = self._clock.now()
        while True:
            pause_s = self._timing.sweep_s if self._decisions.open else float("inf")
            with self._clock.move_on_after(pause_s):
                await self._attention.wait()
            self._attention = trio.Event()
            unwritten, self._unwritten = self._unwritten, []
            for left in unwritten:
                await self._commit(left)
            changes = Changes()
            lost, self._lost_nodes = self._lost_nodes, {}
            for node, how in lost.items():
                self._decisions.leave_node(node, how, changes)
            changed, self._registry_changed = self._registry_changed, False
            now = self._clock.now()
            if changed or now - swept_at >= self._timing.sweep_s:
                swept_at = now
                self._sweep.sweep(now, changes, registry_changed=changed)
            await self._commit(changes)
            for node in self.lanes.nodes():
                self.lanes.pump(node)

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "open": len(self._decisions.open),
            "open_limit": self._settings.outbox_capacity,
            "open_bytes": self._decisions.bytes,
            "open_bytes_limit": OUTBOX_BYTES_LIMIT,
            **self._decisions.placement.statistics(),
            **self._decisions.counts,
            **self.lanes.statistics(),
        }

    # Time

    def _backoff(self, attempt: int) -> float:
        pause_s = min(
            self._settings.retry_max_s, self._settings.retry_initial_s * 2.0 ** min(attempt - 1, 16)
        )
        return pause_s * (0.75 + 0.5 * self._jitter.random())

    # Making it so

    async def _commit(self, changes: Changes) -> None:
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
        self, changes: Changes, lost: list[Letter], told: list[Letter]
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
            error = dead_letters.no_provider(letter.message, self._decisions.placement.related(letter))
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
