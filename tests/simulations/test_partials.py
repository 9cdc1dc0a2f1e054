"""Replies that are seen while they are made, over whole nodes and their real links: the same in every run."""

from __future__ import annotations

import trio

from node.message import Message
from node.vocabulary import Performative
from simulations.cluster import SimulatedCluster
from simulations.kernel import run

SCRIPT = """
rules:
- {times: 0, deltas: ["Once ", "upon ", "a ", "time ", "there ", "was."], delta_s: 1}
"""
AGENT = b"""---
name: Teller
version: 1.0.0
capabilities: [stories]
tools: []
llm: {provider: scripted}
messaging: {response_format: natural}
system_prompt: Tell stories.
---
"""


async def told(world, directory):
    """What is seen on one node of a reply that another one makes; their link breaks in between."""
    directory.mkdir()
    script = directory / "script.yaml"
    script.write_text(SCRIPT)
    async with trio.open_nursery() as nursery:
        cluster = SimulatedCluster(world, directory, nursery)
        await cluster.start("alpha")
        await cluster.start("beta", "alpha", settings={"llm.scripted.path": str(script)})
        alpha = cluster.nodes["alpha"]
        clock, bus = alpha.environment.clock, alpha.node.bus
        await cluster.nodes["beta"].node.supervisor.deploy(AGENT)
        await clock.sleep(10.0)
        message = Message(
            id="m1",
            performative=Performative.REQUEST,
            sender="client@alpha",
            capability="stories",
            conversation_id="m1",
            reply_with="m1",
            timestamp_s=clock.wall(),
        )
        seen, broken = [], False
        with bus.partials.watches.watch("m1") as watch:
            wait = bus.expect(message)
            await bus.accept(message)
            bus.partials.watches.look()
            while not watch.ended:
                await watch.change()
                while (piece := watch.take()) is not None:
                    seen.append((clock.now(), piece))
                if len(seen) == 2 and not broken:
                    cluster.nodes["beta"].node.links.drop("alpha")
                    broken = True
            bus.expect_no_more(wait)
        nursery.cancel_scope.cancel()
    return seen, wait.replies[0].content


def test_a_link_that_breaks_is_asked_again_and_the_text_begins_anew_the_same_in_every_run(tmp_path):
    seen, reply = run(lambda world: told(world, tmp_path / "first"), 7, limit_s=600.0)
    events = [piece.event for _, piece in seen]
    assert events[:2] == ["partial", "partial"]
    assert events.count("restart") == 1
    place = events.index("restart")
    assert "".join(piece.text for _, piece in seen[place:]) == reply == "Once upon a time there was."
    assert run(lambda world: told(world, tmp_path / "second"), 7, limit_s=600.0) == (seen, reply)
