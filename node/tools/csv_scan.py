"""The questions of :mod:`node.tools.csv_questions`, answered by reading a file once, and rows by conditions.

Answers have the same form, and are the same as those from a table wherever the first rows of a file tell the
types of its columns rightly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from node.errors import ValidationFailed
from node.tools.csv_questions import (
    CELL_LIMIT,
    COLUMNS_SHOWN,
    GROUPS_LIMIT,
    Json,
    Measure,
    find_category,
    find_measure,
    is_measure,
    mean,
    measure_of,
    number,
    ranked,
    report_facts,
    row_count,
    top_fact,
)
from node.tools.csv_stream import CsvStream, Groups, Profile, Row, Tally, profiles
from node.tools.csv_table import EXACT, MISSING, Table

CONDITIONS_LIMIT: Final = 16
"""Most conditions of one question."""

Test = Literal[
    "equals", "not_equals", "contains", "above", "below", "at_least", "at_most", "missing", "present"
]


@dataclass(frozen=True, slots=True)
class Condition:
    """What the value of a column must be; numbers are compared as numbers, all else as text in any case."""

    column: str
    test: Test
    value: str = ""


def describe(stream: CsvStream) -> Json:
    """Rows, columns with types, missing and invalid values, and what is odd about the file."""
    return _described(stream, profiles(stream))


def analyze(stream: CsvStream, *, top: int = 5) -> Json:
    """Totals, averages and extremes of the number columns, and the best categories by the main one."""
    table = stream.sample
    measure, category = find_measure(table), find_category(table)
    computed, groups = Tally(), Groups()

    def observe(row: Row) -> None:
        value = _value(stream, measure, row)
        computed.add(value)
        if category is not None:
            groups.of(row[category]).add(value)

    found = profiles(stream, observe)
    tallies = {p.column.name: p.tally for p in found if p.column.is_number}
    if measure.source == "computed":
        tallies[measure.name] = computed
    tallies = dict(list(tallies.items())[:COLUMNS_SHOWN])
    answer = _described(stream, found)
    for key, operation in (
        ("totals", "sum"),
        ("averages", "average"),
        ("minimums", "minimum"),
        ("maximums", "maximum"),
    ):
        answer[key] = {name: number(_result(tally, operation)) for name, tally in tallies.items()}
    answer["measure"] = {"name": measure.name, "source": measure.source}
    if category is not None:
        answer["top"] = _ranking(table.columns[category].name, measure, groups, "sum", top)
    answer["facts"] = report_facts(answer)
    return answer


def aggregate(
    stream: CsvStream,
    *,
    group_by: str,
    column: str | None,
    operation: str,
    where: Sequence[Condition] = (),
) -> Json:
    """One number per value of ``group_by``; ``operation`` is sum, average, count, minimum or maximum."""
    table = stream.sample
    position = table.index(group_by)
    measure = measure_of(table, column) if operation != "count" else row_count(table)
    groups, matched = _grouped(stream, position, measure, where)
    ranking = _ranking(table.columns[position].name, measure, groups, operation, GROUPS_LIMIT)
    shown = ", ".join(f"{item['name']}: {item['value']}" for item in ranking["items"][:5])
    answer = {"rows": matched, "group_by": ranking["by"], "measure": ranking["measure"]}
    answer |= {"operation": operation, "group_count": ranking["group_count"], "groups": ranking["items"]}
    answer["facts"] = [f"{operation} of {measure.name} by {ranking['by']}: {shown}", *stream.notes()]
    return answer


def top(
    stream: CsvStream, *, by: str | None, column: str | None, count: int, where: Sequence[Condition] = ()
) -> Json:
    """The best ``count`` values of ``by``, ranked by the sum of ``column``."""
    table = stream.sample
    if by is None and column is not None and not is_measure(table, column):
        by, column = column, None
    position = table.index(by) if by else find_category(table)
    if position is None:
        raise ValidationFailed("nothing to rank", why="no column of the file holds text", fix="Name one.")
    measure = measure_of(table, column)
    groups, matched = _grouped(stream, position, measure, where)
    ranking = _ranking(table.columns[position].name, measure, groups, "sum", count)
    return {"rows": matched, "top": ranking, "facts": [top_fact(ranking), *stream.notes()]}


def find(stream: CsvStream, *, value: str, column: str | None, limit: int) -> Json:
    """Rows that hold ``value``: in ``column``, or in any column."""
    table = stream.sample
    wanted = value.strip().casefold()
    positions = [table.index(column)] if column else list(range(len(table.columns)))
    shown: list[Json] = []
    count = 0
    for row in stream.rows():
        if any(row[p].strip().casefold() == wanted for p in positions):
            count += 1
            if len(shown) < limit:
                shown.append(_shown(table, row, range(len(row))))
    where = f"in {table.columns[positions[0]].name!r}" if column else "in any column"
    fact = f"{count} of {stream.total} rows hold {value!r} {where}"
    return {"value": value, "match_count": count, "matches": shown, "facts": [fact, *stream.notes()]}


def select(
    stream: CsvStream, *, where: Sequence[Condition], columns: Sequence[str], offset: int, limit: int
) -> Json:
    """Rows that meet all conditions, with the columns that are asked for.

    Args:
        stream: The file.
        where: The conditions; without any, every row.
        columns: Names; all where there is none.
        offset: Matching rows to leave out.
        limit: Most rows.
    """
    table = stream.sample
    positions = [table.index(name) for name in columns] or list(range(len(table.columns)))
    check = _Check(stream, where)
    shown: list[Json] = []
    count = 0
    for row in stream.rows():
        if check.holds(row):
            count += 1
            if offset < count <= offset + limit:
                shown.append(_shown(table, row, positions))
    more = count > offset + len(shown)
    answer = {"match_count": count, "rows": stream.total, "matches": shown, "truncated": more}
    lines = ["; ".join(f"{name}: {value}" for name, value in row.items()) for row in shown[:5]]
    answer["facts"] = [f"{count} of {stream.total} rows meet the conditions", *lines, *stream.notes()]
    return answer


class _Check:
    """Conditions, with their columns looked up and their values read once."""

    def __init__(self, stream: CsvStream, where: Sequence[Condition]) -> None:
        self._stream = stream
        self._tests = [
            (stream.sample.index(c.column), c.test, c.value.strip().casefold(), stream.number(c.value))
            for c in where
        ]

    def holds(self, row: Row) -> bool:
        return all(
            self._holds(row[position], test, text, wanted) for position, test, text, wanted in self._tests
        )

    def _holds(self, value: str, test: Test, text: str, wanted: Decimal | None) -> bool:
        plain = value.strip().casefold()
        if test in ("missing", "present"):
            return (plain in MISSING) is (test == "missing")
        if test == "contains":
            return text in plain
        number = self._stream.number(plain) if wanted is not None else None
        pair: tuple[Decimal, Decimal] | tuple[str, str]
        if number is not None and wanted is not None:
            pair = (number, wanted)
        elif test in ("equals", "not_equals") or wanted is None:
            pair = (plain, text)
        else:
            return False  # no number is above or below what is none
        return _compare(test, *pair)


def _compare(test: Test, value: Decimal | str, wanted: Decimal | str) -> bool:
    if test in ("equals", "not_equals"):
        return (value == wanted) is (test == "equals")
    if not value:
        return False
    above = value > wanted  # type: ignore[operator] # both are numbers, or both texts
    if test in ("above", "at_most"):
        return above is (test == "above")
    below = value < wanted  # type: ignore[operator] # as above
    return below is (test == "below")


def _grouped(
    stream: CsvStream, position: int, measure: Measure, where: Sequence[Condition]
) -> tuple[Groups, int]:
    groups, check, matched = Groups(), _Check(stream, where), 0
    for row in stream.rows():
        if not where or check.holds(row):
            matched += 1
            groups.of(row[position]).add(_value(stream, measure, row))
    return groups, matched


def _value(stream: CsvStream, measure: Measure, row: Row) -> Decimal | None:
    """What a row counts for."""
    product = Decimal(1)
    for position in measure.columns:
        value = stream.number(row[position])
        if value is None:
            return None
        product = EXACT.multiply(product, value) if len(measure.columns) > 1 else value
    return product


def _result(tally: Tally, operation: str) -> Decimal | None:
    if operation == "count":
        return Decimal(tally.rows)
    if operation == "sum":
        return tally.total
    if operation == "average":
        return mean(tally.total, tally.present, tally.digits) if tally.present else None
    return tally.least if operation == "minimum" else tally.most


def _ranking(by: str, measure: Measure, groups: Groups, operation: str, limit: int) -> Json:
    results = {name: (_result(tally, operation), tally.rows) for name, tally in groups.tallies.items()}
    return ranked(by, measure, results, limit)


def _shown(table: Table, row: Row, positions: Sequence[int]) -> Json:
    return {table.columns[p].name: row[p][:CELL_LIMIT] for p in positions}


def _described(stream: CsvStream, found: Sequence[Profile]) -> Json:
    columns = [
        {"name": p.column.name, "type": p.column.type, "missing": p.missing, "invalid": p.invalid}
        for p in found
    ]
    names = ", ".join(f"{p.column.name} ({p.column.type})" for p in found[:12])
    missing = sum(p.missing for p in found)
    notes = stream.notes()
    return {
        "rows": stream.total,
        "columns": columns[:COLUMNS_SHOWN],
        "column_count": len(columns),
        "delimiter": stream.sample.delimiter,
        "ragged_rows": stream.ragged,
        "missing_values": missing,
        "notes": notes,
        "facts": [
            f"{stream.total} rows and {len(columns)} columns: {names}",
            f"{missing} values are missing and {stream.ragged} rows are incomplete",
            *notes,
        ],
    }
