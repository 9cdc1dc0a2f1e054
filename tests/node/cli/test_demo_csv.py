"""A file that cannot be analyzed is refused before any node is started."""

import pytest

from node.cli import demo_csv
from node.cli.demo_csv import MAX_CSV_BYTES, CsvFile, attachment
from node.errors import ValidationFailed


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "UTF-8"),
        (b"a,b\x00,c\n1,2,3\n", "NUL"),
        (b"product,revenue\n", "no rows"),
        (b"1,2\n3,4\n", "only numbers"),
        (b"Dear all\n\nwe meet on Monday\nbring cake\n", "not CSV"),
        (b"One, two\nthree\nfour, five, six\nseven\n", "not CSV"),
        (b'{"a": 1,\n "b": 2,\n "c": {"d": 1}}\n', "not CSV"),
        (b"a," * 400_000 + b"\n" + b"1," * 400_000, "too large"),
    ],
)
def test_what_is_no_usable_csv_is_refused_with_the_reason(tmp_path, data, why):
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    with pytest.raises(ValidationFailed) as caught:
        CsvFile.read(path)
    assert why in caught.value.why
    assert str(path) in caught.value.what
    assert caught.value.fix


def test_a_file_that_is_not_there_is_named(tmp_path, shell):
    assert shell("demo", "--csv", str(tmp_path / "none.csv")) == 2
    assert "none.csv" in shell.err
    assert "No such file" in shell.err


def test_the_largest_file_is_taken(tmp_path, monkeypatch):
    data = b"product,revenue\nTent,1\n"
    monkeypatch.setattr(demo_csv, "MAX_CSV_BYTES", len(data))
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    assert CsvFile.read(path).rows == 1
    path.write_bytes(data + b"\n")
    with pytest.raises(ValidationFailed):
        CsvFile.read(path)
    assert MAX_CSV_BYTES < 1024**2


@pytest.mark.parametrize(
    ("name", "travels_as"),
    [
        ("sales.csv", "sales.csv"),
        ("Sales 2024 (final).txt", "Sales-2024-final.csv"),
        ("...", "data.csv"),
        ("Umsätze.csv", "Ums-tze.csv"),
        ("noending", "noending.csv"),
        ("x" * 200, "x" * 80 + ".csv"),
    ],
)
def test_it_travels_under_a_plain_name(tmp_path, name, travels_as):
    path = tmp_path / name
    path.write_bytes(b"product;revenue\nTent;1\n")
    assert CsvFile.read(path).name == travels_as


def test_the_private_copy_is_private_and_is_what_travels(tmp_path):
    stored = CsvFile("x.csv", b"a,b\n1,2\n", 1).store(tmp_path)
    assert stored.stat().st_mode & 0o777 == 0o600
    assert attachment(stored) == {"name": "x.csv", "media_type": "text/csv", "base64": "YSxiCjEsMgo="}
