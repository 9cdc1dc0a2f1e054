"""Qdrant beside the file: what it is told, and what happens while it does not answer."""

import json

import httpx
import pytest
import trio

from node.errors import MemoryBackendFailed
from node.memory import outbox
from node.memory.backends.qdrant.client import ANSWER_BYTES_LIMIT, ATTEMPTS, QdrantClient, QdrantServer
from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.question import Question
from node.memory.reembedding import Reembedding
from node.memory.scopes import OPERATOR, for_agent
from tests.node.memory.backends.conftest import make_index, pushed
from tests.node.memory.backends.qdrant_shim import QdrantShim
from tests.node.memory.stand_in import WordEmbedder

WORLD = Realm(Scope.GLOBAL)
ADA, BOB = for_agent("ada"), for_agent("bob")


@pytest.fixture
def shim(tmp_path):
    found = QdrantShim(tmp_path / "qdrant")
    yield found
    found.close()


@pytest.fixture
async def followed(memory, environment, shim):
    index = make_index(memory.storage, environment, shim)
    await index.attach()
    memory.vectors = index
    yield memory, index
    await index.aclose()


async def remember(memory, name, *texts, realm=WORLD, viewer=OPERATOR):
    draft = EntityDraft(name, "thing", tuple(ObservationDraft(text) for text in texts))
    [stored] = await memory.remember(viewer, realm, [draft])
    return stored


async def test_every_change_of_a_vector_reaches_the_server(followed, shim):
    memory, index = followed
    stored = await remember(memory, "tea", "is green", "is hot")
    await pushed(index)
    assert shim.points() == 2
    await memory.supersede(OPERATOR, stored.observation_ids[0], ObservationDraft("is black"))
    await pushed(index)
    assert shim.points() == 3
    assert await index.compare()
    await memory.forget_observation(OPERATOR, stored.observation_ids[1])
    await memory.forget(OPERATOR, "tea")
    await pushed(index)
    assert shim.points() == 0
    assert await index.compare()


async def test_what_was_told_and_not_noted_is_told_again(followed, shim):
    """A node that is killed between the server's answer and its own note tells the same once more."""
    memory, index = followed
    await remember(memory, "tea", "is green", "is hot")
    before = await memory.storage.read(outbox.changes)
    await pushed(index)
    await memory.storage.write(outbox.refill)
    assert [each.key for each in await memory.storage.read(outbox.changes)] == [each.key for each in before]
    await pushed(index)
    assert shim.points() == 2
    assert await memory.storage.read(outbox.length) == 0


async def test_what_changes_while_it_is_told_stays_in_the_outbox(followed):
    memory, index = followed
    stored = await remember(memory, "tea", "is green")
    changes = await memory.storage.read(outbox.changes)
    await memory.supersede(OPERATOR, stored.observation_ids[0], ObservationDraft("is black"))
    await memory.storage.write(lambda c: outbox.told(c, [each.change for each in changes]))
    left = await memory.storage.read(outbox.changes)
    assert sorted(each.realm for each in left) == [-1, 1]
    await pushed(index)


async def test_searches_are_answered_by_the_server_within_the_scopes_of_who_asks(followed, shim):
    memory, index = followed
    await remember(memory, "mine", "the word is tea", realm=Realm(Scope.AGENT, "ada"), viewer=ADA)
    await remember(memory, "hers", "the word is tea", realm=Realm(Scope.AGENT, "bob"), viewer=BOB)
    await pushed(index)
    shim.asked.clear()
    found = await memory.search(ADA, Question("the word is tea"))
    assert [hit.entity.name for hit in found.hits] == ["mine"]
    assert [path.rpartition("/")[2] for _, path in shim.asked] == ["query"]
    assert index.statistics()["searches"] == 1
    assert shim.filters == [{"must": [{"key": "realm", "match": {"any": [1]}}]}]
    await memory.search(OPERATOR, Question("the word is tea"))
    assert shim.filters[1:] == [{"must": [{"key": "realm", "range": {"gt": 0}}]}]


async def test_who_stores_something_finds_it_before_the_server_has_heard_of_it(followed):
    memory, index = followed
    await remember(memory, "tea", "is steeped at seventy degrees")
    await pushed(index)
    await remember(memory, "pot", "is made of clay")
    found = await memory.search(OPERATOR, Question("is made of clay"))
    assert found.hits[0].entity.name == "pot"
    assert "meaning" in found.hits[0].reasons
    assert index.statistics()["searches"] == 1


async def test_a_server_that_lies_shows_nothing_of_others(followed, shim):
    memory, index = followed
    await remember(memory, "hers", "the word is tea", realm=Realm(Scope.AGENT, "bob"), viewer=BOB)
    await remember(memory, "mine", "something else", realm=Realm(Scope.AGENT, "ada"), viewer=ADA)
    await pushed(index)
    shim.lie = [1, 2, 99, 1]
    found = await memory.search(ADA, Question("the word is tea", min_similarity=0.0))
    assert {hit.entity.name for hit in found.hits} <= {"mine"}


async def test_while_the_server_is_away_searches_go_on_and_nothing_is_lost(
    followed, shim, environment, autojump_clock
):
    memory, index = followed
    await remember(memory, "tea", "is steeped at seventy degrees")
    await pushed(index)
    shim.down = True
    async with trio.open_nursery() as nursery:
        await nursery.start(index.run)
        await remember(memory, "pot", "is made of clay")
        for _ in range(8):
            found = await memory.search(OPERATOR, Question("steeped at seventy degrees"))
            assert [hit.entity.name for hit in found.hits] == ["tea"]
            assert found.by_meaning
            assert (await memory.search(OPERATOR, Question("made of clay"))).hits[0].entity.name == "pot"
            await environment.clock.sleep(20.0)
        told = index.statistics()
        assert (told["state"], told["waiting"]) == ("failed", 1)
        assert "ConnectError" in str(told["error"]) or "left alone" in str(told["error"])
        asked = len(shim.asked)
        for _ in range(50):  # the breaker is open: nobody waits for it
            await memory.search(OPERATOR, Question("clay"))
        assert len(shim.asked) - asked <= 3
        shim.down = False
        await environment.clock.sleep(120.0)
        assert (index.statistics()["state"], shim.points()) == ("ok", 2)
        nursery.cancel_scope.cancel()


async def test_a_server_that_has_lost_its_vectors_is_told_all_of_them(
    followed, shim, environment, autojump_clock
):
    memory, index = followed
    await remember(memory, "tea", "is steeped at seventy degrees")
    await pushed(index)
    shim.shards.clear()
    async with trio.open_nursery() as nursery:
        await nursery.start(index.run)
        found = await memory.search(OPERATOR, Question("steeped at seventy degrees"))
        assert [hit.entity.name for hit in found.hits] == ["tea"]
        await environment.clock.sleep(10.0)
        assert shim.points() == 1
        nursery.cancel_scope.cancel()


async def test_a_space_is_never_mixed_with_another(followed, shim, environment, embedder, autojump_clock):
    memory, index = followed
    await remember(memory, "tea", "is green")
    await pushed(index)
    [old] = shim.shards
    embedder.model = WordEmbedder("others").model
    await Reembedding(memory.storage, embedder, environment).run_pass()
    await pushed(index)
    await index.compare()
    [new] = shim.shards
    assert new != old
    assert shim.points() == 1


@pytest.mark.parametrize("wrong", ["the model", "the collection"])
async def test_a_wrong_dimension_is_refused(memory, environment, shim, wrong):
    dimension = 128 if wrong == "the model" else 384
    index = make_index(memory.storage, environment, shim, dimension)
    await index.attach()
    memory.vectors = index
    await remember(memory, "tea", "is green")
    if wrong == "the model":
        await pushed(index)
        assert not shim.shards
        assert index.statistics()["refused"] == 1
    else:
        [prefix] = [index._named(memory._embedder.model.digest)]
        shim.make(prefix, {"vectors": {"size": 128, "distance": "Cosine"}})
        with pytest.raises(MemoryBackendFailed, match="128 numbers"):
            await index.push()
    found = await memory.search(OPERATOR, Question("is green"))
    assert [hit.entity.name for hit in found.hits] == ["tea"]
    assert index.statistics()["state"] == "failed"


async def test_another_server_is_told_of_everything_and_none_of_nothing(memory, environment, shim):
    await remember(memory, "tea", "is green")
    assert await memory.storage.read(outbox.length) == 0
    index = make_index(memory.storage, environment, shim)
    await index.attach()
    await pushed(index)
    await index.attach()  # the next start, with the same server
    assert await memory.storage.read(outbox.length) == 0
    await make_index(memory.storage, environment, shim, target="another").attach()
    assert await memory.storage.read(outbox.length) == 1
    await memory.storage.write(outbox.detach)
    await remember(memory, "tea", "is hot")
    assert await memory.storage.read(outbox.length) == 0


async def test_a_server_can_be_told_of_everything_once_more(followed, shim):
    memory, index = followed
    await remember(memory, "tea", "is green")
    await pushed(index)
    await index.tell_all()
    assert await memory.storage.read(outbox.length) == 1
    await pushed(index)
    assert shim.points() == 1


async def test_an_observation_without_words_is_told_of_to_nobody(followed, shim, embedder):
    memory, index = followed
    embedder.answer = embedder._vector("")[None, :]
    await remember(memory, "tea", "...")
    await pushed(index)
    assert shim.points() == 0
    assert await index.compare()


async def test_the_key_is_sent_and_never_shown(environment, shim):
    server = QdrantServer("http://127.0.0.1:6333", api_key="s3cret")
    client = QdrantClient(server, environment, transport=shim)
    await client.collections()
    assert shim.headers[0]["api-key"] == "s3cret"
    assert "s3cret" not in repr(server) + json.dumps(client.statistics())


@pytest.mark.parametrize(
    ("answer", "attempts", "why"),
    [
        (httpx.Response(503, json={}), ATTEMPTS, "status 503"),
        (httpx.Response(403, text="Invalid API key"), 1, "Invalid API key"),
        (httpx.Response(200, text="<html>"), 1, "none of Qdrant's"),
        (httpx.Response(200, json={"result": {"collections": 7}}), 1, "no collections"),
        (httpx.Response(200, content=b" " * (ANSWER_BYTES_LIMIT + 1)), 1, "more than"),
        (httpx.Response(302, headers={"location": "http://elsewhere/"}), 1, "status 302"),
    ],
)
async def test_bad_answers_are_told_apart(environment, autojump_clock, answer, attempts, why):
    asked = []

    def handle(request):
        asked.append(request)
        return answer

    client = QdrantClient(
        QdrantServer("http://127.0.0.1:1"), environment, transport=httpx.MockTransport(handle)
    )
    with pytest.raises(MemoryBackendFailed) as caught:
        await client.collections()
    assert why in str(caught.value)
    assert len(asked) == attempts


async def test_a_server_that_hangs_is_given_up(environment, autojump_clock):
    async def handle(request):
        await trio.sleep_forever()

    client = QdrantClient(
        QdrantServer("http://127.0.0.1:1", timeout_s=2.0), environment, transport=httpx.MockTransport(handle)
    )
    started = environment.clock.now()
    with pytest.raises(MemoryBackendFailed, match="no answer within 2 s"):
        await client.nearest("a", [1.0], None, past=False, limit=1)
    assert environment.clock.now() - started == pytest.approx(2.0)
