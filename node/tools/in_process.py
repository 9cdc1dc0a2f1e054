"""The servers inside the node: each is built with the first agent that has one of its tools, and called.

Their tools are functions that the SDK has wrapped; between the host and them there is no connection, no
JSON-RPC and no other process, which makes a call three times as cheap as one through the SDK's client. By
themselves (``caxton tool serve``) the same servers speak MCP.

The SDK is imported with the first server: it costs half a second that a node without tools never pays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import trio

from node.environment import Environment
from node.errors import ToolFailed
from node.tools.calls import RUNNING_LIMIT, Call
from node.tools.described import Arguments, ToolInfo, one_line
from node.tools.files import FileSpaces
from node.tools.results import reason_in, value_of

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.session import ServerSession

    from node.tools.builtin_servers import ToolServer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InProcessServer:
    """A server that has been built: its tools, what their arguments must be, and where its calls run."""

    server: MCPServer
    tools: dict[str, ToolInfo]
    arguments: dict[str, Arguments]
    nursery: trio.Nursery
    running: trio.Semaphore

    async def send(self, call: Call) -> None:
        """Begin a call; ``call.done`` tells its end.

        It runs in a task of its own: whoever waits may give up while a worker thread, which cannot be stopped
        from outside, still works for it.
        """
        await self.running.acquire()
        self.nursery.start_soon(self._make, call)

    async def _make(self, call: Call) -> None:
        try:
            with call.scope:
                await self._run(call)
        finally:
            self.running.release()
            call.done.set()

    async def _run(self, call: Call) -> None:
        from mcp.server.context import ServerRequestContext  # noqa: PLC0415 - imported with the server
        from mcp.server.mcpserver import Context  # noqa: PLC0415
        from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError  # noqa: PLC0415

        request: ServerRequestContext[dict[str, Any], Any] = ServerRequestContext(
            session=cast("ServerSession", None),  # nothing here asks the caller back
            lifespan_context={},
            protocol_version="",
            method="tools/call",
            meta=cast("Any", call.meta),
        )
        context: Context[dict[str, Any], Any] = Context(request_context=request, mcp_server=self.server)
        try:
            answer = await self.server.call_tool(call.tool, call.arguments, context)
            call.result, call.media = value_of(cast("Any", answer))
            call.failure = ""
        except Exception as error:  # whatever a server's own code raises
            if not isinstance(error, ToolError) or isinstance(error, UnexpectedToolError):
                _log.exception("the tool %s failed by a fault of its own", call.tool)
            call.failure = reason_in([str(error)], call.tool)


class InProcessServers:
    """See the module's docstring.

    Args:
        environment: Workers for the servers.
        files: What a call may read.
    """

    def __init__(self, environment: Environment, files: FileSpaces) -> None:
        self._environment, self._files = environment, files
        self._built: dict[str, InProcessServer] = {}
        self._starting = trio.Lock()
        self._nursery: trio.Nursery | None = None

    def begin(self, nursery: trio.Nursery) -> None:
        """Run calls in this nursery from now on."""
        self._nursery = nursery

    def finish(self) -> None:
        """Run no more calls."""
        self._nursery = None
        self._built.clear()

    def names(self) -> list[str]:
        """The servers that run."""
        return sorted(self._built)

    def described(self, server: str) -> dict[str, ToolInfo]:
        """The tools of a server; none before it is built."""
        built = self._built.get(server)
        return built.tools if built else {}

    async def built(self, server: ToolServer) -> InProcessServer:
        """A server, which is built if it was not.

        Raises:
            ToolFailed: it cannot be.
        """
        found = self._built.get(server.name)
        if found is not None:
            return found
        async with self._starting:
            if server.name not in self._built:
                self._built[server.name] = await self._build(server)
            return self._built[server.name]

    async def _build(self, server: ToolServer) -> InProcessServer:
        nursery = self._nursery
        if nursery is None:
            raise ToolFailed(
                f"the tool server {server.name!r} cannot start", why="the tool host is not running"
            )
        try:
            with quiet_logging():
                made = server.create(self._files, self._environment.workers)
            listed = await made.list_tools()
        except Exception as error:  # whatever a server's own code raises
            _log.warning("tool server %s does not start: %r", server.name, error)
            raise ToolFailed(
                f"the tool server {server.name!r} does not start", why=type(error).__name__
            ) from error
        tools = {
            tool.name: ToolInfo(tool.name, one_line(tool.description), tool.input_schema)
            for tool in listed
            if tool.name in server.tools  # a tool that appears unannounced stays hidden
        }
        arguments = {
            name: Arguments(name, {"additionalProperties": False, **tool.input_schema})
            for name, tool in tools.items()
        }
        return InProcessServer(made, tools, arguments, nursery, trio.Semaphore(RUNNING_LIMIT))


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Keep the SDK from configuring the process's logging, which it does only where nobody has."""
    root = logging.getLogger()
    placeholder = logging.NullHandler()
    root.addHandler(placeholder)
    try:
        yield
    finally:
        root.removeHandler(placeholder)
