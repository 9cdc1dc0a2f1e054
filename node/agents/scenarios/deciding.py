"""Decides about the calls that an agent needs an operator for, as a scenario says, and finds its answer."""

from __future__ import annotations

from typing import Final

from node.agents.resuming import APPROVED, DENIED
from node.agents.scenarios.file import Scenario
from node.agents.scenarios.stage import Stage
from node.environment import Clock
from node.message import Message
from node.storage.approvals import WAITING
from node.tools.approval import is_named

LOOK_S: Final = 0.01
"""Pause between two looks for what came of a decision, in seconds."""
OPERATOR: Final = "scenario"
"""The name under which is decided."""


async def decided(scenario: Scenario, rooms: Stage, clock: Clock, asked: Message) -> Message | None:
    """Decide until the agent has answered.

    Args:
        scenario: Names the tools that are approved, and denied.
        rooms: Where it runs.
        clock: Paces the looks; the run as a whole is bounded elsewhere.
        asked: What the agent has agreed to work on.

    Returns:
        The answer; None where the scenario decides nothing about what waits.
    """
    while True:
        answer = rooms.bus.late_answer(asked)
        if answer is not None:
            return answer
        for found in await rooms.supervisor.approvals.page(1, states=[WAITING], agent=rooms.watch.agent):
            server, _, tool = found["tool"].partition("/")
            reason = next(
                (why for name, why in scenario.deny.items() if is_named([name], server, tool)), None
            )
            if reason is None and not is_named(scenario.approve, server, tool):
                return None
            verdict = APPROVED if reason is None else DENIED
            await rooms.supervisor.approvals.decide(
                found["approval_id"], verdict, reason=reason or "", by=OPERATOR
            )
        await clock.sleep(LOOK_S)
