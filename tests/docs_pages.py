"""The pages of docs/ as data: their tables, columns and blocks of code."""

import re
from functools import cache
from pathlib import Path

from swim.config import SwimConfig
from swim.messages import Boot
from swim.suspicion import Case

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
Table = list[dict[str, str]]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@cache
def tables(page: Path) -> list[tuple[str, Table]]:
    """Every table of a page with the heading it stands under; outside of code blocks."""
    found: list[tuple[str, Table]] = []
    heading, head, fenced = "", [""], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        if fenced or not line.startswith("|"):
            heading, head = (line.lstrip("# "), []) if line.startswith("#") and not fenced else (heading, [])
        elif not head:
            head = cells(line)
            found.append((heading, []))
        elif set(line) - set("|- "):
            row = cells(line)
            assert len(row) == len(head), f"{page.name}: {line}"
            found[-1][1].append(dict(zip(head, row, strict=True)))
    return found


def rows(page: str, *head: str) -> Table:
    """The rows of all tables of a page that begin with these columns."""
    chosen = [row for _, table in tables(DOCS / page) for row in table if tuple(row)[: len(head)] == head]
    assert chosen, f"{page} has no table of {head}"
    return chosen


def plain(text: str) -> str:
    return text.strip("`")


def column(page: str, *head: str) -> list[str]:
    """The first column of such a table, each entry once."""
    names = [plain(row[head[0]]) for row in rows(page, *head)]
    assert len(set(names)) == len(names), f"{page}: {head[0]} has an entry twice"
    return names


def number(text: str) -> float:
    return float(text.replace(",", ""))


def blocks(page: Path, info: str) -> list[str]:
    return re.findall(rf"^```{info}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


# protocol.md
def shown(value: object) -> str | float:
    """A parameter as the table of profiles shows it: a number, yes or no, or none of a list."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    assert isinstance(value, int | float)
    return float(value)


def suspicion_s(config: SwimConfig, members: int, accusers: int) -> float:
    """How long a member has to answer, in a cluster of so many, when so many others accuse it at once."""
    case = Case(
        Boot(0, bytes(8)), 0, 0.0, shortest_s=config.suspicion_min_s, longest_s=config.suspicion_max_s
    )
    for accuser in range(accusers):
        case.sign(f"n{accuser}", b"")
    case.suspect(0.0, min(config.suspicion_confirmations, members - 2))
    return case.deadline()
