"""The scripts of benchmarks/swim run, with the smallest sizes; what they measure is no concern here."""

import argparse
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.swim import (
    ablation,
    detection,
    dissemination,
    healing,
    joining,
    oneway,
    plot,
    report,
    runs,
    speed,
    starved,
    traffic,
)
from swim.accusations import Accusations

DATE = "2026-01-01"
SMALLEST: dict[str, tuple[Callable[[list[str]], int], str, int]] = {
    "detection": (detection.main, "--members 6 --kill 1 --together 1 --own 7 --seeds 1", 2),
    "joining": (joining.main, "--members 3,4 --seeds 1..2 --jobs 2", 4),
    "starved": (
        starved.main,
        f"--members 5 --losses 0.05 --lasts 10 --seeds 1 --systems {','.join(ablation.SYSTEMS)}",
        5,
    ),
    "starved-5-30": (starved.main, "--pauses 5,30 --members 4 --losses 0 --lasts 5 --seeds 1", 3),
    "healing": (healing.main, "--members 4 --splits 1 --lasts 30d --seeds 1", 1),
    "healing-check": (healing.main, "--check --members 4 --splits half,2 --lasts 1min --seeds 1", 2),
    "traffic": (traffic.main, "--members 4 --entries 40 --settle 2 --lasts 5", 1),
    "dissemination": (dissemination.main, "--members 4 --updates 2 --linger 5", 4),
    "oneway": (oneway.main, "--members 4 --faults cannot-send,udp-blocked --patience 70", 2),
    "speed": (speed.main, "--members 5 --lasts 5 --cryptography own,shared", 6),
}
"""By the name of the raw results: the script, its options, and how many rows that makes."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with raw results of everything, as small as they can be."""
    directory = tmp_path_factory.mktemp("results")
    for name, (main, options, _) in SMALLEST.items():
        file = directory / f"swim-{name}-{DATE}.csv"
        extra = ["--detections", str(directory / "single.csv")] if name == "detection" else []
        assert main([*options.split(), "--csv", str(file), *extra]) == 0
    return directory


@pytest.mark.parametrize("name", SMALLEST)
def test_each_script_writes_its_raw_rows_with_what_they_depend_on(measured: Path, name: str) -> None:
    path = runs.newest(name, measured)
    assert path is not None
    rows = runs.read(path)
    assert len(rows) == SMALLEST[name][2]
    assert all(row["seed"] in {1, 2} and row["cpu_s"] >= 0 for row in rows)
    head = path.read_text(encoding="utf-8").splitlines()[:20]
    assert any(line.startswith("# commit: ") for line in head)
    assert any(line.startswith("# command: python -m benchmarks.swim.") for line in head)


def test_each_detection_can_be_written_by_run_survivor_and_victim(measured: Path) -> None:
    rows = runs.read(measured / "single.csv")
    assert list(rows[0]) == ["run", "survivor", "victim", "detection_s"]
    assert len(rows) == 5 + 4  # the second victim has survived the first
    assert all(row["detection_s"] > 0 and row["survivor"] != row["victim"] for row in rows)


def test_the_report_has_a_line_for_each_cell_and_names_what_is_missing(
    measured: Path, tmp_path: Path
) -> None:
    found = list(report.lines(measured))
    assert all(line.reached and line.raw.startswith("swim-") for line in found)
    assert len(found) == 1 + 2 + 5 + 3 + 1 + 2 + 1 + 2 + 2 + 6
    missing = list(report.lines(tmp_path))
    assert [line.what for line in missing] == [name for name, _ in report.PARTS]
    assert all(line.reached.startswith("not measured: ") for line in missing)


def test_the_report_replaces_its_part_of_a_page_and_nothing_else(measured: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        assert report.main(["--results", str(measured), "--page", str(page), "--write"]) == 0
        written = page.read_text(encoding="utf-8")
        assert written.startswith("before\n")
        assert written.endswith("\nafter\n")
        assert "old" not in written
        assert written.count("| what | reference |") == 1


def test_plots_are_whole_images_without_anything_from_elsewhere(measured: Path) -> None:
    assert plot.main(["--results", str(measured)]) == 0
    drawn = sorted(measured.glob("*.svg"))
    assert len(drawn) == len(plot.PLOTS)
    for path in drawn:
        image = path.read_text(encoding="utf-8")
        assert ET.fromstring(image).tag.endswith("svg")
        assert "href" not in image


def test_plain_swim_buries_whom_caxton_waits_for_and_leaves_the_classes_as_they_were() -> None:
    def deaths(system: str) -> int:
        task = starved.Task(1, system, 10, 2, 0.05, 4.5, 6.0, 40.0)
        return int(starved.run(task).rows[0]["false_deaths"])

    before = Accusations._quorum
    buried = deaths("swim")
    assert Accusations._quorum is before
    assert buried > 10
    assert deaths("caxton") < buried / 2


def test_a_percentile_of_a_histogram_is_the_upper_edge_of_its_bin() -> None:
    bins = runs.histogram([0.01, 0.06, 0.07, 0.26], 0.05)
    assert bins == [
        {"from_s": 0.0, "count": 1},
        {"from_s": 0.05, "count": 2},
        {"from_s": 0.25, "count": 1},
    ]
    assert runs.binned(bins, 0.05, 0.5) == pytest.approx(0.10)
    assert runs.binned(bins, 0.05, 0.99) == pytest.approx(0.30)


@pytest.mark.parametrize("text", ["", "3..1", "a..b", "1.."])
def test_a_range_of_seeds_has_a_first_and_a_last(text: str) -> None:
    assert list(runs.seed_range("3..5")) == [3, 4, 5]
    assert list(runs.seed_range("7")) == [7]
    with pytest.raises(argparse.ArgumentTypeError):
        runs.seed_range(text)


@pytest.mark.parametrize("name", ["joining", "starved", "healing", "traffic", "oneway"])
def test_a_sweep_is_done_in_parts(measured: Path, tmp_path: Path, name: str) -> None:
    main, options, rows = SMALLEST[name]
    known = runs.newest(name, measured)
    assert known is not None
    whole = tmp_path / "whole.csv"
    last = 2 if "1..2" in options else 1
    more = [
        *options.replace("--seeds 1..2", "").replace("--seeds 1", "").split(),
        "--seeds",
        f"1..{last + 1}",
    ]
    assert main([*more, "--resume", str(known), "--csv", str(whole)]) == 0
    before, after = runs.read(known), runs.read(whole)
    assert after[: len(before)] == before, "what was known is taken over as it was"
    assert len(after) == rows * (last + 1) // last
