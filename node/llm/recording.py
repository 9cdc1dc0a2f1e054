"""Recordings of completions: what was asked, and what was answered, one JSON object a line.

A request is found again by what it says to the model: prompt, tools, settings. Who sent the message and in
which conversation is not part of it, so that a recording answers the same question in another conversation.
A recording holds the prompts and answers of the conversations it was made of, and no key: keys are no part
of requests, and where the text of one shows a key of the configuration, the key is written as ``[key]``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from node.errors import ValidationFailed
from node.llm.failures import RULES, RequestFailed
from node.llm.provider import ChatMessage, Completion, CompletionRequest, ToolCall, Usage
from node.llm.wire import Nonsense, parse_json

FORMAT: Final = 1
"""Version of the format; stands in the first line."""
RECORDING_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Largest recording."""
_HEADER: Final = "caxton_llm_recording"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One answer, or failure, of a recording.

    Args:
        key: Which request it answers.
        completion: The answer; None where the provider failed.
        failure: The failure; None where it answered.
        deltas: The pieces in which the text came; none where it was not asked for piece by piece.
    """

    key: str
    completion: Completion | None = None
    failure: RequestFailed | None = None
    deltas: tuple[str, ...] = ()


def header_line() -> bytes:
    """The first line of a recording."""
    return _dump({_HEADER: FORMAT}).encode() + b"\n"


def key_of(request: CompletionRequest) -> str:
    """What a request is found by: the SHA-256 of what it says to the model."""
    return hashlib.sha256(_dump(asked(request)).encode()).hexdigest()


def asked(request: CompletionRequest) -> dict[str, Any]:
    """What a request says to the model, as JSON values."""
    subject = request.subject
    return {
        "messages": [_message(message) for message in request.messages],
        "tools": [
            {"name": t.name, "description": t.description, "schema": _plain(t.input_schema)}
            for t in request.tools
        ],
        "subject": {
            "performative": subject.performative,
            "capability": subject.capability,
            "content": subject.content,
            "files": [asdict(file) for file in subject.files],
        },
        "turn": request.turn,
        "model": request.model,
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "tool_choice": request.tool_choice,
        "response_schema": None if request.response_schema is None else _plain(request.response_schema),
    }


def line_of(request: CompletionRequest, recorded: Recorded, secrets: Iterable[str] = ()) -> bytes:
    """One line of a recording.

    Args:
        request: What was asked.
        recorded: What came of it.
        secrets: What must not be written.
    """
    entry: dict[str, Any] = {"key": recorded.key, "asked": asked(request)}
    if recorded.completion is not None:
        entry["answer"] = _completion(recorded.completion)
    if recorded.failure is not None:
        failure = recorded.failure
        entry["failure"] = {
            "kind": failure.kind,
            "why": failure.why,
            "retry_after_s": failure.retry_after_s,
            "shown": failure.shown,
        }
        if failure.answer is not None:
            entry["failure"]["answer"] = failure.answer
    if recorded.deltas:
        entry["deltas"] = list(recorded.deltas)
    text = _dump(entry)
    for secret in secrets:
        if secret:
            text = text.replace(_dump(secret)[1:-1], "[key]")
    return text.encode() + b"\n"


def read_recording(data: bytes) -> list[Recorded]:
    """Every answer of a recording, in order.

    Raises:
        ValidationFailed: it is no recording, or damaged; names the line.
    """
    if len(data) > RECORDING_LIMIT_BYTES:
        raise _damaged(0, f"it has more than {RECORDING_LIMIT_BYTES:,} bytes")
    first, *rest = data.split(b"\n")
    try:
        header = parse_json(first)
    except Nonsense:
        header = None
    if not isinstance(header, dict) or header.get(_HEADER) != FORMAT:
        raise _damaged(1, f"it must begin with {header_line().decode().strip()}")
    found = []
    for number, line in enumerate(rest, 2):
        if not line.strip():
            continue
        try:
            found.append(_recorded(parse_json(line)))
        except Nonsense as error:
            raise _damaged(number, str(error)) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(number, f"it is no answer of a recording ({type(error).__name__})") from None
    return found


def _damaged(line: int, why: str) -> ValidationFailed:
    where = f"line {line}: " if line else ""
    return ValidationFailed("the recording cannot be read", why=f"{where}{why}", details={"line": line})


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return dict(value)


def _call(call: ToolCall) -> dict[str, Any]:
    found = {"id": call.id, "name": call.name, "arguments": _plain(call.arguments)}
    return found | ({"malformed": call.malformed} if call.malformed else {})


def _message(message: ChatMessage) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "text": message.text}
    if message.tool_calls:
        found["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.call is not None:
        found |= {"call": message.call.id, "is_error": message.is_error}
    return found


def _completion(completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text,
        "tool_calls": [_call(call) for call in completion.tool_calls],
        "content": completion.content,
        "outcome": completion.outcome,
        "usage": asdict(completion.usage),
        "finish_reason": completion.finish_reason,
        "provider": completion.provider,
        "model": completion.model,
        "cost_micros": completion.cost_micros,
        "wasted": asdict(completion.wasted),
        "attempts": completion.attempts,
    }


def _recorded(entry: dict[str, Any]) -> Recorded:
    key, deltas = entry["key"], tuple(entry.get("deltas", ()))
    if not isinstance(key, str) or not all(isinstance(piece, str) for piece in deltas):
        raise TypeError("key and deltas are texts")
    if "failure" in entry:
        failure = entry["failure"]
        if failure["kind"] not in RULES:
            raise ValueError("an unknown kind of failure")
        failed = RequestFailed(
            failure["kind"],
            why=str(failure["why"]),
            retry_after_s=failure["retry_after_s"],
            answer=None if failure.get("answer") is None else str(failure["answer"]),
            shown=failure["shown"] is True,
        )
        return Recorded(key, failure=failed, deltas=deltas)
    answer = dict(entry["answer"])
    calls = tuple(
        ToolCall(str(c["id"]), str(c["name"]), dict(c["arguments"]), str(c.get("malformed", "")))
        for c in answer.pop("tool_calls")
    )
    usage, wasted = Usage(**answer.pop("usage")), Usage(**answer.pop("wasted"))
    completion = Completion(tool_calls=calls, usage=usage, wasted=wasted, **answer)
    return Recorded(key, completion, deltas=deltas)
