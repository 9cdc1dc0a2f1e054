"""From the configuration to connections: which way each configured server is reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from node.config import ToolsConfig
from node.environment import Environment
from node.tools.external import Link


def links_of(
    config: ToolsConfig, environment: Environment, environ: Mapping[str, str]
) -> dict[str, Callable[[], Link] | None]:
    """Name of each configured server -> what makes a connection to it; None for one that is disabled.

    Args:
        config: The section ``tools``.
        environment: Clock, network, workers.
        environ: The node's variables.
    """
    return {
        name: None if server.disabled else partial(_link, name, config, environment, environ)
        for name, server in config.mcp_servers.items()
    }


def _link(name: str, config: ToolsConfig, environment: Environment, environ: Mapping[str, str]) -> Link:
    server, limits = config.mcp_servers[name], config.limits(name)
    if server.kind == "http":
        from node.tools.remote import HttpLink  # noqa: PLC0415 - imports the SDK's HTTP client

        return HttpLink(server, limits, environment=environment)
    from node.tools.stdio import StdioLink  # noqa: PLC0415 - as above

    return StdioLink(
        name,
        server,
        limits,
        environment=environment,
        require=config.confinement == "require",
        environ=environ,
    )
