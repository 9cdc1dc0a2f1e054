"""Many callers share runs, and none hurts another."""

from collections.abc import Sequence

import numpy as np
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.environment import SystemClock
from node.errors import EmbeddingFailed, InvariantViolation, ResourceLimitExceeded
from node.memory.embedding import coalescing
from node.memory.embedding.cache import VectorCache
from node.memory.embedding.coalescing import CoalescingEmbedder
from tests.node.memory.embedding.engines import WatchedEngine, broken, refused

CLOCK = SystemClock()


def made(engine: WatchedEngine, entries: int = 100) -> CoalescingEmbedder:
    return CoalescingEmbedder(engine, cache_entries=entries)


async def test_rows_are_in_the_order_of_the_texts(autojump_clock: MockClock) -> None:
    texts = ["aaa", "b", "", "dd", "b", "eeeee", "ffffff"]
    rows = await made(WatchedEngine()).embed(texts)
    assert rows.dtype == np.float32
    assert rows[:, 0].tolist() == [len(text) for text in texts]


async def test_no_texts_need_no_run(autojump_clock: MockClock) -> None:
    engine = WatchedEngine()
    assert (await made(engine).embed([])).shape == (0, 2)
    assert engine.runs == []


async def test_a_text_alone_is_a_mistake_of_the_caller(autojump_clock: MockClock) -> None:
    with pytest.raises(InvariantViolation):
        await made(WatchedEngine()).embed("text")


async def test_calls_at_the_same_time_share_runs_in_their_order(autojump_clock: MockClock) -> None:
    engine = WatchedEngine(texts=4)
    embedder = made(engine)
    got: dict[str, list[float]] = {}

    async def ask(*texts: str) -> None:
        got[texts[0]] = (await embedder.embed(texts))[:, 0].tolist()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "first")
        await wait_all_tasks_blocked()
        for texts in (["x"], ["yy", "zzz"], ["4444", "55555"]):
            nursery.start_soon(ask, *texts)
            await wait_all_tasks_blocked()
    assert engine.runs == [["first"], ["x", "yy", "zzz", "4444"], ["55555"]]
    assert got == {"first": [5], "x": [1], "yy": [2, 3], "4444": [4, 5]}


async def test_a_run_is_bounded_by_characters_but_takes_one_text_of_any_length(
    autojump_clock: MockClock,
) -> None:
    engine = WatchedEngine(characters=10)
    await made(engine).embed(["a" * 30, "b" * 6, "c" * 4, "d"])
    assert engine.runs == [["a" * 30], ["b" * 6, "c" * 4], ["d"]]


async def test_a_long_call_delays_a_short_one_by_one_run(autojump_clock: MockClock) -> None:
    engine = WatchedEngine(texts=4)
    embedder = made(engine, 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(embedder.embed, [f"text {number}" for number in range(40)])
        await wait_all_tasks_blocked()
        await embedder.embed(["short"])
        assert len(engine.runs) == 2
        assert engine.runs[1][0] == "short"
    assert sum(map(len, engine.runs)) == 41


async def test_equal_texts_are_computed_once(autojump_clock: MockClock) -> None:
    engine = WatchedEngine()
    embedder = made(engine)
    await embedder.embed(["one", "two", "one"])
    rows = await embedder.embed(["two", "three", "one"])
    assert rows[:, 0].tolist() == [3, 5, 3]
    rows = await embedder.embed(["one", "three"])
    assert rows[:, 0].tolist() == [3, 5]
    assert engine.runs == [["one", "two"], ["three"]]


def test_a_cached_vector_keeps_no_other_alive() -> None:
    cache = VectorCache(1)
    rows = np.ones((1_000, 2), np.float32)
    cache.put(cache.key("text"), rows[0])
    found = cache.get(cache.key("text"))
    assert found is not None
    assert found.base is None
    assert cache.statistics() == {"cached": 1, "cached_limit": 1, "cache_hits": 1}


async def test_what_is_cached_does_not_wait_for_a_run(autojump_clock: MockClock) -> None:
    embedder = made(WatchedEngine())
    await embedder.embed(["known"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(embedder.embed, ["new"])
        await wait_all_tasks_blocked()
        before = CLOCK.now()
        await embedder.embed(["known"])
        assert CLOCK.now() == before


async def test_the_cache_forgets_what_was_used_longest_ago(autojump_clock: MockClock) -> None:
    engine = WatchedEngine()
    embedder = made(engine, 2)
    for text in ("one", "two", "one", "three", "one", "two"):
        await embedder.embed([text])
    assert engine.runs == [["one"], ["two"], ["three"], ["two"]]
    assert embedder.statistics()["cached"] == embedder.statistics()["cached_limit"] == 2


async def test_a_caller_who_changes_his_rows_changes_nobody_elses(autojump_clock: MockClock) -> None:
    embedder = made(WatchedEngine())
    for _ in range(2):
        rows = await embedder.embed(["three"])
        assert rows[0, 0] == 5
        rows[:] = 0


async def test_a_caller_who_is_cancelled_hurts_no_other(autojump_clock: MockClock) -> None:
    engine = WatchedEngine()
    embedder = made(engine)
    got: list[float] = []

    async def ask(texts: Sequence[str]) -> None:
        got.extend((await embedder.embed(texts))[:, 0].tolist())

    async with trio.open_nursery() as nursery, trio.open_nursery() as cancelled:
        cancelled.start_soon(embedder.embed, ["leader", "again"])
        await wait_all_tasks_blocked()
        cancelled.start_soon(embedder.embed, ["waiting"])
        nursery.start_soon(ask, ["a", "bb"])
        await wait_all_tasks_blocked()
        cancelled.cancel_scope.cancel()
    assert got == [1, 2]
    assert engine.runs == [["leader", "again"], ["a", "bb"]]
    statistics = embedder.statistics()
    assert (statistics["waiting_texts"], statistics["waiting_calls"]) == (0, 0)


async def test_the_texts_of_others_in_a_cancelled_run_are_run_again(autojump_clock: MockClock) -> None:
    engine = WatchedEngine()
    embedder = made(engine)
    got: list[float] = []

    async def ask(texts: Sequence[str]) -> None:
        got.extend((await embedder.embed(texts))[:, 0].tolist())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, ["first"])
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as cancelled:
            cancelled.start_soon(embedder.embed, ["leader"])
            await wait_all_tasks_blocked()
            nursery.start_soon(ask, ["other"])
            await CLOCK.sleep(1.5)
            assert engine.runs[-1] == ["leader", "other"]
            cancelled.cancel_scope.cancel()
    assert engine.runs == [["first"], ["leader", "other"], ["other"]]
    assert got == [5, 5]


async def test_a_failure_is_told_to_everybody_in_the_run(autojump_clock: MockClock) -> None:
    engine = WatchedEngine()
    engine.fails = broken
    embedder = made(engine)
    told: list[EmbeddingFailed] = []

    async def ask(text: str) -> None:
        with pytest.raises(EmbeddingFailed) as caught:
            await embedder.embed([text])
        told.append(caught.value)

    async with trio.open_nursery() as nursery:
        for text in ("a", "b", "c"):
            nursery.start_soon(ask, text)
    assert len(told) == 3
    assert len({id(error) for error in told}) == 3
    assert all(error.what == "broken" and error.fix == "mend it" for error in told)
    assert len(engine.runs) == 1
    engine.fails = lambda texts: None
    assert (await embedder.embed(["a"]))[0, 0] == 1


async def test_one_refused_text_hurts_only_its_caller(autojump_clock: MockClock) -> None:
    engine = WatchedEngine()
    engine.fails = refused("bad")
    embedder = made(engine)
    got: dict[str, float] = {}

    async def ask(text: str) -> None:
        got[text] = (await embedder.embed([text]))[0, 0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "first")
        await wait_all_tasks_blocked()
        nursery.start_soon(ask, "good")
        nursery.start_soon(ask, "better")
        with pytest.raises(EmbeddingFailed, match="refused"):
            await embedder.embed(["bad"])
    assert got == {"first": 5, "good": 4, "better": 6}


async def test_texts_beyond_the_limit_are_refused(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescing, "WAITING_TEXTS_LIMIT", 3)
    embedder = made(WatchedEngine())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(embedder.embed, ["a", "b"])
        await wait_all_tasks_blocked()
        with pytest.raises(ResourceLimitExceeded) as caught:
            await embedder.embed(["c", "d"])
        assert caught.value.fix
        await embedder.embed(["c"])
    assert embedder.statistics()["refused_calls"] == 1
    await embedder.embed(["e", "f", "g"])


async def test_callers_beyond_the_limit_are_refused(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescing, "WAITING_CALLS_LIMIT", 1)
    embedder = made(WatchedEngine())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(embedder.embed, ["a"])
        await wait_all_tasks_blocked()
        with pytest.raises(ResourceLimitExceeded):
            await embedder.embed(["b"])


async def test_a_turn_looks_at_so_many_texts_and_no_more(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalescing, "LOOKED_AT_LIMIT", 3)
    engine = WatchedEngine(texts=10)
    rows = await made(engine).embed(["same"] * 5 + ["other"])
    assert rows[:, 0].tolist() == [4] * 5 + [5]
    assert engine.runs == [["same"], ["other"]]


async def test_only_the_beginning_of_a_text_counts(autojump_clock: MockClock) -> None:
    engine = WatchedEngine(text_characters=5)
    await made(engine).embed(["12345", "123456789" * 1_000_000])
    assert engine.runs == [["12345"]]


async def test_lone_surrogates_are_replaced_and_pairs_joined(autojump_clock: MockClock) -> None:
    engine = WatchedEngine()
    await made(engine).embed(["a\ud800b", "\udc00", "\ud83d\ude42", "\x00"])
    assert engine.runs == [["a\ufffdb", "\ufffd", "\U0001f642", "\x00"]]


async def test_closing_closes_the_engine(autojump_clock: MockClock) -> None:
    engine = WatchedEngine()
    await made(engine).aclose()
    assert engine.closed
