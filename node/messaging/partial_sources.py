"""What agents of this node say while they answer, for the origins that want to see it: the handler's side.

Theory of operation. An agent that makes its answer piece by piece opens a :class:`Speech` for the message and
hands it the pieces. The speech keeps the text of the turn; the message's origin, if it has asked, is told
what it has not been told yet, all at once, every :data:`FLUSH_S`. So a slow link makes the pieces longer and
never the agent slower, whoever asks late is told all from the beginning, and nothing is missing in between.
None of it is written down: the reply is the truth, and what was told before it is only a preview.

A text that is begun anew is told from position 0, which is how the origin knows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from node.environment import Clock
from node.messaging.delivery import Delivery
from node.transport.frames import MAX_PARTIAL_CHARS, Partial

FLUSH_S: Final = 0.05
"""How long pieces are gathered before they are told, in seconds."""
TEXT_LIMIT: Final = 65_536
"""Most characters of one turn that are told; what comes after them is in the reply only."""
SPEECH_LIMIT: Final = 512
"""Most speeches that are kept at once; others are not told."""
WANTED_LIMIT: Final = 256
"""Most messages of one origin whose answers it is told; the oldest gives way."""

Key = tuple[str, str, str]
"""Origin, message id and agent."""


class Speech:
    """One answer while it is made.

    Args:
        key: Whose message is answered, which, and by whom.
        stir: Called with the key when there may be something to tell.
    """

    def __init__(self, key: Key, stir: Callable[[Key], None]) -> None:
        self._key, self._stir = key, stir
        self._turn, self._text = 1, ""
        self._told = -1  # characters of the turn; below 0 its beginning has not been told
        self._cut = self._cut_told = self._owes_beginning = False

    def begin(self, turn: int) -> None:
        """A text begins, and what was said before is not part of it.

        Args:
            turn: The turn of the model, from 1; the same one again where it is asked again.
        """
        self._turn, self._text, self._cut = turn, "", False
        self.tell_again()

    def hear(self, text: str) -> None:
        """Take the next piece of the text."""
        room = TEXT_LIMIT - len(self._text)
        self._cut = self._cut or len(text) > room
        self._text += text[:room]
        self._stir(self._key)

    def tell_again(self) -> None:
        """Tell it from its beginning: it is another text, or who was told may have lost it."""
        self._owes_beginning = self._owes_beginning or self._told >= 0
        self._told, self._cut_told = -1, False
        self._stir(self._key)

    def next_piece(self) -> Partial | None:
        """What is to be told next, if anything."""
        position = max(0, self._told)
        text = self._text[position : position + MAX_PARTIAL_CHARS]
        last = self._cut and position + len(text) == len(self._text)
        if not (text or (last and not self._cut_told) or (self._told < 0 and self._owes_beginning)):
            return None
        _, message_id, agent = self._key
        return Partial(message_id, agent, self._turn, position, text, last)

    def told(self, piece: Partial) -> None:
        """A piece is on its way."""
        self._told = piece.position + len(piece.text)
        self._cut_told = piece.last
        self._owes_beginning = False


class PartialSources:
    """All answers that agents of this node are making; see the module's docstring.

    Args:
        clock: Times the flushes.
        tell: Takes a piece for an origin; False when it cannot be told now.
    """

    def __init__(self, clock: Clock, tell: Callable[[str, Partial], bool]) -> None:
        self._clock, self._tell = clock, tell
        self._speeches: dict[Key, Speech] = {}
        self._wanted: dict[str, OrderedDict[str, None]] = {}
        self._untold: dict[Key, None] = {}
        self._stirred = trio.Event()
        self._counts = dict.fromkeys(
            ("speeches_made", "speeches_left_out", "pieces_told", "pieces_put_off"), 0
        )

    @contextmanager
    def speak(self, agent: str, delivery: Delivery) -> Iterator[Speech]:
        """Make an answer piece by piece.

        Args:
            agent: Who answers.
            delivery: What is answered.
        """
        key = delivery.sender_node, delivery.message.id, agent
        speech = Speech(key, self._stir)
        if len(self._speeches) >= SPEECH_LIMIT:
            self._counts["speeches_left_out"] += 1
            yield speech
            return
        self._counts["speeches_made"] += 1
        self._speeches[key] = speech
        try:
            yield speech
            if key in self._untold:
                self._flush(key)  # the last words, so that they are seen to be those of the reply
            self.want_no_more(*key[:2])  # one that raised may be run again
        finally:
            del self._speeches[key]
            self._untold.pop(key, None)

    def want(self, origin: str, message_id: str) -> None:
        """``origin`` wants to see the answer to a message of its own, from its beginning."""
        wanted = self._wanted.setdefault(origin, OrderedDict())
        wanted[message_id] = None
        wanted.move_to_end(message_id)
        if len(wanted) > WANTED_LIMIT:
            wanted.popitem(last=False)
        for key, speech in self._speeches.items():
            if key[:2] == (origin, message_id):
                speech.tell_again()

    def want_no_more(self, origin: str, message_id: str | None = None) -> None:
        """``origin`` wants to see an answer no more; no answer at all, if none is named."""
        wanted = self._wanted.get(origin)
        if wanted is None:
            return
        if message_id is not None:
            wanted.pop(message_id, None)
        if message_id is None or not wanted:
            self._wanted.pop(origin, None)

    async def run(self) -> None:
        """Tell what is said until cancelled."""
        while True:
            await self._stirred.wait()
            await self._clock.sleep(FLUSH_S)
            self._stirred = trio.Event()
            for key in list(self._untold):
                if self._flush(key):
                    del self._untold[key]
                else:
                    self._counts["pieces_put_off"] += 1
                    self._stirred.set()

    def statistics(self) -> dict[str, int]:
        """Counts and sizes, each with its bound."""
        return {
            "speeches": len(self._speeches),
            "speeches_limit": SPEECH_LIMIT,
            "wanted": sum(len(wanted) for wanted in self._wanted.values()),
            "wanted_limit_of_one": WANTED_LIMIT,
            **self._counts,
        }

    def _stir(self, key: Key) -> None:
        if key in self._speeches and key[1] in self._wanted.get(key[0], ()):
            self._untold[key] = None
            self._stirred.set()

    def _flush(self, key: Key) -> bool:
        """Tell all there is; returns whether it was taken."""
        speech = self._speeches[key]
        while (piece := speech.next_piece()) is not None:
            if not self._tell(key[0], piece):
                return False
            speech.told(piece)
            self._counts["pieces_told"] += 1
        return True
