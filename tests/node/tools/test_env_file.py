"""Variables of tool servers from a file: what a line means, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import ToolFailed
from node.tools.env_file import FILE_LIMIT_BYTES, VARIABLES_LIMIT, read_env_file


def test_lines_are_names_and_values(tmp_path: Path) -> None:
    path = tmp_path / "keys.env"
    lines = [
        "# keys",
        "",
        "A=1",
        "export B = two words ",
        "C='it''s'",
        'D="${A} \\n"',
        "E=",
        "F=a=b#c",
        "A=2",
    ]
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    expected = {"A": "2", "B": "two words", "C": "it''s", "D": "${A} \\n", "E": "", "F": "a=b#c"}
    assert read_env_file(path) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"A=1\nno line", "line 2 is not NAME=value"),
        (b"1A=x", "line 1 is not NAME=value"),
        (b"A-B=secret", "line 1 is not NAME=value"),
        (b"A=\xff", "not UTF-8"),
        (b"A=\x00", "no text"),
        (b"A=" + b"x" * FILE_LIMIT_BYTES, "too large"),
        (b"".join(b"V%d=1\n" % n for n in range(VARIABLES_LIMIT + 1)), "too many variables"),
    ],
)
def test_what_is_no_such_file_is_refused_without_quoting_it(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "keys.env"
    path.write_bytes(content)
    with pytest.raises(ToolFailed) as caught:
        read_env_file(path)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match="cannot be read"):
        read_env_file(tmp_path / "none.env")
