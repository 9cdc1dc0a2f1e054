from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.telemetry import logs
from node.telemetry.logs import LINE_LIMIT, REPEAT_LIMIT, RepeatLimit, configure_logging


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    root, raising = logging.getLogger(), logging.raiseExceptions
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level, logging.raiseExceptions = handlers, level, raising
    root.setLevel(level)
    for name in logs._QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_json_line_has_node_time_and_trace() -> None:
    stream = io.StringIO()
    configure_logging(node="alpha", as_json=True, stream=stream)
    logging.getLogger("caxton.bus").info("accepted %s", "m1\nforged", extra={"trace_id": "ab" * 16})
    line = json.loads(stream.getvalue())
    assert line["node"] == "alpha"
    assert (line["level"], line["logger"], line["message"]) == ("info", "caxton.bus", "accepted m1\nforged")
    assert line["trace_id"] == "ab" * 16
    assert line["time"].endswith("Z")


def test_text_is_one_line_whatever_it_quotes() -> None:
    stream = io.StringIO()
    configure_logging(node="alpha", stream=stream)
    logging.getLogger("x").warning("a\n2026 info forged\x1b[31m%s", "b" * 2 * LINE_LIMIT)
    [line] = stream.getvalue().splitlines()
    assert "\\n2026 info forged\\x1b[31m" in line
    assert len(line) < LINE_LIMIT + 200


def test_an_exception_is_kept_with_its_line() -> None:
    stream = io.StringIO()
    configure_logging(node="alpha", as_json=True, stream=stream)
    try:
        {}["k"]
    except KeyError:
        logging.getLogger("x").exception("failed")
    assert "KeyError: 'k'" in json.loads(stream.getvalue())["exception"]


def test_libraries_are_quiet_unless_everything_is_wanted() -> None:
    stream = io.StringIO()
    configure_logging(node="alpha", stream=stream)
    logging.getLogger("hypercorn.error").info("Running on")
    logging.getLogger("mcp.server").info("chatter")
    logging.getLogger("hypercorn.error").error("bad")
    assert stream.getvalue().count("\n") == 1
    configure_logging(node="alpha", level="debug", stream=stream)
    logging.getLogger("mcp.server").debug("chatter")
    assert "chatter" in stream.getvalue()


def test_repeats_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = RepeatLimit()

    def record(created: float) -> logging.LogRecord:
        made = logging.LogRecord("x", logging.INFO, "file.py", 7, "again %d", (1,), None)
        made.created = created
        return made

    assert sum(limit.filter(record(1.0)) for _ in range(100)) == REPEAT_LIMIT
    assert limit.statistics() == {"left_out": 80, "origins": 1}
    later = record(20.0)
    assert limit.filter(later)
    assert later.getMessage() == "again 1 (and 80 more left out)"
    monkeypatch.setattr(logs, "ORIGIN_LIMIT", 3)
    for number in range(10):
        limit.filter(logging.LogRecord("x", logging.INFO, "file.py", number + 100, "m", None, None))
    assert limit.statistics()["origins"] <= 3


def test_a_file_takes_the_lines_and_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_LIMIT_BYTES", 2000)
    monkeypatch.setattr(logs, "REPEAT_LIMIT", 1000)
    configure_logging(node="alpha", file=tmp_path / "node.log")
    for number in range(200):
        logging.getLogger("x").info("line %d", number)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + logs.FILE_BACKUPS
    assert sum(f.stat().st_size for f in files) <= 4 * 2000
    assert "line 199" in (tmp_path / "node.log").read_text()


def test_an_exception_forges_no_line_of_text() -> None:
    stream = io.StringIO()
    configure_logging(node="n1", stream=stream)
    forged = ValueError("x\n2024-01-01T00:00:00Z info     n1 audit: all is well\x1b[2J")
    logging.getLogger("x").error("failed", exc_info=forged)
    lines = stream.getvalue().splitlines()
    assert len(lines) > 1
    assert all(line.startswith("  ") for line in lines[1:])
    assert "\x1b" not in stream.getvalue()
