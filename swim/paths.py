"""Which members this one cannot reach directly, although they live.

A probe that only a relay or a stream could save says that datagrams do not pass between the two, at least
one way. That is a fact about a path, not about a member: it is reported as such, and accuses nobody. A
path is lost after `LOST_AFTER` such probes in a row and restored by one direct answer. Members publish what
they lost, so that together they know who cannot reach whom.
"""

from dataclasses import dataclass
from typing import Final

from swim.events import Event, PathLost, PathRestored

LOST_AFTER: Final = 2


@dataclass(slots=True)
class _Path:
    failures: int = 0
    lost_at: float | None = None
    by: str = ""


@dataclass(frozen=True, slots=True)
class LostPath:
    """A member that lives and cannot be reached directly.

    Attributes:
        peer: the member.
        since: when that was found out, in seconds.
        by: how it is reached: `relay` or `stream`.
    """

    peer: str
    since: float
    by: str


class Paths:
    """The direct paths of one member that are in doubt.

    Args:
        events: where events are appended.
    """

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self._paths: dict[str, _Path] = {}  # only of members in the table

    def answered(self, peer: str) -> None:
        """A member has answered directly."""
        path = self._paths.pop(peer, None)
        if path is not None and path.lost_at is not None:
            self._events.append(PathRestored(peer))

    def saved(self, peer: str, by: str, now: float) -> bool:
        """A member has not answered directly, but lives; say whether its path is still in doubt."""
        path = self._paths.setdefault(peer, _Path())
        path.failures += 1
        path.by = by
        if path.lost_at is None and path.failures >= LOST_AFTER:
            path.lost_at = now
            self._events.append(PathLost(peer, by))
        return path.lost_at is None

    def is_lost(self, peer: str) -> bool:
        """Say whether a member cannot be reached directly."""
        path = self._paths.get(peer)
        return path is not None and path.lost_at is not None

    def forget(self, peer: str) -> None:
        """A member is not up any more, so its path is no question."""
        self._paths.pop(peer, None)

    def lost(self) -> list[LostPath]:
        """Return the lost paths, in the order in which they were found out."""
        return [
            LostPath(peer, path.lost_at, path.by)
            for peer, path in self._paths.items()
            if path.lost_at is not None
        ]

    def statistics(self) -> dict[str, int]:
        """Count the lost paths."""
        return {"paths_lost": sum(path.lost_at is not None for path in self._paths.values())}
