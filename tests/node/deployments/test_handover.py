"""What an agent remembers for itself follows its replica, whatever dies on the way, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.deployments import handover, memories
from node.deployments.facts import HANDOVER_PREFIX, Offer
from node.deployments.ranking import ranked
from node.deployments.wanted import Wanted
from node.errors import ValidationFailed
from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.records import Outcome
from node.memory.scopes import Aim, for_agent
from tests.node.deployments.nodes import PACKAGE, TRIAGE, Nodes, simulated

OWN = Realm(Scope.AGENT, "triage")
AIM = Aim(Scope.AGENT, "triage")
NAMES = ranked("triage", "abcd")


async def remember(nodes: Nodes, name: str, entity: str, *texts: str, kind: str = "thing") -> None:
    store = await nodes.cluster.nodes[name].node.memory.store()
    drafts = tuple(ObservationDraft(text) for text in texts)
    await store.remember(for_agent("triage"), OWN, [EntityDraft(entity, kind, drafts)])


async def remembered(nodes: Nodes, name: str) -> dict[str, list[str]]:
    """What a node remembers for the agent, by entity."""
    memory = nodes.cluster.nodes[name].node.memory
    if not memory.exists:
        return {}
    store = await memory.file()
    export = store.export(for_agent("triage"), AIM)
    found: dict[str, list[str]] = {}
    while parts := await export.entities():
        for part in parts:
            found.setdefault(part.entity["entity_name"], []).extend(
                each["text"] for each in part.observations
            )
    return {entity: sorted(texts) for entity, texts in sorted(found.items())}


async def comes_to_be(nodes: Nodes, name: str, wanted: dict[str, list[str]], within: float = 90.0) -> None:
    waited = 0.0
    while (found := await remembered(nodes, name)) != wanted:
        assert waited < within, f"{name} remembers {found}"
        await nodes.pass_(0.5)
        waited += 0.5


async def one_replica(nodes: Nodes, *names: str) -> None:
    await nodes.start(*names)
    await nodes.pass_(1.0)
    await nodes.of(names[0]).deploy(PACKAGE, Wanted(1), by="admin")
    await nodes.until(lambda: len(nodes.running()) == 1)
    spare = ranked("triage", names)[1]
    await nodes.until(lambda: nodes.of(spare).statistics()["fetched"] == 1)


def test_a_memory_follows_its_replica_to_a_node_that_comes(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        first, second, third, fourth = NAMES
        await one_replica(nodes, second, third, fourth)
        assert nodes.running() == [second]
        await remember(nodes, second, "tea", "is green", "is hot")
        await remember(nodes, second, "uji", "is a town")
        await nodes.start(first)
        await nodes.until(lambda: nodes.running() == [first])
        everything = {"tea": ["is green", "is hot"], "uji": ["is a town"]}
        await comes_to_be(nodes, first, everything)
        await comes_to_be(nodes, second, {})
        assert await remembered(nodes, third) == {}
        await nodes.pass_(5.0)
        for name in NAMES:
            said = nodes.of(name)._said
            assert (said.offers, said.taken) == ({}, {}), "nothing is left of it in the maps"
        assert nodes.of(second).statistics()["memories"]["handed_over"] == 1
        assert nodes.of(first).statistics()["memories"]["taken"] == 1
        blobs = nodes.cluster.nodes[second].node.blobs.statistics()["blobs"]
        assert blobs == 1, "of what was moved, only the package is left"

    simulated(tmp_path, scenario)


def test_what_was_learned_while_a_node_was_dead_joins_what_it_knew_before(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        first, second, third, fourth = NAMES
        await one_replica(nodes, first, second, third, fourth)
        await remember(nodes, first, "tea", "is green")
        await nodes.cluster.crash(first)
        await nodes.until(lambda: nodes.running() == [second])
        assert await remembered(nodes, second) == {}, "it begins with nothing"
        await remember(nodes, second, "tea", "is hot")
        await remember(nodes, second, "uji", "is a town")
        await nodes.cluster.start(first, second, third)
        await nodes.until(lambda: nodes.running() == [first])
        await comes_to_be(nodes, first, {"tea": ["is green", "is hot"], "uji": ["is a town"]})
        await comes_to_be(nodes, second, {})

    simulated(tmp_path, scenario)


def test_a_node_that_comes_back_and_is_not_chosen_gives_what_it_knew(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        first, second, third, fourth = NAMES
        await one_replica(nodes, second, third, fourth)
        await remember(nodes, second, "tea", "is green")
        await nodes.cluster.crash(second)
        await nodes.start(first)
        await nodes.until(lambda: nodes.running() == [first])
        await remember(nodes, first, "tea", "is hot")
        await nodes.cluster.start(second, first, third)
        await comes_to_be(nodes, first, {"tea": ["is green", "is hot"]})
        await comes_to_be(nodes, second, {})
        assert nodes.running() == [first]

    simulated(tmp_path, scenario)


async def outcomes(nodes: Nodes, name: str) -> dict[str, dict[str, int]]:
    """What came of answers for which observations were used, by their text."""
    memory = nodes.cluster.nodes[name].node.memory
    told = [each async for _, each in memories._observations(memory, "triage")]
    return {each["text"]: each["outcomes"] for each in told if each.get("outcomes")}


def test_what_an_agent_has_learned_of_its_answers_moves_along_and_counts_once(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        first, second, third, fourth = NAMES
        await one_replica(nodes, second, third, fourth)
        await remember(nodes, second, "tea", "is green", "is hot", "is dear")
        store = await nodes.cluster.nodes[second].node.memory.file()
        ids = {each["text"]: each["observation_id"] async for _, each in memories._observations(
            nodes.cluster.nodes[second].node.memory, "triage")}  # fmt: skip
        viewer = for_agent("triage")
        await store.record(viewer, [ids["is green"], ids["is hot"]], Outcome.ACCEPTED)
        await store.record(viewer, [ids["is green"]], Outcome.USED)
        await store.record(viewer, [ids["is hot"]], Outcome.REJECTED)
        wanted = await outcomes(nodes, second)
        assert wanted["is green"] == {"used": 2, "accepted": 1, "corrected": 0, "rejected": 0}
        part = b"".join(
            [each async for each in memories.parts(nodes.cluster.nodes[second].node.memory, "triage")]
        )
        await nodes.start(first)
        await comes_to_be(nodes, second, {})
        assert await outcomes(nodes, first) == wanted
        assert await memories.take(nodes.cluster.nodes[first].node.memory, "triage", part) == []
        assert await outcomes(nodes, first) == wanted

    simulated(tmp_path, scenario)


@pytest.mark.parametrize("dies", ["taker", "giver"])
@pytest.mark.parametrize("after_s", [0.0, 0.3, 0.8, 1.5, 3.0])
def test_whoever_dies_in_the_middle_nothing_is_lost_and_nothing_is_there_twice(
    tmp_path: Path, dies: str, after_s: float
) -> None:
    async def scenario(nodes: Nodes) -> None:
        first, second, third, fourth = NAMES
        await one_replica(nodes, second, third, fourth)
        facts = [f"fact {number}" for number in range(50)]
        await remember(nodes, second, "tea", *facts)
        await nodes.start(first)
        await nodes.until(lambda: bool(nodes.of(third)._said.offers) or nodes.running() == [first])
        await nodes.pass_(after_s)
        victim = first if dies == "taker" else second
        await nodes.cluster.crash(victim)
        await nodes.pass_(3.0)
        await nodes.cluster.start(victim, third, fourth)
        await nodes.until(lambda: nodes.running() == [first])
        await comes_to_be(nodes, first, {"tea": sorted(facts)})
        await comes_to_be(nodes, second, {})

    simulated(tmp_path, scenario)


def test_what_the_taker_cannot_take_stays_where_it_is(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        first, second, third, fourth = NAMES
        await one_replica(nodes, first, second, third, fourth)
        await remember(nodes, first, "tea", "is green", kind="drink")
        await nodes.cluster.crash(first)
        await nodes.until(lambda: nodes.running() == [second])
        await remember(nodes, second, "tea", "is a meal", kind="meal")
        await nodes.cluster.start(first, second, third)
        await nodes.until(lambda: nodes.running() == [first])
        await nodes.until(lambda: nodes.of(first).statistics()["memories"]["refused"] > 0)
        await nodes.pass_(10.0)
        assert await remembered(nodes, second) == {"tea": ["is a meal"]}
        assert await remembered(nodes, first) == {"tea": ["is green"]}
        shown = nodes.of(third).get("triage")["memories"]
        assert shown == [{"from": second, "to": first, "up": True}]
        await nodes.of(third).undeploy("triage", by="x")
        await nodes.until(lambda: nodes.of(third)._said.offers == {})
        assert await remembered(nodes, second) == {"tea": ["is a meal"]}

    simulated(tmp_path, scenario)


def test_a_memory_that_grows_while_it_is_taken_is_not_forgotten_but_offered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = handover.Handovers._take

    async def scenario(nodes: Nodes) -> None:
        first, second, third, fourth = NAMES
        await one_replica(nodes, second, third, fourth)
        await remember(nodes, second, "tea", "is green")

        async def take(taker: handover.Handovers, *offer: object) -> bool:
            done = await original(taker, *offer)
            if done and "late" not in await remembered(nodes, second):
                await remember(nodes, second, "late", "came in between")
            return done

        monkeypatch.setattr(handover.Handovers, "_take", take)
        await nodes.start(first)
        await comes_to_be(nodes, first, {"late": ["came in between"], "tea": ["is green"]})
        await comes_to_be(nodes, second, {})
        assert nodes.of(second).statistics()["memories"]["offered"] >= 2

    simulated(tmp_path, scenario)


def test_an_agent_of_one_node_alone_keeps_its_memory_though_a_deployment_has_its_name(tmp_path: Path) -> None:
    async def scenario(nodes: Nodes) -> None:
        first, second, third = NAMES[:3]
        await nodes.start(first, second, third)
        await nodes.pass_(1.0)
        await nodes.cluster.nodes[first].node.supervisor.deploy(TRIAGE, filename="triage.md")
        await remember(nodes, first, "tea", "is green")
        await nodes.of(second).deploy(PACKAGE, Wanted(1), by="admin")
        await nodes.until(lambda: nodes.running() == [second])
        await nodes.pass_(10.0)
        assert await remembered(nodes, first) == {"tea": ["is green"]}
        assert await remembered(nodes, second) == {}

    simulated(tmp_path, scenario)


def test_only_a_node_that_is_to_run_the_agent_takes_its_memory(tmp_path: Path) -> None:
    """A peer that offers something to whoever it likes is not believed."""

    async def scenario(nodes: Nodes) -> None:
        first, second, third, fourth = NAMES
        await one_replica(nodes, first, second, third, fourth)
        await remember(nodes, first, "tea", "is green")
        giver = nodes.cluster.nodes[third].node
        digest = await giver.bus.blobs.keep(memories.encode_list("triage", []))
        for taker in (second, fourth):
            offer = Offer(taker, digest, len(memories.encode_list("triage", [])))
            giver.deployments._publish({HANDOVER_PREFIX + "triage": offer.encode()})
            await nodes.pass_(5.0)
            assert nodes.of(taker).statistics()["memories"]["taken"] == 0

    simulated(tmp_path, scenario)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", memories.encode_list("another", []), memories.encode_list("triage", [("ab" * 31, 1)])],
)
def test_a_list_of_parts_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValidationFailed):
        memories.decode_list(data, "triage")
    assert memories.decode_list(memories.encode_list("triage", [("ab" * 32, 7)]), "triage") == [
        ("ab" * 32, 7)
    ]


def test_many_parts_are_moved_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memories, "PART_BYTES", 2_000)

    async def scenario(nodes: Nodes) -> None:
        first, second, third, fourth = NAMES
        await one_replica(nodes, second, third, fourth)
        wanted = {}
        for number in range(120):  # pages of a hundred
            wanted[f"thing {number:03}"] = [f"fact {number}"]
            await remember(nodes, second, f"thing {number:03}", f"fact {number}")
        parts = [part async for part in memories.parts(nodes.cluster.nodes[second].node.memory, "triage")]
        assert len(parts) > 2
        await nodes.start(first)
        await comes_to_be(nodes, first, wanted)
        await comes_to_be(nodes, second, {})

    simulated(tmp_path, scenario)
