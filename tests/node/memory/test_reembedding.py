"""Vectors of the present model for all: after another model, after failures, after a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import trio

from node.environment import Environment
from node.errors import EmbeddingFailed
from node.memory.absent import AbsentEmbedder
from node.memory.embedding import Vectors
from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.question import Question
from node.memory.reembedding import BATCH_TEXTS, Reembedding
from node.memory.scopes import OPERATOR
from node.memory.store import MemoryStore
from tests.node.memory.stand_in import WordEmbedder

WORLD = Realm(Scope.GLOBAL)
Opening = Callable[..., MemoryStore]


async def fill(memory: MemoryStore, count: int) -> None:
    texts = tuple(ObservationDraft(f"fact number{n}") for n in range(count))
    await memory.remember(OPERATOR, WORLD, [EntityDraft("tea", "drink", texts)])


async def spaces(memory: MemoryStore) -> list[tuple[int, int]]:
    """Of each model, how many observations have it and how many vectors its table has."""

    def look(connection):
        found = connection.execute("SELECT key FROM models ORDER BY key").fetchall()
        count = "SELECT (SELECT count(*) FROM observations WHERE model = {0}), count(*) FROM vectors_{0}"
        return [connection.execute(count.format(key)).fetchall()[0] for (key,) in found]

    return await memory.storage.read(look)


async def until(environment: Environment, holds: Callable[[], bool]) -> None:
    while not holds():
        await environment.clock.sleep(1)


@pytest.fixture
def other(environment: Environment) -> Callable[[MemoryStore, WordEmbedder], MemoryStore]:
    """The same file with another model."""
    return lambda memory, model: MemoryStore(memory.storage, model, environment, node="n1")


async def test_vectors_of_another_model_are_replaced_and_its_space_goes(memory, other, environment):
    await fill(memory, BATCH_TEXTS + 3)
    observation = (await memory.search(OPERATOR, Question("number7"))).hits[0].entity.observations[0]
    await memory.supersede(OPERATOR, observation.id, ObservationDraft("fact of today"))
    changed = WordEmbedder("other words", dimension=64)
    after = other(memory, changed)
    assert not (await after.search(OPERATOR, Question("number9"))).by_meaning
    job = Reembedding(memory.storage, changed, environment)
    told = await job.progress()
    assert (told["done"], told["total"], told["state"]) == (0, BATCH_TEXTS + 4, "waiting")
    await job.run_pass()
    assert await spaces(memory) == [(BATCH_TEXTS + 4, BATCH_TEXTS + 4)]
    told = await job.progress()
    assert (told["remaining"], told["state"], told["model"]) == (0, "idle", "other words")
    found = await after.search(OPERATOR, Question("fact number9", min_similarity=0.5))
    assert found.by_meaning
    assert found.hits[0].similarity > 0.5
    # What was superseded stays out of questions about what holds now.
    current = (await after.search(OPERATOR, Question("fact number7"))).hits[0].entity.observations
    assert observation.id not in {each.id for each in current}


async def test_spaces_do_not_mix_while_it_is_under_way(memory, other, environment):
    await fill(memory, 2 * BATCH_TEXTS)
    changed = WordEmbedder("other words")
    job = Reembedding(memory.storage, changed, environment)
    with trio.CancelScope() as scope:
        embed = changed.embed

        async def once(texts: Sequence[str]) -> Vectors:
            if changed.calls:
                scope.cancel()
                await trio.lowlevel.checkpoint()
            return await embed(texts)

        changed.embed = once
        await job.run_pass()
    changed.embed = embed
    assert await spaces(memory) == [(BATCH_TEXTS, BATCH_TEXTS)] * 2
    after = other(memory, changed)
    found = await after.search(OPERATOR, Question("number1 fact", limit=1))
    assert set(found.hits[0].reasons) >= {"meaning", "words"}
    last = await after.search(OPERATOR, Question(f"number{2 * BATCH_TEXTS - 1}"))
    assert last.hits[0].reasons["words"].rank == 1
    assert last.hits[0].entity.observations[0].text == f"fact number{2 * BATCH_TEXTS - 1}"
    await Reembedding(memory.storage, changed, environment).run_pass()
    assert await spaces(memory) == [(2 * BATCH_TEXTS, 2 * BATCH_TEXTS)]


async def test_what_was_stored_without_a_vector_gets_one(memory, embedder, environment):
    embedder.broken = True
    await fill(memory, 3)
    embedder.broken = False
    await Reembedding(memory.storage, embedder, environment).run_pass(whole=False)
    assert await spaces(memory) == [(3, 3)]


async def test_an_embedder_that_fails_is_waited_for(memory, embedder, environment, autojump_clock):
    embedder.broken = True
    await fill(memory, 2)
    job = Reembedding(memory.storage, embedder, environment)
    async with trio.open_nursery() as nursery:
        await nursery.start(job.run)
        await until(environment, lambda: job.statistics()["state"] == "waiting for the embedder")
        assert "broken" in job.statistics()["failure"]
        embedder.broken = False
        await until(environment, lambda: job.statistics()["embedded"] == 2)
        embedder.broken = True
        await memory.remember(OPERATOR, WORLD, [EntityDraft("cup", "thing", (ObservationDraft("is new"),))])
        embedder.broken = False
        await until(environment, lambda: job.statistics()["embedded"] == 3)
        nursery.cancel_scope.cancel()
    assert await spaces(memory) == [(3, 3)]


async def test_a_text_that_is_refused_holds_up_no_other(memory, environment, autojump_clock):
    class Picky(WordEmbedder):
        async def embed(self, texts: Sequence[str]) -> Vectors:
            if any("number1" in text.split() for text in texts):
                raise EmbeddingFailed("one of the texts is refused")
            return await super().embed(texts)

    await fill(memory, BATCH_TEXTS + 1)
    job = Reembedding(memory.storage, Picky("picky"), environment)
    await job.run_pass()
    told = await job.progress()
    assert (told["remaining"], told["refused"]) == (1, 1)
    assert sorted(await spaces(memory)) == [(1, 1), (BATCH_TEXTS, BATCH_TEXTS)]


async def test_a_memory_without_a_model_is_left_alone(memory, environment):
    await fill(memory, 2)
    job = Reembedding(memory.storage, AbsentEmbedder(), environment)
    await job.run_pass()
    told = await job.progress()
    assert (told["state"], told["model"], told["remaining"]) == ("no model", None, 2)
    assert "no vectors" in told["failure"]


async def test_what_is_forgotten_while_it_is_embedded_stays_forgotten(memory, environment):
    await fill(memory, 2)

    class Slow(WordEmbedder):
        async def embed(self, texts: Sequence[str]) -> Vectors:
            await memory.forget(OPERATOR, "tea")
            new = EntityDraft("cup", "thing", (ObservationDraft("is new"),))
            await memory.remember(OPERATOR, WORLD, [new])
            return await super().embed(texts)

    await Reembedding(memory.storage, Slow("slow"), environment).run_pass()
    assert [e.name for e in await memory.entities(OPERATOR)] == ["cup"]
    # What is new may have the key of what is gone; it does not get the vector of that.
    assert await spaces(memory) == [(1, 1), (0, 0)]
