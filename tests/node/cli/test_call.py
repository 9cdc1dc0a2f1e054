"""``caxton call``: what it sends, shows, and ends with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.node.cli.conftest import FakeNode, Shell


def outcome(status: str, *states: str) -> dict[str, Any]:
    bids = [
        {"from": f"w{n}@b", "state": s, "content": {"cost": n}, "reason": "why"} for n, s in enumerate(states)
    ]
    results = [{"sender": "w0@b", "content": {"total": 3}}] if "done" in states else []
    return {"message_id": "m1", "status": status, "asked": ["w0@b"], "bids": bids, "results": results}


def test_it_sends_the_task_and_shows_bids_and_result(node: FakeNode, shell: Shell, tmp_path: Path) -> None:
    node.answers["POST", "/tasks"] = 200, outcome("done", "done", "rejected")
    file = tmp_path / "sales.csv"
    file.write_text("a,1\n")
    arguments = ("--deadline", "2", "--result", "9", "--award", "lowest:content.cost", "--reserves", "1")
    assert shell("call", "work", '{"x": 1}', *arguments, "--priority", "7", "--attach", str(file)) == 0
    assert json.loads(shell.out) == {"total": 3}
    assert "w1@b  rejected" in shell.err
    body = node.requests[-1][2]
    assert (body["capability"], body["content"], body["deadline_s"], body["result_s"]) == (
        "work",
        {"x": 1},
        2,
        9,
    )
    assert body["award"] == {"prefer": "lowest", "by": "content.cost", "winners": 1, "reserves": 1}
    assert (body["priority"], [each["name"] for each in body["attachments"]]) == (7, ["sales.csv"])


def test_the_first_bid_wins_without_a_rule(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/tasks"] = 200, outcome("done", "done")
    assert shell.json("call", "work", "text") == node.answers["POST", "/tasks"][1]
    assert node.requests[-1][2]["award"] == {"prefer": "first", "winners": 1, "reserves": 2}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (outcome("failed", "failed"), "w0@b: why"),
        (outcome("no_bids"), "none has made a bid"),
        (outcome("no_bids") | {"asked": []}, "nobody offers it"),
    ],
)
def test_a_task_that_is_not_done_ends_with_a_reason(
    node: FakeNode, shell: Shell, found: dict[str, Any], told: str
) -> None:
    node.answers["POST", "/tasks"] = 200, found
    assert shell("call", "work", "x") == 1
    assert told in shell.err
    assert shell("call", "work", "x", "--json") == 1
    assert json.loads(shell.out) == found


@pytest.mark.parametrize("rule", ["cheapest", "lowest", "lowest:", "first:content.cost", ""])
def test_a_rule_that_is_none_is_refused_before_anything_is_sent(
    node: FakeNode, shell: Shell, rule: str
) -> None:
    assert shell("call", "work", "x", "--award", rule) == 2
    assert "--award lowest:content.cost" in shell.err
    assert node.requests == []
