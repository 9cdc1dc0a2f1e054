"""``caxton build``: projects are made and built, and what is missing or wrong is said."""

from __future__ import annotations

import compileall
import shutil
import sys
from pathlib import Path

import pytest

from node.agents.definition import parse_definition
from node.agents.wasm.interface import without_debug
from node.cli import build_languages, build_template
from node.cli.build_languages import LANGUAGES, Plan, Step, guess
from node.cli.build_template import new_project
from node.cli.main import run
from node.errors import ValidationFailed
from node.samples import sample_directory
from tests.node.cli.conftest import Shell

AGENT = """(module
  (import "caxton" "load_data" (func (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "caxton_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "agent_init") (result i32) (i32.const 0))
  (func (export "handle_message") (param i32 i32) (result i32) (i32.const 0)))"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A project in C that is built by a Python script, ``compiler.py``, beside its source."""

    def plan(project: Path, scratch: Path) -> Plan:
        product = scratch / "agent.wasm"
        return Plan([Step([sys.executable, "compiler.py", str(product)], {"COLOUR": "no"})], product)

    monkeypatch.setitem(LANGUAGES, "c", build_languages.Language("agent.c", plan))
    project = tmp_path / "project"
    project.mkdir()
    (project / "agent.c").touch()
    return project


def compiler(project: Path, text: str) -> None:
    (project / "compiler.py").write_text(f"import os, sys\nfrom pathlib import Path\n{text}\n")


def writes(text: str) -> str:
    return f"import wasmtime; Path(sys.argv[1]).write_bytes(wasmtime.wat2wasm('''{text}'''))"


def test_a_module_is_built_and_what_it_needs_is_told(fake: Path, shell: Shell) -> None:
    compiler(fake, f"assert os.environ['COLOUR'] == 'no'\n{writes(AGENT)}")
    assert shell("build", str(fake)) == 0
    assert "a core; needs grants: state" in shell.out
    found = shell.json("build", str(fake), "--output", str(fake / "other.wasm"))
    assert found["module"] == str(fake / "other.wasm")
    assert (found["kind"], found["grants"]) == ("core", ["state"])
    assert (fake / "other.wasm").read_bytes() == (fake / "agent.wasm").read_bytes()


def test_a_compiler_that_fails_ends_the_build_and_leaves_the_old_module(
    fake: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (fake / "agent.wasm").write_bytes(b"old")
    compiler(fake, "print('agent.c:1: no semicolon', file=sys.stderr)\nsys.exit(3)")
    assert run(["build", str(fake)]) == 1
    said = capfd.readouterr().err
    assert "\nagent.c:1: no semicolon\n" in "\n" + said
    assert "ended with status 3" in said
    assert (fake / "agent.wasm").read_bytes() == b"old"


def test_what_is_built_must_be_an_agent(fake: Path, shell: Shell) -> None:
    compiler(fake, writes("(module)"))
    assert shell("build", str(fake)) == 1
    assert "it does not export the memory 'memory'" in shell.err
    assert shell("build", str(fake), "--no-check") == 0


def test_a_compiler_that_writes_nothing_is_an_error(fake: Path, shell: Shell) -> None:
    compiler(fake, "")
    assert shell("build", str(fake)) == 1
    assert "there is no module" in shell.err


def test_a_module_that_cannot_be_written_is_an_error(fake: Path, shell: Shell) -> None:
    compiler(fake, writes(AGENT))
    assert shell("build", str(fake), "--output", str(fake / "no" / "agent.wasm")) == 2
    assert "cannot be written" in shell.err


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_a_toolchain_that_is_missing_is_named_with_how_to_get_it(
    language: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_project(tmp_path / "project", "greeter", language)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build_languages.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(build_languages.importlib.util, "find_spec", lambda name: None)
    assert shell("build", str(tmp_path / "project")) == 2
    assert "is not installed" in shell.err
    assert "fix: " in shell.err
    assert "Install" in shell.err or "install" in shell.err


@pytest.mark.parametrize(("language", "source"), [("javascript", "app.js"), ("typescript", "app.ts")])
def test_another_engine_has_another_tool(
    language: str, source: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_project(tmp_path / "project", "greeter", language)
    tools = tmp_path / "project" / "node_modules" / ".bin"
    tools.mkdir(parents=True)
    for name in ("esbuild", "componentize-qjs"):
        (tools / name).write_text("#!/bin/sh\nexit 3\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shell("build", str(tmp_path / "project"), "--engine", "spidermonkey") == 2
    assert "componentize-js is not installed" in shell.err
    assert "npm install @bytecodealliance/componentize-js" in shell.err
    (tools / "componentize-js").write_text("#!/bin/sh\n")
    (tools / "componentize-js").chmod(0o755)
    plan = LANGUAGES[language].planner("spidermonkey")(tmp_path / "project", tmp_path)
    assert source in plan.steps[0].arguments
    assert {"clocks", "random", "stdio"} < set(plan.steps[1].arguments)
    assert LANGUAGES[language].planner("quickjs") is LANGUAGES[language].planner(None)


def test_a_language_without_a_choice_of_engines_says_so(fake: Path, shell: Shell) -> None:
    assert shell("build", str(fake), "--engine", "quickjs") == 2
    assert "Leave --engine out" in shell.err
    assert shell("build", "--new", "abc", "--language", "c", "--engine", "quickjs") == 2


def test_the_target_of_rust_is_asked_for(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cargo", "rustc"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {tmp_path}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    new_project(tmp_path / "project", "greeter", "rust")
    assert shell("build", str(tmp_path / "project")) == 2
    assert "rustup target add wasm32-unknown-unknown" in shell.err


@pytest.mark.parametrize("text", ["", "[package]", "[[", "package = 1", "lib = 2"])
def test_a_manifest_of_cargo_without_a_name_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "Cargo.toml").write_text(text)
    with pytest.raises(ValidationFailed, match="names no package"):
        build_languages._crate(tmp_path)


def test_the_file_of_a_crate_is_that_of_its_library(tmp_path: Path) -> None:
    (tmp_path / "Cargo.toml").write_text('[package]\nname = "my-agent"\n')
    assert build_languages._crate(tmp_path) == "my_agent"
    (tmp_path / "Cargo.toml").write_text('[package]\nname = "my-agent"\n[lib]\nname = "other"\n')
    assert build_languages._crate(tmp_path) == "other"


def test_the_language_follows_from_the_files_or_must_be_named(shell: Shell, tmp_path: Path) -> None:
    assert shell("build", str(tmp_path)) == 2
    assert "it has none of Cargo.toml" in shell.err
    (tmp_path / "go.mod").touch()
    assert guess(tmp_path) == "go"
    (tmp_path / "app.py").touch()
    assert shell("build", str(tmp_path)) == 2
    assert "go or python" in shell.err
    assert shell("build", str(tmp_path / "missing")) == 2
    assert "is no directory" in shell.err


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_a_new_project_has_its_name_and_a_valid_agent_file(
    language: str, shell: Shell, tmp_path: Path
) -> None:
    target = tmp_path / "my-agent"
    assert shell("build", "--new", "my-agent", "--language", language, str(target)) == 0
    assert guess(target) == language
    definition = parse_definition((target / "agent.md").read_bytes())
    assert (definition.name, definition.module, definition.warnings) == ("my-agent", "agent.wasm", ())
    assert (target / "README.md").is_file()
    texts = [path.read_text() for path in target.rglob("*") if path.is_file()]
    assert not any("greeter" in text for text in texts)


def test_what_an_installer_has_compiled_is_no_part_of_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "sdk"
    shutil.copytree(sample_directory("sdk"), installed)
    assert compileall.compile_dir(installed / "python", quiet=1)
    assert list(installed.rglob("*.pyc"))
    monkeypatch.setattr(build_template, "sample_directory", lambda _: installed)
    files = new_project(tmp_path / "project", "my-agent", "python")
    assert Path("app.py") in files
    assert not any("__pycache__" in file.parts for file in files)


def test_a_new_project_overwrites_nothing(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert shell("build", "--new", "my-agent", "--language", "c", str(tmp_path)) == 2
    assert "exists already" in shell.err
    assert [path.name for path in tmp_path.iterdir() if path.name != "state"] == ["file"]


@pytest.mark.parametrize("name", ["", "A", "ab", "-abc", "a b c", "../escape", "a" * 65, "Capital"])
def test_a_name_that_no_agent_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed, match="is no name"):
        new_project(tmp_path / "new", name, "c")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--new", "abc"), "--new needs --language"),
        (("--new", "abc", "--language", "c", "--output", "x"), "leave"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: tuple[str, ...], why: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shell("build", *options) == 2
    assert why in shell.err


def section(kind: int, data: bytes) -> bytes:
    return bytes([kind, len(data)]) + data


def custom(name: bytes, data: bytes = b"...") -> bytes:
    return section(0, bytes([len(name)]) + name + data)


def test_debug_information_is_left_out_and_all_else_stays() -> None:
    head = b"\0asm\x01\0\0\0"
    names, types = custom(b"name"), section(1, b"\0")
    assert (
        without_debug(head + types + custom(b".debug_info") + names + custom(b".debug_"))
        == head + types + names
    )


@pytest.mark.parametrize("rest", [b"", b"\0", b"\0\x05", b"\0\xff\xff\xff\xff\xff", b"\x01\x02\x00"])
def test_what_is_no_module_is_left_as_it_is(rest: bytes) -> None:
    for head in (b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0", b""):
        assert without_debug(head + rest) == head + rest
