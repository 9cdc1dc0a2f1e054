"""Routes for operators: dead letters, traces, explanations, the tail."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import trio

from node.message import Message
from node.messaging import tail as tail_module
from node.messaging.letterbox import BULK_LIMIT, Redirection
from node.messaging.tail import Filter
from node.security.permissions import ROLES
from node.storage.dead_letters import Choice
from node.vocabulary import Performative
from tests.node.http.fakes import SENDER, START, VIEWER, Agent, TrioClock, World


async def test_letters_are_shown_in_pages_with_how_many_there_are() -> None:
    world = World()
    async with world.client(SENDER) as client:
        first = (await client.get("/dead-letters?limit=2&capability=echo&reason=no&since=1h")).json()
        second = (await client.get(f"/dead-letters?limit=2&before={first['next']}")).json()
        one = (await client.get("/dead-letters/m2")).json()
        missing = await client.get("/dead-letters/m9")
    assert [letter["message_id"] for letter in first["dead_letters"]] == ["m3", "m2"]
    assert (first["next"], first["count"], first["bytes"]) == (2, 3, 99)
    assert [letter["message_id"] for letter in second["dead_letters"]] == ["m1"]
    assert second["next"] is None
    assert world.bus.letters.calls[0] == ("page", 3, Choice(None, None, "echo", "no", START - 3600))
    assert (one["seq"], one["retried_as"]) == (2, None)
    assert (missing.status_code, missing.json()["code"]) == (404, "DEAD_LETTER_NOT_FOUND")


async def test_a_letter_is_sent_again_elsewhere_and_by_force() -> None:
    world = World()
    async with world.client(SENDER) as client:
        plain = await client.post("/dead-letters/m2/retry")
        conflict = await client.post("/dead-letters/m1/retry", json={})
        forced = await client.post(
            "/dead-letters/m1/retry", json={"force": True, "capability": "x", "ttl_s": 5}
        )
    assert (plain.status_code, plain.json()["message_id"], plain.json()["retry_of"]) == (202, "new-m2", "m2")
    assert (conflict.status_code, conflict.json()["code"]) == (409, "DEAD_LETTER_RETRIED")
    assert conflict.json()["details"] == {"retried_as": "m0"}
    assert forced.status_code == 202
    assert world.bus.letters.calls == [
        ("retry", "m2", Redirection()),
        ("retry", "m1", Redirection(None, "x", 5)),
    ]


async def test_nobody_sends_an_agents_letter_to_somebody_else_in_its_name() -> None:
    world = World()
    world.agents.agents["worker"] = Agent("worker")
    world.bus.letters.sender = "worker@alpha"
    async with world.client() as client:
        elsewhere = await client.post("/dead-letters/m2/retry", json={"receiver": "boss"})
        same = await client.post("/dead-letters/m2/retry", json={"ttl_s": 9})
        many = await client.post("/dead-letters/retry", json={"where": {}, "receiver": "boss"})
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (403, "FORBIDDEN")
    assert same.status_code == 202
    assert many.status_code == 403
    assert [call[0] for call in world.bus.letters.calls] == ["retry"]


async def test_many_letters_are_sent_again_or_dropped_with_a_bound() -> None:
    world = World()
    where = {"capability": "echo", "reason": "no", "since": "15m", "before": 9, "after": 1, "retried": False}
    async with world.client() as client:
        retried = (await client.post("/dead-letters/retry", json={"where": where, "limit": 7})).json()
        dropped = (await client.post("/dead-letters/drop", json={"where": {}})).json()
    assert (retried["retried"], retried["refused"], retried["last"], retried["more"]) == (1, 1, 2, True)
    assert retried["messages"] == [{"retry_of": "m1", "message_id": "new"}]
    assert retried["refusals"][0]["code"] == "DEAD_LETTER_NOT_FOUND"
    assert retried["stopped_by"]["code"] == "STORAGE_ERROR"
    assert dropped == {"dropped": 3, "more": False}
    chosen = Choice(9, 1, "echo", "no", START - 900, retried=False)
    assert world.bus.letters.calls == [
        ("retry_all", chosen, 7, Redirection(), False),
        ("drop_all", Choice(), BULK_LIMIT),
    ]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/dead-letters?limit=0", None),
        ("GET", "/dead-letters?limit=201", None),
        ("GET", "/dead-letters?before=-1", None),
        ("GET", "/dead-letters?since=yesterday", None),
        ("GET", "/dead-letters?retried=perhaps", None),
        ("GET", "/dead-letters?befor=1", None),
        ("POST", "/dead-letters/retry", {}),
        ("POST", "/dead-letters/retry", {"where": {"capabilty": "x"}}),
        ("POST", "/dead-letters/retry", {"where": {}, "limit": BULK_LIMIT + 1}),
        ("POST", "/dead-letters/drop", {"where": []}),
        ("POST", "/dead-letters/drop", {"where": {"since": "never"}}),
        ("POST", "/dead-letters/m1/retry", {"ttl_s": 0}),
        ("POST", "/dead-letters/m1/retry", {"force": "yes"}),
        ("GET", "/messages/tail?performative=shout", None),
        ("GET", "/messages/tail?seconds=0", None),
    ],
)
async def test_bad_input_is_refused_by_its_place(method: str, path: str, body: Any) -> None:
    world = World()
    async with world.client() as client:
        answer = await client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")
    assert world.bus.letters.calls == []


async def test_who_may_do_what_about_messages() -> None:
    async def status(token: str, method: str, path: str, body: Any = None) -> int:
        async with World().client(token) as client:
            return (await client.request(method, path, json=body)).status_code

    assert await status(SENDER, "DELETE", "/dead-letters/m1") == 403
    assert await status(SENDER, "POST", "/dead-letters/drop", {"where": {}}) == 403
    assert await status(SENDER, "GET", "/messages/m1/trace") == 403
    assert await status(SENDER, "GET", "/messages/tail?seconds=0.1") == 403
    assert await status(VIEWER, "GET", "/dead-letters") == 403
    assert await status(VIEWER, "POST", "/dead-letters/m1/retry") == 403
    assert await status("caxton_admin", "DELETE", "/dead-letters/m1") == 204


async def test_a_trace_and_an_explanation_are_answered_as_they_were_found() -> None:
    async with World().client() as client:
        trace = await client.get("/messages/m1/trace")
        explained = await client.get("/messages/m1/explain")
    assert trace.json() == {"message_id": "m1", "complete": True}
    assert (explained.status_code, explained.json()["error"]["fix"]) == (404, "Ask beta.")


# The tail


def message(**fields: Any) -> Message:
    return Message(
        **{
            "id": "m1",
            "performative": Performative.REQUEST,
            "sender": "client@alpha",
            "capability": "echo",
            "content": {"x": 1},
            "conversation_id": "c",
            "reply_with": "m1",
        }
        | fields
    )


async def tail_of(world: World, query: str, *messages: Message, token: str = "caxton_admin") -> Any:
    """The lines of a tail during which these messages arrive, or the refusal."""
    answers: list[httpx.Response] = []

    async def ask() -> None:
        async with world.client(token) as client:
            answers.append(await client.get(f"/messages/tail?seconds=5&{query}"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await TrioClock().sleep(1)
        for each in messages:
            if world.bus.tail.listeners:
                world.bus.tail.received(each, 50, "worker", "beta")
    [answer] = answers
    if answer.status_code != 200:
        return answer.json()
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_the_tail_is_one_line_per_event_that_is_wanted(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    lines = await tail_of(world, "capability=echo", message(), message(id="m2", capability="other"))
    assert [line["event"] for line in lines] == ["listening", "received"]
    assert (lines[1]["message_id"], lines[1]["to"], lines[1]["node"]) == ("m1", "worker@alpha", "alpha")
    assert "content" not in lines[1]
    assert world.bus.tail.listeners == []


async def test_the_content_is_shown_with_the_permission_to_read(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = await tail_of(World(), "content=true", message())
    assert lines[1]["content"] == {"x": 1}
    monkeypatch.setattr("node.security.tokens.ROLES", dict.fromkeys(ROLES, frozenset({"TraceMessages"})))
    refused = await tail_of(World(), "content=true")
    assert refused["code"] == "FORBIDDEN"
    assert [line["event"] for line in await tail_of(World(), "content=false")] == ["listening"]


async def test_an_idle_tail_says_that_the_node_is_there(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    async with world.client() as client:
        answer = await client.get("/messages/tail?seconds=25")
    assert [json.loads(line)["event"] for line in answer.text.splitlines()] == ["listening", "idle", "idle"]


async def test_listeners_beyond_the_bound_are_refused_before_anything_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tail_module, "LISTENER_LIMIT", 1)
    world = World()
    with world.bus.tail.listen(Filter()):
        async with world.client() as client:
            answer = await client.get("/messages/tail?seconds=1")
    assert (answer.status_code, answer.json()["code"]) == (429, "RESOURCE_LIMIT_EXCEEDED")


async def test_a_caller_that_hangs_up_listens_no_more() -> None:
    world = World()
    sent: list[dict[str, Any]] = []
    gone = trio.Event()

    async def receive() -> dict[str, Any]:
        if not sent:
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(event: Any) -> None:
        sent.append(event)
        if event.get("body"):
            assert len(world.bus.tail.listeners) == 1
            gone.set()

    headers = [(b"authorization", b"Bearer caxton_admin"), (b"host", b"127.0.0.1")]
    scope = {
        "type": "http", "method": "GET", "path": "/api/v1/messages/tail", "raw_path": b"", "headers": headers,
        "query_string": b"", "client": ("127.0.0.1", 1), "scheme": "http", "root_path": "",
        "http_version": "1.1", "server": ("127.0.0.1", 8080),
    }  # fmt: skip
    with TrioClock().move_on_after(5) as scope_of_patience:
        await world.app(scope, receive, send)
    assert not scope_of_patience.cancelled_caught
    assert world.bus.tail.listeners == []
