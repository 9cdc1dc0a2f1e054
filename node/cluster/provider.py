"""What the router knows of one agent instance that offers a capability, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import msgspec

from node.labels import Labels

Subscription = tuple[str, str]
"""A pattern over topics, and the queue group that shares what it brings; empty for none."""

Minority = Literal["serve", "queue", "refuse"]
"""A policy for minorities: messages are routed as ever, wait until the partition has healed, or fail."""
MINORITY_POLICIES: Final[tuple[Minority, ...]] = ("serve", "queue", "refuse")
"""All of them, the least strict first."""


MAILBOX: Final = "mailbox"
"""The version under which a client's mailbox is published, which no agent has."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One agent instance, or a client's mailbox that subscribes to topics, as its owner's map says.

    Args:
        agent: Agent id, unique on its node (``data-analyzer``).
        node: Name of the node it runs on.
        version: Semantic version of the agent's definition; :data:`MAILBOX` of a mailbox.
        capabilities: The capabilities it offers, each possibly with a version (``name:v2``).
        priority: 0 to 1000, 50 by default; higher is preferred.
        health: 0.0 (unusable) to 1.0.
        load: 0.0 (idle) to 1.0 (full), as its node last gossiped.
        rtt_s: Estimated round trip to its node in seconds, 0.0 to this node; None while it is not known.
        topics: What it subscribes to.
        accepts: The expression that a content must meet for it (``node.predicates``); empty for any content.
        minority: What becomes of messages for its capabilities on the smaller side of a partition.
        labels: What messages may require of it, sorted.
    """

    agent: str
    node: str
    version: str
    capabilities: tuple[str, ...]
    priority: int = 50
    health: float = 1.0
    load: float = 0.0
    rtt_s: float | None = None
    topics: tuple[Subscription, ...] = ()
    accepts: str = ""
    minority: Minority = "serve"
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """What this node says of one of its own agents, or of a client's mailbox; see :class:`Provider`."""

    agent: str
    version: str
    capabilities: tuple[str, ...]
    priority: int = 50
    health: float = 1.0
    topics: tuple[Subscription, ...] = ()
    accepts: str = ""
    minority: Minority = "serve"
    labels: Labels = ()


class ClusterView(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How a node sees its cluster, as it is kept with what it decides.

    Args:
        up: Members that are up, this node included.
        remembered: Members that have not said goodbye.
        side: Of a partition: majority, minority or isolated.
        registry_age_s: Seconds since the registry has changed here for the last time.
    """

    up: int
    remembered: int
    side: str
    registry_age_s: float


class CapabilityView(Protocol):
    """The router's view of the registry; only agents on nodes that membership shows alive."""

    def version(self, wanted: str) -> int:
        """A number that grows when what is said of a capability or agent may change, but for loads."""
        ...

    def providers(self, capability: str) -> Sequence[Provider]:
        """All that offer ``capability``, sorted by (node, agent)."""
        ...

    def instances(self, agent: str) -> Sequence[Provider]:
        """All instances of the agent of that name or id, sorted by node."""
        ...

    def minority(self, capability: str) -> Minority:
        """The strictest policy for minorities of all that offer ``capability``, here or on a lost node."""
        ...

    def topics_version(self) -> int:
        """Another number whenever others than before may subscribe to topics; loads are not part of it."""
        ...

    def subscribers(self, topic: str) -> Sequence[Provider]:
        """All that subscribe to ``topic``, sorted by (node, agent)."""
        ...

    def expects(self, wanted: str) -> bool:
        """Whether a node that died, and may come back, offers this capability or runs this agent."""
        ...

    def related(self, capability: str) -> Sequence[tuple[str, int]]:
        """Capabilities with a name like this one, and how many agents offer each."""
        ...


class RegistryWriter(Protocol):
    """What the supervisor tells the cluster about this node's own agents."""

    def publish(
        self,
        agent: str,
        *,
        version: str,
        capabilities: tuple[str, ...],
        priority: int,
        health: float,
        topics: tuple[Subscription, ...] = (),
        accepts: str = "",
        minority: Minority = "serve",
        labels: Labels = (),
    ) -> None:
        """Offer these capabilities and subscribe to these topics from now on, or change that."""
        ...

    def publish_many(self, offers: Sequence[Offer]) -> None:
        """Offer all of this from now on, as one change of the map, or none of it."""
        ...

    def check(self, offer: Offer) -> None:
        """Raise what it would raise to publish this now, and change nothing."""
        ...

    def withdraw(self, *agents: str) -> None:
        """Offer nothing of these any more."""
        ...
