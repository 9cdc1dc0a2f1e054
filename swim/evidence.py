"""Why a member is held for what it is: the findings that led to each verdict.

Findings are kept for the members that anything was found about, and leave with the least recently
doubted one.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

MAX_SUBJECTS: Final = 1_024
MAX_FINDINGS: Final = 32
"""Findings kept per member; the oldest leaves."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found out about a member.

    Attributes:
        at: when, on the clock of this member, in seconds.
        what: a stable word: `probe_failed`, `suspected`, `confirmed`, `alive_after_all`,
            `dead`, `refuted`, `left`, `restarted`, `accused`.
        by: who found it.
        detail: by which paths, after which time, under which local health: for people.
    """

    at: float
    what: str
    by: str
    detail: str


class Evidence:
    """Findings by member.

    Args:
        name: of this member, who finds most of them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._findings: OrderedDict[str, deque[Finding]] = OrderedDict()

    def note(self, subject: str, now: float, what: str, detail: str = "", *, by: str = "") -> None:
        """Keep one finding."""
        findings = self._findings.setdefault(subject, deque(maxlen=MAX_FINDINGS))
        findings.append(Finding(now, what, by or self._name, detail))
        self._findings.move_to_end(subject)
        if len(self._findings) > MAX_SUBJECTS:
            self._findings.popitem(last=False)

    def why(self, subject: str) -> tuple[Finding, ...]:
        """Return what was found about a member, the oldest first."""
        return tuple(self._findings.get(subject, ()))

    def statistics(self) -> dict[str, int]:
        """Count the members that findings are kept about."""
        return {"evidence_subjects": len(self._findings)}
