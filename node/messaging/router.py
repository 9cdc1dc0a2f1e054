"""Which provider gets a message: pure scoring over what the registry shows, with the reasons kept."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from node.cluster.provider import ClusterView, Provider
from node.message import RoutingStrategy
from node.messaging.explanation import EXPLAINED_LIMIT, Candidate, Decision, Target


def addressed(agent: str, node: str, *, view: ClusterView | None = None) -> Decision:
    """The decision that the sender has taken."""
    return Decision(((agent, node),), "addressed", f"the sender addressed {agent}@{node}", view=view)


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
    excluded: tuple[tuple[str, str, str], ...] = (),
    view: ClusterView | None = None,
) -> Decision:
    """Choose among providers that may be used.

    Args:
        strategy: How.
        candidates: Healthy providers of the wanted capability on nodes that are alive.
        in_flight: Messages of this node that a provider has not settled yet; fresher than gossiped load.
        chance: Draws the two that ``load_balanced`` compares.
        sticky: The provider that has had this conversation so far.
        excluded: Providers that may not be used, and why; kept with the decision.
        view: The cluster as it looks; kept with the decision.
    """
    how = strategy.value
    if not candidates:
        reason = "nobody who offers it may be used" if excluded else "nobody offers it"
        return Decision((), how, reason, sticky=sticky, excluded=excluded, view=view)
    weighed = [(-score(p), in_flight((p.agent, p.node)), p.node, p.agent, p) for p in candidates]
    weighed.sort(key=lambda entry: entry[:4])
    explained = tuple(
        Candidate(p.agent, p.node, -negative, p.priority, p.health, p.load, waiting)
        for negative, waiting, _, _, p in weighed[:EXPLAINED_LIMIT]
    )
    targets: tuple[Target, ...]
    if strategy is RoutingStrategy.BROADCAST:
        targets = tuple(sorted(((p.agent, p.node) for p in candidates), key=lambda t: (t[1], t[0])))
        reason = f"all {len(targets)} providers"
    elif sticky is not None and any((p.agent, p.node) == sticky for p in candidates):
        targets, how, reason = (sticky,), "sticky", "the provider of this conversation so far"
    elif strategy is RoutingStrategy.LOAD_BALANCED:
        chosen, reason = _less_loaded(candidates, in_flight, chance)
        targets = ((chosen.agent, chosen.node),)
    else:
        best = weighed[0][4]
        targets = ((best.agent, best.node),)
        reason = f"highest of {len(weighed)} by priority x health x (1 - load)"
    return Decision(targets, how, reason, explained, sticky, len(weighed), excluded, view)


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
