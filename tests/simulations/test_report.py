"""Pages of runs and of sweeps: what they tell, that watching changes nothing, and what is refused."""

import base64
import csv
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from simulations import artifact
from simulations.__main__ import cli
from simulations.faults import KINDS, read
from simulations.nodes.scenario import NodeScenario
from simulations.properties import Violation
from simulations.report import content as of_run
from simulations.report.cli import Watched
from simulations.report.content import content
from simulations.report.members import MemberCollector
from simulations.report.page import MARK, MAX_PAGE_BYTES, check_target, render
from simulations.report.story import (
    FIRST_WIDTH_US,
    MAX_FLOWS,
    MAX_SHOWN,
    MAX_TURNS,
    MAX_VIEWS,
    Flows,
    Story,
    Turn,
    View,
    shown,
)
from simulations.report.table import read_table, table_content
from simulations.report.words import how, who
from simulations.runner import CRASHED, NOT_LIVE, OK, Result, run
from simulations.scenario import ScenarioError, check, load
from tests.simulations.scenarios import scenario
from tests.simulations.test_nodes import scenario as nodes

HALVES = {"partition": {"sides": [["m000", "m001"], "rest"], "at_s": 3, "for_s": 12}}
TROUBLE = (
    {"pause": {"members": ["n1"], "at_s": 4, "for_s": 3}},
    {"clock": {"members": ["n2"], "wall_offset_s": 500, "at_s": 5}},
    {"crash": {"members": ["n3"], "at_s": 5, "power": True}},
    {"restart": {"members": ["n3"], "at_s": 8}},
    {"partition": {"sides": [["n1"], "rest"], "at_s": 8, "for_s": 2}},
)


def page_of(watched: Watched, result: Result) -> dict:
    """The data in a page, as a browser would read it."""
    return data_of(watched.page(result, "caxton simulate run it"))


def data_of(page: str) -> dict:
    found = re.findall(r'<script type="application/json" id="data">([^<]*)</script>', page)
    assert len(found) == 1
    return json.loads(found[0])


def views(data: dict, observer: str, subject: str) -> list[tuple[int, View]]:
    """What one holds of another, and since when, in milliseconds."""
    by, of = data["names"].index(observer), data["names"].index(subject)
    return [(at, View(view)) for at, b, o, view in zip(*data["views"], strict=True) if (b, o) == (by, of)]


def total(data: dict, chart: str, kind: str) -> float:
    [drawn] = [each for each in data["charts"] if each["title"].startswith(chart)]
    [series] = [each for each in drawn["series"] if each["name"] == kind]
    return sum(series["n"]) * drawn["width"] / 1000


# ---- watching changes nothing ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", [3, 18])
def test_a_run_of_members_that_is_watched_is_the_same_run(seed: int) -> None:
    tested = load("swarm", ["members=8", "safety_s=40", "bounds.converge_s=40", "bounds.detect_s=40"])
    plain, watched = run(tested, seed), Watched(tested, seed).run()
    assert (watched.digest, watched.lines, watched.code) == (plain.digest, plain.lines, plain.code)


def test_a_run_of_whole_nodes_that_is_watched_is_the_same_run() -> None:
    tested = nodes(*TROUBLE, settings={"storage.durability": "full"})
    plain, watched = run(tested, 7), Watched(tested, 7).run()
    assert (watched.digest, watched.lines, watched.code) == (plain.digest, plain.lines, plain.code)


# ---- what a page tells -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halves() -> tuple[dict, Result]:
    watched = Watched(scenario(HALVES), 1)
    result = watched.run()
    assert result.code == OK
    return page_of(watched, result), result


def test_a_partition_is_seen_in_the_views_of_both_sides(halves: tuple[dict, Result]) -> None:
    data, _ = halves
    for observer, subject in (("m000", "m005"), ("m005", "m000")):
        seen = views(data, observer, subject)
        assert [view for _, view in seen][:3] == [View.UP, View.SUSPECT, View.DEAD]
        assert seen[-1][1] is View.UP
        assert 3_000 < seen[1][0] < seen[2][0] < 15_000 < seen[-1][0]
    neighbour = views(data, "m000", "m001")  # whom the other side accuses for a moment when both meet again
    assert [view for at, view in neighbour if at < 15_000] == [View.UP]
    assert View.DEAD not in [view for _, view in neighbour]


def test_the_head_and_the_tables_are_those_of_the_result(halves: tuple[dict, Result]) -> None:
    data, result = halves
    assert (data["seed"], data["code"], data["meaning"]) == (1, 0, "everything held")
    assert (data["digest"], data["end"]) == (result.digest, round(result.virtual_s * 1000))
    assert {each["name"]: each["checks"] for each in data["properties"]} == result.checks
    assert dict(data["sometimes"]) == result.sometimes
    [fault] = data["faults"]
    assert (fault["kind"], fault["from"], fault["to"]) == ("partition", 3_000, 15_000)
    assert fault["who"] == "m000, m001 | m002, m003, m004, m005"
    assert data["healed"] == 20_000


def test_datagrams_are_all_counted_by_kind_and_by_fate(halves: tuple[dict, Result]) -> None:
    data, result = halves
    [kinds] = [chart for chart in data["charts"] if chart["title"].startswith("Datagrams sent")]
    sent = sum(sum(series["n"]) for series in kinds["series"])
    streams = ("connect", "stream")
    assert sent == sum(n for kind, n in result.measures["packets"].items() if kind not in streams)
    assert total(data, "Datagrams lost", "lost") == result.statistics["fate_cut"] + result.statistics.get(
        "fate_lost", 0
    )
    assert total(data, "Datagrams lost", "arrived") + total(data, "Datagrams lost", "lost") == sent
    assert sum(data["flows"]["cells"][3]) == sent


def test_what_happened_is_told_in_sentences(halves: tuple[dict, Result]) -> None:
    told = [text for _, _, text in halves[0]["happenings"]]
    assert told[0] == "m000, m001 and 4 others start"
    assert told[1] == "partition begins: m000, m001 | m002, m003, m004, m005"
    assert any(re.fullmatch(r"m00\d.* (hold|holds) m000.* dead", text) for text in told)
    times = [at for at, _, _ in halves[0]["happenings"]]
    assert times == sorted(times)


def test_lives_of_members_are_told() -> None:
    watched = Watched(
        scenario(
            {"pause": {"members": ["m001"], "at_s": 2, "for_s": 1}},
            {"crash": {"members": ["m002"], "at_s": 3, "power": True}},
            {"leave": {"members": ["m003"], "at_s": 4}},
            {"restart": {"members": ["m002"], "at_s": 8}},
            {"join": {"members": ["new"], "at_s": 9}},
        ),
        1,
    )
    data = page_of(watched, watched.run())
    lives = {
        name: [(at, Turn(turn)) for at, place, turn, _ in data["turns"] if data["names"][place] == name]
        for name in data["names"]
    }
    assert lives["m001"] == [(0, Turn.UP), (2_000, Turn.PAUSED), (3_000, Turn.UP)]
    assert lives["m002"] == [(0, Turn.UP), (3_000, Turn.CRASHED), (8_000, Turn.UP)]
    assert [turn for _, turn in lives["m003"]] == [Turn.UP, Turn.LEAVING, Turn.LEFT]
    assert lives["new"] == [(9_000, Turn.UP)]
    assert "m002 loses power" in [text for _, _, text in data["happenings"]]
    assert views(data, "m000", "new")[0][1] is View.UP


def test_stretches_that_are_leapt_over_are_told() -> None:
    watched = Watched(scenario({"jump": {"at_s": 5, "to_s": 1_000}}, safety_s=1_005), 1)
    data = page_of(watched, watched.run())
    [[begins, ends]] = data["leaps"]
    assert 5_000 <= begins < 10_000
    assert ends == 1_000_000
    assert data["faults"][0]["to"] == 1_000_000


@pytest.fixture(scope="module")
def trouble() -> tuple[dict, Result]:
    watched = Watched(nodes(*TROUBLE, settings={"storage.durability": "full"}), 7)
    result = watched.run()
    assert not result.crash, result.crash
    return page_of(watched, result), result


def test_lives_and_views_of_whole_nodes_are_told(trouble: tuple[dict, Result]) -> None:
    data, _ = trouble
    n3 = [(at, Turn(turn)) for at, place, turn, _ in data["turns"] if data["names"][place] == "n3"]
    assert [turn for _, turn in n3] == [Turn.STARTING, Turn.UP, Turn.CRASHED, Turn.STARTING, Turn.UP]
    assert [at for at, _ in n3[2:4]] == [5_000, 8_000]
    for observer in ("n1", "n2"):
        assert views(data, observer, "n3")[-1][1] is View.UP
    assert View.SUSPECT in [view for _, view in views(data, "n2", "n1")]  # which stood still


def test_requests_of_whole_nodes_are_counted_at_their_true_time(trouble: tuple[dict, Result]) -> None:
    data, result = trouble
    accepted, settled = total(data, "Requests", "accepted"), total(data, "Requests", "settled")
    assert accepted == result.measures["accepted"]
    refused = sum(n for name, n in result.measures.items() if name.startswith("refused"))
    assert total(data, "Requests", "refused") == refused
    unknown = total(data, "Requests", "end not known")
    assert settled + total(data, "Requests", "failed") + unknown == accepted
    assert settled > 0
    [requests] = [chart for chart in data["charts"] if chart["title"] == "Requests"]
    # One node's wall clock was set off by more than the run lasts; its requests end within the run.
    assert max(bucket for series in requests["series"] for bucket in series["at"]) * 1000 < data["end"]
    assert sum(data["flows"]["cells"][3]) == total(data, "Packets", "link writes")


def test_requests_under_way_and_leaps_of_whole_nodes_are_told() -> None:
    watched = Watched(nodes({"jump": {"at_s": 6, "to_s": 500}}, safety_s=505, bounds={"converge_s": 10}), 1)
    result = watched.run()
    data = page_of(watched, result)
    [[begins, ends]] = data["leaps"]
    assert 6_000 <= begins < 10_000
    assert ends == 500_000
    opened = [chart for chart in data["charts"] if chart["title"].startswith("Under way")]
    assert sum(len(series["at"]) for chart in opened for series in chart["series"]) < 60


def test_violations_are_shown() -> None:
    hasty = scenario({"crash": {"members": ["m001"], "at_s": 3}}, bounds={"detect_s": 0.5})
    watched = Watched(hasty, 1)
    data = page_of(watched, watched.run())
    assert (data["code"], data["failed"]) == (NOT_LIVE, ["eventually_crashes_are_detected"])
    [broken] = [each for each in data["properties"] if each["violations"]]
    assert broken["violations"][0][0] == 3_500
    [sentence] = [text for _, kind, text in data["happenings"] if kind == "violation"]
    assert sentence.endswith(f"(and {len(broken['violations']) - 1} more)")


def test_a_run_that_raises_has_a_page_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: object) -> None:
        raise ZeroDivisionError("planted")

    for tested, place in (
        (scenario(HALVES), "simulations.members.Swim.receive"),
        (nodes(), "simulations.nodes.run.SimulatedCluster.__init__"),
    ):
        with monkeypatch.context() as patch:
            module, _, method = place.rpartition(".")
            patch.setattr(f"{module}.{method}", raises)
            watched = Watched(tested, 1)
            data = page_of(watched, watched.run())
        assert data["code"] == CRASHED
        assert "planted" in data["crash"]


# ---- bounds ----------------------------------------------------------------------------------------


def test_of_many_members_those_that_matter_are_shown() -> None:
    many = [f"m{number:03}" for number in range(200)]
    plan = [
        read({"crash": {"members": ["m150"], "at_s": 1}}),
        read({"join": {"members": ["new"], "at_s": 1}}),
    ]
    chosen = shown(many, plan, "[{'text': 'm180 holds m190 dead, by m005'}]")
    assert len(chosen) == MAX_SHOWN
    assert {"m150", "m180", "m190", "new", "m000"} <= set(chosen)
    assert chosen.index("m000") < chosen.index("m150") < chosen.index("new")
    assert shown(many[:40], plan[:1]) == [*many[:40], "m150"]


def test_flows_widen_and_lose_nothing() -> None:
    flows = Flows()
    for number in range(MAX_FLOWS + 10):
        flows.note(number * FIRST_WIDTH_US, 0, 1, lost=number % 10 == 0)
    assert flows.width_us == 2 * FIRST_WIDTH_US
    assert len(flows.cells) <= MAX_FLOWS
    assert sum(sent for sent, _ in flows.cells.values()) == MAX_FLOWS + 10
    assert sum(lost for _, lost in flows.cells.values()) == len(range(0, MAX_FLOWS + 10, 10))


def test_the_largest_story_makes_a_page_within_its_bound_that_says_what_is_missing() -> None:
    names = [f"{'n' * 60}{number:03}" for number in range(MAX_SHOWN)]
    story = Story(names, 1_000)
    for number in range(MAX_VIEWS + 2):
        view = View.DEAD if (number // 2450) % 2 else View.UP
        pair = number % 2450
        by, of = pair // 49, pair % 49
        story.viewed(10_000_000 + number * 1_000_001, names[by], names[of + (of >= by)], view)
    for number in range(MAX_TURNS + 2):
        story.turned(number * 100_001, names[number % MAX_SHOWN], Turn.STOPPED, f"stops: {'x' * 500}")
    for number in range(MAX_FLOWS + 2):
        story.sent(number * 10**6, names[number % 50], names[(number + 7) % 50], lost=True)
    for second in range(0, 60_000, 7):
        for kind in range(20):
            story.counted(second * 10**6, "datagrams", f"kind {kind}", 10**6)
    plan = tuple(
        read({"crash": {"members": ["m" * 500 for _ in range(9)], "at_s": n}}) for n in range(10_000)
    )
    violations = [Violation("always_" + "x" * 400, n * 1_001, "y" * 5_000) for n in range(100)]
    result = Result("large", 1, CRASHED, violations, "z" * 10**6, plan, virtual_s=60_000.0)
    data = content(
        scenario(), result, story, charts=MemberCollector.CHARTS, flows="datagrams", replay="again"
    )
    page = render(data)
    assert 1_000_000 < len(page.encode()) < MAX_PAGE_BYTES
    assert len(data["happenings"]) == of_run.MAX_HAPPENINGS_SHOWN
    assert len(data["faults"]) == of_run.MAX_FAULTS_SHOWN
    said = " ".join(data["notes"])
    for word in ("50 of 1000 members", f"first {MAX_VIEWS} changes", f"first {MAX_TURNS} starts", "of 10000"):
        assert word in said


# ---- words -----------------------------------------------------------------------------------------


def test_every_fault_has_words_for_whom_it_strikes_and_what_it_does() -> None:
    samples = {
        "power": True, "moved": True, "disk": False, "seeds": False, "upgrade": True, "full": True,
        "sync_fails": True,
        "read_fails": True, "datagrams_only": True, "mode": "one_way", "down_s": [1, 2], "paused_s": [1, 3],
        "queue_bytes": 9, "rate": 1.25, "to_s": 90_061,
    }  # fmt: skip
    who_and_when = {
        "members", "sources", "targets", "sides", "pairs", "at_s", "for_s", "excuses", "both_ways",
    }  # fmt: skip
    for kind, model in KINDS.items():
        least = {"at_s": 1, **({"members": ["a"]} if "members" in model.model_fields else {})}
        least |= {"partition": {"sides": [["a"], ["b"]]}, "churn": {"per_s": 1}, "jump": {"to_s": 2}}.get(
            kind, {}
        )
        assert who(read({kind: least})), kind
        for key in model.model_fields.keys() - who_and_when:
            said = how(read({kind: {**least, key: samples.get(key, 0.25)}}))
            assert said, (kind, key)


def test_words_are_those_of_a_person() -> None:
    said = {
        "disturb": read({"disturb": {"sources": ["a"], "at_s": 1, "loss": 0.3, "both_ways": True}}),
        "one way": read({"partition": {"sides": [["a"], list("bcdef")], "mode": "one_way", "at_s": 1}}),
        "pairs": read({"partition": {"pairs": [["a", "b"]], "at_s": 1}}),
        "jump": read({"jump": {"at_s": 1, "to_s": 90_061}}),
    }
    assert {name: (who(fault), how(fault)) for name, fault in said.items()} == {
        "disturb": ("a ↔ all", "30 % lost"),
        "one way": ("a ↛ b, c and 3 others", "one way"),
        "pairs": ("a | b", ""),
        "jump": ("all", "to 1 d 1 h 1 min"),
    }


# ---- the file --------------------------------------------------------------------------------------


def test_nothing_of_a_run_can_become_markup_and_the_policy_names_what_may_run() -> None:
    nasty = "</script><script>alert(1)</script><!-- & \u2028 \u2029 {{style}}"
    watched = Watched(scenario(about=nasty, name="<b>"), 1)
    page = watched.page(watched.run(), nasty)
    assert page.count("<script") == 2
    assert "alert(1)</script>" not in page
    assert "\u2028" not in page
    assert "<title>&lt;b&gt; 1" in page
    data = data_of(page)
    assert (data["about"], data["replay"], data["scenario"]) == (nasty, nasty, "<b>")
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'")
    for kind, tag in (("style", "<style>"), ("script", "<script>")):
        text = page.split(tag, 1)[1].split(f"</{kind}>", 1)[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org/2000/svg)|@import|url\(", page)


def test_only_reports_are_overwritten(tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    check_target(place, force=False)
    place.write_text("mine", encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"page\.html exists and is no report; .* --force"):
        check_target(place, force=False)
    check_target(place, force=True)
    place.write_text(f"<!doctype html>{MARK}", encoding="utf-8")
    check_target(place, force=False)
    link = tmp_path / "link.html"
    link.symlink_to(place)
    for bad, why in ((tmp_path, "directory"), (tmp_path / "a" / "b", "no directory"), (link, "no ordinary")):
        with pytest.raises(ScenarioError, match=why):
            check_target(bad, force=True)


# ---- the command -----------------------------------------------------------------------------------

FAST = (
    "--set",
    "members=4",
    "--set",
    "safety_s=8",
    "--set",
    "bounds.converge_s=8",
    "--set",
    "bounds.detect_s=8",
)


def simulate(*arguments: str):
    return CliRunner().invoke(cli, ["members", *arguments])


def test_a_run_writes_its_page_and_prints_what_it_prints_without(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    plain = simulate("run", "loss", "--seed", "3", *FAST)
    drawn = simulate("run", "loss", "--seed", "3", *FAST, "--report", str(page))
    assert drawn.exit_code == plain.exit_code == 0
    one, other = (json.loads(found.stdout) for found in (plain, drawn))
    assert one["digest"] == other["digest"]
    data = data_of(page.read_text(encoding="utf-8"))
    assert data["digest"] == one["digest"]
    assert data["replay"] == (
        "caxton simulate run loss --seed 3 --set members=4 --set safety_s=8 --set bounds.converge_s=8 "
        "--set bounds.detect_s=8"
    )


def test_a_failing_run_keeps_its_artifact_and_its_page_and_the_artifact_makes_another(tmp_path: Path) -> None:
    page, kept = tmp_path / "r.html", tmp_path / "kept"
    changes = ("--set", "bounds.detect_s=0.5", "--set", "members=5", "--set", "safety_s=25")
    ended = simulate("run", "crash", *changes, "--report", str(page), "--artifacts", str(kept))
    assert ended.exit_code == NOT_LIVE
    assert data_of(page.read_text(encoding="utf-8"))["code"] == NOT_LIVE
    found = simulate("report", str(kept / "crash-1.json"))
    assert found.exit_code == 0, found.output
    assert found.stdout == (f"seed 1: the same trace, exit code 128 (it was 128); {kept / 'crash-1.html'}\n")
    data = data_of((kept / "crash-1.html").read_text(encoding="utf-8"))
    assert (data["same"], data["replay"]) == (True, f"caxton simulate replay {kept / 'crash-1.json'}")


def test_a_page_goes_beside_what_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = simulate("report", "loss", "--seed", "2", *FAST)
    assert (found.exit_code, found.stdout) == (0, "seed 2: exit code 0; loss-2.html\n")
    assert data_of(Path("loss-2.html").read_text(encoding="utf-8"))["seed"] == 2


def test_a_browser_is_started_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr("click.launch", lambda place: started.append(place) or len(started) - 1)
    table, page = str(write_table(tmp_path / "t.csv", row())), str(tmp_path / "t.html")
    assert (simulate("report", table).exit_code, started) == (0, [])
    assert (simulate("report", table, "--open", "yes").exit_code, started) == (0, [page])
    refused = simulate("report", table, "--open", "yes")
    assert (refused.exit_code, refused.stderr) == (1, f"Error: no browser could be started; open {page}\n")


def row(**changes: object) -> dict[str, object]:
    return {
        "scenario": "swarm", "seed": 1, "code": 0, "failed": "", "virtual_s": 12.5, "cpu_s": 0.5,
        "lines": 900, "digest": "00", "false_deaths": 0, "detect_p50_s": "", **changes,
    }  # fmt: skip


def write_table(path: Path, *rows: dict[str, object]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_sweep_becomes_a_page(tmp_path: Path) -> None:
    kept, table, page = tmp_path / "kept", tmp_path / "sweep.csv", tmp_path / "sweep.html"
    changes = ("--set", "members=5", "--set", "safety_s=25", "--set", "bounds.detect_s=4.5")
    places = ("--csv", str(table), "--artifacts", str(kept))
    assert simulate("sweep", "crash", "--seeds", "1..4", *changes, *places).exit_code == NOT_LIVE
    found = simulate("report", str(table), "--artifacts", str(kept))
    assert found.exit_code == 0, found.output
    data = data_of(page.read_text(encoding="utf-8"))
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert dict(data["seeds"]) == {int(each["seed"]): int(each["code"]) for each in rows}
    assert {code: n for code, n, _ in data["codes"]} == Counter(int(each["code"]) for each in rows)
    failed = [int(each["seed"]) for each in rows if each["code"] != "0"]
    assert failed
    assert [failure["seed"] for failure in data["failures"]] == failed
    for failure in data["failures"]:
        assert failure["again"] == f"caxton simulate replay {kept / 'crash-{}.json'.format(failure['seed'])}"
    for measure in data["measures"]:
        assert sum(measure["held"]) + sum(measure["failed"]) == measure["runs"]
    named = [measure["name"] for measure in data["measures"]]
    assert {"detections", "false_deaths", "cpu_s"} <= set(named)


def test_measures_spread_as_they_are(tmp_path: Path) -> None:
    rows = [row(seed=n, false_deaths=n % 3, detect_p50_s=n / 4 if n else "") for n in range(10)]
    rows[9] |= {"code": 129, "failed": "always_no_false_death"}
    scenario_, read_ = read_table(write_table(tmp_path / "t.csv", *rows))
    data = table_content(scenario_, read_, artifacts=tmp_path, command="simulate")
    measures = {measure["name"]: measure for measure in data["measures"]}
    deaths = measures["false_deaths"]
    assert (deaths["low"], deaths["median"], deaths["high"]) == (0, 1, 2)
    assert (deaths["held"], deaths["failed"]) == ([3, 3, 3], [1, 0, 0])
    assert measures["detect_p50_s"]["runs"] == 9
    assert measures["lines"]["held"] == [9]
    assert data["failures"] == [
        {"seed": 9, "code": 129, "failed": ["always_no_false_death"], "again": "simulate run swarm --seed 9"}
    ]


def test_what_is_no_table_is_refused_with_its_line(tmp_path: Path) -> None:
    cases = {
        "no_table": ([{"a": 1}], r"t\.csv:1: .* no column 'scenario'"),
        "no_number": ([row(), row(false_deaths="many")], r"t\.csv:3: false_deaths: 'many' is no number"),
        "not_finite": ([row(cpu_s="nan")], r"t\.csv:2: cpu_s: 'nan' is no number"),
        "no_seed": ([row(seed="x")], r"t\.csv:2: seed: 'x' is no whole number"),
        "no_code": ([row(code=7)], r"t\.csv:2: code: 7 is none of 0, 127, 128, 129, 130"),
        "mixed": ([row(), row(scenario="churn")], "runs of churn, swarm; one table is one scenario's"),
    }
    for rows, why in cases.values():
        with pytest.raises(ScenarioError, match=why):
            read_table(write_table(tmp_path / "t.csv", *rows))
    table = tmp_path / "t.csv"
    for text, why in (
        ("", "no column"),
        (",".join(row()) + "\n", "no runs"),
        (",".join(row()) + "\nswarm,1\n", r"t\.csv:2: another number of columns"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(ScenarioError, match=why):
            read_table(table)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScenarioError, match="no table of a sweep"):
        read_table(table)


def test_what_cannot_be_drawn_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    mine = tmp_path / "mine.html"
    mine.write_text("mine", encoding="utf-8")
    table = str(write_table(tmp_path / "t.csv", row()))
    for arguments, why in (
        (["splitt_brain"], "there is no file 'splitt_brain', and .* the nearest is 'split_brain'"),
        ([str(broken)], r"broken\.json: this is no artifact of a run"),
        ([table, "--seed", "3"], "is no scenario; --seed and --set are for scenarios"),
        (["loss", "-o", str(mine), *FAST], "exists and is no report"),
        (["loss", "-o", str(tmp_path / "no" / "r.html"), *FAST], "there is no directory"),
        (["loss", "--set", "members"], "write key=value"),
        ([str(tmp_path)], "there is no file"),
    ):
        found = simulate("report", *arguments)
        assert found.exit_code == 1, found.output
        assert re.search(why, found.stderr), found.stderr
    refused = simulate("run", "loss", *FAST, "--report", str(mine))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert mine.read_text(encoding="utf-8") == "mine"
    assert simulate("report", table, "-o", str(mine), "--force").exit_code == 0
    assert MARK in mine.read_text(encoding="utf-8")


def test_an_artifact_of_whole_nodes_is_run_again(tmp_path: Path) -> None:
    tested = nodes(workload=None, agents=[], safety_s=4, bounds={"converge_s": 2})
    path = artifact.write(tmp_path, tested, run(tested, 2))
    found = simulate("report", str(path))
    assert (found.exit_code, found.stderr) == (0, "")
    data = data_of(path.with_suffix(".html").read_text(encoding="utf-8"))
    assert (data["runs"], data["same"], data["names"]) == ("nodes", True, ["n1", "n2", "n3"])
    assert isinstance(check(tested.model_dump(mode="json", exclude_defaults=True), "again"), NodeScenario)
