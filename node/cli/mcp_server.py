"""The cluster as an MCP server: each capability is a tool, and a call of it a request to whoever offers it.

The tools are looked up whenever a client lists them, so that they are those of the moment. A call waits for
the first reply; a failure, a refusal and a message that was not understood are errors of the tool, with the
reason.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import anyio
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)

from node.errors import CaxtonError, ValidationFailed, nearest
from node.telemetry.version import software_version

NAME: Final = "caxton"
TOOLS_LIMIT: Final = 512
"""Most capabilities that are offered; the first ones, by name."""
CALLS_LIMIT: Final = 32
"""Most calls under way; others wait for their turn."""
TIMEOUT_S: Final = 60.0
TIMEOUT_LIMIT_S: Final = 600.0
"""How long a reply is waited for, without a word of the caller and at most, in seconds."""
NAME_LIMIT: Final = 64
_REFUSALS: Final = ("failure", "refuse", "not_understood")
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "content": {"description": "What is asked: a text, or JSON as the agent wants it."},
        "conversation_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "description": "Goes on with a conversation; the answer names it.",
        },
        "timeout": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": TIMEOUT_LIMIT_S,
            "description": f"Seconds to wait for the answer; {TIMEOUT_S:g} without it.",
        },
    },
    "required": ["content"],
    "additionalProperties": False,
}


class Node(Protocol):
    """What is needed of ``node.client.AsyncClient``."""

    async def capabilities(self) -> list[dict[str, Any]]:
        """What is offered in the cluster."""
        ...

    async def agents(self) -> list[dict[str, Any]]:
        """The agents of the node."""
        ...

    async def request(self, content: Any, *, timeout_s: float, **fields: Any) -> dict[str, Any]:
        """Send a message and wait for the first reply."""
        ...


class ClusterTools:
    """See the module's docstring.

    Args:
        node: Speaks to a node of the cluster.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._capabilities: dict[str, str] = {}
        self._calls = anyio.Semaphore(CALLS_LIMIT)

    def server(self) -> Server[Any]:
        """An MCP server with these tools."""
        return Server(
            NAME,
            version=software_version(),
            instructions="Each tool asks an agent of a Caxton cluster, and answers with its reply.",
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
        )

    async def tools(self) -> list[Tool]:
        """A tool for each capability of the moment.

        Raises:
            CaxtonError: the node does not tell.
        """
        capabilities = await self._look()
        about = _descriptions(await self._node.agents())
        return [
            Tool(
                name=name,
                description=_description(capability, capabilities[capability], about),
                input_schema=_SCHEMA,
            )
            for name, capability in self._capabilities.items()
        ]

    async def list_tools(self, _context: object, _params: PaginatedRequestParams | None) -> ListToolsResult:
        """What a client is told of :meth:`tools`."""
        try:
            return ListToolsResult(tools=await self.tools())
        except CaxtonError as error:
            raise MCPError(INTERNAL_ERROR, f"{error.code}: {error}") from None

    async def call_tool(self, _context: object, params: CallToolRequestParams) -> CallToolResult:
        """Ask whoever offers the capability, and give the first reply."""
        try:
            async with self._calls:
                return await self._call(params.name, params.arguments or {})
        except CaxtonError as error:
            return _result(f"{error.code}: {error}", is_error=True)

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> CallToolResult:
        if name not in self._capabilities:
            await self._look()
        if name not in self._capabilities:
            guess = nearest(name, self._capabilities)
            raise ValidationFailed(
                f"there is no tool {name[:80]!r}",
                why="nobody in the cluster offers such a capability now",
                fix=f"Did you mean {guess!r}?" if guess else "List the tools again.",
            )
        timeout_s = _checked(arguments)
        fields = {key: arguments[key] for key in ("conversation_id",) if key in arguments}
        reply = await self._node.request(
            arguments["content"], timeout_s=timeout_s, capability=self._capabilities[name], **fields
        )
        content, performative = reply.get("content"), str(reply.get("performative", ""))
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        if performative in _REFUSALS:
            reason = content.get("reason", text) if isinstance(content, dict) else text
            return _result(f"{performative}: {reason}", is_error=True)
        shown = {key: reply.get(key) for key in ("content", "performative", "sender", "conversation_id")}
        return _result(text, structured=shown)

    async def _look(self) -> dict[str, dict[str, Any]]:
        """Look up the capabilities, and under which names they are tools."""
        found = {str(each["capability"]): each for each in await self._node.capabilities()}
        self._capabilities = {tool_name(name): name for name in sorted(found)[:TOOLS_LIMIT]}
        return found


def tool_name(capability: str) -> str:
    """The name under which a capability is a tool: letters, digits, ``_`` and ``-``, at most 64 of them."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", capability)
    if name == capability and len(name) <= NAME_LIMIT:
        return name
    digest = hashlib.sha256(capability.encode()).hexdigest()[:8]
    return f"{name[: NAME_LIMIT - 9]}_{digest}"


def _description(capability: str, offered: Mapping[str, Any], about: Mapping[str, str]) -> str:
    count = int(offered.get("agents_count", 0))
    agents = "1 agent offers" if count == 1 else f"{count} agents offer"
    told = f"{about[capability]} " if about.get(capability) else ""
    return f"{told}({agents} {capability} in the cluster.)"


def _descriptions(agents: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Capability -> what the first agent of the node that offers it says of itself."""
    found: dict[str, str] = {}
    for agent in agents:
        for capability in agent.get("capabilities", ()):
            if agent.get("description"):
                found.setdefault(str(capability), str(agent["description"]))
    return found


def _checked(arguments: Mapping[str, Any]) -> float:
    """The time that the arguments give; refuses those that do not follow the schema.

    Raises:
        ValidationFailed: they do not.
    """
    unknown = sorted(set(arguments) - set(_SCHEMA["properties"]))
    if unknown:
        raise ValidationFailed(f"there is no argument {unknown[0][:80]!r}", fix="See the tool's schema.")
    if "content" not in arguments:
        raise ValidationFailed("the argument 'content' is missing", fix="See the tool's schema.")
    talk = arguments.get("conversation_id", "-")
    if not isinstance(talk, str) or not 1 <= len(talk) <= 256:
        raise ValidationFailed("conversation_id must be a text of 1 to 256 characters")
    timeout = arguments.get("timeout", TIMEOUT_S)
    numeric = isinstance(timeout, int | float) and not isinstance(timeout, bool) and math.isfinite(timeout)
    if not numeric or not 0 < timeout <= TIMEOUT_LIMIT_S:
        raise ValidationFailed(f"timeout must be a number of seconds, at most {TIMEOUT_LIMIT_S:g}")
    return float(timeout)


def _result(text: str, *, is_error: bool = False, structured: dict[str, Any] | None = None) -> CallToolResult:
    shown = [TextContent(type="text", text=text)]
    if structured is None:
        return CallToolResult(content=list(shown), is_error=is_error)
    return CallToolResult(content=list(shown), is_error=is_error, structured_content=structured)
