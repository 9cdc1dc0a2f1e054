"""The scripts of benchmarks/simulation run, with the smallest sizes; what they measure is no concern here."""

from pathlib import Path

import pytest

from benchmarks.simulation import shrinking, speed
from benchmarks.swim.runs import read


def test_five_nodes_are_run_for_a_while(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "speed.csv"
    options = ["--seeds", "1", "--nodes", "2", "--messages", "4", "--lasts", "12", "--agents", "witness"]
    assert speed.main([*options, "--csv", str(table)]) == 0
    (row,) = read(table)
    assert int(row["accepted"]) > 0
    assert row["failed"] == ""
    assert "python -m benchmarks.simulation.speed" in table.read_text(encoding="utf-8")
    assert "2 nodes, 4 messages/s, witness" in capsys.readouterr().out


def test_a_planted_bug_is_made_small(tmp_path: Path) -> None:
    table = tmp_path / "shrinking.csv"
    options = ["--bugs", "settled-without-its-handler", "--nodes", "3", "--safety", "9"]
    assert shrinking.main([*options, "--csv", str(table)]) == 0
    (row,) = read(table)
    assert row["failed"] == "finally_settled_is_handled"
    assert (int(row["faults_before"]), int(row["faults"])) == (5, 0)
    assert int(row["nodes_left"]) < 3
