"""Who addresses nobody is told what there is that is like it, and where it is listed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.node.cli.conftest import FakeNode, Shell
from tests.node.cli.test_verbs import RECEIPT


def offered(capability: str, *agents: tuple[str, str]) -> dict[str, Any]:
    return {"capability": capability, "providers": [{"agent": agent, "node": at} for agent, at in agents]}


OFFERED = {
    "capabilities": [
        offered("data-analysis", ("data-analyzer", "alpha"), ("data-analyzer", "beta")),
        offered("translation", ("translator", "beta")),
    ]
}
MEMBERS = {"members": [{"name": "alpha"}, {"name": "beta"}]}


def failure(code: str, why: str) -> dict[str, Any]:
    content = {
        "code": code,
        "reason": "all of it",
        "what": "nobody is there",
        "why": why,
        "fix": "Deploy it.",
    }
    return RECEIPT | {"reply": {"sender": "system@alpha", "performative": "failure", "content": content}}


NOBODY = failure("CAPABILITY_NOT_FOUND", "nobody came")


@pytest.fixture
def cluster(node: FakeNode) -> FakeNode:
    node.answers["GET", "/capabilities"] = 200, OFFERED
    node.answers["GET", "/cluster/members"] = 200, MEMBERS
    node.answers["POST", "/messages"] = 200, NOBODY
    return node


@pytest.mark.parametrize(
    ("addressed", "hint"),
    [
        (("--capability", "data-analysys"), "Did you mean 'data-analysis'?"),
        (("--capability", "data-analysis:v3"), "'data-analysis' is offered in other versions"),
        (("--capability", "data-analyzer"), "'data-analyzer' is an agent; it offers data-analysis"),
        (("--capability", "zzz"), "Nothing of a name like it is offered"),
        (("--to", "DataAnalyzer"), "Did you mean 'data-analyzer'?"),
        (("--to", "data-analizer"), "Did you mean 'data-analyzer'?"),
        (("--to", "translater@alpha"), "Did you mean 'translator@beta'?"),
        (("--to", "translator@alpha"), "'translator' runs on beta: write --to translator, or"),
        (("--to", "translation"), "'translation' is a capability: write --capability translation"),
        (("--to", "beta"), "'beta' is a node; its agents are data-analyzer, translator"),
        (("--to", "?"), "No agent has a name like it"),
    ],
)
def test_a_name_nobody_answers_to_is_told_with_what_is_like_it(
    addressed: tuple[str, str], hint: str, cluster: FakeNode, shell: Shell
) -> None:
    assert shell("send", *addressed, "x") == 1
    assert shell.out == ""
    assert shell.err.startswith("caxton: nobody is there\n  why: nobody came\n  fix: ")
    assert hint in shell.err
    assert "`caxton trace m1`" in shell.err
    cluster.answers["POST", "/messages"] = 202, RECEIPT | {"status": "waiting", "routed_to": []}
    assert shell("send", *addressed, "x", "--no-wait") == 0
    assert shell.out == "m1  waiting  waiting for a provider\n"
    assert hint in shell.err


def test_an_agent_that_a_node_has_not_is_looked_for_elsewhere(cluster: FakeNode, shell: Shell) -> None:
    answer = failure("MESSAGE_DELIVERY_FAILED", "there is no such agent translator@alpha")
    cluster.answers["POST", "/messages"] = 200, answer
    assert shell("send", "--to", "translator@alpha", "x") == 1
    assert "'translator' runs on beta" in shell.err
    cluster.answers["POST", "/messages"] = 200, failure("MESSAGE_DELIVERY_FAILED", "it took too long")
    asked = len(cluster.requests)
    assert shell("send", "--to", "translator@beta", "x") == 1
    assert "fix: Deploy it. See its way with `caxton trace m1`." in shell.err
    assert len(cluster.requests) == asked + 1


def test_a_node_that_is_no_member_is_named_when_no_reply_comes(cluster: FakeNode, shell: Shell) -> None:
    late = {"code": "NO_REPLY", "message": "no reply within 30 s", "why": "it is slow", "fix": "Wait."}
    cluster.answers["POST", "/messages"] = 504, {"error": late}
    assert shell("send", "--to", "x@gamma", "x") == 1
    assert "why: no member of the cluster is called 'gamma'" in shell.err
    assert shell("send", "--to", "x@betta", "x") == 1
    assert "there is 'beta'" in shell.err
    assert shell("send", "--to", "x@beta", "x") == 1
    assert "why: it is slow" in shell.err
    assert shell.json("send", "--to", "x@gamma", "x")["error"]["why"] == "it is slow"


def test_a_message_that_waits_for_a_node_that_is_no_member_is_told_so(
    cluster: FakeNode, shell: Shell
) -> None:
    cluster.answers["POST", "/messages"] = 202, RECEIPT | {"status": "routed", "routed_to": ["x@gamma"]}
    assert shell("send", "--to", "x@gamma", "x", "--no-wait") == 0
    assert shell.out == "m1  routed  x@gamma\n"
    assert shell.err == "No member of the cluster is called 'gamma': the message waits for it\n"
    assert shell("send", "--to", "x@beta", "x", "--no-wait") == 0
    assert shell.err == ""


def test_a_member_that_has_not_answered_a_query_is_named(node: FakeNode, shell: Shell) -> None:
    answers = [{"node": "alpha", "answer": "alpha 0.1.0"}]
    node.answers["POST", "/cluster/queries"] = 200, {"name": "ping", "node": "alpha", "answers": answers}
    assert shell("query", "ping", "--member", "alpha", "--member", "gamma") == 0
    assert shell.err == "No answer from gamma; `caxton members` lists who is there\n"
    assert shell("query", "ping") == 0
    assert shell.err == ""


@pytest.mark.parametrize(
    ("arguments", "path", "answer", "told"),
    [
        (("approvals", "list"), "/approvals", {"approvals": []}, "No calls of tools wait\n"),
        (("approvals", "list", "--all"), "/approvals", {"approvals": []}, "No approvals\n"),
        (("deployments",), "/deployments", {"deployments": []}, "No deployments\n"),
        (("event",), "/cluster/events", {"events": []}, "Nothing was announced lately\n"),
    ],
)
def test_where_there_is_nothing_it_is_said(
    node: FakeNode, shell: Shell, *, arguments: tuple[str, ...], path: str, answer: dict[str, Any], told: str
) -> None:
    node.answers["GET", path] = 200, answer
    assert shell(*arguments) == 0
    assert shell.out == told


def test_a_node_that_does_not_tell_what_is_offered_says_what_it_said(cluster: FakeNode, shell: Shell) -> None:
    cluster.answers["GET", "/capabilities"] = 403, {"error": {"code": "FORBIDDEN", "message": "no"}}
    assert shell("send", "--to", "x", "x") == 1
    assert "fix: Deploy it. See its way" in shell.err
    cluster.answers["GET", "/capabilities"] = 200, {"capabilities": []}
    assert shell("send", "--to", "x", "x") == 1
    assert "No agent is there yet." in shell.err
    assert shell.json("send", "--to", "x", "x") == NOBODY


def test_a_task_that_nobody_could_bid_for_is_told_so(cluster: FakeNode, shell: Shell) -> None:
    cluster.answers["POST", "/tasks"] = 200, {"status": "no_bids", "asked": [], "bids": [], "results": []}
    assert shell("call", "translatoin", "x") == 1
    assert "fix: Did you mean 'translation'?" in shell.err
    cluster.answers["POST", "/tasks"] = (
        200,
        {"status": "no_bids", "asked": ["a@b"], "bids": [], "results": []},
    )
    assert shell("call", "translation", "x") == 1
    assert "fix: Wait longer" in shell.err


def test_a_topic_nobody_subscribes_to_is_told_so(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/messages"] = 200, RECEIPT | {"status": "answered", "routed_to": [], "replies": []}
    assert shell("send", "--topic", "orders", "x") == 0
    assert shell.out == "m1  answered  nobody subscribes\n"
