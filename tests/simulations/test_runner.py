"""Runs, sweeps, artifacts and the command line."""

import csv
import io
import itertools
import json
import signal
import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from simulations import artifact
from simulations.__main__ import cli
from simulations.cli import seconds, seed_range
from simulations.compare import compare
from simulations.injector import Injector
from simulations.members import MemberCluster
from simulations.nodes.actions import NodeInjector
from simulations.runner import CRASHED, INTERRUPTED, NOT_LIVE, NOT_SAFE, OK, Run, run
from simulations.scenario import ScenarioError, load
from simulations.shrink import shrink
from simulations.sweep import stopping, sweep
from swim.own_word import OwnWord
from swim.protocol import Swim
from tests.simulations.scenarios import BASE, outcome, scenario

CRASH = {"crash": {"members": {"draw": 1}, "at_s": 3}}
HASTY = {"detect_s": 0.5}
"""Nobody is detected so fast: a liveness failure on demand."""


def test_a_healthy_run_passes_and_measures():
    result = outcome(scenario(CRASH))
    assert (result.code, result.failed) == (OK, [])
    assert result.measures["detections"] == 5
    assert 2 < result.measures["detect_p50_s"] < 10
    assert result.measures["false_deaths"] == 0
    assert result.sometimes["sometimes_a_death_was_declared"] == 5
    assert result.virtual_s == 45.0


def test_of_many_members_each_has_its_turn_to_be_looked_at(monkeypatch):
    monkeypatch.setattr("simulations.runner.SAMPLED_MEMBERS", 4)
    running, looked_at = Run(scenario(), 1), []
    monkeypatch.setattr(
        running.properties[0], "sample", lambda some: looked_at.append([m.name for m in some])
    )
    running.run()
    assert {len(names) for names in looked_at} == {4}
    assert {*looked_at[0], *looked_at[1]} == {*running.scenario.names()}


def test_a_death_of_one_whose_goodbye_was_lost_is_neither_false_nor_a_detected_crash():
    unheard = {"partition": {"sides": [["m001"], "rest"], "at_s": 2}}
    result = outcome(scenario(unheard, {"leave": {"members": ["m001"], "at_s": 3}}))
    assert result.sometimes["sometimes_a_death_was_declared"] == 5
    assert (result.measures["false_deaths"], result.measures["detections"]) == (0, 0)


def test_the_same_seed_is_the_same_run():
    one, same, other = (outcome(scenario(CRASH), seed) for seed in (1, 1, 2))
    assert (one.digest, one.lines) == (same.digest, same.lines)
    assert one.digest != other.digest


def test_what_the_core_raises_is_the_result_of_the_run(monkeypatch):
    def raises(*_):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Swim, "receive", raises)
    result = run(scenario(CRASH), 1)
    assert result.code == CRASHED
    assert "planted" in result.crash
    assert result.tail


def test_a_late_detection_is_a_liveness_failure():
    result = outcome(scenario(CRASH, bounds=HASTY))
    assert (result.code, result.failed) == (NOT_LIVE, ["eventually_crashes_are_detected"])


@pytest.mark.parametrize(
    ("fault", "happened"),
    [
        (
            {"churn": {"at_s": 1, "for_s": 15, "per_s": 0.5, "down_s": [1, 2]}},
            {"crashed", "leave", "left", "started"},
        ),
        ({"starve": {"members": ["m001"], "at_s": 1, "for_s": 5}}, {"paused", "resumed"}),
        ({"pause": {"members": ["m001"], "at_s": 1, "for_s": 5}}, {"paused", "resumed"}),
        ({"crash": {"members": ["m001"], "at_s": 1}}, {"crashed"}),
        ({"leave": {"members": ["m001"], "at_s": 1}}, {"leave", "left"}),
        ({"join": {"members": ["new"], "at_s": 1}}, {"started"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_fault_of_processes_happens(fault, happened):
    result, lines = traced(scenario(fault))
    assert result.failed == []
    assert {what for us, who, _, what, *_ in lines["fault"] if who != "-" and us != "0"} == happened


def test_a_starved_process_runs_and_stands_still_for_as_long_as_the_fault_says():
    starved = {"members": ["m001"], "at_s": 0, "running_s": 0.4, "paused_s": [0.2, 0.8]}
    _, lines = traced(scenario({"starve": starved}, safety_s=100))
    turns = [(us, what) for us, who, _, what, *_ in lines["fault"] if who == "m001"]
    lasted: dict[str, list[float]] = defaultdict(list)
    for (began, what), (ended, _) in itertools.pairwise(turns):
        lasted[what].append((int(ended) - int(began)) / 1e6)
    paused_s, running_s = sorted(lasted["paused"])[1:-1], lasted["resumed"]  # healing cuts one short
    assert len(running_s) > 90
    assert 0.2 <= paused_s[0] < 0.25
    assert 0.75 < paused_s[-1] <= 0.8
    assert 0.45 < statistics.mean(paused_s) < 0.55
    assert 0.3 < statistics.mean(running_s) < 0.5
    assert 0.25 < statistics.stdev(running_s) < 0.6


def test_a_fault_does_not_repeat_what_one_of_its_kind_has_drawn():
    starved = {"members": ["m001"], "for_s": 40, "running_s": 1, "paused_s": [0.2, 0.8]}
    _, lines = traced(scenario(*({"starve": {**starved, "at_s": at_s}} for at_s in (0, 50)), safety_s=100))
    turns = [(int(us), what) for us, who, _, what, *_ in lines["fault"] if who == "m001"]
    paused = [(us, end - us) for (us, what), (end, _) in itertools.pairwise(turns) if what == "paused"]
    first, second = ([lasted for us, lasted in paused if us // 50_000_000 == half] for half in (0, 1))
    assert len(first) > 15 < len(second)
    assert not {*first[:10]} & {*second[:10]}


def test_churn_goes_at_its_rate_and_comes_back_as_often_with_a_disk_as_it_says(monkeypatch):
    came: dict[str, list[bool]] = defaultdict(list)

    def start(cluster, name, *, seeds=(), disk=True):
        came[name].append(disk)
        return original(cluster, name, seeds=seeds, disk=disk)

    original = MemberCluster.start
    monkeypatch.setattr(MemberCluster, "start", start)
    churn = {"at_s": 0, "for_s": 200, "per_s": 0.5, "down_s": [1, 3], "leaving": 0.2, "keeping": 0.3}
    _, lines = traced(scenario({"churn": churn}, safety_s=205))
    happened = [(int(us) / 1e6, who, what) for us, who, _, what, *_ in lines["fault"] if what != "leave"]
    gone = [(us, who, what) for us, who, what in happened if what in ("crashed", "left")]
    away_s = []
    for us, who, what in gone:
        back = next(at for at, name, how in happened if (name, how) == (who, "started") and at >= us)
        away_s += [back - us] if what == "crashed" else []
    assert 70 < len(gone) < 130
    assert 0.1 < sum(what == "left" for _, _, what in gone) / len(gone) < 0.3
    kept = [disk for disks in came.values() for disk in disks]
    assert len(kept) == len(gone)
    assert 0.2 < sum(kept) / len(kept) < 0.4
    assert 1 <= min(away_s) < 1.2
    assert 2.8 < max(away_s) <= 3


@pytest.mark.parametrize("seeds", [True, False])
def test_a_member_is_told_the_seeds_again_or_not(seeds):
    back = {"restart": {"members": ["m004"], "at_s": 8, "disk": False, "seeds": seeds}}
    _, lines = traced(scenario({"crash": {"members": ["m004"], "at_s": 3}}, back))
    opened = [line for line in lines["connect"] if line[:2] == ["8000000", "m004"]]
    assert bool(opened) is seeds


@pytest.mark.parametrize("disk", [True, False])
def test_a_member_comes_back_with_what_its_disk_holds_or_with_nothing(disk):
    back = {"restart": {"members": ["m001"], "at_s": 8, "disk": disk, "seeds": False}}
    _, lines = traced(scenario({"crash": {"members": ["m001"], "at_s": 3}}, back))
    known = [line[4] for line in lines["event"] if line[:2] == ["8000000", "m001"]]
    assert known == (["m000", "m002", "m003", "m004", "m005"] if disk else [])


DISTURBED = {
    "loss": 0.1, "delay_s": 0.2, "jitter_s": 0.3, "tail_s": 0.4, "sigma": 0.5, "duplicate": 0.6,
    "reorder": 0.7, "reorder_s": 0.8, "corrupt": 0.9, "capacity_bytes_s": 1_000.0, "queue_bytes": 2_000,
}  # fmt: skip


@pytest.mark.parametrize("both_ways", [True, False])
def test_a_disturbed_link_is_as_the_fault_says_and_the_way_back_if_it_says_so(both_ways):
    fault = {"sources": ["m001"], "targets": ["m002"], "both_ways": both_ways, "at_s": 1, **DISTURBED}
    running = Run(scenario({"disturb": fault}, network={"delay_s": 0, "jitter_s": 0}), 1)
    running.cluster.start_converged(running.scenario.names())
    running.injector.plan(running.plan)
    running.cluster.run_for(2)
    links, plain = running.cluster.links, running.cluster.links.default
    for source, target, disturbed in (
        ("m001", "m002", True),
        ("m002", "m001", both_ways),
        ("m001", "m003", False),
    ):
        link = links.of(source, target)
        assert {name: getattr(link, name) for name in DISTURBED} == (
            DISTURBED if disturbed else {name: getattr(plain, name) for name in DISTURBED}
        )


@pytest.mark.parametrize("parted", [{"sides": [["m001"], ["m002"]]}, {"pairs": [["m001", "m002"]]}], ids=str)
@pytest.mark.parametrize("mode", ["symmetric", "one_way"])
@pytest.mark.parametrize("datagrams_only", [True, False])
def test_a_partition_cuts_what_it_says_and_no_more(parted, mode, datagrams_only):
    fault = {"at_s": 1, "for_s": 2, "mode": mode, "datagrams_only": datagrams_only, **parted}
    running = Run(scenario({"partition": fault}), 1)
    running.cluster.start_converged(running.scenario.names())
    running.injector.plan(running.plan)
    running.cluster.run_for(2)

    def cut() -> dict[tuple[str, str], tuple[bool, bool]]:
        pairs = itertools.permutations(("m001", "m002", "m003"), 2)
        links = {pair: running.cluster.links.of(*pair) for pair in pairs}
        return {p: (k.cut, k.cut_datagrams) for p, k in links.items() if k.cut or k.cut_datagrams}

    ways = [("m001", "m002"), ("m002", "m001")][: 1 if mode == "one_way" else 2]
    assert cut() == dict.fromkeys(ways, (not datagrams_only, datagrams_only))
    running.cluster.run_for(2)
    assert cut() == {}


def test_what_a_plan_has_for_later_does_not_happen_once_all_is_healed():
    running = Run(scenario({"crash": {"members": ["m001"], "at_s": 3}}), 1)
    running.cluster.start_converged(running.scenario.names())
    running.injector.plan(running.plan)
    running.cluster.run_for(2)
    running.injector.heal()
    running.cluster.run_for(2)
    assert "m001" in running.cluster.running
    assert running.injector.happened == {}


def test_clocks_run_at_the_rate_that_a_fault_says():
    fast = {"clock": {"members": ["m001"], "at_s": 0, "rate": 1.5}}
    _, lines = traced(scenario(fast, network={"delay_s": 0.001}))
    pings = Counter(line[1] for line in lines["send"] if line[5] == "ping")
    assert 1.3 < pings["m001"] / pings["m002"] < 1.7


def traced(tested):
    """The result of a run, and the lines of its trace in words, by what they tell."""
    sink = io.StringIO()
    result = Run(tested, 1, sink=sink).run()
    lines = defaultdict(list)
    for line in sink.getvalue().splitlines():
        words = line.split()
        lines[words[2]].append(words)
    return result, lines


def test_healing_ends_everything_that_goes_wrong():
    result = outcome(
        scenario(
            {"partition": {"sides": [{"first": 2}, "rest"], "at_s": 5}},
            {"starve": {"members": ["m004"], "at_s": 5, "paused_s": [3, 6]}},
            {"disturb": {"at_s": 5, "loss": 0.3}},
            {"pause": {"members": ["m005"], "at_s": 10}},
        )
    )
    assert result.failed == []
    assert result.measures["wrong_views"] == 0
    assert result.sometimes["sometimes_a_partition_healed"] == 1


def test_an_artifact_is_enough_to_run_a_failure_again(tmp_path):
    tested = scenario(CRASH, {"leave": {"members": {"draw": 1}, "at_s": 1}}, bounds=HASTY)
    failed = outcome(tested, 7)
    path = artifact.write(tmp_path, tested, failed)
    loaded, seed, plan, kept = artifact.read(path)
    again = run(loaded, seed, plan=plan)
    assert (again.digest, again.code, again.failed) == (failed.digest, NOT_LIVE, failed.failed)
    assert kept["digest"] == failed.digest
    assert len(kept["last"]) == 200
    assert [fault.kind for fault in plan] == ["leave", "crash"]


def test_a_file_that_is_no_artifact_is_refused(tmp_path):
    for number, text in enumerate(("{}", "no json", '{"format": 99}')):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        with pytest.raises(ScenarioError, match=path.name):
            artifact.read(path)


def test_shrinking_leaves_the_faults_that_matter():
    tested = scenario(
        {"crash": {"members": ["m001"], "at_s": 3}},
        {"pause": {"members": ["m001"], "at_s": 1, "for_s": 1}},
        {"disturb": {"at_s": 2, "for_s": 1, "loss": 0.1}},
        {"clock": {"members": ["m002"], "at_s": 2, "rate": 1.001}},
        bounds=HASTY,
    )
    small, result = shrink(tested, 1, tested.plan(1))
    assert [fault.kind for fault in result.plan] == ["crash"]
    assert small.members < tested.members
    assert small.safety_s < tested.safety_s
    assert run(small, 1, plan=result.plan).failed == result.failed
    with pytest.raises(ScenarioError, match="does not fail"):
        shrink(scenario(), 1, ())


def test_a_sweep_that_is_stopped_tells_of_the_runs_there_were():
    runs: list[int] = []
    found = sweep(
        scenario(), range(1, 9), stop=lambda: len(runs) == 2, progress=lambda r: runs.append(r.seed)
    )
    assert [row["seed"] for row in found.rows] == runs == [1, 2]


def test_the_first_interrupt_stops_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with stopping() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("name", ["loss", "split_brain"])
def test_a_run_that_is_interrupted_tells_what_it_has_found(name, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Injector, "heal", interrupt)
    monkeypatch.setattr(NodeInjector, "heal", interrupt)
    result = run(load(name, ["safety_s=6"]), 1)
    assert (result.code, result.failed) == (INTERRUPTED, [])
    assert result.lines > 50
    assert result.virtual_s >= 6


def test_a_sweep_gathers_what_its_runs_have_met():
    tested = scenario(CRASH, sometimes=["sometimes_a_death_was_declared", "sometimes_a_goodbye_was_heard"])
    found = sweep(tested, [3, 1, 2])
    assert [row["seed"] for row in found.rows] == [1, 2, 3]
    assert found.code == OK
    assert (found.checks["eventually_crashes_are_detected"], found.checks["finally_states_settle"]) == (15, 0)
    assert found.unmet == ["sometimes_a_goodbye_was_heard"]


def test_a_sweep_stops_when_its_time_is_up_but_runs_once():
    assert len(sweep(scenario(CRASH), range(1, 50), budget_s=0).rows) == 1


def test_a_sweep_on_two_processes_finds_the_same():
    tested = scenario(CRASH, safety_s=5)
    parallel = sweep(tested, [1, 2], jobs=2)
    assert [row["digest"] for row in parallel.rows] == [row["digest"] for row in sweep(tested, [1, 2]).rows]


def test_a_sweep_ends_with_the_worst_code(monkeypatch):
    monkeypatch.setattr(OwnWord, "hear", lambda *_: None)
    tested = scenario(
        CRASH, {"starve": {"members": ["m002"], "at_s": 4, "paused_s": [1.5, 2.1]}}, bounds=HASTY
    )
    codes = {result.code for result in sweep(tested, [1, 2]).failures}
    assert codes <= {NOT_LIVE, NOT_SAFE}
    assert sweep(tested, [1, 2]).code == max(codes)


# ---- the command line -------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A file with a scenario whose detection takes longer than it may."""
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**BASE, "name": "mine", "faults": [CRASH], "safety_s": 5}))
    return str(file)


def call(*arguments: str):
    return CliRunner().invoke(cli, ["members", *arguments])


def test_scenarios_are_listed():
    listed = call("list").output
    assert "partition_month" in listed
    assert "thirty days" in listed


def test_a_run_prints_what_it_measured_and_writes_its_trace(mine, tmp_path):
    trace = tmp_path / "t.trace"
    result = call("run", mine, "--seed", "3", "--trace", str(trace))
    told = json.loads(result.output)
    assert result.exit_code == OK
    assert (told["scenario"], told["seed"], told["failed"]) == ("mine", 3, [])
    assert told["member_seconds_per_cpu_s"] > 0
    assert len(trace.read_text().splitlines()) == told["lines"]


def test_on_a_terminal_a_run_is_told_line_by_line(mine, monkeypatch):
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    shown = call(
        "run", mine, "--seed", "3", "--set", "bounds.detect_s=0.5", "--artifacts", str(Path(mine).parent)
    )
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["seed", "3"] in lines
    assert ["failed", "eventually_crashes_are_detected"] in lines
    assert ["sometimes_a_death_was_declared", "5"] in lines
    assert json.loads(call("run", mine, "--seed", "3", "--json").output)["seed"] == 3


def test_a_failure_prints_its_seed_and_one_command_that_runs_it_again(mine, tmp_path):
    options = ("--set", "bounds.detect_s=0.5", "--artifacts", str(tmp_path / "kept"))
    failed = call("run", mine, "--seed", "4", *options)
    assert failed.exit_code == NOT_LIVE
    assert "SEED=4 of mine failed with 128" in failed.output
    kept = tmp_path / "kept" / "mine-4.json"
    assert f"caxton simulate replay {kept}" in failed.output
    again = call("replay", str(kept))
    assert again.exit_code == NOT_LIVE
    assert "the same trace, exit code 128 (it was 128)" in again.output
    content = json.loads(kept.read_text())
    other = kept.with_name("other.json")
    zlib_now = content["zlib"]
    for changed, said in (
        ({}, "of the same code"),
        ({"code_hash": "0" * 16}, "since the code has changed"),
        ({"zlib": "1.0"}, f"of the same code, by zlib 1.0 instead of {zlib_now}"),
    ):
        other.write_text(json.dumps(content | {"digest": "another"} | changed))
        assert f"another trace, {said}, exit code 128" in call("replay", str(other)).output
    small = call("shrink", str(kept), "--artifacts", str(tmp_path / "kept"))
    assert "1 of 1 faults" in small.output
    assert "s are needed" in small.output


def test_a_sweep_writes_a_table_and_fails_when_something_was_never_met(mine, tmp_path):
    table = tmp_path / "t.csv"
    result = call("sweep", mine, "--seeds", "1..2", "--csv", str(table))
    assert result.exit_code == OK
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["seed"] for row in rows] == ["1", "2"]
    assert all(float(row["detect_p50_s"]) > 1 for row in rows)
    unmet = call("sweep", mine, "--seeds", "1", "--set", "sometimes=[sometimes_corruption_was_dropped]")
    assert unmet.exit_code == 3
    assert "never met: sometimes_corruption_was_dropped" in unmet.output


def test_mistakes_on_the_command_line_are_told_without_a_traceback():
    wrong = call("run", "crahs")
    assert wrong.exit_code == 1
    assert "the nearest is 'crash'" in wrong.output
    assert "is no range of seeds" in call("sweep", "crash", "--seeds", "9..1").output
    assert "is no duration" in call("sweep", "crash", "--seeds", "1", "--budget", "soon").output
    assert "write key=value" in call("run", "crash", "--set", "members").output


def test_a_file_that_cannot_be_written_is_told_and_hides_no_failure(mine, tmp_path, monkeypatch):
    nowhere = str(tmp_path / "nowhere" / "file")
    began: list[int] = []
    monkeypatch.setattr("simulations.cli.sweep", lambda *_, **__: began.append(1))
    for command in (("run", mine, "--trace", nowhere), ("sweep", mine, "--csv", nowhere)):
        wrong = call(*command)
        assert (wrong.exit_code, began) == (1, [])
        assert f"{nowhere}: No such file or directory" in wrong.output
    assert "the nearest is 'crash'" in call("check-determinism", "crahs").output
    (tmp_path / "file").touch()
    failed = call("run", mine, "--set", "bounds.detect_s=0.5", "--artifacts", str(tmp_path / "file"))
    assert failed.exit_code == NOT_LIVE
    assert "eventually_crashes_are_detected" in failed.output
    assert "it cannot be kept" in failed.output


def test_seeds_and_durations_are_read():
    assert list(seed_range("3..5")) == [3, 4, 5]
    assert list(seed_range("7")) == [7]
    assert [seconds(text) for text in ("90", "60s", "1.5m", "1h")] == [90, 60, 90, 3600]


def test_two_processes_with_different_hash_seeds_write_the_same_trace_byte_for_byte():
    command = [sys.executable, "-m", "simulations", "members", "run", "swarm", "--seed", "12"]
    changes = ("safety_s=30", "encrypted=true", "bounds={detect_s: 30, join_s: 30, converge_s: 30}")
    difference, lines = compare([*command, *(part for change in changes for part in ("--set", change))])
    assert difference == ""
    assert lines > 1_000
