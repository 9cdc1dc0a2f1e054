"""Real members on loopback, ours and memberlist's, under the same loss and the same kills, in one table.

    .venv/bin/python -m benchmarks.swim.real.run --members 50 --kill 5 --loss 0.01 --runs 5

The systems take turns, so that a change of the machine's mood meets both. README.md beside this file says
what is measured and how to read the table. An interrupt ends all members, writes what there is, and shows it.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.report import RESULTS, machine
from benchmarks.swim.real.cluster import (
    RunFailed,
    System,
    build_memberlist,
    caxton_system,
    memberlist_system,
    memberlist_version,
)
from benchmarks.swim.real.experiment import Plan, one_run
from benchmarks.swim.real.peer import CA_SEED_FILE, GOSSIP_KEY_FILE
from benchmarks.swim.real.results import SYSTEMS, Results, read, read_simulated, show_table

INCOMPLETE: Final = 3
"""Exit code when not all runs were done; what was done is written and shown."""


def main() -> int:
    options = _options()
    simulated = read_simulated(options.simulated) if options.simulated else []
    complete = True
    if options.show:
        results, facts = read(options.show)
    else:
        facts = machine() | {"memberlist": memberlist_version(), "options": _told(options)}
        results = Results([], [])
        path = options.csv or RESULTS / f"swim-real-{facts['date'][:10]}.csv"
        for wanted in (
            signal.SIGINT,
            signal.SIGTERM,
        ):  # also where a shell has started us with SIGINT ignored
            signal.signal(wanted, signal.default_int_handler)
        try:
            _measure(options, results, lambda: results.write(path, facts))
        except (KeyboardInterrupt, RunFailed) as reason:
            print(f"not complete: {str(reason) or 'interrupted'}", file=sys.stderr)
            complete = False
    if results.summaries:
        labels = {"memberlist": f"memberlist {facts['memberlist']}, real", "caxton": "caxton, real"}
        show_table(results, simulated, labels)
    return 0 if complete else INCOMPLETE


def _measure(options: argparse.Namespace, results: Results, save: Callable[[], None]) -> None:
    plan = Plan(
        members=options.members,
        kill=options.kill,
        stagger_s=options.stagger,
        settle_s=options.settle,
        idle_s=options.idle,
    )
    with tempfile.TemporaryDirectory(prefix="swim-real-") as name:
        directory = Path(name)
        keys = _make_keys(directory / "keys", options.random_seed)
        binary = build_memberlist(directory) if "memberlist" in options.systems else directory
        for number in range(1, options.runs + 1):
            for chosen in options.systems:
                system = _system(chosen, options, binary, number)
                _run(number, system, plan, directory=directory, keys=keys, results=results)
                save()


def _run(number: int, system: System, plan: Plan, *, directory: Path, keys: Path, results: Results) -> None:
    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} run {number}, {system.name}: {text}", file=sys.stderr, flush=True)

    place = directory / f"{system.name}-{number}"
    place.mkdir()
    summary, detections = one_run(number, system, plan, directory=place, keys=keys, say=say)
    results.summaries.append(summary)
    results.detections += detections


def _system(name: str, options: argparse.Namespace, binary: Path, number: int) -> System:
    seed = options.random_seed + number
    if name == "caxton":
        return caxton_system(profile=options.profile, loss=options.loss, random_seed=seed)
    return memberlist_system(binary, loss=options.loss, random_seed=seed)


def _make_keys(directory: Path, random_seed: int) -> Path:
    """Write the keys that all members share; they follow from the seed, and protect nothing."""
    directory.mkdir()
    for name in (CA_SEED_FILE, GOSSIP_KEY_FILE):
        (directory / name).write_bytes(hashlib.sha256(f"{name}/{random_seed}".encode()).digest())
    return directory


def _told(options: argparse.Namespace) -> str:
    """The options that decide what is measured; where the results go is nobody's business."""
    names = ("members", "kill", "loss", "runs", "profile", "stagger", "settle", "idle", "random_seed")
    words = [f"--{name.replace('_', '-')} {getattr(options, name)}" for name in names]
    return " ".join([*words, "--systems", *options.systems])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--members", type=int, default=50, help="processes of each system")
    parser.add_argument("--kill", type=int, default=5, help="members killed at once, and again one by one")
    parser.add_argument("--loss", type=float, default=0.01, help="share of sent datagrams that is lost")
    parser.add_argument("--runs", type=int, default=5, help="runs of each system; they take turns")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--profile", default="lan", help="caxton's profile")
    parser.add_argument("--stagger", type=float, default=0.1, help="seconds between two starts")
    parser.add_argument("--settle", type=float, default=10.0, help="seconds between joining and measuring")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds in which idle traffic is measured")
    parser.add_argument("--random-seed", type=int, default=0, help="decides losses, choices and keys")
    parser.add_argument(
        "--csv", type=Path, help="detections; the runs' summaries go beside it, as NAME-runs.csv"
    )
    parser.add_argument("--simulated", type=Path, help="CSV of simulated crashes with a column detection_s")
    parser.add_argument(
        "--show", type=Path, metavar="CSV", help="run nothing, show what was measured earlier"
    )
    options = parser.parse_args()
    if not 0 <= options.loss < 1 or options.runs < 1 or options.idle < 5 or options.kill < 1:
        parser.error("--loss is a share below 1, --runs and --kill are at least 1, --idle at least 5 seconds")
    if options.members < 2 * options.kill + 2:
        parser.error("--members must exceed twice --kill by two at least")
    return options


if __name__ == "__main__":
    sys.exit(main())
