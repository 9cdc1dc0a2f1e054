"""Nodes find each other, leave, die, and come back with what they had."""

import json

from tests.acceptance.agents import ECHO
from tests.acceptance.processes import caxton, eventually


def test_five_nodes_join_through_one_seed_and_see_the_same_cluster(cluster):
    nodes = cluster.start("a", "b", "c", "d", "e")
    nodes[4].deploy(ECHO)
    cluster.wait_for_providers(nodes, echo=["e"])
    for node in nodes:
        # A node that was alone for a while takes itself for isolated until a member has answered it.
        eventually(lambda node=node: node.get("/cluster/status")["partition_state"] == "majority")
        shown = node.get("/cluster/status")
        assert shown["partition"] == {"state": "majority", "up": 5, "remembered": 5}
        assert shown["members_by_state"] == {"alive": 5}
    links = {m["name"]: m["link_address"] for m in nodes[1].get("/cluster/members")["members"]}
    assert links == {node.name: "{}:{}".format(*node.link_address) for node in nodes}


def test_a_node_that_is_told_to_stop_leaves_and_finds_its_way_back_without_a_seed(cluster):
    a, b, c = cluster.start("a", "b", "c")
    c.deploy(ECHO)
    cluster.wait_for_providers([a, b], echo=["c"])
    c.stop()
    for node in (a, b):
        eventually(lambda node=node: node.members()["c"] == "left", within=5)
        assert node.providers("echo") == []
    c.start()
    cluster.wait_for_each_other(a, b, c)
    cluster.wait_for_providers([a, b], echo=["c"])
    assert a.request("echo", {"again": 1})["routed_to"] == ["echo-agent@c"]


def test_a_node_that_was_killed_is_declared_dead_and_comes_back_with_its_agents(cluster):
    a, b, c = cluster.start("a", "b", "c")
    c.deploy(ECHO)
    cluster.wait_for_providers([a, b], echo=["c"])
    before = a.request("echo", 1)["reply"]
    c.kill()
    for node in (a, b):
        eventually(lambda node=node: node.members()["c"] == "dead", within=20)
        assert node.providers("echo") == []
    c.start(a)
    cluster.wait_for_each_other(a, b, c)
    assert [agent["name"] for agent in c.get("/agents")["agents"]] == ["EchoAgent"]
    cluster.wait_for_providers([a, b], echo=["c"])
    after = b.request("echo", 1)["reply"]
    assert after["sender"] == before["sender"]
    assert after["content"] == before["content"]


def test_the_command_line_tells_who_is_in_the_cluster_and_why_one_is_dead(cluster):
    a, b, c = cluster.start("a", "b", "c")

    def members(*arguments):
        command = ("members", *arguments, "--api", a.url, "--token", cluster.token)
        return caxton(*command, home=a.home).stdout

    eventually(lambda: all(m["self"] or m["rtt_seconds"] for m in json.loads(members("--json"))["members"]))
    first, _, *rows = members().splitlines()
    assert first == "Seen from a: majority, 3 of 3 remembered members are up"
    assert [row.split()[:3] for row in rows] == [[n.name, "alive", n.gossip] for n in (a, b, c)]
    assert members("--unreachable") == "Every member reaches every other one directly.\n"
    c.kill()
    eventually(lambda: a.members()["c"] == "dead", within=30)
    present, doubted_by, *story = members("--why", "c").splitlines()
    assert present.startswith("c is dead for ")
    assert set(doubted_by.removeprefix("Doubted by ").split(", ")) <= {"a", "b"}
    assert "declared it dead" in story[-1]
    assert "Seen from a: majority, 2 of 3 remembered members are up" in members()
    assert "unreachable for" in a.log_text()


def test_a_node_that_restarts_before_anybody_noticed_is_routed_to_again(cluster):
    a, b = cluster.start("a", "b")
    b.deploy(ECHO)
    cluster.wait_for_providers([a], echo=["b"])
    for number in range(3):
        b.kill()
        b.start(a)
        cluster.wait_for_each_other(a, b)
        cluster.wait_for_providers([a, b], echo=["b"])
        assert a.request("echo", number)["reply"]["performative"] == "inform"
