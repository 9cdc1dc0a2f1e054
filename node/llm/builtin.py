"""The offline provider: deterministic, without a model, and honest about it.

It compares the words of the message with the names, descriptions and arguments of the tools it may use,
calls the tool that fits best with arguments taken from the message, and answers with what the tool said.
Every word of an answer comes from a tool's result, from the message or from the agent's memory. Where no
tool fits, or an argument is missing, it quotes the memory that is like the message, or says what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.llm.arguments import Filling, fill, fits
from node.llm.lexical import rarity, texts, words
from node.llm.provider import (
    TOOL_NONE,
    ChatMessage,
    Completion,
    CompletionRequest,
    Delta,
    Memory,
    OnDelta,
    Subject,
    ToolCall,
    ToolSpec,
    Usage,
)
from node.llm.schema import problem_of

NAME: Final = "builtin"
FACTS_LIMIT: Final = 24
"""Most lines quoted from one tool's result."""
RECALLED: Final = 0.5
"""Least similarity to the message of a memory that is an answer."""
_ACTION_KEYS: Final = ("action", "operation", "task", "request", "question", "query", "goal", "command")
_NAME_WEIGHT: Final = 3.0
_FILLED_WEIGHT: Final = 3.0
_PROSE_WEIGHT: Final = 1.0
_CAPABILITY_WEIGHT: Final = 0.5
_FILE_WEIGHT: Final = 1.5
_ENOUGH: Final = 2.0
"""A score below which no tool is called: one word of a description alone."""


@dataclass(frozen=True, slots=True)
class _Ranked:
    tool: ToolSpec
    score: float
    filling: Filling


class BuiltinProvider:
    """Answers extractively from tool results; ``provider: builtin`` labels everything it says."""

    name = NAME

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Pick tools in the first turn, answer from their results in the second.

        It has no generation that could be steered, so it ignores every setting of a model. An answer comes
        in one piece; one that must follow a schema is the first result of a tool that does, or is not given.
        """
        completion = self._complete(request)
        if on_delta is not None and completion.text:
            on_delta(Delta(completion.text))
        return completion

    def _complete(self, request: CompletionRequest) -> Completion:
        results = [message for message in request.messages if message.role == "tool"]
        if results:
            return _answer(results, request.response_schema)
        tools = () if request.tool_choice == TOOL_NONE else request.tools
        ranked = _rank(tools, request.subject)
        for choice in ranked:
            if choice.filling.calls:
                calls = tuple(
                    ToolCall(f"builtin-{request.turn}-{number}", choice.tool.name, arguments)
                    for number, arguments in enumerate(choice.filling.calls, 1)
                )
                return Completion(
                    tool_calls=calls,
                    finish_reason="tool_calls",
                    provider=NAME,
                    usage=Usage(estimated=True),
                    cost_micros=0,
                )
        known = [m for m in request.memories if m.similarity is not None and m.similarity >= RECALLED]
        return _recalled(known[0]) if known else _declined(tools, ranked)


def _rank(tools: tuple[ToolSpec, ...], subject: Subject) -> list[_Ranked]:
    """The tools that fit, the best first; equal ones in the order they were offered."""
    described = {tool.name: words(f"{tool.name} {tool.description}") for tool in tools}
    weight = rarity(described.values())
    actions, other = _request_words(subject)
    wanted = words(subject.capability.split(":v")[0])
    ranked = []
    for tool in tools:
        known, named = dict.fromkeys(described[tool.name]), words(tool.name)
        score = sum(
            weight[word] * (_NAME_WEIGHT if word in named else 2.0) for word in actions if word in known
        )
        score += sum(weight[word] for word in other if word in known)
        score += sum(_CAPABILITY_WEIGHT * weight[word] for word in wanted if word in known)
        filling = fill(tool, subject)
        properties: Mapping[str, Any] = tool.input_schema.get("properties", {})
        for name, rule in properties.items():
            if "x-file" in rule:
                score += _FILE_WEIGHT if any(fits(rule, file) for file in subject.files) else 0.0
            elif filling.calls and name in filling.calls[0] and name not in filling.whole:
                score += _PROSE_WEIGHT if name in filling.in_prose else _FILLED_WEIGHT
        if score >= _ENOUGH:
            ranked.append(_Ranked(tool, score, filling))
    ranked.sort(key=lambda choice: -choice.score)
    return ranked


def _request_words(subject: Subject) -> tuple[list[str], list[str]]:
    """Words of the asked action, and other words of the content."""
    content = subject.content
    actions: list[str] = []
    if isinstance(content, Mapping):
        for key, value in content.items():
            if str(key).lower() in _ACTION_KEYS:
                actions += words(" ".join(texts(value)))
    elif isinstance(content, str):
        actions = words(content)
    actions = list(dict.fromkeys(actions))
    return actions, [w for w in dict.fromkeys(words(" ".join(texts(content)))) if w not in actions]


def _answer(results: list[ChatMessage], schema: Mapping[str, Any] | None) -> Completion:
    """Quote the tools' results; a tool that failed is named with its reason."""
    answered = [m for m in results if m.call is not None and not m.is_error]
    not_done = [f"{m.call.name}: {m.text}" for m in results if m.call is not None and m.is_error]
    facts: list[str] = []
    for message in answered:
        facts += _facts(message.result)
    content: dict[str, Any] = {
        "provider": NAME,
        "answer": facts,
        "results": [{"tool": m.call.name, "result": m.result} for m in answered if m.call is not None],
    }
    if not_done:
        content["not_done"] = not_done
    text = "\n".join(facts + [f"Not done: {reason}" for reason in not_done])
    if schema is not None and answered:
        return _by_schema(answered, text, schema)
    return Completion(
        text=text,
        content=content,
        outcome="answer" if answered else "failed",
        provider=NAME,
        usage=Usage(estimated=True),
        cost_micros=0,
    )


def _by_schema(answered: list[ChatMessage], text: str, schema: Mapping[str, Any]) -> Completion:
    """The first result that follows a schema, as it is; nothing here could write one that does."""
    for message in answered:
        if not problem_of(message.result, schema):
            return Completion(
                text=text,
                content=message.result,
                provider=NAME,
                usage=Usage(estimated=True),
                cost_micros=0,
            )
    return Completion(
        text="No result of a tool follows the schema, and the builtin provider cannot write by one.",
        outcome="failed",
        provider=NAME,
        usage=Usage(estimated=True),
        cost_micros=0,
    )


def _facts(result: Any) -> list[str]:
    """The lines a tool or an agent offers as its summary, or else its plain values, each with its path."""
    if isinstance(result, Mapping) and set(result) == {"from", "content"}:
        told = result["content"]
        answer = told.get("answer") if isinstance(told, Mapping) else None
        lines = [str(line) for line in answer] if isinstance(answer, list) else _facts(told)
        return [f"From {result['from']}:", *lines[:FACTS_LIMIT]]
    if isinstance(result, Mapping) and isinstance(result.get("facts"), list):
        prefix = f"{result['file']}: " if isinstance(result.get("file"), str) else ""
        return [f"{prefix}{fact}" for fact in result["facts"][:FACTS_LIMIT]]
    found: list[str] = []
    _flatten("", result, found)
    return found


def _flatten(path: str, value: Any, lines: list[str]) -> None:
    if len(lines) >= FACTS_LIMIT:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{path}.{key}" if path else str(key), item, lines)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _flatten(f"{path}[{index}]", item, lines)
    elif len(lines) < FACTS_LIMIT:
        lines.append(f"{path}: {value}" if path else str(value))


def _recalled(memory: Memory) -> Completion:
    """Quote what the agent remembers, and say where it is from."""
    return Completion(
        text=memory.text,
        content={"provider": NAME, "answer": [memory.text], "remembered": memory.source},
        provider=NAME,
        usage=Usage(estimated=True),
        cost_micros=0,
    )


def _declined(tools: tuple[ToolSpec, ...], ranked: list[_Ranked]) -> Completion:
    """Say why no tool was called: something is missing, or none has to do with the message."""
    if ranked:
        reasons = [f"{c.tool.name} needs {' and '.join(c.filling.missing)}" for c in ranked[:3]]
        text = "The message does not hold what is needed: " + "; ".join(reasons) + "."
    elif tools:
        text = "No tool of this agent has to do with the message."
    else:
        text = "This agent has no tools, and the builtin provider answers only from tool results."
    content = {"provider": NAME, "reason": text, "tools": [tool.name for tool in tools]}
    return Completion(
        text=text,
        content=content,
        outcome="failed" if ranked else "not_understood",
        provider=NAME,
        usage=Usage(estimated=True),
        cost_micros=0,
    )
