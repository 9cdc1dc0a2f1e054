"""Server-sent events, however their bytes are cut; and no key in what a provider quotes back."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.llm.wire import without_keys
from node.sse import Event, EventReader

KEY = "sk-secret-0123456789"

events = st.lists(
    st.builds(
        Event,
        st.sampled_from(["", "message"]),
        st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1),
    ),
    max_size=5,
)


@given(events, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 200), max_size=6))
def test_events_are_read_however_their_bytes_are_cut(found: list[Event], end: str, cuts: list[int]) -> None:
    text = "".join(f": keep alive{end}event: {e.name}{end}data: {e.data}{end}id: 3{end}{end}" for e in found)
    data = text.encode()
    places = sorted({0, *(cut for cut in cuts if cut <= len(data)), len(data)})
    reader = EventReader()
    read = [e for a, b in itertools.pairwise(places) for e in reader.feed(data[a:b])]
    read += reader.feed(b"\n") if end == "\r" else []  # a last carriage return could begin a line end
    assert read == found


def test_several_data_lines_are_one_text_and_a_block_without_data_is_no_event() -> None:
    reader = EventReader()
    assert reader.feed(b"\xef\xbb\xbfdata: a\ndata:b\ndata\n\nevent: x\n\n") == [Event("", "a\nb\n")]


@pytest.mark.parametrize(
    "quoted", [KEY, f"Incorrect key {KEY}, use another", "sk-abc***********xyz1", "key-12345678"]
)
def test_keys_that_are_quoted_back_are_taken_out(quoted: str) -> None:
    clean = without_keys(f"error: {quoted}", (KEY,))
    assert "[key]" in clean
    assert KEY not in clean
    assert "abc" not in clean


def test_a_key_that_looks_like_no_key_is_taken_out_too() -> None:
    assert without_keys("login hunter2 failed", ("", "hunter2")) == "login [key] failed"
