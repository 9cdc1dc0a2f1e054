"""Bounds on what a tool server says; no I/O, time is passed in."""

from __future__ import annotations

from typing import Final

MESSAGES_BURST: Final = 1_000
"""Most messages of a server, beside its answers, in an instant."""
MESSAGES_PER_S: Final = 100
"""Most of them in a second, for long."""
LINE_LIMIT: Final = 500
"""Longest line of a server's standard error that is logged, in characters; the rest of it is left out."""
LINES_PER_S: Final = 20
"""Most of its lines that are logged in a second; how many more there were is said in one line."""


class FloodMeter:
    """Says when a server talks more than it was asked to: a bucket that fills with time and questions."""

    def __init__(self) -> None:
        self._left, self._filled = float(MESSAGES_BURST), 0.0

    def asked(self) -> None:
        """A message was sent to the server, whose answer is no flood."""
        self._left = min(MESSAGES_BURST, self._left + 1)

    def allows(self, now: float) -> bool:
        """Note a message of the server at ``now``, in seconds; False if it is one too many."""
        self._left = min(MESSAGES_BURST, self._left + max(0.0, now - self._filled) * MESSAGES_PER_S)
        self._filled = now
        self._left -= 1
        return self._left >= 0


class LineLog:
    """Cuts a stream into lines that are fit for a log."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._second, self._count = -1.0, 0

    def feed(self, chunk: bytes, now: float) -> list[str]:
        """The lines to log after ``chunk`` was read at ``now``."""
        found: list[str] = []
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            self._keep(part)
            text = _printable(bytes(self._line))
            self._line.clear()
            if text:
                found += self._admit(text, now)
        self._keep(rest)
        return found

    def _keep(self, part: bytes) -> None:
        self._line += part[: max(0, 4 * LINE_LIMIT - len(self._line))]

    def _admit(self, text: str, now: float) -> list[str]:
        found: list[str] = []
        if now - self._second >= 1.0:
            if self._count > LINES_PER_S:
                found.append(f"({self._count - LINES_PER_S} lines were left out)")
            self._second, self._count = now, 0
        self._count += 1
        return [*found, text] if self._count <= LINES_PER_S else found


def _printable(line: bytes) -> str:
    text = line.decode(errors="replace").strip()[:LINE_LIMIT]
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
