"""The MCP host: runs tool servers and calls their tools on behalf of agents, within their permissions.

There are two kinds of servers: those of Caxton, inside the node (:mod:`node.tools.in_process`), and
those of other programs, from the configuration (:mod:`node.tools.external`), each with one owner task.

A call is checked before it is made: the agent's front matter and the configuration must both grant the
tool, what it says of itself must be what was approved, and the arguments must match its schema. Its time and
the size of its result are bounded. What is not granted is not shown to the model, and refused if it is called
all the same, whoever has talked the model into it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

import trio

from node.config import ToolsConfig
from node.config.tool_servers import SERVERS_LIMIT
from node.environment import Environment
from node.errors import ConfigInvalid, ToolFailed, nearest
from node.telemetry.tracing import Tracing
from node.tools.approval import Binding, check_approved, is_named, strangers
from node.tools.builtin_servers import ToolServer, builtin_servers
from node.tools.caller import Caller
from node.tools.calls import Call
from node.tools.described import Arguments, ToolInfo, model_prefix
from node.tools.external import ExternalServer, State
from node.tools.failures import ToolServerNotFound
from node.tools.files import META_KEY, FileSpaces
from node.tools.in_process import InProcessServers
from node.tools.known import KnownTools
from node.tools.linking import links_of
from node.tools.pins import Pins, Store
from node.tools.results import in_words
from node.tools.spans import child_span

__all__ = ["CallContext", "KnownTools", "ToolHost", "ToolInfo", "ToolSettings"]

GRANTS_LIMIT: Final = 4_096
"""Most grants of agents whose tools are remembered."""


@dataclass(frozen=True, slots=True)
class ToolSettings:
    """The bounds of tool calls, what the configuration permits, and the servers of other programs.

    Args:
        allowed_tools: Servers (``csv_parser``) and tools (``csv_parser/csv_top``) any agent may be granted;
            None permits all.
        call_timeout_s: Longest call.
        max_result_bytes: Largest result, as JSON.
        require_approval: Tools of which every call needs an operator's approval, whatever agent makes it.
        repeatable: Tools whose call may be made again when a crash has left open whether it was made.
        config: Where other programs' servers are described; none without it.
    """

    allowed_tools: tuple[str, ...] | None = None
    call_timeout_s: float = 30.0
    max_result_bytes: int = 256 * 1024
    require_approval: tuple[str, ...] = ()
    repeatable: tuple[str, ...] = ()
    config: ToolsConfig = field(default_factory=ToolsConfig)

    @classmethod
    def from_config(cls, config: ToolsConfig) -> Self:
        """The settings that the configuration's section ``tools`` asks for."""
        allowed = None if config.allowed_tools is None else tuple(config.allowed_tools)
        marked, repeatable = tuple(config.require_approval), tuple(config.repeatable)
        return cls(allowed, config.timeout_s, config.max_result_bytes, marked, repeatable, config)


@dataclass(frozen=True, slots=True)
class CallContext:
    """On whose behalf a tool is called.

    Args:
        agent: Id of the calling agent.
        granted: What its front matter grants.
        restricted: What it takes away again.
        files: The files the call may read, by name; only for servers inside the node.
        caller: Whose memory the call may use; the agent's own without it.
        traceparent: Parent of the call's span; empty for none.
        timeout_s: Longest wait; the host's own limit holds too.
        note: Told what is worth a line in the agent's log beside the result.
        marked: Tools of which the agent's file wants every call approved; the configuration may want more.
        approved: What an operator has approved.
    """

    agent: str
    granted: tuple[str, ...]
    restricted: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    caller: Caller | None = None
    traceparent: str = ""
    timeout_s: float | None = None
    note: Callable[[str], None] | None = None
    marked: tuple[str, ...] = ()
    approved: Binding | None = None


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a call goes: server and tool, how it is sent, its longest time, the external server."""

    name: str
    tool: str
    info: ToolInfo
    send: Callable[[Call], Awaitable[None]]
    full_s: float
    server: ExternalServer | None = None


class ToolHost:
    """Runs tool servers and calls tools; :meth:`run` owns the servers.

    Args:
        environment: Clock, chance, network and workers.
        tracing: Opens the span of each call.
        settings: Bounds and permissions.
        servers: What can be started inside the node; tool names must be unique across them.
        store: Where it is kept what was approved of other programs' tools.
        environ: The node's variables, of which other programs are given those that programs need.

    Raises:
        ConfigInvalid: a configured server has the name of a built-in one, or a tool that is to need approval
            does not exist.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        tracing: Tracing,
        settings: ToolSettings | None = None,
        servers: Sequence[ToolServer] | None = None,
        store: Store | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = environment
        self._tracing = tracing
        self._settings = settings or ToolSettings()
        self._servers = {server.name: server for server in servers or builtin_servers()}
        self._server_of = {tool: s.name for s in self._servers.values() for tool in s.tools}
        self._own_of: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, ...]] = {}
        self._files = FileSpaces()
        self._builtin = InProcessServers(environment, self._files)
        self._pins = Pins(store, environment.clock.wall)
        self._external: dict[str, ExternalServer] = {}
        for name, connect in links_of(self._settings.config, environment, environ or {}).items():
            if name in self._servers:
                raise ConfigInvalid(
                    f"tools.mcpServers has a server {name!r}, which is the name of a built-in one",
                    fix="Give it another name.",
                )
            self._external[name] = ExternalServer(
                name,
                self._settings.config.mcp_servers[name],
                connect,
                environment=environment,
                pins=self._pins,
                on_change=self._changed,
            )
        for key in ("require_approval", "repeatable"):
            for stranger in strangers(getattr(self._settings, key), self.known()):
                raise ConfigInvalid(
                    f"tools.{key} names {stranger[:80]!r}, which is no tool",
                    fix="Write server, server/tool, or '*'; see `caxton tool list`.",
                )
        self.on_change: Callable[[str, str, str], None] = lambda _server, _level, _what: None
        self._calls = self._failed = self._refused = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the servers until cancelled."""
        await self._pins.load()
        async with trio.open_nursery() as nursery:
            self._builtin.begin(nursery)
            for server in self._external.values():
                server.begin()
                nursery.start_soon(server.run)
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._builtin.finish()

    def known(self) -> KnownTools:
        """Every name an agent's front matter may grant: servers, and ``server/tool``."""
        names: list[str] = []
        for server in self._servers.values():
            names += [server.name, *(f"{server.name}/{tool}" for tool in server.tools)]
        for other in self._external.values():
            names += [other.name, *(f"{other.name}/{tool}" for tool in other.tools)]
        return KnownTools(names, self._external)

    def permitted(self, granted: Collection[str], restricted: Collection[str] = ()) -> tuple[str, ...]:
        """The tools that both the agent and the configuration grant, in the servers' order.

        Those of other programs are among them while their servers run, as far as they are approved.
        """
        return (*self._own(granted, restricted), *self._others(granted, restricted))

    async def tools_for(self, granted: Collection[str], restricted: Collection[str] = ()) -> list[ToolInfo]:
        """What the model may see; starts the servers that are needed.

        Other programs' servers are waited for a while, until their first attempt has ended, well or not.

        Raises:
            ToolFailed: a server inside the node does not start.
        """
        for tool in self.permitted(granted, restricted):
            if tool in self._server_of:
                await self._builtin.built(self._servers[self._server_of[tool]])
        for server in self._granted(granted):
            await server.wait_first()
        return self.visible(granted, restricted)

    def visible(self, granted: Collection[str], restricted: Collection[str] = ()) -> list[ToolInfo]:
        """What the model may see at this moment, of the servers that have been started."""
        found = [
            self._builtin.described(self._server_of[tool]).get(tool)
            for tool in self._own(granted, restricted)
        ]
        shown = [tool for tool in found if tool is not None]
        return shown + [server.tools[tool] for server, tool in self._others(granted, restricted).values()]

    def absent(self, granted: Collection[str]) -> list[tuple[str, str]]:
        """What an agent is granted and cannot use at this moment: name and reason, both for people."""
        found: list[tuple[str, str]] = []
        for server in self._granted(granted):
            if server.state is not State.RUNNING:
                try:
                    server.check_up()
                except ToolFailed as error:
                    found.append((server.name, f"{error.what}: {error.why}" if error.why else error.what))
                continue
            for name in granted:
                of, slash, tool = name.partition("/")
                if not slash or of != server.name:
                    continue
                why = server.hidden(tool) if server.offers(tool) else "the server has no such tool"
                found += [(name, why)] if why else []
        return found

    async def call(self, name: str, arguments: Mapping[str, Any], context: CallContext) -> Any:
        """Call a tool and give its result as JSON values.

        Args:
            name: As the model knows it.
            arguments: What it asks for.
            context: On whose behalf.

        Raises:
            ApprovalNeeded: an operator must approve the call first; nothing was called.
            ToolFailed: not permitted, its server is down, wrong arguments, not what was approved, timeout,
                result too large, or the tool's own error.
        """
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.agent.id": context.agent,
        }
        target = await self._target(name, arguments, context)
        marked = (*self._settings.require_approval, *context.marked)
        check_approved(marked, context.approved, (target.name, target.tool, target.info, arguments))
        self._calls += 1
        try:
            with (
                child_span(
                    self._tracing, f"tools/call {name}", context.traceparent, attributes, kind="client"
                ) as span,
                self._meta(target, context) as told,
            ):
                meta = told | ({"traceparent": span.traceparent} if span.traceparent else {})
                return await self._ask(target, name, Call(target.tool, dict(arguments), meta), context)
        except ToolFailed:
            self._failed += 1
            raise

    @property
    def approval_timeout_s(self) -> float:
        """How long operators have to approve a call, in seconds."""
        return self._settings.config.approval_timeout_s

    def repeatable(self, server: str, tool: str) -> bool:
        """Whether a call may be made again when it is not known whether it was made."""
        return is_named(self._settings.repeatable, server, tool)

    async def approve(self, server: str, wanted: Mapping[str, str | None] | None) -> list[str]:
        """Approve tools of another program's server that are new or have changed; those that were.

        Args:
            server: Its name.
            wanted: Tool -> the hash that was looked at, None for any; without it all that wait.

        Raises:
            ToolServerNotFound: there is no such server.
            ToolApprovalFailed: a tool does not wait, or has changed since it was looked at.
        """
        found = self._external.get(server)
        if found is None:
            guess = nearest(server, self._external)
            raise ToolServerNotFound(
                f"there is no configured tool server {server[:80]!r}",
                why="built-in tools need no approval" if server in self._servers else "",
                fix=f"Did you mean {guess!r}?" if guess else "See `caxton tool list`.",
            )
        return await found.approve(wanted)

    def describe(self) -> dict[str, Any]:
        """Every server with its state and its tools, as the admin API shows them."""
        running = self._builtin.names()
        own = [
            {
                "name": server.name,
                "kind": "built-in",
                "state": "running" if server.name in running else "not started",
                "tools": [{"name": tool, "model_name": tool, "status": "approved"} for tool in server.tools],
            }
            for server in self._servers.values()
        ]
        return {"servers": own + [server.describe() for server in self._external.values()]}

    def statistics(self) -> dict[str, Any]:
        """Counts of calls, and the servers that run."""
        return {
            "calls": self._calls,
            "failed": self._failed,
            "refused": self._refused,
            "servers": self._builtin.names(),
            "external": {name: server.statistics() for name, server in self._external.items()},
            "external_limit": SERVERS_LIMIT,
            "files": self._files.statistics(),
            "grants": len(self._own_of),
            "grants_limit": GRANTS_LIMIT,
            "pins": self._pins.statistics(),
        }

    def _changed(self, server: str, level: str, what: str) -> None:
        self.on_change(server, level, what)

    def _own(self, granted: Collection[str], restricted: Collection[str]) -> tuple[str, ...]:
        """The tools of servers inside the node that are granted: what is granted changes with agents only."""
        key = tuple(granted), tuple(restricted)
        found = self._own_of.get(key)
        if found is None:
            if len(self._own_of) >= GRANTS_LIMIT:
                self._own_of.clear()
            tools = self._server_of.items()
            found = tuple(tool for tool, server in tools if self._grants(granted, restricted, server, tool))
            self._own_of[key] = found
        return found

    def _granted(self, granted: Collection[str]) -> list[ExternalServer]:
        """The servers of other programs of which an agent is granted anything."""
        if not self._external:
            return []
        names = {name.partition("/")[0] for name in granted}
        return [server for name, server in self._external.items() if name in names]

    def _grants(self, granted: Collection[str], restricted: Collection[str], server: str, tool: str) -> bool:
        allowed = self._settings.allowed_tools
        return (
            _names(granted, server, tool)
            and not _names(restricted, server, tool)
            and tool not in restricted
            and (allowed is None or _names(allowed, server, tool))
        )

    def _others(
        self, granted: Collection[str], restricted: Collection[str]
    ) -> dict[str, tuple[ExternalServer, str]]:
        """Name of the model -> server and tool, of what other programs offer and an agent may use."""
        return {
            info.name: (server, tool)
            for server in self._granted(granted)
            if server.state is State.RUNNING
            for tool, info in server.tools.items()
            if self._grants(granted, restricted, server.name, tool) and info.name not in restricted
        }

    def _find(self, name: str, context: CallContext) -> tuple[ExternalServer, str]:
        """The server and the tool that a name of the model stands for.

        Raises:
            ToolFailed: there is none that the agent may use, it waits for approval, or its server is down.
        """
        found = self._others(context.granted, context.restricted).get(name)
        if found is not None:
            return found
        for server in self._granted(context.granted):
            if not name.startswith(model_prefix(server.name)):
                continue
            server.check_up()  # what it would offer is not known, or not sure, while it is down
            tool = server.waiting(name)
            if tool and self._grants(context.granted, context.restricted, server.name, tool):
                self._refused += 1
                raise ToolFailed(
                    f"the tool {name!r} is not offered",
                    why=server.hidden(tool),
                    fix=f"Look at it, and approve it: caxton tool approve {server.name}/{tool}",
                )
        raise self._not_permitted(name, context)

    def _not_permitted(self, name: str, context: CallContext) -> ToolFailed:
        permitted = self.permitted(context.granted, context.restricted)
        self._refused += 1
        guess = nearest(name, permitted)
        return ToolFailed(
            f"the agent {context.agent!r} may not use the tool {name[:80]!r}",
            why="its front matter or the setting tools.allowed_tools does not grant it",
            fix=f"Did you mean {guess!r}?" if guess else "Grant the tool in both places.",
            details={"tool": name[:80], "permitted": list(permitted)},
        )

    async def _target(self, name: str, arguments: Mapping[str, Any], context: CallContext) -> _Target:
        """Where a call goes that may be made, with arguments that fit.

        Raises:
            ToolFailed: it may not be made, its server is down, or the arguments do not fit.
        """
        full_s = self._settings.call_timeout_s
        if name not in self._server_of:
            server, tool = self._find(name, context)
            Arguments(name, server.schema(tool)).check(arguments)
            longest_s = min(full_s, self._settings.config.call_s(server.name))
            return _Target(server.name, tool, server.tools[tool], server.send, longest_s, server)
        if not self._grants(context.granted, context.restricted, self._server_of[name], name):
            raise self._not_permitted(name, context)
        own = await self._builtin.built(self._servers[self._server_of[name]])
        own.arguments[name].check(arguments)
        return _Target(self._server_of[name], name, own.tools[name], own.send, full_s)

    @contextmanager
    def _meta(self, target: _Target, context: CallContext) -> Iterator[dict[str, Any]]:
        """What a server is told beside the arguments; an external one is not told who calls, nor on what."""
        if target.server is not None:
            yield {}
            return
        with self._files.open(context.files) as space:
            yield {META_KEY: space, **(context.caller or Caller(context.agent)).as_meta()}

    async def _ask(self, target: _Target, name: str, call: Call, context: CallContext) -> Any:
        limit_s = min(context.timeout_s or target.full_s, target.full_s)
        server = target.server
        try:
            with self._environment.clock.move_on_after(limit_s):
                await target.send(call)
                await call.done.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            why = "" if server is None else server.ending
            raise ToolFailed(f"the server of the tool {name!r} has stopped", why=why) from None
        finally:
            call.scope.cancel()  # whoever stops waiting stops the work too
        if server is not None and call.done.is_set():
            server.answered()
        elif server is not None and limit_s >= target.full_s:
            server.hung()
        if not call.done.is_set():
            raise ToolFailed(
                f"the tool {name!r} timed out", why=f"it took more than {limit_s:g} s", fix="Ask for less."
            )
        return self._checked(name, call, context)

    def _checked(self, name: str, call: Call, context: CallContext) -> Any:
        if call.failure:
            raise ToolFailed(f"the tool {name!r} failed", why=call.failure)
        size = len(json.dumps(call.result, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if size > self._settings.max_result_bytes:
            raise ToolFailed(
                f"the tool {name!r} answered with too much",
                why=f"{size:,} bytes; at most {self._settings.max_result_bytes:,} are taken",
                fix="Ask for less.",
            )
        if call.media and context.note is not None:
            context.note(in_words(call.media))
        return call.result


def _names(names: Collection[str], server: str, tool: str) -> bool:
    return server in names or f"{server}/{tool}" in names
