"""The scripted provider: YAML rules instead of a model, for tests of agents and of failures.

    strict: true            # an exhausted or unmatched request is an error (the default)
    rules:
      - match: {performative: request, capability: data-analysis, content: "sal(e|es)", turn: 1}
        tool_calls: [{name: csv_analyze, arguments: {file: sales.csv}}]
      - match: {tool_result: "revenue"}
        times: 2
        text: "Here you are."
      - match: {capability: stories}
        deltas: ["Once ", "upon ", "a time."]
        delta_s: 0.2         # before each piece but the first
      - match: {turn: 9}
        error: rate_limited  # or overloaded, timeout, cut, malformed ...
        retry_after_s: 2

Rules are tried from the top. Each answers once, or ``times`` times (0 means without end); the first that
matches and is not used up answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from node.environment import Clock
from node.errors import ProviderFailed, ValidationFailed
from node.llm.failures import RequestFailed
from node.llm.provider import (
    Completion,
    CompletionRequest,
    Delta,
    OnDelta,
    Outcome,
    StopReason,
    ToolCall,
    Usage,
)
from node.llm.schema import structured_content
from node.llm.wire import arguments_of
from node.wording import said_of

NAME: Final = "scripted"
SCRIPT_LIMIT_BYTES: Final = 256 * 1024
"""Largest script."""
RULES_LIMIT: Final = 1000
"""Most rules of a script."""
SUBJECT_LIMIT: Final = 100_000
"""Most characters a regular expression is matched against."""


ScriptedError = Literal[
    "rate_limited", "overloaded", "unreachable", "timeout", "cut", "malformed", "rejected"
]
"""Ways to fail that a script can name; those of :mod:`node.llm.failures`."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Match(_Strict):
    """What a request must look like; what is not given matches anything."""

    performative: str | None = None
    capability: str | None = None
    content: str | None = Field(default=None, description="Regular expression on the content as JSON.")
    turn: int | None = Field(default=None, ge=1)
    tool_result: str | None = Field(default=None, description="Regular expression on the last tool result.")

    @field_validator("content", "tool_result")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return value

    def accepts(self, request: CompletionRequest, content: str) -> bool:
        """Whether ``request``, whose subject has this ``content`` as JSON, looks like this."""
        subject = request.subject
        if self.performative is not None and self.performative != subject.performative:
            return False
        if self.capability is not None and self.capability != subject.capability:
            return False
        if self.turn is not None and self.turn != request.turn:
            return False
        if self.content is not None and not re.search(self.content, content):
            return False
        if self.tool_result is None:
            return True
        results = [m.text[:SUBJECT_LIMIT] for m in request.messages if m.role == "tool"]
        return bool(results) and re.search(self.tool_result, results[-1]) is not None


class ScriptedCall(_Strict):
    """A tool call to ask for; arguments that are a text stand for what a model wrote, readable or not."""

    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)

    def as_call(self, identifier: str) -> ToolCall:
        """The call, under the name ``identifier``."""
        if isinstance(self.arguments, str):
            return ToolCall(identifier, self.name, *arguments_of(self.arguments))
        return ToolCall(identifier, self.name, self.arguments)


class Rule(_Strict):
    """One answer and when it is given."""

    match: Match = Match()
    times: int = Field(default=1, ge=0)
    text: str | None = None
    content: Any = None
    tool_calls: list[ScriptedCall] | None = None
    deltas: list[str] | None = Field(default=None, description="The text in pieces, as it is streamed.")
    delta_s: float = Field(default=0.0, ge=0, le=60, description="Pause between two pieces.")
    error: ScriptedError | None = None
    retry_after_s: float | None = Field(default=None, ge=0, le=86_400)
    finish_reason: StopReason | None = None
    outcome: Outcome = "answer"
    latency_s: float = Field(default=0.0, ge=0, le=3600)
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    cached_tokens: int = Field(default=0, ge=0)
    cost_micros: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _answers(self) -> Self:
        given = [bool(self.tool_calls), self.error is not None]
        given.append(self.text is not None or self.content is not None)
        if self.deltas is not None and (self.text is not None or self.tool_calls):
            raise ValueError("deltas are the text: give one of both, and no tool_calls")
        given[-1] |= self.deltas is not None and self.error is None  # an error may come after some of them
        if sum(given) != 1:
            raise ValueError("needs exactly one of tool_calls, error, and text, deltas or content")
        if self.delta_s and self.deltas is None:
            raise ValueError("delta_s belongs to deltas")
        if self.retry_after_s is not None and self.error is None:
            raise ValueError("retry_after_s belongs to an error")
        return self

    @property
    def pieces(self) -> list[str]:
        """The text as it is streamed."""
        return self.deltas if self.deltas is not None else [self.text] if self.text else []


class Script(_Strict):
    """A whole script."""

    strict: bool = True
    rules: list[Rule] = Field(min_length=1, max_length=RULES_LIMIT)


class ScriptedProvider:
    """Answers by a script.

    Args:
        script: The rules, in YAML.
        clock: Waits out a rule's latency.

    Raises:
        ValidationFailed: the script is not valid.
    """

    name = NAME

    def __init__(self, script: str | bytes, clock: Clock) -> None:
        self._script = _read(script)
        self._used = [0] * len(self._script.rules)
        self._reads_content = any(rule.match.content is not None for rule in self._script.rules)
        self._clock = clock

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Answer by the first rule that matches and is not used up.

        Raises:
            ProviderFailed: the rule says so, or no rule is left.
        """
        rule = self._next(request)
        if rule is None:
            if self._script.strict:
                raise ProviderFailed(
                    "the script has no answer",
                    why=f"no unused rule matches turn {request.turn} of a {request.subject.performative}",
                    fix="Add a rule, or raise the 'times' of one.",
                )
            return Completion(text="", outcome="not_understood", provider=NAME, cost_micros=0)
        if rule.latency_s:
            await self._clock.sleep(rule.latency_s)
        for place, piece in enumerate(rule.pieces):
            if place and rule.delta_s:
                await self._clock.sleep(rule.delta_s)
            if on_delta is not None:
                on_delta(Delta(piece))
        if rule.error is not None:
            shown = on_delta is not None and bool(rule.pieces)
            raise RequestFailed(
                rule.error, why="the script says so", retry_after_s=rule.retry_after_s, shown=shown
            )
        calls = tuple(
            call.as_call(f"scripted-{request.turn}-{n}") for n, call in enumerate(rule.tool_calls or (), 1)
        )
        text, content = "".join(rule.pieces), rule.content
        if request.response_schema is not None and content is None and not calls:
            content = structured_content(text, request.response_schema)
        return Completion(
            text=text,
            content=content,
            tool_calls=calls,
            outcome=rule.outcome,
            usage=Usage(rule.input_tokens, rule.output_tokens, cached_tokens=rule.cached_tokens),
            finish_reason=rule.finish_reason or ("tool_calls" if calls else "stop"),
            provider=NAME,
            cost_micros=rule.cost_micros,
        )

    def unused(self) -> Sequence[int]:
        """Numbers, from 1, of rules that never answered: what a test may want to be empty."""
        return [number for number, count in enumerate(self._used, 1) if count == 0]

    def _next(self, request: CompletionRequest) -> Rule | None:
        content = ""
        if self._reads_content:  # once, however many rules there are
            content = json.dumps(request.subject.content, ensure_ascii=False)[:SUBJECT_LIMIT]
        for index, rule in enumerate(self._script.rules):
            if (rule.times == 0 or self._used[index] < rule.times) and rule.match.accepts(request, content):
                self._used[index] += 1
                return rule
        return None


def _read(script: str | bytes) -> Script:
    if len(script) > SCRIPT_LIMIT_BYTES:
        raise ValidationFailed("the script is too large", why=f"more than {SCRIPT_LIMIT_BYTES:,} bytes")
    try:
        return Script.model_validate(yaml.safe_load(script))
    except yaml.YAMLError as error:
        raise ValidationFailed("the script is not YAML", why=" ".join(str(error).split())[:300]) from None
    except RecursionError:
        raise ValidationFailed("the script is not valid", why="it is nested too deep") from None
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in p['loc'])}: {said_of(p)}"
            for p in error.errors(include_url=False)
        ]
        raise ValidationFailed(
            "the script is not valid", why=problems[0], details={"problems": problems[:50]}
        ) from None
