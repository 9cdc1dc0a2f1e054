"""The conversations of one node: found page by page, looked at, closed.

Nothing is written when a message passes, and nothing is counted: a page walks the newest messages back, a
bounded number of them, and every conversation it meets is shown where its latest message stands. Whether a
conversation still takes messages is asked when one enters it that exists already; a conversation that was
found open is remembered as such for as long as it is bound to be, so that asking costs nothing meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import apsw

from node.config.model import MessagingConfig
from node.environment import Environment
from node.errors import CaxtonError, ValidationFailed
from node.message import Message, iso8601
from node.messaging.conversation_cursor import ConversationCursor
from node.messaging.conversation_view import Closure, Conversation, Limits, Status
from node.storage import conversations as table
from node.storage.conversations import Place, Span
from node.storage.storage import Storage

PAGE_LIMIT: Final = 100
"""Most conversations on one page."""
WALK_LIMIT: Final = 2_000
"""Most messages that one page, or one call that archives, looks at."""
LISTED_MESSAGES: Final = 50
"""Messages of a conversation that a list looks at: its count and participants are of these."""
ARCHIVE_LIMIT: Final = 500
"""Most conversations that one call archives."""
OPEN_LIMIT: Final = 10_000
"""Most conversations remembered as open."""
NOTED_AFTER_S: Final = 600.0
"""A message that is forgotten sooner than this leaves no trace of its conversation: under a load that fills
the history within minutes, remembering every conversation would cost more than it tells."""


class ConversationClosed(CaxtonError):
    """The conversation takes no more messages: it was archived, is too old, or was silent for too long."""

    code = "CONVERSATION_CLOSED"
    status: ClassVar[int] = 409


@dataclass(frozen=True, slots=True)
class Selection:
    """Which conversations are shown; what is None leaves nothing out.

    Args:
        status: ``active`` or ``completed``.
        closed: Those that take no messages, or those that do.
        participant: Those in which this address takes part, ``name@node`` or a name.
        since_s: Those with a message at or after this time, in Unix seconds.
    """

    status: Status | None = None
    closed: bool | None = None
    participant: str | None = None
    since_s: float | None = None

    def takes(self, found: Conversation) -> bool:
        """Whether a conversation is one of them."""
        if self.status is not None and found.status != self.status:
            return False
        if self.closed is not None and (found.closure is not None) is not self.closed:
            return False
        wanted = self.participant
        return wanted is None or any(wanted in (each, each.partition("@")[0]) for each in found.participants)


@dataclass(frozen=True, slots=True)
class Page:
    """Some conversations, the latest active first; ``next`` is where the next page begins, or None."""

    conversations: Sequence[Conversation]
    next: str | None


@dataclass(frozen=True, slots=True)
class Archived:
    """The conversations that were closed, and from where to go on; ``next`` is None when all were seen."""

    conversations: Sequence[str]
    next: str | None


class Conversations:
    """See the module's docstring.

    Args:
        environment: Clock.
        storage: The node's database.
        settings: The section ``messaging``.
    """

    def __init__(self, *, environment: Environment, storage: Storage, settings: MessagingConfig) -> None:
        self._clock, self._storage = environment.clock, storage
        self._limits = Limits(settings.conversation_ttl_s, settings.conversation_lifetime_s)
        self._remembered_s = max(
            settings.conversation_ttl_s, settings.conversation_lifetime_s, settings.retention_s
        )
        self._open: OrderedDict[str, float] = OrderedDict()
        self._counts = dict.fromkeys(("asked", "refused", "archived"), 0)

    async def get(self, conversation_id: str) -> Conversation:
        """One conversation with its messages; an unknown one is empty."""
        wall = self._clock.wall()
        return await self._storage.read(
            lambda connection: Conversation.load(connection, conversation_id, limits=self._limits, wall=wall)
        )

    async def said(self, conversation_id: str, limit: int) -> Sequence[Message]:
        """The latest messages of a conversation that this node has accepted or received, in order of time."""
        wall = self._clock.wall()
        found = await self._storage.read(
            lambda c: Conversation.load(c, conversation_id, limits=self._limits, wall=wall, limit=limit)
        )
        return [said.message for said in found.said]

    async def follow(self, cursor: ConversationCursor) -> list[tuple[Message, str]]:
        """What is new in a conversation since the cursor's last look, with how each message stands."""
        return await self._storage.read(cursor.read)

    async def page(self, limit: int, selection: Selection | None = None, before: str | None = None) -> Page:
        """The conversations with the latest messages, the latest first.

        Args:
            limit: Most of them, at most :data:`PAGE_LIMIT`.
            selection: Which.
            before: The ``next`` of the page before. A page of a rare selection may have fewer than
                ``limit``, or none, and still a ``next``: it looks at a bounded number of messages.

        Raises:
            ValidationFailed: ``before`` is no place.
        """
        place, chosen = _place(before), selection or Selection()
        limit, wall = max(1, min(limit, PAGE_LIMIT)), self._clock.wall()
        return await self._storage.read(lambda c: self._page(c, limit, chosen, place, wall))

    async def archive(
        self, *, older_than_s: float, status: Status | None = None, after: str | None = None
    ) -> Archived:
        """Close the conversations in which nobody has said anything for so long, the oldest first.

        One call looks at a bounded number of messages and closes at most :data:`ARCHIVE_LIMIT`.

        Args:
            older_than_s: Seconds of silence.
            status: Only those that are active, or completed.
            after: The ``next`` of the call before.

        Raises:
            ValidationFailed: ``after`` is no place.
            StorageFailed: the disk refused; none was closed.
        """
        place, wall = _place(after), self._clock.wall()
        found = await self._storage.write(lambda c: self._archive(c, older_than_s, status, place, wall))
        return self._closed(found)

    async def archive_these(self, conversation_ids: Sequence[str]) -> Archived:
        """Close conversations by their ids; one that is not known, or is closed already, is passed over.

        Raises:
            StorageFailed: the disk refused; none was closed.
        """
        wall = self._clock.wall()

        def job(connection: apsw.Connection) -> Archived:
            done = []
            for conversation_id in dict.fromkeys(conversation_ids[:ARCHIVE_LIMIT]):
                span = table.span(connection, conversation_id)
                if span is not None and span.archived_s is None:
                    table.archive(connection, conversation_id, span, wall)
                    done.append(conversation_id)
            return Archived(done, None)

        return self._closed(await self._storage.write(job))

    async def refusals(self, messages: Iterable[Message], wall: float) -> dict[str, ConversationClosed]:
        """Of the conversations that messages are to enter, those that take none, each with its refusal.

        A message that begins a conversation under its own id costs nothing, nor does one of a conversation
        that is known to be open.

        Args:
            messages: Those to be accepted.
            wall: Unix seconds now.
        """
        refused: dict[str, ConversationClosed] = {}
        for message in messages:
            conversation_id = message.conversation_id
            if conversation_id == message.id or wall < self._open.get(conversation_id, 0.0):
                continue
            if conversation_id not in refused:
                refusal = await self._ask(conversation_id, wall)
                if refusal is not None:
                    refused[conversation_id] = refusal
        return refused

    def forget(self, connection: apsw.Connection, wall: float) -> None:
        """Drop what is remembered of conversations of long ago; part of the caller's job."""
        table.forget(connection, wall - self._remembered_s)

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {"open": len(self._open), "open_limit": OPEN_LIMIT, **self._counts}

    # Inside

    async def _ask(self, conversation_id: str, wall: float) -> ConversationClosed | None:
        self._counts["asked"] += 1
        span = await self._storage.read(lambda connection: table.span(connection, conversation_id))
        if span is None:
            return None  # it begins with this message
        closure = self._limits.closure(span, wall)
        if closure is not None:
            self._counts["refused"] += 1
            return _refusal(conversation_id, closure, span)
        self._open[conversation_id] = self._limits.open_until(span)
        if len(self._open) > OPEN_LIMIT:
            self._open.popitem(last=False)
        return None

    def _closed(self, found: Archived) -> Archived:
        self._counts["archived"] += len(found.conversations)
        for conversation_id in found.conversations:
            self._open.pop(conversation_id, None)
        return found

    def _load(self, connection: apsw.Connection, conversation_id: str, wall: float) -> Conversation:
        return Conversation.load(
            connection, conversation_id, limits=self._limits, wall=wall, limit=LISTED_MESSAGES
        )

    def _page(
        self, connection: apsw.Connection, limit: int, chosen: Selection, before: Place | None, wall: float
    ) -> Page:
        found: list[Conversation] = []
        seen: set[str] = set()
        walked, place = table.newest(connection, before, WALK_LIMIT), before
        for activity in walked:
            conversation_id = activity.conversation_id
            if chosen.since_s is not None and activity.at_s < chosen.since_s:
                return Page(found, None)
            if conversation_id not in seen:
                if place is not None and len(found) == limit:
                    return Page(found, _cursor(place))
                seen.add(conversation_id)
                if before is None or not table.has_later(connection, conversation_id, before):
                    candidate = self._load(connection, conversation_id, wall)
                    if chosen.takes(candidate):
                        found.append(candidate)
            place = activity.place
        return Page(found, _cursor(walked[-1].place) if len(walked) == WALK_LIMIT else None)

    def _archive(
        self,
        connection: apsw.Connection,
        older_than_s: float,
        status: Status | None,
        after: Place | None,
        wall: float,
    ) -> Archived:
        done: list[str] = []
        seen: set[str] = set()
        walked = table.oldest(connection, after, WALK_LIMIT)
        for activity in walked:
            if activity.at_s > wall - older_than_s:
                return Archived(done, None)  # whatever comes later was active later
            conversation_id = activity.conversation_id
            if conversation_id in seen:
                continue
            seen.add(conversation_id)
            span = table.span(connection, conversation_id)
            if span is None or span.archived_s is not None or span.last_s > wall - older_than_s:
                continue
            if status is not None and self._load(connection, conversation_id, wall).status != status:
                continue
            table.archive(connection, conversation_id, span, wall)
            done.append(conversation_id)
            if len(done) == ARCHIVE_LIMIT:
                return Archived(done, _cursor(activity.place))
        return Archived(done, _cursor(walked[-1].place) if len(walked) == WALK_LIMIT else None)


def _place(cursor: str | None) -> Place | None:
    if cursor is None:
        return None
    outbox, dot, inbox = cursor.partition(".")
    if not (dot and outbox.isascii() and inbox.isascii() and outbox.isdecimal() and inbox.isdecimal()):
        raise _no_place(cursor)
    if max(len(outbox), len(inbox)) > len(str(1 << 62)) or max(int(outbox), int(inbox)) > 1 << 62:
        raise _no_place(cursor)
    return Place(int(outbox), int(inbox))


def _no_place(cursor: str) -> ValidationFailed:
    return ValidationFailed(
        f"{cursor[:80]!r} is no place in the list of conversations",
        fix="Take the next of the answer before, as it is.",
        details={"field": "before"},
    )


def _cursor(place: Place) -> str:
    return f"{place.outbox}.{place.inbox}"


_WHY: Final[dict[Closure, str]] = {
    "archived": "an operator archived it",
    "lifetime": "it is older than messaging.conversation_lifetime",
    "inactive": "nobody has said anything in it for messaging.conversation_ttl",
}


def _refusal(conversation_id: str, closure: Closure, span: Span) -> ConversationClosed:
    return ConversationClosed(
        f"the conversation {conversation_id[:80]!r} takes no more messages",
        why=_WHY[closure],
        fix="Begin a new one, and name this one as its parent_conversation.",
        details={
            "conversation_id": conversation_id,
            "closed": closure,
            "created_at": iso8601(span.created_s),
            "last_activity": iso8601(span.last_s),
        },
    )
