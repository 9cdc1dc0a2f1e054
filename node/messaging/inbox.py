"""The receiver's side: stores what arrives, knows duplicates, and sees each message to its one end here.

Theory of operation. A frame of deliveries is one write: each item is looked up by its deduplication key, and
:mod:`node.messaging.receiver` says what to do with it. After the commit it is acknowledged (*received*) and
offered to the agent's mailbox, or, if it is a reply somebody waits for, handed over at once. How a message
ended is written in the same transaction as the replies it caused, then reported to its origin (*settled*).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import apsw

from node.config.model import MessagingConfig
from node.environment import Environment
from node.message import Message
from node.messaging.arrivals import Arrivals, Arrived, Batch, Ended, Receivers, Told
from node.messaging.conversation_index import NOTED_AFTER_S
from node.messaging.conversations import Waits
from node.messaging.credit import BEYOND, Credits
from node.messaging.dated import Dated
from node.messaging.decisions import NO_SUCH_AGENT
from node.messaging.durably import durably
from node.messaging.kept import Kept
from node.messaging.letters import Letter
from node.messaging.mailboxes import Entry
from node.messaging.owed import Owed
from node.messaging.receiver import ArrivalAction, Handling, ItemState, end, reported
from node.messaging.recording_inbox import record_arrivals
from node.messaging.settings import CLIENTS, CONFIRMED_MARGIN_S, KEEP_ROWS, WATERMARK_S
from node.messaging.storing import encoded, store_frames
from node.messaging.tail import Tail
from node.recording.tape import Recorder
from node.storage import inbox as table
from node.storage.query import Forgotten
from node.storage.storage import Storage
from node.transport.frames import DeliveryKey, KeyState, Outcome
from node.transport.proof import FrameProof

REFUSE_BATCH: Final = 500
"""Held messages refused in one write when an agent goes."""
OWED_LIMIT: Final = 200_000
"""Most answers on their way whose requests are taken up at a start; above any capacity of the outbox."""
STOPPED: Final = "the agent is stopped"
BEGUN: Final = "its handling was cut short, and it is delivered at most once"
_TAKEN: Final = (ArrivalAction.STORE, ArrivalAction.HOLD_AGAIN)


class Inbox:
    """Messages this node received; see the module's docstring.

    Args:
        environment: Clock.
        node: This node's name.
        storage: The node's database.
        settings: The section ``messaging``.
        waits: Who waits for which reply.
        accepts: Says why an agent takes no messages, or the empty string when it does.
        capacity: Most messages that wait for an agent.
        offer: Hands held messages to their agent.
        raise_epoch: Tells the agent's mailbox of a higher epoch.
        tell: Tells a node (this one included) what was received and how it ended.
        owed: Ends that are told only when the replies have arrived.
        on_reply: Called with what a reply quotes, and its sender, when it is the first to be stored.
        tail: Told what happens to messages, while somebody listens.
        kept: Told what is written, and how much is to go.
        recorder: Writes down what goes into the core, if it is to be replayed.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        node: str,
        storage: Storage,
        settings: MessagingConfig,
        waits: Waits,
        accepts: Callable[[str], str],
        capacity: Callable[[str], int],
        offer: Callable[[str, Sequence[Entry]], None],
        raise_epoch: Callable[[str, int, int], None],
        tell: Told,
        owed: Owed,
        on_reply: Callable[[str, str], None],
        tail: Tail,
        kept: Kept,
        recorder: Recorder | None = None,
    ) -> None:
        self._clock = environment.clock
        self._node, self._accepts, self._hand_over = node, accepts, offer
        self._storage = storage
        self._settings = settings
        self._owed = owed
        self._tail = tail
        self._kept = kept
        self._untold: dict[int, float] = {}  # one for each write that is under way
        self._told_late_s = 0.0
        around = Receivers(
            time=environment.clock,
            accepts=accepts,
            concerns=waits.concerns,
            owes=owed.holds,
            answer=waits.answer,
            offer=self._offer,
            raise_epoch=raise_epoch,
            tell=tell,
            owe=owed.owe,
            on_reply=on_reply,
        )
        if recorder is None:
            self._core = Arrivals(node=node, settings=settings, around=around)
        else:
            self._core = record_arrivals(recorder, node, settings, around)
        kept.on_received_full = self._core.filled
        self.credits = Credits(
            capacity=capacity,
            free=settings.peer_window,
            room=lambda: self._core.room,
            now=environment.clock.now,
        )
        self.credits.begins(node, knows=True)

    async def load(self) -> None:
        """Learn how much is held and stored."""
        held = await self._storage.read(table.held_by_origin)
        self._core.begin(sum(count for _, _, count in held), await self._storage.read(table.count))
        for origin, target, count in held:
            self.credits.hold(origin, target, count)
        owed = await self._storage.read(lambda connection: table.owed(connection, OWED_LIMIT))
        for origin, message_id, target, epoch, replies in owed:
            self._owed.owe(origin, Outcome(DeliveryKey(message_id, target, epoch), "settled"), replies)

    # Arrivals

    async def receive(
        self, origin: str, frames: Sequence[tuple[Sequence[Arrived], FrameProof | None]]
    ) -> None:
        """Take the deliveries of one or more frames, in one write.

        Raises:
            StorageFailed: the disk refused; nothing was acknowledged.
        """
        proven = [(arrived, encoded(proof)) for arrived, proof in frames]
        with self.ending():  # replies that somebody waits for end as they arrive
            batch = self._core.judge(origin, [each for arrived, _ in frames for each in arrived])
            goes_beyond = self._check_credit(batch)
            if batch.items:
                await self._storage.write(lambda connection: store_frames(connection, batch, proven))
            for each in batch.items if goes_beyond else ():
                if each.reason is BEYOND:
                    self.credits.refused()
            self.stored(batch)

    def takes(self, letters: Sequence[Letter]) -> list[Letter]:
        """Those of this node's own messages, each for one of its agents, that are taken now."""
        if self._core.room < len(letters):
            return []
        refusing: dict[str, bool] = {}
        found = []
        for letter in letters:
            agent = letter.own.target[0] if letter.own is not None else ""
            refuses = refusing.get(agent)
            if refuses is None:
                refuses = refusing[agent] = agent not in CLIENTS and bool(self._accepts(agent))
            if not refuses:
                found.append(letter)
        return found

    def judge(self, arrived: Sequence[Arrived]) -> Batch:
        """Messages of this node for its own agents, within their windows; the caller's job stores them."""
        return self._core.judge(self._node, arrived)

    def stored(self, batch: Batch) -> None:
        """Deliveries are durable: acknowledge them, and hand them on."""
        if self._tail.listeners:
            for each in batch.items:
                if each.action in _TAKEN:
                    self._tail.received(each.message, len(each.row.sealed), each.row.target, batch.origin)
        new = [len(each.row.sealed) for each in batch.items if each.action is ArrivalAction.STORE]
        self._kept.add_received(len(new), sum(new))
        self._core.stored(batch)

    async def states(self, origin: str, keys: Sequence[DeliveryKey]) -> list[KeyState]:
        """What is known of each of the deliveries that ``origin`` has not settled."""
        owed = {key for key in keys if self._owed.holds(origin, key.message_id, key.target)}

        def query(connection: apsw.Connection) -> list[KeyState]:
            found = []
            for key in keys:
                known = table.find_key(connection, origin, key.message_id, key.target)
                if known is None or (known.state == ItemState.REFUSED and key.epoch > known.epoch):
                    found.append(KeyState(key, "unknown"))
                elif key in owed:
                    found.append(KeyState(key, "held"))
                else:
                    found.append(KeyState(key, reported(ItemState(known.state)), known.reason))
            return found

        return await self._storage.read(query)

    # Held messages

    async def read_held(
        self, target: str, room: int, known: Callable[[int], bool]
    ) -> tuple[list[Entry], bool]:
        """The oldest held messages of ``target`` that are not known yet, and whether those are all."""

        def query(connection: apsw.Connection) -> tuple[list[table.InboxRow], bool]:
            found: list[table.InboxRow] = []
            for row in table.held(connection, target, known):
                if len(found) >= room:
                    return found, False
                found.append(row)
            return found, True

        rows, exhausted = await self._storage.read(query)
        return [self._core.entry(row, row.seq, Message.unseal(row.sealed)) for row in rows], exhausted

    async def read_held_after(self, target: str, after: int, room: int) -> list[Entry]:
        """The next held messages of ``target`` that are not expired, after the row ``after``."""
        wall = self._clock.wall()
        rows = await self._storage.read(lambda c: table.held_after(c, target, after, wall, room))
        return [self._core.entry(row, row.seq, Message.unseal(row.sealed)) for row in rows]

    async def end_held(
        self,
        target: str,
        chosen: Callable[[apsw.Connection], Sequence[table.HeldKey]],
        handling: Handling,
        reason: str = "",
    ) -> list[int]:
        """Write down how the chosen messages of ``target`` ended, in one transaction; then report them.

        Returns:
            The rows of those that were still held.
        """
        state, watched = end(ItemState.HELD, handling), bool(self._tail.listeners)

        def job(connection: apsw.Connection) -> list[tuple[table.HeldKey, bytes]]:
            keys = list(chosen(connection))
            ends = [(state.value, wall, reason, None, 0, key.seq) for key in keys]
            done = set(table.finish_many(connection, ends))
            return [
                (key, table.sealed(connection, key.seq) if watched else b"")
                for key in keys
                if key.seq in done
            ]

        with self.ending() as wall:
            ended = await durably(self._storage, self._clock, job)
            keys = [(key.origin, DeliveryKey(key.message_id, target, key.epoch)) for key, _ in ended]
            self.ended([(Ended(origin, key, state, reason), ()) for origin, key in keys])
        for _, sealed in ended:
            if sealed:
                self._tail.handled(Message.unseal(sealed), target, state, reason)
        return [key.seq for key, _ in ended]

    async def count_attempt(self, entry: Entry) -> None:
        """Write down that a handler run raised, or that the only one begins."""
        await durably(
            self._storage,
            self._clock,
            lambda connection: table.count_attempt(connection, entry.seq, entry.started_s),
        )
        entry.attempts += 1

    def finish(self, connection: apsw.Connection, ends: Sequence[table.End]) -> Sequence[int]:
        """Write down how held messages ended; part of the caller's job.

        Returns:
            The seqs of those that had not ended before.
        """
        return table.finish_many(connection, ends)

    def ended(self, ended: Sequence[tuple[Ended, Sequence[str]]]) -> None:
        """What ended is durable: report it. With replies (message ids), that is told when they arrive."""
        gone: dict[tuple[str, str], int] = {}
        for each, _ in ended:
            place = each.origin, each.key.target
            gone[place] = gone.get(place, 0) + 1
        for (origin, target), count in gone.items():
            self.credits.release(origin, target, count)
        self._core.ended(ended)

    async def refuse_held(self, target: str, reason: str) -> None:
        """Give back every held message of an agent that is gone.

        One that was begun, and may not be handled again, fails instead.
        """
        while True:
            rows, exhausted = await self._storage.read(lambda c: _first_held(c, target))
            ends = [_given_back(row, reason) for row in rows]
            with self.ending() as wall:
                job = functools.partial(_finish, ends=ends, wall=wall)
                ended = await durably(self._storage, self._clock, job) if ends else []
                messages = [Message.unseal(each.row.sealed) for each in ended]
                given = [
                    (each.row.origin, target, m.conversation_id, m.sender, m.id, each.row.seq)
                    for each, m in zip(ended, messages, strict=True)
                    if each.state is ItemState.REFUSED
                ]
                self._core.gave_back(given)
                self.ended([(each.ended(target), ()) for each in ended])
            if self._tail.listeners:
                for each, message in zip(ended, messages, strict=True):
                    self._tail.handled(message, target, each.state, each.reason)
            if exhausted:
                return

    async def refuse_unclaimed(self, attached: Callable[[str], bool]) -> None:
        """Give back what waits for agents that did not come."""
        for target in await self._storage.read(table.held_counts):
            if not attached(target):
                await self.refuse_held(target, NO_SUCH_AGENT)

    # Retention

    def origin_lost(self, node: str) -> None:
        """What ``node`` has heard from here is uncertain until it is back."""
        self._core.origin_lost(node)

    def origin_back(self, node: str) -> None:
        """``node`` is back, and asks about what it has not heard."""
        self._core.origin_back(node)

    def ending(self) -> Dated:
        """Date ends that are written, and told, inside a context; gives Unix seconds.

        A disk may refuse for long between the date of an end and its telling, and a peer's word of what it
        has taken by then does not cover it.
        """
        return Dated(self._clock, self._untold, self._were_told)

    def _were_told(self, dated_s: float) -> None:
        wall = self._clock.wall()
        if wall - dated_s > CONFIRMED_MARGIN_S / 2:
            self._told_late_s = wall

    def forgotten_by_origin(self, confirmed_s: Mapping[str, float]) -> Callable[[str, str, str, float], bool]:
        """Tells whether the origin of (origin, message id, target) that ended then has forgotten the message.

        Args:
            confirmed_s: Origin -> Unix seconds; ends that it was told before are on its disk.
        """
        watermark_s, holds = self._core.watermark(WATERMARK_S), self._owed.holds

        def is_forgotten(origin: str, message_id: str, target: str, ended_s: float) -> bool:
            proven_s = confirmed_s.get(origin, 0.0)
            if proven_s <= self._told_late_s:  # asked anew for each: an end may be told during the round
                proven_s = 0.0
            told = ended_s < watermark_s or ended_s < proven_s - CONFIRMED_MARGIN_S
            untold = any(ended_s >= dated_s for dated_s in self._untold.values())
            return told and not untold and not holds(origin, message_id, target)

        return is_forgotten

    def forget(
        self,
        connection: apsw.Connection,
        after: int,
        *,
        wall: float,
        is_forgotten: Callable[[str, str, str, float], bool],
    ) -> Forgotten:
        """Drop rows that no duplicate can follow; part of the caller's job."""
        return table.forget(
            connection,
            after,
            ended_before_s=wall - self._settings.retention_s,
            keep=KEEP_ROWS,
            noted_before_s=wall - NOTED_AFTER_S,
            is_forgotten=is_forgotten,
            excess_bytes=self._kept.excess_received,
        )

    def forgot(self, step: Forgotten) -> None:
        """Note that rows were dropped."""
        self._core.forgot(step.gone)
        self._kept.drop_received(step.gone, step.weight)

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {**self._core.statistics(), "owed": len(self._owed)}

    def _offer(self, target: str, entries: Sequence[Entry]) -> None:
        """Messages of one node are held for an agent: they count against its window."""
        self.credits.hold(entries[0].origin, target, len(entries))
        self._hand_over(target, entries)

    def _check_credit(self, batch: Batch) -> bool:
        """Mark the deliveries that their node should not have sent yet; returns whether there are any."""
        more: dict[str, int] = {}
        for each in batch.items:
            if not (each.kept or each.turned_away):
                target = each.row.target
                more[target] = more.get(target, 0) + 1
        beyond = {
            target for target, count in more.items() if not self.credits.admit(batch.origin, target, count)
        }
        for each in batch.items if beyond else ():
            if not each.kept and not each.turned_away and each.row.target in beyond:
                each.turned_away = BEYOND
        return bool(beyond)


def _first_held(connection: apsw.Connection, target: str) -> tuple[list[table.InboxRow], bool]:
    found: list[table.InboxRow] = []
    for row in table.held(connection, target):
        if len(found) >= REFUSE_BATCH:
            return found, False
        found.append(row)
    return found, True


class _GivenBack(NamedTuple):
    row: table.InboxRow
    state: ItemState
    reason: str

    def ended(self, target: str) -> Ended:
        key = DeliveryKey(self.row.message_id, target, self.row.epoch)
        return Ended(self.row.origin, key, self.state, self.reason)


def _given_back(row: table.InboxRow, reason: str) -> _GivenBack:
    if row.attempts and Message.unseal(row.sealed).once:
        return _GivenBack(row, end(ItemState.HELD, Handling.EXHAUSTED), BEGUN)
    return _GivenBack(row, end(ItemState.HELD, Handling.NO_AGENT), reason)


def _finish(connection: apsw.Connection, *, ends: list[_GivenBack], wall: float) -> list[_GivenBack]:
    done = set(
        table.finish_many(connection, [(e.state.value, wall, e.reason, None, 0, e.row.seq) for e in ends])
    )
    return [each for each in ends if each.row.seq in done]
