"""What was decided about a message and why, as it is kept with the message and shown by ``caxton explain``.

A decision is stored as a MessagePack map with a version. Keys are added to it and never change their meaning;
those that a reader does not know it leaves out, and what it cannot read at all it says so of.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec.structs import asdict, replace

from node.cluster.provider import ClusterView

EXPLAINED_LIMIT: Final = 10
"""Candidates, and excluded providers, kept with a decision."""
DECISION_VERSION: Final = 1

Target = tuple[str, str]
"""Agent and node."""


_KEYS: Final = {
    "targets": "to",
    "strategy": "by",
    "reason": "why",
    "candidates": "of",
    "considered": "n",
    "excluded": "not",
    "wanted": "for",
}
"""Short, because a decision is stored with every message."""


class Candidate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One provider that might have been chosen, with what its score is made of.

    Args:
        agent: Agent id.
        node: Its node.
        score: Priority x health x (1 - load) x nearness.
        priority: 0 to 1000.
        health: 0.0 to 1.0.
        load: 0.0 to 1.0, as its node last gossiped.
        in_flight: Messages of this node that it had not settled when the providers were ranked; that is
            as old as ``node.messaging.placement`` lets a ranking become.
        offer: What it offers of what was wanted, with its version; empty for an agent.
        nearness: The factor of its distance, 1.0 on this node.
    """

    agent: str
    node: str
    score: float
    priority: int
    health: float
    load: float
    in_flight: int
    offer: str = ""
    nearness: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """The candidate as the public API shows it."""
        return {
            "agent": self.agent,
            "node": self.node,
            "score": round(self.score, 4),
            "priority": self.priority,
            "health": round(self.health, 4),
            "load": round(self.load, 4),
            "in_flight": self.in_flight,
            "offer": self.offer or None,
            "nearness": round(self.nearness, 4),
        }


class Decision(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    tag_field="v",
    tag=DECISION_VERSION,
    rename=_KEYS,
):
    """What was chosen and why.

    Args:
        targets: The chosen providers; empty when there is none.
        strategy: How they were chosen: a strategy, ``sticky`` or ``addressed``.
        reason: One sentence for ``caxton explain``.
        candidates: Best first, at most :data:`EXPLAINED_LIMIT`.
        sticky: The provider that had the conversation before, whether or not it could be chosen.
        considered: How many candidates there were.
        excluded: (agent, node, why) of providers that could not be chosen, at most :data:`EXPLAINED_LIMIT`.
        view: The cluster as the node saw it.
        wanted: The wish that was met: another than the message's own when it fell back to another version.
    """

    targets: tuple[Target, ...]
    strategy: str
    reason: str
    candidates: tuple[Candidate, ...] = ()
    sticky: Target | None = None
    considered: int = 0
    excluded: tuple[tuple[str, str, str], ...] = ()
    view: ClusterView | None = None
    wanted: str = ""

    def encode(self) -> bytes:
        """The decision as it is stored with each route; what a broadcast has chosen, its routes say."""
        return _ENCODER.encode(self if len(self.targets) < 2 else replace(self, targets=()))

    def as_json(self) -> dict[str, Any]:
        """The decision as the public API shows it."""
        return {
            "targets": ["@".join(target) for target in self.targets],
            "strategy": self.strategy,
            "reason": self.reason,
            "wanted": self.wanted or None,
            "considered": self.considered,
            "candidates": [candidate.as_json() for candidate in self.candidates],
            "sticky": None if self.sticky is None else "@".join(self.sticky),
            "excluded": [{"agent": a, "node": n, "reason": why} for a, n, why in self.excluded],
            "view": None
            if self.view is None
            else asdict(self.view) | {"registry_age_s": round(self.view.registry_age_s, 3)},
        }


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Decision)


def decision(encoded: bytes) -> Decision:
    """A stored decision; one that another version has kept is told as unknown."""
    try:
        return _DECODER.decode(encoded)
    except msgspec.DecodeError:
        return Decision((), "unknown", "another version of Caxton has decided it")
