"""Links over real loopback sockets with real TLS."""

from __future__ import annotations

import dataclasses

import pytest
import trio

from node.environment import SystemClock, SystemNetwork, system_environment
from node.errors import AddressInUse, ConfigInvalid
from node.security import pki
from node.security.identity import NodeCredentials
from node.transport.links import Links
from tests.node.transport.peers import Room, item, until

HOST = "127.0.0.1"


class Pair:
    """Two nodes; the second may belong to another cluster."""

    def __init__(self, *, same_cluster: bool = True) -> None:
        self.environment = system_environment()
        ours = pki.new_cluster(self.environment, "one")
        theirs = ours if same_cluster else pki.new_cluster(self.environment, "one")
        self.addresses: dict[str, tuple[str, int]] = {}
        self.alpha, self.beta = self._room("alpha", ours), self._room("beta", theirs)

    def _room(self, name: str, secrets: pki.ClusterSecrets) -> Room:
        room = Room(name)
        room.links = Links(
            environment=self.environment,
            credentials=NodeCredentials.ephemeral(name, self.environment, secrets=secrets),
            resolve=self.addresses.get,
            handler=room,
        )
        return room

    async def start(self, nursery: trio.Nursery) -> None:
        for name, room in (("alpha", self.alpha), ("beta", self.beta)):
            self.addresses[name] = await nursery.start(room.links.run, HOST, 0)


async def test_messages_cross_tls_both_ways() -> None:
    pair = Pair()
    async with trio.open_nursery() as nursery:
        await pair.start(nursery)
        pair.alpha.send("beta", *(item(n, 3000) for n in range(600)))
        pair.beta.send("alpha", item(1), item(2, 2_000_000))
        await until(lambda: not pair.alpha.outbox and not pair.beta.outbox, SystemClock())
        assert pair.beta.arrivals == [item(n).key for n in range(600)]
        assert len(pair.alpha.arrivals) == 2
        nursery.cancel_scope.cancel()


async def test_a_node_of_another_cluster_gets_no_link() -> None:
    pair = Pair(same_cluster=False)
    async with trio.open_nursery() as nursery:
        await pair.start(nursery)
        pair.alpha.send("beta", item(1))
        await until(lambda: pair.alpha.links.statistics()["rejects"]["tls"], SystemClock())
        await until(lambda: pair.beta.links.statistics()["rejects"]["tls"], SystemClock())
        assert pair.alpha.events == []
        assert pair.beta.arrivals == []
        nursery.cancel_scope.cancel()


async def test_garbage_on_the_port_is_counted_and_the_node_goes_on() -> None:
    pair = Pair()
    async with trio.open_nursery() as nursery:
        await pair.start(nursery)
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\x00" * 100, b""):
            stream = await SystemNetwork().connect(*pair.addresses["beta"])
            if garbage:
                await stream.send_all(garbage)
            await stream.aclose()
        await until(lambda: pair.beta.links.statistics()["rejects"]["tls"] == 3, SystemClock())
        pair.alpha.send("beta", item(1))
        await until(lambda: not pair.alpha.outbox, SystemClock())
        nursery.cancel_scope.cancel()


async def test_a_taken_port_is_named() -> None:
    pair = Pair()
    async with trio.open_nursery() as nursery:
        await pair.start(nursery)
        port = pair.addresses["alpha"][1]
        with pytest.raises(AddressInUse, match=f"port {port}.*cluster.link_port"):
            await pair.beta.links.run(HOST, port)
        with pytest.raises(ConfigInvalid, match="cannot listen"):
            await pair.beta.links.run("192.0.2.1", 0)
        nursery.cancel_scope.cancel()


async def test_a_rotated_certificate_is_used_by_the_next_link() -> None:
    pair = Pair()
    credentials = pair.alpha.links._credentials
    async with trio.open_nursery() as nursery:
        await pair.start(nursery)
        first = credentials.leaf()
        credentials._leaf = dataclasses.replace(pki.issue_leaf(credentials._material, pair.environment))
        credentials._contexts.clear()
        assert credentials.leaf() != first
        pair.alpha.send("beta", item(1))
        await until(lambda: not pair.alpha.outbox, SystemClock())
        nursery.cancel_scope.cancel()
