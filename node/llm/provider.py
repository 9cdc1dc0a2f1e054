"""What a language-model provider is asked and what it answers, the same for every provider.

A request carries the conversation and, beside it, the message it is about (:class:`Subject`): a model is
shown prose, while the offline provider reads the message's own fields instead of guessing them from prose.

Who wants to see an answer while it is made hands in a function (``on_delta``). It is called from the
provider's task, must not block, and gets pieces whose concatenation is the text of the completion. An
answer that breaks off has been shown in part; where it is asked for again, a piece that is marked ``anew``
says that what was shown before counts no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

Role = Literal["system", "user", "assistant", "tool"]
Outcome = Literal["answer", "failed", "not_understood", "refused"]
StopReason = Literal["stop", "tool_calls", "length", "filtered", "refusal"]
"""Why a completion ended: by itself, for its tools, at a limit, by the provider's filter, by refusing."""

TOOL_AUTO: Final = "auto"
TOOL_NONE: Final = "none"
TOOL_REQUIRED: Final = "required"
"""Choices of tools that are no tool's name: as the model likes, none, at least one."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model sees it; ``input_schema`` is JSON Schema of an object."""

    name: str
    description: str
    input_schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to have a tool called.

    Args:
        id: The provider's name of this call.
        name: The tool.
        arguments: What to call it with; empty where the model wrote none that can be read.
        malformed: Why the arguments cannot be read; empty if they can. Such a call must not be made: the
            model is told.
    """

    id: str
    name: str
    arguments: Mapping[str, Any]
    malformed: str = ""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One entry of the conversation.

    Args:
        role: Who says it.
        text: What is said; for a tool, its result as JSON or its error as text.
        tool_calls: Tools the assistant wants called.
        call: The call that a tool entry answers.
        result: The tool's result as JSON values; None where it failed.
        is_error: Whether the tool failed.
    """

    role: Role
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    call: ToolCall | None = None
    result: Any = None
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file that came with the message; the tools can read it, the model cannot."""

    name: str
    media_type: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Subject:
    """The FIPA message a request is about."""

    performative: str
    capability: str = ""
    content: Any = None
    sender: str = ""
    conversation_id: str = ""
    files: tuple[FileInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """Something that the agent remembers; the prompt holds it too, as data.

    Args:
        text: What was observed.
        source: Where it is from, for people.
        similarity: How like the message it is, 0 to 1; None where that is not known.
    """

    text: str
    source: str
    similarity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """One turn asked of a provider.

    Args:
        messages: The conversation so far, the system prompt first.
        tools: The tools the model may ask for.
        subject: The message the conversation is about.
        turn: 1 for the first completion of this message.
        model: The agent's own choice of model; None leaves it to the provider.
        temperature: None leaves it to the provider.
        max_tokens: Most tokens of the answer; None leaves it to the provider.
        tool_choice: ``auto``, ``none``, ``required``, or the name of the tool that must be called.
        response_schema: JSON Schema that the answer must follow; None for free text.
        cache: Whether the prompt may be cached where that has to be asked for.
        agent: Id of the agent that asks; budgets are counted by it.
        memories: What the agent remembers about the subject, the best first.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSpec, ...] = ()
    subject: Subject
    turn: int = 1
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    tool_choice: str = TOOL_AUTO
    response_schema: Mapping[str, Any] | None = None
    cache: bool = True
    agent: str = ""
    memories: tuple[Memory, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens spent.

    Args:
        input_tokens: Of the prompt, those from and to a cache included.
        output_tokens: Of the answer, hidden reasoning included.
        estimated: Whether the provider did not count them, or not believably.
        cached_tokens: The part of ``input_tokens`` that came from a cache.
        cache_write_tokens: The part of ``input_tokens`` that was written to a cache.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    cached_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Of prompt and answer."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.estimated or other.estimated,
            self.cached_tokens + other.cached_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a provider answered: either tools to call, or the answer.

    Args:
        text: The answer in prose.
        tool_calls: Tools to call before there is an answer.
        content: The answer as JSON values, when the provider structured it itself or a schema was asked for.
        outcome: Whether it is an answer, or the provider failed, did not understand, or refuses.
        usage: Tokens spent on this answer.
        finish_reason: Why it ended.
        provider: Name of the provider that answered.
        model: Name of the model that answered, as the provider says it.
        cost_micros: What ``usage`` and ``wasted`` cost, in millionths of the currency of the price table;
            None where the model has no price.
        wasted: Tokens of attempts that failed before this one succeeded, as far as they are known.
        attempts: Requests that were made for this answer.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    content: Any = None
    outcome: Outcome = "answer"
    usage: Usage = field(default_factory=Usage)
    finish_reason: StopReason = "stop"
    provider: str
    model: str = ""
    cost_micros: int | None = None
    wasted: Usage = field(default_factory=Usage)
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer that is being made.

    Args:
        text: What comes next.
        anew: Whether the answer begins again with it: what was shown before is not part of it.
    """

    text: str
    anew: bool = False


OnDelta = Callable[[Delta], None]
"""Is shown an answer piece by piece."""


class Provider(Protocol):
    """A language model, or something that answers like one."""

    @property
    def name(self) -> str:
        """The name it is configured and labelled by."""
        ...

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Answer one turn.

        Args:
            request: The turn.
            on_delta: Is shown the text of the answer while it is made.

        Raises:
            ProviderFailed: it could not.
        """
        ...
