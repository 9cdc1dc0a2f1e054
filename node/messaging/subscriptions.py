"""Subscriptions that agents offer: who is to be informed, for as long as they can be.

A handler that is given a ``subscribe`` answers with :meth:`Subscriptions.take`, and one that is given a
``cancel`` with :meth:`Subscriptions.cancel`. Between the two :meth:`Subscriptions.publish` informs every
subscriber of the agent, as an answer to its ``subscribe``. Subscriptions are on disk, so they outlive
restarts; a subscriber that cannot be informed several times in a row is dropped, and told so.

This is FIPA's subscribe (SC00035H), between two agents that know each other. For news without addressees
there are topics.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import trio

from node.environment import Environment
from node.errors import (
    CaxtonError,
    DuplicateMessage,
    MessageDeliveryFailed,
    ResourceLimitExceeded,
    StorageFailed,
)
from node.message import Attachment, Message
from node.messaging.acceptance import BATCH_LIMIT
from node.messaging.conversation_index import ConversationClosed
from node.messaging.delivery import Draft, failure_content
from node.messaging.letters import Letter
from node.messaging.receipt import Receipt
from node.storage import subscribers as table
from node.storage.storage import Storage
from node.storage.subscribers import SubscriberRow
from node.vocabulary import Performative

_log = logging.getLogger(__name__)

SUBSCRIBERS_LIMIT: Final = 10_000
"""Most subscriptions to the agents of one node."""
FAILURES_LIMIT: Final = 3
"""Informs in a row that could not be delivered, after which a subscription has ended."""
INFORM_TTL_S: Final = 300.0
"""How long an inform may wait for its subscriber, in seconds."""
AGAIN_S: Final = 1.0
"""Pause where the disk has refused, or the outbox has no room."""

AcceptMany = Callable[..., Awaitable[Sequence[Receipt | CaxtonError]]]
"""Takes messages in one write: :meth:`node.messaging.bus.Bus.accept_many`."""


class Subscriptions:
    """See the module's docstring.

    Args:
        environment: Clock and ids.
        node: This node's name.
        storage: The node's database.
        accept_many: Takes the informs.
    """

    def __init__(
        self, *, environment: Environment, node: str, storage: Storage, accept_many: AcceptMany
    ) -> None:
        self._environment, self._clock = environment, environment.clock
        self._node, self._storage, self._accept_many = node, storage, accept_many
        self._subscribers: dict[tuple[str, str], SubscriberRow] = {}
        self._changed: deque[tuple[str, str]] = deque()  # as many as informs are open
        self._attention = trio.Event()
        self._counts = dict.fromkeys(("published", "informs", "cancelled", "dropped"), 0)

    async def load(self) -> None:
        """Learn who has subscribed before the start."""
        for row in await self._storage.read(table.load):
            self._subscribers[row.agent, row.label] = row

    async def take(self, agent: str, subscribe: Message) -> Draft:
        """Keep a subscription, durably; gives what the handler answers: ``agree``, or ``refuse`` when full.

        Args:
            agent: Who offers it, an agent of this node.
            subscribe: What the handler was given.

        Raises:
            StorageFailed: the disk refused; nothing was kept.
        """
        key = agent, subscribe.reply_with
        if key not in self._subscribers and len(self._subscribers) >= SUBSCRIBERS_LIMIT:
            error = ResourceLimitExceeded(
                "too many subscriptions", why=f"the limit is {SUBSCRIBERS_LIMIT}", fix="Try again later."
            )
            return Draft(Performative.REFUSE, failure_content(error))
        row = SubscriberRow(
            agent,
            subscribe.reply_with,
            subscribe.sender,
            subscribe.conversation_id,
            subscribe.protocol,
            self._clock.wall(),
        )
        await self._storage.write(lambda connection: table.save(connection, row))
        self._subscribers[key] = row
        return Draft(Performative.AGREE)

    async def cancel(self, agent: str, cancel: Message) -> Draft:
        """End what the sender of a ``cancel`` has subscribed to in its conversation; gives the answer.

        Args:
            agent: Who offers it.
            cancel: What the handler was given.

        Raises:
            StorageFailed: the disk refused; nothing has ended.
        """
        ended = [
            row.label
            for row in self.of(agent)
            if row.subscriber == cancel.sender
            and row.conversation_id == cancel.conversation_id
            and cancel.in_reply_to in (None, row.label)
        ]
        for label in ended:
            await self._end(agent, label)
        self._counts["cancelled"] += len(ended)
        return Draft(Performative.INFORM, {"ended": len(ended)})

    async def publish(
        self,
        agent: str,
        content: Any,
        *,
        attachments: tuple[Attachment, ...] = (),
        key: str | None = None,
        hops: int = 0,
        traceparent: str = "",
    ) -> int:
        """Inform every subscriber of an agent; the informs are durable when this returns.

        Args:
            agent: Whose.
            content: Any JSON value.
            attachments: Files that travel with it.
            key: Tells this event from others; published again under the same key, it informs nobody twice.
            hops: Messages that led to it.
            traceparent: W3C Trace Context of what caused it.

        Returns:
            How many are informed.

        Raises:
            CaxtonError: the informs were refused; those of a batch before may be on their way.
        """
        rows = self.of(agent)
        informs = [self._inform(row, content, attachments, key) for row in rows]
        self._counts["published"] += 1
        informed = 0
        for first in range(0, len(informs), BATCH_LIMIT):
            batch = informs[first : first + BATCH_LIMIT]
            results = await self._accept_many(batch, traceparent=traceparent, hops=hops, ttl_s=INFORM_TTL_S)
            refused = [
                (row, each)
                for row, each in zip(rows[first : first + BATCH_LIMIT], results, strict=True)
                if isinstance(each, CaxtonError)
            ]
            informed += len(batch) - len(refused)
            self._counts["informs"] += len(batch) - len(refused)
            for row, error in refused:
                if isinstance(error, ConversationClosed):
                    self._note(row, FAILURES_LIMIT)  # nobody can be informed in it any more
                elif not isinstance(error, DuplicateMessage):
                    raise error
        return informed

    def of(self, agent: str) -> list[SubscriberRow]:
        """The subscriptions to what an agent offers, oldest first."""
        return [row for row in self._subscribers.values() if row.agent == agent]

    def ended(self, letter: Letter) -> None:
        """A message has ended: an inform of ours tells whether its subscriber can be reached."""
        message = letter.message
        if not self._subscribers or message.in_reply_to is None:
            return
        key = message.sender.partition("@")[0], message.in_reply_to
        row = self._subscribers.get(key)
        if row is None or message.performative is not Performative.INFORM:
            return
        self._note(row, 0 if letter.ended == "settled" else row.failures + 1)

    async def run(self) -> None:
        """Write down who cannot be reached, and drop them after a while, until cancelled."""
        while True:
            await self._attention.wait()
            self._attention = trio.Event()
            while self._changed:
                row = self._subscribers.get(self._changed[0])
                try:
                    if row is not None:
                        await self._see_to(row)
                except StorageFailed as error:
                    _log.warning("a subscription cannot be written yet: %s", error)
                    await self._clock.sleep(AGAIN_S)
                    continue
                self._changed.popleft()

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "subscribers": len(self._subscribers),
            "subscribers_limit": SUBSCRIBERS_LIMIT,
            **self._counts,
        }

    def _note(self, row: SubscriberRow, failures: int) -> None:
        """So many informs in a row have failed; :meth:`run` sees to it."""
        if failures != row.failures:
            key = row.agent, row.label
            self._subscribers[key] = row._replace(failures=failures)
            self._changed.append(key)
            self._attention.set()

    async def _see_to(self, row: SubscriberRow) -> None:
        if row.failures < FAILURES_LIMIT:
            await self._storage.write(lambda connection: table.save(connection, row))
            return
        await self._end(row.agent, row.label)
        self._counts["dropped"] += 1
        error = MessageDeliveryFailed(
            "the subscription has ended",
            why=f"{FAILURES_LIMIT} informs in a row could not be delivered to {row.subscriber}",
            fix="Subscribe again.",
        )
        failure = self._message(row, Performative.FAILURE, failure_content(error), (), None)
        [result] = await self._accept_many([failure])
        if isinstance(result, CaxtonError):
            _log.warning("%s is not told that its subscription has ended: %s", row.subscriber, result)

    async def _end(self, agent: str, label: str) -> None:
        await self._storage.write(lambda connection: table.drop(connection, agent, label))
        self._subscribers.pop((agent, label), None)

    def _inform(
        self, row: SubscriberRow, content: Any, attachments: tuple[Attachment, ...], key: str | None
    ) -> Message:
        identifier = None
        if key is not None:
            told = f"{row.agent}\0{row.label}\0{key}".encode()
            identifier = f"inform-{hashlib.blake2b(told, digest_size=16).hexdigest()}"
        return self._message(row, Performative.INFORM, content, attachments, identifier)

    def _message(
        self,
        row: SubscriberRow,
        performative: Performative,
        content: Any,
        attachments: tuple[Attachment, ...],
        identifier: str | None,
    ) -> Message:
        identifier = identifier or self._environment.new_id()
        return Message(
            id=identifier,
            performative=performative,
            sender=f"{row.agent}@{self._node}",
            receiver=row.subscriber,
            content=content,
            conversation_id=row.conversation_id,
            reply_with=identifier,
            in_reply_to=row.label,
            protocol=row.protocol,
            timestamp_s=self._clock.wall(),
            attachments=attachments,
        )
