"""Who does not belong is kept out; what was altered by one byte is dropped, counted and without effect."""

import json
import shutil
import socket
import ssl
from contextlib import asynccontextmanager

import cbor2
import httpx
import pytest
import trio

from node.cli.deploy import deployment
from node.environment import system_environment
from node.message import Envelope, Message
from node.security.identity import NodeCredentials, SecurityPaths
from node.telemetry.version import software_version
from node.transport.frames import PROTOCOL_VERSION, DeliverItem, Goodbye, Hello, Received, Welcome, encode
from node.transport.handler import LinkCounters, LinkLimits
from node.transport.proof import sign_deliver
from node.transport.session import FrameChannel
from node.vocabulary import Performative
from swim import anti_entropy, driver, units
from swim.config import SwimConfig
from swim.messages import MapFrame
from swim.protocol import Swim
from swim.replicated import Replicated
from tests.acceptance.agents import ECHO
from tests.acceptance.processes import Cluster, caxton, eventually

ENVIRONMENT = system_environment()


def credentials_of(node):
    return NodeCredentials.load(SecurityPaths.of_bundle(node.bundle), ENVIRONMENT)


def link_rejects(node):
    return node.get("/status")["rooms"]["links"]["rejects"]


async def in_time(question, within=20.0):
    """The first true answer to ``question``, asked from a thread so that the rogue goes on meanwhile."""
    return await trio.to_thread.run_sync(lambda: eventually(question, within=within))


# One byte


class RoguePeer:
    """A node that the cluster has certified, and that speaks on a link by itself."""

    def __init__(self, credentials, channel):
        self.credentials, self.channel = credentials, channel

    @classmethod
    @asynccontextmanager
    async def dial(cls, credentials, node):
        stream = await ENVIRONMENT.network.connect(*node.link_address)
        secure = await ENVIRONMENT.network.secure_client(stream, credentials)
        assert credentials.verify_peer(secure.peer_leaf, node.name) == node.name
        channel = FrameChannel(
            secure.stream, clock=ENVIRONMENT.clock, limits=LinkLimits(), counters=LinkCounters()
        )
        await channel.send(encode(Hello(PROTOCOL_VERSION, credentials.name, "storage", "boot")))
        assert isinstance(await channel.receive(), Welcome)
        try:
            yield cls(credentials, channel)
        finally:
            await channel.aclose()

    def frame(self, node):
        """A proper Deliver, encoded."""
        identifier = ENVIRONMENT.new_id()
        message = Message(
            id=identifier,
            performative=Performative.REQUEST,
            sender=f"client@{self.credentials.name}",
            receiver=f"echo-agent@{node.name}",
            content="transfer 100 to alice",
            conversation_id=identifier,
            reply_with=identifier,
        )
        item = DeliverItem(Envelope(target="echo-agent"), identifier, message.seal())
        return identifier, encode(sign_deliver(self.credentials.identity, node.name, [item]))


async def test_a_frame_altered_by_one_byte_is_rejected(cluster):
    a, rogue = cluster.add("a", "rogue")
    a.start()
    a.deploy(ECHO)
    credentials = credentials_of(rogue)

    async with RoguePeer.dial(credentials, a) as peer:
        honest, frame = peer.frame(a)
        await peer.channel.send(frame)
        assert isinstance(await peer.channel.receive(), Received)
        await in_time(lambda: a.message(honest)["received"][0]["state"] == "settled")

    before = link_rejects(a)
    altered = []
    # A byte of the content, of the receiver, of the sender, and of the signature, which comes last.
    for text in (b"transfer 100", b"echo-agent@a", b"client@rogue", b""):
        async with RoguePeer.dial(credentials, a) as peer:
            identifier, frame = peer.frame(a)
            at = frame.index(text) + len(text) - 1 if text else len(frame) - 1
            await peer.channel.send(frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :])
            assert isinstance(await peer.channel.receive(), Goodbye)
            altered.append(identifier)

    after = await in_time(lambda: (r := link_rejects(a))["signature"] >= before["signature"] + 4 and r)
    assert after["signature"] == before["signature"] + 4
    assert [a.client.get(f"/messages/{identifier}").status_code for identifier in altered] == [404] * 4
    assert a.request("echo", 1)["reply"]["performative"] == "inform"


def altered(unit, at, flip=1):
    return unit[:at] + bytes([unit[at] ^ flip]) + unit[at + 1 :]


def read_unit(data):
    try:
        return units.decode(data, max_bytes=2000)
    except ValueError:
        return None


def ranked_higher(unit):
    """Alterations of one bit that claim to be newer; an older one is dropped before its signature is read."""
    held = read_unit(unit)
    changed = [altered(unit, at, 1 << bit) for at in range(len(unit)) for bit in range(8)]
    newer = [
        data
        for bucket, data in ((read_unit(data), data) for data in changed)
        if isinstance(bucket, units.Bucket)
        and (bucket.credential, bucket.entries) == (held.credential, held.entries)
        and (bucket.generation, bucket.version) > (held.generation, held.version)
    ]
    assert newer
    return newer[:8]


async def test_a_registry_entry_altered_by_one_byte_is_rejected(cluster):
    a, b, c = cluster.start("a", "b", "c")
    b.deploy(ECHO)
    cluster.wait_for_providers([a, c], echo=["b"])
    [rogue] = cluster.add("rogue")
    credentials = credentials_of(rogue)
    randomness = ENVIRONMENT.randomness
    maps = Replicated(
        credentials.identity, credentials.authority, rng=randomness.stream("maps"), entropy=randomness.token
    )
    swim = Swim(
        SwimConfig.profile("local", label=credentials.cluster),
        credentials.identity,
        credentials.authority,
        ("127.0.0.1", 0),
        cbor2.dumps([rogue.ports["cluster.link_port"], software_version()]),
        maps,
        randomness.stream("swim"),
        entropy=randomness.token,
        gossip_keys=credentials.gossip_keys,
    )

    def maps_of(node):
        return node.get("/status")["membership"]["maps"]

    def the_entry():
        found = [unit for unit in maps.export() if b"agent/echo-agent" in unit]
        return found[0] if found else None

    async with trio.open_nursery() as nursery:

        def learn(_event):
            for member in swim.members():
                maps.admit_owner(member.name, ENVIRONMENT.clock.wall())

        def start_driver(task_status):
            return driver.run_swim(
                swim,
                network=ENVIRONMENT.network,
                clock=ENVIRONMENT.clock,
                bind=("127.0.0.1", 0),
                on_event=learn,
                task_status=task_status,
            )

        async def run(*, task_status):
            await start_driver(task_status)

        handle = await nursery.start(run)
        handle.join([a.gossip])
        await in_time(lambda: "rogue" in a.alive() and "rogue" in c.alive())
        unit = await in_time(the_entry)
        before = {node.name: (maps_of(node), node.get("/capabilities")) for node in (a, c)}

        higher = ranked_higher(unit)
        forged = higher + [altered(unit, at) for at in range(0, len(unit), 7)]
        for data in forged:
            frame = maps._repair._frame(anti_entropy.PUSH, [data])
            for node in (a, c):
                swim.send_to(node.gossip_address, [MapFrame(frame)], None)
            handle.wake()
            await trio.sleep(0.01)

        def dropped(node):
            counts, earlier = maps_of(node), before[node.name][0]
            names = [n for n in counts if n.startswith("dropped_") and n != "dropped_held"]
            return sum(counts[name] - earlier.get(name, 0) for name in names)

        for node in (a, c):
            await in_time(lambda node=node: dropped(node) >= len(forged))
            assert maps_of(node)["dropped_bad_signature"] >= len(higher)
            assert _offers(node.get("/capabilities")) == _offers(before[node.name][1])
        nursery.cancel_scope.cancel()
    assert a.request("echo", 1)["reply"]["sender"] == "echo-agent@b"


def _offers(shown):
    return [
        (entry["capability"], provider["agent"], provider["node"], provider["version"])
        for entry in shown["capabilities"]
        for provider in entry["providers"]
    ]


# Strangers


@pytest.mark.parametrize("knows_gossip_key", [False, True], ids=["other-key", "same-name-and-gossip-key"])
def test_a_node_of_another_cluster_neither_joins_nor_links(cluster, other_cluster, knows_gossip_key):
    a, b = cluster.start("a", "b")
    b.deploy(ECHO)
    cluster.wait_for_providers([a], echo=["b"])
    if knows_gossip_key:
        name = json.loads(
            caxton("init", cluster.directory, "--node", "z", "--json", home=cluster.home).stdout
        )
        shutil.rmtree(other_cluster.directory)
        caxton("init", other_cluster.directory, "--cluster", cluster_name(cluster), home=other_cluster.home)
        shutil.copy(cluster.directory / "gossip.key", other_cluster.directory / "gossip.key")
        assert name["cluster"] == cluster_name(other_cluster)
        other_cluster.token = (other_cluster.directory / "admin.token").read_text().strip()
    [stranger] = other_cluster.add("stranger")
    before = sum_of_drops(a)
    stranger.start(a)
    eventually(lambda: sum_of_drops(a) > before)
    eventually(lambda: f"seed {a.gossip}" in stranger.log_text() or stranger.get("/cluster/status")["joined"])
    assert stranger.alive() == ["stranger"]
    assert a.alive() == b.alive() == ["a", "b"]
    assert stranger.providers("echo") == []

    context = credentials_of(stranger).client_context()
    assert _is_refused(a, context)
    assert a.request("echo", 1)["reply"]["sender"] == "echo-agent@b"


def cluster_name(cluster: Cluster):
    return (cluster.directory / "cluster.yaml").read_text().partition("cluster:")[2].split()[0].strip("\"'")


def sum_of_drops(node):
    swim = node.get("/status")["membership"]["swim"]
    return sum(count for name, count in swim.items() if name.startswith("dropped_"))


def _is_refused(node, context):
    """Whether a link with this TLS context is refused, and counted as such."""
    before = link_rejects(node)["tls"]
    refused = False
    try:
        with (
            socket.create_connection(node.link_address, timeout=10) as raw,
            context.wrap_socket(raw) as stream,
        ):
            stream.sendall(encode(Hello(PROTOCOL_VERSION, "stranger", "storage", "boot")))
            refused = stream.recv(1) == b""
    except (ssl.SSLError, ConnectionError):
        refused = True
    eventually(lambda: link_rejects(node)["tls"] > before)
    return refused


def test_a_link_without_a_certificate_is_refused(cluster):
    [a] = cluster.start("a")
    context = ssl.create_default_context(cafile=str(cluster.directory / "ca.crt"))
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    assert _is_refused(a, context)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert _is_refused(a, old), "nothing below TLS 1.3"


def test_the_admin_api_wants_a_token_of_this_cluster(cluster, other_cluster):
    [a] = cluster.start("a")
    with httpx.Client(base_url=a.client.base_url) as nobody:
        assert nobody.get("/health").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-Caxton-Token": other_cluster.token}):
            for method, path in (
                ("GET", "/status"),
                ("POST", "/messages"),
                ("POST", "/shutdown"),
                ("GET", "/none"),
            ):
                answer = nobody.request(method, path, headers=headers)
                assert answer.status_code == 401, (method, path, answer.text)
                assert answer.json()["code"] == "UNAUTHORIZED"
                assert answer.headers["www-authenticate"].startswith("Bearer")
    done = caxton("status", "--api", a.url, "--token", "wrong", home=a.home, check=False)
    assert done.returncode == 4
    assert "admin.token" in done.stderr
    assert a.get("/status")["rooms"]["security"]["refused"] >= 12


# What must not start


@pytest.mark.parametrize("key", ["server.host", "cluster.bind_host"])
def test_nothing_listens_beyond_loopback_without_security_material(tmp_path, key):
    done = caxton("start", "--set", f"{key}=0.0.0.0", "--json", home=tmp_path, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["code"] == "INSECURE_LISTENER"
    assert key in done.stderr
    assert "caxton init" in done.stderr


def test_a_second_process_on_the_same_data_directory_is_refused(cluster):
    [a] = cluster.start("a")
    ports = [("--set", f"{key}=0") for key in a.ports]
    command = [
        "start",
        "--config",
        a.bundle / "node.yaml",
        *(part for pair in ports for part in pair),
        "--json",
    ]
    done = caxton(*command, home=a.home, check=False)
    assert done.returncode == 3
    assert json.loads(done.stdout)["code"] == "DATA_DIRECTORY_IN_USE"
    assert str(a.data_dir) in done.stderr
    assert a.get("/health")["status"] == "healthy"


def test_of_two_processes_with_one_identity_one_stops_and_says_why(cluster):
    a, b = cluster.start("a", "b")
    twin = type(b)(cluster, "b-twin")
    cluster.nodes["b-twin"] = twin
    shutil.copytree(b.bundle, twin.bundle, ignore=shutil.ignore_patterns("data"))
    twin.start(a, wait=False)
    loser = eventually(lambda: next((n for n in (b, twin) if not n.running), None), within=30)
    assert loser.wait_end() == 5, loser.log_text()
    assert "caxton init" in loser.log_text()
    winner = twin if loser is b else b
    assert winner.running
    eventually(lambda: a.alive() == ["a", "b"])


@pytest.mark.parametrize(
    "foreign",
    [["node.crt", "node.key"], ["node.crt", "node.key", "node.credential"], ["node.credential"], ["ca.crt"]],
)
def test_material_of_another_cluster_in_the_bundle_is_refused_at_the_start(cluster, other_cluster, foreign):
    [a] = cluster.add("a")
    [x] = other_cluster.add("a")
    for name in foreign:
        shutil.copy(x.bundle / name, a.bundle / name)
    a.start(wait=False, arguments=["--json"])
    assert a.wait_end() == 2
    assert "SECURITY_MATERIAL_INVALID" in a.log_text()
    assert "bundle" in a.log_text()


def test_a_node_of_a_cluster_takes_no_module_that_is_not_signed(cluster):
    [a] = cluster.start("a")
    refused = a.post("/agents", deployment(ECHO), expect=(403,))
    assert (refused["code"], refused["details"]["reason"]) == ("ARTIFACT_UNTRUSTED", "unsigned")
    a.deploy(ECHO)  # signed by the cluster's authority
    assert a.request("echo", "hello")["reply"]["content"]["echo"] == "hello"
