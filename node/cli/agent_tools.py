"""What the tool servers of a configuration really offer, for ``caxton agent validate --check-tools``.

They are started as a node starts them, within their bounds, but only those that an agent names; nothing is
approved or written down, and none of their tools is called.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

import trio

from node.config import ToolsConfig


def absent_tools(config: ToolsConfig, grants: Sequence[Collection[str]]) -> list[dict[str, str]]:
    """Start the servers, and say which grants lead to nothing.

    Args:
        config: The section ``tools``.
        grants: The ``tools`` of each agent.

    Returns:
        For each agent, name of a server or ``server/tool`` -> why it cannot be used.
    """
    named = {name.partition("/")[0] for granted in grants for name in granted}
    servers = {name: server for name, server in config.mcp_servers.items() if name in named}
    limits = {name: bounds for name, bounds in config.servers.items() if name in servers}
    if not servers:
        return [{} for _ in grants]
    return trio.run(_absent, config.model_copy(update={"mcp_servers": servers, "servers": limits}), grants)


async def _absent(config: ToolsConfig, grants: Sequence[Collection[str]]) -> list[dict[str, str]]:
    from node.environment import system_environment  # noqa: PLC0415 - not for --help
    from node.telemetry.tracing import Tracing  # noqa: PLC0415
    from node.tools.host import ToolHost, ToolSettings  # noqa: PLC0415

    host = ToolHost(
        environment=system_environment(),
        tracing=Tracing.off(),
        settings=ToolSettings.from_config(config),
        environ=os.environ,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        await host.tools_for(tuple(config.mcp_servers))
        found = [dict(host.absent(granted)) for granted in grants]
        nursery.cancel_scope.cancel()
    return found
