"""The demo's cluster: real node processes on loopback, in one temporary directory, ended by process id.

    DIR/cluster/          what `caxton init` writes: authority, gossip key, admin token, one bundle per node
    DIR/cluster/nodes/N/  node.yaml, keys, certificates, data/
    DIR/run/N/            ready.json, node.log, and the node's own state directory

Nodes find free ports themselves; the first tells its address in its ready file and is the seed of the
others. Each has a session of its own, so that Ctrl-C in the terminal reaches the demo alone, and a state
directory of its own, so that the user's verbs do not find the demo's nodes instead of the user's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import node
from node.cli.client import Client, Target
from node.cli.output import safe
from node.cli.wasm import sign_agent_file
from node.environment import system_environment
from node.errors import NodeUnreachable
from node.security.authority import NodeSettings, create_cluster, issue_node

READY_S: Final = 30.0
"""Longest start of a node, in seconds."""
END_S: Final = 10.0
"""Longest wait for a killed process to be gone, in seconds."""
LOG_TAIL_LINES: Final = 12
"""Lines of a log that are shown when its node fails."""
LOG_TAIL_BYTES: Final = 8192
_POLL_S: Final = 0.02
_ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class DemoNode:
    """One node: its files, and its process while it runs.

    Args:
        name: The node's name.
        config: Its node.yaml.
        directory: Where its log and ready file are.
        token: What its admin API accepts.
    """

    name: str
    config: Path
    directory: Path
    token: str
    process: subprocess.Popen[bytes] | None = None
    api: str = ""
    gossip: str = ""
    data_dir: Path = field(default_factory=Path)
    killed: bool = False
    _client: Client | None = None

    @property
    def log(self) -> Path:
        """Its standard output and error."""
        return self.directory / "node.log"

    @property
    def pid(self) -> int | None:
        """Its process, once it has been started."""
        return None if self.process is None else self.process.pid

    @property
    def is_ready(self) -> bool:
        """Whether its admin API is known."""
        return bool(self.api)

    @property
    def client(self) -> Client:
        """Its admin API."""
        if self._client is None:
            self._client = Client(Target(self.api, self.token, self.pid))
        return self._client

    def start(self, seeds: Sequence[str] = ()) -> None:
        """Start the process; :meth:`await_ready` waits for it."""
        self.directory.mkdir(parents=True, mode=0o700)
        arguments = ["start", "--config", str(self.config), "--ready-file", str(self._ready_file)]
        arguments += [part for seed in seeds for part in ("--seed", seed)]
        with self.log.open("ab") as log, signals_held():
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*caxton_command(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment(os.environ, self.directory),
                start_new_session=True,
            )

    def await_ready(self) -> None:
        """Wait until the node takes messages.

        Raises:
            NodeUnreachable: it ended, or is not ready in time; quotes the end of its log.
        """
        deadline = time.monotonic() + READY_S
        while not self._ready_file.exists():
            status = None if self.process is None else self.process.poll()
            if status is not None:
                raise self.failed("did not start", f"its process ended with status {status}")
            if time.monotonic() > deadline:
                raise self.failed("did not start", f"it is not ready after {READY_S:.0f} s")
            time.sleep(_POLL_S)
        found: dict[str, Any] = json.loads(self._ready_file.read_text(encoding="utf-8"))
        host, port = found["gossip"]
        self.api, self.gossip, self.data_dir = found["api"], f"{host}:{port}", Path(found["data_dir"])

    def kill(self) -> None:
        """SIGKILL; the process has no chance to say anything to anybody."""
        self.killed = True
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill the process and wait until it has gone."""
        self.disconnect()
        self.kill()
        if self.process is not None:
            self.process.wait(END_S)

    def disconnect(self) -> None:
        """Close the connection to its admin API; the node runs on."""
        if self._client is not None:
            self._client.__exit__()
            self._client = None

    @property
    def _ready_file(self) -> Path:
        return self.directory / "ready.json"

    def failed(self, what: str, why: str) -> NodeUnreachable:
        """The error that says so, with the end of the log."""
        tail = log_tail(self.log)
        shown = "\n".join(f"    {line}" for line in tail) if tail else "    (nothing)"
        return NodeUnreachable(
            f"the node {self.name} {what}",
            why=f"{why}; the end of its log:\n{shown}",
            fix="Run `caxton demo` again; `caxton start` shows whether a node runs here at all.",
            details={"node": self.name, "log": tail},
        )


@dataclass(slots=True)
class DemoCluster:
    """All nodes of the demo.

    Args:
        directory: Everything of the demo; removed at the end.
        nodes: In the order of their names; the first is the seed.
        token_file: The operator's token.
    """

    directory: Path
    nodes: tuple[DemoNode, ...]
    token_file: Path
    kept: bool = False

    @classmethod
    def create(cls, directory: Path, names: Sequence[str]) -> DemoCluster:
        """Write the security material of a fresh cluster with nodes of these names."""
        environment = system_environment()
        home = directory / "cluster"
        files = create_cluster(home, environment=environment, cluster="caxton-demo")
        settings = NodeSettings(http_port=0, gossip_port=0, link_port=0, profile="local")
        token = files.admin_token.read_text(encoding="ascii").strip()
        nodes = [
            DemoNode(
                name,
                issue_node(home, name, environment=environment, settings=settings).config,
                directory / "run" / name,
                token,
            )
            for name in names
        ]
        return cls(directory, tuple(nodes), files.admin_token)

    def start(self) -> None:
        """Start all nodes; all but the first join through the first.

        Raises:
            NodeUnreachable: one does not start.
        """
        seed, *others = self.nodes
        seed.start()
        seed.await_ready()
        for other in others:
            other.start([seed.gossip])
        for other in others:
            other.await_ready()

    def check(self) -> None:
        """See that every node that was ready still runs, unless it was killed on purpose.

        Raises:
            NodeUnreachable: one ended by itself; quotes the end of its log.
        """
        for node_ in self.nodes:
            status = None if node_.process is None else node_.process.poll()
            if status is not None and node_.is_ready and not node_.killed:
                raise node_.failed("ended by itself", f"with status {status}")

    def close(self) -> None:
        """Kill every process and remove every file."""
        for node_ in self.nodes:
            node_.kill()
        for node_ in self.nodes:
            node_.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def signed(self, file: Path) -> Path:
        """A copy of an agent file, its module signed by the cluster's authority: nodes take no other.

        Raises:
            CaxtonError: a file cannot be read or written.
        """
        copies = self.directory / "agents"
        copies.mkdir(exist_ok=True, mode=0o700)
        for beside in file.parent.glob(f"{file.stem}.*"):
            shutil.copy(beside, copies)
        sign_agent_file(copies / file.name, self.directory / "cluster" / "ca.key")
        return copies / file.name

    def keep(self) -> None:
        """Let the nodes run on when the block of :func:`temporary_cluster` ends."""
        self.kept = True


@contextlib.contextmanager
def temporary_cluster(names: Sequence[str]) -> Iterator[DemoCluster]:
    """A cluster that is gone when the block ends, however it ends, unless it was told to keep running."""
    directory = Path(tempfile.mkdtemp(prefix="caxton-demo-"))
    cluster: DemoCluster | None = None
    try:
        cluster = DemoCluster.create(directory, names)
        yield cluster
    finally:
        with signals_held():
            if cluster is None:
                shutil.rmtree(directory, ignore_errors=True)
            elif cluster.kept:
                for node_ in cluster.nodes:
                    node_.disconnect()
            else:
                cluster.close()


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, so that what it has started is ended too."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in _ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Signals that would end us wait until the block has ended: no process is started and forgotten."""
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda n, _: arrived.append(n)) for number in _ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived:
        signal.raise_signal(arrived[0])


def caxton_command(interpreter: str = sys.executable) -> tuple[str, ...]:
    """How to run `caxton` itself: our interpreter and module, never a `node` of the working directory."""
    return (interpreter, "-P", "-m", "node.cli.main")


def child_environment(environ: Mapping[str, str], directory: Path) -> dict[str, str]:
    """The environment of a node: the user's, without the user's Caxton settings and state.

    Where Caxton is not installed but imported from its checkout, the node imports it from there too.
    """
    found = {key: value for key, value in environ.items() if not key.startswith("CAXTON_")}
    found["XDG_STATE_HOME"] = str(directory / "state")
    root = Path(node.__file__).resolve().parent.parent
    if str(root) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), found.get("PYTHONPATH"))))
    return found


def log_tail(path: Path) -> list[str]:
    """The last lines of a log, fit for a terminal."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            text = file.read(LOG_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    return [safe(line) for line in text.splitlines() if line.strip()][-LOG_TAIL_LINES:]
