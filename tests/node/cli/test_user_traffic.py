from __future__ import annotations

from tests.node.cli.conftest import FakeNode, Shell
from tests.node.cli.test_members import rows

EVENT = {"name": "deploy", "payload": "42", "author": "beta", "lamport_time": 7, "heard_at": "2026-01-01T00"}


def test_an_event_is_announced_and_what_was_heard_is_shown(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/cluster/events"] = 202, EVENT
    node.answers["GET", "/cluster/events"] = 200, {"node": "alpha", "events": [EVENT]}
    assert shell("event", "deploy", "42") == 0
    assert shell.out == "beta has announced deploy\n"
    assert node.requests[0][2] == {"name": "deploy", "payload": "42"}
    assert shell("event") == 0
    assert rows(shell)[1] == ["2026-01-01T00", "beta", "deploy", "42"]
    assert shell.json("event") == {"node": "alpha", "events": [EVENT]}


def test_a_query_shows_who_answers_what(node: FakeNode, shell: Shell) -> None:
    answers = [{"node": "beta", "answer": "beta 0.1.0\x1b[2J"}]
    found = {"node": "alpha", "name": "ping", "finished": True, "answers": answers}
    node.answers["POST", "/cluster/queries"] = 200, found
    assert shell("query", "ping", "--member", "beta", "--timeout", "2") == 0
    assert rows(shell)[0] == ["1 answers to ping, seen from alpha"]
    assert rows(shell)[-1] == ["beta", "beta 0.1.0\ufffd[2J"]
    assert node.requests[0][2] == {"name": "ping", "payload": "", "nodes": ["beta"], "timeout_s": 2.0}
    assert shell.json("query", "ping") == found
