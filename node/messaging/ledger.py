"""What the outbox writes: accepted messages, all that goes along with them, and what was decided since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import apsw

from node.environment import Clock
from node.messaging.conversation_view import kin_of
from node.messaging.dead_letters import awaits_reply
from node.messaging.decisions import Changes
from node.messaging.letterbox import bury
from node.messaging.letters import OPEN, Letter
from node.messaging.ports import ExpectedReplies
from node.storage import backlog, message_blobs
from node.storage import conversations as conversation_table
from node.storage import dead_letters as dead_letter_table
from node.storage import decisions as decision_table
from node.storage import outbox as table
from node.storage.dead_letters import Totals
from node.storage.decisions import DecisionRow


class Ledger:
    """The outbox's part of the database.

    Args:
        clock: Dates ends.
        backlog_count: How many messages wait on disk only.
    """

    def __init__(self, *, clock: Clock, backlog_count: Callable[[], int]) -> None:
        self._clock, self._backlog_count = clock, backlog_count
        self.expectations: ExpectedReplies  # given later: each of the two needs the other

    def insert(self, connection: apsw.Connection, letters: Sequence[Letter]) -> frozenset[int]:
        """Write prepared messages; part of the caller's job.

        Returns:
            The seqs of those whose id was known already: they are not written.
        """
        carrying = [letter for letter in letters if letter.message.attachments]
        if carrying:
            message_blobs.add(
                connection, [(blob, each.seq) for each in carrying for blob in each.message.blobs]
            )
        if self._backlog_count():
            parked = [backlog.Parked(letter.wanted, letter.row()) for letter in letters if letter.parked]
            letters = [letter for letter in letters if not letter.parked]
            known = backlog.insert(connection, parked)
            ids = {letter.message.id: letter.seq for letter in letters}
            known |= {ids[found] for found in backlog.known(connection, list(ids))}
            letters = [letter for letter in letters if letter.seq not in known]
            return known | self._insert(connection, letters)
        return self._insert(connection, letters)

    def job(self, changes: Changes) -> Callable[[apsw.Connection], Totals | None]:
        """What makes a round of decisions durable."""
        wall = self._clock.wall()
        routes = dict(changes.routes)
        ends, ends_with_routes = [], []
        for letter in changes.ended:
            end = (letter.seq, letter.ended, wall, letter.reason)
            own = letter.own
            if own is not None and own.decision is None and routes.pop(id(own), None) is not None:
                ends_with_routes.append(
                    (
                        *end,
                        own.state._value_,
                        own.attempts,
                        own.sent_s,
                        own.received_s,
                        own.ended_s,
                        own.reason,
                    )
                )
            else:
                ends.append(end)
        further = [(route.own, route.row()) for route in routes.values()]
        dead, told, decided = list(changes.lost), list(changes.told), list(changes.decisions)

        taken_up = list(changes.taken_up)

        def job(connection: apsw.Connection) -> Totals | None:
            if taken_up:
                backlog.remove(connection, [letter.seq for letter in taken_up])
                self._insert(connection, taken_up, end=False)
            for decision in decided:
                decision_table.save(connection, decision)
            for own, row in further:
                (table.save_own_route if own else table.save_route)(connection, row)
            for seq, event in changes.events:
                table.add_event(connection, seq, event)
            table.finish(connection, ends)
            table.finish_with_route(connection, ends_with_routes)
            for letter in dead:
                bury(connection, letter, wall)
            if told:
                self.insert(connection, told)
            return dead_letter_table.trim(connection) if dead else None

        return job

    def _insert(
        self, connection: apsw.Connection, letters: Sequence[Letter], *, end: bool = True
    ) -> frozenset[int]:
        """Write messages; ``end`` says whether the ends that some have already are written with them."""
        rows = []
        for letter in letters:
            own = letter.own
            ended_s = letter.accepted_s if end and letter.ended != OPEN else None
            rows.append((letter.row(ended_s), None if own is None else own.row()))
        known = table.insert(connection, rows)
        for letter in letters:
            if letter.seq not in known and (letter.own is None or letter.ended != OPEN):
                self._insert_beside(connection, letter, end=end)
            if letter.message.has_kin:
                conversation_table.relate(connection, kin_of(letter.message), letter.accepted_s)
        written = [letter for letter in expected(letters) if letter.seq not in known]
        if written:
            self.expectations.write(connection, written)
        return known

    def _insert_beside(self, connection: apsw.Connection, letter: Letter, *, end: bool) -> None:
        """What most messages do not have: routes of a broadcast, a wait, and an end before the beginning."""
        for route in letter.routes.values():
            if not route.own:
                table.save_route(connection, route.row())
        if letter.wait is not None:
            decision_table.save(
                connection, DecisionRow(letter.seq, letter.epoch + 1, letter.accepted_s, letter.wait)
            )
        if end and letter.ended not in (OPEN, "settled"):
            bury(connection, letter, letter.accepted_s)
            dead_letter_table.trim(connection)


def expected(letters: Iterable[Letter]) -> list[Letter]:
    """Those whose senders are told when no reply comes in time."""
    in_time = [letter for letter in letters if letter.message.reply_by_s is not None]
    return [letter for letter in in_time if awaits_reply(letter.message)] if in_time else in_time
