"""What an event of the membership says of a view, for members and for whole nodes alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from simulations import production
from simulations.report.story import Story, View
from swim.events import (
    Event,
    MemberAlive,
    MemberDied,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberRefuted,
    MemberSuspected,
)
from swim.members import State
from swim.protocol import Swim

VERDICTS: Final = "verdicts"
"""The chart of changes of views."""
VIEW_OF_STATE: Final[Mapping[State, View]] = {
    State.ALIVE: View.UP,
    State.SUSPECT: View.SUSPECT,
    State.DEAD: View.DEAD,
    State.LEFT: View.LEFT,
}
VIEW_OF_EVENT: Final[Mapping[type[Event], View]] = {
    MemberJoined: View.UP,
    MemberAlive: View.UP,
    MemberRefuted: View.UP,
    MemberSuspected: View.SUSPECT,
    MemberDied: View.DEAD,
    MemberLeft: View.LEFT,
    MemberReaped: View.UNKNOWN,
}
"""What is held of its subject after an event; others change no view."""


def tell(story: Story, us: int, observer: str, event: Event) -> None:
    """Tell a story of an event.

    Args:
        story: Is told.
        us: Now.
        observer: Who has told the event to its owner.
        event: What.
    """
    subject, view = production.subject(event), VIEW_OF_EVENT.get(type(event))
    if subject is None or view is None:
        return
    story.viewed(us, observer, subject.name, view)
    story.counted(us, VERDICTS, "forgotten" if view is View.UNKNOWN else view.name.lower())


def tell_table(story: Story, us: int, observer: str, swim: Swim) -> None:
    """Tell a story of all that a member holds, which it may have from its disk."""
    if observer in story.index:
        held = ((member.name, VIEW_OF_STATE[member.state]) for member in swim.members())
        story.table(us, observer, held)
