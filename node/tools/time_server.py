"""The built-in MCP server ``time``: the time of the node's clock, and sums with moments and zones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from node.environment import Clock, Workers
from node.errors import CaxtonError
from node.tools.moments import TEXT_LIMIT, moment_of, shifted, span, told, zone_of

NAME: Final = "time"
"""The name agents grant themselves in their front matter."""
AMOUNT_LIMIT: Final = 10_000_000
"""Most days, hours, minutes or seconds that are added."""

_CITY: Final = "A zone as Europe/Berlin, a city as Tokyo, an offset as +02:00, or UTC."
Zone = Annotated[
    str,
    Field(
        min_length=1,
        max_length=TEXT_LIMIT,
        description=_CITY,
        json_schema_extra={
            "format": "time-zone",
            "x-aliases": ["timezone", "time_zone", "city", "place"],
            "x-after": ["in", "for", "at"],
        },
    ),
]
Moment = Annotated[
    str,
    Field(
        min_length=1,
        max_length=TEXT_LIMIT,
        description="As 2026-03-01T12:30, with or without an offset, or now.",
        json_schema_extra={"format": "date-time"},
    ),
]


def _amount(*words: str) -> Any:
    return Field(ge=-AMOUNT_LIMIT, le=AMOUNT_LIMIT, json_schema_extra={"x-before": list(words)})


Days = Annotated[int, _amount("day", "days")]
Hours = Annotated[int, _amount("hour", "hours")]
Minutes = Annotated[int, _amount("minute", "minutes")]
Seconds = Annotated[int, _amount("second", "seconds")]


def create_time_server(clock: Clock, workers: Workers) -> MCPServer:
    """Build the server; it asks ``clock``, and reads the time zone database in the lane ``files``."""
    server = MCPServer(NAME, instructions="Tells the time, converts it between zones, and reckons with it.")

    async def act(work: Callable[[datetime], dict[str, Any]]) -> dict[str, Any]:
        now = datetime.fromtimestamp(clock.wall(), UTC)
        try:
            return await workers.run("files", work, now)
        except CaxtonError as error:
            raise ToolError(str(error)) from None

    @server.tool(structured_output=True)
    async def time_now(zone: Zone = "UTC") -> dict[str, Any]:
        """Tell the current time, date, day and weekday now, today, in a city or time zone: the clock."""
        return await act(lambda now: told(now.astimezone(zone_of(zone))))

    @server.tool(structured_output=True)
    async def time_convert(
        time: Moment,
        to_zone: Annotated[
            Zone, Field(json_schema_extra={"x-aliases": ["to", "target"], "x-after": ["to", "into"]})
        ],
        from_zone: Annotated[
            Zone, Field(json_schema_extra={"x-aliases": ["from", "source"], "x-after": ["from"]})
        ] = "UTC",
    ) -> dict[str, Any]:
        """Convert a given time from one time zone to another."""
        return await act(
            lambda now: told(moment_of(time, zone_of(from_zone), now).astimezone(zone_of(to_zone)))
        )

    @server.tool(structured_output=True)
    async def time_difference(
        start: Annotated[Moment, Field(json_schema_extra={"x-aliases": ["from", "since", "begin"]})],
        end: Annotated[Moment, Field(json_schema_extra={"x-aliases": ["to", "until"]})],
        zone: Zone = "UTC",
    ) -> dict[str, Any]:
        """Compute the difference, duration or span between two moments: how long, how many days."""

        def work(now: datetime) -> dict[str, Any]:
            where = zone_of(zone)
            return span(moment_of(start, where, now), moment_of(end, where, now))

        return await act(work)

    @server.tool(structured_output=True)
    async def time_add(  # noqa: PLR0917 - the SDK calls it by name
        time: Moment,
        days: Days = 0,
        hours: Hours = 0,
        minutes: Minutes = 0,
        seconds: Seconds = 0,
        zone: Zone = "UTC",
    ) -> dict[str, Any]:
        """Add days, hours, minutes or seconds to a moment, or take them away: later, ago, deadline.

        Days keep the time of day in the zone, hours are hours that pass.
        """

        def work(now: datetime) -> dict[str, Any]:
            moment = moment_of(time, zone_of(zone), now)
            return told(shifted(moment, days=days, seconds=hours * 3_600 + minutes * 60 + seconds))

        return await act(work)

    return server
