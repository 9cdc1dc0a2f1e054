import subprocess
import sys

import pytest
import trio

from node.errors import DataDirectoryInUse, EmbeddingFailed, StorageFailed
from node.memory.absent import AbsentEmbedder
from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.question import Question
from node.memory.records import Limits, Retain
from node.memory.room import FILE, MemoryRoom
from node.memory.scopes import OPERATOR
from tests.node.memory.stand_in import WordEmbedder

WORLD = Realm(Scope.GLOBAL)
TEA = EntityDraft("tea", "drink", (ObservationDraft("is green"),))


async def embedder():
    return WordEmbedder()


@pytest.fixture
def rooms(tmp_path, environment):
    made = []

    def make(path=tmp_path / FILE, make_embedder=embedder, durability="normal", retain=None):
        room = MemoryRoom(
            environment=environment,
            path=path,
            durability=durability,
            node="n1",
            limits=Limits(),
            threshold=0.3,
            make_embedder=make_embedder,
            retain=retain,
        )
        made.append(room)
        return room

    yield make
    for room in made:
        room.close()


async def test_nothing_is_made_or_loaded_before_the_first_write(rooms, tmp_path):
    room = rooms()
    assert await room.existing() is None
    assert room.statistics() == {"open": False, "bytes": 0, "entities_limit": 100_000}
    assert list(tmp_path.iterdir()) == []
    assert modules_loaded_by_a_node() == ""
    await (await room.store()).remember(OPERATOR, WORLD, [TEA])
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert room.statistics()["open"]


def modules_loaded_by_a_node():
    code = (
        "import sys, node.node, node.http.app\n"
        "sys.exit(','.join(m for m in ('numpy', 'sqlite_vec', 'onnxruntime') if m in sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return loaded.stderr.strip()


@pytest.mark.parametrize("durability", ["normal", "full"])
async def test_what_was_remembered_is_there_after_a_restart(rooms, durability):
    room = rooms(durability=durability)
    await (await room.store()).remember(OPERATOR, WORLD, [TEA])
    room.close()
    again = rooms(durability=durability)
    assert again.statistics()["bytes"] > 0
    found = await (await again.existing()).search(OPERATOR, Question("green"))
    assert [hit.entity.name for hit in found.hits] == ["tea"]


async def test_callers_that_come_at_once_open_one_memory(rooms):
    room, stores = rooms(), []

    async def open_():
        stores.append(await room.store())

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(open_)
    assert len({id(store) for store in stores}) == 1


async def test_a_model_that_is_missing_leaves_the_words(rooms):
    async def missing():
        raise EmbeddingFailed("the model is damaged")

    store = await rooms(make_embedder=missing).store()
    [stored] = await store.remember(OPERATOR, WORLD, [TEA])
    assert not stored.embedded
    found = await store.search(OPERATOR, Question("green"))
    assert (found.degraded, [hit.entity.name for hit in found.hits]) == (True, ["tea"])
    assert "damaged" in store.statistics()["embedding_error"]


async def test_a_node_without_a_model_says_that_it_has_none():
    absent = AbsentEmbedder()
    with pytest.raises(EmbeddingFailed, match="no vectors"):
        await absent.embed(["x"])
    with pytest.raises(EmbeddingFailed):
        assert absent.model


async def test_a_file_that_another_process_holds_or_that_is_damaged_is_refused(rooms, tmp_path):
    held = rooms()
    await held.store()
    with pytest.raises(DataDirectoryInUse):
        await rooms().existing()
    damaged = tmp_path / "damaged" / FILE
    damaged.parent.mkdir()
    damaged.write_bytes(b"no pages of SQLite" * 1000)
    with pytest.raises(StorageFailed):
        await rooms(damaged).store()
    damaged.unlink()
    await rooms(damaged).store()


async def test_the_room_looks_after_its_file_until_it_is_cancelled(rooms, autojump_clock):
    room = rooms()
    async with trio.open_nursery() as nursery:
        await nursery.start(room.run)
        store = await room.store()
        await store.remember(OPERATOR, WORLD, [TEA])
        nursery.cancel_scope.cancel()


async def test_what_is_due_is_forgotten_although_nobody_asks(rooms, environment, autojump_clock):
    room = rooms()
    await (await room.store()).remember(OPERATOR, WORLD, [TEA])
    room.close()
    environment.clock.wall_s += 100.0
    again = rooms(retain=Retain(max_age_s=50.0))
    async with trio.open_nursery() as nursery:
        await nursery.start(again.run)
        while again.statistics().get("upkeep", {}).get("retention", {}).get("runs") != 1:
            await environment.clock.sleep(1)
        nursery.cancel_scope.cancel()
    assert await (await again.store()).entities(OPERATOR) == []


async def test_a_damaged_file_with_a_policy_of_retention_ends_no_node(rooms, tmp_path, autojump_clock):
    (tmp_path / FILE).write_bytes(b"no pages of SQLite" * 1000)
    room = rooms(retain=Retain(max_age_s=50.0))
    async with trio.open_nursery() as nursery:
        await nursery.start(room.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_what_was_acknowledged_survives_kill(rooms, tmp_path):
    """A process that is killed while it stores has stored what it said it has."""
    code = """
import sys, trio
from pathlib import Path
from node.environment import system_environment
from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.scopes import OPERATOR
from node.memory.schema import MEMORY
from node.memory.store import MemoryStore
from node.storage import Storage
from tests.node.memory.stand_in import WordEmbedder

async def main():
    environment = system_environment()
    storage = Storage.open(Path(sys.argv[1]), durability="normal", environment=environment, design=MEMORY)
    memory = MemoryStore(storage, WordEmbedder(), environment, node="n1")
    for number in range(100_000):
        texts = tuple(ObservationDraft(f"fact {number} {part}") for part in range(5))
        await memory.remember(OPERATOR, Realm(Scope.GLOBAL), [EntityDraft(f"e{number}", "n", texts)])
        print(number, flush=True)

trio.run(main)
"""
    path = tmp_path / FILE
    last = killed_after(30, code, path)
    room = rooms(path)
    store = await room.existing()
    for number in range(last + 1):
        assert (await store.get(OPERATOR, f"e{number}")).observation_count == 5
    storage = (await room.file()).storage
    checks = await storage.read(lambda c: c.execute("PRAGMA integrity_check").fetchall())
    assert checks == [("ok",)]
    await storage.write(_verify_words)


def killed_after(number, code, path):
    """Run a program that counts what it has done until it is killed; returns the last number it told."""
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        last = -1
        while last < number:
            last = int(process.stdout.readline())
    finally:
        process.kill()
        rest = process.stdout.read().splitlines(keepends=True)
        process.stdout.close()
        process.wait()
    return int(rest[-1]) if rest and rest[-1].endswith("\n") else last


def _verify_words(connection):
    connection.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
    rows = connection.execute("SELECT count(*), sum(model IS NOT NULL) FROM observations").fetchall()
    assert rows[0][0] == rows[0][1] == connection.execute("SELECT count(*) FROM vectors_1").fetchall()[0][0]
