"""The origin's core: every accepted message and what becomes of it, decided without waiting.

It does no I/O. What it needs to know (the time, who offers what, who is there, whether a link takes a
message) it asks of its surroundings (:mod:`node.messaging.surroundings`); what is to be written it returns as
:class:`Changes`, which come back when they are durable. :mod:`node.messaging.outbox` runs it over storage and
links. So the same object does the same things again from a recording (:mod:`node.messaging.recording`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from node.breaker import BreakerLimits
from node.config.model import MessagingConfig
from node.message import Message
from node.messaging import dead_letters
from node.messaging.backlog import TAKEN_LIMIT, Backlog
from node.messaging.breakers import Breakers
from node.messaging.calendar import Calendar
from node.messaging.claims import Claims
from node.messaging.decisions import Changes, Decisions
from node.messaging.explanation import Target
from node.messaging.giving_up import why_given_up
from node.messaging.lanes import Lanes
from node.messaging.letters import OPEN, Letter
from node.messaging.origin import RouteEvent, RouteState, step
from node.messaging.placement import Placement
from node.messaging.ports import Carrier
from node.messaging.settings import HOP_LIMIT, OUTBOX_BYTES_LIMIT, SHARES, TTL_LIMIT_S, Timing
from node.messaging.stored import stored_letter, stored_route
from node.messaging.surroundings import Surroundings
from node.messaging.sweep import Sweep
from node.storage import outbox as table
from node.storage.backlog import Parked, Sum
from node.transport.frames import DeliveryKey, Grant, KeyState, Outcome


class Deliveries:
    """The messages of one origin; see the module's docstring.

    Args:
        node: This node's name.
        settings: The section ``messaging``.
        timing: Times beside it.
        around: The node around it.
    """

    def __init__(self, *, node: str, settings: MessagingConfig, timing: Timing, around: Surroundings) -> None:
        self._node, self._settings, self._timing, self._around = node, settings, timing, around
        self._time = around.time
        calendar = Calendar(timing.sweep_s)
        limits = BreakerLimits(settings.breaker.failures, settings.breaker.open_s, settings.breaker.probes)
        self._breakers = Breakers(limits)
        self._backlog = Backlog(capacity=settings.backlog_capacity, size=settings.backlog_bytes)
        self._share = max(1, settings.outbox_capacity // SHARES)
        self.taken_limit = min(self._share, TAKEN_LIMIT)
        """Most messages of the backlog that are taken up at once."""
        self._lanes = Lanes(
            node=node,
            time=around.time,
            calendar=calendar,
            window=settings.peer_window,
            due_after=lambda attempt: settings.delivery_timeout_s + self._backoff(attempt),
            deliver_locally=around.deliver_locally,
        )
        self._decisions = Decisions(
            time=around.time,
            settings=settings,
            timing=timing,
            calendar=calendar,
            backlog=self._backlog,
            breakers=self._breakers,
            lanes=self._lanes,
            placement=Placement(
                time=around.time,
                chance=around.router_chance,
                node=node,
                registry=around.registry,
                membership=around.membership,
                in_flight=self._lanes.in_flight,
                is_full=self._lanes.is_full,
                breakers=self._breakers,
                locality=settings.routing.locality,
            ),
        )
        attempts = settings.max_attempts
        self._sweep = Sweep(time=around.time, timing=timing, max_attempts=attempts, decisions=self._decisions)
        self.in_flight, self.is_full = self._lanes.in_flight, self._lanes.is_full
        self.spare_bytes = self._decisions.spare_bytes
        self.waiting_for_credit = self._decisions.waiting_for_credit
        claims = Claims(time=around.time, decisions=self._decisions)
        self.claim, self.settling, self.not_settled = claims.claim, claims.settling, claims.not_settled
        self._next_seq, self._changes = 1, 0
        self._life_s = min(max(settings.default_ttl_s, 0.0), TTL_LIMIT_S)
        self._lost_nodes: dict[str, str] = {}
        self._awaited: dict[str, None] = {}
        self._registry_changed = False
        self._swept_at = float("-inf")

    def use_links(self, links: Carrier) -> None:
        """Give the links, which need this core's node in turn."""
        self._lanes.links = links

    # Questions

    @property
    def open_count(self) -> int:
        """Messages that have not ended."""
        return len(self._decisions.open)

    @property
    def open_bytes(self) -> int:
        """Bytes of their sealed forms."""
        return self._decisions.bytes

    @property
    def backlog_count(self) -> int:
        """Messages that wait on disk only."""
        return len(self._backlog)

    def follows_backlog(self, wanted: str) -> bool:
        """Whether a message for ``wanted`` has to go to the backlog, behind others."""
        return self._backlog.holds(wanted)

    def backlog_has_room(self, wanted: str, size: int) -> bool:
        """Whether the backlog takes one more message of so many bytes."""
        return self._backlog.has_room(wanted, size)

    def ready(self) -> list[str]:
        """For whom messages of the backlog can be taken up: nothing before them waits for a provider."""
        if self.open_bytes >= OUTBOX_BYTES_LIMIT:
            return []
        found = []
        for wanted, back in self._backlog.waiting():
            _, at, node = wanted.rpartition("@")
            is_away = bool(at) and not self._decisions.placement.reaches(node)
            if back < self._share and not is_away and not self._decisions.placement.waiting_for(wanted):
                found.append(wanted)
        return found

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

    def providers(self, message_id: str) -> list[Target]:
        """Who is expected to answer a message now; nobody where it has ended, or is not known."""
        letter = self._decisions.open.get(message_id)
        return [] if letter is None else [route.target for route in letter.active_routes()]

    def sticky(self, conversation_id: str, wanted: str) -> Target | None:
        """The provider that has had this conversation so far."""
        return self._decisions.placement.sticky(conversation_id, wanted)

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            **self._decisions.placement.statistics(),
            **self._decisions.counts,
            **self._lanes.statistics(),
            **self._backlog.statistics(),
            **self._breakers.statistics(self._time.now()),
        }

    def breakers(self) -> dict[str, dict[str, object]]:
        """Every breaker that is not closed, by ``agent@node`` or ``@node``."""
        return self._breakers.shown(self._time.now())

    # Acceptance

    def take_up(self, stored: Iterable[table.StoredMessage]) -> None:
        """Take up messages that had not ended when the node stopped, in order."""
        now, wall = self._time.now(), self._time.wall()
        for row, own, further in stored:
            letter = stored_letter(row, now, wall)
            for each in further if own is None else (own, *further):
                route = stored_route(letter, each, row.answered_by)
                if each is not own and route.own:
                    letter.own, route.own = None, False
                if route.active:
                    route.state = RouteState.QUEUED
                    if letter.message.once and route.target[1] != self._node:
                        route.attempts = max(1, route.attempts)  # what was sent is not written down
                    self._awaited[route.target[1]] = None
            letter.placements = letter.epoch + 1
            routes = list(letter.active_routes())
            if not routes:
                letter.waiting_since = now
            self._decisions.hold(letter)
            if not self._decisions.order.goes_astray(letter):
                for route in routes:
                    self._lanes.queue(route)
                    self._decisions.placement.stick(letter, route.target)
            self._decisions.watch(letter)

    def begin(self, last_seq: int, backlog: Iterable[Sum] = ()) -> None:
        """All is taken up; messages that come now are numbered after ``last_seq``.

        Args:
            last_seq: The highest there is.
            backlog: What waits on disk only.
        """
        self._backlog.recall(backlog)
        self._next_seq = 1 + last_seq
        self._swept_at = now = self._time.now()
        awaited, self._awaited = self._awaited, {}
        self._sweep.expect(awaited, now + self._timing.agent_wait_s)

    def prepare(
        self,
        message: Message,
        sealed: bytes,
        *,
        at: tuple[float, float],
        traceparent: str,
        hops: int,
        ttl_s: float | None,
    ) -> Letter:
        """Number and route a message; nothing is durable and nothing happens until :meth:`admit`.

        Args:
            message: The message.
            sealed: Its one encoding.
            at: The present, in monotonic and in Unix seconds; messages accepted together share it.
            traceparent: W3C Trace Context.
            hops: Messages that led to it.
            ttl_s: Its life in seconds, or None for the default.
        """
        now, wall = at
        life_s = self._life_s
        if ttl_s is not None or message.reply_by_s is not None:
            life_s = self._limited(message, ttl_s, wall)
        letter = Letter(self._next_seq, message, sealed, traceparent, hops, wall, wall + life_s, now + life_s)
        self._next_seq += 1
        # What was handled may be answered.
        limit = HOP_LIMIT if message.in_reply_to is None else HOP_LIMIT + 1
        if hops > limit:
            letter.ended, letter.reason = "failed", f"more than {HOP_LIMIT} messages in one chain"
        elif self._backlog and not letter.broadcast and self._backlog.holds(letter.wanted):
            self._park(letter)
        else:
            self._decisions.place(letter, None, now)
            is_one_of_many = len(self._decisions.open) >= self._share and not letter.broadcast
            if is_one_of_many and self._decisions.waits_for_long(letter, self._share):
                self._park(letter)
        return letter

    def _limited(self, message: Message, ttl_s: float | None, wall: float) -> float:
        """Seconds that a message lives which does not live as long as others."""
        life_s = self._settings.default_ttl_s if ttl_s is None else ttl_s
        if message.reply_by_s is not None:
            life_s = min(life_s, message.reply_by_s - wall)
        return min(max(life_s, 0.0), TTL_LIMIT_S)

    def not_written(self, letters: Iterable[Letter]) -> None:
        """Forget prepared messages that were not written, and will not be."""
        for letter in letters:
            if letter.parked:
                self._backlog.dropped(letter.wanted, len(letter.sealed))
            elif letter.claimed and letter.own is not None:
                self._lanes.release(letter.own)

    def admit(self, letters: Iterable[Letter]) -> bool:
        """Take up messages that are durable now, and send them on their way.

        Returns:
            Whether :meth:`attend` is needed soon: a node is lost, or a conversation has moved meanwhile.
        """
        taken = []
        for letter in letters:
            self._decisions.counts["accepted"] += 1
            if letter.ended != OPEN:
                self._decisions.counts[letter.ended] += 1
            elif letter.parked:
                self._backlog.wrote(letter.wanted)
            else:
                taken.append(letter)
        return self._dispatch(taken)

    def _dispatch(self, letters: Sequence[Letter]) -> bool:
        nodes: dict[str, bool] = {}
        for letter in letters:
            self._decisions.hold(letter)
            if letter.claimed and letter.own is not None:
                letter.own.decision = None
                self._lanes.handed_over(letter.own)
                continue
            astray, movable = self._decisions.order.goes_astray(letter), letter.address is None
            for route in letter.routes.values():
                route.decision = None
                if not astray:
                    self._lanes.queue(route)
                    nodes[route.target[1]] = nodes.get(route.target[1], False) or movable
        for node in nodes:
            self._lanes.pump(node)
        for letter in letters:
            self._decisions.watch(letter)
        found = self._decisions.order.is_anybody_astray
        for node, movable in nodes.items():
            if movable and not self._decisions.placement.reaches(node):
                self.node_lost(node, "died")  # while the messages were being written
                found = True
        return found

    def take_up_parked(self, parked: Iterable[Parked]) -> Changes:
        """Take up the oldest messages that the backlog has for somebody, or some whose time is up.

        Args:
            parked: In their order. They are in the backlog until the changes are durable.
        """
        changes = self._new_changes()
        now, wall = self._time.now(), self._time.wall()
        for wanted, row in parked:
            letter = stored_letter(row, now, wall)
            letter.parked = True
            if now >= letter.deadline:
                letter.ended, letter.reason = "expired", f"its time was up before {wanted} was there"
                self._decisions.counts["expired"] += 1
                changes.ended.append(letter)
            else:
                self._decisions.place(letter, None, now)
                for route in letter.routes.values():
                    route.routed_s = wall
                if letter.waiting_since is not None:
                    letter.waiting_since -= max(0.0, wall - row.accepted_s)
            changes.taken_up.append(letter)
        return changes

    # What peers say

    def received(self, peer: str, keys: Sequence[DeliveryKey]) -> None:
        """The peer has these on disk."""
        now, wall = self._time.now(), self._time.wall()
        for key in keys:
            route = self._decisions.route(key, peer)
            if route is None:
                continue
            if route.state is not RouteState.RECEIVED:
                self._lanes.holds(route)  # be it since before its link was
                route.received_s = wall
                route.state, _ = step(route.state, RouteEvent.RECEIVED)
            route.timeouts = 0
            route.due = now + self._timing.probe_s
            self._decisions.calendar.by(route.letter, min(route.letter.deadline, route.due))
            if route.letter.answers is not None:
                self._around.on_arrival(key.message_id)

    def report(self, peer: str, states: Sequence[Outcome | KeyState]) -> Changes:
        """Take how deliveries ended at ``peer``, or what it says of them when a link opens."""
        changes = self._new_changes()
        self.received(peer, [state.key for state in states if state.state == "held"])
        wall = self._time.wall()
        for state in states:
            if state.state != "held":
                self._decisions.apply(peer, state, changes, wall)
        return changes

    def granted(self, peer: str, grants: Sequence[Grant] | None) -> None:
        """``peer`` takes so much for its agents; None when a link opens to one that will not tell."""
        if self._lanes.granted(peer, grants):
            self._lanes.pump(peer)

    def link_lost(self, peer: str) -> bool:
        """The link to ``peer`` closed: what was on it is in line again, in order.

        Returns:
            Whether anything is under way to ``peer``, so that a new link is needed.
        """
        self._lanes.link_lost(peer)
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

    def node_alive(self, node: str) -> None:
        """``node`` was heard anew, or a link to it has opened."""
        self._breakers.reached(node, self._time.now())

    def unreachable(self, node: str) -> Changes:
        """A dial of ``node`` had no answer."""
        changes = self._new_changes()
        if self._breakers.unreachable(node, self._time.now()):
            how = "its node cannot be reached"
            self._decisions.leave_alone(lambda target: target[1] == node, how, changes)
        return changes

    def registry_changed(self) -> None:
        """Providers came or went: see who waits for one at the next round."""
        self._registry_changed = True

    # Rounds

    def attend(self) -> Changes:
        """One round: what the loss of nodes, the registry and time demand."""
        changes = self._new_changes()
        self._decisions.rejoin(changes)
        lost, self._lost_nodes = self._lost_nodes, {}
        for node, how in lost.items():
            self._decisions.leave_node(node, how, changes)
        changed, self._registry_changed = self._registry_changed, False
        now = self._time.now()
        if changed or now - self._swept_at >= self._timing.sweep_s:
            self._swept_at = now
            self._sweep.sweep(now, changes, registry_changed=changed)
        return changes

    def give_up(self, changes: Changes) -> Changes:
        """Make the FAILUREs for the senders of what was given up, to be written along with it."""
        changes.lost = [letter for letter in changes.ended if letter.ended != "settled"]
        changes.told = [
            self._tell(letter) for letter in changes.lost if dead_letters.sender_is_told(letter.message)
        ]
        return changes

    def written(self, changes: Changes) -> bool:
        """What was decided is durable: tell it; returns what :meth:`admit` does."""
        for route in changes.routes.values():
            route.decision = None
        for letter in changes.taken_up:
            self._backlog.took_up(letter.wanted, len(letter.sealed), is_open=letter.ended == OPEN)
        found = self._dispatch([letter for letter in changes.taken_up if letter.ended == OPEN])
        for letter in changes.ended:
            self._around.on_end(letter)
            letter.part()
        return self.admit(changes.told) or found

    def send(self, changes: Changes) -> None:
        """Send what found a provider."""
        nodes: dict[str, None] = {}
        for route in changes.queued:
            if route.state is RouteState.QUEUED:
                self._lanes.queue(route)
                nodes[route.target[1]] = None
        for node in nodes:
            self._lanes.pump(node)

    def pump(self, node: str) -> None:
        """Send what waits for ``node`` and has room."""
        self._lanes.pump(node)

    def pump_all(self) -> None:
        """Send what waits, to all nodes."""
        for node in self._lanes.nodes():
            self._lanes.pump(node)

    # Inside

    def _new_changes(self) -> Changes:
        self._changes += 1
        return Changes(self._changes)

    def _park(self, letter: Letter) -> None:
        letter.park()
        self._backlog.prepare(letter.wanted, len(letter.sealed))

    def _backoff(self, attempt: int) -> float:
        settings = self._settings
        pause_s = min(settings.retry_max_s, settings.retry_initial_s * 2.0 ** min(attempt - 1, 16))
        return pause_s * (0.75 + 0.5 * self._around.retry_chance.random())

    def _tell(self, letter: Letter) -> Letter:
        """The FAILURE for the sender of a message that was given up."""
        error = why_given_up(letter, self._decisions.placement)
        message = dead_letters.failure(
            letter.message,
            error,
            node=self._node,
            identifier=self._around.new_id(),
            wall_s=self._time.wall(),
        )
        told = self.prepare(
            message,
            message.seal(),
            at=(self._time.now(), self._time.wall()),
            traceparent=letter.traceparent,
            hops=min(letter.hops, HOP_LIMIT),
            ttl_s=None,
        )
        told.cause = letter.message.id
        return told
