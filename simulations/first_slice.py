"""The scenario every CI run replays: three nodes, a thousand requests, one node paused, one crashed.

``alpha`` sends, ``beta`` and ``gamma`` offer the capability. While the requests are under way ``beta`` is
paused for longer than a probe takes, and ``gamma`` crashes and comes back from its disk. Every request must
be answered exactly once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from node.errors import CaxtonError
from node.message import Message
from node.vocabulary import Performative, RoutingStrategy
from simulations.cluster import SimulatedCluster
from simulations.kernel import World

REQUESTS: Final = 1000
TURNS: Final = 5
"""Requests of one conversation, which stays with its provider."""
CAPABILITY: Final = "echo"
SENDING_S: Final = 14.0
"""The requests are spread over this much virtual time."""
REPLY_WITHIN_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended.

    Args:
        answered: Requests that got an INFORM.
        failed: Requests that got a FAILURE, or nothing in time.
        by_node: How many of the answers each node gave.
        digest: Hash of the whole trace.
        lines: Lines of the trace.
        virtual_s: How long it took in the simulated cluster.
    """

    answered: int
    failed: int
    by_node: dict[str, int]
    digest: str
    lines: int
    virtual_s: float


async def first_slice(world: World, directory: Path, agent: bytes, artifacts: dict[str, bytes]) -> Outcome:
    """Run the scenario.

    Args:
        world: The run.
        directory: An empty directory for the nodes' files.
        agent: The agent to deploy on the two providers; it offers :data:`CAPABILITY`.
        artifacts: Files the agent's definition names.
    """
    answers: Counter[str] = Counter()
    failed = 0

    async def ask(number: int) -> None:
        nonlocal failed
        sender = cluster.nodes["alpha"]
        await sender.environment.clock.sleep(number * SENDING_S / REQUESTS)
        identifier = sender.environment.new_id()
        request = Message(
            id=identifier,
            performative=Performative.REQUEST,
            sender="client@alpha",
            capability=CAPABILITY,
            content={"number": number},
            conversation_id=f"conversation-{number // TURNS}",
            routing_strategy=RoutingStrategy.LOAD_BALANCED,
            reply_with=identifier,
            timestamp_s=sender.environment.clock.wall(),
        )
        try:
            reply = await sender.node.bus.request(request, timeout_s=REPLY_WITHIN_S)
        except CaxtonError as error:
            world.record("alpha", f"request {number} {error.code}")
            failed += 1
            return
        digest = hashlib.blake2b(reply.seal(), digest_size=6).hexdigest()
        world.record("alpha", f"request {number} {reply.performative} {reply.sender} {digest}")
        if reply.performative is Performative.INFORM:
            answers[reply.sender.rpartition("@")[2]] += 1
        else:
            failed += 1

    async with trio.open_nursery() as nursery:
        cluster = SimulatedCluster(world, directory, nursery)
        await cluster.start("alpha")
        for name in ("beta", "gamma"):
            node = await cluster.start(name, "alpha")
            await node.supervisor.deploy(agent, artifacts=artifacts)
        while len(cluster.nodes["alpha"].node.membership.registry.providers(CAPABILITY)) < 2:
            await cluster.nodes["alpha"].environment.clock.sleep(0.1)
        async with trio.open_nursery() as clients:
            for number in range(REQUESTS):
                clients.start_soon(ask, number)
            clients.start_soon(_trouble, cluster)
        nursery.cancel_scope.cancel()
    return Outcome(
        sum(answers.values()),
        failed,
        dict(sorted(answers.items())),
        world.trace.digest(),
        world.trace.count,
        world.now(),
    )


async def _trouble(cluster: SimulatedCluster) -> None:
    clock = cluster.nodes["alpha"].environment.clock
    await clock.sleep(1.0)
    cluster.pause("beta")
    await clock.sleep(1.5)
    cluster.resume("beta")
    await clock.sleep(0.5)
    await cluster.crash("gamma")
    await clock.sleep(6.0)
    await cluster.start("gamma", "alpha")
