"""How far an agent's tools reach: as far as both its own file and the node's configuration let them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node.agents.definition import parse_definition
from node.config import ToolsConfig
from node.config.tools import FileRootsConfig, HttpClientConfig
from tests.node.agents.rooms import rooms
from tests.node.agents.test_configured import scripted
from tests.node.agents.test_definition import agent, problems


async def refusal(call: str, result: str, *lines: str, reach: ToolsConfig) -> Any:
    """What becomes of a message whose agent makes one call, and says what the tool said if it fits."""
    providers = scripted(f"tool_calls: [{call}]", f'match: {{tool_result: "{result}"}}, text: so it was')
    async with rooms(providers=providers, reach=reach) as here:
        await here.supervisor.deploy(agent("tools: [http_client, files]", *lines))
        [draft] = await here.send("tester", "go")
        return draft.content.get("answer")


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("tags: []", "the agent may call none"),
        ("security: {allowed_domains: [other.example]}", "the agent may call other.example"),
        ("security: {allowed_domains: [127.0.0.1]}", "no public address"),
        (
            "security: {allowed_domains: [127.0.0.1], sandbox_restrictions: {network_access: false}}",
            "the agent may call none",
        ),
    ],
)
async def test_the_domains_of_the_agents_file_reach_the_client(line: str, result: str) -> None:
    call = "{name: http_get, arguments: {url: 'http://127.0.0.1/'}}"
    reach = ToolsConfig(http_client=HttpClientConfig(allowed_domains=("*",)))
    assert await refusal(call, result, line, reach=reach) == "so it was"


@pytest.mark.parametrize(
    ("line", "read", "written"),
    [
        ("tags: []", "green", "must not be written"),
        ("security: {allowed_paths: [tea/black]}", "no file", "out of reach"),
        ("security: {sandbox_restrictions: {file_system_access: none}}", "no file", "out of reach"),
        ("security: {sandbox_restrictions: {file_system_access: false}}", "no file", "out of reach"),
        ("security: {sandbox_restrictions: {file_system_access: read-write}}", "green", "is written"),
    ],
)
async def test_the_folders_of_the_agents_file_reach_the_tools(
    tmp_path: Path, line: str, read: str, written: str
) -> None:
    (tmp_path / "tea").mkdir()
    (tmp_path / "tea" / "a.txt").write_text("green")
    reach = ToolsConfig(files=FileRootsConfig(write=(tmp_path / "tea",)))
    call = "{name: read_file, arguments: {file: tea/a.txt}}"
    assert await refusal(call, read, line, reach=reach) == "so it was"
    call = "{name: write_file, arguments: {file: tea/b.txt, text: x}}"
    assert await refusal(call, written, line, reach=reach) == "so it was"
    assert (tmp_path / "tea" / "b.txt").exists() is (written == "is written")


def test_the_fields_are_read_in_their_forms() -> None:
    security = parse_definition(
        agent(
            "security:",
            "  allowed_domains: example.org",
            "  allowed_paths: [/reports/2026/]",
            "  sandbox_restrictions: {network_access: true, file_system_access: read-only}",
        )
    ).groups["security"]
    assert security["allowed_domains"] == ("example.org",)
    assert security["allowed_paths"] == ("reports/2026",)
    assert security["sandbox_restrictions"] == {"network_access": True, "file_system_access": "read_only"}


@pytest.mark.parametrize(
    "line",
    [
        "allowed_domains: ['https://example.org']",
        "allowed_domains: ['*.*.org']",
        "allowed_domains: [a b]",
        "allowed_paths: [../etc]",
        "allowed_paths: [/]",
        "allowed_paths: ['a//b']",
        "sandbox_restrictions: none",
        "sandbox_restrictions: {network: false}",
        "sandbox_restrictions: {network_access: maybe}",
        "sandbox_restrictions: {file_system_access: everything}",
        "sandbox_restrictions: {file_system_access: true}",
    ],
)
def test_a_field_of_another_form_is_an_error(line: str) -> None:
    [problem] = problems(agent(f"security: {{{line}}}"))
    assert problem["field"].startswith("security.")
    assert problem["type"] == "invalid_value"
