"""Real node processes on loopback, driven only by what a user has: the command line and the admin API."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

CAXTON = [sys.executable, "-m", "node.cli.main"]
READY_S = 30.0


def caxton(*arguments, check=True, timeout=60, **environment):
    """Run one command to its end."""
    done = subprocess.run(
        [*CAXTON, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"CAXTON_CONFIG": ""} | environment,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"caxton {arguments} exited with {done.returncode}: {done.stdout}{done.stderr}")
    return done


def eventually(question, *, within=20.0, every=0.05):
    """The first true answer to ``question``; fails with the last answer when there is none in time."""
    deadline = time.monotonic() + within
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {question.__doc__ or question} last said {answer!r}")
        time.sleep(every)


class Node:
    """One process."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        self.bundle = cluster.directory / "nodes" / name
        self.data_dir = self.bundle / "data"
        self.log = self.bundle / "node.log"
        self.process = None
        self.ready = {}

    def start(self, *seeds, wait=True, settings=()):
        ready_file = self.bundle / "ready.json"
        ready_file.unlink(missing_ok=True)
        options = [o for seed in seeds for o in ("--seed", seed.gossip if isinstance(seed, Node) else seed)]
        pinned = self.ready or {"api": ":0", "gossip": ":0", "links": ":0"}
        values = {
            "server.port": pinned["api"].rpartition(":")[2],
            "cluster.bind_port": pinned["gossip"].rpartition(":")[2],
            "cluster.link_port": pinned["links"].rpartition(":")[2],
            "cluster.profile": "local",
        } | dict(settings)
        for key, value in values.items():
            options += ["--set", f"{key}={value}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*CAXTON, "start", "--config", self.bundle / "node.yaml", "--ready-file", ready_file, *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"CAXTON_CONFIG": ""},
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        ready_file = self.bundle / "ready.json"

        def is_ready():
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} exited with {self.process.returncode}: {self.log_text()}")
            return ready_file.exists()

        eventually(is_ready, within=READY_S)
        self.ready = json.loads(ready_file.read_text())
        self.client = httpx.Client(
            base_url=f"http://{self.ready['api']}/api/v1",
            headers={"Authorization": f"Bearer {self.cluster.token}"},
            timeout=60,
        )

    @property
    def gossip(self):
        return self.ready["gossip"]

    def get(self, path, **parameters):
        answer = self.client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path, body=None, *, expect=(200, 201, 202), **parameters):
        answer = self.client.post(path, json=body, params=parameters)
        assert answer.status_code in expect, answer.text
        return answer.json()

    def deploy(self, file, **options):
        return json.loads(
            caxton("deploy", file, "--api", self.url, "--token", self.cluster.token, "--json", *options.pop("extra", ())).stdout
        )

    @property
    def url(self):
        return f"http://{self.ready['api']}"

    def alive(self):
        return sorted(m["name"] for m in self.get("/cluster/members")["members"] if m["state"] == "alive")

    def log_text(self):
        return self.log.read_text(errors="replace")[-4000:]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log_text()


class Cluster:
    """Node processes of one cluster, ended at the end of the test whatever happens."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.nodes = {}
        caxton("init", directory)
        self.token = (directory / "admin.token").read_text().strip()

    def add(self, name):
        caxton("init", self.directory, "--node", name)
        self.nodes[name] = Node(self, name)
        return self.nodes[name]

    def start(self, *names):
        """Start nodes, each but the first joining through the first."""
        first = None
        for name in names:
            node = self.add(name).start(*([first] if first else []))
            first = first or node
        nodes = [self.nodes[name] for name in names]
        for node in nodes:
            eventually(lambda node=node: node.alive() == sorted(names), within=30)
        return nodes

    def close(self):
        for node in self.nodes.values():
            if node.process is not None and node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
                node.process.kill()
                node.process.wait(10)
            if hasattr(node, "client"):
                node.client.close()
