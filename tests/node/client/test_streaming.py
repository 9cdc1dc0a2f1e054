"""An answer that is seen while it is made: pieces, restarts, and connections that end too early."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from node.client import AsyncClient, Client, Partial, Receipt
from node.errors import DuplicateMessage, Forbidden, NodeUnreachable, NoReply
from tests.node.client.nodes import QUICK, RECEIPT, Node, ok, refusal

REPLY = {"message_id": "r", "content": "Once upon"}
KNOWN = {"replies": [{"message_id": "r"}]}
"""What a node tells of a message that was answered; the reply itself is asked for then."""


def piece(number: int, text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    base = {"message_id": "m", "sequence": number, "attempt": 1, "turn": 1}
    return "partial", base | {"text": text, "is_cut": False} | more


RESTART = ("restart", {"message_id": "m", "sequence": 1, "attempt": 2, "turn": 2})
ACCEPTED = ("accepted", RECEIPT)
REPLIED = ("reply", {"message_id": "m", "reply": REPLY})
FAILED = ("error", {"error": {"code": "NO_REPLY", "message": "no reply", "details": {"message_id": "m"}}})


def events(*told: tuple[str, Any]) -> httpx.Response:
    text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in told)
    return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})


async def seen(client: AsyncClient) -> tuple[list[Partial], str, Any]:
    async with client.stream("x", capability="stories", message_id="m", timeout_s=7) as answer:
        pieces = [each async for each in answer]
        return pieces, answer.text, await answer.reply()


def test_pieces_come_before_the_reply(run) -> None:
    node = Node(events(ACCEPTED, piece(0, "Once "), piece(1, "upon"), REPLIED))
    pieces, text, reply = run(node, seen)
    assert [each.text for each in pieces] == ["Once ", "upon"]
    assert pieces[1] == Partial("upon", False, 1, 1, 1, False)
    assert (text, reply) == ("Once upon", REPLY)
    [request], [body] = node.requests, node.bodies()
    assert (request.method, request.url.path) == ("POST", "/api/v1/messages")
    assert dict(request.url.params) == {"wait": "7", "stream": "true"}
    assert (body["content"], body["message_id"]) == ("x", "m")


def test_what_begins_anew_forgets_what_was_shown(run) -> None:
    node = Node(events(ACCEPTED, piece(0, "half"), RESTART, piece(2, "whole", attempt=2), REPLIED))
    pieces, text, _ = run(node, seen)
    assert [(each.restarted, each.text) for each in pieces] == [(False, "half"), (True, ""), (False, "whole")]
    assert text == "whole"


def test_the_reply_can_be_had_without_reading_the_pieces(run) -> None:
    async def only(client: AsyncClient) -> Any:
        async with client.stream("x", capability="stories") as answer:
            assert answer.receipt == Receipt.of(RECEIPT)
            return await answer.reply()

    assert run(Node(events(ACCEPTED, piece(0, "Once "), REPLIED)), only) == REPLY


def test_a_reply_whose_connection_ends_is_looked_up(run) -> None:
    node = Node(events(ACCEPTED, piece(0, "Once ")), ok(KNOWN, 200), ok({"message": REPLY}, 200))
    pieces, _, reply = run(node, seen)
    assert ([each.text for each in pieces], reply) == (["Once "], REPLY)
    assert node.requests[1].url.path == "/api/v1/messages/m"


def test_no_reply_in_time_is_raised(run) -> None:
    with pytest.raises(NoReply) as raised:
        run(Node(events(ACCEPTED, piece(0, "Once "), FAILED)), seen)
    assert raised.value.details == {"message_id": "m"}


def test_sending_is_tried_again_and_counts_once(run) -> None:
    busy, cut = refusal(429, "RESOURCE_LIMIT_EXCEEDED"), httpx.ReadError("cut")
    _, _, reply = run(Node(busy, cut, events(ACCEPTED, REPLIED)), seen)
    assert reply == REPLY
    through = Node(cut, refusal(409, "DUPLICATE_MESSAGE"), ok(KNOWN, 200), ok({"message": REPLY}, 200))
    pieces, _, reply = run(through, seen)
    assert (pieces, reply) == ([], REPLY)


def test_what_is_refused_is_raised_at_once(run) -> None:
    for status, code, kind in ((403, "FORBIDDEN", Forbidden), (409, "DUPLICATE_MESSAGE", DuplicateMessage)):
        node = Node(refusal(status, code))
        with pytest.raises(kind):
            run(node, seen)
        assert len(node.requests) == 1


def test_a_node_that_is_not_there_is_given_up(run) -> None:
    node = Node(httpx.ConnectError("away"))
    with pytest.raises(NodeUnreachable) as raised:
        run(node, seen)
    assert raised.value.details["unsure"] is True
    assert len(node.requests) == QUICK.attempts


def test_the_synchronous_client_does_the_same() -> None:
    node = Node(events(ACCEPTED, piece(0, "Once "), piece(1, "upon"), REPLIED))
    with Client("http://node", transport=httpx.MockTransport(node)) as client:
        with client.stream("x", capability="stories") as answer:
            assert [each.text for each in answer] == ["Once ", "upon"]
            assert (answer.text, answer.reply()) == ("Once upon", REPLY)
        node.script = [events(ACCEPTED, piece(0, "Once "), FAILED)]
        with client.stream("x", capability="stories") as answer, pytest.raises(NoReply):
            answer.reply()
