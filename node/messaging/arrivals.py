"""The receiver's core: what is taken, what is refused, and what follows once storage has spoken.

It does no I/O. Deliveries are judged (:meth:`Arrivals.judge`); storage then looks each one up and
says what :mod:`node.messaging.receiver` makes of it; with these answers :meth:`Arrivals.stored` acknowledges,
offers to mailboxes and hands replies over. :mod:`node.messaging.inbox` runs it over storage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from node.config.model import MessagingConfig
from node.errors import ValidationFailed
from node.message import Message
from node.messaging.fences import BEHIND, FENCES_LIMIT, Fences, Line
from node.messaging.mailboxes import Entry
from node.messaging.ports import Time
from node.messaging.receiver import OUTCOMES, ArrivalAction, ItemState
from node.messaging.settings import CLIENTS, INBOX_ROW_LIMIT, TTL_LIMIT_S
from node.storage import inbox as table
from node.transport.frames import DeliverItem, DeliveryKey, Outcome

OVERLOADED: Final = "the inbox is full"
_HANDLED: Final = (ArrivalAction.STORE, ArrivalAction.HOLD_AGAIN)
Arrived = tuple[DeliverItem, Message | None]
"""A delivery, and its message where it is already decoded."""
Told = Callable[[str, list[DeliveryKey], list[Outcome]], None]


class Arriving(msgspec.Struct, eq=False, gc=False):
    """One decoded delivery on its way into the table; storage answers in the last four fields.

    They are made for a delivery that is new: storage sets what is otherwise.
    """

    item: DeliverItem
    message: Message
    row: table.InboxRow
    kept: bool
    state: ItemState
    action: ArrivalAction = ArrivalAction.STORE
    seq: int = 0
    reason: str = ""
    turned_away: str = ""
    """Why nothing more is taken; storage refuses it for this reason unless it is here already."""
    behind: int = 0
    """The row of the refused message that it may be behind; 0 where that has none."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Deliveries that came together and are to be looked up, and the ends of those that are no messages."""

    number: int
    origin: str
    items: list[Arriving]
    outcomes: list[Outcome]


class Ended(NamedTuple):
    """A held message that has ended."""

    origin: str
    key: DeliveryKey
    state: ItemState
    reason: str


@dataclass(frozen=True, slots=True)
class Receivers:
    """What the core asks of the node around it, and whom it tells.

    Args:
        time: Now, and the time of day.
        accepts: Says why an agent takes no messages, or the empty string when it does.
        concerns: Whether somebody waits, or has waited, for this reply.
        owes: Whether the end of (origin, message id, target) is not to be told yet.
        answer: Hands a reply to whoever waits for it.
        offer: Hands held messages to their agent.
        raise_epoch: Tells the agent's mailbox of a higher epoch.
        tell: Tells a node (this one included) what was received and how it ended.
        owe: Has an end told when these replies have arrived.
        on_reply: Called with what a reply quotes, and its sender, when it is the first to be stored.
    """

    time: Time
    accepts: Callable[[str], str]
    concerns: Callable[[Message], bool]
    owes: Callable[[str, str, str], bool]
    answer: Callable[[Message], object]
    offer: Callable[[str, Sequence[Entry]], None]
    raise_epoch: Callable[[str, int, int], None]
    tell: Told
    owe: Callable[[str, Outcome, Sequence[str]], None]
    on_reply: Callable[[str, str], None]


class Arrivals:
    """What was received and has not been forgotten, in numbers; see the module's docstring.

    Args:
        node: This node's name.
        settings: The section ``messaging``.
        around: The node around it.
    """

    def __init__(self, *, node: str, settings: MessagingConfig, around: Receivers) -> None:
        self._node, self._settings, self._around = node, settings, around
        self._time = around.time
        self._held = self._rows = self._batches = 0
        self._is_full = False
        self._fences = Fences(around.time.now)
        self._unsure: dict[str, float | None] = {}
        self._booted_s = around.time.wall()
        self._counts = dict.fromkeys(
            ("received", "duplicates", "poison", "refused", "settled", "failed", "late"), 0
        )

    def begin(self, held: int, rows: int) -> None:
        """Learn how much is held and stored."""
        self._held, self._rows = held, rows

    def judge(self, origin: str, arrived: Sequence[Arrived]) -> Batch:
        """Decode deliveries that came together, and say of each what storage is to turn away if it is new."""
        self._batches += 1
        batch = Batch(self._batches, origin, [], [])
        room, fenced = self.room, bool(self._fences)
        is_full = self._is_full or self._rows >= INBOX_ROW_LIMIT
        wall = self._time.wall()
        refusals: dict[str, str] = {}  # nothing attaches, or stops, an agent meanwhile
        for item, message in arrived:
            try:
                decoded = self._decode(origin, item, message, wall)
            except ValidationFailed as error:
                self._counts["poison"] += 1
                batch.outcomes.append(Outcome(item.key, "failed", f"not deliverable: {error}"))
                continue
            batch.items.append(decoded)  # what is here is answered with how it stands
            if decoded.kept:
                decoded.turned_away = OVERLOADED if is_full else ""
                continue
            target = item.envelope.target
            refusal = refusals.get(target)
            if refusal is None:
                refusal = refusals[target] = self._around.accepts(target)
            if not refusal and room <= 0:
                refusal = OVERLOADED
            if not refusal:
                room -= 1
                if fenced:
                    refusal = self._behind(decoded)
            decoded.turned_away = refusal
        return batch

    def stored(self, batch: Batch) -> None:
        """What follows from deliveries that came together, now that they are durable."""
        outcomes = list(batch.outcomes)
        received: list[DeliveryKey] = []
        held: dict[str, list[Entry]] = {}
        new = 0
        now, wall = self._time.now(), self._time.wall()
        for decoded in batch.items:
            action, state = decoded.action, decoded.state
            if action is ArrivalAction.WITHDRAW:
                continue
            received.append(decoded.item.key)
            if action is ArrivalAction.STORE:
                new += 1
                quoted = decoded.message.in_reply_to
                if quoted is not None and state is not ItemState.LATE:
                    self._around.on_reply(quoted, decoded.message.sender)
            if state is ItemState.HELD and action in _HANDLED:
                entry = _entry(decoded.row, decoded.seq, decoded.message, now, wall)
                held.setdefault(decoded.row.target, []).append(entry)
            else:
                self._offer(held)  # what follows may be about a message that came just before
                self._after(decoded, outcomes)
        self._offer(held)
        self._counts["received"] += new
        self._rows += new
        if outcomes:  # an end says that it was received, too
            ended = {outcome.key for outcome in outcomes}
            received = [key for key in received if key not in ended]
        self._around.tell(batch.origin, received, outcomes)

    def gave_back(self, given: Sequence[tuple[str, str, str, str, str, int]]) -> None:
        """Held messages go back to their origins, for now.

        Args:
            given: Of each the origin, the agent, the conversation, the sender, the id and the row, in order.
        """
        for origin, target, conversation_id, sender, message_id, seq in given:
            self._fences.refused(Line(origin, target, conversation_id, sender), message_id, seq)

    def ended(self, several: Sequence[tuple[Ended, Sequence[str]]]) -> None:
        """Held messages have ended, durably; with replies (ids) an origin is told when those arrive."""
        told: dict[str, list[Outcome]] = {}
        self._held -= len(several)
        for ended, replies in several:
            state = ended.state
            self._counts[state] += 1
            outcome = Outcome(ended.key, OUTCOMES[state], ended.reason)
            if replies:
                self._around.owe(ended.origin, outcome, replies)
            else:
                told.setdefault(ended.origin, []).append(outcome)
        for origin, outcomes in told.items():
            self._around.tell(origin, [], outcomes)

    def entry(self, row: table.InboxRow, seq: int, message: Message) -> Entry:
        """A stored message for a mailbox."""
        return _entry(row, seq, message, self._time.now(), self._time.wall())

    @property
    def room(self) -> int:
        """How many more messages may be held."""
        if self._is_full:
            return 0
        return min(self._settings.inbox_capacity - self._held, INBOX_ROW_LIMIT - self._rows)

    def filled(self, is_full: bool) -> None:
        """Whether what was received weighs so much that nothing more is taken."""
        self._is_full = is_full

    def origin_lost(self, node: str) -> None:
        """What ``node`` has heard from here is uncertain until it is back."""
        self._unsure.setdefault(node, None)

    def origin_back(self, node: str) -> None:
        """``node`` is back, and asks about what it has not heard."""
        if node in self._unsure:
            self._unsure[node] = self._time.wall()

    def watermark(self, margin_s: float) -> float:
        """Unix seconds before which every origin is sure to have heard how its messages ended here."""
        wall = self._time.wall()
        is_pressed = self._is_full or self._rows >= INBOX_ROW_LIMIT // 2
        if wall - self._booted_s < self._settings.default_ttl_s and not is_pressed:
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
            "rows": self._rows,
            "rows_limit": INBOX_ROW_LIMIT,
            "fences": len(self._fences),
            "fences_limit": FENCES_LIMIT,
            **self._counts,
        }

    def _behind(self, decoded: Arriving) -> str:
        """Why a message that may come in is turned away all the same, if storage does not know better."""
        behind = self._fences.keeps_out(_line(decoded), decoded.message.id)
        if behind is None:
            return ""
        decoded.behind = behind
        return BEHIND

    def _decode(self, origin: str, item: DeliverItem, known: Message | None, wall: float) -> Arriving:
        message = known or Message.unseal(item.sealed)
        envelope = item.envelope
        if message.id != item.message_id:
            raise ValidationFailed("the sealed message has another id than its envelope")
        if message.sender.rpartition("@")[2] != origin:
            raise ValidationFailed(
                f"{message.sender} is not of the node it came from", why=f"that is {origin}"
            )
        if message.receiver is not None:
            agent, at, node = message.receiver.rpartition("@")
            if at and (agent, node) != (envelope.target, self._node):
                raise ValidationFailed(f"it is for {message.receiver}")
        kept = envelope.target in CLIENTS or (
            message.in_reply_to is not None and self._around.concerns(message)
        )
        state = ItemState.SETTLED if kept else ItemState.HELD
        row = table.InboxRow(
            origin, message.id, envelope.target, envelope.route_epoch, state._value_, 0,
            message.conversation_id, message.in_reply_to, envelope.hops, wall,
            wall + min(envelope.remaining_s, TTL_LIMIT_S), envelope.traceparent, item.sealed,
            wall if kept else None,
        )  # fmt: skip
        return Arriving(item, message, row, kept, state)

    def _refused(self, decoded: Arriving) -> None:
        self._counts["refused"] += 1
        if decoded.reason != BEHIND:  # else it has its fence, or had: what that waited for came with it
            self._fences.refused(_line(decoded), decoded.item.message_id, decoded.seq)

    def _offer(self, held: dict[str, list[Entry]]) -> None:
        """Hand over what is held."""
        for target, entries in held.items():
            self._held += len(entries)
            self._around.offer(target, entries)
        held.clear()

    def _after(self, decoded: Arriving, outcomes: list[Outcome]) -> None:
        """What follows from one delivery that is not to be handled now."""
        item, action, state = decoded.item, decoded.action, decoded.state
        if action is ArrivalAction.REFUSE:
            self._refused(decoded)
            outcomes.append(Outcome(item.key, "refused", decoded.reason))
            return
        if action is not ArrivalAction.STORE:
            self._counts["duplicates"] += 1
        if action is ArrivalAction.RAISE_EPOCH:
            self._around.raise_epoch(item.envelope.target, decoded.seq, item.envelope.route_epoch)
        if state is ItemState.HELD:
            return
        if action is ArrivalAction.STORE:
            self._counts[state] += 1
            if state is ItemState.SETTLED:
                self._around.answer(decoded.message)
        if not self._around.owes(decoded.row.origin, item.message_id, item.envelope.target):
            outcomes.append(Outcome(item.key, OUTCOMES[state], decoded.reason))


def _line(decoded: Arriving) -> Line:
    message = decoded.message
    return Line(decoded.row.origin, decoded.row.target, message.conversation_id, message.sender)


def _entry(row: table.InboxRow, seq: int, message: Message, now: float, wall: float) -> Entry:
    deadline = now + min(row.expires_s - wall, TTL_LIMIT_S)  # the wall clock may have gone back
    return Entry(seq, row.origin, message, row.epoch, row.attempts, row.hops, deadline, row.traceparent)
