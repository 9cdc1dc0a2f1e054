"""The MCP servers that come with Caxton, and how each is built.

They run inside the node and are called directly. A server's module is imported when its first agent arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node.config import ToolsConfig
from node.environment import Environment, Workers
from node.errors import ToolFailed
from node.telemetry.version import software_version
from node.tools.caller import Caller, CallerOf
from node.tools.files import FileSpaces
from node.tools.roots import Roots
from node.tools.sources import Sources

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


NO_REACH: Final = ToolsConfig()
"""The configuration of a node that lets tools call no domain and use no folder."""


def builtin_servers(
    memory: MemoryRoom | None = None,
    *,
    environment: Environment | None = None,
    config: ToolsConfig = NO_REACH,
    caller_of: CallerOf = Caller.of,
) -> tuple[ToolServer, ...]:
    """The servers that come with Caxton.

    Args:
        memory: Without one the server ``memory`` does not start.
        environment: Clock and network; without it the servers that need them do not start.
        config: How far their tools may reach; nowhere by default.
        caller_of: Who calls; what the host says by default.
    """
    roots = Roots(config.files)

    def create_csv(files: FileSpaces, workers: Workers) -> MCPServer:
        from node.tools.csv_server import create_csv_server  # noqa: PLC0415 - costs half a second

        return create_csv_server(Sources(files, roots, caller_of), workers)

    def create_memory(_files: FileSpaces, _workers: Workers) -> MCPServer:
        from node.tools.memory_server import create_memory_server  # noqa: PLC0415 - as above

        if memory is None:
            raise ToolFailed("there is no memory here", why="this tool host has none")
        return create_memory_server(memory, caller_of)

    def create_http(_files: FileSpaces, _workers: Workers) -> MCPServer:
        from node.tools.http_client import HttpClient  # noqa: PLC0415 - as above
        from node.tools.http_server import create_http_server  # noqa: PLC0415

        client = HttpClient(
            environment=_needed(environment), settings=config.http_client, version=software_version()
        )
        return create_http_server(client, caller_of)

    csv = ("csv_analyze", "csv_describe", "csv_aggregate", "csv_top", "csv_find", "csv_filter")

    def create_files(files: FileSpaces, workers: Workers) -> MCPServer:
        from node.tools.files_server import create_files_server  # noqa: PLC0415 - as above

        return create_files_server(files, roots, workers, caller_of)

    def create_time(_files: FileSpaces, workers: Workers) -> MCPServer:
        from node.tools.time_server import create_time_server  # noqa: PLC0415 - as above

        return create_time_server(_needed(environment).clock, workers)

    def create_chart(_files: FileSpaces, workers: Workers) -> MCPServer:
        from node.tools.chart_server import create_chart_server  # noqa: PLC0415 - as above

        return create_chart_server(workers)

    def create_text(files: FileSpaces, workers: Workers) -> MCPServer:
        from node.tools.text_server import create_text_server  # noqa: PLC0415 - as above

        return create_text_server(Sources(files, roots, caller_of), workers)

    text = ("text_summary", "text_minutes", "text_glossary", "text_log")
    return (
        ToolServer("csv_parser", csv, create_csv),
        ToolServer("memory", MEMORY_TOOLS, create_memory),
        ToolServer("http_client", ("http_get", "http_request"), create_http),
        ToolServer("files", ("list_files", "read_file", "search_files", "write_file"), create_files),
        ToolServer("time", ("time_now", "time_convert", "time_difference", "time_add"), create_time),
        ToolServer("chart_generator", ("chart",), create_chart),
        ToolServer("text", text, create_text),
    )


def _needed(environment: Environment | None) -> Environment:
    if environment is None:
        raise ToolFailed("there is neither clock nor network here", why="this tool host has none")
    return environment
