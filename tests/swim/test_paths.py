"""A path that only a relay or a stream could save is a fact about two members, told once each way."""

from swim.events import Event, PathLost, PathRestored
from swim.paths import LOST_AFTER, LostPath, Paths


def test_a_path_is_lost_after_a_few_saved_probes_in_a_row_and_restored_by_one_answer() -> None:
    events: list[Event] = []
    paths = Paths(events)
    for number in range(LOST_AFTER - 1):
        assert paths.saved("n1", "stream", float(number))
    assert events == []
    assert not paths.saved("n1", "relay", 9.0)
    assert events == [PathLost("n1", "relay")]
    assert not paths.saved("n1", "stream", 10.0)
    assert paths.lost() == [LostPath("n1", 9.0, "stream")]
    assert paths.statistics() == {"paths_lost": 1}
    paths.answered("n1")
    assert events[1:] == [PathRestored("n1")]
    assert paths.lost() == []


def test_an_answer_between_two_saved_probes_keeps_the_path() -> None:
    events: list[Event] = []
    paths = Paths(events)
    for number in range(3 * LOST_AFTER):
        paths.saved("n1", "relay", float(number))
        paths.answered("n1")
    assert events == []


def test_the_path_to_who_is_not_up_is_no_question() -> None:
    events: list[Event] = []
    paths = Paths(events)
    for number in range(LOST_AFTER):
        paths.saved("n1", "relay", float(number))
    paths.forget("n1")
    assert paths.lost() == []
    paths.answered("n1")
    assert events == [PathLost("n1", "relay")]
