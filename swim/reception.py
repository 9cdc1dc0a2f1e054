"""What one datagram does: statements are learned first, then each message is answered.

A statement that still waits to be passed on, or that came a moment ago, is recognised by its bytes and
costs no decoding. Probes and their answers count only with the tag of the sender's latest life; whoever
cannot check one asks the sender who it is. A forged statement ends the packet: no honest member passes one
on, and so a flood of them costs one signature check per packet.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

from swim.broadcast import RumourQueue
from swim.codec import IN_DATAGRAM, decode_message, is_statement
from swim.coordinates import Coordinate, Vivaldi
from swim.learning import Learning
from swim.members import MemberTable, Record, State
from swim.messages import (
    Ack,
    Address,
    DecodeError,
    MapFrame,
    Message,
    Nack,
    Packet,
    Ping,
    PingRequest,
    RollFrame,
    Statement,
    UserFrame,
    Who,
)
from swim.pairwise import Pairwise, Tagged
from swim.probe import Prober
from swim.repair import Repair

MAX_SEEN: Final = 256
"""Statements whose bytes are remembered, so that the next copy of them costs little."""

CORRECTION_PAUSE_S: Final = 0.5
"""Least time between two corrections of one member that spreads outdated accusations."""
MAX_CORRECTED: Final = 256
"""Members that such times are kept for."""


class Owner(Protocol):
    """What reception needs of the protocol around it."""

    name: str

    def send(self, record: Record, messages: Sequence[Message], *, statements: Sequence[bytes] = ()) -> None:
        """Send messages in a datagram, tagged for the receiver."""

    def send_to(self, to: Address, messages: Sequence[Message], record: Record | None, *,
                statements: Sequence[bytes] = ()) -> None:  # fmt: skip
        """Send messages in a datagram to an address."""

    def introduction(self) -> list[bytes]:
        """Return the statements that tell a stranger who this is."""

    def ack(self, ping: Ping) -> Ack:
        """Return the answer to a ping, not tagged yet."""

    def transmissions(self) -> int:
        """Return how often a rumour is sent."""

    def heard(self, name: str, now: float) -> None:
        """A member has said something that only itself can say."""

    def take_user_frame(self, frame: UserFrame, sender: str, now: float) -> None:
        """Take user traffic."""


class Reception:
    """Handles the messages of datagrams.

    Args:
        owner: the protocol around it.
        learning: takes statements.
        prober: takes probes and their answers.
        repair: takes roots and frames.
        pairwise: checks tags.
        vivaldi: learns from round trips.
        table: who is known.
        rumours: what waits to be passed on.
        counts: where drops are counted.
    """

    def __init__(
        self,
        owner: Owner,
        *,
        learning: Learning,
        prober: Prober,
        repair: Repair,
        pairwise: Pairwise,
        vivaldi: Vivaldi,
        table: MemberTable,
        rumours: RumourQueue,
        counts: Counter[str],
    ) -> None:
        self._owner = owner
        self._learning = learning
        self._prober = prober
        self._repair = repair
        self._pairwise = pairwise
        self._vivaldi = vivaldi
        self._table = table
        self._rumours = rumours
        self._counts = counts
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._corrected: OrderedDict[str, float] = OrderedDict()

    def take(self, packet: Packet, source: Address, now: float) -> None:
        """Handle all messages of a packet."""
        sender = packet.sender
        was_stranger = self._table.get(sender) is None
        others: list[bytes] = []
        try:
            for encoded in packet.messages:  # news first, so that answers carry its consequences
                if is_statement(encoded):
                    self.take_statement(encoded, sender, now)
                else:
                    others.append(encoded)
            if was_stranger and (record := self._table.get(sender)) is not None:
                self._repair.welcome(record)
            for encoded in others:
                self._handle(decode_message(encoded, IN_DATAGRAM), sender, source, now)
        except DecodeError as error:
            self._counts[f"dropped_{error.reason}"] += 1

    def take_statement(self, encoded: bytes, sender: str, now: float) -> None:
        """Take a statement that came as news.

        Raises:
            DecodeError: if it is none, or forged.
        """
        if self._rumours.heard(encoded, self._owner.transmissions()) or encoded in self._seen:
            return
        statement = self.decode_statement(encoded)
        newer = self._learning.learn(statement, encoded, sender, now)
        if newer:
            self._correct(sender, newer, now)
            return  # not remembered, so that the next copy is corrected again: the answer may be lost
        self._seen[encoded] = None
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)

    def forget_seen(self) -> None:
        """Look at all statements anew: somebody was dropped from the table, whose word may be news again."""
        self._seen.clear()

    def decode_statement(self, encoded: bytes) -> Statement:
        """Decode a statement.

        Raises:
            DecodeError: if it is none.
        """
        if not is_statement(encoded):
            raise DecodeError("unknown_message")
        statement: Statement = decode_message(encoded, IN_DATAGRAM)  # type: ignore[assignment]
        return statement

    def authentic(self, message: Tagged, sender: str, now: float) -> Record | None:
        """Return the record of the sender of a message if it carries the tag of its latest life."""
        record = self._table.get(sender) or self._learning.knocked(sender)
        if record is None or not self._pairwise.is_from(message, sender, record.alive.exchange_key):
            self._counts["dropped_probe_of_stranger" if record is None else "dropped_bad_tag"] += 1
            return None
        record.last_heard = now
        self._owner.heard(sender, now)
        return record

    def take_ack(self, ack: Ack, sender: str, now: float, *, by_stream: bool = False) -> None:
        """Take the answer to a ping, from its subject or from a relay."""
        record = self.authentic(ack, sender, now)
        if record is None:
            return
        rtt_s, shown = self._prober.acked(ack, sender, now, by_stream=by_stream)
        if ack.subject:
            return
        if ack.coordinate:
            try:
                record.coordinate = Coordinate.unpack(ack.coordinate)
            except ValueError:
                self._counts["dropped_bad_coordinate"] += 1
            else:
                if rtt_s is not None and record.rtt.observe(rtt_s):
                    self._vivaldi.update(sender, record.coordinate, rtt_s, now)
        root = ack.root or shown
        if root and record.is_up and not by_stream:
            self._repair.compare(record, root, now)

    def statistics(self) -> dict[str, int]:
        """Count statements whose bytes are remembered, and members that were corrected lately."""
        return {"statements_seen": len(self._seen), "members_corrected": len(self._corrected)}

    # ---- inside -----------------------------------------------------------------------------

    def _correct(self, sender: str, newer: Sequence[bytes], now: float) -> None:
        """Tell a member that spreads an outdated accusation what its subject has said since."""
        record = self._table.get(sender)
        if record is None or now < self._corrected.get(sender, -math.inf) + CORRECTION_PAUSE_S:
            return
        self._corrected[sender] = now
        self._corrected.move_to_end(sender)
        if len(self._corrected) > MAX_CORRECTED:
            self._corrected.popitem(last=False)
        self._counts["corrections"] += 1
        self._owner.send(record, [], statements=newer)

    def _handle(self, message: Message, sender: str, source: Address, now: float) -> None:
        match message:
            case Ping():
                self._answer(message, sender, source, now)
            case Ack():
                self.take_ack(message, sender, now)
            case PingRequest() | Nack():
                record = self.authentic(message, sender, now)
                if record is not None and isinstance(message, Nack):
                    self._prober.nacked(message, sender)
                elif record is not None and isinstance(message, PingRequest):
                    self._prober.relay(message, record, now)
            case Who():
                self._prober.asked_who(message.sequence, sender)
            case UserFrame():
                self._owner.take_user_frame(message, sender, now)
            case MapFrame() | RollFrame():
                record = self._table.get(sender)
                if record is None or not record.is_up:
                    self._counts["dropped_frame_of_stranger"] += 1
                elif isinstance(message, MapFrame):
                    self._repair.take_map_frame(record, message.frame, now)
                else:
                    self._repair.take_roll_frame(record, message.frame, now)

    def _answer(self, ping: Ping, sender: str, source: Address, now: float) -> None:
        if ping.target != self._owner.name:
            self._counts["dropped_wrong_target"] += 1
            return
        record = self.authentic(ping, sender, now)
        if record is None:
            # A stranger, or a later or earlier life of a member: it shall learn of us, and we of it.
            known = self._table.get(sender)
            statements = self._owner.introduction()
            if known is not None:
                # Only the goodbye says which word ends it: a later life whose clock is behind outbids that.
                statements.append(known.encoded_verdict if known.state is State.LEFT else known.encoded)
            self._owner.send_to(source, [Who(ping.sequence)], None, statements=statements)
            return
        tagged = self._pairwise.tagged(self._owner.ack(ping), record.alive.exchange_key)
        self._owner.send_to(source, [tagged], record)
        if record.is_up:
            self._repair.compare(record, ping.root, now)
