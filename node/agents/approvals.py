"""Calls of tools that wait for an operator: parked turns, and what is decided about them.

Theory of operation. A turn in which the model has asked for a tool that is marked leaves its agent as
:class:`node.agents.turn.TurnParked`. It is written here, in one row with the call that waits, before anybody
is told; then its message is answered with AGREE and settles. An operator decides about the row once. What
was decided goes on from the row (:mod:`node.agents.resuming`), and the answer is sent in the transaction that
ends the row. A turn with several such calls waits for one after the other, in the model's order, each under
an approval of its own; calls of the same step that need none have been made by then.

The states of a row, each durable before what follows from it:

    waiting -> decided -> calling -> resuming -> ended
                 |  (denied)            ^
                 +----------------------+

Found after a crash: ``waiting`` and ``decided`` go on as if nothing had been; ``calling`` may have been
called, so it is not called again unless the configuration says that it may be; ``resuming`` has its result.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any, Final, Protocol

import apsw
import trio

from node.agents.deployed import Store, fingerprint
from node.agents.journal import Journal
from node.agents.parked import Ending, already_decided, not_found, shown, shown_whole
from node.agents.resuming import APPROVED, DENIED, KEPT_LIMIT, PARKED_LIMIT, Place, Resumable, Resumption
from node.agents.turn import ParkedTurn, TurnParked
from node.environment import Environment
from node.errors import ResourceLimitExceeded
from node.message import Message
from node.messaging.delivery import Delivery
from node.messaging.later import LateAnswers, LaterBus
from node.storage import approvals as table
from node.storage.agents import AgentRow
from node.storage.approvals import DECIDED, ENDED, WAITING, ApprovalRow
from node.tools.approval import canonical
from node.tools.host import ToolHost

_Begun = tuple[str, str, str]
"""Agent, origin and message of a turn that was parked."""
BEGUN_LIMIT: Final = PARKED_LIMIT + KEPT_LIMIT
"""Most messages that are remembered because their turns were parked."""
AGENT_PARKED_LIMIT: Final = 64
"""Most turns of one agent that are parked."""
TURN_BYTES_LIMIT: Final = 4 * 1024 * 1024
"""Largest turn that is parked, its message's attachments included, as it is stored."""


class Placed(Protocol):
    """What the supervisor tells of an agent (``node.agents.instance.Instance``)."""

    @property
    def row(self) -> AgentRow:
        """It, as it is stored."""
        ...

    @property
    def journal(self) -> Journal:
        """Its log."""
        ...

    @property
    def resumable(self) -> Resumable | None:
        """Goes on with its turns."""
        ...


class Approvals:
    """See the module's docstring.

    Args:
        environment: Clock and identifiers.
        node: This node's name.
        storage: The node's database.
        bus: Takes what is sent in the end.
        tools: Says how long operators have, and what may be called twice.
    """

    def __init__(
        self, *, environment: Environment, node: str, storage: Store, bus: LaterBus, tools: ToolHost
    ) -> None:
        self._environment, self._clock = environment, environment.clock
        self._storage = storage
        self._tools = tools
        self._resumption = Resumption(
            environment=environment,
            storage=storage,
            answers=LateAnswers(bus, node),
            tools=tools,
            park=self._following,
        )
        # The messages whose turns were parked, for those that are delivered again; None before they are read.
        self._begun: OrderedDict[_Begun, None] | None = None
        self._counts = dict.fromkeys(("asked", APPROVED, DENIED), 0)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take on what was parked before the start, and what is decided, until cancelled.

        All agents that are deployed must have been placed.
        """
        begun, self._resumption.open = await self._storage.read(
            lambda connection: table.begun(connection, BEGUN_LIMIT)
        )
        self._begun = OrderedDict.fromkeys(begun)
        task_status.started()
        await self._resumption.run()

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {**self._counts, **self._resumption.statistics(), "kept_limit": KEPT_LIMIT}

    # For the supervisor

    def place(self, agent: Placed) -> None:
        """An agent is deployed: its turns go on while it has a runtime, and those of other versions end."""
        hashed = fingerprint(agent.row.content)
        place = self._resumption.places.setdefault(agent.row.id, Place(hashed, agent.journal))
        place.fingerprint, place.journal, place.runtime = hashed, agent.journal, agent.resumable
        self._resumption.attend()

    def remove(self, agent: str) -> None:
        """An agent is not deployed any more: its turns end."""
        self._resumption.places.pop(agent, None)
        self._resumption.attend()

    async def drain(self, agent: str, *, drain_s: float) -> None:
        """Let an agent's turns go on no further; those that do may take ``drain_s`` to end."""
        place = self._resumption.places.get(agent)
        if place is None:
            return
        place.runtime = None
        with self._clock.move_on_after(drain_s):
            while place.running:
                await place.idle.wait()
        for scope in place.running.values():
            scope.cancel(reason="the agent is stopped")
        while place.running:
            await place.idle.wait()

    # For agents

    async def of(self, agent: str, delivery: Delivery) -> ApprovalRow | None:
        """The latest approval of the turn that a message has begun before: it is delivered again."""
        origin, message = delivery.sender_node, delivery.message.id
        if self._begun is not None and (agent, origin, message) not in self._begun:
            return None
        return await self._storage.read(
            lambda connection: table.of_message(connection, agent, origin, message)
        )

    async def park(self, agent: str, fingerprint: str, parked: TurnParked) -> ApprovalRow:
        """Write a turn down; it is durable when this returns.

        Args:
            agent: Whose turn.
            fingerprint: Hash of the agent's file.
            parked: The turn.

        Raises:
            ResourceLimitExceeded: too many are parked, or it is too large; nothing was written.
            StorageFailed: the disk refused.
        """
        row, body = self._row(agent, fingerprint, parked, self._environment.new_id())

        def job(connection: apsw.Connection) -> None:
            in_all, own = table.open_counts(connection, agent)
            for found, limit, whose in ((in_all, PARKED_LIMIT, "node"), (own, AGENT_PARKED_LIMIT, "agent")):
                if found >= limit:
                    raise ResourceLimitExceeded(
                        "too many turns wait for an operator's approval",
                        why=f"at most {limit} of one {whose}",
                        fix="Decide about those that wait: caxton approvals list",
                        details={"limit": f"parked_turns_of_{whose}"},
                    )
            table.insert(connection, row, body)

        await self._storage.write(job)
        if self._begun is not None:
            self._begun[agent, row.origin, row.message_id] = None
            if len(self._begun) > BEGUN_LIMIT:
                self._begun.popitem(last=False)
        self._counts["asked"] += 1
        what = f"tool {row.server}/{row.tool} waits for approval"
        self._resumption.note(row, "info", what, approval=row.id, message_id=row.message_id)
        self._resumption.open += 1
        self._resumption.attend()
        return row

    async def cancel(self, agent: str, message: Message) -> tuple[list[str], list[str]] | None:
        """Give up what waits in a conversation because its sender has cancelled it.

        Args:
            agent: Whose turns.
            message: The cancel; with ``in_reply_to`` it is about that message alone.

        Returns:
            The approvals whose turns have ended, and those whose call has begun; None where nothing waits.

        Raises:
            StorageFailed: the disk refused.
        """
        if not self._resumption.open and self._begun is not None:
            return None
        sender, conversation = message.sender, message.conversation_id

        def query(connection: apsw.Connection) -> list[tuple[ApprovalRow, bytes]]:
            found = table.in_conversation(connection, agent, sender, conversation)
            return [(row, table.turn(connection, row.id)) for row in found]

        about = message.in_reply_to
        ended: list[str] = []
        begun: list[str] = []
        for row, stored in await self._storage.read(query):
            if about not in (None, row.message_id, ParkedTurn.decode(stored).message.reply_with):
                continue
            place = self._resumption.places.get(agent)
            is_running = place is not None and row.id in place.running
            may_end = row.state in (WAITING, DECIDED) and not is_running
            if may_end and await self._resumption.give_up(row, Ending.CANCELLED):
                ended.append(row.id)
            else:
                begun.append(row.id)
        self._resumption.attend()
        return (ended, begun) if ended or begun else None

    # For operators

    async def page(
        self, limit: int, *, states: Collection[str] = (), agent: str = "", before: str = ""
    ) -> list[dict[str, Any]]:
        """Approvals, the newest first.

        Args:
            limit: Most of them.
            states: Only in these states; without any, in all.
            agent: Only of this agent.
            before: Only older ones than this one.
        """
        found: Sequence[ApprovalRow] = await self._storage.read(
            lambda connection: table.page(connection, limit, states=states, agent=agent, before=before)
        )
        return [shown(row, self._clock.wall()) for row in found]

    async def get(self, approval: str) -> dict[str, Any]:
        """One approval with its exact arguments.

        Raises:
            ApprovalNotFound: there is none.
        """

        def query(connection: apsw.Connection) -> tuple[ApprovalRow | None, bytes]:
            row = table.find(connection, approval)
            return row, b"" if row is None else table.turn(connection, approval)

        row, stored = await self._storage.read(query)
        if row is None:
            raise not_found(approval)
        turn = ParkedTurn.decode(stored) if row.state != ENDED else None
        return shown_whole(row, turn, self._clock.wall())

    async def decide(self, approval: str, verdict: str, *, reason: str, by: str) -> dict[str, Any]:
        """Approve or deny a call, once; it is durable when this returns.

        Args:
            approval: Its id.
            verdict: :data:`APPROVED` or :data:`DENIED`.
            reason: Why; the model is told the reason of a denial.
            by: Who decides.

        Raises:
            ApprovalNotFound: there is none.
            ApprovalDecided: it is decided, or has expired.
            StorageFailed: nothing was decided.
        """
        wall_s = self._clock.wall()

        def job(connection: apsw.Connection) -> ApprovalRow:
            row = table.find(connection, approval)
            if row is None:
                raise not_found(approval)
            if row.state != WAITING or row.expires_s <= wall_s:
                raise already_decided(row, wall_s)
            table.decide(connection, approval, (verdict, reason, by, wall_s))
            return table.find(connection, approval) or row

        row = await self._storage.write(job)
        self._counts[verdict] += 1
        what = f"tool {row.server}/{row.tool}: {verdict} by {by}"
        self._resumption.note(row, "info", what, approval=row.id, reason=reason)
        self._resumption.attend()
        return shown(row, self._clock.wall())

    # Inside

    def _following(self, row: ApprovalRow, parked: TurnParked) -> tuple[ApprovalRow, bytes]:
        """The next approval of a turn that is parked again."""
        self._counts["asked"] += 1
        return self._row(row.agent, row.fingerprint, parked, row.turn_id)

    def _row(
        self, agent: str, fingerprint: str, parked: TurnParked, turn_id: str
    ) -> tuple[ApprovalRow, bytes]:
        """An approval and its turn, as they are written.

        Raises:
            ResourceLimitExceeded: the turn is too large.
        """
        turn, binding = parked.turn, parked.needed.binding
        body = turn.encode()
        if len(body) > TURN_BYTES_LIMIT:
            raise ResourceLimitExceeded(
                "the turn is too large to wait for an operator's approval",
                why=f"{len(body):,} bytes with its files; at most {TURN_BYTES_LIMIT:,} are kept",
                fix="Ask with smaller files.",
                details={"limit": "parked_turn_bytes"},
            )
        wall_s, message = self._clock.wall(), turn.message
        row = ApprovalRow(
            id=self._environment.new_id(),
            turn_id=turn_id,
            agent=agent,
            fingerprint=fingerprint,
            origin=turn.sender_node,
            message_id=message.id,
            conversation_id=message.conversation_id,
            caller=message.sender,
            server=binding.server,
            tool=binding.tool,
            arguments=canonical(turn.call.arguments),
            binding=binding.as_json(),
            state=WAITING,
            verdict="",
            reason="",
            decided_by="",
            decided_s=0.0,
            created_s=wall_s,
            expires_s=min(wall_s + self._tools.approval_timeout_s, message.reply_by_s or float("inf")),
            ended_s=0.0,
            outcome="",
        )
        return row, body
