"""``caxton test --sim``: what a user sees of their agent while models, nodes and links fail."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.test import command
from node.messaging.runs import Runs
from node.samples import sample
from simulations import artifact
from simulations.agent_test import draw
from simulations.faults import read_plan, write_plan
from simulations.nodes.run import NodeRun
from simulations.runner import NOT_LIVE, OK

ANALYST = str(sample("agents/data_analyzer.md"))
ECHO = str(sample("agents/echo.md"))


def call(*arguments: str, tmp_path: Path) -> Result:
    return CliRunner().invoke(command, ["--sim", *arguments, "--artifacts", str(tmp_path)])


def test_an_agent_is_tried_out_while_its_models_fail(tmp_path: Path) -> None:
    request = '{"action": "analyze", "file": "sales.csv"}'
    options = ["--request", request, "--attach", str(sample("demo/sales.csv")), "--seed", "3", "--json"]
    first = call(ANALYST, *options, tmp_path=tmp_path)
    assert first.exit_code == OK, first.output
    told = json.loads(first.output)
    assert told["accepted"] == told["ended_settled"] == 54
    assert told["answered_inform"] + told["answered_failure"] == 54
    assert sum(told["models"].values()) > 0
    assert call(ANALYST, *options, tmp_path=tmp_path).output == first.output


def test_without_faults_everything_is_answered(tmp_path: Path) -> None:
    result = call(ECHO, "--no-faults", "--request", "hello", tmp_path=tmp_path)
    assert result.exit_code == OK
    assert "54 inform" in result.output
    assert "crash" not in result.output
    assert "held: nothing was lost" in result.output


def test_a_failure_is_kept_and_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(self: Runs, *_: object) -> None:
        await self._clock.sleep(100_000)

    monkeypatch.setattr(Runs, "one", hang)
    monkeypatch.setattr("node.messaging.decisions.Decisions.end", lambda *_: False)
    failed = call(ECHO, "--seed", "2", tmp_path=tmp_path)
    assert failed.exit_code == NOT_LIVE
    assert "FAILED" in failed.output
    scenario, seed, plan, kept = artifact.read(tmp_path / "echo-2.json")
    again = NodeRun(scenario, seed, plan=plan).run()  # type: ignore[arg-type]
    assert (again.code, again.digest) == (NOT_LIVE, kept["digest"])


def test_the_faults_of_a_seed_are_plain_data() -> None:
    names = ["n1", "n2", "n3"]
    assert read_plan(write_plan(draw(7, names))) == draw(7, names)
    assert draw(7, names) != draw(8, names)
    assert {fault.kind for fault in draw(7, names)} >= {"provider", "crash", "restart", "partition", "reset"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("---\nname: Xyz\ncapabilites: [a]\nsystem_prompt: hello\n---\n", "capabilities"),
        ("---\nname: Xyz\ncapabilities: [a]\nruntime: wasm\nmodule: gone.wasm\n---\n", "gone.wasm"),
    ],
)
def test_an_agent_that_cannot_run_is_refused(text: str, told: str, tmp_path: Path) -> None:
    agent = tmp_path / "agent.md"
    agent.write_text(text)
    result = call(str(agent), tmp_path=tmp_path)
    assert result.exit_code != OK
    problems = getattr(result.exception, "details", {}).get("problems", "")
    assert told in f"{result.output} {result.exception} {problems}"
