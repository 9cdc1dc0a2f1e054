"""The templates of core modules are built with their own tools, and do in the sandbox what they say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from node.cli.build import build
from node.cli.errors import ToolchainMissing
from node.environment import system_environment
from node.memory.model import Realm, Scope
from node.memory.room import MemoryRoom
from node.memory.scopes import OPERATOR
from node.samples import sample_directory
from tests.node.agents.rooms import rooms
from tests.node.agents.wasm.builds import PRESENT, check_agent

pytestmark = pytest.mark.timeout(600)  # compilers, on a machine with other things to do


@pytest.mark.parametrize("language", ["c", "go", "zig"])
async def test_a_core_module_is_built_and_answers(
    language: str, tmp_path: Path, autojump_clock: object, nursery: trio.Nursery
) -> None:
    await check_agent(tmp_path, language, nursery)


async def test_a_module_in_rust_is_built_and_answers(
    tmp_path: Path, autojump_clock: object, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fetch(tmp_path)
    await check_agent(tmp_path, "rust", nursery)


async def test_the_example_of_memory_and_tools_reads_a_log_and_remembers_it(
    tmp_path: Path, memory: MemoryRoom
) -> None:
    _fetch(tmp_path)
    for part in ("examples/incident_notes", "sdk/rust"):  # what is built stays out of the sources
        ignored = shutil.ignore_patterns("target", "Cargo.lock", "agent.wasm")
        shutil.copytree(sample_directory(part), tmp_path / part, ignore=ignored)
    project = tmp_path / "examples" / "incident_notes"
    try:
        build(project, "rust", project / "agent.wasm")
    except ToolchainMissing as error:
        if "rust" in PRESENT:
            raise
        pytest.skip(f"rust: {error.why}")
    module = {"agent.wasm": (project / "agent.wasm").read_bytes()}
    log = "2026-01-01T00:00:00Z INFO up\n2026-01-01T00:00:01Z ERROR the database is gone\n"
    noted = "shop: the database is gone"
    async with rooms(memory=memory, environment=system_environment()) as here:
        await here.supervisor.deploy((project / "agent.md").read_bytes(), artifacts=module, workspace="lab")
        [told] = await here.send("incident-notes", {"service": "shop", "log": log})
        assert told.content == {"noted": noted, "errors": 1}
        [told] = await here.send("incident-notes", {"question": "What was wrong with the database?"})
        assert told.content == {"remembered": [noted]}
        [told] = await here.send("incident-notes", {"service": "shop"})
        assert told.content == {"reason": "content.log is missing"}
    [realm] = await (await memory.store()).counts(OPERATOR)
    assert realm == Realm(Scope.WORKSPACE, "lab")


def _fetch(directory: Path) -> None:
    """Skip where the one crate of the template cannot be fetched: that is not what is tested."""
    cargo = shutil.which("cargo")
    if cargo is None:
        return
    probe = directory / "probe"
    (probe / "src").mkdir(parents=True)
    (probe / "src" / "lib.rs").touch()
    manifest = (
        '[package]\nname = "probe"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nserde_json = "1"\n'
    )
    (probe / "Cargo.toml").write_text(manifest)
    done = subprocess.run([cargo, "fetch"], cwd=probe, capture_output=True, timeout=120, check=False)
    if done.returncode != 0 and "rust" not in PRESENT:
        pytest.skip("rust: serde_json cannot be fetched")
