"""The built-in MCP server ``csv_parser``: questions about CSV files, attached or in a folder of the node.

A real MCP server made with the official SDK. It takes names, never content; the host tells it in the
request's ``_meta`` what the call may read. A file that no message could carry is read once from its
beginning to its end and not held (:mod:`node.tools.csv_scan`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, ConfigDict, Field

from node.environment import Workers
from node.errors import CaxtonError
from node.tools import csv_questions as questions
from node.tools import csv_scan as scan
from node.tools.csv_scan import CONDITIONS_LIMIT, Condition, Test
from node.tools.csv_stream import CsvStream, open_stream
from node.tools.csv_table import BYTES_LIMIT, Table, read_table
from node.tools.roots import PATH_LIMIT
from node.tools.sources import Sources
from node.tools.stoppable import Stop, run_stoppable

T = TypeVar("T")

NAME: Final = "csv_parser"
"""The name agents grant themselves in their front matter."""

_FILE_SCHEMA: Final[dict[str, Any]] = {
    "x-file": {
        "media_types": ["text/csv", "text/tab-separated-values", "application/csv"],
        "suffixes": [".csv", ".tsv"],
        "paths": True,
    },
    "x-aliases": ["filename", "file_name", "csv", "path", "attachment", "source", "dataset"],
}

File = Annotated[
    str,
    Field(
        max_length=PATH_LIMIT,
        description="Name of an attached CSV file, or folder/file.",
        json_schema_extra=_FILE_SCHEMA,
    ),
]
Mark = Annotated[Literal[".", ","], Field(description="The decimal mark of its numbers.")]
_MEASURE: Final = "Number column to compute; the main one if left out."
_MEASURE_NAMES: Final = ["measure", "metric", "value_column"]
_BY: Final = ["by", "dimension", "category", "per"]
_COMPUTED: Final = ["sum", "total", "average", "mean", "minimum", "maximum"]
_BEST: Final = ["top", "best", "largest"]


class ConditionItem(BaseModel):
    """A condition on a column."""

    model_config = ConfigDict(extra="forbid")

    column: Annotated[str, Field(max_length=200)]
    test: Annotated[Test, Field(description="How the column is compared with the value.")] = "equals"
    value: Annotated[str | int | float, Field(description="What it is compared with.")] = ""


Where = Annotated[
    list[ConditionItem],
    Field(max_length=CONDITIONS_LIMIT, description="Conditions that all must hold."),
]
Question = Callable[[T], dict[str, Any]]


def _conditions(where: Sequence[ConditionItem]) -> list[Condition]:
    return [Condition(item.column, item.test, str(item.value)) for item in where]


def create_csv_server(sources: Sources, workers: Workers) -> MCPServer:
    """Build the server; its tools read from ``sources`` and compute in the lane ``files`` of ``workers``."""
    server = MCPServer(NAME, instructions="Answers questions about CSV files attached to a message.")

    async def ask(
        ctx: Context,
        file: str,
        decimal_mark: str,
        of_table: Question[Table] | None,
        of_stream: Question[CsvStream],
    ) -> dict[str, Any]:
        readable = sources.of(ctx.request_context.meta)

        def work(stop: Stop) -> dict[str, Any]:
            with readable.open(file) as opened:
                if of_table is not None and opened.seek(0, os.SEEK_END) <= BYTES_LIMIT:
                    opened.seek(0)
                    return of_table(read_table(opened.read(), decimal_mark=decimal_mark))
                return of_stream(open_stream(opened, decimal_mark, stop))

        try:
            return {"file": file, **await run_stoppable(workers, "files", work)}
        except CaxtonError as error:
            raise ToolError(str(error)) from None

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
        return await ask(
            ctx,
            file,
            decimal_mark,
            lambda table: questions.analyze(table, top=top),
            lambda stream: scan.analyze(stream, top=top),
        )

    @server.tool(structured_output=True)
    async def csv_describe(ctx: Context, file: File, decimal_mark: Mark = ".") -> dict[str, Any]:
        """Describe and inspect the structure and quality of a CSV file: check, validate, schema, profile.

        Gives its columns, types, missing and invalid values, and incomplete rows.
        """
        return await ask(ctx, file, decimal_mark, questions.describe, scan.describe)

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
        where: Where = [],  # noqa: B006 - as for csv_filter
        decimal_mark: Mark = ".",
    ) -> dict[str, Any]:
        """Aggregate a CSV file by group: sum, average, count, minimum or maximum per value of a column.

        Also called breakdown, pivot, group totals.
        """
        return await ask(
            ctx,
            file,
            decimal_mark,
            None
            if where
            else lambda table: questions.aggregate(
                table, group_by=group_by, column=column, operation=operation
            ),
            lambda stream: scan.aggregate(
                stream, group_by=group_by, column=column, operation=operation, where=_conditions(where)
            ),
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
        where: Where = [],  # noqa: B006 - as for csv_filter
        decimal_mark: Mark = ".",
    ) -> dict[str, Any]:
        """Rank the top, best or largest entries of a column of a CSV file: best-selling products, sold most.

        A ranking or leaderboard by the sum of a number column.
        """
        return await ask(
            ctx,
            file,
            decimal_mark,
            None if where else lambda table: questions.top(table, by=by, column=column, count=count),
            lambda stream: scan.top(stream, by=by, column=column, count=count, where=_conditions(where)),
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
            lambda stream: scan.find(stream, value=value, column=column, limit=limit),
        )

    @server.tool(structured_output=True)
    async def csv_filter(  # noqa: PLR0917 - the SDK calls it by name
        ctx: Context,
        file: File,
        where: Where,
        columns: Annotated[
            list[Annotated[str, Field(max_length=200)]],
            Field(max_length=64, description="Columns to give; all if left out."),
        ] = [],  # noqa: B006 - the SDK takes the default from here, and makes a new list of it
        offset: Annotated[int, Field(ge=0, le=2**53, description="Matching rows to leave out.")] = 0,
        limit: Annotated[int, Field(ge=1, le=50, description="How many rows to give.")] = 20,
        decimal_mark: Mark = ".",
    ) -> dict[str, Any]:
        """Filter the records of a CSV file by conditions on its columns; counts and gives what meets all."""
        return await ask(
            ctx,
            file,
            decimal_mark,
            None,
            lambda stream: scan.select(
                stream, where=_conditions(where), columns=columns, offset=offset, limit=limit
            ),
        )

    return server
