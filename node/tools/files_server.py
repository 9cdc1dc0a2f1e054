"""The built-in MCP server ``files``: attachments, and files in the folders that the configuration offers."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Annotated, Any, Final

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from node.environment import Workers
from node.errors import CaxtonError, ResourceLimitExceeded
from node.message import iso8601
from node.tools.caller import CallerOf
from node.tools.file_reading import MATCHES_LIMIT, PIECE_LIMIT, read_piece, search
from node.tools.files import FileSpaces
from node.tools.roots import PATH_LIMIT, WRITE_LIMIT, Roots
from node.tools.sources import Readable, Sources

NAME: Final = "files"
"""The name agents grant themselves in their front matter."""
LISTED_LIMIT: Final = 500
"""Most files of one answer."""

_NAMES: Final = ["filename", "file_name", "path", "attachment"]
File = Annotated[
    str,
    Field(
        min_length=1,
        max_length=PATH_LIMIT,
        description="Name of an attached file, or folder/file.",
        json_schema_extra={"format": "file-path", "x-aliases": _NAMES},
    ),
]
Folder = Annotated[
    str,
    Field(
        max_length=PATH_LIMIT,
        description="A folder, as list_files names it; everything if left out.",
        json_schema_extra={"x-aliases": ["directory", "dir", "path"], "x-after": ["in", "folder", "below"]},
    ),
]


def create_files_server(spaces: FileSpaces, roots: Roots, workers: Workers, caller_of: CallerOf) -> MCPServer:
    """Build the server.

    Args:
        spaces: The attachments.
        roots: The folders.
        workers: Reads and writes in the lane ``files``.
        caller_of: Who calls, and what that may use.
    """
    server = MCPServer(
        NAME, instructions="Lists, reads, searches and writes files in the folders it is given."
    )
    sources = Sources(spaces, roots, caller_of)

    async def act(ctx: Context, work: Callable[[Readable], dict[str, Any]]) -> dict[str, Any]:
        try:
            return await workers.run("files", work, sources.of(ctx.request_context.meta))
        except CaxtonError as error:
            raise ToolError(str(error)) from None

    @server.tool(structured_output=True)
    async def list_files(
        ctx: Context,
        folder: Folder = "",
        pattern: Annotated[str, Field(max_length=200, description="Only names like this, as *.csv.")] = "*",
        deep: Annotated[bool, Field(description="Also what is in the folders inside.")] = False,
    ) -> dict[str, Any]:
        """List the files and folders there are: directory, contents, names, sizes, ls."""
        return await act(ctx, lambda readable: _listed(readable, folder, pattern, deep=deep))

    @server.tool(structured_output=True)
    async def read_file(
        ctx: Context,
        file: File,
        offset: Annotated[int, Field(ge=0, le=2**53, description="Where to begin, in bytes.")] = 0,
        length: Annotated[int, Field(ge=1, le=PIECE_LIMIT, description="Most bytes.")] = PIECE_LIMIT,
    ) -> dict[str, Any]:
        """Read, open, show or print the text of a file; a long one piece by piece."""
        return await act(ctx, lambda readable: read_piece(readable, file, offset, length))

    @server.tool(structured_output=True)
    async def search_files(
        ctx: Context,
        text: Annotated[
            str,
            Field(
                min_length=1,
                max_length=200,
                description="What to look for, whatever its case.",
                json_schema_extra={
                    "x-aliases": ["query", "term", "search", "pattern"],
                    "x-after": ["contain", "containing", "mention", "mentioning", "hold", "for"],
                },
            ),
        ],
        folder: Folder = "",
        limit: Annotated[int, Field(ge=1, le=MATCHES_LIMIT, description="Most matches.")] = 50,
    ) -> dict[str, Any]:
        """Search or grep files for a text: which files and lines contain or mention it."""
        return await act(ctx, lambda readable: search(readable, text, folder, limit))

    @server.tool(structured_output=True)
    async def write_file(
        ctx: Context,
        file: Annotated[
            str,
            Field(
                min_length=3,
                max_length=PATH_LIMIT,
                description="Where to, as folder/file.",
                json_schema_extra={"format": "file-path", "x-aliases": _NAMES},
            ),
        ],
        text: Annotated[
            str,
            Field(
                max_length=WRITE_LIMIT,
                description="The whole text.",
                json_schema_extra={"x-aliases": ["contents", "content", "body"]},
            ),
        ],
        overwrite: Annotated[bool, Field(description="Whether a file that is there is replaced.")] = False,
    ) -> dict[str, Any]:
        """Write, save or store a text as a file, where that is allowed."""
        return await act(ctx, lambda readable: _written(readable, file, text, overwrite=overwrite))

    return server


def _listed(readable: Readable, folder: str, pattern: str, *, deep: bool) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    if not folder:
        found += [
            {"path": name, "kind": "attachment", "bytes": len(data)}
            for name, data in sorted(readable.attached.items())
            if fnmatch.fnmatchcase(name, pattern)
        ]
    cut = False
    try:
        for entry in readable.view.entries(folder, deep=deep):
            if len(found) == LISTED_LIMIT:
                cut = True
                break
            if fnmatch.fnmatchcase(entry.path.rpartition("/")[2], pattern):
                size = {"bytes": entry.size} if entry.kind == "file" else {}
                found.append(
                    {"path": entry.path, "kind": entry.kind, **size, "modified": iso8601(entry.modified_s)}
                )
    except ResourceLimitExceeded:
        cut = True
    facts = [f"{e['path']} ({e['bytes']:,} bytes)" if "bytes" in e else f"{e['path']}/" for e in found]
    return {"files": found, "truncated": cut, "facts": facts or ["there are no files"]}


def _written(readable: Readable, file: str, text: str, *, overwrite: bool) -> dict[str, Any]:
    data = text.encode()
    replaced = readable.view.write(file, data, overwrite=overwrite)
    word = "replaced" if replaced else "written"
    return {"file": file, "bytes": len(data), "replaced": replaced, "facts": [f"{file} is {word}"]}
