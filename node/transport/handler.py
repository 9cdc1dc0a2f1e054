"""What the links ask of the room above them, and the bounds they keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from node.transport.frames import DeliverItem, DeliveryKey, Grant, KeyState, Outcome, Partial
from node.transport.proof import FrameProof

Proven = tuple[Sequence[DeliverItem], FrameProof]
"""The messages of one frame, and what proves them."""
REJECT_REASONS: Final = (
    "tls", "timeout", "identity", "version", "frame", "signature", "oversize", "limit", "handler",
)  # fmt: skip
"""Why a peer or connection was refused, as statistics name it."""


class LinkHandler(Protocol):
    """The message bus, as the links see it.

    An exception out of any of these closes the one link it concerns, and is logged.
    """

    @property
    def storage_id(self) -> str:
        """Identifies the database of this node."""
        ...

    def unsettled(self, peer: str) -> list[DeliveryKey]:
        """Deliveries towards ``peer`` that have not ended, in their order."""
        ...

    async def on_resume(self, peer: str, peer_storage_id: str, keys: Sequence[DeliveryKey]) -> list[KeyState]:
        """Say what this node, as acceptor, knows of each of the peer's unsettled deliveries."""
        ...

    async def on_resumed(self, peer: str, peer_storage_id: str, states: Sequence[KeyState]) -> None:
        """Take what the acceptor knows of ours: one call per opening; what is unknown is to be sent again."""
        ...

    async def on_deliver(self, peer: str, frames: Sequence[tuple[Sequence[DeliverItem], FrameProof]]) -> None:
        """Take the messages of frames; the next is read only when this returns, which is the backpressure."""
        ...

    async def on_received(self, peer: str, keys: Sequence[DeliveryKey]) -> None:
        """The acceptor has stored these."""
        ...

    async def on_settled(self, peer: str, outcomes: Sequence[Outcome]) -> None:
        """These have ended at the acceptor."""
        ...

    def on_accepted(self, peer: str, *, knows_credit: bool) -> None:
        """A link that ``peer`` has dialled begins (not known to know credit), or has asked for its credit."""
        ...

    def on_granted(self, peer: str, grants: Sequence[Grant] | None) -> None:
        """The acceptor tells what it takes; None when a link opens to one that will not tell."""
        ...

    async def on_ask(self, peer: str, question: str, about: str) -> bytes | None:
        """Answer a peer's question in at most ``MAX_ANSWER_BYTES``; None when there is nothing to tell."""
        ...

    def on_partial(self, peer: str, partial: Partial) -> None:
        """A piece of an answer has come; whether it is wanted is for the room above to judge."""
        ...

    def on_writable(self, peer: str) -> None:
        """The window that was full when ``deliver`` refused has room again."""
        ...

    def on_link(self, peer: str, up: bool, reason: str) -> None:
        """The link that this node dialled has opened or ended."""
        ...

    def on_unreachable(self, peer: str, reason: str) -> None:
        """A dial of ``peer`` has led to no link; it goes on being dialled."""
        ...


class PullHandler(Protocol):
    """What answers the pulls of peers (``node.cluster.replicas``); an exception closes the one link."""

    def on_pull(self, peer: str, number: int, body: bytes) -> None:
        """Take note of a pull; :meth:`node.transport.links.Links.answer_pull` answers it, in its time."""
        ...

    def on_pull_lost(self, peer: str) -> None:
        """The link has ended on which a pull came that was not answered."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLimits:
    """Bounds of the links. Times are seconds, sizes bytes.

    Attributes:
        window_bytes: Queued or sent towards one peer and not received yet.
        batch_bytes: A Deliver is closed when it has this many; one bigger message travels alone.
        inbound_total: Links that others dialled.
        inbound_per_peer: Of one node, old ones that are being replaced included.
        outbound_total: Peers that this node dials.
        handshakes: Connections that have not authenticated yet.
        handshake_s: Longest time from the connection to the Welcome.
        ping_s: Each side sends a Ping so often.
        dead_s: A side that hears nothing for so long gives the link up.
        idle_s: A link without any delivery in flight for so long is closed.
        redial_initial_s: First pause between attempts; it doubles.
        redial_max_s: Longest pause.
        acknowledgements: Received and Settled entries waiting for a peer that does not read them.
    """

    window_bytes: int = 8 * 1024 * 1024
    batch_bytes: int = 512 * 1024
    inbound_total: int = 1024
    inbound_per_peer: int = 4
    outbound_total: int = 1024
    handshakes: int = 64
    handshake_s: float = 5.0
    ping_s: float = 5.0
    dead_s: float = 15.0
    idle_s: float = 300.0
    redial_initial_s: float = 0.1
    redial_max_s: float = 5.0
    acknowledgements: int = 65_536


@dataclass(slots=True)
class LinkCounters:
    """What all links of a node count together."""

    bytes_sent: int = 0
    bytes_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    items_sent: int = 0
    items_received: int = 0
    opened: int = 0
    ended: int = 0
    rejects: Counter[str] = field(default_factory=Counter)

    def reject(self, reason: str) -> None:
        """Count a refusal."""
        self.rejects[reason if reason in REJECT_REASONS else "frame"] += 1

    def as_json(self) -> dict[str, Any]:
        """The counts, reasons in a fixed order."""
        return {
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "frames_sent": self.frames_sent,
            "frames_received": self.frames_received,
            "items_sent": self.items_sent,
            "items_received": self.items_received,
            "opened": self.opened,
            "ended": self.ended,
            "rejects": {reason: self.rejects[reason] for reason in REJECT_REASONS},
        }
