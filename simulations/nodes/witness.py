"""An agent whose every run is seen: a function attached to the bus, as an application attaches its own.

It answers with what it was asked, may take its time, and raises on a poison message; faults make it slow or
let it raise. What it did is the outside of the cluster: whoever handles a message sends the letter, pays the
bill, opens the valve, and cannot take that back when the node dies a moment later.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from node.environment import Environment
from node.messaging.delivery import Delivery, Draft
from node.node import Node
from node.vocabulary import Performative

AGENT: Final = "witness"
CAPABILITY: Final = "witness"
CAPACITY: Final = 1_000
CONCURRENCY: Final = 8
RAISED: Final = "raised"
ANSWERED: Final = "answered"


class PoisonError(Exception):
    """What the agent raises on a poison message, and when a fault lets it."""


@dataclass(slots=True)
class Execution:
    """One run of the handler.

    Attributes:
        node: Where.
        boot: In which life of the node.
        id: Of the message.
        origin: The node it came from.
        conversation: It belongs to.
        number: Of the request.
        attempt: 1 for the first run of a delivery.
        began_s: When.
        ended_s: When it answered or raised; None if it never came to that.
        outcome: How it ended; nothing if the process ended first.
    """

    node: str
    boot: int
    id: str
    origin: str
    conversation: str
    number: int
    attempt: int
    began_s: float
    ended_s: float | None = None
    outcome: str = ""


@dataclass(slots=True)
class Mood:
    """How the agent of one node behaves; faults change it.

    Attributes:
        takes_s: Mean of the exponentially distributed time a run takes.
        raises: Chance that a run raises.
    """

    takes_s: float = 0.0
    raises: float = 0.0


class Host(Protocol):
    """Where an agent runs."""

    @property
    def name(self) -> str:
        """The node's name."""

    @property
    def environment(self) -> Environment:
        """Its clock and chance."""


@dataclass(slots=True)
class Witness:
    """The agents of all nodes, and what they have done.

    Attributes:
        takes_s: Mean time of a run where no fault says otherwise.
        capacity: Messages that wait in memory, on each node.
        executions: All runs, in the order of their beginning.
        moods: By node, where a fault has changed something.
    """

    takes_s: float = 0.0
    capacity: int = CAPACITY
    executions: list[Execution] = field(default_factory=list)
    moods: dict[str, Mood] = field(default_factory=dict)

    def attach(self, node: Node, running: Host, boot: int) -> None:
        """Run the agent on a node that has just started."""
        chance = running.environment.randomness.stream("witness")

        async def handle(delivery: Delivery) -> Sequence[Draft]:
            return await self._handle(delivery, running, boot, chance)

        node.bus.attach(AGENT, handle, capacity=self.capacity, concurrency=CONCURRENCY)
        node.membership.registry.publish(
            AGENT, version="1.0.0", capabilities=(CAPABILITY,), priority=50, health=1.0
        )

    def began(self, execution: Execution) -> None:
        """A run has begun."""
        self.executions.append(execution)

    def ended(self, execution: Execution) -> None:
        """A run has ended; what it began with has been told."""

    def mood_of(self, name: str) -> Mood:
        """How the agent of a node behaves now."""
        return self.moods.get(name, Mood(self.takes_s))

    async def _handle(
        self, delivery: Delivery, running: Host, boot: int, chance: random.Random
    ) -> Sequence[Draft]:
        message, clock = delivery.message, running.environment.clock
        mood = self.mood_of(running.name)
        content = message.content if isinstance(message.content, dict) else {}
        execution = Execution(
            running.name, boot, message.id, delivery.sender_node, message.conversation_id,
            content.get("number", -1), delivery.attempt, clock.now(),
        )  # fmt: skip
        self.began(execution)
        if mood.takes_s:
            await clock.sleep(chance.expovariate(1 / mood.takes_s))
        execution.ended_s = clock.now()
        if content.get("poison") or (mood.raises and chance.random() < mood.raises):
            execution.outcome = RAISED
            self.ended(execution)
            raise PoisonError("this message cannot be handled")
        execution.outcome = ANSWERED
        self.ended(execution)
        return [Draft(Performative.INFORM, {"number": execution.number})]
