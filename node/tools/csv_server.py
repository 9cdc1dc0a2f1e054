"""The built-in MCP server ``csv_parser``: questions about CSV files that travel with a message.

A real MCP server made with the official SDK. It takes the name of an attachment, never content and never
a path; the host tells it in the request's ``_meta`` which files the call may read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from node.environment import Workers
from node.errors import CaxtonError
from node.tools import csv_questions as questions
from node.tools.csv_table import BYTES_LIMIT, Table, read_table
from node.tools.sources import Readable, Sources

NAME: Final = "csv_parser"
"""The name agents grant themselves in their front matter."""

_FILE_SCHEMA: Final[dict[str, Any]] = {
    "x-file": {
        "media_types": ["text/csv", "text/tab-separated-values", "application/csv"],
        "suffixes": [".csv", ".tsv"],
    },
    "x-aliases": ["filename", "file_name", "csv", "path", "attachment", "source", "dataset"],
}

File = Annotated[
    str, Field(max_length=255, description="Name of an attached CSV file.", json_schema_extra=_FILE_SCHEMA)
]
Mark = Annotated[Literal[".", ","], Field(description="The decimal mark of its numbers.")]
_MEASURE: Final = "Number column to compute; the main one if left out."
_MEASURE_NAMES: Final = ["measure", "metric", "value_column"]
_BY: Final = ["by", "dimension", "category", "per"]
_COMPUTED: Final = ["sum", "total", "average", "mean", "minimum", "maximum"]
_BEST: Final = ["top", "best", "largest"]


def create_csv_server(sources: Sources, workers: Workers) -> MCPServer:
    """Build the server; its tools read from ``sources`` and compute in the lane ``files`` of ``workers``."""
    server = MCPServer(NAME, instructions="Answers questions about CSV files attached to a message.")

    async def ask(
        ctx: Context, file: str, decimal_mark: str, question: Callable[[Table], dict[str, Any]]
    ) -> dict[str, Any]:
        try:
            readable = sources.of(ctx.request_context.meta)
            answer = await workers.run("files", _answer, readable, file, decimal_mark, question)
        except CaxtonError as error:
            raise ToolError(str(error)) from None
        return {"file": file, **answer}

    @server.tool(structured_output=True)
    async def csv_analyze(
        ctx: Context,
        file: File,
        top: Annotated[
            int,
            Field(
                ge=1,
                le=50,
                description="How many best categories to list.",
                json_schema_extra={"x-after": _BEST},
            ),
        ] = 5,
        decimal_mark: Mark = ".",
    ) -> dict[str, Any]:
        """Analyze a CSV file: a full report and summary of its data (analysis, statistics, sales).

        Gives rows, columns and types, totals, averages, minimums and maximums of the number columns, and
        the top products by revenue.
        """
        return await ask(ctx, file, decimal_mark, lambda table: questions.analyze(table, top=top))

    @server.tool(structured_output=True)
    async def csv_describe(ctx: Context, file: File, decimal_mark: Mark = ".") -> dict[str, Any]:
        """Describe and inspect the structure and quality of a CSV file: check, validate, schema, profile.

        Gives its columns, types, missing and invalid values, and incomplete rows.
        """
        return await ask(ctx, file, decimal_mark, questions.describe)

    @server.tool(structured_output=True)
    async def csv_aggregate(  # noqa: PLR0917 - the SDK calls it by name
        ctx: Context,
        file: File,
        group_by: Annotated[
            str,
            Field(
                max_length=200,
                description="Column to group rows by.",
                json_schema_extra={"x-aliases": _BY, "x-after": ["by", "per"]},
            ),
        ],
        column: Annotated[
            str | None,
            Field(
                max_length=200,
                description=_MEASURE,
                json_schema_extra={"x-aliases": _MEASURE_NAMES, "x-after": _COMPUTED},
            ),
        ] = None,
        operation: Annotated[
            Literal["sum", "average", "count", "minimum", "maximum"],
            Field(description="What to compute.", json_schema_extra={"x-aliases": ["aggregate", "function"]}),
        ] = "sum",
        decimal_mark: Mark = ".",
    ) -> dict[str, Any]:
        """Aggregate a CSV file by group: sum, average, count, minimum or maximum per value of a column.

        Also called breakdown, pivot, group totals.
        """
        return await ask(
            ctx,
            file,
            decimal_mark,
            lambda table: questions.aggregate(table, group_by=group_by, column=column, operation=operation),
        )

    @server.tool(structured_output=True)
    async def csv_top(  # noqa: PLR0917 - the SDK calls it by name
        ctx: Context,
        file: File,
        by: Annotated[
            str | None,
            Field(
                max_length=200,
                description="Column to rank the values of; the product column if left out.",
                json_schema_extra={
                    "x-aliases": ["group_by", "dimension", "category"],
                    "x-after": [*_BEST, "which", "per"],
                },
            ),
        ] = None,
        column: Annotated[
            str | None,
            Field(
                max_length=200,
                description=_MEASURE,
                json_schema_extra={"x-aliases": _MEASURE_NAMES, "x-after": ["by"]},
            ),
        ] = None,
        count: Annotated[
            int,
            Field(
                ge=1,
                le=200,
                description="How many to list.",
                json_schema_extra={"x-aliases": ["n", "limit"], "x-after": _BEST},
            ),
        ] = 5,
        decimal_mark: Mark = ".",
    ) -> dict[str, Any]:
        """Rank the top, best or largest entries of a column of a CSV file: best-selling products, sold most.

        A ranking or leaderboard by the sum of a number column.
        """
        return await ask(
            ctx,
            file,
            decimal_mark,
            lambda table: questions.top(table, by=by, column=column, count=count),
        )

    @server.tool(structured_output=True)
    async def csv_find(
        ctx: Context,
        file: File,
        value: Annotated[
            str,
            Field(
                max_length=200,
                description="The value to look up.",
                json_schema_extra={"x-aliases": ["search", "query", "key", "term"]},
            ),
        ],
        column: Annotated[
            str | None,
            Field(max_length=200, description="Column to look in; every one if left out."),
        ] = None,
        limit: Annotated[int, Field(ge=1, le=50, description="How many rows to give.")] = 10,
    ) -> dict[str, Any]:
        """Find, look up or search the rows and records of a CSV file that hold a value.

        Retrieves the matching records whole.
        """
        return await ask(
            ctx,
            file,
            ".",
            lambda table: questions.find(table, value=value, column=column, limit=limit),
        )

    return server


def _answer(
    readable: Readable, file: str, decimal_mark: str, question: Callable[[Table], dict[str, Any]]
) -> dict[str, Any]:
    with readable.open(file) as opened:
        data = opened.read(BYTES_LIMIT + 1)
    return question(read_table(data, decimal_mark=decimal_mark))
