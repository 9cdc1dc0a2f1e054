"""Takes parked turns on: what was decided goes on, what nobody decides in time ends, and each is told once.

One task looks at the rows whenever something has changed, and at the latest when the next one expires. A row
that can go on gets a task, at most :data:`RESUMES_LIMIT` at once. Everything that such a task does is in the
row before the next thing begins, so that a crash anywhere leaves a row that says what may be done with it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import apsw
import trio

from node.agents.deployed import Store
from node.agents.journal import Journal
from node.agents.parked import Ending, given_up
from node.agents.turn import ParkedTurn, TurnParked
from node.environment import Environment
from node.errors import CaxtonError, ResourceLimitExceeded, StorageFailed, ValidationFailed
from node.llm.provider import ChatMessage
from node.messaging.delivery import Draft, failure_content
from node.messaging.durably import durably
from node.messaging.later import LateAnswers
from node.storage import approvals as table
from node.storage.approvals import CALLING, DECIDED, RESUMING, WAITING, ApprovalRow
from node.tools.approval import Binding
from node.tools.host import ToolHost
from node.vocabulary import Performative

_log = logging.getLogger(__name__)

PARKED_LIMIT: Final = 256
"""Most turns of a node that wait for an operator, or go on after one."""
RESUMES_LIMIT: Final = 8
"""Most turns that go on at once."""
KEPT_LIMIT: Final = 500
"""Most approvals that are shown after they have ended; the oldest leave first."""
LOOK_S: Final = 5.0
"""Longest pause between two looks while something is parked, in seconds: the wall clock may be set."""
AGAIN_S: Final = 0.5
"""Shortest pause between looks, and pause where the disk or the outbox has refused, in seconds."""
APPROVED: Final = "approved"
DENIED: Final = "denied"


class Resumable(Protocol):
    """What a configured agent offers for its parked turns."""

    async def call_approved(self, turn: ParkedTurn, approved: Binding) -> ChatMessage:
        """Make the call that waits."""
        ...

    async def go_on(self, turn: ParkedTurn, deadline: float | None) -> Draft:
        """Go on once the call has a result."""
        ...


@dataclass(slots=True)
class Place:
    """An agent that is deployed here.

    Args:
        fingerprint: Hash of its file.
        journal: Its log.
        runtime: Goes on with its turns; None while it is stopped.
        running: The turns that go on, by approval, and what stops each.
        idle: Set when none does.
    """

    fingerprint: str
    journal: Journal
    runtime: Resumable | None = None
    running: dict[str, trio.CancelScope] = field(default_factory=dict)
    idle: trio.Event = field(default_factory=trio.Event)


class _Over(Exception):
    """The row has ended by something else; nothing of this is written."""


class Resumption:
    """See the module's docstring.

    Args:
        environment: Clock and identifiers.
        storage: The node's database.
        answers: Sends what came of turns.
        tools: Says what may be called twice.
        park: Parks a turn that needs another approval, in place of the row that has ended.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        storage: Store,
        answers: LateAnswers,
        tools: ToolHost,
        park: Callable[[ApprovalRow, TurnParked], tuple[ApprovalRow, bytes]],
    ) -> None:
        self._clock = environment.clock
        self._storage = storage
        self._answers = answers
        self._tools = tools
        self._park = park
        self.places: dict[str, Place] = {}
        self._attention = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.open = 0
        self._counts = dict.fromkeys(("resumed", "given_up"), 0)

    async def run(self) -> None:
        """Take turns on until cancelled."""
        async with trio.open_nursery() as self._nursery:
            while True:
                self._attention = trio.Event()
                try:
                    pause_s = min(max(AGAIN_S, await self._look() - self._clock.wall()), LOOK_S)
                except StorageFailed as error:
                    _log.warning("parked turns cannot be read or ended yet: %s", error)
                    pause_s = AGAIN_S
                with self._clock.move_on_after(pause_s if self.open else math.inf):
                    await self._attention.wait()

    def attend(self) -> None:
        """Something has changed: look soon."""
        self._attention.set()

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "parked": self.open,
            "parked_limit": PARKED_LIMIT,
            "resuming": self._running,
            "resuming_limit": RESUMES_LIMIT,
            **self._counts,
        }

    async def give_up(self, row: ApprovalRow, ending: Ending) -> bool:
        """End a turn that does not go on, and tell its caller; says whether it had not changed meanwhile.

        Raises:
            StorageFailed: the disk refused; nothing has changed.
        """
        stored = await self._storage.read(lambda connection: table.turn(connection, row.id))
        if not stored:
            return False
        try:
            turn = ParkedTurn.decode(stored)
        except ValidationFailed as unreadable:
            _log.warning("the turn of %s is dropped, and its caller not told: %s", row.id, unreadable)
            wall_s, outcome = self._clock.wall(), Ending.UNREADABLE.value
            return await self._storage.write(lambda c: table.end(c, row, outcome, wall_s, KEPT_LIMIT))
        error = given_up(row, ending)
        self.note(row, "warning", f"the approval {row.id} of {row.server}/{row.tool} ends: {error.why}")
        draft = Draft(Performative.FAILURE, failure_content(error))
        is_over = await self._answer(row, turn, draft, ending.value)
        self._counts["given_up"] += is_over
        return is_over

    @property
    def _running(self) -> int:
        return sum(len(place.running) for place in self.places.values())

    async def _look(self) -> float:
        """Begin what can go on, end what cannot; returns the Unix time at which the next one expires."""
        soonest = math.inf
        rows = await self._storage.read(lambda connection: table.unended(connection, PARKED_LIMIT))
        self.open = len(rows)
        for row in rows:
            place = self.places.get(row.agent)
            if place is not None and row.id in place.running:
                continue
            ending = self._ending(row, place)
            if ending is not None:
                await self.give_up(row, ending)
                continue
            soonest = min(soonest, row.expires_s)
            ready = row.state != WAITING and place is not None and place.runtime is not None
            if ready and self._running < RESUMES_LIMIT and self._nursery is not None and place is not None:
                place.running[row.id] = trio.CancelScope()
                place.idle = trio.Event()
                self._nursery.start_soon(self._run_one, row, place)
        return soonest

    def _ending(self, row: ApprovalRow, place: Place | None) -> Ending | None:
        """Why a row that is not being worked on does not go on; None if it does."""
        is_here = place is not None and place.fingerprint == row.fingerprint
        if row.state == CALLING and not (is_here and self._tools.repeatable(row.server, row.tool)):
            return Ending.UNKNOWN
        if place is None:
            return Ending.REMOVED
        if not is_here:
            return Ending.REPLACED
        may_end = row.state in (WAITING, DECIDED) or place.runtime is None
        return Ending.EXPIRED if may_end and row.expires_s <= self._clock.wall() else None

    async def _run_one(self, row: ApprovalRow, place: Place) -> None:
        started = self._clock.now()
        try:
            with place.running[row.id]:
                succeeded = await self._resume(row, place)
                place.journal.count(succeeded=succeeded, took_s=self._clock.now() - started)
                self._counts["resumed"] += 1
        except StorageFailed as error:  # before anything was done; it is tried again
            _log.warning("the turn of approval %s cannot go on yet: %s", row.id, error)
            await self._clock.sleep(AGAIN_S)
        finally:
            del place.running[row.id]
            if not place.running:
                place.idle.set()
            self.attend()

    async def _resume(self, row: ApprovalRow, place: Place) -> bool:
        """Go on with a turn; says whether its caller got what it asked for, or may yet."""
        runtime = place.runtime
        stored = await self._storage.read(lambda connection: table.turn(connection, row.id))
        if runtime is None or not stored:  # it was stopped, or the turn has ended, since the look
            return False
        try:
            turn = ParkedTurn.decode(stored)
        except ValidationFailed:
            await self.give_up(row, Ending.UNREADABLE)
            return False
        if row.state == RESUMING and turn.message.once:  # it would be handled twice
            await self.give_up(row, Ending.UNKNOWN)
            return False
        if row.state != RESUMING:
            decided = await self._decided(row, turn, runtime, place.journal)
            if decided is None:
                return False
            turn = decided
        row = replace(row, state=RESUMING)
        until_s = turn.message.reply_by_s
        deadline = None if until_s is None else self._clock.now() + until_s - self._clock.wall()
        try:
            draft = await runtime.go_on(turn, deadline)
        except TurnParked as parked:
            return await self._park_again(row, turn, parked)
        except Exception:  # a bug in the runtime is the agent's failure, never the node's end
            _log.exception("agent %s failed unexpectedly", row.agent)
            place.journal.log("error", "failed unexpectedly", message_id=row.message_id)
            told = CaxtonError("the agent failed unexpectedly; see the node's log")
            draft = Draft(Performative.FAILURE, failure_content(told))
        if draft.performative is Performative.REFUSE:  # what was agreed to can fail, not be refused
            draft = replace(draft, performative=Performative.FAILURE)
        await self._answer(row, turn, draft, f"answered {draft.performative.value}")
        return draft.performative is not Performative.FAILURE

    async def _decided(
        self, row: ApprovalRow, turn: ParkedTurn, runtime: Resumable, journal: Journal
    ) -> ParkedTurn | None:
        """Do what was decided about a call; None where the row has been ended instead."""
        if row.verdict == APPROVED:
            if row.state == DECIDED and not await self._advance(row.id, DECIDED, CALLING):
                return None
            journal.log("info", f"tool {turn.call.name}: the approved call is made", approval=row.id)
            state, result = CALLING, await self._called(row, turn, runtime)
        else:
            told = f"denied by the operator: {row.reason}" if row.reason else "denied by the operator"
            state, result = DECIDED, ChatMessage("tool", told, call=turn.call, is_error=True)
        turn = turn.with_result(result)
        body = turn.encode()

        def job(connection: apsw.Connection) -> bool:
            return table.advance(connection, row.id, state, RESUMING, body)

        return turn if await durably(self._storage, self._clock, job) else None

    async def _called(self, row: ApprovalRow, turn: ParkedTurn, runtime: Resumable) -> ChatMessage:
        try:
            return await runtime.call_approved(turn, Binding.from_json(row.binding))
        except Exception:  # a bug in the runtime is the agent's failure, never the node's end
            _log.exception("the approved call of %s failed unexpectedly", row.agent)
            return ChatMessage("tool", "the call failed unexpectedly", call=turn.call, is_error=True)

    async def _advance(self, approval: str, state: str, to: str) -> bool:
        return await self._storage.write(lambda connection: table.advance(connection, approval, state, to))

    async def _park_again(self, row: ApprovalRow, turn: ParkedTurn, parked: TurnParked) -> bool:
        """End one approval and begin the next of the same turn."""
        try:
            following, body = self._park(row, parked)
        except ResourceLimitExceeded as error:
            draft = Draft(Performative.FAILURE, failure_content(error))
            await self._answer(row, turn, draft, "answered failure")
            return False
        wall_s = self._clock.wall()

        def job(connection: apsw.Connection) -> None:
            if table.end(connection, row, f"goes on with {following.id}", wall_s, KEPT_LIMIT):
                table.insert(connection, following, body)

        await durably(self._storage, self._clock, job)
        self.note(
            row, "info", f"tool {following.server}/{following.tool} waits for approval", approval=following.id
        )
        return True

    async def _answer(self, row: ApprovalRow, turn: ParkedTurn, draft: Draft, outcome: str) -> bool:
        """Send what came of a turn and end its row, in one transaction; says whether it had not ended.

        Raises:
            StorageFailed: it was to be given up, and the disk refused. What has been done is told in the end.
        """
        wall_s = self._clock.wall()

        def end(connection: apsw.Connection, _letter: object = None) -> None:
            if not table.end(connection, row, outcome, wall_s, KEPT_LIMIT):
                raise _Over

        while True:
            try:
                if not await self._send(row, draft, turn, end):
                    await durably(self._storage, self._clock, lambda connection: _tried(end, connection))
                break
            except _Over:
                return False
            except (StorageFailed, ResourceLimitExceeded) as error:
                if row.state != RESUMING:
                    raise StorageFailed("the end of a turn cannot be written yet", why=str(error)) from error
                await self._clock.sleep(AGAIN_S)
            except CaxtonError as error:  # nobody takes it: its conversation is closed, for example
                self.note(row, "warning", f"what came of {row.id} is not sent: {error}", code=error.code)
                outcome = f"not sent: {error.code}"
                await durably(self._storage, self._clock, lambda connection: _tried(end, connection))
                break
        self.note(row, "info", f"the turn of approval {row.id} has ended: {outcome}")
        return True

    async def _send(self, row: ApprovalRow, draft: Draft, turn: ParkedTurn, end: Callable[..., None]) -> bool:
        return await self._answers.send(
            draft,
            turn.message,
            agent=row.agent,
            identifier=row.turn_id,
            wall_s=self._clock.wall(),
            hops=turn.hops,
            traceparent=turn.traceparent,
            together_with=end,
        )

    def note(self, row: ApprovalRow, level: str, text: str, **fields: Any) -> None:
        """Write into the log of the agent whose turn it is."""
        place = self.places.get(row.agent)
        if place is not None:
            place.journal.log(level, text, **fields)


def _tried(end: Callable[[apsw.Connection], None], connection: apsw.Connection) -> None:
    try:
        end(connection)
    except _Over:
        return
