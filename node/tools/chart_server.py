"""The built-in MCP server ``chart_generator``: real pictures of numbers, drawn in a worker."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import trio
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, ConfigDict, Field

from node.environment import Workers
from node.errors import CaxtonError, ValidationFailed
from node.tools.artifacts import artifact_of
from node.tools.charts import (
    LABEL_LIMIT,
    MEDIA_TYPES,
    POINTS_LIMIT,
    SERIES_LIMIT,
    TITLE_LIMIT,
    Chart,
    Form,
    Kind,
    Series,
    draw,
)

NAME: Final = "chart_generator"
"""The name agents grant themselves in their front matter."""

Values = Annotated[list[float], Field(min_length=1, max_length=POINTS_LIMIT)]
Label = Annotated[str, Field(max_length=1_000)]


class SeriesItem(BaseModel):
    """Numbers that belong together."""

    model_config = ConfigDict(extra="forbid")

    values: Values
    name: Label = ""
    x: Annotated[list[float] | None, Field(max_length=POINTS_LIMIT, description="Of a scatter chart.")] = None


def create_chart_server(workers: Workers) -> MCPServer:
    """Build the server; it draws in the lane ``files`` of ``workers``, one picture at a time."""
    server = MCPServer(NAME, instructions="Draws bar, line, pie and scatter charts and histograms.")
    drawing = trio.Lock()  # matplotlib is not made for two threads

    @server.tool(structured_output=True)
    async def chart(  # noqa: PLR0917 - the SDK calls it by name
        kind: Annotated[
            Kind,
            Field(
                description="Of which kind.", json_schema_extra={"x-aliases": ["type", "chart_type", "chart"]}
            ),
        ],
        data: Annotated[
            dict[Annotated[str, Field(max_length=1_000)], float] | None,
            Field(
                max_length=POINTS_LIMIT,
                description="Labels with a number each, as {North: 100}, instead of labels and series.",
                json_schema_extra={"format": "labelled-numbers", "x-aliases": ["values", "numbers"]},
            ),
        ] = None,
        labels: Annotated[
            list[Label] | None, Field(max_length=POINTS_LIMIT, description="Of the values.")
        ] = None,
        series: Annotated[
            list[SeriesItem] | None, Field(max_length=SERIES_LIMIT, description="The numbers.")
        ] = None,
        title: Annotated[str, Field(max_length=TITLE_LIMIT, description="Above it.")] = "",
        x_label: Annotated[str, Field(max_length=LABEL_LIMIT, description="Below it.")] = "",
        y_label: Annotated[str, Field(max_length=LABEL_LIMIT, description="Beside it.")] = "",
        bins: Annotated[int, Field(ge=1, le=200, description="Of a histogram.")] = 20,
        format: Annotated[Form, Field(description="Of the picture.")] = "png",  # noqa: A002 - its name for users
    ) -> dict[str, Any]:
        """Draw, plot or visualize numbers as a chart, graph, diagram: bar, line, pie, scatter, histogram."""
        given: tuple[Series, ...]
        try:
            if (data is None) == (series is None):
                raise ValidationFailed("a chart has either data or series", fix="Give one of them.")
            if data is not None:
                given, labels = (Series(tuple(data.values())),), list(data)
            else:
                given = tuple(_series(item) for item in series or ())
            wanted = Chart(
                kind=kind,
                series=given,
                labels=tuple(labels or ()) if kind not in ("scatter", "histogram") else (),
                title=title,
                x_label=x_label,
                y_label=y_label,
                bins=bins,
            )
            wanted.check()
            async with drawing:
                picture = await workers.run("files", draw, wanted, format)
        except CaxtonError as error:
            raise ToolError(str(error)) from None
        name = f"{_slug(title) or kind}.{format}"
        alt = wanted.alt()
        facts = [f"{name} ({len(picture):,} bytes) is attached: {alt}"]
        return {"artifact": artifact_of(name, MEDIA_TYPES[format], picture), "alt": alt, "facts": facts}

    return server


def _series(item: SeriesItem) -> Series:
    return Series(tuple(item.values), item.name, None if item.x is None else tuple(item.x))


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]
