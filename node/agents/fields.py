"""The table of front-matter fields: what each is for, its form, and whether it does anything yet.

Every documented field is listed. ``USED`` fields change what the agent does. ``DATA`` fields are carried
and shown, which is all they promise. ``LATER`` fields are documented but have no effect yet: they load,
with a warning that says so, because a field that is silently ignored is a lie. The JSON Schema for editors
(:mod:`node.agents.schema`) is made from the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from node.agents import forms
from node.agents.forms import DURATION, FLAG, MAPPING, SIZE, STRINGS, Form, Invalid, number, one_of, text
from node.agents.frontmatter import FrontMatter, Path
from node.agents.grants import Grant
from node.cluster.provider import MINORITY_POLICIES
from node.errors import nearest

TEXT_LIMIT: Final = 32_768
"""Longest prompt, in characters."""
COST_LIMIT: Final = 1e12
"""Largest cost in the rules of bids."""
NAME_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]$"
"""Of the name of an agent, which has at least 3 characters."""
VERSION_PATTERN: Final = (
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$"
)
"""Of a semantic version (semver.org, 2.0.0)."""


class Effect(Enum):
    """What a field does in this version."""

    USED = "used"
    DATA = "data"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Field:
    """One row of the table.

    Args:
        form: What its value must look like.
        effect: What it does.
        about: What it is for, in one line.
    """

    form: Form
    effect: Effect
    about: str


def _used(form: Form, about: str) -> Field:
    return Field(form, Effect.USED, about)


def _data(form: Form, about: str) -> Field:
    return Field(form, Effect.DATA, about)


def _later(about: str) -> Field:
    return Field(forms.ANYTHING, Effect.LATER, about)


_PROMPT: Final = text(TEXT_LIMIT)
_COST: Final = number(0, COST_LIMIT)

TOP: Final[Mapping[str, Field]] = {
    "name": _used(
        text(64, NAME_PATTERN),
        "Its name: 3 to 64 letters, digits and hyphens. The id is the same in kebab-case.",
    ),
    "version": _used(
        text(64, VERSION_PATTERN), "Semantic version, announced to the cluster; 1.0.0 without it."
    ),
    "capabilities": _used(
        STRINGS, "What it offers: kebab-case, with an optional version (data-analysis:v2)."
    ),
    "tools": _used(STRINGS, "Tool servers (csv_parser) or single tools (csv_parser/csv_top) it may use."),
    "system_prompt": _used(_PROMPT, "Template of what a model is told before every message."),
    "user_prompt_template": _used(_PROMPT, "Template of the prompt for a message."),
    "parameters": _used(MAPPING, "Values for templates; each key is a variable."),
    "requires": _used(
        STRINGS, "Capabilities of other agents it may ask; each becomes a tool ask_<capability>."
    ),
    "runtime": _used(one_of("config", "wasm"), "config (a model answers; the default) or wasm (a module)."),
    "module": _used(text(128), "File name of the WebAssembly module, .wasm or .wat, beside the agent file."),
    "priority": _used(number(0, 1000, whole=True), "Weighs in best_match; 50 without it."),
    "topics": _used(forms.SUBSCRIPTIONS, "Patterns over the topics it subscribes to."),
    "accepts": _used(forms.EXPRESSION, "Expression over the contents it takes: content.amount > 100."),
    "labels": _used(forms.LABELS, "Facts that a message may require of it: region: eu."),
    "minority": _used(
        one_of(*MINORITY_POLICIES), "What becomes of its messages on the smaller side of a partition."
    ),
    "description": _data(text(200), "What it is, in a line."),
    "author": _data(forms.ANYTHING, "Who has written it."),
    "license": _data(text(100), "Its licence."),
    "tags": _data(STRINGS, "Words to find it by."),
    "created": _data(text(40), "When it was written."),
    "updated": _data(text(40), "When it was changed."),
    "capability_metadata": _data(MAPPING, "Facts about each capability, for people and programs."),
    "memory_enabled": _used(FLAG, "Searches its memory before it answers, and stores what is worth it."),
    "memory_scope": _used(forms.SCOPE, "Where it remembers: agent-only (the default), workspace or global."),
    "output_schema": _used(forms.OUTPUT_SCHEMA, "JSON Schema that its answers must follow."),
    "tool_config": _later("Settings of tools."),
    "memory": _later("Settings of its memory."),
    "context_configuration": _later("What goes into the context of a prompt."),
    "context_requirements": _later("What it needs in the context of a prompt."),
    "deployment": _later("Replicas and health checks."),
    "monitoring": _later("What is measured about it."),
}
"""Fields at the top of the front matter; the groups are in :data:`GROUPS`."""

GROUPS: Final[Mapping[str, Mapping[str, Field]]] = {
    "conversation": {
        "max_turns": _used(number(1, 50, whole=True), "Completions for one message; 50 without it."),
        "timeout": _used(DURATION, "A time limit of one message; the shortest of all counts."),
        "temperature": _used(number(0, 2), "Handed to the provider."),
        "context_window": _used(
            number(100, 1_000_000, whole=True), "Tokens of earlier messages in a prompt; 4000 without it."
        ),
        "memory_strategy": _used(
            one_of("sliding", "summarize", "persist"),
            "Earlier messages go into prompts; what leaves the window is left out, retold or remembered.",
        ),
        "memory_integration": _later("Whether the memory is part of the conversation."),
    },
    "performance": {
        "max_execution_time": _used(DURATION, "A time limit of one message."),
        "concurrent_tools": _used(number(1, 16, whole=True), "Tool calls of one turn at once; 3 without it."),
        "max_memory_usage": _later("Memory it may use."),
    },
    "messaging": {
        "auto_respond": _used(FLAG, "Answer an INFORM too; without it an INFORM is noted and not answered."),
        "response_format": _used(
            one_of("structured", "natural", "hybrid"), "structured (the default), natural (text) or hybrid."
        ),
        "conversation_timeout": _later("How long a conversation may be silent."),
        "max_conversation_length": _later("Messages of one conversation."),
        "context_window": _later("Messages of the conversation in a prompt."),
    },
    "prompt_templates": {
        "request_handler": _used(_PROMPT, "Template for a REQUEST; wins over user_prompt_template."),
        "query_handler": _used(_PROMPT, "Template for a QUERY."),
        "inform_handler": _used(_PROMPT, "Template for an INFORM."),
    },
    "llm": {
        "provider": _used(text(64), "A provider of the node; the node's llm.provider if absent."),
        "model": _used(text(128), "Handed to the provider; its own model if absent."),
        "temperature": _used(number(0, 2), "Handed to the provider; wins over conversation.temperature."),
        "max_tokens": _used(number(1, 1_000_000, whole=True), "Most tokens of an answer."),
        "base_url": _later("Address of the provider."),
    },
    "proposals": {
        "accept": _used(STRINGS, "Topics of a PROPOSE that are accepted; * for all."),
        "reject": _used(STRINGS, "Topics that are rejected; tried first."),
    },
    "bids": {
        "cost": _used(_COST, "What a bid for a task says it costs."),
        "load_cost": _used(_COST, "What is added to it, times the load of the node (0 to 1)."),
        "max_load": _used(number(0, 1), "Above this load of the node the agent refuses to bid."),
        "valid": _used(DURATION, "How long a bid stands; 60s without it."),
    },
    "resource_limits": {
        "response_timeout": _used(DURATION, "A time limit of one message."),
        "tool_call_timeout": _used(DURATION, "Longest call of one tool."),
        "max_conversations": _later("Conversations at once."),
        "max_memory_entities": _later("Entities it may remember."),
        "conversation_limit": _later("Conversations in all."),
    },
    "security": {
        "restricted_tools": _used(STRINGS, "Tools taken away again."),
        "require_approval": _used(
            STRINGS, "Tools of which an operator must approve every call: a server, server/tool, or '*'."
        ),
        "max_processing_time": _used(DURATION, "A time limit of one message."),
        "max_memory_usage": _later("Memory it may use."),
        "allowed_domains": _used(forms.DOMAINS, "Domains its tools may call; none without it."),
        "allowed_paths": _used(forms.FOLDERS, "Folders its tools may use, of those that the node offers."),
        "sandbox_restrictions": _used(
            forms.RESTRICTIONS, "How far its tools may reach: network_access, file_system_access."
        ),
    },
    "wasm": {
        "grants": _used(forms.words(*Grant), "What the module may ask of its host; nothing without it."),
        "fuel": _used(
            number(1, 10**12, whole=True), "Instructions for one message; the node's limit holds too."
        ),
        "timeout": _used(DURATION, "Time for one message."),
        "memory": _used(SIZE, "Memory of an instance."),
        "memory_read": _used(
            forms.SCOPES, "Scopes that its searches of the memory read; memory_scope without it."
        ),
        "host_calls": _used(number(1, 1000, whole=True), "Host calls for one message."),
        "messages_per_second": _used(number(1, 10_000, whole=True), "Messages to others in a second."),
        "instances": _used(
            number(1, 4, whole=True), "Messages handled at once, each by an instance of its own."
        ),
        "fresh": _used(FLAG, "Every message gets a fresh instance; otherwise one is kept."),
        "deterministic": _used(FLAG, "Clock and chance follow from the message alone."),
        "quarantine_after": _used(
            number(1, 1000, whole=True), "Failures within a minute that take it out of service."
        ),
    },
}
"""Groups of fields and the table of each."""

GROUPS_ABOUT: Final[Mapping[str, str]] = {
    "conversation": "Turns, time and temperature of one message.",
    "performance": "Time, and tools at once.",
    "messaging": "What is answered, and in which form.",
    "prompt_templates": "Prompt templates by performative.",
    "llm": "Which model answers, and how.",
    "proposals": "Which proposals are accepted and rejected, without asking the model.",
    "bids": "How it bids for tasks (Contract Net), without asking the model.",
    "resource_limits": "Time limits.",
    "security": "What is denied to it.",
    "wasm": "Grants and limits of a WebAssembly module.",
}
"""What each group is for."""

NOT_FOR_WASM: Final = ("requires", "llm", "proposals", "bids", "memory_enabled", "output_schema")
"""Fields that have no meaning for a WebAssembly agent."""

_GROUP_ROWS: Final = {name: Field(MAPPING, Effect.USED, about) for name, about in GROUPS_ABOUT.items()}


def check_fields(front: FrontMatter) -> dict[str, Any]:
    """Check every field against the tables; the result holds what passed, groups as mappings."""
    return _check(front, front.values, (), {**TOP, **_GROUP_ROWS})


def _check(
    front: FrontMatter, values: Mapping[str, Any], path: Path, table: Mapping[str, Field]
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in values.items():
        here = (*path, name)
        row = table.get(name)
        if row is None:
            _unknown(front, here, name, table)
            continue
        if row.effect is Effect.LATER:
            if value not in (False, None):
                front.add(
                    "not_supported_yet", here, "is documented but has no effect yet", severity="warning"
                )
            kept[name] = value
            continue
        if value is None:
            front.add("invalid_value", here, "has no value")
            continue
        try:
            kept[name] = row.form.check(value)
        except Invalid as error:
            front.add("invalid_value", here, str(error))
            continue
        if not path and name in GROUPS:
            kept[name] = _check(front, kept[name], here, GROUPS[name])
    return kept


def _unknown(front: FrontMatter, here: Path, name: str, table: Mapping[str, Field]) -> None:
    guess = nearest(name, table)
    message = "is not a field of an agent file" + (f"; did you mean {guess!r}?" if guess else "")
    others = [guess] if guess else sorted(table)
    front.add("unknown_field", here, message, alternatives=tuple(others))
