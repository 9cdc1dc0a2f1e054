"""An operator's desk: a node with a marked tool, a model that asks for it, and who decides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio
import trio.testing
from mcp.server.mcpserver import MCPServer
from msgspec.structs import replace as with_fields

from node.agents import approvals as room
from node.config import ToolsConfig
from node.environment import Workers
from node.llm.provider import ToolCall
from node.llm.registry import ProviderRegistry
from node.messaging.delivery import Draft
from node.storage import approvals as table
from node.tools.builtin_servers import ToolServer
from node.tools.files import FileSpaces
from node.tools.host import ToolSettings
from node.vocabulary import Performative
from tests.node.agents.inline import TestClock
from tests.node.agents.rooms import MemoryStore, Rooms, delivery, rooms
from tests.node.agents.test_configured import Recorder
from tests.node.agents.test_definition import agent

MARKED = "security: {require_approval: [ops/restart]}"
OPERATOR = agent("tools: [ops]", MARKED)
CLOCK = TestClock()


class Ops:
    """A tool server that notes what it was called with; ``restart`` waits while it is told to."""

    def __init__(self) -> None:
        self.restarted: list[str] = []
        self.looked = 0
        self.hold: trio.Event | None = None
        self.about = "Restart a service."

    def server(self) -> ToolServer:
        def create(_files: FileSpaces, _workers: Workers) -> MCPServer:
            server = MCPServer("ops")

            @server.tool(structured_output=True, description=self.about)
            async def restart(name: str) -> dict[str, Any]:
                self.restarted.append(name)
                if self.hold is not None:
                    await self.hold.wait()
                return {"restarted": name}

            @server.tool(structured_output=True)
            async def look() -> dict[str, Any]:
                self.looked += 1
                return {"seen": self.looked}

            return server

        return ToolServer("ops", ("restart", "look"), create)


class Desk:
    """A node as its operator sees it, and one who asks its agent."""

    def __init__(self, here: Rooms, store: MemoryStore) -> None:
        self.here, self.store = here, store
        self.approvals = here.supervisor.approvals

    async def ask(self, number: int = 1, *, fields: dict[str, Any] | None = None, **more: Any) -> list[Draft]:
        """Send the agent a message, the first one by default, with further fields of it."""
        asked = delivery("restart the database", **more)
        name = f"message-{number}"
        message = with_fields(asked.message, id=name, reply_with=name, **(fields or {}))
        return list(await self.here.bus.handlers["tester"](with_fields(asked, message=message)))

    async def waiting(self) -> list[dict[str, Any]]:
        return await self.approvals.page(100, states=[table.WAITING])

    async def decide(self, verdict: str = room.APPROVED, reason: str = "", by: str = "ada") -> None:
        [found] = await self.waiting()
        await self.approvals.decide(found["approval_id"], verdict, reason=reason, by=by)
        await trio.testing.wait_all_tasks_blocked()

    async def outcomes(self) -> list[str | None]:
        return [row["outcome"] for row in await self.approvals.page(100)][::-1]

    @property
    def sent(self) -> list[tuple[Performative, Any]]:
        return [(message.performative, message.content) for message in self.here.bus.accepted]

    def endings(self) -> list[str]:
        return [
            content["details"]["ending"]
            for performative, content in self.sent
            if performative is Performative.FAILURE
        ]


@asynccontextmanager
async def desk(
    ops: Ops,
    providers: ProviderRegistry,
    store: MemoryStore | None = None,
    *,
    content: bytes | None = OPERATOR,
    config: ToolsConfig | None = None,
) -> AsyncIterator[Desk]:
    """One run of a node; ``content`` is deployed, None leaves what an earlier run has."""
    store = store or MemoryStore()
    settings = None if config is None else ToolSettings.from_config(config)
    async with rooms(store, providers, tool_settings=settings, more_servers=[ops.server()]) as here:
        if content is not None:
            await here.supervisor.deploy(content, replace=True)
        await trio.testing.wait_all_tasks_blocked()
        yield Desk(here, store)


class Asks(Recorder):
    """A model that asks for the same calls first, and then tells what it was told; it waits if it must."""

    name = "recorder"

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        super().__init__()
        self.calls = calls
        self.hold: trio.Event | None = None

    async def complete(self, request: Any, **more: Any) -> Any:
        answer = await super().complete(request, **more)
        if request.turn == 1:
            called = tuple(
                ToolCall(f"call-{number}", name, arguments)
                for number, (name, arguments) in enumerate(self.calls)
            )
            return replace(answer, text="", tool_calls=called)
        if self.hold is not None:
            await self.hold.wait()
        return replace(
            answer, text="told " + " | ".join(m.text for m in request.messages if m.role == "tool")
        )


RESTART_DB = ("restart", {"name": "db"})
