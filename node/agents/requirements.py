"""What an agent requires of others: whether anybody offers it, told where the agent is shown and in its log.

An agent is deployed whether or not those are there whom it asks: they may be on their way, or restarting. So
what nobody offers is a warning that comes and goes with the cluster, never a refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from node.agents.definition import AgentDefinition
from node.agents.journal import Journal

Offered = Callable[[str], bool]
"""Whether anybody in the cluster offers a capability now."""


def waited_for(definition: AgentDefinition, offered: Offered) -> tuple[str, ...]:
    """The capabilities in an agent's ``requires`` that nobody offers now."""
    return tuple(wanted for wanted in dict.fromkeys(definition.requires) if not offered(wanted))


def absent_providers(definition: AgentDefinition, offered: Offered) -> list[dict[str, Any]]:
    """The same, in the form of the warnings about its file."""
    return [
        {"type": "absent_provider", "field": "requires", "message": _message(wanted), "severity": "warning"}
        for wanted in waited_for(definition, offered)
    ]


def note_absent_providers(definition: AgentDefinition, offered: Offered, journal: Journal) -> None:
    """Write the same into its log."""
    for wanted in waited_for(definition, offered):
        journal.log("warning", f"requires: {_message(wanted)}")


def _message(wanted: str) -> str:
    return f"{wanted}: nobody in the cluster offers it now; what it asks waits, and then fails"
