"""The open messages of each conversation and sender, in order of acceptance.

All of them that are for the same are with one provider: a new one follows the one before it, and those behind
move along with one that moves. A message that is written meanwhile was given away before the move: it is
*astray*, and must not reach its provider before what is before it, which may come back there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from node.messaging.explanation import Target
from node.messaging.letters import Letter, Route

_NOBODY: Final[dict[int, Letter]] = {}


class Order:
    """See the module's docstring; bounded by the outbox's capacity."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], dict[int, Letter]] = {}
        self._astray: list[Route] = []

    def add(self, letter: Letter) -> None:
        """A message is open."""
        same = self._open.get(letter.order)
        if same is None:
            self._open[letter.order] = {letter.seq: letter}
        else:
            same[letter.seq] = letter

    def remove(self, letter: Letter) -> None:
        """A message has ended."""
        same = self._open[letter.order]
        del same[letter.seq]
        if not same:
            del self._open[letter.order]

    def latest_first(self, letter: Letter) -> Iterable[Letter]:
        """The open messages of the conversation and sender of another one."""
        return reversed(self._open.get(letter.order, _NOBODY).values())

    def behind(self, letter: Letter) -> Iterator[Letter]:
        """A message, and those behind it in its conversation that are for the same."""
        for _, later in sorted(self._open.get(letter.order, _NOBODY).items()):
            if later.seq >= letter.seq and later.wanted == letter.wanted:
                yield later

    def followed(self, letter: Letter) -> Target | None:
        """Who has the message before this one in its conversation, and has not ended it.

        A provider that is not seen (right after a start, or before its death is noticed) is followed all the
        same: what it has comes back in order, or moves in order.
        """
        before = self._before(letter)
        return None if before is None else next((route.target for route in before.active_routes()), None)

    def goes_astray(self, letter: Letter) -> bool:
        """Whether a message that is open now is astray; it is kept for :meth:`astray`."""
        route, before = letter.own, self._before(letter)
        if route is None or before is None or not route.active or route.exposed or letter.message.require:
            return False
        if before.waiting_since is None:
            targets = [each.target for each in before.active_routes()]
            if not targets or route.target in targets:
                return False
        self._astray.append(route)
        return True

    @property
    def is_anybody_astray(self) -> bool:
        """Whether :meth:`astray` would find one."""
        return bool(self._astray)

    def astray(self) -> list[Route]:
        """The routes of messages that are astray, in order; they are with their conversation afterwards."""
        found, self._astray = self._astray, []
        return [route for route in found if route.active]

    def _before(self, letter: Letter) -> Letter | None:
        """The message before this one that is for the same, if order matters for it."""
        same = self._open.get(letter.order)
        if same is None or letter.address is not None or letter.broadcast:
            return None
        for earlier in reversed(same.values()):
            if earlier.seq < letter.seq and earlier.wanted == letter.wanted:
                return earlier
        return None
