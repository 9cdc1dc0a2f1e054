"""Contract Net: calls for proposals, awards the task, waits for its result, and leaves no bid undecided.

Theory of operation. A call is a broadcast of a ``cfp`` whose ``reply_by`` is the deadline for bids. What has
come by then, or as soon as everybody has answered, is compared by :mod:`node.messaging.tender`, which also
says who is next when a winner fails. A bid is decided by a message whose id is made of the bid's, and a node
accepts each id once: so no bid is decided twice, whoever decides. The call leaves a row in the transaction
that accepts it. Bids that come late are rejected because of it, and so is, at the next start, everything that
a stopped node has left undecided: whoever had called is not there any more, and calls anew. A task that was
awarded before goes on.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import apsw
import trio
from msgspec.structs import replace

from node.environment import Environment
from node.errors import CaxtonError, DuplicateMessage, ResourceLimitExceeded, ValidationFailed
from node.message import Message
from node.messaging.asking import Accept
from node.messaging.conversations import Quoted, Wait, Waits
from node.messaging.letters import Letter
from node.messaging.settings import CLIENTS
from node.messaging.tender import DEADLINE_LIMIT_S, RESULT_LIMIT_S, Award, Bid, Tender, decision_id
from node.storage import calls as table
from node.storage import inbox, outbox
from node.storage.storage import Storage
from node.vocabulary import Performative, RoutingStrategy

_log = logging.getLogger(__name__)

PROTOCOL: Final = "fipa-contract-net"
CALL_LIMIT: Final = 256
"""Most calls under way at once."""
CALLS_REMEMBERED: Final = 10_000
"""Most calls whose late bids are rejected; the oldest are forgotten."""
CALL_MEMORY_S: Final = 3_600.0
"""How long they are remembered, in seconds."""
REJECTIONS_LIMIT: Final = 10_000
"""Most bids that wait to be rejected; what is beyond it is left for the next start."""
BID_ROWS_LIMIT: Final = 2_000
"""Most answers to one call that are looked through for undecided bids."""
AGAIN_S: Final = 1.0
"""Pause before a rejection that could not be accepted is tried again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of a call.

    Args:
        call: The ``cfp``.
        asked: Whom it went to.
        tender: Its bids and what has become of them.
    """

    call: Message
    asked: list[str]
    tender: Tender

    @property
    def results(self) -> list[Message]:
        """What the winners have answered, in order of the bids."""
        return [bid.result for bid in self.tender.bids if bid.state == "done" and bid.result is not None]

    def as_json(self) -> dict[str, Any]:
        """The outcome as the public API shows it."""
        tender = self.tender
        return {
            "message_id": self.call.id,
            "conversation_id": self.call.conversation_id,
            "status": tender.status,
            "asked": self.asked,
            "bids": [bid.as_json() for bid in tender.bids],
            "declined": [{"from": who, "performative": how} for who, how in tender.declined.items()],
            "silent": tender.silent,
            "awarded": [bid.message.sender for bid in tender.bids if bid.state in ("done", "failed")],
            "results": [result.as_json() for result in self.results],
        }


class ContractNet:
    """See the module's docstring.

    Args:
        environment: Clock.
        storage: The node's database.
        waits: Who waits for which reply.
        sender: Gives a message the full address of its sender.
        accept: Takes a message.
        give_up: Told of a message (its id) whose answers are late from now on.
        is_alive: Whether a node is there.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        storage: Storage,
        waits: Waits,
        sender: Callable[[Message], Message],
        accept: Accept,
        give_up: Callable[[str], Awaitable[None]],
        is_alive: Callable[[str], bool],
    ) -> None:
        self._clock, self._storage, self._waits = environment.clock, storage, waits
        self._sender, self._accept, self._give_up, self._is_alive = sender, accept, give_up, is_alive
        self._calls: OrderedDict[Quoted, float] = OrderedDict()
        self._under_way = 0
        self._rejections: deque[Bid] = deque()
        self._attention = trio.Event()
        self._awarded: dict[trio.CancelScope, str] = {}  # as many as calls under way have winners
        self._counts = dict.fromkeys(("calls", "bids", "awarded", "done", "rejected", "late_bids"), 0)
        waits.on_unclaimed = self._unclaimed

    async def load(self) -> None:
        """Find what a node that stopped has left undecided, to be rejected when :meth:`run` begins."""
        wall = self._clock.wall()

        def query(connection: apsw.Connection) -> list[tuple[table.CallRow, list[Message]]]:
            return [(row, _undecided(connection, row)) for row in table.load(connection)]

        for row, bids in await self._storage.read(query):
            self._remember((row.sender, row.reply_with), row.at_s)
            self._waits.abandon((row.sender, row.reply_with))
            for bid in bids:
                if bid.reply_by_s is None or bid.reply_by_s > wall:
                    self._reject([Bid(bid).reject("whoever has called was stopped before the award")])

    async def run(self) -> None:
        """Send rejections until cancelled."""
        while True:
            await self._attention.wait()
            self._attention = trio.Event()
            while self._rejections:
                try:
                    await self._send_rejection(self._rejections[0])
                except CaxtonError as error:
                    _log.warning("a rejection waits: %s", error)
                    await self._clock.sleep(AGAIN_S)
                    continue
                self._rejections.popleft()

    async def call(
        self,
        message: Message,
        *,
        deadline_s: float,
        result_s: float,
        award: Award,
        traceparent: str = "",
        hops: int = 0,
        cause: str | None = None,
    ) -> Outcome:
        """Call for proposals, award the task, and wait for the result.

        Args:
            message: The task: its content goes to all that offer its capability, and again to the winner.
            deadline_s: Time for bids, in seconds; shorter when everybody has answered.
            result_s: Time for the result of each award, in seconds.
            award: By which rule.
            traceparent: W3C Trace Context of what caused it.
            hops: Messages that led to it.
            cause: The id of the message that it was caused by.

        Raises:
            ValidationFailed: a time is out of its bounds, or the message is not for a capability.
            ResourceLimitExceeded: too many calls are under way, or what ``accept`` refuses for.
            CaxtonError: whatever else ``accept`` raises.
        """
        _check_times(deadline_s, result_s)
        if message.capability is None:
            raise ValidationFailed(
                "a call for proposals is for a capability", fix="Give one.", details={"field": "capability"}
            )
        if self._under_way >= CALL_LIMIT:
            raise ResourceLimitExceeded(
                "too many calls for proposals are under way",
                why=f"the limit is {CALL_LIMIT}",
                fix="Try again later.",
                details={"retry_after_s": 1},
            )
        call = self._sender(
            replace(
                message,
                performative=Performative.CFP,
                protocol=PROTOCOL,
                routing_strategy=RoutingStrategy.BROADCAST,
                reply_by_s=self._clock.wall() + deadline_s,
            )
        )
        self._under_way += 1
        self._counts["calls"] += 1
        try:
            return await self._run(call, deadline_s, result_s, award, _Causes(traceparent, hops, cause))
        finally:
            self._under_way -= 1

    async def task_of(self, accept: Message) -> Message | None:
        """The ``cfp`` whose bid is accepted by a message to an agent of this node; None when it is not known.

        Args:
            accept: The ``accept_proposal``.
        """

        def query(connection: apsw.Connection) -> Message | None:
            row = outbox.find_quoted(connection, accept.in_reply_to or "")
            copies = [] if row is None or row.cause is None else inbox.find(connection, row.cause, 1)
            found = Message.unseal(copies[0].sealed) if copies else None
            return found if found is not None and found.performative is Performative.CFP else None

        return await self._storage.read(query)

    def node_lost(self, node: str) -> None:
        """``node`` died or left: what it was awarded goes to the next best."""
        for scope, where in self._awarded.items():
            if where == node:
                scope.cancel()

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "under_way": self._under_way,
            "under_way_limit": CALL_LIMIT,
            "remembered": len(self._calls),
            "remembered_limit": CALLS_REMEMBERED,
            "rejections": len(self._rejections),
            "rejections_limit": REJECTIONS_LIMIT,
            **self._counts,
        }

    # One call

    async def _run(
        self, call: Message, deadline_s: float, result_s: float, award: Award, causes: _Causes
    ) -> Outcome:
        wait = self._waits.open(call, None)
        tender = Tender(award)
        try:
            try:
                with self._clock.move_on_after(deadline_s):
                    receipt = await self._accept(
                        call,
                        traceparent=causes.traceparent,
                        hops=causes.hops,
                        cause=causes.cause,
                        ttl_s=deadline_s,
                        together_with=self._note,
                    )
                    await self._gather(call, wait, award, receipt.routed_to)
            finally:
                self._waits.close(wait)  # what comes from now on is late
                self._remember((call.sender, call.reply_with), self._clock.wall())
            asked = await self._asked(call.id)
            self._reject(tender.compare(wait.replies, asked))
            self._counts["bids"] += len(tender.bids)
            await self._expect_no_more(call)
            async with trio.open_nursery() as nursery:
                for _ in range(award.winners):
                    nursery.start_soon(self._fill, tender, call, result_s, causes)
        except BaseException:  # whoever has bid is told, whatever has ended the call
            self._reject([Bid(each).reject("the call was broken off") for each in _bids(wait.replies)])
            raise
        self._reject(tender.close("another bid has won" if tender.status == "done" else "the call is over"))
        return Outcome(call, asked, tender)

    async def _gather(self, call: Message, wait: Wait, award: Award, routed_to: Sequence[str]) -> None:
        """Wait until further bids cannot change anything; the caller knows how long at most."""
        asked = dict.fromkeys(routed_to)
        heard: dict[str, None] = {}
        looked_at = bids = 0
        while True:
            wait.satisfied = trio.Event()
            wait.expect(looked_at + wait.missing + 1)
            await wait.satisfied.wait()
            for reply in wait.replies[looked_at:]:
                heard[reply.sender] = None
                bids += reply.performative is Performative.PROPOSE
            looked_at = len(wait.replies)
            if award.hurries and bids >= award.winners:
                return
            if any(sender not in asked for sender in heard):  # or it had to wait for providers
                asked = dict.fromkeys(await self._asked(call.id))
                if any(sender.startswith(f"{outbox.SYSTEM}@") for sender in heard):
                    return  # nobody can be asked (any more)
            if asked and sum(sender in asked for sender in heard) + wait.missing >= len(asked):
                return

    async def _fill(self, tender: Tender, call: Message, result_s: float, causes: _Causes) -> None:
        """Award one place, to the next best as long as nobody brings the result."""
        while (bid := tender.next(self._clock.wall())) is not None:
            self._counts["awarded"] += 1
            try:
                result, reason = await self._award(bid, call, result_s, causes)
            except CaxtonError as error:  # it was not accepted here, so it was not awarded
                result, reason = None, str(error)
            if tender.answer(bid, result, reason):
                self._counts["done"] += 1
                return
            self._reject([bid])  # does nothing where it was awarded

    async def _award(
        self, bid: Bid, call: Message, result_s: float, causes: _Causes
    ) -> tuple[Message | None, str]:
        """Accept a bid and wait for what comes of it; or why nothing does."""
        proposal, node = bid.message, bid.message.sender.rpartition("@")[2]
        if not self._is_alive(node):
            return None, "its node is gone"
        accept = _decision(call, proposal, Performative.ACCEPT_PROPOSAL, call.content, self._clock.wall())
        accept = replace(accept, reply_by_s=self._clock.wall() + result_s)
        wait = self._waits.open(accept, 1)
        with self._clock.move_on_after(result_s) as scope:
            self._awarded[scope] = node
            try:
                await self._accept(
                    accept,
                    traceparent=causes.traceparent,
                    hops=causes.hops,
                    cause=proposal.id,
                    ttl_s=result_s,
                )
                await wait.satisfied.wait()
            finally:
                del self._awarded[scope]
                self._waits.close(wait)
        if wait.replies:
            return wait.replies[0], ""
        await self._expect_no_more(accept)
        gone = not self._is_alive(node)
        return None, "its node is gone" if gone else f"no result within {result_s:g} s"

    async def _expect_no_more(self, message: Message) -> None:
        if message.sender.partition("@")[0] not in CLIENTS:
            await self._give_up(message.id)

    async def _asked(self, message_id: str) -> list[str]:
        """Whom a call went to."""

        def query(connection: apsw.Connection) -> list[str]:
            row = outbox.find(connection, message_id)
            found = [] if row is None else outbox.routes(connection, row.seq)
            return [f"{route.agent}@{route.node}" for route in found]

        return await self._storage.read(query)

    # Bids that nobody awards

    def _note(self, connection: apsw.Connection, letter: Letter) -> None:
        """Remember a call, in the transaction that accepts it."""
        message, wall = letter.message, letter.accepted_s
        row = table.CallRow(message.id, message.sender, message.reply_with, wall)
        table.add(connection, row, before_s=wall - CALL_MEMORY_S, limit=CALLS_REMEMBERED)

    def _remember(self, quoted: Quoted, at_s: float) -> None:
        self._calls[quoted] = at_s
        while len(self._calls) > CALLS_REMEMBERED or self._oldest() < self._clock.wall() - CALL_MEMORY_S:
            self._calls.popitem(last=False)
            if not self._calls:
                return

    def _oldest(self) -> float:
        return next(iter(self._calls.values()))

    def _unclaimed(self, reply: Message) -> None:
        """A reply that nobody waits for: a bid that comes late is rejected."""
        if reply.performative is not Performative.PROPOSE:
            return
        if (reply.receiver or "", reply.in_reply_to or "") in self._calls:
            self._counts["late_bids"] += 1
            self._reject([Bid(reply).reject("the call for proposals has ended")])

    def _reject(self, bids: Sequence[Bid]) -> None:
        """Have bids rejected that are not decided yet."""
        self._rejections.extend(bids[: REJECTIONS_LIMIT - len(self._rejections)])
        self._attention.set()

    async def _send_rejection(self, bid: Bid) -> None:
        proposal = bid.message
        message = _decision(
            proposal, proposal, Performative.REJECT_PROPOSAL, {"reason": bid.reason}, self._clock.wall()
        )
        try:
            await self._accept(message, cause=proposal.id)
        except DuplicateMessage:
            return  # it is decided already
        self._counts["rejected"] += 1


@dataclass(frozen=True, slots=True)
class _Causes:
    """What a call came out of.

    Args:
        traceparent: W3C Trace Context.
        hops: Messages that led to it.
        cause: The id of the message that it was caused by.
    """

    traceparent: str
    hops: int
    cause: str | None


def _decision(
    call: Message, proposal: Message, performative: Performative, content: Any, wall_s: float
) -> Message:
    """What decides a bid; see :func:`node.messaging.tender.decision_id`."""
    identifier = decision_id(proposal)
    return Message(
        id=identifier,
        performative=performative,
        sender=proposal.receiver or call.sender,
        receiver=proposal.sender,
        content=content,
        conversation_id=call.conversation_id,
        reply_with=identifier,
        in_reply_to=proposal.reply_with,
        protocol=proposal.protocol,
        priority=call.priority,
        timestamp_s=wall_s,
    )


def _bids(replies: Sequence[Message]) -> list[Message]:
    return [reply for reply in replies if reply.performative is Performative.PROPOSE]


def _undecided(connection: apsw.Connection, call: table.CallRow) -> list[Message]:
    """The bids for a call that have been received and not decided."""
    target = call.sender.partition("@")[0]
    rows = inbox.answers(connection, call.reply_with, target, (0, 1 << 62), BID_ROWS_LIMIT)
    bids = _bids([Message.unseal(row.sealed) for row in rows])
    return [bid for bid in bids if outbox.find(connection, decision_id(bid)) is None]


def _check_times(deadline_s: float, result_s: float) -> None:
    for name, value, limit in (
        ("deadline_s", deadline_s, DEADLINE_LIMIT_S),
        ("result_s", result_s, RESULT_LIMIT_S),
    ):
        if not 0.0 < value <= limit:
            raise ValidationFailed(
                f"the field {name!r} is not valid",
                why=f"must be over 0 and at most {limit:g} seconds",
                fix="Correct it and send again.",
                details={"field": name},
            )
