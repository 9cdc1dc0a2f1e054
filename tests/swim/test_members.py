"""The precedence rule: merging is idempotent and monotonic, and signed words commute."""

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from swim.codec import encode_message
from swim.hashtree import HashTree
from swim.keyring import VERSIONS
from swim.members import PRECEDENCE, STATE_OF, MemberTable, Need, Record, Remembered, State, digest_of
from swim.messages import Alive, Boot, Dead, Left, Statement, Suspect

boots = st.sampled_from([Boot(1, b"a" * 8), Boot(1, b"b" * 8), Boot(2, b"a" * 8)])
incarnations = st.integers(0, 3)
AUTHORS = (("n2", b"s" * 64),)
FIRST = Boot(1, b"a" * 8)


def alive(boot: Boot, incarnation: int, name: str = "n1") -> Alive:
    return Alive(name, "10.0.0.1", 7946, boot, incarnation, b"", *VERSIONS, 0, bytes(32), b"", bytes(64))


def suspect(boot: Boot, incarnation: int) -> Suspect:
    return Suspect("n1", boot, incarnation, AUTHORS)


def dead(boot: Boot, incarnation: int) -> Dead:
    return Dead("n1", boot, incarnation, AUTHORS, "n2", bytes(64))


def left(boot: Boot, incarnation: int) -> Left:
    return Left("n1", boot, incarnation, bytes(64))


signed = st.one_of(st.builds(alive, boots, incarnations), st.builds(left, boots, incarnations))
statements = st.one_of(signed, st.builds(suspect, boots, incarnations), st.builds(dead, boots, incarnations))


def record_of(said: Alive, state: State = State.ALIVE, changed_at: float = 0.0) -> Record:
    encoded = encode_message(said)
    return Record(said, encoded, digest_of(encoded), b"key", state, None, b"", 0.0, changed_at)


def a_table(*records: Record) -> MemberTable:
    table = MemberTable(max_members=9, max_remembered=9)
    for record in records:
        table.insert(record)
    return table


def tell(table: MemberTable, record: Record, statement: Statement, now: float = 1.0) -> bool:
    """Apply a statement if it is accepted."""
    if not record.accepts(statement):
        return False
    table.apply(record, statement, encode_message(statement), now)
    return True


def held(*said: Statement) -> tuple[MemberTable, Record]:
    record = record_of(alive(Boot(0, b"0" * 8), 0))
    table = a_table(record)
    for statement in said:
        tell(table, record, statement)
    return table, record


def belief(record: Record) -> tuple[Boot, int, State]:
    return (*record.version, record.state)


@given(st.lists(statements, max_size=12))
def test_what_is_held_never_goes_back(said: list[Statement]) -> None:
    table, record = held()
    for statement in said:
        before = belief(record)
        if tell(table, record, statement):
            assert belief(record) > before
        assert belief(record) >= before


@given(st.lists(statements, min_size=1, max_size=12))
def test_hearing_it_twice_changes_nothing(said: list[Statement]) -> None:
    assert not held(*said)[1].accepts(said[-1])


@given(st.lists(signed, max_size=10), st.randoms(use_true_random=False))
def test_signed_words_commute(said: list[Statement], rng: random.Random) -> None:
    shuffled = list(said)
    rng.shuffle(shuffled)
    assert belief(held(*said)[1]) == belief(held(*shuffled)[1])


@given(boots, incarnations, st.permutations([suspect, dead, suspect, dead]))
def test_accusations_of_one_incarnation_commute(boot: Boot, incarnation: int, order: list) -> None:  # type: ignore[type-arg]
    _, record = held(alive(boot, incarnation), *(accuse(boot, incarnation) for accuse in order))
    assert record.state is State.DEAD


@given(st.lists(statements, max_size=10), boots, incarnations)
def test_an_accusation_must_quote_what_the_subject_has_signed(
    said: list[Statement], boot: Boot, incarnation: int
) -> None:
    _, record = held(*said)
    for accusation in (suspect(boot, incarnation), dead(boot, incarnation)):
        if record.accepts(accusation):
            assert (record.alive.boot, record.alive.incarnation) == (boot, incarnation)


@given(st.lists(statements, max_size=10))
def test_a_new_life_wins_whatever_was_said_about_the_old_one(said: list[Statement]) -> None:
    table, record = held(*said)
    assert tell(table, record, alive(Boot(3, b"c" * 8), 0))
    assert record.state is State.ALIVE
    assert record.verdict is None
    assert not any(record.accepts(old) for old in said)


def test_the_table_names_every_pair() -> None:
    assert set(PRECEDENCE) == set(State)
    assert all(set(row) == set(STATE_OF) for row in PRECEDENCE.values())
    reach = {State.ALIVE: (), State.SUSPECT: (suspect,), State.DEAD: (dead,), State.LEFT: (left,)}
    make = {Alive: alive, Suspect: suspect, Dead: dead, Left: left}
    for state, row in PRECEDENCE.items():
        for kind, need in row.items():
            _, record = held(alive(FIRST, 1), *(said(FIRST, 1) for said in reach[state]))
            assert record.state is state
            assert record.accepts(make[kind](FIRST, 1)) == (need is Need.SAME)
            assert not record.accepts(make[kind](FIRST, 0))


def test_a_record_keeps_its_latest_word_and_what_is_held_against_it_as_they_came() -> None:
    table, record = held(alive(FIRST, 1), suspect(FIRST, 1), dead(FIRST, 1))
    assert record.encoded == encode_message(alive(FIRST, 1))
    assert record.encoded_verdict == encode_message(dead(FIRST, 1))
    assert tell(table, record, alive(FIRST, 2))
    assert (record.encoded_verdict, record.verdict) == (b"", None)


def test_round_trips_are_measured_anew_at_another_address_or_in_another_life() -> None:
    table, record = held(alive(FIRST, 1))
    record.rtt.observe(0.01)
    tell(table, record, alive(FIRST, 2))
    assert record.rtt.srtt_s == 0.01
    tell(table, record, replace(alive(FIRST, 3), host="10.0.0.2"))
    assert record.rtt.srtt_s == 0.0
    record.rtt.observe(0.01)
    tell(table, record, alive(Boot(2, b"a" * 8), 0))
    assert record.rtt.srtt_s == 0.0


def test_the_reaped_are_remembered_with_the_life_that_is_over_and_departed_ones_without_being_lost() -> None:
    table = MemberTable(max_members=9, max_remembered=3)
    for number, state in enumerate([State.DEAD, State.DEAD, State.DEAD, State.LEFT, State.ALIVE]):
        table.insert(record_of(alive(FIRST, number, f"n{number}"), state, float(number)))
    assert table.next_reap(5.0) == 5.0
    gone = table.reap(9.0, 5.0)
    assert [record.name for record in gone] == ["n0", "n1", "n2", "n3"]
    assert table.next_reap(5.0) is None
    assert table.remembered("n0") is None  # one too many
    endings = [record.said_last for record in gone]
    assert [len(ending) for ending in endings] == [2, 2, 2, 1]  # a Dead needs the word that it quotes
    where, keys = ("10.0.0.1", 7946), [record.public_key for record in gone]
    assert table.remembered("n1") == Remembered(where, FIRST, 1, False, endings[1], keys[1])
    assert table.remembered("n3") == Remembered(where, FIRST, 3, True, endings[3], keys[3])
    assert [name for name, _ in table.lost()] == ["n1", "n2"]
    assert [name for name, _ in table.address_book()] == ["n4", "n1", "n2"]
    assert table.statistics()["remembered_members"] == 3
    table.insert(record_of(alive(FIRST, 9, "n1")))
    assert table.remembered("n1") is None
    table.remember("n1", Remembered(("10.0.0.9", 1)))  # who is in the table is not of the past
    assert table.remembered("n1") is None


def test_the_ring_leads_from_each_name_to_the_next_that_is_not_doubted() -> None:
    records = {name: record_of(alive(FIRST, 0, name)) for name in ("b", "d", "f")}
    table = a_table(*records.values())
    assert [table.successor(name).name for name in ("a", "b", "c", "f", "g")] == ["b", "d", "d", "b", "b"]  # type: ignore[union-attr]
    doubt = Suspect("d", FIRST, 0, AUTHORS)
    tell(table, records["d"], doubt)
    assert table.successor("b").name == "f"  # type: ignore[union-attr]
    for name in ("b", "f"):
        tell(table, records[name], replace(doubt, name=name))
    assert table.successor("b").name == "d"  # type: ignore[union-attr]  # rather a doubted one than nobody
    for name, record in records.items():
        tell(table, record, replace(dead(FIRST, 0), name=name))
    assert table.successor("b") is None


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([alive, suspect, dead, left]), incarnations)),
    st.randoms(use_true_random=False),
)
def test_what_the_table_keeps_at_hand_is_what_a_look_at_all_records_would_find(
    said: list,  # type: ignore[type-arg]
    rng: random.Random,
) -> None:
    table = a_table()
    for now, (number, make, incarnation) in enumerate(said):
        name = f"m{number}"
        record = table.get(name)
        if record is None:
            table.insert(record_of(alive(FIRST, 0, name), changed_at=float(now)))
        else:
            tell(table, record, replace(make(FIRST, incarnation), name=name), float(now))
        up = [r for r in table.records() if r.is_up]
        down = [r for r in table.records() if not r.is_up]
        assert table.up_count == len(up)
        assert {id(r) for r in table.up()} == {id(r) for r in up}
        assert table.next_reap(5.0) == min((r.changed_at + 5.0 for r in down), default=None)
        assert sum(r.state is State.DEAD for r in down) == len(table.lost())
        drawn = [r.name for r in table.choose(rng, 3, exclude="m1", dead_since=0.0)]
        possible = [r.name for r in (*up, *down) if r.state is not State.LEFT and r.name != "m1"]
        assert len(drawn) == len(set(drawn)) == min(3, len(possible))
        assert set(drawn) <= set(possible)
        roll = HashTree()
        for r in up:
            roll.add(r.digest)
            assert table.by_digest(digest_of(r.encoded)) is r
        assert (table.roll.root, table.roll.size) == (roll.root, len(up))
        assert not any(table.by_digest(r.digest) for r in down)


def test_the_longest_dead_may_be_drawn_only_for_a_while() -> None:
    table = a_table(
        record_of(alive(FIRST, 0, "a")),
        record_of(alive(FIRST, 0, "b"), State.DEAD, changed_at=10.0),
        record_of(alive(FIRST, 0, "c"), State.DEAD, changed_at=20.0),
    )
    rng = random.Random(1)
    assert {r.name for r in table.choose(rng, 5)} == {"a"}
    assert {r.name for r in table.choose(rng, 5, dead_since=15.0)} == {"a", "c"}
