from __future__ import annotations

import random

import httpx
import pytest
import trio

from node.errors import AddressInUse
from node.http import server
from node.http.server import serve
from tests.node.http.fakes import ADMIN, TrioClock, World


async def start(nursery: trio.Nursery, world: World, stop: trio.Event, port: int = 0) -> int:
    async def run(task_status: trio.TaskStatus[tuple[str, int]]) -> None:
        await serve(
            world.app,
            host="127.0.0.1",
            port=port,
            environment=world.environment,
            shutdown=stop.wait,
            task_status=task_status,
        )

    _, bound = await nursery.start(run)
    return int(bound)


async def test_a_real_request_is_answered_and_the_end_is_graceful() -> None:
    world, stop = World(), trio.Event()
    world.bus.delay_s = 0.2
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        headers = {"authorization": f"Bearer {ADMIN}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", headers=headers) as client:
            assert (await client.get("/health")).json()["ready"] is True

            async def ask() -> None:
                answer = await client.post("/messages?wait=5", json={"capability": "echo", "content": 1})
                assert answer.json()["reply"]["content"] == {"echo": 1}

            async with trio.open_nursery() as asking:
                asking.start_soon(ask)
                while not world.bus.accepted:
                    await TrioClock().sleep(0.01)
                stop.set()


async def test_a_taken_port_names_its_configuration_key() -> None:
    world, stop = World(), trio.Event()
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        with pytest.raises(AddressInUse) as caught:
            await serve(
                world.app,
                environment=world.environment,
                host="127.0.0.1",
                port=port,
                shutdown=stop.wait,
            )
        stop.set()
    assert caught.value.details["key"] == "server.port"
    assert "server.port" in caught.value.fix


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTION_LIMIT", 2)
    world, stop = World(), trio.Event()
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        kept = [await world.environment.network.connect("127.0.0.1", port) for _ in range(3)]
        with TrioClock().move_on_after(5) as limit:
            assert await kept[-1].receive_some() == b""
        assert not limit.cancelled_caught
        for stream in kept:
            await stream.aclose()
        stop.set()


async def test_garbage_on_the_port_neither_stops_the_node_nor_its_neighbours() -> None:
    world, stop = World(), trio.Event()
    chance = random.Random(5)
    preludes = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n"
            b"Connection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"
        ),
        b"POST /api/v1/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        (
            b"GET /api/v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"
        ),
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01",
        b"",
    ]
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        for number in range(40):
            stream = await world.environment.network.connect("127.0.0.1", port)
            try:
                await stream.send_all(preludes[number % len(preludes)] + chance.randbytes(200))
                with TrioClock().move_on_after(0.02):
                    await stream.receive_some()
            except trio.BrokenResourceError:
                pass
            finally:
                await trio.aclose_forcefully(stream)
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/api/v1/health")).status_code == 200
        stop.set()


async def test_a_client_that_does_not_read_loses_its_connection_and_frees_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "READ_LIMIT_S", 0.05)
    world, stop = World(), trio.Event()
    request = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        stream = await world.environment.network.connect("127.0.0.1", port)
        with TrioClock().move_on_after(10) as limit:
            try:
                while True:
                    await stream.send_all(request * 50)
            except trio.BrokenResourceError:
                pass
            async with world.client() as client:
                while (await client.get("/status")).json()["http"]["in_flight"] > 1:
                    await TrioClock().sleep(0.01)
        assert not limit.cancelled_caught
        await trio.aclose_forcefully(stream)
        stop.set()


async def test_no_second_request_hides_behind_two_lengths() -> None:
    world, stop = World(), trio.Event()
    hidden = b"GET /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n"
    request = (
        b"POST /api/v1/messages HTTP/1.1\r\nHost: x\r\n"
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        stream = await world.environment.network.connect("127.0.0.1", port)
        await stream.send_all(request + hidden)
        answer = b""
        with TrioClock().move_on_after(5) as limit:
            while piece := await stream.receive_some():
                answer += piece
        assert not limit.cancelled_caught
        assert answer[:12] in (b"", b"HTTP/1.1 400")  # the connection may end before its answer is out
        assert answer.count(b"HTTP/1.1 ") <= 1
        await stream.aclose()
        stop.set()
