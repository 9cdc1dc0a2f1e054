"""Each seed has its own backoff, the first answer ends the search, and one is visited now and then."""

import random

import pytest

from swim.config import SwimConfig
from swim.seeds import Seeds, parse_seed

CONFIG = SwimConfig.profile("lan", join_retry_initial_s=1.0, join_retry_max_s=8.0, max_seeds=3)


def searching(*texts: str) -> Seeds:
    seeds = Seeds(CONFIG, random.Random(1))
    seeds.add(list(texts), 0.0)
    return seeds


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.5:7946", ("10.0.0.5", 7946)),
        (" host.example:1 ", ("host.example", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:7946", ("fe80::1%eth0", 7946)),
    ],
)
def test_a_seed_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_seed(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":7946", "host:0", "host:65536", "host:-1", "host:\uff17", "::1:7946", "[]:7946"],
)
def test_anything_else_is_an_error_that_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match="seed '"):
        parse_seed(text)


def test_pauses_double_up_to_their_limit_and_are_spread() -> None:
    seeds = searching("a:1")
    pauses = []
    now = 0.0
    for attempt in range(1, 8):
        assert seeds.due(now) == [("a:1", ("a", 1), attempt - 1)]
        assert seeds.due(now) == []  # it is being tried
        failed = seeds.failed("a:1", "refused", now)
        assert failed is not None
        assert (failed.attempt, failed.reason) == (attempt, "refused")
        pauses.append(failed.retry_in_s)
        assert seeds.next_timer() == now + failed.retry_in_s
        assert seeds.statistics() == {"seeds_pending": 1, "seed_failures": attempt, "seeds_visited": 0}
        now += failed.retry_in_s
    for pause, wanted in zip(pauses, [1, 2, 4, 8, 8, 8, 8], strict=True):
        assert 0.75 * wanted <= pause <= 1.25 * wanted
    assert len(set(pauses[3:])) == 4


def test_the_first_answer_ends_the_search_for_all_and_late_failures_do_not_matter() -> None:
    seeds = searching("a:1", "b:1")
    assert len(seeds.due(0.0)) == 2
    assert seeds.answered()
    assert not seeds.answered()
    assert seeds.statistics() == {"seeds_pending": 0, "seed_failures": 0, "seeds_visited": 2}
    assert seeds.next_timer() is None
    assert seeds.failed("b:1", "refused", 1.0) is None
    assert {seeds.revisit() for _ in range(30)} == {("a", 1), ("b", 1)}


def test_nothing_is_looked_up_again_before_the_search_is_over_or_without_seeds() -> None:
    assert Seeds(CONFIG, random.Random(1)).revisit() is None
    assert searching("a:1").revisit() is None


def test_a_seed_that_is_oneself_is_dropped() -> None:
    seeds = searching("a:1", "b:1")
    assert not seeds.is_self("a:1")
    assert seeds.is_self("b:1")
    assert seeds.due(0.0) == []


def test_the_number_of_seeds_is_bounded_those_that_answered_included() -> None:
    seeds = searching("a:1", "b:1")
    seeds.answered()
    seeds.add(["a:1", "c:1"], 0.0)
    with pytest.raises(ValueError, match="at most 3"):
        seeds.add(["d:1"], 0.0)
    assert seeds.statistics()["seeds_pending"] == 2
