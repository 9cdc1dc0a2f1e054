"""What a page of a run shows, as data: JSON types only, times in milliseconds of the run, all bounded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from simulations.faults import Fault, Jump
from simulations.properties import Violation
from simulations.report.story import MAX_FLOWS, MAX_SHOWN, MAX_TURNS, MAX_VIEWS, Chart, Story, View
from simulations.report.words import CODES, cut, how, people, who
from simulations.runner import CRASHED, INTERRUPTED, OK, Result
from simulations.scenario import Scenario

MAX_FAULTS_SHOWN: Final = 500
MAX_HAPPENINGS_SHOWN: Final = 3_000
"""Sentences of what happened; beyond them the page leaves changes of views out, then the latest."""
MAX_NAME: Final = 80
MAX_TURN_WORDS: Final = 80
MAX_SENTENCE: Final = 300
"""Characters of a name, of how a process came to be what it is, and of what happened."""
MAX_BUCKETS: Final = 480
"""Points of a chart."""
MAX_KINDS: Final = 6
"""Kinds of a chart that counts whatever there is; the rest are one."""
MAX_MEASURES: Final = 200
MAX_CRASH: Final = 8_000
"""Characters kept of a traceback, from its end."""
GROUP_MS: Final = 1_000
"""Views that change alike within so long are told in one sentence."""
_TOLD_BY_TURNS: Final = frozenset({"crash", "restart", "leave", "join"})
"""Faults of a moment that are told by what becomes of each process."""
_PLURAL: Final = {
    "starts": "start", "is": "are", "crashes": "crash", "loses": "lose", "says": "say", "has": "have",
    "stands": "stand", "goes": "go", "stops:": "stop:",
}  # fmt: skip
HOLDS: Final = {
    View.UNKNOWN: "forget {}", View.UP: "hold {} up", View.SUSPECT: "suspect {}", View.DEAD: "hold {} dead",
    View.LEFT: "have heard the goodbye of {}",
}  # fmt: skip
HOLDS_ONE: Final = {
    View.UNKNOWN: "forgets {}", View.UP: "holds {} up", View.SUSPECT: "suspects {}",
    View.DEAD: "holds {} dead", View.LEFT: "has heard the goodbye of {}",
}  # fmt: skip


def content(
    scenario: Scenario,
    result: Result,
    story: Story,
    *,
    charts: Sequence[Chart],
    flows: str,
    replay: str,
    same: bool | None = None,
) -> dict[str, Any]:
    """Everything the page of a run shows.

    Args:
        scenario: What was run.
        result: How it ended.
        story: What was seen meanwhile.
        charts: What is drawn over time.
        flows: What is told of who sends to whom.
        replay: The command that runs it again.
        same: Whether the trace is that of the artifact that was run again; None if none was.
    """
    end_ms = max(1, round(result.virtual_s * 1000), *(_ms(turn[0]) for turn in story.turns[-1:]))
    faults = [_fault(fault, story, end_ms) for fault in result.plan[:MAX_FAULTS_SHOWN]]
    return {
        "page": "run",
        "scenario": scenario.name,
        "about": cut(scenario.about),
        "runs": scenario.runs,
        "seed": result.seed,
        "code": result.code,
        "meaning": CODES.get(result.code, "unknown"),
        "failed": [cut(name, 100) for name in result.failed],
        "members": scenario.members,
        "faults_total": len(result.plan),
        "digest": result.digest,
        "lines": result.lines,
        "same": same,
        "replay": replay,
        "crash": result.crash[-MAX_CRASH:],
        "end": end_ms,
        "safety": min(end_ms, round(scenario.safety_s * 1000)),
        "healed": None if story.healed_us is None else _ms(story.healed_us),
        "leaps": [[_ms(begin), _ms(end)] for begin, end in story.leaps],
        "total": story.total,
        "names": [cut(name, MAX_NAME) for name in story.names],
        "turns": [
            [_ms(us), place, int(turn), cut(words, MAX_TURN_WORDS)] for us, place, turn, words in story.turns
        ],
        "views": _columns(
            (_ms(us), observer, subject, int(view)) for us, observer, subject, view in story.views
        ),
        "views_until": None if story.views_until_us is None else _ms(story.views_until_us),
        "flows": {
            "of": flows,
            "width": round(story.flows.width_us / 1000),
            "cells": _columns((*key, *cell) for key, cell in sorted(story.flows.cells.items())),
        },
        "charts": [drawn for chart in charts if (drawn := _chart(chart, story, end_ms)) is not None],
        "faults": faults,
        "properties": _properties(result),
        "sometimes": sorted(result.sometimes.items()),
        "unmet": [name for name in scenario.sometimes if not result.sometimes[name]],
        "measures": _measures(result),
        "happenings": _happenings(story, faults, result.violations),
        "notes": _notes(story, result),
    }


def _ms(us: int) -> int:
    return round(us / 1000)


def _columns(rows: Iterable[tuple[int, ...]]) -> list[list[int]]:
    """Rows as columns, which JSON writes shorter."""
    return [list(column) for column in zip(*rows, strict=True)]


def _fault(fault: Fault, story: Story, end_ms: int) -> dict[str, Any]:
    begins = round(fault.at_s * 1000)
    healed = end_ms if story.healed_us is None else _ms(story.healed_us)
    ends = None
    if isinstance(fault, Jump):
        ends = round(fault.to_s * 1000)
    elif fault.ends_s != fault.at_s:
        ends = healed if math.isinf(fault.ends_s) else min(healed, round(fault.ends_s * 1000))
    return {
        "kind": fault.kind,
        "who": cut(who(fault), 200),
        "how": cut(how(fault), 200),
        "from": begins,
        "to": ends,
        "happened": begins <= end_ms and (fault.kind == "jump" or begins <= healed),
    }


def _properties(result: Result) -> list[dict[str, Any]]:
    names = list(dict.fromkeys([*result.checks, *result.failed]))
    return [
        {
            "name": cut(name, 100),
            "checks": result.checks.get(name, 0),
            "violations": [[_ms(v.at_us), cut(v.text)] for v in result.violations if v.property == name],
        }
        for name in names
    ]


def _measures(result: Result) -> list[list[Any]]:
    found: list[list[Any]] = []
    for name, value in result.measures.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        found += [
            [f"{name} {key}".strip(), number] for key, number in inner if isinstance(number, int | float)
        ]
    return found[:MAX_MEASURES]


# ---- counts over time ----------------------------------------------------------------------------


def _chart(chart: Chart, story: Story, end_ms: int) -> dict[str, Any] | None:
    counts = story.counts.get(chart.name)
    if not counts:
        return None
    kinds = {kind: counts.get(kind, {}) for kind in chart.kinds} if chart.kinds else _most(counts)
    skipped_s = sum(to_us - from_us for from_us, to_us in story.leaps) / 1_000_000
    width_s = max(1, math.ceil((end_ms / 1000 - skipped_s) / MAX_BUCKETS))
    # A level that does not change is counted each second all the same, so the mean of a bucket is its level.
    series = []
    for kind, seconds in kinds.items():
        buckets: dict[int, int] = {}
        for second, number in seconds.items():
            buckets[second // width_s] = buckets.get(second // width_s, 0) + number
        at = sorted(bucket for bucket, number in buckets.items() if number)
        series.append({"name": kind, "at": at, "n": [round(buckets[bucket] / width_s, 3) for bucket in at]})
    return {"title": chart.title, "mode": chart.mode, "width": width_s * 1000, "series": series}


def _most(counts: dict[str, dict[int, int]]) -> dict[str, dict[int, int]]:
    """The most frequent kinds, and all others as one."""
    ordered = sorted(counts, key=lambda kind: (-sum(counts[kind].values()), kind))
    if len(ordered) <= MAX_KINDS:
        return {kind: counts[kind] for kind in ordered}
    kinds = {kind: counts[kind] for kind in ordered[: MAX_KINDS - 1]}
    rest = kinds.setdefault("other", {})
    for kind in ordered[MAX_KINDS - 1 :]:
        for second, number in counts[kind].items():
            rest[second] = rest.get(second, 0) + number
    return kinds


# ---- what happened, in sentences -----------------------------------------------------------------


def _happenings(
    story: Story, faults: Sequence[dict[str, Any]], violations: Sequence[Violation]
) -> list[list[Any]]:
    """What happened: when, of what sort, and in a sentence; in the order of time."""
    certain: list[tuple[int, str, str]] = []
    alike = Counter((_ms(v.at_us), v.property) for v in violations)
    for v in violations:
        if more := alike.pop((_ms(v.at_us), v.property), 0):
            rest = f" (and {more - 1} more)" if more > 1 else ""
            certain.append((_ms(v.at_us), "violation", f"{cut(v.property, 100)}: {cut(v.text)}{rest}"))
    for fault in faults:
        if not fault["happened"]:
            continue
        words = ", ".join(part for part in (fault["who"], fault["how"]) if part)
        if fault["kind"] == "jump":
            certain.append((fault["from"], "fault", f"time is leapt over {fault['how']}"))
        elif fault["to"] is not None:
            certain.append((fault["from"], "fault", f"{fault['kind']} begins: {words}"))
            certain.append((fault["to"], "fault", f"{fault['kind']} ends: {words}"))
        elif fault["kind"] not in _TOLD_BY_TURNS:
            certain.append((fault["from"], "fault", f"{fault['kind']}: {words}"))
    turns: dict[tuple[int, str], list[str]] = {}
    for us, place, _, words in story.turns:
        turns.setdefault((_ms(us), words), []).append(story.names[place])
    certain += [(at_ms, "turn", _turn(names, words)) for (at_ms, words), names in turns.items()]
    if story.healed_us is not None:
        certain.append(
            (_ms(story.healed_us), "fault", "everything is healed; what must hold in the end is due")
        )
    views = _told_views(story)
    if len(certain) + len(views) > MAX_HAPPENINGS_SHOWN:
        views = views[: max(0, MAX_HAPPENINGS_SHOWN - len(certain))]
    told = sorted([*certain, *views], key=lambda happening: happening[0])
    return [[at_ms, sort, cut(text, MAX_SENTENCE)] for at_ms, sort, text in told[:MAX_HAPPENINGS_SHOWN]]


def _turn(names: Sequence[str], words: str) -> str:
    first, _, rest = words.partition(" ")
    verb = first if len(names) == 1 else _PLURAL.get(first, first)
    return f"{people(names)} {verb} {rest}".rstrip()


def _told_views(story: Story) -> list[tuple[int, str, str]]:
    """Changes of views that are alike within a second, in one sentence each; what a start knows is none."""
    groups: list[tuple[int, int, View, dict[int, None]]] = []
    latest: dict[tuple[int, View], tuple[int, int, View, dict[int, None]]] = {}
    starts = {(us, place) for us, place, _, _ in story.turns}
    for us, observer, subject, view in story.views:
        if (us, observer) in starts:
            continue
        at_ms = _ms(us)
        group = latest.get((subject, view))
        if group is None or at_ms - group[0] > GROUP_MS:
            group = latest[subject, view] = (at_ms, subject, view, {})
            groups.append(group)
        group[3][observer] = None
    # What one start brings about is of the same observers at the same time about many: one sentence, too.
    sentences: dict[tuple[int, View, tuple[int, ...]], list[int]] = {}
    for at_ms, subject, view, observers in groups:
        sentences.setdefault((at_ms, view, tuple(sorted(observers))), []).append(subject)
    told = []
    for (at_ms, view, by), subjects in sentences.items():
        about = people([story.names[subject] for subject in sorted(subjects)])
        words = (HOLDS_ONE if len(by) == 1 else HOLDS)[view].format(about)
        observers_ = people([story.names[observer] for observer in by])
        told.append((at_ms, view.name.lower(), f"{observers_} {words}"))
    return told


def _notes(story: Story, result: Result) -> list[str]:
    """What the page does not show of the run, and why."""
    notes = list(story.notes)
    if len(story.names) < story.total:
        notes.append(
            f"{len(story.names)} of {story.total} members are shown by name, at most {MAX_SHOWN}: those that "
            "faults or violations name, then the first. Changes of views and packets are counted of all."
        )
    for until_us, what, most in (
        (story.views_until_us, "changes of views", MAX_VIEWS),
        (story.turns_until_us, "starts and ends", MAX_TURNS),
    ):
        if until_us is not None:
            notes.append(f"Only the first {most} {what} were kept, up to {until_us / 1_000_000:.3f} s.")
    if len(result.plan) > MAX_FAULTS_SHOWN:
        notes.append(f"The first {MAX_FAULTS_SHOWN} of {len(result.plan)} faults are shown.")
    if result.code == INTERRUPTED:
        notes.append("The run was ended by Ctrl-C; what would have come after it is not known.")
    elif result.code == CRASHED:
        notes.append("The run ended with an exception; what would have come after it is not known.")
    elif result.code != OK and story.healed_us is None:
        notes.append("The run ended at its first violation, before everything was healed.")
    notes.append(
        f"Who sends to whom is counted per {story.flows.width_us / 1_000_000:g} s: buckets widen so that at "
        f"most {MAX_FLOWS} entries remain. Charts have at most {MAX_BUCKETS} points."
    )
    return notes
