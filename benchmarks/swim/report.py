"""The table of what was asked for and what was reached, from the newest raw results.

    .venv/bin/python -m benchmarks.swim.report             # prints Markdown
    .venv/bin/python -m benchmarks.swim.report --write     # puts it into benchmarks/README.md

Nothing is measured here. A row whose results are missing says by which command they are made.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Final, NamedTuple

from benchmarks.report import PROJECT, RESULTS, percentile
from benchmarks.swim import detection, dissemination, healing, joining, oneway, runs, speed, starved, traffic
from benchmarks.swim.runs import Row, text

PAGE: Final = PROJECT / "benchmarks" / "README.md"
BEGIN: Final = "<!-- reached: written by benchmarks.swim.report -->"
END: Final = "<!-- reached: end -->"
MOST_OF_RUNS: Final = 0.01
TIMES_FEWER: Final = 20
GOALS_S: Final = {"p50": 6.0, "p99": 7.5}
KB: Final = 1000


class Line(NamedTuple):
    """One row of the table.

    Attributes:
        what: Is measured.
        reference: What others have reached.
        goal: What was asked for.
        reached: What the newest results say.
        met: Whether that is the goal; None where there is no telling.
        raw: The file it is from.
    """

    what: str
    reference: str
    goal: str
    reached: str
    met: bool | None
    raw: str


def lines(directory: Path) -> Iterator[Line]:
    """All rows, those without results included."""
    for name, make in PARTS:
        path = runs.newest(name, directory)
        if path is None:
            yield Line(name, "", "", f"not measured: `python -m benchmarks.swim.{COMMANDS[name]}`", None, "")
            continue
        for line in make(path):
            yield line._replace(raw=path.name)


def _beside(path: Path, suffix: str) -> list[Row]:
    other = path.with_name(f"{path.stem}-{suffix}.csv")
    return runs.read(other) if other.exists() else []


def _sum(rows: Iterable[Row], what: str) -> int:
    return sum(row[what] for row in rows)


def _by(rows: Iterable[Row], *columns: str) -> dict[tuple[object, ...], list[Row]]:
    """Rows by what some columns hold, in the order in which that comes."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[column] for column in columns), []).append(row)
    return found


def _points(times_s: Sequence[float]) -> str:
    if not times_s:
        return "none ever"
    p50, p99 = percentile(times_s, 0.5), percentile(times_s, 0.99)
    return f"p50 {text(p50)} s, p99 {text(p99)} s, max {text(max(times_s))} s"


# ---- one function for each benchmark ---------------------------------------------------------------


def _detection(path: Path) -> Iterator[Line]:
    rows, bins = runs.read(path), _beside(path, "histogram")
    p50, p99 = (runs.binned(bins, detection.BIN_S, share) for share in (0.5, 0.99))
    missed, false = _sum(rows, "missed"), _sum(rows, "false_deaths")
    slowest = max(row["max_s"] for row in rows if row["max_s"] != "")
    yield Line(
        f"detection of a crash, {rows[0]['members']} members, `lan`, 2 ms +-1 ms, {rows[0]['loss']:.0%} loss",
        detection.REFERENCE,
        detection.GOAL,
        f"p50 {text(p50)} s, p99 {text(p99)} s, max {text(slowest)} s, {missed} missed, {false} false, in "
        f"{len(rows):,} crashes and {_sum(bins, 'count'):,} detections",
        p50 <= GOALS_S["p50"] and p99 <= GOALS_S["p99"] and not missed and not false,
        "",
    )


def _joining(path: Path) -> Iterator[Line]:
    for (members,), rows in _by(runs.read(path), "members").items():
        times_s = [row["agreed_s"] for row in rows if row["agreed_s"] != ""]
        within = sum(at <= joining.GOAL_S for at in times_s)
        yield Line(
            f"join of {members} at once",
            joining.REFERENCE,
            joining.GOAL,
            f"{within:,} of {len(rows):,} within {joining.GOAL_S:g} s, {_points(times_s)}",
            within == len(rows),
            "",
        )


def _starved(path: Path) -> Iterator[Line]:
    by_system = _by(runs.read(path), "system")
    deaths = {str(system): _with_death(rows) for (system,), rows in by_system.items()}
    for (system,), rows in by_system.items():
        ours, runs_ = deaths[str(system)], len(rows)
        reached = f"{ours} of {runs_:,} runs with a false death, suspicion events p50 "
        reached += f"{median(row['suspicions'] for row in rows):,.0f}"
        met = None
        if system == "caxton" and "swim" in deaths:
            rate = deaths["swim"] / len(by_system["swim",])
            met = rate > 0 and ours <= MOST_OF_RUNS * runs_ and ours * TIMES_FEWER <= rate * runs_
        cells = len(_by(rows, "members", "starved", "loss"))
        pauses = f"{rows[0]['shortest_s']:g} to {rows[0]['longest_s']:g} s"
        goal = starved.GOAL if system == "caxton" and "swim" in deaths else ""
        yield Line(
            f"starved members, pauses of {pauses}, {cells} cells: {system}",
            starved.REFERENCE,
            goal,
            reached,
            met,
            "",
        )


def _with_death(rows: Iterable[Row]) -> int:
    return sum(row["false_deaths"] > 0 for row in rows)


def _healing(path: Path) -> Iterator[Line]:
    for (last, jump), rows in _by(runs.read(path), "lasts", "jump").items():
        times_s = [row["one_view_after_s"] for row in rows if row["one_view_after_s"] != ""]
        within = sum(at <= healing.GOAL_S for at in times_s)
        sizes = ", ".join(str(size) for size in dict.fromkeys(row["members"] for row in rows))
        yield Line(
            f"heal after a partition of {last}, {'jumped' if jump else 'simulated in full'}, {sizes} members",
            healing.REFERENCE,
            healing.GOAL,
            f"{within:,} of {len(rows):,} within {healing.GOAL_S:g} s, {_points(times_s)}",
            within == len(rows),
            "",
        )


def _traffic(path: Path) -> Iterator[Line]:
    for (members,), rows in _by(runs.read(path), "members").items():
        reference = traffic.REFERENCE.get(int(str(members)), "")
        payload, headers = (
            mean(row[what] for row in rows) / KB
            for what in ("bytes_per_member_s", "with_headers_per_member_s")
        )
        yield Line(
            f"idle traffic sent per member, {members} members, {rows[0]['entries']:,} entries",
            reference,
            f"<= {reference}",
            f"{payload:.3f} KB/s of payload{', encrypted' * bool(rows[0].get('sealed'))}, "
            f"{headers:.3f} KB/s with IP and UDP headers",
            headers <= float(reference.split()[0]) if reference else None,
            "",
        )


def _dissemination(path: Path) -> Iterator[Line]:
    bins = _by(_beside(path, "histogram"), "members", "kind")
    for (members, kind), rows in _by(runs.read(path), "members", "kind").items():
        reference = dissemination.REFERENCE.get(int(str(members)), "")
        points = {
            share: runs.binned(bins[members, kind], dissemination.BIN_S, share)
            for share in (0.5, 0.99, 0.9999)
        }
        missed = _sum(rows, "missed")
        shown = ", ".join(f"p{100 * share:g} {text(at)} s" for share, at in points.items())
        slowest = max(row["max_s"] for row in rows if row["max_s"] != "")
        yield Line(
            f"one update of {kind} to all of {members}",
            f"{reference} for 99.99 % (a model)",
            f"<= {reference}",
            f"{shown}, max {text(slowest)} s of {_sum(rows, 'reached'):,} arrivals, {missed} missed",
            points[0.9999] <= float(reference.split()[0]) and not missed if reference else None,
            "",
        )


def _oneway(path: Path) -> Iterator[Line]:
    for (members, fault), rows in _by(runs.read(path), "members", "fault").items():
        after_s = [row["settled_after_s"] for row in rows if row["settled"]]
        suspected, died = (_sum(rows, f"healthy_{what}_by_healthy") for what in ("suspected", "died"))
        yield Line(
            f"{rows[0]['hit']} of {members} members: {fault}",
            oneway.REFERENCE,
            oneway.GOAL,
            f"{len(after_s)} of {len(rows)} settled, after {text(max(after_s, default=None), 0)} s at most; "
            f"healthy members suspected {suspected}, dead {died}; hit ones dead "
            f"{_sum(rows, 'hit_died_by_healthy')}, back {_sum(rows, 'hit_back_by_healthy')}",
            len(after_s) == len(rows) and not suspected and not died,
            "",
        )


def _speed(path: Path) -> Iterator[Line]:
    for (members, measure, kind), rows in _by(runs.read(path), "members", "measure", "cryptography").items():
        cpu_s = median(row["run_cpu_s"] for row in rows)
        is_goal = (members, measure, kind) == (1000, "churn", "own")
        answers = "each member computes alone" if kind == "own" else "members share answers about signatures"
        yield Line(
            f"the simulator: {members} members, {measure}, {answers}",
            "",
            speed.GOAL if is_goal else "",
            speed.summary(rows),
            cpu_s <= speed.LASTS_S if is_goal else None,
            "",
        )


PARTS: Final[tuple[tuple[str, Callable[[Path], Iterator[Line]]], ...]] = (
    ("detection", _detection),
    ("joining", _joining),
    ("starved", _starved),
    ("starved-5-30", _starved),
    ("healing", _healing),
    ("healing-check", _healing),
    ("traffic", _traffic),
    ("dissemination", _dissemination),
    ("oneway", _oneway),
    ("speed", _speed),
)
COMMANDS: Final = {name: name for name, _ in PARTS} | {
    "starved-5-30": "starved --pauses 5,30 --systems caxton,lifeguard-slow,caxton-slow",
    "healing-check": "healing --check --lasts 1h",
}
"""What makes the results of each part."""


def markdown(directory: Path) -> str:
    """The table, and the cells of starved members below it."""
    header = ("what", "reference", "goal", "reached", "goal met", "raw")
    shown = {True: "yes", False: "**no**", None: ""}
    table = [header, ("---",) * len(header)]
    table += [(*line[:4], shown[line.met], f"`{line.raw}`" if line.raw else "") for line in lines(directory)]
    text_ = "\n".join("| " + " | ".join(row) + " |" for row in table)
    cells = starved_cells(directory)
    return f"{text_}\n\n{cells}" if cells else text_


def starved_cells(directory: Path) -> str:
    """Runs with a false death by cell and system; empty without results."""
    path = runs.newest("starved", directory)
    if path is None:
        return ""
    rows = runs.read(path)
    systems = [str(system) for (system,) in _by(rows, "system")]
    header = ("members", "starved", "loss", *(f"{system}: runs with a false death" for system in systems))
    header += tuple(f"{system}: suspicion events p50" for system in systems)
    table = [header, ("---",) * len(header)]
    for (members, count, loss), found in _by(rows, "members", "starved", "loss").items():
        by_system = {str(system): of for (system,), of in _by(found, "system").items()}
        runs_of = [by_system.get(name, []) for name in systems]  # a sweep may have ended before a cell
        deaths = [f"{_with_death(rows_)} of {len(rows_)}" if rows_ else "-" for rows_ in runs_of]
        events = [f"{median(row['suspicions'] for row in rows_):,.0f}" if rows_ else "-" for rows_ in runs_of]
        table.append((str(members), str(count), f"{float(str(loss)):.0%}", *deaths, *events))
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description="What was reached, as Markdown.", allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the raw results are")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that --write changes")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    options = parser.parse_args(arguments)
    table = markdown(options.results)
    if not options.write:
        print(table)
        return 0
    page = options.page.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        parser.error(f"{options.page} has no place for the table: {BEGIN} ... {END}")
    options.page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
