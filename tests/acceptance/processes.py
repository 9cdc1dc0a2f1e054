"""Real node processes on loopback, driven only by what a user has: the command line and the admin API.

Ports are chosen by the tests, outside of the range from which the system takes ports for outgoing
connections: so a node that was killed comes back under its own addresses, and nodes can be told of seeds that
are not there yet.
"""

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from node.cli.deploy import deployment

CAXTON = [sys.executable, "-P", "-m", "node.cli.main"]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
READY_S = 40.0
STOP_S = 30.0
LOG_TAIL_CHARACTERS = 6000
PORTS = range(20_000, 32_000)
"""Below the ports that Linux and macOS take for outgoing connections (from 32768 and 49152 on)."""

PORTS_OF_A_BLOCK = 100

_locks = []
"""Of the blocks whose ports this process hands out: nobody else does as long as it lives."""


def _own_ports():
    """Ports that no other process of tests hands out, also while the nodes that will take them do not run."""
    folder = Path(tempfile.gettempdir()) / f"caxton-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for first in random.sample(PORTS[::PORTS_OF_A_BLOCK], len(PORTS) // PORTS_OF_A_BLOCK):
        lock = (folder / str(first)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _locks.append(lock)
        yield from range(first, first + PORTS_OF_A_BLOCK)


_ports = _own_ports()


def free_port() -> int:
    """A port that is free for TCP and UDP on loopback, and that nothing takes by chance."""
    for port in _ports:
        with (
            socket.socket() as tcp,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
            contextlib.suppress(OSError),
        ):
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no port is left of {PORTS}")


def clean_environment(home, **more):
    """The environment of a user whose home is ``home`` and who has set nothing of Caxton's."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("CAXTON_", "XDG_", "COVERAGE_"))
    }
    return kept | {"HOME": str(home), "XDG_STATE_HOME": str(Path(home) / "state"), **more}


def caxton(*arguments, home, check=True, timeout=60, stdin=None, **environment):
    """Run one command to its end."""
    done = subprocess.run(
        [*CAXTON, *map(str, arguments)],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=timeout,
        env=clean_environment(home, **environment),
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"caxton {arguments} exited with {done.returncode}: {done.stdout}{done.stderr}")
    return done


def has_crashed(log):
    """Whether a log tells of something that must not happen, whatever the input."""
    return any(sign in log for sign in ("Traceback", "this is a bug in Caxton"))


def eventually(question, *, within=20.0, every=0.05):
    """The first true answer to ``question``; fails with the last answer when there is none in time."""
    deadline = time.monotonic() + within
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {within} s: {question.__doc__ or question} last said {answer!r}"
            )
        time.sleep(every)


class Node:
    """One node: its bundle, its ports, and its process while it runs."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        self.bundle = cluster.directory / "nodes" / name
        self.home = cluster.directory / "homes" / name
        self.home.mkdir(parents=True)
        self.data_dir = self.bundle / "data"
        self.log = self.home / "node.log"
        self.ports = {
            "server.port": free_port(),
            "cluster.bind_port": free_port(),
            "cluster.link_port": free_port(),
        }
        self.settings = {}
        self.command = CAXTON
        self.process = None
        self.client = httpx.Client(
            base_url=f"{self.url}/api/v1", headers={"Authorization": f"Bearer {cluster.token}"}, timeout=60
        )

    # Where it is

    @property
    def url(self):
        return f"http://127.0.0.1:{self.ports['server.port']}"

    @property
    def gossip(self):
        """The address of membership, as a seed is written."""
        return f"127.0.0.1:{self.ports['cluster.bind_port']}"

    @property
    def gossip_address(self):
        return ("127.0.0.1", self.ports["cluster.bind_port"])

    @property
    def link_address(self):
        return ("127.0.0.1", self.ports["cluster.link_port"])

    # Life

    def start(self, *seeds, wait=True, settings=(), arguments=()):
        """Start the process.

        Args:
            seeds: Nodes, or texts as ``--seed`` takes them.
            wait: Whether to return only when it is ready.
            settings: (key, value) pairs for ``--set``, kept for later starts; they win over all else.
            arguments: More of the command line.
        """
        assert not self.running, f"{self.name} runs already"
        self.ready_file.unlink(missing_ok=True)
        self.settings |= dict(settings)
        values = {**self.ports, "cluster.profile": "local", **self.settings}
        options = [option for seed in seeds for option in ("--seed", getattr(seed, "gossip", seed))]
        options += [option for key, value in values.items() for option in ("--set", f"{key}={value}")]
        command = ["start", "--config", self.bundle / "node.yaml", "--ready-file", self.ready_file]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, *map(str, [*command, *options, *arguments])],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=clean_environment(self.home),
            )
        if wait:
            self.wait_ready()
        return self

    @property
    def ready_file(self):
        return self.home / "ready.json"

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def wait_ready(self):
        def is_ready():
            assert self.running, f"{self.name} exited with {self.process.returncode}: {self.log_text()}"
            return self.ready_file.exists()

        eventually(is_ready, within=READY_S)
        return json.loads(self.ready_file.read_text())

    def wait_end(self):
        """Wait for the process to end by itself; returns its exit status."""
        return self.process.wait(READY_S)

    def stop(self):
        """Let it leave, as Ctrl-C or a service manager would."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(STOP_S) == 0, self.log_text()

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # The admin API

    def get(self, path, **parameters):
        answer = self.client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path, body=None, *, expect=(200, 201, 202), **parameters):
        answer = self.client.post(path, json=body, params=parameters)
        assert answer.status_code in expect, answer.text
        return answer.json()

    def send(self, capability, content=None, **fields):
        """Send a request without waiting for its reply; returns the receipt."""
        return self.post("/messages", {"capability": capability, "content": content, **fields}, expect=(202,))

    def request(self, capability, content=None, *, wait_s=30.0, **fields):
        """Send a request and wait for its reply; returns the receipt with the reply."""
        body = {"capability": capability, "content": content, "wait_s": wait_s, **fields}
        return self.post("/messages", body, expect=(200,))

    def message(self, message_id):
        return self.get(f"/messages/{message_id}")

    def deploy(self, file):
        """Deploy an agent file with what it names, as ``caxton deploy`` does; a module is signed before."""
        body = deployment(file)
        if "artifacts" in body:
            body = deployment(self.cluster.signed(Path(file)))
        return self.post("/agents", body, expect=(201,))

    def members(self):
        """Name -> state of every member that this node knows."""
        return {member["name"]: member["state"] for member in self.get("/cluster/members")["members"]}

    def alive(self):
        return sorted(name for name, state in self.members().items() if state == "alive")

    def providers(self, capability):
        """The nodes that offer a capability, as this node sees it."""
        found = {entry["capability"]: entry for entry in self.get("/capabilities")["capabilities"]}
        return sorted(provider["node"] for provider in found.get(capability, {"providers": []})["providers"])


class Cluster:
    """Node processes of one cluster, ended at the end of the test whatever happens."""

    def __init__(self, directory):
        self.directory = directory
        self.home = directory.with_name(directory.name + "-home")
        self.home.mkdir()
        self.nodes = {}
        caxton("init", directory, home=self.home)
        self.token = (directory / "admin.token").read_text().strip()

    def signed(self, file):
        """A copy of an agent file with its module, signed by the cluster's authority as its owner does it."""
        copies = self.home / "signed"
        if not (copies / file.name).exists():
            copies.mkdir(exist_ok=True)
            for beside in file.parent.glob(f"{file.stem}.*"):
                shutil.copy(beside, copies)
            key = self.directory / "ca.key"
            caxton("wasm", "sign", copies / file.name, "--key", key, home=self.home)
        return copies / file.name

    def add(self, *names):
        """Write the bundles of new nodes; returns the nodes, not started."""
        options = [option for name in names for option in ("--node", name)]
        caxton("init", self.directory, *options, home=self.home)
        added = [Node(self, name) for name in names]
        self.nodes |= {node.name: node for node in added}
        return added

    def start(self, *names, settings=(), command=CAXTON):
        """Start new nodes at once, all but the first with the first as seed, and wait until each sees all.

        Args:
            names: Of the nodes.
            settings: (key, value) pairs for ``--set``.
            command: What is started instead of ``caxton``.
        """
        nodes = self.add(*names)
        for node in nodes:
            node.command = command
        for node in nodes:
            node.start(*([] if node is nodes[0] else [nodes[0]]), wait=False, settings=settings)
        for node in nodes:
            node.wait_ready()
        self.wait_for_each_other(*nodes)
        return nodes

    @staticmethod
    def wait_for_each_other(*nodes):
        names = sorted(node.name for node in nodes)
        for node in nodes:
            eventually(lambda node=node: node.alive() == names, within=30)

    @staticmethod
    def wait_for_providers(nodes, **providers):
        """Wait until all ``nodes`` see each capability (``_`` for ``-``) offered by exactly these nodes."""
        for node in nodes:
            for capability, names in providers.items():
                wanted = sorted(names)
                name = capability.replace("_", "-")
                eventually(lambda node=node, name=name, wanted=wanted: node.providers(name) == wanted)

    def close(self):
        """End every process; says which logs hold a traceback or a bug, which no input may cause."""
        for node in self.nodes.values():
            if node.running:
                node.process.kill()  # ends a stopped process, too
            if node.process is not None:
                node.process.wait(10)
            node.client.close()
        return [name for name, node in self.nodes.items() if has_crashed(node.log_text())]

    def log_sections(self):
        """(title, text) of each node's log, its end at least."""
        return [
            (f"log of {name}", node.log_text()[-LOG_TAIL_CHARACTERS:]) for name, node in self.nodes.items()
        ]
