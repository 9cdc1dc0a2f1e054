"""Bad input of every kind: a clear error or a counted drop; the node stays up with all it had accepted."""

import contextlib
import json
import os
import random
import socket
import ssl

import httpx
import pytest

from tests.acceptance.agents import ECHO, scripted, write_worker
from tests.acceptance.processes import caxton, eventually

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def pair(shared_cluster, tmp_path_factory):
    """Two nodes; the second one has an echo and a worker."""
    files = tmp_path_factory.mktemp("agents")
    a, b = shared_cluster.start("a", "b", settings=scripted(files))
    b.deploy(ECHO)
    b.deploy(write_worker(files))
    shared_cluster.wait_for_providers([a, b], echo=["b"], slow_work=["b"])
    return a, b


@pytest.fixture
def accepted(pair):
    """Work that was accepted before the bad input, and has to be answered after it."""
    a, b = pair
    ids = [a.send("slow-work", number)["message_id"] for number in range(24)]
    yield ids
    for message_id in ids:
        eventually(lambda message_id=message_id: a.message(message_id)["status"] == "settled", within=30)
    assert a.alive() == b.alive() == ["a", "b"]
    assert a.request("echo", "still here")["reply"]["performative"] == "inform"


# Starting


def _refused(node, *arguments, exit_status, settings=()):
    """What a node says that must not start."""
    node.log.unlink(missing_ok=True)
    node.start(wait=False, arguments=arguments, settings=settings)
    assert node.wait_end() == exit_status, node.log_text()
    return node.log_text()


@pytest.mark.parametrize("key", ["server.port", "cluster.bind_port", "cluster.link_port"])
def test_a_port_in_use_is_named_with_its_key(cluster, key):
    [node] = cluster.add("a")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", node.ports[key]))
        holder.listen()
        text = _refused(node, exit_status=3)
    assert str(node.ports[key]) in text
    assert f"set {key}" in text
    node.start()  # and with the port free again, it starts


def test_a_gossip_port_that_is_taken_for_udp_only_is_named_too(cluster):
    [node] = cluster.add("a")
    with socket.socket(type=socket.SOCK_DGRAM) as holder:
        holder.bind(node.gossip_address)
        assert "set cluster.bind_port" in _refused(node, exit_status=3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server:\n  prot: 8080\n", ["node.yaml:2:3", "server.prot", "did you mean 'port'"]),
        ("messaging:\n  queue_size: many\n", ["node.yaml:2:3", "messaging.outbox_capacity"]),
        ("server: [\n", ["node.yaml:2"]),
        ("clutser:\n  profile: lan\n", ["node.yaml:1:1", "clutser", "did you mean 'cluster'"]),
        ("cluster:\n  seeds: [10.0.0.5]\n", ["node.yaml:2", "cluster.seeds", "host:port"]),
    ],
)
def test_an_invalid_configuration_is_told_by_file_line_and_key(cluster, text, said):
    [node] = cluster.add("a")
    (node.bundle / "node.yaml").write_text(text)
    told = _refused(node, exit_status=2)
    assert [part for part in said if part not in told] == [], told


def test_a_configuration_that_cannot_be_read_is_told_by_its_path(cluster, tmp_path):
    [node] = cluster.add("a")
    missing = tmp_path / "none.yaml"
    done = caxton("start", "--config", missing, home=node.home, check=False)
    assert done.returncode == 2
    assert str(missing) in done.stderr
    (node.bundle / "node.yaml").write_bytes(b"\xff\xfe\x00server")
    assert "node.yaml" in _refused(node, exit_status=2)


# Seeds


def _warnings_of_seed(node, seed):
    return [event for event in node.get("/cluster/status")["events"] if event.get("seed") == seed]


def test_an_unreachable_seed_is_tried_until_it_is_there(cluster):
    a, b = cluster.add("a", "b")
    a.start(b)
    eventually(lambda: len(_warnings_of_seed(a, b.gossip)) >= 3)
    assert f"seed {b.gossip}" in a.log_text()
    assert a.get("/cluster/status")["joined"] is False
    assert b.gossip in caxton("status", "--cluster", "--node", "a", home=a.home).stdout
    b.start()
    cluster.wait_for_each_other(a, b)
    assert a.get("/cluster/status")["joined"] is True


def test_a_seed_that_speaks_another_protocol_is_said_to(cluster):
    a, b = cluster.add("a", "b")
    b.start()
    wrong = b.url.removeprefix("http://")
    a.start(wrong)
    eventually(lambda: len(_warnings_of_seed(a, wrong)) >= 2)
    assert f"seed {wrong}" in a.log_text()
    assert a.alive() == ["a"]
    assert b.alive() == ["b"]


# The admin API


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"capability": "echo", "content"', 400, "JSON"),
        (b"\xff\xfe", 400, "JSON"),
        (b"[]", 400, "object"),
        (b'{"capability": "echo", "receiver": "b"}', 400, "exactly one"),
        (b'{"capabilty": "echo"}', 400, "capability"),
        (b'{"capability": "echo", "performative": "reqest"}', 400, "'request'"),
        (b'{"capability": "Echo!"}', 400, "kebab-case"),
        (b'{"capability": "echo", "routing_strategy": "best_mach"}', 400, "best_match"),
        (b'{"capability": "echo", "priority": "high"}', 400, "priority"),
        (b"[" * 100_000, 400, "JSON"),
    ],
)
def test_a_malformed_message_is_refused_with_the_reason(pair, body, status, said):
    a, _ = pair
    answer = a.client.post("/messages", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert found["code"] == found["error"]["code"]
    assert said in answer.text


def test_a_message_above_the_limit_is_refused_and_one_below_it_travels(pair):
    a, _ = pair
    answer = a.client.post("/messages", json={"capability": "echo", "content": "x" * (2 * MEBIBYTE)})
    assert answer.status_code == 413
    assert answer.json()["code"] == "MESSAGE_TOO_LARGE"
    answer = a.client.post("/messages", content=b"x" * (9 * MEBIBYTE))
    assert answer.status_code == 413
    assert answer.json()["code"] == "REQUEST_TOO_LARGE"
    large = a.request("echo", "x" * (MEBIBYTE // 2))
    assert large["routed_to"] == ["echo-agent@b"]


def test_an_unknown_capability_is_answered_with_failure_and_its_relatives(pair):
    a, _ = pair
    answer = a.client.get("/capabilities/eco")
    assert answer.status_code == 404
    assert answer.json()["details"]["related"] == [{"capability": "echo", "agents_count": 1}]


@pytest.mark.parametrize(
    ("front", "place", "said"),
    [
        ("name: Broken\ncapabilities: [one\ntools: []", (4, 6), "syntax"),
        ("name: Broken\ncapabilites: [one]\ntools: []\nsystem_prompt: x", (3, 1), "capabilities"),
        (
            "name: Broken\nversion: newest\ncapabilities: [one]\ntools: []\nsystem_prompt: x",
            (3, 10),
            "version",
        ),
    ],
)
def test_broken_front_matter_is_told_by_line_and_column(pair, tmp_path, front, place, said):
    a, _ = pair
    path = tmp_path / "broken.md"
    path.write_text(f"---\n{front}\n---\n")
    done = caxton(
        "deploy", path, "--api", a.url, "--token", a.cluster.token, "--json", home=tmp_path, check=False
    )
    assert done.returncode == 2
    problems = json.loads(done.stdout)["details"]["problems"]
    [found] = [problem for problem in problems if (problem["line"], problem["column"]) == place] or problems
    assert said in str(found)
    assert "broken" not in str(a.get("/agents")).lower()


# Garbage on the ports


def _drops(node):
    """How many packets and streams were dropped by membership, for whatever reason."""
    swim = node.get("/status")["membership"]["swim"]
    return sum(
        count
        for name, count in swim.items()
        if name.startswith(("dropped_", "streams_timed", "streams_over"))
    )


def _link_rejects(node):
    return sum(node.get("/status")["rooms"]["links"]["rejects"].values())


def _garbage(seed):
    chance = random.Random(seed)
    sizes = [0, 1, 2, 28, 29, 64, 500, 1399, 1400, 1401, 9000]
    return [chance.randbytes(chance.choice(sizes)) for _ in range(400)]


def test_garbage_datagrams_are_counted_and_dropped(pair, accepted):
    _, b = pair
    before = _drops(b)
    with socket.socket(type=socket.SOCK_DGRAM) as attacker:

        def flood():
            """Some are lost in full socket buffers, so it goes on until enough have been counted."""
            for packet in _garbage(1):
                attacker.sendto(packet, b.gossip_address)
            return _drops(b) >= before + 1000

        eventually(flood)


def test_garbage_on_gossip_streams_is_counted_and_dropped(pair, accepted):
    _, b = pair
    before = _drops(b)
    openings = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 8,
        b"\x00" * 64,
        (65_000).to_bytes(4, "big") + os.urandom(65_000),
    ]
    for opening in openings * 3:
        with socket.create_connection(b.gossip_address) as attacker, contextlib.suppress(OSError):
            attacker.sendall(opening)
            attacker.shutdown(socket.SHUT_WR)
            attacker.settimeout(10)
            while attacker.recv(4096):
                pass
    eventually(lambda: _drops(b) >= before + 9)


def test_garbage_on_the_link_port_is_counted_and_dropped(pair, accepted):
    _, b = pair
    before = _link_rejects(b)
    hello = _client_hello()
    openings = [os.urandom(300), b"GET / HTTP/1.1\r\n\r\n", hello, hello[:50] + os.urandom(200)]
    for opening in openings * 3:
        with socket.create_connection(b.link_address) as attacker, contextlib.suppress(OSError):
            attacker.sendall(opening)
            attacker.shutdown(socket.SHUT_WR)
            attacker.settimeout(10)
            while attacker.recv(4096):
                pass
    eventually(lambda: _link_rejects(b) >= before + len(openings) * 3)


def _client_hello():
    """The first flight of a proper TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="b")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@contextlib.contextmanager
def half_open(port, number):
    """So many connections that say nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        yield


@pytest.mark.parametrize("key", ["server.port", "cluster.bind_port", "cluster.link_port"])
def test_two_hundred_half_open_connections_disturb_nobody(pair, accepted, key):
    a, b = pair
    with half_open(b.ports[key], 200):
        assert a.request("echo", "among the silent")["reply"]["performative"] == "inform"
        eventually(lambda: httpx.get(f"{b.url}/api/v1/health", timeout=20).status_code == 200)


def test_half_open_connections_are_given_up_so_that_a_newcomer_gets_in(cluster):
    """The newcomer joins by a gossip stream and opens a link, though both ports were full of the silent."""
    a, b = cluster.add("a", "b")
    b.start()
    b.deploy(ECHO)
    with half_open(b.ports["cluster.bind_port"], 60), half_open(b.ports["cluster.link_port"], 200):
        a.start(b)
        cluster.wait_for_each_other(a, b)
        cluster.wait_for_providers([a], echo=["b"])
        assert a.request("echo", 1)["reply"]["performative"] == "inform"
