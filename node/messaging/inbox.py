"""The receiver's side: stores what arrives, knows duplicates, and sees each message to its one end here.

Theory of operation. A frame of deliveries is one write: each item is looked up by its deduplication key, and
:mod:`node.messaging.receiver` says what to do with it. After the commit it is acknowledged (*received*) and
offered to the agent's mailbox, or, if it is a reply somebody waits for, handed over at once. How a message
ended is written in the same transaction as the replies it caused, then reported to its origin (*settled*).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import apsw
import cbor2

from node.config.model import MessagingConfig
from node.environment import Environment
from node.errors import ValidationFailed
from node.message import Message
from node.messaging.conversations import Waits
from node.messaging.decisions import NO_SUCH_AGENT
from node.messaging.durably import durably
from node.messaging.mailboxes import Entry
from node.messaging.owed import Owed
from node.messaging.receiver import OUTCOMES, ArrivalAction, Handling, ItemState, arrive, end, reported
from node.messaging.settings import CLIENTS, INBOX_ROW_LIMIT, TTL_LIMIT_S, Timing
from node.storage import inbox as table
from node.storage import outbox as outbox_table
from node.storage.storage import Storage
from node.transport.frames import DeliverItem, DeliveryKey, KeyState, Outcome
from node.transport.proof import FrameProof

REFUSE_BATCH: Final = 500
"""Held messages refused in one write when an agent goes."""
OWED_LIMIT: Final = 200_000
"""Most answers on their way whose requests are taken up at a start; above any capacity of the outbox."""
STOPPED: Final = "the agent is stopped"
OVERLOADED: Final = "the inbox is full"

Arrived = tuple[DeliverItem, Message | None]
"""A delivery, and its message where it is already decoded."""
Told = Callable[[str, list[DeliveryKey], list[Outcome]], None]


@dataclass(slots=True)
class _Item:
    """One decoded delivery on its way into the table."""

    item: DeliverItem
    message: Message
    row: table.InboxRow
    kept: bool
    action: ArrivalAction = ArrivalAction.STORE
    seq: int = 0
    state: ItemState = ItemState.HELD
    reason: str = ""


class Inbox:
    """Messages this node received; see the module's docstring.

    Args:
        environment: Clock.
        node: This node's name.
        storage: The node's database.
        settings: The section ``messaging``.
        timing: Times beside it.
        waits: Who waits for which reply.
        accepts: Says why an agent takes no messages, or the empty string when it does.
        offer: Hands a held message to its agent.
        raise_epoch: Tells the agent's mailbox of a higher epoch.
        tell: Tells a node (this one included) what was received and how it ended.
        owed: Ends that are told only when the replies have arrived.
        on_reply: Called with what a reply quotes, and its sender, when it is the first to be stored.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        node: str,
        storage: Storage,
        settings: MessagingConfig,
        timing: Timing,
        waits: Waits,
        accepts: Callable[[str], str],
        offer: Callable[[str, Entry], None],
        raise_epoch: Callable[[str, int, int], None],
        tell: Told,
        owed: Owed,
        on_reply: Callable[[str, str], None],
    ) -> None:
        self._clock = environment.clock
        self._node = node
        self._storage = storage
        self._settings = settings
        self._timing = timing
        self._waits = waits
        self._accepts = accepts
        self._offer = offer
        self._raise_epoch = raise_epoch
        self._tell = tell
        self._owed = owed
        self._on_reply = on_reply
        self._held = 0
        self._rows = 0
        self._unsure: dict[str, float | None] = {}
        self._booted_s = environment.clock.wall()
        self._counts = dict.fromkeys(
            ("received", "duplicates", "poison", "refused", "settled", "failed", "late"), 0
        )

    async def load(self) -> None:
        """Learn how much is held and stored."""
        held = await self._storage.read(table.held_counts)
        self._held = sum(held.values())
        self._rows = await self._storage.read(table.count)
        owed = await self._storage.read(lambda connection: table.owed(connection, OWED_LIMIT))
        for origin, message_id, target, epoch, replies in owed:
            self._owed.owe(origin, Outcome(DeliveryKey(message_id, target, epoch), "settled"), replies)

    # Arrivals

    async def receive(self, origin: str, arrived: Sequence[Arrived], proof: FrameProof | None) -> None:
        """Take the deliveries of one frame.

        Raises:
            StorageFailed: the disk refused; nothing was acknowledged.
        """
        items: list[_Item] = []
        outcomes: list[Outcome] = []
        room = min(self._settings.inbox_capacity - self._held, INBOX_ROW_LIMIT - self._rows)
        for item, message in arrived:
            try:
                decoded = self._decode(origin, item, message)
            except ValidationFailed as error:
                self._counts["poison"] += 1
                outcomes.append(Outcome(item.key, "failed", f"not deliverable: {error}"))
                continue
            refusal = "" if decoded.kept else self._accepts(item.envelope.target)
            if not refusal and (self._rows >= INBOX_ROW_LIMIT if decoded.kept else room <= 0):
                refusal = OVERLOADED
            if refusal:
                self._counts["refused"] += 1
                outcomes.append(Outcome(item.key, "refused", refusal))
                continue
            room -= not decoded.kept
            items.append(decoded)
        encoded = None if proof is None else cbor2.dumps(_proof_values(proof))
        if items:
            await self._storage.write(lambda connection: _store(connection, items, origin, encoded))
        for decoded in items:
            self._after(origin, decoded, outcomes)
        ended = {outcome.key for outcome in outcomes}  # an end says that it was received, too
        self._tell(origin, [d.item.key for d in items if d.item.key not in ended], outcomes)

    def _decode(self, origin: str, item: DeliverItem, known: Message | None) -> _Item:
        message = known or Message.unseal(item.sealed)
        envelope, wall = item.envelope, self._clock.wall()
        if message.id != item.message_id:
            raise ValidationFailed("the sealed message has another id than its envelope")
        if message.sender.rpartition("@")[2] != origin:
            raise ValidationFailed(
                f"{message.sender} is not of the node it came from", why=f"that is {origin}"
            )
        agent, at, node = (message.receiver or "").rpartition("@")
        if at and (agent, node) != (envelope.target, self._node):
            raise ValidationFailed(f"it is for {message.receiver}")
        kept = envelope.target in CLIENTS or (
            message.in_reply_to is not None and self._waits.concerns(message)
        )
        row = table.InboxRow(
            origin=origin,
            message_id=message.id,
            target=envelope.target,
            epoch=envelope.route_epoch,
            state=(ItemState.SETTLED if kept else ItemState.HELD).value,
            attempts=0,
            conversation_id=message.conversation_id,
            in_reply_to=message.in_reply_to,
            hops=envelope.hops,
            received_s=wall,
            expires_s=wall + min(envelope.remaining_s, TTL_LIMIT_S),
            traceparent=envelope.traceparent,
            sealed=item.sealed,
            ended_s=wall if kept else None,
        )
        return _Item(item, message, row, kept)

    def _after(self, origin: str, decoded: _Item, outcomes: list[Outcome]) -> None:
        """What follows from a delivery now that it is durable."""
        item, action, state = decoded.item, decoded.action, decoded.state
        if action is ArrivalAction.STORE:
            self._counts["received"] += 1
            self._rows += 1
            if decoded.message.in_reply_to is not None and state is not ItemState.LATE:
                self._on_reply(decoded.message.in_reply_to, decoded.message.sender)
        elif action is not ArrivalAction.HOLD_AGAIN:
            self._counts["duplicates"] += 1
        if action is ArrivalAction.RAISE_EPOCH:
            self._raise_epoch(item.envelope.target, decoded.seq, item.envelope.route_epoch)
        if state is not ItemState.HELD:
            if action is ArrivalAction.STORE:
                self._counts[state.value] += 1
                if state is ItemState.SETTLED:
                    self._waits.answer(decoded.message)
            if not self._owed.holds(decoded.row.origin, item.message_id, item.envelope.target):
                outcomes.append(Outcome(item.key, OUTCOMES[state], decoded.reason))
        elif action in (ArrivalAction.STORE, ArrivalAction.HOLD_AGAIN):
            self._held += 1
            self._offer(item.envelope.target, self.entry(decoded.row, decoded.seq, decoded.message))

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

    def entry(self, row: table.InboxRow, seq: int, message: Message) -> Entry:
        """A stored message for a mailbox."""
        life_s = min(row.expires_s - self._clock.wall(), TTL_LIMIT_S)  # the wall clock may have gone back
        deadline = self._clock.now() + life_s
        return Entry(seq, row.origin, message, row.epoch, row.attempts, row.hops, deadline, row.traceparent)

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
        return [self.entry(row, row.seq, Message.unseal(row.sealed)) for row in rows], exhausted

    async def count_attempt(self, entry: Entry) -> None:
        """A handler run raised."""
        entry.attempts += 1
        await durably(
            self._storage, self._clock, lambda connection: table.count_attempt(connection, entry.seq)
        )

    async def finish(
        self,
        target: str,
        entry: Entry,
        handling: Handling,
        reason: str = "",
        together_with: Callable[[apsw.Connection], None] | None = None,
        *,
        replies: Sequence[str] = (),
    ) -> bool:
        """Write down how a held message ended, and what it caused, in one transaction; then report it.

        With ``replies`` (message ids) to its origin, that is told when these have arrived there.

        Returns:
            False when it had ended before: nothing was written.
        """
        state, wall = end(ItemState.HELD, handling), self._clock.wall()

        def job(connection: apsw.Connection) -> bool:
            if not table.finish(connection, entry.seq, state.value, wall, reason):
                return False
            if together_with is not None:
                together_with(connection)
            return True

        done = await durably(self._storage, self._clock, job)
        if done:
            self._held -= 1
            self._counts[state.value] += 1
            key = DeliveryKey(entry.message.id, target, entry.epoch)
            outcome = Outcome(key, OUTCOMES[state], reason)
            if replies:
                self._owed.owe(entry.origin, outcome, replies)
            else:
                self._tell(entry.origin, [], [outcome])
        return done

    async def refuse_held(self, target: str, reason: str) -> None:
        """Give back every held message of an agent that is gone."""
        while True:
            rows, exhausted = await self._storage.read(lambda c: _first_held(c, target))
            job = functools.partial(_refuse, rows=rows, wall=self._clock.wall(), reason=reason)
            refused = await durably(self._storage, self._clock, job) if rows else []
            for row in refused:
                self._held -= 1
                self._counts["refused"] += 1
                key = DeliveryKey(row.message_id, target, row.epoch)
                self._tell(row.origin, [], [Outcome(key, "refused", reason)])
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
        self._unsure.setdefault(node, None)

    def origin_back(self, node: str) -> None:
        """``node`` is back, and asks about what it has not heard."""
        if node in self._unsure:
            self._unsure[node] = self._clock.wall()

    def forget(self, connection: apsw.Connection, *, wall: float, watermark_s: float, keep: int) -> int:
        """Drop rows that no duplicate can follow; part of the caller's job."""
        return table.forget(
            connection,
            ended_before_s=wall - self._settings.retention_s,
            settled_before_s=watermark_s,
            keep=keep,
        )

    def watermark(self, margin_s: float) -> float:
        """Unix seconds before which every origin is sure to have heard how its messages ended here."""
        wall = self._clock.wall()
        if wall - self._booted_s < self._settings.default_ttl_s and self._rows < INBOX_ROW_LIMIT // 2:
            return wall - self._settings.default_ttl_s
        if any(back is None or wall - back < margin_s for back in self._unsure.values()):
            return wall - self._settings.default_ttl_s
        self._unsure.clear()
        return wall - margin_s

    def forgot(self, rows: int) -> None:
        """Note that rows were dropped."""
        self._rows -= rows

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "held": self._held,
            "held_limit": self._settings.inbox_capacity,
            "owed": len(self._owed),
            "rows": self._rows,
            "rows_limit": INBOX_ROW_LIMIT,
            **self._counts,
        }


def _store(connection: apsw.Connection, items: Iterable[_Item], origin: str, proof: bytes | None) -> None:
    """Look each delivery up, and store what is new; the decision is left in the items."""
    proof_id: int | None = None
    for decoded in items:
        row = decoded.row
        known = table.find_key(connection, origin, row.message_id, row.target)
        if known is None:
            decoded.action = ArrivalAction.STORE
        else:
            decoded.action = arrive(ItemState(known.state), known.epoch, row.epoch)
            decoded.seq, decoded.state, decoded.reason = known.seq, ItemState(known.state), known.reason
        if decoded.action is ArrivalAction.STORE:
            if proof is not None and proof_id is None:
                proof_id = table.add_proof(connection, origin, proof)
            _store_new(connection, decoded, proof_id)
        elif decoded.action is ArrivalAction.HOLD_AGAIN:
            table.hold_again(connection, decoded.seq, row.epoch, row.expires_s)
            decoded.state, decoded.reason = ItemState.HELD, ""
        elif decoded.action is ArrivalAction.RAISE_EPOCH:
            table.raise_epoch(connection, decoded.seq, row.epoch)


def _store_new(connection: apsw.Connection, decoded: _Item, proof_id: int | None) -> None:
    row, message = decoded.row, decoded.message
    decoded.state, decoded.reason = ItemState(row.state), ""
    ended_s = row.ended_s
    if row.in_reply_to is not None and not outbox_table.reply_arrived(
        connection, row.in_reply_to, message.sender, row.received_s
    ):
        decoded.state, decoded.reason, ended_s = (
            ItemState.LATE,
            "another provider answered first",
            row.received_s,
        )
    decoded.seq = table.insert(
        connection,
        table.InboxRow(
            row.origin, row.message_id, row.target, row.epoch, decoded.state.value, 0, row.conversation_id,
            row.in_reply_to, row.hops, row.received_s, row.expires_s, row.traceparent, row.sealed, ended_s,
            decoded.reason, proof_id,
        ),
    )  # fmt: skip


def _first_held(connection: apsw.Connection, target: str) -> tuple[list[table.InboxRow], bool]:
    found: list[table.InboxRow] = []
    for row in table.held(connection, target):
        if len(found) >= REFUSE_BATCH:
            return found, False
        found.append(row)
    return found, True


def _refuse(
    connection: apsw.Connection, *, rows: list[table.InboxRow], wall: float, reason: str
) -> list[table.InboxRow]:
    state = end(ItemState.HELD, Handling.NO_AGENT)
    return [row for row in rows if table.finish(connection, row.seq, state.value, wall, reason)]


def _proof_values(proof: FrameProof) -> list[object]:
    return [proof.credential, proof.receiver, list(proof.hashes), proof.envelopes, proof.signature]
