"""What the supervisor shows of an agent, and what it needs of the rooms around it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import apsw

from node.agents.ask import Requester
from node.agents.bids import Contracts
from node.errors import AgentNotFound, AgentPlaced, nearest
from node.labels import Labels, labels_shown
from node.message import Message, iso8601
from node.messaging.delivery import BatchHandler, Delivery, Draft, Handler
from node.messaging.later import LaterBus
from node.storage.agents import AgentRow

T = TypeVar("T")


class Store(Protocol):
    """What the supervisor needs of ``node.storage``."""

    async def write(self, job: Callable[[apsw.Connection], T]) -> T:
        """Run ``job`` in a transaction; returns after the commit."""
        ...

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        """Run ``query``."""
        ...


class TakenNames(Protocol):
    """What the supervisor needs of ``node.messaging.client_mailboxes.ClientMailboxes``."""

    def refuse_agent(self, agent: str) -> None:
        """Refuse an agent that would share its name with a mailbox."""
        ...


class AgentBus(Requester, Contracts, LaterBus, Protocol):
    """What the supervisor needs of ``node.messaging.bus.Bus``."""

    @property
    def mailboxes(self) -> TakenNames:
        """The mailboxes of clients."""
        ...

    async def said(self, conversation_id: str, limit: int) -> Sequence[Message]:
        """The latest messages of a conversation, in order of time."""
        ...

    def attach(self, agent: str, handler: Handler | BatchHandler, *, capacity: int, concurrency: int) -> None:
        """Deliver the agent's messages to ``handler`` from now on."""
        ...

    async def detach(self, agent: str, *, drain_s: float) -> None:
        """Stop delivering, after waiting for what is being handled."""
        ...


class Runtime(Protocol):
    """A running agent."""

    async def handle(self, delivery: Delivery) -> Sequence[Draft]:
        """Answer one message."""
        ...


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """One deployed agent, as the public API shows it; a snapshot.

    Args:
        registration: A UUID that changes with every deployment.
        tools: Names of the tools its model sees.
        error: Why its status is ``error``.
        signature: Who signed its module, as JSON; None for an agent without a module, or an unsigned one.
        requires: Capabilities of others that it may ask.
        waiting_for: Those of them that nobody in the cluster offers now.
        labels: What messages may require of it.
        deployment: The content that the cluster's deployment runs, of which it is a replica; empty for none.
    """

    id: str
    name: str
    version: str
    kind: str
    status: str
    capabilities: tuple[str, ...]
    topics: tuple[tuple[str, str], ...]
    workspace: str
    deployed_at_s: float
    registration: str
    memory_enabled: bool
    tools: tuple[str, ...]
    warnings: tuple[dict[str, Any], ...]
    execution_stats: dict[str, Any]
    description: str = ""
    error: str = ""
    signature: dict[str, Any] | None = None
    requires: tuple[str, ...] = ()
    waiting_for: tuple[str, ...] = ()
    labels: Labels = ()
    deployment: str = ""

    def as_json(self) -> dict[str, Any]:
        """JSON values only."""
        found: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "version": self.version,
            "kind": self.kind,
            "status": self.status,
            "description": self.description,
            "capabilities": list(self.capabilities),
            "topics": [{"topic": pattern, "group": group or None} for pattern, group in self.topics],
            "workspace": self.workspace,
            "deployed_at": iso8601(self.deployed_at_s),
            "registration": self.registration,
            "memory_enabled": self.memory_enabled,
            "tools": list(self.tools),
            "warnings": list(self.warnings),
            "execution_stats": self.execution_stats,
            "requires": list(self.requires),
            "waiting_for": list(self.waiting_for),
            "labels": labels_shown(self.labels),
            "signature": self.signature,
            "deployment": self.deployment or None,
        }
        return found | ({"error": self.error} if self.error else {})


def no_such_agent(agent: str, known: Sequence[str]) -> AgentNotFound:
    """The error for an id or name that none of ``known`` is."""
    guess = nearest(agent, known)
    return AgentNotFound(
        f"there is no agent {agent[:80]!r} on this node",
        why="no agent deployed here has that id or name",
        fix=f"Did you mean {guess!r}?" if guess else "`caxton status` lists the agents of a node.",
        details={"agent": agent[:80], "nearest": guess},
    )


def refuse_placed(row: AgentRow, what: str) -> None:
    """Refuse to change by hand what a deployment runs: it would be undone, or be there twice.

    Args:
        row: The agent.
        what: What was to be done to it.

    Raises:
        AgentPlaced: a deployment runs it.
    """
    if row.deployment:
        raise AgentPlaced(
            f"the agent {row.id!r} cannot be {what} on one node",
            why="a deployment of the cluster runs it, and says where",
            fix="Change the deployment: `caxton agent scale`, `caxton agent undeploy`, `caxton deploy`.",
            details={"agent": row.id},
        )


def fingerprint(content: bytes) -> str:
    """What tells one agent file from another."""
    return hashlib.sha256(content).hexdigest()
