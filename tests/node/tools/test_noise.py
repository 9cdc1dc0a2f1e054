"""What a server says beside its answers is bounded, and says so."""

from __future__ import annotations

from node.tools.noise import LINE_LIMIT, LINES_PER_S, MESSAGES_BURST, MESSAGES_PER_S, FloodMeter, LineLog


def test_a_burst_is_allowed_and_a_flood_is_not() -> None:
    meter = FloodMeter()
    assert all(meter.allows(5.0) for _ in range(MESSAGES_BURST))
    assert not meter.allows(5.0)


def test_what_goes_on_slowly_is_no_flood_however_long_it_lasts() -> None:
    meter = FloodMeter()
    assert all(meter.allows(number / MESSAGES_PER_S) for number in range(5 * MESSAGES_BURST))


def test_answers_are_no_flood_however_fast_they_come() -> None:
    meter = FloodMeter()
    for _ in range(5 * MESSAGES_BURST):
        meter.asked()
        assert meter.allows(0.0)


def test_lines_are_cut_out_of_chunks_and_made_harmless() -> None:
    log = LineLog()
    assert log.feed(b"one\ntw", 0.0) == ["one"]
    assert log.feed(b"o\x1b[2J\n\n\xff\n", 0.0) == ["two\ufffd[2J", "\ufffd"]
    assert log.feed(b"x" * 10 * LINE_LIMIT, 0.0) == []
    assert log.feed(b"\n", 0.0) == ["x" * LINE_LIMIT]


def test_more_lines_than_a_log_needs_are_counted() -> None:
    log = LineLog()
    assert len(log.feed(b"line\n" * 1000, 0.0)) == LINES_PER_S
    assert log.feed(b"late\n", 1.0) == [f"({1000 - LINES_PER_S} lines were left out)", "late"]
