"""Who was heard lately, and whether anybody was."""

from swim.config import SwimConfig
from swim.health import Health
from swim.hearing import MAX_HEARD, Hearing

CONFIG = SwimConfig.profile("lan", isolation_s=10.0, probe_interval_s=1.0)


def listening(penalty: int = 0) -> Hearing:
    health = Health(8, CONFIG.lag_warning_s)
    for _ in range(penalty):
        health.refuted()
    return Hearing(CONFIG, health)


def test_the_latest_is_named_first_and_once() -> None:
    hearing = listening()
    for at, name in enumerate("abca"):
        hearing.heard(name, float(at))
    assert hearing.lately(3.0) == ["a", "c", "b"]


def test_a_word_counts_for_as_long_as_a_member_is_not_isolated() -> None:
    hearing = listening()
    hearing.heard("a", 5.0)
    assert hearing.lately(15.0) == ["a"]
    assert hearing.lately(15.1) == []


def test_who_distrusts_itself_waits_longer_as_its_probes_take_longer() -> None:
    patient = listening(penalty=4)
    patient.heard("a", 0.0)
    assert not patient.is_silent(4 * 5 * CONFIG.probe_interval_s)
    assert patient.is_silent(4 * 5 * CONFIG.probe_interval_s + 0.1)


def test_silence_begins_with_the_last_word_of_anybody_or_with_company() -> None:
    hearing = listening()
    hearing.in_company(100.0)
    assert not hearing.is_silent(110.0)
    assert hearing.is_silent(110.1)
    hearing.heard("a", 109.0)
    assert not hearing.is_silent(119.0)
    assert hearing.is_silent(119.1)


def test_who_is_not_up_any_more_is_forgotten() -> None:
    hearing = listening()
    hearing.heard("a", 1.0)
    hearing.heard("b", 2.0)
    hearing.forget("b")
    hearing.forget("c")
    assert hearing.lately(2.0) == ["a"]


def test_only_the_last_are_remembered() -> None:
    hearing = listening()
    for at in range(MAX_HEARD + 5):
        hearing.heard(f"m{at}", float(at))
    assert hearing.statistics() == {"members_heard": MAX_HEARD}
    assert hearing.lately(float(MAX_HEARD)) == [f"m{at}" for at in range(MAX_HEARD + 4, 4, -1)]
