"""On whose behalf an agent calls tools, and how far these may reach: its front matter says so.

The same for agents that a model answers for and for those of WebAssembly, so that neither reaches further.
"""

from __future__ import annotations

from node.agents.definition import AgentDefinition
from node.message import Message
from node.tools.caller import Caller


def caller(definition: AgentDefinition, workspace: str, message: Message | None) -> Caller:
    """Who calls a tool.

    Args:
        definition: The agent's.
        workspace: The workspace it is deployed in; empty for none.
        message: The one that it handles; None in a timer.
    """
    security = definition.groups.get("security", {})
    limits = security.get("sandbox_restrictions", {})
    connected = limits.get("network_access", True)
    return Caller(
        definition.id,
        workspace,
        "" if message is None else message.conversation_id,
        "" if message is None else message.id,
        definition.memory_scope,
        domains=security.get("allowed_domains", ()) if connected else (),
        paths=security.get("allowed_paths"),
        file_access=limits.get("file_system_access", "read_only"),
    )
