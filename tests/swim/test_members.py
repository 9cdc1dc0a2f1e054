"""The precedence rule: merging is idempotent and monotonic, and signed words commute."""

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from swim.broadcast import RumourQueue
from swim.members import PRECEDENCE, STATE_OF, MemberTable, Need, Record, State
from swim.messages import Alive, Boot, Dead, Left, Statement, Suspect

boots = st.sampled_from([Boot(1, b"a" * 16), Boot(1, b"b" * 16), Boot(2, b"a" * 16)])
incarnations = st.integers(0, 3)


def alive(boot: Boot, incarnation: int) -> Alive:
    return Alive("n1", "10.0.0.1", 7946, boot, incarnation, b"", b"credential")


def suspect(boot: Boot, incarnation: int) -> Suspect:
    return Suspect("n1", boot, incarnation, "n2")


def dead(boot: Boot, incarnation: int) -> Dead:
    return Dead("n1", boot, incarnation, "n2")


def left(boot: Boot, incarnation: int) -> Left:
    return Left("n1", boot, incarnation)


signed = st.one_of(st.builds(alive, boots, incarnations), st.builds(left, boots, incarnations))
statements = st.one_of(signed, st.builds(suspect, boots, incarnations), st.builds(dead, boots, incarnations))


def held(*said: Statement) -> Record:
    record = Record(alive(Boot(0, b"0" * 16), 0), b"key", State.ALIVE, None, 0.0, 0.0)
    for statement in said:
        if record.accepts(statement):
            record.apply(statement, 1.0)
    return record


def belief(record: Record) -> tuple[Boot, int, State]:
    return (*record.version, record.state)


@given(st.lists(statements, max_size=12))
def test_what_is_held_never_goes_back(said: list[Statement]) -> None:
    record = held()
    for statement in said:
        before = belief(record)
        if record.accepts(statement):
            record.apply(statement, 1.0)
            assert belief(record) > before
        assert belief(record) >= before


@given(st.lists(statements, min_size=1, max_size=12))
def test_hearing_it_twice_changes_nothing(said: list[Statement]) -> None:
    assert not held(*said).accepts(said[-1])


@given(st.lists(signed, max_size=10), st.randoms(use_true_random=False))
def test_signed_words_commute(said: list[Statement], rng: random.Random) -> None:
    shuffled = list(said)
    rng.shuffle(shuffled)
    assert belief(held(*said)) == belief(held(*shuffled))


@given(boots, incarnations, st.permutations([suspect, dead, suspect, dead]))
def test_accusations_of_one_incarnation_commute(boot: Boot, incarnation: int, order: list) -> None:  # type: ignore[type-arg]
    record = held(alive(boot, incarnation), *(accuse(boot, incarnation) for accuse in order))
    assert record.state is State.DEAD


@given(st.lists(statements, max_size=10), boots, incarnations)
def test_an_accusation_must_quote_what_the_subject_has_signed(
    said: list[Statement], boot: Boot, incarnation: int
) -> None:
    record = held(*said)
    for accusation in (suspect(boot, incarnation), dead(boot, incarnation)):
        if record.accepts(accusation):
            assert (record.alive.boot, record.alive.incarnation) == (boot, incarnation)


@given(st.lists(statements, max_size=10))
def test_a_new_life_wins_whatever_was_said_about_the_old_one(said: list[Statement]) -> None:
    record = held(*said)
    rebirth = alive(Boot(3, b"c" * 16), 0)
    assert record.accepts(rebirth)
    record.apply(rebirth, 2.0)
    assert record.state is State.ALIVE
    assert not any(record.accepts(old) for old in said)


def test_the_table_names_every_pair() -> None:
    assert set(PRECEDENCE) == set(State)
    assert all(set(row) == set(STATE_OF) for row in PRECEDENCE.values())
    boot = Boot(1, b"a" * 16)
    reach = {State.ALIVE: (), State.SUSPECT: (suspect,), State.DEAD: (dead,), State.LEFT: (left,)}
    make = {Alive: alive, Suspect: suspect, Dead: dead, Left: left}
    for state, row in PRECEDENCE.items():
        for kind, need in row.items():
            record = held(alive(boot, 1), *(said(boot, 1) for said in reach[state]))
            assert record.state is state
            assert record.accepts(make[kind](boot, 1)) == (need is Need.SAME)
            assert not record.accepts(make[kind](boot, 0))


def test_the_reaped_dead_are_remembered_by_address_and_departed_ones_are_not() -> None:
    table = MemberTable(max_members=9, max_remembered=2)
    for number, state in enumerate([State.DEAD, State.DEAD, State.DEAD, State.LEFT, State.ALIVE]):
        said = Alive(f"n{number}", f"10.0.0.{number}", 1, Boot(1, b"a" * 16), 0, b"", b"")
        table.insert(Record(said, b"key", state, None, 0.0, float(number)))
    assert table.next_reap(5.0) == 5.0
    assert [record.alive.name for record in table.reap(9.0, 5.0)] == ["n0", "n1", "n2", "n3"]
    assert table.lost_addresses() == [("10.0.0.1", 1), ("10.0.0.2", 1)]
    assert table.statistics()["remembered_addresses"] == 2
    assert table.next_reap(5.0) is None


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([alive, suspect, dead, left]), incarnations)),
    st.randoms(use_true_random=False),
)
def test_what_the_table_keeps_at_hand_is_what_a_look_at_all_records_would_find(
    said: list,  # type: ignore[type-arg]
    rng: random.Random,
) -> None:
    table = MemberTable(max_members=9, max_remembered=9)
    boot = Boot(1, b"a" * 16)
    for now, (number, make, incarnation) in enumerate(said):
        name = f"m{number}"
        statement = replace(make(boot, incarnation), name=name)
        record = table.get(name)
        if record is None:
            first = replace(alive(boot, 0), name=name)
            table.insert(Record(first, b"key", State.ALIVE, None, float(now), float(now)))
        elif record.accepts(statement):
            table.apply(record, statement, float(now))
        up = [r for r in table.records() if r.is_up]
        down = [r for r in table.records() if not r.is_up]
        assert table.up_count == len(up)
        assert {id(r) for r in table.up()} == {id(r) for r in up}
        assert table.next_reap(5.0) == min((r.changed_at + 5.0 for r in down), default=None)
        drawn = [r.alive.name for r in table.choose(rng, 3, exclude="m1", dead_since=0.0)]
        possible = [r.alive.name for r in (*up, *down) if r.state is not State.LEFT and r.alive.name != "m1"]
        assert len(drawn) == len(set(drawn)) == min(3, len(possible))
        assert set(drawn) <= set(possible)


@given(st.lists(st.integers(0, 7), max_size=30), st.integers(60, 400), st.integers(1, 5))
def test_each_rumour_is_sent_its_number_of_times_and_those_sent_least_go_first(
    subjects: list[int], room: int, transmissions: int
) -> None:
    queue = RumourQueue(max_rumours=6)
    boot = Boot(1, b"a" * 16)
    for number in subjects:
        queue.add(replace(dead(boot, 0), name=f"m{number}"))
    waiting = list(dict.fromkeys(reversed(subjects)))
    assert len(queue) == min(6, len(waiting))
    assert queue.statistics()["rumours_dropped"] >= len(waiting) - len(queue)
    sent: Counter[bytes] = Counter()
    while len(queue):
        taken = queue.take(room, 5, transmissions)
        assert taken
        assert len(set(taken)) == len(taken)
        assert sum(map(len, taken)) <= room
        sent.update(taken)
        assert max(sent.values()) - min(sent[rumour] for rumour in taken) <= 1
    assert set(sent.values()) <= {transmissions}
    assert not any(queue.has(f"m{number}") for number in subjects)
