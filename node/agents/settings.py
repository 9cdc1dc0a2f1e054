"""The bounds of agents on one node, beside those of an agent's own front matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from node.config import MessagingConfig, RuntimeConfig
from node.security.artifacts import ANYBODY, ArtifactTrust
from node.tools.artifacts import PRODUCED_BYTES_LIMIT


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Settings of the agents' room.

    Args:
        max_agents: Most agents deployed on this node (``runtime.max_agents``).
        strict: Warnings of an agent file refuse it.
        agent_timeout_s: Longest handling of one message (``runtime.agent_timeout``).
        max_turns: Most completions for one message, where the agent names none.
        max_tool_calls: Most tool calls for one message.
        max_tokens: Most tokens spent for one message.
        mailbox_capacity: Messages waiting per agent.
        concurrency: Messages a configured agent handles at once; a wasm agent always handles one.
        log_records: Log records kept per agent.
        max_content_bytes: Largest agent file.
        max_artifacts_bytes: Largest sum of the files beside it, or module that is deployed alone.
        max_produced_bytes: Most bytes of the files that tools make for one answer.
        wasm_fuel: Instructions a wasm agent may execute for one message.
        wasm_timeout_s: Wall time a wasm agent may take for one message.
        wasm_memory_bytes: Memory of one wasm instance.
        trust: Whose signature counts on a wasm module (``security.agents``).
    """

    max_agents: int = 1000
    strict: bool = False
    agent_timeout_s: float = 30.0
    max_turns: int = 50
    max_tool_calls: int = 32
    max_tokens: int = 200_000
    mailbox_capacity: int = 1000
    concurrency: int = 8
    log_records: int = 500
    max_content_bytes: int = 4 * 1024 * 1024
    max_artifacts_bytes: int = 32 * 1024 * 1024
    max_produced_bytes: int = PRODUCED_BYTES_LIMIT
    wasm_fuel: int = 200_000_000
    wasm_timeout_s: float = 1.0
    wasm_memory_bytes: int = 50 * 1024 * 1024
    trust: ArtifactTrust = ANYBODY

    @classmethod
    def from_config(cls, config: RuntimeConfig, messaging: MessagingConfig, trust: ArtifactTrust) -> Self:
        """The settings that the configuration's sections ``runtime`` and ``messaging`` ask for."""
        return cls(
            max_agents=config.max_agents,
            agent_timeout_s=config.agent_timeout_s,
            concurrency=config.agent_concurrency,
            mailbox_capacity=messaging.mailbox_capacity,
            max_produced_bytes=messaging.max_message_bytes // 2,
            trust=trust,
        )
