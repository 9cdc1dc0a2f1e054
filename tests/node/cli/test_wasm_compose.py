"""``caxton wasm compose``: components are put into one by wac, and what is missing or wrong is said."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import wasmtime

from node.cli import build_languages
from node.cli.wasm_compose import PLUGS_LIMIT
from tests.node.agents.wasm.guests import House, ask
from tests.node.agents.wasm.test_component import built
from tests.node.cli.conftest import Shell

GREET = """(component
  (core module $m (func (export "number") (result i32) (i32.const 1)))
  (core instance $i (instantiate $m))
  (func $number (result u32) (canon lift (core func $i "number")))
  (instance $all (export "number" (func $number)))
  (export "test:greet/api@1.0.0" (instance $all)))"""
"""Exports a number that no host has."""


_GREET = '(import "test:greet/api@1.0.0" (instance $greet (export "number" (func (result u32)))))'


def asking() -> str:
    """An agent that says what it is told by another component, plus one digit: 123 or 223."""
    source = built("(call $say (call $number))").decode()
    for old, new in (
        (
            '(import "caxton:agent/random@1.0.0"',
            f'{_GREET} (import "caxton:agent/random@1.0.0"',
        ),
        (
            "(core func $draw (canon",
            '(core func $number (canon lower (func $greet "number"))) (core func $draw (canon',
        ),
        (
            '(import "host" "draw"',
            '(import "host" "number" (func $number (result i32))) (import "host" "draw"',
        ),
        (
            '(export "draw" (func $draw))',
            '(export "draw" (func $draw)) (export "number" (func $number))',
        ),
    ):
        assert source.count(old) == 1
        source = source.replace(old, new)
    return source


@pytest.fixture
def parts(tmp_path: Path) -> tuple[str, str]:
    found = []
    for name, source in (("agent", asking()), ("greet", GREET)):
        path = tmp_path / f"{name}.wasm"
        path.write_bytes(bytes(wasmtime.wat2wasm(source)))
        found.append(str(path))
    return found[0], found[1]


@pytest.fixture
def wac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called wac that runs a script, ``wac.py``, which a test writes."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "wac").write_text(f'#!/bin/sh\nexec {sys.executable} {tools}/wac.py "$@"\n')
    (tools / "wac").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    return tools / "wac.py"


WRITES = """import sys
from pathlib import Path
assert sys.argv[1] == "plug"
Path(sys.argv[sys.argv.index("--output") + 1]).write_bytes(Path({part!r}).read_bytes())
"""


def test_what_wac_makes_is_kept_if_it_is_an_agent(
    wac: Path, parts: tuple[str, str], shell: Shell, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.wasm"
    whole.write_bytes(bytes(wasmtime.wat2wasm(built().decode())))
    wac.write_text(WRITES.format(part=str(whole)))
    assert shell("wasm", "compose", parts[0], "--with", parts[1]) == 0
    assert "of 2 components" in shell.out
    assert (tmp_path / "agent-composed.wasm").read_bytes() == whole.read_bytes()
    wac.write_text(WRITES.format(part=parts[0]))
    assert shell("wasm", "compose", parts[0], "--with", parts[1]) == 1
    assert "test:greet/api@1.0.0" in shell.err


def test_a_tool_that_fails_writes_nothing(
    wac: Path, parts: tuple[str, str], shell: Shell, tmp_path: Path
) -> None:
    for script, said in (("import sys; sys.exit(3)", "ended with status 3"), ("", "there is no component")):
        wac.write_text(script)
        assert shell("wasm", "compose", parts[0], "--with", parts[1], "--output", str(tmp_path / "o")) == 1
        assert said in shell.err
    assert not (tmp_path / "o").exists()


def test_what_cannot_be_composed_is_named(parts: tuple[str, str], shell: Shell, tmp_path: Path) -> None:
    core = tmp_path / "core.wasm"
    core.write_bytes(bytes(wasmtime.wat2wasm("(module)")))
    for agent, plug in ((str(core), parts[1]), (parts[0], str(core))):
        assert shell("wasm", "compose", agent, "--with", plug) == 2
        assert "is no component" in shell.err
    assert shell("wasm", "compose", parts[0]) == 2
    assert shell("wasm", "compose", parts[0], *["--with", parts[1]] * (PLUGS_LIMIT + 1)) == 2
    assert shell("wasm", "compose", parts[0], "--with", str(tmp_path / "missing")) != 0


def test_a_missing_wac_is_named_with_how_to_get_it(
    parts: tuple[str, str], shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build_languages.sys, "executable", str(tmp_path / "python"))
    assert shell("wasm", "compose", parts[0], "--with", parts[1]) == 2
    assert "cargo install wac-cli" in shell.err


@pytest.mark.skipif(shutil.which("wac") is None, reason="wac takes too long to compile to be installed here")
def test_two_real_components_are_composed_and_the_whole_answers(
    parts: tuple[str, str], shell: Shell, tmp_path: Path
) -> None:
    import trio  # noqa: PLC0415 - the other tests run nothing

    whole = tmp_path / "whole.wasm"
    assert shell("wasm", "compose", parts[0], "--with", parts[1], "--output", str(whole)) == 0

    async def answer() -> object:
        return await ask(await House().load(whole.read_bytes()))

    assert trio.run(answer) == 223
