"""How a guest fails: which limit it broke, and why, in words that its author can use."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

REASON_LIMIT: Final = 600
"""Most characters of a reason."""
FRAMES_LIMIT: Final = 8
"""Most functions of a backtrace that a reason tells."""
BACKTRACE_LIMIT: Final = 32
"""Most functions of a backtrace that are kept for the agent's log."""
FRAME_LIMIT: Final = 160
"""Longest name of a function that is kept, in characters."""

_FRAME: Final = re.compile(r"^\s*\d+:\s+0x[0-9a-f]+ - (?:[^!\n]*!)?(.+)$", re.MULTILINE)
_HASH: Final = re.compile(r"\[[0-9a-f]{8,16}\]|::h[0-9a-f]{16}$")
"""What tells builds of one name apart, and people nothing."""
_NAMELESS: Final = "<wasm function "
_OTHERS: Final = (
    *("__rustc::", "std::panicking::", "core::panicking::", "std::sys::backtrace::"),
    *("runtime.", "wasm_pc_f_loop"),
)
"""Functions of the runtimes of Rust and Go, between a panic and its trap, or around everything."""

Kind = Literal["unavailable", "no-room", "invalid"]
"""Why the host did not do what it was asked for: the cases of the world's ``failure``."""


class GuestFailed(Exception):
    """The guest broke a limit, a rule of the interface, or trapped; its instance must be thrown away.

    Args:
        limit: What it broke, as one word: fuel, wall_clock, memory, host_calls, trap ...
        reason: In words.
        frames: The functions in which it happened, innermost first.

    Attributes:
        console: What it had logged, where there is no instance that would tell.
    """

    def __init__(self, limit: str, reason: str, frames: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.limit = limit
        self.reason = reason[:REASON_LIMIT]
        self.frames = frames
        self.console: list[tuple[str, str]] = []

    def at(self, frames: tuple[str, ...]) -> GuestFailed:
        """The same, where the host noted it in these functions; how a guest left is nothing without them."""
        return GuestFailed(self.limit, self.reason + (where(frames) if self.limit == "exit" else ""), frames)

    def content(self) -> dict[str, Any]:
        """The content of the FAILURE that the sender gets."""
        return {"code": "RUNTIME_ERROR", "reason": self.reason, "details": {"limit": self.limit}}


class NotDone(Exception):
    """What was asked for is not done, which the guest is told; its call goes on.

    Args:
        kind: The case of the world's ``failure``.
        reason: In words.
    """

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind: Kind = kind
        self.reason = reason[:REASON_LIMIT]


def backtrace(text: str) -> tuple[str, ...]:
    """The functions of a trap, innermost first.

    Args:
        text: What wasmtime says of it; unlike its list of frames this has the names as people write them.
    """
    names = [_HASH.sub("", name)[:FRAME_LIMIT] for name in _FRAME.findall(text)]
    return tuple(name for name in names if name != "<unknown>")[:BACKTRACE_LIMIT]


def where(frames: tuple[str, ...]) -> str:
    """The innermost functions of the guest's own, for a reason; empty when none has a name."""
    named = [name for name in frames if not name.startswith(_NAMELESS)]
    names = [name for name in named if not name.startswith(_OTHERS)] or named
    if not names:
        return ""
    more = f" < {len(names) - FRAMES_LIMIT} more" if len(names) > FRAMES_LIMIT else ""
    return " in " + " < ".join(names[:FRAMES_LIMIT]) + more
