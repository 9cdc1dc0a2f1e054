"""What is exported comes back by an import: in all forms, once, whatever is there and however often."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from node.environment import Environment
from node.memory import exporting
from node.memory.exporting import Export, Form, Writing
from node.memory.importing import ERRORS_LIMIT, Import, Strategy
from node.memory.model import (
    EntityDraft,
    ObservationDraft,
    Period,
    Provenance,
    Realm,
    RelationDraft,
    Scope,
    Timing,
)
from node.memory.question import Question
from node.memory.records import Limits, MemorySettings, Outcome
from node.memory.scopes import EVERYWHERE, OPERATOR, Aim, Viewer
from node.memory.store import MemoryStore
from node.memory.vectors import unquantised
from tests.node.memory.stand_in import WordEmbedder

WORLD, ADA, LAB = Realm(Scope.GLOBAL), Realm(Scope.AGENT, "ada"), Realm(Scope.WORKSPACE, "lab")
ALL = Period(Timing.ALL)
PART = 8
"""Observations of one line, in these tests."""
Opening = Callable[..., MemoryStore]


@pytest.fixture(autouse=True)
def short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PART_OBSERVATIONS", PART)


async def exported(
    memory: MemoryStore,
    form: Form = "jsonl",
    *,
    vectors: bool = False,
    viewer: Viewer = OPERATOR,
    aim: Aim = EVERYWHERE,
) -> str:
    export = Export(memory.storage, viewer, aim, vectors=vectors)
    writing = Writing(form, {"node": "n1"}, 1_800_000_000.0)
    told = writing.begin()
    while parts := await export.entities():
        told += writing.parts(parts)
    told += writing.between()
    while relations := await export.relations():
        told += writing.relations(relations)
    return (told + writing.end(export.counted)).decode()


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def importing(environment: Environment, embedder: WordEmbedder) -> Callable[..., Any]:
    async def run(
        memory: MemoryStore,
        lines: Sequence[Any],
        *,
        viewer: Viewer = OPERATOR,
        realm: Realm = WORLD,
        strategy: Strategy = Strategy.UPDATE,
        at_once: int = 7,
    ) -> Import:
        found = Import(memory, embedder, environment, viewer=viewer, realm=realm, strategy=strategy)
        numbered = list(enumerate(lines, 1))
        for start in range(0, len(numbered), at_once):
            if not await found.take(numbered[start : start + at_once]):
                break
        return found

    return run


async def fill(memory: MemoryStore, environment: Environment) -> None:
    """Three scopes, past facts and relations, sources, metadata, an entity of two lines, SQL in a name."""
    source = Provenance("ada", "c1", "m1")
    tea = EntityDraft(
        "tea",
        "drink",
        (
            ObservationDraft("is green", 0.5, metadata={"lang": "en", "n": [1, {"a": None}]}),
            ObservationDraft("was dear", valid_from_s=1e9, valid_to_s=1.1e9),
        ),
        {"kind": "leaf"},
        0.9,
        0.4,
        1e9,
    )
    await memory.remember(OPERATOR, WORLD, [tea, EntityDraft("uji", "town")], source=source)
    [observation] = (await memory.get(OPERATOR, "tea")).observations
    environment.clock.wall_s += 10.25
    await memory.supersede(OPERATOR, observation.id, ObservationDraft("is black"), source=source)
    many = tuple(ObservationDraft(f"fact {n}") for n in range(PART + 5))
    sql = "Robert'); DROP TABLE entities;--"
    await memory.remember(OPERATOR, ADA, [EntityDraft("tea", "drink", many), EntityDraft(sql, "x")])
    await memory.remember(
        OPERATOR, LAB, [EntityDraft("kettle", "thing", (ObservationDraft("is\nhot \u2028"),))]
    )
    await memory.relate(OPERATOR, WORLD, [RelationDraft("tea", "uji", "grown_in", 0.2)])
    environment.clock.wall_s += 10.125
    await memory.relate(OPERATOR, WORLD, [RelationDraft("tea", "uji", "grown_in", 0.7, metadata={"a": 1})])
    await memory.relate(OPERATOR, ADA, [RelationDraft("tea", sql, "like", bidirectional=True)])
    environment.clock.wall_s += 100


def told(text: str) -> list[Any]:
    """What an export says, without ids, versions and the times at which rows were made."""
    found = []
    for line in objects(text)[1:-1]:
        for gone in ("entity_id", "relation_id", "version", "created_s", "updated_s", "observation_id"):
            line.pop(gone, None)
        for gone in ("from_entity_id", "to_entity_id", "ended"):
            line.pop(gone, None)
        for each in line.get("observations", []):
            each["valid_from_s"] = each.get("valid_from_s", each["created_s"])
            for gone in ("observation_id", "created_s", "superseded_by", "outcomes", "ended"):
                each.pop(gone, None)
        if line["type"] == "relation":
            line.pop("valid_from_s", None)
        found.append(line)
    return found


@pytest.mark.parametrize("vectors", [False, True])
async def test_an_export_comes_back_whole_and_a_second_time_changes_nothing(
    open_memory: Opening, environment: Environment, embedder: WordEmbedder, importing: Any, *, vectors: bool
) -> None:
    memory = open_memory()
    await fill(memory, environment)
    text = await exported(memory, vectors=vectors)
    assert sum(line["type"] == "entity" for line in objects(text)) == 6, "one entity has two lines"
    other = open_memory(name="other/memory.db")
    calls = embedder.calls
    report = (await importing(other, objects(text))).report
    assert (report.refused, report.complete, report.stopped_by) == (0, True, None)
    assert (report.entities_created, report.relations_added) == (5, 3)
    assert report.vectors_taken == (report.observations_added if vectors else 0)
    assert (embedder.calls == calls) is vectors
    again = await exported(other, vectors=vectors)
    assert told(again) == told(text)
    environment.clock.wall_s += 5
    for target in (memory, other):  # also into the memory that it comes from
        before = await exported(target, vectors=vectors)
        for strategy in Strategy:
            report = (await importing(target, objects(text), strategy=strategy)).report
            assert (report.observations_added, report.relations_added, report.refused) == (0, 0, 0)
        assert await exported(target, vectors=vectors) == before
    found = await other.search(OPERATOR, Question("black tea"))
    assert found.hits[0].entity.name == "tea"
    assert found.hits[0].similarity > 0.5


async def test_what_no_longer_holds_comes_back_as_past(
    memory: MemoryStore, open_memory: Opening, environment: Environment, importing: Any
) -> None:
    await fill(memory, environment)
    other = open_memory(name="other/memory.db")
    await importing(other, objects(await exported(memory)))
    for place in (memory, other):
        now = await place.get(OPERATOR, "tea", aim=Aim(Scope.GLOBAL))
        past = await place.get(OPERATOR, "tea", aim=Aim(Scope.GLOBAL), period=ALL)
        assert [each.text for each in now.observations] == ["is black"]
        assert [each.text for each in past.observations] == ["is green", "was dear", "is black"]
        assert [(each.strength, each.metadata) for each in now.relations] == [(0.7, {"a": 1})]
        assert len(past.relations) == 2
        assert past.observations[0].source == Provenance("ada", "c1", "m1", "n1")


async def test_one_document_says_the_same_as_the_lines(memory: MemoryStore, environment: Environment) -> None:
    await fill(memory, environment)
    document = json.loads(await exported(memory, "json"))
    lines = objects(await exported(memory))
    assert document["end"] == {k: v for k, v in lines[-1].items() if k != "type"}
    assert document["relations"] == [line for line in lines if line["type"] == "relation"]
    of_lines = [each for line in lines[1:-1] for each in line.get("observations", [])]
    assert [each for entity in document["entities"] for each in entity["observations"]] == of_lines
    assert len(document["entities"]) == 5


async def test_the_file_of_the_mcp_server_is_read_and_written(
    memory: MemoryStore, open_memory: Opening, importing: Any
) -> None:
    lines = [
        {"type": "entity", "name": "John_Smith", "entityType": "person", "observations": ["Speaks Spanish"]},
        {"type": "entity", "name": "Anthropic", "entityType": "organization", "observations": []},
        {"type": "relation", "from": "John_Smith", "to": "Anthropic", "relationType": "works_at"},
    ]
    report = (await importing(memory, lines)).report
    assert (report.entities_created, report.observations_added, report.relations_added) == (2, 1, 1)
    await memory.remember(
        OPERATOR, WORLD, [EntityDraft("John_Smith", "person", (ObservationDraft("is 20", valid_to_s=1.0),))]
    )
    many = tuple(ObservationDraft(f"fact {n}") for n in range(PART + 1))
    await memory.remember(OPERATOR, WORLD, [EntityDraft("Anthropic", "organization", many)])
    lines[1]["observations"] = [each.text for each in many]
    assert objects(await exported(memory, "mcp")) == lines, "one line for each entity, of what holds now"


async def test_an_export_is_what_its_viewer_sees(memory: MemoryStore, environment: Environment) -> None:
    await fill(memory, environment)
    seen = objects(await exported(memory, viewer=Viewer("bob")))
    assert {line.get("memory_scope", "global") for line in seen} == {"global"}
    hers = objects(await exported(memory, viewer=Viewer("ada"), aim=Aim(Scope.AGENT, "ada")))
    assert {line["owner"] for line in hers[1:-1]} == {"ada"}


async def test_what_an_importer_may_not_touch_is_refused_line_by_line(
    memory: MemoryStore, importing: Any
) -> None:
    place = {"memory_scope": "agent-only", "owner": "ada"}
    lines = [
        {"type": "entity", "name": "tea", "entityType": "drink", **place},
        {"type": "entity", "name": "cup", "entityType": "thing"},
        {"type": "relation", "from": "tea", "to": "tea", "relationType": "x", **place},
    ]
    report = (await importing(memory, lines, viewer=Viewer("bob"))).report
    assert [(e["line"], e["error"]["code"]) for e in report.as_json()["errors"]] == [
        (1, "SCOPE_PERMISSION_DENIED"),
        (3, "SCOPE_PERMISSION_DENIED"),
    ]
    assert [e.name for e in await memory.entities(OPERATOR)] == ["cup"]


BAD: list[tuple[Any, str]] = [
    ([1], "VALIDATION_ERROR"),
    (None, "VALIDATION_ERROR"),
    ({}, "VALIDATION_ERROR"),
    ({"type": ["entity"]}, "VALIDATION_ERROR"),
    ({"type": "entity", "name": "x"}, "VALIDATION_ERROR"),
    ({"type": "entity", "name": "x", "entityType": "y", "observation": []}, "VALIDATION_ERROR"),
    ({"type": "entity", "name": "x" * 300, "entityType": "y"}, "VALIDATION_ERROR"),
    ({"type": "entity", "name": " ", "entityType": "y"}, "INVALID_ENTITY_DATA"),
    ({"type": "entity", "name": "\ud800", "entityType": "y"}, "VALIDATION_ERROR"),
    ({"type": "entity", "name": "x", "entityType": "y", "observations": ["a\0b"]}, "INVALID_ENTITY_DATA"),
    ({"type": "entity", "name": "x", "entityType": "y", "observations": ["\ud800"]}, "INVALID_ENTITY_DATA"),
    (
        {"type": "entity", "name": "x", "entityType": "y", "observations": ["x" * 1024**2 + "x"]},
        "MEMORY_TOO_LARGE",
    ),
    ({"type": "entity", "name": "x", "entityType": "y", "confidence": float("nan")}, "VALIDATION_ERROR"),
    ({"type": "entity", "name": "x", "entityType": "y", "memory_scope": "globl"}, "VALIDATION_ERROR"),
    ({"type": "entity", "name": "x", "entityType": "y", "memory_scope": "agent"}, "VALIDATION_ERROR"),
    ({"type": "entity", "name": "x", "entityType": "y", "owner": "ada"}, "VALIDATION_ERROR"),
    ({"type": "entity", "name": "x", "entityType": "y", "source": {"agent": "\x07"}}, "INVALID_ENTITY_DATA"),
    (
        {"type": "entity", "name": "x", "entityType": "y", "valid_from_s": 2.0, "valid_to_s": 1.0},
        "INVALID_ENTITY_DATA",
    ),
    ({"type": "entity", "name": "tea", "entityType": "plant"}, "ENTITY_CONFLICT"),
    ({"type": "relation", "from": "tea", "to": "nowhere", "relationType": "y"}, "ENTITY_NOT_FOUND"),
    (
        {"type": "relation", "from": "tea", "to": "tea", "relationType": "y", "strength": 2},
        "VALIDATION_ERROR",
    ),
]


async def test_bad_lines_are_told_by_their_numbers_and_hold_up_no_other(
    memory: MemoryStore, importing: Any
) -> None:
    await memory.remember(OPERATOR, WORLD, [EntityDraft("tea", "drink")])
    lines: list[Any] = []
    for number, (bad, _) in enumerate(BAD):
        lines += [
            bad,
            {"type": "entity", "name": f"good{number}", "entityType": "y", "observations": ["is good"]},
        ]
    report = (await importing(memory, lines, at_once=len(lines))).report
    assert [(e["line"], e["error"]["code"]) for e in report.as_json()["errors"]] == [
        (2 * n + 1, code) for n, (_, code) in enumerate(BAD)
    ]
    assert report.entities_created == len(BAD)
    assert len(await memory.entities(OPERATOR)) == len(BAD) + 1
    report = (await importing(memory, [None] * (ERRORS_LIMIT + 1))).report
    assert (report.refused, len(report.errors)) == (ERRORS_LIMIT + 1, ERRORS_LIMIT)


async def test_a_file_of_another_version_is_not_begun(memory: MemoryStore, importing: Any) -> None:
    tea = {"type": "entity", "name": "tea", "entityType": "drink"}
    for head in ({"format": "caxton-memory", "version": 2}, {"format": "else", "version": 1}, {}):
        report = (await importing(memory, [{"type": "header", **head}, tea], at_once=1)).report
        assert report.stopped_by["line"] == 1
    assert await memory.entities(OPERATOR) == []


async def test_the_strategies_differ_in_what_differs(memory: MemoryStore, importing: Any) -> None:
    async def there() -> tuple[Any, ...]:
        found = await memory.get(OPERATOR, "tea")
        [relation] = found.relations
        return found.confidence, found.metadata, len(found.observations), relation.strength

    await memory.remember(
        OPERATOR,
        WORLD,
        [EntityDraft("tea", "drink", (ObservationDraft("a"),), {"x": 1}, 0.5), EntityDraft("cup", "y")],
    )
    await memory.relate(OPERATOR, WORLD, [RelationDraft("tea", "cup", "in", 0.1)])
    lines = [
        {"type": "entity", "name": "new", "entityType": "y"},
        {
            "type": "entity",
            "entity_name": "tea",
            "entity_type": "drink",
            "confidence": 0.9,
            "observations": ["b"],
        },
        {"type": "relation", "from": "tea", "to": "cup", "relationType": "in", "strength": 0.8},
    ]
    stopped = (await importing(memory, lines, strategy=Strategy.ERROR)).report
    assert (stopped.stopped_by["line"], stopped.stopped_by["error"]["code"]) == (2, "ENTITY_CONFLICT")
    assert await there() == (0.5, {"x": 1}, 1, 0.1)
    await importing(memory, lines, strategy=Strategy.SKIP)
    assert await there() == (0.5, {"x": 1}, 2, 0.1)
    stopped = (await importing(memory, lines[2:], strategy=Strategy.ERROR)).report
    assert stopped.stopped_by["error"]["code"] == "ENTITY_CONFLICT"
    await importing(memory, lines, strategy=Strategy.UPDATE)
    assert await there() == (0.9, {"x": 1}, 2, 0.8)


async def test_a_vector_of_one_scale_for_all_is_taken_as_it_is(
    memory: MemoryStore, open_memory: Opening, embedder: WordEmbedder, importing: Any
) -> None:
    """As exports of before have them."""
    await memory.remember(OPERATOR, WORLD, [EntityDraft("tea", "drink", (ObservationDraft("is green"),))])
    lines = objects(await exported(memory, vectors=True))
    told = lines[1]["observations"][0]["vector"]
    unit = unquantised(base64.b64decode(told["data"]))
    told["data"] = base64.b64encode(np.rint(unit * 127).astype(np.int8).tobytes()).decode()
    calls, other = embedder.calls, open_memory(name="other/memory.db")
    assert (await importing(other, lines)).report.vectors_taken == 1
    assert embedder.calls == calls
    assert (await other.search(OPERATOR, Question("is green"))).hits[0].similarity > 0.5


@pytest.mark.parametrize(
    "spoil",
    [
        {"digest": "0" * 64},
        {"data": base64.b64encode(b"\x01" * 383).decode()},
        {"data": base64.b64encode(b"\x40" * 384).decode()},
        {"data": "no base64!"},
        {"dtype": "float32", "data": base64.b64encode(np.full(384, np.nan, "<f4").tobytes()).decode()},
    ],
)
async def test_vectors_of_another_space_or_damaged_ones_are_not_taken(
    memory: MemoryStore, open_memory: Opening, embedder: WordEmbedder, importing: Any, spoil: dict[str, str]
) -> None:
    await memory.remember(OPERATOR, WORLD, [EntityDraft("tea", "drink", (ObservationDraft("is green"),))])
    lines = objects(await exported(memory, vectors=True))
    lines[1]["observations"][0]["vector"] |= spoil
    calls, other = embedder.calls, open_memory(name="other/memory.db")
    report = (await importing(other, lines)).report
    assert (report.observations_added, report.vectors_taken, embedder.calls) == (1, 0, calls + 1)
    assert (await other.search(OPERATOR, Question("green tea"))).hits[0].similarity > 0.5


async def test_a_full_memory_stops_an_import_at_its_line(open_memory: Opening, importing: Any) -> None:
    memory = open_memory(MemorySettings(Limits(entities=10)))
    lines = [{"type": "entity", "name": f"e{n}", "entityType": "y"} for n in range(20)]
    report = (await importing(memory, lines, at_once=5)).report
    assert report.stopped_by["error"]["code"] == "MEMORY_LIMIT_EXCEEDED"
    assert (report.stopped_by["line"], report.entities_created) == (11, 10)


async def test_an_entity_that_is_forgotten_between_two_pages_ends_in_every_form(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_ENTITIES", 1)
    many = tuple(ObservationDraft(f"fact {n}") for n in range(PART + 1))
    for form in ("jsonl", "json", "mcp"):
        await memory.remember(OPERATOR, WORLD, [EntityDraft("tea", "x", many), EntityDraft("cup", "x")])
        export = Export(memory.storage, OPERATOR, EVERYWHERE)
        writing = Writing(form, {}, 2e9)
        text = writing.begin() + writing.parts(await export.entities())
        await memory.forget(OPERATOR, "tea")
        while parts := await export.entities():
            text += writing.parts(parts)
        text += writing.between() + writing.end(export.counted)
        found = [json.loads(text)] if form == "json" else objects(text.decode())
        assert "cup" in json.dumps(found[-1 if form != "jsonl" else -2])


async def test_what_is_stored_while_an_export_runs_leaves_no_relation_without_its_ends(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_ENTITIES", 1)
    await memory.remember(OPERATOR, WORLD, [EntityDraft("a", "x"), EntityDraft("b", "x")])
    export = Export(memory.storage, OPERATOR, EVERYWHERE)
    seen = [part.entity["entity_name"] for part in await export.entities()]
    await memory.remember(OPERATOR, WORLD, [EntityDraft("late", "x")])
    await memory.relate(OPERATOR, WORLD, [RelationDraft("a", "late", "y"), RelationDraft("a", "b", "y")])
    while parts := await export.entities():
        seen += [part.entity["entity_name"] for part in parts]
    assert seen == ["a", "b"]
    assert [each["to_entity"] for each in await export.relations()] == ["b"]
    assert await export.relations() == []


async def test_outcomes_are_told(memory: MemoryStore) -> None:
    [stored] = await memory.remember(OPERATOR, WORLD, [EntityDraft("tea", "x", (ObservationDraft("a"),))])
    await memory.record(OPERATOR, stored.observation_ids, Outcome.ACCEPTED)
    [observation] = objects(await exported(memory))[1]["observations"]
    assert observation["outcomes"] == {"used": 1, "accepted": 1, "corrected": 0, "rejected": 0}
