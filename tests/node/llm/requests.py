"""Requests that tests ask providers, and the settings of a provider over HTTP."""

from __future__ import annotations

from typing import Any

from node.llm.provider import ChatMessage, CompletionRequest, Subject, ToolCall, ToolSpec

WEATHER = ToolSpec(
    "weather",
    "Forecast the weather of a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CLOCK = ToolSpec("clock", "Tell the time.", {"type": "object", "properties": {}})
SCHEMA = {
    "type": "object",
    "properties": {"high": {"type": "integer"}},
    "required": ["high"],
    "additionalProperties": False,
}
HELLO = (ChatMessage("system", "You forecast."), ChatMessage("user", "Bern, please."))
CALLED = ToolCall("call-1", "weather", {"city": "Bern"})
BROKEN = ToolCall("call-2", "weather", {}, "the arguments are not JSON: x")
TOOL_LOOP = (
    *HELLO,
    ChatMessage("assistant", "Let me see.", tool_calls=(CALLED, BROKEN)),
    ChatMessage("tool", '{"high": 21}', call=CALLED, result={"high": 21}),
    ChatMessage("tool", "the arguments are not JSON: x", call=BROKEN, is_error=True),
    ChatMessage("assistant", "", tool_calls=(ToolCall("call-3", "clock", {}),)),
    ChatMessage("tool", "", call=ToolCall("call-3", "clock", {})),
)


def asked(messages: tuple[ChatMessage, ...] = HELLO, **more: Any) -> CompletionRequest:
    """A request about the weather."""
    subject = Subject("request", "forecast", {"city": "Bern"}, "client@n1", more.pop("conversation", "c-1"))
    return CompletionRequest(messages=messages, subject=subject, **more)
