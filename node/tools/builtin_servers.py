"""The MCP servers that come with Caxton, and how each is built.

They run inside the node, connected in memory. A server's module is imported when its first agent arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node.environment import Workers
from node.errors import ToolFailed
from node.tools.files import FileSpaces

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

    from node.memory.room import MemoryRoom

MEMORY_TOOLS: Final = (
    *("create_entities", "create_relations", "add_observations"),
    *("delete_entities", "delete_observations", "delete_relations"),
    *("read_graph", "search_nodes", "open_nodes"),
)
"""The tools of the server ``memory``, by the names of MCP's own memory server."""


@dataclass(frozen=True, slots=True)
class ToolServer:
    """A server that can be started: its name, its tools' names, and how to build it, imports included."""

    name: str
    tools: tuple[str, ...]
    create: Callable[[FileSpaces, Workers], MCPServer]


def builtin_servers(memory: MemoryRoom | None = None) -> tuple[ToolServer, ...]:
    """The servers that come with Caxton; ``memory`` starts only where there is a memory."""

    def create_csv(files: FileSpaces, workers: Workers) -> MCPServer:
        from node.tools.csv_server import create_csv_server  # noqa: PLC0415 - costs half a second

        return create_csv_server(files, workers)

    def create_memory(_files: FileSpaces, _workers: Workers) -> MCPServer:
        from node.tools.memory_server import create_memory_server  # noqa: PLC0415 - as above

        if memory is None:
            raise ToolFailed("there is no memory here", why="this tool host has none")
        return create_memory_server(memory)

    csv = ("csv_analyze", "csv_describe", "csv_aggregate", "csv_top", "csv_find")
    return (ToolServer("csv_parser", csv, create_csv), ToolServer("memory", MEMORY_TOOLS, create_memory))
