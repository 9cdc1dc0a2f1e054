"""Whole nodes, simulated beside real: the same seeds of some scenarios in both, and what was measured.

``python -m benchmarks.simulation.twin`` needs what ``caxton simulate twin --check`` says yes to. Real runs
take as long as their scenarios say.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.report import machine, show, write
from simulations.runner import INTERRUPTED
from simulations.scenario import load
from simulations.twin.machine import look
from simulations.twin.session import Row, measures_of, prepare, rows_of, run_both, table

SCENARIOS: Final = ("split_brain", "one_way_cut", "flapping_link", "rolling_restart")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=SCENARIOS)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--runs", type=int, default=3, help="seeds in a row")
    options = parser.parse_args(arguments)
    facts = machine() | {
        "options": " ".join([*options.scenarios, f"--seed {options.seed} --runs {options.runs}"])
    }
    found, rows = look(), list[Row]()
    for name in options.scenarios:
        for seed in range(options.seed, options.seed + options.runs):
            scenario, plan = prepare(load(name), seed, [], found)
            results = run_both(
                scenario, seed, plan, found, lambda line: print(line, file=sys.stderr, flush=True)
            )
            if any(result.code == INTERRUPTED for result in results.values()):
                return INTERRUPTED
            load_after = round(os.getloadavg()[0], 2)
            rows += [{**row, "load_after": load_after} for row in rows_of(name, results)]
    measures = [key for key in measures_of(rows) if key != "load_after"]
    columns = [*list(rows[0])[:6], "load_after", *measures]
    raw: list[dict[str, Any]] = [{column: row.get(column, "") for column in columns} for row in rows]
    print(write("twin", facts, raw), file=sys.stderr)
    lines = []
    for name in options.scenarios:
        of_scenario = [
            {k: v for k, v in row.items() if k != "load_after"} for row in rows if row["scenario"] == name
        ]
        lines += [(name, *line) for line in table(of_scenario)[1:]]
    show(("scenario", "measure", "simulated", "real"), lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
