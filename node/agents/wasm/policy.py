"""What a WebAssembly agent may do, and how much of it: read from its agent file, bounded by the node.

Nothing is granted that the agent file does not name. A module that is deployed alone can read messages,
answer them and write to its log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from node.agents.definition import AgentDefinition
from node.agents.grants import Grant
from node.agents.settings import AgentSettings

HOST_CALLS_LIMIT: Final = 1000
"""Most host calls while handling one message."""
MESSAGES_PER_S: Final = 100
"""Messages to others that an agent may send in a second unless its file says; replies are free."""
QUARANTINE_AFTER: Final = 10
"""Failures within :data:`QUARANTINE_WINDOW_S` that quarantine an agent unless its file says."""
QUARANTINE_WINDOW_S: Final = 60.0
"""Seconds within which failures count together."""


@dataclass(frozen=True, slots=True)
class WasmPolicy:
    """Grants and bounds of one agent.

    Args:
        grants: What it may ask of the host beside replying and logging.
        topics: Patterns over topics that its agent file subscribes it to.
        parameters: What its agent file tells it.
        fuel: Instructions for one message.
        timeout_s: Wall time for one message, in seconds.
        memory_bytes: Memory of one instance.
        host_calls: Host calls for one message.
        tool_calls: Of them, calls of tools.
        messages_per_s: Messages to others in a second.
        instances: Messages handled at once, each by an instance of its own.
        fresh: Every message gets a fresh instance.
        deterministic: Clock and randomness follow from the message alone; implies ``fresh``.
        quarantine_after: Failures within a minute that take it out of service.
    """

    grants: frozenset[Grant] = frozenset()
    topics: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    fuel: int = 200_000_000
    timeout_s: float = 1.0
    memory_bytes: int = 50 * 1024 * 1024
    host_calls: int = HOST_CALLS_LIMIT
    tool_calls: int = 32
    messages_per_s: int = MESSAGES_PER_S
    instances: int = 1
    fresh: bool = False
    deterministic: bool = False
    quarantine_after: int = QUARANTINE_AFTER

    @classmethod
    def of(cls, definition: AgentDefinition, settings: AgentSettings) -> WasmPolicy:
        """What the group ``wasm`` of an agent file asks for, never more than the node allows."""
        group = definition.groups.get("wasm", {})
        deterministic = group.get("deterministic") is True
        return cls(
            grants=frozenset(Grant(name) for name in group.get("grants", ())),
            topics=tuple(pattern for pattern, _ in definition.topics),
            parameters=definition.parameters,
            fuel=min(group.get("fuel", settings.wasm_fuel), settings.wasm_fuel),
            timeout_s=min(group.get("timeout", settings.wasm_timeout_s), settings.wasm_timeout_s),
            memory_bytes=min(group.get("memory", settings.wasm_memory_bytes), settings.wasm_memory_bytes),
            host_calls=min(group.get("host_calls", HOST_CALLS_LIMIT), HOST_CALLS_LIMIT),
            tool_calls=settings.max_tool_calls,
            messages_per_s=group.get("messages_per_second", MESSAGES_PER_S),
            instances=group.get("instances", 1),
            fresh=deterministic or group.get("fresh") is True,
            deterministic=deterministic,
            quarantine_after=group.get("quarantine_after", QUARANTINE_AFTER),
        )
