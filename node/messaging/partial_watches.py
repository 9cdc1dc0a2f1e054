"""Who sees answers to messages of this node while they are made: the origin's side.

Theory of operation. Whoever sends a message may watch it. The node that the message went to is asked for the
answer as it is made (:data:`PARTIALS`, a question of the link, so that nodes which do not know it answer that
they do not); when the message is given to another one, that is asked, and the text begins anew. What a node
tells is believed for those messages only that are on their way to it: every piece is held against the routes.

A watch holds what came and was not read yet. A slow reader gets longer pieces, and nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import trio

from node.environment import Clock
from node.errors import ResourceLimitExceeded
from node.messaging.explanation import Target
from node.messaging.partial_sources import TEXT_LIMIT
from node.messaging.ports import LinkSender
from node.transport.frames import Partial

PARTIALS: Final = "partials"
"""The question by which a node asks another to see the answer to a message while it is made."""
PARTIALS_NO_MORE: Final = "partials_no_more"
"""The question by which it takes that back; only to a node that tells."""
WATCH_LIMIT: Final = 256
"""Most messages that are watched at once."""
LOOK_S: Final = 0.25
"""How often it is looked where watched messages are, in seconds; they may move."""
ANSWER_S: Final = 10.0
"""Longest wait for a node to say whether it tells, in seconds; then it is asked again."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a watcher is told.

    Args:
        event: ``partial`` for more text, ``restart`` when what was told before counts no more.
        message_id: The message that is being answered.
        sequence: Numbers the pieces of one watch, from 0.
        attempt: 1 at first, one more after each restart.
        turn: The turn of the model that speaks.
        text: What comes next.
        is_cut: Whether the rest of this turn will not be told.
    """

    event: str
    message_id: str
    sequence: int
    attempt: int
    turn: int
    text: str = ""
    is_cut: bool = False

    def as_json(self) -> dict[str, Any]:
        """The piece as the public API shows it."""
        found: dict[str, Any] = {
            "message_id": self.message_id,
            "sequence": self.sequence,
            "attempt": self.attempt,
            "turn": self.turn,
        }
        if self.event == "partial":
            found |= {"text": self.text, "is_cut": self.is_cut}
        return found


class Watch:
    """One message whose answer is watched.

    Args:
        message_id: The message.
    """

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.ended = False
        """Whether nothing more will come."""
        self.asked: dict[str, str] = {}
        """Node -> what came of asking it; as many as the message was given to."""
        self._source: Target | None = None
        self._turn, self._position, self._unread = 0, 0, ""
        self._attempt, self._sequence = 1, 0
        self._is_cut = self._cut_owed = False
        self._shown = self._restarts = False
        self._changed = trio.Event()

    def add(self, source: Target, partial: Partial) -> bool:
        """Take a piece; False when it fits to nothing that came before."""
        if partial.position == 0:
            self._restarts = self._restarts or self._shown
            self._shown = False
            self._source, self._turn, self._position, self._unread = source, partial.turn, 0, ""
            self._is_cut = self._cut_owed = False
        follows = (source, partial.turn, partial.position) == (self._source, self._turn, self._position)
        if not follows or self._is_cut or partial.position + len(partial.text) > TEXT_LIMIT:
            return False
        self._position += len(partial.text)
        self._unread += partial.text
        self._is_cut = self._cut_owed = partial.last
        self.wake()
        return True

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True
        self.wake()

    def wake(self) -> None:
        """Let whoever waits for a change look."""
        self._changed.set()

    async def change(self) -> None:
        """Wait until there may be something to take, or the end."""
        await self._changed.wait()

    def take(self) -> Piece | None:
        """What is to be shown next, if anything."""
        self._changed = trio.Event()
        if self._restarts:
            self._restarts = False
            self._attempt += 1
            return self._piece("restart")
        if not self._unread and not self._cut_owed:
            return None
        text, self._unread, self._cut_owed, self._shown = self._unread, "", False, True
        return self._piece("partial", text)

    def _piece(self, event: str, text: str = "") -> Piece:
        sequence, self._sequence = self._sequence, self._sequence + 1
        return Piece(event, self.message_id, sequence, self._attempt, self._turn, text, self._is_cut)


class PartialWatches:
    """All messages of this node that are watched; see the module's docstring.

    Args:
        node: This node's name.
        clock: Times the looks.
        providers: Where a message is now: the agents that are expected to answer it.
        want: Told of a message whose answer agents of this node may be making.
        want_no_more: Told of one that is watched no more.
    """

    def __init__(
        self,
        *,
        node: str,
        clock: Clock,
        providers: Callable[[str], Sequence[Target]],
        want: Callable[[str, str], None],
        want_no_more: Callable[[str, str], None],
    ) -> None:
        self._node, self._clock, self._providers = node, clock, providers
        self._want, self._want_no_more = want, want_no_more
        self.links: LinkSender | None = None
        self._watches: dict[str, Watch] = {}
        self._stirred = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._counts = dict.fromkeys(
            ("watched", "asked", "deaf", "taken", "unwanted", "refused", "broken"), 0
        )

    @contextmanager
    def watch(self, message_id: str) -> Iterator[Watch]:
        """Watch a message; call :meth:`look` once it was accepted.

        Raises:
            ResourceLimitExceeded: too many are watched, or this one is already.
        """
        if message_id in self._watches:
            raise ResourceLimitExceeded(
                "this message is watched already", fix="Send another one, or follow its events."
            )
        if len(self._watches) >= WATCH_LIMIT:
            raise ResourceLimitExceeded(
                "too many answers are watched while they are made",
                why=f"the limit is {WATCH_LIMIT}",
                fix="Wait for the reply without stream, or try again later.",
                details={"retry_after_s": 1},
            )
        self._counts["watched"] += 1
        watch = self._watches[message_id] = Watch(message_id)
        self._want(self._node, message_id)
        try:
            yield watch
        finally:
            del self._watches[message_id]
            self._want_no_more(self._node, message_id)
            for node in [node for node, came in watch.asked.items() if came == "tells" and not watch.ended]:
                if self._nursery is not None:
                    self._nursery.start_soon(self._ask_no_more, message_id, node)

    def look(self) -> None:
        """A watched message was accepted, or may have moved: see whom to ask."""
        self._stirred.set()

    def link_up(self, peer: str) -> None:
        """The link to ``peer`` has opened anew: what it was asked before is lost."""
        for watch in self._watches.values():
            if watch.asked.get(peer) != "asking":  # else the question has waited for this link
                watch.asked.pop(peer, None)
        self.look()

    def ended(self, message_id: str) -> None:
        """A message has ended."""
        watch = self._watches.get(message_id)
        if watch is not None:
            watch.end()

    def on_partial(self, node: str, partial: Partial) -> None:
        """Take a piece that ``node`` tells; what it may not tell is counted, and dropped."""
        watch = self._watches.get(partial.message_id)
        if watch is None:
            self._counts["unwanted"] += 1  # whoever watched has gone, or it was never asked for
        elif (partial.agent, node) not in self._providers(partial.message_id):
            self._counts["refused"] += 1
        elif watch.add((partial.agent, node), partial):
            self._counts["taken"] += 1
        else:
            self._counts["broken"] += 1

    async def run(self) -> None:
        """Ask the nodes that watched messages are at, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self._look(nursery)
            finally:
                self._nursery = None

    def statistics(self) -> dict[str, int]:
        """Counts and sizes, each with its bound."""
        return {"watches": len(self._watches), "watches_limit": WATCH_LIMIT, **self._counts}

    async def _look(self, nursery: trio.Nursery) -> None:
        """Ask whom there is to ask, again and again while anything is watched."""
        while True:
            self._stirred = trio.Event()
            for watch in self._watches.values():
                for _, node in self._providers(watch.message_id):
                    if node != self._node and node not in watch.asked:
                        watch.asked[node] = "asking"
                        nursery.start_soon(self._ask, watch, node)
            if self._watches:
                with self._clock.move_on_after(LOOK_S):
                    await self._stirred.wait()
            else:
                await self._stirred.wait()

    async def _ask(self, watch: Watch, node: str) -> None:
        """Ask a node to tell; who does not know the question is not asked again about this message."""
        if self.links is None:
            return
        self._counts["asked"] += 1
        answer = await self.links.ask(node, PARTIALS, watch.message_id, timeout_s=ANSWER_S)
        if answer is None or answer.state == "refused":
            watch.asked.pop(node, None)  # asked again with the next look
        elif answer.state == "unknown":
            watch.asked[node] = "deaf"
            self._counts["deaf"] += 1
        elif self._watches.get(watch.message_id) is watch:
            watch.asked[node] = "tells"
        else:
            await self._ask_no_more(watch.message_id, node)  # whoever watched has gone meanwhile

    async def _ask_no_more(self, message_id: str, node: str) -> None:
        """Take a question back; a node that does not hear of it tells in vain."""
        if self.links is not None:
            await self.links.ask(node, PARTIALS_NO_MORE, message_id, timeout_s=ANSWER_S)
