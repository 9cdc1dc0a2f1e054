from __future__ import annotations

from typing import Any

import trio

from node.http.connection import Inlet
from tests.node.http.duplex import Duplex, soon
from tests.node.http.fakes import TrioClock, World
from tests.node.http.test_server import start

DISCONNECT = {"type": "http.disconnect"}


async def put_all(inlet: Inlet, events: list[Any], put: list[Any]) -> None:
    for event in events:
        await inlet.put(event)
        put.append(event)


async def test_a_full_inlet_lets_the_other_end_wait_but_not_the_end_of_the_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inlet, put = Inlet(2), list[Any]()
    pieces = [{"type": "http.request", "body": bytes([n])} for n in range(4)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put_all, inlet, pieces, put)
        await TrioClock().sleep(1)
        assert put == pieces[:2]
        assert await inlet.receive() == pieces[0]
        await TrioClock().sleep(1)
        assert put == pieces[:3]
        await inlet.put(DISCONNECT)
        await TrioClock().sleep(1)
        assert put == pieces  # the last one is dropped: nobody waits for room any more
    assert [await inlet.receive() for _ in range(4)] == [pieces[1], pieces[2], DISCONNECT, DISCONNECT]


async def test_what_comes_for_an_application_that_is_gone_is_dropped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    inlet, put = Inlet(1), list[Any]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put_all, inlet, [{"type": "http.request"}] * 5, put)
        await TrioClock().sleep(1)
        inlet.close()
    assert len(put) == 5


async def test_the_rest_of_a_body_that_was_refused_keeps_no_connection() -> None:
    world, stop = World(), trio.Event()
    async with trio.open_nursery() as nursery:
        port = await start(nursery, world, stop)
        client = await Duplex.open(world, port, "POST", "/messages/stream", token="wrong")
        try:
            for _ in range(100):
                await client.send(b"x" * 60_000)
        except trio.BrokenResourceError:
            pass
        with soon():
            try:
                while await client.stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
        await client.close()
        stop.set()
