"""A CSV file that is read once from beginning to end gives the answers of a table, and holds no rows."""

from __future__ import annotations

import csv
import io
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node.config import ToolsConfig
from node.config.tools import FileRootsConfig
from node.environment import ThreadWorkers
from node.errors import ResourceLimitExceeded, ToolFailed, ValidationFailed
from node.telemetry.tracing import Tracing
from node.tools import csv_questions as questions
from node.tools import csv_scan as scan
from node.tools import csv_server
from node.tools import csv_stream as module
from node.tools.builtin_servers import builtin_servers
from node.tools.csv_scan import Condition
from node.tools.csv_stream import CsvStream, open_stream
from node.tools.csv_table import read_table
from node.tools.host import CallContext, ToolHost
from node.tools.stoppable import Stop, Stopped, run_stoppable
from tests.node.agents.inline import inline_environment

SALES = b"""region,product,quantity,revenue
North,Tent,1,100.5
South,Tent,2,200
South,Lamp,9,45

West,Stove,3,
odd,row
"""


def stream(data: bytes, decimal_mark: str = ".") -> CsvStream:
    return open_stream(io.BytesIO(data), decimal_mark, Stop())


def without_lines(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without its notes, which name lines only where there is a table."""
    notes = answer.pop("notes", [])
    del answer["facts"][len(answer["facts"]) - len(notes) :]
    return answer


values = st.decimals(min_value=-(10**6), max_value=10**6, places=2, allow_nan=False).map(str)
cell = st.sampled_from(["", "n/a", "x", "007", "1,5"]) | values
rows = st.lists(st.tuples(st.sampled_from(["a", "b ", "c", ""]), cell, values, cell), min_size=1, max_size=30)


@settings(max_examples=80, deadline=None)
@given(rows, st.sampled_from(["revenue", "x"]), st.sampled_from([",", ";"]))
def test_the_answers_are_those_of_a_table(found: list[tuple[str, ...]], name: str, delimiter: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(("product", "quantity", "unit_price", name))
    writer.writerows(found)
    data = text.getvalue().encode()
    table = read_table(data)
    assert without_lines(scan.analyze(stream(data))) == without_lines(questions.analyze(table))
    assert without_lines(scan.describe(stream(data))) == without_lines(questions.describe(table))
    for operation in ("sum", "average", "count", "minimum", "maximum"):
        asked: dict[str, Any] = {"group_by": "product", "column": "unit_price", "operation": operation}
        assert scan.aggregate(stream(data), **asked) | {"facts": 0} == questions.aggregate(table, **asked) | {
            "facts": 0
        }
    if questions.find_category(table) is None:
        with pytest.raises(ValidationFailed, match="nothing to rank"):
            scan.top(stream(data), by=None, column=None, count=3)
    else:
        ranked = scan.top(stream(data), by=None, column=None, count=3)
        assert ranked["top"] == questions.top(table, by=None, column=None, count=3)["top"]
    held = scan.find(stream(data), value="x", column=None, limit=5)
    assert held["matches"] == questions.find(table, value="x", column=None, limit=5)["matches"]


@pytest.mark.parametrize(
    ("test", "column", "value", "products"),
    [
        ("equals", "region", " south ", ["Tent", "Lamp"]),
        ("equals", "revenue", "200.0", ["Tent"]),
        ("not_equals", "region", "South", ["Tent", "Stove"]),
        ("contains", "product", "TE", ["Tent", "Tent"]),
        ("above", "revenue", "100", ["Tent", "Tent"]),
        ("at_least", "quantity", "3", ["Lamp", "Stove"]),
        ("below", "revenue", "100.5", ["Lamp"]),
        ("at_most", "quantity", "2", ["Tent", "Tent"]),
        ("above", "region", "O", ["Tent", "Lamp", "Stove"]),
        ("above", "region", "5", []),
        ("missing", "revenue", "", ["Stove"]),
        ("present", "revenue", "", ["Tent", "Tent", "Lamp"]),
    ],
)
def test_a_condition_means_what_it_says(test: Any, column: str, value: str, products: list[str]) -> None:
    where = [Condition(column, test, value)]
    answer = scan.select(stream(SALES), where=where, columns=["Products"], offset=0, limit=9)
    assert [row["product"] for row in answer["matches"]] == products
    assert (answer["match_count"], answer["rows"]) == (len(products), 4)


def test_all_conditions_must_hold_and_pages_follow_each_other() -> None:
    both = [Condition("product", "equals", "tent"), Condition("quantity", "above", "1")]
    answer = scan.select(stream(SALES), where=both, columns=[], offset=0, limit=9)
    assert answer["matches"] == [{"region": "South", "product": "Tent", "quantity": "2", "revenue": "200"}]
    pages = [
        scan.select(stream(SALES), where=[], columns=["region"], offset=offset, limit=3)
        for offset in (0, 3, 6)
    ]
    assert [len(page["matches"]) for page in pages] == [3, 1, 0]
    assert [page["truncated"] for page in pages] == [True, False, False]
    totals = scan.aggregate(stream(SALES), group_by="region", column="revenue", operation="sum", where=both)
    assert totals["groups"] == [{"name": "South", "value": 200, "rows": 1}]


def test_what_comes_after_the_sample_is_counted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_ROWS", 2)
    data = b"product,revenue\na,1\nb,2\nc,x\nd\ne,4.5\n"
    answer = scan.analyze(stream(data))
    assert (answer["rows"], answer["ragged_rows"], answer["totals"]) == (4, 1, {"revenue": 7.5})
    assert answer["columns"][1] == {"name": "revenue", "type": "integer", "missing": 0, "invalid": 1}
    assert answer["notes"] == [
        "1 rows do not have 2 values and are left out",
        "the types of the columns are those of the first 2 rows",
    ]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \n", "empty"),
        (b"1,2\n3,4\n", "must name the columns"),
        (b"a,b\n\xff,1\n", "after line 1 it is not UTF-8|after line 0 it is not UTF-8"),
        (b"a,b\n1,\x00\n", "NUL"),
        (b'a,b\n"open,1\n', "line 2"),
        (b"a,b\n" + b"1" * (2 * 1024**2), "more than 1,048,576 characters"),
        (b'a,b\n"' + b"1\n" * (1024**2) + b'",2\n', "field larger|more than 1,048,576"),
        (b'a,b\n"1\n"' + b',"1\n"' * (300_000) + b"\n", "more than 1,048,576"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(ValidationFailed, match=why):
        scan.describe(stream(data))


def test_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUPS_HELD", 2)
    with pytest.raises(ResourceLimitExceeded, match="too many values"):
        scan.top(stream(b"product,x\na,1\nb,1\na,1\nc,1\n"), by="product", column=None, count=1)


class Endless(io.RawIOBase):
    """A file of many rows that takes no room."""

    def __init__(self, rows: int) -> None:
        self.block = b"".join(b"product-%d,%d.25\n" % (n % 100, n) for n in range(1_000))
        self.left = self.blocks = rows // 1_000
        self.rest = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        assert (offset, whence) == (0, 0)
        self.left, self.rest = self.blocks, b"product,revenue\n"
        return 0

    def readinto(self, buffer: Any) -> int:
        if not self.rest and self.left:
            self.left -= 1
            self.rest = self.block
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


def test_what_is_held_does_not_grow_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_BYTES", 32_768)
    peaks = []
    for count in (4_000, 16_000):
        tracemalloc.start()
        file: Any = io.BufferedReader(Endless(count))
        answer = scan.top(open_stream(file, ".", Stop()), by=None, column=None, count=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert answer["rows"] == count
    assert peaks[1] < peaks[0] * 1.2


def test_exact_sums_stay_exact_however_many_there_are() -> None:
    data = b"product,amount\n" + b"a,0.1\n" * 12_345
    answer = scan.analyze(stream(data))
    assert Decimal(str(answer["totals"]["amount"])) == Decimal("1234.5")


def test_a_scan_that_nobody_waits_for_ends() -> None:
    found = stream(b"product,x\n" + b"a,1\n" * 10)
    found.stop.is_set = True
    with pytest.raises(Stopped):
        scan.describe(found)


async def test_who_is_cancelled_takes_the_work_along() -> None:
    started, ended = trio.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def work(stop: Stop) -> None:
        token.run_sync_soon(started.set)
        try:
            while True:
                stop.check()
        finally:
            token.run_sync_soon(ended.set)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_stoppable, ThreadWorkers(), "files", work)
        await started.wait()
        nursery.cancel_scope.cancel()
    await ended.wait()


async def test_a_file_in_a_folder_is_read_whatever_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_server, "BYTES_LIMIT", 1_000)
    folder = tmp_path / "data"
    folder.mkdir()
    row = b"Tent,1.5,some words that take room in the file\n"
    count = 1_000
    (folder / "large.csv").write_bytes(b"product,revenue,note\n" + row * count)
    (folder / "small.csv").write_bytes(SALES)
    environment = inline_environment()
    config = ToolsConfig(files=FileRootsConfig(read=(folder,)))
    servers = builtin_servers(environment=environment, config=config)
    host = ToolHost(environment=environment, tracing=Tracing.off(), servers=servers)

    async def ask(tool: str, **arguments: Any) -> Any:
        return await host.call(tool, arguments, CallContext("a", ("csv_parser",), files={"s.csv": SALES}))

    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        answer = await ask("csv_top", file="data/large.csv")
        assert answer["rows"] == count
        assert answer["top"]["items"] == [{"name": "Tent", "value": 1.5 * count, "rows": count}]
        where = [{"column": "region", "value": "South"}, {"column": "quantity", "test": "above", "value": 2}]
        for file in ("data/small.csv", "s.csv"):
            assert (await ask("csv_analyze", file=file))["totals"]["revenue"] == 345.5
            assert [m["product"] for m in (await ask("csv_filter", file=file, where=where))["matches"]] == [
                "Lamp"
            ]
            groups = await ask("csv_aggregate", file=file, group_by="product", operation="count", where=where)
            assert groups["groups"] == [{"name": "Lamp", "value": 1, "rows": 1}]
        for file in ("data/none.csv", "data/../x.csv", "other/x.csv"):
            with pytest.raises(ToolFailed):
                await ask("csv_analyze", file=file)
        nursery.cancel_scope.cancel()
