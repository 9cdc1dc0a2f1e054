from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.errors import StorageFailed
from node.http import event_streams, following, streams
from node.http.mailbox_events import parse_event_id
from node.http.message_answers import HappenedView, HeldView
from node.messaging.delivery import Delivery, Draft
from node.vocabulary import Performative
from tests.node.http.duplex import Duplex, soon
from tests.node.http.fakes import NODE, SENDER, TrioClock, World
from tests.node.http.test_answers import exact
from tests.node.http.test_server import start
from tests.node.messaging.rooms import Cluster, cluster, echo, eventually


@asynccontextmanager
async def served(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[World, Cluster, int]]:
    """The admin API of a node over a real bus, on a real port."""
    stop = trio.Event()
    async with cluster(tmp_path, NODE, **options) as nodes, trio.open_nursery() as nursery:
        world = World(bus=nodes[NODE].bus, limit_bytes=1 << 20)
        port = await start(nursery, world, stop)
        yield world, nodes, port
        stop.set()


async def put(nodes: Cluster, contents: range, to: str = "alice", **fields: Any) -> None:
    for content in contents:
        await nodes[NODE].bus.accept(
            nodes[NODE].message(
                performative=Performative.INFORM,
                receiver=f"{to}@{NODE}",
                content=content,
                **({"conversation_id": "talk"} | fields),
            )
        )


async def take(client: Duplex, count: int) -> list[dict[str, Any]]:
    found = []
    for _ in range(count):
        event = await client.event()
        assert event is not None
        assert event["event"] == "message"
        exact(HeldView).model_validate(event["data"], strict=True)
        assert event["id"] == event["data"]["id"]
        found.append(event)
    return found


def contents(events: list[dict[str, Any]]) -> list[Any]:
    return [event["data"]["message"]["content"] for event in events]


async def test_a_mailbox_is_read_as_events_and_what_was_not_acknowledged_comes_again(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, nodes, port):
        mailboxes = nodes[NODE].bus.mailboxes
        await mailboxes.put("alice", "admin")
        await put(nodes, range(3))
        client = await Duplex.open(world, port, "GET", "/mailboxes/alice/events")
        first = await take(client, 3)
        assert client.headers["content-type"].startswith("text/event-stream")
        assert contents(first) == [0, 1, 2]
        await put(nodes, range(3, 5))
        assert contents(await take(client, 2)) == [3, 4]
        assert mailboxes.shown("alice")["connected"] is True
        await client.close()
        client = await Duplex.open(
            world, port, "GET", "/mailboxes/alice/events", Last_Event_ID=first[1]["id"]
        )
        again = await take(client, 3)
        assert contents(again) == [2, 3, 4]
        assert mailboxes.shown("alice")["held"] == 3
        await client.close()
        client = await Duplex.open(world, port, "GET", f"/mailboxes/alice/events?ack={again[-1]['id']}")
        await put(nodes, range(5, 6))
        assert contents(await take(client, 1)) == [5]
        await client.close()
        with soon():
            while mailboxes.shown("alice")["connected"]:
                await TrioClock().sleep(0.01)


async def test_events_are_acknowledged_while_the_stream_goes_on_and_its_window_is_kept(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (world, nodes, port), world.client() as http:
        await nodes[NODE].bus.mailboxes.put("alice", "admin")
        await put(nodes, range(6))
        client = await Duplex.open(world, port, "GET", "/mailboxes/alice/events?window=2")
        events = await take(client, 2)
        with TrioClock().move_on_after(0.2) as pause:
            await client.event()
        assert pause.cancelled_caught  # no more than it has room for
        path = "/mailboxes/alice/acknowledgements"
        one = (await http.post(path, json={"ids": [events[1]["id"]]})).json()
        assert one == {"acknowledged": 1, "held": 5}
        events += await take(client, 1)
        rest = (await http.post(path, json={"up_to": events[-1]["id"]})).json()
        assert rest == {"acknowledged": 2, "held": 3}
        assert (await http.post(path, json={"up_to": events[-1]["id"]})).json()["acknowledged"] == 0
        assert contents(await take(client, 2)) == [3, 4]
        await client.close()


async def test_a_second_connection_takes_the_mailbox_over(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, nodes, port):
        await nodes[NODE].bus.mailboxes.put("alice", "admin")
        old = await Duplex.open(world, port, "GET", "/mailboxes/alice/events")
        with soon():
            while not nodes[NODE].bus.mailboxes.shown("alice")["connected"]:
                await TrioClock().sleep(0.01)
        new = await Duplex.open(world, port, "GET", "/mailboxes/alice/events")
        ended = await old.event()
        assert ended is not None
        assert (ended["event"], ended["data"]["mailbox"]) == ("end", "alice")
        assert await old.event() is None
        await put(nodes, range(1))
        assert contents(await take(new, 1)) == [0]
        await nodes[NODE].bus.mailboxes.delete("alice")
        deleted = await new.event()
        assert deleted is not None
        assert "deleted" in deleted["data"]["reason"]
        await old.close()
        await new.close()


async def test_a_silent_mailbox_shows_that_it_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_streams, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr("node.http.mailbox_events.HEARTBEAT_S", 0.05)
    async with served(tmp_path) as (world, nodes, port):
        await nodes[NODE].bus.mailboxes.put("alice", "admin")
        client = await Duplex.open(world, port, "GET", "/mailboxes/alice/events")
        assert [await client.line(b"\n\n") for _ in range(3)] == [b": alive"] * 3
        await client.close()


async def test_what_cannot_be_read_or_acknowledged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as (world, nodes, _), world.client() as admin:
        await nodes[NODE].bus.mailboxes.put("boss", "admin")
        assert (await admin.get("/mailboxes/nobody/events")).status_code == 404
        for query in ("ack=x", "ack=1", "ack=99999999999999999999-a", "window=0", "window=1001", "x=1"):
            assert (await admin.get(f"/mailboxes/boss/events?{query}")).status_code == 400
        wrong = await admin.get("/mailboxes/boss/events", headers={"last-event-id": "boo"})
        assert (wrong.status_code, wrong.json()["details"]["field"]) == (400, "last-event-id")
        path = "/mailboxes/boss/acknowledgements"
        for body in (
            {"up_to": "x"},
            {"ids": ["1"]},
            {"ids": "1-a"},
            {"upto": "1-a"},
            {"ids": ["1-a"] * 1001},
        ):
            assert (await admin.post(path, json=body)).status_code == 400
        async with world.client(SENDER) as sender:
            assert (await sender.get("/mailboxes/boss/events")).status_code == 403
            assert (await sender.post(path, json={"up_to": "1-a"})).status_code == 403
        monkeypatch.setattr(streams, "STREAM_LIMIT", 0)
        assert (await admin.get("/mailboxes/boss/events")).status_code == 429


def test_the_id_of_an_event_survives_any_id_of_a_message() -> None:
    assert parse_event_id("7-a%20b%2F%C3%A4-9", "ack") == (7, "a b/ä-9")


async def collect(client: Duplex) -> list[dict[str, Any]]:
    found = []
    while (event := await client.event()) is not None:
        exact(HappenedView).model_validate(event["data"], strict=True)
        found.append(event)
    return found


async def test_the_events_of_a_message_tell_its_way_to_its_end(tmp_path: Path) -> None:
    release = trio.Event()

    async def wait_and_answer(delivery: Delivery) -> list[Draft]:
        await release.wait()
        return list(await echo("x")(delivery))

    async with served(tmp_path) as (world, nodes, port):
        nodes[NODE].attach("worker", wait_and_answer, "work")
        message = nodes[NODE].message(capability="work", content=7)
        await nodes[NODE].bus.accept(message)
        client = await Duplex.open(world, port, "GET", f"/messages/{message.id}/events")
        first = await client.event()
        assert first is not None
        assert (first["event"], first["data"]["message_id"]) == ("accepted", message.id)
        await TrioClock().sleep(0.3)
        release.set()
        rest = await collect(client)
        names = [event["event"] for event in rest]
        assert names.index("routed") < names.index("received") < names.index("settled")
        assert "reply" in names
        assert names[-1] == "end"
        assert rest[-1]["data"]["status"] == "settled"
        [reply] = [event["data"]["reply"] for event in rest if event["event"] == "reply"]
        assert reply["content"] == {"echo": 7, "by": "x"}
        assert len(names) == len(set(names))
        await client.close()


async def test_a_message_that_needs_no_reply_or_gets_none_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(delivery: Delivery) -> list[Draft]:
        await trio.lowlevel.checkpoint()
        return []

    monkeypatch.setattr(following, "REPLY_GRACE_S", 0.1)
    async with served(tmp_path) as (world, nodes, port):
        nodes[NODE].attach("worker", silent, "work")
        for fields in ({"performative": Performative.INFORM}, {}):
            message = nodes[NODE].message(capability="work", **fields)
            await nodes[NODE].bus.accept(message)
            client = await Duplex.open(world, port, "GET", f"/messages/{message.id}/events")
            assert [event["event"] for event in await collect(client)][-2:] == ["settled", "end"]
            await client.close()
        lost = nodes[NODE].message(receiver=f"nobody@{NODE}")
        await nodes[NODE].bus.accept(lost, ttl_s=0.2)
        client = await Duplex.open(world, port, "GET", f"/messages/{lost.id}/events")
        told = await collect(client)
        assert told[-1]["data"]["status"] in ("expired", "failed")
        await client.close()
    async with World().client() as http:
        assert (await http.get("/messages/unknown/events")).status_code == 404


async def test_a_message_that_was_received_here_has_events_too(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, nodes, port):
        await nodes.start("beta")
        nodes[NODE].attach("worker", echo(), "work")
        message = nodes["beta"].message(capability="work", content=1)
        await nodes["beta"].bus.accept(message)
        await eventually(lambda: nodes["beta"].bus.statistics()["outbox"]["open"] == 0)
        client = await Duplex.open(world, port, "GET", f"/messages/{message.id}/events")
        assert [event["event"] for event in await collect(client)] == ["end"]
        await client.close()


async def test_a_conversation_is_followed_each_message_once(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, nodes, port):
        await nodes[NODE].bus.mailboxes.put("alice", "admin")
        await put(nodes, range(3))
        client = await Duplex.open(world, port, "GET", "/conversations/talk?follow=true")
        found = []
        for _ in range(3):
            event = await client.event()
            assert event is not None
            found.append(event["data"]["content"])
        await put(nodes, range(9, 10), conversation_id="another")
        await put(nodes, range(3, 250))
        while len(found) < 250:
            event = await client.event()
            assert event is not None
            found.append(event["data"]["content"])
        assert found == list(range(250))
        with TrioClock().move_on_after(0.3) as pause:
            await client.event()
        assert pause.cancelled_caught
        await client.close()
        async with world.client() as http:
            assert (await http.get("/conversations/talk?follow=maybe")).status_code == 400
            assert (await http.get("/conversations/talk")).json()["message_count"] == 250


async def test_a_disk_that_refuses_ends_a_stream_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as (world, nodes, port):
        await put(nodes, range(1))
        client = await Duplex.open(world, port, "GET", "/conversations/talk?follow=true")
        assert (await client.event() or {})["event"] == "message"

        async def refuse(cursor: object) -> None:
            raise StorageFailed("the disk is broken")

        monkeypatch.setattr(nodes[NODE].bus.conversations, "follow", refuse)
        last = await client.event()
        assert last is not None
        assert (last["event"], last["data"]["code"]) == ("error", "STORAGE_ERROR")
        assert await client.event() is None
        await client.close()
