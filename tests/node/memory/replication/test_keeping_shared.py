"""What keeps the memory of one node is ordinary writing: other nodes hear of it as of any other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.environment import system_environment
from node.memory.dedup import Dedup
from node.memory.importing import Import, Strategy
from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.records import Retain
from node.memory.retention import Retention
from node.memory.scopes import EVERYWHERE, OPERATOR
from tests.node.memory.replication.peers import Peer, Peers
from tests.node.memory.stand_in import WordEmbedder

GLOBAL = Realm(Scope.GLOBAL)


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    with Peers(tmp_path, "n1", "n2") as made:
        yield made


async def texts(peer: Peer) -> list[str]:
    return sorted(each.text for each in (await peer.store.get(OPERATOR, "tea")).observations)


async def test_an_import_is_heard_of_and_what_is_an_agents_own_is_not(peers: Peers) -> None:
    one, two = peers["n1"], peers["n2"]
    environment = replace(system_environment(), clock=one.clock)
    lines = [
        {"type": "entity", "name": "tea", "entityType": "drink", "observations": ["is green", "is hot"]},
        {"type": "entity", "name": "cup", "entityType": "x", "memory_scope": "agent-only", "owner": "ada"},
        {"type": "relation", "from": "tea", "to": "tea", "relationType": "likes"},
    ]
    for _ in range(2):
        work = Import(
            one.store, WordEmbedder(), environment, viewer=OPERATOR, realm=GLOBAL, strategy=Strategy.UPDATE
        )
        assert await work.take(list(enumerate(lines, 1)))
        await peers.converge()
        assert await texts(two) == ["is green", "is hot"]
        assert [entity.name for entity in await two.store.entities(OPERATOR)] == ["tea"]
        assert await one.digest() == await two.digest()


async def test_what_retention_forgets_and_deduplication_supersedes_is_so_on_others(peers: Peers) -> None:
    one, two = peers["n1"], peers["n2"]
    facts = tuple(map(ObservationDraft, ("is hot and very green", "is very green and hot")))
    await one.store.remember(OPERATOR, GLOBAL, [EntityDraft("tea", "drink", facts)])
    ask = Dedup(one.store, one.clock, OPERATOR, EVERYWHERE)
    pairs, _ = await ask.find()
    assert await ask.apply(pairs) == 1
    await peers.converge()
    assert await texts(two) == ["is very green and hot"]
    environment = replace(system_environment(), clock=one.clock)
    one.clock.wall_s += 100.0
    two.clock.wall_s += 100.0
    await Retention(one.store, environment, Retain(max_age_s=50.0)).run_once()
    await peers.converge()
    assert await two.store.entities(OPERATOR) == []
    assert await one.digest() == await two.digest()
