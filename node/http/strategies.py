"""The names that callers of the admin API have for strategies, in the three places where they put them."""

from __future__ import annotations

from typing import Final

from node.errors import ValidationFailed, nearest
from node.vocabulary import TEXT_LIMIT, RoutingStrategy

LOAD_ALGORITHMS: Final = {
    "round_robin": RoutingStrategy.LOAD_BALANCED,
    "least_loaded": RoutingStrategy.LOAD_BALANCED,
    "performance": RoutingStrategy.BEST_MATCH,
}
"""What a caller may name as the way to balance load, and the strategy that does it."""


def read_strategy(
    strategy: str | None, *, preferred: str | None = None, load_algorithm: str | None = None
) -> RoutingStrategy:
    """The strategy a caller means, who may have named it in three ways.

    Args:
        strategy: Its ``routing_strategy``.
        preferred: The strategy in its ``routing_preferences``.
        load_algorithm: How load is to be balanced; goes with no strategy, or with one that balances load.

    Raises:
        ValidationFailed: a name is unknown, or two of them contradict each other.
    """
    found = [RoutingStrategy.parse(name) for name in (strategy, preferred) if name is not None]
    if len(set(found)) > 1:
        raise ValidationFailed(
            f"routing_strategy {strategy!r} and routing_preferences.strategy {preferred!r} are not the same",
            fix="Give one of them.",
            details={"field": "routing_preferences"},
        )
    if load_algorithm is None:
        return found[0] if found else RoutingStrategy.BEST_MATCH
    word = load_algorithm.strip().lower().replace("-", "_")
    algorithm = LOAD_ALGORITHMS.get(word)
    if algorithm is None:
        guess = nearest(word, LOAD_ALGORITHMS)
        raise ValidationFailed(
            f"unknown load algorithm {load_algorithm[:TEXT_LIMIT]!r}",
            why="load algorithms are " + ", ".join(LOAD_ALGORITHMS),
            fix=f"Did you mean {guess!r}?" if guess else "Use one of them.",
            details={"field": "load_algorithm", "nearest": guess},
        )
    if found and found[0] is not RoutingStrategy.LOAD_BALANCED:
        raise ValidationFailed(
            f"a load algorithm does not go with {found[0].value}",
            why="it says how load is balanced",
            fix="Leave it out, or use load_balanced.",
            details={"field": "load_algorithm"},
        )
    return algorithm
