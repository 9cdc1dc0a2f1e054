"""Routes that keep the memory, over a real memory in a file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from node.environment import system_environment
from node.errors import MemoryBackendFailed
from node.memory.importing import Strategy
from node.memory.lines import LINE_BYTES_LIMIT
from node.memory.model import EntityDraft, ObservationDraft, Realm, RelationDraft, Scope
from node.memory.records import Limits, Retain
from node.memory.room import MemoryRoom
from node.memory.scopes import OPERATOR
from tests.node.http.fakes import SENDER, VIEWER, World
from tests.node.memory.stand_in import WordEmbedder

WORLD, ADA = Realm(Scope.GLOBAL), Realm(Scope.AGENT, "ada")


@pytest.fixture
def room(tmp_path: Path) -> Iterator[MemoryRoom]:
    async def embedder() -> WordEmbedder:
        return WordEmbedder()

    room = MemoryRoom(
        environment=system_environment(),
        path=tmp_path / "memory.db",
        durability="normal",
        node="alpha",
        limits=Limits(entities=50),
        threshold=0.3,
        make_embedder=embedder,
        retain=Retain(max_age_s=86_400.0),
    )
    yield room
    room.close()


@pytest.fixture
def world(room: MemoryRoom) -> World:
    return World(memory=room)


async def fill(room: MemoryRoom) -> None:
    store = await room.store()
    texts = (ObservationDraft("is green and hot"), ObservationDraft("is hot and green"))
    await store.remember(OPERATOR, WORLD, [EntityDraft("tea", "drink", texts), EntityDraft("uji", "town")])
    await store.remember(OPERATOR, ADA, [EntityDraft("secret", "x", (ObservationDraft("of ada"),))])
    await store.relate(OPERATOR, WORLD, [RelationDraft("tea", "uji", "grown_in")])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def body(told: list[Any]) -> bytes:
    return b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in told)


async def test_an_export_in_each_form_is_what_its_caller_sees(world: World, room: MemoryRoom) -> None:
    await fill(room)
    async with world.client() as client:
        answer = await client.get("/memory/export?include_embeddings=true")
        assert answer.headers["content-type"] == "application/x-ndjson"
        found = lines(answer.text)
        assert found[0] | {"exported_at": ""} == {
            "type": "header", "format": "caxton-memory", "version": 1, "node": "alpha", "exported_at": ""
        }  # fmt: skip
        assert found[-1] == {"type": "end", "entities": 3, "observations": 3, "relations": 1}
        assert found[1]["observations"][0]["vector"]["model"] == "words"
        answer = await client.get("/memory/export?format=json&agent_id=bob")
        assert answer.headers["content-type"] == "application/json"
        assert [each["entity_name"] for each in answer.json()["entities"]] == ["tea", "uji"]
        told = lines((await client.get("/memory/export?format=mcp&memory_scope=global")).text)
        assert told[-1] == {"type": "relation", "from": "tea", "to": "uji", "relationType": "grown_in"}
        denied = await client.get("/memory/export?agent_id=bob&memory_scope=global&format=yaml")
        assert denied.status_code == 400


async def test_an_empty_memory_has_an_export_and_a_health_and_no_file(world: World, tmp_path: Path) -> None:
    async with world.client() as client:
        assert lines((await client.get("/memory/export")).text)[-1]["entities"] == 0
        assert (await client.get("/memory/export?format=json")).json()["entities"] == []
        assert (await client.get("/memory/health")).json()["status"] == "healthy"
        assert (await client.get("/memory/check")).json()["ok"] is True
        assert (await client.get("/memory/config")).json()["retention_policy"]["max_age_days"] == 1
    assert names(tmp_path) == []


async def test_lines_are_taken_as_they_arrive_and_bad_ones_told_by_number(
    world: World, room: MemoryRoom
) -> None:
    tea = {"type": "entity", "name": "tea", "entityType": "drink", "observations": ["is green"]}
    sent = [
        tea,
        b"\n",
        b"{nonsense\n",
        b'{"type": "entity", "name": "x", "name": "y"}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'"' + b"x" * (LINE_BYTES_LIMIT + 1) + b'"\n',
        {"type": "entity", "name": "cup", "entityType": "thing"},
        tea | {"observations": ["is green", "is hot"]},
    ]
    whole = body(sent)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(whole), 100_003):
            yield whole[start : start + 100_003]

    async with world.client() as client:
        answer = await client.post("/memory/import/stream", content=pieces())
        found = answer.json()
    assert [each["line"] for each in found["errors"]] == [3, 4, 5, 6, 7]
    assert found["errors"][4]["error"]["code"] == "REQUEST_TOO_LARGE"
    assert (found["entities_created"], found["observations_added"], found["observations_known"]) == (2, 2, 1)
    assert (found["stopped_by"], found["complete"]) == (None, False)
    [entity] = [e for e in await (await room.store()).entities(OPERATOR) if e.name == "tea"]
    assert entity.observation_count == 2


async def test_an_export_is_taken_by_another_node_in_both_ways(
    world: World, room: MemoryRoom, tmp_path: Path
) -> None:
    await fill(room)
    async with world.client() as client:
        text = (await client.get("/memory/export?include_embeddings=true")).content
        document = (await client.get("/memory/export?format=json")).json()
        async with client.stream("DELETE", "/memory/ada?confirm=true"):
            pass
        again = (await client.post("/memory/import/stream", content=text)).json()
        assert (again["entities_created"], again["vectors_taken"], again["complete"]) == (1, 1, True)
        big = World(memory=room, limit_bytes=1024**2)
    async with big.client() as client:
        found = (await client.post("/memory/import", json={"data": document})).json()
    assert (found["refused"], found["entities_known"], found["observations_known"]) == (0, 3, 3)
    assert (found["complete"], found["entities_created"], found["relations_known"]) == (True, 0, 1)


async def test_a_bad_import_is_refused_before_it_begins(world: World) -> None:
    line = {"type": "entity", "name": "tea", "entityType": "drink"}
    async with world.client() as client:
        for query in ("merge_strategy=overwrite", "memory_scope=workspace", "strategy=x"):
            answer = await client.post(f"/memory/import/stream?{query}", content=body([line]))
            assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")
        assert (await client.get("/memory/entities")).json()["entities"] == []


async def test_a_full_memory_ends_an_import_with_what_was_taken(world: World) -> None:
    told = [{"type": "entity", "name": f"e{n}", "entityType": "x"} for n in range(60)]
    async with world.client() as client:
        found = (await client.post("/memory/import/stream", content=body(told))).json()
        assert found["stopped_by"]["error"]["code"] == "MEMORY_LIMIT_EXCEEDED"
        assert found["entities_created"] in range(51)
        assert (
            len((await client.get("/memory/entities?limit=200")).json()["entities"])
            == found["entities_created"]
        )


async def test_one_import_at_a_time(world: World, room: MemoryRoom) -> None:
    upkeep = await room.upkeep()
    async with world.client() as client:
        async with upkeep.importing(OPERATOR, WORLD, Strategy.UPDATE):
            answer = await client.post("/memory/import/stream", content=b"")
        assert (answer.status_code, answer.json()["code"]) == (429, "RESOURCE_LIMIT_EXCEEDED")
        assert (await client.post("/memory/import/stream", content=b"")).status_code == 200


async def test_a_copy_is_whole_and_leaves_nothing_behind(
    world: World, room: MemoryRoom, tmp_path: Path
) -> None:
    await fill(room)
    async with world.client() as client:
        answer = await client.get("/memory/backup")
    assert (answer.headers["x-caxton-check"], answer.headers["content-length"]) == (
        "ok",
        str(len(answer.content)),
    )
    copy = tmp_path / "copy.db"
    copy.write_bytes(answer.content)
    connection = apsw.Connection(str(copy))
    assert connection.execute("SELECT count(*) FROM entities").fetchall() == [(3,)]
    connection.close()
    assert not (tmp_path / "memory.db.backup").exists()


async def test_what_is_damaged_is_told_and_repaired(world: World, room: MemoryRoom) -> None:
    await fill(room)
    store = await room.file()
    await store.storage.write(lambda c: c.execute("DELETE FROM vectors_1 WHERE key = 1").fetchall())
    await store.storage.write(lambda c: c.execute("UPDATE realms SET relations = 9").fetchall())
    async with world.client() as client:
        found = (await client.get("/memory/check")).json()
        assert [each["check"] for each in found["findings"]] == ["counts", "vectors"]
        assert (await client.get("/memory/health")).json()["status"] == "unhealthy"
        told = (await client.post("/memory/repair")).json()
        assert (told["found"], told["left"]["ok"]) == (found, True)
        health = (await client.get("/memory/health")).json()
        assert (health["status"], health["last_check"]["ok"]) == ("healthy", True)
        assert (await client.get("/memory/reembed")).json()["remaining"] == 0
        assert (await client.post("/memory/reembed")).status_code == 202
        assert (await client.get("/memory/stats")).json()["room"]["upkeep"]["repairs"] == 1


async def test_what_says_nearly_the_same_is_shown_and_then_superseded(world: World, room: MemoryRoom) -> None:
    await fill(room)
    async with world.client() as client:
        shown = (await client.post("/memory/dedup", json={})).json()
        [pair] = shown["pairs"]
        assert (pair["kept"], pair["superseded"], shown["superseded"]) == (
            "is hot and green",
            "is green and hot",
            0,
        )
        assert (await client.post("/memory/dedup", json={"dry_run": False})).json()["superseded"] == 1
        assert (await client.post("/memory/dedup", json={})).json()["pairs"] == []
        for wrong in ({"threshold": 0.5}, {"threshold": 2}, {"dry": 1}):
            assert (await client.post("/memory/dedup", json=wrong)).status_code == 400


async def test_the_policy_of_retention_is_changed_at_run_time(world: World) -> None:
    policy = {"max_age_days": None, "max_entities_per_agent": 3, "cleanup_frequency": "2h"}
    async with world.client() as client:
        told = (await client.put("/memory/config", json={"retention_policy": policy})).json()
        assert told["retention_policy"] == policy | {"cleanup_frequency": "7200s", "set_at_run_time": True}
        assert (await client.get("/memory/config")).json() == told
        told = (await client.put("/memory/config", json={"retention_policy": None})).json()
        assert (told["retention_policy"]["max_age_days"], told["retention_policy"]["set_at_run_time"]) == (
            1,
            False,
        )
        for wrong in (
            {"cleanup_frequency": "soon"},
            {"cleanup_frequency": "1s"},
            {"max_age_days": 0},
            {"x": 1},
        ):
            answer = await client.put("/memory/config", json={"retention_policy": wrong})
            assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")


async def test_a_file_that_cannot_be_used_is_told_by_the_health(world: World, tmp_path: Path) -> None:
    (tmp_path / "memory.db").write_bytes(b"no pages of SQLite" * 1000)
    async with world.client() as client:
        health = (await client.get("/memory/health")).json()
        assert (health["status"], health["database_connectivity"]) == ("unhealthy", False)
        assert "memory.db" in health["database_error"]
        for path in ("/memory/export", "/memory/check", "/memory/backup", "/memory/search?query=x"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (507, "STORAGE_ERROR"), path


async def test_only_who_may_comes_here(world: World) -> None:
    for token in (SENDER, VIEWER):
        async with world.client(token) as client:
            for method, path in (
                ("GET", "/memory/export"),
                ("POST", "/memory/import"),
                ("POST", "/memory/import/stream"),
                ("GET", "/memory/backup"),
                ("POST", "/memory/repair"),
                ("PUT", "/memory/config"),
            ):
                assert (await client.request(method, path)).status_code == 403, path


async def test_what_needs_the_file_is_not_offered_elsewhere(
    world: World, room: MemoryRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere:
        away = False

        async def entities(self, *_: Any, **__: Any) -> list[Any]:
            if self.away:
                raise MemoryBackendFailed("the server is away", why="it hangs")
            return []

        async def aclose(self) -> None:
            return

    backend = Elsewhere()

    async def make(_: Any) -> Elsewhere:
        return backend

    monkeypatch.setattr(room, "_make_outside", make)
    async with world.client() as client:
        assert (await client.get("/memory/health")).json()["status"] == "healthy"
        for path in ("/memory/check", "/memory/reembed", "/memory/config"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (501, "MEMORY_NOT_OFFERED")
        backend.away = True
        told = (await client.get("/memory/health")).json()
        assert (told["status"], told["database_connectivity"]) == ("unhealthy", False)
        answer = await client.get("/memory/entities")
        assert (answer.status_code, answer.json()["code"]) == (503, "MEMORY_BACKEND_ERROR")
