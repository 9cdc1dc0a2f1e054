"""The node that is simulated is that of production: only what its environment hands it is another."""

from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import pytest
import trio

from node.messaging.bus import Bus
from node.node import Node
from simulations import kernel
from simulations.cluster import SimulatedCluster
from simulations.environment import InlineWorkers, SimulatedClock, SimulatedRandomness, StandsStill
from simulations.kernel import World
from simulations.network import HostNetwork

HANDED_IN = {SimulatedClock, SimulatedRandomness, HostNetwork, InlineWorkers, StandsStill}
"""Clock (with its meter of lag), randomness, network, workers: DESIGN's four, and nothing else."""
OURS = ("node.", "swim.")
STRANGE = ("simulations.", "tests.")
ROOMS = {
    "Swim",
    "Replicated",
    "Storage",
    "Outbox",
    "Inbox",
    "Handlers",
    "AgentSupervisor",
    "Links",
    "ToolHost",
}


def attributes(thing: Any) -> Iterator[Any]:
    """What an object holds, in containers too."""
    if isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        yield from thing
    elif isinstance(thing, MethodType):
        yield thing.__self__
    elif isinstance(thing, FunctionType):
        yield from (cell.cell_contents for cell in thing.__closure__ or ())
    elif isinstance(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif type(thing).__module__.startswith(OURS):
        yield from getattr(thing, "__dict__", {}).values()
        for kind in type(thing).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if not name.startswith("__"):
                    yield getattr(thing, name, None)


def types(node: Node) -> set[type]:
    """All types reachable from a node; what is not of production is not looked into."""
    found: set[type] = set()
    seen: set[int] = set()
    waiting: list[Any] = [node]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        found.add(type(thing))
        if type(thing).__module__.startswith(STRANGE):
            continue
        waiting += attributes(thing)
    return found


def patched(node: Node) -> list[str]:
    """Methods of the node's rooms that come from somewhere else than their class."""
    rooms = [value for value in vars(node).values() if type(value).__module__.startswith(OURS)]
    return [
        f"{type(room).__name__}.{name}"
        for room in rooms
        for name, method in vars(type(room)).items()
        if not getattr(method, "__module__", type(room).__module__ or "").startswith(OURS)
        and callable(method)
        and not name.startswith("__")
    ]


def looked_through(tmp_path: Path) -> tuple[set[type], list[str]]:
    async def main(world: World) -> tuple[set[type], list[str]]:
        async with trio.open_nursery() as nursery:
            cluster = SimulatedCluster(world, tmp_path, nursery)
            await cluster.start("alpha")
            node = await cluster.start("beta", "alpha")
            found = types(node), patched(node)
            nursery.cancel_scope.cancel()
            return found

    return kernel.run(main, 1)


def test_only_the_four_things_of_the_environment_are_simulated(tmp_path: Path) -> None:
    found, replaced = looked_through(tmp_path)
    assert {kind.__name__ for kind in found} >= ROOMS
    strange = {kind for kind in found if kind.__module__.startswith(STRANGE)}
    assert {kind for kind in strange if kind.__module__ != "simulations.network"} == HANDED_IN - {HostNetwork}
    assert {kind.__name__ for kind in strange if kind.__module__ == "simulations.network"} <= {
        "HostNetwork", "_Datagrams", "_Listener", "_Stream",
    }  # fmt: skip
    assert replaced == []


class BusDouble(Bus):
    """What must never stand in for the real one."""


def test_a_class_that_was_substituted_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.node.Bus", BusDouble)
    found, _ = looked_through(tmp_path)
    assert BusDouble in found


def test_a_method_that_was_substituted_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def double(self: Bus) -> float:
        return 0.0

    monkeypatch.setattr(Bus, "load", double)
    _, replaced = looked_through(tmp_path)
    assert replaced == ["Bus.load"]
