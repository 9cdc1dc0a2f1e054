"""Routes of the memory, over a real memory in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from node.cluster.replicas import Replicas
from node.environment import system_environment
from node.memory.records import Limits
from node.memory.replication.replica import Replica
from node.memory.room import MemoryRoom
from node.security.identity import NodeCredentials
from tests.node.http.fakes import ADMIN, SENDER, VIEWER, World
from tests.node.memory.stand_in import WordEmbedder


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    async def embedder() -> WordEmbedder:
        return WordEmbedder()

    room = MemoryRoom(
        environment=system_environment(),
        path=tmp_path / "memory.db",
        durability="normal",
        node="alpha",
        limits=Limits(entities=5),
        threshold=0.3,
        make_embedder=embedder,
    )
    yield World(memory=room, limit_bytes=16 * 1024**2)
    room.close()


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def entity(name: str, *texts: str, **more: Any) -> dict[str, Any]:
    return {"entity_name": name, "entity_type": "drink", "observations": list(texts), **more}


async def test_what_is_stored_is_found_with_its_reasons(world: World) -> None:
    async with world.client() as client:
        stored = await client.post(
            "/memory/entities",
            json=entity("tea", "is green", agent_id="ada", message_id="m1", metadata={"lang": "en"}),
        )
        assert stored.status_code == 201
        assert stored.json()["embedding_generated"] is True
        found = (await client.get("/memory/search?query=green&agent_id=ada")).json()
        [hit] = found["results"]
        assert (hit["entity_name"], hit["memory_scope"], hit["owner"]) == ("tea", "agent-only", "ada")
        assert hit["why"]["words"] == {"rank": 1, "terms": ["green"]}
        assert hit["observations"][0]["source"] == {"agent": "ada", "message": "m1", "node": "alpha"}
        assert (found["total_results"], found["degraded"], found["by_meaning"]) == (1, False, True)
        by_metadata = "/memory/search?query=green&metadata=%7B%22lang%22:%22{}%22%7D"
        assert (await client.get(by_metadata.format("en"))).json()["total_results"] == 1
        assert (await client.get(by_metadata.format("de"))).json()["total_results"] == 0


async def test_an_agent_is_answered_as_that_agent_and_an_operator_sees_all(world: World) -> None:
    async with world.client() as client:
        for who in ("ada", "bob"):
            await client.post("/memory/entities", json=entity("tea", f"of {who}", agent_id=who))
        await client.post(
            "/memory/entities", json=entity("kettle", memory_scope="workspace", workspace="lab")
        )
        assert (await client.get("/memory/search?query=tea")).json()["total_results"] == 2
        hers = (await client.get("/memory/entities?agent_id=ada")).json()["entities"]
        assert [each["owner"] for each in hers] == ["ada"]
        with_lab = (await client.get("/memory/entities?agent_id=ada&workspace=lab")).json()["entities"]
        assert {each["owner"] for each in with_lab} == {"ada", "lab"}
        his = (await client.get("/memory/entities?agent_id=bob")).json()["entities"][0]["entity_id"]
        assert (await client.get(f"/memory/entities/{his}?agent_id=ada")).status_code == 404
        assert (await client.delete(f"/memory/entities/{his}?agent_id=ada")).status_code == 404
        denied = await client.get("/memory/search?query=x&agent_id=ada&workspace=lab&memory_scope=agent")
        assert denied.status_code == 200
        scopes = (await client.get("/memory/stats")).json()["scopes"]
        assert [(s["memory_scope"], s["owner"]) for s in scopes] == [
            ("agent-only", "ada"),
            ("agent-only", "bob"),
            ("workspace", "lab"),
        ]


async def test_each_of_a_batch_is_stored_or_refused_on_its_own(world: World) -> None:
    batch = [entity("a"), entity("b", " "), {"entity_nam": "c"}, entity("a", entity_type="plant")]
    async with world.client() as client:
        answer = await client.post("/memory/entities/batch", json={"agent_id": "ada", "entities": batch})
    assert answer.status_code == 207
    results = answer.json()["results"]
    assert [each["status"] for each in results] == ["stored", "refused", "refused", "refused"]
    assert [each["error"]["code"] for each in results[1:]] == [
        "INVALID_ENTITY_DATA",
        "VALIDATION_ERROR",
        "ENTITY_CONFLICT",
    ]
    assert "entity_name" in str(results[2]["error"])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (entity("tea"), 400, "VALIDATION_ERROR"),
        (entity("tea", memory_scope="workspace"), 400, "VALIDATION_ERROR"),
        (entity("tea", agent_id="ada", memory_scope="globl"), 400, "VALIDATION_ERROR"),
        (entity("tea", agent_id="ada", observation=["x"]), 400, "VALIDATION_ERROR"),
        (entity("tea", agent_id="ada", confidence=2), 400, "VALIDATION_ERROR"),
        (entity("tea", agent_id="ada", valid_from="yesterday"), 400, "VALIDATION_ERROR"),
        (entity(" ", agent_id="ada"), 400, "INVALID_ENTITY_DATA"),
        (entity("tea", "a\x00b", agent_id="ada"), 400, "INVALID_ENTITY_DATA"),
        (entity("tea", "x" * (1024**2 + 1), agent_id="ada"), 413, "MEMORY_TOO_LARGE"),
        (entity("tea", *("x" * 1024**2 for _ in range(11)), agent_id="ada"), 413, "MEMORY_TOO_LARGE"),
    ],
)
async def test_bad_entities_are_refused_and_no_file_is_made(
    world: World, tmp_path: Path, body: dict[str, Any], status: int, code: str
) -> None:
    async with world.client() as client:
        answer = await client.post("/memory/entities", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    if code != "MEMORY_TOO_LARGE":
        assert files(tmp_path) == []


@pytest.mark.parametrize(
    "query",
    [
        "query=",
        "query=x&limit=0",
        "query=x&min_similarity=2",
        "query=x&memory_scope=globl",
        "query=x&temporal_filter=date_range&start_date=tomorrow",
        "query=x&temporal_filter=current&start_date=2026-01-01T00:00:00Z",
        "query=x&metadata=%5B1%5D",
        "query=x&metadata=%7B",
        "query=x&quer=y",
        "query=x&entity_types=" + ",".join(f"t{n}" for n in range(33)),
    ],
)
async def test_bad_questions_are_refused(world: World, query: str) -> None:
    async with world.client() as client:
        answer = await client.get(f"/memory/search?{query}")
    assert answer.status_code == 400
    assert answer.json()["code"] in ("VALIDATION_ERROR", "INVALID_ENTITY_DATA")


async def test_a_full_memory_and_a_full_disk_are_told_apart(world: World) -> None:
    async with world.client() as client:
        for number in range(5):
            await client.post("/memory/entities", json=entity(str(number), agent_id="ada"))
        full = await client.post("/memory/entities", json=entity("5", agent_id="ada"))
    assert (full.status_code, full.json()["code"]) == (507, "MEMORY_LIMIT_EXCEEDED")
    async with World().client() as client:  # whose memory has no disk
        disk = await client.post("/memory/entities", json=entity("5", agent_id="ada"))
        nothing = await client.get("/memory/search?query=x")
        missing = await client.delete("/memory/entities/tea")
    assert (disk.status_code, disk.json()["code"]) == (507, "STORAGE_ERROR")
    assert nothing.json()["results"] == []
    assert (missing.status_code, missing.json()["code"]) == (404, "ENTITY_NOT_FOUND")


async def test_forgetting_an_agent_must_be_confirmed_and_leaves_what_is_shared(world: World) -> None:
    async with world.client() as client:
        await client.post("/memory/entities", json=entity("tea", agent_id="ada"))
        await client.post("/memory/entities", json=entity("cup", memory_scope="global"))
        assert (await client.delete("/memory/ada")).status_code == 400
        assert (await client.delete("/memory/ada?confirm=true&memory_scope=global")).status_code == 400
        assert (await client.delete("/memory/ada?confirm=true")).json() == {"deleted_entities": 1}
        left = (await client.get("/memory/entities")).json()["entities"]
    assert [each["entity_name"] for each in left] == ["cup"]


async def test_entities_are_listed_in_pages(world: World) -> None:
    async with world.client() as client:
        for number in range(5):
            await client.post("/memory/entities", json=entity(str(number), agent_id="ada"))
        seen, after = [], "ent_"
        for _ in range(3):
            page = (await client.get(f"/memory/entities?limit=2&after={after}")).json()
            seen += [each["entity_name"] for each in page["entities"]]
            after = page["next"]
    assert sorted(seen) == ["0", "1", "2", "3", "4"]
    assert after is None


@pytest.mark.parametrize("token", [SENDER, VIEWER])
async def test_only_operators_come_here(world: World, token: str) -> None:
    async with world.client(token) as client:
        assert (await client.get("/memory/search?query=x")).status_code == 403
        assert (await client.post("/memory/entities", json=entity("tea", agent_id="a"))).status_code == 403
    async with world.client(ADMIN) as client:
        assert (await client.get("/memory/search?query=x")).status_code == 200


async def test_the_statistics_tell_the_logs_of_what_is_shared(tmp_path: Path) -> None:
    async def embedder() -> WordEmbedder:
        return WordEmbedder()

    environment = system_environment()
    credentials = NodeCredentials.ephemeral("alpha", environment)
    room = MemoryRoom(
        environment=environment,
        path=tmp_path / "memory.db",
        durability="normal",
        node="alpha",
        limits=Limits(),
        threshold=0.3,
        make_embedder=embedder,
        make_replica=lambda: Replica(
            credentials.identity, credentials.authority, environment.randomness.token
        ),
    )
    links: Any = SimpleNamespace(pulls=None)
    holders: Any = SimpleNamespace(others=list, announce=lambda: None)
    replicas = Replicas(environment=environment, node="alpha", memory=room, links=links, holders=holders)
    world = World(memory=room, replication=replicas.statistics_of_logs)
    async with world.client() as client:
        before = (await client.get("/memory/stats")).json()["replication"]
        assert (before["digest"], before["origins"]) == (None, [])
        stored = await client.post("/memory/entities", json=entity("tea", "is green", memory_scope="global"))
        assert stored.status_code == 201
        after = (await client.get("/memory/stats")).json()["replication"]
        assert [(each["node"], each["operations"]) for each in after["origins"]] == [("alpha", 2)]
        assert (after["logs"], after["operations"], after["forgotten"]) == (1, 2, 0)
        gone = await client.delete("/memory/entities/tea")
        assert gone.status_code == 204
        assert (await client.get("/memory/stats")).json()["replication"]["forgotten"] == 1
    room.close()
