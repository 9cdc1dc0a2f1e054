"""The tool host calls real MCP servers, and only what an agent is granted, within bounds."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from mcp.server.mcpserver import Context, MCPServer

from node.environment import Workers
from node.errors import ToolFailed
from node.telemetry.tracing import Tracing
from node.tools.builtin_servers import ToolServer, builtin_servers
from node.tools.calls import RUNNING_LIMIT
from node.tools.files import FileSpaces
from node.tools.host import CallContext, ToolHost, ToolSettings
from tests.node.agents.inline import inline_environment

CSV = b"product,revenue\na,1\nb,2.5\n"


@asynccontextmanager
async def running(
    settings: ToolSettings | None = None, servers: tuple[ToolServer, ...] | None = None
) -> AsyncIterator[ToolHost]:
    host = ToolHost(
        environment=inline_environment(), tracing=Tracing.off(), settings=settings, servers=servers
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        yield host
        nursery.cancel_scope.cancel()


def context(*granted: str, **more: Any) -> CallContext:
    return CallContext("tester", granted, **more)


def odd_server() -> ToolServer:
    def create(files: FileSpaces, workers: Workers) -> MCPServer:
        server = MCPServer("odd")

        @server.tool()
        async def sleepy() -> dict[str, Any]:
            await trio.sleep_forever()
            return {}

        @server.tool()
        async def chatty(size: int) -> dict[str, Any]:
            return {"text": "x" * size}

        @server.tool()
        async def broken() -> dict[str, Any]:
            raise RuntimeError("the password is swordfish")

        @server.tool()
        async def meta(ctx: Context) -> dict[str, Any]:
            return {"traceparent": (ctx.request_context.meta or {}).get("traceparent", "")}

        @server.tool()
        async def unannounced() -> dict[str, Any]:
            return {}

        return server

    return ToolServer("odd", ("sleepy", "chatty", "broken", "meta"), create)


async def test_a_csv_attachment_is_analyzed_through_mcp() -> None:
    async with running() as host:
        specs = await host.tools_for(["csv_parser"])
        assert [s.name for s in specs] == list(builtin_servers()[0].tools)
        answer = await host.call(
            "csv_analyze", {"file": "s.csv"}, context("csv_parser", files={"s.csv": CSV})
        )
        assert answer["totals"] == {"revenue": 3.5}
        assert host.statistics()["files"]["open"] == 0


async def test_a_tool_sees_only_the_files_of_its_own_message() -> None:
    async with running() as host:
        await host.call("csv_analyze", {"file": "s.csv"}, context("csv_parser", files={"s.csv": CSV}))
        with pytest.raises(ToolFailed) as caught:
            await host.call("csv_analyze", {"file": "s.csv"}, context("csv_parser", files={"t.csv": CSV}))
        assert "'t.csv'" in caught.value.why
        with pytest.raises(ToolFailed) as caught:
            await host.call("csv_analyze", {"file": "/etc/passwd"}, context("csv_parser"))
        assert "no attachments" in caught.value.why


@pytest.mark.parametrize(
    ("granted", "restricted", "allowed", "permitted"),
    [
        (["csv_parser/csv_top"], [], None, ("csv_top",)),
        (["csv_parser"], ["csv_find", "csv_parser/csv_top"], ("csv_parser",), 4),
        (["csv_parser"], [], ("csv_parser/csv_find",), ("csv_find",)),
        (["csv_parser"], [], (), ()),
        (["csv_top"], [], None, ()),
        ([], [], None, ()),
    ],
)
async def test_both_the_agent_and_the_configuration_must_grant_a_tool(
    granted: list[str], restricted: list[str], allowed: tuple[str, ...] | None, permitted: Any
) -> None:
    async with running(ToolSettings(allowed_tools=allowed)) as host:
        seen = tuple(spec.name for spec in await host.tools_for(granted, restricted))
        assert (len(seen) if isinstance(permitted, int) else seen) == permitted
        for tool in builtin_servers()[0].tools:
            if tool not in seen:
                with pytest.raises(ToolFailed, match="may not use"):
                    await host.call(
                        tool, {"file": "s.csv"}, CallContext("a", tuple(granted), tuple(restricted))
                    )


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"file": 3},
        {"file": "s.csv", "top": 0},
        {"file": "s.csv", "content": "a,b"},
        {"file": "x" * 2_000},
    ],
)
async def test_arguments_are_checked_against_the_schema_before_the_call(arguments: dict[str, Any]) -> None:
    async with running() as host:
        with pytest.raises(ToolFailed, match="not valid"):
            await host.call("csv_analyze", arguments, context("csv_parser", files={"s.csv": CSV}))
        assert host.statistics()["calls"] == 0


async def test_a_call_ends_at_its_time_and_the_server_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    async with running(servers=(odd_server(),)) as host:
        with pytest.raises(ToolFailed, match="timed out"):
            await host.call("sleepy", {}, context("odd", timeout_s=2.0))
        assert trio.current_time() == pytest.approx(2.0)  # noqa: TID251 - virtual time
        assert await host.call("chatty", {"size": 3}, context("odd")) == {"text": "xxx"}


async def test_a_result_above_the_bound_is_refused() -> None:
    async with running(ToolSettings(max_result_bytes=100), (odd_server(),)) as host:
        with pytest.raises(ToolFailed, match="too much"):
            await host.call("chatty", {"size": 200}, context("odd"))


async def test_a_crash_in_a_tool_is_an_error_without_its_secrets() -> None:
    async with running(servers=(odd_server(),)) as host:
        with pytest.raises(ToolFailed) as caught:
            await host.call("broken", {}, context("odd"))
        assert "swordfish" not in str(caught.value)


async def test_a_tool_the_server_did_not_announce_stays_hidden() -> None:
    async with running(servers=(odd_server(),)) as host:
        assert [s.name for s in await host.tools_for(["odd"])] == ["sleepy", "chatty", "broken", "meta"]
        with pytest.raises(ToolFailed, match="may not use"):
            await host.call("unannounced", {}, context("odd"))


async def test_the_trace_context_reaches_the_server() -> None:
    parent = f"00-{'1' * 32}-{'2' * 16}-01"
    async with running(servers=(odd_server(),)) as host:
        assert await host.call("meta", {}, context("odd", traceparent=parent)) == {"traceparent": parent}
        assert await host.call("meta", {}, context("odd")) == {"traceparent": ""}


async def test_starting_a_server_leaves_the_logging_of_the_process_alone() -> None:
    root = logging.getLogger()
    before, handlers = root.level, list(root.handlers)
    for handler in handlers:
        root.removeHandler(handler)
    try:
        async with running() as host:
            await host.tools_for(["csv_parser"])
        assert (root.level, root.handlers) == (before, [])
    finally:
        for handler in handlers:
            root.addHandler(handler)


def test_the_host_is_imported_without_the_sdk() -> None:
    import subprocess  # noqa: PLC0415 - only this test needs a fresh interpreter

    code = "import sys, node.tools.host; sys.exit('mcp' in sys.modules or 'jsonschema' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_server_that_does_not_start_is_a_failed_tool() -> None:
    def create(files: FileSpaces, workers: Workers) -> MCPServer:
        raise OSError("no such device")

    async with running(servers=(ToolServer("lost", ("nothing",), create),)) as host:
        for _ in range(2):
            with pytest.raises(ToolFailed, match="does not start"):
                await host.tools_for(["lost"])
        assert host.statistics()["servers"] == []


async def test_calls_that_run_when_the_host_ends_fail_and_say_so() -> None:
    host = ToolHost(environment=inline_environment(), tracing=Tracing.off(), servers=(odd_server(),))
    async with trio.open_nursery() as callers:

        async def ask() -> None:
            with pytest.raises(ToolFailed) as caught:
                await host.call("sleepy", {}, context("odd"))
            assert "stopped" in caught.value.why

        async with trio.open_nursery() as nursery:
            await nursery.start(host.run)
            callers.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    with pytest.raises(ToolFailed, match="cannot start"):
        await host.call("chatty", {"size": 1}, context("odd"))


async def test_only_so_many_calls_of_a_server_run_at_once() -> None:
    async with running(servers=(odd_server(),)) as host, trio.open_nursery() as callers:
        for _ in range(RUNNING_LIMIT):
            callers.start_soon(host.call, "sleepy", {}, context("odd"))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.01) as waiting:  # noqa: TID251 - of the test
            await host.call("chatty", {"size": 1}, context("odd"))
        assert waiting.cancelled_caught
        callers.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert await host.call("chatty", {"size": 1}, context("odd")) == {"text": "x"}


async def test_a_caller_that_gives_up_does_not_wait_for_the_thread_that_works_for_it() -> None:
    ends = threading.Event()

    def create(files: FileSpaces, workers: Workers) -> MCPServer:
        server = MCPServer("slow")

        @server.tool()
        async def work() -> dict[str, Any]:
            await trio.to_thread.run_sync(ends.wait)  # noqa: TID251 - as the workers do
            return {}

        return server

    try:
        async with running(servers=(ToolServer("slow", ("work",), create),)) as host:
            with pytest.raises(ToolFailed, match="timed out"):
                await host.call("work", {}, context("slow", timeout_s=0.01))
            ends.set()
    finally:
        ends.set()
