"""The MCP server ``request_capability``: lets any MCP client ask the agents of a cluster, through one node.

Agents inside a node have their own way (:mod:`node.agents.ask`), which counts hops and keeps the
conversation.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Protocol

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from node.errors import CaxtonError

NAME: Final = "request_capability"
"""The server's name, and that of its tool."""
WAIT_LIMIT_S: Final = 300.0
"""Longest wait for an answer, in seconds."""


class Agents(Protocol):
    """The way to the agents of a cluster."""

    async def request(self, content: Any, *, capability: str, timeout_s: float) -> dict[str, Any]:
        """Ask whoever offers a capability; the reply as the public API shows it.

        Raises:
            CaxtonError: nobody answered, or the node refused.
        """
        ...

    async def capabilities(self) -> list[dict[str, Any]]:
        """What is offered, as the public API shows it.

        Raises:
            CaxtonError: the node refused.
        """
        ...


def create_capability_server(agents: Agents) -> MCPServer:
    """Build the server; its tools ask ``agents``."""
    server = MCPServer(NAME, instructions="Asks the agents of a Caxton cluster by what they can do.")

    @server.tool(structured_output=True)
    async def request_capability(
        capability: Annotated[
            str, Field(min_length=1, max_length=512, description="What is wanted, as data-analysis.")
        ],
        content: Annotated[Any, Field(description="The request, as text or JSON.")] = None,
        timeout_s: Annotated[
            float, Field(gt=0, le=WAIT_LIMIT_S, description="Longest wait for the answer, in seconds.")
        ] = 30.0,
    ) -> dict[str, Any]:
        """Ask the agent that is best at a capability, and give its answer."""
        try:
            reply = await agents.request(content, capability=capability, timeout_s=timeout_s)
        except CaxtonError as error:
            raise ToolError(str(error)) from None
        performative = reply.get("performative")
        answer = {"from": reply.get("sender"), "performative": performative, "content": reply.get("content")}
        if performative in ("failure", "refuse", "not_understood"):
            raise ToolError(f"{answer['from']} answered {performative}: {str(answer['content'])[:500]}")
        return answer

    @server.tool(structured_output=True)
    async def list_capabilities() -> dict[str, Any]:
        """List the capabilities that agents of the cluster offer."""
        try:
            return {"capabilities": await agents.capabilities()}
        except CaxtonError as error:
            raise ToolError(str(error)) from None

    return server
