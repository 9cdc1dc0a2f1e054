"""What every backend of the memory does alike, whoever keeps it and wherever."""

import json

import pytest

from node.errors import EntityConflict, EntityNotFound, ScopeDenied, ValidationFailed
from node.memory.graph import Direction, Order, Walk
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
from node.memory.question import Question, Weighing
from node.memory.records import Outcome
from node.memory.scopes import EVERYWHERE, OPERATOR, Aim, for_agent

ADA, BOB = for_agent("ada", ["lab"]), for_agent("bob", ["shop"])
MINE, LAB, WORLD = Realm(Scope.AGENT, "ada"), Realm(Scope.WORKSPACE, "lab"), Realm(Scope.GLOBAL)
HERS, SHOP = Realm(Scope.AGENT, "bob"), Realm(Scope.WORKSPACE, "shop")
EVER = Period(Timing.ALL)


def draft(name, *texts, kind="thing", **more):
    return EntityDraft(name, kind, tuple(ObservationDraft(text) for text in texts), **more)


async def remember(place, viewer, realm, name, *texts, **more):
    [stored] = await place.gate.remember(viewer, realm, [draft(name, *texts, **more)])
    return stored


def names(found):
    return [hit.entity.name for hit in found.hits]


async def test_what_is_stored_is_found_by_its_meaning_its_words_and_its_name(place):
    await remember(place, ADA, MINE, "Green tea", "is steeped at seventy degrees", kind="drink")
    await remember(place, ADA, MINE, "Uji", "is a town in Japan", kind="town")
    for _ in range(2):  # before the server has heard of it, and after
        found = await place.gate.search(ADA, Question("steeped degrees"))
        assert names(found)[0] == "Green tea"
        assert found.by_meaning
        assert not found.degraded
        assert set(found.hits[0].reasons) >= {"meaning", "words"}
        assert 0.3 < found.hits[0].similarity <= 1.0
        assert found.hits[0].entity.observations[0].text == "is steeped at seventy degrees"
        assert names(await place.gate.search(ADA, Question("uji")))[0] == "Uji"
        await place.settle()


async def test_the_same_is_stored_once_and_versions_grow(place):
    first = await remember(place, ADA, MINE, "tea", "is green")
    again = await remember(place, ADA, MINE, " tea ", "is green")
    more = await remember(place, ADA, MINE, "tea", "is green", "is hot")
    assert (first.created, first.version, first.added, first.embedded) == (True, 1, 1, True)
    assert (again.created, again.version, again.added) == (False, 1, 0)
    assert again.observation_ids == first.observation_ids
    assert again.entity_id == first.entity_id
    assert (more.version, more.added) == (2, 1)
    assert more.observation_ids[0] == first.observation_ids[0]
    assert (await place.gate.counts(ADA)) == {MINE: (1, 2, 0)}


async def test_values_of_an_entity_are_kept_and_replaced(place):
    await place.gate.remember(
        ADA,
        MINE,
        [draft("tea", "is green", metadata={"a": 1}, confidence=0.5, strength=0.25, valid_from_s=5.0)],
        source=Provenance(agent="ada", conversation="c1", message="m1"),
    )
    found = await place.gate.get(ADA, "tea")
    assert (found.confidence, found.strength, found.valid_from_s, found.valid_to_s) == (0.5, 0.25, 5.0, None)
    assert dict(found.metadata) == {"a": 1}
    assert (found.source.agent, found.source.conversation, found.source.message) == ("ada", "c1", "m1")
    assert found.source.node == "n1"
    assert found.observations[0].source == found.source
    await place.gate.remember(ADA, MINE, [draft("tea", metadata={"b": [1, None, "x"]})])
    found = await place.gate.get(ADA, "tea")
    assert (found.confidence, found.strength, found.version) == (1.0, 1.0, 2)
    assert found.valid_from_s == 5.0
    assert dict(found.metadata) == {"b": [1, None, "x"]}


async def test_a_request_is_stored_whole_or_not_at_all(place):
    await remember(place, ADA, MINE, "tea", "is green", kind="drink")
    with pytest.raises(EntityConflict):
        await place.gate.remember(ADA, MINE, [draft("pot", "is round"), draft("tea", "is hot", kind="pot")])
    assert (await place.gate.counts(ADA))[MINE] == (1, 1, 0)
    with pytest.raises(EntityNotFound):
        await place.gate.relate(
            ADA, MINE, [RelationDraft("tea", "tea", "is"), RelationDraft("tea", "nothing", "is")]
        )
    assert (await place.gate.counts(ADA))[MINE] == (1, 1, 0)


async def test_a_request_under_a_key_is_done_once(place):
    told = await place.gate.remember(ADA, MINE, [draft("tea", "is green")], key="k")
    await remember(place, ADA, MINE, "tea", "is hot")
    assert await place.gate.remember(ADA, MINE, [draft("tea", "is green")], key="k") == told
    with pytest.raises(EntityConflict):
        await place.gate.remember(ADA, MINE, [draft("tea", "is cold")], key="k")
    await place.gate.remember(BOB, HERS, [draft("tea", "is cold")], key="k")  # a key is its owner's


async def test_a_fact_is_superseded_and_stays_in_the_past(place):
    stored = await remember(place, ADA, MINE, "tea", "costs ten euros")
    [old] = stored.observation_ids
    new = await place.gate.supersede(ADA, old, ObservationDraft("costs twelve euros"))
    await place.settle()
    assert new.version == 2
    assert [each.text for each in (await place.gate.get(ADA, "tea")).observations] == ["costs twelve euros"]
    past = (await place.gate.get(ADA, "tea", period=EVER)).observations
    assert [(each.text, each.ended) for each in past] == [
        ("costs ten euros", True),
        ("costs twelve euros", False),
    ]
    assert past[0].superseded_by == new.observation_ids[0]
    assert past[0].valid_to_s is not None
    now = await place.gate.search(ADA, Question("costs ten euros"))
    assert [each.text for each in now.hits[0].entity.observations] == ["costs twelve euros"]
    ever = await place.gate.search(ADA, Question("costs ten euros", period=EVER))
    assert ever.hits[0].entity.observations[0].text == "costs ten euros"
    with pytest.raises(EntityConflict):
        await place.gate.supersede(ADA, old, ObservationDraft("costs one euro"))
    with pytest.raises(EntityConflict):
        await place.gate.supersede(ADA, new.observation_ids[0], ObservationDraft("costs twelve euros"))


async def test_times_decide_what_holds(place, environment):
    now = environment.clock.wall()
    observations = (
        ObservationDraft("was cold", valid_from_s=now - 100, valid_to_s=now - 50),
        ObservationDraft("is warm", valid_from_s=now - 50),
        ObservationDraft("becomes hot", valid_from_s=now + 50),
    )
    await place.gate.remember(ADA, MINE, [EntityDraft("tea", "drink", observations)])

    async def texts(period):
        return [each.text for each in (await place.gate.get(ADA, "tea", period=period)).observations]

    assert await texts(Period()) == ["is warm"]
    assert await texts(EVER) == ["was cold", "is warm", "becomes hot"]
    assert await texts(Period(Timing.RANGE, now - 90, now - 60)) == ["was cold"]
    assert await texts(Period(Timing.RANGE, now - 60, now - 10)) == ["was cold", "is warm"]


async def test_searches_are_narrowed_and_paged(place):
    for number in range(6):
        kind = "drink" if number % 2 else "town"
        await place.gate.remember(
            ADA, MINE, [draft(f"n{number}", f"tea number {number}", kind=kind, metadata={"n": number})]
        )
    await place.settle()
    whole = await place.gate.search(ADA, Question("tea number"))
    assert whole.total == 6
    assert sorted(names(whole)) == [f"n{each}" for each in range(6)]
    pages = [
        names(await place.gate.search(ADA, Question("tea number", limit=2, offset=at))) for at in (0, 2, 4)
    ]
    assert [name for page in pages for name in page] == names(whole)
    drinks = await place.gate.search(ADA, Question("tea number", types=("drink",)))
    assert sorted(names(drinks)) == ["n1", "n3", "n5"]
    assert names(await place.gate.search(ADA, Question("tea number", metadata={"n": 4}))) == ["n4"]
    assert (await place.gate.search(ADA, Question("zeppelin"))).total == 0
    exact = await place.gate.search(ADA, Question("n2 (town): tea number 2", min_similarity=0.95))
    assert names(exact) == ["n2"]
    short = await place.gate.search(ADA, Question("tea number", max_tokens=12))
    assert short.cut
    assert 0 < len(short.hits) < 6


async def test_nothing_in_a_question_is_syntax(place):
    await remember(place, ADA, MINE, "tea", 'says "hello" AND (goodbye) OR *')
    for text in ('"', "AND OR NOT", "hello*", "a:b", "(", "hello~2 [x TO y]", "\\", "' OR 1=1 //", "+-!{}^"):
        await place.gate.search(ADA, Question(text))
    assert names(await place.gate.search(ADA, Question('"hello" AND'))) == ["tea"]


async def test_without_vectors_words_are_searched_and_said_so(place, embedder):
    embedder.broken = True
    stored = await remember(place, ADA, MINE, "tea", "is steeped")
    assert not stored.embedded
    found = await place.gate.search(ADA, Question("steeping"))
    assert names(found) == ["tea"]
    assert found.degraded
    assert not found.by_meaning


async def test_outcomes_weigh(place):
    good = await remember(place, ADA, MINE, "one", "the tea is green")
    bad = await remember(place, ADA, MINE, "two", "the tea is green")
    await place.settle()
    for _ in range(3):
        await place.gate.record(ADA, bad.observation_ids, Outcome.REJECTED)
        await place.gate.record(ADA, good.observation_ids, Outcome.ACCEPTED)
    found = await place.gate.search(ADA, Question("the tea is green", weighing=Weighing(outcomes=1.0)))
    assert names(found) == ["one", "two"]
    first = found.hits[0].entity.observations[0]
    assert (first.used, first.accepted, first.rejected) == (3, 3, 0)
    with pytest.raises(EntityNotFound):
        await place.gate.record(ADA, [*good.observation_ids, "obs_" + "0" * 32], Outcome.USED)
    assert (await place.gate.get(ADA, "one")).observations[0].used == 3
    with pytest.raises(ValidationFailed):
        await place.gate.record(ADA, [], Outcome.USED)


async def test_relations_hold_until_they_are_told_otherwise(place):
    for name in ("tea", "uji"):
        await remember(place, ADA, MINE, name, "is known")
    [first] = await place.gate.relate(ADA, MINE, [RelationDraft("tea", "uji", "grown_in", strength=0.5)])
    [same] = await place.gate.relate(ADA, MINE, [RelationDraft("tea", "uji", "grown_in", strength=0.5)])
    [other] = await place.gate.relate(
        ADA, MINE, [RelationDraft("tea", "uji", "grown_in", strength=0.9, metadata={"by": "ada"})]
    )
    assert (first.created, same.created, same.relation_id) == (True, False, first.relation_id)
    assert other.superseded_id == first.relation_id
    [now] = (await place.gate.get(ADA, "tea")).relations
    assert (now.id, now.source, now.target, now.type, now.strength) == (
        *(other.relation_id, "tea", "uji", "grown_in", 0.9),
    )
    assert (now.version, dict(now.metadata), now.realm) == (2, {"by": "ada"}, MINE)
    assert len((await place.gate.get(ADA, "tea", period=EVER)).relations) == 2
    [hit] = (await place.gate.search(ADA, Question("uji", relations=True, limit=1))).hits
    assert [each.id for each in hit.entity.relations] == [other.relation_id]
    assert (await place.gate.counts(ADA)) == {MINE: (2, 2, 2)}
    await place.gate.forget_relation(ADA, other.relation_id)
    assert (await place.gate.get(ADA, "tea")).relations == ()
    with pytest.raises(EntityNotFound):
        await place.gate.forget_relation(ADA, other.relation_id)


async def chain(place, *ends):
    for name in sorted({name for end in ends for name in end[:2]}):
        await remember(place, ADA, MINE, name, f"is {name}")
    for source, target, strength, *more in ends:
        both = bool(more)
        await place.gate.relate(
            ADA, MINE, [RelationDraft(source, target, "leads_to", strength=strength, bidirectional=both)]
        )


async def test_walks_go_level_by_level_along_the_strongest(place):
    await chain(place, ("a", "b", 0.9), ("a", "c", 0.5), ("b", "d", 0.9), ("d", "a", 0.1), ("d", "e", 0.9))

    async def walked(start="a", **way):
        found = await place.gate.walk(ADA, start, Walk(**way))
        return [(node.entity.name, node.depth) for node in found.nodes], len(found.edges), found.cut

    assert await walked(direction=Direction.OUT) == (
        *([("a", 0), ("b", 1), ("c", 1), ("d", 2), ("e", 3)], 5, False),
    )
    assert (await walked(direction=Direction.OUT, depth=1))[0] == [("a", 0), ("b", 1), ("c", 1)]
    assert (await walked(direction=Direction.IN, depth=1))[0] == [("a", 0), ("d", 1)]
    assert (await walked(min_strength=0.8, direction=Direction.OUT))[0] == [
        *[("a", 0), ("b", 1), ("d", 2), ("e", 3)],
    ]
    assert (await walked(types=("nothing",)))[0] == [("a", 0)]
    nodes, _, cut = await walked(nodes=3, direction=Direction.OUT)
    assert (nodes, cut) == ([("a", 0), ("b", 1), ("c", 1)], True)
    depth_first = await walked(direction=Direction.OUT, order=Order.DEPTH)
    assert [name for name, _ in depth_first[0]] == ["a", "b", "d", "e", "c"]
    told = await place.gate.walk(ADA, "a", Walk(depth=0, observations=True))
    assert [each.text for each in told.nodes[0].entity.observations] == ["is a"]


async def test_a_shortest_way_is_found_or_none(place):
    await chain(place, ("a", "b", 0.9), ("b", "c", 0.9), ("a", "d", 0.9, "both"))
    await remember(place, ADA, MINE, "alone", "is alone")
    way = await place.gate.path(ADA, "a", "c", Walk(direction=Direction.OUT))
    assert [node.entity.name for node in way.nodes] == ["a", "b", "c"]
    assert [edge.source_id for edge in way.edges] == [node.entity.id for node in way.nodes[:2]]
    assert await place.gate.path(ADA, "c", "a", Walk(direction=Direction.OUT)) is None
    assert await place.gate.path(ADA, "d", "b", Walk(direction=Direction.OUT)) is not None
    assert await place.gate.path(ADA, "a", "alone", Walk()) is None
    assert await place.gate.path(ADA, "a", "c", Walk(depth=1)) is None
    with pytest.raises(EntityNotFound):
        await place.gate.path(ADA, "a", "nothing", Walk())


async def test_what_is_forgotten_is_gone_everywhere(place):
    tea = await remember(place, ADA, MINE, "tea", "is green", "is hot")
    await remember(place, ADA, MINE, "uji", "is a town")
    await place.gate.relate(ADA, MINE, [RelationDraft("tea", "uji", "grown_in")])
    await place.settle()
    await place.gate.forget_observation(ADA, tea.observation_ids[0])
    assert [each.text for each in (await place.gate.get(ADA, "tea")).observations] == ["is hot"]
    found = await place.gate.search(ADA, Question("tea (thing): is green"))
    assert "is green" not in [o.text for hit in found.hits for o in hit.entity.observations]
    await place.gate.forget(ADA, tea.entity_id)
    assert (await place.gate.counts(ADA))[MINE] == (1, 1, 0)
    for _ in range(2):
        assert "tea" not in names(await place.gate.search(ADA, Question("tea is hot")))
        await place.settle()
    for gone in (place.gate.get(ADA, "tea"), place.gate.forget(ADA, "tea")):
        with pytest.raises(EntityNotFound):
            await gone
    with pytest.raises(EntityNotFound):
        await place.gate.forget_observation(ADA, tea.observation_ids[1])
    assert (await place.gate.get(ADA, "uji")).relations == ()


async def test_a_choice_is_cleared(place):
    for name, kind in (("tea", "drink"), ("uji", "town"), ("milk", "drink")):
        await remember(place, ADA, MINE, name, "is known", kind=kind)
    await remember(place, ADA, LAB, "tea", "is of the lab", kind="drink")
    assert await place.gate.clear(ADA, Aim(Scope.AGENT, "ada"), ("drink",)) == 2
    assert [each.name for each in await place.gate.entities(ADA)] in (["uji", "tea"], ["tea", "uji"])
    assert await place.gate.clear(OPERATOR, EVERYWHERE) == 2
    assert await place.gate.entities(OPERATOR) == []


async def test_entities_are_listed_by_id_in_pages(place):
    for number in range(5):
        await remember(place, ADA, MINE, f"n{number}", "is known")
    whole = await place.gate.entities(ADA)
    assert [each.id for each in whole] == sorted(each.id for each in whole)
    assert len(whole) == 5
    first = await place.gate.entities(ADA, limit=2)
    rest = await place.gate.entities(ADA, after=first[-1].id)
    assert [each.id for each in [*first, *rest]] == [each.id for each in whole]
    assert await place.gate.entities(ADA, types=("town",)) == []


async def test_an_export_tells_everything_of_who_asks(place):
    await remember(place, ADA, MINE, "tea", "is green", "is hot")
    await remember(place, BOB, HERS, "secret", "is hidden")
    await remember(place, ADA, WORLD, "uji", "is a town")
    await place.gate.relate(ADA, MINE, [RelationDraft("tea", "uji", "grown_in")])
    told = place.gate.export(ADA, vectors=True)
    parts = []
    while page := await told.entities():
        parts += page
    relations = []
    while page := await told.relations():
        relations += page
    assert sorted(part.entity["entity_name"] for part in parts) == ["tea", "uji"]
    assert told.counted.as_json() == {"entities": 2, "observations": 3, "relations": 1}
    assert relations[0]["from_entity"] == "tea"
    [tea] = [part for part in parts if part.entity["entity_name"] == "tea"]
    assert [each["text"] for each in tea.observations] == ["is green", "is hot"]
    assert all(each["vector"]["dtype"] == "int8" for each in tea.observations)


async def everywhere(place):
    """The same name in five scopes, each with a secret of its own and a relation."""
    told = {}
    for viewer, realm in ((ADA, MINE), (ADA, LAB), (BOB, HERS), (BOB, SHOP), (BOB, WORLD)):
        word = f"{realm.scope.label}{realm.owner}".replace("-", "")
        stored = await remember(place, viewer, realm, "thing", f"the secret word is {word}")
        await remember(place, viewer, realm, "other", f"beside {word}")
        [related] = await place.gate.relate(viewer, realm, [RelationDraft("thing", "other", "beside")])
        told[word] = (stored.entity_id, stored.observation_ids[0], related.relation_id)
    await place.settle()
    return told


@pytest.mark.parametrize("behind", ["gate", "backend"])
async def test_no_way_leads_into_the_scopes_of_others(place, behind):
    """With the gate, and without it: the backend's own queries are narrowed, too."""
    told = await everywhere(place)
    asked = getattr(place, behind)
    seen = {MINE, LAB, WORLD}
    theirs = [told[word] for word in ("agentonlybob", "workspaceshop")]
    for text in ("the secret word", "agentonlybob", "workspaceshop", "beside", "thing", "other"):
        for question in (Question(text, limit=50, relations=True), Question(text, period=EVER, limit=50)):
            found = await asked.search(ADA, question)
            assert {hit.entity.realm for hit in found.hits} <= seen
            assert {each.realm for hit in found.hits for each in hit.entity.relations} <= seen
            texts = str([hit.as_json() for hit in found.hits])
            assert "bob" not in texts
            assert "shop" not in texts
    assert set(await asked.counts(ADA)) == seen
    assert {each.realm for each in await asked.entities(ADA)} == seen
    graph = await asked.walk(ADA, "thing", Walk(depth=10))
    assert {node.entity.realm for node in graph.nodes} <= seen
    export = asked.export(ADA)
    while page := await export.entities():
        assert "bob" not in str(page)
        assert "shop" not in str(page)
    while page := await export.relations():
        assert {each.get("owner") for each in page} <= {"ada", "lab", None}
    for entity, observation, relation in theirs:
        for attempt in (
            lambda entity=entity: asked.get(ADA, entity),
            lambda entity=entity: asked.walk(ADA, entity, Walk()),
            lambda entity=entity: asked.path(ADA, "thing", entity, Walk()),
            lambda entity=entity: asked.forget(ADA, entity),
            lambda observation=observation: asked.forget_observation(ADA, observation),
            lambda observation=observation: asked.supersede(ADA, observation, ObservationDraft("mine")),
            lambda observation=observation: asked.record(ADA, [observation], Outcome.REJECTED),
            lambda relation=relation: asked.forget_relation(ADA, relation),
        ):
            with pytest.raises(EntityNotFound):
                await attempt()
    for realm in (HERS, SHOP):
        aim = Aim(realm.scope, realm.owner)
        for attempt in (
            lambda realm=realm: asked.remember(ADA, realm, [draft("x", "y")]),
            lambda realm=realm: asked.relate(ADA, realm, [RelationDraft("thing", "other", "x")]),
            lambda aim=aim: asked.search(ADA, Question("thing", aim=aim)),
            lambda aim=aim: asked.get(ADA, "thing", aim=aim),
            lambda aim=aim: asked.entities(ADA, aim=aim),
            lambda aim=aim: asked.walk(ADA, "thing", Walk(aim=aim)),
            lambda aim=aim: asked.clear(ADA, aim),
            lambda aim=aim: asked.counts(ADA, aim),
        ):
            with pytest.raises(ScopeDenied):
                await attempt()
    assert await asked.clear(ADA, EVERYWHERE) == 6
    assert set(await asked.counts(BOB)) >= {HERS, SHOP}
    assert [each.text for each in (await asked.get(BOB, "thing", aim=Aim(Scope.AGENT, "bob"))).observations]


async def test_a_name_is_looked_for_in_the_narrowest_scope_and_aims_narrow(place):
    await everywhere(place)
    assert (await place.gate.get(ADA, "thing")).realm == MINE
    for realm in (MINE, LAB, WORLD):
        aim = Aim(realm.scope, realm.owner)
        assert (await place.gate.get(ADA, "thing", aim=aim)).realm == realm
        found = await place.gate.search(ADA, Question("the secret word", aim=aim))
        assert {hit.entity.realm for hit in found.hits} == {realm}
        assert set(await place.gate.counts(ADA, aim)) == {realm}
    assert set(await place.gate.counts(OPERATOR)) == {MINE, LAB, HERS, SHOP, WORLD}
    assert set(await place.gate.counts(OPERATOR, Aim(owner="bob"))) == {HERS, WORLD}
    found = await place.gate.search(OPERATOR, Question("the secret word", aim=Aim(Scope.WORKSPACE)))
    assert {hit.entity.realm for hit in found.hits} == {LAB, SHOP}


async def test_a_relation_ends_in_its_own_scope_or_the_global_one(place):
    await remember(place, ADA, MINE, "tea", "is green")
    await remember(place, BOB, HERS, "secret", "is hidden")
    await remember(place, BOB, WORLD, "uji", "is a town")
    await place.gate.relate(ADA, MINE, [RelationDraft("tea", "uji", "grown_in")])
    with pytest.raises(EntityNotFound):
        await place.gate.relate(ADA, MINE, [RelationDraft("tea", "secret", "knows")])
    assert (await place.gate.get(BOB, "uji")).relations == ()
    assert len((await place.gate.get(ADA, "uji")).relations) == 1
    await place.gate.forget(BOB, "uji")  # and the relations of others that lead there
    assert (await place.gate.get(ADA, "tea")).relations == ()
    assert (await place.gate.counts(ADA))[MINE] == (1, 1, 0)


async def test_statistics_tell_what_was_withheld_and_are_json(place):
    assert json.loads(json.dumps(place.gate.statistics()))["answers_withheld"] == 0
