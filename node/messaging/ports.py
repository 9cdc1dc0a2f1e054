"""What messaging needs of the rooms around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import apsw

from node.cluster.provider import ClusterView
from node.messaging.letters import Letter
from node.transport.frames import Answer, DeliverItem, DeliveryKey, Grant, Outcome, Partial


class MembershipView(Protocol):
    """Who is there."""

    def is_alive(self, node: str) -> bool:
        """Whether membership shows ``node`` alive."""
        ...

    def view(self) -> ClusterView:
        """The cluster as it looks from here, to be kept with what is decided."""
        ...


class Time(Protocol):
    """What time it is (``node.environment.Clock``)."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def wall(self) -> float:
        """Unix seconds."""
        ...


class Carrier(Protocol):
    """What carries messages to peers."""

    def is_ready(self, peer: str) -> bool:
        """Whether the link takes a message now: it is open, and its window is not full."""
        ...

    def deliver(self, peer: str, items: Sequence[DeliverItem]) -> int:
        """Hand over messages, in order; returns how many were taken before the window was full."""
        ...

    def ensure(self, peer: str) -> None:
        """Open a link if there is none; returns at once."""
        ...


class LinkSender(Carrier, Protocol):
    """Links to peers (``node.transport.links.Links``)."""

    def acknowledge(self, peer: str, keys: Sequence[DeliveryKey]) -> None:
        """Tell ``peer`` that these are on disk here."""
        ...

    def settle(self, peer: str, outcomes: Sequence[Outcome]) -> None:
        """Tell ``peer`` how these ended."""
        ...

    def grant(self, peer: str, grants: Sequence[Grant]) -> None:
        """Have ``peer`` told these windows with what it is told next."""
        ...

    async def ask(self, peer: str, question: str, about: str, *, timeout_s: float) -> Answer | None:
        """Ask ``peer`` something beside the messages; None when no answer came."""
        ...

    def partial(self, peer: str, partial: Partial) -> bool:
        """Tell ``peer`` a piece of an answer; False when it cannot be told now."""
        ...

    def drop(self, peer: str) -> None:
        """Close the links with ``peer``."""
        ...

    def confirmed(self) -> Mapping[str, float]:
        """Peer -> Unix seconds before which it has taken, and stored, all that it was told."""
        ...


class ExpectedReplies(Protocol):
    """Who watches the ``reply_by`` of messages (``node.messaging.expectations.Expectations``)."""

    def write(self, connection: apsw.Connection, letters: Iterable[Letter]) -> None:
        """Write what is expected of messages that are accepted; part of the caller's job."""
        ...

    def written(self, letters: Sequence[Letter]) -> None:
        """What :meth:`write` was given is durable."""
        ...


class TraceSpan(Protocol):
    """A span."""

    traceparent: str


class Tracer(Protocol):
    """Starts spans (``node.telemetry.tracing.Tracing``)."""

    @property
    def enabled(self) -> bool:
        """Whether spans can be recorded."""
        ...

    def span(
        self,
        name: str,
        *,
        parent: str = "",
        kind: str = "internal",
        attributes: Mapping[str, str | int | float | bool] | None = None,
    ) -> AbstractContextManager[TraceSpan]:
        """Trace the work of a ``with`` block."""
        ...
