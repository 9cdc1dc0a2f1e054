"""The life of one route at the origin: one message on its way to one provider, as a table.

Theory of operation. A message that is accepted gets one route per provider. A route is *queued* until its
link takes it, *sent* until the provider's node has it on disk, *received* until the agent has handled it. A
link that breaks puts back what was sent; what was received stays, because the resume exchange of the next
link tells whether the peer still has it. A route that is *moved* gave its message to another provider, yet
if the first one turns out to have handled it, that counts: the first end of a message wins.

The table is interpreted by :func:`step`, which is total: an event that means nothing in a state changes
nothing. It knows no clock, no disk and no peer; :mod:`node.messaging.outbox` does.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class RouteState(StrEnum):
    """Where a route stands."""

    QUEUED = "queued"
    SENT = "sent"
    RECEIVED = "received"
    SETTLED = "settled"
    FAILED = "failed"
    REFUSED = "refused"
    MOVED = "moved"
    ABANDONED = "abandoned"


class RouteEvent(StrEnum):
    """What can happen to a route."""

    ASSIGNED = "assigned"
    """The message is given to this provider (again)."""
    TRANSMITTED = "transmitted"
    """The link took it."""
    RECEIVED = "received"
    """The provider's node has it on disk."""
    SETTLED = "settled"
    """The agent has handled it."""
    FAILED = "failed"
    """The agent cannot handle it."""
    REFUSED = "refused"
    """The node has no such agent, or no room."""
    UNKNOWN = "unknown"
    """The node does not have it (any more)."""
    LINK_LOST = "link_lost"
    """The link closed; what was on it is uncertain."""
    OVERDUE = "overdue"
    """No acknowledgement within the time."""
    MOVE = "move"
    """The message is given to another provider."""
    GIVE_UP = "give_up"
    """The message ended otherwise."""


class RouteAction(StrEnum):
    """What the outbox has to do after a step."""

    NONE = "none"
    QUEUE = "queue"
    """Put it in line for its link, in order."""
    END = "end"
    """See whether the message has ended."""
    REPLACE = "replace"
    """Choose another provider."""
    RECORD_LATE = "record_late"
    """Write down an outcome that came after the end."""


ACTIVE: Final = (RouteState.QUEUED, RouteState.SENT, RouteState.RECEIVED)
"""States in which the provider is expected to do something."""

_S = RouteState
_E = RouteEvent
_A = RouteAction

TABLE: Final[dict[tuple[RouteState, RouteEvent], tuple[RouteState, RouteAction]]] = {
    (_S.QUEUED, _E.TRANSMITTED): (_S.SENT, _A.NONE),
    (_S.QUEUED, _E.RECEIVED): (_S.RECEIVED, _A.NONE),
    (_S.QUEUED, _E.SETTLED): (_S.SETTLED, _A.END),
    (_S.QUEUED, _E.FAILED): (_S.FAILED, _A.END),
    (_S.QUEUED, _E.REFUSED): (_S.REFUSED, _A.REPLACE),
    (_S.QUEUED, _E.MOVE): (_S.MOVED, _A.NONE),
    (_S.QUEUED, _E.GIVE_UP): (_S.ABANDONED, _A.NONE),
    (_S.SENT, _E.RECEIVED): (_S.RECEIVED, _A.NONE),
    (_S.SENT, _E.SETTLED): (_S.SETTLED, _A.END),
    (_S.SENT, _E.FAILED): (_S.FAILED, _A.END),
    (_S.SENT, _E.REFUSED): (_S.REFUSED, _A.REPLACE),
    (_S.SENT, _E.UNKNOWN): (_S.QUEUED, _A.QUEUE),
    (_S.SENT, _E.LINK_LOST): (_S.QUEUED, _A.QUEUE),
    (_S.SENT, _E.OVERDUE): (_S.QUEUED, _A.QUEUE),
    (_S.SENT, _E.MOVE): (_S.MOVED, _A.NONE),
    (_S.SENT, _E.GIVE_UP): (_S.ABANDONED, _A.NONE),
    (_S.RECEIVED, _E.SETTLED): (_S.SETTLED, _A.END),
    (_S.RECEIVED, _E.FAILED): (_S.FAILED, _A.END),
    (_S.RECEIVED, _E.REFUSED): (_S.REFUSED, _A.REPLACE),
    (_S.RECEIVED, _E.UNKNOWN): (_S.QUEUED, _A.QUEUE),
    (_S.RECEIVED, _E.OVERDUE): (_S.QUEUED, _A.QUEUE),
    (_S.RECEIVED, _E.MOVE): (_S.MOVED, _A.NONE),
    (_S.RECEIVED, _E.GIVE_UP): (_S.ABANDONED, _A.NONE),
    (_S.MOVED, _E.ASSIGNED): (_S.QUEUED, _A.QUEUE),
    (_S.MOVED, _E.SETTLED): (_S.SETTLED, _A.END),
    (_S.MOVED, _E.FAILED): (_S.MOVED, _A.RECORD_LATE),
    (_S.REFUSED, _E.ASSIGNED): (_S.QUEUED, _A.QUEUE),
    (_S.REFUSED, _E.SETTLED): (_S.SETTLED, _A.END),
    (_S.ABANDONED, _E.SETTLED): (_S.ABANDONED, _A.RECORD_LATE),
    (_S.FAILED, _E.SETTLED): (_S.FAILED, _A.RECORD_LATE),
}
"""Every transition; pairs that are not in it change nothing."""


def step(state: RouteState, event: RouteEvent) -> tuple[RouteState, RouteAction]:
    """The state after ``event``, and what is to be done."""
    return TABLE.get((state, event), (state, RouteAction.NONE))
