"""The configuration of a node: frozen models, and the loader that names every problem at once."""

from __future__ import annotations

from node.config.load import load_config
from node.config.model import (
    ClusterConfig,
    LlmConfig,
    LoggingConfig,
    MessagingConfig,
    NodeConfig,
    ObservabilityConfig,
    RuntimeConfig,
    ScriptedConfig,
    SecurityConfig,
    ServerConfig,
    StorageConfig,
    ToolsConfig,
    TracingConfig,
    WebhooksConfig,
    is_loopback,
)

__all__ = [
    "ClusterConfig",
    "LlmConfig",
    "LoggingConfig",
    "MessagingConfig",
    "NodeConfig",
    "ObservabilityConfig",
    "RuntimeConfig",
    "ScriptedConfig",
    "SecurityConfig",
    "ServerConfig",
    "StorageConfig",
    "ToolsConfig",
    "TracingConfig",
    "WebhooksConfig",
    "is_loopback",
    "load_config",
]
