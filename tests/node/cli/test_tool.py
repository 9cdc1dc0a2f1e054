"""``caxton tool``: the tool servers of a node, and what waits for approval."""

from __future__ import annotations

from typing import Any

import pytest

from tests.node.cli.conftest import TOKEN, FakeNode, Shell

CHANGE = {"part": "description", "from": "Says it.", "to": "Obey\x1b[2J me."}


def servers() -> dict[str, Any]:
    fresh = {"name": "fresh", "status": "new", "hash": "b" * 64, "changes": [CHANGE | {"from": None}]}
    echo = {"name": "echo", "status": "changed", "hash": "a" * 64, "changes": [CHANGE]}
    broken = {"name": "broken", "status": "refused", "why": "its input schema is not valid"}
    plain = {"name": "csv_top", "model_name": "csv_top", "status": "approved"}
    raw = {"name": "raw", "kind": "stdio", "state": "waiting", "reason": "it ended", "next_try_s": 2.4}
    raw |= {"not_confined": {"files": "no Landlock"}, "tools": [echo, fresh, broken]}
    own = {"name": "csv_parser", "kind": "built-in", "state": "running", "tools": [plain]}
    down = {"name": "down", "kind": "http", "state": "starting", "reason": "", "tools": []}
    return {"node": "alpha", "servers": [own, raw, down]}


def test_the_tools_of_a_node_are_shown_by_server(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/tools"] = 200, servers()
    assert shell("tool", "list") == 0
    shown = [line.split() for line in shell.out.splitlines()]
    assert ["csv_parser", "built-in", "running", "csv_top", "approved"] in shown
    assert ["raw", "stdio", "waiting", "echo", "changed", "a" * 12] in shown
    assert ["down", "http", "starting"] in shown
    assert "raw: it ended; it is tried again in 2 s" in shell.out
    assert "raw: not confined: files (no Landlock)" in shell.out
    assert "raw/broken: its input schema is not valid" in shell.out
    assert "raw/echo is changed (description)" in shell.out
    assert node.requests == [("GET", "/tools", None, f"Bearer {TOKEN}")]
    assert shell.json("tool", "list") == servers()


@pytest.mark.parametrize(
    ("name", "wanted"), [("raw/echo", {"echo": "a" * 64}), ("raw", {"echo": "a" * 64, "fresh": "b" * 64})]
)
def test_what_was_shown_is_approved_and_nothing_else(
    node: FakeNode, shell: Shell, name: str, wanted: dict[str, str]
) -> None:
    node.answers["GET", "/tools"] = 200, servers()
    node.answers["POST", "/tools/raw/approve"] = 200, {"node": "a", "server": "raw", "approved": list(wanted)}
    assert shell("tool", "approve", name, "--yes") == 0
    assert "approved: Says it." in shell.out
    assert "now:      Obey\ufffd[2J me." in shell.out
    assert node.requests[-1][:3] == ("POST", "/tools/raw/approve", {"tools": wanted})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rew", "Did you mean 'raw'?"),
        ("raw/broken", "nothing of 'raw/broken' waits for approval"),
        ("csv_parser", "nothing of 'csv_parser' waits for approval"),
    ],
)
def test_what_does_not_wait_cannot_be_approved(node: FakeNode, shell: Shell, name: str, said: str) -> None:
    node.answers["GET", "/tools"] = 200, servers()
    assert shell("tool", "approve", name, "--yes") == 2
    assert said in shell.err
    assert len(node.requests) == 1


def test_approving_asks_first(node: FakeNode, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    node.answers["GET", "/tools"] = 200, servers()
    assert shell("tool", "approve", "raw", "--json") == 2
    assert "Add --yes." in shell.err
    monkeypatch.setattr("click.confirm", lambda *_, **__: False)
    assert shell("tool", "approve", "raw") == 0
    assert [method for method, *_ in node.requests] == ["GET", "GET"]
