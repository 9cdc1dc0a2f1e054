"""What was approved of a tool server's tools: trust on first use, and nothing by itself afterwards.

A server's description of a tool is read by the model, so a server that changes it changes what agents are
told (a "rug pull"). All tools of a server are pinned when it is first seen: a hash of name, description and
input schema. Later a tool that is new, or is described otherwise, stays hidden until an operator approves the
very description that was looked at. A tool that goes back to what was pinned is as it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import apsw

from node.storage import tool_pins
from node.storage.tool_pins import PinRow
from node.tools.failures import ToolApprovalFailed

T = TypeVar("T")
SEEN: Final = ""
"""In place of a tool's name: that the server itself was seen."""


class Store(Protocol):
    """The verbs of ``storage.Storage`` that pins need."""

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        """Run a query."""
        ...

    async def write(self, job: Callable[[apsw.Connection], T]) -> T:
        """Run a change; it is durable when this returns."""
        ...


@dataclass(frozen=True, slots=True)
class Described:
    """What is pinned of a tool."""

    name: str
    description: str
    input_schema: Mapping[str, Any]

    def canonical(self) -> str:
        """As JSON of one spelling: keys sorted, no blanks, nothing escaped without need (cf. RFC 8785)."""
        shown = {"name": self.name, "description": self.description, "inputSchema": self.input_schema}
        return json.dumps(shown, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def digest(self) -> str:
        """SHA-256 of :meth:`canonical`, in hexadecimal."""
        return hashlib.sha256(self.canonical().encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Pending:
    """A tool that is not what was approved.

    Args:
        found: As the server describes it now.
        pinned: What was approved, canonical; None for a tool that is new.
    """

    found: Described
    pinned: str | None

    def changes(self) -> list[dict[str, Any]]:
        """Which parts differ, from what and to what."""
        before = {} if self.pinned is None else json.loads(self.pinned)
        after = json.loads(self.found.canonical())
        return [
            {"part": part, "from": before.get(part), "to": after[part]}
            for part in after
            if before.get(part) != after[part]
        ]


class Pins:
    """The pins of all tool servers of a node.

    Args:
        store: The node's database; None keeps them for the life of the process.
        wall: Unix time in seconds.
    """

    def __init__(self, store: Store | None, wall: Callable[[], float]) -> None:
        self._store, self._wall = store, wall
        self._pins: dict[str, dict[str, str]] = {}
        self._loaded = store is None

    async def load(self) -> None:
        """Read what was approved before this run of the node."""
        if self._store is not None and not self._loaded:
            for row in await self._store.read(tool_pins.load):
                self._pins.setdefault(row.server, {})[row.tool] = row.canonical
            self._loaded = True

    async def sort(
        self, server: str, tools: Sequence[Described]
    ) -> tuple[dict[str, Described], dict[str, Pending]]:
        """Which tools are as approved, and which are not; pins all of a server that is seen first.

        Args:
            server: Its name.
            tools: What it offers now.
        """
        await self.load()
        if server not in self._pins:
            await self._pin(server, {SEEN: "{}"} | {tool.name: tool.canonical() for tool in tools})
        pinned = self._pins[server]
        approved = {t.name: t for t in tools if pinned.get(t.name) == t.canonical()}
        pending = {t.name: Pending(t, pinned.get(t.name)) for t in tools if t.name not in approved}
        return approved, pending

    async def approve(
        self, server: str, pending: Mapping[str, Pending], wanted: Mapping[str, str | None]
    ) -> None:
        """Pin tools as they are described now.

        Args:
            server: Its name.
            pending: What waits.
            wanted: Tool -> digest of the description that was looked at; None for whatever it is.

        Raises:
            ToolApprovalFailed: one does not wait, or is described otherwise by now; nothing was approved.
        """
        for tool, digest in wanted.items():
            if tool not in pending:
                raise ToolApprovalFailed(
                    f"no tool {tool[:80]!r} of {server!r} waits for approval",
                    why="those that wait: " + (", ".join(pending) or "none"),
                    fix="See `caxton tool list`.",
                )
            found = pending[tool].found.digest()
            if digest not in (None, found):
                raise ToolApprovalFailed(
                    f"the tool {tool!r} of {server!r} has changed since it was looked at",
                    why=f"its hash is {found} now",
                    fix="Look at it again, and approve what you see.",
                    details={"tool": tool, "hash": found},
                )
        if wanted:
            await self._pin(server, {tool: pending[tool].found.canonical() for tool in wanted})

    def statistics(self) -> dict[str, int]:
        """How many servers and tools are pinned."""
        tools = sum(len(pins) - (SEEN in pins) for pins in self._pins.values())
        return {"servers": len(self._pins), "tools": tools}

    async def _pin(self, server: str, tools: Mapping[str, str]) -> None:
        now = self._wall()
        rows = [PinRow(server, tool, canonical, now) for tool, canonical in tools.items()]
        if self._store is not None:
            await self._store.write(lambda connection: tool_pins.save(connection, rows))
        self._pins.setdefault(server, {}).update(tools)
