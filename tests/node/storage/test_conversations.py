"""What is known of conversations: from their messages while there are any, and from notes beyond."""

from __future__ import annotations

import pytest

from node.storage import conversations, inbox, outbox
from node.storage.conversations import BRANCH, MERGE, Kin, Place, Span
from node.storage.query import of_conversation, rows
from tests.node.storage.test_tables import accept, connection, ends, handled, inbox_row, outbox_row

__all__ = ["connection"]


def send(connection, seq, conversation, at_s):
    accept(connection, outbox_row(seq, conversation_id=conversation, accepted_s=at_s))


def receive(connection, number, conversation, at_s):
    inbox.insert(connection, inbox_row(number, conversation_id=conversation, received_s=at_s), None)


def test_a_span_reaches_over_messages_sent_and_received_and_notes(connection):
    assert conversations.span(connection, "talk") is None
    send(connection, 1, "talk", 5.0)
    send(connection, 2, "other", 1.0)
    send(connection, 3, "talk", 6.0)
    assert conversations.span(connection, "talk") == Span(5.0, 6.0, None)
    receive(connection, 1, "talk", 4.0)
    receive(connection, 2, "talk", 9.0)
    assert conversations.span(connection, "talk") == Span(4.0, 9.0, None)
    conversations.note(connection, [("talk", 3.0), ("talk", 2.0), ("talk", 7.0)])
    assert conversations.span(connection, "talk") == Span(2.0, 9.0, None)


def test_a_message_that_began_a_conversation_under_its_own_id_is_one_of_it(connection):
    for seq, conversation in ((1, "m1"), (2, "m2"), (3, "m1"), (4, "talk"), (5, "m1")):
        send(connection, seq, conversation, float(seq))
        receive(connection, seq, conversation, 10.0 + seq)
    sent = [row.seq for row in outbox.conversation(connection, "m1", 9)]
    assert sent == [row.seq for row in inbox.conversation(connection, "m1", 9)] == [1, 3, 5]
    assert [row.seq for row in outbox.conversation(connection, "m1", 2)] == [3, 5]
    assert [row.seq for row in outbox.conversation_after(connection, "m1", 0, 2)] == [1, 3]
    assert [row.seq for row in inbox.conversation_after(connection, "m1", 1, 9)] == [3, 5]
    assert len(inbox.earlier(connection, "m1", "a", before=5, limit=9)) == 2
    assert conversations.span(connection, "m1") == Span(1.0, 15.0, None)
    assert conversations.span(connection, "m2") == Span(2.0, 12.0, None)
    assert conversations.has_later(connection, "m2", Place(outbox=2, inbox=9))
    assert not conversations.has_later(connection, "m2", Place(outbox=3, inbox=3))


@pytest.mark.parametrize("table", ["outbox", "backlog", "inbox"])
def test_messages_of_a_conversation_are_found_without_looking_at_others(connection, table):
    sql = of_conversation(table, "seq", further="seq > ?3")
    plan = [row[3] for row in rows(connection, f"EXPLAIN QUERY PLAN {sql}", ("talk", 9, 0))]
    found = [step for step in plan if table in step]
    assert len(found) == 2
    assert all(step.startswith(f"SEARCH {table} USING") for step in found), plan


def test_the_first_archiving_counts(connection):
    for at_s in (50.0, 60.0):
        conversations.archive(connection, "talk", Span(1.0, 8.0, None), at_s)
    assert conversations.span(connection, "talk") == Span(1.0, 8.0, 50.0)


def test_messages_that_are_forgotten_leave_a_note_if_they_are_old_enough(connection):
    for seq, at_s in ((1, 10.0), (2, 20.0), (3, 30.0)):
        send(connection, seq, "sent", at_s)
        receive(connection, seq, "got", at_s + 1)
        ends(connection, seq, "settled", at_s)
        handled(connection, seq, "settled", at_s)
    outbox.forget(connection, 0, ended_before_s=99.0, keep=0, noted_before_s=25.0)
    inbox.forget(
        connection, 0, ended_before_s=99.0, keep=0, noted_before_s=25.0, is_forgotten=lambda *_: True
    )
    assert conversations.span(connection, "sent") == Span(10.0, 20.0, None)
    assert conversations.span(connection, "got") == Span(11.0, 21.0, None)


def test_sent_and_received_messages_are_walked_as_one_line_from_either_end(connection):
    for seq, at_s in ((1, 10.0), (2, 30.0), (3, 50.0)):
        send(connection, seq, f"s{seq}", at_s)
        receive(connection, seq, f"r{seq}", at_s + 10)
    everything = ["s1", "r1", "s2", "r2", "s3", "r3"]
    for walk, expected in (
        (conversations.newest, everything[::-1]),
        (conversations.oldest, everything),
    ):
        for step in (1, 2, 4, 6, 9):
            found, place = [], None
            while True:
                part = walk(connection, place, step)
                found += [activity.conversation_id for activity in part]
                if len(part) < step:
                    break
                place = part[-1].place
            assert found == expected, (walk, step)


def test_a_conversation_has_later_messages_than_a_place_in_either_table(connection):
    send(connection, 5, "sent", 1.0)
    receive(connection, 1, "got", 1.0)
    for name, place, later in (
        ("sent", Place(5, 9), True),
        ("sent", Place(6, 1), False),
        ("got", Place(9, 1), True),
        ("got", Place(1, 2), False),
    ):
        assert conversations.has_later(connection, name, place) is later, (name, place)


def test_kin_is_found_from_both_sides_once_and_in_a_bounded_number(connection, monkeypatch):
    several = [Kin("side", BRANCH, "main"), Kin("end", MERGE, "main"), Kin("end", MERGE, "side")]
    for _ in range(2):
        conversations.relate(connection, several, 1.0)
    assert conversations.kin(connection, "main") == several[:2]
    assert conversations.kin(connection, "side") == [several[0], several[2]]
    assert conversations.kin(connection, "end") == several[1:]
    monkeypatch.setattr(conversations, "KIN_SHOWN", 1)
    assert conversations.kin(connection, "main") == several[:1]


def test_what_is_remembered_is_bounded_by_number_and_by_age(connection, monkeypatch):
    conversations.note(connection, [(f"c{n}", float(n)) for n in range(10)])
    conversations.relate(connection, [Kin("c", MERGE, f"c{n}") for n in range(10)], 5.0)
    conversations.forget(connection, 4.0)
    left = [row[0] for row in connection.execute("SELECT conversation_id FROM conversations ORDER BY seq")]
    assert left == [f"c{n}" for n in range(4, 10)]
    monkeypatch.setattr(conversations, "ROW_LIMIT", 3)
    conversations.forget(connection, 4.0)
    left = [row[0] for row in connection.execute("SELECT conversation_id FROM conversations ORDER BY seq")]
    assert left == ["c7", "c8", "c9"]
    assert connection.execute("SELECT count(*) FROM conversation_kin").fetchall() == [(3,)]
    conversations.forget(connection, 6.0)
    assert connection.execute("SELECT count(*) FROM conversation_kin").fetchall() == [(0,)]
