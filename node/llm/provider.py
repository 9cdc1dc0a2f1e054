"""What a language-model provider is asked and what it answers, the same for every provider.

A request carries the conversation and, beside it, the message it is about (:class:`Subject`): a model is
shown prose, while the offline provider reads the message's own fields instead of guessing them from prose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant", "tool"]
Outcome = Literal["answer", "failed", "not_understood", "refused"]


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model sees it; ``input_schema`` is JSON Schema of an object."""

    name: str
    description: str
    input_schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to have a tool called."""

    id: str
    name: str
    arguments: Mapping[str, Any]


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
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSpec, ...] = ()
    subject: Subject
    turn: int = 1
    model: str | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens spent; ``estimated`` when the provider does not count them."""

    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a provider answered: either tools to call, or the answer.

    Args:
        text: The answer in prose.
        tool_calls: Tools to call before there is an answer.
        content: The answer as JSON values, when the provider structured it itself.
        outcome: Whether it is an answer, or the provider failed, did not understand, or refuses.
        usage: Tokens spent.
        finish_reason: ``stop``, ``tool_calls`` or ``length``.
        provider: Name of the provider that answered.
        model: Name of the model that answered.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    content: Any = None
    outcome: Outcome = "answer"
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = "stop"
    provider: str
    model: str = ""


class Provider(Protocol):
    """A language model, or something that answers like one."""

    @property
    def name(self) -> str:
        """The name it is configured and labelled by."""
        ...

    async def complete(self, request: CompletionRequest) -> Completion:
        """Answer one turn.

        Raises:
            ProviderFailed: it could not.
        """
        ...
