"""``caxton wasm run``: what a module does is shown without any node."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from node.agents.wasm.host import Status
from node.agents.wasm.manifest import SUFFIX
from tests.node.agents.wasm.guests import guest
from tests.node.agents.wasm.test_outside import SUMMARY, asking, calling, file, text
from tests.node.cli.conftest import Shell

AGENTS = Path(__file__).parents[3] / "configs" / "agents"
ECHO = str(AGENTS / "echo.md")
TRAP = guest("(call $inner)", more="(func $inner (unreachable))")
COUNT = guest(
    """(drop (call $load_data (i32.const 2000) (i32.const 1) (i32.const 3000) (i32.const 1)))
    (i32.store8 (i32.const 3000) (i32.add (i32.load8_u (i32.const 3000)) (i32.const 1)))
    (drop (call $store_data (i32.const 2000) (i32.const 1) (i32.const 3000) (i32.const 1)))
    (call $answer (i32.load8_u (i32.const 3000)))""",
    imports=("load_data", "store_data"),
    data={2000: "n"},
)

REMEMBERING = asking(
    f"""(drop (call $store_memory {text(2000, "tea is green")}))
    (call $tell (call $search_memory {text(4000, "tea")} (i32.const 1)))""",
    "tea is green",
    "tea",
)


def module(directory: Path, source: bytes) -> str:
    path = directory / "agent.wat"
    path.write_bytes(source)
    return str(path)


def test_what_an_agent_answers_logs_and_takes_is_shown(shell: Shell) -> None:
    assert shell("wasm", "run", ECHO, "--message", '{"a": 1}') == 0
    assert "log info: echoed a message\n" in shell.out
    assert shell.out.count("echoed a message") == 1
    assert "inform content={'echo': {'a': 1}" in shell.out
    assert "1 handled, 0 failed" in shell.out
    assert "256 KiB of memory" in shell.out


def test_the_same_as_json(shell: Shell) -> None:
    found = shell.json("wasm", "run", ECHO, "--message", "text", "--repeat", "3")
    assert (found["messages"], found["failed"], found["failure"]) == (3, 0, None)
    assert found["sent"][0]["content"]["echo"] == "text"
    assert found["memory_bytes"] == 262_144
    assert found["fuel"] > 1_000


def test_a_trap_is_shown_with_the_functions_in_which_it_happened(shell: Shell, tmp_path: Path) -> None:
    assert shell("wasm", "run", module(tmp_path, TRAP), "--message", "1") == 1
    assert "failed (trap): handle_message: unreachable in inner" in shell.out
    assert "\n  at inner\n" in shell.out
    found = shell.json("wasm", "run", module(tmp_path, TRAP), "--message", "1", "--repeat", "3")
    assert (found["failed"], found["failure"]["backtrace"][0]) == (3, "inner")


def test_no_answer_is_a_failure_where_one_is_expected(shell: Shell, tmp_path: Path) -> None:
    path = module(tmp_path, guest("(nop)"))
    assert shell.json("wasm", "run", path, "--message", "1")["failure"]["limit"] == "answer"
    assert shell("wasm", "run", path, "--message", "1", "--performative", "inform") == 0


def test_grants_are_those_that_are_given(shell: Shell, tmp_path: Path) -> None:
    path = module(tmp_path, COUNT)
    assert shell("wasm", "run", path, "--message", "1") == 2
    assert "not granted" in shell.err
    found = shell.json("wasm", "run", path, "--message", "1", "--grant", "state", "--repeat", "3")
    assert found["sent"] == [{"performative": "inform", "content": 3}]


def test_a_manifest_gives_grants_and_is_verified(shell: Shell, tmp_path: Path) -> None:
    path = module(tmp_path, COUNT)
    shell("wasm", "keygen", str(tmp_path / "k"))
    shell("wasm", "sign", path, "--key", str(tmp_path / "k"), "--grant", "state")
    run = ("wasm", "run", path, "--message", "1", "--manifest", path + SUFFIX)
    assert shell(*run) == 0
    Path(path).write_bytes(COUNT + b" ")
    assert shell(*run) == 4
    assert "the module was changed" in shell.err


def test_an_agent_file_says_its_grants_itself(shell: Shell) -> None:
    assert shell("wasm", "run", ECHO, "--message", "1", "--grant", "state") == 2
    assert "--grant is for a module alone" in shell.err


def test_in_deterministic_mode_everything_follows_from_the_seed(shell: Shell, tmp_path: Path) -> None:
    body = """(call $answer (i32.and (i32.const 0xffffff)
      (i32.xor (call $random_u32) (i32.wrap_i64 (call $current_timestamp)))))"""
    path = module(tmp_path, guest(body, imports=("random_u32", "current_timestamp")))
    grants = ("--grant", "random", "--grant", "clock")

    def answer(*options: str) -> object:
        return shell.json("wasm", "run", path, "--message", "1", *grants, *options)["sent"]

    assert answer("--deterministic", "7") == answer("--deterministic", "7") != answer("--deterministic", "8")
    assert answer() != answer()


def test_a_module_that_does_not_start_says_what_it_had_logged(shell: Shell, tmp_path: Path) -> None:
    init = "(call $console_log (i32.const 2000) (i32.const 5)) (call $inner) (i32.const 0)"
    source = guest(
        imports=("console_log",), init=init, data={2000: "hello"}, more="(func $inner (unreachable))"
    )
    assert shell("wasm", "run", module(tmp_path, source), "--message", "1", "--json") == 2
    details = json.loads(shell.out)["error"]["details"]
    assert details["log"] == [{"level": "info", "message": "hello"}]
    assert details["backtrace"][0] == "inner"


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("missing.wasm", "cannot be read"),
        ("plain.md", "no module to run"),
        ("broken.wasm", "neither WebAssembly"),
    ],
)
def test_what_cannot_be_run_is_an_error_that_says_why(
    file: str, why: str, shell: Shell, tmp_path: Path
) -> None:
    shutil.copy(AGENTS / "data_analyzer.md", tmp_path / "plain.md")
    (tmp_path / "broken.wasm").write_bytes(b"\xff\xfe")
    assert shell("wasm", "run", str(tmp_path / file), "--message", "1") == 2
    assert why in shell.err
    assert "Traceback" not in shell.err


def agent_file(directory: Path, source: bytes, grants: str, more: str = "") -> str:
    (directory / "asker.wat").write_bytes(source)
    path = directory / "asker.md"
    path.write_bytes(file(grants, more))
    return str(path)


def test_tools_that_the_agent_file_grants_are_called(shell: Shell, tmp_path: Path) -> None:
    source = calling("text_summary", SUMMARY)
    path = agent_file(tmp_path, source, "tools", "tools: [text/text_summary]")
    found = shell.json("wasm", "run", path, "--message", "1")
    assert "Tea is green." in str(found["sent"][0]["content"])
    path = agent_file(tmp_path, source, "tools", "tools: [text/text_log]")
    found = shell.json("wasm", "run", path, "--message", "1")
    assert found["sent"][0]["content"] == Status.UNAVAILABLE or found["sent"][0]["content"] == Status.REFUSED
    assert "may not use the tool" in str(found["log"])
    found = shell.json("wasm", "run", module(tmp_path, source), "--message", "1", "--grant", "tools")
    assert "may not use the tool" in str(found["log"])


def test_the_memory_is_there_and_gone_with_the_run(shell: Shell, tmp_path: Path) -> None:
    path = agent_file(tmp_path, REMEMBERING, "memory")
    for _ in range(2):
        found = shell.json("wasm", "run", path, "--message", "1", "--repeat", "3")
        assert (found["failed"], found["sent"][0]["content"]) == (0, ["tea is green"])
    found = shell.json("wasm", "run", module(tmp_path, REMEMBERING), "--message", "1", "--grant", "memory")
    assert found["sent"][0]["content"] == ["tea is green"]


def test_a_deterministic_run_has_neither_and_says_so(shell: Shell, tmp_path: Path) -> None:
    path = agent_file(tmp_path, calling("text_summary", SUMMARY), "tools", "tools: [text]")
    found = shell.json("wasm", "run", path, "--message", "1", "--deterministic", "3")
    assert found["sent"][0]["content"] == Status.UNAVAILABLE
    assert "a deterministic agent has none" in str(found["log"])


def test_a_module_that_does_not_start_is_told_as_one_error_with_tools_around_it(
    shell: Shell, tmp_path: Path
) -> None:
    path = module(tmp_path, guest(init="(unreachable)"))
    assert shell("wasm", "run", path, "--message", "1", "--grant", "tools", "--grant", "memory") == 2
    assert "does not start" in shell.err
