"""Clients that ask while faults happen, and what nodes have accepted: the ledger of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import trio

from node.errors import CaxtonError
from node.vocabulary import RoutingStrategy
from simulations.nodes.observed import Nodes, Request
from simulations.nodes.scenario import Workload
from simulations.nodes.witness import CAPABILITY


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that a node has accepted.

    Attributes:
        id: Of its message.
        number: Of the request.
        origin: The node that it was given to.
        boot: Which life of that node.
        at_s: When it was accepted.
        is_witnessed: Whether it was for the agent whose every run is seen.
        is_poison: Whether that agent raises on it.
    """

    id: str
    number: int
    origin: str
    boot: int
    at_s: float
    is_witnessed: bool = False
    is_poison: bool = False


class Clients:
    """Sends the requests of a workload from nodes that run, each drawn at random.

    Args:
        nodes: Whom they ask.
        workload: What is sent.

    Attributes:
        asked: What was accepted, in order.
        refused: How many requests no node took, by the code of the error.
    """

    def __init__(self, nodes: Nodes, workload: Workload) -> None:
        self._nodes, self._workload = nodes, workload
        self._chance = nodes.timeline.stream("workload")
        self._attachments = workload.attachments()
        self.asked: list[Asked] = []
        self.refused: dict[str, int] = {}
        self._origin = ""

    async def run(self, until_s: float) -> None:
        """Send until a time of the run, and wait for nobody's reply."""
        world, workload = self._nodes.timeline, self._workload
        async with trio.open_nursery() as nursery:
            number, began_s = 0, world.now()
            while (at_s := began_s + number / workload.per_s) < until_s:
                await self._wait_until(at_s)
                missed = int((world.now() - at_s) * workload.per_s)
                if missed > workload.per_s:  # time has leapt
                    number += missed
                    continue
                nursery.start_soon(self._ask, number)
                number += 1

    async def _wait_until(self, at_s: float) -> None:
        over = trio.Event()
        self._nodes.timeline.at(at_s, over.set)
        await over.wait()

    async def _ask(self, number: int) -> None:
        """Give one request to a node."""
        workload, conversation = self._workload, number // self._workload.turns
        running = self._nodes.running
        if number % workload.turns == 0 or self._origin not in running:
            if not running:
                self._count("no_node_runs")
                return
            self._origin = self._chance.choice(sorted(running))
        origin = self._origin
        if running[origin].paused:
            self._count("paused")
            return
        is_poison = workload.poison > 0 and self._chance.random() < workload.poison
        request = Request(
            workload.capability,
            self._content(number, is_poison=is_poison),
            f"conversation-{conversation}-{origin}",
            RoutingStrategy(workload.strategy),
            self._attachments,
            workload.reply_within_s,
        )
        boot = self._nodes.boot_of(origin)
        try:
            identifier = await self._nodes.accept(origin, request)
        except CaxtonError as error:
            self._count(error.code)
            return
        if identifier is None:
            return
        world = self._nodes.timeline
        is_witnessed = workload.capability == CAPABILITY
        self.asked.append(
            Asked(identifier, number, origin, boot, world.now(), is_witnessed, is_poison and is_witnessed)
        )
        world.record(origin, f"accepted {number} {identifier[-12:]}")

    def _content(self, number: int, *, is_poison: bool) -> Any:
        if self._workload.content is not None:
            return self._workload.content
        return {"number": number, "poison": True} if is_poison else {"number": number}

    def _count(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1
