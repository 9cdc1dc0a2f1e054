"""The shared memory of simulated nodes: it converges over partitions and crashes, and the property bites."""

from __future__ import annotations

import trio

from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.scopes import OPERATOR, for_agent
from simulations.cluster import SimulatedCluster
from simulations.kernel import run

GLOBAL = Realm(Scope.GLOBAL)
NAMES = ("alpha", "beta", "gamma")


async def say(cluster, name, entity, *texts, realm=GLOBAL, viewer=OPERATOR):
    store = await cluster.nodes[name].node.memory.store()
    drafts = tuple(ObservationDraft(text) for text in texts)
    return await store.remember(viewer, realm, [EntityDraft(entity, "thing", drafts)])


async def digests(cluster):
    found = {}
    for name, running in sorted(cluster.nodes.items()):
        store = await running.node.memory.existing()
        found[name] = None if store is None else await store.shared.digest()
    return found


async def in_step(cluster, limit_s=60.0):
    """Wait until all nodes hold the same; returns how long it took, in seconds."""
    clock = next(iter(cluster.nodes.values())).environment.clock
    started_s = clock.now()
    while clock.now() < started_s + limit_s:
        found = set((await digests(cluster)).values())
        if len(found) == 1 and None not in found:
            return clock.now() - started_s
        await clock.sleep(0.1)
    raise AssertionError(f"they differ after {limit_s} s: {await digests(cluster)}")


def simulated(tmp_path, story, seed=3):
    async def main(world):
        async with trio.open_nursery() as nursery:
            cluster = SimulatedCluster(world, tmp_path, nursery)
            await cluster.start("alpha")
            for name in NAMES[1:]:
                await cluster.start(name, "alpha")
            await cluster.nodes["alpha"].environment.clock.sleep(5.0)
            await story(cluster)
            nursery.cancel_scope.cancel()

    run(main, seed, limit_s=3_600.0)


def test_what_one_node_shares_all_nodes_hold_and_what_is_an_agents_own_they_do_not(tmp_path):
    async def story(cluster):
        await say(cluster, "alpha", "tea", "is green", "is hot")
        ada = for_agent("ada", ["lab"])
        await say(cluster, "beta", "pot", "is round", realm=Realm(Scope.WORKSPACE, "lab"), viewer=ada)
        await say(cluster, "beta", "secret", "is hidden", realm=Realm(Scope.AGENT, "ada"), viewer=ada)
        await in_step(cluster)
        for running in cluster.nodes.values():
            store = await running.node.memory.store()
            known = {entity.name for entity in await store.entities(OPERATOR)}
            assert known == {"tea", "pot"} | ({"secret"} if running.name == "beta" else set())
            tea = await store.get(OPERATOR, "tea")
            assert sorted(each.text for each in tea.observations) == ["is green", "is hot"]
            assert all(each.embedded for each in tea.observations)
            assert tea.source.node == "alpha"

    simulated(tmp_path, story)
