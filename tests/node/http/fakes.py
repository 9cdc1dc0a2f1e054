"""Rooms of a node, reduced to what the admin API asks of them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import trio

from node.agents.parked import already_decided, not_found, shown, shown_whole
from node.cluster.provider import Provider
from node.environment import Environment, SystemClock, SystemNetwork, ThreadWorkers
from node.errors import (
    AgentAlreadyExists,
    AgentInvalid,
    AgentNotFound,
    CaxtonError,
    DuplicateMessage,
    MessageNotFound,
    NoReply,
    StorageFailed,
)
from node.http.app import create_app
from node.http.services import NodeServices
from node.llm.registry import ProviderRegistry
from node.message import Message
from node.messaging.conversation_index import Archived, Page, Selection
from node.messaging.conversation_view import Conversation, Said
from node.messaging.conversations import Wait
from node.messaging.dead_letters import DeadLetter
from node.messaging.explanation import Candidate, Decision
from node.messaging.letterbox import DeadLetterNotFound, DeadLetterRetried, Redirection, Refusal, Retried
from node.messaging.tail import Tail
from node.messaging.tender import Award
from node.security.tokens import Tokens
from node.storage.approvals import ApprovalRow
from node.storage.conversations import Span
from node.storage.dead_letters import Choice
from node.telemetry.tracing import Tracing
from node.tools.host import ToolHost
from node.vocabulary import Performative
from node.webhooks.webhooks import WebhookNotFound
from tests.node.http.cluster_fakes import NODE, FakeMembers, Shown

ADMIN, SENDER, VIEWER = "caxton_admin", "caxton_sender", "caxton_viewer"
START = 1_700_000_000.0


class TrioClock(SystemClock):
    """Trio's (mock) clock; what it calls the date never changes."""

    def wall(self) -> float:
        return START


class SeededRandomness:
    def __init__(self) -> None:
        self._source = random.Random(0)

    def token(self, size: int) -> bytes:
        return self._source.randbytes(size)

    def stream(self, purpose: str) -> random.Random:
        return random.Random(purpose)


@dataclass
class Receipt:
    message_id: str
    conversation_id: str
    routed_to: tuple[str, ...] = ("worker@beta",)
    routing_strategy: str = "best_match"
    status: str = "accepted"
    timestamp_s: float = START


class FakeLetters:
    """Three letters, numbered like their messages."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.sender = "client@alpha"

    def _letter(self, number: int) -> DeadLetter:
        return DeadLetter(f"m{number}", START, "no provider", {}, "echo", seq=number)

    async def page(self, limit: int, choice: Choice) -> list[DeadLetter]:
        self.calls.append(("page", limit, choice))
        return [self._letter(n) for n in (3, 2, 1) if n < (choice.before or 9)][:limit]

    async def get(self, message_id: str) -> DeadLetter:
        if message_id not in ("m1", "m2", "m3"):
            raise DeadLetterNotFound(f"no dead letter {message_id[:80]!r}")
        return self._letter(int(message_id[1:]))

    async def message(self, message_id: str) -> Message:
        await self.get(message_id)
        return Message(
            id=message_id,
            performative=Performative.REQUEST,
            sender=self.sender,
            capability="echo",
            conversation_id="c",
            reply_with="r",
        )

    async def retry(self, message_id: str, change: Redirection, *, force: bool) -> Receipt:
        await self.get(message_id)
        if message_id == "m1" and not force:
            raise DeadLetterRetried("sent before", details={"retried_as": "m0"})
        self.calls.append(("retry", message_id, change))
        return Receipt(f"new-{message_id}", "c")

    async def retry_all(self, choice: Choice, limit: int, change: Redirection, *, force: bool) -> Retried:
        self.calls.append(("retry_all", choice, limit, change, force))
        refusal = Refusal("m2", DeadLetterNotFound("gone"))
        return Retried((("m1", "new"),), (refusal,), 1, 2, True, StorageFailed("the disk is full"))

    async def drop(self, message_id: str) -> None:
        await self.get(message_id)
        self.calls.append(("drop", message_id))

    async def drop_all(self, choice: Choice, limit: int) -> tuple[int, bool]:
        self.calls.append(("drop_all", choice, limit))
        return 3, False

    def statistics(self) -> dict[str, int]:
        return {"count": 3, "bytes": 99}


class FakeInvestigation:
    async def trace(self, message_id: str) -> Shown:
        return Shown({"message_id": message_id, "complete": True})

    async def explain(self, message_id: str) -> Shown:
        raise MessageNotFound("received here, not accepted", fix="Ask beta.")


class FakeConversations:
    def __init__(self, bus: FakeBus) -> None:
        self._bus = bus
        self.calls: list[tuple[Any, ...]] = []

    async def get(self, conversation_id: str) -> Conversation:
        said = [
            Said(message, "settled", START, is_open=False)
            for message, _, _ in self._bus.accepted
            if message.conversation_id == conversation_id
        ]
        span = Span(START, START, None) if said else None
        return Conversation(conversation_id, said, truncated=False, span=span, closure=None, wall=START)

    async def page(self, limit: int, selection: Selection, before: str | None) -> Page:
        self.calls.append(("page", limit, selection, before))
        found = dict.fromkeys(message.conversation_id for message, _, _ in self._bus.accepted)
        return Page([await self.get(each) for each in found], "3.4")

    async def archive(self, *, older_than_s: float, status: str | None, after: str | None) -> Archived:
        self.calls.append(("archive", older_than_s, status, after))
        return Archived(["c1", "c2"], "5.6")

    async def archive_these(self, conversation_ids: Sequence[str]) -> Archived:
        self.calls.append(("archive_these", *conversation_ids))
        return Archived(conversation_ids, None)


class FakeBus:
    def __init__(self) -> None:
        self.accepted: list[tuple[Message, str, float | None]] = []
        self.error: Exception | None = None
        self.delay_s = 0.0
        self.letters, self.investigation = FakeLetters(), FakeInvestigation()
        self.conversations = FakeConversations(self)
        self.tail = Tail(NODE, TrioClock())
        self.batches: list[int] = []
        self.mailboxes: Any = NoMailboxes()
        self.blobs: Any = None  # tests of blobs have a real bus
        self.room = 1_000_000
        self.answers = True
        self.waits: dict[str, Wait] = {}

    def _reply(self, message: Message, sender: str) -> Message:
        return Message(
            id=f"re-{message.id}",
            performative=Performative.INFORM,
            sender=sender,
            receiver=message.sender,
            content={"echo": message.content},
            conversation_id=message.conversation_id,
            reply_with="r",
            in_reply_to=message.reply_with,
        )

    async def accept(self, message: Message, *, traceparent: str = "", ttl_s: float | None = None) -> Receipt:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.accepted.append((message, traceparent, ttl_s))
        return Receipt(message.id, message.conversation_id)

    async def accept_many(
        self, messages: Sequence[Message], *, traceparent: str = "", ttl_s: Sequence[float | None]
    ) -> list[Receipt | CaxtonError]:
        known = {message.id for message, _, _ in self.accepted}
        found: list[Receipt | CaxtonError] = []
        for message, life_s in zip(messages, ttl_s, strict=True):
            if message.id in known:
                found.append(DuplicateMessage(f"{message.id!r} was accepted before"))
            else:
                known.add(message.id)
                found.append(await self.accept(message, traceparent=traceparent, ttl_s=life_s))
                if message.id in self.waits and self.answers:
                    self.waits[message.id].take(self._reply(message, "worker@beta"))
        self.batches.append(len(messages))
        return found

    def has_room(self, count: int, size: int) -> bool:
        return count <= self.room

    def expect(self, message: Message) -> Wait:
        wait = Wait((message.sender, message.reply_with), 1)
        self.waits[message.id] = wait
        return wait

    def expect_no_more(self, wait: Wait) -> None:
        self.waits = {key: each for key, each in self.waits.items() if each is not wait}

    def preview(self, message: Message) -> Decision:
        candidate = Candidate("worker", "beta", 2.5, 5, 1.0, 0.5, 3)
        return Decision((("worker", "beta"),), message.routing_strategy.value, "the highest", (candidate,))

    async def request(
        self, message: Message, *, timeout_s: float, traceparent: str = "", ttl_s: float | None = None
    ) -> Message:
        await self.accept(message, traceparent=traceparent, ttl_s=ttl_s)
        if self.delay_s > timeout_s:
            await TrioClock().sleep(timeout_s)
            raise NoReply("no reply came", why=f"{timeout_s} s passed")
        await TrioClock().sleep(self.delay_s)
        return self._reply(message, "worker@beta")

    async def gather(
        self,
        message: Message,
        *,
        timeout_s: float,
        quorum: int | None = None,
        traceparent: str = "",
        ttl_s: float | None = None,
    ) -> list[Message]:
        await self.accept(message, traceparent=traceparent, ttl_s=ttl_s)
        return [self._reply(message, "worker@beta"), self._reply(message, "worker@gamma")]

    async def call_for_proposals(
        self, message: Message, *, deadline_s: float, result_s: float, award: Award, traceparent: str = ""
    ) -> Shown:
        await self.accept(message, traceparent=traceparent, ttl_s=deadline_s)
        if self.delay_s:
            await TrioClock().sleep(self.delay_s)
        return Shown({"message_id": message.id, "status": "done", "by": award.by, "prefer": award.prefer})

    async def history(self, message_id: str) -> Shown:
        for message, _, _ in self.accepted:
            if message.id == message_id:
                return Shown(message.as_json() | {"routed_to": ["worker@beta"], "history": []})
        raise MessageNotFound(f"no message {message_id[:80]!r}")

    def unsettled_by_node(self) -> Mapping[str, int]:
        return {"beta": 2}

    def statistics(self) -> Mapping[str, Any]:
        return {"outbox": len(self.accepted)}


@dataclass
class Agent:
    name: str
    capabilities: tuple[str, ...] = ("echo",)
    status: str = "running"
    files: dict[str, bytes] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "status": self.status, "capabilities": list(self.capabilities)}


class NoMailboxes:
    """The mailboxes of a node that has none; those of a real bus are in test_mailboxes.py."""

    def knows(self, name: str) -> bool:
        return False


class FakeApprovals:
    """One call that waits; what is asked is in ``asked``."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.row = ApprovalRow(
            id="approval-1",
            turn_id="turn-1",
            agent="operator",
            fingerprint="f",
            origin="node-2",
            message_id="message-1",
            conversation_id="conversation-1",
            caller="client@node-2",
            server="ops",
            tool="restart",
            arguments='{"name":"db"}',
            binding=json.dumps({"server": "ops", "tool": "restart", "described": "a", "arguments": "b"}),
            state="waiting",
            verdict="",
            reason="",
            decided_by="",
            decided_s=0.0,
            created_s=1_000.0,
            expires_s=2_000.0,
            ended_s=0.0,
            outcome="",
        )

    async def page(self, limit: int, **more: Any) -> list[dict[str, Any]]:
        await trio.lowlevel.checkpoint()
        self.asked.append({"limit": limit, **more})
        return [shown(self.row, 1_010.0)] * min(limit, 3)

    async def get(self, approval: str) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if approval != self.row.id:
            raise not_found(approval)
        return shown_whole(self.row, None, 1_010.0)

    async def decide(self, approval: str, verdict: str, *, reason: str, by: str) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if approval != self.row.id:
            raise not_found(approval)
        if self.row.verdict:
            raise already_decided(self.row, 1_010.0)
        self.row = replace(
            self.row, state="decided", verdict=verdict, reason=reason, decided_by=by, decided_s=1_010.0
        )
        return shown(self.row, 1_010.0)


class FakeAgents:
    def __init__(self) -> None:
        self.agents: dict[str, Agent] = {}
        self.forced = False
        self.approvals = FakeApprovals()

    async def deploy(
        self,
        content: bytes,
        *,
        filename: str = "",
        artifacts: Mapping[str, bytes] = {},
        name: str | None = None,
        workspace: str = "default",
        replace: bool = False,
        auto_start: bool = True,
    ) -> Agent:
        if content == b"broken":
            raise AgentInvalid("the agent file is broken", details={"problems": [{"line": 2, "column": 1}]})
        agent = Agent(name or "from-file", files={filename: content, **artifacts})
        if agent.name in self.agents and not replace:
            raise AgentAlreadyExists(f"{agent.name} is there already", fix="Use replace.")
        self.agents[agent.name] = agent
        return agent

    def knows(self, name: str) -> bool:
        return name in self.agents

    def list(self) -> Sequence[Agent]:
        return [self.agents[name] for name in sorted(self.agents)]

    def get(self, agent: str) -> Agent:
        if agent not in self.agents:
            raise AgentNotFound(f"no agent {agent[:80]!r}")
        return self.agents[agent]

    async def stop(self, agent: str, *, grace_s: float) -> None:
        self.get(agent).status = "stopped"

    async def start(self, agent: str) -> None:
        self.get(agent).status = "running"

    async def delete(self, agent: str, *, force: bool) -> None:
        self.forced = force
        del self.agents[self.get(agent).name]

    def logs(
        self, agent: str, *, tail: int, since_s: float | None = None, level: str | None = None
    ) -> Sequence[Shown]:
        self.get(agent)
        record = {"message": "hello", "since_s": since_s, "level": level or "info", "timestamp_s": START}
        return [Shown(record)] * min(tail, 2)


class FakeRegistry:
    def capabilities(self) -> list[tuple[str, list[Provider]]]:
        return [("echo", [Provider("worker", "beta", "1.0.0", ("echo",))])]

    def providers(self, capability: str) -> list[Provider]:
        return dict(self.capabilities()).get(capability, [])

    def related(self, capability: str) -> list[tuple[str, int]]:
        return [("echo", 1)]


class NoWebhooks:
    """The room of webhooks of a node that has none, and whose disk is full."""

    async def listed(self) -> list[dict[str, Any]]:
        return []

    async def register(self, **given: Any) -> dict[str, Any]:
        raise StorageFailed("the data file caxton.db could not be used", why="the disk is full")

    async def shown(self, webhook_id: str) -> dict[str, Any]:
        raise WebhookNotFound(f"there is no webhook {webhook_id[:80]!r}")

    async def remove(self, webhook_id: str) -> None:
        raise WebhookNotFound(f"there is no webhook {webhook_id[:80]!r}")


class NoMemory:
    """The room of a memory that nothing was ever written to, and whose disk is full."""

    async def existing(self) -> None:
        return None

    async def store(self) -> None:
        raise StorageFailed("the data file memory.db could not be used", why="the disk is full")

    def statistics(self) -> dict[str, Any]:
        return {"open": False, "bytes": 0, "entities_limit": 100_000}


@dataclass(frozen=True)
class Server:
    request_limit_bytes: int = 4096
    deploy_limit_bytes: int = 16_384


@dataclass(frozen=True)
class Config:
    server: Server = Server()


class World:
    """One node's admin API over fakes."""

    def __init__(
        self,
        *,
        dev_mode: bool = False,
        tracing: Tracing | None = None,
        limit_bytes: int = 4096,
        bus: Any = None,
        webhooks: Any = None,
        memory: Any = None,
        replication: Any = None,
    ) -> None:
        self.bus: Any = bus or FakeBus()
        self.webhooks: Any = webhooks or NoWebhooks()
        self.deployments: Any = None
        self.agents, self.stopped = FakeAgents(), 0
        self.members = FakeMembers()
        self.environment = Environment(TrioClock(), SeededRandomness(), SystemNetwork(), ThreadWorkers())
        roles = [(t.removeprefix("caxton_"), t) for t in (ADMIN, SENDER, VIEWER)]
        tokens = Tokens(
            [(role, role, hashlib.sha256(token.encode()).hexdigest()) for role, token in roles],
            dev_mode=dev_mode,
        )
        self.services = NodeServices(
            environment=self.environment,
            config=Config(Server(limit_bytes)),
            node=NODE,
            membership=self.members,
            registry=FakeRegistry(),
            bus=self.bus,
            supervisor=self.agents,
            deployments=self.deployments,
            webhooks=self.webhooks,
            memory=memory or NoMemory(),
            models=ProviderRegistry(),
            tools=ToolHost(environment=self.environment, tracing=Tracing.off()),
            storage=None,
            tokens=tokens,
            tracing=tracing or Tracing.off(),
            started_at=0.0,
            shutdown=self._shutdown,
            statistics=lambda: {"storage": {"bytes": 1}},
            replication=replication,
        )
        self.app = create_app(self.services)

    def _shutdown(self) -> None:
        self.stopped += 1

    def client(
        self, token: str | None = ADMIN, *, address: str = "127.0.0.1", host: str = "127.0.0.1:8080"
    ) -> httpx.AsyncClient:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(self.app, client=(address, 40_000))
        return httpx.AsyncClient(transport=transport, base_url=f"http://{host}/api/v1", headers=headers)
