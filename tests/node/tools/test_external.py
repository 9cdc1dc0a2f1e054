"""Servers of other programs, as real processes: what they may not do, and what becomes of it when they do."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from node.config import ToolsConfig
from node.environment import system_environment
from node.errors import ConfigInvalid, ToolFailed
from node.storage.migrations import migrate
from node.telemetry.tracing import Tracing
from node.tools.failures import ToolApprovalFailed
from node.tools.host import CallContext, ToolHost, ToolSettings
from node.tools.noise import MESSAGES_BURST
from node.tools.stdio import MESSAGE_BYTES_LIMIT
from tests.node.agents.rooms import MemoryStore

RAW = Path(__file__).parent / "servers" / "raw.py"
OFFERED = (
    "echo",
    "hang",
    "flood",
    "long",
    "die",
    "image",
    "change",
    "grow",
    "inject",
    "junk",
    "see",
    "stay",
    "tunnel",
)


def store() -> MemoryStore:
    made = MemoryStore()
    made.connection = apsw.Connection(":memory:")
    migrate(made.connection)
    return made


def raw_config(
    starts: Path,
    *more: str,
    limits: dict[str, Any] | None = None,
    keys: dict[str, Any] | None = None,
    **settings: Any,
) -> ToolsConfig:
    server = {"command": sys.executable, "args": [str(RAW), str(starts), *more], "env": {"KEY": "value"}}
    server |= keys or {}
    bounds = {"write": [str(starts.parent)], "read": [sys.prefix, sys.base_prefix]} | (limits or {})
    return ToolsConfig.model_validate({"mcpServers": {"raw": server}, "servers": {"raw": bounds}} | settings)


class Desk:
    """A tool host, and an agent that calls its tools."""

    def __init__(self, host: ToolHost) -> None:
        self.host = host
        self.notes: list[str] = []
        self.changes: list[tuple[str, str, str]] = []
        host.on_change = lambda *change: self.changes.append(change)

    async def call(self, tool: str, *granted: str, timeout_s: float | None = None, **arguments: Any) -> Any:
        context = CallContext("ada", granted or ("raw",), timeout_s=timeout_s, note=self.notes.append)
        return await self.host.call(f"raw__{tool}", arguments, context)

    async def refusal(
        self, tool: str, *granted: str, timeout_s: float | None = None, **arguments: Any
    ) -> str:
        with pytest.raises(ToolFailed) as caught:
            await self.call(tool, *granted, timeout_s=timeout_s, **arguments)
        return str(caught.value)

    def names(self, *granted: str) -> list[str]:
        return [tool.name.removeprefix("raw__") for tool in self.host.visible(granted or ("raw",))]

    async def until(self, come: Callable[[], bool]) -> None:
        clock = system_environment().clock
        with clock.move_on_after(30):
            while not come():
                await clock.sleep(0.01)
        assert come()

    def server(self) -> dict[str, Any]:
        found: dict[str, Any] = self.host.describe()["servers"][-1]
        return found


@asynccontextmanager
async def running(config: ToolsConfig, kept: MemoryStore | None = None) -> AsyncIterator[Desk]:
    desk = Desk(
        ToolHost(
            environment=system_environment(),
            tracing=Tracing.off(),
            settings=ToolSettings.from_config(config),
            store=kept,
            environ={"PATH": os.environ["PATH"], "SECRET": "of the node"},
        )
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.host.run)
        await desk.host.tools_for(("raw",))
        yield desk
        nursery.cancel_scope.cancel()


async def test_tools_of_another_program_are_called_under_its_name(tmp_path: Path) -> None:
    async with running(raw_config(tmp_path / "starts")) as desk:
        assert desk.names() == list(OFFERED)
        assert await desk.call("echo", text="hello") == {"text": "hello"}
        assert await desk.call("junk") == {"text": "after the junk"}
        assert "text: 3 is not of type 'string'" in await desk.refusal("echo", text=3)
        assert desk.names("raw/see", "raw/nothing") == ["see"]
        assert "may not use" in await desk.refusal("echo", "raw/see")
        assert desk.host.absent(("raw/see", "raw/nothing", "raw/refused")) == [
            ("raw/nothing", "the server has no such tool"),
            ("raw/refused", "its input schema is not valid (SchemaInvalid)"),
        ]
        assert desk.changes[0][:2] == ("raw", "info")


async def test_a_stdio_server_is_confined(tmp_path: Path) -> None:
    (closed := tmp_path / "closed").mkdir()
    (opened := tmp_path / "opened").mkdir()
    (closed / "secret").write_text("x")
    (opened / "known").write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        limits = {
            "read": [str(opened), sys.prefix, sys.base_prefix],
            "write": [str(opened)],
            "network": False,
        }
        config = raw_config(opened / "starts", limits=limits)
        async with running(config) as desk:
            seen = await desk.call(
                "see",
                read=[str(closed / "secret"), str(opened / "known"), "/proc/1/environ"],
                write=[str(closed / "new"), str(opened / "new")],
                connect=list(listener.getsockname()),
                kill=os.getpid(),
            )
            missing = desk.server()["not_confined"]
    assert seen["variables"] == ["HOME", "KEY", "LANG", "PATH", "TMPDIR"]
    assert (seen["open"], seen["leads"]) == ([], True)
    if "privileges" not in missing:
        assert seen["status"] == ["CapEff:\t0000000000000000", "NoNewPrivs:\t1"]
    if "files" not in missing:
        denied = "Permission denied"
        assert list(seen["read"].values()) == [denied, "done", denied]
        assert list(seen["write"].values()) == [denied, "done"]
    if "network" not in missing:
        assert seen["connect"] == "Network is unreachable"
    if "signals" not in missing:
        assert seen["kill"] == "Operation not permitted"


async def test_what_other_clients_write_restricts_and_never_grants(tmp_path: Path) -> None:
    (tmp_path / "keys.env").write_text("KEY=of the file\nTOKEN=x\n")
    keys = {
        "envFile": str(tmp_path / "keys.env"),
        "disabledTools": ["die", "hang"],
        "autoApprove": ["echo"],
        "trust": True,
        "timeout": 200,
    }
    config = raw_config(tmp_path / "starts", keys=keys, timeout="1s")
    async with running(config) as desk:
        assert desk.names() == [name for name in OFFERED if name not in keys["disabledTools"]]
        assert "may not use" in await desk.refusal("die")
        why = "the configuration names it among disabledTools"
        assert desk.host.absent(("raw/die", "raw/see")) == [("raw/die", why)]
        seen = await desk.call("see", read=[], write=[], connect=["127.0.0.1", 9], kill=os.getpid())
        assert seen["variables"] == ["HOME", "KEY", "LANG", "PATH", "TMPDIR", "TOKEN"]
        warned = [what for _, level, what in desk.changes if level == "warning"]
        assert [what.partition(",")[0] for what in warned] == ["has autoApprove", "has trust"]
        assert "may not use" in await desk.refusal("echo", "raw/see")


async def test_a_server_whose_file_of_variables_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    keys = {"envFile": str(tmp_path / "none.env")}
    async with running(raw_config(tmp_path / "starts", keys=keys)) as desk:
        assert "envFile" in desk.server()["reason"]
        assert not (tmp_path / "starts").exists()


async def test_what_the_system_cannot_confine_is_named_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = tmp_path / "launcher.py"
    source = (RAW.parents[4] / "node" / "tools" / "launcher.py").read_text()
    blind.write_text(source.replace("_libc.syscall(_CREATE_RULESET, None, 0, 1)", "-1"))
    monkeypatch.setattr("node.tools.launcher.__file__", str(blind))
    async with running(raw_config(tmp_path / "starts")) as desk:
        assert desk.server()["not_confined"]["files"] == "this kernel has no Landlock"
    async with running(raw_config(tmp_path / "others", confinement="require")) as desk:
        assert "this system cannot confine it: " in desk.server()["reason"]
        assert "files (this kernel has no Landlock)" in desk.server()["reason"]
        assert not (tmp_path / "others").exists()


async def test_a_hanging_tool_ends_at_its_time_and_a_server_that_only_hangs_is_started_anew(
    tmp_path: Path,
) -> None:
    async with running(raw_config(tmp_path / "starts", timeout="100ms")) as desk:
        assert "timed out: it took more than 0.05 s" in await desk.refusal("hang", timeout_s=0.05)
        for _ in range(3):
            assert "timed out: it took more than 0.1 s" in await desk.refusal("hang")
        await desk.until(lambda: desk.server()["state"] == "waiting")
        assert desk.server()["reason"] == "it has not answered 3 calls in a row"
        assert "'raw' is waiting: it has not answered 3 calls in a row" in await desk.refusal("echo")


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ("flood", f"it floods: more than {MESSAGES_BURST:,} messages that nobody asked for"),
        ("long", f"it sent a message of more than {MESSAGE_BYTES_LIMIT:,} bytes"),
        ("die", "it ended with status 7"),
    ],
)
async def test_a_server_that_floods_or_dies_fails_its_calls_and_is_started_anew(
    tmp_path: Path, tool: str, reason: str
) -> None:
    async with running(raw_config(tmp_path / "starts")) as desk:
        assert f"the tool 'raw__{tool}' failed: {reason}" in await desk.refusal(tool)
        await desk.until(lambda: desk.server()["state"] == "waiting")
        with pytest.raises(ToolFailed, match="is waiting") as caught:
            await desk.call("echo")
        assert caught.value.code == "TOOL_UNAVAILABLE"
        assert caught.value.details["server"] == "raw"
        assert 0 <= caught.value.details["next_try_s"] <= 1
        assert reason in caught.value.why
        assert desk.names() == []
        assert desk.host.absent(("raw",))[0][0] == "raw"
        await desk.until(lambda: desk.server()["state"] == "running")
        assert await desk.call("echo", text="back") == {"text": "back"}
        assert (tmp_path / "starts").read_text() == "start\nstart\n"
        assert [change[1] for change in desk.changes[-2:]] == ["warning", "info"]


async def test_a_server_that_does_not_start_says_why_and_names_the_next_try(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running(raw_config(tmp_path / "starts", "die")) as desk:
        reason = desk.server()["reason"]
        await desk.until(lambda: "tool server raw: no licence" in caplog.text)
        assert "licence" not in reason  # which models may read
        assert reason.startswith("it ended with status 3")
        assert "files" in desk.server()["not_confined"] or "tools.servers.raw.read" in reason
        message = await desk.refusal("echo")
        assert "'raw' is waiting: it ended with status 3" in message
        assert "It is tried again in" in message
    config = ToolsConfig.model_validate({"mcpServers": {"raw": {"command": "no-such-program"}}})
    async with running(config) as desk:
        assert "there is no program 'no-such-program' on the path" in desk.server()["reason"]


async def test_nothing_of_a_server_is_left_when_the_host_ends(tmp_path: Path) -> None:
    async with running(raw_config(tmp_path / "starts")) as desk:
        assert desk.server()["state"] == "running"
        await desk.call("stay")
        assert len(processes_with(str(tmp_path))) == 2
    await desk.until(lambda: not processes_with(str(tmp_path)))  # killed, which a busy kernel does later


def processes_with(word: str) -> list[Path]:
    """The processes that have a word in one of their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += [path] if word in path.read_text() else []
    return found


async def test_binary_content_is_described_and_never_shown(tmp_path: Path) -> None:
    async with running(raw_config(tmp_path / "starts")) as desk:
        assert await desk.call("image") == {
            "text": "a cat",
            "media": [
                {"type": "image", "mime": "image/png", "bytes": 4},
                {"type": "resource", "mime": "x/y", "bytes": 2, "uri": "file:///x"},
            ],
        }
        [note] = desk.notes
        assert note.startswith("answered with image (image/png), resource (x/y)")
        assert "answered with too much: 300,012 bytes" in await desk.refusal("grow")


async def test_a_tool_that_changes_is_hidden_until_what_was_seen_is_approved(tmp_path: Path) -> None:
    kept = store()
    config = raw_config(tmp_path / "starts")
    async with running(config, kept) as desk:
        await desk.call("change")
        await desk.until(lambda: "echo" not in desk.names())
        assert desk.names() == [name for name in OFFERED if name not in ("echo", "junk")]
        tools = {tool["name"]: tool for tool in desk.server()["tools"]}
        assert (tools["echo"]["status"], tools["fresh"]["status"]) == ("changed", "new")
        assert [change["part"] for change in tools["echo"]["changes"]] == ["description"]
        message = await desk.refusal("echo", text="x")
        assert "it has changed and waits for approval" in message
        assert "caxton tool approve raw/echo" in message
        with pytest.raises(ToolApprovalFailed, match="has changed since"):
            await desk.host.approve("raw", {"echo": "0" * 64})
        with pytest.raises(ToolApprovalFailed, match="waits for approval"):
            await desk.host.approve("raw", {"see": None})
        assert await desk.host.approve("raw", {"echo": tools["echo"]["hash"]}) == ["echo"]
        assert await desk.call("echo", text="x") == {"text": "x"}
        assert "fresh" not in desk.names()
    async with running(config, kept) as desk:  # which describes it as at first: that is not what was approved
        assert "echo" not in desk.names()
        assert await desk.host.approve("raw", None) == ["echo"]
        assert "echo" in desk.names()


async def test_a_configured_server_is_known_before_it_has_answered(tmp_path: Path) -> None:
    host = ToolHost(
        environment=system_environment(),
        tracing=Tracing.off(),
        settings=ToolSettings.from_config(raw_config(tmp_path / "starts", allowed_tools=["raw/see"])),
    )
    known = host.known()
    assert "raw" in known
    assert "raw/anything" in known
    assert "raw/" not in known
    assert "other/anything" not in known
    with pytest.raises(ToolFailed, match="'raw' is starting"):
        await host.call("raw__see", {}, CallContext("ada", ("raw",)))


async def test_a_server_that_is_disabled_is_left_alone(tmp_path: Path) -> None:
    config = raw_config(tmp_path / "starts")
    off = config.mcp_servers["raw"].model_copy(update={"disabled": True})
    async with running(config.model_copy(update={"mcp_servers": {"raw": off}})) as desk:
        assert desk.server()["state"] == "disabled"
        assert "is disabled" in await desk.refusal("echo")
    assert not (tmp_path / "starts").exists()


def test_a_server_cannot_take_the_name_of_a_built_in_one() -> None:
    config = ToolsConfig.model_validate({"mcpServers": {"memory": {"command": "x"}}})
    with pytest.raises(ConfigInvalid, match="'memory'"):
        ToolHost(
            environment=system_environment(),
            tracing=Tracing.off(),
            settings=ToolSettings.from_config(config),
        )
