"""Answers a core's questions from the record, in the order in which they were asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from node.recording.values import plain, revive

T = TypeVar("T")


class Diverged(Exception):
    """The core asks something that it did not ask in the recording: there is no answer to give."""


class ReplayTape:
    """The tape of one core that is replayed; see ``node.recording.tape.Tape``.

    Args:
        classes: What answers may be built of.

    Attributes:
        outputs: What came out of the core in this step.
        notes: What it asked otherwise than in the recording.
    """

    def __init__(self, classes: Mapping[str, type[Any]]) -> None:
        self.outputs: list[Any] = []
        self.notes: list[str] = []
        self._classes = classes
        self._draws: deque[tuple[str, bytes, Any]] = deque()

    def load(self, draws: tuple[tuple[str, bytes, Any], ...]) -> None:
        """Begin a step, with the answers of the recording."""
        self.outputs, self.notes, self._draws = [], [], deque(draws)

    def draw(self, kind: str, question: bytes, ask: Callable[[], T]) -> T:
        """Answer as the surroundings have answered when this was recorded.

        Raises:
            Diverged: this was not asked now.
        """
        del ask
        if not self._draws:
            raise Diverged(f"asks for {kind!r}, where the recording asks for nothing more")
        recorded, asked, answer = self._draws[0]
        if recorded != kind:
            raise Diverged(f"asks for {kind!r}, where the recording asks for {recorded!r}")
        self._draws.popleft()
        if asked != question:
            self.notes.append(f"asks {kind!r} of {question.hex()}, where the recording has {asked.hex()}")
        return cast("T", revive(answer, self._classes))

    def next_is(self, kind: str, question: bytes) -> bool:
        """Whether the recording has an answer to this question next."""
        return bool(self._draws) and self._draws[0][:2] == (kind, question)

    def emit(self, kind: str, *values: object) -> None:
        """Note something that comes out of the core."""
        self.outputs.append([kind, *map(plain, values)])

    def finish(self) -> None:
        """The step is over: what the recording asked beyond it is a difference, too."""
        if self._draws:
            kinds = ", ".join(kind for kind, _, _ in list(self._draws)[:5])
            self.notes.append(f"does not ask for what the recording asks for: {kinds}")
