"""Draws charts with matplotlib, by its object interface: no window, nothing global, the same bytes again.

What is drawn is checked first, so that a picture is bounded in points, texts and bytes before anything is
computed. Text is shown as it is written: ``$`` begins no formula.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from node.errors import ResourceLimitExceeded, ToolFailed, ValidationFailed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind = Literal["bar", "line", "pie", "scatter", "histogram"]
Form = Literal["png", "svg"]
MEDIA_TYPES: Final = {"png": "image/png", "svg": "image/svg+xml"}
SERIES_LIMIT: Final = 12
"""Most series of one chart."""
POINTS_LIMIT: Final = 5_000
"""Most points of one chart, all series together."""
BARS_LIMIT: Final = 200
"""Most labels of a chart that has them, as bars and slices."""
SLICES_LIMIT: Final = 24
"""Most slices of a pie."""
LABEL_LIMIT: Final = 80
"""Longest label, in characters; what is longer is cut."""
TITLE_LIMIT: Final = 200
"""Longest title, in characters."""
PICTURE_LIMIT: Final = 160 * 1024
"""Largest picture, in bytes; with ``tools.max_result`` as it is by default, its result is taken."""
VALUE_LIMIT: Final = 1e100
"""Largest value that is drawn: beyond it a scale has no room for its numbers."""

_SIZE_INCHES: Final = (8.0, 4.8)
_DPI: Final = 100
_SHOWN_LABELS: Final = 30
_TICK_LIMIT: Final = 24
_TITLE_WIDTH: Final = 75
_COLOURS: Final = (
    *("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7"),
    *("#a463f2", "#97bbf5", "#9c6b4e", "#9498a0", "#1b6ca8", "#b5651d"),
)


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers that belong together; a scatter chart has ``x``, too, of the same length."""

    values: tuple[float, ...]
    name: str = ""
    x: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn.

    Args:
        kind: Of which kind.
        series: The numbers; a pie and a histogram have one.
        labels: Of the values of each series, in order; numbers without it.
        title: Above it.
        x_label: Below it.
        y_label: Beside it.
        bins: Of a histogram.
    """

    kind: Kind
    series: tuple[Series, ...]
    labels: tuple[str, ...] = ()
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    bins: int = 20

    def check(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ValidationFailed: it has no meaning.
            ResourceLimitExceeded: it is too much.
        """
        sizes = [len(one.values) for one in self.series]
        if not sizes or not all(sizes):
            raise ValidationFailed("there is nothing to draw", why="a chart has a series with values")
        if len(sizes) > SERIES_LIMIT or sum(sizes) > POINTS_LIMIT:
            raise ResourceLimitExceeded(
                "the chart is too large", why=f"at most {SERIES_LIMIT} series and {POINTS_LIMIT:,} points"
            )
        numbers = [value for one in self.series for value in (*one.values, *(one.x or ()))]
        if any(not math.isfinite(value) or abs(value) > VALUE_LIMIT for value in numbers):
            raise ValidationFailed("a value cannot be drawn", why="values are finite numbers up to 1e100")
        _CHECKS[self.kind](self, sizes)

    def alt(self) -> str:
        """The chart in words, for who does not see it."""
        what = f"{self.kind} chart" if self.kind != "histogram" else "histogram"
        named = [one.name for one in self.series if one.name]
        of = f" of {', '.join(named)}" if named else ""
        title = f" “{self.title}”" if self.title else ""
        values = [value for one in self.series for value in one.values]
        reach = f"from {min(values):g} to {max(values):g}"
        return f"A {what}{title}{of} with {len(values)} values {reach}"


def _check_labelled(chart: Chart, sizes: Sequence[int]) -> None:
    longest = max(sizes)
    if chart.labels and any(size != len(chart.labels) for size in sizes):
        raise ValidationFailed(
            "labels and values do not belong together", why=f"{len(chart.labels)} labels, {longest} values"
        )
    if chart.kind == "bar" and longest > BARS_LIMIT:
        raise ResourceLimitExceeded("too many bars", why=f"at most {BARS_LIMIT}", fix="Draw a line.")


def _check_pie(chart: Chart, sizes: Sequence[int]) -> None:
    _check_labelled(chart, sizes)
    values = chart.series[0].values
    if len(sizes) != 1 or min(values) < 0 or sum(values) <= 0:
        raise ValidationFailed(
            "this is no pie", why="it has one series, no value below 0, and not only zeros"
        )
    if len(values) > SLICES_LIMIT:
        raise ResourceLimitExceeded("too many slices", why=f"at most {SLICES_LIMIT}", fix="Draw bars.")


def _check_scatter(chart: Chart, sizes: Sequence[int]) -> None:
    for one, size in zip(chart.series, sizes, strict=True):
        if one.x is None or len(one.x) != size:
            raise ValidationFailed("a scatter chart needs x and values of the same length")


def _check_histogram(chart: Chart, sizes: Sequence[int]) -> None:
    if len(sizes) != 1:
        raise ValidationFailed("a histogram has one series")
    values = chart.series[0].values
    if max(values) - min(values) < 1e-9 * max(abs(value) for value in values):
        raise ValidationFailed("a histogram needs values that differ", fix="Draw bars.")


_CHECKS: Final[dict[str, Callable[[Chart, Sequence[int]], None]]] = {
    "bar": _check_labelled,
    "line": _check_labelled,
    "pie": _check_pie,
    "scatter": _check_scatter,
    "histogram": _check_histogram,
}


def draw(chart: Chart, form: Form) -> bytes:
    """A picture of a chart that was checked; it blocks, and only one is drawn at a time.

    Raises:
        ToolFailed: matplotlib is not installed.
        ResourceLimitExceeded: the picture is too large.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an optional extra, and a second of import
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise ToolFailed(
            "charts cannot be drawn here",
            why="matplotlib is not installed",
            fix="Install it beside Caxton: pip install 'caxton[charts]'.",
        ) from None
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    _DRAWERS[chart.kind](axes, chart)
    if chart.title:
        lines = textwrap.fill(_text(chart.title, TITLE_LIMIT), _TITLE_WIDTH)
        axes.set_title(lines, fontsize=14, loc="left", pad=12)
    if chart.kind != "pie":
        axes.set_xlabel(_text(chart.x_label))
        axes.set_ylabel(_text(chart.y_label))
        axes.grid(
            visible=True, axis="both" if chart.kind == "scatter" else "y", color="#dddddd", linewidth=0.8
        )
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if any(one.name for one in chart.series):
            axes.legend(frameon=False)
    target = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    # A letter that the font does not have is drawn as a box, which is no reason to fail or to print.
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "caxton"}):
        warnings.simplefilter("ignore")
        figure.savefig(target, format=form, metadata=metadata)
    picture = target.getvalue()
    if len(picture) > PICTURE_LIMIT:
        raise ResourceLimitExceeded(
            "the picture is too large",
            why=f"{len(picture):,} bytes; at most {PICTURE_LIMIT:,}",
            fix="Draw fewer points, or a PNG.",
        )
    return picture


def _bars(axes: Axes, chart: Chart) -> None:
    count = len(chart.series)
    width = 0.8 / count
    for number, one in enumerate(chart.series):
        places = [i + (number - (count - 1) / 2) * width for i in range(len(one.values))]
        axes.bar(places, one.values, width, label=_text(one.name) or None, color=_COLOURS[number])
    _label(axes, chart)


def _lines(axes: Axes, chart: Chart) -> None:
    for number, one in enumerate(chart.series):
        marker = "o" if len(one.values) <= 50 else ""
        axes.plot(
            range(len(one.values)),
            one.values,
            marker=marker,
            label=_text(one.name) or None,
            color=_COLOURS[number],
        )
    _label(axes, chart)


def _label(axes: Axes, chart: Chart) -> None:
    """The labels below, as many as there is room for, slanted where they are long."""
    if not chart.labels:
        return
    step = math.ceil(len(chart.labels) / _SHOWN_LABELS)
    shown = [_text(label, _TICK_LIMIT) for label in chart.labels[::step]]
    crowded = sum(map(len, shown)) > 80
    axes.set_xticks(
        range(0, len(chart.labels), step),
        shown,
        rotation=40 if crowded else 0,
        ha="right" if crowded else "center",
    )


def _pie(axes: Axes, chart: Chart) -> None:
    values = chart.series[0].values
    labels = [_text(label) for label in chart.labels] or None
    colours: Any = [_COLOURS[i % len(_COLOURS)] for i in range(len(values))]
    axes.pie(
        values, labels=labels, autopct="%1.1f%%", startangle=90, counterclock=False, colors=colours,
        wedgeprops={"edgecolor": "white", "linewidth": 1.0},
    )  # fmt: skip


def _scatter(axes: Axes, chart: Chart) -> None:
    for number, one in enumerate(chart.series):
        axes.scatter(
            one.x or (), one.values, s=18, alpha=0.8, label=_text(one.name) or None, color=_COLOURS[number]
        )


def _histogram(axes: Axes, chart: Chart) -> None:
    one = chart.series[0]
    axes.hist(
        one.values, bins=chart.bins, label=_text(one.name) or None, color=_COLOURS[0], edgecolor="white"
    )


_DRAWERS: Final[dict[str, Callable[[Any, Chart], None]]] = {
    "bar": _bars,
    "line": _lines,
    "pie": _pie,
    "scatter": _scatter,
    "histogram": _histogram,
}


def _text(text: str, limit: int = LABEL_LIMIT) -> str:
    """Text as it is shown: in one line, cut, and without matplotlib's formulas."""
    plain = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text)).strip()
    plain = plain if len(plain) <= limit else plain[: limit - 1] + "…"
    return plain.replace("\\", "\\\\").replace("$", r"\$") if "$" in plain else plain
