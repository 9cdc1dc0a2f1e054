"""Plots of the newest raw results, as self-contained SVG files beside them.

    .venv/bin/python -m benchmarks.swim.plot

Cumulative detection and dissemination, the time until all of a hundred agree, healing, and the starved cells.
A file has the name of the results it shows. What was not measured is not drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.report import RESULTS
from benchmarks.swim import detection, dissemination, runs
from benchmarks.swim.runs import Row

WIDTH: Final = 720
HEIGHT: Final = 360
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 40, 50
COLOURS: Final = ("#1f5f99", "#c4501b", "#2f8f4e", "#7a4fa3", "#555555")
TICKS: Final = 6
STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
ENTRY_PX: Final = 16


class Curve(NamedTuple):
    """One line of a plot.

    Attributes:
        name: What it shows.
        points: Pairs of x and y.
    """

    name: str
    points: list[tuple[float, float]]


def scale(most: float) -> list[float]:
    """Round numbers from 0 to at least a number, not more than half a dozen."""
    rough = max(most, 1e-9) / (TICKS - 1)
    power = 1.0
    while power > rough:
        power /= 10
    while power * 10 <= rough:
        power *= 10
    step = next(power * factor for factor in STEPS if power * factor >= rough)
    count = 1
    while step * count < most:
        count += 1
    return [step * number for number in range(count + 1)]


def frame(
    title: str, x_label: str, y_label: str, x_ticks: Sequence[float], y_ticks: Sequence[float]
) -> list[str]:
    """The axes of a plot."""
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    drawn = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14">{escape(title)}</text>',
        f'<text x="{middle:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>',
        (
            f'<text transform="translate(16 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>"
        ),
    ]
    for value in y_ticks:
        y = _y(value, y_ticks)
        drawn.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in x_ticks:
        x = _x(value, x_ticks)
        drawn.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>')
    return drawn


def _x(value: float, ticks: Sequence[float]) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * value / ticks[-1]


def _y(value: float, ticks: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / ticks[-1]


def legend(names: Sequence[str]) -> list[str]:
    """Names beside their colours, at the lower right."""
    drawn = []
    for number, name in enumerate(names):
        y = HEIGHT - BOTTOM - 10 - ENTRY_PX * (len(names) - 1 - number)
        colour = COLOURS[number % len(COLOURS)]
        drawn.append(f'<rect x="{WIDTH - 250}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        drawn.append(f'<text x="{WIDTH - 234}" y="{y}">{escape(name)}</text>')
    return drawn


def curves(title: str, x_label: str, y_label: str, shown: Sequence[Curve]) -> str:
    """A plot of stairs."""
    x_ticks = scale(max(x for curve in shown for x, _ in curve.points))
    y_ticks = scale(max(y for curve in shown for _, y in curve.points))
    drawn = frame(title, x_label, y_label, x_ticks, y_ticks)
    for number, curve in enumerate(shown):
        path = f"M{_x(0, x_ticks):.1f} {_y(0, y_ticks):.1f}"
        for x, y in curve.points:
            path += f"H{_x(x, x_ticks):.1f}V{_y(y, y_ticks):.1f}"
        drawn.append(
            f'<path d="{path}" fill="none" stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="2"/>'
        )
    return "\n".join([*drawn, *legend([curve.name for curve in shown]), "</svg>", ""])


def bars(title: str, y_label: str, groups: Sequence[str], values: dict[str, list[float]]) -> str:
    """A plot of bars.

    Args:
        title: Of the plot.
        y_label: What the height is.
        groups: What stands below each group.
        values: By the name of a series, its height in each group.
    """
    y_ticks = scale(max(1.0, *(height for heights in values.values() for height in heights)))
    drawn = frame(title, "members / starved / loss", y_label, [], y_ticks)
    group_px = (WIDTH - LEFT - RIGHT) / len(groups)
    bar_px = group_px * 0.8 / len(values)
    for number, heights in enumerate(values.values()):
        for place, height in enumerate(heights):
            x, y = LEFT + group_px * (place + 0.1) + bar_px * number, _y(height, y_ticks)
            drawn.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar_px:.1f}" height="{HEIGHT - BOTTOM - y:.1f}" '
                f'fill="{COLOURS[number % len(COLOURS)]}"/>'
            )
    for place, group in enumerate(groups):
        x = LEFT + group_px * (place + 0.5)
        drawn.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" font-size="8" text-anchor="middle">'
            f"{escape(group)}</text>"
        )
    for number, name in enumerate(values):
        x = WIDTH - RIGHT - 110 * (len(values) - number)
        drawn.append(f'<rect x="{x}" y="13" width="10" height="10" fill="{COLOURS[number % len(COLOURS)]}"/>')
        drawn.append(f'<text x="{x + 14}" y="22">{escape(name)}</text>')
    return "\n".join([*drawn, "</svg>", ""])


# ---- from raw rows to plots ------------------------------------------------------------------------


def cumulative(bins: Sequence[Row], bin_s: float) -> list[tuple[float, float]]:
    """Percent of all values at or below the upper edge of each bin."""
    total, so_far, points = sum(row["count"] for row in bins), 0, []
    for row in sorted(bins, key=lambda each: float(each["from_s"])):
        so_far += row["count"]
        points.append((float(row["from_s"]) + bin_s, 100 * so_far / total))
    return points


def stairs(values: Sequence[float]) -> list[tuple[float, float]]:
    """Percent of values at or below each of them."""
    ordered = sorted(values)
    return [(value, 100 * (place + 1) / len(ordered)) for place, value in enumerate(ordered)]


def _detection(rows: list[Row]) -> str:
    curve = Curve("caxton, profile lan", cumulative(rows, detection.BIN_S))
    return curves("Crashes detected at all survivors", "seconds since the crash", "% of detections", [curve])


def _dissemination(rows: list[Row]) -> str:
    shown = [
        Curve(
            f"{members} members, {kind}",
            cumulative(
                [r for r in rows if (r["members"], r["kind"]) == (members, kind)], dissemination.BIN_S
            ),
        )
        for members, kind in dict.fromkeys((row["members"], row["kind"]) for row in rows)
    ]
    return curves("One update reaches all", "seconds since the update", "% of members", shown)


def _joining(rows: list[Row]) -> str:
    shown = []
    for members in dict.fromkeys(row["members"] for row in rows):
        times_s = [row["agreed_s"] for row in rows if row["members"] == members and row["agreed_s"] != ""]
        shown.append(Curve(f"{members} members", stairs(times_s)))
    return curves("All started at one moment agree", "seconds since the start", "% of runs", shown)


def _healing(rows: list[Row]) -> str:
    shown = []
    for last in dict.fromkeys(row["lasts"] for row in rows):
        times_s = [
            row["one_view_after_s"] for row in rows if row["lasts"] == last and row["one_view_after_s"] != ""
        ]
        shown.append(Curve(f"partition of {last}", stairs(times_s)))
    return curves("One view after a partition", "seconds since the heal", "% of runs", shown)


def _starved(rows: list[Row]) -> str:
    cells = list(dict.fromkeys((row["members"], row["starved"], row["loss"]) for row in rows))
    values: dict[str, list[float]] = {}
    for system in dict.fromkeys(row["system"] for row in rows):
        heights = values.setdefault(system, [])
        for cell in cells:
            of = [
                row["false_deaths"] > 0
                for row in rows
                if row["system"] == system and (row["members"], row["starved"], row["loss"]) == cell
            ]
            heights.append(100 * sum(of) / max(1, len(of)))
    groups = [f"{members}/{count}/{loss:.0%}" for members, count, loss in cells]
    return bars("Runs with a false death", "% of runs", groups, values)


PLOTS: Final[tuple[tuple[str, str, Callable[[list[Row]], str]], ...]] = (
    ("detection", "histogram", _detection),
    ("dissemination", "histogram", _dissemination),
    ("joining", "", _joining),
    ("healing", "", _healing),
    ("starved", "", _starved),
    ("starved-5-30", "", _starved),
)
"""Benchmark, its table, and what draws it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw everything that was measured."""
    parser = argparse.ArgumentParser(description="Plots of raw results.", allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where raw results are, and plots go")
    options = parser.parse_args(arguments)
    for name, suffix, draw in PLOTS:
        path = runs.newest(name, options.results, suffix)
        if path is not None:
            plot = path.with_suffix(".svg")
            plot.write_text(draw(runs.read(path)), encoding="utf-8")
            print(plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
