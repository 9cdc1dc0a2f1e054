"""The runtime of a configured agent: FIPA message -> prompt -> model and tools -> FIPA answer.

Everything is bounded before it is spent (:mod:`node.agents.guard`) and ends at the earliest of the agent's
own limit, the node's, and the time the sender is ready to wait. Whatever goes wrong becomes a FAILURE with
code and reason; the agent stays up. A turn with a call that an operator must approve first leaves here as
:class:`node.agents.turn.TurnParked`, and comes back to :meth:`ConfiguredAgent.go_on`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from node.agents.ask import Asker, Requester
from node.agents.bids import Bidder, Contracts
from node.agents.definition import AgentDefinition
from node.agents.guard import LoopGuard, LoopLimits
from node.agents.history import NOTHING_BEFORE, SUMMARY_TOKENS, Earlier, History
from node.agents.journal import Journal
from node.agents.offers import consider
from node.agents.output import invalid, judged, repair
from node.agents.prompt import first_messages, reply_content, subject_of, tool_text
from node.agents.remembering import NOTHING, STORE_S, AgentMemory, Recalled
from node.agents.settings import AgentSettings
from node.agents.showing import speech_for, turn_of
from node.agents.template import as_text
from node.agents.toolbelt import Toolbelt
from node.agents.turn import ParkedTurn, TurnParked
from node.environment import Environment
from node.errors import CaxtonError, ProviderFailed, ResourceLimitExceeded, ToolFailed
from node.llm.builtin import NAME as BUILTIN
from node.llm.failures import RequestFailed
from node.llm.provider import ChatMessage, Completion, CompletionRequest, Provider, ToolSpec
from node.memory.room import MemoryRoom
from node.message import Message
from node.messaging.delivery import Delivery, Draft, Speech, failure_content
from node.telemetry.tracing import Tracing
from node.tools.approval import ApprovalNeeded, Binding
from node.tools.artifacts import Produced
from node.tools.builtin_servers import MEMORY_TOOLS
from node.tools.host import ToolHost
from node.tools.spans import child_span
from node.vocabulary import Performative

_OUTCOMES: Final = {
    "answer": Performative.INFORM,
    "failed": Performative.FAILURE,
    "not_understood": Performative.NOT_UNDERSTOOD,
    "refused": Performative.REFUSE,
}
_DECLINED: Final = {
    Performative.SUBSCRIBE: (Performative.REFUSE, "configured agents keep no subscriptions"),
    Performative.CANCEL: (
        Performative.NOT_UNDERSTOOD,
        "configured agents answer each message at once and keep nothing that could be cancelled",
    ),
}
"""Answered without the model: it cannot keep what these ask for beyond one message."""


class AskingBus(Requester, Contracts, Protocol):
    """What a configured agent needs of the bus."""

    async def said(self, conversation_id: str, limit: int) -> Sequence[Message]:
        """The latest messages of a conversation, in order of time."""
        ...


@dataclass(slots=True)
class _Thread:
    """One message while it is answered: its tools, what was recalled for it, what was said and made."""

    produced: Produced
    specs: tuple[ToolSpec, ...] = ()
    recalled: Recalled = NOTHING
    earlier: Earlier = NOTHING_BEFORE
    said: list[ChatMessage] = field(default_factory=list)
    results: list[ChatMessage | None] = field(default_factory=list)
    repaired: bool = False
    speech: Speech | None = None

    @property
    def worked(self) -> bool:
        """Whether a tool has answered that is not the memory itself."""
        called = [m.call.name for m in self.said if m.call is not None and not m.is_error]
        return any(name not in MEMORY_TOOLS for name in called)


class ConfiguredAgent:
    """Handles the messages of one configured agent.

    Args:
        definition: What the agent file says.
        node: Name of this node; the agent's address is ``id@node``.
        environment: Clock and identifiers.
        provider: The language model, chosen when the agent was deployed.
        tools: Where its tools run; which it may see is looked up anew for each message.
        tracing: Opens spans.
        bus: Carries its questions to other agents, and knows what it has bid for.
        journal: Where it notes what it does.
        settings: The node's bounds.
        workspace: The workspace it is deployed in.
        memory: The node's memory; only an agent with ``memory_enabled`` uses it by itself.
    """

    def __init__(
        self,
        definition: AgentDefinition,
        *,
        node: str,
        environment: Environment,
        provider: Provider,
        tools: ToolHost,
        tracing: Tracing,
        bus: AskingBus,
        journal: Journal,
        settings: AgentSettings,
        workspace: str = "",
        memory: MemoryRoom | None = None,
    ) -> None:
        self._definition = definition
        self._environment = environment
        self._provider = provider
        self._tracing = tracing
        self._journal = journal
        self._settings = settings
        self._workspace = workspace
        self._memory: AgentMemory | None = None
        if memory is not None and definition.memory_enabled:
            self._memory = AgentMemory(
                definition, memory, workspace=workspace, clock=environment.clock, journal=journal
            )
        asker = Asker(
            sender=f"{definition.id}@{node}",
            requires=definition.requires,
            bus=bus,
            environment=environment,
        )
        self._tools = Toolbelt(
            definition,
            tools=tools,
            asker=asker,
            journal=journal,
            workspace=workspace,
            ask_limit_s=self._ask_limit_s,
        )
        self._history: History | None = None
        if definition.setting("conversation", "memory_strategy") is not None:
            self._history = History(
                definition, f"{definition.id}@{node}", bus.said, clock=environment.clock, journal=journal
            )
        self._bidder = Bidder(definition, bus=bus, clock=environment.clock)
        wanted = definition.setting("conversation", "max_turns", settings.max_turns)
        self._limits = LoopLimits(wanted, settings.max_tool_calls, settings.max_tokens)
        self._responds = bool(definition.setting("messaging", "auto_respond", False))
        self._longest_s = _longest_s(definition, settings)

    async def handle(self, delivery: Delivery) -> Sequence[Draft]:
        """Answer one message; messages that ask for nothing are noted and not answered."""
        message = delivery.message
        if self._memory is not None:
            await self._memory.judge(message)
        if message.performative is Performative.PROPOSE:
            return [consider(self._definition, message, self._journal)]
        if message.performative is Performative.CFP:
            draft = self._bidder.bid(message)
            self._journal.log("info", f"cfp from {message.sender}: {draft.performative.value}")
            return [draft]
        if message.performative is Performative.ACCEPT_PROPOSAL and "bids" in self._definition.groups:
            return [await self._perform(delivery)]
        if message.performative in _DECLINED:
            performative, reason = _DECLINED[message.performative]
            self._journal.log("info", f"{message.performative.value} from {message.sender} declined")
            return [Draft(performative, {"reason": reason}, protocol=message.protocol)]
        informs = message.performative is Performative.INFORM and self._responds
        if not message.expects_reply and not informs:
            self._journal.log("info", f"{message.performative.value} from {message.sender} noted")
            return []
        return [await self._run(delivery)]

    async def call_approved(self, turn: ParkedTurn, approved: Binding) -> ChatMessage:
        """Make the call that a parked turn waits for; what goes wrong is told to the model, as always."""
        result = await self._tools.call(turn.call, turn.delivery(None), turn.traceparent, approved)
        if isinstance(result, ApprovalNeeded):  # the binding was given, so the host cannot ask for one
            return ChatMessage("tool", str(result), call=turn.call, is_error=True)
        return result

    async def go_on(self, turn: ParkedTurn, deadline: float | None) -> Draft:
        """Go on with a turn that was parked, once the call that it waited for has a result.

        It has the agent's time for a message anew; turns, calls and tokens count on.

        Args:
            turn: The turn, with that result.
            deadline: Moment on the node's clock after which nobody wants an answer, or None.

        Raises:
            TurnParked: another call must be approved first.
        """
        thread = _Thread(
            Produced(self._settings.max_produced_bytes, turn.produced),
            self._tools.specs(),
            turn.recalled,
            turn.earlier,
            list(turn.said),
            list(turn.results),
            turn.is_repaired,
        )
        return await self._run(turn.delivery(deadline), thread, LoopGuard(self._limits, turn.spent))

    async def _perform(self, delivery: Delivery) -> Draft:
        """Do what a bid was accepted for; under Contract Net the result is an inform or a failure."""
        try:
            draft = await self._run(await self._bidder.task(delivery))
        except CaxtonError as error:
            return self._failure(error, LoopGuard(self._limits), delivery.message)
        if draft.performative is not Performative.REFUSE:
            return draft
        return replace(draft, performative=Performative.FAILURE)

    async def _run(
        self, delivery: Delivery, begun: _Thread | None = None, guard: LoopGuard | None = None
    ) -> Draft:
        """Answer a message by the model and its tools, or go on with what was begun."""
        thread = begun or _Thread(Produced(self._settings.max_produced_bytes), self._tools.specs())
        guard = guard or LoopGuard(self._limits)
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.id": self._definition.id,
            "gen_ai.agent.name": self._definition.name,
            "gen_ai.conversation.id": delivery.message.conversation_id,
        }
        with child_span(self._tracing, "agent.handle", delivery.traceparent, attributes) as span:
            draft = await self._answer(delivery, span.traceparent, thread, guard)
            if draft.performative is Performative.FAILURE:
                span.fail(str(draft.content.get("reason", "")))
            return draft

    async def _answer(self, delivery: Delivery, traceparent: str, thread: _Thread, guard: LoopGuard) -> Draft:
        budget_s = self._budget_s(delivery)
        draft: Draft | None = None
        try:
            with (
                speech_for(self._definition, delivery) as thread.speech,
                self._environment.clock.move_on_after(max(0.0, budget_s)),
            ):
                completion = await self._loop(delivery, guard, traceparent, thread)
                content = reply_content(self._definition, completion)
                if completion.outcome == "failed":
                    content = {
                        "code": ToolFailed.code,
                        "reason": completion.text,
                        "details": completion.content,
                    }
                performative = _OUTCOMES[completion.outcome]
                self._journal.log("info", f"answered {performative.value}", **guard.spent)
                made = thread.produced.attachments if performative is Performative.INFORM else ()
                draft = Draft(performative, content, protocol=delivery.message.protocol, attachments=made)
        except CaxtonError as error:
            return self._failure(error, guard, delivery.message)
        if draft is not None:
            if self._memory is not None:
                await self._learn(self._memory, delivery, thread, completion)
            return draft
        late = ResourceLimitExceeded(
            "the agent ran out of time", why=f"it had {budget_s:g} s", details={"limit": "wall_clock"}
        )
        return self._failure(late, guard, delivery.message)

    async def _learn(
        self, memory: AgentMemory, delivery: Delivery, thread: _Thread, completion: Completion
    ) -> None:
        """After the answer and outside its time, so that what is stored cannot fail it."""
        limit_s = STORE_S
        if delivery.deadline is not None:
            limit_s = min(limit_s, delivery.deadline - self._environment.clock.now())
        answer = completion.text.strip() or as_text(completion.content)
        if self._history is not None and self._history.strategy == "persist":
            fallen = self._history.to_persist(delivery.message, thread.earlier)
            await memory.keep(delivery.message, [turn.experience for turn in fallen])
        worked = thread.worked and completion.outcome == "answer"
        await memory.learn(delivery.message, thread.recalled, answer, worked=worked, limit_s=limit_s)

    def _ask_limit_s(self, delivery: Delivery) -> float:
        """Longest that another agent is waited for."""
        own_s = self._definition.setting("resource_limits", "tool_call_timeout")
        return min(own_s or self._settings.agent_timeout_s, self._budget_s(delivery))

    def _budget_s(self, delivery: Delivery) -> float:
        if delivery.deadline is None:
            return self._longest_s
        return min(self._longest_s, delivery.deadline - self._environment.clock.now())

    async def _loop(
        self, delivery: Delivery, guard: LoopGuard, traceparent: str, thread: _Thread
    ) -> Completion:
        message, schema = delivery.message, self._definition.output_schema
        if thread.said:
            await self._use_tools(delivery, guard, traceparent, thread)
        else:
            await self._begin(thread, message, guard, traceparent)
        while True:
            try:
                completion = await self._complete(thread, message, guard, traceparent)
                if not completion.tool_calls:
                    self._check_said(completion)
                    if schema is None or completion.outcome != "answer":
                        return completion
                    return judged(completion, schema)
            except RequestFailed as error:
                if error.kind != "unfollowed":
                    raise
                if thread.repaired:
                    raise invalid(error) from None
                thread.repaired = True
                self._journal.log("warning", f"the answer is to be repaired: {error.why}")
                thread.said += repair(error)
                continue
            guard.allow(completion.tool_calls)
            thread.said.append(ChatMessage("assistant", completion.text, tool_calls=completion.tool_calls))
            thread.results = [None] * len(completion.tool_calls)
            await self._use_tools(delivery, guard, traceparent, thread)

    async def _begin(self, thread: _Thread, message: Message, guard: LoopGuard, traceparent: str) -> None:
        """What the model is shown first."""
        if self._memory is not None:
            thread.recalled = await self._memory.recall(message)
        names = [spec.name for spec in thread.specs]
        if self._history is not None:
            thread.earlier = await self._remembered(self._history, thread, message, guard, traceparent)
        thread.said = first_messages(self._definition, message, names, thread.recalled.prompt, thread.earlier)

    async def _use_tools(
        self, delivery: Delivery, guard: LoopGuard, traceparent: str, thread: _Thread
    ) -> None:
        """Call the tools that the model has asked for last, as far as they have not been called.

        Raises:
            TurnParked: one of them needs an operator's approval; those that need none have been called.
        """
        calls = thread.said[-1].tool_calls
        needed = await self._tools.call_all(calls, thread.results, delivery, traceparent)
        if needed:
            asked = min(needed)
            raise TurnParked(
                ParkedTurn(
                    message=delivery.message,
                    sender_node=delivery.sender_node,
                    traceparent=delivery.traceparent,
                    hops=delivery.hops,
                    said=tuple(thread.said),
                    results=tuple(thread.results),
                    asked=asked,
                    is_repaired=thread.repaired,
                    recalled=thread.recalled,
                    earlier=thread.earlier,
                    spent=guard.state,
                    produced=thread.produced.attachments,
                ),
                needed[asked],
            )
        results, thread.results = thread.results, []
        thread.said += [_without_files(result, thread.produced) for result in results if result is not None]

    async def _remembered(
        self, history: History, thread: _Thread, message: Message, guard: LoopGuard, traceparent: str
    ) -> Earlier:
        """What was said before, with a summary of what has fallen out where the agent wants one."""
        earlier = await history.before(message)
        if history.strategy != "summarize" or not earlier.fallen:
            return earlier

        async def retell(messages: list[ChatMessage]) -> str:
            told = replace(thread, said=messages)
            completion = await self._complete(told, message, guard, traceparent, limit=SUMMARY_TOKENS)
            return completion.text

        return await history.retold(message, earlier, None if self._provider.name == BUILTIN else retell)

    def _check_said(self, completion: Completion) -> None:
        """Take no silence for an answer, and say where an answer is not whole."""
        if completion.outcome == "answer" and not completion.text.strip() and completion.content is None:
            raise ProviderFailed(
                "the model answered nothing",
                why=f"it ended with {completion.finish_reason!r}",
                details={"provider": completion.provider, "finish_reason": completion.finish_reason},
            )
        if completion.finish_reason == "length":
            self._journal.log("warning", "the answer was cut off at the limit of its tokens")

    async def _complete(
        self,
        thread: _Thread,
        message: Message,
        guard: LoopGuard,
        traceparent: str,
        *,
        limit: int | None = None,
    ) -> Completion:
        """Ask for one completion; with a limit of its tokens, for a text without tools and schema."""
        turn = guard.next_turn()
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": self._provider.name,
            "gen_ai.conversation.id": message.conversation_id,
            "caxton.turn": turn,
        }
        group = "llm" if self._definition.setting("llm", "temperature") is not None else "conversation"
        request = CompletionRequest(
            messages=tuple(thread.said),
            tools=thread.specs if limit is None else (),
            subject=subject_of(message),
            turn=turn,
            model=self._definition.setting("llm", "model"),
            temperature=self._definition.setting(group, "temperature"),
            max_tokens=self._definition.setting("llm", "max_tokens") if limit is None else limit,
            response_schema=self._definition.output_schema if limit is None else None,
            agent=self._definition.id,
            memories=thread.recalled.memories,
        )
        on_delta = turn_of(thread.speech if limit is None else None, turn)
        with child_span(self._tracing, "llm.complete", traceparent, attributes, kind="client") as span:
            try:
                completion = await self._provider.complete(request, on_delta=on_delta)
            except RequestFailed as error:
                guard.spend(error.usage)
                raise
            span.set("gen_ai.usage.input_tokens", completion.usage.input_tokens)
            span.set("gen_ai.usage.output_tokens", completion.usage.output_tokens)
            span.set("gen_ai.response.finish_reasons", completion.finish_reason)
            if completion.model:
                span.set("gen_ai.response.model", completion.model)
        guard.spend(completion.usage)
        return completion

    def _failure(self, error: CaxtonError, guard: LoopGuard, message: Message) -> Draft:
        self._journal.log("error", str(error), code=error.code, message_id=message.id, **guard.spent)
        return Draft(Performative.FAILURE, failure_content(error), protocol=message.protocol)


def _longest_s(definition: AgentDefinition, settings: AgentSettings) -> float:
    """The longest that an agent may take for a message: the least of its own bounds and the node's."""
    own = [
        definition.setting(group, name)
        for group, name in (
            ("conversation", "timeout"),
            ("performance", "max_execution_time"),
            ("resource_limits", "response_timeout"),
            ("security", "max_processing_time"),
        )
    ]
    return float(min([settings.agent_timeout_s, *(bound for bound in own if bound is not None)]))


def _without_files(answered: ChatMessage, produced: Produced) -> ChatMessage:
    """What the model is told of a tool's result; a file that it carries is kept for the answer."""
    try:
        told = produced.take(answered.result)
    except CaxtonError as error:
        return ChatMessage("tool", str(error), call=answered.call, is_error=True)
    return answered if told is answered.result else replace(answered, text=tool_text(told), result=told)
