"""A message whose answer is seen while it is made: over real buses, on a real port."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.http import socket_session, streams, traffic
from node.http.message_answers import PieceView
from node.messaging import partial_watches
from node.messaging.delivery import Delivery, Draft
from node.vocabulary import Performative
from tests.node.http.duplex import Duplex, soon
from tests.node.http.fakes import NODE, VIEWER, TrioClock, World
from tests.node.http.socket_client import SocketClient
from tests.node.http.test_answers import exact
from tests.node.http.test_events import served
from tests.node.messaging.rooms import Cluster


class Storyteller:
    """An agent that says a piece whenever it is told to; ``None`` begins the text anew."""

    def __init__(self) -> None:
        self.say, self._said = trio.open_memory_channel[str | None](100)

    async def __call__(self, delivery: Delivery) -> Sequence[Draft]:
        assert delivery.audience is not None
        text = ""
        with delivery.audience.speak("teller", delivery) as speech:
            speech.begin(1)
            async for piece in self._said:
                if piece == "":
                    break
                if piece is None:
                    speech.begin(2)
                    text = ""
                    continue
                speech.hear(piece)
                text += piece
        return [Draft(Performative.INFORM, text)]


@asynccontextmanager
async def asked(world: World, port: int, query: str = "stream=true", **fields: Any) -> AsyncIterator[Duplex]:
    client = await Duplex.open(world, port, "POST", f"/messages?{query}", content_type="application/json")
    try:
        await client.send(json.dumps({"capability": "stories"} | fields).encode())
        await client.end()
        yield client
    finally:
        await client.close()


async def event(client: Duplex) -> tuple[str, dict[str, Any]]:
    found = await client.event()
    assert found is not None
    if found["event"] in ("partial", "restart"):
        exact(PieceView).model_validate(found["data"], strict=True)
    return found["event"], found["data"]


async def gone(nodes: Cluster) -> None:
    """Nothing is held for anybody any more."""
    bus = nodes[NODE].bus
    with soon():
        while bus.partials.statistics()["watches"] or bus.statistics()["waits"]["waits"]:
            await TrioClock().sleep(0.01)


async def test_text_is_shown_before_the_reply_which_ends_the_stream(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, nodes, port):
        teller = Storyteller()
        nodes[NODE].attach("teller", teller, "stories")
        async with asked(world, port, message_id="m1") as client:
            name, receipt = await event(client)
            assert (name, receipt["message_id"], receipt["routed_to"]) == (
                "accepted",
                "m1",
                [f"teller@{NODE}"],
            )
            assert client.headers["content-type"].startswith("text/event-stream")
            told = {"message_id": "m1", "attempt": 1, "turn": 1, "is_cut": False}
            await teller.say.send("Once ")
            assert await event(client) == ("partial", told | {"sequence": 0, "text": "Once "})
            await teller.say.send("upon")
            assert await event(client) == ("partial", told | {"sequence": 1, "text": "upon"})
            await teller.say.send("")
            name, data = await event(client)
            assert (name, data["message_id"], data["reply"]["content"]) == ("reply", "m1", "Once upon")
            assert await client.event() is None
            await gone(nodes)


async def test_a_text_that_begins_anew_is_said_to(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, nodes, port):
        teller = Storyteller()
        nodes[NODE].attach("teller", teller, "stories")
        async with asked(world, port, stream=True) as client:
            await event(client)
            await teller.say.send("half")
            assert (await event(client))[1]["text"] == "half"
            await teller.say.send(None)
            name, data = await event(client)
            assert (name, data["attempt"], data["turn"], "text" in data) == ("restart", 2, 2, False)
            await teller.say.send("whole")
            assert (await event(client))[1]["text"] == "whole"


async def test_an_agent_that_says_nothing_in_between_just_replies(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, nodes, port):
        teller = Storyteller()
        nodes[NODE].attach("teller", teller, "stories")
        await teller.say.send("")
        async with asked(world, port) as client:
            assert [(await event(client))[0] for _ in range(2)] == ["accepted", "reply"]


async def test_no_reply_in_time_is_an_error_at_the_end_and_the_message_goes_on(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as (world, nodes, port),
        asked(world, port, "stream=true&wait=0.2") as client,
    ):
        name, receipt = await event(client)
        assert (name, receipt["routed_to"]) == ("accepted", [])
        name, data = await event(client)
        assert (name, data["code"]) == ("error", "NO_REPLY")
        assert data["details"]["message_id"] == receipt["message_id"]
        assert f"`caxton trace {receipt['message_id']}`" in data["error"]["fix"]
        await gone(nodes)
        assert (await nodes[NODE].bus.history(receipt["message_id"])).as_json()["outcome"] is None


async def test_whoever_goes_leaves_nothing_behind(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, nodes, port):
        teller = Storyteller()
        nodes[NODE].attach("teller", teller, "stories")
        async with asked(world, port) as client:
            await event(client)
            await teller.say.send("Once ")
            await event(client)
            await client.close()
            await gone(nodes)


async def test_what_is_wrong_is_an_ordinary_error(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], int, str]] = [
        ({"routing_strategy": "broadcast"}, 400, "VALIDATION_ERROR"),
        ({"capability": None, "topic": "orders.new"}, 400, "VALIDATION_ERROR"),
        ({"stream": "perhaps"}, 400, "VALIDATION_ERROR"),
        ({"content": "x" * (1 << 20)}, 413, "REQUEST_TOO_LARGE"),
    ]
    async with served(tmp_path) as (world, nodes, _), world.client() as http:
        for fields, status, code in wrong:
            answer = await http.post("/messages?stream=true", json={"capability": "stories"} | fields)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), fields
        answer = await http.post("/messages?stream=maybe", json={"capability": "stories"})
        assert answer.status_code == 400
        assert nodes[NODE].bus.partials.statistics()["watched"] == 0


async def test_a_message_that_was_accepted_before_is_an_ordinary_error(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, nodes, _), world.client() as http:
        body = {"capability": "stories", "message_id": "m1"}
        assert (await http.post("/messages", json=body)).status_code == 202
        answer = await http.post("/messages?stream=true", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "DUPLICATE_MESSAGE")
        await gone(nodes)


async def test_too_many_are_told_before_anything_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as (world, nodes, _), world.client() as http:
        for module, bound in (
            (streams, "STREAM_LIMIT"),
            (traffic, "WAITING_LIMIT"),
            (partial_watches, "WATCH_LIMIT"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(module, bound, 0)
                answer = await http.post("/messages?stream=true", json={"capability": "stories"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "RESOURCE_LIMIT_EXCEEDED")
        assert nodes[NODE].bus.statistics()["outbox"]["accepted"] == 0


async def test_it_needs_the_right_to_send() -> None:
    async with World().client(VIEWER) as http:
        answer = await http.post("/messages?stream=true", json={"capability": "stories"})
        assert answer.status_code == 403


# Over a WebSocket


async def socket(port: int, **fields: Any) -> SocketClient:
    client = await SocketClient.open(port)
    await client.expect("welcome")
    message = {"capability": "stories", "message_id": "m1"} | fields
    await client.send({"type": "send", "id": 7, "message": message, "stream": True})
    return client


async def test_a_socket_is_told_the_reply_while_it_is_made(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, nodes, port):
        teller = Storyteller()
        nodes[NODE].attach("teller", teller, "stories")
        client = await socket(port)
        assert (await client.expect("accepted"))["id"] == 7
        await teller.say.send("Once ")
        told = await client.expect("partial")
        assert (told["id"], told["message_id"], told["sequence"], told["text"]) == (7, "m1", 0, "Once ")
        await teller.say.send(None)
        assert (await client.expect("restart"))["attempt"] == 2
        await teller.say.send("upon")
        assert (await client.expect("partial"))["text"] == "upon"
        await teller.say.send("")
        assert await client.expect("ended") == {"type": "ended", "id": 7, "message_id": "m1"}
        await client.close()
        await gone(nodes)


async def test_a_socket_that_goes_leaves_nothing_behind(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, nodes, port):
        client = await socket(port)  # nobody is there to answer
        await client.expect("accepted")
        assert nodes[NODE].bus.partials.statistics()["watches"] == 1
        await client.close()
        await gone(nodes)


async def test_a_socket_is_told_what_it_cannot_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path) as (_, nodes, port):
        client = await socket(port, routing_strategy="broadcast")
        assert (await client.expect("error"))["error"]["code"] == "VALIDATION_ERROR"
        monkeypatch.setattr(socket_session, "STREAMED_LIMIT", 0)
        again = {"type": "send", "message": {"capability": "stories", "message_id": "m2"}, "stream": True}
        await client.send(again)
        assert (await client.expect("error"))["error"]["code"] == "RESOURCE_LIMIT_EXCEEDED"
        monkeypatch.undo()
        await client.send(again)
        await client.expect("accepted")
        await client.send(again)  # a second time, while the first is watched
        assert (await client.expect("error"))["error"]["code"] == "RESOURCE_LIMIT_EXCEEDED"
        assert nodes[NODE].bus.partials.statistics()["watches"] == 1
        await client.close()
        await gone(nodes)
