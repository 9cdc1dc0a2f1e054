"""The built-in MCP server ``text``: questions about plain text, of the message or of a file with it.

Like ``csv_parser`` it is given the names of attachments, and of files in the folders that the node offers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from node.environment import Workers
from node.errors import CaxtonError, ValidationFailed
from node.tools import text_questions as questions
from node.tools.csv_table import read_table
from node.tools.log_questions import log_report
from node.tools.roots import PATH_LIMIT
from node.tools.sources import Readable, Sources

NAME: Final = "text"
"""The name agents grant themselves in their front matter."""
TEXT_BYTES_LIMIT: Final = 1024 * 1024
"""Largest text, in bytes."""
TERMS_LIMIT: Final = 5_000
"""Most terms of a glossary."""

_TEXTS: Final = {
    "media_types": ["text/plain", "text/markdown"],
    "suffixes": [".txt", ".md", ".log", ".out"],
    "paths": True,
}
File = Annotated[
    str | None,
    Field(
        max_length=PATH_LIMIT,
        description="Name of an attached text file, or folder/file.",
        json_schema_extra={"x-file": _TEXTS, "x-aliases": ["filename", "attachment", "path"]},
    ),
]
Text = Annotated[
    str | None,
    Field(
        max_length=200_000,
        description="The text, where no file is given.",
        json_schema_extra={
            "x-content": True,
            "x-aliases": ["content", "body", "notes", "transcript", "message", "document"],
        },
    ),
]
Glossary = Annotated[
    str,
    Field(
        max_length=PATH_LIMIT,
        description="Name of a CSV file, or folder/file; its first columns are term and translation.",
        json_schema_extra={
            "x-file": {"media_types": ["text/csv"], "suffixes": [".csv", ".tsv"], "paths": True},
            "x-aliases": ["file", "terms", "dictionary"],
        },
    ),
]


def create_text_server(sources: Sources, workers: Workers) -> MCPServer:
    """Build the server; its tools read from ``sources`` and compute in the lane ``files`` of ``workers``."""
    server = MCPServer(NAME, instructions="Answers questions about plain text.")

    async def ask(
        ctx: Context, file: str | None, text: str | None, question: Callable[[str], dict[str, Any]]
    ) -> dict[str, Any]:
        try:
            readable = sources.of(ctx.request_context.meta)
            answer = await workers.run("files", _answer, readable, file, text, question)
        except CaxtonError as error:
            raise ToolError(str(error)) from None
        return ({} if file is None else {"file": file}) | answer

    @server.tool(structured_output=True)
    async def text_summary(
        ctx: Context,
        file: File = None,
        text: Text = None,
        sentences: Annotated[
            int,
            Field(ge=1, le=20, description="How many sentences.", json_schema_extra={"x-after": ["in"]}),
        ] = 3,
    ) -> dict[str, Any]:
        """Summarize a text: its most telling sentences, keywords and length (summary, gist, digest)."""
        return await ask(ctx, file, text, lambda found: questions.summary(found, sentences))

    @server.tool(structured_output=True)
    async def text_minutes(ctx: Context, file: File = None, text: Text = None) -> dict[str, Any]:
        """Find the actions, decisions, open questions and dates in the notes or minutes of a meeting.

        Each action with its owner and date where the notes name them, and each finding with its line.
        """
        return await ask(ctx, file, text, questions.minutes)

    @server.tool(structured_output=True)
    async def text_glossary(
        ctx: Context,
        glossary: Glossary,
        text: Text = None,
        translation: Annotated[
            str | None, Field(max_length=200_000, description="A translation of the text to be checked.")
        ] = None,
    ) -> dict[str, Any]:
        """Translate the terms of a text by a glossary, or check that a translation uses its words."""
        try:
            readable = sources.of(ctx.request_context.meta)
            terms = await workers.run("files", _terms, readable, glossary)
        except CaxtonError as error:
            raise ToolError(str(error)) from None
        return await ask(ctx, None, text, lambda found: questions.glossary(found, terms, translation))

    @server.tool(structured_output=True)
    async def text_log(ctx: Context, file: File = None, text: Text = None) -> dict[str, Any]:
        """Analyze the log of an incident: errors and warnings, when they began, the worst minute.

        Reads lines of text and of JSON. Also called triage, diagnose, investigate.
        """
        return await ask(ctx, file, text, log_report)

    return server


def _answer(
    readable: Readable, file: str | None, text: str | None, question: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    data = (text or "").encode() if file is None else _read(readable, file)
    found = data.decode("utf-8-sig", errors="replace")
    if not found.strip():
        raise ValidationFailed("there is no text", fix="Give a text, or the name of a file that has one.")
    return question(found)


def _read(readable: Readable, file: str) -> bytes:
    with readable.open(file) as opened:
        data = opened.read(TEXT_BYTES_LIMIT + 1)
    if len(data) > TEXT_BYTES_LIMIT:
        raise ValidationFailed("the text is too large", why=f"at most {TEXT_BYTES_LIMIT:,} bytes are read")
    return data


def _terms(readable: Readable, glossary: str) -> list[tuple[str, str]]:
    table = read_table(_read(readable, glossary))
    if len(table.columns) < 2:
        raise ValidationFailed("the glossary needs two columns", why="term and translation")
    if len(table.rows) > TERMS_LIMIT:
        raise ValidationFailed("the glossary is too large", why=f"at most {TERMS_LIMIT:,} terms are read")
    return [(row[0].strip(), row[1].strip()) for row in table.rows]
