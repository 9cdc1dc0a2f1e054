"""Stand-ins for the rooms around the supervisor: a bus that calls handlers, a store in memory, a registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any, TypeVar

import apsw
import trio

from node.agents.settings import AgentSettings
from node.agents.supervisor import AgentSupervisor
from node.cluster.provider import Offer
from node.config import ToolsConfig
from node.environment import Environment
from node.errors import ResourceLimitExceeded, StorageFailed
from node.llm.registry import ProviderRegistry
from node.memory.room import MemoryRoom
from node.message import Attachment, Message
from node.messaging.client_mailboxes import NameConflict
from node.messaging.delivery import BatchHandler, Delivery, Draft, handler_of_one
from node.messaging.letterbox import Insertion
from node.storage.migrations import migrate
from node.telemetry.tracing import Tracing
from node.tools.builtin_servers import ToolServer, builtin_servers
from node.tools.host import ToolHost, ToolSettings
from node.vocabulary import Performative
from tests.node.agents.inline import inline_environment

T = TypeVar("T")
Handler = Callable[[Delivery], Awaitable[Sequence[Draft]]]


class MemoryStore:
    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        migrate(self.connection)
        self.fails = False

    async def write(self, job: Callable[[apsw.Connection], T]) -> T:
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise StorageFailed("the disk is full")
        with self.connection:  # what raises undoes its writes
            return job(self.connection)

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        await trio.lowlevel.checkpoint()
        return query(self.connection)


class FakeMailboxes:
    def __init__(self) -> None:
        self.names: list[str] = []

    def refuse_agent(self, agent: str) -> None:
        if agent in self.names:
            raise NameConflict(f"{agent} is a mailbox")


class NoBlobs:
    async def outsourced(self, draft: Draft) -> Draft:
        await trio.lowlevel.checkpoint()
        return draft


class FakeBus:
    def __init__(self) -> None:
        self.mailboxes = FakeMailboxes()
        self.handlers: dict[str, Handler] = {}
        self.concurrency: dict[str, int] = {}
        self.drains: list[tuple[str, float]] = []
        self.asked: list[tuple[Message, int]] = []
        self.reply: Message | None = None
        self.busy = 0.0
        self.called: Message | None = None
        self.accepted: list[Message] = []
        self.refuses: Exception | None = None
        self.store: MemoryStore | None = None
        self.blobs = NoBlobs()
        self.conversation: list[Message] = []

    async def said(self, conversation_id: str, limit: int) -> list[Message]:
        await trio.lowlevel.checkpoint()
        return [m for m in self.conversation if m.conversation_id == conversation_id][-limit:]

    def load(self) -> float:
        return self.busy

    async def task_of(self, accept: Message) -> Message | None:
        await trio.lowlevel.checkpoint()
        return self.called

    async def accept(
        self,
        message: Message,
        *,
        traceparent: str = "",
        hops: int = 0,
        cause: str | None = None,
        together_with: Insertion | None = None,
    ) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuses is not None:
            raise self.refuses
        if together_with is not None:
            assert self.store is not None
            letter: Any = None
            await self.store.write(lambda connection: together_with(connection, letter))
        self.accepted.append(message)

    def attach(self, agent: str, handler: Handler | BatchHandler, *, capacity: int, concurrency: int) -> None:
        assert agent not in self.handlers
        assert capacity > 0
        self.handlers[agent] = handler_of_one(handler)
        self.concurrency[agent] = concurrency

    async def detach(self, agent: str, *, drain_s: float) -> None:
        await trio.lowlevel.checkpoint()
        del self.handlers[agent]
        self.drains.append((agent, drain_s))

    async def request(
        self,
        message: Message,
        *,
        timeout_s: float,
        traceparent: str = "",
        hops: int = 0,
        cause: str | None = None,
    ) -> Message:
        await trio.lowlevel.checkpoint()
        assert timeout_s > 0
        self.asked.append((message, hops))
        assert self.reply is not None
        return self.reply


class FakeRegistry:
    def __init__(self) -> None:
        self.published: dict[str, tuple[str, tuple[str, ...], int]] = {}
        self.topics: dict[str, tuple[tuple[str, str], ...]] = {}
        self.accepts: dict[str, str] = {}
        self.minority: dict[str, str] = {}
        self.too_large: list[str] = []
        self.full_from = ""
        self.batches: list[int] = []
        self.withdrawn: list[tuple[str, ...]] = []
        self.labels: dict[str, tuple[tuple[str, str], ...]] = {}

    def publish(
        self,
        agent: str,
        *,
        version: str,
        capabilities: tuple[str, ...],
        priority: int,
        health: float,
        topics: tuple[tuple[str, str], ...] = (),
        accepts: str = "",
        minority: str = "serve",
        labels: tuple[tuple[str, str], ...] = (),
    ) -> None:
        assert health == 1.0
        self.published[agent] = (version, capabilities, priority)
        self.topics[agent] = topics
        self.accepts[agent] = accepts
        self.labels[agent] = labels
        self.minority[agent] = minority

    def publish_many(self, offers: Sequence[Offer]) -> None:
        for offer in offers:
            self.check(offer)
            if offer.agent == self.full_from:
                raise ResourceLimitExceeded(
                    f"the agent {offer.agent!r} cannot be announced", why="the map is full"
                )
        self.batches.append(len(offers))
        for offer in offers:
            self.publish(**{field.name: getattr(offer, field.name) for field in fields(offer)})

    def check(self, offer: Offer) -> None:
        if offer.agent in self.too_large:
            raise ResourceLimitExceeded(
                f"the agent {offer.agent!r} cannot be announced", why="it is too large"
            )

    def withdraw(self, *agents: str) -> None:
        self.withdrawn.append(agents)
        for agent in agents:
            self.published.pop(agent, None)


class Rooms:
    """A supervisor and what stands around it."""

    def __init__(self, supervisor: AgentSupervisor, bus: FakeBus, registry: FakeRegistry) -> None:
        self.supervisor = supervisor
        self.bus = bus
        self.registry = registry

    async def send(self, agent: str, content: Any, *files: Attachment, **more: Any) -> list[Draft]:
        return list(await self.bus.handlers[agent](delivery(content, *files, **more)))


@asynccontextmanager
async def rooms(  # noqa: PLR0917 - each is one room, and most tests name one or two
    store: MemoryStore | None = None,
    providers: ProviderRegistry | None = None,
    settings: AgentSettings | None = None,
    tool_settings: ToolSettings | None = None,
    tracing: Tracing | None = None,
    memory: MemoryRoom | None = None,
    reach: ToolsConfig | None = None,
    registry: FakeRegistry | None = None,
    more_servers: Sequence[ToolServer] = (),
    offered: Callable[[str], bool] = lambda _: True,
    environment: Environment | None = None,
) -> AsyncIterator[Rooms]:
    environment = environment or inline_environment()
    tracing = tracing or Tracing.off()
    bus, registry = FakeBus(), registry or FakeRegistry()
    bus.store = store = store or MemoryStore()
    servers = builtin_servers(memory, environment=environment, config=reach or ToolsConfig())
    servers = (*servers, *more_servers)
    tools = ToolHost(environment=environment, tracing=tracing, settings=tool_settings, servers=servers)
    supervisor = AgentSupervisor(
        environment=environment,
        node="node-1",
        storage=store,
        registry=registry,
        bus=bus,
        providers=providers or ProviderRegistry(),
        tools=tools,
        tracing=tracing,
        settings=settings,
        memory=memory,
        offered=offered,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(tools.run)
        await nursery.start(supervisor.run)
        yield Rooms(supervisor, bus, registry)
        nursery.cancel_scope.cancel()


def delivery(
    content: Any,
    *files: Attachment,
    performative: Performative = Performative.REQUEST,
    capability: str = "data-analysis",
    hops: int = 0,
    deadline: float | None = None,
    traceparent: str = "",
    sender: str = "client@node-2",
    conversation: str = "conversation-1",
) -> Delivery:
    message = Message(
        id="message-1",
        performative=performative,
        sender=sender,
        capability=capability,
        content=content,
        conversation_id=conversation,
        reply_with="message-1",
        attachments=files,
    )
    return Delivery(
        message=message,
        sender_node="node-2",
        traceparent=traceparent,
        attempt=1,
        hops=hops,
        deadline=deadline,
    )
