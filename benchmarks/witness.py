"""``caxton start`` of a node whose agent writes down each of its runs, where a SIGKILL cannot undo it.

The agent offers ``witness``. It appends a line to ``witness.log`` in the home directory when a run begins and
another when it ends, each with the process id: what a handler did is known from outside of the node, however
the node itself remembers it.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

import node.node
from node.cli.main import main
from node.messaging.delivery import Delivery, Draft
from node.node import Node, ReadyInfo
from node.vocabulary import Performative

CAPABILITY: Final = "witness"
LOG: Final = "witness.log"
LONGEST_RUN_S: Final = 0.004
CONCURRENCY: Final = 8


class WitnessedNode(Node):
    """A node that is ready when its witness is attached."""

    async def run(self, *, task_status: trio.TaskStatus[ReadyInfo] = trio.TASK_STATUS_IGNORED) -> None:
        """As the node's."""
        log = os.open(Path.home() / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        chance = random.Random(os.getpid())

        def say(what: str, delivery: Delivery) -> None:
            message = delivery.message
            line = f"{what} {message.id} {message.conversation_id} {message.content} {os.getpid()}\n"
            os.write(log, line.encode())  # one write of O_APPEND: whole, and in the system's hands

        async def handle(delivery: Delivery) -> Sequence[Draft]:
            say("begin", delivery)
            await trio.sleep(chance.uniform(0.0, LONGEST_RUN_S))
            say("end", delivery)
            return [Draft(Performative.INFORM, {"done": delivery.message.content})]

        async with trio.open_nursery() as nursery:
            ready = await nursery.start(super().run)
            self.bus.attach(CAPABILITY, handle, capacity=1000, concurrency=CONCURRENCY)
            self.membership.registry.publish(
                CAPABILITY, version="1.0.0", capabilities=(CAPABILITY,), priority=50, health=1.0
            )
            task_status.started(ready)


if __name__ == "__main__":
    node.node.Node = WitnessedNode  # type: ignore[misc] # what run_node builds
    sys.exit(main())
