"""Which provider gets a message: pure scoring over what the registry shows, with the reasons kept."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cbor2

from node.cluster.provider import Provider
from node.message import RoutingStrategy

EXPLAINED_LIMIT: Final = 10
"""Candidates kept with a decision."""


Target = tuple[str, str]
"""Agent and node."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was chosen and why.

    Args:
        targets: The chosen providers; empty when there is none.
        strategy: How they were chosen: a strategy, ``sticky`` or ``addressed``.
        reason: One sentence for ``caxton explain``.
        candidates: (agent, node, score), best first, at most :data:`EXPLAINED_LIMIT`.
    """

    targets: tuple[Target, ...]
    strategy: str
    reason: str
    candidates: tuple[tuple[str, str, float], ...] = ()

    def encode(self) -> bytes:
        """The decision as it is stored with the message."""
        return cbor2.dumps([self.strategy, self.reason, [list(c) for c in self.candidates]])


def decision_as_json(encoded: bytes) -> dict[str, Any]:
    """A stored decision for the public API."""
    strategy, reason, candidates = cbor2.loads(encoded)
    return {
        "strategy": strategy,
        "reason": reason,
        "candidates": [{"agent": a, "node": n, "score": round(s, 4)} for a, n, s in candidates],
    }


def addressed(agent: str, node: str) -> Decision:
    """The decision that the sender has taken."""
    return Decision(((agent, node),), "addressed", f"the sender addressed {agent}@{node}")


def score(provider: Provider) -> float:
    """Priority x health x (1 - load)."""
    return provider.priority * provider.health * (1.0 - min(1.0, max(0.0, provider.load)))


def choose(
    strategy: RoutingStrategy,
    candidates: Sequence[Provider],
    *,
    in_flight: Callable[[Target], int],
    chance: random.Random,
    sticky: Target | None = None,
) -> Decision:
    """Choose among providers that may be used.

    Args:
        strategy: How.
        candidates: Healthy providers of the wanted capability on nodes that are alive.
        in_flight: Messages of this node that a provider has not settled yet; fresher than gossiped load.
        chance: Draws the two that ``load_balanced`` compares.
        sticky: The provider that has had this conversation so far.
    """
    if not candidates:
        return Decision((), strategy.value, "nobody offers it")
    ranked = sorted(candidates, key=lambda p: (-score(p), in_flight((p.agent, p.node)), p.node, p.agent))
    explained = tuple((p.agent, p.node, score(p)) for p in ranked[:EXPLAINED_LIMIT])
    if strategy is RoutingStrategy.BROADCAST:
        targets = tuple(sorted(((p.agent, p.node) for p in candidates), key=lambda t: (t[1], t[0])))
        return Decision(targets, strategy.value, f"all {len(targets)} providers", explained)
    if sticky is not None and any((p.agent, p.node) == sticky for p in candidates):
        return Decision((sticky,), "sticky", "the provider of this conversation so far", explained)
    if strategy is RoutingStrategy.LOAD_BALANCED:
        chosen, reason = _less_loaded(candidates, in_flight, chance)
    else:
        chosen = ranked[0]
        reason = f"highest of {len(ranked)} by priority x health x (1 - load)"
    return Decision(((chosen.agent, chosen.node),), strategy.value, reason, explained)


def _less_loaded(
    candidates: Sequence[Provider], in_flight: Callable[[Target], int], chance: random.Random
) -> tuple[Provider, str]:
    """The power of two choices (Mitzenmacher 2001): compare two at random, take the less loaded."""
    if len(candidates) == 1:
        return candidates[0], "the only provider"
    pair = chance.sample(list(candidates), 2)
    loads = [(in_flight((p.agent, p.node)), p.load, -p.health) for p in pair]
    first_it_is = loads[0] <= loads[1]  # equal ones fall by chance, since their order is drawn
    chosen, other = (pair[0], pair[1]) if first_it_is else (pair[1], pair[0])
    return chosen, f"less loaded than {other.agent}@{other.node}, of {len(candidates)} providers"
