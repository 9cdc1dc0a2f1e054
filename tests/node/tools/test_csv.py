"""The CSV tool's answers, compared with an independent computation, and its refusals."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.demo import make_sales
from node.errors import ValidationFailed
from node.tools.csv_questions import aggregate, analyze, describe, find, number, top
from node.tools.csv_table import read_table

SALES = Path(__file__).parents[3] / "configs" / "demo" / "sales.csv"


def exact(value: object) -> Fraction:
    return Fraction(str(value))


def independently(data: str) -> tuple[Fraction, Fraction, list[tuple[str, Fraction]]]:
    """Total revenue, mean revenue and the five best products, computed with fractions and dictionaries."""
    rows = list(csv.DictReader(io.StringIO(data, newline="")))
    revenue = [Fraction(row["revenue"]) for row in rows]
    products: dict[str, Fraction] = {}
    for row, value in zip(rows, revenue, strict=True):
        products[row["product"]] = products.get(row["product"], Fraction(0)) + value
    best = sorted(products.items(), key=lambda item: (-item[1], item[0]))[:5]
    return sum(revenue, Fraction(0)), sum(revenue, Fraction(0)) / len(revenue), best


def assert_agrees(data: str) -> None:
    total, mean, best = independently(data)
    answer = analyze(read_table(data.encode()))
    assert exact(answer["totals"]["revenue"]) == total
    assert abs(exact(answer["averages"]["revenue"]) - mean) <= Fraction(1, 2_000_000)
    assert answer["measure"] == {"name": "revenue", "source": "column"}
    items = answer["top"]["items"]
    assert [(item["name"], exact(item["value"])) for item in items] == best


def test_the_committed_sales_file_is_what_the_script_writes() -> None:
    target = io.StringIO()
    make_sales.write(target)
    assert SALES.read_text() == target.getvalue()
    assert len(SALES.read_text().splitlines()) > 1000


def test_the_sales_file_is_analyzed_as_an_independent_computation_says() -> None:
    assert_agrees(SALES.read_text())


money = st.decimals(min_value=-10_000_000, max_value=10_000_000, places=2, allow_nan=False)
product = st.text(alphabet="abcXYZ äß,;'\"\n", min_size=1, max_size=6).map(lambda name: f"p{name}q")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(product, money), min_size=2, max_size=40), st.sampled_from(",;\t"))
def test_any_file_is_analyzed_exactly(rows: list[tuple[str, Decimal]], delimiter: str) -> None:
    comma, other = io.StringIO(), io.StringIO()
    for target, mark in ((comma, ","), (other, delimiter)):
        writer = csv.writer(target, delimiter=mark, quoting=csv.QUOTE_ALL)
        writer.writerow(("product", "revenue"))
        writer.writerows(rows)
    assert_agrees(comma.getvalue())
    answer = analyze(read_table(b"\xef\xbb\xbf" + other.getvalue().encode()))
    assert answer["delimiter"] == delimiter
    assert answer | {"delimiter": ","} == analyze(read_table(comma.getvalue().encode()))


def test_the_sum_of_tenths_is_exact() -> None:
    assert analyze(read_table(b"product,amount\n" + b"a,0.1\n" * 30))["totals"]["amount"] == 3


def test_quantity_times_price_is_used_when_no_column_is_a_measure_and_it_says_so() -> None:
    answer = analyze(read_table(b"item,qty,unit_price\nb,2,1.25\na,1,2.50\nc,1,9\n"))
    assert answer["measure"] == {"name": "qty * unit_price", "source": "computed"}
    assert [(i["name"], i["value"]) for i in answer["top"]["items"]] == [("c", 9), ("a", 2.5), ("b", 2.5)]
    assert answer["totals"]["qty * unit_price"] == 14


def test_a_file_without_numbers_ranks_by_rows() -> None:
    answer = analyze(read_table(b"name,city\nann,Bern\nbob,Bern\ncid,Rome\n"))
    assert answer["measure"]["source"] == "row count"
    assert answer["totals"] == {}


def test_ragged_rows_are_counted_and_left_out() -> None:
    answer = analyze(read_table(b"product,revenue\na,1\nb\nc,2,3\n\nd,4\n"))
    assert (answer["rows"], answer["ragged_rows"], answer["totals"]["revenue"]) == (2, 2, 5)
    assert "line 3, 4" in " ".join(answer["notes"])


def test_a_decimal_comma_is_refused_until_it_is_asked_for() -> None:
    data = b"product;revenue\na;1,50\nb;2,25\n"
    plain = describe(read_table(data))
    assert plain["columns"][1]["type"] == "text"
    assert "decimal comma" in plain["notes"][0]
    assert analyze(read_table(data, decimal_mark=","))["totals"]["revenue"] == 3.75


def test_leading_zeros_are_codes_and_markers_are_missing_values() -> None:
    table = read_table(b"zip,revenue,product\n01234,1,a\n99999,n/a,b\n00001,2,c\n")
    assert [c.type for c in table.columns] == ["text", "integer", "text"]
    assert table.columns[1].missing == 1
    assert analyze(table)["averages"]["revenue"] == 1.5


def test_a_quoted_line_break_stays_in_its_value() -> None:
    answer = find(read_table(b'product,revenue\n"two\nlines",3\n'), value="two\nlines", column=None, limit=5)
    assert answer["matches"] == [{"product": "two\nlines", "revenue": "3"}]


def test_a_header_alone_has_no_rows_and_no_totals() -> None:
    answer = analyze(read_table(b"product,revenue\n"))
    assert answer["rows"] == 0
    assert answer["totals"] == {}


def test_groups_and_rankings_break_ties_by_name() -> None:
    table = read_table(b"region,product,revenue\nN,b,2\nS,a,2\nN,c,5\n")
    assert [g["name"] for g in top(table, by=None, column=None, count=3)["top"]["items"]] == ["c", "a", "b"]
    answer = aggregate(table, group_by="Region", column="revenue", operation="average")
    assert [(g["name"], g["value"]) for g in answer["groups"]] == [("N", 3.5), ("S", 2)]


def test_an_unknown_column_is_refused_with_the_columns_there_are() -> None:
    with pytest.raises(ValidationFailed, match=r"'region'.*'revenue'"):
        aggregate(read_table(b"region,revenue\nN,1\n"), group_by="regoin", column=None, operation="sum")
    with pytest.raises(ValidationFailed, match="no number column"):
        top(read_table(b"region,revenue\nN,1\n"), by="revenue", column="region", count=3)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \n\n", "empty"),
        (b"a,b\n\xff\xfe,1\n", "UTF-8"),
        (b"a,b\n1,\x00\n", "NUL"),
        (b"1,2\n3,4\n", "must name the columns"),
        (b'a,b\n"open,1\n', "line 2"),
        (b",".join(b"c%d" % n for n in range(300)), "300 columns"),
        (b"x" * (16 * 1024 * 1024 + 1), "16,777,217 bytes"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(ValidationFailed, match=why):
        read_table(data)


@given(st.decimals(min_value=-(10**20), max_value=10**20, allow_nan=False, places=6))
def test_no_digit_is_lost_on_the_way_to_json(value: Decimal) -> None:
    assert exact(number(value)) == Fraction(value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='a1,;"\n\r\t.', max_size=60).map(str.encode))
def test_any_bytes_give_an_answer_or_a_refusal(data: bytes) -> None:
    try:
        table = read_table(data)
    except ValidationFailed:
        return
    assert analyze(table)["rows"] == len(table.rows)
