"""A message is sealed once, decodes to itself, and nothing a peer sends escapes as another error."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import ValidationFailed
from node.http.attachments import attachment_from_json
from node.message import Attachment, Message, check, check_capability, parse_time
from node.vocabulary import Performative, RoutingStrategy

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def message(**changes):
    values = {
        "id": "m-1",
        "performative": Performative.REQUEST,
        "sender": "client@node-1",
        "capability": "data-analysis",
        "conversation_id": "c-1",
        "reply_with": "m-1",
        "timestamp_s": 1_700_000_000.5,
    }
    return Message(**(values | changes))


@given(content=json_values, data=st.binary(max_size=50), priority=st.integers(0, 9))
def test_what_was_sealed_is_what_is_read(content, data, priority):
    original = message(
        content=content, priority=priority, attachments=(Attachment("a.csv", "text/csv", data),)
    )
    check(original)
    assert Message.unseal(original.seal()) == original
    assert Message.unseal(original.seal()).seal() == original.seal()


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_never_crash(data):
    with pytest.raises(ValidationFailed):
        Message.unseal(data)


@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_an_altered_byte_is_refused_or_changes_the_message(position, flip):
    sealed = bytearray(message(content={"a": [1, 2.5, None]}).seal())
    sealed[position % len(sealed)] ^= flip
    try:
        changed = Message.unseal(bytes(sealed))
    except ValidationFailed:
        return
    assert changed.seal() != message(content={"a": [1, 2.5, None]}).seal()


@pytest.mark.parametrize("text", ["accept-proposal", "ACCEPT_PROPOSAL", " Accept_Proposal "])
def test_performatives_are_read_in_any_spelling(text):
    assert Performative.parse(text) is Performative.ACCEPT_PROPOSAL


@pytest.mark.parametrize("performative", Performative)
def test_every_performative_is_sealed_and_read_again(performative):
    assert Performative.parse(performative.name) is performative
    assert Message.unseal(message(performative=performative).seal()).performative is performative


@pytest.mark.parametrize("text", ["query-if", "QUERY_REF"])
def test_both_kinds_of_query_are_read_as_query_and_travel_as_it(text):
    assert Performative.parse(text) is Performative.QUERY
    sealed = message(performative=Performative.QUERY).seal()
    with pytest.raises(ValidationFailed) as caught:
        Message.unseal(sealed.replace(b"\xa5query", b"\xa8query_if"))
    assert caught.value.details["field"] == "performative"


def test_a_misspelt_performative_names_the_nearest():
    with pytest.raises(ValidationFailed) as caught:
        Performative.parse("requst")
    assert caught.value.details["nearest"] == "request"


def test_strategies_have_aliases_and_suggestions():
    assert RoutingStrategy.parse("least-loaded") is RoutingStrategy.LOAD_BALANCED
    with pytest.raises(ValidationFailed, match="best_match"):
        RoutingStrategy.parse("best_mach")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("receiver", "someone"),
        ("priority", 10),
        ("priority", True),
        ("capability", "Data Analysis"),
        ("sender", "no spaces@node"),
        ("conversation_id", ""),
        ("conversation_id", "x" * 600),
        ("reply_by_s", float("nan")),
        ("content", {"a": float("inf")}),
        ("content", {1: 2}),
        ("content", b"raw"),
        ("sender", "client@n1\n"),
        ("capability", "data-analysis\n"),
        ("capability", "data-analysis:v٢"),
        ("fallback_versions", ("v1\n",)),
        ("attachments", (Attachment("x", "text/csv", blob="\n"),)),
        ("attachments", (Attachment("x", "text/csv", blob="a" * 64 + "\n"),)),
        ("attachments", (Attachment("../x", "text/csv", b""),)),
        ("attachments", (Attachment("x", "text/csv", b""), Attachment("x", "text/csv", b""))),
    ],
)
def test_a_field_that_breaks_its_rule_is_named(field, value):
    with pytest.raises(ValidationFailed) as caught:
        check(message(**{field: value}))
    assert caught.value.details["field"] == field


def test_content_may_not_nest_without_end():
    deep = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValidationFailed, match="deeper"):
        check(message(content=deep))


def test_json_shows_times_in_iso_8601_and_leaves_out_what_is_not_set():
    shown = message(reply_by_s=1_700_000_001.0).as_json()
    assert shown["timestamp"] == "2023-11-14T22:13:20.500Z"
    assert parse_time(shown["reply_by"]) == 1_700_000_001.0
    assert "receiver" not in shown


def test_times_without_a_zone_are_refused():
    with pytest.raises(ValidationFailed, match="time zone"):
        parse_time("2026-01-31T12:00:00")


def test_capabilities_have_a_namespace_and_a_version():
    for text in ("data-analysis", "data-analysis:v2", "system:routing-debug", "a:b:v1.2"):
        assert check_capability(text) == text


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"name": "x"},
        {"name": "x", "text": "a", "base64": "YQ=="},
        {"name": "x", "base64": "!"},
        "x",
        {"name": "x", "text": 3},
        {"name": "a/b", "text": "x"},
        {"name": "x", "text": "x", "mode": "rwx"},
    ],
)
def test_malformed_attachments_are_refused(data):
    with pytest.raises(ValidationFailed):
        attachment_from_json(data)


def test_attachments_come_as_text_or_base64():
    assert attachment_from_json({"name": "x.csv", "media_type": "text/csv", "text": "é"}).data == "é".encode()
    assert attachment_from_json({"name": "x", "base64": "AAE="}).data == b"\x00\x01"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("parent_conversation", "c-1"),
        ("parent_conversation", ""),
        ("parent_conversation", "a\nb"),
        ("merge_conversations", ("c-1",)),
        ("merge_conversations", ("c-2", "c-2")),
        ("merge_conversations", ("c-2", "\x00")),
        ("merge_conversations", tuple(f"c{n}" for n in range(2, 19))),
    ],
)
def test_a_conversation_has_others_as_its_kin_and_each_once(field, value):
    with pytest.raises(ValidationFailed) as caught:
        check(message(**{field: value}))
    assert caught.value.details["field"] == field


def test_kin_travels_in_the_seal_and_a_message_without_it_is_read_from_before_there_was_any():
    original = message(parent_conversation="c-0", merge_conversations=("c-2", "c-3"))
    assert Message.unseal(original.seal()) == original
    assert (original.has_kin, message().has_kin) == (True, False)
    older = msgspec.msgpack.encode(msgspec.msgpack.decode(message().seal())[:-2])
    assert Message.unseal(older) == message()
