"""Kills, full disks, crowds: what was acknowledged is there, the file is whole, the work is repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from node.environment import Environment
from node.errors import StorageFailed
from node.memory.checking import checked, snapshot, words_agree
from node.memory.importing import Import, Strategy
from node.memory.model import EntityDraft, ObservationDraft, Realm, RelationDraft, Scope
from node.memory.question import Question
from node.memory.reembedding import Reembedding
from node.memory.scopes import OPERATOR
from node.memory.store import MemoryStore
from tests.node.memory.stand_in import WordEmbedder
from tests.node.memory.test_room import killed_after
from tests.node.memory.test_transfer import exported, told

WORLD = Realm(Scope.GLOBAL)
Opening = Callable[..., MemoryStore]

_BEGIN = """
import json, sys, trio
from pathlib import Path
from node.environment import system_environment
from node.memory.importing import Import, Strategy
from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.reembedding import Reembedding
from node.memory.scopes import OPERATOR
from node.memory.schema import MEMORY
from node.memory.store import MemoryStore
from node.storage import Storage
from tests.node.memory.stand_in import WordEmbedder

async def opened(embedder):
    environment = system_environment()
    storage = Storage.open(Path(sys.argv[1]), durability="normal", environment=environment, design=MEMORY)
    return environment, MemoryStore(storage, embedder, environment, node="n1")
"""
_IMPORT = (
    _BEGIN
    + """
async def main():
    embedder = WordEmbedder()
    environment, memory = await opened(embedder)
    lines = [json.loads(line) for line in Path(sys.argv[1]).with_name("in.jsonl").open()]
    place = {"viewer": OPERATOR, "realm": Realm(Scope.GLOBAL), "strategy": Strategy.SKIP}
    work = Import(memory, embedder, environment, **place)
    for number in range(0, len(lines), 4):
        await work.take(list(enumerate(lines))[number : number + 4])
        print(work.report.observations_added, flush=True)
    await trio.sleep_forever()

trio.run(main)
"""
)
_REEMBED = (
    _BEGIN
    + """
async def main():
    embedder = WordEmbedder("other words")
    environment, memory = await opened(embedder)
    work = Reembedding(memory.storage, embedder, environment)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.run_pass)
        while True:
            print(work.statistics()["embedded"], flush=True)
            await trio.sleep(0.001)

trio.run(main)
"""
)


def lines_of(count: int) -> list[dict[str, object]]:
    told: list[dict[str, object]] = [
        {
            "type": "entity",
            "entity_name": f"e{n // 2}",
            "entity_type": "x",
            "memory_scope": "global" if n % 3 else "agent-only",
            **({} if n % 3 else {"owner": "ada"}),
            "observations": [
                {"text": f"fact {n} {part}", "created_s": 1.0, "valid_to_s": 5.0 if part == 1 else None}
                for part in range(4)
            ],
        }
        for n in range(count)
    ]
    told += [
        {"type": "relation", "from": f"e{n}", "to": f"e{n + 1}", "relationType": "before", "strength": 0.5}
        for n in range(count // 2 - 1)
    ]
    return [{"type": "header", "format": "caxton-memory", "version": 1}, *told, {"type": "end"}]


async def require_whole(memory: MemoryStore, path: Path) -> None:
    """A check of everything finds nothing."""
    with snapshot(path) as connection:
        assert checked(connection).findings == []
    assert await memory.storage.write(words_agree) == []


async def test_an_import_that_was_killed_ends_in_the_same_state_when_it_is_repeated(
    open_memory: Opening, embedder: WordEmbedder, environment: Environment, tmp_path: Path
) -> None:
    lines = lines_of(60)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "in.jsonl").write_text(text)
    path = tmp_path / "killed" / "memory.db"
    last = killed_after(60, _IMPORT, path)
    killed, straight = open_memory(name="killed/memory.db"), open_memory(name="straight/memory.db")
    await require_whole(killed, path)
    stored = (await killed.counts(OPERATOR)).values()
    assert last <= sum(observations for _, observations, _ in stored) < 240

    for memory in (killed, straight):
        work = Import(memory, embedder, environment, viewer=OPERATOR, realm=WORLD, strategy=Strategy.SKIP)
        assert await work.take(list(enumerate(lines, 1)))
        assert (work.report.refused, work.report.complete) == (0, True)
    assert told(await exported(killed)) == told(await exported(straight))
    await require_whole(killed, path)


async def test_re_embedding_that_was_killed_goes_on_where_it_was(
    open_memory: Opening, environment: Environment, tmp_path: Path
) -> None:
    memory = open_memory(name="killed/memory.db")
    for number in range(10):
        texts = tuple(ObservationDraft(f"fact number{number} {part}") for part in range(40))
        await memory.remember(OPERATOR, WORLD, [EntityDraft(f"e{number}", "x", texts)])
    memory.storage.close()
    path = tmp_path / "killed" / "memory.db"
    last = killed_after(60, _REEMBED, path)
    changed = WordEmbedder("other words")
    memory = MemoryStore(open_memory(name="killed/memory.db").storage, changed, environment, node="n1")
    await require_whole(memory, path)
    work = Reembedding(memory.storage, changed, environment)
    before = await work.progress()
    assert last <= before["done"] < before["total"] == 400
    assert (await memory.search(OPERATOR, Question("number9"))).hits[0].entity.name == "e9"
    await work.run_pass()
    assert work.statistics()["embedded"] == 400 - before["done"]
    assert (await work.progress())["remaining"] == 0
    await require_whole(memory, path)


async def test_a_hundred_writers_at_once_leave_a_whole_file(
    open_memory: Opening, embedder: WordEmbedder, environment: Environment, tmp_path: Path
) -> None:
    memory = open_memory()

    async def write(number: int) -> None:
        texts = tuple(ObservationDraft(f"fact {number} {part}") for part in range(3))
        names = ("shared", f"own {number}")
        await memory.remember(OPERATOR, WORLD, [EntityDraft(name, "x", texts) for name in names])
        await memory.relate(OPERATOR, WORLD, [RelationDraft("shared", f"own {number}", "knows")])
        [found] = (await memory.search(OPERATOR, Question(f"own {number}", limit=1))).hits
        assert found.entity.name == f"own {number}"
        if number % 2:
            await memory.forget(OPERATOR, f"own {number}")

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(write, number)
        work = Reembedding(memory.storage, embedder, environment)
        nursery.start_soon(work.run_pass)
    assert (await memory.get(OPERATOR, "shared")).observation_count == 300
    assert sum(o for _, o, _ in (await memory.counts(OPERATOR)).values()) == 300 + 150
    await require_whole(memory, tmp_path / "memory.db")


async def test_a_full_disk_ends_an_import_and_embedding_and_leaves_the_file_whole(
    open_memory: Opening, embedder: WordEmbedder, environment: Environment, tmp_path: Path
) -> None:
    memory = open_memory()
    lines = lines_of(200)
    pages = await memory.storage.read(lambda c: c.execute("PRAGMA page_count").fetchall()[0][0])
    await memory.storage.write(lambda c: c.execute(f"PRAGMA max_page_count = {pages + 150}").fetchall())
    work = Import(memory, embedder, environment, viewer=OPERATOR, realm=WORLD, strategy=Strategy.UPDATE)
    numbered = list(enumerate(lines, 1))
    for start in range(0, len(numbered), 5):
        if not await work.take(numbered[start : start + 5]):
            break
    assert work.report.stopped_by is not None
    assert work.report.stopped_by["error"]["code"] == "STORAGE_ERROR"
    stored = sum(o for _, o, _ in (await memory.counts(OPERATOR)).values())
    assert stored == work.report.observations_added > 0
    with pytest.raises(StorageFailed):
        await Reembedding(memory.storage, WordEmbedder("other words", 2048), environment).run_pass()
    await require_whole(memory, tmp_path / "memory.db")
    await memory.storage.write(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchall())
    work = Import(memory, embedder, environment, viewer=OPERATOR, realm=WORLD, strategy=Strategy.UPDATE)
    assert await work.take(numbered)
    assert (work.report.observations_known, work.report.refused) == (stored, 0)
