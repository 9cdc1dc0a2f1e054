"""Clients that ask while faults happen, and what nodes have accepted: the ledger of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import trio

from node.errors import CaxtonError
from node.message import Message, Performative, RoutingStrategy
from simulations.nodes.actions import NodeActions
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
        actions: The nodes.
        workload: What is sent.

    Attributes:
        asked: What was accepted, in order.
        refused: How many requests no node took, by the code of the error.
    """

    def __init__(self, actions: NodeActions, workload: Workload) -> None:
        self._actions, self._workload = actions, workload
        self._chance = actions.timeline.stream("workload")
        self._attachments = workload.attachments()
        self.asked: list[Asked] = []
        self.refused: dict[str, int] = {}
        self._origin = ""

    async def run(self, until_s: float) -> None:
        """Send until a time of the run, and wait for nobody's reply."""
        world, workload = self._actions.timeline, self._workload
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
        self._actions.timeline.at(at_s, over.set)
        await over.wait()

    async def _ask(self, number: int) -> None:
        """Give one request to a node."""
        workload, conversation = self._workload, number // self._workload.turns
        running = self._actions.running
        if number % workload.turns == 0 or self._origin not in running:
            if not running:
                self._count("no_node_runs")
                return
            self._origin = self._chance.choice(sorted(running))
        node = running[self._origin]
        if node.paused:
            self._count("paused")
            return
        identifier = node.environment.new_id()
        is_poison = workload.poison > 0 and self._chance.random() < workload.poison
        message = Message(
            id=identifier,
            performative=Performative.REQUEST,
            sender=f"client@{node.name}",
            capability=workload.capability,
            content=self._content(number, is_poison=is_poison),
            attachments=self._attachments,
            conversation_id=f"conversation-{conversation}-{node.name}",
            routing_strategy=RoutingStrategy(workload.strategy),
            reply_with=identifier,
            timestamp_s=node.environment.clock.wall(),
        )
        boot = self._actions.cluster.boot_of(node.name)
        try:
            await node.node.bus.accept(message, ttl_s=workload.reply_within_s)
        except CaxtonError as error:
            self._count(error.code)
            return
        if node.host.fenced:
            return  # the process died meanwhile, and its client has heard nothing
        world = self._actions.timeline
        is_witnessed = workload.capability == CAPABILITY
        self.asked.append(
            Asked(identifier, number, node.name, boot, world.now(), is_witnessed, is_poison and is_witnessed)
        )
        world.record(node.name, f"accepted {number} {identifier[-12:]}")

    def _content(self, number: int, *, is_poison: bool) -> Any:
        if self._workload.content is not None:
            return self._workload.content
        return {"number": number, "poison": True} if is_poison else {"number": number}

    def _count(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1
