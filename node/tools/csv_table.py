"""Reads a CSV file into typed columns with exact numbers; no file system, no clock, bounded everywhere.

Numbers are :class:`decimal.Decimal`, summed without rounding, so that money adds up. A column is a number
column when at most one in twenty of its values is something else; what does not fit is counted, never
guessed. A comma as decimal mark is read only when the caller says so, because ``1,234`` cannot be told
from a thousand.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Final

from node.errors import ValidationFailed

BYTES_LIMIT: Final = 4 * 1024 * 1024
"""Largest file; no message carries more (``messaging.max_message_bytes``)."""
ROWS_LIMIT: Final = 200_000
"""Most rows after the header."""
COLUMNS_LIMIT: Final = 256
"""Most columns."""
DIGITS_LIMIT: Final = 40
"""Longest number, in characters; longer ones are text."""
EXACT: Final = Context(prec=400)
"""Enough digits that the sum of every product of two numbers of a file is exact."""
MISSING: Final = frozenset({"", "-", "na", "n/a", "nan", "null", "none"})
"""Values, in lower case, that mean there is none."""

_DELIMITERS: Final = (",", ";", "\t", "|")
_SAMPLE_RECORDS: Final = 20
_INVALID_SHARE: Final = 20
_NUMBER = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)$")
_COMMA_NUMBER = re.compile(r"^[+-]?\d+,\d+$")
_PADDED = re.compile(r"^[+-]?0\d")
_DATE = re.compile(r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?)?$")


@dataclass(slots=True)
class Column:
    """One column: its type, and its values in row order (None where there is none or it does not fit)."""

    name: str
    type: str = "empty"
    missing: int = 0
    invalid: int = 0
    numbers: list[Decimal | None] = field(default_factory=list)

    @property
    def is_number(self) -> bool:
        """Whether it can be added up."""
        return self.type in ("integer", "decimal")


@dataclass(slots=True)
class Table:
    """A parsed file: complete rows as text, typed columns, and what was odd about it."""

    columns: list[Column]
    rows: list[list[str]]
    delimiter: str
    ragged_rows: int = 0
    notes: list[str] = field(default_factory=list)

    def index(self, name: str) -> int:
        """Position of the column of that name, whatever its case; else of the one that differs by its plural.

        Raises:
            ValidationFailed: there is none; the columns are named.
        """
        for form in (fold, _singular):
            wanted = form(name)
            for position, column in enumerate(self.columns):
                if form(column.name) == wanted:
                    return position
        names = [column.name for column in self.columns]
        raise ValidationFailed(
            f"there is no column {name[:80]!r}",
            why="the columns are " + ", ".join(repr(n) for n in names[:40]),
            details={"columns": names[:40]},
        )

    def has(self, name: str) -> bool:
        """Whether :meth:`index` finds a column of that name."""
        return any(form(c.name) == form(name) for form in (fold, _singular) for c in self.columns)

    def values(self, position: int) -> Iterator[str]:
        """The text values of one column, in row order."""
        return (row[position] for row in self.rows)


def fold(name: str) -> str:
    """A column name without case, spaces, hyphens and underscores, to compare by."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def _singular(name: str) -> str:
    folded = fold(name)
    return f"{folded[:-3]}y" if folded.endswith("ies") else folded.removesuffix("s")


def read_table(data: bytes, *, decimal_mark: str = ".") -> Table:
    """Parse a CSV file: UTF-8 (a byte-order mark is fine), header first, comma, semicolon, tab or bar.

    Raises:
        ValidationFailed: it is empty, not text, has no usable header, or is above a limit.
    """
    if len(data) > BYTES_LIMIT:
        raise refused(f"the file has {len(data):,} bytes; at most {BYTES_LIMIT:,} are read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refused(f"byte {error.start} is not UTF-8 text; save the file as UTF-8") from None
    if "\x00" in text:
        raise refused("it holds NUL characters, so it is not a text file")
    if not text.strip():
        raise refused("the file is empty")
    delimiter = sniff(text)
    records = _records(text, delimiter)
    header = next((record for _, record in records if record), [])
    table = Table(header_of(header), [], delimiter)
    note_renamed(table, header)
    _read_rows(table, records)
    for position in range(len(table.columns)):
        type_column(table, position, decimal_mark)
    return table


def refused(why: str) -> ValidationFailed:
    """The error of a file that cannot be read."""
    return ValidationFailed("the CSV file cannot be read", why=why, fix="Correct the file and send it again.")


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and record, streaming; a blank line is an empty record."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise refused(f"line {reader.line_num}: {error}") from None
        yield reader.line_num, record


def sniff(text: str) -> str:
    """The delimiter that splits the first records most evenly into most columns."""
    best, best_score = ",", (0, 0)
    for delimiter in _DELIMITERS:
        widths: list[int] = []
        try:
            for _, record in _records(text, delimiter):
                if record:
                    widths.append(len(record))
                if len(widths) == _SAMPLE_RECORDS:
                    break
        except ValidationFailed:
            continue  # quotes that make no sense with this delimiter
        if not widths or widths[0] < 2:
            continue
        score = (sum(width == widths[0] for width in widths), widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def header_of(names: list[str]) -> list[Column]:
    """The columns that a header names, each with a name of its own.

    Raises:
        ValidationFailed: it is no header.
    """
    if not names:
        raise refused("there is no header row")
    if len(names) > COLUMNS_LIMIT:
        raise refused(f"the header has {len(names)} columns; at most {COLUMNS_LIMIT} are read")
    if all(_NUMBER.fullmatch(name.strip()) for name in names):
        raise refused("the first row holds only numbers; it must name the columns")
    columns: list[Column] = []
    taken: set[str] = set()
    for number, raw in enumerate(names, 1):
        name = plain = " ".join(raw.split())[:200] or f"column_{number}"
        copies = 1
        while fold(name) in taken:
            copies += 1
            name = f"{plain} ({copies})"
        taken.add(fold(name))
        columns.append(Column(name))
    return columns


def note_renamed(table: Table, header: list[str]) -> None:
    """Say which columns are not called as in the file."""
    renamed = [
        c.name for c, raw in zip(table.columns, header, strict=True) if c.name != " ".join(raw.split())
    ]
    if renamed:
        table.notes.append("columns without a name of their own are called " + ", ".join(renamed[:10]))


def _read_rows(table: Table, records: Iterator[tuple[int, list[str]]]) -> None:
    width = len(table.columns)
    ragged: list[int] = []
    for line, record in records:
        if not record:
            continue
        if len(record) != width:
            table.ragged_rows += 1
            if len(ragged) < 5:
                ragged.append(line)
            continue
        if len(table.rows) == ROWS_LIMIT:
            raise refused(f"it has more than {ROWS_LIMIT:,} rows")
        table.rows.append(record)
    if ragged:
        lines = ", ".join(str(line) for line in ragged)
        more = " and more" if table.ragged_rows > len(ragged) else ""
        table.notes.append(
            f"{table.ragged_rows} rows do not have {width} values and are left out (line {lines}{more})"
        )


def type_column(table: Table, position: int, decimal_mark: str) -> None:
    """Find the type of a column from all its values, and its numbers where it is one of numbers."""
    column = table.columns[position]
    present = numbers = dates = padded = commas = whole = 0
    for raw in table.values(position):
        value = raw.strip()
        if value.lower() in MISSING:
            column.missing += 1
            column.numbers.append(None)
            continue
        present += 1
        number = parse_number(value, decimal_mark)
        column.numbers.append(number)
        if number is not None:
            numbers += 1
            padded += bool(_PADDED.match(value))
            whole += value.lstrip("+-").isdigit()
        else:
            dates += bool(_DATE.fullmatch(value))
            commas += bool(_COMMA_NUMBER.fullmatch(value))
    if numbers and not padded and (present - numbers) * _INVALID_SHARE <= present:
        column.type = "integer" if whole == numbers else "decimal"
        column.invalid = present - numbers
        if column.invalid:
            table.notes.append(f"{column.invalid} values of {column.name!r} are no numbers and are left out")
        return
    column.numbers = []
    if present:
        column.type = "date" if dates == present else "text"
    if commas and commas + numbers == present and decimal_mark == ".":
        table.notes.append(
            f"the values of {column.name!r} have a decimal comma and are not read as numbers; "
            "pass decimal_mark ',' to read them"
        )


def parse_number(value: str, decimal_mark: str) -> Decimal | None:
    """A value without space around it as a number, or None where it is none."""
    if len(value) > DIGITS_LIMIT:
        return None
    if decimal_mark == ",":
        if "." in value:
            return None
        value = value.replace(",", ".", 1)
    return Decimal(value) if value.isascii() and _NUMBER.fullmatch(value) else None
