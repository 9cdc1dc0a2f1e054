from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from node.errors import CaxtonError, StorageFailed
from node.http import message_stream, streams
from node.http.message_answers import LineView
from node.http.message_stream import Lines
from tests.node.http.duplex import Duplex, soon
from tests.node.http.fakes import ADMIN, VIEWER, TrioClock, World
from tests.node.http.test_answers import exact
from tests.node.http.test_server import start

MESSAGE = {"capability": "echo", "content": 1}
PATH = "/api/v1/messages/stream"


@asynccontextmanager
async def served(world: World, token: str = ADMIN) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    """A client of the node's real port."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=20
        ) as client:
            yield client, port
        stop.set()


def text(*values: Any) -> bytes:
    return b"".join((v if isinstance(v, bytes) else json.dumps(v).encode()) + b"\n" for v in values)


async def send(client: httpx.AsyncClient, body: Any, query: str = "") -> list[dict[str, Any]]:
    async with client.stream("POST", PATH + query, content=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) async for line in answer.aiter_lines()]


async def test_each_line_is_told_by_its_number_and_in_order() -> None:
    world = World()
    async with served(world) as (client, _):
        lines = [
            MESSAGE | {"message_id": "m-1"},
            b"",
            b"{",
            MESSAGE | {"priority": 99},
            MESSAGE | {"message_id": "m-1"},
        ]
        found = await send(client, text(*lines) + json.dumps(MESSAGE | {"content": "last"}).encode())
    assert [(each["line"], each["status"]) for each in found] == [
        (1, "accepted"), (3, "refused"), (4, "refused"), (5, "duplicate"), (6, "accepted"),
    ]  # fmt: skip
    assert found[0]["message_id"] == "m-1"
    assert found[1]["error"]["details"]["column"] == 2
    assert found[2]["error"]["details"]["field"] == "priority"
    assert [message.content for message, _, _ in world.bus.accepted] == [1, "last"]


async def test_what_is_told_is_as_described() -> None:
    world = World()
    async with served(world) as (client, _):
        for told in await send(client, text(MESSAGE, {}), "?wait=5"):
            exact(LineView).model_validate(told, strict=True)
        document = (await client.get("/api/v1/openapi.json")).json()
    said = document["paths"][PATH]["post"]["responses"]["200"]["content"]
    assert said == {"application/x-ndjson": {"schema": {"$ref": "#/components/schemas/LineView"}}}


async def test_lines_are_told_while_others_are_still_to_come() -> None:
    world = World()
    async with served(world) as (_, port):
        client = await Duplex.open(world, port, "POST", "/messages/stream")
        for n in range(3):
            await client.send(text(MESSAGE | {"content": n}))
            assert (await client.json())["line"] == n + 1
        await client.end()
        assert await client.rest() == []
        await client.close()


async def test_what_has_arrived_is_accepted_at_once() -> None:
    world = World()
    async with served(world) as (client, _):
        found = await send(client, text(*[MESSAGE] * 1000))
    assert len(found) == 1000
    assert len(world.bus.batches) < 100
    assert max(world.bus.batches) <= message_stream.BATCH_LINES


async def test_with_wait_the_replies_come_as_further_lines() -> None:
    world = World()
    async with served(world) as (client, _):
        lines = [MESSAGE, MESSAGE | {"performative": "inform"}, MESSAGE | {"routing_strategy": "broadcast"}]
        found = await send(client, text(*lines), "?wait=5")
        assert world.bus.waits == {}
        world.bus.answers = False
        late = await send(client, text(MESSAGE), "?wait=0.05")
    assert [each["status"] for each in found[:3]] == ["accepted"] * 3
    replies = {each["line"]: each for each in found[3:]}
    assert set(replies) == {1, 3}
    assert replies[1]["reply"]["content"] == {"echo": 1}
    assert len(replies[3]["replies"]) == 1
    assert (late[1]["line"], late[1]["error"]["code"]) == (1, "NO_REPLY")
    assert f"`caxton trace {late[1]['message_id']}`" in late[1]["error"]["fix"]
    assert world.bus.waits == {}


async def test_replies_that_are_waited_for_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_stream, "REPLIES_LIMIT", 2)
    world, most = World(), 0
    world.bus.answers = False
    async with served(world) as (client, _), trio.open_nursery() as nursery:

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(world.bus.waits))
                await TrioClock().sleep(0.002)

        nursery.start_soon(watch)
        found = await send(client, text(*[MESSAGE] * 6), "?wait=0.05")
        nursery.cancel_scope.cancel()
    assert len(found) == 12
    assert most == 2


async def test_a_full_outbox_slows_the_stream_down_and_refuses_only_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.bus.room = 0
    async with served(world) as (client, _):
        async with trio.open_nursery() as nursery:

            async def make_room() -> None:
                await TrioClock().sleep(0.2)
                assert world.bus.accepted == []
                world.bus.room = 2

            nursery.start_soon(make_room)
            found = await send(client, text(*[MESSAGE] * 5))
        assert [each["status"] for each in found] == ["accepted"] * 5
        assert max(world.bus.batches) == 2
        monkeypatch.setattr(message_stream, "STALL_S", 0.05)
        world.bus.room = 0
        assert len(await send(client, text(MESSAGE))) == 1  # the bus says what it says


async def test_a_disk_that_refuses_is_told_for_each_line_and_the_stream_goes_on() -> None:
    world = World()
    accept_many = world.bus.accept_many
    calls = 0

    async def once(messages: Sequence[Any], **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StorageFailed("the disk is full")
        return await accept_many(messages, **options)

    world.bus.accept_many = once  # type: ignore[method-assign, assignment]
    async with served(world) as (client, _):
        found = await send(client, text(*[MESSAGE] * (message_stream.BATCH_LINES + 44)))
    codes = [each.get("error", {}).get("code") for each in found]
    assert set(codes) == {"STORAGE_ERROR", None}
    assert len(world.bus.accepted) == codes.count(None)


async def test_a_line_that_is_too_long_is_told_and_left_out() -> None:
    world = World(limit_bytes=200)
    async with served(world) as (client, _):
        found = await send(client, text(MESSAGE, MESSAGE | {"content": "x" * 5000}, MESSAGE))
    assert [(each["line"], each["status"]) for each in found] == [
        (1, "accepted"), (2, "refused"), (3, "accepted"),
    ]  # fmt: skip
    assert found[1]["error"]["code"] == "REQUEST_TOO_LARGE"


async def test_a_sender_that_falls_silent_is_told_that_its_stream_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(message_stream, "IDLE_LIMIT_S", 0.05)
    world = World()
    async with served(world) as (_, port):
        client = await Duplex.open(world, port, "POST", "/messages/stream")
        told = await client.rest()
        await client.close()
    assert [(each["line"], each["error"]["code"]) for each in told] == [(0, "REQUEST_TIMEOUT")]


async def test_a_reader_that_does_not_read_stops_the_sender() -> None:
    world = World(limit_bytes=1 << 20)
    line = text(MESSAGE | {"content": "x" * 500, "conversation_id": "c" * 500})
    async with served(world) as (_, port):
        stream = await world.environment.network.connect("127.0.0.1", port)
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
        await stream.send_all(head.encode() + b"Content-Length: 1000000000\r\n\r\n")
        sent = 0
        with TrioClock().move_on_after(3):
            while True:
                await stream.send_all(line)
                sent += 1
        accepted = len(world.bus.accepted)
        await TrioClock().sleep(0.2)
        assert len(world.bus.accepted) == accepted  # nothing moves any more
        assert sent < 100_000
        await trio.aclose_forcefully(stream)
        with soon():
            while world.app.state.streams.statistics()["streams"]:
                await TrioClock().sleep(0.01)


async def test_a_sender_that_goes_in_the_middle_frees_its_stream() -> None:
    world = World()
    async with served(world) as (_, port):
        stream = await world.environment.network.connect("127.0.0.1", port)
        head = f"POST {PATH}?wait=100 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
        world.bus.answers = False
        await stream.send_all(head.encode() + b"Content-Length: 1000\r\n\r\n" + text(MESSAGE))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        await stream.aclose()
        with soon():
            while world.app.state.streams.statistics()["streams"] or world.bus.waits:
                await TrioClock().sleep(0.01)
    assert len(world.bus.accepted) == 1


async def test_streams_are_bounded_and_need_the_permission_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAM_LIMIT", 0)
    world = World()
    async with world.client() as client:
        full = await client.post("/messages/stream", content=text(MESSAGE))
    async with world.client(VIEWER) as client:
        assert (await client.post("/messages/stream", content=text(MESSAGE))).status_code == 403
    assert (full.status_code, full.headers["retry-after"]) == (429, "5")
    assert world.bus.accepted == []


async def test_a_node_that_stops_ends_its_streams() -> None:
    world, stop = World(), trio.Event()
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        stream = await world.environment.network.connect("127.0.0.1", port)
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
        await stream.send_all(head.encode() + b"Content-Length: 1000\r\n\r\n" + text(MESSAGE))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        stop.set()
        began = TrioClock().now()
        while await stream.receive_some():
            pass
        await stream.aclose()
    assert TrioClock().now() - began < 2.5  # not at the end of the grace, which is 3 s


@given(st.lists(st.binary(max_size=12).filter(lambda b: b"\n" not in b), max_size=8), st.data())
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    body, cutter, found = b"\n".join(lines), Lines(8), []
    while body:
        size = data.draw(st.integers(1, len(body)))
        found += cutter.feed(body[:size])
        body = body[size:]
    found += cutter.feed(b"", last=True)
    expected = [
        (number, None if len(line) > 8 else line.strip())
        for number, line in enumerate(lines, 1)
        if line.strip() or len(line) > 8
    ]
    assert [(n, None if isinstance(t, CaxtonError) else t) for n, t in found] == expected
