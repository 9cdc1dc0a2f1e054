import apsw
import pytest
import trio

from node.errors import (
    EntityConflict,
    EntityNotFound,
    InvalidEntityData,
    MemoryLimitExceeded,
    MemoryTooLarge,
    StorageFailed,
    ValidationFailed,
)
from node.memory import model, rows, writing
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
from node.memory.records import Limits, MemorySettings, Outcome
from node.memory.scopes import OPERATOR, Aim, for_agent

ADA = for_agent("ada", ["lab"])
HERS = Realm(Scope.AGENT, "ada")
LAB = Realm(Scope.WORKSPACE, "lab")
WORLD = Realm(Scope.GLOBAL)


def thing(name="tea", *texts, type_="drink", **more):
    return EntityDraft(name, type_, tuple(ObservationDraft(text) for text in texts), **more)


async def check(memory):
    """The indexes have exactly the rows of the tables, and the counts are right."""

    def query(connection):
        rows = connection.execute
        observed = dict(rows("SELECT key, model FROM observations").fetchall())
        embedded = sorted(key for key, space in observed.items() if space is not None)
        if embedded:
            assert sorted(row[0] for row in rows("SELECT key FROM vectors_1")) == embedded
        for scope, owner, entities, observations, relations in rows(
            "SELECT scope, owner, entities, observations, relations FROM realms"
        ).fetchall():
            where = "realm = (SELECT key FROM realms WHERE scope = ? AND owner = ?)"
            found = [
                rows(f"SELECT count(*) FROM {table} WHERE {where}", (scope, owner)).fetchall()[0][0]
                for table in ("entities", "observations", "relations")
            ]
            assert found == [entities, observations, relations], (scope, owner)
        assert rows(
            "SELECT count(*) FROM entities e WHERE known !="
            " (SELECT count(*) FROM observations o WHERE o.entity = e.key)"
        ).fetchall() == [(0,)]
        assert rows("PRAGMA integrity_check").fetchall() == [("ok",)]

    def full_text(connection):
        for index in ("words", "names"):
            connection.execute(f"INSERT INTO {index} ({index}, rank) VALUES ('integrity-check', 1)")

    await memory.storage.read(query)
    await memory.storage.write(full_text)


async def test_what_is_stored_is_there_with_its_provenance(memory):
    source = Provenance(agent="ada", conversation="c1", message="m1")
    draft = EntityDraft(
        "  Green tea ",
        "drink",
        (ObservationDraft("is grown in Uji", 0.9, metadata={"page": 3}),),
        {"lang": "en"},
        confidence=0.8,
        strength=0.7,
    )
    [stored] = await memory.remember(ADA, HERS, [draft], source=source)
    assert (stored.created, stored.version, stored.added, stored.embedded) == (True, 1, 1, True)
    assert stored.entity_id.startswith("ent_")
    entity = await memory.get(ADA, "Green tea")
    shown = entity.as_json()
    assert shown["entity_name"] == "Green tea"
    assert (shown["memory_scope"], shown["owner"], shown["agent_id"]) == ("agent-only", "ada", "ada")
    assert (shown["confidence"], shown["strength"], shown["metadata"]) == (0.8, 0.7, {"lang": "en"})
    [observation] = shown["observations"]
    assert observation["observation_id"] == stored.observation_ids[0]
    assert (observation["text"], observation["confidence"]) == ("is grown in Uji", 0.9)
    assert observation["metadata"] == {"page": 3}
    assert observation["source"] == {"agent": "ada", "conversation": "c1", "message": "m1", "node": "n1"}
    assert (await memory.get(ADA, stored.entity_id)).id == entity.id
    await check(memory)


async def test_the_same_text_is_stored_once_and_changes_nothing(memory):
    [first] = await memory.remember(ADA, HERS, [thing("tea", "is hot", "is green")])
    [again] = await memory.remember(ADA, HERS, [thing("tea", "is green", "is hot")])
    assert (again.created, again.version, again.added) == (False, 1, 0)
    assert set(again.observation_ids) == set(first.observation_ids)
    [more] = await memory.remember(ADA, HERS, [thing("tea", "is hot", "is old")])
    assert (more.version, more.added) == (2, 1)
    assert (await memory.get(ADA, "tea")).observation_count == 3
    await check(memory)


async def test_one_request_with_the_same_text_twice_stores_it_once(memory):
    [stored] = await memory.remember(ADA, HERS, [thing("tea", "is hot", "is hot")])
    assert stored.added == 1
    assert len(set(stored.observation_ids)) == 1


async def test_metadata_and_strength_of_a_known_entity_are_taken_over(memory):
    await memory.remember(ADA, HERS, [thing("tea", metadata={"a": 1})])
    [kept] = await memory.remember(ADA, HERS, [thing("tea")])
    assert kept.version == 1
    [changed] = await memory.remember(ADA, HERS, [thing("tea", metadata={"b": 2}, strength=0.5)])
    assert changed.version == 2
    entity = await memory.get(ADA, "tea")
    assert (entity.metadata, entity.strength) == ({"b": 2}, 0.5)


async def test_names_are_unique_in_their_scope_and_owner_only(memory):
    await memory.remember(ADA, HERS, [thing("tea", "hers")])
    await memory.remember(ADA, LAB, [thing("tea", "of the lab", type_="topic")])
    await memory.remember(ADA, WORLD, [thing("tea", "of all", type_="plant")])
    await memory.remember(for_agent("bob"), Realm(Scope.AGENT, "bob"), [thing("tea", "his")])
    assert (await memory.get(ADA, "tea")).observations[0].text == "hers"
    aim = Aim(Scope.WORKSPACE, "lab")
    assert (await memory.get(ADA, "tea", aim=aim)).observations[0].text == "of the lab"
    with pytest.raises(EntityConflict, match="'drink', not a 'plant'"):
        await memory.remember(ADA, HERS, [thing("tea", type_="plant")])
    assert len(await memory.entities(OPERATOR)) == 4
    await check(memory)


async def test_a_request_is_stored_whole_or_not_at_all(memory):
    await memory.remember(ADA, HERS, [thing("tea")])
    with pytest.raises(EntityConflict):
        await memory.remember(ADA, HERS, [thing("coffee", "is hot"), thing("tea", type_="plant")])
    with pytest.raises(EntityNotFound):
        await memory.get(ADA, "coffee")
    await check(memory)


async def test_a_fact_is_superseded_not_overwritten(memory, environment):
    [stored] = await memory.remember(ADA, HERS, [thing("tea", "costs 3 euros")])
    environment.clock.wall_s += 100
    new = await memory.supersede(ADA, stored.observation_ids[0], ObservationDraft("costs 4 euros"))
    assert (new.version, new.added) == (2, 1)
    entity = await memory.get(ADA, "tea")
    assert [o.text for o in entity.observations] == ["costs 4 euros"]
    everything = await memory.get(ADA, "tea", period=Period(Timing.ALL))
    old = everything.observations[0]
    assert (old.text, old.ended, old.superseded_by) == ("costs 3 euros", True, new.observation_ids[0])
    assert old.valid_to_s == 1_800_000_100
    then = Period(Timing.RANGE, 1_800_000_000, 1_800_000_050)
    assert [o.text for o in (await memory.get(ADA, "tea", period=then)).observations] == ["costs 3 euros"]
    with pytest.raises(EntityConflict, match="superseded before"):
        await memory.supersede(ADA, stored.observation_ids[0], ObservationDraft("costs 5 euros"))
    with pytest.raises(EntityConflict, match="old one"):
        await memory.supersede(ADA, new.observation_ids[0], ObservationDraft("costs 4 euros"))
    await check(memory)


async def test_what_was_superseded_can_be_said_anew(memory):
    [stored] = await memory.remember(ADA, HERS, [thing("tea", "costs 3 euros")])
    await memory.supersede(ADA, stored.observation_ids[0], ObservationDraft("costs 4 euros"))
    [again] = await memory.remember(ADA, HERS, [thing("tea", "costs 3 euros")])
    assert again.added == 1
    await check(memory)


async def test_times_to_come_and_gone_are_not_current(memory):
    now_s = 1_800_000_000
    texts = (
        ObservationDraft("gone", valid_to_s=now_s - 10),
        ObservationDraft("to come", valid_from_s=now_s + 10),
        ObservationDraft("now", valid_from_s=now_s - 10, valid_to_s=now_s + 10),
    )
    await memory.remember(ADA, HERS, [EntityDraft("tea", "drink", texts)])
    assert [o.text for o in (await memory.get(ADA, "tea")).observations] == ["now"]
    coming = Period(Timing.RANGE, now_s + 20, now_s + 30)
    assert [o.text for o in (await memory.get(ADA, "tea", period=coming)).observations] == ["to come"]


async def test_an_observation_is_forgotten_with_its_traces(memory):
    [stored] = await memory.remember(ADA, HERS, [thing("tea", "is hot", "is green")])
    await memory.forget_observation(ADA, stored.observation_ids[0])
    assert [o.text for o in (await memory.get(ADA, "tea")).observations] == ["is green"]
    with pytest.raises(EntityNotFound):
        await memory.forget_observation(ADA, stored.observation_ids[0])
    await check(memory)


async def test_forgetting_a_successor_leaves_the_past(memory):
    [stored] = await memory.remember(ADA, HERS, [thing("tea", "costs 3")])
    new = await memory.supersede(ADA, stored.observation_ids[0], ObservationDraft("costs 4"))
    await memory.forget_observation(ADA, new.observation_ids[0])
    [old] = (await memory.get(ADA, "tea", period=Period(Timing.ALL))).observations
    assert (old.text, old.superseded_by) == ("costs 3", None)
    await check(memory)


async def test_an_entity_is_forgotten_with_relations_in_steps(memory, monkeypatch):
    monkeypatch.setattr(writing, "FORGET_STEP", 7)
    await memory.remember(
        ADA, HERS, [thing("tea", *(f"fact {n}" for n in range(40))), thing("cup", "of tea")]
    )
    await memory.relate(ADA, HERS, [RelationDraft("cup", "tea", "holds")])
    await memory.forget(ADA, "tea")
    with pytest.raises(EntityNotFound):
        await memory.get(ADA, "tea")
    assert (await memory.get(ADA, "cup")).relations == ()
    assert (await memory.counts(ADA))[HERS] == (1, 1, 0)
    await check(memory)


async def test_a_scope_is_cleared_and_others_stay(memory):
    await memory.remember(ADA, HERS, [thing("tea", "a"), thing("uji", "b", type_="town")])
    await memory.remember(ADA, WORLD, [thing("tea", "c")])
    assert await memory.clear(ADA, Aim(Scope.AGENT, "ada"), ["town"]) == 1
    assert await memory.clear(ADA, Aim(Scope.AGENT, "ada")) == 1
    assert [entity.realm for entity in await memory.entities(ADA)] == [WORLD]
    await check(memory)


async def test_space_is_given_back(memory, tmp_path):
    drafts = [thing(f"t{n}", "x" * 5000 + str(n)) for n in range(100)]
    await memory.remember(ADA, HERS, drafts)

    def pages(connection):
        return connection.execute("SELECT (SELECT page_count FROM pragma_page_count)").fetchall()[0][0]

    before = await memory.storage.read(pages)
    await memory.clear(ADA, Aim(Scope.AGENT, "ada"))
    assert await memory.storage.read(pages) < before / 2
    await check(memory)


async def test_a_relation_told_otherwise_supersedes_the_old_one(memory):
    await memory.remember(ADA, HERS, [thing("tea"), thing("uji", type_="town")])
    [first] = await memory.relate(ADA, HERS, [RelationDraft("tea", "uji", "grown_in", strength=0.5)])
    [same] = await memory.relate(ADA, HERS, [RelationDraft("tea", "uji", "grown_in", strength=0.5)])
    assert (same.relation_id, same.created) == (first.relation_id, False)
    [new] = await memory.relate(ADA, HERS, [RelationDraft("tea", "uji", "grown_in", strength=0.9)])
    assert (new.created, new.superseded_id) == (True, first.relation_id)
    [current] = (await memory.get(ADA, "tea")).relations
    assert (current.strength, current.version) == (0.9, 2)
    assert len((await memory.get(ADA, "tea", period=Period(Timing.ALL))).relations) == 2
    await memory.forget_relation(ADA, new.relation_id)
    with pytest.raises(EntityNotFound):
        await memory.forget_relation(ADA, new.relation_id)
    await check(memory)


async def test_a_relation_reaches_into_the_global_scope_but_not_into_a_narrower_one(memory):
    await memory.remember(ADA, HERS, [thing("tea")])
    await memory.remember(ADA, WORLD, [thing("uji", type_="town")])
    await memory.relate(ADA, HERS, [RelationDraft("tea", "uji", "grown_in")])
    with pytest.raises(EntityNotFound):
        await memory.relate(ADA, WORLD, [RelationDraft("tea", "uji", "grown_in")])
    await memory.forget(ADA, "uji")
    assert (await memory.counts(ADA))[HERS] == (1, 0, 0)
    await check(memory)


async def test_an_idempotency_key_stands_for_one_request(memory):
    first = await memory.remember(ADA, HERS, [thing("tea", "is hot")], key="k")
    await memory.forget(ADA, "tea")
    assert await memory.remember(ADA, HERS, [thing("tea", "is hot")], key="k") == first
    with pytest.raises(EntityNotFound):
        await memory.get(ADA, "tea")
    with pytest.raises(EntityConflict, match="idempotency key"):
        await memory.remember(ADA, HERS, [thing("tea", "is cold")], key="k")
    await memory.remember(ADA, LAB, [thing("tea", "is cold")], key="k")


async def test_a_hundred_writers_at_once_lose_nothing(memory):
    async def write(number):
        await memory.remember(ADA, HERS, [thing("tea", f"fact {number}"), thing(f"t{number}", "alone")])

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(write, number)
    assert (await memory.get(ADA, "tea")).observation_count == 100
    assert (await memory.counts(ADA))[HERS] == (101, 200, 0)
    await check(memory)


async def test_limits_hold_and_what_is_refused_changes_nothing(open_memory, monkeypatch):
    memory = open_memory(MemorySettings(Limits(entities=3, entities_of_owner=2)))
    await memory.remember(ADA, HERS, [thing("a"), thing("b")])
    with pytest.raises(MemoryLimitExceeded, match="of this owner"):
        await memory.remember(ADA, HERS, [thing("c")])
    await memory.remember(ADA, LAB, [thing("a")])
    with pytest.raises(MemoryLimitExceeded, match="entities"):
        await memory.remember(ADA, LAB, [thing("b")])
    monkeypatch.setattr(writing, "ENTITY_OBSERVATIONS_LIMIT", 2)
    with pytest.raises(MemoryLimitExceeded, match="observations of 'a'"):
        await memory.remember(ADA, HERS, [thing("a", "1", "2", "3")])
    monkeypatch.setattr(rows, "OBSERVATIONS_LIMIT", 1)
    with pytest.raises(MemoryLimitExceeded, match="observations"):
        await memory.remember(ADA, HERS, [thing("a", "1", "2")])
    monkeypatch.setattr(rows, "RELATIONS_LIMIT", 0)
    with pytest.raises(MemoryLimitExceeded, match="relations"):
        await memory.relate(ADA, HERS, [RelationDraft("a", "b", "is")])
    assert (await memory.counts(OPERATOR)) == {HERS: (2, 0, 0), LAB: (1, 0, 0)}
    await check(memory)


async def test_requests_are_bounded(memory, monkeypatch):
    with pytest.raises(MemoryTooLarge, match="101 entities"):
        await memory.remember(ADA, HERS, [thing(str(n)) for n in range(101)])
    with pytest.raises(MemoryTooLarge, match="1001 observations"):
        await memory.remember(ADA, HERS, [thing("tea", *(str(n) for n in range(1001)))])
    with pytest.raises(MemoryTooLarge, match="bytes"):
        thing("tea", "x" * (model.OBSERVATION_BYTES_LIMIT + 1))
    big = "x" * (model.OBSERVATION_BYTES_LIMIT - 10)
    with pytest.raises(MemoryTooLarge, match="bytes of text"):
        await memory.remember(ADA, HERS, [thing("tea", *(f"{n} {big}" for n in range(11)))])
    with pytest.raises(ValidationFailed):
        await memory.record(ADA, [], Outcome.ACCEPTED)


@pytest.mark.parametrize(
    "make",
    [
        lambda: thing(""),
        lambda: thing(" \t "),
        lambda: thing("n" * 257),
        lambda: thing("a\x00b"),
        lambda: thing("a\nb"),
        lambda: thing("\ud800"),
        lambda: thing("tea", type_=""),
        lambda: thing("tea", type_="t" * 65),
        lambda: thing("tea", " "),
        lambda: thing("tea", "a\x00b"),
        lambda: thing("tea", "\udfff"),
        lambda: thing("tea", confidence=float("nan")),
        lambda: thing("tea", strength=1.1),
        lambda: thing("tea", valid_from_s=5.0, valid_to_s=5.0),
        lambda: thing("tea", valid_to_s=float("inf")),
        lambda: thing("tea", metadata={"a": float("nan")}),
        lambda: thing("tea", metadata={"a": object()}),
        lambda: thing("tea", metadata={"a": "x" * 17_000}),
        lambda: thing("tea", metadata={str(n): n for n in range(65)}),
        lambda: Realm(Scope.AGENT, ""),
        lambda: Realm(Scope.GLOBAL, "ada"),
        lambda: RelationDraft("a", "b", "is", strength=-0.1),
        lambda: Period(Timing.CURRENT, 1.0),
        lambda: Period(Timing.RANGE, 2.0, 1.0),
        lambda: Provenance(agent="x" * 300),
    ],
)
def test_bad_data_is_refused_with_its_place(make):
    with pytest.raises(InvalidEntityData) as refused:
        make()
    assert refused.value.details["field"]
    assert refused.value.why


async def test_sql_and_quotes_in_names_are_names(memory):
    name = "x'); DROP TABLE entities; --"
    await memory.remember(ADA, HERS, [thing(name, "' OR 1=1")])
    assert (await memory.get(ADA, name)).observations[0].text == "' OR 1=1"
    await check(memory)


async def test_without_vectors_what_is_said_is_stored(memory, embedder):
    embedder.broken = True
    [stored] = await memory.remember(ADA, HERS, [thing("tea", "is hot")])
    assert not stored.embedded
    statistics = memory.statistics()
    assert statistics["stored_without_vectors"] == 1
    assert "broken" in statistics["embedding_error"]
    embedder.broken = False
    [stored] = await memory.remember(ADA, HERS, [thing("tea", "is green")])
    assert stored.embedded
    assert memory.statistics()["embedding_error"] is None
    await check(memory)


async def test_vectors_of_another_model_go_into_a_space_of_their_own(open_memory, embedder):
    memory = open_memory()
    await memory.remember(ADA, HERS, [thing("tea", "is hot")])
    embedder.model = type(embedder)("others", 100).model
    await memory.remember(ADA, HERS, [thing("tea", "is green")])
    found = await memory.storage.read(
        lambda c: c.execute(
            "SELECT (SELECT count(*) FROM vectors_1), (SELECT count(*) FROM vectors_2), count(*) FROM models"
        ).fetchall()
    )
    assert found == [(1, 1, 2)]


@pytest.mark.parametrize("kind", ["foreign", "text", "newer"])
def test_a_file_of_something_else_is_refused_and_left_alone(open_memory, tmp_path, kind):
    path = tmp_path / "memory.db"
    if kind == "text":
        path.write_bytes(b"these are not pages of SQLite" * 200)
    else:
        connection = apsw.Connection(str(path))
        connection.execute("CREATE TABLE entities (mine)")
        if kind == "newer":
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA application_id = 0x4361784D; PRAGMA user_version = 99")
        connection.close()
    before = path.read_bytes()
    with pytest.raises(StorageFailed):
        open_memory()
    assert path.read_bytes() == before


async def test_an_outcome_is_counted_or_refused_whole(memory):
    [stored] = await memory.remember(ADA, HERS, [thing("tea", "is hot", "is green")])
    hot, green = stored.observation_ids
    await memory.record(ADA, [hot], Outcome.ACCEPTED)
    await memory.record(ADA, [hot, green], Outcome.REJECTED)
    with pytest.raises(EntityNotFound):
        await memory.record(ADA, [green, "obs_" + "0" * 32], Outcome.CORRECTED)
    told = {
        o.text: (o.used, o.accepted, o.corrected, o.rejected)
        for o in (await memory.get(ADA, "tea")).observations
    }
    assert told == {"is hot": (2, 1, 0, 1), "is green": (1, 0, 0, 1)}
