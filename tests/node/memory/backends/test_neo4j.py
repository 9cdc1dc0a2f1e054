"""Neo4j: what differs from the file, and what happens while the server is away."""

from dataclasses import replace

import pytest

from node.errors import ConfigInvalid, MemoryBackendFailed, MemoryLimitExceeded
from node.memory.backends.neo4j import searching, server
from node.memory.backends.neo4j.backend import Neo4jBackend
from node.memory.backends.neo4j.graph_schema import reach_of
from node.memory.backends.neo4j.server import GraphClient, GraphServer
from node.memory.backends.protocol import BackendContext
from node.memory.migrating import Migration, told_by
from node.memory.model import EntityDraft, ObservationDraft, Realm, RelationDraft, Scope
from node.memory.question import Question
from node.memory.records import Limits, Outcome
from node.memory.scopes import EVERYWHERE, OPERATOR, Aim, for_agent
from tests.node.memory.backends.conftest import NEO4J, make_graph
from tests.node.memory.stand_in import WordEmbedder

ADA, BOB = for_agent("ada", ["lab"]), for_agent("bob")
MINE, HERS, WORLD = Realm(Scope.AGENT, "ada"), Realm(Scope.AGENT, "bob"), Realm(Scope.GLOBAL)


@pytest.fixture(params=[pytest.param("a server", marks=NEO4J)])
async def graph(environment, embedder):
    found = await make_graph(environment, embedder)
    yield found
    await found.aclose()


async def test_the_index_of_a_space_is_narrowed_to_who_asks(graph, monkeypatch):
    monkeypatch.setattr(searching, "EXACT_LIMIT", 0)
    for viewer, realm in ((ADA, MINE), (BOB, HERS)):
        draft = EntityDraft("tea", "drink", (ObservationDraft(f"the word of {realm.owner}"),))
        await graph.remember(viewer, realm, [draft])
    found = await graph.search(ADA, Question("the word of bob"))
    assert [hit.entity.realm for hit in found.hits] == [MINE]
    assert "meaning" in found.hits[0].reasons


async def test_a_space_is_never_mixed_with_another(graph, environment):
    await graph.remember(ADA, MINE, [EntityDraft("tea", "drink", (ObservationDraft("is green"),))])
    other = Neo4jBackend(graph._client, replace(graph._context, embedder=WordEmbedder("others", 128)))
    found = await other.search(ADA, Question("is green"))
    assert [set(hit.reasons) for hit in found.hits] == [{"words"}]


async def test_there_is_as_much_room_as_is_said(graph):
    small = Neo4jBackend(graph._client, replace(graph._context, limits=Limits(entities=2)))
    drafts = [EntityDraft(f"n{number}", "thing") for number in range(3)]
    await small.remember(ADA, MINE, drafts[:2])
    with pytest.raises(MemoryLimitExceeded):
        await small.remember(ADA, MINE, drafts[2:])
    assert await small.counts(ADA) == {MINE: (2, 0, 0)}


async def test_a_file_is_migrated_with_everything(graph, memory, tmp_path):
    for number in range(3):
        texts = (ObservationDraft(f"fact {number}", metadata={"n": number}), ObservationDraft("old"))
        [stored] = await memory.remember(
            ADA, MINE if number else WORLD, [EntityDraft(f"n{number}", "x", texts)]
        )
        await memory.supersede(ADA, stored.observation_ids[1], ObservationDraft("new"))
        await memory.record(ADA, stored.observation_ids[:1], Outcome.ACCEPTED)
    await memory.relate(ADA, MINE, [RelationDraft("n1", "n2", "knows", strength=0.2)])
    await memory.relate(ADA, MINE, [RelationDraft("n1", "n2", "knows", strength=0.9, metadata={"a": [1]})])
    run = Migration(memory, graph, name="neo4j", path=tmp_path / "memory.db", on_progress=lambda _: None)
    told = await run.run()
    assert (told.entities, told.observations, told.relations) == (3, 9, 2)
    assert await told_by(graph) == await told_by(memory)
    assert await graph.get(ADA, "n1") == await memory.get(ADA, "n1")
    found = await graph.search(ADA, Question("fact 1"))
    assert found.hits[0].entity.name == "n1"
    parts = await memory.export(OPERATOR, EVERYWHERE, vectors=True).entities()
    await graph.take(parts)  # what is told twice is there once
    assert await told_by(graph) == told


async def test_a_server_that_is_away_is_told_and_left_alone(environment, embedder):
    client = GraphClient(GraphServer("bolt://127.0.0.1:1", "neo4j", "s3cret", timeout_s=0.2), environment)
    away = Neo4jBackend(client, BackendContext(environment, "n1", embedder, Limits(), 0.3))
    for _ in range(3):
        with pytest.raises(MemoryBackendFailed, match=r"bolt://127\.0\.0\.1:1 failed"):
            await away.remember(ADA, MINE, [EntityDraft("tea", "drink")])
    with pytest.raises(MemoryBackendFailed) as caught:
        await away.search(ADA, Question("tea"))
    assert "left alone" in str(caught.value)
    told = away.statistics()
    assert (told["state"], told["failed_transactions"]) == ("failed", 3)
    assert "s3cret" not in repr(client._server) + str(told) + str(caught.value)
    await away.aclose()
    await away.aclose()


def test_a_driver_that_is_not_there_is_asked_for(environment, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(server.importlib, "import_module", missing)
    with pytest.raises(ConfigInvalid, match="neo4j cannot be used"):
        GraphClient(GraphServer("bolt://127.0.0.1:1", "", ""), environment)


@pytest.mark.parametrize(
    ("viewer", "aim", "places"),
    [
        (ADA, EVERYWHERE, ["2/", "1/lab", "0/ada"]),
        (ADA, Aim(Scope.AGENT, "ada"), ["0/ada"]),
        (ADA, Aim(Scope.WORKSPACE), ["1/lab"]),
        (for_agent("eve"), Aim(Scope.WORKSPACE), []),
    ],
)
def test_every_condition_names_what_who_asks_may_see(viewer, aim, places):
    condition = reach_of(viewer, aim).of("x", "y")
    assert condition.parameters["places"] == places
    assert condition.where.count("IN $places") == 2


def test_nothing_in_a_question_is_syntax_of_the_full_text():
    reach = reach_of(ADA, Aim(Scope.AGENT, "ada"))
    terms = searching._terms('tea) OR places:(x "the" ~2 [a TO b] \\ +the')
    query = searching._query(reach, ("text",), terms)
    assert terms == ("tea", "places", "x", "2", "b")
    assert query.startswith("+places:(p")
    assert query.endswith('+(text:("tea" "places" "x" "2" "b"))')
