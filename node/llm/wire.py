"""What the two languages of providers have in common: how one is spoken, and how its answers are read.

A dialect does no I/O: it makes the body of a request, and reads an answer whole or event by event. What it
reads was written by somebody else, so it believes nothing: an answer that is not of the form it must have is
:class:`Nonsense`, arguments that are no JSON object are reported with the call, and a count that cannot be
is no count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from node.llm.failures import Kind
from node.llm.provider import CompletionRequest, StopReason, ToolCall, Usage
from node.sse import Event

CALLS_LIMIT: Final = 64
"""Most tool calls of one completion; more is an answer that cannot be read."""
NAME_LIMIT: Final = 256
"""Longest name or identifier of a tool call that is believed, in characters."""
COUNT_LIMIT: Final = 100_000_000
"""Most tokens that a provider is believed to have counted."""
_BYTES_PER_TOKEN: Final = 4
"""Bytes of text that one token is taken for, where nobody has counted."""


class Nonsense(Exception):
    """An answer does not have the form it must have; says what is wrong with it."""


class Trouble(Exception):
    """The provider says, in the middle of an answer, that it failed.

    Args:
        kind: What that means.
        message: Its words.
    """

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider has answered, in the words of no dialect.

    Args:
        text: Prose.
        tool_calls: Tools to call.
        stop: Why it ended.
        usage: What it says it has counted; None if it does not say, or cannot be believed.
        model: The model, as it says.
    """

    text: str
    tool_calls: tuple[ToolCall, ...]
    stop: StopReason
    usage: Usage | None
    model: str


class StreamReader(Protocol):
    """Reads one answer event by event."""

    def feed(self, event: Event) -> str:
        """Take an event in; the text it adds.

        Raises:
            Nonsense: it is not of the form it must have.
            Trouble: the provider says that it failed.
        """
        ...

    @property
    def complete(self) -> bool:
        """Whether the end of the answer has been seen."""
        ...

    @property
    def usage(self) -> Usage | None:
        """What it has counted so far."""
        ...

    def answer(self) -> Answer:
        """The whole answer.

        Raises:
            Nonsense: it is not of the form it must have.
        """
        ...


class Dialect(Protocol):
    """One language of providers."""

    @property
    def default_model(self) -> str:
        """The model of requests that name none; empty for none."""
        ...

    def path(self, model: str) -> str:
        """Where requests go, below the base URL."""
        ...

    def headers(self) -> dict[str, str]:
        """Headers besides those of HTTP, the secret ones included."""
        ...

    def body(self, request: CompletionRequest, *, model: str, stream: bool) -> dict[str, Any]:
        """The body of a request, JSON values only."""
        ...

    def read(self, found: Any) -> Answer:
        """Read a whole answer.

        Raises:
            Nonsense: it is not of the form it must have.
        """
        ...

    def reader(self) -> StreamReader:
        """A reader of one streamed answer."""
        ...


def arguments_of(text: str) -> tuple[dict[str, Any], str]:
    """The arguments a model wrote, and why they cannot be read (empty if they can)."""
    if not text.strip():
        return {}, ""  # how models call a tool without arguments
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return {}, f"the arguments are not JSON: {str(error)[:200]}"
    if not isinstance(found, dict):
        return {}, "the arguments are no JSON object"
    return found, ""


def parse_json(text: str | bytes) -> Any:
    """JSON values; NaN and infinities are none.

    Raises:
        Nonsense: it is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Nonsense(f"it is not JSON: {str(error)[:200]}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def mapping(found: Any, what: str) -> Mapping[str, Any]:
    """``found`` if it is an object.

    Raises:
        Nonsense: it is none.
    """
    if not isinstance(found, dict):
        raise Nonsense(f"{what} is no object")
    return found


def items(found: Any, what: str) -> list[Any]:
    """``found`` if it is a list; none where it is absent.

    Raises:
        Nonsense: it is something else.
    """
    if found is None:
        return []
    if not isinstance(found, list):
        raise Nonsense(f"{what} is no list")
    return found


def text_of(found: Any, what: str) -> str:
    """``found`` if it is a text; the empty one where it is absent.

    Raises:
        Nonsense: it is something else.
    """
    if found is None:
        return ""
    if not isinstance(found, str):
        raise Nonsense(f"{what} is no text")
    return found


def count(found: Any) -> int | None:
    """A number of tokens, or None where it cannot be one."""
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= COUNT_LIMIT:
        return None
    return found


def checked_calls(calls: list[ToolCall]) -> tuple[ToolCall, ...]:
    """Tool calls with names and identifiers that can be, each identifier once.

    Raises:
        Nonsense: they are too many, or one has no name.
    """
    if len(calls) > CALLS_LIMIT:
        raise Nonsense(f"it asks for {len(calls)} tool calls; at most {CALLS_LIMIT} are taken")
    seen: dict[str, None] = {}
    found = []
    for number, call in enumerate(calls, 1):
        if not 0 < len(call.name) <= NAME_LIMIT:
            raise Nonsense("a tool call has no name")
        identifier = call.id
        if not 0 < len(identifier) <= NAME_LIMIT or identifier in seen:
            identifier = f"call-{number}"  # small servers leave it out, or repeat it
        seen[identifier] = None
        found.append(ToolCall(identifier, call.name, call.arguments, call.malformed))
    return tuple(found)


def estimate(text_bytes: int) -> int:
    """Tokens of so many bytes, where nobody has counted them."""
    return -(-text_bytes // _BYTES_PER_TOKEN)


_KEY: Final = re.compile(r"\b(?:sk|pk|rk|key|token)-[A-Za-z0-9_*.\-]{6,}")


def without_keys(text: str, secrets: tuple[str, ...]) -> str:
    """``text`` without any of ``secrets`` and without what looks like a key: providers quote them back."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[key]")
    return _KEY.sub("[key]", text)
