"""What the outbox's table costs: processor time, and bytes of the write-ahead log, for each message.

    .venv/bin/python -m benchmarks.messaging.tables --against ../before --csv

No node runs: messages with one provider are written as an origin writes them, a batch accepted in one commit,
and ended in another one three batches later; then those beyond the newest 50,000 are forgotten, as retention
does. With ``--against`` old and new code run in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.report import machine, show, write
from node.environment import system_environment
from node.storage import outbox
from node.storage.query import Forgotten
from node.storage.storage import Storage

MESSAGES: Final = 80_000
KEPT: Final = 50_000
SEALED: Final = b"x" * 480
"""About as long as a message of the other benchmarks."""
DECISION: Final = b"d" * 150
BATCHES: Final = (5, 20, 100)
FIGURES: Final = ("us_written", "us_forgotten", "wal_bytes")


def main() -> int:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout, for example of an earlier commit")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps([measure(batch) for batch in BATCHES]))
        return 0
    from benchmarks.checkouts import in_turn, measured_in  # noqa: PLC0415 - measured code may lack it

    facts, rows = machine(), list[dict[str, Any]]()
    checkouts = in_turn(options.against)
    for run in range(options.runs):
        for which, checkout in checkouts.items():
            rows += [
                {"run": run, "checkout": which, **row} for row in measured_in(checkout, __file__, "--measure")
            ]
    table = []
    for batch in BATCHES:
        for which in checkouts:
            chosen = [row for row in rows if row["batch"] == batch and row["checkout"] == which]
            table.append([batch, which, *(f"{median(row[key] for row in chosen):.4g}" for key in FIGURES)])
    show(("in a batch", "code", "us written and ended", "us forgotten", "bytes of the log"), table)
    print(f"\n{facts}\nraw: {write('messaging-tables', facts, rows) if options.csv else 'not written'}")
    return 0


def measure(batch: int) -> dict[str, Any]:
    """Write, end and forget messages, so many in each commit."""
    with tempfile.TemporaryDirectory(prefix="caxton-tables-") as directory:
        path = Path(directory) / "caxton.db"
        storage = Storage.open(path, durability="normal", environment=system_environment())
        connection = storage._writer  # noqa: SLF001 - nothing but the tables is to be measured
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        began, under_way = time.thread_time(), list[range]()
        for first in range(1, MESSAGES + 1, batch):
            numbers = range(first, first + batch)
            connection.execute("BEGIN IMMEDIATE")
            outbox.insert(connection, [_message(number) for number in numbers])
            connection.execute("COMMIT")
            under_way.append(numbers)
            if len(under_way) > 3:
                connection.execute("BEGIN IMMEDIATE")
                outbox.finish_with_route(connection, [_end(number) for number in under_way.pop(0)])
                connection.execute("COMMIT")
        written_s = time.thread_time() - began
        logged = path.with_name(path.name + "-wal").stat().st_size
        began, gone = time.thread_time(), 0
        step = Forgotten(0, 0, finished=False)
        while not step.finished:
            connection.execute("BEGIN IMMEDIATE")
            step = outbox.forget(connection, step.reached, ended_before_s=0.0, keep=KEPT, noted_before_s=0.0)
            connection.execute("COMMIT")
            gone += step.gone
        forgotten_s = time.thread_time() - began
        storage.abandon()
    return {
        "batch": batch,
        "us_written": round(1e6 * written_s / MESSAGES, 3),
        "us_forgotten": round(1e6 * forgotten_s / gone, 3),
        "wal_bytes": round(logged / MESSAGES),
    }


def _message(number: int) -> tuple[outbox.OutboxRow, outbox.RouteRow]:
    """A message that begins its own conversation, and its route."""
    name = f"0198f4a2-7c00-7000-8000-{number:012x}"
    row = outbox.OutboxRow(
        number, name, name, None, "open", broadcast=False, accepted_s=1.0, expires_s=2.0, hops=0,
        traceparent="", sealed=SEALED,
    )  # fmt: skip
    return row, outbox.RouteRow(
        number, "sink", "provider", 0, "queued", 0, 1.0, None, None, None, "", DECISION
    )


def _end(number: int) -> outbox.EndWithRoute:
    return number, "settled", 1.5, "", "settled", 1, 1.1, 1.2, 1.5, ""


if __name__ == "__main__":
    sys.exit(main())
