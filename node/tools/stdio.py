"""A tool server that is a process of this machine: messages are lines on its standard input and output.

The process is started by :mod:`node.tools.launcher`, which confines it, in a session of its own and with an
environment that holds nothing of the node's. What it writes is bounded before it is parsed: a line that does
not end, or more lines than anybody needs, ends it. What it says on standard error goes to the node's log.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import trio

from node.config import McpServer, ToolServerLimits
from node.environment import Environment
from node.errors import ToolFailed
from node.tools import launcher
from node.tools.env_file import read_env_file
from node.tools.gateway import Gateway
from node.tools.noise import MESSAGES_BURST, FloodMeter, LineLog

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

_log = logging.getLogger(__name__)

MESSAGE_BYTES_LIMIT: Final = 4 * 1024 * 1024
"""Largest message of a server, in bytes; one that sends a larger one is ended."""
EXIT_S: Final = 1.0
"""How long a server has to end by itself when its input is closed, in seconds."""
TERMINATE_S: Final = 2.0
"""How long it has after SIGTERM, before SIGKILL."""
REAP_S: Final = 2.0
"""How long a killed one is waited for."""
CHUNK_BYTES: Final = 65_536
GATE: Final = ".gate"
"""The way out of a server whose hosts are named, in its home."""
_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "TZ")


class StdioLink:
    """One run of a stdio server.

    Args:
        name: The server's name.
        server: Its command, as configured.
        limits: What it may do.
        environment: Clock and workers.
        require: Whether it starts only where it can be confined wholly.
        environ: The node's own variables, of which it is given those that programs need.
    """

    def __init__(
        self,
        name: str,
        server: McpServer,
        limits: ToolServerLimits,
        *,
        environment: Environment,
        require: bool,
        environ: Mapping[str, str],
    ) -> None:
        self._name, self._server, self._limits = name, server, limits
        self._environment, self._clock = environment, environment.clock
        self._require, self._environ = require, environ
        self._flood = FloodMeter()
        self._lines, self._refusals = LineLog(), LineLog()
        self.ended = trio.Event()
        self.reason, self.hint = "it has stopped", ""
        self.missing: Mapping[str, str] = {}

    def end(self, reason: str) -> None:
        """Note why it is over, the first time; whoever owns the link then leaves it."""
        if not self.ended.is_set():
            self.reason = reason
            self.ended.set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[TransportStreams]:
        """Run the process as long as the block lasts.

        Raises:
            ToolFailed: it does not start; says why.
        """
        home = await self._environment.workers.run("files", tempfile.mkdtemp, "", "caxton-tool-")
        try:
            async with self._gate(home) as gate:
                process = await self._start(home, gate)
                try:
                    await self._read_report(process)
                    async with self._streams(process) as streams:
                        yield streams
                finally:
                    with trio.CancelScope(shield=True):
                        await self._stop(process)
        finally:
            with trio.CancelScope(shield=True):
                await self._environment.workers.run("files", shutil.rmtree, home, True)

    @asynccontextmanager
    async def _gate(self, home: str) -> AsyncIterator[str]:
        """The socket of the way out, where hosts are named; empty where there is none."""
        if not (self._limits.network and self._limits.allowed_domains):
            yield ""
            return
        path = f"{home}/{GATE}"
        gateway = Gateway(self._name, self._limits, self._environment, self._warn)
        async with trio.open_nursery() as nursery:
            await nursery.start(gateway.run, path)
            yield path
            nursery.cancel_scope.cancel()

    async def _start(self, home: str, gate: str) -> trio.Process:
        server, limits = self._server, self._limits
        cwd = str(server.cwd) if server.cwd is not None else home
        named = [path for path in server.args if path.startswith("/") and path != "/"]
        orders = {
            "command": [server.command, *server.args],
            "cwd": cwd,
            "read": [*limits.read, *named, *([] if server.cwd is None else [cwd])],
            "write": [home, *limits.write],
            "network": limits.network and not gate,
            "gate": gate,
            "limits": {
                "memory": limits.memory_bytes,
                "open_files": limits.open_files,
                "max_file": limits.max_file_bytes,
                "processes": limits.processes,
            },
            "require": self._require,
        }
        command = [sys.executable, "-I", "-S", str(Path(launcher.__file__)), json.dumps(orders)]
        try:
            return await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=await self._variables(home),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise ToolFailed("its process cannot be started", why=error.strerror or str(error)) from None

    async def _variables(self, home: str) -> dict[str, str]:
        """The environment of the server: what programs need, a home of its own, and what the map names."""
        named: dict[str, str] = {}
        if self._server.env_file is not None:
            named = await self._environment.workers.run("files", read_env_file, self._server.env_file)
        named |= {name: secret.get_secret_value() for name, secret in self._server.env.items()}
        own = {name: self._environ[name] for name in _INHERITED if name in self._environ}
        own = {"PATH": os.defpath, "LANG": "C.UTF-8"} | own | {"HOME": home, "TMPDIR": home}
        return own | named

    async def _read_report(self, process: trio.Process) -> None:
        """What the launcher says before it becomes the server: what is not confined, or why not at all."""
        head = bytearray()
        while b"\n" not in head and len(head) < CHUNK_BYTES:
            chunk = await _receive(process.stderr)
            if not chunk:
                break
            head += chunk
        line, _, rest = bytes(head).partition(b"\n")
        text = line.decode(errors="replace")
        report: dict[str, Any] = {}
        if text.startswith(launcher.MARK):
            report = json.loads(text.removeprefix(launcher.MARK))
        else:
            report = {"refused": text[-300:] or "its launcher has ended"}
        if "refused" in report:
            raise ToolFailed("it was not started", why=str(report["refused"])[:500])
        self.missing = dict(report["missing"])
        self._tell(rest)

    @asynccontextmanager
    async def _streams(self, process: trio.Process) -> AsyncIterator[TransportStreams]:
        from mcp.shared.message import SessionMessage  # noqa: PLC0415 - imported by who connects

        to_session, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write_stream, from_session = anyio.create_memory_object_stream[SessionMessage](0)

        async def write() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for message in from_session:
                    text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                    self._flood.asked()
                    await _sender(process).send_all(text.encode() + b"\n")
                return
            self.end("it does not read any more")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, process, to_session)
            nursery.start_soon(write)
            nursery.start_soon(self._read_errors, process)
            try:
                yield read_stream, write_stream
            finally:
                nursery.cancel_scope.cancel()
                for stream in (to_session, read_stream, write_stream, from_session):
                    stream.close()

    async def _read(self, process: trio.Process, to_session: Any) -> None:
        """Hand on what the server says, message by message, until it says too much."""
        buffer = bytearray()
        with to_session, suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            while chunk := await _receive(process.stdout):
                buffer += chunk
                if b"\n" in chunk:
                    whole, _, rest = bytes(buffer).rpartition(b"\n")
                    buffer = bytearray(rest)
                    for line in whole.split(b"\n"):
                        if not await self._take(line, to_session):
                            return
                if len(buffer) > MESSAGE_BYTES_LIMIT:
                    self.end(f"it sent a message of more than {MESSAGE_BYTES_LIMIT:,} bytes")
                    return
            with self._clock.move_on_after(REAP_S):
                await process.wait()
            self.end(self._epitaph(process))

    async def _take(self, line: bytes, to_session: Any) -> bool:
        """One line of the server; False if it was one too many, or too long."""
        from mcp.shared.message import SessionMessage  # noqa: PLC0415 - imported by who connects
        from mcp_types import jsonrpc_message_adapter  # noqa: PLC0415

        if len(line) > MESSAGE_BYTES_LIMIT:
            self.end(f"it sent a message of more than {MESSAGE_BYTES_LIMIT:,} bytes")
            return False
        if not self._flood.allows(self._clock.now()):
            self.end(f"it floods: more than {MESSAGES_BURST:,} messages that nobody asked for")
            return False
        if not line.strip():
            return True
        try:
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            self._tell(b"(not a message) " + line[:200] + b"\n")
            return True
        await to_session.send(SessionMessage(message))
        return True

    async def _read_errors(self, process: trio.Process) -> None:
        while chunk := await _receive(process.stderr):
            self._tell(chunk)

    def _tell(self, chunk: bytes) -> None:
        for line in self._lines.feed(chunk, self._clock.now()):
            _log.info("tool server %s: %s", self._name, line)

    def _warn(self, what: str) -> None:
        for line in self._refusals.feed(f"{what}\n".encode(), self._clock.now()):
            _log.warning("tool server %s %s", self._name, line)

    def _epitaph(self, process: trio.Process) -> str:
        """How it ended; its last words are in the log only: models read this, and words may be secrets."""
        status = process.poll()
        if status is None:
            return "it has closed its output"
        if status < 0:
            return f"it was ended by {signal.Signals(-status).name}"
        if status and "files" not in self.missing:
            self.hint = f"see the node's log; files that it needs go into tools.servers.{self._name}.read"
        return f"it ended with status {status}"

    async def _stop(self, process: trio.Process) -> None:
        """Let it end, make it end, and leave nothing of its group behind."""
        await _sender(process).aclose()
        for pause_s, number in ((EXIT_S, signal.SIGTERM), (TERMINATE_S, signal.SIGKILL)):
            with self._clock.move_on_after(pause_s):
                await process.wait()
            _kill_group(process.pid, number if process.poll() is None else signal.SIGKILL)
        with self._clock.move_on_after(REAP_S):
            await process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                await stream.aclose()


def _kill_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _sender(process: trio.Process) -> trio.abc.SendStream:
    assert process.stdin is not None
    return process.stdin


async def _receive(stream: Any) -> bytes:
    """The next bytes of a pipe; none when it has ended."""
    try:
        return bytes(await stream.receive_some(CHUNK_BYTES))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return b""
