"""The dialect of OpenAI's chat completions, which many other servers speak, too.

Besides OpenAI: Azure (with a deployment and an API version), vLLM, LM Studio, llama-server, Ollama below
``/v1``, LiteLLM. They differ in what they leave out, so the reader needs little: identifiers of tool calls,
indexes of streamed ones, ``[DONE]`` and counts may all be missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from node.llm.failures import Kind, kind_of_status
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

DONE: Final = "[DONE]"
_STOPS: Final[Mapping[str, StopReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "filtered",
}
_SCHEMA_NAME: Final = "answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiDialect:
    """How one server that speaks it is spoken to.

    Args:
        base_url: Its address; requests go to ``/chat/completions`` below it, or below the deployment.
        api_key: The key; empty for none.
        default_model: The model of requests that name none.
        deployment: Azure's name of the model; empty elsewhere.
        api_version: Azure's ``api-version``; empty elsewhere.
        key_header: Whether the key goes into ``api-key``, as Azure wants it, not ``Authorization``.
        max_tokens: Most tokens of an answer, where the request does not say; None leaves it to the server.
        structured: ``json_schema``, ``json_object`` or ``none``: what the server can be asked for.
        headers_given: More headers.
    """

    base_url: str
    api_key: str = ""
    default_model: str = ""
    deployment: str = ""
    api_version: str = ""
    key_header: bool = False
    max_tokens: int | None = None
    structured: str = "json_schema"
    headers_given: Mapping[str, str]

    def path(self, model: str) -> str:
        """``/chat/completions``; on Azure, that of the deployment."""
        del model
        place = f"/openai/deployments/{quote(self.deployment, safe='')}" if self.deployment else ""
        version = f"?api-version={quote(self.api_version, safe='')}" if self.api_version else ""
        return f"{place}/chat/completions{version}"

    def headers(self) -> dict[str, str]:
        """The key, where there is one."""
        if not self.api_key:
            return dict(self.headers_given)
        key = {"api-key": self.api_key} if self.key_header else {"authorization": f"Bearer {self.api_key}"}
        return {**self.headers_given, **key}

    def body(self, request: CompletionRequest, *, model: str, stream: bool) -> dict[str, Any]:
        """The body of ``POST /chat/completions``."""
        body: dict[str, Any] = {"model": model, "messages": [_message(m) for m in request.messages]}
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
            body["tool_choice"] = _choice(request.tool_choice)
        if request.temperature is not None:
            body["temperature"] = request.temperature
        limit = request.max_tokens if request.max_tokens is not None else self.max_tokens
        if limit is not None:
            body[self._limit_key()] = limit
        if request.response_schema is not None and self.structured == "json_schema":
            form = {"name": _SCHEMA_NAME, "schema": dict(request.response_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif request.response_schema is not None and self.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def read(self, found: Any) -> Answer:
        """Read a ``chat.completion``."""
        whole = mapping(found, "the answer")
        if "choices" not in whole and "error" in whole:
            raise _trouble(whole["error"])
        choices = items(whole.get("choices"), "choices")
        if not choices:
            raise Nonsense("there is no choice")
        choice = mapping(choices[0], "the choice")
        said = mapping(choice.get("message"), "the message")
        calls = [_call(mapping(c, "a tool call")) for c in items(said.get("tool_calls"), "tool_calls")]
        refusal = text_of(said.get("refusal"), "refusal")
        return Answer(
            text=text_of(said.get("content"), "content") or refusal,
            tool_calls=checked_calls(calls),
            stop=_stop(choice.get("finish_reason"), calls=bool(calls), refused=bool(refusal)),
            usage=_usage(whole.get("usage")),
            model=text_of(whole.get("model"), "model"),
        )

    def reader(self) -> OpenAiReader:
        """A reader of ``chat.completion.chunk`` events."""
        return OpenAiReader()

    def _limit_key(self) -> str:
        """The newer name, which OpenAI's reasoning models demand, where it is known; elsewhere the older."""
        host = urlsplit(self.base_url).hostname or ""
        newer = self.deployment or host == "api.openai.com" or host.endswith(".openai.com")
        return "max_completion_tokens" if newer else "max_tokens"


@dataclass(slots=True)
class _Call:
    """A tool call that is being streamed."""

    id: str = ""
    name: str = ""
    arguments: str = ""


class OpenAiReader:
    """Reads one streamed completion."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._finish: str | None = None
        self._model = ""
        self._done = False
        self.usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether ``[DONE]``, or why it ended, has been seen."""
        return self._done or self._finish is not None

    def feed(self, event: Event) -> str:
        """Take a chunk in."""
        if event.data.strip() == DONE:
            self._done = True
            return ""
        chunk = mapping(parse_json(event.data), "a chunk")
        if chunk.get("error"):
            raise _trouble(chunk["error"])
        self._model = text_of(chunk.get("model"), "model") or self._model
        self.usage = _usage(chunk.get("usage")) or self.usage
        added = ""
        for found in items(chunk.get("choices"), "choices")[:1]:
            choice = mapping(found, "the choice")
            delta = choice.get("delta")
            if delta is not None:
                added += self._delta(mapping(delta, "the delta"))
            finish = choice.get("finish_reason")
            if finish is not None:
                self._finish = text_of(finish, "finish_reason")
        return added

    def answer(self) -> Answer:
        """The chunks put together."""
        calls = [self._calls[index] for index in sorted(self._calls)]
        found = [ToolCall(c.id, c.name, *arguments_of(c.arguments)) for c in calls]
        refusal = "".join(self._refusal)
        return Answer(
            text="".join(self._text) or refusal,
            tool_calls=checked_calls(found),
            stop=_stop(self._finish, calls=bool(calls), refused=bool(refusal)),
            usage=self.usage,
            model=self._model,
        )

    def _delta(self, delta: Mapping[str, Any]) -> str:
        for found in items(delta.get("tool_calls"), "tool_calls"):
            self._call(mapping(found, "a tool call"))
        refusal = text_of(delta.get("refusal"), "refusal")
        if refusal:
            self._refusal.append(refusal)
        added = text_of(delta.get("content"), "content")
        if added:
            self._text.append(added)
        return added

    def _call(self, found: Mapping[str, Any]) -> None:
        identifier = text_of(found.get("id"), "id")
        index = found.get("index")
        if not isinstance(index, int) or isinstance(index, bool):
            # Servers that give no index give each call an id, or stream one call after the other.
            latest = max(self._calls, default=-1)
            known = latest >= 0 and identifier in ("", self._calls[latest].id)
            index = latest if known else latest + 1
        call = self._calls.setdefault(index, _Call())
        if len(self._calls) > CALLS_LIMIT:
            raise Nonsense(f"it asks for more than {CALLS_LIMIT} tool calls")
        call.id = call.id or identifier
        function = found.get("function")
        if function is not None:
            function = mapping(function, "the function")
            call.name = call.name or text_of(function.get("name"), "name")
            call.arguments += _arguments_text(function.get("arguments"))


def _message(message: ChatMessage) -> dict[str, Any]:
    if message.role == "tool":
        identifier = message.call.id if message.call else ""
        return {"role": "tool", "tool_call_id": identifier, "content": message.text}
    if not message.tool_calls:
        return {"role": message.role, "content": message.text}
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for call in message.tool_calls
    ]
    return {"role": message.role, "content": message.text or None, "tool_calls": calls}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    schema = {"type": "object", "properties": {}, **tool.input_schema}
    function = {"name": tool.name, "description": tool.description, "parameters": schema}
    return {"type": "function", "function": function}


def _choice(choice: str) -> Any:
    if choice in (TOOL_AUTO, TOOL_NONE, TOOL_REQUIRED):
        return choice
    return {"type": "function", "function": {"name": choice}}


def _call(found: Mapping[str, Any]) -> ToolCall:
    function = mapping(found.get("function"), "the function of a tool call")
    arguments, malformed = arguments_of(_arguments_text(function.get("arguments")))
    name = text_of(function.get("name"), "name")
    return ToolCall(text_of(found.get("id"), "id"), name, arguments, malformed)


def _arguments_text(found: Any) -> str:
    """Arguments as the text they are, or that of the object some servers send."""
    return json.dumps(found) if isinstance(found, dict) else text_of(found, "arguments")


def _stop(found: Any, *, calls: bool, refused: bool) -> StopReason:
    """Why it ended; what the choice holds is believed more than its word for it."""
    if calls:
        return "tool_calls"
    if refused:
        return "refusal"
    stop = _STOPS.get(str(found), "stop")
    return "stop" if stop == "tool_calls" else stop


def _usage(found: Any) -> Usage | None:
    if not isinstance(found, dict):
        return None
    spent, made = count(found.get("prompt_tokens")), count(found.get("completion_tokens"))
    if spent is None or made is None:
        return None
    details = found.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    cached = min(count(details.get("cached_tokens")) or 0, spent)
    written = min(count(details.get("cache_write_tokens")) or 0, spent - cached)
    return Usage(spent, made, cached_tokens=cached, cache_write_tokens=written)


def _trouble(found: Any) -> Trouble:
    """An error in the place of an answer."""
    facts = found if isinstance(found, dict) else {"message": found}
    status, code = facts.get("status") or facts.get("code"), str(facts.get("code") or facts.get("type") or "")
    kind: Kind = "overloaded"
    if isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600:
        kind = kind_of_status(status)
    elif "rate_limit" in code or "quota" in code:
        kind = "rate_limited"
    elif code.startswith(("invalid", "context_length")):
        kind = "rejected"
    return Trouble(kind, str(facts.get("message", ""))[:300])
