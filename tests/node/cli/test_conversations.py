"""conversations, against a node that answers what it was told to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from node.cli import conversations
from tests.node.cli.conftest import FakeNode, Shell
from tests.node.cli.test_members import rows


def conversation(name: str = "talk", **changes: Any) -> dict[str, Any]:
    found = {
        "id": name,
        "conversation_id": name,
        "created_at": "2026-01-31T12:00:00.000Z",
        "last_activity": "2026-01-31T12:00:01.000Z",
        "participants": ["client@alpha", "echo@beta"],
        "message_count": 2,
        "truncated": False,
        "status": "completed",
        "closed": None,
        "archived_at": None,
    }
    return found | changes


def message(number: int, **changes: Any) -> dict[str, Any]:
    found = {
        "message_id": f"m{number}",
        "performative": "request",
        "sender": "client@alpha",
        "capability": "echo",
        "content": {"x": "\x1b[2J"},
        "timestamp": "2026-01-31T12:00:00.000Z",
        "status": "settled",
    }
    return found | changes


def whole(*messages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    chain = [
        {"message_id": each["message_id"], "performative": "request", "answers": None, "depth": depth}
        for depth, each in enumerate(messages)
    ]
    kin = {
        "parent_conversation": "before",
        "branches": [],
        "merge_conversations": [],
        "merged_into": ["x", "y"],
    }
    return conversation() | kin | {"messages": list(messages), "message_chain": chain} | changes


def test_conversations_are_listed_in_pages(
    node: FakeNode, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = {"conversations": [conversation(truncated=True, closed="archived")], "limit": 1, "next": "c1"}
    node.answers["GET", "/conversations"] = 200, page
    monkeypatch.setattr(conversations, "PAGE", 1)
    assert shell("conversations", "list", "--status", "active", "--closed", "--limit", "2") == 0
    assert [path for _, path, _, _ in node.requests] == [
        "/conversations?limit=1&status=active&closed=true",
        "/conversations?limit=1&before=c1&status=active&closed=true",
    ]
    assert rows(shell)[1] == [
        *("talk", "completed (archived)", "2+", "2026-01-31T12:00:01.000Z", "client@alpha, echo@beta")
    ]
    node.answers["GET", "/conversations"] = 200, {"conversations": [], "limit": 1, "next": None}
    assert shell("conversations", "list") == 0
    assert shell.out == "No conversations\n"
    assert shell.json("conversations", "list", "--since", "1h")["conversations"] == []


def test_one_is_shown_as_a_tree_and_drives_no_terminal(node: FakeNode, shell: Shell) -> None:
    answer = message(2, performative="inform", sender="echo@beta", receiver="client@alpha", content="z" * 200)
    node.answers["GET", "/conversations/talk"] = 200, whole(message(1), answer)
    assert shell("conversations", "show", "talk") == 0
    assert "\x1b" not in shell.out
    lines = shell.out.splitlines()
    assert lines[:4] == [
        "talk  completed  2026-01-31T12:00:00.000Z",
        "Participants: client@alpha, echo@beta",
        "Came out of: before",
        "Merged into: x, y",
    ]
    assert lines[5] == "2026-01-31T12:00:00.000Z request client@alpha -> echo  m1  settled"
    assert lines[7].startswith("  2026-01-31T12:00:00.000Z inform echo@beta -> client@alpha  m2")
    assert lines[8] == "      " + "z" * 99 + "…"
    assert shell("conversations", "show", "talk", "--content") == 0
    assert "z" * 200 in shell.out
    assert shell.json("conversations", "show", "talk")["id"] == "talk"
    node.answers["GET", "/conversations/none"] = 200, whole(id="none")
    assert shell("conversations", "show", "none") == 0
    assert shell.out == "none: no message of it has been here\n"


def test_one_is_followed_until_the_node_ends_it(node: FakeNode, shell: Shell) -> None:
    told = "".join(f"event: message\ndata: {json.dumps(message(n))}\n\n: idle\n\n" for n in (1, 2))
    node.answers["GET", "/conversations/talk"] = 200, told.encode()
    assert shell("conversations", "show", "talk", "--follow", "--json") != 0
    assert [json.loads(line)["message_id"] for line in shell.out.splitlines()[:2]] == ["m1", "m2"]
    assert node.requests[-1][1] == "/conversations/talk?follow=true"
    assert "has ended the answer" in shell.err
    node.answers["GET", "/conversations/talk"] = 200, b"event: error\ndata: the disk refuses\n\n"
    assert shell("conversations", "show", "talk", "--follow") != 0
    assert "the disk refuses" in shell.err


def test_conversations_are_closed_by_name_or_by_silence(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/conversations/archive"] = (
        200,
        {"archived": 1, "conversations": ["a"], "next": None},
    )
    assert shell("conversations", "close", "a") == 0
    assert node.requests[-1][2] == {"conversations": ["a"]}
    assert shell.out == "1 closed\n"
    assert (
        shell.json("conversations", "close", "--older-than", "1h", "--status", "completed")["archived"] == 1
    )
    assert node.requests[-1][2] == {"older_than": "1h", "status": "completed"}


@pytest.mark.parametrize("arguments", [(), ("a", "--older-than", "1h"), ("a", "--status", "active")])
def test_a_choice_that_is_none_is_refused(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell("conversations", "close", *arguments) != 0
    assert "older-than" in shell.err
