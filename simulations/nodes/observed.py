"""What clients and properties ask of a cluster of whole nodes, be they simulated or real processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from node.message import Attachment
from node.messaging.history import MessageHistory
from node.vocabulary import RoutingStrategy
from simulations.injector import Running

if TYPE_CHECKING:
    import random

    from simulations.nodes.scenario import NodeScenario
    from simulations.nodes.witness import Execution


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks a node for.

    Attributes:
        capability: That of an agent.
        content: Any JSON value.
        conversation: It belongs to.
        strategy: How a provider is chosen.
        attachments: What goes with it.
        ttl_s: Its life.
    """

    capability: str
    content: Any
    conversation: str
    strategy: RoutingStrategy
    attachments: tuple[Attachment, ...]
    ttl_s: float


class Time(Protocol):
    """The time of a run, its chance, and its trace."""

    @property
    def now_us(self) -> int:
        """Microseconds since the run began."""

    def now(self) -> float:
        """Seconds since the run began."""

    def at(self, time: float, callback: Callable[[], None]) -> object:
        """Call something at a time of the run."""

    def stream(self, *purpose: str) -> random.Random:
        """A generator for one purpose."""

    def record(self, who: str, what: str) -> None:
        """Add a line to the trace."""


class Nodes(Protocol):
    """A cluster of whole nodes that is asked, and judged."""

    @property
    def scenario(self) -> NodeScenario:
        """What they run."""

    @property
    def timeline(self) -> Time:
        """When things happen."""

    @property
    def running(self) -> Mapping[str, Running]:
        """Who runs, by name."""

    @property
    def machines(self) -> Sequence[str]:
        """All names."""

    @property
    def executions(self) -> Sequence[Execution]:
        """Every run of the agent ``witness``, in the order of their beginning."""

    def boot_of(self, name: str) -> int:
        """How often a node was started before its present life."""

    def ended_s(self, name: str, boot: int) -> float | None:
        """When a life ended; None if it did not."""

    def retention_s(self, name: str) -> float:
        """How long a node keeps what has ended."""

    async def accept(self, name: str, request: Request) -> str | None:
        """Give a request to a node.

        Returns:
            The id of its message; None if its client has not heard of it.

        Raises:
            CaxtonError: the node does not take it.
        """

    async def history(self, name: str, message_id: str) -> MessageHistory | None:
        """What became of a message, as a running node knows it; None if it knows nothing of it."""

    async def providers(self, name: str) -> set[str]:
        """The nodes that offer anything, in the eyes of a running node."""

    async def up(self, name: str) -> set[str]:
        """The nodes that are up, in the eyes of a running node."""
