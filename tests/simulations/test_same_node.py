"""The node that is simulated is that of production: only what its environment hands it is another."""

from collections.abc import Iterator
from pathlib import Path
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


def attributes(thing: Any) -> Iterator[Any]:
    """What an object holds, in containers too."""
    if isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from thing
    elif type(thing).__module__.startswith(OURS):
        yield from getattr(thing, "__dict__", {}).values()
        for kind in type(thing).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if not name.startswith("__"):
                    yield getattr(thing, name, None)


def strangers(node: Node) -> set[type]:
    """Types reachable from a node that are neither its own nor a library's."""
    found: set[type] = set()
    seen: set[int] = set()
    waiting: list[Any] = [node]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if type(thing).__module__.startswith(("simulations.", "tests.")):
            found.add(type(thing))
            continue
        waiting += attributes(thing)
    assert len(seen) > 1_000, "the node was not looked through"
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
            found = strangers(node), patched(node)
            nursery.cancel_scope.cancel()
            return found

    return kernel.run(main, 1)


def test_only_the_four_things_of_the_environment_are_simulated(tmp_path: Path) -> None:
    found, replaced = looked_through(tmp_path)
    assert {kind for kind in found if kind.__module__ != "simulations.network"} == HANDED_IN - {HostNetwork}
    assert {kind.__name__ for kind in found if kind.__module__ == "simulations.network"} <= {
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
