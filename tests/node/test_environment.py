"""The network looks names up anew each time, random bytes are given out once, and long jobs rest."""

# ruff: noqa: TID251 (names are looked up by a fake that Trio is handed)

import os
import socket
import threading

import pytest
import trio

from node.environment import REST_S, WORK_S, Rests, SystemNetwork, SystemRandomness


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


def test_a_job_rests_when_it_has_worked_for_a_while_and_not_before():
    now_s, slept = 100.0, []
    rest = Rests(lambda: now_s, slept.append)
    rest()
    now_s += WORK_S / 2
    rest()
    assert slept == []
    now_s += WORK_S
    rest()
    rest()
    assert slept == [REST_S]
    now_s += 2 * WORK_S
    rest()
    assert slept == [REST_S, REST_S]


def test_what_is_drawn_many_at_a_time_is_given_out_once_whoever_asks():
    randomness, found = SystemRandomness(), []

    def draw():
        found.extend([randomness.token(8) for _ in range(5_000)])

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(found) == 20_000
    assert {len(each) for each in found} == {8}


def test_a_process_that_is_forked_gives_out_nothing_that_its_parent_does():
    randomness = SystemRandomness()
    randomness.token(8)  # more is drawn than is given out
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, b"".join(randomness.token(8) for _ in range(300)))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        theirs = file.read()
    os.waitpid(child, 0)
    assert len(theirs) == 2_400
    own = {randomness.token(8) for _ in range(300)}
    assert own.isdisjoint({theirs[at : at + 8] for at in range(0, len(theirs), 8)})
