"""The trace: fixed columns, one hash over all lines, the last ones at hand."""

import io

from simulations.trace import BATCH_LINES, Trace


def test_a_line_has_fixed_columns():
    trace = Trace()
    trace.add(1_234_567, "m001", "send", "m002 48")
    trace.add(2, "m002", "paused")
    assert trace.tail() == ["     1234567 m001     send     m002 48", "           2 m002     paused"]


def test_the_hash_covers_lines_that_are_kept_no_more():
    one, other = Trace(keep=1), Trace(keep=1)
    for trace, first in ((one, "a"), (other, "b")):
        trace.add(1, first, "x")
        trace.add(2, "c", "x")
    assert one.tail() == other.tail()
    assert one.digest() != other.digest()


def test_the_hash_does_not_depend_on_when_it_is_asked_for():
    asked, quiet = Trace(), Trace()
    for number in range(BATCH_LINES + 10):
        for trace in (asked, quiet):
            trace.add(number, "n", "x")
        asked.digest()
    assert asked.digest() == quiet.digest()
    assert asked.count == quiet.count == BATCH_LINES + 10


def test_every_line_goes_to_the_sink():
    sink = io.StringIO()
    trace = Trace(keep=2, sink=sink)
    for number in range(5):
        trace.add(number, "n", "x")
    trace.digest()
    assert len(sink.getvalue().splitlines()) == 5
    assert len(trace.tail()) == 2
