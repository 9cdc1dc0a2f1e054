"""Values that are found in a text by their shape, whatever else the text is made of."""

from __future__ import annotations

import pytest

from node.llm.bare_calls import bare_call
from node.llm.shapes import shaped

NUMBERS = {"format": "labelled-numbers"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a chart of North 100, South 245.5 and East: 7%", {"North": 100, "South": 245.5, "East": 7}),
        ("North = 1; South=-2", {"North": 1, "South": -2}),
        (f"North{' ' * 40}1\nSouth{' ' * 40}2", {"North": 1, "South": 2}),
        ("North 100", None),
        ("", None),
    ],
)
def test_numbers_are_found_with_the_words_before_them(text, found):
    assert shaped(NUMBERS, text, ()) == found


@pytest.mark.timeout(60)  # not a measure: with gaps that share the blanks these take hours
@pytest.mark.parametrize("unit", [" ", "a ", "1 ", "a1", "1", "a: ", "A\t", ": "])
def test_blanks_and_letters_without_end_are_looked_through_once(unit):
    assert shaped(NUMBERS, "a" + unit * (50_000 // len(unit)) + "!", ()) is None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", ["  ", "} ", "{ ", "``` ", "\n"])
def test_an_answer_of_blanks_is_no_call_and_is_looked_through_once(unit):
    assert bare_call(unit * 30_000, []) is None
    assert bare_call("{" + unit * 30_000, []) is None
