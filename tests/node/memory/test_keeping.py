"""The memory's file: what a check finds, what a repair makes good, and copies while it is written to."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from node.environment import Environment
from node.errors import EmbeddingFailed, ResourceLimitExceeded, StorageFailed
from node.memory import backup
from node.memory.indexes import index_postponed
from node.memory.model import EntityDraft, ObservationDraft, Realm, RelationDraft, Scope
from node.memory.question import Question
from node.memory.records import Limits
from node.memory.reembedding import Reembedding
from node.memory.repairing import RECOVERED
from node.memory.room import FILE, MemoryRoom
from node.memory.schema import connect
from node.memory.scopes import OPERATOR
from node.memory.upkeep import Upkeep
from tests.node.memory.stand_in import WordEmbedder

WORLD, ADA = Realm(Scope.GLOBAL), Realm(Scope.AGENT, "ada")
FACTS = 40


@pytest.fixture
def rooms(
    tmp_path: Path, environment: Environment, embedder: WordEmbedder
) -> Iterator[Callable[..., MemoryRoom]]:
    made = []

    async def make_embedder() -> WordEmbedder:
        return embedder

    def make(path: Path = tmp_path / FILE, of: Any = make_embedder) -> MemoryRoom:
        room = MemoryRoom(
            environment=environment,
            path=path,
            durability="normal",
            node="n1",
            limits=Limits(),
            threshold=0.3,
            make_embedder=of,
        )
        made.append(room)
        return room

    yield make
    for room in made:
        room.close()


async def filled(room: MemoryRoom) -> Upkeep:
    store = await room.store()
    texts = tuple(ObservationDraft(f"fact number{n}") for n in range(FACTS))
    [stored] = await store.remember(OPERATOR, WORLD, [EntityDraft("tea", "drink", texts)])
    await store.remember(OPERATOR, ADA, [EntityDraft("cup", "thing", (ObservationDraft("is of clay"),))])
    await store.relate(OPERATOR, ADA, [RelationDraft("cup", "tea", "holds")])
    await store.supersede(OPERATOR, stored.observation_ids[0], ObservationDraft("fact of today"))
    return await room.upkeep()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_memory_that_is_whole_is_found_whole(rooms: Callable[..., MemoryRoom]) -> None:
    upkeep = await filled(rooms())
    found = await upkeep.check()
    assert found.as_json() == {
        "ok": True,
        "findings": [],
        "entities": 2,
        "observations": FACTS + 2,
        "relations": 1,
        "unembedded": 0,
    }
    health = await upkeep.health()
    assert health["status"] == "healthy"
    assert (health["index_integrity"], health["orphaned_relations"], health["last_check"]["ok"]) == (
        True,
        0,
        True,
    )


DAMAGE: dict[str, tuple[str, ...]] = {
    "words": ("INSERT INTO words (words, rowid, text) VALUES ('delete', 3, 'fact number2')",),
    "words that are wrong": ("UPDATE observations SET text = 'something else' WHERE key = 5",),
    "words of nothing": ("INSERT INTO words (rowid, text) VALUES (999, 'nothing')",),
    "names": ("INSERT INTO names (names, rowid, name, type) VALUES ('delete', 1, 'tea', 'drink')",),
    "counts": ("UPDATE realms SET observations = 7", "UPDATE entities SET known = 3"),
    "a vector that is missing": ("DELETE FROM vectors_1 WHERE key = 4",),
    "a vector of nothing": ("INSERT INTO vectors_1 VALUES (999, 1, 1, vec_bit(zeroblob(48)))",),
    "a vector of others": ("UPDATE vectors_1 SET realm = 77 WHERE key = 4",),
    "a past vector as one that holds": ("UPDATE vectors_1 SET realm = -realm WHERE key = 1",),
    "a short vector": ("UPDATE observations SET vector = x'0102' WHERE key = 4",),
    "a table of vectors": ("DROP TABLE vectors_1",),
    "an entity": ("DELETE FROM entities WHERE key = 1",),
    "a model": ("DELETE FROM models",),
    "a scope": ("DELETE FROM realms WHERE scope = 0",),
    "a scope of an observation": ("UPDATE observations SET realm = 77 WHERE key = 4",),
    "a successor": ("UPDATE observations SET successor = 999 WHERE key = 4",),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_is_wrong_is_found_and_made_good_without_losing_a_fact(
    rooms: Callable[..., MemoryRoom], tmp_path: Path, damage: str
) -> None:
    room = rooms()
    await filled(room)
    room.close()
    with_damage(tmp_path / FILE, DAMAGE[damage])
    room = rooms()
    upkeep = await room.upkeep()
    before = await upkeep.check()
    assert not before.ok
    found, left = await upkeep.repair()
    assert [f.check for f in found.findings] == [f.check for f in before.findings]
    assert left.findings == []
    assert (left.observations, left.relations) == (FACTS + 2, 1)
    await upkeep.reembedding.run_pass()
    assert (await upkeep.check()).as_json()["unembedded"] == 0
    store = await room.store()
    hit = (await store.search(OPERATOR, Question("number7"))).hits[0]
    assert hit.entity.observations[0].text == "fact number7"
    assert hit.similarity is not None
    assert hit.entity.type == (RECOVERED if damage == "an entity" else "drink")


def with_damage(path: Path, statements: tuple[str, ...]) -> None:
    connection = apsw.Connection(str(path))
    connect(connection)
    connection.execute("PRAGMA foreign_keys = 0")
    for statement in statements:
        connection.execute(statement)
    connection.close()


async def test_vectors_of_other_nodes_that_wait_for_their_index_are_no_fault(
    rooms: Callable[..., MemoryRoom], environment: Environment
) -> None:
    upkeep = await filled(rooms())
    storage = upkeep.store.storage
    await storage.write(lambda c: c.execute("DELETE FROM vectors_1 WHERE key IN (4, 5)").fetchall())
    await storage.write(lambda c: c.execute("INSERT INTO postponed VALUES (4), (5)").fetchall())
    assert (await upkeep.check()).findings == []
    assert (await upkeep.reembedding.progress())["remaining"] == 0
    await Reembedding(storage, WordEmbedder("other words"), environment).run_pass()
    assert await storage.write(lambda c: index_postponed(c, 10)) == 0
    assert (await upkeep.check()).findings == []


async def test_a_file_with_damaged_pages_is_told_and_nothing_made_worse(
    rooms: Callable[..., MemoryRoom], tmp_path: Path
) -> None:
    room = rooms()
    await filled(room)
    room.close()
    path = tmp_path / FILE
    whole = path.read_bytes()
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    [(root,)] = connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'observations'"
    ).fetchall()
    connection.close()
    path.write_bytes(whole[: (root - 1) * 4096] + b"\x5a" * 4096 + whole[root * 4096 :])
    room = rooms()
    upkeep = await room.upkeep()
    found = await upkeep.check()
    assert {finding.check for finding in found.findings} >= {"integrity"}
    assert (await upkeep.health())["status"] == "unhealthy"
    with pytest.raises(StorageFailed):
        await upkeep.repair()


async def test_a_foreign_file_is_left_alone(rooms: Callable[..., MemoryRoom], tmp_path: Path) -> None:
    path = tmp_path / FILE
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE meta (key, value); CREATE TABLE entities (id)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StorageFailed, match="no memory of Caxton"):
        await rooms().upkeep()
    assert path.read_bytes() == before


async def test_a_copy_is_one_state_while_others_write(
    rooms: Callable[..., MemoryRoom], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "STEP_PAGES", 1)
    room = rooms()
    upkeep = await filled(room)
    store, stop = await room.store(), trio.Event()

    async def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            draft = EntityDraft(f"e{number}", "n", (ObservationDraft("a"), ObservationDraft("b")))
            await store.remember(OPERATOR, WORLD, [draft])
        assert number > 10

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        with upkeep.backing_up():
            copy, size, found = await upkeep.backup()
            with pytest.raises(ResourceLimitExceeded), upkeep.backing_up():
                pass
        stop.set()
    assert found.ok
    assert copy.stat().st_mode & 0o777 == 0o600
    assert (copy.stat().st_size, copy.name) == (size, "memory.db.backup")
    assert [name for name in names(tmp_path) if ".backup" in name] == ["memory.db.backup"]
    restored = tmp_path / "other" / FILE
    restored.parent.mkdir()
    copy.rename(restored)
    again = await rooms(restored).existing()
    assert again is not None
    for entity in await again.entities(OPERATOR, types=("n",), limit=200):
        assert entity.observation_count == 2
    assert (await again.search(OPERATOR, Question("number7"))).hits[0].similarity


async def test_a_copy_that_finds_no_room_leaves_nothing_and_says_so(
    rooms: Callable[..., MemoryRoom], tmp_path: Path
) -> None:
    upkeep = await filled(rooms())
    before, limits = names(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, limits[1]))
    try:
        with pytest.raises(StorageFailed, match="could not be copied"):
            await upkeep.backup()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert names(tmp_path) == before
    assert (await upkeep.backup())[2].ok


async def test_without_a_model_the_health_is_degraded_and_says_why(rooms: Callable[..., MemoryRoom]) -> None:
    async def damaged() -> WordEmbedder:
        raise EmbeddingFailed("the model is damaged", why="a hash differs")

    room = rooms(of=damaged)
    upkeep = await filled(room)
    health = await upkeep.health()
    assert (health["status"], health["embedding_model_loaded"]) == ("degraded", False)
    assert "damaged" in health["embedding_error"]
    assert health["without_vectors"] == FACTS + 2
    assert (await (await room.store()).search(OPERATOR, Question("number7"))).hits
