"""What follows a message that was refused is refused, too, until that message is there again.

A refusal is for now: the inbox is full, the agent stops. When there is room again a moment later, what was
sent behind the refused message is still arriving, and would be handled before it. So a refusal fences its
conversation off. Links are in order: when the refused message comes again, all that was sent before its
origin had heard of the refusal has come. What is stored here already, and was before the refused message, is
not behind it and comes in all the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

FENCED_S: Final = 30.0
"""How long something that was sent behind a refused message may be on its way, if that one goes elsewhere."""
QUIET_S: Final = 1.0
"""A fence is not opened by time while messages that it keeps out come in less: they come in order."""
FENCES_LIMIT: Final = 10_000
"""Most conversations that are fenced off at once; the oldest are opened."""
BEHIND: Final = "what was before it is refused"


class Line(NamedTuple):
    """Messages that are handled in order.

    Args:
        origin: The node they come from.
        target: The agent they are for.
        conversation_id: Their conversation.
        sender: Who has sent them.
    """

    origin: str
    target: str
    conversation_id: str
    sender: str


@dataclass(slots=True)
class _Fence:
    """One conversation's.

    Args:
        message_id: Of the message that opens it.
        seq: Its row in the inbox; 0 where it has none.
        until: When it is opened by time, on the monotonic clock.
        kept_out: When a message was refused for it last.
    """

    message_id: str
    seq: int
    until: float
    kept_out: float


class Fences:
    """See the module's docstring.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._fences: OrderedDict[Line, _Fence] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._fences)

    def __len__(self) -> int:
        return len(self._fences)

    def refused(self, line: Line, message_id: str, seq: int) -> None:
        """A message was refused, with this row or 0; what opens the fence is the first one in order.

        That is the first that was refused, unless this one is stored here, and was before it.
        """
        found, now = self._fences.get(line), self._now()
        if found is None:
            self._fences[line] = _Fence(message_id, seq, now + FENCED_S, now)
            if len(self._fences) > FENCES_LIMIT:
                self._fences.popitem(last=False)
            return
        found.kept_out = now
        if seq > 0 and (seq < found.seq or not found.seq):
            found.message_id, found.seq = message_id, seq

    def keeps_out(self, line: Line, message_id: str) -> int | None:
        """Whether a message may have been sent before its origin has heard of the refusal.

        Returns:
            The row of the refused message, 0 where it has none; None when nothing keeps the message out.
        """
        found, now = self._fences.get(line), self._now()
        if found is None:
            return None
        if message_id == found.message_id or now >= max(found.until, found.kept_out + QUIET_S):
            del self._fences[line]
            return None
        found.kept_out = now
        return found.seq
