"""How cost grows with what is remembered, as a self-contained SVG on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.swim.plot import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, frame, legend

Point = tuple[float, float]


def growth(title: str, x_label: str, y_label: str, shown: Mapping[str, Sequence[Point]]) -> str:
    """A plot of lines.

    Args:
        title: Of the plot.
        x_label: What the axis to the right is.
        y_label: What the height is.
        shown: By the name of a line, its points, all above zero.
    """
    every = [point for points in shown.values() for point in points]
    x_low, x_high = _decades([x for x, _ in every])
    y_low, y_high = _decades([y for _, y in every])

    def place(point: Point) -> str:
        across = (math.log10(point[0]) - x_low) / (x_high - x_low)
        up = (math.log10(point[1]) - y_low) / (y_high - y_low)
        x, y = LEFT + (WIDTH - LEFT - RIGHT) * across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up
        return f"{x:.1f} {y:.1f}"

    drawn = frame(title, x_label, y_label, [], [])
    for power in range(x_low, x_high + 1):
        x, y = place((10.0**power, 10.0**y_low)).split()
        drawn.append(f'<path d="M{x} {TOP}V{y}" stroke="#dddddd"/>')
        drawn.append(f'<text x="{x}" y="{float(y) + 18:.1f}" text-anchor="middle">{10**power:,}</text>')
    for power in range(y_low, y_high + 1):
        x, y = place((10.0**x_low, 10.0**power)).split()
        drawn.append(f'<path d="M{x} {y}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        drawn.append(
            f'<text x="{float(x) - 6:.1f}" y="{float(y) + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
        )
    for number, points in enumerate(shown.values()):
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(place(point) for point in points)
        drawn.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point in points:
            x, y = place(point).split()
            drawn.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
    return "\n".join([*drawn, *legend(list(shown)), "</svg>", ""])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten below and above all values."""
    low = math.floor(math.log10(min(values)))
    return low, max(low + 1, math.ceil(math.log10(max(values))))
