"""What the admin API is handed: the rooms of the node, each by the few verbs that HTTP needs of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from node.agents.approvals import Approvals
from node.cluster.provider import Provider
from node.deployments.room import Deployments
from node.environment import Environment
from node.errors import CaxtonError
from node.http.cluster_services import Members, Rendered
from node.memory.room import MemoryRoom
from node.message import Message
from node.messaging.blobs import Blobs
from node.messaging.client_mailboxes import ClientMailboxes
from node.messaging.conversation_index import Conversations
from node.messaging.explanation import Decision
from node.messaging.investigation import Investigation
from node.messaging.letterbox import DeadLetters
from node.messaging.partials import Partials
from node.messaging.tail import Tail
from node.messaging.tender import Award
from node.security.permissions import Permission
from node.telemetry.tracing import Tracing
from node.tools.host import ToolHost
from node.webhooks.webhooks import Webhooks


class SentMessage(Protocol):
    """What the bus says of a message it has durably accepted (``messaging.bus.Receipt``)."""

    @property
    def message_id(self) -> str:
        """The message."""
        ...

    @property
    def conversation_id(self) -> str:
        """Its conversation."""
        ...

    @property
    def routed_to(self) -> tuple[str, ...]:
        """The agents it was given to; none yet while it waits for a provider."""
        ...

    @property
    def routing_strategy(self) -> str:
        """How they were chosen."""
        ...

    @property
    def status(self) -> str:
        """The state of its delivery."""
        ...

    @property
    def timestamp_s(self) -> float:
        """Unix time in seconds at which it was accepted."""
        ...


class ReplyWait(Protocol):
    """A message whose reply is waited for (``messaging.conversations.Wait``)."""

    @property
    def satisfied(self) -> trio.Event:
        """Set when the replies wanted are here."""
        ...

    @property
    def replies(self) -> Sequence[Message]:
        """Those that have come."""
        ...

    def expect(self, wanted: int) -> None:
        """So many replies are wanted, not one."""
        ...


class MessageBus(Protocol):
    """The verbs of ``messaging.bus.Bus`` that HTTP calls."""

    @property
    def mailboxes(self) -> ClientMailboxes:
        """The mailboxes of clients."""
        ...

    @property
    def blobs(self) -> Blobs:
        """Content beside the messages."""
        ...

    async def accept(
        self, message: Message, *, traceparent: str = "", ttl_s: float | None = None
    ) -> SentMessage:
        """Take a message durably."""
        ...

    async def accept_many(
        self, messages: Sequence[Message], *, traceparent: str = "", ttl_s: Sequence[float | None]
    ) -> Sequence[SentMessage | CaxtonError]:
        """Take messages durably, each by itself."""
        ...

    def has_room(self, count: int, size: int) -> bool:
        """Whether so many more messages of so many bytes in all would be taken."""
        ...

    def expect(self, message: Message) -> ReplyWait:
        """Wait for the reply to a message that is accepted next."""
        ...

    def expect_no_more(self, wait: Any) -> None:
        """Wait no more."""
        ...

    def preview(self, message: Message) -> Decision:
        """Who would get a message if it were sent now."""
        ...

    async def request(
        self, message: Message, *, timeout_s: float, traceparent: str = "", ttl_s: float | None = None
    ) -> Message:
        """Take a message and wait for its reply."""
        ...

    async def gather(
        self,
        message: Message,
        *,
        timeout_s: float,
        quorum: int | None = None,
        traceparent: str = "",
        ttl_s: float | None = None,
    ) -> Sequence[Message]:
        """Broadcast and wait for the replies."""
        ...

    async def call_for_proposals(
        self, message: Message, *, deadline_s: float, result_s: float, award: Award, traceparent: str = ""
    ) -> Rendered:
        """Call for proposals, award the task, and wait for the result."""
        ...

    async def history(self, message_id: str) -> Rendered:
        """What became of a message."""
        ...

    @property
    def conversations(self) -> Conversations:
        """Who talks with whom about what."""
        ...

    @property
    def letters(self) -> DeadLetters:
        """What could not be delivered."""
        ...

    @property
    def partials(self) -> Partials:
        """Answers while they are made."""
        ...

    @property
    def tail(self) -> Tail:
        """The messages as they pass."""
        ...

    @property
    def investigation(self) -> Investigation:
        """Where messages went, and why."""
        ...

    def unsettled_by_node(self) -> Mapping[str, int]:
        """How many messages each node has not settled yet."""
        ...

    def statistics(self) -> Mapping[str, Any]:
        """Counts and sizes."""
        ...


class AgentView(Rendered, Protocol):
    """One deployed agent (``agents.supervisor.AgentInfo``)."""

    @property
    def status(self) -> str:
        """running, stopped or error."""
        ...

    @property
    def capabilities(self) -> Sequence[str]:
        """What it offers."""
        ...


class Agents(Protocol):
    """The verbs of ``agents.supervisor.AgentSupervisor`` that HTTP calls."""

    @property
    def approvals(self) -> Approvals:
        """Calls of tools that wait for an operator."""
        ...

    def knows(self, name: str) -> bool:
        """Whether an agent has this id, or is about to."""
        ...

    async def deploy(
        self,
        content: bytes,
        *,
        filename: str = "",
        artifacts: Mapping[str, bytes] = ...,
        name: str | None = None,
        workspace: str = "default",
        replace: bool = False,
        auto_start: bool = True,
    ) -> AgentView:
        """Deploy an agent file."""
        ...

    def list(self) -> Sequence[AgentView]:
        """All agents of this node."""
        ...

    def get(self, agent: str) -> AgentView:
        """The agent of that name or id; raises AgentNotFound."""
        ...

    async def stop(self, agent: str, *, grace_s: float) -> Any:
        """Stop it."""
        ...

    async def start(self, agent: str) -> Any:
        """Start it again."""
        ...

    async def delete(self, agent: str, *, force: bool) -> None:
        """Remove it."""
        ...

    def logs(
        self, agent: str, *, tail: int, since_s: float | None = None, level: str | None = None
    ) -> Sequence[Rendered]:
        """Its last log records, oldest first."""
        ...


class Models(Protocol):
    """The verb of ``llm.registry.ProviderRegistry`` that HTTP calls."""

    def describe(self) -> Mapping[str, Any]:
        """The language-model providers, and how they do; no secrets."""
        ...


class Capabilities(Protocol):
    """The verbs of ``cluster.registry.CapabilityRegistry`` that HTTP calls."""

    def capabilities(self) -> Sequence[tuple[str, Sequence[Provider]]]:
        """Every capability known and who offers it."""
        ...

    def providers(self, capability: str) -> Sequence[Provider]:
        """Who offers this one."""
        ...

    def related(self, capability: str) -> Sequence[tuple[str, int]]:
        """Capabilities with a name like this one, and how many agents offer each."""
        ...


class Caller(Protocol):
    """Who makes a request (``security.tokens.Principal``)."""

    @property
    def name(self) -> str:
        """The name of its token."""
        ...

    @property
    def permissions(self) -> Container[Permission]:
        """What it may do."""
        ...

    def require(self, permission: Permission) -> None:
        """Let the request pass only with ``permission``; raises Forbidden."""
        ...


class TokenCheck(Protocol):
    """The verb of ``security.tokens.Tokens`` that HTTP calls."""

    @property
    def dev_mode(self) -> bool:
        """Whether a request without a token is the developer's."""
        ...

    def authenticate(self, token: str | None) -> Caller:
        """Whose token this is; raises Unauthorized."""
        ...


class ServerSettings(Protocol):
    """The part of ``config.NodeConfig.server`` that HTTP reads."""

    @property
    def request_limit_bytes(self) -> int:
        """Largest request body."""
        ...

    @property
    def deploy_limit_bytes(self) -> int:
        """Largest request body of a deployment."""
        ...


class HttpConfig(Protocol):
    """The part of ``config.NodeConfig`` that HTTP reads."""

    @property
    def server(self) -> ServerSettings:
        """The admin API."""
        ...


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class NodeServices:
    """The rooms of one node, wired by ``node.node``.

    Args:
        environment: Clock and ids.
        config: The node's configuration.
        node: The node's name.
        membership: Who is in the cluster.
        registry: Who offers what.
        bus: Takes messages.
        supervisor: Runs agents.
        deployments: Has the cluster run agents.
        webhooks: Tells others what happens.
        memory: What agents remember.
        models: The language-model providers.
        tools: Runs the tool servers.
        storage: The node's database; HTTP shows only what ``statistics`` says of it.
        tokens: Says who a caller is.
        tracing: Starts the span of a request.
        started_at: Monotonic seconds at which the node started.
        shutdown: Ends the node gracefully; returns at once.
        statistics: What every room counts, for ``GET /status``.
        ready: Whether the node takes messages already.
        replication: How far the shared memory of this node and its partners are from each other; None where
            it is not kept the same.
    """

    environment: Environment
    config: HttpConfig
    node: str
    membership: Members
    registry: Capabilities
    bus: MessageBus
    supervisor: Agents
    deployments: Deployments
    webhooks: Webhooks
    memory: MemoryRoom
    models: Models
    tools: ToolHost
    storage: object
    tokens: TokenCheck
    tracing: Tracing
    started_at: float
    shutdown: Callable[[], None]
    statistics: Callable[[], dict[str, Any]]
    ready: Callable[[], bool] = _always
    replication: Callable[[], Awaitable[dict[str, Any]]] | None = None
