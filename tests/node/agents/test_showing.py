"""What an agent shows of its answers while they are made, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from node.config import LlmConfig
from node.llm.registry import ProviderRegistry
from node.messaging.delivery import Delivery, Draft
from node.vocabulary import Performative
from tests.node.agents.inline import inline_environment
from tests.node.agents.rooms import delivery, rooms

AGENT = """---
name: Teller
version: 1.0.0
capabilities: [data-analysis]
tools: [time]
llm: {{provider: scripted}}
system_prompt: Tell stories.
{more}---
"""
SCHEMA = "output_schema: {type: object, required: [total], properties: {total: {type: number}}}\n"


class Listener:
    """Hears what agents say."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.agents: list[str] = []

    @contextmanager
    def speak(self, agent: str, delivery: Delivery) -> Iterator[Listener]:
        assert delivery.message.id == "message-1"
        self.agents.append(agent)
        yield self

    def begin(self, turn: int) -> None:
        self.heard.append(turn)

    def hear(self, text: str) -> None:
        self.heard.append(text)


async def shown(tmp_path: Path, script: str, more: str = "") -> tuple[list[Any], Draft, list[str]]:
    path = tmp_path / "script.yaml"
    path.write_text(script)
    config = LlmConfig.model_validate({"scripted": {"path": str(path)}})
    providers = ProviderRegistry.from_config(config, inline_environment(), {})
    listener = Listener()
    async with rooms(providers=providers) as found:
        await found.supervisor.deploy(AGENT.format(more=more).encode())
        asked = replace(delivery("x"), audience=listener)
        [draft] = await found.bus.handlers["teller"](asked)
    return listener.heard, draft, listener.agents


async def test_an_answer_is_shown_in_the_pieces_that_it_comes_in(tmp_path: Path) -> None:
    heard, draft, agents = await shown(tmp_path, "rules: [{deltas: [Once, ' upon']}]")
    assert (heard, agents) == ([1, "Once", " upon"], ["teller"])
    assert draft.content["answer"] == "Once upon"


async def test_a_turn_after_tools_begins_anew(tmp_path: Path) -> None:
    script = """rules:
- {match: {turn: 1}, tool_calls: [{name: time_now}]}
- {match: {turn: 2}, deltas: [It is late]}
"""
    heard, draft, _ = await shown(tmp_path, script)
    assert heard == [1, 2, "It is late"]
    assert draft.performative is Performative.INFORM


async def test_what_must_follow_a_schema_is_not_shown_before_it_does(tmp_path: Path) -> None:
    script = """rules: [{deltas: ['{"secret": 1}']}, {deltas: ['{"total": 3}']}]"""
    heard, draft, agents = await shown(tmp_path, script, SCHEMA)
    assert (heard, agents) == ([], [])
    assert draft.content == {"total": 3}


@pytest.mark.parametrize("more", ["", SCHEMA])
async def test_an_agent_answers_where_nobody_ever_watches(tmp_path: Path, more: str) -> None:
    path = tmp_path / "script.yaml"
    path.write_text("""rules: [{deltas: ['{"total": ', '3}']}]""")
    config = LlmConfig.model_validate({"scripted": {"path": str(path)}})
    providers = ProviderRegistry.from_config(config, inline_environment(), {})
    async with rooms(providers=providers) as found:
        await found.supervisor.deploy(AGENT.format(more=more).encode())
        [draft] = await found.send("teller", "x")
    assert draft.content["total"] == 3
