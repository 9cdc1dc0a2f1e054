"""Durable messages: rates, latencies and costs, in one go.

    .venv/bin/python -m benchmarks.messaging

The node that sends runs in this process and is driven through its bus, so that HTTP is no part of the
figures; nodes that answer are processes of their own (the same one where there is only one node). Every
request is stored by its origin, signed, sent over TLS 1.3, stored and deduplicated by its provider, handled,
and answered in one transaction with its settled mark; the answer goes back the same way: two messages each.
Each run has new processes, new keys and empty disks.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final

from benchmarks.messaging import curve, mixed, rows, switches
from benchmarks.report import machine, write

PARTS: Final = {
    "rows": rows.measure,
    "mixed": mixed.measure,
    "curve": curve.measure,
    "switches": switches.measure,
}


def main() -> int:
    """Measure, print, write; the exit status is 1 when a message failed that nothing should have refused."""
    options = _options()
    failed = 0
    for part in options.parts or PARTS:
        facts = machine()
        print(f"\n{part}\n")
        found = PARTS[part](options)
        failed += part != "mixed" and sum(row.get("failed", 0) for row in found)
        if options.csv:
            kind = f"-{options.kind}" if part == "mixed" and options.kind else ""
            path = write(f"messaging-{part}{kind}", facts, found)
            print(f"\nraw: {path}")
            if part == "curve":
                print(f"plot: {curve.plot(found, path.stem)}")
        print(f"\n{facts}")
    return int(failed > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all, if none is named")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--in-flight", type=int, default=64, help="for throughput")
    parser.add_argument("--window", type=int, default=3_000, help="open messages, one way")
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second of the fixed rate")
    parser.add_argument("--one-way-rate", type=float, default=10_000.0, help="messages per second, one way")
    parser.add_argument("--kind", choices=mixed.KINDS, help="of all agents of the mixed load")
    parser.add_argument("--agents", type=int, default=mixed.AGENTS, help="of the mixed load")
    parser.add_argument(
        "--rates", type=lambda text: [int(each) for each in text.split(",")], default=mixed.RATES
    )
    parser.add_argument("--only", help="rows whose name has this text")
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
