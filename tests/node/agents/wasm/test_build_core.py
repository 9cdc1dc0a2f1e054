"""The templates of core modules are built with their own tools, and do in the sandbox what they say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import trio

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
