"""Answers by an agent's ``output_schema``: what a model says is held against it, and may be repaired once.

The schema goes to the model in the system prompt, and to providers that can bind their answer to it. What
comes is judged here all the same, since no provider is believed. An answer that does not follow is given
back with the reason, once: a model that fails twice with the reason before it will not succeed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from node.errors import AnswerInvalid
from node.llm.failures import RequestFailed
from node.llm.provider import ChatMessage, Completion
from node.llm.schema import structured_content

SHOWN: Final = 2_000
"""Most characters of an answer that did not follow, in a FAILURE."""


def instruction(schema: Mapping[str, Any]) -> str:
    """What the system prompt says of the schema."""
    told = json.dumps(schema, ensure_ascii=False, sort_keys=True)
    return f"Answer with one JSON value and nothing else. It must follow this JSON Schema:\n{told}"


def judged(completion: Completion, schema: Mapping[str, Any]) -> Completion:
    """The answer with its value as content.

    Raises:
        RequestFailed: it does not follow the schema; holds what was answered.
    """
    if completion.content is None:
        return replace(completion, content=structured_content(completion.text, schema))
    structured_content(json.dumps(completion.content), schema)
    return completion


def repair(error: RequestFailed) -> list[ChatMessage]:
    """What a model is told after an answer that does not follow."""
    said = error.answer or ""
    why = f"That cannot be taken: {error.why}. Answer again, with one JSON value that follows the schema."
    return [ChatMessage("assistant", said), ChatMessage("user", why)]


def invalid(error: RequestFailed) -> AnswerInvalid:
    """The failure of an agent whose repaired answer does not follow either."""
    return AnswerInvalid(
        "the agent's answer does not follow its output_schema",
        why=error.why,
        fix="Ask for less, correct output_schema, or use a model that follows schemas.",
        details={"answer": (error.answer or "")[:SHOWN]},
    )
