"""The accepting side of a link: checks every frame before it hands anything on, and answers.

Received and Settled entries go back on the link that the peer has dialled. If it is gone they are
dropped without a trace: the peer asks again when it opens the next one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final, TypeVar

from node.environment import Clock
from node.errors import PeerRejected
from node.security.identity import NodeCredentials
from node.transport.frames import (
    CREDIT_QUESTION,
    MAX_GRANTS,
    MAX_KEYS,
    PROTOCOL_VERSION,
    Answer,
    Ask,
    Credit,
    Deliver,
    DeliveryKey,
    Frame,
    Grant,
    Outcome,
    Page,
    Partial,
    Pull,
    Received,
    Resume,
    ResumeStates,
    Settled,
    Welcome,
    encode,
    rejected,
)
from node.transport.handler import LinkCounters, LinkHandler, LinkLimits, Proven, PullHandler
from node.transport.proof import FrameProof, verify_deliver
from node.transport.questions import OPEN_LIMIT, Allowance
from node.transport.session import FrameChannel, Session

logger = logging.getLogger(__name__)

T = TypeVar("T")

RECEIVED_PAUSE_S: Final = 0.005
"""How long a Received waits for the Settled of the same delivery, which says both."""
BUSY_S: Final = 0.05
"""How long after messages have come a link is looked at every :data:`RECEIVED_PAUSE_S`."""
MAX_PARTIALS: Final = 32
"""Pieces of answers waiting to be sent; more are refused, and come later, as longer ones."""
MAX_ANSWERS: Final = 4
"""Resume answers waiting to be sent; a dialler waits for each before it asks again."""


class InboundLink:
    """One link that a peer has dialled, after its Hello.

    Args:
        peer: The authenticated peer.
        peer_storage_id: Its database, from Hello.
        channel: The frames.
        credentials: Who this node is.
        clock: For the pulse and for the validity of credentials.
        handler: The room above.
        limits: Bounds.
        counters: Shared counts.
        pulls: What answers pulls, if anything does.
    """

    def __init__(
        self,
        peer: str,
        peer_storage_id: str,
        channel: FrameChannel,
        *,
        credentials: NodeCredentials,
        clock: Clock,
        handler: LinkHandler,
        limits: LinkLimits,
        counters: LinkCounters,
        pulls: PullHandler | None = None,
    ) -> None:
        self.peer = peer
        self._peer_storage_id = peer_storage_id
        self._credentials, self._clock, self._handler = credentials, clock, handler
        self._limits, self._counters = limits, counters
        welcome = Welcome(PROTOCOL_VERSION, credentials.name, handler.storage_id)
        self._answers: deque[bytes] = deque([encode(welcome)])
        self._received: dict[DeliveryKey, None] = {}
        self._received_since = 0.0
        self._outcomes: deque[Outcome] = deque()
        self._grants: dict[str, int] = {}
        self._knows_credit = False
        self._told: deque[Answer] = deque()
        self._partials: deque[Partial] = deque()
        self._pulls = pulls
        self._pull: int | None = None
        self._page: bytes | None = None
        self._allowance = Allowance(clock.now())
        self._session = Session(
            peer,
            channel,
            clock=clock,
            limits=limits,
            counters=counters,
            take=self._take,
            handle=self._on_frames,
            due=self._due,
        )

    @property
    def confirmed_s(self) -> float | None:
        """Unix seconds before which the peer has taken all that it was told on this link, or None."""
        return self._session.confirmed_s

    async def run(self) -> str:
        """Serve the link until it ends; return why it ended."""
        self._handler.on_accepted(self.peer, knows_credit=False)
        try:
            return await self._session.run()
        finally:
            if self._pull is not None and self._pulls is not None:
                self._pulls.on_pull_lost(self.peer)

    def end(self, reason: str) -> None:
        """Close the link and tell the peer why."""
        self._session.end(reason, farewell=reason)

    def acknowledge(self, keys: Sequence[DeliveryKey]) -> None:
        """Queue that these have been received."""
        if not self._received:
            self._received_since = self._clock.now()
        self._received.update(dict.fromkeys(keys))
        self._bound()
        if len(self._received) >= MAX_KEYS:
            self._session.wake()
        else:
            self._session.expect(self._received_since + RECEIVED_PAUSE_S)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Queue how these have ended."""
        self._outcomes.extend(outcomes)
        for outcome in outcomes if self._received else ():
            self._received.pop(outcome.key, None)
        self._bound()
        self._session.wake()

    def grant(self, grants: Sequence[Grant]) -> None:
        """Have these windows told with what is told next; a peer that did not ask is told nothing."""
        if self._knows_credit:
            self._grants.update((grant.agent, grant.window) for grant in grants)

    def answer_pull(self, number: int, body: bytes) -> bool:
        """Queue the page for a pull; False when that pull did not come on this link."""
        if self._pull != number:
            return False
        self._pull, self._page = None, encode(Page(number, body))
        self._session.wake()
        return True

    def partial(self, partial: Partial) -> bool:
        """Queue a piece of an answer, behind everything that is durable; False when too many wait."""
        if len(self._partials) >= MAX_PARTIALS:
            return False
        self._partials.append(partial)
        self._session.wake()
        return True

    def _bound(self) -> None:
        if len(self._received) + len(self._outcomes) > self._limits.acknowledgements:
            self._counters.reject("limit")
            self._received.clear()
            self._outcomes.clear()
            self.end("acknowledgements are not read")

    def _take(self) -> bytes | None:
        if self._answers:
            return self._answers.popleft()
        if self._outcomes:
            return self._credit() + encode(Settled(_pop(self._outcomes)))
        if self._received and (
            len(self._received) >= MAX_KEYS or self._received_since + RECEIVED_PAUSE_S <= self._clock.now()
        ):
            keys = tuple(islice(self._received, MAX_KEYS))
            for key in keys:
                del self._received[key]
            return self._credit() + encode(Received(keys))
        if self._told:
            return encode(self._told.popleft())
        if self._partials:
            return encode(self._partials.popleft())
        page, self._page = self._page, None
        return page

    def _credit(self) -> bytes:
        """The windows that have changed, encoded, before the ends that they go with.

        Each is of an agent whose messages are told of in this frame or a later one, so none is left over.
        """
        if not self._grants:
            return b""
        agents = list(islice(self._grants, MAX_GRANTS))
        return encode(Credit(tuple(Grant(agent, self._grants.pop(agent)) for agent in agents)))

    def _due(self) -> float | None:
        """When there will be something to say, or may be: while messages come, more of them will.

        Who sleeps until then need not be roused for each batch, most of which have ended by that time.
        """
        if self._received:
            return self._received_since + RECEIVED_PAUSE_S
        now = self._clock.now()
        return now + RECEIVED_PAUSE_S if now < self._received_since + BUSY_S else None

    async def _on_frames(self, frames: Sequence[Frame]) -> None:
        """Take frames of one type; messages that came together are stored together."""
        if not isinstance(frames[0], Deliver):
            for frame in frames:
                await self._on_frame(frame)
            return
        proven: list[Proven] = []
        refusal: PeerRejected | None = None
        for frame in frames:
            if isinstance(frame, Deliver):
                try:
                    proven.append((frame.items, self._proof(frame)))
                except PeerRejected as error:  # what came before it is taken all the same
                    refusal = error
                    break
        if proven:
            self._counters.items_received += sum(len(items) for items, _ in proven)
            await self._handler.on_deliver(self.peer, proven)
        if refusal is not None:
            raise refusal

    def _proof(self, frame: Deliver) -> FrameProof:
        return verify_deliver(
            frame,
            receiver=self._credentials.name,
            origin=self.peer,
            authority=self._credentials.authority,
            wall=self._clock.wall(),
        )

    async def _on_frame(self, frame: Frame) -> None:
        if isinstance(frame, Resume):
            if len(self._answers) >= MAX_ANSWERS:
                raise rejected("limit", f"{self.peer} asks without reading the answers")
            states = await self._handler.on_resume(self.peer, self._peer_storage_id, frame.keys)
            self._answers.append(encode(ResumeStates(tuple(states))))
            self._session.wake()
        elif isinstance(frame, Ask):
            await self._on_ask(frame)
        elif isinstance(frame, Pull):
            self._on_pull(frame)
        else:
            raise rejected("frame", f"{self.peer} has sent a {type(frame).__name__} out of turn")

    def _on_pull(self, pull: Pull) -> None:
        if self._pull is not None or self._page is not None:
            raise rejected("limit", f"{self.peer} pulls again without waiting for the page")
        if self._pulls is None:
            raise rejected("frame", f"{self.peer} pulls where nothing is shared")
        self._pull = pull.number
        self._pulls.on_pull(self.peer, pull.number, pull.body)

    async def _on_ask(self, ask: Ask) -> None:
        if len(self._told) >= OPEN_LIMIT:
            raise rejected("limit", f"{self.peer} asks without reading the answers")
        if ask.question == CREDIT_QUESTION and not self._knows_credit:
            self._answers.append(encode(Answer(ask.number, "known")))  # before the first window
            self._knows_credit = True
            self._handler.on_accepted(self.peer, knows_credit=True)
            self._session.wake()
            return
        if self._allowance.spend(self._clock.now()):
            body = await self._handler.on_ask(self.peer, ask.question, ask.about)
            answer = Answer(ask.number, "unknown") if body is None else Answer(ask.number, "known", body)
        else:
            answer = Answer(ask.number, "refused")
        self._told.append(answer)
        self._session.wake()


def _pop(queue: deque[T]) -> tuple[T, ...]:
    taken = tuple(islice(queue, MAX_KEYS))
    for _ in taken:
        queue.popleft()
    return taken
