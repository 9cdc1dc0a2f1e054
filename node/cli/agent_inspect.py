"""``caxton agent inspect``: what a node would make of an agent file, without deploying it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click
import trio

from node.agents.ask import question_specs
from node.agents.definition import AgentDefinition, parse_definition
from node.agents.prompt import first_messages
from node.agents.settings import AgentSettings
from node.cli.agent_files import read_agent
from node.cli.deploy import read_file
from node.cli.output import print_json, print_table, safe
from node.environment import Environment, system_environment
from node.llm.provider import ToolSpec
from node.llm.wire import estimate
from node.memory.absent import AbsentEmbedder
from node.memory.records import Limits
from node.memory.room import MemoryRoom
from node.message import Attachment, Message
from node.telemetry.tracing import Tracing
from node.tools.builtin_servers import builtin_servers
from node.tools.host import ToolHost
from node.vocabulary import Performative

EXAMPLE: Final = "Please do what you are for."
"""The message that prompts are shown for, where none is given."""
_LIMITS: Final = (
    ("conversation", "max_turns"),
    ("conversation", "timeout"),
    ("performance", "max_execution_time"),
    ("performance", "concurrent_tools"),
    ("resource_limits", "response_timeout"),
    ("resource_limits", "tool_call_timeout"),
    ("security", "max_processing_time"),
    ("llm", "max_tokens"),
)


def inspect(file: Path, content: str | None, performative: str, attached: tuple[Path, ...]) -> dict[str, Any]:
    """What a node would make of an agent file.

    Args:
        file: The agent file.
        content: Of the message that prompts are shown for, JSON or text.
        performative: Of that message.
        attached: Files that come with it.

    Raises:
        AgentInvalid: it has problems.
    """
    definition = parse_definition(read_file(file))
    specs = trio.run(_tools, definition) if definition.runtime == "config" else []
    found: dict[str, Any] = {
        "file": str(file),
        "id": definition.id,
        "name": definition.name,
        "version": definition.version,
        "runtime": definition.runtime,
        "description": definition.description,
        "capabilities": list(definition.capabilities),
        "topics": [pattern for pattern, _ in definition.topics],
        "requires": list(definition.requires),
        "memory": definition.memory_scope if definition.memory_enabled else None,
        "limits": _limits(definition),
        "warnings": [warning.as_json() for warning in definition.warnings],
    }
    if definition.runtime == "wasm":
        agent = read_agent(file)
        return found | {"files": {name: len(data) for name, data in agent.artifacts.items()}}
    message = _example(definition, content, Performative.parse(performative), attached)
    prompts = first_messages(definition, message, [spec.name for spec in specs])
    said = sum(len(prompt.text.encode()) for prompt in prompts)
    offered = sum(len(json.dumps([s.name, s.description, dict(s.input_schema)])) for s in specs)
    return found | {
        "provider": definition.setting("llm", "provider"),
        "model": definition.setting("llm", "model"),
        "tools": [{"name": spec.name, "description": spec.description} for spec in specs],
        "output_schema": definition.output_schema,
        "prompts": [{"role": prompt.role, "text": prompt.text} for prompt in prompts],
        "estimated_tokens": {"prompts": estimate(said), "tools": estimate(offered)},
    }


def tell(found: dict[str, Any]) -> None:
    """Show it to a person."""
    for key in ("id", "name", "version", "runtime", "description", "memory", "provider", "model"):
        if found.get(key):
            click.echo(safe(f"{key}: {found[key]}"))
    for key in ("capabilities", "topics", "requires"):
        if found[key]:
            click.echo(safe(f"{key}: {', '.join(found[key])}"))
    click.echo(
        "limits: " + (", ".join(f"{key} {value:g}" for key, value in found["limits"].items()) or "none")
    )
    for name, size in found.get("files", {}).items():
        click.echo(safe(f"file: {name}, {size:,} bytes"))
    for warning in found["warnings"]:
        click.echo(safe(f"warning: {warning['location']}: {warning['field']} {warning['message']}"))
    if "prompts" not in found:
        return
    click.echo()
    rows = [(tool["name"], tool["description"][:90]) for tool in found["tools"]]
    print_table("Tools", ("tool", "what it does"), rows)
    for prompt in found["prompts"]:
        click.echo(safe(f"\n--- {prompt['role']} ---\n{prompt['text'].rstrip()}"))
    tokens = found["estimated_tokens"]
    click.echo(
        f"\nabout {tokens['prompts']} tokens of prompts, and {tokens['tools']} of tools, in every turn"
    )


def show(
    file: Path, content: str | None, performative: str, attached: tuple[Path, ...], *, as_json: bool
) -> None:
    """Inspect a file and print what was found."""
    found = inspect(file, content, performative, attached)
    if as_json:
        print_json(found)
    else:
        tell(found)


async def _tools(definition: AgentDefinition) -> list[ToolSpec]:
    """The tools that a model would see, questions to other agents included."""
    environment = system_environment()
    servers = builtin_servers(_no_memory(environment), environment=environment)
    host = ToolHost(environment=environment, tracing=Tracing.off(), servers=servers)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        tools = await host.tools_for(definition.tools, definition.restricted_tools)
        nursery.cancel_scope.cancel()
    specs = [ToolSpec(tool.name, tool.description, tool.input_schema) for tool in tools]
    return specs + question_specs(definition.requires)


def _no_memory(environment: Environment) -> MemoryRoom:
    """A memory whose tools are told of; none is called, so its file is never made."""

    async def absent() -> AbsentEmbedder:
        return AbsentEmbedder()

    return MemoryRoom(
        environment=environment,
        path=Path("never-opened"),
        durability="normal",
        node="",
        limits=Limits(),
        threshold=1.0,
        make_embedder=absent,
    )


def _limits(definition: AgentDefinition) -> dict[str, float]:
    settings = AgentSettings()
    found = {f"{g}.{name}": definition.setting(g, name) for g, name in _LIMITS}
    found["conversation.max_turns"] = definition.setting("conversation", "max_turns", settings.max_turns)
    return {name: value for name, value in found.items() if value is not None}


def _example(
    definition: AgentDefinition, content: str | None, performative: Performative, attached: tuple[Path, ...]
) -> Message:
    try:
        value = EXAMPLE if content is None else json.loads(content)
    except json.JSONDecodeError:
        value = content
    return Message(
        id="example",
        performative=performative,
        sender="client@example",
        capability=next(iter(definition.capabilities), None),
        content=value,
        conversation_id="example",
        reply_with="example",
        timestamp_s=system_environment().clock.wall(),
        attachments=tuple(Attachment(path.name, "application/octet-stream", b"") for path in attached),
    )
