"""Regular expressions of authors are tried at a cost that is known before."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.patterns import COMPILING, Pattern, PatternInvalid, compiling, places


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (r"^[A-Z]{3}-\d+$", "ABC-12", "ABC-12\n"),
        ("b", "abc", "ac"),
        (r"^\d{4}-\d{2}-\d{2}$", "2026-01-31", "2026-1-31"),
        (r"^(?:https?)://[^\s/]+(/.*)?$", "https://a.example/x y", "ftp://a"),
        (r"^[\w.+-]+@[\w-]+\.[\w.-]+$", "jörg@example.org", "example.org"),
        (r"^(?P<a>x)|(?<b>y)$", "y", "z"),
        (r"^\/\-_$", "/-_", "/"),
        ("^(a+)+$", "a" * 100, "a" * 10_000 + "!"),
        ("^.$", "\U0001f600", "\ud800"),
    ],
)
def test_a_pattern_is_searched_for_as_json_schema_says(pattern, matching, other):
    assert Pattern(pattern).is_in(matching)
    assert not Pattern(pattern).is_in(other)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", 1),
        ("abc", 4),
        ("a{3}", 5),
        ("a{3}{10}", 45),
        ("a{ 2 , 9 }", 11),
        ("a{2,}b", 5),
        ("((a{9}){9}){9}", 1111),
        ("(?:[)]aaaa){1000}", 6007),  # the bracket in the class closes nothing
        (r"[\]{3}a]{3}", 5),
        ("[]{9}a]{5}", 7),
        ("[^]()]{5}", 7),
        ("[a[^b]{9}]{5}", 7),
        (r"\){3}\p{L}", 6),
        ("(?i)a", 2),
        ("(?i:a){2}", 7),
        ("(?P<name>a){2}", 7),
        ("a{" + "9" * 5_000 + "}", 10**9 + 1),
        ("((a{9}){9}", 112),  # not an expression, and no matter
    ],
)
def test_places_are_counted_with_repetitions_written_out(pattern, expected):
    assert places(pattern)[0] == expected


_ATOMS = st.sampled_from(["a", "é", ".", r"\w", "[ab]", "[^]a]", r"[\]b]", r"\)", "[(]"])


@st.composite
def written_out(draw, depth=3):
    """An expression, and the same with its counted repetitions written out."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        if depth and draw(st.booleans()):
            short, long = draw(written_out(depth - 1))
            short, long = f"({short})", f"({long})"
        else:
            short = long = draw(_ATOMS)
        times = draw(st.integers(1, 5))
        parts.append((short, long) if times == 1 else (f"{short}{{{times}}}", long * times))
    return "".join(short for short, _ in parts), "".join(long for _, long in parts)


@given(written_out())
def test_there_are_never_fewer_places_than_when_repetitions_are_written_out(both):
    short, long = both
    assert places(short)[0] >= places(long)[0]
    assert places(short)[1] >= places(long)[1]
    assert re.compile(long)


def test_steps_are_places_for_each_byte():
    assert Pattern("ab").steps("") == 1
    assert Pattern("a{98}").steps("x" * 1_000) == 1 + 100 * 1_000 // 200
    assert Pattern("a{98}").steps("é" * 500 + "\ud800") == 1 + 100 * 1_003 // 200
    assert compiling("abc") == COMPILING
    assert compiling(r"\w{9}[\d\p{L}]") == COMPILING + 10 * 60 + 60 + 8


def test_what_is_no_pattern_is_said_with_its_reason():
    with pytest.raises(PatternInvalid, match=r"the pattern '\^\(\?=a\)b' cannot be tried: .*look-ahead"):
        Pattern("^(?=a)b")
    with pytest.raises(PatternInvalid, match="flag x"):
        places("(?ix: # )\n)")
