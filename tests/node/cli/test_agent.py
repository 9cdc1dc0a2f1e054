"""``caxton agent`` and ``caxton test``: what they print, write and end with."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from node.agents.frontmatter import read_yaml
from node.cli.agent_files import scenarios_path
from node.cli.agent_watch import Watcher, finder
from node.cli.errors import AmbiguousNode
from node.cli.local_nodes import LocalNode, announce
from node.cli.options import Where
from node.errors import NodeUnreachable
from node.samples import sample, sample_agents
from node.tools.builtin_servers import builtin_servers
from tests.node.agents.wasm.guests import guest
from tests.node.cli.conftest import FakeNode, Shell
from tests.node.tools.test_external import RAW

GOOD = "---\nname: Good\nversion: 1.0.0\ncapabilities: [good]\nsystem_prompt: Hi {{request}}\n---\n"
BAD = (
    GOOD.replace("capabilities", "capabilites")
    .replace("request", "reqest")
    .replace("}}", "}}\ntools: [csv_parse]")
)
SCENARIO = """\
scenarios:
  - name: one
    input: {{content: hello}}
    expect: {{performative: {}}}
    script: [{{text: hi}}]
"""

REQUEST = "{{request}}"
WITHOUT = "the agent goes without it; did you mean 'csv_parser'?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "agents"
    path.mkdir()
    (path / "good.md").write_text(GOOD)
    (path / "README.md").write_text("# About these agents\n")
    return path


def scenarios(folder: Path, performative: str) -> None:
    (folder / "good.scenarios.yaml").write_text(SCENARIO.format(performative))


def test_validate_prints_every_problem_at_its_place(folder: Path, shell: Shell) -> None:
    (folder / "bad.md").write_text(BAD)
    (folder / "good.scenarios.yaml").write_text("scenarios:\n  - {nam: one, input: {}}\n")
    assert shell("agent", "validate", str(folder)) == 1
    bad, file = folder / "bad.md", folder / "good.scenarios.yaml"
    assert shell.out.splitlines() == [
        f"{bad}:1:1: error capabilities: is required",
        f"{bad}:4:1: error capabilites: is not a field of an agent file; did you mean 'capabilities'?",
        f"{bad}:5:16: error system_prompt: nothing fills the variable 'reqest'; did you mean {REQUEST}?",
        f"{bad}:6:9: warning tools[0]: there is no tool 'csv_parse' here, so {WITHOUT}",
        f"{file}:2:5: error scenarios[0]: 'name' is required",
        f"{file}:2:6: error scenarios[0].nam: is not a field of a scenario; did you mean 'name'?",
        "3 files: 5 errors, 1 warning",
    ]


def test_validate_passes_warnings_unless_it_is_strict(folder: Path, shell: Shell) -> None:
    (folder / "good.md").write_text(GOOD.replace("version: 1.0.0\n", ""))
    assert shell("agent", "validate", str(folder / "good.md")) == 0
    assert "1 file: 0 errors, 1 warning" in shell.out
    assert shell("agent", "validate", "--strict", str(folder)) == 1
    found = shell.json("agent", "validate", "--strict", str(folder))
    assert (found["valid"], found["errors"], found["warnings"]) == (False, 1, 0)
    assert found["files"][0]["problems"][0]["field"] == "version"


def configured(tmp_path: Path, **servers: Any) -> str:
    config = tmp_path / "node.yaml"
    config.write_text(json.dumps({"tools": {"mcpServers": servers}}))
    return str(config)


def granting(folder: Path, *tools: str) -> str:
    (folder / "good.md").write_text(GOOD.replace("---\n", f"---\ntools: [{', '.join(tools)}]\n", 1))
    return str(folder / "good.md")


def test_validate_knows_the_tool_servers_of_a_configuration(
    folder: Path, tmp_path: Path, shell: Shell
) -> None:
    config = configured(tmp_path, weather={"command": "weather"})
    file = granting(folder, "weather", "weather/forecast", "wether")
    assert shell("agent", "validate", "--strict", file) == 1
    assert len(shell.out.splitlines()) == 4
    assert shell("agent", "validate", "--strict", file, "--config", config) == 1
    first, told = shell.out.splitlines()
    assert "tools[2]: there is no tool 'wether' here" in first
    assert told == "1 file: 1 error, 0 warnings"


def test_validate_starts_the_servers_that_agents_name_and_compares(
    folder: Path, tmp_path: Path, shell: Shell
) -> None:
    raw = {"command": sys.executable, "args": [str(RAW), str(tmp_path / "starts")]}
    unused = raw | {"args": [str(RAW), str(tmp_path / "unused")]}
    config = configured(tmp_path, raw=raw, gone={"command": "/nowhere/at/all"}, unused=unused)
    loose = json.loads(Path(config).read_text())
    loose["tools"]["servers"] = {"raw": {"write": [str(tmp_path)], "read": [sys.prefix, sys.base_prefix]}}
    Path(config).write_text(json.dumps(loose))
    file = granting(folder, "raw/echo", "raw/nothing", "gone")
    assert shell("agent", "validate", file, "--config", config, "--check-tools") == 1
    lines = shell.out.splitlines()
    assert "tools[1]: 'raw/nothing' cannot be used: the server has no such tool" in lines[0]
    assert "tools[2]: 'gone' cannot be used: " in lines[1]
    assert lines[2:] == ["1 file: 2 errors, 0 warnings"]
    assert not (tmp_path / "unused").exists()


def test_validate_checks_tools_of_a_configuration_only(folder: Path, tmp_path: Path, shell: Shell) -> None:
    assert shell("agent", "validate", str(folder), "--check-tools") == 2
    assert "--check-tools needs --config" in shell.err
    (tmp_path / "node.yaml").write_text("tools: {mcpServers: {a: {}}}")
    assert shell("agent", "validate", str(folder), "--config", str(tmp_path / "node.yaml")) == 2
    assert "a command (stdio) or a url" in shell.err


@pytest.mark.parametrize("where", ["empty", "gone"])
def test_validate_without_a_file_is_an_error_of_the_call(where: str, tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "empty").mkdir()
    assert shell("agent", "validate", str(tmp_path / where)) == 2


def test_validate_looks_into_modules(folder: Path, shell: Shell) -> None:
    front = "---\nname: Mod\nversion: 1.0.0\ncapabilities: [m]\nruntime: wasm\nmodule: m.wat\n{}---\n"
    file = folder / "mod.md"
    file.write_text(front.format(""))
    assert shell("agent", "validate", str(file)) == 1
    assert f"{file}:6:9: error module: there is no file" in shell.out
    (folder / "m.wat").write_bytes(guest(imports=("current_timestamp",)))
    assert shell("agent", "validate", str(file)) == 1
    assert "the module asks for clock, which wasm.grants does not grant" in shell.out
    file.write_text(front.format("wasm: {grants: [clock]}\n"))
    assert shell("agent", "validate", str(file)) == 0
    (folder / "m.wat").write_text("(module)")
    assert shell("agent", "validate", str(file)) == 1
    assert "does not export" in shell.out


def test_the_samples_are_valid_to_the_strictest(shell: Shell) -> None:
    assert shell("agent", "validate", "--strict", str(sample("agents/echo.md").parent)) == 0, shell.out


def test_schema_is_one_json_schema(shell: Shell) -> None:
    assert shell("agent", "schema") == 0
    Draft202012Validator.check_schema(json.loads(shell.out))


def test_scenarios_have_a_schema_that_the_samples_follow(shell: Shell) -> None:
    assert shell("agent", "schema", "--scenarios") == 0
    schema = json.loads(shell.out)
    Draft202012Validator.check_schema(schema)
    judge = Draft202012Validator(schema)
    for path in sample_agents():
        values = read_yaml(scenarios_path(path).read_bytes()).values
        judge.validate(values)
        values["scenarios"][0]["inptu"] = 1
        assert not judge.is_valid(values)


def test_init_writes_what_validates_and_passes(tmp_path: Path, shell: Shell) -> None:
    assert shell("agent", "init", "MyAgent", "--dir", str(tmp_path)) == 0
    agent = tmp_path / "my_agent.md"
    assert str(agent) in shell.out
    assert shell("agent", "validate", "--strict", str(tmp_path)) == 0
    assert shell("agent", "test", str(agent)) == 0
    assert "2 passed, 0 failed" in shell.out
    agent.write_text("mine")
    assert shell("agent", "init", "my-agent", "--dir", str(tmp_path)) == 2
    assert agent.read_text() == "mine"
    assert shell("agent", "init", "my-agent", "--dir", str(tmp_path), "--force") == 0
    assert agent.read_text() != "mine"


@pytest.mark.parametrize("path", sample_agents(), ids=lambda path: path.stem)
def test_every_sample_is_a_template(path: Path, tmp_path: Path, shell: Shell) -> None:
    assert shell("agent", "init", "--template", "list") == 0
    assert path.stem.replace("_", "-") in shell.out
    assert shell("agent", "init", "Mine", "--template", path.stem, "--dir", str(tmp_path)) == 0
    assert shell("agent", "validate", "--strict", str(tmp_path)) == 0
    found = shell.json("agent", "inspect", str(tmp_path / "mine.md"))
    assert found["id"] == "mine"
    assert (tmp_path / "mine.scenarios.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["X"], "is not an agent name"),
        (["Mine", "--template", "data-analyser"], "Did you mean 'data-analyzer'?"),
        ([], "NAME is missing"),
    ],
)
def test_init_refuses_what_it_cannot_write(
    arguments: list[str], said: str, tmp_path: Path, shell: Shell
) -> None:
    assert shell("agent", "init", *arguments, "--dir", str(tmp_path)) == 2
    assert said in shell.err
    assert list(tmp_path.glob("*.md")) == []


def test_inspect_shows_tools_prompts_and_limits(shell: Shell) -> None:
    analyst = str(sample("agents/data_analyzer.md"))
    found = shell.json("agent", "inspect", analyst, "--content", '{"action": "analyze"}')
    assert (found["id"], found["capabilities"][0]) == ("data-analyzer", "data-analysis")
    assert "csv_analyze" in [tool["name"] for tool in found["tools"]]
    assert found["limits"]["conversation.max_turns"] == 6
    assert "people who did not see the file" in found["prompts"][0]["text"]
    assert '{"action": "analyze"}' in found["prompts"][1]["text"]
    assert found["estimated_tokens"]["tools"] > 100
    assert shell("agent", "inspect", analyst) == 0
    assert "--- system ---" in shell.out


def test_inspect_shows_questions_to_others_as_tools(shell: Shell) -> None:
    found = shell.json("agent", "inspect", str(sample("agents/report_writer.md")))
    assert [tool["name"] for tool in found["tools"]] == ["ask_data_analysis"]


def test_inspect_knows_the_tools_of_every_server(folder: Path, shell: Shell, monkeypatch: Any) -> None:
    monkeypatch.chdir(folder)
    servers = [server.name for server in builtin_servers()]
    (folder / "good.md").write_text(GOOD.replace("version", f"tools: [{', '.join(servers)}]\nversion"))
    found = shell.json("agent", "inspect", "good.md")
    assert len(found["tools"]) == sum(len(server.tools) for server in builtin_servers())
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "good.md"]


def test_inspect_refuses_a_file_with_problems(folder: Path, shell: Shell) -> None:
    (folder / "bad.md").write_text(BAD)
    assert shell("agent", "inspect", str(folder / "bad.md")) == 2
    assert "capabilities is required" in shell.err


@pytest.mark.parametrize("verb", [["agent", "test"], ["test"]])
def test_test_tells_what_passed_and_what_did_not(verb: list[str], folder: Path, shell: Shell) -> None:
    agent = str(folder / "good.md")
    scenarios(folder, "inform")
    assert shell(*verb, agent) == 1  # builtin has no tool to answer with
    assert "1 passed, 1 failed" in shell.out
    assert "the reply is not_understood, not inform" in shell.out
    assert shell(*verb, agent, "--provider", "scripted") == 0
    found = shell.json(*verb, agent, "--provider", "scripted")
    assert (found["passed"], found["runs"][0]["conduct"]["turns"]) == (1, 1)
    assert shell(*verb, agent, "--provider", "recording") == 0
    assert "0 passed, 0 failed, 1 skipped" in shell.out
    assert shell(*verb, "--suite", str(folder), "--scenario", "on") == 2
    assert "Did you mean 'one'?" in shell.err


def test_test_records_a_provider_and_replays_it(folder: Path, shell: Shell, tmp_path: Path) -> None:
    scenarios(folder, "inform")
    script, config = tmp_path / "script.yaml", tmp_path / "node.yaml"
    script.write_text("rules: [{text: I am live.}]")
    config.write_text(
        f"storage: {{data_dir: {tmp_path}}}\nllm: {{provider: scripted, scripted: {{path: {script}}}}}\n"
    )
    agent, record = str(folder / "good.md"), folder / "good.recording"
    options = ["--provider", "live", "--config", str(config), "--record", str(record)]
    assert shell("agent", "test", agent, *options) == 0, shell.err
    (folder / "good.scenarios.yaml").write_text(
        "scenarios: [{name: one, input: {content: hello}, recording: good.recording, providers: [recording],"
        " expect: {content: [{contains: I am live}]}}]"
    )
    assert shell("agent", "test", agent) == 0, shell.out


def test_a_report_for_build_servers_is_written(folder: Path, shell: Shell, tmp_path: Path) -> None:
    scenarios(folder, "failure")
    report = tmp_path / "junit.xml"
    assert shell("test", "--suite", str(folder), "--junit", str(report)) == 1
    text = report.read_text()
    assert 'tests="2" failures="2"' in text
    assert "the reply is not_understood, not failure" in text


def test_what_cannot_be_written_or_is_too_much_is_an_error_of_the_call(
    folder: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenarios(folder, "not_understood")
    assert shell("agent", "test", str(folder / "good.md"), "--junit", str(folder / "no" / "x.xml")) == 2
    assert "cannot be written" in shell.err
    monkeypatch.setattr("node.cli.agent_files.FILES_LIMIT", 1)
    assert shell("agent", "validate", str(folder)) == 2
    assert "too many files" in shell.err


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "has no scenarios"), ("scenarios: [{name: a}]", "has 1 problem"), ("[", "is broken")],
)
def test_scenarios_that_cannot_be_read_are_an_error_of_the_call(
    content: str | None, said: str, folder: Path, shell: Shell
) -> None:
    if content is not None:
        (folder / "good.scenarios.yaml").write_text(content)
    assert shell("agent", "test", str(folder / "good.md")) == 2
    assert said in shell.err


def test_test_without_agents_says_what_to_name(tmp_path: Path, shell: Shell) -> None:
    assert shell("agent", "test") == 2
    assert shell("agent", "test", str(tmp_path)) == 2
    assert shell("test") == 2
    assert "--suite" in shell.err
    assert shell("test", "--sim") == 2


class Deployments:
    """A node that counts what it is given."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.fails = False

    def __call__(self, path: Path) -> dict[str, Any]:
        if self.fails:
            raise NodeUnreachable("the node does not answer")
        self.files.append(path.read_text())
        return {"name": "good", "version": "1.0.0", "status": "running"}


def test_watch_deploys_what_has_changed_and_stands_still(folder: Path) -> None:
    file, node, said = folder / "good.md", Deployments(), list[str]()
    watcher = Watcher(file, node, said.append)
    assert watcher.look()
    assert not watcher.look()
    file.write_text(GOOD + "a")
    assert not watcher.look()  # it may still be being written
    file.write_text(GOOD + "ab")
    assert not watcher.look()
    assert watcher.look()
    assert node.files == [GOOD, GOOD + "ab"]
    file.write_text(BAD)
    assert [watcher.look(), watcher.look(), watcher.look()] == [False, False, False]
    assert any(f"{file}:4:1: error capabilites" in line for line in said)
    assert said[-1] == "not deployed; the version on the node stays"
    file.unlink()
    assert not watcher.look()
    file.write_text(GOOD)
    assert [watcher.look(), watcher.look()] == [False, True]
    assert len(node.files) == 3


def test_watch_sees_a_module_and_survives_a_node_that_is_away(folder: Path) -> None:
    for name in ("echo.md", "echo.wat"):
        shutil.copy(sample(f"agents/{name}"), folder / name)
    node, said = Deployments(), list[str]()
    watcher = Watcher(folder / "echo.md", node, said.append)
    assert watcher.look()
    node.fails = True
    module = folder / "echo.wat"
    module.write_text(module.read_text() + ";; changed\n")
    assert [watcher.look() for _ in range(4)] == [False] * 4
    assert [line for line in said if "waiting" in line] == said[1:]
    node.fails = False
    assert watcher.look()  # without another change
    assert len(node.files) == 2
    assert not watcher.look()


def test_watch_replaces_the_agent_on_a_node(
    folder: Path, node: FakeNode, shell: Shell, monkeypatch: Any
) -> None:
    node.answers["POST", "/agents"] = 201, {"name": "Good", "version": "1.0.0", "status": "running"}

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("node.cli.agent_watch.time.sleep", interrupt)
    assert shell("agent", "watch", str(folder / "good.md")) == 130
    assert "Good 1.0.0 is running" in shell.out
    method, path, body, _ = node.requests[0]
    assert (method, path, body["replace"], body["content"]) == ("POST", "/agents", True, GOOD)


def test_watch_ends_as_any_verb_where_waiting_is_of_no_use(
    folder: Path, node: FakeNode, shell: Shell, monkeypatch: Any
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("node.cli.agent_watch.time.sleep", interrupt)
    watch = ("agent", "watch", str(folder / "good.md"))
    assert shell(*watch, "--api", "ftp://x") == 2
    assert shell(*watch, "--node", "alpha", "--token-file", str(folder / "none")) == 2
    node.answers["POST", "/agents"] = 401, {"error": {"code": "UNAUTHORIZED", "message": "no such token"}}
    assert shell(*watch) == 4
    assert "no such token" in shell.err
    assert shell(*watch, "--node", "beta") == 130  # it may start yet
    assert "no node 'beta' runs on this machine" in shell.out
    announce(LocalNode("beta", "http://127.0.0.1:1", os.getpid()))
    assert shell(*watch) == 3
    assert "several nodes are running on this machine\n  why: they are alpha, beta" in shell.err
    assert shell.out == ""


def test_watch_keeps_to_the_node_that_it_began_with(node: FakeNode) -> None:
    find = finder(Where())
    assert find().node == "alpha"
    announce(LocalNode("beta", "http://127.0.0.1:1", os.getpid()))
    assert find().node == "alpha"
    with pytest.raises(AmbiguousNode):
        finder(Where())()
