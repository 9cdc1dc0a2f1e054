"""``caxton mcp``: offer the agents of the cluster as tools to an MCP client, over pipes or HTTP."""

from __future__ import annotations

from typing import Any, Final

import click

from node.cli.client import Target, find_target
from node.cli.options import Where, node_options
from node.cli.output import print_json

EXAMPLE = 'For example, in mcpServers of a client: {"command": "caxton", "args": ["mcp"]}'


TOKEN_VARIABLE: Final = "CAXTON_MCP_TOKEN"  # noqa: S105 - a name
"""Environment variable with the token that clients show over HTTP; without it one is made."""


@click.command("mcp", epilog=EXAMPLE)
@click.option(
    "--http", "port", type=click.IntRange(1, 65_535), help="Serve by HTTP on this port of 127.0.0.1."
)
@node_options
def command(
    port: int | None,
    as_json: bool,
    where: Where,
) -> None:
    """Offer the agents of the cluster as tools to an MCP client.

    Speaks the Model Context Protocol on standard input and output until the input ends, or with --http to
    whoever shows a token: each capability is a tool, and calling it asks whoever offers it. With --json it
    shows the tools, and ends.
    """
    import trio  # noqa: PLC0415 - not for --help

    target = find_target(where)
    if as_json:
        print_json({"tools": trio.run(_tools, target)})
    else:
        trio.run(_serve, target, port)


async def _tools(target: Target) -> list[dict[str, Any]]:
    from node.cli.mcp_server import ClusterTools  # noqa: PLC0415 - not for --help
    from node.client import AsyncClient  # noqa: PLC0415

    async with AsyncClient(target.api, token=target.token) as client:
        tools = await ClusterTools(client).tools()
    return [{"name": tool.name, "description": tool.description} for tool in tools]


async def _serve(target: Target, port: int | None) -> None:
    from mcp.server.stdio import stdio_server  # noqa: PLC0415 - not for --help

    from node.cli.mcp_http import serve_http  # noqa: PLC0415
    from node.cli.mcp_server import ClusterTools  # noqa: PLC0415
    from node.client import AsyncClient  # noqa: PLC0415

    async with AsyncClient(target.api, token=target.token) as client:
        server = ClusterTools(client).server()
        if port is not None:
            app = server.streamable_http_app()
            await serve_http(app, name=server.name, port=port, variable=TOKEN_VARIABLE)
            return
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
