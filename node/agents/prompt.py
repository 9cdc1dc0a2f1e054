"""Turns a FIPA message into a prompt, and a model's answer back into the content of a FIPA message."""

from __future__ import annotations

import json
from typing import Any

from node.agents.definition import AgentDefinition
from node.agents.history import NOTHING_BEFORE, Earlier
from node.agents.output import instruction
from node.agents.template import as_text, names_in, render
from node.llm.provider import ChatMessage, Completion, FileInfo, Subject
from node.message import Message, iso8601
from node.vocabulary import Performative

_PERFORMATIVE_TEMPLATES = {
    Performative.REQUEST: "request",
    Performative.QUERY: "query",
    Performative.INFORM: "inform",
}


def subject_of(message: Message) -> Subject:
    """The message as a provider is told about it."""
    files = tuple(FileInfo(a.name, a.media_type, len(a.data)) for a in message.attachments)
    return Subject(
        performative=message.performative.value,
        capability=message.capability or "",
        content=message.content,
        sender=message.sender,
        conversation_id=message.conversation_id,
        files=files,
    )


def first_messages(
    definition: AgentDefinition,
    message: Message,
    tools: list[str],
    memory: str = "",
    earlier: Earlier = NOTHING_BEFORE,
) -> list[ChatMessage]:
    """The system prompt, what was said before, and the prompt for this message.

    Args:
        definition: The agent.
        message: What is to be answered.
        tools: Names of its tools.
        memory: What it remembers, as data; it follows the prompt where no template has a place for it.
        earlier: What was said before in the conversation; it comes between where no template has a place.
    """
    kind = _PERFORMATIVE_TEMPLATES.get(message.performative, "request")
    template = definition.templates.get(kind) or definition.templates.get("request") or ""
    system_template = definition.templates.get("system", definition.system_prompt)
    placed = names_in(template) | names_in(system_template)
    values: dict[str, Any] = {}
    if placed:
        history = {"context": earlier.text, "conversation_summary": earlier.summary}
        values = _values(definition, message, tools) | {"memory_context": memory} | history
    prompt = render(template, values) if template else _default_prompt(message, tools)
    system = render(system_template, values)
    if definition.output_schema is not None:
        system = f"{system}\n\n{instruction(definition.output_schema)}"
    if memory and "memory_context" not in placed:
        prompt = f"{prompt}\n\n{memory}"
    if "context" in placed:
        earlier = Earlier(summary=earlier.summary)
    if "conversation_summary" in placed:
        earlier = Earlier(earlier.turns)
    return [ChatMessage("system", system), *earlier.messages, ChatMessage("user", prompt)]


def reply_content(definition: AgentDefinition, completion: Completion) -> Any:
    """The answer as message content, in the agent's ``messaging.response_format``.

    What follows an ``output_schema`` stays as it is: a label would break it.
    """
    form = definition.setting("messaging", "response_format", "structured")
    if form == "natural":
        return completion.text
    if form == "structured" and definition.output_schema is not None and completion.outcome == "answer":
        return completion.content
    data = completion.content if completion.content is not None else _json_object(completion.text)
    if form == "hybrid":
        return {"provider": completion.provider, "text": completion.text, "data": data}
    if data is None:
        return {"provider": completion.provider, "answer": completion.text}
    label = {"provider": completion.provider}
    return label | data | label if isinstance(data, dict) else data  # an answer cannot relabel itself


def tool_text(result: Any) -> str:
    """A tool's result as a model reads it."""
    return json.dumps(result, ensure_ascii=False)


def _values(definition: AgentDefinition, message: Message, tools: list[str]) -> dict[str, Any]:
    content = as_text(message.content)
    return {
        **definition.parameters,
        "request": content,
        "message_content": content,
        "data": message.content,
        "capability": message.capability or "",
        "sender_agent": message.sender,
        "conversation_id": message.conversation_id,
        "performative": message.performative.value,
        "timestamp": iso8601(message.timestamp_s),
        "attachments": ", ".join(a.name for a in message.attachments),
        "tools": ", ".join(tools),
        "agent_name": definition.name,
    }


def _default_prompt(message: Message, tools: list[str]) -> str:
    target = f" for {message.capability} capability" if message.capability else f" from {message.sender}"
    word = message.performative.value
    lines = [f"You received a {word.upper()}{target}:", f'"{as_text(message.content)}"', ""]
    if message.attachments:
        lines += ["Attached files: " + ", ".join(a.name for a in message.attachments), ""]
    if tools:
        lines.append(f"Using your available tools ({', '.join(tools)}),")
        lines.append(f"process this {word} and provide your analysis.")
    else:
        lines.append(f"Process this {word} and provide your answer.")
    return "\n".join(lines)


def _json_object(text: str) -> dict[str, Any] | None:
    """A model's answer as an object, when all of it is one (a code fence around it is taken off)."""
    plain = text.strip()
    if plain.startswith("```") and plain.endswith("```"):
        plain = plain.removeprefix("```json").strip("`").strip()
    if not plain.startswith("{"):
        return None
    try:
        value = json.loads(plain, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
