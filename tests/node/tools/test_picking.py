"""The offline provider finds the right built-in tool, with the right arguments, from plain words."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from node.llm.builtin import BuiltinProvider
from node.llm.provider import CompletionRequest, FileInfo, Subject, ToolSpec
from node.telemetry.tracing import Tracing
from node.tools.builtin_servers import builtin_servers
from node.tools.host import ToolHost
from tests.node.agents.inline import inline_environment

EVERYTHING = ("csv_parser", "http_client", "files", "time", "chart_generator")


async def picked(question: Any, *files: str, granted: tuple[str, ...] = EVERYTHING) -> Any:
    """Name and arguments of the call that a question leads to, or the refusal."""
    environment = inline_environment()
    servers = builtin_servers(environment=environment)
    host = ToolHost(environment=environment, tracing=Tracing.off(), servers=servers)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        specs = [ToolSpec(t.name, t.description, t.input_schema) for t in await host.tools_for(granted)]
        nursery.cancel_scope.cancel()
    infos = tuple(FileInfo(name, "application/octet-stream", 10) for name in files)
    subject = Subject("request", "", question, files=infos)
    completion = await BuiltinProvider().complete(
        CompletionRequest(messages=(), tools=tuple(specs), subject=subject)
    )
    if not completion.tool_calls:
        return completion.text
    [call] = completion.tool_calls
    return call.name, call.arguments


@pytest.mark.parametrize(
    ("question", "tool", "arguments"),
    [
        ("what time is it?", "time_now", {}),
        ("what time is it in Tokyo?", "time_now", {"zone": "Tokyo"}),
        ("What is the current date in New York, please", "time_now", {"zone": "New York"}),
        ("current time for Europe/Berlin", "time_now", {"zone": "Europe/Berlin"}),
        (
            "convert 2026-07-01T12:00 from Berlin to Tokyo",
            "time_convert",
            {"time": "2026-07-01T12:00", "from_zone": "Berlin", "to_zone": "Tokyo"},
        ),
        (
            "how many days between 2026-01-01 and 2026-03-01?",
            "time_difference",
            {"start": "2026-01-01", "end": "2026-03-01"},
        ),
        ("add 3 days to 2026-01-01", "time_add", {"time": "2026-01-01", "days": 3}),
        ("get https://example.org/a?b=1.", "http_get", {"url": "https://example.org/a?b=1"}),
        ("Please read the page (https://example.org/tea)!", "http_get", {"url": "https://example.org/tea"}),
        ({"action": "fetch", "url": "https://example.org"}, "http_get", {"url": "https://example.org"}),
        (
            {"action": "post", "method": "post", "url": "https://example.org", "json": {"a": 1}},
            "http_request",
            {"url": "https://example.org", "method": "POST", "json": {"a": 1}},
        ),
        (
            "draw a bar chart of North 100, South 245.5 and West: 150",
            "chart",
            {"kind": "bar", "data": {"North": 100, "South": 245.5, "West": 150}},
        ),
        (
            {"action": "chart", "type": "pie", "data": {"a": 1, "b": 2}},
            "chart",
            {"kind": "pie", "data": {"a": 1, "b": 2}},
        ),
        ("list the files", "list_files", {}),
        ("list the files in reports", "list_files", {"folder": "reports"}),
        ("read reports/2026/q1.txt", "read_file", {"file": "reports/2026/q1.txt"}),
        ("show me the text of notes.txt", "read_file", {"file": "notes.txt"}),
        ("search files for tea", "search_files", {"text": "tea"}),
        ("which files mention darjeeling?", "search_files", {"text": "darjeeling"}),
        (
            {"action": "write", "file": "out/a.txt", "text": "hello"},
            "write_file",
            {"file": "out/a.txt", "text": "hello"},
        ),
    ],
)
async def test_plain_words_lead_to_the_right_tool(question: Any, tool: str, arguments: Any) -> None:
    assert await picked(question) == (tool, arguments)


async def test_a_file_that_is_attached_is_meant_where_none_is_named() -> None:
    assert await picked("read the attached note", "note.txt") == ("read_file", {"file": "note.txt"})


async def test_nothing_is_made_up() -> None:
    assert "needs a value for 'url'" in await picked("fetch the page", granted=("http_client",))
    assert "No tool" in await picked("sing a song")
