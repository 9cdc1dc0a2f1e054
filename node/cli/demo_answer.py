"""The analysis of the demo, as tables for people."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any, Final

from node.cli.demo_story import Answer
from node.cli.demo_view import Sheet

COLUMNS_SHOWN: Final = 12
"""Number columns shown; ``--json`` has them all."""


def sheets(answer: Answer) -> list[Sheet]:
    """Totals and averages, and the top products with who answered."""
    found = answer.analysis
    totals, averages = found["totals"], found.get("averages", {})
    rows = [(name, _money(totals[name]), _money(averages.get(name))) for name in list(totals)[:COLUMNS_SHOWN]]
    more = [f"and {len(totals) - COLUMNS_SHOWN} more columns"] if len(totals) > COLUMNS_SHOWN else []
    shown = [
        Sheet(f"{found.get('file')}: {found.get('rows'):,} rows", ("column", "total", "average"), rows, more)
    ]
    top = found.get("top")
    notes = _provenance(answer)
    if isinstance(top, dict):
        measure = top["measure"]["name"]
        items = [(str(item["name"]), _money(item["value"]), f"{item['rows']:,}") for item in top["items"]]
        return [
            *shown,
            Sheet(f"Top {top['by']} by {measure}", (str(top["by"]), str(measure), "rows"), items, notes),
        ]
    return [Sheet(shown[0].title, shown[0].columns, shown[0].rows, [*more, *notes])]


def _provenance(answer: Answer) -> list[str]:
    route, decision = answer.route, answer.route.get("decision") or {}
    provider = (answer.reply.get("content") or {}).get("provider")
    return [
        f"Answered by {answer.routed_to} (provider {provider}) in {answer.seconds:.2f} s",
        f"Route: {' -> '.join(route['path'])} at {route['link']}, {route['transport']}, both sides certified",
        f"Chosen: {decision.get('strategy')}, {decision.get('reason')}",
    ]


def _money(value: Any) -> str:
    """A number with separators, and at most two digits after the point."""
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return ""
    return f"{number:,}" if number == number.to_integral_value() else f"{number:,.2f}"
