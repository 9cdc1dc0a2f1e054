"""On which side of a partition this member finds itself, judged by the members that it remembers.

Everybody counts that has not said goodbye: who is up, who is dead, and who was reaped and is still in the
address book. An exact half counts as the majority where it has the lowest name of all, so that two halves
never both do.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class Side(StrEnum):
    """Where a member finds itself."""

    MAJORITY = "majority"
    MINORITY = "minority"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True)
class Partition:
    """The judgement, and what it rests on.

    Attributes:
        side: where this member finds itself.
        up: members that are up, this one included.
        remembered: all members that count, this one included.
    """

    side: Side
    up: int
    remembered: int


def judge(own: str, up: Collection[str], lost: Collection[str], *, heard_nobody: bool) -> Partition:
    """Return on which side a member is.

    Args:
        own: its name.
        up: the names of the others that are up.
        lost: the names of members that are dead or remembered.
        heard_nobody: whether nobody was heard for longer than probes take.
    """
    standing, remembered = len(up) + 1, len(up) + len(lost) + 1
    if remembered > 1 and (standing == 1 or heard_nobody):
        side = Side.ISOLATED
    elif 2 * standing > remembered or (2 * standing == remembered and min((own, *up)) < min(lost)):
        side = Side.MAJORITY
    else:
        side = Side.MINORITY
    return Partition(side, standing, remembered)
