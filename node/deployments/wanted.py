"""How an operator wants an agent to be run, checked at the edge; and what the maps refuse, told as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from node.deployments.desired import MINORITIES, Minority
from node.deployments.limits import PRIORITY_LIMIT, REPLICAS_LIMIT
from node.errors import ResourceLimitExceeded, ValidationFailed
from node.labels import REQUIRED_LIMIT, Labels, check_labels
from swim.hlc import ClockSkewError
from swim.publisher import StateError


@dataclass(frozen=True, slots=True)
class Wanted:
    """How an agent shall be run, as an operator says it.

    Args:
        replicas: By how many nodes.
        requires: Labels that a node must have.
        priority: Whose replicas are started first.
        minority: What replicas do on the smaller side of a partition.
    """

    replicas: int = 1
    requires: Labels = ()
    priority: int = 50
    minority: Minority = "keep"

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValidationFailed: it is out of bounds.
        """
        for what, number, limit in (
            ("replicas", self.replicas, REPLICAS_LIMIT),
            ("priority", self.priority, PRIORITY_LIMIT),
        ):
            if not 0 <= number <= limit:
                raise ValidationFailed(f"{what} is {number}", why=f"it is a number from 0 to {limit}")
        if self.minority not in MINORITIES:
            raise ValidationFailed(
                f"minority is {self.minority!r}", why="it is one of " + ", ".join(MINORITIES)
            )
        check_labels(self.requires, REQUIRED_LIMIT)


@contextmanager
def map_refusals() -> Iterator[None]:
    """Tell what the cluster map refuses as an error of the API.

    Raises:
        ResourceLimitExceeded: the write is too large, or the map is full, or this node may not write.
    """
    try:
        yield
    except (StateError, ClockSkewError) as error:
        raise ResourceLimitExceeded(
            "the cluster cannot be told what is desired",
            why=str(error),
            fix="Require fewer labels, delete deployments, or set the clock of this node.",
        ) from error
