"""caxton status: a page for people, whose every counter is one of a node."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from node.cli.status_page import AGENTS_SHOWN
from node.cli.troubles import TROUBLES, Trouble, troubles_of
from node.http.traffic import Traffic
from swim import protocol
from tests.node.cli.conftest import FakeNode, Shell
from tests.node.test_node import simulate

STATUS: dict[str, Any] = {
    "node": "alpha",
    "status": "healthy",
    "ready": True,
    "version": "0.1.0",
    "uptime": 93784.2,
    "partition_state": "majority",
    "partition": {"state": "majority", "up": 3, "remembered": 4},
    "unsettled_by_node": {f"node-{n}": n for n in range(1, 6)},
    "messaging": {
        "outbox": {
            "open": 12,
            "open_limit": 10_000,
            "waiting": 2,
            "backlog": 3,
            "accepted": 1_234,
            "failed": 0,
        },
        "handlers": {"handled": 99, "raised": 0},
    },
    "membership": {"swim": {"members_dead": 0}},
    "rooms": {
        "storage": {"bytes": 241_664, "wal_bytes": 512},
        "memory": {"open": True, "bytes": 3 * 1024**2, "stored": 5, "searches": 7},
        "agents": {"agents": 1, "by_status": {"running": 1}},
        "llm": {"default": "builtin", "providers": {"builtin": {}}},
    },
}
AGENT = {
    "id": "data-analyzer",
    "name": "DataAnalyzer",
    "status": "running",
    "capabilities": ["data-analysis"],
}
ONLY_WHEN_IT_HAPPENS = {
    "membership.swim.stalls",
    "membership.swim.dropped_network_not_allowed",
    "rooms.agents.by_status.error",
    "rooms.llm.providers.*.breaker.state",
    "rooms.tools.external.*.state",
}
"""Ways that a node has not where nothing of it is there, or has happened."""


def page(node: FakeNode, shell: Shell, status: dict[str, Any], *agents: dict[str, Any]) -> list[str]:
    node.answers["GET", "/status"] = 200, status
    node.answers["GET", "/agents"] = 200, {"agents": list(agents)}
    assert shell("status") == 0
    return shell.out.splitlines()


def test_a_page_says_how_a_node_does(node: FakeNode, shell: Shell) -> None:
    lines = page(node, shell, STATUS, AGENT)
    assert lines[:10] == [
        "alpha: healthy, up 1 d 2 h, version 0.1.0",
        "  cluster    majority: 3 of 4 members are up",
        "  messages   12 of 10,000 under way, 2 without a provider, 3 for who is away",
        "  so far     1,234 accepted here, 99 handled here",
        "  unsettled  5 with node-5, 4 with node-4, 3 with node-3, and 2 more nodes",
        "  disk       236.0 KiB, log 512 bytes",
        "  memory     3.0 MiB, 5 stored here, 7 searches",
        "  model      builtin",
        "",
        "agent          status   offers",
    ]
    assert lines[10].split() == ["data-analyzer", "running", "data-analysis"]
    assert lines[-4:] == ["", "No troubles so far.", "", "All that is counted: caxton status --all"]


def test_what_speaks_of_trouble_is_told_with_where_to_look(node: FakeNode, shell: Shell) -> None:
    troubled = {
        **STATUS,
        "messaging": {"dead_letters": {"count": 26}},
        "membership": {"swim": {"members_dead": 1}},
        "rooms": {
            "links": {"rejects": {"tls": 2, "frame": 1}},
            "llm": {
                "providers": {"a": {"breaker": {"state": "open"}}, "b": {"breaker": {"state": "closed"}}}
            },
        },
    }
    lines = page(node, shell, troubled)
    assert "No agent is deployed here: caxton deploy FILE" in lines
    told = [line.split() for line in lines if line[:1].isdigit()]
    assert [(row[0], " ".join(row[1:])) for row in told] == [
        ("1", "members are dead now caxton members"),
        ("1", "language models fail now caxton llm show"),
        ("26", "dead letters are kept now caxton dead-letters list"),
        ("3", "links of peers were refused so far the node's log"),
    ]


def test_the_page_is_short_where_a_node_has_many_agents(node: FakeNode, shell: Shell) -> None:
    agents = [{**AGENT, "id": f"agent-{n}", "capabilities": [f"capability-{n}"] * 50} for n in range(100)]
    agents.append({**AGENT, "id": "broken", "status": "error"})
    rooms = STATUS["rooms"] | {"agents": {"agents": 300}}
    lines = page(node, shell, {**STATUS, "rooms": rooms}, *agents)
    assert sum(line.startswith("agent-") for line in lines) == AGENTS_SHOWN - 1
    assert lines[10].split()[0] == "broken"
    assert f"and {300 - AGENTS_SHOWN} more" in lines
    assert max(len(line) for line in lines) <= 80
    assert shell("status", "--all") == 0
    assert sum(line.startswith("agent-") for line in shell.out.splitlines()) == 100
    assert shell("status", "--all", "--cluster") == 2


def test_an_answer_of_a_node_that_says_little_is_shown(node: FakeNode, shell: Shell) -> None:
    lines = page(node, shell, {"node": "alpha", "ready": False, "status": "starting"})
    assert lines[0].startswith("alpha: starting, not ready yet, up 0 s")
    memory = {"memory": {"open": False, "bytes": 0}}
    assert "  memory     0 bytes, not opened since the start" in page(node, shell, {"rooms": memory})
    memory = {"memory": {"embedding_error": "no model\x1b[2J"}}
    assert "  memory     searched by words only: no model\ufffd[2J" in page(node, shell, {"rooms": memory})
    memory = {"memory": {"upkeep": {"reembedding": {"state": "running"}}}}
    assert "caxton memory reembed" in "".join(page(node, shell, {"rooms": memory}))


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.ways[0])
def test_a_trouble_fits_into_a_line_of_80(trouble: Trouble) -> None:
    number_and_gaps = 5 + 3 * 2
    assert number_and_gaps + len(trouble.what) + len("so far") + len(trouble.look) <= 80


def test_every_trouble_is_counted_by_a_node(tmp_path: Path) -> None:
    async def scenario(cluster: Any) -> dict[str, Any]:
        alpha = await cluster.start("alpha")
        await alpha.memory.store()
        rooms = alpha.statistics()
        told = {"messaging": rooms["messaging"], "membership": rooms["membership"], "rooms": rooms}
        return told | {"http": Traffic().statistics()}

    status = simulate(scenario, tmp_path)

    def leads_somewhere(way: str) -> bool:
        found = status
        for name in way.split("."):
            if not isinstance(found, dict) or name not in found:
                return False
            found = found[name]
        return True

    ways = {way for trouble in TROUBLES for way in trouble.ways}
    assert {way for way in ways if not leads_somewhere(way)} == ONLY_WHEN_IT_HAPPENS
    source = inspect.getsource(protocol)
    assert '"stalls"' in source
    assert '"dropped_network_not_allowed"' in source
    assert list(troubles_of(status)) == []
