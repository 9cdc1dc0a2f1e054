"""A tool server of another program: one task that starts it, speaks to it, and starts it again when it fails.

States: *starting* until it has told its tools, *running*, *stopping* while what has failed is ended,
*waiting* for the next attempt, *disabled* by the configuration. Pauses double from one second to five
minutes, with jitter, and begin anew when it has run for a while. A call of a server that does not run fails
at once and says when it is tried.

Which tools are offered follows what the server says (``notifications/tools/list_changed``), within what was
approved (:mod:`node.tools.pins`).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio
from pydantic import ValidationError

from node.config import McpServer
from node.environment import Environment
from node.errors import CaxtonError, ToolFailed
from node.json_schema import without_patterns
from node.tools.calls import QUEUE_LIMIT, STOPPED, Call, serve_calls
from node.tools.described import TOOLS_LIMIT, ToolInfo, model_name, one_line, schema_problem
from node.tools.pins import Described, Pending, Pins
from node.wording import said_of

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams
    from mcp.client.client import Client

_log = logging.getLogger(__name__)

START_S: Final = 60.0
"""How long a server has to tell its tools, in seconds: the first start may fetch packages."""
LEAVE_S: Final = 10.0
"""How long a server that has failed may take to hear that it is left, in seconds."""
FIRST_WAIT_S: Final = 10.0
"""How long agents wait, at most, for the first attempt to start a server that they use, in seconds."""
RESTART_FIRST_S: Final = 1.0
RESTART_LAST_S: Final = 300.0
"""Pauses before a server is started again, first and at most, in seconds; jitter takes up to a half."""
STABLE_S: Final = 60.0
"""After so long a run the pauses begin anew."""
HANGS_LIMIT: Final = 3
"""Calls in a row without an answer in their whole time, after which a server is started anew."""
RELIST_S: Final = 1.0
"""Shortest pause between two looks at a server's tools."""
PAGES_LIMIT: Final = 32
"""Most pages of a list of tools that are read."""
CHANGE_LIMIT: Final = 4_000
"""Longest part of a changed description that is shown, in characters."""


class State(StrEnum):
    """What a server does."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    WAITING = "waiting"
    DISABLED = "disabled"


class Link(Protocol):
    """One connection to a server (:mod:`node.tools.stdio`, :mod:`node.tools.remote`)."""

    ended: trio.Event
    reason: str
    hint: str
    missing: Mapping[str, str]

    def end(self, reason: str) -> None:
        """Note why it is over."""
        ...

    def open(self) -> AbstractAsyncContextManager[TransportStreams]:
        """The streams of messages."""
        ...


OnChange = Callable[[str, str, str], None]
"""Told the server, a level of a log (info, warning) and what has happened, in one sentence."""


class ExternalServer:
    """See the module's docstring.

    Args:
        name: Its name in the configuration.
        server: What the configuration says of it.
        connect: Makes a connection; None for a server that is disabled.
        environment: Clock and chance.
        pins: What was approved.
        on_change: Told what becomes of it.
    """

    def __init__(
        self,
        name: str,
        server: McpServer,
        connect: Callable[[], Link] | None,
        *,
        environment: Environment,
        pins: Pins,
        on_change: OnChange,
    ) -> None:
        self.name, self._server, self._connect = name, server, connect
        self._clock, self._pins, self._on_change = environment.clock, pins, on_change
        self._chance = environment.randomness.stream(f"tool server {name}")
        self.state = State.DISABLED if connect is None else State.STARTING
        self._tried = trio.Event()
        self._began: float | None = None
        self._changed = trio.Event()
        self._link: Link | None = None
        self._send: trio.MemorySendChannel[Call] | None = None
        self._listed: list[Described] = []
        self._refused: dict[str, str] = {}
        self._pending: dict[str, Pending] = {}
        self.tools: dict[str, ToolInfo] = {}
        self._schemas: dict[str, Any] = {}
        self._reason, self._next_try, self._missing = "", 0.0, dict[str, str]()
        self._failures = self._restarts = self._hangs = 0

    def begin(self) -> None:
        """Say that it is about to be started, so that it can be waited for."""
        self._began = self._clock.now()

    async def run(self) -> None:
        """Keep the server running until cancelled; :meth:`begin` goes before."""
        for key in self._server.ignored:
            self._tell(
                "warning", f"has {key}, which grants nothing here: agents' files say what they may call"
            )
        if self._connect is None:
            self._tried.set()
            return
        while True:
            self.state, link, began = State.STARTING, self._connect(), self._clock.now()
            await self._live(link)
            ran_s = self._clock.now() - began
            stable = self.state is not State.STARTING and ran_s >= STABLE_S
            self._failures = 1 if stable else self._failures + 1
            pause_s = min(RESTART_LAST_S, RESTART_FIRST_S * 2.0 ** min(self._failures - 1, 16))
            pause_s *= self._chance.uniform(0.5, 1.0)
            self.state, self._next_try = State.WAITING, self._clock.now() + pause_s
            self._restarts += 1
            self._tell("warning", f"is down: {self._reason}; it is tried again in {pause_s:.0f} s")
            self._tried.set()
            await self._clock.sleep(pause_s)

    async def wait_first(self) -> None:
        """Wait until the first attempt to start it has ended, well or not, but not for long."""
        if self._began is not None:
            with self._clock.move_on_after(max(0.0, self._began + FIRST_WAIT_S - self._clock.now())):
                await self._tried.wait()

    def check_up(self) -> None:
        """Refuse a call of a server that does not run.

        Raises:
            ToolFailed: it does not; says why, and when it is tried next.
        """
        if self.state is State.RUNNING:
            return
        details: dict[str, Any] = {"server": self.name, "state": self.state.value}
        fix = "Try again when it has started."
        if self.state is State.WAITING:
            wait_s = max(0.0, self._next_try - self._clock.now())
            details["next_try_s"] = round(wait_s, 3)
            fix = f"It is tried again in {wait_s:.0f} s."
        raise ToolFailed(
            f"the tool server {self.name!r} is {self.state.value}", why=self._reason, fix=fix, details=details
        )

    async def send(self, call: Call) -> None:
        """Hand a call to the owner task.

        Raises:
            trio.BrokenResourceError: the server has just ended.
        """
        if self._send is None:
            raise trio.BrokenResourceError(STOPPED)
        await self._send.send(call)

    @property
    def ending(self) -> str:
        """Why the connection of the moment, or the last one, has ended."""
        return STOPPED if self._link is None else self._link.reason

    def answered(self) -> None:
        """A call was answered, well or not."""
        self._hangs = 0

    def hung(self) -> None:
        """A call was not answered in the whole of its time."""
        self._hangs += 1
        if self._hangs >= HANGS_LIMIT and self._link is not None:
            self._link.end(f"it has not answered {self._hangs} calls in a row")

    def offers(self, tool: str) -> bool:
        """Whether the server has told of a tool of this name, approved or not."""
        return any(tool == each.name for each in self._listed) or tool in self._refused

    def waiting(self, name: str) -> str:
        """The tool that waits for approval under this name of the model; empty for none."""
        return next((tool for tool in self._pending if model_name(self.name, tool) == name), "")

    def hidden(self, tool: str) -> str:
        """Why a tool that the server has told of is not offered; empty if it is."""
        if tool in self._refused:
            return self._refused[tool]
        if tool not in self._pending:
            return ""
        kind = "is new" if self._pending[tool].pinned is None else "has changed"
        return f"it {kind} and waits for approval (caxton tool approve)"

    def schema(self, tool: str) -> Any:
        """What the arguments of a tool are checked against."""
        return self._schemas[tool]

    async def approve(self, wanted: Mapping[str, str | None] | None) -> list[str]:
        """Approve tools that are new or have changed; those that were approved.

        Args:
            wanted: Tool -> the hash that was looked at, None for any; without it all that wait.

        Raises:
            ToolApprovalFailed: one does not wait, or has changed again.
        """
        chosen = dict.fromkeys(self._pending) if wanted is None else dict(wanted)
        await self._pins.approve(self.name, self._pending, chosen)
        await self._sort()
        if chosen:
            self._tell("info", f"offers what was approved: {', '.join(chosen)}")
        return list(chosen)

    def statistics(self) -> dict[str, Any]:
        """What it does, how often it was started again, and how many tools it has."""
        return {
            "state": self.state.value,
            "restarts": self._restarts,
            "tools": len(self._listed) + len(self._refused),
            "tools_limit": TOOLS_LIMIT,
            "waiting": len(self._pending),
        }

    def describe(self) -> dict[str, Any]:
        """The server, its tools and what waits for approval, as the admin API shows them."""
        told: dict[str, Any] = {"name": self.name, "kind": self._server.kind, "state": self.state.value}
        told["reason"] = "" if self.state is State.RUNNING else self._reason
        told["next_try_s"] = None
        if self.state is State.WAITING:
            told["next_try_s"] = round(max(0.0, self._next_try - self._clock.now()), 3)
        told |= {"restarts": self._restarts, "not_confined": self._missing}
        shown: list[dict[str, Any]] = []
        for each in self._listed:
            pending = self._pending.get(each.name)
            status = "approved" if pending is None else "new" if pending.pinned is None else "changed"
            changes = [] if pending is None else [_cut(change) for change in pending.changes()]
            known_as = model_name(self.name, each.name)
            shown.append(
                {"name": each.name, "model_name": known_as, "status": status, "hash": each.digest()}
                | {"changes": changes}
            )
        for name, why in self._refused.items():
            shown.append({"name": name, "status": "refused", "why": why})
        return told | {"tools": shown}

    async def _live(self, link: Link) -> None:
        """One life of the server; it ends with the reason noted."""
        from mcp.client.client import Client  # noqa: PLC0415 - costs half a second
        from mcp_types import Implementation, ToolListChangedNotification  # noqa: PLC0415

        async def hear(message: object) -> None:
            await trio.lowlevel.checkpoint()
            if isinstance(message, ToolListChangedNotification):
                self._changed.set()

        self._link, failure = link, ""
        try:
            with self._clock.move_on_after(START_S) as starting:
                info = Implementation(name="caxton", version="1")
                async with Client(link.open(), cache=None, message_handler=hear, client_info=info) as client:
                    await self._list(client)
                    starting.deadline = math.inf
                    await self._serve(client, link)
                    starting.deadline = self._clock.now() + LEAVE_S
            if starting.cancelled_caught:
                failure = f"it has not told its tools within {START_S:.0f} s"
        except* Exception as group:
            failure = _text_of(group)
            _log.debug("tool server %s ended", self.name, exc_info=group)
        finally:
            self._send = None
        self._reason = link.reason if link.ended.is_set() else failure or link.reason
        if self.state is State.STARTING and link.hint:
            self._reason += f" ({link.hint})"

    async def _serve(self, client: Client, link: Link) -> None:
        """Make calls and follow what the server says of its tools, until the connection is over."""
        self._send, receive = trio.open_memory_channel[Call](QUEUE_LIMIT)
        self.state, self._hangs, self._missing = State.RUNNING, 0, dict(link.missing)
        self._tried.set()
        self._tell_start()
        async with trio.open_nursery() as nursery:
            serve = partial(serve_calls, client, receive, ending=lambda: link.reason, lost=link.end)
            nursery.start_soon(serve)
            nursery.start_soon(self._follow, client, link)
            nursery.start_soon(self._listen, client)
            await link.ended.wait()
            self.state, self._reason = State.STOPPING, link.reason
            nursery.cancel_scope.cancel()

    async def _follow(self, client: Client, link: Link) -> None:
        """Look at the tools again when the server says that they have changed."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            before = dict(self.tools)
            with self._clock.move_on_after(START_S) as looking:
                await self._list(client)
            if looking.cancelled_caught:
                link.end(f"it has not told its tools within {START_S:.0f} s")
            if before != self.tools:
                names = ", ".join(self.tools) or "none"
                self._tell("info", f"has changed its tools; offered are {names}")
            await self._clock.sleep(RELIST_S)

    async def _listen(self, client: Client) -> None:
        """Ask a server of the newer protocol, which says nothing unasked, to be told of changes."""
        from mcp.client.subscriptions import SubscriptionLost  # noqa: PLC0415 - already imported
        from mcp.shared.exceptions import MCPError  # noqa: PLC0415
        from mcp_types.version import MODERN_PROTOCOL_VERSIONS  # noqa: PLC0415

        offered = client.server_capabilities.tools
        if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or not (offered and offered.list_changed):
            return
        pause_s = RELIST_S
        while True:
            try:
                async with client.listen(tools_list_changed=True) as subscription:
                    pause_s = RELIST_S
                    async for _ in subscription:
                        self._changed.set()
            except (SubscriptionLost, MCPError) as error:
                _log.debug("tool server %s: %s", self.name, error)
            await self._clock.sleep(pause_s)
            pause_s = min(RESTART_LAST_S, 2 * pause_s)
            self._changed.set()

    async def _list(self, client: Client) -> None:
        """Read which tools there are, page by page."""
        found: dict[str, Described] = {}
        refused: dict[str, str] = {}
        cursor: str | None = None
        for _ in range(PAGES_LIMIT):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                if len(found) + len(refused) >= TOOLS_LIMIT:
                    _log.warning("tool server %s has more than %d tools", self.name, TOOLS_LIMIT)
                    break
                problem = "" if 0 < len(tool.name) <= 128 else "its name is too long, or empty"
                if not problem and tool.name in self._server.disabled_tools:
                    problem = "the configuration names it among disabledTools"
                problem = problem or schema_problem(tool.input_schema)
                if problem:
                    refused[tool.name[:128]] = problem
                else:
                    found[tool.name] = Described(tool.name, tool.description or "", tool.input_schema)
            cursor = page.next_cursor
            if cursor is None:
                break
        self._listed, self._refused = list(found.values()), refused
        await self._sort()

    async def _sort(self) -> None:
        approved, self._pending = await self._pins.sort(self.name, self._listed)
        self.tools = {
            name: ToolInfo(model_name(self.name, name), one_line(tool.description), tool.input_schema)
            for name, tool in approved.items()
        }
        self._schemas = {name: without_patterns(tool.input_schema) for name, tool in approved.items()}
        for name in (*self._pending, *self._refused):
            _log.warning("tool server %s: the tool %r is hidden: %s", self.name, name, self.hidden(name))

    def _tell_start(self) -> None:
        blocked = f"; {len(self._pending)} wait for approval" if self._pending else ""
        self._tell("info", f"is running, with the tools {', '.join(self.tools) or '(none)'}{blocked}")
        for what, why in self._missing.items():
            _log.warning("tool server %s is not confined: %s (%s)", self.name, what, why)

    def _tell(self, level: str, what: str) -> None:
        (_log.warning if level == "warning" else _log.info)("tool server %s %s", self.name, what)
        self._on_change(self.name, level, what)


def _cut(change: dict[str, Any]) -> dict[str, Any]:
    """A change whose texts are not longer than an answer has room for."""

    def shown(value: Any) -> str | None:
        if value is None:
            return None
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
        return text if len(text) <= CHANGE_LIMIT else f"{text[:CHANGE_LIMIT]}... ({len(text):,} characters)"

    return {"part": change["part"], "from": shown(change["from"]), "to": shown(change["to"])}


def _text_of(error: BaseException) -> str:
    """The first thing that went wrong, in one line."""
    if isinstance(error, BaseExceptionGroup):
        return _text_of(error.exceptions[0])
    if isinstance(error, CaxtonError):
        return f"{error.what}: {error.why}" if error.why else error.what
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"what it says of itself is not valid: {'.'.join(map(str, first['loc']))}: {said_of(first)}"[
            :300
        ]
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
