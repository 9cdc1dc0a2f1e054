"""The network of a twin: a bridge in a namespace of its own, one namespace for each node, a wire to each.

No address and no route leads out of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import trio

from simulations.links import Links, Rule
from simulations.twin.conditions import DEVICE, queueing, ruleset
from simulations.twin.machine import Machine
from simulations.twin.namespaces import Namespace

NETWORK: Final = ipaddress.ip_network("10.83.0.0/24")
BRIDGE: Final = "bridge"


class WatchedLinks(Links):
    """Links that tell when their rules change.

    Attributes:
        changed: Called after each change.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changed: Callable[[], None] = lambda: None

    def add(self, rules: Iterable[Rule]) -> None:
        """Put rules in force."""
        super().add(rules)
        self.changed()

    def remove(self, rules: Iterable[Rule]) -> None:
        """Take rules out of force."""
        super().remove(rules)
        self.changed()

    def clear(self) -> None:
        """Take all rules out of force."""
        super().clear()
        self.changed()


class Fabric:
    """Namespaces of nodes, the bridge between them, and what their links are like.

    Args:
        names: Of the nodes.
        machine: What can be done here.

    Attributes:
        addresses: Of the nodes, by name.
        nodes: Their namespaces, by name.
        links: Between them; whatever is changed there becomes true when :meth:`run` gets to it.
    """

    def __init__(self, names: Sequence[str], machine: Machine) -> None:
        hosts = NETWORK.hosts()
        self.addresses = {name: str(next(hosts)) for name in names}
        self.links = WatchedLinks()
        self._machine = machine
        self._told: dict[str, tuple[str, str]] = dict.fromkeys(names, ("", ""))
        self._changed = trio.Event()
        self.links.changed = self._note
        self._switch = Namespace("switch")
        self.nodes: dict[str, Namespace] = {}
        try:
            self._switch.run(["ip", "-batch", "-"], f"link add {BRIDGE} type bridge\nlink set {BRIDGE} up\n")
            for name in names:
                self.nodes[name] = Namespace(name)
                self._wire(name)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let all of it go."""
        for namespace in (*self.nodes.values(), self._switch):
            namespace.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make what the links say true, now and whenever it changes."""
        while True:
            self._changed = trio.Event()
            async with trio.open_nursery() as nursery:
                for name in self.nodes:
                    nursery.start_soon(self._apply, name)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await self._changed.wait()

    async def unplug(self, name: str) -> None:
        """Pull the wire of a node: it falls silent, and its kernel answers nobody."""
        await self._port(name, "down")

    async def plug_in(self, name: str) -> None:
        """Put the wire back, after the connections of the node's former life are forgotten."""
        if self._machine.has("ss"):
            await trio.to_thread.run_sync(lambda: self.nodes[name].run(["ss", "-K", "-t"], check=False))
        await self._port(name, "up")

    async def reset(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        """Break the connections of some nodes with some others; both ends are told."""
        pairs = {frozenset((one, other)) for one in sources for other in targets if one != other}
        async with trio.open_nursery() as nursery:
            for one, other in map(sorted, pairs):
                nursery.start_soon(self._break, one, other)

    async def _break(self, one: str, other: str) -> None:
        command = ["ss", "-K", "-t", "dst", self.addresses[other]]
        await trio.to_thread.run_sync(lambda: self.nodes[one].run(command, check=False))

    def _note(self) -> None:
        self._changed.set()

    async def _apply(self, name: str) -> None:
        rules, queues = ruleset(name, self.addresses, self.links), ""
        if self._machine.has("netem") or self._machine.has("htb"):
            queues = queueing(name, self.addresses, self.links, netem=self._machine.has("netem"))
        before, self._told[name] = self._told[name], (rules, queues)
        if before == (rules, queues):
            return
        await trio.to_thread.run_sync(self._tell_kernel, name, before, rules, queues)

    def _tell_kernel(self, name: str, before: tuple[str, str], rules: str, queues: str) -> None:
        namespace = self.nodes[name]
        if rules != before[0] and self._machine.has("nft"):
            namespace.run(["nft", "-f", "-"], rules)
        if queues != before[1]:
            if before[1]:
                namespace.run(["tc", "qdisc", "del", "dev", DEVICE, "root"])
            if queues:
                namespace.run(["tc", "-batch", "-"], queues)

    async def _port(self, name: str, state: str) -> None:
        command = ["ip", "link", "set", self._port_name(name), state]
        await trio.to_thread.run_sync(self._switch.run, command)

    def _port_name(self, name: str) -> str:
        return f"to-{name}"

    def _wire(self, name: str) -> None:
        file, port = self.nodes[name].file, self._port_name(name)
        batch = (
            f"link add {port} type veth peer name {DEVICE} netns /proc/self/fd/{file}\n"
            f"link set {port} master {BRIDGE} up\n"
        )
        self._switch.run(["ip", "-batch", "-"], batch, files=(file,))
        address = f"{self.addresses[name]}/{NETWORK.prefixlen}"
        inside = f"link set lo up\naddr add {address} dev {DEVICE}\nlink set {DEVICE} up\n"
        self.nodes[name].run(["ip", "-batch", "-"], inside)
