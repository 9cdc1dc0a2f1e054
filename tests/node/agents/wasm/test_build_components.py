"""The templates of components are built with their own tools, and do in the sandbox what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.node.agents.wasm.builds import check_agent

pytestmark = pytest.mark.timeout(600)  # compilers, on a machine with other things to do


@pytest.mark.parametrize("language", ["javascript", "typescript", "python"])
async def test_a_component_is_built_and_answers(
    language: str, tmp_path: Path, autojump_clock: object, nursery: trio.Nursery
) -> None:
    await check_agent(tmp_path, language, nursery)


@pytest.mark.parametrize("language", ["javascript", "typescript"])
async def test_a_component_with_the_other_engine_is_built_and_answers(
    language: str, tmp_path: Path, autojump_clock: object, nursery: trio.Nursery
) -> None:
    await check_agent(tmp_path, language, nursery, "spidermonkey")
