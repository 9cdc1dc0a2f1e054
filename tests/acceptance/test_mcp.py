"""The cluster as an MCP server: the SDK's own client, ``caxton mcp`` as a process, and a real node."""

import sys

import anyio
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters

from tests.acceptance.agents import ECHO
from tests.acceptance.processes import CAXTON, CONFIGS, clean_environment


def test_an_mcp_client_asks_an_agent_of_the_cluster(cluster):
    [node] = cluster.start("a")
    node.deploy(ECHO)
    cluster.wait_for_providers([node], echo=["a"])
    token = cluster.directory / "mcp.token"
    token.write_text(cluster.token)
    server = StdioServerParameters(
        command=sys.executable,
        args=[*CAXTON[1:], "mcp", "--api", node.url, "--token-file", str(token)],
        env=clean_environment(node.home) | {"PYTHONPATH": str(CONFIGS.parent)},
    )

    async def use():
        async with Client(server) as client:
            listed = (await client.list_tools()).tools
            assert "echo" in [tool.name for tool in listed]
            answer = await client.call_tool("echo", {"content": {"n": 7}})
            assert not answer.is_error
            assert answer.structured_content["sender"] == "echo-agent@a"
            assert answer.structured_content["content"]["echo"] == {"n": 7}
            answer = await client.call_tool("ecko", {"content": 1})
            assert answer.is_error

    anyio.run(use, backend="trio")
