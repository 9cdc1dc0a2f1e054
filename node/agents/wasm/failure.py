"""How a guest fails: which limit it broke, and why, in words that its author can use."""

from __future__ import annotations

from typing import Any, Final

REASON_LIMIT: Final = 600
"""Most characters of a reason."""
FRAMES_LIMIT: Final = 8
"""Most functions of a backtrace that are told."""


class GuestFailed(Exception):
    """The guest broke a limit, a rule of the interface, or trapped; its instance must be thrown away.

    Args:
        limit: What it broke, as one word: fuel, wall_clock, memory, host_calls, trap ...
        reason: In words.
    """

    def __init__(self, limit: str, reason: str) -> None:
        super().__init__(reason)
        self.limit = limit
        self.reason = reason[:REASON_LIMIT]

    def content(self) -> dict[str, Any]:
        """The content of the FAILURE that the sender gets."""
        return {"code": "RUNTIME_ERROR", "reason": self.reason, "details": {"limit": self.limit}}


def backtrace(names: list[str]) -> str:
    """The innermost functions of a trap, for a reason; empty when none has a name."""
    if not names:
        return ""
    more = f" < {len(names) - FRAMES_LIMIT} more" if len(names) > FRAMES_LIMIT else ""
    return " in " + " < ".join(names[:FRAMES_LIMIT]) + more
