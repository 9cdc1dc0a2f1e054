"""The production network looks names up anew each time, so that a name may lead elsewhere later."""

# ruff: noqa: TID251 (names are looked up by a fake that Trio is handed)

import socket

import pytest
import trio

from node.environment import SystemNetwork


class Names(trio.abc.HostnameResolver):
    """A name service whose one name leads to where the test says."""

    def __init__(self):
        self.addresses, self.asked = [], 0

    async def getaddrinfo(self, host, port, *hints):
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        kinds = (socket.SOCK_STREAM, socket.SOCK_STREAM)  # systems do say things twice
        return [(socket.AF_INET, kind, 0, "", (a, port)) for a in self.addresses for kind in kinds]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


async def test_a_name_is_looked_up_each_time_it_is_asked_for():
    names = Names()
    trio.socket.set_custom_hostname_resolver(names)
    network = SystemNetwork()
    with pytest.raises(OSError, match="no such name"):
        await network.resolve("seed.example", 7946)
    names.addresses = ["10.0.0.1"]
    assert await network.resolve("seed.example", 7946) == [("10.0.0.1", 7946)]
    names.addresses = ["10.0.0.2", "10.0.0.3"]
    assert await network.resolve("seed.example", 7946) == [("10.0.0.2", 7946), ("10.0.0.3", 7946)]
    assert names.asked == 3
    assert await network.resolve("127.0.0.1", 7946) == [("127.0.0.1", 7946)]
