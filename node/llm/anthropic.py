"""The dialect of Anthropic's messages, which Ollama, llama-server and some gateways speak, too.

Two versions of the interface are spoken. ``2026-10-21`` has no sampling parameters any more (a request with
a temperature is refused) and takes the key as a bearer token; ``2023-06-01`` has both the old way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from node.llm.failures import Kind
from node.llm.provider import (
    TOOL_AUTO,
    TOOL_NONE,
    TOOL_REQUIRED,
    ChatMessage,
    CompletionRequest,
    StopReason,
    ToolCall,
    ToolSpec,
    Usage,
)
from node.llm.wire import (
    CALLS_LIMIT,
    Answer,
    Nonsense,
    Trouble,
    arguments_of,
    checked_calls,
    count,
    items,
    mapping,
    parse_json,
    text_of,
)
from node.sse import Event

VERSION: Final = "2026-10-21"
OLDER_VERSION: Final = "2023-06-01"
DEFAULT_MAX_TOKENS: Final = 4096
"""Most tokens of an answer where nobody says: the interface demands a number."""
BLOCKS_LIMIT: Final = 1024
"""Most blocks of one answer."""
_EMPTY: Final = "(nothing)"
"""Stands for a text that is empty, which the interface refuses."""
_STOPS: Final[Mapping[str, StopReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}
_ERRORS: Final[Mapping[str, Kind]] = {
    "rate_limit_error": "rate_limited",
    "invalid_request_error": "rejected",
    "request_too_large": "too_large",
    "authentication_error": "unauthorized",
    "permission_error": "unauthorized",
    "not_found_error": "not_found",
    "timeout_error": "timeout",
}
_CACHED: Final = {"type": "ephemeral"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnthropicDialect:
    """How one server that speaks it is spoken to.

    Args:
        base_url: Its address, without ``/v1``.
        api_key: The key; empty for none.
        default_model: The model of requests that name none.
        api_version: Version of the interface.
        key_header: Whether the key goes into ``x-api-key``, not ``Authorization``.
        max_tokens: Most tokens of an answer, where the request does not say.
        structured: ``json_schema`` or ``none``: what the server can be asked for.
        headers_given: More headers.
    """

    base_url: str
    api_key: str = ""
    default_model: str = ""
    api_version: str = VERSION
    key_header: bool = False
    max_tokens: int | None = None
    structured: str = "json_schema"
    headers_given: Mapping[str, str]

    def path(self, model: str) -> str:
        """``/v1/messages``."""
        del model
        return "/v1/messages"

    def headers(self) -> dict[str, str]:
        """The version of the interface and the key, where there is one."""
        headers = {**self.headers_given, "anthropic-version": self.api_version}
        if self.api_key and self.key_header:
            headers["x-api-key"] = self.api_key
        elif self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        return headers

    def body(self, request: CompletionRequest, *, model: str, stream: bool) -> dict[str, Any]:
        """The body of ``POST /v1/messages``."""
        limit = request.max_tokens if request.max_tokens is not None else self.max_tokens
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": DEFAULT_MAX_TOKENS if limit is None else limit,
            "messages": _messages(request.messages, cache=request.cache),
        }
        system = "\n\n".join(m.text for m in request.messages if m.role == "system" and m.text.strip())
        if system:
            block: dict[str, Any] = {"type": "text", "text": system}
            body["system"] = [block | {"cache_control": _CACHED} if request.cache else block]
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
            body["tool_choice"] = _choice(request.tool_choice)
        if request.temperature is not None and self.api_version == OLDER_VERSION:
            body["temperature"] = min(1.0, request.temperature)  # its scale ends at 1
        if request.response_schema is not None and self.structured == "json_schema":
            form = {"type": "json_schema", "schema": dict(request.response_schema)}
            body["output_config"] = {"format": form}
        if stream:
            body["stream"] = True
        return body

    def read(self, found: Any) -> Answer:
        """Read a message."""
        whole = mapping(found, "the answer")
        if whole.get("type") == "error":
            raise _trouble(whole.get("error"))
        blocks = [mapping(block, "a block") for block in items(whole.get("content"), "content")]
        reader = AnthropicReader()
        reader.begin(whole)
        for index, block in enumerate(blocks):
            reader.block(index, block)
        reader.end(whole.get("stop_reason"))
        if not reader.complete:
            raise Nonsense("it has no stop_reason")
        return reader.answer()

    def reader(self) -> AnthropicReader:
        """A reader of streamed events."""
        return AnthropicReader()


@dataclass(slots=True)
class _Block:
    """A block of an answer; ``input`` is what a tool call has from the start, ``json`` what is streamed."""

    kind: str
    text: list[str] = field(default_factory=list)
    id: str = ""
    name: str = ""
    input: Any = None
    json: list[str] = field(default_factory=list)


class AnthropicReader:
    """Reads one message, streamed or whole."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._stop: str | None = None
        self._model = ""
        self._counts: dict[str, int | None] = {}
        self._begun = False

    @property
    def complete(self) -> bool:
        """Whether it was said why the message ended."""
        return self._stop is not None

    @property
    def usage(self) -> Usage | None:
        """The counts so far; each event's are of the whole message."""
        spent, made = self._counts.get("input_tokens"), self._counts.get("output_tokens")
        if spent is None or made is None:
            return None
        cached = self._counts.get("cache_read_input_tokens") or 0
        written = self._counts.get("cache_creation_input_tokens") or 0
        return Usage(spent + cached + written, made, cached_tokens=cached, cache_write_tokens=written)

    def feed(self, event: Event) -> str:
        """Take an event in; those of a kind that is not known are passed over, as the interface demands."""
        found = mapping(parse_json(event.data), "an event")
        match found.get("type"):
            case "message_start":
                self.begin(mapping(found.get("message"), "the message"))
            case "content_block_start":
                return self.block(_index(found), mapping(found.get("content_block"), "a block"))
            case "content_block_delta":
                return self._delta(_index(found), mapping(found.get("delta"), "a delta"))
            case "message_delta":
                self._count(found.get("usage"))
                self.end(mapping(found.get("delta"), "the delta").get("stop_reason"))
            case "error":
                raise _trouble(found.get("error"))
        return ""

    def begin(self, message: Mapping[str, Any]) -> None:
        """Take in what a message begins with."""
        self._begun = True
        self._model = text_of(message.get("model"), "model")
        self._count(message.get("usage"))

    def block(self, index: int, found: Mapping[str, Any]) -> str:
        """Begin a block; returns the text it has already."""
        if len(self._blocks) >= BLOCKS_LIMIT:
            raise Nonsense(f"it has more than {BLOCKS_LIMIT} blocks")
        block = _Block(str(found.get("type")))
        self._blocks[index] = block
        if block.kind == "tool_use":
            block.id, block.name = text_of(found.get("id"), "id"), text_of(found.get("name"), "name")
            block.input = found.get("input")
            if sum(b.kind == "tool_use" for b in self._blocks.values()) > CALLS_LIMIT:
                raise Nonsense(f"it asks for more than {CALLS_LIMIT} tool calls")
        text = text_of(found.get("text"), "text") if block.kind == "text" else ""
        block.text.append(text)
        return text

    def end(self, reason: Any) -> None:
        """Note why the message ended."""
        if reason is not None:
            self._stop = text_of(reason, "stop_reason")

    def answer(self) -> Answer:
        """The blocks put together."""
        if not self._begun:
            raise Nonsense("it does not begin with message_start")
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        calls = checked_calls([_call(block) for block in blocks if block.kind == "tool_use"])
        stop = _STOPS.get(self._stop or "", "stop")
        if calls or stop == "tool_calls":
            stop = "tool_calls" if calls else "stop"
        return Answer(
            text="".join("".join(block.text) for block in blocks if block.kind == "text"),
            tool_calls=calls,
            stop=stop,
            usage=self.usage,
            model=self._model,
        )

    def _delta(self, index: int, delta: Mapping[str, Any]) -> str:
        block = self._blocks.get(index)
        if block is None:
            raise Nonsense("a delta belongs to no block")
        match delta.get("type"):
            case "text_delta":
                text = text_of(delta.get("text"), "text")
                block.text.append(text)
                return text if block.kind == "text" else ""
            case "input_json_delta":
                block.json.append(text_of(delta.get("partial_json"), "partial_json"))
        return ""  # thinking, signatures, citations

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._counts |= {key: count(value) for key, value in usage.items() if value is not None}


def _index(found: Mapping[str, Any]) -> int:
    index = found.get("index")
    if not isinstance(index, int) or isinstance(index, bool):
        raise Nonsense("an event has no index")
    return index


def _call(block: _Block) -> ToolCall:
    streamed = "".join(block.json)
    if streamed:
        return ToolCall(block.id, block.name, *arguments_of(streamed))
    if isinstance(block.input, dict):
        return ToolCall(block.id, block.name, block.input)
    malformed = "" if block.input is None else "the arguments are no JSON object"
    return ToolCall(block.id, block.name, {}, malformed)


def _messages(messages: tuple[ChatMessage, ...], *, cache: bool) -> list[dict[str, Any]]:
    """Turns by turns: neighbours of one role are one, and results of tools are the user's.

    A mark on the last block has everything up to it cached, which the next turn of a tool loop begins with.
    """
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        turns[-1]["content"].extend(_blocks(message))
    if cache and turns and turns[-1]["role"] == "user":
        turns[-1]["content"][-1] |= {"cache_control": _CACHED}
    return turns


def _blocks(message: ChatMessage) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        yield {
            "type": "tool_result",
            "tool_use_id": message.call.id if message.call else "",
            "content": message.text,
            "is_error": message.is_error,
        }
        return
    if message.text.strip() or not message.tool_calls:
        yield {"type": "text", "text": message.text if message.text.strip() else _EMPTY}
    for call in message.tool_calls:
        # A plain copy: arguments may be any mapping, and the interface takes an object.
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    schema = {"type": "object", **tool.input_schema}
    return {"name": tool.name, "description": tool.description, "input_schema": schema}


def _choice(choice: str) -> dict[str, Any]:
    kinds = {TOOL_AUTO: "auto", TOOL_NONE: "none", TOOL_REQUIRED: "any"}
    return {"type": kinds[choice]} if choice in kinds else {"type": "tool", "name": choice}


def _trouble(found: Any) -> Trouble:
    facts = found if isinstance(found, dict) else {"message": json.dumps(found)}
    kind = _ERRORS.get(str(facts.get("type")), "overloaded")
    return Trouble(kind, str(facts.get("message", ""))[:300])
