"""The configuration of a node: frozen models, and the loader that names every problem at once."""

from __future__ import annotations

from node.config.llm import (
    LlmBreaker,
    LlmBudget,
    LlmBudgets,
    LlmConfig,
    LlmPrice,
    LlmProvider,
    LlmRetry,
    LlmTimeouts,
    ScriptedConfig,
)
from node.config.load import load_config, misspelt_variables
from node.config.model import (
    ClusterConfig,
    LoggingConfig,
    MessagingConfig,
    NodeConfig,
    ObservabilityConfig,
    RuntimeConfig,
    SecurityConfig,
    ServerConfig,
    StorageConfig,
    TracingConfig,
    WebhooksConfig,
    is_loopback,
)
from node.config.tool_servers import McpServer, ToolsConfig, ToolServerLimits

__all__ = [
    "ClusterConfig",
    "LlmBreaker",
    "LlmBudget",
    "LlmBudgets",
    "LlmConfig",
    "LlmPrice",
    "LlmProvider",
    "LlmRetry",
    "LlmTimeouts",
    "LoggingConfig",
    "McpServer",
    "MessagingConfig",
    "NodeConfig",
    "ObservabilityConfig",
    "RuntimeConfig",
    "ScriptedConfig",
    "SecurityConfig",
    "ServerConfig",
    "StorageConfig",
    "ToolServerLimits",
    "ToolsConfig",
    "TracingConfig",
    "WebhooksConfig",
    "is_loopback",
    "load_config",
    "misspelt_variables",
]
