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


async def told(world, directory, *, cut):
    """What is seen on one node of a reply that another one makes; their link may break in between."""
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
        seen = []
        with bus.partials.watches.watch("m1") as watch:
            wait = bus.expect(message)
            await bus.accept(message)
            bus.partials.watches.look()
            while not watch.ended:
                await watch.change()
                while (piece := watch.take()) is not None:
                    seen.append((clock.now(), piece))
                if cut and len(seen) == 2:
                    cluster.nodes["beta"].node.links.drop("alpha")
                    cut = False
            bus.expect_no_more(wait)
        nursery.cancel_scope.cancel()
    return seen, wait.replies[0].content


def again(tmp_path, name, seed, **options):
    return run(lambda world: told(world, tmp_path / name, **options), seed, limit_s=600.0)


def test_the_same_seed_shows_the_same_pieces_at_the_same_times(tmp_path):
    seen, reply = again(tmp_path, "first", 7, cut=False)
    assert "".join(piece.text for _, piece in seen) == reply == "Once upon a time there was."
    assert len(seen) == 6
    assert again(tmp_path, "second", 7, cut=False) == (seen, reply)


def test_a_link_that_breaks_is_asked_again_and_the_text_begins_anew(tmp_path):
    seen, reply = again(tmp_path, "cut", 7, cut=True)
    events = [piece.event for _, piece in seen]
    assert events.count("restart") == 1
    place = events.index("restart")
    assert "".join(piece.text for _, piece in seen[place:]) == reply
