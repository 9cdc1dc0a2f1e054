"""CSV files of any size, read once from beginning to end: what is kept grows with the answer, not the file.

The first rows, as many as fit into :data:`SAMPLE_BYTES`, are read as a table (:mod:`node.tools.csv_table`),
and say what the columns are. Then every row is read, counted and forgotten. Records, groups and what is shown
are bounded, and a caller who has gone ends the work at the next rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import BinaryIO, Final

from node.errors import ResourceLimitExceeded
from node.tools.csv_table import (
    EXACT,
    MISSING,
    Column,
    Table,
    header_of,
    note_renamed,
    parse_number,
    refused,
    sniff,
    type_column,
)
from node.tools.stoppable import Stop

SAMPLE_BYTES: Final = 1024**2
"""How much of the beginning says what the columns are, in bytes."""
SAMPLE_ROWS: Final = 10_000
"""Most rows of that."""
RECORD_LIMIT: Final = 1024**2
"""Longest row, in characters."""
GROUPS_HELD: Final = 100_000
"""Most groups that are counted."""
GROUP_NAME_LIMIT: Final = 200
"""Longest name of a group, in characters; what is longer is cut."""
STRIDE: Final = 4_096
"""Rows between two looks at whether anybody still waits."""

Row = list[str]
Keep = Callable[[Row], bool]


@dataclass(slots=True)
class CsvStream:
    """A file that is read from beginning to end, as often as :meth:`rows` is called.

    Args:
        file: The file.
        sample: The table of its first rows.
        whole: Whether that is all of it.
        decimal_mark: Of its numbers.
        stop: Ends a scan.
        total: Rows of the last scan.
        ragged: Rows of it that do not have a value for every column, and are left out.
    """

    file: BinaryIO
    sample: Table
    whole: bool
    decimal_mark: str
    stop: Stop
    total: int = 0
    ragged: int = 0

    def rows(self) -> Iterator[Row]:
        """Every complete row.

        Raises:
            ValidationFailed: the file is no CSV file from some line on, or a row is too long.
            Stopped: nobody waits any more.
        """
        self.total = self.ragged = 0
        width = len(self.sample.columns)
        records = _records(self.file, self.sample.delimiter)
        if next((record for record in records if record), None) is None:
            return
        for seen, record in enumerate(records):
            if seen % STRIDE == 0:
                self.stop.check()
            if not record:
                continue
            if len(record) != width:
                self.ragged += 1
                continue
            self.total += 1
            yield record

    def number(self, value: str) -> Decimal | None:
        """A value as a number, or None where it is none, or missing."""
        return parse_number(value.strip(), self.decimal_mark)

    def notes(self) -> list[str]:
        """What is odd about the file, after a scan."""
        found = [note for note in self.sample.notes if self.whole or "left out" not in note]
        if self.ragged and not self.whole:
            width = len(self.sample.columns)
            found.append(f"{self.ragged} rows do not have {width} values and are left out")
        if not self.whole:
            found.append(f"the types of the columns are those of the first {len(self.sample.rows):,} rows")
        return found


@dataclass(slots=True)
class Tally:
    """Numbers that were added one by one."""

    rows: int = 0
    present: int = 0
    total: Decimal = Decimal(0)
    least: Decimal | None = None
    most: Decimal | None = None
    digits: int = 0

    def add(self, value: Decimal | None) -> None:
        """Count one value; None is a row without one."""
        self.rows += 1
        if value is None:
            return
        self.present += 1
        self.total = EXACT.add(self.total, value)
        self.digits = max(self.digits, -int(value.as_tuple().exponent))
        if self.least is None or value < self.least:
            self.least = value
        if self.most is None or value > self.most:
            self.most = value


@dataclass(slots=True)
class Groups:
    """A tally for each name, as many as may be held."""

    tallies: dict[str, Tally] = field(default_factory=dict)

    def of(self, name: str) -> Tally:
        """The tally of a name.

        Raises:
            ResourceLimitExceeded: there are too many names.
        """
        plain = name.strip()[:GROUP_NAME_LIMIT] or "(none)"
        found = self.tallies.get(plain)
        if found is None:
            if len(self.tallies) == GROUPS_HELD:
                raise ResourceLimitExceeded(
                    "the column has too many values to group by",
                    why=f"more than {GROUPS_HELD:,}",
                    fix="Choose a column with fewer, or filter the rows.",
                )
            found = self.tallies[plain] = Tally()
        return found


def open_stream(file: BinaryIO, decimal_mark: str, stop: Stop) -> CsvStream:
    """Look at the beginning of a file.

    Args:
        file: It can be read again from its beginning.
        decimal_mark: Of its numbers.
        stop: Ends a scan.

    Raises:
        ValidationFailed: it is empty, not text, or has no usable header.
    """
    file.seek(0)
    beginning = file.read(SAMPLE_BYTES)
    # An incomplete letter at the end of the sample is not the file's fault.
    text = beginning.decode("utf-8-sig", errors="ignore")
    if not text.strip():
        raise refused("the file is empty")
    delimiter = sniff(text)
    with closing(_records(file, delimiter)) as records:
        header = next((record for record in records if record), [])
        table = Table(header_of(header), [], delimiter)
        note_renamed(table, header)
        whole = _fill(table, records)
    for position in range(len(table.columns)):
        type_column(table, position, decimal_mark)
    return CsvStream(file, table, whole, decimal_mark, stop)


def _fill(table: Table, records: Iterator[Row]) -> bool:
    """Take the first rows; returns whether those are all."""
    width, room = len(table.columns), SAMPLE_BYTES
    for record in records:
        if len(table.rows) >= SAMPLE_ROWS or room <= 0:
            return False
        room -= sum(map(len, record))
        if len(record) == width:
            table.rows.append(record)
        elif record:
            table.ragged_rows += 1
    if table.ragged_rows:
        table.notes.append(f"{table.ragged_rows} rows do not have {width} values and are left out")
    return True


class _Lines:
    """Lines of text, none longer than a record may be, no record longer than that either."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        # It is detached at the end of a scan, so that the file stays open for the next.
        self.text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        self.record = 0

    def __iter__(self) -> Iterator[str]:
        while line := self.text.readline(RECORD_LIMIT):
            self.record += len(line)
            if self.record > RECORD_LIMIT or (len(line) == RECORD_LIMIT and not line.endswith(("\n", "\r"))):
                raise refused(f"a row has more than {RECORD_LIMIT:,} characters")
            if "\x00" in line:
                raise refused("it holds NUL characters, so it is not a text file")
            yield line


def _records(file: BinaryIO, delimiter: str) -> Generator[Row, None, None]:
    lines = _Lines(file)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for record in reader:
            lines.record = 0
            yield record
    except csv.Error as error:
        raise refused(f"line {reader.line_num}: {error}") from None
    except UnicodeDecodeError:
        raise refused(f"after line {reader.line_num} it is not UTF-8 text; save the file as UTF-8") from None
    finally:
        lines.text.detach()


@dataclass(slots=True)
class Profile:
    """What a scan finds out about one column."""

    column: Column
    tally: Tally = field(default_factory=Tally)
    missing: int = 0
    invalid: int = 0

    def add(self, value: str, decimal_mark: str) -> None:
        """Count one value."""
        plain = value.strip()
        if plain.lower() in MISSING:
            self.missing += 1
            self.tally.add(None)
            return
        if not self.column.is_number:
            return
        number = parse_number(plain, decimal_mark)
        self.invalid += number is None
        self.tally.add(number)


def profiles(stream: CsvStream, observe: Callable[[Row], None] | None = None) -> Sequence[Profile]:
    """Scan a file for what its columns hold.

    Args:
        stream: The file.
        observe: Is shown every row, too.
    """
    found = [Profile(column) for column in stream.sample.columns]
    for row in stream.rows():
        for profile, value in zip(found, row, strict=True):
            profile.add(value, stream.decimal_mark)
        if observe is not None:
            observe(row)
    return found
