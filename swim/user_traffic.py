"""User events and queries on their way: what is gossiped, what goes straight to one member, and who may.

Events and questions are signed by their authors and gossiped in the share of packets that is theirs.
Answers go to who asked in a packet of their own, under the pair's tag, because an answer is nobody
else's. Clocks of both travel in push-pulls, so that a newcomer is not taken for somebody from long ago.
"""

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Protocol

from swim.broadcast import RumourQueue
from swim.codec import encode_message
from swim.config import SwimConfig
from swim.events import Event, QueryFinished, QuestionHeard, UserEventHeard
from swim.identity import Identity
from swim.members import MemberTable, Record
from swim.messages import Boot, Message, SyncClocks, UserFrame
from swim.queries import Asked, Queries, QueryResult, default_timeout_s
from swim.query_messages import Tags
from swim.user_events import UserEvent, UserEvents

NOT_STARTED: Final = "a member speaks to others once it has started"


class Kind(IntEnum):
    """What a `UserFrame` holds."""

    EVENT = 1
    QUESTION = 2
    ANSWER = 3
    KEY_REQUEST = 4
    KEY_RESULT = 5


class Owner(Protocol):
    """What user traffic needs of the protocol around it."""

    name: str

    def send(self, record: Record, messages: Sequence[Message], *, statements: Sequence[bytes] = ()) -> None:
        """Send messages in a datagram, tagged for the receiver."""

    def authenticate(self, frame: UserFrame, sender: str, now: float) -> Record | None:
        """Return the record of the sender of a tagged frame, None if the tag is not its."""

    def is_by(self, author: str, signed: bytes, signature: bytes) -> bool:
        """Say whether a member's key made a signature."""

    def size(self) -> int:
        """Return how many members are up, this one included."""


class UserTraffic:
    """The user events and queries of one member.

    Args:
        config: the parameters.
        identity: signs what this member says.
        owner: the protocol around it.
        table: whose keys are known.
        queue: what waits to be gossiped.
        events: where events are appended.
        counts: where drops are counted.
    """

    def __init__(
        self,
        config: SwimConfig,
        identity: Identity,
        owner: Owner,
        *,
        table: MemberTable,
        queue: RumourQueue,
        events: list[Event],
        counts: Counter[str],
    ) -> None:
        self._config = config
        self._identity = identity
        self._owner = owner
        self._table = table
        self._queue = queue
        self._events = events
        self._counts = counts
        self._user_events: UserEvents | None = None
        self._queries: Queries | None = None

    def start(self, boot: Boot) -> None:
        """Begin to speak, in this life of the process."""
        self._user_events = UserEvents(self._identity, boot, self._owner.is_by)
        self._queries = Queries(self._identity, boot, self._owner.is_by)

    # ---- what the application does --------------------------------------------------------------

    def fire(self, name: str, payload: bytes, now: float) -> UserEvent:
        """Announce something to every member.

        Args:
            name: 1 to 64 bytes of printable text.
            payload: at most 512 bytes.
            now: the time.

        Raises:
            ValueError: for a name or payload that is out of its bounds.
        """
        event, encoded = self._said().fire(name, payload, now)
        self._gossip(Kind.EVENT, encoded)
        return event

    def ask(
        self,
        name: str,
        payload: bytes,
        now: float,
        *,
        timeout_s: float | None = None,
        nodes: Sequence[str] = (),
        tags: Tags | None = None,
        want_ack: bool = False,
    ) -> bytes:
        """Ask the members; return the id under which `collect` gives what came back.

        Args:
            name: 1 to 64 bytes of printable text.
            payload: at most 1,024 bytes.
            now: the time.
            timeout_s: how long answers are waited for; None for as long as gossip takes (serf's default).
            nodes: names of those who shall answer, at most 64; nobody means everybody.
            tags: accepted values per tag.
            want_ack: let members acknowledge receipt before they answer.

        Raises:
            ValueError: for an argument out of its bounds.
            TooManyQueries: if 64 queries are open.
        """
        if timeout_s is None:
            timeout_s = default_timeout_s(self._owner.size(), self._config.gossip_interval_s)
        query_id, encoded = self._asked().ask(
            name, payload, now, timeout_s=timeout_s, nodes=nodes, tags=tags, want_ack=want_ack
        )
        self._gossip(Kind.QUESTION, encoded)
        return query_id

    def collect(self, query_id: bytes) -> QueryResult:
        """Return what has come back; a finished query is given out once, and forgotten.

        Raises:
            UnknownQuery: if there is no such query, or it was collected.
        """
        return self._asked().collect(query_id)

    def answer(self, asked: Asked, payload: bytes, now: float) -> bool:
        """Answer a question, straight to who asked; say whether it is still waited for.

        Raises:
            ValueError: for a payload of more than 1,024 bytes.
        """
        response = self._asked().answer(asked, payload, now)
        return response is not None and self._respond(asked, response)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Say what filters of questions may match."""
        self._asked().tags = dict(tags)

    # ---- what comes in --------------------------------------------------------------------------

    def take(self, frame: UserFrame, sender: str, now: float) -> None:
        """Take a frame of a datagram."""
        if frame.kind == Kind.EVENT:
            self.take_event(frame, now)
        elif frame.kind == Kind.QUESTION:
            asked = self._asked().receive(frame.frame, now)
            if asked is None:
                return
            if asked.question.forward:
                self._gossip(Kind.QUESTION, frame.frame)
            if asked.concerns_us:
                acknowledgement = self._asked().acknowledge(asked, now)
                if acknowledgement is not None:
                    self._respond(asked, acknowledgement)
                self._events.append(QuestionHeard(asked))
        elif frame.kind == Kind.ANSWER:
            if self._owner.authenticate(frame, sender, now) is not None:
                self._asked().receive_response(frame.frame, sender, now)
                self._report_finished()
        else:
            self._counts["dropped_unknown_user_frame"] += 1

    def take_event(self, frame: UserFrame, now: float) -> None:
        """Take an event, from gossip or from a push-pull."""
        event = self._said().receive(frame.frame, now)
        if event is not None:
            self._gossip(Kind.EVENT, frame.frame)
            self._events.append(UserEventHeard(event))

    def clocks(self) -> SyncClocks:
        """Return the clocks that a push-pull tells."""
        return SyncClocks(self._said().clock, self._asked().clock)

    def recent(self, limit_bytes: int) -> list[bytes]:
        """Return the latest events, encoded, that fit: they repair what gossip lost."""
        return [encode_message(UserFrame(Kind.EVENT, frame)) for frame in self._said().recent(limit_bytes)]

    def take_recent(self, frame: UserFrame, now: float) -> None:
        """Take what `recent` has returned elsewhere; of other traffic nothing belongs into a push-pull."""
        if frame.kind == Kind.EVENT:
            self.take_event(frame, now)

    def take_clocks(self, clocks: SyncClocks) -> None:
        """Take the clocks of a member that was here before us."""
        self._said().joined(clocks.events)
        self._asked().joined(clocks.queries)

    def handle_timer(self, now: float) -> None:
        """End the queries whose time is up."""
        if self._queries is not None:
            self._queries.handle_timer(now)
            self._report_finished()

    def next_timer(self) -> float | None:
        """Return when the first open query ends."""
        return None if self._queries is None else self._queries.next_timer()

    def statistics(self) -> dict[str, int]:
        """Count events, questions and answers by what became of them."""
        if self._user_events is None or self._queries is None:
            return {}
        return {**self._user_events.statistics(), **self._queries.statistics()}

    # ---- inside ---------------------------------------------------------------------------------

    def _gossip(self, kind: Kind, encoded: bytes) -> None:
        message = encode_message(UserFrame(kind, encoded))
        self._queue.put(encoded[-16:].hex(), message)

    def _respond(self, asked: Asked, response: bytes) -> bool:
        record = self._table.get(asked.question.author)
        if record is None or not record.is_up:
            return False
        self._owner.send(record, [UserFrame(Kind.ANSWER, response)])
        return True

    def _report_finished(self) -> None:
        finished = self._asked().finished()
        if finished:
            self._events += [QueryFinished(query_id) for query_id in finished]

    def _said(self) -> UserEvents:
        if self._user_events is None:
            raise RuntimeError(NOT_STARTED)
        return self._user_events

    def _asked(self) -> Queries:
        if self._queries is None:
            raise RuntimeError(NOT_STARTED)
        return self._queries
