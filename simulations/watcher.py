"""Who watches a simulated cluster: properties, measurements, tests.

A watcher is told what happens when it happens, so that nothing has to be polled. It changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swim.events import Event

if TYPE_CHECKING:
    from simulations.members import SimulatedMember


class Watcher:
    """Is told of everything; override what is of interest."""

    def told(self, member: SimulatedMember, event: Event) -> None:
        """A member has told its owner of something.

        Args:
            member: Who tells it.
            event: What.
        """

    def sent(self, member: SimulatedMember, data: bytes, kind: str) -> None:
        """A member has sent a datagram.

        Args:
            member: Who.
            data: What is in it.
            kind: What its first message is, or ``sealed``.
        """

    def corrupted(self, member: SimulatedMember, dropped: int) -> None:
        """A member has received a datagram that was altered on its way.

        Args:
            member: Who.
            dropped: By how much its count of dropped packets has grown.
        """

    def changed(self, what: str, member: SimulatedMember) -> None:
        """The truth about a member has changed.

        Args:
            what: ``started``, ``crashed``, ``left``, ``stopped``, ``paused``, ``resumed`` or ``moved``.
            member: Who.
        """
