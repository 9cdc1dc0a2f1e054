"""A question reaches those it concerns once, and its author gathers one answer from each of them."""

import hashlib
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim import strict_cbor
from swim.identity import domain
from swim.messages import Boot
from swim.queries import (
    MAX_ANSWERABLE,
    MAX_GATHERED_BYTES,
    MAX_OPEN,
    MAX_RESPONDERS,
    Asked,
    Queries,
    QueryResult,
    TooManyQueries,
    UnknownQuery,
    default_timeout_s,
)
from swim.query_messages import (
    MAX_RESPONSE_BYTES,
    Question,
    decode_question,
    decode_response,
    encode_question,
    encode_response,
    question_id,
)


class Signer:
    """An identity whose signature is a hash: enough to tell authors apart, and fast."""

    credential = b""

    def __init__(self, name: str) -> None:
        self.name = name

    def sign(self, data: bytes) -> bytes:
        return hashlib.sha512(self.name.encode() + b"\0" + data).digest()


def is_signed(author: str, data: bytes, signature: bytes) -> bool:
    return Signer(author).sign(data) == signature


def member(name: str, **tags: str) -> Queries:
    return Queries(Signer(name), Boot(1, b"b" * 8), is_signed, tags=tags)


def asked_of(queries: Queries, encoded: bytes, now: float = 0.0) -> Asked:
    asked = queries.receive(encoded, now)
    assert asked is not None
    return asked


def answered(queries: Queries, encoded: bytes, payload: bytes, now: float = 0.0) -> bytes:
    answer = queries.answer(asked_of(queries, encoded, now), payload, now)
    assert answer is not None
    return answer


def count(queries: Queries, what: str) -> int:
    return queries.statistics()[f"queries_{what}"]


def crafted(author: str, time: int = 1, **changes: object) -> bytes:
    """A question as its author's own, other software could sign it."""
    fields = {"kind": 2, "author": author, "boot_time": 1, "boot_id": b"b" * 8, "time": time,
              "name": "uptime", "payload": b"", "nodes": [], "tags": {}, "flags": 0, "timeout_ms": 1000,
              **changes}  # fmt: skip
    values = list(fields.values())
    return strict_cbor.encode([*values, Signer(author).sign(domain("question") + strict_cbor.encode(values))])


def test_every_member_is_asked_and_the_author_gathers_the_answers() -> None:
    a, b, c = member("a"), member("b"), member("c")
    query_id, encoded = a.ask("uptime", b"in seconds", 0.0, timeout_s=2.0)
    for peer, name in ((b, "b"), (c, "c")):
        asked = asked_of(peer, encoded)
        assert asked.id == query_id
        assert (asked.question.name, asked.question.payload) == ("uptime", b"in seconds")
        assert (asked.question.author, asked.concerns_us, asked.question.forward) == ("a", True, True)
        answer = peer.answer(asked, f"{name} is up".encode(), 0.5)
        assert answer is not None
        assert a.receive_response(answer, name, 1.0)
    assert a.collect(query_id) == QueryResult((), {"b": b"b is up", "c": b"c is up"}, finished=False)
    assert a.next_timer() == 2.0
    a.handle_timer(2.0)
    assert a.finished() == [query_id]
    assert a.finished() == []
    assert a.next_timer() is None
    assert a.collect(query_id) == QueryResult((), {"b": b"b is up", "c": b"c is up"}, finished=True)
    with pytest.raises(UnknownQuery):
        a.collect(query_id)
    assert count(a, "gathered_bytes") == 0


def test_a_question_is_put_once_however_often_it_comes_and_not_to_its_author() -> None:
    a, b = member("a"), member("b")
    _, encoded = a.ask("uptime", b"", 0.0, timeout_s=1.0)
    asked_of(b, encoded)
    assert b.receive(encoded, 0.0) is None
    assert a.receive(encoded, 0.0) is None
    assert count(b, "duplicate") == count(a, "duplicate") == 1


def test_receipt_is_acknowledged_at_once_where_wanted() -> None:
    a, b, c = member("a"), member("b"), member("c")
    query_id, encoded = a.ask("backup", b"", 0.0, timeout_s=9.0, want_ack=True)
    for peer, name in ((b, "b"), (c, "c")):
        ack = peer.acknowledge(asked_of(peer, encoded), 0.0)
        assert ack is not None
        assert a.receive_response(ack, name, 0.1)
        assert not a.receive_response(ack, name, 0.1)
    assert a.collect(query_id).acks == ("b", "c")
    _, unconfirmed = a.ask("backup", b"", 0.0, timeout_s=9.0)
    assert b.acknowledge(asked_of(b, unconfirmed), 0.0) is None


# Who is asked


@pytest.mark.parametrize(
    ("nodes", "tags", "concerned"),
    [
        ([], {}, "abc"),
        (["b", "c"], {}, "bc"),
        ([], {"role": ["db"]}, "b"),
        ([], {"role": ["db", "web"]}, "abc"),
        ([], {"zone": []}, "bc"),
        ([], {"role": ["web"], "zone": []}, "c"),
        (["a", "b"], {"zone": []}, "b"),
        ([], {"missing": []}, ""),
    ],
)
def test_filters_choose_who_answers_and_everybody_forwards(
    nodes: Sequence[str], tags: dict[str, list[str]], concerned: str
) -> None:
    members = {
        "a": member("a", role="web"),
        "b": member("b", role="db", zone="1"),
        "c": member("c", role="web", zone="2"),
    }
    _, encoded = member("o").ask("q", b"", 0.0, timeout_s=1.0, nodes=nodes, tags=tags)
    heard = {name: asked_of(queries, encoded) for name, queries in members.items()}
    assert [name for name, asked in heard.items() if asked.concerns_us] == list(concerned)
    assert all(asked.question.forward for asked in heard.values())
    for name, asked in heard.items():
        assert (members[name].answer(asked, b"", 0.0) is not None) == (name in concerned)


def test_tags_that_change_count_from_then_on() -> None:
    a, b = member("a"), member("b", role="web")
    b.tags["role"] = "db"
    _, encoded = a.ask("q", b"", 0.0, timeout_s=1.0, tags={"role": ["db"]})
    assert asked_of(b, encoded).concerns_us


def test_a_question_that_its_author_sends_itself_is_not_forwarded() -> None:
    _, encoded = member("a").ask("q", b"", 0.0, timeout_s=1.0, no_broadcast=True)
    assert not asked_of(member("b"), encoded).question.forward


def test_a_query_of_named_members_ends_when_all_of_them_have_answered() -> None:
    a, b, c = member("a"), member("b"), member("c")
    query_id, encoded = a.ask("q", b"", 0.0, timeout_s=60.0, nodes=["b", "c"])
    assert a.receive_response(answered(b, encoded, b"1"), "b", 0.1)
    assert not a.collect(query_id).finished
    assert a.receive_response(answered(c, encoded, b"2"), "c", 0.1)
    assert a.finished() == [query_id]
    assert a.collect(query_id).finished


# Which answers count


def test_one_answer_counts_for_each_responder_and_the_first_stays() -> None:
    a = member("a")
    query_id, encoded = a.ask("q", b"", 0.0, timeout_s=1.0)
    answers = [encode_response(question_id(encoded), payload) for payload in (b"first", b"second")]
    assert a.receive_response(answers[0], "b", 0.1)
    assert not a.receive_response(answers[1], "b", 0.2)
    assert a.collect(query_id).responses == {"b": b"first"}
    assert count(a, "repeated_response") == 1


def test_answers_that_nobody_waits_for_are_counted_and_dropped() -> None:
    a = member("a")
    _, encoded = a.ask("q", b"", 0.0, timeout_s=1.0, nodes=["b"])
    answer = encode_response(question_id(encoded), b"x")
    assert not a.receive_response(answer, "c", 0.5)
    assert not a.receive_response(encode_response(b"unknown!", b"x"), "b", 0.5)
    assert not a.receive_response(answer, "b", 1.0)
    assert not a.receive_response(b"garbage", "b", 0.5)
    assert {what: count(a, f"{what}_response") for what in ("unasked", "late", "malformed")} == {
        "unasked": 1,
        "late": 2,
        "malformed": 1,
    }


def test_a_question_is_answered_once_and_in_time_or_not_at_all() -> None:
    a, b = member("a"), member("b")
    _, encoded = a.ask("q", b"", 0.0, timeout_s=1.5, want_ack=True)
    asked = asked_of(b, encoded, now=100.0)
    assert asked.deadline == 101.5
    assert b.answer(asked, b"x", 101.0) is not None
    assert b.answer(asked, b"x", 101.0) is None
    late = asked_of(b, a.ask("q", b"", 0.0, timeout_s=1.5, want_ack=True)[1], now=100.0)
    assert b.acknowledge(late, 101.5) is None
    assert b.answer(late, b"x", 101.5) is None
    assert count(b, "answer_refused") == 2
    with pytest.raises(ValueError, match="1025 bytes"):
        b.answer(late, bytes(1025), 101.0)


def test_the_default_wait_is_serfs() -> None:
    for members, decades in ((1, 1), (9, 1), (10, 2), (99, 2), (100, 3), (1_000, 4)):
        assert default_timeout_s(members, 0.2) == pytest.approx(16 * decades * 0.2)
        assert decades == math.ceil(math.log10(members + 1))


# Bounds


def test_open_queries_are_bounded_and_an_uncollected_one_makes_room() -> None:
    a = member("a")
    first = [a.ask("q", b"", 0.0, timeout_s=1.0)[0] for _ in range(MAX_OPEN)]
    with pytest.raises(TooManyQueries):
        a.ask("q", b"", 0.0, timeout_s=1.0)
    a.handle_timer(1.0)
    second = a.ask("q", b"", 1.0, timeout_s=1.0)[0]
    a.handle_timer(2.0)
    assert a.finished() == [*first[1:], second]
    with pytest.raises(UnknownQuery):
        a.collect(first[0])
    assert a.collect(first[1]).finished
    assert count(a, "uncollected") == 1


def test_responders_and_gathered_bytes_are_bounded() -> None:
    a = member("a")
    query_id, _ = a.ask("q", b"", 0.0, timeout_s=1.0)
    ack, answer = encode_response(query_id, None), encode_response(query_id, bytes(1024))
    taken = [a.receive_response(answer, f"n{index}", 0.0) for index in range(MAX_RESPONDERS + 1)]
    assert taken == [True] * MAX_RESPONDERS + [False]
    acked = [a.receive_response(ack, f"n{index}", 0.0) for index in range(MAX_RESPONDERS + 1)]
    assert acked == [True] * MAX_RESPONDERS + [False]
    for _ in range(5):
        another, _ = a.ask("q", b"", 0.0, timeout_s=1.0)
        for index in range(MAX_RESPONDERS):
            a.receive_response(encode_response(another, bytes(1024)), f"n{index}", 0.0)
    assert count(a, "gathered_bytes") == MAX_GATHERED_BYTES
    assert a.handle_timer(1.0) is None
    for ended in a.finished():
        a.collect(ended)
    assert count(a, "gathered_bytes") == 0


def test_questions_that_wait_for_an_answer_are_bounded() -> None:
    b = member("b")
    first = asked_of(b, crafted("a"))
    for time in range(2, MAX_ANSWERABLE + 2):
        asked_of(b, crafted("a", time))
    assert count(b, "answerable") == MAX_ANSWERABLE
    assert count(b, "unanswered") == 1
    assert b.answer(first, b"", 0.0) is None


# Strangers


def test_a_forged_question_is_refused_and_a_repetition_of_the_past_too() -> None:
    b = member("b")
    forged = crafted("a")[:-1] + b"?"
    assert b.receive(forged, 0.0) is None
    assert count(b, "bad_signature") == 1
    b.joined(50)
    assert b.clock == 50
    assert b.receive(crafted("a", 50), 0.0) is None
    assert count(b, "too_old") == 1
    assert b.receive(crafted("a", 2**40), 0.0) is None
    assert count(b, "too_far_ahead") == 1
    assert asked_of(b, crafted("a", 51))
    assert b.receive(crafted("a", 51, payload=b"another"), 0.0) is None
    assert count(b, "conflicting") == 1


@given(st.binary(max_size=400))
def test_garbage_is_counted_and_changes_nothing(data: bytes) -> None:
    b = member("b")
    assert b.receive(data, 0.0) is None
    assert not b.receive_response(data, "a", 0.0)
    assert (count(b, "malformed"), count(b, "malformed_response"), b.clock) == (1, 1, 0)


@given(st.data())
def test_an_altered_question_is_never_taken(data: st.DataObject) -> None:
    altered = bytearray(crafted("a", 7, payload=b"payload", nodes=["b"], tags={"role": ["db"]}))
    altered[data.draw(st.integers(0, len(altered) - 1))] ^= data.draw(st.integers(1, 255))
    b = member("b")
    assert b.receive(bytes(altered), 0.0) is None
    assert count(b, "malformed") + count(b, "bad_signature") == 1


titles = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=12)
node_names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
questions = st.builds(
    Question,
    name=titles,
    payload=st.binary(max_size=300),
    author=node_names,
    boot=st.builds(Boot, st.integers(0, 2**53), st.binary(min_size=8, max_size=8)),
    time=st.integers(1, 2**62),
    nodes=st.lists(node_names, max_size=8, unique=True).map(tuple),
    tags=st.dictionaries(titles, st.lists(st.text(max_size=5), max_size=4).map(tuple), max_size=4),
    wants_ack=st.booleans(),
    forward=st.booleans(),
    timeout_ms=st.integers(1, 600_000),
    signature=st.just(b""),
)


@given(questions)
def test_a_question_comes_back_as_it_was_and_its_signature_covers_all_of_it(question: Question) -> None:
    encoded = encode_question(question, Signer(question.author))
    back = decode_question(encoded)
    assert back.signed_bytes() == question.signed_bytes()
    assert is_signed(question.author, back.signed_bytes(), back.signature)
    assert encode_question(back, Signer(question.author)) == encoded


@given(st.binary(min_size=8, max_size=8), st.none() | st.binary(max_size=1024))
def test_a_response_comes_back_as_it_was(query_id: bytes, payload: bytes | None) -> None:
    encoded = encode_response(query_id, payload)
    assert len(encoded) <= MAX_RESPONSE_BYTES
    assert decode_response(encoded) == (query_id, payload)


def test_a_full_payload_fits_a_datagram_beside_names_of_usual_length() -> None:
    usual = crafted("a" * 20, 2**20, name="n" * 20, payload=bytes(1024), flags=3, timeout_ms=600_000)
    longest = crafted("a" * 63, 2**20, name="n" * 64, payload=bytes(900), flags=3, timeout_ms=600_000)
    assert asked_of(member("b"), usual)
    assert asked_of(member("b"), longest)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 3},
        {"kind": 2.0},
        {"author": "A"},
        {"boot_time": -1},
        {"boot_id": bytes(15)},
        {"time": 0},
        {"name": ""},
        {"payload": bytes(1025)},
        {"payload": "text"},
        {"nodes": ["a", "a"]},
        {"nodes": [1]},
        {"nodes": {}},
        {"nodes": [f"n{index}" for index in range(65)]},
        {"tags": []},
        {"tags": {"role": "db"}},
        {"tags": {"role": [1]}},
        {"tags": {1: []}},
        {"tags": {"": []}},
        {"tags": {"role": ["v" * 65]}},
        {"tags": {"role": ["v"] * 17}},
        {"tags": {f"t{index}": [] for index in range(17)}},
        {"flags": 4},
        {"flags": True},
        {"timeout_ms": 0},
        {"timeout_ms": 600_001},
        {"extra": 0},
    ],
)
def test_a_field_out_of_its_bounds_is_refused(changes: dict[str, object]) -> None:
    b = member("b")
    assert b.receive(crafted(**{"author": "a", **changes}), 0.0) is None  # type: ignore[arg-type]
    assert count(b, "malformed") == 1


@pytest.mark.parametrize(
    "response",
    [[3, b"12345678", True], [2, b"12345678", True, b""], [3, b"1234567", True, b""],
     [3, b"12345678", 1, b""], [3, b"12345678", False, b"x"], [3, b"12345678", True, bytes(1025)],
     [3, b"12345678", True, "x"], 3],
)  # fmt: skip
def test_a_response_of_the_wrong_form_is_refused(response: object) -> None:
    with pytest.raises(ValueError, match=r"response|accepted"):
        decode_response(strict_cbor.encode(response))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"name": ""}, "name"),
        ({"payload": bytes(1025)}, "at most 1,024 bytes"),
        ({"payload": bytes(1024), "nodes": [f"node-{index}" for index in range(60)]}, "fit a datagram"),
        ({"nodes": ["B"]}, "names"),
        ({"tags": {"role": ["x" * 65]}}, "tags"),
        ({"timeout_s": 0.0}, "waits for"),
        ({"timeout_s": 601.0}, "waits for"),
        ({"timeout_s": math.nan}, "waits for"),
    ],
)
def test_what_no_receiver_would_take_cannot_be_asked(arguments: dict[str, object], reason: str) -> None:
    a = member("a")
    with pytest.raises(ValueError, match=reason):
        a.ask(**{"name": "q", "payload": b"", "now": 0.0, "timeout_s": 1.0, **arguments})  # type: ignore[arg-type]
    assert (a.clock, count(a, "open")) == (0, 0)
