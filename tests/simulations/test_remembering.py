"""An agent that remembers runs in a simulation, and the same seed gives the same history."""

import trio

from node.message import Message
from node.vocabulary import Performative
from simulations.cluster import SimulatedCluster
from simulations.kernel import run

AGENT = b"""---
name: tea-clerk
version: 1.0.0
capabilities: [tea]
memory_enabled: true
system_prompt: Answer.
---
"""
QUESTION = "How many degrees are right for green tea from Uji?"


def message(running, performative, content, **to):
    identifier = running.environment.new_id()
    return Message(
        id=identifier,
        reply_with=identifier,
        performative=performative,
        sender="client@alpha",
        content=content,
        conversation_id="tea",
        timestamp_s=running.environment.clock.wall(),
        **to,
    )


async def taught(world, directory):
    async with trio.open_nursery() as nursery:
        cluster = SimulatedCluster(world, directory, nursery)
        await cluster.start("alpha")
        running = cluster.nodes["alpha"]
        bus = running.node.bus
        await running.node.supervisor.deploy(AGENT)
        ask = {"capability": "tea"}
        first = await bus.request(message(running, Performative.REQUEST, QUESTION, **ask), timeout_s=10.0)
        said = "Correction: 70 degrees are right for green tea from Uji"
        await bus.accept(message(running, Performative.INFORM, said, receiver="tea-clerk@alpha"))
        await running.environment.clock.sleep(5.0)
        second = await bus.request(message(running, Performative.REQUEST, QUESTION, **ask), timeout_s=10.0)
        history = [(reply.performative, reply.id, str(reply.content)) for reply in (first, second)]
        nursery.cancel_scope.cancel()
    return history


def test_an_agent_is_taught_and_the_same_seed_gives_the_same_history(tmp_path):
    first, again = (
        run(lambda world, n=n: taught(world, tmp_path / str(n)), 7, limit_s=600.0) for n in (1, 2)
    )
    assert [told[0] for told in first] == [Performative.NOT_UNDERSTOOD, Performative.INFORM]
    assert "70 degrees are right" in first[1][2]
    assert first == again
