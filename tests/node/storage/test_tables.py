import dataclasses
from functools import partial

import apsw
import pytest

from node.storage import (
    agents,
    dead_letters,
    decisions,
    expectations,
    inbox,
    migrations,
    outbox,
    snapshots,
    weight,
)
from node.storage.query import rows


@pytest.fixture
def connection():
    connection = apsw.Connection(":memory:")
    connection.execute("PRAGMA foreign_keys = 1")
    migrations.migrate(connection)
    yield connection
    connection.close()


def outbox_row(seq=1, **changes):
    row = outbox.OutboxRow(
        seq, f"m{seq}", "c", None, "open", broadcast=False, accepted_s=seq, expires_s=99, hops=0,
        traceparent="", sealed=b"sealed",
    )  # fmt: skip
    return row._replace(**changes)


def route_row(seq=1, **changes):
    row = outbox.RouteRow(seq, "a", "n", 0, "queued", 0, 1.0, None, None, None, "", b"why")
    return row._replace(**changes)


def inbox_row(number=1, **changes):
    row = inbox.InboxRow(
        "n1", f"m{number}", "a", 0, "held", 0, "c", None, 0, float(number), 99.0, "", b"sealed"
    )
    return row._replace(**changes)


def received(number):
    return (*inbox_row(number)[: inbox.PROOF], None)


def accept(connection, row, route=None):
    return outbox.insert(connection, [(row, route)])


def ends(connection, seq, state, at_s=5.0, reason=""):
    outbox.finish(connection, [(seq, state, at_s, reason)])


def handled(connection, seq, state, at_s, reason=""):
    return inbox.finish_many(connection, [(state, at_s, reason, None, 0, seq)])


def test_migrating_twice_takes_no_step(connection):
    assert migrations.migrate(connection) == 0


def test_a_step_that_fails_leaves_the_schema_where_it_was(connection):
    with pytest.raises(apsw.SQLError):
        migrations.migrate(connection, (*migrations.STEPS, "CREATE TABLE fresh (a); CREATE TABLE meta (b)"))
    assert connection.execute("PRAGMA user_version").fetchall() == [(len(migrations.STEPS),)]
    assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'fresh'").fetchall() == [(0,)]


def test_open_messages_come_back_with_their_routes_in_order(connection):
    for seq in (2, 1, 3):
        accept(connection, outbox_row(seq))
    outbox.save_route(connection, route_row(1, epoch=1, node="z"))
    outbox.save_route(connection, route_row(1, state="moved"))
    ends(connection, 2, "settled")
    found = outbox.load_open(connection, 10)
    assert [row.seq for row, _, _ in found] == [1, 3]
    assert found[0][1] is None
    assert {(route.node, route.epoch) for route in found[0][2]} == {("n", 0), ("z", 1)}
    assert [route.node for route in outbox.routes(connection, 1)] == ["n", "z"]
    assert outbox.find(connection, "m2").state == "settled"


def test_a_route_keeps_its_decision_when_its_state_changes(connection):
    accept(connection, outbox_row())
    outbox.save_route(connection, route_row())
    outbox.save_route(connection, route_row(state="settled", ended_s=2.0, decision=None))
    [route] = outbox.routes(connection, 1)
    assert (route.state, route.decision) == ("settled", b"why")


def test_the_own_route_of_a_message_stands_in_its_row(connection):
    accept(connection, outbox_row(1), route_row(1))
    accept(connection, outbox_row(2))
    outbox.save_own_route(connection, route_row(2, node="later"))
    outbox.save_own_route(connection, route_row(1, state="moved", decision=None))
    outbox.save_route(connection, route_row(1, epoch=1, node="z"))
    assert connection.execute("SELECT count(*) FROM routes").fetchall() == [(1,)]
    first, second = outbox.load_open(connection, 10)
    assert first[1:] == (route_row(1, state="moved"), [route_row(1, epoch=1, node="z")])
    assert second[1:] == (route_row(2, node="later"), [])
    outbox.finish_with_route(connection, [(2, "failed", 5.0, "why", "failed", 3, 2.0, None, 4.0, "it broke")])
    assert outbox.find(connection, "m2").reason == "why"
    assert outbox.routes(connection, 2) == [
        route_row(2, node="later", state="failed", attempts=3, sent_s=2.0, ended_s=4.0, reason="it broke")
    ]


def test_a_message_that_was_accepted_before_is_told_and_the_others_are_stored(connection):
    accept(connection, outbox_row(1))
    found = outbox.insert(connection, [(outbox_row(2), None), (outbox_row(3, message_id="m1"), None)])
    assert found == {3}
    assert outbox.find(connection, "m2").seq == 2
    assert outbox.find(connection, "m1").seq == 1


def test_received_messages_are_stored_together_or_not_at_all(connection):
    assert list(inbox.insert_many(connection, [received(1), received(2)])) == [1, 2]
    for together in ([3, 2], [2, 3], [1, 2], [3, 3], [2, 4, 1, 5, 2]):
        assert inbox.insert_many(connection, [received(number) for number in together]) is None
        assert inbox.count(connection) == 2
    assert inbox.find_key(connection, "n1", "m2", "a").seq == 2
    assert list(inbox.insert_many(connection, [received(3)])) == [3]


def test_of_a_batch_that_ends_only_what_had_not_ended_before_is_told(connection):
    assert list(inbox.insert_many(connection, [received(number) for number in (1, 2, 3)])) == [1, 2, 3]
    assert inbox.finish_many(connection, [("settled", 5.0, "", 4.0, 0, seq) for seq in (1, 3)]) == [1, 3]
    late = [("failed", 6.0, "late", None, 1, seq) for seq in (1, 2, 3)]
    assert inbox.finish_many(connection, late) == [2]
    assert [inbox.find_key(connection, "n1", f"m{number}", "a").state for number in (1, 2, 3)] == [
        *("settled", "failed", "settled")
    ]
    assert inbox.finish_many(connection, []) == []


def test_the_first_end_of_a_message_wins(connection):
    accept(connection, outbox_row())
    ends(connection, 1, "expired", 5.0, "time")
    ends(connection, 1, "settled", 6.0)
    assert (outbox.find(connection, "m1").state, outbox.find(connection, "m1").ended_s) == ("expired", 5.0)


def test_the_first_who_replies_is_the_one_who_answers(connection):
    accept(connection, outbox_row(1))
    accept(connection, outbox_row(2, reply_with="label"))
    accept(connection, outbox_row(3, broadcast=True))
    assert outbox.reply_arrived(connection, "m1", "a@x", 1.0)
    assert outbox.reply_arrived(connection, "m1", "a@x", 1.0)
    assert not outbox.reply_arrived(connection, "m1", "b@y", 2.0)
    assert outbox.reply_arrived(connection, "label", "a@x", 1.0)
    assert not outbox.reply_arrived(connection, "label", "b@y", 1.0)
    assert outbox.reply_arrived(connection, "m3", "a@x", 1.0)
    assert outbox.reply_arrived(connection, "m3", "b@y", 1.0)
    assert outbox.reply_arrived(connection, "unknown", "b@y", 1.0)
    assert [event.event for event in outbox.events(connection, 1)] == ["late_reply"]


def test_events_are_bounded(connection):
    accept(connection, outbox_row())
    for number in range(outbox.EVENT_LIMIT + 10):
        outbox.add_event(connection, 1, outbox.EventRow(number, "again", ""))
    outbox.add_event(connection, 77, outbox.EventRow(1, "nobody", ""))
    assert len(outbox.events(connection, 1)) == outbox.EVENT_LIMIT
    assert outbox.events(connection, 77) == []


def test_outbox_retention_spares_open_messages_and_the_newest(connection):
    for seq in range(1, 11):
        accept(connection, outbox_row(seq))
        outbox.save_route(connection, route_row(seq))
        outbox.add_event(connection, seq, outbox.EventRow(1, "x", ""))
        if seq != 3:
            ends(connection, seq, "settled", float(seq))
    assert outbox.forget(connection, 0, ended_before_s=0.0, keep=5, noted_before_s=0.0)[:3] == (4, 10, True)
    assert outbox.forget(connection, 0, ended_before_s=8.0, keep=5, noted_before_s=0.0)[:3] == (2, 10, True)
    left = [row[0] for row in connection.execute("SELECT seq FROM outbox ORDER BY seq")]
    assert left == [3, 8, 9, 10]
    assert connection.execute("SELECT count(*) FROM routes").fetchall() == [(4,)]
    assert connection.execute("SELECT count(*) FROM message_events").fetchall() == [(4,)]


def test_retention_goes_on_past_what_is_open_until_nothing_later_can_be_old(connection, monkeypatch):
    monkeypatch.setattr(outbox, "RETENTION_BATCH", 4)
    monkeypatch.setattr(inbox, "RETENTION_BATCH", 4)
    for seq in range(1, 21):
        accept(connection, outbox_row(seq))
        assert inbox.insert(connection, inbox_row(seq), None) == seq
        if seq > 6:
            ends(connection, seq, "settled", 100.0)
            handled(connection, seq, "settled", 100.0)
    looked, step = [], outbox.Forgotten(0, 0, False)
    while not step.finished:
        step = outbox.forget(connection, step.reached, ended_before_s=10.0, keep=8, noted_before_s=0.0)
        looked.append(step)
    assert [(each.gone, each.reached) for each in looked] == [(0, 4), (2, 8), (4, 12), (0, 16)]
    gone, step = 0, outbox.Forgotten(0, 0, False)
    while not step.finished:
        step = inbox.forget(
            connection,
            step.reached,
            ended_before_s=10.0,
            keep=8,
            noted_before_s=0.0,
            is_forgotten=lambda *_: True,
        )
        gone += step.gone
    assert (gone, step.reached) == (6, 16)


def test_too_heavy_messages_go_oldest_first_and_no_more_of_them_than_needed(connection):
    size = weight.ROW_BYTES + 1000
    for seq in range(1, 11):
        accept(connection, outbox_row(seq, sealed=b"x" * 1000))
        inbox.insert(connection, inbox_row(seq, sealed=b"x" * 1000), None)
        if seq != 3:
            ends(connection, seq, "settled", 100.0)
            handled(connection, seq, "settled", 100.0)
    expectations.add(connection, 2, 200.0)
    bounds = {"ended_before_s": 0.0, "keep": 100, "noted_before_s": 0.0, "excess_bytes": 3 * size - 7}
    assert outbox.forget(connection, 0, **bounds) == (3, 10, True, 3 * size)
    told = lambda origin, message_id, target, ended_s: message_id != "m1"  # noqa: E731
    assert inbox.forget(connection, 0, **bounds, is_forgotten=told)[::3] == (3, 3 * size)
    left = [row[0] for row in connection.execute("SELECT seq FROM outbox ORDER BY seq")]
    assert left == [2, 3, 6, 7, 8, 9, 10]
    left = [row[0] for row in connection.execute("SELECT seq FROM inbox ORDER BY seq")]
    assert left == [1, 3, 6, 7, 8, 9, 10]


def test_a_step_of_retention_ends_when_it_has_dropped_so_many_bytes(connection, monkeypatch):
    monkeypatch.setattr(outbox, "STEP_BYTES", 2 * weight.ROW_BYTES)
    monkeypatch.setattr(inbox, "STEP_BYTES", 2 * weight.ROW_BYTES)
    for seq in range(1, 6):
        accept(connection, outbox_row(seq))
        inbox.insert(connection, inbox_row(seq), None)
        ends(connection, seq, "settled", 5.0)
        handled(connection, seq, "settled", 5.0)
    bounds = {"ended_before_s": 10.0, "keep": 100, "noted_before_s": 0.0}
    for forget in (outbox.forget, partial(inbox.forget, is_forgotten=lambda *_: True)):
        steps, step = [], outbox.Forgotten(0, 0, False)
        while not step.finished:
            step = forget(connection, step.reached, **bounds)
            steps.append(step.gone)
        assert steps == [2, 2, 1]


def test_messages_are_weighed_in_steps(connection, monkeypatch):
    monkeypatch.setattr(weight, "STEP_ROWS", 3)
    for seq in range(1, 8):
        accept(connection, outbox_row(seq, sealed=b"x" * seq))
    step, found = weight.Weighed(0, 0, finished=False), []
    while not step.finished:
        step = weight.weigh(connection, "outbox", step.reached, 6)
        found.append(step.weight)
    assert found == [6 + 3 * weight.ROW_BYTES, 15 + 3 * weight.ROW_BYTES, 0]


def test_a_received_message_is_known_by_origin_id_and_target(connection):
    seq = inbox.insert(connection, inbox_row(), None)
    assert inbox.find_key(connection, "n1", "m1", "a") == inbox.KnownRow(seq, 0, "held", "")
    assert inbox.find_key(connection, "n2", "m1", "a") is None
    assert inbox.find_key(connection, "n1", "m1", "b") is None
    with pytest.raises(apsw.ConstraintError):
        inbox.insert(connection, inbox_row(), None)
    inbox.insert(connection, inbox_row(origin="n2"), None)


def test_a_held_message_ends_once(connection):
    seq = inbox.insert(connection, inbox_row(), None)
    inbox.count_attempt(connection, seq)
    assert inbox.held_counts(connection) == {"a": 1}
    assert [row.attempts for row in inbox.held(connection, "a")] == [1]
    assert handled(connection, seq, "refused", 2.0, "no such agent")
    assert not handled(connection, seq, "settled", 3.0)
    assert inbox.held_counts(connection) == {}
    inbox.hold_again(connection, seq, 2, 120.0)
    [row] = inbox.held(connection, "a")
    assert (row.epoch, row.attempts, row.reason, row.expires_s) == (2, 0, "", 120.0)
    inbox.raise_epoch(connection, seq, 1)
    assert inbox.find_key(connection, "n1", "m1", "a").epoch == 2


def test_inbox_retention_never_drops_what_a_duplicate_can_follow(connection):
    for number in range(1, 11):
        proof = inbox.add_proof(connection, "n1", b"proof")
        seq = inbox.insert(connection, inbox_row(number), proof)
        if number != 2:
            handled(connection, seq, "settled", float(number))
    told = lambda origin, message_id, target, ended_s: ended_s < 4.0  # noqa: E731
    assert (
        inbox.forget(connection, 0, ended_before_s=0.0, keep=5, noted_before_s=0.0, is_forgotten=told).gone
        == 2
    )
    assert (
        inbox.forget(connection, 0, ended_before_s=5.0, keep=100, noted_before_s=0.0, is_forgotten=told).gone
        == 1
    )
    left = [row[0] for row in connection.execute("SELECT message_id FROM inbox ORDER BY seq")]
    assert left == ["m2", "m5", "m6", "m7", "m8", "m9", "m10"]
    proofs = [row[0] for row in connection.execute("SELECT proof_id FROM proofs ORDER BY 1")]
    assert proofs == [2, 5, 6, 7, 8, 9, 10]


def test_a_proof_goes_with_the_last_of_its_messages(connection, monkeypatch):
    monkeypatch.setattr(inbox, "RETENTION_BATCH", 4)  # proofs reach beyond what is looked at at once
    frames = [(1, 2, 3), (4, 5, 6, 7, 8, 9), (10,), (11, 12)]
    for frame in frames:
        proof = inbox.add_proof(connection, "n1", b"proof")
        inbox.insert_many(connection, [(*received(number)[:-1], proof) for number in frame])
    inbox.insert_many(connection, [received(13)])
    proofs = lambda: [row[0] for row in connection.execute("SELECT proof_id FROM proofs ORDER BY 1")]  # noqa: E731

    def end(*numbers):
        inbox.finish_many(connection, [("settled", 1.0, "", None, 0, number) for number in numbers])
        after, finished = 0, False
        while not finished:
            _, after, finished, _ = inbox.forget(
                connection,
                after,
                ended_before_s=2.0,
                keep=0,
                noted_before_s=0.0,
                is_forgotten=lambda *_: False,
            )

    end(1, 3, 4, 5, 7, 8, 13)
    assert proofs() == [1, 2, 3, 4]
    end(2, 9, 10)
    assert proofs() == [2, 4]
    end(6)
    assert proofs() == [4]
    end(12)
    assert proofs() == [4]
    end(11)
    assert proofs() == []


def test_proofs_of_later_messages_outlive_older_local_ones(connection):
    for number in range(5):
        inbox.insert(connection, inbox_row(number), None)
    proof = inbox.add_proof(connection, "n1", b"proof")
    inbox.insert(connection, inbox_row(9), proof)
    inbox.forget(connection, 0, ended_before_s=0.0, keep=5, noted_before_s=0.0, is_forgotten=lambda *_: False)
    assert connection.execute("SELECT count(*) FROM proofs").fetchall() == [(1,)]


def test_replies_and_conversations_are_found(connection):
    accept(connection, outbox_row(1))
    accept(connection, outbox_row(2, conversation_id="other"))
    inbox.insert(connection, inbox_row(5, in_reply_to="m1"), None)
    inbox.insert(connection, inbox_row(6, in_reply_to="m2"), None)
    assert [row.message_id for row in inbox.replies(connection, "m1", 10)] == ["m5"]
    assert [row.message_id for row in inbox.conversation(connection, "c", 1)] == ["m6"]
    assert [row.seq for row in outbox.conversation(connection, "c", 10)] == [1]
    assert [row.message_id for row in inbox.find(connection, "m6", 5)] == ["m6"]


def test_dead_letters_keep_the_newest(connection):
    for number in range(8):
        dead_letters.add(connection, dead_letters.DeadLetterRow(f"m{number}", number, "why", b"{}"))
    assert dead_letters.trim(connection, limit=5) == dead_letters.Totals(5, 10)
    assert len(dead_letters.newest(connection, 100)) == 5
    assert [row.message_id for row in dead_letters.newest(connection, 2)] == ["m7", "m6"]


def letter(number, **changes):
    row = dead_letters.DeadLetterRow(f"m{number}", float(number), "why", b"{}", "work", 3, b"x" * number)
    return dataclasses.replace(row, **changes)


def test_dead_letters_are_bounded_by_their_bytes_and_the_newest_stays(connection):
    for number in range(1, 6):
        dead_letters.add(connection, letter(number))
    assert dead_letters.totals(connection) == dead_letters.Totals(5, 5 * 2 + 15)
    assert dead_letters.trim(connection, limit_bytes=13) == dead_letters.Totals(2, 13)
    assert [row.message_id for row in dead_letters.newest(connection, 9)] == ["m5", "m4"]
    assert dead_letters.trim(connection, limit_bytes=1).count == 1


def test_dead_letters_are_chosen_paged_and_marked_once(connection):
    for number in range(1, 5):
        capability = "work" if number % 2 else None
        dead_letters.add(connection, letter(number, capability=capability, reason=f"it is {number}"))
    choice = dead_letters.Choice

    def ids(chosen):
        return [row.message_id for row in dead_letters.newest(connection, 9, chosen)]

    assert ids(choice(capability="work")) == ["m3", "m1"]
    assert ids(choice(reason="is 2")) == ["m2"]
    assert ids(choice(reason="%")) == []
    assert ids(choice(since_s=3.0)) == ["m4", "m3"]
    assert ids(choice(before=3, after=1)) == ["m2"]
    assert dead_letters.oldest(connection, 2, choice()) == [(1, "m1"), (2, "m2")]
    assert dead_letters.newest(connection, 1)[0].sealed is None
    found = dead_letters.find(connection, "m3")
    assert (found.sealed, found.hops, found.bytes) == (b"xxx", 3, 5)
    assert dead_letters.find(connection, "m9") is None
    assert dead_letters.mark_retried(connection, "m3", "n1", 7.0, again=False)
    assert not dead_letters.mark_retried(connection, "m3", "n2", 8.0, again=False)
    assert dead_letters.mark_retried(connection, "m3", "n2", 8.0, again=True)
    assert not dead_letters.mark_retried(connection, "m9", "n3", 8.0, again=True)
    assert ids(choice(retried=True)) == ["m3"]
    assert dead_letters.drop_all(connection, 1, choice(retried=False)) == 1
    assert ids(choice()) == ["m4", "m3", "m2"]
    assert dead_letters.drop(connection, "m4")
    assert not dead_letters.drop(connection, "m4")


def test_dead_letters_of_an_older_schema_keep_what_is_left_of_their_messages():
    connection = apsw.Connection(":memory:")
    for step in migrations.STEPS[:3]:
        connection.execute(step)
    connection.execute("PRAGMA user_version = 3")
    values = [(f"m{n}", "c", "failed", 0, 0.0, 0.0, 0, "", b"sealed") for n in (1, 2)]
    connection.executemany(
        "INSERT INTO outbox (message_id, conversation_id, state, broadcast, accepted_s, expires_s, hops,"
        " traceparent, sealed) VALUES (?,?,?,?,?,?,?,?,?)",
        values,
    )
    connection.execute("DELETE FROM outbox WHERE message_id = 'm2'")
    for number in (1, 2):
        connection.execute(
            "INSERT INTO dead_letters (message_id, at_s, reason, history) VALUES (?, 1.0, 'why', x'a0')",
            (f"m{number}",),
        )
    assert migrations.migrate(connection) == len(migrations.STEPS) - 3
    assert dead_letters.find(connection, "m1").sealed == b"sealed"
    assert dead_letters.find(connection, "m2").sealed is None
    assert dead_letters.totals(connection) == dead_letters.Totals(2, 1 + 6 + 1)


def test_decisions_keep_the_first_of_the_own_route(connection):
    outbox.insert(connection, [(outbox_row(1), route_row(1))])
    decisions.save(connection, decisions.DecisionRow(1, 1, 5.0, b"waits"))
    decisions.save(connection, decisions.DecisionRow(1, 1, 6.0, b"chosen"))
    decisions.save(connection, decisions.DecisionRow(1, decisions.DECISION_LIMIT + 1, 7.0, b"too many"))
    decisions.save(connection, decisions.DecisionRow(9, 1, 7.0, b"of nothing"))
    found = [(row.epoch, row.decision) for row in decisions.of_message(connection, 1)]
    assert found == [(0, b"why"), (1, b"chosen")]
    assert decisions.of_message(connection, 9) == []


def test_what_hangs_on_a_message_leaves_with_it_and_with_no_other(connection):
    for seq in (1, 2):
        outbox.insert(connection, [(outbox_row(seq), route_row(seq))])
        outbox.save_route(connection, route_row(seq))
        outbox.add_event(connection, seq, outbox.EventRow(5.0, "waiting", "for somebody"))
        decisions.save(connection, decisions.DecisionRow(seq, 1, 5.0, b"waits"))

    def beside():
        tables = ("routes", "message_events", "decisions")
        return [rows(connection, f"SELECT DISTINCT seq FROM {table} ORDER BY seq") for table in tables]

    assert beside() == [[(1,), (2,)]] * 3
    outbox.finish(connection, [(1, "settled", 8.0, "")])
    assert outbox.forget(connection, 0, ended_before_s=9.0, keep=0, noted_before_s=0.0).gone == 1
    assert beside() == [[(2,)]] * 3


def test_an_older_schema_keeps_what_hangs_on_its_messages():
    connection = apsw.Connection(":memory:")
    connection.execute("PRAGMA foreign_keys = 1")
    before = migrations.STEPS[:17]
    migrations.migrate(connection, before)
    outbox.insert(connection, [(outbox_row(1), route_row(1))])
    outbox.save_route(connection, route_row(1))
    outbox.add_event(connection, 1, outbox.EventRow(5.0, "waiting", "for somebody"))
    decisions.save(connection, decisions.DecisionRow(1, 1, 5.0, b"waits"))
    tables = ("outbox", "routes", "message_events", "decisions")
    kept = [rows(connection, f"SELECT * FROM {table}") for table in tables]
    migrations.migrate(connection)
    assert all(kept)
    assert [rows(connection, f"SELECT * FROM {table}") for table in tables] == kept


def test_what_a_message_caused_is_found_in_order(connection):
    rows_ = [(outbox_row(n, cause="m1" if n in (2, 4) else None), None) for n in range(1, 5)]
    outbox.insert(connection, rows_)
    assert [row.message_id for row in outbox.caused(connection, "m1", 9)] == ["m2", "m4"]
    assert [row.message_id for row in outbox.caused(connection, "m1", 1)] == ["m2"]
    assert outbox.caused(connection, "m2", 9) == []


def test_the_last_handler_run_and_all_failed_ones_are_written_with_the_end(connection):
    seq = inbox.insert(connection, inbox_row(1), None)
    inbox.count_attempt(connection, seq, 3.0)
    inbox.finish_many(connection, [("failed", 9.0, "why", 5.0, 1, seq)])
    [found] = inbox.find(connection, "m1", 9)
    assert (found.started_s, found.attempts, found.ended_s) == (5.0, 2, 9.0)
    other = inbox.insert(connection, inbox_row(2), None)
    inbox.count_attempt(connection, other, 3.0)
    inbox.finish_many(connection, [("refused", 9.0, "why", None, 0, other)])
    [found] = inbox.find(connection, "m2", 9)
    assert (found.started_s, found.attempts) == (3.0, 1)


def test_agents_are_saved_replaced_and_deleted(connection):
    row = agents.AgentRow("a", "A", "1.0.0", "configured", b"text", b"", "default", "running", 1.0)
    agents.save_agent(connection, row)
    agents.save_agent(connection, dataclasses.replace(row, version="2.0.0"))
    assert agents.set_agent_status(connection, "a", "stopped")
    assert not agents.set_agent_status(connection, "b", "stopped")
    [found] = agents.load_agents(connection)
    assert (found.version, found.status, found.content) == ("2.0.0", "stopped", b"text")
    assert agents.delete_agent(connection, "a")
    assert not agents.delete_agent(connection, "a")


def test_snapshots_are_replaced_as_a_whole(connection):
    assert snapshots.get(connection, "members") is None
    snapshots.put(connection, "members", b"1")
    snapshots.put(connection, "members", b"2")
    assert snapshots.get(connection, "members") == b"2"


def test_a_corrupt_schema_version_is_not_guessed_at(connection):
    connection.execute("PRAGMA user_version = 99")
    with pytest.raises(Exception, match="newer Caxton"):
        migrations.migrate(connection)


def test_a_settled_message_with_open_answers_is_owed(connection):
    for number, (state, ended_s) in enumerate((("settled", 1.0), ("held", None)), start=1):
        inbox.insert(
            connection,
            inbox.InboxRow("a", f"m{number}", "w", 7, state, 0, "t", None, 0, 0.0, 9.0, "", b"x", ended_s),
            None,
        )
    for seq, (answers, ended_s) in enumerate(((1, None), (1, 5.0), (1, None), (2, None), (None, None)), 1):
        row = outbox.OutboxRow(
            seq, f"r{seq}", "t", None, "open", False, 0.0, 9.0, 0, "", b"x", answers=answers
        )
        accept(connection, row)
        if ended_s is not None:
            ends(connection, seq, "settled", ended_s)
    assert inbox.owed(connection, 10) == [("a", "m1", "w", 7, ["r1", "r3"])]


def test_proofs_that_nobody_needs_any_more_go_with_their_index():
    bare = apsw.Connection(":memory:")
    migrations.migrate(bare, migrations.STEPS[:19])
    assert [inbox.add_proof(bare, "n1", b"proof") for _ in range(3)] == [1, 2, 3]
    inbox.insert(bare, inbox_row(1), 2)
    inbox.insert(bare, inbox_row(2), None)
    migrations.migrate(bare)
    assert [row[0] for row in bare.execute("SELECT proof_id FROM proofs ORDER BY 1")] == [2, 3]
