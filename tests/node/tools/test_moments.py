"""The time server: the node's own clock, zones by name or city, and sums that respect changed clocks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio.testing

from node.errors import ToolFailed, ValidationFailed
from node.telemetry.tracing import Tracing
from node.tools import moments
from node.tools.builtin_servers import builtin_servers
from node.tools.host import CallContext, ToolHost
from node.tools.moments import moment_of, shifted, span, told, zone_of
from tests.node.agents.inline import inline_environment

NOW = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("UTC", "UTC"),
        ("z", "UTC"),
        ("Europe/Berlin", "Europe/Berlin"),
        ("tokyo", "Asia/Tokyo"),
        ("New York", "America/New_York"),
        ("+5:30", "UTC+05:30"),
        ("UTC-3", "UTC-03:00"),
    ],
)
def test_a_zone_is_known_by_name_city_or_offset(text: str, name: str) -> None:
    assert str(zone_of(text)) == name


@pytest.mark.parametrize(
    "text", ["", "Tokio", "../UTC", "/etc/localtime", "+99", "+24:00", "a\x00b", "x" * 64]
)
def test_what_is_no_zone_is_refused(text: str) -> None:
    with pytest.raises(ValidationFailed):
        zone_of(text)


def test_without_a_database_only_utc_and_offsets_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "_names", dict)
    assert zone_of("UTC") is UTC
    with pytest.raises(ToolFailed) as caught:
        zone_of("Europe/Berlin")
    assert "tzdata" in caught.value.fix


def test_a_day_keeps_the_time_of_day_and_hours_pass() -> None:
    berlin = zone_of("Europe/Berlin")
    noon = moment_of("2026-03-28T12:00", berlin, NOW)  # the clocks go forward in the night
    assert told(shifted(noon, days=1, seconds=0))["time"] == "2026-03-29T12:00:00+02:00"
    assert told(shifted(noon, days=0, seconds=86_400))["time"] == "2026-03-29T13:00:00+02:00"
    assert span(noon, shifted(noon, days=1, seconds=0))["facts"] == ["23 hours"]


def test_a_span_is_told_in_words() -> None:
    day = moment_of("2026-03-01", UTC, NOW)
    assert span(day, NOW)["facts"] == ["27 days and 12 hours"]
    assert span(NOW, day) == {"seconds": -2_376_000, "days": -27.5, "facts": ["27 days and 12 hours earlier"]}
    assert span(day, day)["facts"] == ["no time"]


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "2026-13-01", "12:30", "9" * 60])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValidationFailed):
        moment_of(text, UTC, NOW)


def test_the_calendar_ends() -> None:
    for moment, days in (("9999-12-31", 1), ("0001-01-01", -1), ("9999-12-31T23:59:59-10:00", 0)):
        with pytest.raises(ValidationFailed, match="calendar"):
            told(shifted(moment_of(moment, UTC, NOW), days=days, seconds=0))


async def test_the_server_tells_the_time_of_the_nodes_clock(autojump_clock: trio.testing.MockClock) -> None:
    environment = inline_environment()
    host = ToolHost(
        environment=environment, tracing=Tracing.off(), servers=builtin_servers(environment=environment)
    )

    async def ask(tool: str, **arguments: Any) -> Any:
        return await host.call(tool, arguments, CallContext("a", ("time",)))

    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        assert [t.name for t in await host.tools_for(["time"])] == list(
            next(s.tools for s in builtin_servers() if s.name == "time")
        )
        await environment.clock.sleep(60)
        now = await ask("time_now", zone="Tokyo")
        assert now["facts"] == ["2023-11-15 07:14:20 (Wednesday) in Asia/Tokyo, UTC+09:00"]
        later = await ask("time_add", time="now", hours=1, days=-1)
        assert later["time"] == "2023-11-13T23:14:20+00:00"
        told = await ask("time_convert", time="2026-07-01T12:00", from_zone="Berlin", to_zone="UTC")
        assert told["time"] == "2026-07-01T10:00:00+00:00"
        assert (await ask("time_difference", start="2023-11-14", end="now"))["facts"] == [
            "22 hours, 14 minutes and 20 seconds"
        ]
        with pytest.raises(ToolFailed, match="failed"):
            await ask("time_now", zone="Nowhere")
        nursery.cancel_scope.cancel()
