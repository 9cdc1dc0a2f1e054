"""Members that are lost for good are given up: for a cluster that counts again without them."""

# ruff: noqa: TID251 (the scenario runs in the simulator's virtual time)

import pytest
import trio

from node.cluster.forgetting import FORMAT, PREFIX, ForgetRefused, GivenUp, decode
from node.cluster.membership import SNAPSHOT_INTERVAL_S
from node.cluster.why import MemberNotFound
from swim import strict_cbor
from swim.messages import Boot
from swim.partition import Side
from tests.node.cluster.test_membership import simulate, until

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon")


async def started(cluster, names=NAMES, **settings):
    nodes = [await cluster.start(name, *names[:1], settings=settings) for name in names]
    await until(lambda: all(len(node.membership.alive_nodes()) == len(names) for node in nodes))
    return nodes


async def crashed(cluster, *names):
    for name in names:
        await cluster.crash(name)
    up = [running.node for running in cluster.nodes.values()]
    await until(lambda: all(set(names) <= set(node.membership.away()) for node in up))
    return up


def counted(node):
    found = node.membership.partition()
    return found.side, found.up, found.remembered


def test_a_member_that_is_given_up_counts_nowhere_also_where_that_is_heard_later(tmp_path):
    async def scenario(cluster):
        await started(cluster)
        await crashed(cluster, "delta", "epsilon")
        await trio.sleep(SNAPSHOT_INTERVAL_S + 1)
        await cluster.crash("gamma")  # it will come back and still think that the two count
        alpha, beta = (cluster.nodes[name].node for name in NAMES[:2])
        await until(lambda: len(alpha.membership.away()) == len(beta.membership.away()) == 3)
        assert counted(alpha) == (Side.MINORITY, 2, 5)
        with pytest.raises(ForgetRefused, match="2 of 5"):
            await alpha.membership.forgetting.forget("delta")
        assert counted(alpha) == (Side.MINORITY, 2, 5)
        await alpha.membership.forgetting.forget("delta", force=True)
        assert counted(alpha) == (Side.MAJORITY, 2, 4)  # an exact half with the lowest name
        await alpha.membership.forgetting.forget("epsilon")
        await until(lambda: counted(alpha) == counted(beta) == (Side.MAJORITY, 2, 3))
        assert beta.membership.away() == ["gamma"]
        assert {view.name for view in alpha.membership.members()} == {"alpha", "beta", "gamma"}
        gamma = await cluster.start("gamma", "alpha")
        await until(lambda: counted(gamma) == (Side.MAJORITY, 3, 3))
        told = [event for event in gamma.membership.recent_events() if event["event"] == "MemberForgotten"]
        assert [event["node"] for event in told] == ["delta", "epsilon"]
        for name in ("alpha", "beta", "gamma"):
            await cluster.leave(name)
        again = await cluster.start("alpha")
        assert again.membership.partition().remembered == 3  # its disk says the same

    simulate(scenario, tmp_path)


def test_who_was_given_up_and_comes_back_counts_again_and_can_be_lost_again(tmp_path):
    async def scenario(cluster):
        alpha, beta, _ = await started(cluster, NAMES[:3])
        await crashed(cluster, "gamma")
        await alpha.membership.forgetting.forget("gamma")
        await until(lambda: counted(beta) == (Side.MAJORITY, 2, 2))
        with pytest.raises(MemberNotFound, match="counts here"):
            await alpha.membership.forgetting.forget("gamma")
        gamma = await cluster.start("gamma", "alpha")
        await until(lambda: counted(alpha) == counted(gamma) == (Side.MAJORITY, 3, 3))
        await until(lambda: not alpha.membership.forgetting.is_given_up("gamma"))
        assert gamma.membership.forgetting.statistics()["taken_back"] == 1
        up = await crashed(cluster, "gamma")
        await trio.sleep(30)
        assert [counted(node) for node in up] == [(Side.MAJORITY, 2, 3)] * 2

    simulate(scenario, tmp_path)


def test_a_member_that_was_only_cut_off_takes_it_back_in_the_same_life(tmp_path):
    async def scenario(cluster):
        alpha, beta, gamma = await started(cluster, NAMES[:3])
        cluster.network.partition(("gamma",), ("alpha", "beta"))
        await until(lambda: alpha.membership.away() == beta.membership.away() == ["gamma"])
        await alpha.membership.forgetting.forget("gamma")
        await until(lambda: counted(beta) == (Side.MAJORITY, 2, 2))
        cluster.network.heal()
        await until(lambda: all(counted(node) == (Side.MAJORITY, 3, 3) for node in (alpha, beta, gamma)))
        await until(lambda: not beta.membership.forgetting.is_given_up("gamma"))

    simulate(scenario, tmp_path)


def test_who_is_up_has_left_or_was_never_there_is_not_given_up(tmp_path):
    async def scenario(cluster):
        alpha, beta, gamma = await started(cluster, NAMES[:3])
        for name in ("alpha", "beta"):
            with pytest.raises(ForgetRefused, match=f"{name} is up"):
                await alpha.membership.forgetting.forget(name, force=True)
        await gamma.membership.leave()
        await until(lambda: not alpha.membership.is_alive("gamma"))
        with pytest.raises(MemberNotFound, match="counts here") as raised:
            await alpha.membership.forgetting.forget("gamma")
        assert raised.value.why == "it has said goodbye"
        with pytest.raises(MemberNotFound, match="Did you mean 'beta'") as raised:
            await alpha.membership.forgetting.forget("betta")
        assert not list(beta.membership.replicated.cluster_entries(PREFIX))

    simulate(scenario, tmp_path)


@pytest.mark.parametrize("boot", [None, Boot(0, b"12345678"), Boot(2**50, b"\0" * 8)])
def test_what_is_written_of_a_member_is_read_back(boot):
    assert decode(GivenUp(boot).encode()) == GivenUp(boot)


@pytest.mark.parametrize(
    "said",
    [
        1,
        [],
        [2],
        [True],
        [FORMAT, 1],
        [FORMAT, -1, b"12345678"],
        [FORMAT, 1, b"short"],
        [FORMAT, 1, "12345678"],
    ],
)
def test_what_some_node_has_written_without_sense_is_left_alone(said):
    value = strict_cbor.encode(said)
    assert decode(value) is None
    assert decode(value[:-1] + b"\xff") is None
