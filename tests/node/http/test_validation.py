"""``POST /agents/validate``: what is wrong with an agent file, at its place, and nothing is deployed."""

from __future__ import annotations

import pytest

from tests.node.http.fakes import VIEWER, World

GOOD = "---\nname: Good\nversion: 1.0.0\ncapabilities: [a]\nsystem_prompt: Hi.\ntools: [csv_parser]\n---\n"
PATHS = ("/validate/config", "/agents/validate", "/config-agents/validate")


@pytest.mark.parametrize("path", PATHS)
async def test_a_good_file_is_read_and_nothing_is_deployed(path: str) -> None:
    world = World()
    async with world.client() as client:
        found = (await client.post(path, json={"content": GOOD, "workspace": "w"})).json()
    assert (found["valid"], found["errors"], found["warnings"]) == (True, [], [])
    assert (found["parsed_config"]["id"], found["parsed_config"]["tools"]) == ("good", ["csv_parser"])
    assert found["estimated_resources"] == {"tokens_per_request_estimate": 1}
    assert "good" not in world.agents.agents


async def test_every_problem_has_its_place_and_what_would_be_right() -> None:
    bad = GOOD.replace("capabilities", "capabilites").replace("csv_parser", "csv_parse")
    async with World().client() as client:
        found = (await client.post(PATHS[0], json={"content": bad})).json()
        tolerant = {"content": bad, "check_tool_availability": False}
        without = (await client.post(PATHS[0], json=tolerant)).json()
        none = (await client.post(PATHS[0], json={"content": "hello"})).json()
    assert (found["valid"], found["parsed_config"]) == (False, None)
    assert [(p["field"], p["line"]) for p in found["errors"]] == [("capabilities", 1), ("capabilites", 4)]
    assert [p["field"] for p in found["warnings"]] == ["tools[0]"]
    assert found["suggestions"] == [
        "line 4, column 1: write 'capabilities'",
        "line 6, column 9: write 'csv_parser'",
    ]
    assert without["warnings"] == []
    assert (none["valid"], none["estimated_resources"]["tokens_per_request_estimate"]) == (False, 0)


async def test_strict_has_warnings_for_errors() -> None:
    body = {"content": GOOD.replace("version: 1.0.0\n", "")}
    async with World().client() as client:
        assert (await client.post(PATHS[0], json=body)).json()["valid"] is True
        found = (await client.post(PATHS[0], json=body | {"strict_mode": True})).json()
    assert (found["valid"], [p["field"] for p in found["errors"]]) == (False, ["version"])


@pytest.mark.parametrize("body", [{}, {"content": 7}, {"content": "x", "typo": 1}])
async def test_a_body_that_is_none_is_refused(body: dict[str, object]) -> None:
    async with World().client() as client:
        answer = await client.post(PATHS[1], json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")


async def test_who_may_not_deploy_may_not_have_files_read() -> None:
    async with World().client(VIEWER) as client:
        assert (await client.post(PATHS[0], json={"content": GOOD})).status_code == 403
