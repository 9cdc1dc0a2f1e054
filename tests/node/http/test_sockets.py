from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from wsproto.events import BytesMessage
from wsproto.events import TextMessage as Text

from node.errors import ResourceLimitExceeded
from node.http import server, socket_session, sockets, streams
from node.http.frames import FRAMES
from node.http.socket_session import Session
from node.security.permissions import WS_FRAMES
from node.vocabulary import Performative
from tests.node.http.duplex import soon
from tests.node.http.fakes import NODE, SENDER, VIEWER, TrioClock, World
from tests.node.http.socket_client import SocketClient
from tests.node.http.test_events import put, served
from tests.node.http.test_server import start
from tests.node.messaging.rooms import Cluster, echo, eventually

MESSAGE = {"capability": "echo", "content": 1}


def contents(frames: list[dict[str, Any]]) -> list[Any]:
    return [frame["message"]["content"] for frame in frames]


async def until_left(nodes: Cluster, name: str) -> None:
    with soon():
        while nodes[NODE].bus.mailboxes.shown(name)["connected"]:
            await TrioClock().sleep(0.01)


async def test_every_frame_has_a_model_a_handler_and_a_permission() -> None:
    async def nothing(*_: Any) -> None:
        await trio.lowlevel.checkpoint()

    session = Session(World().services, None, nothing, nothing, on_known=lambda: None)
    assert set(FRAMES) == set(WS_FRAMES) == set(session._handlers)


async def test_a_message_is_sent_and_its_reply_comes_to_the_mailbox(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, nodes, port):
        nodes[NODE].attach("worker", echo("w"), "echo")
        await nodes[NODE].bus.mailboxes.put("alice", "sender")
        client = await SocketClient.open(port, token=SENDER)
        assert (await client.frame() or {})["type"] == "welcome"
        await client.send({"type": "subscribe", "mailbox": "alice", "id": 1})
        assert (await client.expect("subscribed"))["id"] == 1
        await client.send({"type": "send", "id": "q", "message": MESSAGE | {"sender": "alice"}})
        accepted = await client.expect("accepted")
        assert (accepted["id"], accepted["routed_to"]) == ("q", [f"worker@{NODE}"])
        [reply] = await client.messages(1)
        assert reply["message"]["content"] == {"echo": 1, "by": "w"}
        await client.send({"type": "ack", "delivery": reply["delivery"]})
        with soon():
            while nodes[NODE].bus.mailboxes.shown("alice")["held"]:
                await TrioClock().sleep(0.01)
        await client.send({"type": "ping", "id": 7})
        assert await client.expect("pong") == {"type": "pong", "id": 7}
        await client.close()


async def test_after_a_disconnect_everything_that_was_not_acknowledged_comes_again(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, nodes, port):
        await nodes[NODE].bus.mailboxes.put("alice", "admin")
        await put(nodes, range(20))
        seen: list[Any] = []
        for round_ in range(5):
            client = await SocketClient.open(port)
            await client.send({"type": "subscribe", "mailbox": "alice"})
            found = await client.messages(4 if round_ < 4 else 8)
            assert contents(found) == list(range(3 * round_, 3 * round_ + len(found)))
            await client.send({"type": "ack", "delivery": [frame["delivery"] for frame in found[:3]]})
            seen += contents(found[:3])
            left = 20 - 3 * (round_ + 1)
            with soon():
                while nodes[NODE].bus.mailboxes.shown("alice")["held"] != left:
                    await TrioClock().sleep(0.01)
            await client.close()
            await until_left(nodes, "alice")
        assert seen == list(range(15))


async def test_what_a_client_sent_and_acknowledged_before_it_went_counts(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, nodes, port):
        await nodes[NODE].bus.mailboxes.put("alice", "admin")
        await put(nodes, range(3))
        client = await SocketClient.open(port)
        await client.send({"type": "subscribe", "mailbox": "alice"})
        found = await client.messages(3)
        await client.send({"type": "ack", "delivery": [frame["delivery"] for frame in found]})
        await client.send({"type": "send", "message": MESSAGE | {"message_id": "last-words"}})
        await client.close()
        await until_left(nodes, "alice")
        with soon():
            while nodes[NODE].bus.mailboxes.shown("alice")["held"]:
                await TrioClock().sleep(0.01)
            while nodes[NODE].bus.statistics()["outbox"]["open"] == 0:
                await TrioClock().sleep(0.01)
        assert (await nodes[NODE].bus.history("last-words")).message.content == 1


async def test_a_client_is_given_no_more_than_its_credit(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, nodes, port):
        await nodes[NODE].bus.mailboxes.put("alice", "admin")
        await put(nodes, range(10))
        client = await SocketClient.open(port)
        await client.send({"type": "subscribe", "mailbox": "alice", "credit": 2})
        found = await client.messages(2)
        await client.send({"type": "ping"})
        await client.expect("pong")
        await client.send({"type": "ack", "delivery": found[1]["delivery"]})
        found += await client.messages(1)
        await client.send({"type": "credit", "messages": 5})
        found += await client.messages(3)
        assert contents(found) == [0, 1, 2, 3, 4, 5]
        await client.send({"type": "credit", "messages": 0, "mailbox": "alice"})
        await client.send({"type": "ack", "delivery": [frame["delivery"] for frame in found]})
        with soon():
            while nodes[NODE].bus.mailboxes.shown("alice")["held"] != 4:
                await TrioClock().sleep(0.01)
        await client.send({"type": "unsubscribe", "mailbox": "alice"})
        assert (await client.expect("unsubscribed"))["reason"] == "unsubscribed"  # and no message before
        assert nodes[NODE].bus.mailboxes.shown("alice")["connected"] is False
        await client.close()


async def test_what_is_wrong_with_a_frame_is_told_and_the_socket_stays(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, nodes, port):
        await nodes[NODE].bus.mailboxes.put("boss", "admin")
        client = await SocketClient.open(port, token=SENDER)
        for frame, code in [
            ("{", "VALIDATION_ERROR"),
            ("[]", "VALIDATION_ERROR"),
            ({"type": "sned"}, "VALIDATION_ERROR"),
            ({"type": ["send"]}, "VALIDATION_ERROR"),
            ({"type": "send", "mesage": MESSAGE}, "VALIDATION_ERROR"),
            ({"type": "ack", "delivery": 9}, "VALIDATION_ERROR"),
            ({"type": "credit", "messages": -1}, "VALIDATION_ERROR"),
            ({"type": "hello", "token": "x"}, "VALIDATION_ERROR"),
            ({"type": "subscribe", "mailbox": "nobody"}, "MAILBOX_NOT_FOUND"),
            ({"type": "subscribe", "mailbox": "boss"}, "FORBIDDEN"),
            ({"type": "unsubscribe", "mailbox": "boss"}, "VALIDATION_ERROR"),
            ({"type": "send", "id": 5, "message": {"content": 1}}, "VALIDATION_ERROR"),
            ({"type": "send", "id": 5, "message": MESSAGE | {"sender": "boss"}}, "FORBIDDEN"),
        ]:
            await client.send(frame)
            error = await client.expect("error")
            assert error["error"]["code"] == code, frame
            if isinstance(frame, dict) and "id" in frame:
                assert error["id"] == frame["id"]
        await client.send({"type": "send", "message": MESSAGE | {"message_id": "m-1"}})
        assert (await client.expect("accepted"))["message_id"] == "m-1"
        await client.send({"type": "send", "message": MESSAGE | {"message_id": "m-1"}})
        assert (await client.expect("error"))["error"]["code"] == "DUPLICATE_MESSAGE"
        for _ in range(socket_session.BAD_FRAME_LIMIT):
            await client.send("nonsense")
        while await client.frame() is not None:
            pass
        assert client.close_code == 1008
        assert world.app.state.sockets.statistics()["sockets_refused"] == 1
        await client.close()


async def test_a_full_outbox_answers_with_when_to_try_again(tmp_path: Path) -> None:
    async with served(tmp_path, settings={"outbox_capacity": 2}) as (_, _, port):
        client = await SocketClient.open(port)
        for n in range(4):
            await client.send({"type": "send", "id": n, "message": {"capability": "nobody-has-it"}})
        answers = []
        while len(answers) < 4:
            frame = await client.frame()
            assert frame is not None
            if frame["type"] in ("accepted", "error"):
                answers.append(frame)
        assert [answer["type"] for answer in answers] == ["accepted", "accepted", "error", "error"]
        assert answers[2]["error"]["code"] == ResourceLimitExceeded.code
        assert answers[2]["retry_after_s"] >= 1
        assert (await client.expect("credit"))["messages"] in (0, 1)
        await client.close()


async def test_each_frame_needs_its_permission(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, _, port):
        client = await SocketClient.open(port, token=VIEWER)
        for frame in ({"type": "send", "message": MESSAGE}, {"type": "subscribe", "mailbox": "alice"}):
            await client.send(frame)
            assert (await client.expect("error"))["error"]["code"] == "FORBIDDEN"
        await client.close()


async def test_a_client_without_a_header_says_hello_first(monkeypatch: pytest.MonkeyPatch) -> None:
    world, stop = World(), trio.Event()
    monkeypatch.setattr(socket_session, "HELLO_S", 0.1)
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        client = await SocketClient.open(port, token=None)
        assert world.app.state.sockets.statistics()["strangers"] == 1
        await client.send({"type": "hello", "token": SENDER})
        assert (await client.frame() or {})["type"] == "welcome"
        assert world.app.state.sockets.statistics()["strangers"] == 0
        await client.send({"type": "send", "message": MESSAGE})
        await client.expect("accepted")
        await client.close()
        for first in ({"type": "hello", "token": "wrong"}, {"type": "ping"}, "{", None):
            client = await SocketClient.open(port, token=None)
            if first is not None:
                await client.send(first)
                assert (await client.expect("error"))["type"] == "error"
            assert await client.frame() is None
            assert client.close_code == 1008
            await client.close()
        assert world.app.state.sockets.statistics()["sockets_unauthorized"] == 4
        client = await SocketClient.open(port, token=None)
        await client.send({"type": "hello", "token": "x" * sockets.STRANGER_FRAME_BYTES})
        assert await client.frame() is None
        assert client.close_code == 1009
        await client.close()
        gone = await SocketClient.open(port, token=None)
        await gone.close()  # before it has said anything
        monkeypatch.setattr(sockets, "STRANGER_LIMIT", 0)
        client = await SocketClient.open(port, token=None)
        assert client.status == 429
        await client.close()
        stop.set()
    assert len(world.bus.accepted) == 1


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"token": "wrong"}, 401),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 101),  # a page of this machine, over loopback
        ({"origin": "http://evil.example:80", "host": "evil.example:80"}, 101),  # a proxy; the token decides
        ({"path": "/api/v1/wss"}, 404),
        ({"path": "/ws"}, 404),
        ({}, 101),
    ],
)
async def test_who_may_open_a_socket(options: dict[str, Any], status: int) -> None:
    world, stop = World(), trio.Event()
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        client = await SocketClient.open(port, **options)
        assert client.status == status
        assert client.extensions == []  # nothing is compressed
        if status != 101:
            assert json.loads(client.refusal)["error"]["why"] is not None
        await client.close()
        stop.set()


async def test_in_dev_mode_a_page_that_was_rebound_or_of_another_port_is_refused() -> None:
    world, stop = World(dev_mode=True), trio.Event()
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        for options, status in (
            ({}, 101),
            ({"origin": "http://evil.example:80", "host": "evil.example:80"}, 403),
            ({"origin": "http://127.0.0.1:1"}, 403),
        ):
            client = await SocketClient.open(port, token=None, **options)
            assert client.status == status
            await client.close()
        stop.set()


async def test_a_frame_that_is_too_long_costs_its_socket_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "CLOSING_S", 0.2)
    world, stop = World(limit_bytes=1_000), trio.Event()
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        good, bad = await SocketClient.open(port), await SocketClient.open(port)
        await bad.send("x" * 1_001)
        while await bad.frame() is not None:
            pass
        assert bad.close_code == 1009
        await bad.close()
        deaf = await SocketClient.open(port)
        with soon():
            try:
                while True:  # it goes on sending the same message, and never closes
                    data = deaf.ws.send(Text(data="x" * 500, message_finished=False))
                    await deaf.stream.send_all(data)
                    await TrioClock().sleep(0.005)
            except trio.BrokenResourceError:
                pass
        await deaf.close()
        await good.send({"type": "ping"})
        await good.expect("pong")
        assert world.app.state.sockets.statistics()["sockets_overlong"] == 2
        with soon():
            while world.app.state.sockets.statistics()["sockets"] > 1:
                await TrioClock().sleep(0.01)
        await good.close()
        stop.set()


async def test_bytes_are_no_frame() -> None:
    world, stop = World(), trio.Event()
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        client = await SocketClient.open(port)
        await client.stream.send_all(client.ws.send(BytesMessage(data=b"{}")))
        while await client.frame() is not None:
            pass
        assert client.close_code == 1003
        await client.close()
        stop.set()


async def test_a_silent_or_slow_client_loses_its_socket_and_frees_its_mailbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SILENCE_LIMIT_S", 1.0)
    monkeypatch.setattr(server, "READ_LIMIT_S", 0.3)
    monkeypatch.setattr(server, "PING_S", 0.1)
    async with served(tmp_path) as (world, nodes, port):
        await nodes[NODE].bus.mailboxes.put("alice", "admin")
        lively = await SocketClient.open(port)
        silent = await SocketClient.open(port)  # it answers no ping, since it does not read
        await silent.send({"type": "subscribe", "mailbox": "alice"})
        await silent.expect("subscribed")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lively.expect, "never")  # reading answers the node's pings
            await until_left(nodes, "alice")
            nursery.cancel_scope.cancel()
        await lively.send({"type": "ping"})
        await lively.expect("pong")
        await lively.close()
        monkeypatch.setattr(server, "SILENCE_LIMIT_S", 60.0)  # of sockets that open from now on
        lively = await SocketClient.open(port)  # it does not read while the messages are made
        slow = await SocketClient.open(port)
        for n in range(60):
            await nodes[NODE].bus.accept(
                nodes[NODE].message(
                    performative=Performative.INFORM, receiver=f"alice@{NODE}", content="x" * 200_000 + str(n)
                )
            )
        await slow.send({"type": "subscribe", "mailbox": "alice", "credit": 1000})
        with soon():
            while not world.app.state.sockets.statistics()["sockets_slow"]:
                await lively.send({"type": "ping"})
                await lively.expect("pong")
                await TrioClock().sleep(0.05)
        await until_left(nodes, "alice")
        await eventually(lambda: nodes[NODE].bus.mailboxes.shown("alice")["held"] == 60)
        for client in (lively, silent, slow):
            await client.close()


async def test_a_node_that_stops_says_so() -> None:
    world, stop = World(), trio.Event()
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        client = await SocketClient.open(port)
        await client.expect("welcome")
        stop.set()
        assert await client.frame() is None
        await client.close()
    assert client.close_code == 1001


async def test_sockets_are_bounded_as_streams_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAM_LIMIT", 1)
    world, stop = World(), trio.Event()
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        first = await SocketClient.open(port)
        second = await SocketClient.open(port)
        assert (first.status, second.status) == (101, 429)
        assert (b"retry-after", b"5") in second.headers
        await first.close()
        await second.close()
        stop.set()
