"""The origin's side: accepts messages, gives them to providers, and sees each to its one end.

Theory of operation. Every message this node accepted and that has not ended is in memory and a row on disk.
What becomes of it is decided in :mod:`node.messaging.deliveries`, without waiting, and gathered in
:class:`Changes`; one write makes that durable; only then is it acted upon (sent, told, forgotten). One task,
:meth:`Outbox.run`, attends to everything that is a matter of time or of membership: deaths, expiry, retries,
providers that appear (:mod:`node.messaging.sweep`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import apsw
import trio

from node.cluster.provider import CapabilityView
from node.config.model import MessagingConfig
from node.environment import Environment
from node.message import Message
from node.messaging.backlog import TAKEN_BYTES
from node.messaging.claims import Claim
from node.messaging.decisions import Changes
from node.messaging.deliveries import Deliveries
from node.messaging.drain import DrainRate
from node.messaging.durably import durably
from node.messaging.explanation import Target
from node.messaging.fullness import backlog_full, out_of_credit, outbox_full
from node.messaging.kept import Kept
from node.messaging.lanes import LocalDelivery
from node.messaging.ledger import Ledger, expected
from node.messaging.letters import Letter
from node.messaging.ports import ExpectedReplies, LinkSender, MembershipView
from node.messaging.recording import record_deliveries
from node.messaging.settings import OUTBOX_BYTES_LIMIT, Timing
from node.messaging.surroundings import Surroundings
from node.messaging.tail import Tail
from node.recording.tape import Recorder
from node.storage import accepted, backlog
from node.storage import outbox as table
from node.storage.dead_letters import Totals
from node.storage.storage import Storage
from node.transport.frames import DeliveryKey, Grant, KeyState, Outcome

LOAD_LIMIT: Final = 200_000
"""Most open messages taken up at a start; above any capacity."""
IDLE_ROUNDS: Final = 8
"""Rounds without an open message after which time matters no more; who sends now and then wakes nobody."""
LOAD_BYTES: Final = 4 * 1024**2
"""Bytes of messages that are taken up at once."""


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
        on_dead: Told how many dead letters there are when some were added.
        tail: Told what happens to messages, while somebody listens.
        kept: Told what is written.
        recorder: Writes down what goes into the core, if it is to be replayed.
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
        on_dead: Callable[[Totals], None],
        tail: Tail,
        kept: Kept,
        recorder: Recorder | None = None,
    ) -> None:
        self._clock = environment.clock
        self._storage = storage
        self._settings = settings
        self._timing = timing
        self._on_dead = on_dead
        self._tail = tail
        self.kept = kept
        self.links: LinkSender | None = None
        around = Surroundings(
            time=environment.clock,
            registry=registry,
            membership=membership,
            new_id=environment.new_id,
            router_chance=environment.randomness.stream("messaging.router"),
            retry_chance=environment.randomness.stream("messaging.retry"),
            deliver_locally=deliver_locally,
            on_arrival=on_arrival,
            on_end=on_end,
        )
        if recorder is None:
            self._core = Deliveries(node=node, settings=settings, timing=timing, around=around)
        else:
            self._core = record_deliveries(recorder, node, settings, timing, around)
        self._ledger = Ledger(clock=environment.clock, backlog_count=lambda: self._core.backlog_count)
        self._node = node
        self._ends_written: set[str] = set()  # of messages that are open here for a moment more
        self._drain = DrainRate()
        self._rests = True  # whether the task attends to nothing until it is told to
        self._unwritten: list[Changes] = []
        self._attention, self._stir = trio.Event(), trio.Event()

    def use_links(self, links: LinkSender) -> None:
        """Give the links, which need this node's bus in turn."""
        self.links = links
        self._core.use_links(links)

    def use_expectations(self, expectations: ExpectedReplies) -> None:
        """Give whoever watches ``reply_by``, and needs this outbox in turn."""
        self._ledger.expectations = expectations

    # Acceptance

    def spare_bytes(self, count: int) -> int:
        """How many bytes of so many messages are taken without :meth:`check_room` for each."""
        return self._core.spare_bytes(count)

    def check_room(self, message: Message, sealed: bytes, others: int, size: int) -> None:
        """Refuse a message of a client when there is no room for it.

        Args:
            message: It.
            sealed: Its sealed form.
            others: How many are to be accepted before it.
            size: Their bytes.

        Raises:
            ResourceLimitExceeded: the outbox is full, or the backlog that it would have to go to, or half of
                the outbox waits for the same, and all who offer it are out of credit.
        """
        if (
            self._core.backlog_count
            and not message.goes_to_all
            and self._core.follows_backlog(message.wanted)
        ):
            if not self._core.backlog_has_room(message.wanted, len(sealed)):
                raise backlog_full(message.wanted, self._core.backlog_count)
            return
        capacity = self._settings.outbox_capacity
        waiting = self._core.waiting_for_credit(message, others)
        if self.has_room(others + 1, size + len(sealed)) and not waiting:
            return
        retry_after_s = self._drain.retry_after_s(capacity, self._clock.now())
        if waiting:
            raise out_of_credit(message.wanted, waiting, retry_after_s)
        raise outbox_full(self._core.open_count, self._core.open_bytes, capacity, retry_after_s)

    def has_room(self, count: int, size: int) -> bool:
        """Whether so many more messages of clients, of so many bytes in all, are taken."""
        return (
            self._core.open_count + count <= self._settings.outbox_capacity
            and self._core.open_bytes + size <= OUTBOX_BYTES_LIMIT
        )

    @property
    def overfull(self) -> bool:
        """Whether even replies must wait: handlers pause until it is over."""
        return (
            self._core.open_count >= 2 * self._settings.outbox_capacity
            or self._core.open_bytes > 2 * OUTBOX_BYTES_LIMIT
        )

    def moment(self) -> tuple[float, float]:
        """The present for :meth:`prepare`, in monotonic and in Unix seconds."""
        return self._clock.now(), self._clock.wall()

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
        """Number and route a message; nothing is durable and nothing happens until :meth:`admit`."""
        return self._core.prepare(message, sealed, at=at, traceparent=traceparent, hops=hops, ttl_s=ttl_s)

    def insert(self, connection: apsw.Connection, letters: Sequence[Letter]) -> frozenset[int]:
        """Write prepared messages; part of the caller's job.

        Returns:
            The seqs of those whose id was known already: they are not written.
        """
        return self._ledger.insert(connection, letters)

    def not_written(self, letters: Iterable[Letter]) -> None:
        """Forget prepared messages that were not written, and will not be."""
        self._core.not_written(list(letters))

    def admit(self, letters: Iterable[Letter]) -> None:
        """Take up messages that are durable now, and send them on their way."""
        letters = list(letters)
        self._note_written([letter for letter in letters if not letter.parked])
        waited_for = expected(letters)
        if waited_for:
            self._ledger.expectations.written(waited_for)
        if self._tail.listeners:
            self._tail.admitted(letters)
            self._tail.ended(letters)
        if self._rests:
            self._attention.set()  # time matters again
        if self._core.backlog_count:
            self._stir.set()
        if self._core.admit(letters):
            self._attention.set()

    # Messages for agents of this very node

    def claim(self, letters: Sequence[Letter]) -> list[Claim]:
        """Claim prepared messages for agents of this node; see :mod:`node.messaging.claims`."""
        return self._core.claim(letters)

    def settling(self, keys: Sequence[DeliveryKey]) -> dict[str, table.EndWithRoute]:
        """The ends of messages that were handled here, which the caller's job is to write, by message id."""
        return self._core.settling(keys, self._node)

    def not_settled(self, message_ids: Sequence[str]) -> None:
        """Of those that were settling, these had ended otherwise before."""
        self._core.not_settled(message_ids)

    def end_is_written(self, message_ids: Iterable[str]) -> None:
        """That these are settled is on disk; :meth:`ended_here` is called next."""
        self._ends_written.update(message_ids)

    def ended_here(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Take how messages ended at agents of this node, where that is on disk; returns all others."""
        written = self._ends_written
        mine = [outcome for outcome in outcomes if outcome.key.message_id in written] if written else []
        if not mine:
            return outcomes
        others = [outcome for outcome in outcomes if outcome.key.message_id not in written]
        written.difference_update([outcome.key.message_id for outcome in mine])
        changes = self._core.report(self._node, mine)
        if changes.only_settles(len(mine)):
            self._written(changes)
            self._core.send(changes)
            self._core.pump(self._node)
            if self._core.backlog_count:
                self._stir.set()
        else:  # something else was decided about one of them meanwhile
            self._unwritten.append(changes)
            self._attention.set()
        return others

    # Questions of the router

    def providers(self, message_id: str) -> list[Target]:
        """Who is expected to answer a message now."""
        return self._core.providers(message_id)

    def in_flight(self, target: Target) -> int:
        """Messages that ``target`` was given and has not settled."""
        return self._core.in_flight(target)

    def is_full(self, target: Target) -> bool:
        """Whether ``target`` is out of credit."""
        return self._core.is_full(target)

    def sticky(self, conversation_id: str, wanted: str) -> Target | None:
        """The provider that has had this conversation so far."""
        return self._core.sticky(conversation_id, wanted)

    # What peers say

    def unsettled(self, peer: str) -> list[DeliveryKey]:
        """Deliveries towards ``peer`` that have not ended, in order of acceptance."""
        return self._core.unsettled(peer)

    def unsettled_by_node(self) -> dict[str, int]:
        """How many deliveries each node has not settled yet, by name."""
        return self._core.unsettled_by_node()

    def received(self, peer: str, keys: Sequence[DeliveryKey]) -> None:
        """The peer has these on disk."""
        self._core.received(peer, keys)

    def granted(self, peer: str, grants: Sequence[Grant] | None) -> None:
        """The peer takes so much for its agents; None when it will not tell."""
        self._core.granted(peer, grants)

    async def report(self, peer: str, states: Sequence[Outcome | KeyState]) -> None:
        """Take how deliveries ended at ``peer``, or what it says of them when a link opens."""
        await self._commit(self._core.report(peer, states))
        self._core.pump(peer)
        if self._core.backlog_count:
            self._stir.set()

    def link_lost(self, peer: str) -> bool:
        """The link to ``peer`` closed; returns whether a new one is needed."""
        return self._core.link_lost(peer)

    def answered(self, quoted: str, responder: str) -> None:
        """The first reply to a message is on disk here."""
        self._core.answered(quoted, responder)

    def node_lost(self, node: str, how: str) -> None:
        """``node`` died or left: its work goes to others at the next round."""
        self._core.node_lost(node, how)
        self._attention.set()

    def node_alive(self, node: str) -> None:
        """``node`` was heard anew, or a link to it has opened: its breaker is closed."""
        self._core.node_alive(node)

    def unreachable(self, node: str) -> None:
        """A dial of ``node`` had no answer; when its breaker opens, its work goes elsewhere."""
        changes = self._core.unreachable(node)
        if changes:
            self._unwritten.append(changes)
            self._attention.set()

    def breakers(self) -> dict[str, dict[str, object]]:
        """Every breaker that is not closed, by ``agent@node`` or ``@node``."""
        return self._core.breakers()

    def registry_changed(self) -> None:
        """Providers came or went: see who waits for one."""
        self._core.registry_changed()
        self._attention.set()

    def confirmed(self) -> Mapping[str, float]:
        """Peer -> Unix seconds before which it has stored all that it was told."""
        return {} if self.links is None else self.links.confirmed()

    def pump(self, node: str) -> None:
        """Send what waits for ``node`` and has room."""
        self._core.pump(node)

    # The one task

    async def load(self) -> None:
        """Take up what had not ended when the node stopped."""
        rows = await self._storage.read(lambda connection: table.load_open(connection, LOAD_LIMIT))
        last_seq = await self._storage.read(accepted.last_seq)
        sums = await self._storage.read(backlog.sums)
        for batch in _batches(rows):
            self._core.take_up(batch)
        self._core.begin(last_seq, sums)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Attend to time, membership and registry until cancelled."""
        task_status.started()
        rounds_without = 0
        while True:
            rounds_without = 0 if self._core.open_count else rounds_without + 1
            self._rests = rounds_without > IDLE_ROUNDS
            with self._clock.move_on_after(float("inf") if self._rests else self._timing.sweep_s):
                await self._attention.wait()
            self._attention = trio.Event()
            unwritten, self._unwritten = self._unwritten, []
            for left in unwritten:
                await self._commit(left)
            await self._commit(self._core.attend())
            self._core.pump_all()

    async def run_backlog(self) -> None:
        """Take up what waits on disk when its turn has come, until cancelled."""
        while True:
            pause_s = self._timing.sweep_s if self._core.backlog_count else float("inf")
            with self._clock.move_on_after(pause_s):
                await self._stir.wait()
            self._stir = trio.Event()
            await self._take_up(lambda c: backlog.expired(c, self._clock.wall(), self._core.taken_limit))
            for wanted in self._core.ready():
                if await self._take_up(partial(_first, wanted=wanted, limit=self._core.taken_limit)):
                    self._stir.set()  # perhaps there is room for more

    async def _take_up(self, query: Callable[[apsw.Connection], list[backlog.Parked]]) -> bool:
        parked = await self._storage.read(query)
        if parked:
            await self._commit(self._core.take_up_parked(parked))
        return bool(parked)

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "open": self._core.open_count,
            "open_limit": self._settings.outbox_capacity,
            "open_bytes": self._core.open_bytes,
            "open_bytes_limit": OUTBOX_BYTES_LIMIT,
            **self._core.statistics(),
        }

    # Making it so

    async def _commit(self, changes: Changes) -> None:
        """Write what was decided, then act upon it.

        Who is cancelled before the write (its link has ended) leaves it to :meth:`run`.
        """
        if changes:
            self._core.give_up(changes)
            try:
                totals = await durably(self._storage, self._clock, self._ledger.job(changes))
            except trio.Cancelled:  # nothing was written: a write that has begun is not cancelled
                self._unwritten.append(changes)
                self._attention.set()
                raise
            if totals is not None:
                self._on_dead(totals)
            self._written(changes)
        self._core.send(changes)

    def _written(self, changes: Changes) -> None:
        """What was decided is durable: act upon it."""
        if self._tail.listeners:
            for route in changes.queued:
                self._tail.routed(route)
            self._tail.ended(changes.ended)
            self._tail.admitted(changes.told)
        self._note_written([*changes.taken_up, *changes.told])
        if changes.ended:
            self._drain.ended(len(changes.ended), self._clock.now())
        if self._core.written(changes) or self._rests:
            self._attention.set()

    def _note_written(self, letters: Sequence[Letter]) -> None:
        if letters:
            self.kept.add_sent(len(letters), sum([len(letter.sealed) for letter in letters]))


def _first(connection: apsw.Connection, wanted: str, limit: int) -> list[backlog.Parked]:
    return backlog.first(connection, wanted, limit, TAKEN_BYTES)


def _batches(stored: Sequence[table.StoredMessage]) -> Iterator[list[table.StoredMessage]]:
    """What is on disk, a bounded number of bytes at a time."""
    batch: list[table.StoredMessage] = []
    size = 0
    for each in stored:
        if batch and size + len(each[0].sealed) > LOAD_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += len(each[0].sealed)
    if batch:
        yield batch
