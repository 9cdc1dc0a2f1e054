"""Three real processes run two replicas of an agent: where they are killed, another takes over."""

import json

import pytest

from tests.acceptance.processes import CONFIGS, caxton, eventually

AGENTS = CONFIGS / "agents"
SOON = [("cluster.placement.settle", "1s"), ("memory.embedding.provider", "hash")]


def running(node, agent):
    """Where a deployment runs, as a node says."""
    found = node.get(f"/deployments/{agent}")
    return sorted(each["node"] for each in found["nodes"] if each["state"] == "running")


def deployed_on(nodes, agent):
    """The nodes that have the agent in service, by their own word."""
    return sorted(
        node.name
        for node in nodes
        if node.running
        and any(a["id"] == agent and a["status"] == "running" for a in node.get("/agents")["agents"])
    )


def entities(node):
    """What the agent remembers for itself on a node."""
    found = node.get("/memory/entities", agent_id="echo-agent", memory_scope="agent-only")
    return sorted(entity["entity_name"] for entity in found["entities"])


@pytest.fixture
def operator(cluster):
    """Runs a verb against a node."""

    def run(node, *arguments, check=True):
        return caxton(*arguments, "--api", node.url, "--token", cluster.token, home=cluster.home, check=check)

    return run


def test_a_killed_holder_is_replaced_and_when_it_is_back_the_one_too_many_stops(cluster, operator):
    nodes = a, _, c = cluster.start("a", "b", "c", settings=SOON)
    echo = cluster.signed(AGENTS / "echo.md")
    said = operator(a, "deploy", echo, "--replicas", "2").stdout
    assert "of 2 run" in said
    eventually(lambda: len(deployed_on(nodes, "echo-agent")) == 2)
    before = deployed_on(nodes, "echo-agent")
    for node in nodes:
        eventually(lambda node=node: running(node, "echo-agent") == before)
    victim = next(node for node in nodes if node.name == before[0])
    third = next(node for node in nodes if node.name not in before)
    others = [node for node in nodes if node is not victim]
    mine = {"agent_id": "echo-agent", "memory_scope": "agent-only", "entity_type": "thing"}
    known = mine | {"entity_name": "before", "observations": ["known before the crash"]}
    victim.post("/memory/entities", known, expect=(201,))
    victim.kill()
    eventually(lambda: deployed_on(nodes, "echo-agent") == sorted(n.name for n in others), within=60)
    answer = third.request("echo", {"hello": "world"})
    assert answer["reply"]["performative"] == "inform"
    learned = mine | {"entity_name": "meanwhile", "observations": ["learned while it was away"]}
    third.post("/memory/entities", learned, expect=(201,))
    shown = operator(third, "deployments", "echo-agent").stdout
    assert "2 of 2 run" in shown
    victim.start(others[0])
    eventually(lambda: deployed_on(nodes, "echo-agent") == before, within=60)
    assert third.get("/agents")["agents"] == []
    eventually(lambda: entities(victim) == ["before", "meanwhile"], within=60)
    eventually(lambda: entities(third) == [], within=60)
    table = operator(c, "deployments").stdout.splitlines()
    assert table[0].split()[:4] == ["agent", "version", "wanted", "running"]
    assert table[1].split()[:5] == ["echo-agent", "1.0.0", "2", "2", "running"]


def test_scale_labels_revisions_and_the_end_of_a_deployment(cluster, operator):
    a, b = cluster.add("a", "b")
    a.start(settings=SOON)
    config = b.bundle / "node.yaml"
    config.write_text(config.read_text().replace("cluster:\n", "cluster:\n  labels: {gpu: 'yes'}\n", 1))
    b.start(a, settings=SOON)
    cluster.wait_for_each_other(a, b)
    file = AGENTS / "data_inspector.md"
    refused = operator(a, "deploy", file, "--require", "gpu=yes", check=False)
    assert refused.returncode == 2
    assert "--require needs --replicas" in refused.stderr
    operator(a, "deploy", file, "--replicas", "2", "--require", "gpu=yes", "--minority", "stop")
    eventually(lambda: deployed_on((a, b), "data-inspector") == ["b"])
    found = json.loads(operator(a, "deployments", "--json").stdout)["deployments"][0]
    assert (found["running"], found["state"]) == (1, "short")
    assert found["excluded"] == [{"node": "a", "why": "it lacks gpu=yes"}]
    assert "lacks gpu=yes" in operator(a, "deployments", "data-inspector").stdout
    assert "gpu=yes" in operator(b, "deployments", "--nodes").stdout
    again = operator(b, "deploy", file, "--replicas", "1", check=False)
    assert again.returncode != 0
    assert "already a deployment" in again.stderr
    operator(b, "deploy", file, "--replicas", "2", "--replace")
    eventually(lambda: deployed_on((a, b), "data-inspector") == ["a", "b"])
    by_hand = operator(a, "stop", "data-inspector", check=False)
    assert "a deployment of the cluster runs it" in by_hand.stderr
    late = operator(a, "agent", "scale", "DataInspector", "--replicas", "1", "--revision", "7", check=False)
    assert "has changed since it was read" in late.stderr
    operator(a, "agent", "scale", "DataInspector", "--replicas", "1")
    eventually(lambda: len(deployed_on((a, b), "data-inspector")) == 1)
    operator(b, "agent", "undeploy", "data-inspector")
    eventually(lambda: deployed_on((a, b), "data-inspector") == [])
    assert "there is no deployment" in operator(a, "deployments", "data-inspector", check=False).stderr
