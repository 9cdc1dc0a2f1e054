"""An encrypted stream that gives all that has arrived, over a transport in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from node.environment import system_environment
from node.security import pki
from node.security.identity import NodeCredentials
from node.tls import REFILL_BYTES, TlsStream


class Wire(trio.abc.Stream):
    """One end of a connection in memory that counts reads, and can alter what passes, or let nothing pass."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner
        self.reads = 0
        self.alter: Callable[[bytes], bytes] = bytes
        self.blocked: trio.Event | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.blocked is not None:
            await self.blocked.wait()
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self.reads += 1
        return self.alter(bytes(await self.inner.receive_some(max_bytes)))

    async def aclose(self) -> None:
        await self.inner.aclose()


async def together(*works: Callable[[], Awaitable[object]]) -> None:
    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(work)


async def pair() -> tuple[TlsStream, TlsStream, Wire, Wire]:
    environment = system_environment()
    secrets = pki.new_cluster(environment, "prod")
    alpha, beta = (NodeCredentials.ephemeral(name, environment, secrets=secrets) for name in ("a", "b"))
    left, right = (Wire(each) for each in trio.testing.memory_stream_pair())
    dialler = TlsStream(left, alpha.client_context())
    acceptor = TlsStream(right, beta.server_context(), server_side=True)
    await together(dialler.do_handshake, acceptor.do_handshake)
    return dialler, acceptor, left, right


async def read(stream: TlsStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive_some()
    return data


async def test_both_sides_know_each_other_and_what_is_sent_arrives() -> None:
    dialler, acceptor, _, _ = await pair()
    assert dialler.version() == acceptor.version() == "TLSv1.3"
    assert b"" != dialler.getpeercert() != acceptor.getpeercert()
    sent = bytes(range(256)) * 4_000
    await dialler.send_all(sent)
    await acceptor.send_all(memoryview(sent)[:100])
    assert await read(acceptor, len(sent)) == sent
    assert await read(dialler, 100) == sent[:100]


async def test_one_call_gives_all_records_that_one_read_has_brought() -> None:
    dialler, acceptor, _, right = await pair()
    for _ in range(5):
        await dialler.send_all(b"x" * 20_000)
    right.reads = 0
    assert await acceptor.receive_some() == b"x" * 100_000
    assert right.reads == 1


async def test_no_more_is_given_than_was_asked_for_and_the_rest_needs_no_read() -> None:
    dialler, acceptor, _, right = await pair()
    await dialler.send_all(b"x" * 50_000)
    assert await acceptor.receive_some(30_000) == b"x" * 30_000
    right.reads = 0
    assert await acceptor.receive_some(30_000) == b"x" * 20_000
    assert right.reads == 0
    assert REFILL_BYTES > 50_000


async def test_a_farewell_is_the_end_and_a_cut_is_none() -> None:
    dialler, acceptor, _, _ = await pair()
    await dialler.send_all(b"the last")
    await dialler.aclose()
    assert await acceptor.receive_some() == b"the last"
    assert await acceptor.receive_some() == await acceptor.receive_some() == b""
    dialler, acceptor, left, _ = await pair()
    await dialler.send_all(b"the last")
    await left.aclose()
    assert await acceptor.receive_some() == b"the last"
    with pytest.raises(trio.BrokenResourceError):
        await acceptor.receive_some()


async def test_what_was_altered_on_the_way_is_not_taken_but_what_came_before_is() -> None:
    dialler, acceptor, _, right = await pair()
    await dialler.send_all(b"good")
    await dialler.send_all(b"bad")
    right.alter = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    assert await acceptor.receive_some() == b"good"
    with pytest.raises(trio.BrokenResourceError):
        await acceptor.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await acceptor.send_all(b"and no answer")


async def test_what_two_tasks_send_is_not_mixed() -> None:
    dialler, acceptor, left, _ = await pair()
    left.blocked = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialler.send_all, b"a" * 40_000)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(dialler.send_all, b"b" * 40_000)
        await trio.testing.wait_all_tasks_blocked()
        left.blocked.set()
    assert await read(acceptor, 80_000) == b"a" * 40_000 + b"b" * 40_000


async def test_nothing_follows_a_send_that_was_cut_off() -> None:
    dialler, _, left, _ = await pair()
    left.blocked = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialler.send_all, b"a" * 40_000)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    left.blocked = None
    with pytest.raises(trio.BrokenResourceError):
        await dialler.send_all(b"b")


async def test_a_handshake_with_a_stranger_fails_and_says_why() -> None:
    environment = system_environment()
    ours, theirs = (pki.new_cluster(environment, "prod") for _ in range(2))
    left, right = trio.testing.memory_stream_pair()
    dialler = TlsStream(left, NodeCredentials.ephemeral("a", environment, secrets=ours).client_context())
    acceptor = TlsStream(
        right, NodeCredentials.ephemeral("b", environment, secrets=theirs).server_context(), server_side=True
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_fails, acceptor)
        with pytest.raises(trio.BrokenResourceError) as raised:
            await dialler.do_handshake()
        assert "certificate" in str(raised.value.__cause__).lower()
        await dialler.aclose()


async def _fails(stream: TlsStream) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await stream.do_handshake()
