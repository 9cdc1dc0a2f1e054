"""Why a member is held for what it is: what was found out about it, who doubts it, and its present state.

The findings are swim's; this puts them on the wall clock, beside who doubts the member, so that they can be
told as a story. A member that is not shown any more still has its findings for a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from node.cluster.views import MemberView
from node.environment import Clock
from node.errors import CaxtonError, nearest
from node.message import iso8601
from swim import events
from swim.evidence import Finding
from swim.protocol import Swim

QUOTED_CHARACTERS: Final = 80
"""How much of a name that was asked for is quoted."""


class MemberNotFound(CaxtonError):
    """This node knows no member of that name, and nothing was ever found out about it."""

    code = "MEMBER_NOT_FOUND"
    status = 404


@dataclass(frozen=True, slots=True)
class Story:
    """Why a member is held for what it is.

    Args:
        name: The member.
        member: As it is now; None when it is not shown any more.
        doubted_by: Who could not reach it, as far as told here; of a dead member, who had doubted it.
        findings: The oldest first.
        now: The time, in seconds.
        wall: The same time, as Unix seconds.
    """

    name: str
    member: MemberView | None
    doubted_by: tuple[str, ...]
    findings: tuple[Finding, ...]
    now: float
    wall: float

    def as_json(self) -> dict[str, Any]:
        """The story as one JSON object."""
        return {
            "name": self.name,
            "member": self.member.as_json() if self.member else None,
            "doubted_by": list(self.doubted_by),
            "findings": [self._finding(finding) for finding in self.findings],
        }

    def _finding(self, finding: Finding) -> dict[str, Any]:
        ago_s = max(0.0, self.now - finding.at)
        return {
            "time": iso8601(self.wall - ago_s),
            "seconds_ago": round(ago_s, 3),
            "what": finding.what,
            "by": finding.by,
            "detail": finding.detail,
        }


class Why:
    """The stories of all members.

    Args:
        swim: What finds out.
        clock: When it was.
    """

    def __init__(self, swim: Swim, clock: Clock) -> None:
        self._swim, self._clock = swim, clock
        self._doubted: dict[str, tuple[str, ...]] = {}  # only of members that are shown

    def note(self, event: events.Event) -> None:
        """Remember who doubts a member, until that is over."""
        if isinstance(event, events.MemberSuspected):
            self._doubted[event.member.name] = (event.author,)
        elif isinstance(event, events.MemberDied):
            self._doubted[event.member.name] = event.accusers or (event.author,)
        elif isinstance(event, events.MemberForgotten):
            self._doubted.pop(event.name, None)
        elif isinstance(event, _ENDINGS):
            self._doubted.pop(event.member.name, None)

    def story(self, name: str, members: list[MemberView]) -> Story:
        """Why a member is held for what it is.

        Args:
            name: Of the member.
            members: All that are shown.

        Raises:
            MemberNotFound: nothing is known of it.
        """
        known = {view.name: view for view in members}
        findings = self._swim.why(name)
        if name not in known and not findings:
            guess = nearest(name, known)
            raise MemberNotFound(
                f"no member {name[:QUOTED_CHARACTERS]!r} is known here",
                why="it never joined, or it left or died so long ago that it is forgotten",
                fix=f"Did you mean {guess!r}?" if guess else "See `caxton members` for those there are.",
                details={"nearest": guess} if guess else {},
            )
        clock = self._clock
        doubted_by = self._swim.doubters(name) or self._doubted.get(name, ())
        return Story(name, known.get(name), doubted_by, findings, clock.now(), clock.wall())


_ENDINGS = (
    events.MemberRefuted, events.MemberAlive, events.MemberLeft, events.MemberReaped, events.MemberRevoked,
)  # fmt: skip
