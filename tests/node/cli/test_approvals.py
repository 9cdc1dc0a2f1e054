"""``caxton approvals``: calls that wait are shown as they are, and decided after a question."""

from __future__ import annotations

from typing import Any

import pytest

from tests.node.cli.conftest import FakeNode, Shell

ID = "0196f0c2-7c1e-7cc3-98a5"


def approval(**more: Any) -> dict[str, Any]:
    return {
        "approval_id": ID,
        "agent": "operator",
        "tool": "ops/restart",
        "arguments_preview": '{"name":"db"}',
        "state": "waiting",
        "verdict": None,
        "reason": "",
        "decided_by": None,
        "decided_at": None,
        "caller": "client@beta",
        "conversation_id": "c-1",
        "message_id": "m-1",
        "created_at": "2026-01-01T00:00:00.000Z",
        "age_s": 12.3,
        "expires_at": "2026-01-02T00:00:00.000Z",
        "ended_at": None,
        "outcome": None,
    } | more


def whole(**more: Any) -> dict[str, Any]:
    return approval(
        arguments={"name": "db\x1b[2J\u202e"},
        arguments_sha256="a" * 64,
        tool_sha256="b" * 64,
        calls=[{"tool": "look", "status": "done"}, {"tool": "restart", "status": "this one"}],
        **more,
    )


def test_what_waits_is_listed(node: FakeNode, shell: Shell) -> None:
    found = {
        "node": "alpha",
        "approvals": [approval(), approval(state="ended", outcome="expired")],
        "next": None,
    }
    node.answers["GET", "/approvals"] = 200, found
    assert shell("approvals", "list", "--all", "--agent", "operator") == 0
    [first, second] = [line.split() for line in shell.out.splitlines() if ID in line]
    assert first == [ID, "operator", "ops/restart", '{"name":"db"}', "client@beta", "12", "s", "waiting"]
    assert second[-2:] == ["ended", "expired"]
    assert node.requests[-1][1] == "/approvals?limit=50&all=true&agent=operator"
    assert shell.json("approvals", "list") == found
    assert node.requests[-1][1] == "/approvals?limit=50"


def test_a_call_is_shown_exactly_and_drives_no_terminal(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", f"/approvals/{ID}"] = 200, whole(verdict="denied", reason="no", decided_by="ada")
    assert shell("approvals", "show", ID) == 0
    assert "\x1b" not in shell.out
    assert '"name": "db\\u001b[2J\\u202e"' in shell.out
    assert "together with look: done" in shell.out
    assert "denied by ada" in shell.out
    assert shell.json("approvals", "show", ID)["arguments"] == {"name": "db\x1b[2J\u202e"}


def test_approving_shows_the_call_and_asks_first(
    node: FakeNode, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.answers["GET", f"/approvals/{ID}"] = 200, whole()
    node.answers["POST", f"/approvals/{ID}/approve"] = 200, approval(state="decided", verdict="approved")
    monkeypatch.setattr("click.confirm", lambda *_, **__: False)
    assert shell("approvals", "approve", ID) == 0
    assert [request[0] for request in node.requests] == ["GET"]
    assert "arguments" in shell.out
    assert shell("approvals", "approve", ID, "--json") == 2
    assert "Add --yes" in shell.err
    assert shell("approvals", "approve", ID, "--yes", "--reason", "it is down") == 0
    assert node.requests[-1][:3] == ("POST", f"/approvals/{ID}/approve", {"reason": "it is down"})
    assert "ops/restart: approved" in shell.out


def test_denying_tells_the_reason(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", f"/approvals/{ID}/deny"] = 200, approval(state="decided", verdict="denied")
    assert shell("approvals", "deny", ID, "--reason", "not today") == 0
    assert node.requests[-1][:3] == ("POST", f"/approvals/{ID}/deny", {"reason": "not today"})
    assert shell.out.strip() == "ops/restart: denied"


def test_a_second_decision_is_told(node: FakeNode, shell: Shell) -> None:
    error = {"code": "APPROVAL_DECIDED", "message": "it cannot be decided", "why": "ada has", "fix": ""}
    node.answers["POST", f"/approvals/{ID}/deny"] = 409, {"error": error}
    assert shell("approvals", "deny", ID) == 1
    assert "ada has" in shell.err
