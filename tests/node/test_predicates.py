"""A predicate is true of a content or is not: nothing else happens, whatever either of them is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import predicates
from node.errors import ValidationFailed
from node.predicates import (
    DEPTH_LIMIT,
    EXPRESSION_LIMIT,
    MEMBERS_LIMIT,
    TEXT_LIMIT,
    Predicate,
    check_predicate,
)

ORDER = {
    "amount": 200,
    "region": "eu",
    "paid": True,
    "tags": ["a", "b"],
    "buyer": {"name": "x"},
    "note": None,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("content.amount > 100 and content.region in ['eu', 'us']", True),
        ("content.amount > 100 and content.region in ['us']", False),
        ("content.amount <= 200 and not content.amount < 200", True),
        ("content['amount'] == 200 or content.missing == 1", True),
        ("content.missing == 1 or content.amount == 200", False),
        ("content.buyer.name == 'x' and 'name' in content.buyer", True),
        ("content.tags[1] == 'b' and 'a' in content.tags", True),
        ("content.tags[2] == 'b'", False),
        ("content.tags[-1] == 'b'", False),
        ("content.paid == true and content.note == null", True),
        ("content.paid == 1", False),
        ("content.amount > -1", True),
        ("content.region > 1", False),
        ("content.paid > 0", False),
        ("content.paid", True),
        ("content.amount", False),
        ("content.buyer == content.buyer", False),
        ("100 < content.amount < 300", True),
        ("'e' in content.region", True),
        ("content.items == 1", False),
        ("content.__class__ == 1", False),
    ],
)
def test_what_is_taken(text: str, expected: bool) -> None:
    assert Predicate(text).takes(ORDER) is expected


@pytest.mark.parametrize("content", [None, 7, "content", [1], {}, {"amount": "200"}, {"amount": [200]}])
def test_other_contents_are_not_taken(content: Any) -> None:
    assert Predicate("content.amount > 100").takes(content) is False


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", 1),
        ("content.amount >", 17),
        ("contnet.amount > 1", 1),
        ("content.f(1)", 1),
        ("content.a + 1 == 2", 1),
        ("1 == 1 and __import__", 12),
        ("[x for x in content]", 1),
        ("lambda: 1", 1),
        ("f'{content}'", 1),
        ("content.a if true else false", 1),
        ("content[1:2] == 1", 9),
        ("content.a is null", 1),
        ("1; 2", 1),
        ("x = 1", 1),
        ("1j == 1", 1),
        ("b'x' == 1", 1),
        ("'\\d' == 'x'", 1),
        ("content.a\n== 1", 1),
        ("not " * DEPTH_LIMIT + "content.paid", 1 + 4 * DEPTH_LIMIT),
        ("1 " * EXPRESSION_LIMIT, 1),
    ],
)
def test_what_is_no_expression_is_refused_with_its_place(text: str, column: int) -> None:
    with pytest.raises(ValidationFailed) as caught:
        check_predicate(text)
    assert abs(caught.value.details["column"] - column) <= (9 if "not" in text else 0)


def test_what_is_not_text_is_refused() -> None:
    for value in (None, 7, ["content"], True):
        with pytest.raises(ValidationFailed):
            check_predicate(value)


def test_large_values_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * (TEXT_LIMIT + 1)
    assert Predicate("content.a == content.a").takes({"a": long[1:]})
    assert not Predicate("content.a == content.a").takes({"a": long})
    assert not Predicate("'x' in content.a").takes({"a": long})
    assert Predicate("1 in content").takes([1] * MEMBERS_LIMIT)
    assert not Predicate("1 in content").takes([1] * (MEMBERS_LIMIT + 1))


def test_a_content_is_not_walked() -> None:
    class Untouchable(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("it was walked")

    assert Predicate("content.a == 1").takes({"a": 1, "rest": Untouchable([1, 2])})


def test_compiled_expressions_are_kept_for_a_bounded_number() -> None:
    assert predicates.predicate("content.a == 1") is predicates.predicate("content.a == 1")
    assert predicates.predicate.cache_info().maxsize == predicates.KEPT_LIMIT


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
PARTS = "content .a .b [0] ['c'] == < in and or not 1 'x' null [1,'x'] ( ) - true"
WORD = st.sampled_from([part if part[0] in ".[" else f" {part} " for part in PARTS.split()])


@given(st.lists(WORD, max_size=12).map("".join) | st.text(max_size=40), JSON)
def test_any_text_is_an_expression_or_refused_and_any_content_taken_or_not(text: str, content: Any) -> None:
    try:
        found = Predicate(text)
    except ValidationFailed:
        return
    assert found.takes(content) in (True, False)
