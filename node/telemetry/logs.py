"""Log lines of a node process: configured once, by the command line, never by a node.

Every line is one record: JSON or text, with the node, the time and, where the caller names it,
the trace it belongs to. Lines are bounded in length, repeats in number, and files in size.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections import OrderedDict
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final, TextIO

LINE_LIMIT: Final = 8192
"""Longest message and longest traceback of a line, in characters."""
FILE_LIMIT_BYTES: Final = 16 * 1024 * 1024
FILE_BACKUPS: Final = 3
REPEAT_LIMIT: Final = 20
"""Most lines of one origin within :data:`REPEAT_WINDOW_S`; more are counted and left out."""
REPEAT_WINDOW_S: Final = 10.0
ORIGIN_LIMIT: Final = 512
"""Most origins whose repeats are counted; the one seen longest ago is forgotten first."""

_QUIET_LIBRARIES: Final = ("httpx", "httpcore", "hypercorn", "mcp", "opentelemetry")
"""Their notices are logged from WARNING on, unless everything is."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class RepeatLimit(logging.Filter):
    """Leaves out what one line of code says too often, and says how often afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: OrderedDict[tuple[str, str, int], list[float]] = OrderedDict()
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        origin = (record.name, record.pathname, record.lineno)
        entry = self._seen.get(origin)
        if entry is None or record.created - entry[0] > REPEAT_WINDOW_S or record.created < entry[0]:
            if entry is not None and entry[1] > REPEAT_LIMIT:
                record.msg = f"{record.getMessage()} (and {int(entry[1] - REPEAT_LIMIT)} more left out)"
                record.args = None
            entry = self._seen[origin] = [record.created, 0]
        self._seen.move_to_end(origin)
        if len(self._seen) > ORIGIN_LIMIT:
            self._seen.popitem(last=False)
        entry[1] += 1
        if entry[1] > REPEAT_LIMIT:
            self._left_out += 1
            return False
        return True

    def statistics(self) -> dict[str, int]:
        """How many records were left out."""
        return {"left_out": self._left_out, "origins": len(self._seen)}


class LineFormatter(logging.Formatter):
    """Renders a record as one line.

    Args:
        node: The node's name, on every line.
        as_json: JSON instead of text.
    """

    def __init__(self, node: str, *, as_json: bool) -> None:
        super().__init__()
        self._node = node
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; in text, a traceback follows it, indented so that it forges no line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        found = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "node": self._node,
            "logger": record.name,
            "message": record.getMessage()[:LINE_LIMIT],
        }
        trace = getattr(record, "trace_id", "")
        if trace:
            found["trace_id"] = str(trace)[:32]
        if record.exc_info and record.exc_info[0] is not None:
            found["exception"] = self.formatException(record.exc_info)[-LINE_LIMIT:]
        if self._as_json:
            return json.dumps(found)
        text = "{time} {level:<8} {node} {logger}: {message}".format(**found)
        tail = f" trace={found['trace_id']}" if trace else ""
        lines = [text + tail, *(f"  {line}" for line in found.get("exception", "").split("\n") if line)]
        return "\n".join(_CONTROL.sub(_escaped, line) for line in lines)


def configure_logging(
    *,
    node: str,
    level: str = "info",
    as_json: bool = False,
    file: Path | None = None,
    stream: TextIO | None = None,
) -> RepeatLimit:
    """Send all log records of this process to one place, replacing what was configured before.

    Args:
        node: The node's name.
        level: debug, info, warning, error or critical.
        as_json: JSON lines instead of text.
        file: Where to write, rotated at :data:`FILE_LIMIT_BYTES`; the stream when None.
        stream: Where to write without a file; standard error when None.

    Returns:
        The limit on repeats, for its statistics.

    Raises:
        OSError: the file cannot be opened.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(stream or sys.stderr)
    else:
        handler = RotatingFileHandler(
            file, maxBytes=FILE_LIMIT_BYTES, backupCount=FILE_BACKUPS, encoding="utf-8"
        )
    limit = RepeatLimit()
    handler.setFormatter(LineFormatter(node, as_json=as_json))
    handler.addFilter(limit)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    chosen = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    root.setLevel(chosen)
    for name in _QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(chosen if chosen <= logging.DEBUG else max(chosen, logging.WARNING))
    logging.raiseExceptions = False  # a closed terminal must not put tracebacks between the lines
    return limit


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
