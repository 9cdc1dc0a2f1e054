"""The questions the CSV tools answer about a table: totals, groups, rankings, structure, matching rows.

Everything is computed from the rows. Where a choice is made (which column is the measure, which one names
the products) the answer says which and why, and ties are broken by name, so that two nodes give the same
answer. Numbers leave as JSON numbers when 15 digits hold them exactly, as text otherwise: no digit is lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from functools import reduce
from typing import Any, Final

from node.errors import ValidationFailed
from node.tools.csv_table import EXACT, Column, Table, fold

GROUPS_LIMIT: Final = 200
"""Most groups in one answer."""
MATCHES_LIMIT: Final = 50
"""Most rows in one answer."""
COLUMNS_SHOWN: Final = 64
"""Most columns described in one answer."""
CELL_LIMIT: Final = 200
"""Longest value shown, in characters."""

_MEASURES: Final = ("revenue", "sales", "turnover", "amount", "total", "value", "price", "cost")
_QUANTITIES: Final = ("quantity", "qty", "units", "count")
_PRICES: Final = ("price", "rate")
_CATEGORIES: Final = ("product", "item", "article", "sku", "title", "name", "category", "customer", "region")
_NOT_MEASURES: Final = ("id", "year", "month", "day", "number", "no", "code", "zip", "postcode", "index")
_INT_LIMIT: Final = 2**53

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measure:
    """The quantity rows are ranked by, and how it was found.

    ``columns`` are the positions of what it is computed from: one column, two that are multiplied, or none
    where rows are counted.
    """

    name: str
    source: str
    values: Sequence[Decimal | None]
    columns: tuple[int, ...] = ()


def analyze(table: Table, *, top: int = 5) -> Json:
    """Totals, averages and extremes of the number columns, and the best categories by the main one."""
    measure = find_measure(table)
    series: dict[str, Sequence[Decimal | None]] = {c.name: c.numbers for c in table.columns if c.is_number}
    if measure.source == "computed":
        series[measure.name] = measure.values
    series = dict(list(series.items())[:COLUMNS_SHOWN])
    answer = describe(table)
    answer["totals"] = {name: number(total(values)) for name, values in series.items()}
    answer["averages"] = {name: number(average(values)) for name, values in series.items()}
    answer["minimums"] = {name: number(_pick(values, min)) for name, values in series.items()}
    answer["maximums"] = {name: number(_pick(values, max)) for name, values in series.items()}
    answer["measure"] = {"name": measure.name, "source": measure.source}
    category = find_category(table)
    if category is not None:
        answer["top"] = _ranking(table, category, measure, "sum", top)
    answer["facts"] = report_facts(answer)
    return answer


def describe(table: Table) -> Json:
    """Rows, columns with types, missing and invalid values, and what is odd about the file."""
    columns = [
        {"name": c.name, "type": c.type, "missing": c.missing, "invalid": c.invalid} for c in table.columns
    ]
    names = ", ".join(f"{c.name} ({c.type})" for c in table.columns[:12])
    missing = sum(c.missing for c in table.columns)
    return {
        "rows": len(table.rows),
        "columns": columns[:COLUMNS_SHOWN],
        "column_count": len(columns),
        "delimiter": table.delimiter,
        "ragged_rows": table.ragged_rows,
        "missing_values": missing,
        "notes": list(table.notes),
        "facts": [
            f"{len(table.rows)} rows and {len(columns)} columns: {names}",
            f"{missing} values are missing and {table.ragged_rows} rows are incomplete",
            *table.notes,
        ],
    }


def aggregate(table: Table, *, group_by: str, column: str | None, operation: str) -> Json:
    """One number per value of ``group_by``; ``operation`` is sum, average, count, minimum or maximum."""
    position = table.index(group_by)
    measure = measure_of(table, column) if operation != "count" else row_count(table)
    ranking = _ranking(table, position, measure, operation, GROUPS_LIMIT)
    shown = ", ".join(f"{item['name']}: {item['value']}" for item in ranking["items"][:5])
    answer = {"rows": len(table.rows), "group_by": ranking["by"], "measure": ranking["measure"]}
    answer |= {"operation": operation, "group_count": ranking["group_count"], "groups": ranking["items"]}
    answer["facts"] = [f"{operation} of {measure.name} by {ranking['by']}: {shown}", *table.notes]
    return answer


def top(table: Table, *, by: str | None, column: str | None, count: int) -> Json:
    """The best ``count`` values of ``by``, ranked by the sum of ``column``.

    A ``column`` that holds no numbers, given without ``by``, is what is ranked.
    """
    if by is None and column is not None and not is_measure(table, column):
        by, column = column, None
    position = table.index(by) if by else find_category(table)
    if position is None:
        raise ValidationFailed("nothing to rank", why="no column of the file holds text", fix="Name one.")
    measure = measure_of(table, column)
    ranking = _ranking(table, position, measure, "sum", count)
    return {"rows": len(table.rows), "top": ranking, "facts": [top_fact(ranking), *table.notes]}


def find(table: Table, *, value: str, column: str | None, limit: int) -> Json:
    """Rows that hold ``value``: in ``column``, or in any column."""
    wanted = value.strip().casefold()
    positions = [table.index(column)] if column else list(range(len(table.columns)))
    matches = [row for row in table.rows if any(row[p].strip().casefold() == wanted for p in positions)]
    names = [c.name for c in table.columns]
    shown = [dict(zip(names, (cell[:CELL_LIMIT] for cell in row), strict=True)) for row in matches[:limit]]
    where = f"in {table.columns[positions[0]].name!r}" if column else "in any column"
    return {
        "value": value,
        "match_count": len(matches),
        "matches": shown,
        "facts": [f"{len(matches)} of {len(table.rows)} rows hold {value!r} {where}", *table.notes],
    }


def find_measure(table: Table) -> Measure:
    """The column that says how much: by name, else quantity x price, else the first number, else rows."""
    candidates = [c for c in table.columns if c.is_number and not _named(c, _NOT_MEASURES)]
    for word in _MEASURES[:6]:
        for column in candidates:
            if _named(column, (word,)) and not _named(column, ("unit", *_QUANTITIES)):
                return _column(table, column, "column")
    quantity = next((c for c in candidates if _named(c, _QUANTITIES)), None)
    price = next((c for c in candidates if _named(c, _PRICES)), None)
    if quantity and price and quantity is not price:
        values = [_product(q, p) for q, p in zip(quantity.numbers, price.numbers, strict=True)]
        both = (table.index(quantity.name), table.index(price.name))
        return Measure(f"{quantity.name} * {price.name}", "computed", values, both)
    for word in _MEASURES[6:]:
        for column in candidates:
            if _named(column, (word,)):
                return _column(table, column, "column")
    if candidates:
        return _column(table, candidates[0], "first number column")
    return row_count(table)


def find_category(table: Table) -> int | None:
    """Position of the column that names what was sold, else of the first text column that repeats."""
    texts = [(p, c) for p, c in enumerate(table.columns) if c.type == "text"]
    for word in _CATEGORIES:
        for position, column in texts:
            if _named(column, (word,)):
                return position
    for position, _ in texts:
        if len(set(table.values(position))) * 2 <= len(table.rows):
            return position
    return texts[0][0] if texts else None


def total(values: Sequence[Decimal | None]) -> Decimal:
    """The exact sum."""
    return reduce(EXACT.add, (v for v in values if v is not None), Decimal(0))


def average(values: Sequence[Decimal | None]) -> Decimal | None:
    """The mean, rounded half to even at four digits more than the values have, at least six."""
    present = [v for v in values if v is not None]
    if not present:
        return None
    return mean(total(present), len(present), max(-int(v.as_tuple().exponent) for v in present))


def mean(whole: Decimal, count: int, digits: int) -> Decimal:
    """A sum by its count, rounded as :func:`average` says.

    Args:
        whole: The sum.
        count: How many values it has.
        digits: Most digits behind the point that one of them has.
    """
    step = Decimal(1).scaleb(-max(6, 4 + digits))
    return EXACT.divide(whole, Decimal(count)).quantize(step, rounding=ROUND_HALF_EVEN, context=EXACT)


def number(value: Decimal | None) -> int | float | str | None:
    """A decimal as JSON, exactly: text when a JSON reader's double would lose a digit."""
    if value is None:
        return None
    if value == value.to_integral_value(context=EXACT):
        whole = int(value)
        return whole if abs(whole) < _INT_LIMIT else str(whole)
    plain = format(value.normalize(EXACT), "f")
    return float(plain) if len(re.sub(r"^-?0*\.?0*|[.-]", "", plain)) <= 15 else plain


def _named(column: Column, words: Sequence[str]) -> bool:
    split = re.sub(r"([a-z])([A-Z])", r"\1 \2", column.name)
    parts = re.split(r"[^a-z]+", split.lower())
    return any(word in parts or f"{word}s" in parts for word in words)


def measure_of(table: Table, column: str | None) -> Measure:
    """The measure that a question names, or the main one where it names none.

    Raises:
        ValidationFailed: it is no column, or none of numbers.
    """
    if column is None or (not table.has(column) and is_measure(table, column)):
        return find_measure(table)
    found = table.columns[table.index(column)]
    if not found.is_number:
        raise ValidationFailed(
            f"{found.name!r} is no number column",
            why=f"its type is {found.type}",
            fix="Choose one of " + (", ".join(c.name for c in table.columns if c.is_number) or "none"),
        )
    return _column(table, found, "column")


def is_measure(table: Table, column: str) -> bool:
    """Whether it is a number column, or, where no column has that name, a common word for the main one."""
    if table.has(column):
        return table.columns[table.index(column)].is_number
    return fold(column) in _MEASURES[:6] and find_measure(table).source != "row count"


def _column(table: Table, column: Column, source: str) -> Measure:
    return Measure(column.name, source, column.numbers, (table.index(column.name),))


def row_count(table: Table) -> Measure:
    """The measure by which every row counts as one."""
    return Measure("rows", "row count", [Decimal(1)] * len(table.rows))


def _product(quantity: Decimal | None, price: Decimal | None) -> Decimal | None:
    return None if quantity is None or price is None else EXACT.multiply(quantity, price)


def _pick(values: Sequence[Decimal | None], choose: Callable[[Sequence[Decimal]], Decimal]) -> Decimal | None:
    present = [v for v in values if v is not None]
    return choose(present) if present else None


_OPERATIONS: Final[dict[str, Callable[[Sequence[Decimal | None]], Decimal | None]]] = {
    "sum": total,
    "count": total,
    "average": average,
    "minimum": lambda values: _pick(values, min),
    "maximum": lambda values: _pick(values, max),
}


def _ranking(table: Table, position: int, measure: Measure, operation: str, limit: int) -> Json:
    groups: dict[str, list[Decimal | None]] = {}
    for name, value in zip(table.values(position), measure.values, strict=True):
        groups.setdefault(name.strip() or "(none)", []).append(value)
    results = {name: (_OPERATIONS[operation](values), len(values)) for name, values in groups.items()}
    return ranked(table.columns[position].name, measure, results, limit)


def ranked(by: str, measure: Measure, results: Mapping[str, tuple[Decimal | None, int]], limit: int) -> Json:
    """A ranking of groups, the largest first, equal ones by name.

    Args:
        by: The column whose values are the groups.
        measure: What they are ranked by.
        results: Of each group its value and how many rows it has.
        limit: Most groups shown.
    """
    order = sorted(results, key=lambda name: (_descending(results[name][0]), name))
    items = [
        {"name": name[:CELL_LIMIT], "value": number(results[name][0]), "rows": results[name][1]}
        for name in order[:limit]
    ]
    return {
        "by": by,
        "measure": {"name": measure.name, "source": measure.source},
        "group_count": len(results),
        "items": items,
    }


def _descending(value: Decimal | None) -> tuple[bool, Decimal]:
    return value is None, EXACT.minus(value) if value is not None else Decimal(0)


def report_facts(answer: Json) -> list[str]:
    """A report in lines."""
    facts = [str(answer["facts"][0])]
    for name, value in answer["totals"].items():
        facts.append(f"{name}: total {value}, average {answer['averages'][name]}")
    if "top" in answer:
        facts.append(top_fact(answer["top"]))
    return facts + [str(fact) for fact in answer["facts"][1:]]


def top_fact(ranking: Json) -> str:
    """A ranking in one line."""
    shown = ", ".join(f"{item['name']} ({item['value']})" for item in ranking["items"])
    return f"top {ranking['by']} by {ranking['measure']['name']}: {shown or 'none'}"
