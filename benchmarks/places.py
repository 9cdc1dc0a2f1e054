"""Where the nodes of a history run: on loopback, or each with a network, or a small disk, of its own.

Networks are namespaces with a wire to one bridge (:mod:`simulations.twin.fabric`); who is cut off drops what
comes from the others and what goes to them. Small disks are mounted where a node keeps its data, and full
while a file takes what is left of them. Both need the rights of root; :func:`why_not` says what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import httpx

from simulations.twin.fabric import Fabric
from simulations.twin.machine import look
from simulations.twin.namespaces import Namespace
from tests.acceptance.processes import Cluster, Node

DISK_BYTES: Final = 48 * 1024**2
"""A small disk: some times what a short round takes."""
FILLER: Final = "filler"
CHUNK_BYTES: Final = 64 * 1024
TABLE: Final = "history"
TOOL_S: Final = 20.0


def why_not(*, apart: bool, small: bool) -> str:
    """What is missing for networks or disks of their own; nothing if they are to be had.

    Args:
        apart: Whether each node is to have a network.
        small: Whether each node is to have a disk.
    """
    if (apart or small) and os.geteuid() != 0:
        return "only root may make networks and mount disks"
    if small and not (shutil.which("mount") and shutil.which("umount")):
        return "mount is not installed"
    if apart:
        machine = look()
        return machine.lacking.get("namespaces", "") or machine.lacking.get("nft", "")
    return ""


class _Inside(httpx.HTTPTransport):
    """Connects inside of a namespace: what the calling thread opens there stays there."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__()
        self._namespace = namespace

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._namespace.entered():
            return super().handle_request(request)


class Places:
    """The nodes of a cluster, where they run, and what happens there.

    Args:
        cluster: Fresh; its nodes are added here.
        names: Of the nodes.
        apart: Whether each has a network of its own.
        small: Whether each has a disk of its own.
    """

    def __init__(self, cluster: Cluster, names: Sequence[str], *, apart: bool, small: bool) -> None:
        self._cluster = cluster
        self._fabric = Fabric(names, look()) if apart else None
        self._mounted: list[Path] = []
        self.nodes: dict[str, Node] = {node.name: node for node in cluster.add(*names)}
        if self._fabric is not None:
            for node in self.nodes.values():
                node.client.close()
                node.client = httpx.Client(
                    base_url=node.client.base_url,
                    headers=node.client.headers,
                    timeout=60,
                    transport=_Inside(self._fabric.nodes[node.name]),
                )
        if small:
            for node in self.nodes.values():
                self._mount(node.data_dir)

    def start(self, name: str, command: Sequence[str], *, wait: bool = True) -> Node:
        """Start a node, or start it again, with all others as seeds.

        Args:
            name: Which.
            command: What is started.
            wait: Whether to return only when it is ready.
        """
        node = self.nodes[name]
        node.command = list(command)
        seeds = [self._gossip(other) for other in self.nodes.values() if other is not node]
        settings: dict[str, Any] = {}
        if self._fabric is not None:
            settings["cluster.bind_host"] = self._fabric.addresses[name]
        with nullcontext() if self._fabric is None else self._fabric.nodes[name].entered():
            node.start(*seeds, wait=False, settings=settings.items())
        if wait:
            node.wait_ready()
        return node

    def cut_off(self, name: str) -> None:
        """Nothing comes from a node to the others, or from them to it."""
        assert self._fabric is not None
        others = ", ".join(address for other, address in self._fabric.addresses.items() if other != name)
        rules = (
            f"table ip {TABLE} {{\n"
            f" chain in {{ type filter hook input priority filter; ip saddr {{ {others} }} drop; }}\n"
            f" chain out {{ type filter hook output priority filter; ip daddr {{ {others} }} drop; }}\n"
            "}\n"
        )
        self._fabric.nodes[name].run(["nft", "-f", "-"], rules)

    def heal(self, name: str) -> None:
        """It hears, and is heard, again."""
        assert self._fabric is not None
        self._fabric.nodes[name].run(["nft", "delete", "table", "ip", TABLE])

    def fill(self, name: str) -> None:
        """Its disk is full: not a byte is left."""
        with (self.nodes[name].data_dir / FILLER).open("ab", buffering=0) as filler:
            size = CHUNK_BYTES
            while size:
                try:
                    filler.write(bytes(size))
                except OSError:
                    size //= 2

    def free(self, name: str) -> None:
        """There is room again."""
        (self.nodes[name].data_dir / FILLER).unlink()

    def close(self) -> None:
        """Let networks and disks go; the nodes have ended."""
        for directory in self._mounted:
            subprocess.run(["umount", "--lazy", str(directory)], check=True, timeout=TOOL_S)
        self._mounted.clear()
        if self._fabric is not None:
            self._fabric.close()

    def _gossip(self, node: Node) -> str:
        if self._fabric is None:
            return str(node.gossip)
        return f"{self._fabric.addresses[node.name]}:{node.ports['cluster.bind_port']}"

    def _mount(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = f"size={DISK_BYTES},mode=0700"
        command = ["mount", "-t", "tmpfs", "-o", options, "history", str(directory)]
        subprocess.run(command, check=True, timeout=TOOL_S)
        self._mounted.append(directory)
