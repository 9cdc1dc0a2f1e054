"""What follows a message that was refused is refused, too, until its origin has heard of it.

A refusal is for now: the inbox is full, the agent stops. When there is room again a moment later, what was
sent behind the refused message is still arriving, and would be handled before it. So a refusal fences its
conversation off; a message under a higher route epoch says that the origin has decided anew, and opens it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

FENCED_S: Final = 30.0
"""How long something that was sent behind a refused message may be on its way."""
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


class Fences:
    """See the module's docstring.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._fences: OrderedDict[Line, tuple[int, float]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._fences)

    def __len__(self) -> int:
        return len(self._fences)

    def refused(self, line: Line, epoch: int) -> None:
        """A message was refused that had come under this route epoch."""
        before, _ = self._fences.pop(line, (epoch, 0.0))
        self._fences[line] = max(before, epoch), self._now() + FENCED_S
        if len(self._fences) > FENCES_LIMIT:
            self._fences.popitem(last=False)

    def keeps_out(self, line: Line, epoch: int) -> bool:
        """Whether a message may have been sent before its origin has heard of the refusal."""
        found = self._fences.get(line)
        if found is None:
            return False
        if epoch > found[0] or self._now() >= found[1]:
            del self._fences[line]
            return False
        return True
