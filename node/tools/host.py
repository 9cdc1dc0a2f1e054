"""The MCP host: runs tool servers and calls their tools on behalf of agents, within their permissions.

Each server has one owner task, which enters and leaves its client connection (cancel scopes are bound to
the task that made them) and is fed by a bounded channel. The SDK is imported and a server is started when
the first agent with one of its tools arrives: importing it costs half a second that a node without
tools never pays.

A call is checked before it is made: the agent's front matter and the configuration must both grant the
tool, and the arguments must match its schema. Its time and the size of its result are bounded.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import trio

from node.config import ToolsConfig
from node.environment import Environment
from node.errors import ToolFailed, nearest
from node.telemetry.tracing import Tracing
from node.tools.builtin_servers import ToolServer, builtin_servers
from node.tools.caller import Caller
from node.tools.files import META_KEY, FileSpaces
from node.tools.spans import child_span

if TYPE_CHECKING:
    from mcp.client.client import Client

_log = logging.getLogger(__name__)
QUEUE_LIMIT: Final = 256
"""Most calls waiting for one server's owner task."""
RUNNING_LIMIT: Final = 16
"""Most calls running on one server."""


@dataclass(frozen=True, slots=True)
class ToolSettings:
    """The bounds of tool calls and what the configuration permits.

    Args:
        allowed_tools: Servers (``csv_parser``) and tools (``csv_parser/csv_top``) any agent may be granted;
            None permits all built-in ones.
        call_timeout_s: Longest call.
        max_result_bytes: Largest result, as JSON.
    """

    allowed_tools: tuple[str, ...] | None = None
    call_timeout_s: float = 30.0
    max_result_bytes: int = 256 * 1024

    @classmethod
    def from_config(cls, config: ToolsConfig) -> Self:
        """The settings that the configuration's section ``tools`` asks for."""
        allowed = None if config.allowed_tools is None else tuple(config.allowed_tools)
        return cls(allowed, config.timeout_s, config.max_result_bytes)


@dataclass(frozen=True, slots=True)
class ToolInfo:
    """A tool as its server describes it; ``input_schema`` is JSON Schema of an object."""

    name: str
    description: str
    input_schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CallContext:
    """On whose behalf a tool is called.

    Args:
        agent: Id of the calling agent.
        granted: What its front matter grants.
        restricted: What it takes away again.
        files: The files the call may read, by name.
        caller: Whose memory the call may use; the agent's own without it.
        traceparent: Parent of the call's span; empty for none.
        timeout_s: Longest wait; the host's own limit holds too.
    """

    agent: str
    granted: tuple[str, ...]
    restricted: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    caller: Caller | None = None
    traceparent: str = ""
    timeout_s: float | None = None


@dataclass(slots=True)
class _Call:
    tool: str
    arguments: dict[str, Any]
    meta: dict[str, Any]
    done: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    result: Any = None
    failure: str = "its server has stopped"


@dataclass(slots=True)
class _Connection:
    send: trio.MemorySendChannel[_Call]
    specs: dict[str, ToolInfo]


class ToolHost:
    """Runs tool servers and calls tools; :meth:`run` owns the connections.

    Args:
        environment: Clock and workers.
        tracing: Opens the span of each call.
        settings: Bounds and permissions.
        servers: What can be started; tool names must be unique across them.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        tracing: Tracing,
        settings: ToolSettings | None = None,
        servers: Sequence[ToolServer] | None = None,
    ) -> None:
        self._environment = environment
        self._tracing = tracing
        self._settings = settings or ToolSettings()
        self._servers = {server.name: server for server in servers or builtin_servers()}
        self._server_of = {tool: s.name for s in self._servers.values() for tool in s.tools}
        self._files = FileSpaces()
        self._connections: dict[str, _Connection] = {}
        self._starting = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self._calls = self._failed = self._refused = self._crashed = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the server connections until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None
                self._connections.clear()

    def known(self) -> tuple[str, ...]:
        """Every name an agent's front matter may grant: servers, and ``server/tool``."""
        names: list[str] = []
        for server in self._servers.values():
            names += [server.name, *(f"{server.name}/{tool}" for tool in server.tools)]
        return tuple(names)

    def permitted(self, granted: Collection[str], restricted: Collection[str] = ()) -> tuple[str, ...]:
        """The tools that both the agent and the configuration grant, in the servers' order."""
        allowed = self._settings.allowed_tools
        return tuple(
            tool
            for tool, server in self._server_of.items()
            if _grants(granted, server, tool)
            and not _grants(restricted, server, tool)
            and tool not in restricted
            and (allowed is None or _grants(allowed, server, tool))
        )

    async def tools_for(self, granted: Collection[str], restricted: Collection[str] = ()) -> list[ToolInfo]:
        """What the model may see; starts the servers that are needed.

        Raises:
            ToolFailed: a server does not start.
        """
        specs: list[ToolInfo] = []
        for tool in self.permitted(granted, restricted):
            connection = await self._connect(self._server_of[tool])
            specs.append(connection.specs[tool])
        return specs

    async def call(self, name: str, arguments: Mapping[str, Any], context: CallContext) -> Any:
        """Call a tool and give its result as JSON values.

        Raises:
            ToolFailed: not permitted, wrong arguments, timeout, result too large, or the tool's own error.
        """
        permitted = self.permitted(context.granted, context.restricted)
        if name not in permitted:
            self._refused += 1
            guess = nearest(name, permitted)
            raise ToolFailed(
                f"the agent {context.agent!r} may not use the tool {name[:80]!r}",
                why="its front matter or the setting tools.allowed_tools does not grant it",
                fix=f"Did you mean {guess!r}?" if guess else "Grant the tool in both places.",
                details={"tool": name[:80], "permitted": list(permitted)},
            )
        connection = await self._connect(self._server_of[name])
        _check_arguments(connection.specs[name], arguments)
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.agent.id": context.agent,
        }
        self._calls += 1
        try:
            with (
                child_span(
                    self._tracing, f"tools/call {name}", context.traceparent, attributes, kind="client"
                ) as span,
                self._files.open(context.files) as space,
            ):
                caller = context.caller or Caller(context.agent)
                meta = {META_KEY: space, **caller.as_meta()}
                meta |= {"traceparent": span.traceparent} if span.traceparent else {}
                return await self._ask(connection, _Call(name, dict(arguments), meta), context.timeout_s)
        except ToolFailed:
            self._failed += 1
            raise

    def describe(self) -> dict[str, Any]:
        """Every server with its state and its tools, as the admin API shows them."""
        return {
            "servers": [
                {
                    "name": server.name,
                    "kind": "built-in",
                    "state": "running" if server.name in self._connections else "not started",
                    "tools": [{"name": tool} for tool in server.tools],
                }
                for server in self._servers.values()
            ]
        }

    def statistics(self) -> dict[str, Any]:
        """Counts of calls and of servers that stopped by themselves, and the servers that run."""
        return {
            "calls": self._calls,
            "failed": self._failed,
            "refused": self._refused,
            "crashed": self._crashed,
            "servers": sorted(self._connections),
            "files": self._files.statistics(),
        }

    async def _ask(self, connection: _Connection, call: _Call, timeout_s: float | None) -> Any:
        limit = min(timeout_s or self._settings.call_timeout_s, self._settings.call_timeout_s)
        try:
            with self._environment.clock.move_on_after(limit):
                await connection.send.send(call)
                await call.done.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ToolFailed(f"the server of the tool {call.tool!r} has stopped") from None
        finally:
            call.scope.cancel()  # whoever stops waiting stops the work too
        if not call.done.is_set():
            raise ToolFailed(
                f"the tool {call.tool!r} timed out", why=f"it took more than {limit:g} s", fix="Ask for less."
            )
        if call.failure:
            raise ToolFailed(f"the tool {call.tool!r} failed", why=call.failure)
        size = len(json.dumps(call.result, ensure_ascii=False).encode())
        if size > self._settings.max_result_bytes:
            raise ToolFailed(
                f"the tool {call.tool!r} answered with too much",
                why=f"{size:,} bytes; at most {self._settings.max_result_bytes:,} are taken",
                fix="Ask for less.",
            )
        return call.result

    async def _connect(self, name: str) -> _Connection:
        async with self._starting:
            if name not in self._connections:
                if self._nursery is None:
                    raise ToolFailed(
                        f"the tool server {name!r} cannot start", why="the tool host is not running"
                    )
                try:
                    self._connections[name] = await self._nursery.start(self._keep, self._servers[name])
                except Exception as error:  # whatever a server's own code raises
                    _log.warning("tool server %s does not start: %r", name, error)
                    raise ToolFailed(
                        f"the tool server {name!r} does not start", why=type(error).__name__
                    ) from error
            return self._connections[name]

    async def _keep(
        self, server: ToolServer, *, task_status: trio.TaskStatus[_Connection] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Own a connection; one that breaks is forgotten, and the next call starts the server anew."""
        started = False

        def note(connection: _Connection) -> None:
            nonlocal started
            started = True
            task_status.started(connection)

        try:
            await self._own(server, note)
        except Exception:  # a bug in one server is that server's failure, never the node's end
            if not started:
                raise
            _log.exception("tool server %s stopped", server.name)
        self._crashed += 1
        self._connections.pop(server.name, None)

    async def _own(self, server: ToolServer, started: Callable[[_Connection], None]) -> None:
        """Own one connection: enter it, serve its calls, leave it, all in this task."""
        from mcp.client.client import Client  # noqa: PLC0415 - costs half a second

        with _quiet_logging():
            mcp_server = server.create(self._files, self._environment.workers)
        send, receive = trio.open_memory_channel[_Call](QUEUE_LIMIT)
        running = trio.Semaphore(RUNNING_LIMIT)
        async with Client(mcp_server, cache=None) as client, trio.open_nursery() as nursery, receive:
            listed = await client.list_tools()
            specs = {
                tool.name: ToolInfo(tool.name, " ".join((tool.description or "").split()), tool.input_schema)
                for tool in listed.tools
                if tool.name in server.tools  # a tool that appears unannounced stays hidden
            }
            started(_Connection(send, specs))
            async for call in receive:
                await running.acquire()
                nursery.start_soon(_serve, client, call, running)


async def _serve(client: Client, call: _Call, running: trio.Semaphore) -> None:
    from mcp.shared.exceptions import MCPError  # noqa: PLC0415 - already imported by the owner

    try:
        with call.scope:
            answer = await client.call_tool(call.tool, call.arguments, meta=call.meta)  # type: ignore[arg-type]
            texts = [block.text for block in answer.content if block.type == "text"]
            structured = answer.structured_content
            call.result = {"text": "\n".join(texts)} if structured is None else structured
            call.failure = ""
            if answer.is_error:
                call.failure = (
                    " ".join(texts).removeprefix(f"Error executing tool {call.tool}: ") or "no reason"
                )
    except MCPError as error:
        call.failure = error.error.message
    except Exception as error:  # the SDK refuses a bad answer with many types
        call.failure = f"its answer is not valid ({type(error).__name__})"
    finally:
        running.release()
        call.done.set()


def _grants(names: Collection[str], server: str, tool: str) -> bool:
    return server in names or f"{server}/{tool}" in names


def _check_arguments(spec: ToolInfo, arguments: Mapping[str, Any]) -> None:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # noqa: PLC0415 - with the SDK

    schema = {"additionalProperties": False, **spec.input_schema}
    errors = sorted(Draft202012Validator(schema).iter_errors(dict(arguments)), key=lambda e: list(e.path))
    if errors:
        first = errors[0]
        where = ".".join(str(part) for part in first.path) or "the arguments"
        raise ToolFailed(
            f"the arguments of the tool {spec.name!r} are not valid",
            why=f"{where}: {first.message[:300]}",
            fix="Follow the tool's input schema.",
            details={"problems": [e.message[:300] for e in errors[:10]]},
        )


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """Keep the SDK from configuring the process's logging, which it does only where nobody has."""
    root = logging.getLogger()
    placeholder = logging.NullHandler()
    root.addHandler(placeholder)
    try:
        yield
    finally:
        root.removeHandler(placeholder)
