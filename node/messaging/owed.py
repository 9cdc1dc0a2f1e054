"""Settled marks that wait for the replies: an origin may forget a request only when it has the reply.

A reply leaves on another link than the settled mark. If the mark overtook it and this node then died for
good, the origin would have forgotten a request whose reply lies on a disk that nobody reads any more. So the
mark of a message that was answered is told when the origin has the replies on disk, or when they have ended
otherwise; until then the message counts as held, and is given to another provider if this node dies.

What is owed is known again after a restart: the outbox's row of a reply names the inbox's row it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.transport.frames import Outcome


@dataclass(slots=True, eq=False)
class _Mark:
    origin: str
    outcome: Outcome
    replies: int


class Owed:
    """The marks that are not told yet; at most one per reply in the outbox, whose capacity bounds them.

    Args:
        tell: Tells an origin how its messages ended.
    """

    def __init__(self, tell: Callable[[str, Sequence[Outcome]], None]) -> None:
        self._tell = tell
        self._by_reply: dict[str, _Mark] = {}
        self._by_key: dict[tuple[str, str, str], _Mark] = {}

    def owe(self, origin: str, outcome: Outcome, replies: Sequence[str]) -> None:
        """Tell ``outcome`` to ``origin`` as soon as all of these replies have arrived."""
        mark = _Mark(origin, outcome, len(replies))
        self._by_key[origin, outcome.key.message_id, outcome.key.target] = mark
        self._by_reply.update(dict.fromkeys(replies, mark))

    def arrived(self, message_id: str) -> None:
        """A message of this node is on its receiver's disk, or has ended; most are no replies."""
        mark = self._by_reply.pop(message_id, None)
        if mark is None:
            return
        mark.replies -= 1
        if not mark.replies:
            key = mark.outcome.key
            del self._by_key[mark.origin, key.message_id, key.target]
            self._tell(mark.origin, [mark.outcome])

    def holds(self, origin: str, message_id: str, target: str) -> bool:
        """Whether the end of this message is not to be told yet."""
        return (origin, message_id, target) in self._by_key

    def __len__(self) -> int:
        return len(self._by_key)
