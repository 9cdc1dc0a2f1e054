"""The memory of a file into another backend: all of it, once, and compared."""

import json

import pytest

from node.errors import MemoryBackendFailed
from node.memory import exporting
from node.memory.exporting import Counted
from node.memory.migrating import SUFFIX, Migration, told_by
from node.memory.model import EntityDraft, ObservationDraft, Realm, RelationDraft, Scope
from node.memory.records import Outcome
from node.memory.scopes import for_agent

ADA = for_agent("ada")
MINE, WORLD = Realm(Scope.AGENT, "ada"), Realm(Scope.GLOBAL)


class Ledger:
    """A backend that keeps lines as they are told; fails after so many pages, and may lose or change some."""

    def __init__(self):
        self.heads, self.observations, self.lines = {}, {}, {}
        self.pages, self.fails_after, self.damage = 0, None, None
        self.counted = Counted()

    async def take(self, parts):
        self._count()
        for part in parts:
            self.heads[part.entity["entity_id"]] = part.entity
            for told in part.observations:
                self.observations[told["observation_id"]] = (part.entity["entity_id"], told)

    async def take_relations(self, relations):
        self._count()
        self.lines |= {each["relation_id"]: each for each in relations}

    def _count(self):
        if self.pages == self.fails_after:
            raise MemoryBackendFailed("the ledger is away")
        self.pages += 1

    async def counts(self, viewer):
        return {WORLD: (len(self.heads), len(self.observations), len(self.lines))}

    def export(self, viewer, aim, *, vectors):
        told = Ledger()
        told.heads, told.observations, told.lines = (
            dict(self.heads),
            dict(self.observations),
            dict(self.lines),
        )
        if self.damage is not None:
            self.damage(told)
        told.counted = Counted(len(told.heads), len(told.observations), len(told.lines))
        return told

    async def entities(self):
        heads, self.heads = self.heads, {}
        return [
            exporting.Part(head, [o for about, o in self.observations.values() if about == id_], True, True)
            for id_, head in heads.items()
        ]

    async def relations(self):
        lines, self.lines = self.lines, {}
        return list(lines.values())


@pytest.fixture
async def filled(memory, monkeypatch):
    monkeypatch.setattr(exporting, "PAGE_ENTITIES", 2)
    for number in range(7):
        draft = EntityDraft(
            f"n{number}", "thing", (ObservationDraft(f"fact {number}"), ObservationDraft("old"))
        )
        [stored] = await memory.remember(ADA, MINE if number % 2 else WORLD, [draft])
        await memory.supersede(ADA, stored.observation_ids[1], ObservationDraft("new"))
        await memory.record(ADA, stored.observation_ids[:1], Outcome.ACCEPTED)
    await memory.relate(ADA, MINE, [RelationDraft("n1", "n3", "knows", strength=0.2)])
    await memory.relate(ADA, MINE, [RelationDraft("n1", "n3", "knows", strength=0.9)])
    return memory


def migration(memory, ledger, tmp_path, name="ledger"):
    done = []
    run = Migration(memory, ledger, name=name, path=tmp_path / "memory.db", on_progress=done.append)
    return run, done


async def test_everything_is_copied_with_its_past_and_compared(filled, tmp_path):
    ledger = Ledger()
    run, done = migration(filled, ledger, tmp_path)
    told = await run.run()
    assert (told.entities, told.observations, told.relations) == (7, 21, 2)
    assert (done[0], done[-1]) == (0, told.total)
    assert done == sorted(done)
    assert await told_by(filled) == told
    ended = [each for _, each in ledger.observations.values() if each.get("ended")]
    assert len(ended) == 7
    assert all(each["superseded_by"] in ledger.observations for each in ended)
    assert sorted((each["version"], each.get("ended", False)) for each in ledger.lines.values()) == [
        (1, True),
        (2, False),
    ]
    assert all("vector" in each for _, each in ledger.observations.values())
    assert not (tmp_path / f"memory.db{SUFFIX}").exists()


@pytest.mark.parametrize("pages", [0, 1, 3, 4])
async def test_what_was_cut_off_goes_on_where_it_was(filled, tmp_path, pages):
    ledger = Ledger()
    ledger.fails_after = pages
    with pytest.raises(MemoryBackendFailed, match="away"):
        await migration(filled, ledger, tmp_path)[0].run()
    ledger.fails_after = None
    run, done = migration(filled, ledger, tmp_path)
    told = await run.run()
    assert (told.entities, told.observations, told.relations) == (7, 21, 2)
    assert ledger.pages == 5  # four of entities, one of relations: none of them twice
    assert bool(done[0]) is bool(pages)


async def test_a_journal_of_another_target_or_none_is_not_gone_on_with(filled, tmp_path):
    journal = tmp_path / f"memory.db{SUFFIX}"
    ledger = Ledger()
    ledger.fails_after = 2
    with pytest.raises(MemoryBackendFailed):
        await migration(filled, ledger, tmp_path)[0].run()
    assert json.loads(journal.read_text())["target"] == "ledger"
    other = Ledger()
    await migration(filled, other, tmp_path, name="other")[0].run()
    assert other.pages == 5
    journal.write_text("damaged")
    ledger.fails_after = None
    with pytest.raises(MemoryBackendFailed, match="is not empty"):
        await migration(filled, ledger, tmp_path)[0].run()


def lose(told):
    told.observations.popitem()


def change(told):
    id_, (about, line) = told.observations.popitem()
    told.observations[id_] = (about, line | {"text": "something else"})


def invent(told):
    told.lines["rel_x"] = dict(next(iter(told.lines.values())), relation_id="rel_x")


@pytest.mark.parametrize("damage", [lose, change, invent])
async def test_what_differs_at_the_end_is_told(filled, tmp_path, damage):
    ledger = Ledger()
    ledger.damage = damage
    with pytest.raises(MemoryBackendFailed, match="something else") as caught:
        await migration(filled, ledger, tmp_path)[0].run()
    assert caught.value.details["file"] != caught.value.details["backend"]


async def test_an_empty_memory_is_migrated_at_once(memory, tmp_path):
    told = await migration(memory, Ledger(), tmp_path)[0].run()
    assert told.total == 0
