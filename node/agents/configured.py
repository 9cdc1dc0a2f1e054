"""The runtime of a configured agent: FIPA message -> prompt -> model and tools -> FIPA answer.

Everything is bounded before it is spent (:mod:`node.agents.guard`) and ends at the earliest of the agent's
own limit, the node's, and the time the sender is ready to wait. Whatever goes wrong becomes a FAILURE with
code and reason; the agent stays up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import trio

from node.agents.ask import Asker, Requester
from node.agents.bids import Bidder, Contracts
from node.agents.definition import AgentDefinition
from node.agents.guard import LoopGuard, LoopLimits
from node.agents.history import NOTHING_BEFORE, SUMMARY_TOKENS, Earlier, History
from node.agents.journal import Journal
from node.agents.output import invalid, judged, repair
from node.agents.prompt import first_messages, reply_content, subject_of, tool_text
from node.agents.remembering import NOTHING, STORE_S, AgentMemory, Recalled
from node.agents.settings import AgentSettings
from node.agents.showing import speech_for, turn_of
from node.agents.template import as_text
from node.environment import Environment
from node.errors import CaxtonError, ProviderFailed, ResourceLimitExceeded, ToolFailed
from node.llm.builtin import NAME as BUILTIN
from node.llm.failures import RequestFailed
from node.llm.provider import ChatMessage, Completion, CompletionRequest, Provider, ToolCall, ToolSpec
from node.memory.room import MemoryRoom
from node.message import Message
from node.messaging.delivery import Delivery, Draft, Speech, failure_content
from node.telemetry.tracing import Tracing
from node.tools.artifacts import Produced
from node.tools.builtin_servers import MEMORY_TOOLS
from node.tools.caller import Caller
from node.tools.host import CallContext, ToolHost
from node.tools.spans import child_span
from node.vocabulary import Performative

_CONCURRENT_TOOLS: Final = 3
_ACTION_KEYS: Final = ("action", "proposal", "operation", "task")
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
        self._tools = tools
        self._tracing = tracing
        self._journal = journal
        self._settings = settings
        self._workspace = workspace
        self._memory: AgentMemory | None = None
        if memory is not None and definition.memory_enabled:
            self._memory = AgentMemory(
                definition, memory, workspace=workspace, clock=environment.clock, journal=journal
            )
        self._asker = Asker(
            sender=f"{definition.id}@{node}",
            requires=definition.requires,
            bus=bus,
            environment=environment,
        )
        self._history: History | None = None
        if definition.setting("conversation", "memory_strategy") is not None:
            self._history = History(
                definition, f"{definition.id}@{node}", bus.said, clock=environment.clock, journal=journal
            )
        self._bidder = Bidder(definition, bus=bus, clock=environment.clock)
        wanted = definition.setting("conversation", "max_turns", settings.max_turns)
        self._limits = LoopLimits(wanted, settings.max_tool_calls, settings.max_tokens)

    async def handle(self, delivery: Delivery) -> Sequence[Draft]:
        """Answer one message; messages that ask for nothing are noted and not answered."""
        message = delivery.message
        if self._memory is not None:
            await self._memory.judge(message)
        if message.performative is Performative.PROPOSE:
            return [self._consider(message)]
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
        responds = self._definition.setting("messaging", "auto_respond", False)
        if not message.expects_reply and not (message.performative is Performative.INFORM and responds):
            self._journal.log("info", f"{message.performative.value} from {message.sender} noted")
            return []
        return [await self._run(delivery)]

    async def _perform(self, delivery: Delivery) -> Draft:
        """Do what a bid was accepted for; under Contract Net the result is an inform or a failure."""
        try:
            draft = await self._run(await self._bidder.task(delivery))
        except CaxtonError as error:
            return self._failure(error, LoopGuard(self._limits), delivery.message)
        if draft.performative is not Performative.REFUSE:
            return draft
        return replace(draft, performative=Performative.FAILURE)

    async def _run(self, delivery: Delivery) -> Draft:
        """Answer a message by the model and its tools."""
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.id": self._definition.id,
            "gen_ai.agent.name": self._definition.name,
            "gen_ai.conversation.id": delivery.message.conversation_id,
        }
        with child_span(self._tracing, "agent.handle", delivery.traceparent, attributes) as span:
            draft = await self._answer(delivery, span.traceparent)
            if draft.performative is Performative.FAILURE:
                span.fail(str(draft.content.get("reason", "")))
            return draft

    async def _answer(self, delivery: Delivery, traceparent: str) -> Draft:
        budget_s = self._budget_s(delivery)
        guard = LoopGuard(self._limits)
        thread = _Thread(Produced(self._settings.max_produced_bytes), self._tools_now())
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

    def _budget_s(self, delivery: Delivery) -> float:
        own = [
            self._definition.setting(group, name)
            for group, name in (
                ("conversation", "timeout"),
                ("performance", "max_execution_time"),
                ("resource_limits", "response_timeout"),
                ("security", "max_processing_time"),
            )
        ]
        bounds = [self._settings.agent_timeout_s, *(bound for bound in own if bound is not None)]
        if delivery.deadline is not None:
            bounds.append(delivery.deadline - self._environment.clock.now())
        return float(min(bounds))

    async def _loop(
        self, delivery: Delivery, guard: LoopGuard, traceparent: str, thread: _Thread
    ) -> Completion:
        message = delivery.message
        if self._memory is not None:
            thread.recalled = await self._memory.recall(message)
        names = [spec.name for spec in thread.specs]
        schema, repaired = self._definition.output_schema, False
        if self._history is not None:
            thread.earlier = await self._remembered(self._history, thread, message, guard, traceparent)
        thread.said = first_messages(self._definition, message, names, thread.recalled.prompt, thread.earlier)
        conversation = thread.said
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
                if repaired:
                    raise invalid(error) from None
                repaired = True
                self._journal.log("warning", f"the answer is to be repaired: {error.why}")
                conversation += repair(error)
                continue
            guard.allow(completion.tool_calls)
            conversation.append(ChatMessage("assistant", completion.text, tool_calls=completion.tool_calls))
            results = await self._call_all(completion.tool_calls, delivery, traceparent)
            conversation += [_without_files(result, thread.produced) for result in results]

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

    async def _call_all(
        self, calls: Sequence[ToolCall], delivery: Delivery, traceparent: str
    ) -> list[ChatMessage]:
        """Call the tools of one turn, a few at once; the results stand in the order of the calls."""
        width = self._definition.setting("performance", "concurrent_tools", _CONCURRENT_TOOLS)
        limiter = trio.Semaphore(width)
        results: dict[int, ChatMessage] = {}

        async def call(index: int, wanted: ToolCall) -> None:
            async with limiter:
                results[index] = await self._call(wanted, delivery, traceparent)

        async with trio.open_nursery() as nursery:
            for index, wanted in enumerate(calls):
                nursery.start_soon(call, index, wanted)
        return [results[index] for index in range(len(calls))]

    async def _call(self, call: ToolCall, delivery: Delivery, traceparent: str) -> ChatMessage:
        timeout_s = self._definition.setting("resource_limits", "tool_call_timeout")
        if call.malformed:
            self._journal.log("warning", f"tool {call.name} not called: {call.malformed}")
            return ChatMessage("tool", f"{call.malformed}; call it again", call=call, is_error=True)
        try:
            if call.name in self._asker:
                result = await self._asker.ask(
                    call.name,
                    call.arguments,
                    about=delivery.message,
                    hops=delivery.hops,
                    timeout_s=min(timeout_s or self._settings.agent_timeout_s, self._budget_s(delivery)),
                    traceparent=traceparent,
                )
            else:
                context = CallContext(
                    agent=self._definition.id,
                    granted=self._definition.tools,
                    restricted=self._definition.restricted_tools,
                    files={a.name: a.data for a in delivery.message.attachments},
                    caller=self._caller(delivery.message),
                    traceparent=traceparent,
                    timeout_s=timeout_s,
                    note=lambda text: self._journal.log("info", f"tool {call.name} {text}"),
                )
                result = await self._tools.call(call.name, call.arguments, context)
        except CaxtonError as error:
            self._journal.log("warning", f"tool {call.name}: {error}")
            return ChatMessage("tool", str(error), call=call, is_error=True)
        self._journal.log("debug", f"tool {call.name} answered")
        return ChatMessage("tool", tool_text(result), call=call, result=result)

    def _tools_now(self) -> tuple[ToolSpec, ...]:
        """The tools of this moment: those of other programs come and go with their servers."""
        found = self._tools.visible(self._definition.tools, self._definition.restricted_tools)
        specs = [ToolSpec(tool.name, tool.description, tool.input_schema) for tool in found]
        return (*specs, *self._asker.specs())

    def _caller(self, message: Message) -> Caller:
        security = self._definition.groups.get("security", {})
        limits = security.get("sandbox_restrictions", {})
        connected = limits.get("network_access", True)
        return Caller(
            self._definition.id,
            self._workspace,
            message.conversation_id,
            message.id,
            self._definition.memory_scope,
            domains=security.get("allowed_domains", ()) if connected else (),
            paths=security.get("allowed_paths"),
            file_access=limits.get("file_system_access", "read_only"),
        )

    def _consider(self, message: Message) -> Draft:
        """Accept or reject a proposal by the agent's rules; one that no rule names is not understood."""
        topic = message.content
        if isinstance(topic, dict):
            topic = next((topic[key] for key in _ACTION_KEYS if key in topic), None)
        word = topic.strip().casefold() if isinstance(topic, str) else ""
        for performative, rule in (
            (Performative.REJECT_PROPOSAL, "reject"),
            (Performative.ACCEPT_PROPOSAL, "accept"),
        ):
            named = [entry.casefold() for entry in self._definition.setting("proposals", rule, ())]
            if word and (word in named or "*" in named):
                self._journal.log("info", f"{performative.value}: {word[:80]}")
                content = {"proposal": message.content, "rule": rule}
                return Draft(performative, content, protocol=message.protocol)
        rules = self._definition.groups.get("proposals", {})
        reason = "no rule of the agent names this proposal"
        content = {"reason": reason, "rules": {k: list(v) for k, v in rules.items()}}
        return Draft(Performative.NOT_UNDERSTOOD, content, protocol=message.protocol)

    def _failure(self, error: CaxtonError, guard: LoopGuard, message: Message) -> Draft:
        self._journal.log("error", str(error), code=error.code, message_id=message.id, **guard.spent)
        return Draft(Performative.FAILURE, failure_content(error), protocol=message.protocol)


def _without_files(answered: ChatMessage, produced: Produced) -> ChatMessage:
    """What the model is told of a tool's result; a file that it carries is kept for the answer."""
    try:
        told = produced.take(answered.result)
    except CaxtonError as error:
        return ChatMessage("tool", str(error), call=answered.call, is_error=True)
    return answered if told is answered.result else replace(answered, text=tool_text(told), result=told)
