"""What is told of tools that agents are granted and cannot use: in their logs, and where they are shown.

Servers of other programs come and go while agents run; an agent is deployed all the same, and goes without.
"""

from __future__ import annotations

from typing import Any

from node.agents.definition import AgentDefinition
from node.agents.journal import Journal
from node.tools.host import ToolHost


def absent_tools(tools: ToolHost, definition: AgentDefinition) -> list[dict[str, Any]]:
    """What an agent goes without at this moment, in the form of the warnings about its file."""
    return [
        {"type": "absent_tool", "field": "tools", "message": f"{name}: {why}", "severity": "warning"}
        for name, why in tools.absent(definition.tools)
    ]


def note_absent(tools: ToolHost, definition: AgentDefinition, journal: Journal) -> None:
    """Write into an agent's log what it goes without."""
    for name, why in tools.absent(definition.tools):
        journal.log("warning", f"goes without the tool {name}: {why}")


def note_change(
    tools: ToolHost, definition: AgentDefinition, journal: Journal, change: tuple[str, str, str]
) -> None:
    """Write into an agent's log what has become of a tool server, if it is granted anything of it.

    Args:
        tools: The tool host.
        definition: The agent's.
        journal: The agent's.
        change: Server, level and what has happened.
    """
    server, level, what = change
    if all(name.partition("/")[0] != server for name in definition.tools):
        return
    journal.log(level, f"tool server {server} {what}")
    for name, why in tools.absent(definition.tools):
        if name.startswith(f"{server}/"):
            journal.log("warning", f"goes without the tool {name}: {why}")
