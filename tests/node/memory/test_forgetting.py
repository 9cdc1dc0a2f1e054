"""What is due is forgotten and nothing else; what says nearly the same is superseded, and shown before."""

from __future__ import annotations

import pytest
import trio

from node.environment import Environment
from node.errors import EntityNotFound, ValidationFailed
from node.memory.dedup import Dedup, says_the_same
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
from node.memory.records import Outcome, Retain
from node.memory.retention import LEAST_EVERY_S, Retention
from node.memory.scopes import EVERYWHERE, OPERATOR, Viewer
from node.memory.store import MemoryStore

WORLD, ADA = Realm(Scope.GLOBAL), Realm(Scope.AGENT, "ada")
DAY_S = 86_400.0


def facts(*texts: str) -> tuple[ObservationDraft, ...]:
    return tuple(map(ObservationDraft, texts))


async def names(memory: MemoryStore) -> list[str]:
    return sorted(entity.name for entity in await memory.entities(OPERATOR))


async def test_what_had_no_sign_of_life_for_too_long_is_forgotten(
    memory: MemoryStore, environment: Environment
) -> None:
    [tea] = await memory.remember(OPERATOR, WORLD, [EntityDraft("tea", "drink", facts("is green", "is hot"))])
    await memory.remember(
        OPERATOR, WORLD, [EntityDraft("cup", "thing", facts("is old")), EntityDraft("bare", "x")]
    )
    await memory.relate(OPERATOR, WORLD, [RelationDraft("cup", "tea", "holds")])
    environment.clock.wall_s += 5 * DAY_S
    await memory.record(OPERATOR, tea.observation_ids[:1], Outcome.USED)
    await memory.remember(OPERATOR, ADA, [EntityDraft("new", "x", facts("is new"))])
    environment.clock.wall_s += 5 * DAY_S
    retention = Retention(memory, environment, Retain(max_age_s=7 * DAY_S))
    await retention.run_once()
    assert await names(memory) == ["new", "tea"]
    assert [o.text for o in (await memory.get(OPERATOR, "tea")).observations] == ["is green"]
    told = retention.statistics()
    assert (told["forgotten_observations"], told["forgotten_entities"]) == (2, 2)
    await retention.run_once()
    assert await names(memory) == ["new", "tea"]


async def test_nothing_is_forgotten_by_default(memory: MemoryStore, environment: Environment) -> None:
    await memory.remember(OPERATOR, WORLD, [EntityDraft("tea", "drink", facts("is green"))])
    environment.clock.wall_s += 10_000 * DAY_S
    await Retention(memory, environment, Retain()).run_once()
    assert await names(memory) == ["tea"]


async def test_the_oldest_of_an_owner_go_and_not_those_of_others(
    memory: MemoryStore, environment: Environment
) -> None:
    for number in range(6):
        environment.clock.wall_s += 1
        await memory.remember(OPERATOR, ADA, [EntityDraft(f"e{number}", "x")])
    await memory.remember(OPERATOR, WORLD, [EntityDraft("w", "x")])
    environment.clock.wall_s += 1
    await memory.remember(OPERATOR, ADA, [EntityDraft("e0", "x", facts("was changed"))])
    await Retention(memory, environment, Retain(max_entities_per_owner=2)).run_once()
    assert await names(memory) == ["e0", "e5", "w"]


async def test_a_policy_that_was_set_holds_after_a_restart_until_it_is_taken_back(
    memory: MemoryStore, environment: Environment
) -> None:
    configured = Retain(max_age_s=DAY_S)
    retention = Retention(memory, environment, configured)
    assert await retention.policy() == (configured, False)
    await retention.change(Retain(max_entities_per_owner=3))
    again = Retention(memory, environment, configured)
    assert await again.policy() == (Retain(max_entities_per_owner=3), True)
    await again.change(None)
    assert await Retention(memory, environment, configured).policy() == (configured, False)
    with pytest.raises(ValidationFailed):
        await again.change(Retain(every_s=LEAST_EVERY_S / 2))


async def test_it_runs_again_and_again_and_at_once_when_the_policy_changes(
    memory: MemoryStore, environment: Environment, autojump_clock: trio.testing.MockClock
) -> None:
    await memory.remember(OPERATOR, ADA, [EntityDraft("a", "x"), EntityDraft("b", "x")])
    retention = Retention(memory, environment, Retain())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(retention.run)
        while retention.statistics()["runs"] < 2:
            await environment.clock.sleep(1)
        await retention.change(Retain(max_entities_per_owner=1))
        while await names(memory) != ["b"]:
            await environment.clock.sleep(1)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("costs 10 euros", "costs 11 euros", False),
        ("costs 10.5 euros", "it costs 10.5 euros", True),
        ("is open at 10:30", "is open at 10:31", False),
        ("does like tea", "does not like tea", False),
        ("doesn't like tea", "does not like tea", True),
        ("never sleeps", "sleeps", False),
    ],
)
def test_numbers_and_denials_tell_texts_apart(one: str, other: str, *, same: bool) -> None:
    assert says_the_same(one, other) is same


async def test_the_newest_of_those_that_say_nearly_the_same_stands_for_them(
    memory: MemoryStore, environment: Environment
) -> None:
    texts = (
        "likes her green tea very hot in the morning",
        "likes tea in the morning her green very hot",
        "likes her green tea very hot in the morning 2",
        "likes her green tea not hot in the morning",
        "works at home",
        "in the morning likes her green tea very hot",
    )
    source = Provenance("ada", "", "m1")
    await memory.remember(OPERATOR, ADA, [EntityDraft("ada", "person", facts(*texts))], source=source)
    await memory.remember(OPERATOR, WORLD, [EntityDraft("ada", "person", facts(texts[0]))])
    ask = Dedup(memory, environment.clock, OPERATOR, EVERYWHERE)
    pairs, following = await ask.find()
    assert following is None
    assert [(pair.kept, pair.superseded) for pair in pairs] == [(texts[5], texts[1]), (texts[5], texts[0])]
    assert len((await memory.get(Viewer("ada"), "ada")).observations) == 6, "looking changes nothing"
    assert await ask.apply(pairs) == 2
    assert await ask.apply(pairs) == 0
    now = await memory.get(Viewer("ada"), "ada")
    assert [o.text for o in now.observations] == [texts[2], texts[3], texts[4], texts[5]]
    past = await memory.get(Viewer("ada"), "ada", period=Period(Timing.ALL))
    assert past.observations[0].superseded_by == now.observations[3].id
    assert past.observations[0].source.message == "m1"
    assert (await ask.find())[0] == []


async def test_only_what_a_viewer_sees_is_compared_and_in_pages(
    memory: MemoryStore, environment: Environment
) -> None:
    for name in ("a", "b", "c"):
        await memory.remember(
            OPERATOR, ADA, [EntityDraft(name, "x", facts("one two three four", "four two one three"))]
        )
    pairs, following = await Dedup(memory, environment.clock, Viewer("bob"), EVERYWHERE).find()
    assert (pairs, following) == ([], None)
    pairs, following = await Dedup(memory, environment.clock, Viewer("ada"), EVERYWHERE).find(limit=1)
    assert len(pairs) == 3
    ask = Dedup(memory, environment.clock, Viewer("ada"), EVERYWHERE, after=following or pairs[0].entity_id)
    assert len((await ask.find())[0]) == (0 if following else 2)
    with pytest.raises(EntityNotFound):
        await memory.get(Viewer("bob"), "a")
