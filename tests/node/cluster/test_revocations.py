"""A stolen key is revoked: its node is out of membership, links and maps, and is welcome with a new one."""

# ruff: noqa: TID251 (the scenario runs in the simulator's virtual time)

import pytest
import trio

from node.cluster.revocations import PREFIX, KeyRevoked, RevocationInvalid
from node.security import authority, pki
from tests.node.cluster.test_membership import simulate, until

NAMES = ("alpha", "beta", "gamma")


async def started(cluster, **settings):
    nodes = [await cluster.start(name, *NAMES[:1], settings=settings) for name in NAMES]
    await until(lambda: all(len(node.membership.alive_nodes()) == 3 for node in nodes))
    return nodes


def revocation(cluster, name, since_s=None):
    directory = cluster._directory / "cluster"
    _, secrets = authority.load_cluster(directory)
    cert = authority.read_cert(directory / "nodes" / name / "node.crt")
    return pki.revoke(secrets, cert, cluster._operator.clock.wall() if since_s is None else since_s)


def test_a_revoked_node_is_dropped_by_all_and_ends_and_comes_back_with_a_new_key(tmp_path):
    async def scenario(cluster):
        alpha, beta, gamma = await started(cluster)
        for node in (alpha, gamma):
            node.links.ensure("beta" if node is alpha else "alpha")
        await until(lambda: alpha.links.statistics()["inbound"] > 0)
        encoded = revocation(cluster, "gamma")
        found = await alpha.membership.revocations.revoke(encoded)
        assert (found.said.name, len(found.key_id)) == ("gamma", 40)
        await until(lambda: beta.membership.alive_nodes() == ["alpha", "beta"])
        assert alpha.membership.alive_nodes() == ["alpha", "beta"]
        assert alpha.links.statistics()["inbound"] == 0
        for node in (alpha, beta):
            assert node.membership.partition().remembered == 2
            assert "gamma" not in node.membership.replicated.owners()
            assert [each.as_json()["name"] for each in node.membership.revocations.all()] == ["gamma"]
            told = [event["event"] for event in node.membership.recent_events()]
            assert told.count("MemberRevoked") == 1
        await until(lambda: "gamma" not in cluster.nodes, 120)  # it hears that it has no cluster any more
        with pytest.raises(KeyRevoked):
            await cluster.start("gamma", "alpha")
        directory = cluster._directory / "cluster"
        authority.issue_node(directory, "gamma", environment=cluster._operator, renew=True)
        gamma = await cluster.start("gamma", "alpha")
        await until(lambda: all(len(n.membership.alive_nodes()) == 3 for n in (alpha, beta, gamma)))
        assert gamma.membership.revocations.statistics()["revoked"] == 1
        assert (await beta.membership.revocations.revoke(encoded)).key_id == found.key_id  # again
        await trio.sleep(10)
        assert len(alpha.membership.alive_nodes()) == 3

    simulate(scenario, tmp_path)


def test_who_was_away_learns_of_it_and_keeps_it_over_a_restart(tmp_path):
    async def scenario(cluster):
        alpha, beta, _ = await started(cluster)
        await cluster.crash("beta")
        await alpha.membership.revocations.revoke(revocation(cluster, "gamma"))
        beta = await cluster.start("beta", "alpha")
        await until(lambda: beta.membership.revocations.statistics()["revoked"] == 1)
        await until(lambda: beta.membership.alive_nodes() == ["alpha", "beta"])
        await cluster.leave("beta")
        beta = await cluster.start("beta")  # alone, with its disk
        assert beta.membership.revocations.statistics()["revoked"] == 1

    simulate(scenario, tmp_path)


def test_what_a_liar_takes_out_of_the_map_or_spoils_is_there_again(tmp_path):
    async def scenario(cluster):
        alpha, beta, _ = await started(cluster)
        found = await alpha.membership.revocations.revoke(revocation(cluster, "gamma"))
        await until(lambda: beta.membership.replicated.cluster_get(found.key) == found.encoded)
        maps, wall = beta.membership.replicated, beta.environment.clock.wall
        maps.cluster_delete(found.key, wall())
        beta.membership.flush()
        await until(lambda: maps.cluster_get(found.key) == found.encoded)
        for spoilt in (b"", found.encoded[:-1], revocation(cluster, "beta", 5.0)[:-1] + b"\0"):
            maps.cluster_put(found.key, spoilt, wall())
            beta.membership.flush()
            await until(lambda: maps.cluster_get(found.key) == found.encoded)
        assert alpha.membership.revocations.statistics()["written_again"] >= 4
        maps.cluster_put(PREFIX + "alpha", b"alpha is no good", wall())
        await until(lambda: alpha.membership.revocations.statistics()["refused"] > 3)
        assert alpha.membership.alive_nodes() == ["alpha", "beta"]

    simulate(scenario, tmp_path)


def test_what_the_authority_has_not_signed_is_refused(tmp_path):
    async def scenario(cluster):
        alpha, beta, _ = await started(cluster)
        for forged in (b"", b"\x80", revocation(cluster, "gamma")[:-1] + b"\0"):
            with pytest.raises(RevocationInvalid):
                await alpha.membership.revocations.revoke(forged)
        await trio.sleep(5)
        assert len(beta.membership.alive_nodes()) == 3
        assert not list(beta.membership.replicated.cluster_entries(PREFIX))

    simulate(scenario, tmp_path)


def test_a_node_takes_no_revocation_of_its_own_key_from_an_operator(tmp_path):
    async def scenario(cluster):
        alpha, _, gamma = await started(cluster)
        with pytest.raises(RevocationInvalid, match="the node that is asked"):
            await gamma.membership.revocations.revoke(revocation(cluster, "gamma"))
        await trio.sleep(5)
        assert len(alpha.membership.alive_nodes()) == 3

    simulate(scenario, tmp_path)
