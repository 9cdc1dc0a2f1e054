"""The shared memory of simulated nodes: it converges over partitions and crashes, and the property bites."""

from __future__ import annotations

import msgspec
import pytest
import trio

from node.cluster import replicas as replicas_module
from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.replication import exchange as exchange_module
from node.memory.replication import shared as shared_module
from node.memory.replication.merge import Merger
from node.memory.replication.operations import Named, SayEntity, Told, body_hash, encode
from node.memory.replication.replica import statement
from node.memory.replication.wire import Heading, Page, Stretch
from node.memory.scopes import OPERATOR, for_agent
from simulations.cluster import SimulatedCluster
from simulations.kernel import run
from swim.hlc import stamp_at

GLOBAL = Realm(Scope.GLOBAL)
NAMES = ("alpha", "beta", "gamma")


async def say(cluster, name, entity, *texts, realm=GLOBAL, viewer=OPERATOR):
    store = await cluster.nodes[name].node.memory.store()
    drafts = tuple(ObservationDraft(text) for text in texts)
    return await store.remember(viewer, realm, [EntityDraft(entity, "thing", drafts)])


async def digests(cluster):
    found = {}
    for name, running in sorted(cluster.nodes.items()):
        memory = running.node.memory
        found[name] = await (await memory.file()).shared.digest() if memory.exists else None
    return found


async def in_step(cluster, limit_s=60.0):
    """Wait until all nodes hold the same; returns how long it took, in seconds."""
    clock = next(iter(cluster.nodes.values())).environment.clock
    started_s = clock.now()
    while clock.now() < started_s + limit_s:
        found = set((await digests(cluster)).values())
        if len(found) == 1 and None not in found:
            return clock.now() - started_s
        await clock.sleep(0.25)
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


def test_both_sides_of_a_partition_go_on_and_agree_after_it(tmp_path):
    async def story(cluster):
        clock = cluster.nodes["alpha"].environment.clock
        [stored] = await say(cluster, "alpha", "tea", "is green")
        await in_step(cluster)
        cluster.network.partition(("alpha",), ("beta", "gamma"))
        await say(cluster, "alpha", "tea", "is hot")
        await say(cluster, "beta", "tea", "is sweet")
        beta = await cluster.nodes["beta"].node.memory.store()
        await beta.forget_observation(OPERATOR, stored.observation_ids[0])
        await clock.sleep(60.0)
        assert len(set((await digests(cluster)).values())) == 2
        cluster.network.heal()
        assert await in_step(cluster) < 30.0
        for running in cluster.nodes.values():
            store = await running.node.memory.store()
            tea = await store.get(OPERATOR, "tea")
            assert sorted(each.text for each in tea.observations) == ["is hot", "is sweet"]

    simulated(tmp_path, story)


def test_a_crash_loses_nothing_that_was_acknowledged_and_a_newcomer_gets_everything(tmp_path):
    async def story(cluster):
        await say(cluster, "gamma", "tea", "is green")
        await cluster.crash("gamma")  # before anybody was told
        await say(cluster, "alpha", "tea", "is hot")
        await cluster.start("gamma", "alpha")
        await cluster.start("delta", "alpha")
        await in_step(cluster)
        store = await cluster.nodes["delta"].node.memory.store()
        texts = [each.text for each in (await store.get(OPERATOR, "tea")).observations]
        assert sorted(texts) == ["is green", "is hot"]

    simulated(tmp_path, story)


def test_what_comes_while_a_node_dies_again_and_again_is_there_in_the_end(tmp_path):
    async def story(cluster):
        clock = cluster.nodes["alpha"].environment.clock
        for number in range(40):
            await say(cluster, "alpha", f"thing {number}", *(f"fact {n}" for n in range(10)))
        for _ in range(4):
            await clock.sleep(0.3)
            await cluster.crash("beta")
            await cluster.start("beta", "alpha")
        await in_step(cluster)

    simulated(tmp_path, story)


def test_what_a_node_told_before_it_came_back_with_an_older_file_is_everywhere(tmp_path, monkeypatch):
    """It says as much anew, under the numbers that it had used, before it hears anybody."""
    monkeypatch.setattr(exchange_module, "REPAIR_EVERY_S", 30.0)

    def files(life):
        return sorted((tmp_path / "data" / f"gamma.{life}").glob("memory.db*"))

    async def story(cluster):
        clock = cluster.nodes["alpha"].environment.clock
        await say(cluster, "gamma", "tea", "is green")
        await in_step(cluster)
        await cluster.crash("gamma")
        backup = {file.name: file.read_bytes() for file in files(1)}
        await cluster.start("gamma", "alpha")
        for number in range(12):
            await say(cluster, "gamma", "tea", f"lost {number}")
            await clock.sleep(0.5)
        await in_step(cluster)
        await cluster.crash("gamma")
        for file in files(2):
            file.unlink()
        for name, content in backup.items():
            (tmp_path / "data" / "gamma.2" / name).write_bytes(content)
        cluster.network.partition(("gamma",), ("alpha", "beta"))
        await cluster.start("gamma")
        await say(cluster, "gamma", "tea", *(f"anew {number}" for number in range(12)))
        shared = (await cluster.nodes["gamma"].node.memory.file()).shared
        await shared.heads()
        await clock.sleep(5.0)
        cluster.network.heal()
        await in_step(cluster, limit_s=4 * exchange_module.WAIT_S)
        for running in cluster.nodes.values():
            tea = await (await running.node.memory.store()).get(OPERATOR, "tea")
            assert len(tea.observations) == 25

    simulated(tmp_path, story)


def test_the_same_seed_gives_the_same_memory(tmp_path):
    found = []

    async def story(cluster):
        await say(cluster, "alpha", "tea", "is green")
        took_s = await in_step(cluster)
        found.append((took_s, await digests(cluster)))

    for number in (1, 2):
        simulated(tmp_path / str(number), story)
    assert found[0] == found[1]


def test_nodes_that_share_nothing_ask_each_other_for_nothing(tmp_path):
    async def story(cluster):
        await cluster.nodes["alpha"].environment.clock.sleep(30.0)
        for running in cluster.nodes.values():
            assert running.node.replicas.statistics()["partners"] == []
            assert running.node.links.statistics()["outbound"] == 0
            assert not running.node.memory.exists

    simulated(tmp_path, story)


def test_a_node_that_is_told_not_to_takes_no_part(tmp_path):
    async def story(cluster):
        await cluster.start("delta", "alpha", settings={"memory.replication.enabled": False})
        await say(cluster, "alpha", "tea", "is green")
        await say(cluster, "delta", "pot", "is round")
        await cluster.nodes["alpha"].environment.clock.sleep(20.0)
        known = {
            name: [entity.name for entity in await (await running.node.memory.store()).entities(OPERATOR)]
            for name, running in cluster.nodes.items()
        }
        assert known == {"alpha": ["tea"], "beta": ["tea"], "gamma": ["tea"], "delta": ["pot"]}

    simulated(tmp_path, story)


# ---- a member that lies, and planted bugs -------------------------------------------------------------


def test_a_member_that_forges_is_left_alone_and_its_link_carries_on(tmp_path, monkeypatch):
    page_for = shared_module.page_for

    def forged(connection, have):
        page = page_for(connection, have)
        if not any(stretch.node == "beta" for stretch in page.stretches):
            return page
        stretches = [
            msgspec.structs.replace(stretch, hashes=stretch.hashes[::-1]) for stretch in page.stretches
        ]
        return msgspec.structs.replace(page, stretches=tuple(stretches))

    async def story(cluster):
        monkeypatch.setattr(shared_module, "page_for", forged)
        await say(cluster, "beta", "tea", "is green")
        await cluster.nodes["alpha"].environment.clock.sleep(10.0)
        told = cluster.nodes["alpha"].node.replicas.statistics()
        assert told["peers"]["beta"]["refused"] == 1
        assert cluster.nodes["alpha"].node.links.is_open("beta")
        found = await digests(cluster)
        assert found["gamma"] != found["beta"]
        monkeypatch.setattr(shared_module, "page_for", page_for)
        await in_step(cluster, limit_s=90.0)

    simulated(tmp_path, story)


@pytest.mark.parametrize("says_something", [False, True])
def test_a_member_that_goes_on_without_end_keeps_nobody_from_hearing_the_others(
    tmp_path, monkeypatch, says_something
):
    page_for, pages, cluster_ = shared_module.page_for, 0, None

    def endless(connection, have):
        nonlocal pages
        if "beta." not in connection.filename:
            return page_for(connection, have)
        pages += 1
        node, log = cluster_.nodes["beta"].node, b"log-of-b"
        wall, identity = node.environment.clock.wall(), node.credentials.identity
        first = have.get(("beta", log), 0) + 1
        cup = Named(2, "", "cup", "thing")
        body = encode(SayEntity(stamp_at(wall) + first, cup, 1.0, 1.0, None, None, None, Told()))
        hashes = body_hash(body) if says_something else bytes(32)
        signature = identity.sign(statement("beta", log, first, int(wall * 1000), hashes))
        operations = ((first, body),) if says_something else ()
        credential = identity.credential
        signed = Stretch("beta", log, first, int(wall * 1000), credential, signature, hashes, operations)
        return Page((Heading("beta", log, first, bytes(16)),), (signed,))

    async def story(cluster):
        nonlocal cluster_
        cluster_, clock = cluster, cluster.nodes["alpha"].environment.clock
        monkeypatch.setattr(replicas_module, "TURN_S", 0.5)
        await say(cluster, "beta", "pot", "is round")
        await in_step(cluster)
        monkeypatch.setattr(shared_module, "page_for", endless)
        await say(cluster, "beta", "pot", "is red")  # for which it is asked
        await clock.sleep(1.0)
        await say(cluster, "gamma", "tea", "is green")
        await clock.sleep(4.0)
        tea = await (await cluster.nodes["alpha"].node.memory.store()).get(OPERATOR, "tea")
        assert [each.text for each in tea.observations] == ["is green"]
        assert says_something or pages < 60

    simulated(tmp_path, story)


def test_a_member_that_keeps_something_from_others_is_found_out_by_the_digests(tmp_path, monkeypatch):
    page_for = shared_module.page_for

    def silent(connection, have):
        page = page_for(connection, have)
        return msgspec.structs.replace(
            page,
            stretches=tuple(msgspec.structs.replace(each, operations=()) for each in page.stretches),
        )

    monkeypatch.setattr(exchange_module, "REPAIR_EVERY_S", 30.0)

    async def story(cluster):
        await say(cluster, "alpha", "tea", "is green")
        await in_step(cluster)
        monkeypatch.setattr(shared_module, "page_for", silent)
        await say(cluster, "alpha", "tea", "is hot")
        await cluster.nodes["alpha"].environment.clock.sleep(10.0)
        assert len(set((await digests(cluster)).values())) == 2
        monkeypatch.setattr(shared_module, "page_for", page_for)
        await in_step(cluster, limit_s=3 * exchange_module.WAIT_S)

    simulated(tmp_path, story)


@pytest.mark.parametrize(
    ("where", "name", "bug"),
    [
        (Merger, "apply", lambda *_: False),
        (Merger, "forget", lambda *_: None),
    ],
    ids=["what was told is not carried out", "what was forgotten stays in the rows"],
)
def test_agreement_catches_a_planted_bug(tmp_path, monkeypatch, where, name, bug):
    async def story(cluster):
        await say(cluster, "alpha", "tea", "is green")
        await in_step(cluster)
        cluster.network.partition(("alpha",), ("beta", "gamma"))
        clock = cluster.nodes["alpha"].environment.clock
        await clock.sleep(30.0)
        monkeypatch.setattr(where, name, bug)
        alpha = await cluster.nodes["alpha"].node.memory.store()
        await say(cluster, "beta", "tea", "is hot")
        await clock.sleep(5.0)
        await alpha.forget(OPERATOR, "tea")
        cluster.network.heal()
        with pytest.raises(AssertionError):
            await in_step(cluster)

    simulated(tmp_path, story)
