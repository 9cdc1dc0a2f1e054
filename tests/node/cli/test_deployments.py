"""``caxton deployments``, and the verbs that change them: what is sent, and what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.node.cli.conftest import FakeNode, Shell


def deployment(**more: Any) -> dict[str, Any]:
    return {
        "agent": "triage",
        "name": "Triage",
        "version": "1.0.0",
        "digest": "ab" * 32,
        "size_bytes": 1234,
        "replicas": 2,
        "running": 1,
        "state": "short",
        "why": "of 3 nodes 1 can run it, and 2 are wanted",
        "nodes": [
            {"node": "n1", "state": "running", "why": None},
            {"node": "n2", "state": "failed", "why": "PROVIDER_ERROR"},
        ],
        "excluded": [{"node": "n3\x1b[2J", "why": "it lacks gpu=yes"}],
        "spare": None,
        "requires": {"gpu": ["yes"]},
        "priority": 50,
        "minority": "keep",
        "by": "admin@n1",
        "revision": "77",
        "updated_at": "2026-01-01T00:00:00.000Z",
        "conflicts": [],
        "memories": [],
    } | more


NODES = [{"node": "n1", "takes": True, "labels": ["gpu=yes"]}, {"node": "n2", "takes": False, "labels": []}]


def test_deployments_are_listed_with_where_they_run_and_why_not(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/deployments"] = 200, {"deployments": [deployment()], "nodes": NODES}
    assert shell("deployments") == 0
    header, row = shell.out.splitlines()
    assert header.split() == ["agent", "version", "wanted", "running", "state", "where", "why"]
    assert row.split()[:7] == ["triage", "1.0.0", "2", "1", "short", "n1", "n2(failed)"]
    assert "1 can run it" in row


def test_the_nodes_are_listed_with_their_labels(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/deployments"] = 200, {"deployments": [], "nodes": NODES}
    assert shell("deployments", "--nodes") == 0
    lines = shell.out.splitlines()
    assert [line.split() for line in lines[1:]] == [["n1", "yes", "gpu=yes"], ["n2", "no"]]
    assert shell("deployments", "triage", "--nodes") == 2


def test_one_deployment_is_shown_node_by_node_and_nothing_drives_the_terminal(
    node: FakeNode, shell: Shell
) -> None:
    lost = {
        "author": "n2",
        "written_at": "2026-01-01T00:00:00.000Z",
        "deleted": False,
        "replicas": 5,
        "digest": "cd" * 32,
    }
    memory = {"from": "n4", "to": "n1", "up": False}
    found = deployment(conflicts=[lost, lost | {"deleted": True}], memories=[memory])
    node.answers["GET", "/deployments/triage"] = 200, found
    assert shell("deployments", "triage") == 0
    out = shell.out
    assert "1 of 2 run: short; of 3 nodes 1 can run it" in out
    assert "requires gpu=yes; priority 50; in a minority: keep" in out
    assert "revision 77" in out
    assert "a concurrent write by n2 at 2026-01-01T00:00:00.000Z lost: 5 replicas" in out
    assert "lost: a deletion" in out
    assert "what it remembers for itself is on its way from n4, which is not up, to n1" in out
    assert "it lacks gpu=yes" in out
    assert "\x1b" not in out


def test_a_file_is_deployed_to_the_cluster_with_what_is_wanted(
    node: FakeNode, shell: Shell, tmp_path: Path
) -> None:
    file = tmp_path / "triage.md"
    file.write_text("---\nname: Triage\n---\n")
    node.answers["POST", "/deployments"] = 201, deployment()
    options = ("--replicas", "2", "--require", "gpu=yes", "--require", "region=eu", "--priority", "60")
    for verb in (("deploy",), ("agent", "deploy")):
        assert shell(*verb, str(file), *options, "--minority", "stop", "--replace") == 0
        assert shell.out == "Triage 1.0.0: 1 of 2 run on n1; of 3 nodes 1 can run it, and 2 are wanted\n"
        body = node.requests[-1][2]
        assert (
            body.items()
            >= {
                "replicas": 2,
                "require": {"gpu": ["yes"], "region": ["eu"]},
                "priority": 60,
                "minority": "stop",
                "replace": True,
                "filename": "triage.md",
            }.items()
        )
        assert "auto_start" not in body


@pytest.mark.parametrize(
    "options",
    [
        ("--require", "gpu=yes"),
        ("--priority", "3"),
        ("--minority", "stop"),
        ("--replicas", "2", "--require", "gpu"),
        ("--replicas", "2", "--require", "=yes"),
        ("--replicas", "101"),
        ("--replicas", "2", "--no-start"),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_node_is_asked(
    node: FakeNode, shell: Shell, tmp_path: Path, options: tuple[str, ...]
) -> None:
    file = tmp_path / "triage.md"
    file.write_text("---\nname: Triage\n---\n")
    assert shell("deploy", str(file), *options) == 2
    assert node.requests == []


def test_a_deployment_is_scaled_and_ended(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/deployments/Triage/scale"] = 200, deployment(replicas=1, why=None)
    assert shell("agent", "scale", "Triage", "--replicas", "1", "--revision", "77") == 0
    assert shell.out == "Triage 1.0.0: 1 of 1 run on n1\n"
    assert node.requests[-1][2] == {"replicas": 1, "revision": "77"}
    node.answers["DELETE", "/deployments/Triage"] = 204, b""
    assert shell("agent", "undeploy", "Triage", "--revision", "77") == 0
    assert "is undeployed" in shell.out
    assert node.requests[-1][:2] == ("DELETE", "/deployments/Triage?revision=77")
    assert shell("agent", "scale", "Triage") == 2
