"""The dialling side of a link to one peer: keeps dialling while there is demand, and owns the window.

A delivery counts against the window from the moment it is queued until the peer has received it. What is
queued or in flight when a link breaks is not kept here: the next link begins with the handler's own list
of unsettled deliveries, so nothing is lost and nothing has to be guessed.
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import trio

from node.environment import Address, Environment
from node.errors import MessageTooLarge, PeerRejected, SecurityMaterialInvalid
from node.security.identity import NodeCredentials
from node.transport.frames import (
    CREDIT_QUESTION,
    MAX_ITEMS,
    MAX_KEYS,
    MAX_SEALED_BYTES,
    PROTOCOL_VERSION,
    Answer,
    Ask,
    Credit,
    Deliver,
    DeliverItem,
    DeliveryKey,
    Frame,
    Hello,
    KeyState,
    Page,
    Partial,
    Received,
    Resume,
    ResumeStates,
    Settled,
    Welcome,
    encode,
    rejected,
)
from node.transport.handler import LinkCounters, LinkHandler, LinkLimits
from node.transport.proof import sign_deliver
from node.transport.questions import Pulls, Question, Questions
from node.transport.session import FrameChannel, LinkEnded, Session

logger = logging.getLogger(__name__)

CREDIT_ASK: Final = 0
"""The number of the question for credit; others count from 1."""
ITEM_OVERHEAD_BYTES: Final = 256
"""What an envelope and its bookkeeping weigh in the window."""


class OutboundLink:
    """This node's link to one peer, through all its connections.

    Args:
        peer: The node to dial.
        environment: Network, clock and jitter.
        credentials: Who this node is.
        resolve: Says where the peer takes links now, if that is known.
        handler: The room above.
        limits: Bounds.
        counters: Shared counts.
        boot: Identifies this run of the process.
        jitter: Draws the pauses between attempts.
    """

    def __init__(
        self,
        peer: str,
        *,
        environment: Environment,
        credentials: NodeCredentials,
        resolve: Callable[[str], Address | None],
        handler: LinkHandler,
        limits: LinkLimits,
        counters: LinkCounters,
        boot: str,
        jitter: random.Random,
    ) -> None:
        self.peer = peer
        self.scope = trio.CancelScope()
        self._environment, self._credentials, self._resolve = environment, credentials, resolve
        self._handler, self._limits, self._counters = handler, limits, counters
        self._boot, self._jitter = boot, jitter
        self._session: Session | None = None
        self._open = False
        self._queue: deque[DeliverItem] = deque()
        self._window: OrderedDict[DeliveryKey, int] = OrderedDict()
        self._window_used = 0
        self._refused = False
        self._last_use = 0.0
        self._was_open = self._idle = False
        self._question: bytes | None = None
        self._asking = False
        self._asking_credit = self._grants = False
        self._answer: tuple[KeyState, ...] = ()
        self._answered = trio.Event()
        self._redial = trio.Event()
        self._last_failure = ""
        self._questions = Questions()
        self._pulls = Pulls()
        self.protocol = ""
        """What protects the latest connection (``TLSv1.3``), empty before the first."""

    @property
    def is_open(self) -> bool:
        """Whether deliveries can be queued."""
        return self._open

    @property
    def window_used(self) -> int:
        """Bytes queued or sent, and not received yet."""
        return self._window_used

    @property
    def rtt_s(self) -> float | None:
        """The last measured round trip in seconds, if the link is open and was idle long enough for one."""
        return self._session.rtt_s if self._session is not None else None

    def is_ready(self) -> bool:
        """Whether the link is open and its window has room; once it has some, ``on_writable`` is called."""
        if not self._open:
            return False
        if self._window_used >= self._limits.window_bytes:
            self._refused = True
            return False
        return True

    def deliver(self, items: Sequence[DeliverItem]) -> int:
        """Queue messages, in order, as far as the link is open and its window has room; returns how many.

        Raises:
            MessageTooLarge: no frame can carry the first that is left; those before it were taken.
        """
        if not self._open or self._session is None:
            return 0
        window, used, most = self._window, self._window_used, self._limits.window_bytes
        taken = 0
        for item in items:
            size = len(item.sealed) + ITEM_OVERHEAD_BYTES
            if used + size > most:
                if size > MAX_SEALED_BYTES + ITEM_OVERHEAD_BYTES:
                    raise _too_large(item)
                if used:
                    self._refused = True
                    break
            key = item.key
            if key not in window:  # else it is already on its way on this very link
                window[key] = size
                used = self._window_used = used + size
                self._queue.append(item)  # what is in the window keeps the link from falling idle
            taken += 1
        self._session.wake()
        return taken

    def ask(self, question: str, about: str) -> Question | None:
        """Put a question in line for when the link is open; None when too many are open."""
        asked = self._questions.ask(question, about)
        if asked is not None and self._session is not None:
            self._last_use = self._environment.clock.now()
            self._session.wake()
        return asked

    async def pull(self, body: bytes) -> bytes | None:
        """Ask for a page of the shared memory; None when the link is not open, or ends before it comes."""
        done = self._pulls.begin(body) if self._open and self._session is not None else None
        if done is None or self._session is None:
            await trio.lowlevel.checkpoint()
            return None
        self._session.wake()
        try:
            await done.wait()
        finally:
            page = self._pulls.end()
        return page

    def want(self) -> None:
        """There is demand: should the link be about to end for idleness, it is dialled again."""
        self._idle = False

    def hurry(self) -> None:
        """Dial now if this link is pausing: the peer has just been heard."""
        self._redial.set()

    async def run(self) -> None:
        """Dial, and dial again, until the link falls idle or is cancelled through :attr:`scope`."""
        pause = self._limits.redial_initial_s
        with self.scope:
            while True:
                self._was_open = self._idle = False
                try:
                    reason = await self._attempt()
                finally:
                    self._clear()
                if self._idle:
                    return
                if self._was_open:
                    pause = self._limits.redial_initial_s
                else:
                    self._handler.on_unreachable(self.peer, reason)
                    if reason != self._last_failure:
                        logger.warning("cannot open a link to %s, and keep trying: %s", self.peer, reason)
                self._last_failure = "" if self._was_open else reason
                self._redial = trio.Event()
                with self._environment.clock.move_on_after(pause * self._jitter.uniform(0.5, 1.0)):
                    await self._redial.wait()
                pause = min(pause * 2, self._limits.redial_max_s)

    async def _attempt(self) -> str:
        """One connection, from dialling to its end; return why it ended."""
        address = self._resolve(self.peer)
        if address is None:
            return "its address is not known"
        stream: trio.abc.Stream | None = None
        try:
            with self._environment.clock.move_on_after(self._limits.handshake_s) as scope:
                stream = await self._environment.network.connect(*address)
                session, storage_id = await self._shake_hands(stream)
            if scope.cancelled_caught:
                self._counters.reject("timeout")
                return f"no handshake within {self._limits.handshake_s:g} s"
            return await self._converse(session, storage_id)
        except LinkEnded as ended:
            return str(ended)
        except PeerRejected as refusal:
            self._counters.reject(str(refusal.details.get("reason", "identity")))
            return str(refusal)
        except trio.BrokenResourceError as error:
            self._counters.reject("tls")
            return f"the TLS handshake failed: {error.__cause__ or error}"
        except (OSError, trio.ClosedResourceError) as error:
            return f"{address[0]}:{address[1]} does not answer: {error}"
        except SecurityMaterialInvalid as error:
            return str(error)
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    async def _shake_hands(self, stream: trio.abc.Stream) -> tuple[Session, str]:
        """Authenticate both sides; return the session and the acceptor's storage id."""
        secure = await self._environment.network.secure_client(stream, self._credentials)
        self._credentials.verify_peer(secure.peer_leaf, self.peer)
        self.protocol = secure.protocol
        clock, limits, counters = self._environment.clock, self._limits, self._counters
        channel = FrameChannel(secure.stream, clock=clock, limits=limits, counters=counters)
        hello = Hello(PROTOCOL_VERSION, self._credentials.name, self._handler.storage_id, self._boot)
        await channel.send(encode(hello))
        session = Session(
            self.peer,
            channel,
            clock=clock,
            limits=limits,
            counters=counters,
            take=self._take,
            handle=self._on_frames,
        )
        frame = await channel.receive()
        if not isinstance(frame, Welcome):
            await session.dispatch(frame)  # a Goodbye says why
            raise rejected("frame", f"{self.peer} answered Hello with {type(frame).__name__}")
        if frame.node != self.peer:
            raise rejected("identity", f"{self.peer} calls itself {frame.node}")
        return session, frame.storage_id

    async def _converse(self, session: Session, storage_id: str) -> str:
        """Run an authenticated connection to its end; return why it ended."""
        self._session = session
        reason = "closed by this node"
        try:
            reason = await session.run(lambda: self._serve(session, storage_id))
        finally:
            if self._was_open:
                self._clear()
                self._counters.ended += 1
                self._tell(up=False, reason=reason)
        return reason

    async def _serve(self, session: Session, storage_id: str) -> None:
        """Exchange the unsettled deliveries, open the window, and watch for idleness."""
        await self._ask_credit(session)
        asked = self._handler.unsettled(self.peer)
        states: list[KeyState] = []
        for start in range(0, len(asked), MAX_KEYS):
            states += await self._ask(session, asked[start : start + MAX_KEYS])
        # What was refused while we asked was never sent on this link: sending it is always right, since
        # the acceptor recognises what it has seen before. No checkpoint between this list and the opening.
        known = set(asked)
        states += [KeyState(k, "unknown") for k in self._handler.unsettled(self.peer) if k not in known]
        self._open = self._was_open = True
        self._counters.opened += 1
        self._last_use = self._environment.clock.now()
        if not self._grants:
            self._handler.on_granted(self.peer, None)
        self._tell(up=True, reason="")
        session.wake()  # for questions that were put before
        await self._handler.on_resumed(self.peer, storage_id, states)
        self._offer_room()
        await self._until_idle()
        session.end("idle", farewell="idle")

    async def _ask_credit(self, session: Session) -> None:
        """Learn whether the acceptor tells what it takes."""
        self._answered = trio.Event()
        self._question = encode(Ask(CREDIT_ASK, CREDIT_QUESTION, self.peer))
        self._asking_credit = True
        session.wake()
        await self._answered.wait()

    async def _ask(self, session: Session, keys: list[DeliveryKey]) -> tuple[KeyState, ...]:
        self._answered = trio.Event()
        self._question, self._asking = encode(Resume(tuple(keys))), True
        session.wake()
        await self._answered.wait()
        if [state.key for state in self._answer] != keys:
            raise rejected("frame", f"{self.peer} answered Resume with other keys")
        return self._answer

    async def _until_idle(self) -> None:
        clock = self._environment.clock
        while True:
            await clock.sleep_until(self._last_use + self._limits.idle_s)
            if clock.now() < self._last_use + self._limits.idle_s:
                continue
            if self._window or self._pulls.is_open or self._handler.unsettled(self.peer):
                self._last_use = clock.now()
                continue
            self._open, self._idle = False, True
            return

    def _take(self) -> bytes | None:
        """The next frame: a question of the opening, or as many deliveries as go into one frame."""
        if self._question is not None:
            question, self._question = self._question, None
            return question
        items: list[DeliverItem] = []
        size = 0
        while self._queue and len(items) < MAX_ITEMS:
            size += len(self._queue[0].sealed) + ITEM_OVERHEAD_BYTES
            if items and size > self._limits.batch_bytes:
                break
            items.append(self._queue.popleft())
        if not items:
            return (self._questions.next() or self._pulls.next()) if self._open else None
        self._counters.items_sent += len(items)
        frame: Deliver = sign_deliver(self._credentials.identity, self.peer, items)
        return encode(frame)

    async def _on_frames(self, frames: Sequence[Frame]) -> None:
        """Take frames of one type; acknowledgements that came together are one to the room above."""
        if isinstance(frames[0], Received):
            keys = [key for frame in frames if isinstance(frame, Received) for key in frame.keys]
            self._free(keys)
            await self._handler.on_received(self.peer, keys)
        elif isinstance(frames[0], Settled):
            outcomes = [each for frame in frames if isinstance(frame, Settled) for each in frame.outcomes]
            self._free([outcome.key for outcome in outcomes])
            await self._handler.on_settled(self.peer, outcomes)
        else:
            for frame in frames:
                self._on_frame(frame)

    def _on_frame(self, frame: Frame) -> None:
        if isinstance(frame, ResumeStates) and self._asking:
            self._asking, self._answer = False, frame.states
            self._answered.set()
        elif isinstance(frame, Credit) and self._grants:
            self._handler.on_granted(self.peer, frame.grants)
        elif isinstance(frame, Answer) and self._asking_credit and frame.number == CREDIT_ASK:
            self._asking_credit, self._grants = False, frame.state == "known"
            self._answered.set()
        elif isinstance(frame, Answer):
            if not self._questions.answered(frame):
                raise rejected("frame", f"{self.peer} has answered what it was not asked")
        elif isinstance(frame, Partial):
            self._handler.on_partial(self.peer, frame)
        elif isinstance(frame, Page):
            if not self._pulls.answered(frame):
                raise rejected("frame", f"{self.peer} has sent a page that was not asked for")
        else:
            raise rejected("frame", f"{self.peer} has sent a {type(frame).__name__} out of turn")

    def _free(self, keys: Iterable[DeliveryKey]) -> None:
        for key in keys:
            self._window_used -= self._window.pop(key, 0)
        self._last_use = self._environment.clock.now()
        self._offer_room()

    def _offer_room(self) -> None:
        """Say so when a window that refused something is half empty again."""
        if self._refused and self._open and self._window_used <= self._limits.window_bytes // 2:
            self._refused = False
            self._handler.on_writable(self.peer)

    def _tell(self, *, up: bool, reason: str) -> None:
        logger.info("link to %s %s%s", self.peer, "is open" if up else "ended: ", reason)
        self._handler.on_link(self.peer, up, reason)

    def _clear(self) -> None:
        self._open = self._refused = self._asking = self._asking_credit = self._grants = False
        self._session = self._question = None
        self._answer = ()
        self._questions.lose()
        self._pulls.lose()
        self._queue.clear()
        self._window.clear()
        self._window_used = 0


def _too_large(item: DeliverItem) -> MessageTooLarge:
    return MessageTooLarge(
        f"the message {item.message_id} has {len(item.sealed)} bytes sealed",
        why=f"a peer link carries at most {MAX_SEALED_BYTES}",
    )
