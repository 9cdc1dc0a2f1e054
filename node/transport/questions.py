"""Questions between two nodes, beside the messages: asked on the dialled link, answered on the same one.

They are for operators and carry no message, so they come after everything else, are bounded in number, in
size and in how often they are asked, and are lost with their link: who asked may ask again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import trio

from node.transport.frames import MAX_COUNTER, Answer, Ask, Page, Pull, encode

OPEN_LIMIT: Final = 16
"""Questions to one peer that have not been answered, and answers to one peer that it has not read."""
ASKS_PER_S: Final = 100.0
"""Questions of one peer that are answered per second; others are refused."""
ASKS_BURST: Final = 200.0
"""Questions of one peer that are answered at once after a pause."""


@dataclass(slots=True, eq=False)
class Question:
    """One question to one peer.

    Args:
        frame: The question.
        done: Set when it was answered, or lost.
        answer: The answer, if one has come.
        wanted: Whether somebody still waits for it.
    """

    frame: Ask
    done: trio.Event = field(default_factory=trio.Event)
    answer: Answer | None = None
    wanted: bool = True

    def abandon(self) -> None:
        """Nobody waits any more; if it was not sent, it never will be."""
        self.wanted = False


class Questions:
    """What one peer was asked and has not answered."""

    def __init__(self) -> None:
        self._number = 0
        self._line: deque[Question] = deque()
        self._open: dict[int, Question] = {}

    def ask(self, question: str, about: str) -> Question | None:
        """Put a question in line; None when :data:`OPEN_LIMIT` are in line or open."""
        while self._line and not self._line[0].wanted:
            self._line.popleft()
        if len(self._line) + len(self._open) >= OPEN_LIMIT:
            return None
        self._number = self._number % MAX_COUNTER + 1
        asked = Question(Ask(self._number, question, about))
        self._line.append(asked)
        return asked

    def next(self) -> bytes | None:
        """The next one to send, encoded."""
        while self._line:
            asked = self._line.popleft()
            if asked.wanted:
                self._open[asked.frame.number] = asked
                return encode(asked.frame)
        return None

    def answered(self, answer: Answer) -> bool:
        """Take an answer; False when that was not asked."""
        asked = self._open.pop(answer.number, None)
        if asked is None:
            return False
        asked.answer = answer
        asked.done.set()
        return True

    def lose(self) -> None:
        """The link has ended: what was sent on it will not be answered."""
        lost, self._open = self._open, {}
        for asked in lost.values():
            asked.done.set()


class Pulls:
    """The one pull that a peer was sent and has not answered.

    Who asked may go; the peer still answers, and is sent no other pull before it has.
    """

    def __init__(self) -> None:
        self._number = 0
        self._waiting: bytes | None = None
        self._is_sent = False
        self._page: Page | None = None
        self._done: trio.Event | None = None

    @property
    def is_open(self) -> bool:
        """Whether a page is to come."""
        return self._is_sent or self._waiting is not None

    def begin(self, body: bytes) -> trio.Event | None:
        """Put a pull in line; None while another one is open."""
        if self.is_open:
            return None
        self._number = self._number % MAX_COUNTER + 1
        self._page, self._waiting = None, encode(Pull(self._number, body))
        self._done = trio.Event()
        return self._done

    def next(self) -> bytes | None:
        """What is to be sent, encoded."""
        waiting, self._waiting = self._waiting, None
        self._is_sent = self._is_sent or waiting is not None
        return waiting

    def answered(self, page: Page) -> bool:
        """Take a page; False when it was not asked for."""
        if not self._is_sent or page.number != self._number:
            return False
        self._is_sent, self._page = False, page
        if self._done is not None:  # else whoever asked has gone
            self._done.set()
        return True

    def end(self) -> bytes | None:
        """The body of the page that came, if one did; nobody waits any more."""
        page, self._page = self._page, None
        self._done = self._waiting = None
        return None if page is None else page.body

    def lose(self) -> None:
        """The link has ended: what was sent on it will not be answered."""
        self._waiting, self._is_sent = None, False
        if self._done is not None:
            self._done.set()


class Allowance:
    """How often a peer may ask: a bucket of :data:`ASKS_BURST` that fills at :data:`ASKS_PER_S`.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._left, self._at = ASKS_BURST, now

    def spend(self, now: float) -> bool:
        """Whether one more question may be answered."""
        self._left = min(ASKS_BURST, self._left + (now - self._at) * ASKS_PER_S)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
