"""What follows a message that was refused is refused, too, until that message is there again.

A refusal is for now: the inbox is full, the agent stops. When there is room again a moment later, what was
sent behind the refused message is still arriving, and would be handled before it. So a refusal fences its
conversation off. Links are in order: when the refused message comes again, all that was sent before its
origin had heard of the refusal has come.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

FENCED_S: Final = 30.0
"""How long something that was sent behind a refused message may be on its way, if that one goes elsewhere."""
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
        self._fences: OrderedDict[Line, tuple[str, float]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._fences)

    def __len__(self) -> int:
        return len(self._fences)

    def refused(self, line: Line, message_id: str) -> None:
        """A message was refused; what opens the fence is the first one that was."""
        if line not in self._fences:
            self._fences[line] = message_id, self._now() + FENCED_S
            if len(self._fences) > FENCES_LIMIT:
                self._fences.popitem(last=False)

    def keeps_out(self, line: Line, message_id: str) -> bool:
        """Whether a message may have been sent before its origin has heard of the refusal."""
        found = self._fences.get(line)
        if found is None:
            return False
        if message_id == found[0] or self._now() >= found[1]:
            del self._fences[line]
            return False
        return True
