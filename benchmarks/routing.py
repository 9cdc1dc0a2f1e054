"""What it costs to decide who gets a message.

    .venv/bin/python -m benchmarks.routing --csv      # half a minute

The production registry and placement decide about messages of conversations of their own; the time between
two messages is one millisecond of the clock that they are given, so that rankings are made anew as often as
at 1,000 messages a second. Each figure is the median of several rounds, in processor time.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from statistics import median
from types import SimpleNamespace
from typing import Any, Final

import cbor2

from benchmarks.report import machine, show, write
from node.breaker import BreakerLimits
from node.cluster.provider import ClusterView
from node.cluster.registry import CapabilityRegistry
from node.message import Message
from node.messaging.breakers import Breakers
from node.messaging.letters import Letter
from node.messaging.placement import Placement
from node.vocabulary import Performative, RoutingStrategy
from swim.map_events import EntryChanged

REGISTERED: Final = 20_000
AGENTS_PER_NODE: Final = 20
PROVIDERS: Final = (1, 10, 2_000)
STEP_S: Final = 0.001


class Maps:
    """Maps of nodes that are all somewhat busy."""

    def load(self, owner: str) -> bytes:
        """The load of a node."""
        return bytes([15 * (int(owner[1:]) % 3)])

    def entries(self, prefix: str = "") -> Iterator[tuple[str, str, bytes]]:
        """None: they come as events."""
        return iter(())


def registry(registered: int) -> CapabilityRegistry:
    """As many agents; the first of them offer the capabilities that are asked for."""
    maps: Any = Maps()
    clock: Any = SimpleNamespace(now=lambda: 0.0)
    found = CapabilityRegistry(
        maps, "n0", is_up=lambda _: True, is_lost=lambda _: False, flush=lambda: None, clock=clock,
        rtt=lambda node: int(node[1:]) / 10_000,
    )  # fmt: skip
    for number in range(registered):
        offered = [f"offered-by-{count}" for count in PROVIDERS if number < count]
        value = cbor2.dumps([[*offered, f"other-{number % 100}"], 50, 255])
        node = f"n{number // AGENTS_PER_NODE}"
        found.apply([EntryChanged(node, f"agent/a{number}/1.0.0", value)])
    return found


def microseconds(offering: CapabilityRegistry, capability: str, how: RoutingStrategy, messages: int) -> float:
    """Decide about so many messages; return the processor time of one."""
    membership: Any = SimpleNamespace(
        is_alive=lambda _: True, view=lambda: ClusterView(1_000, 1_000, "majority", 0.0)
    )
    time_: Any = None
    placement = Placement(
        time=time_, chance=random.Random(1), node="n0", registry=offering, membership=membership,
        in_flight=lambda _: 0, breakers=Breakers(BreakerLimits(5, 60.0, 3)),
    )  # fmt: skip
    letters = [letter(number, capability, how) for number in range(messages)]
    began = time.process_time()
    for number, each in enumerate(letters):
        placement.decide(each, number * STEP_S)
    return (time.process_time() - began) / messages * 1e6


def letter(number: int, capability: str, how: RoutingStrategy) -> Letter:
    """A request in a conversation of its own."""
    message = Message(
        id=f"m{number}", performative=Performative.REQUEST, sender="client@n0", capability=capability,
        conversation_id=f"c{number}", reply_with=f"m{number}", routing_strategy=how,
    )  # fmt: skip
    return Letter(number, message, b"", "", 0, 0.0, 60.0, 60.0)


def main() -> None:
    """Measure, print, and keep the raw figures if that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=5_000, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", action="store_true", help="write the raw figures into results/")
    wanted = parser.parse_args()
    facts = machine()
    offering = registry(REGISTERED)
    rows: list[dict[str, object]] = []
    table = []
    for count in PROVIDERS:
        for how in RoutingStrategy:
            took = [
                microseconds(offering, f"offered-by-{count}", how, wanted.messages)
                for _ in range(wanted.rounds)
            ]
            rows += [
                {"providers": count, "strategy": how.value, "round": at, "us": round(each, 2)}
                for at, each in enumerate(took)
            ]
            table.append(
                [f"{count:,}", how.value, f"{median(took):.1f}", f"{min(took):.1f}", f"{max(took):.1f}"]
            )
    show(["providers", "strategy", "us per message", "least", "most"], table)
    if wanted.csv:
        print(write("routing", facts, rows))


if __name__ == "__main__":
    main()
