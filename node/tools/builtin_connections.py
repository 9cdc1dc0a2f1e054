"""Connections to the servers inside the node: each starts with the first agent that has one of its tools.

The SDK is imported then, too: it costs half a second that a node without tools never pays. A connection that
breaks is forgotten, and the next call starts the server anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from node.environment import Environment
from node.errors import ToolFailed
from node.tools.calls import QUEUE_LIMIT, Call, serve_calls
from node.tools.described import ToolInfo, one_line
from node.tools.files import FileSpaces

if TYPE_CHECKING:
    from node.tools.builtin_servers import ToolServer

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Connection:
    """An open connection: where its calls go, and the tools that it offers."""

    send: trio.MemorySendChannel[Call]
    tools: dict[str, ToolInfo]


class BuiltinConnections:
    """See the module's docstring.

    Args:
        environment: Workers for the servers.
        files: What a call may read.
    """

    def __init__(self, environment: Environment, files: FileSpaces) -> None:
        self._environment, self._files = environment, files
        self._open: dict[str, Connection] = {}
        self._described: dict[str, dict[str, ToolInfo]] = {}
        self._starting = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self.crashed = 0

    def begin(self, nursery: trio.Nursery) -> None:
        """Run servers in this nursery from now on."""
        self._nursery = nursery

    def finish(self) -> None:
        """Run no more servers."""
        self._nursery = None
        self._open.clear()

    def names(self) -> list[str]:
        """The servers that run."""
        return sorted(self._open)

    def described(self, server: str) -> dict[str, ToolInfo]:
        """The tools of a server as they were when it last started; none before."""
        return self._described.get(server, {})

    async def connect(self, server: ToolServer) -> Connection:
        """The connection to a server, which is started if it does not run.

        Raises:
            ToolFailed: it does not start.
        """
        async with self._starting:
            if server.name not in self._open:
                if self._nursery is None:
                    raise ToolFailed(
                        f"the tool server {server.name!r} cannot start", why="the tool host is not running"
                    )
                try:
                    self._open[server.name] = await self._nursery.start(self._keep, server)
                except Exception as error:  # whatever a server's own code raises
                    _log.warning("tool server %s does not start: %r", server.name, error)
                    raise ToolFailed(
                        f"the tool server {server.name!r} does not start", why=type(error).__name__
                    ) from error
            return self._open[server.name]

    async def _keep(
        self, server: ToolServer, *, task_status: trio.TaskStatus[Connection] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Own a connection; one that breaks is forgotten, and the next call starts the server anew."""
        started = False

        def note(connection: Connection) -> None:
            nonlocal started
            started = True
            task_status.started(connection)

        try:
            await self._own(server, note)
        except Exception:  # a bug in one server is that server's failure, never the node's end
            if not started:
                raise
            _log.exception("tool server %s stopped", server.name)
        self.crashed += 1
        self._open.pop(server.name, None)

    async def _own(self, server: ToolServer, started: Callable[[Connection], None]) -> None:
        """Own one connection: enter it, serve its calls, leave it, all in this task."""
        from mcp.client.client import Client  # noqa: PLC0415 - costs half a second

        with quiet_logging():
            mcp_server = server.create(self._files, self._environment.workers)
        send, receive = trio.open_memory_channel[Call](QUEUE_LIMIT)
        async with Client(mcp_server, cache=None) as client, receive:
            listed = await client.list_tools()
            tools = {
                tool.name: ToolInfo(tool.name, one_line(tool.description), tool.input_schema)
                for tool in listed.tools
                if tool.name in server.tools  # a tool that appears unannounced stays hidden
            }
            self._described[server.name] = tools
            started(Connection(send, tools))
            await serve_calls(client, receive)


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
