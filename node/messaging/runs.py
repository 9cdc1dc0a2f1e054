"""One run of an agent's handler: what is looked at before it, and what becomes of what it answers.

A handler that raises a CaxtonError has answered: with FAILURE. One that raises anything else is run again, in
place, so that order holds; after :data:`HANDLER_ATTEMPTS` runs the message has failed.

A handler of several messages is given those that nothing has to be awaited for (:func:`goes_along`). Each of
them has its own end; one that raised is tried again by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from node.environment import Environment
from node.errors import CaxtonError, StorageFailed
from node.messaging.blobs import Blobs
from node.messaging.delivery import Answer, BatchHandler, Delivery, Draft, Handler, failure_content
from node.messaging.inbox import BEGUN, Inbox
from node.messaging.mailboxes import Entry
from node.messaging.outbox import Outbox
from node.messaging.partial_sources import PartialSources
from node.messaging.ports import Tracer
from node.messaging.protocols import is_plain
from node.messaging.receiver import Handling
from node.messaging.referee import Referee
from node.messaging.settings import HANDLER_ATTEMPTS
from node.messaging.settlement import Handled
from node.vocabulary import Performative

_log = logging.getLogger(__name__)

RAISED_TEXT_LIMIT: Final = 300
"""Most characters of what a handler raised that are told to the origin."""
PAUSE_S: Final = 0.1
"""Pause before a handler that raised is run again, and while the outbox is overfull."""


@dataclass(slots=True)
class Ran:
    """What became of several messages.

    Args:
        handled: Those that their handler is done with.
        raised: Those to be tried again, each by itself.
    """

    handled: list[Handled]
    raised: list[Entry]


def goes_along(entry: Entry) -> bool:
    """Whether a message may be handled with others: nothing has to be awaited for it before."""
    message = entry.message
    return not (message.once or entry.attempts or (message.attachments and message.blobs)) and is_plain(
        message
    )


class Runs:
    """See the module's docstring.

    Args:
        environment: Clock.
        referee: Says which messages an agent must not see.
        outbox: Takes what handlers answer; while it is overfull nothing is handled.
        tracing: Starts a span per message.
        blobs: Has the content of large attachments, and takes it.
        sources: Shows answers while they are made.
        inbox: Counts attempts.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        referee: Referee,
        outbox: Outbox,
        tracing: Tracer,
        blobs: Blobs,
        sources: PartialSources,
        inbox: Inbox,
    ) -> None:
        self._clock = environment.clock
        self._referee, self._outbox, self._tracing = referee, outbox, tracing
        self._blobs, self._sources, self._inbox = blobs, sources, inbox
        self._running: dict[tuple[str, str], float] = {}  # as many as agents are given at once
        self._raised = self._batches = self._batched = 0

    def running_since(self, agent: str, message_id: str) -> float | None:
        """Unix seconds at which the handler run began in which a message is now; None when it is in none."""
        return self._running.get((agent, message_id))

    def statistics(self) -> dict[str, int]:
        """Counts since the start."""
        return {"raised": self._raised, "batches": self._batches, "batched": self._batched}

    async def one(self, agent: str, handler: Handler, entry: Entry) -> Handled:
        """Run a handler for one message until it has ended; after :meth:`room`."""
        message = entry.message
        if not is_plain(message):
            ruled_out = await self.judged(agent, entry)
            if ruled_out is not None:
                return ruled_out
        if message.once:
            return await self._once(agent, handler, entry)
        while True:
            if self._clock.now() >= entry.deadline:
                return _expired(agent, entry)
            trace = entry.traceparent
            if self._tracing.enabled:
                with self._tracing.span("message.handle", parent=trace, kind="consumer") as span:
                    trace = span.traceparent or trace
                    answered = await self._call(agent, handler, entry, trace, entry.attempts + 1)
            else:
                answered = await self._call(agent, handler, entry, trace, entry.attempts + 1)
            if not isinstance(answered, str):
                return Handled(agent, entry, Handling.SUCCEEDED, "", answered, trace)
            failed = _failed_for_good(agent, entry, answered)
            if failed is not None:
                return failed
            await self.count_attempt(entry)

    async def several(self, agent: str, handler: BatchHandler, entries: Sequence[Entry]) -> Ran:
        """Call a handler with messages that :func:`goes_along`; what it left is not in the answer."""
        await self.room()
        now, wall = self._clock.now(), self._clock.wall()
        ran = Ran([_expired(agent, entry) for entry in entries if now >= entry.deadline], [])
        batch = [entry for entry in entries if now < entry.deadline] if ran.handled else entries
        if not batch:
            return ran
        with ExitStack() as spans:
            traces = [self._trace(spans, entry) for entry in batch]
            for entry in batch:
                entry.started_s = self._running[agent, entry.message.id] = wall
            deliveries = [
                Delivery(e.message, e.origin, trace, 1, e.hops, e.deadline, self._sources)
                for e, trace in zip(batch, traces, strict=True)
            ]
            try:
                answers = await self._many(agent, handler, deliveries)
            finally:
                for entry in batch:
                    self._running.pop((agent, entry.message.id), None)
        self._batches += 1
        self._batched += len(answers)
        for entry, trace, answer in zip(batch, traces, answers, strict=False):
            answered = await self._taken(agent, entry, answer)
            if isinstance(answered, str):
                failed = _failed_for_good(agent, entry, answered)
                if failed is None:
                    ran.raised.append(entry)
                else:
                    ran.handled.append(failed)
            else:
                ran.handled.append(Handled(agent, entry, Handling.SUCCEEDED, "", answered, trace))
        return ran

    async def count_attempt(self, entry: Entry) -> None:
        """A run raised: write that down, and wait before the next."""
        await self._inbox.count_attempt(entry)
        await self._clock.sleep(PAUSE_S)

    async def judged(self, agent: str, entry: Entry) -> Handled | None:
        """What becomes of a message that is out of protocol; None when the agent may have it."""
        while True:
            try:
                return await self._referee.look_at(agent, entry)
            except StorageFailed as error:
                _log.warning("a message for %s cannot be judged yet: %s", agent, error)
                await self._clock.sleep(PAUSE_S)

    async def room(self) -> None:
        """Wait while the outbox is overfull: nothing is handled then."""
        while self._outbox.overfull:
            await self._clock.sleep(PAUSE_S)

    async def _once(self, agent: str, handler: Handler, entry: Entry) -> Handled:
        """Run the handler unless it may have run before; that it runs is durable before it does."""
        if entry.attempts:
            return Handled(agent, entry, Handling.EXHAUSTED, BEGUN)
        if self._clock.now() >= entry.deadline:
            return _expired(agent, entry)
        entry.started_s = self._clock.wall()
        await self._inbox.count_attempt(entry)
        with self._tracing.span("message.handle", parent=entry.traceparent, kind="consumer") as span:
            trace = span.traceparent or entry.traceparent
            answered = await self._call(agent, handler, entry, trace, entry.attempts)
        if isinstance(answered, str):
            reason = f"its handler raised {answered}, and it is delivered at most once"
            return Handled(agent, entry, Handling.EXHAUSTED, reason)
        return Handled(agent, entry, Handling.SUCCEEDED, "", answered, trace)

    async def _call(
        self, agent: str, handler: Handler, entry: Entry, traceparent: str, attempt: int
    ) -> Sequence[Draft] | str:
        """What the handler answers, or what it raised, as text of bounded length."""
        message, name = entry.message, (agent, entry.message.id)
        self._running[name] = entry.started_s = self._clock.wall()
        delivery = Delivery(
            message, entry.origin, traceparent, attempt, entry.hops, entry.deadline, self._sources
        )
        try:
            if message.attachments and message.blobs:
                return await self._call_with_blobs(handler, delivery)
            drafts = list(await handler(delivery))
            return await self._outsourced(drafts) if drafts else drafts
        except Exception as error:  # an agent's bug is the agent's failure, never the node's end
            return self._raising(agent, entry, error)
        finally:
            self._running.pop(name, None)

    async def _many(self, agent: str, handler: BatchHandler, batch: Sequence[Delivery]) -> Sequence[Answer]:
        try:
            answers = await handler.many(batch)
        except Exception as error:  # as if it had raised for each
            return [error] * len(batch)
        if not 0 < len(answers) <= len(batch):
            return [RuntimeError(f"{len(answers)} answers to {len(batch)} messages")] * len(batch)
        return answers

    async def _taken(self, agent: str, entry: Entry, answer: Answer) -> Sequence[Draft] | str:
        if isinstance(answer, Exception):
            return self._raising(agent, entry, answer)
        try:
            return await self._outsourced(answer)
        except Exception as error:
            return self._raising(agent, entry, error)

    def _raising(self, agent: str, entry: Entry, error: Exception) -> Sequence[Draft] | str:
        if isinstance(error, CaxtonError):
            return [Draft(Performative.FAILURE, failure_content(error))]
        self._raised += 1
        trouble = (type(error), error, error.__traceback__)
        _log.error("the handler of %s raised on message %s", agent, entry.message.id, exc_info=trouble)
        return f"{type(error).__name__}: {error}".rstrip(": ")[:RAISED_TEXT_LIMIT]

    async def _outsourced(self, answered: Sequence[Draft]) -> list[Draft]:
        drafts = list(answered)
        for place, draft in enumerate(drafts):
            if isinstance(draft, Draft) and draft.attachments:
                drafts[place] = await self._blobs.outsourced(draft)
        return drafts

    async def _call_with_blobs(self, handler: Handler, delivery: Delivery) -> list[Draft]:
        message, deadline = delivery.message, delivery.deadline or float("inf")
        filled = await self._blobs.filled(message, delivery.sender_node, deadline)
        try:
            return await self._outsourced(await handler(replace(delivery, message=filled)))
        finally:
            self._blobs.release(message)

    def _trace(self, spans: ExitStack, entry: Entry) -> str:
        if not self._tracing.enabled:
            return entry.traceparent
        span = self._tracing.span("message.handle", parent=entry.traceparent, kind="consumer")
        return spans.enter_context(span).traceparent or entry.traceparent


def _expired(agent: str, entry: Entry) -> Handled:
    return Handled(agent, entry, Handling.EXPIRED, "its time was up before it was handled")


def _failed_for_good(agent: str, entry: Entry, raised: str) -> Handled | None:
    """The end of a message whose handler has raised often enough."""
    if entry.attempts + 1 < HANDLER_ATTEMPTS:
        return None
    reason = f"its handler raised {HANDLER_ATTEMPTS} times, at last {raised}"
    return Handled(agent, entry, Handling.EXHAUSTED, reason)
