"""The script that compares simulated nodes with real ones writes what it is given, scenario by scenario."""

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.simulation import twin
from simulations.runner import Result
from simulations.twin.machine import Machine


def test_scenarios_with_other_measures_share_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(scenario, seed, plan, machine, tell):
        measures = {"accepted": 9, ("known_cut_s" if plan else "known_ended_s"): 1.5 * seed}
        tell("done")
        return {
            "simulated": Result(scenario.name, seed),
            "real": Result(scenario.name, seed, measures=measures),
        }

    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(twin, "look", Machine)
    monkeypatch.setattr(twin, "run_both", both)
    assert twin.main(["split_brain", "join_at_once", "--runs", "2"]) == 0
    (file,) = tmp_path.iterdir()
    rows = [line for line in file.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert len(rows) == 1 + 2 * 2 * 2
    assert "| split_brain | all know of a cut (s) | - | 2.25 (1.50 to 3.00) |" in capsys.readouterr().out
