"""Nodes for benchmarks: one in this process, without an admin API, that others join."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from benchmarks.report import caxton
from node.collector import collect_less_often, keep_what_is_there
from node.config import NodeConfig, load_config
from node.environment import system_environment
from node.node import Node
from node.security.identity import NodeCredentials, SecurityPaths
from node.security.tokens import Tokens


def init(directory: Path, names: Sequence[str]) -> None:
    """Make a cluster's bundles, as a user does."""
    command = [*caxton(), "init", str(directory), *each("--node", names)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def bundle(directory: Path, name: str) -> Path:
    """The configuration in a node's bundle."""
    return directory / "nodes" / name / "node.yaml"


def config(path: Path, seed: str | None = None, durability: str = "normal") -> NodeConfig:
    """A node's configuration: on free ports of this machine, taking agents that nobody has signed.

    Args:
        path: Of its bundle.
        seed: Where another node gossips, or None for the first.
        durability: See ``storage.durability``.
    """
    overrides: dict[str, Any] = {
        "cluster.bind_port": 0,
        "cluster.link_port": 0,
        "cluster.profile": "local",
        "security.agents.require_signed": "never",
        "storage.durability": durability,
    }
    return load_config(path, environ={}, overrides=overrides | ({"cluster.seeds": [seed]} if seed else {}))


@asynccontextmanager
async def running(config: NodeConfig) -> AsyncIterator[tuple[Node, str]]:
    """A node in this process, without an admin API, and where it gossips."""
    collect_less_often()
    environment = system_environment()
    security = config.security
    paths = SecurityPaths.of_files(security.files())
    node = Node(
        config,
        environment=environment,
        credentials=NodeCredentials.load(paths, environment),
        tokens=Tokens.load(paths.tokens),
        serve_http=False,
    )
    async with trio.open_nursery() as nursery:
        ready = await nursery.start(node.run)
        keep_what_is_there()
        try:
            yield node, f"{ready.gossip[0]}:{ready.gossip[1]}"
        finally:
            node.shutdown()


def each(option: str, values: Sequence[str]) -> list[str]:
    """An option of the command line, once for each value."""
    return [part for value in values for part in (option, value)]
