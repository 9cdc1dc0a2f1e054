"""dead-letters, trace, explain and tail, against a node that answers what it was told to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from node.cli import dead_letters
from tests.node.cli.conftest import FakeNode, Shell
from tests.node.cli.test_members import rows


def letter(number: int, **changes: Any) -> dict[str, Any]:
    found = {
        "message_id": f"m{number}",
        "seq": number,
        "at": "2026-01-01T00:00:00.000Z",
        "reason": "no provider",
        "capability": "echo",
        "bytes": 99,
        "retried_as": None,
        "retried_at": None,
        "history": {
            "message": {
                "performative": "request",
                "sender": "client@alpha",
                "capability": "echo",
                "content": {"x": "\x1b[2J"},
            },
            "states": [{"at": "2026-01-01", "state": "accepted", "detail": ""}],
        },
    }
    return found | changes


def page(*letters: dict[str, Any], after: int | None = None) -> tuple[int, Any]:
    return 200, {"dead_letters": list(letters), "limit": 200, "next": after, "count": 7, "bytes": 700}


def test_letters_are_listed_and_one_is_shown(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/dead-letters"] = page(letter(2, retried_as="m9"), letter(1))
    assert shell("dead-letters", "list", "--capability", "echo", "--since", "1h", "--not-retried") == 0
    assert rows(shell)[0] == ["2 of 7 dead letters, 700 bytes in all"]
    assert rows(shell)[2][1:] == ["m2", "client@alpha", "echo", "no provider", "m9"]
    assert node.requests[-1][1] == "/dead-letters?limit=50&capability=echo&since=1h&retried=false"
    assert [each["message_id"] for each in shell.json("dead-letters", "list")["dead_letters"]] == ["m2", "m1"]
    node.answers["GET", "/dead-letters/m2"] = 200, letter(2, retried_as="m9", retried_at="2026-01-02")
    assert shell("dead-letters", "show", "m2") == 0
    assert "given up at 2026-01-01T00:00:00.000Z: no provider" in shell.out
    assert "sent again at 2026-01-02 as m9" in shell.out
    assert "\x1b" not in shell.out
    assert shell.json("dead-letters", "show", "m2")["seq"] == 2


def test_a_long_list_is_asked_for_in_pages(
    node: FakeNode, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "PAGE", 1)
    node.answers["GET", "/dead-letters"] = page(letter(5), after=5)
    found = shell.json("dead-letters", "list", "--limit", "3")
    assert len(found["dead_letters"]) == 3
    assert [path for _, path, _, _ in node.requests] == [
        "/dead-letters?limit=1",
        "/dead-letters?limit=1&before=5",
        "/dead-letters?limit=1&before=5",
    ]


def test_letters_are_sent_again_one_by_one(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/dead-letters/m1/retry"] = 202, {"message_id": "n1"}
    refusal = {"code": "DEAD_LETTER_RETRIED", "message": "sent before", "why": "as n2", "fix": "force"}
    node.answers["POST", "/dead-letters/m2/retry"] = 409, {"error": refusal, "code": refusal["code"]}
    assert shell("dead-letters", "retry", "m1", "--to", "worker@beta", "--ttl", "60", "--force") == 0
    assert shell.out.splitlines() == ["m1 is sent again as n1", "1 sent again, 0 refused"]
    assert node.requests[-1][2] == {"receiver": "worker@beta", "ttl_s": 60.0, "force": True}
    assert shell("dead-letters", "retry", "m1", "m2") == 1
    assert "m2 stays as it is: sent before (DEAD_LETTER_RETRIED)" in shell.err
    assert shell("dead-letters", "retry", "m2") == 1
    assert "fix: force" in shell.err
    found = shell.json("dead-letters", "retry", "m1", "m2")
    assert (found["retried"], found["refused"]) == (1, 1)


def test_a_choice_is_sent_again_in_parts_and_never_in_a_circle(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/dead-letters"] = page(letter(40))
    part = {"retried": 1, "messages": [{"retry_of": "m1", "message_id": "n1"}], "refused": 0, "refusals": []}
    parts = [
        part | {"last": 7, "more": True, "stopped_by": None},
        part | {"last": 9, "more": False, "stopped_by": None},
    ]
    asked: list[Any] = []

    class Parts(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            if key == ("POST", "/dead-letters/retry"):
                asked.append(json.loads(json.dumps(node.requests[-1][2])))
                return 200, parts[len(asked) - 1]
            return super().get(key, default)

    node.answers = Parts(node.answers)
    assert shell("dead-letters", "retry", "--all") == 0
    assert asked == [
        {"where": {"before": 41}, "force": False},
        {"where": {"before": 41, "after": 7}, "force": False},
    ]
    assert shell.out.splitlines()[-1] == "2 sent again, 0 refused"


def test_a_choice_that_is_stopped_ends_with_1_and_says_why(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/dead-letters"] = page(letter(40))
    stopped = {"code": "RESOURCE_LIMIT_EXCEEDED", "reason": "the outbox is full"}
    found = {"retried": 0, "messages": [], "refused": 0, "refusals": [], "last": 7, "more": True}
    node.answers["POST", "/dead-letters/retry"] = 200, found | {"stopped_by": stopped}
    assert shell("dead-letters", "retry", "--capability", "echo", "--ttl", "5") == 1
    assert "the outbox is full" in shell.err
    body = {"where": {"capability": "echo", "before": 41}, "force": False, "ttl_s": 5.0}
    assert node.requests[-1][2] == body
    node.answers["GET", "/dead-letters"] = page()
    assert shell("dead-letters", "retry", "--all") == 0
    assert shell.out == "0 sent again, 0 refused\n"


def test_letters_are_dropped_and_a_choice_only_when_it_is_confirmed(node: FakeNode, shell: Shell) -> None:
    node.answers["DELETE", "/dead-letters/m1"] = 204, b""
    node.answers["POST", "/dead-letters/drop"] = 200, {"dropped": 5, "more": False}
    assert shell("dead-letters", "drop", "m1") == 0
    assert shell("dead-letters", "drop", "--reason", "no provider") == 2
    assert "--yes" in shell.err
    assert shell.json("dead-letters", "drop", "--reason", "no provider")["code"] == "USAGE_ERROR"
    assert len(node.requests) == 1
    assert shell.json("dead-letters", "drop", "--reason", "no provider", "--yes") == {"dropped": 5}
    assert node.requests[-1][2] == {"where": {"reason": "no provider"}}


def test_the_question_before_a_drop_is_heard(
    node: FakeNode, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.answers["POST", "/dead-letters/drop"] = 200, {"dropped": 5, "more": False}
    monkeypatch.setattr(dead_letters.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(dead_letters.click, "confirm", lambda *_, **__: False)
    assert shell("dead-letters", "drop", "--all") == 1
    assert node.requests == []
    monkeypatch.setattr(dead_letters.click, "confirm", lambda *_, **__: True)
    assert shell("dead-letters", "drop", "--all") == 0
    assert shell.out == "5 dropped\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("retry",),
        ("drop",),
        ("retry", "m1", "--all"),
        ("retry", "--all", "--since", "1h"),
        ("retry", "--all", "--to", "worker"),
        ("retry", "m1", "--ttl", "0"),
        ("list", "--limit", "0"),
        ("show",),
        ("shred", "m1"),
        (),
    ],
)
def test_what_is_not_clear_is_not_done(node: FakeNode, shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell("dead-letters", *arguments) == 2
    assert node.requests == []


def traced(identifier: str, **changes: Any) -> dict[str, Any]:
    step = {"node": "alpha", "at": "x", "ms": 0.25, "event": "accepted", "detail": ""}
    found = {
        "message_id": identifier,
        "performative": "request",
        "sender": "client@alpha",
        "to": "echo",
        "status": "settled",
        "reason": "",
        "ms": 12.34,
        "steps": [step, step | {"node": "b", "event": "received", "detail": "for worker"}],
        "away": [],
        "caused": [],
    }
    return found | changes


def test_a_trace_is_a_tree(node: FakeNode, shell: Shell) -> None:
    reply = traced("m2", performative="inform", caused=[traced("m3", steps=[], away=["gamma"])])
    top = traced("m1", caused=[reply, traced("m4", status="failed", reason="no\x1b provider", ms=None)])
    found = {"node": "alpha", "message_id": "m1", "complete": False, "away": ["gamma"], "trace": top}
    node.answers["GET", "/messages/m1/trace"] = 200, found
    assert shell("trace", "m1") == 0
    assert shell.out.splitlines() == [
        "m1  request  client@alpha -> echo  settled in 12.3 ms",
        "│  alpha         +0.2 ms  accepted",
        "│  b             +0.2 ms  received  for worker",
        "├─ m2  inform  client@alpha -> echo  settled in 12.3 ms",
        "│  │  alpha         +0.2 ms  accepted",
        "│  │  b             +0.2 ms  received  for worker",
        "│  └─ m3  request  client@alpha -> echo  settled in 12.3 ms",
        "│        gamma               ?  did not answer",
        "└─ m4  request  client@alpha -> echo  failed: no\ufffd provider",
        "      alpha         +0.2 ms  accepted",
        "      b             +0.2 ms  received  for worker",
        "Not complete: gamma did not answer",
    ]
    assert shell.json("trace", "m1") == found


def test_an_explanation_shows_who_was_chosen_among_whom(node: FakeNode, shell: Shell) -> None:
    candidate = {
        "agent": "w",
        "node": "b",
        "score": 45,
        "priority": 50,
        "health": 0.9,
        "load": 0.0,
        "in_flight": 2,
        "nearness": 0.95,
    }
    decided = {
        "epoch": 0,
        "at": "2026-01-01",
        "targets": ["w@b"],
        "strategy": "best_match",
        "reason": "highest of 12",
        "considered": 12,
        "candidates": [candidate, candidate | {"node": "c"}],
        "sticky": "w@d",
        "excluded": [{"agent": "w", "node": "e", "reason": "its health is 0"}],
        "view": {"up": 3, "remembered": 4, "side": "majority", "registry_age_s": 2.5},
    }
    waited = decided | {"targets": [], "candidates": [], "considered": 0, "sticky": None, "view": None}
    found = {
        "message_id": "m1",
        "wanted": "echo",
        "status": "open",
        "reason": "",
        "decisions": [decided, waited],
    }
    node.answers["GET", "/messages/m1/explain"] = 200, found
    assert shell("explain", "m1") == 0
    lines = shell.out.splitlines()
    assert lines[0] == "m1 wants echo, and is open"
    assert "2026-01-01  w@b, by best_match: highest of 12" in lines
    assert "  3 of 4 members were up, side majority; the registry had last changed 2.5 s before" in lines
    assert "  w@d had the conversation so far" in lines
    assert "  w@e could not be chosen: its health is 0" in lines
    assert ["w@b", "45.00", "50", "0.90", "0.00", "0.95", "2", "chosen"] in rows(shell)
    assert "  and 10 more" in lines
    assert "2026-01-01  nobody, by best_match: highest of 12" in lines
    assert shell.json("explain", "m1") == found


def event(kind: str, **fields: Any) -> bytes:
    found = {"event": kind, "at": "2026-01-01", "message_id": "m1", "performative": "request"} | {
        "from": "client@alpha",
        "to": "w@b",
    }
    return json.dumps(found | fields).encode() + b"\n"


def test_the_tail_shows_a_line_per_event_and_ends_with_the_count(node: FakeNode, shell: Shell) -> None:
    lines = [
        event("listening"),
        event("idle"),
        event("accepted", content={"x": 1}),
        event("missed", count=9),
        event("dead", detail="failed: no\n provider", content_left_out_bytes=9999),
        event("never shown"),
    ]
    node.answers["GET", "/messages/tail"] = 200, b"".join(lines)
    assert shell("tail", "--count", "2", "--content", "--agent", "w", "--performative", "request") == 0
    assert node.requests[-1][1] == "/messages/tail?agent=w&performative=request&content=true"
    assert shell.out.splitlines() == [
        '2026-01-01 accepted m1 request client@alpha -> w@b  {"x": 1}',
        "2026-01-01 dead     m1 request client@alpha -> w@b  failed: no\\n provider  (9999 bytes)",
    ]
    assert "9 events were missed" in shell.err
    assert shell("tail", "--count", "2", "--json") == 0
    assert [json.loads(line)["event"] for line in shell.out.splitlines()] == ["accepted", "missed", "dead"]


def test_a_tail_that_the_node_ends_or_refuses_or_garbles_is_an_error(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/messages/tail"] = 200, event("listening")
    assert shell("tail") == 3
    assert "has ended the answer" in shell.err
    node.answers["GET", "/messages/tail"] = 200, b"<html>\n"
    assert shell("tail") == 3
    refusal = {"code": "FORBIDDEN", "message": "no", "why": "", "fix": ""}
    node.answers["GET", "/messages/tail"] = 403, {"error": refusal}
    assert shell("tail", "--content") == 4
