"""``caxton send --stream``: what is shown of an answer while it is made, and how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.node.cli.conftest import FakeNode, Shell

SEND = ("send", "--capability", "stories", "tell", "--stream")
RECEIPT = {"message_id": "m1", "conversation_id": "c", "routed_to": ["teller@b"], "status": "routed"}
ACCEPTED = ("accepted", RECEIPT)
RESTART = ("restart", {"message_id": "m1", "sequence": 1, "attempt": 2, "turn": 2})


def partial(text: str) -> tuple[str, Any]:
    return "partial", {"message_id": "m1", "sequence": 0, "attempt": 1, "turn": 1, "text": text}


def reply(content: Any, performative: str = "inform") -> tuple[str, Any]:
    told = {"sender": "teller@b", "performative": performative, "content": content}
    return "reply", {"message_id": "m1", "reply": told}


def answer(node: FakeNode, *events: tuple[str, Any]) -> None:
    text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    node.answers["POST", "/messages"] = (200, text.encode())


def test_the_text_is_shown_once(node: FakeNode, shell: Shell) -> None:
    whole = reply({"provider": "model", "answer": "Once upon"})
    answer(node, ACCEPTED, partial("Once "), partial("upon"), whole)
    assert shell(*SEND, "--timeout", "5") == 0
    assert (shell.out, shell.err) == ("Once upon\n", "teller@b (inform)\n")
    [(_, path, body, _)] = node.requests
    assert path == "/messages?wait=5.0&stream=true"
    assert body == {"capability": "stories", "content": "tell", "performative": "request"}


def test_words_that_only_the_reply_has_are_added(node: FakeNode, shell: Shell) -> None:
    answer(node, ACCEPTED, partial("Once "), reply("Once upon"))
    assert shell(*SEND) == 0
    assert shell.out == "Once upon\n"


@pytest.mark.parametrize("content", ["Another end", {"provider": "model", "total": 3}])
def test_a_reply_that_says_something_else_is_shown_as_well(
    node: FakeNode, shell: Shell, content: Any
) -> None:
    answer(node, ACCEPTED, partial("Once upon"), reply(content))
    assert shell(*SEND) == 0
    first, _, rest = shell.out.partition("\n")
    assert first == "Once upon"
    assert (rest.strip() if isinstance(content, str) else json.loads(rest)) == content


def test_an_answer_that_begins_anew_begins_on_a_new_line(node: FakeNode, shell: Shell) -> None:
    answer(node, ACCEPTED, partial("half"), RESTART, partial("whole\n"), reply("whole\n"))
    assert shell(*SEND) == 0
    assert shell.out == "half\nwhole\n"
    assert shell.err == "(the answer begins anew)\nteller@b (inform)\n"


def test_text_cannot_drive_the_terminal(node: FakeNode, shell: Shell) -> None:
    answer(node, ACCEPTED, partial("\x1b[2Jx"), reply("\x1b[2Jx"))
    assert shell(*SEND) == 0
    assert shell.out == "\ufffd[2Jx\n"


def test_every_event_is_a_line_of_json(node: FakeNode, shell: Shell) -> None:
    answer(node, ACCEPTED, partial("Once"), reply("Once"))
    assert shell(*SEND, "--json") == 0
    events = [json.loads(line) for line in shell.out.splitlines()]
    assert [event["event"] for event in events] == ["accepted", "partial", "reply"]
    assert (events[1]["text"], events[2]["reply"]["content"]) == ("Once", "Once")


def test_a_refusal_after_some_text_is_a_failure(node: FakeNode, shell: Shell) -> None:
    answer(node, ACCEPTED, partial("Once"), reply({"reason": "it broke"}, "failure"))
    assert shell(*SEND) == 1
    assert "it broke" in shell.err
    assert shell.out.startswith("Once\n")


def test_no_reply_in_time_is_said(node: FakeNode, shell: Shell) -> None:
    error = {"code": "NO_REPLY", "message": "no reply within 5 s", "why": "", "fix": ""}
    answer(node, ACCEPTED, partial("Once"), ("error", {"error": error}))
    assert shell(*SEND) != 0
    assert "no reply within 5 s" in shell.err
    assert shell.out == "Once\n"
    node.answers["GET", "/cluster/members"] = 200, {"members": [{"name": "alpha"}]}
    assert shell("send", "--to", "teller@gamma", "tell", "--stream") != 0
    assert "no member of the cluster is called 'gamma'" in shell.err


def test_an_answer_that_breaks_off_is_said(node: FakeNode, shell: Shell) -> None:
    answer(node, ACCEPTED, partial("Once"))
    assert shell(*SEND) != 0
    assert "/api/v1/messages/m1" in shell.err


def test_what_is_no_event_of_a_node_is_said(node: FakeNode, shell: Shell) -> None:
    node.answers["POST", "/messages"] = (200, b"event: accepted\ndata: nonsense\n\n")
    assert shell(*SEND) != 0
    assert "not a Caxton node" in shell.err


def test_it_cannot_be_had_without_waiting(node: FakeNode, shell: Shell) -> None:
    assert shell(*SEND, "--no-wait") == 2
    assert node.requests == []
