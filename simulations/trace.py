"""What happened in a run, one line each, and a running hash of all of it.

A line has fixed columns: microseconds since the run began, who it happened to, what it was in one word,
then what that word calls for (``simulations/README.md`` has the legend). Times are integers, so the lines of
one seed are the same bytes on every machine and under every hash seed. A trace keeps its last lines in
memory; all of them go to a sink, if there is one, and into the hash.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

KEPT_LINES: Final = 200
"""Last lines a trace keeps in memory: what the artifact of a failure shows."""
BATCH_LINES: Final = 512
"""Lines that are gathered before they are hashed and written."""


class Trace:
    """The lines of one run.

    Args:
        keep: Last lines that stay in memory.
        sink: Where all lines are written as well.

    Attributes:
        listener: Is told of each line, with the arguments of :meth:`add`; it must change nothing.
    """

    def __init__(self, keep: int = KEPT_LINES, sink: TextIO | None = None) -> None:
        self.listener: Callable[[int, str, str, str], None] | None = None
        self._kept: deque[str] = deque(maxlen=keep)
        self._count = 0
        self._sink = sink
        self._hash = hashlib.blake2b(digest_size=16)
        self._batch: list[str] = []

    def add(self, us: int, who: str, what: str, rest: str = "") -> None:
        """Append one line.

        Args:
            us: Microseconds since the run began.
            who: The node it happened to, or ``-``.
            what: One word.
            rest: Further columns.
        """
        self._batch.append(f"{us:>12} {who:<8} {what:<8} {rest}" if rest else f"{us:>12} {who:<8} {what}")
        if len(self._batch) >= BATCH_LINES:
            self._flush()
        if self.listener is not None:
            self.listener(us, who, what, rest)

    def digest(self) -> str:
        """The hash of all lines so far, in hex."""
        self._flush()
        return self._hash.hexdigest()

    @property
    def count(self) -> int:
        """How many lines there were."""
        return self._count + len(self._batch)

    def tail(self) -> list[str]:
        """The last lines."""
        self._flush()
        return list(self._kept)

    def _flush(self) -> None:
        if not self._batch:
            return
        text = "\n".join(self._batch) + "\n"
        self._hash.update(text.encode())
        self._kept.extend(self._batch)
        self._count += len(self._batch)
        self._batch.clear()
        if self._sink is not None:
            self._sink.write(text)
