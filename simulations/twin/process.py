"""The process of one real node; the kernel ends it when the process that has started it ends.

A node whose scenario gives it files of agents becomes ``caxton start`` itself. The agent ``witness`` is a
function, so a node that has it is an application with a node inside: the same node, from the same file of
configuration, with that function attached; each run of it is a line in a file, written before it goes on.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from node.config import NodeConfig, load_config
from node.environment import Environment, system_environment
from node.errors import CaxtonError
from node.node import Node, ReadyInfo, first_error
from node.security.identity import NodeCredentials, SecurityPaths
from node.security.tokens import Tokens
from node.telemetry.logs import configure_logging
from node.telemetry.version import Release
from simulations.nodes.actions import NEXT
from simulations.nodes.witness import Execution, Mood, Witness

PR_SET_PDEATHSIG: Final = 1
ORPHANED: Final = 3
"""Exit code of a process whose parent was gone before it began."""
_PRIVATE: Final = 0o600


@dataclass(frozen=True, slots=True)
class Order:
    """What a process is told to be.

    Args:
        name: The node's name.
        boot: How often it was started before.
        config: Its node.yaml.
        ready: Written when it takes messages.
        executions: Where the runs of the witness go; None without one.
        mood: How the witness behaves, as JSON; it may change.
        is_next: Whether it says that it is the next release.
    """

    name: str
    boot: int
    config: Path
    ready: Path
    executions: Path | None
    mood: Path
    is_next: bool


@dataclass(frozen=True, slots=True)
class Host:
    """Where the agent runs."""

    name: str
    environment: Environment


class WritingWitness(Witness):
    """The agent whose every run is a line in a file.

    Args:
        order: Where the files are.
    """

    def __init__(self, order: Order) -> None:
        super().__init__()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(order.executions or os.devnull, flags, _PRIVATE)
        self._mood = order.mood
        self._numbers: dict[int, int] = {}
        self._count = 0

    def began(self, execution: Execution) -> None:
        """Write down who is asked what."""
        self._count += 1
        self._numbers[id(execution)] = self._count
        self._write(
            ["began", self._count, time.monotonic(), execution.id, execution.origin, execution.conversation,
             execution.number, execution.attempt]
        )  # fmt: skip

    def ended(self, execution: Execution) -> None:
        """Write down how it went."""
        self._write(["ended", self._numbers.pop(id(execution)), time.monotonic(), execution.outcome])

    def mood_of(self, name: str) -> Mood:
        """How the agent behaves now, as the file says."""
        del name
        return Mood(**json.loads(self._mood.read_text(encoding="utf-8")))

    def _write(self, line: list[object]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


async def run_node(order: Order, config: NodeConfig) -> None:
    """Run a node, and the witness on it, until SIGTERM.

    Raises:
        CaxtonError: it cannot start, or not go on.
    """
    environment = system_environment()
    paths = SecurityPaths.of_files(config.security.files())
    node = Node(
        config,
        environment=environment,
        credentials=NodeCredentials.load(paths, environment),
        tokens=Tokens.load(paths.tokens, dev_mode=False),
        release=NEXT if order.is_next else Release(),
    )
    witness = None if order.executions is None else WritingWitness(order)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_shut_down_on_signal, node)
            async with trio.open_nursery() as inner:
                ready: ReadyInfo = await inner.start(node.run)
                if witness is not None:
                    witness.attach(node, Host(order.name, environment), order.boot)
                write_whole(order.ready, json.dumps({"node": ready.node, "pid": os.getpid()}))
            nursery.cancel_scope.cancel()
    except* CaxtonError as group:
        raise first_error(group) from group


async def _shut_down_on_signal(
    node: Node, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            node.shutdown()


def write_whole(path: Path, text: str) -> None:
    """Write a small private file so that whoever reads it finds all of it, or what was there before."""
    beside = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(beside, "w", encoding="utf-8", opener=lambda name, _: os.open(name, flags, _PRIVATE)) as file:
        file.write(text)
    beside.replace(path)


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends; end at once if that has happened."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(ORPHANED)


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except CaxtonError as error:
        sys.exit(f"{error.code}: {error}")


def main() -> None:
    """Be what the options say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--boot", type=int, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    parser.add_argument("--executions", type=Path)
    parser.add_argument("--mood", type=Path, required=True)
    parser.add_argument("--next-release", action="store_true")
    found = parser.parse_args()
    die_with(found.parent)
    if found.executions is None and not found.next_release:
        start = ["start", "--config", str(found.config), "--ready-file", str(found.ready_file)]
        os.execv(sys.executable, [sys.executable, "-P", "-m", "node.cli.main", *start])  # noqa: S606
    order = Order(
        found.name,
        found.boot,
        found.config,
        found.ready_file,
        found.executions,
        found.mood,
        found.next_release,
    )
    with _errors_told():
        configure_logging(node=order.name, level="info")
        logging.captureWarnings(capture=True)
        trio.run(run_node, order, load_config(order.config, environ={}))


if __name__ == "__main__":
    main()
