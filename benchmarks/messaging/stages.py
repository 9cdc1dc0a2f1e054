"""Where the time goes of messages that are offered at a rate: one way, from when each is due to its end.

    .venv/bin/python -m benchmarks.messaging.stages --rate 10000 --against ../before --csv

Two nodes, as in the row of ``benchmarks.messaging``. The steps of a message's way are marked on both, on the
clock that the machine's processes share, by wrapping the functions that do them: whole batches at once, so
that a message is not dearer by much. For each step the table has the time since the one before it (its
median, and the 99th percentile), and how many messages it takes at once. Beside it stand the processor time
of both processes, how long they waited for a processor, and the longest pause of each in commits and in the
search for cyclic garbage (in processor time): on a machine that does other work, the wait for a processor is
the first thing to look at.
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from benchmarks.messaging.loads import Load, Origin
from benchmarks.messaging.provider import offer
from benchmarks.nodes import bundle, config, init, running
from benchmarks.report import machine, percentile, show, write
from node.messaging import acceptance, inbox, outbox, settlement
from node.storage import storage
from node.transport import inbound, outbound
from node.transport.frames import Deliver, DeliverItem, Settled

MARKS: Final = "marks.json"
"""What the node that answers has seen, beside the bundles."""
STEPS: Final = (
    "due", "begun", "accepted", "queued", "framed", "arrived", "received", "stored", "handled", "settled",
    "told", "heard", "ended",
)  # fmt: skip
"""Of a message's way, in order; the first five and the last two at its origin."""


@dataclass(slots=True)
class Marks:
    """What one process has seen.

    Args:
        steps: By name: when, and of which messages.
        pauses: By name, in seconds: what held up the event loop.
    """

    steps: dict[str, list[tuple[float, list[str]]]] = field(default_factory=dict)
    pauses: dict[str, list[float]] = field(default_factory=dict)

    def mark(self, step: str, ids: Iterable[str]) -> None:
        """These messages are at a step now."""
        self.steps.setdefault(step, []).append((time.perf_counter(), list(ids)))

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {"steps": self.steps, "pauses": self.pauses}


def watch(marks: Marks) -> None:
    """Mark the steps of all messages of this process from now on."""

    def before(owner: Any, name: str, step: str, ids: Callable[..., Iterable[str]]) -> None:
        done = getattr(owner, name)

        @functools.wraps(done)
        def marked(*args: Any, **named: Any) -> Any:
            marks.mark(step, ids(*args, **named))
            return done(*args, **named)

        setattr(owner, name, marked)

    before(acceptance.Acceptance, "accept_many", "begun", lambda _, several, **__: [m.id for m in several])
    before(outbox.Outbox, "admit", "accepted", lambda _, letters: [each.message.id for each in letters])
    before(outbound.OutboundLink, "deliver", "queued", lambda _, items: _of_queued(items))
    before(outbound, "sign_deliver", "framed", lambda _, __, items: [each.message_id for each in items])
    before(inbound, "verify_deliver", "arrived", lambda frame, **_: _of_items(frame))
    before(inbox.Inbox, "receive", "received", lambda _, __, arrived, *___: _of_frames(arrived))
    before(inbox.Inbox, "stored", "stored", lambda _, batch: [each.message.id for each in batch.items])
    before(settlement.Settlement, "add", "handled", lambda _, handled: [handled.entry.message.id])
    before(inbox.Inbox, "ended", "settled", lambda _, several: [each.key.message_id for each, _ in several])
    before(inbound, "encode", "told", _of_settled)
    before(outbox.Outbox, "report", "heard", lambda _, __, states: [each.key.message_id for each in states])
    before(outbox.Outbox, "_written", "ended", lambda _, changes: [each.message.id for each in changes.ended])
    _watch_pauses(marks)


def _of_items(frame: Deliver) -> list[str]:
    return [each.message_id for each in frame.items]


def _of_queued(items: Any) -> list[str]:
    """Of what a link is given at once, or, in earlier commits, of one message."""
    return [each.message_id for each in ([items] if isinstance(items, DeliverItem) else items)]


def _of_frames(arrived: Any) -> list[str]:
    """Of the deliveries of frames, or, in earlier commits, of one frame."""
    found = []
    for each, _ in arrived:
        found += [each.message_id] if isinstance(each, DeliverItem) else [item.message_id for item, _ in each]
    return found


def _of_settled(frame: Any) -> list[str]:
    return [each.key.message_id for each in frame.outcomes] if isinstance(frame, Settled) else []


def _watch_pauses(marks: Marks) -> None:
    commit = storage.Storage._commit  # noqa: SLF001 - the part of a write that holds up the loop

    def timed(self: Any, group: Any) -> None:
        began = time.thread_time()
        commit(self, group)
        marks.pauses.setdefault("commit", []).append(time.thread_time() - began)

    storage.Storage._commit = timed  # type: ignore[method-assign]  # noqa: SLF001
    began = 0.0

    def collected(phase: str, _facts: Any) -> None:
        nonlocal began
        if phase == "start":
            began = time.thread_time()
        else:
            marks.pauses.setdefault("collector", []).append(time.thread_time() - began)

    gc.callbacks.append(collected)


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of a process's main thread on a processor, and waiting for one."""

    ran_s: float
    waited_s: float

    @classmethod
    def of(cls, pid: int | str) -> Spent:
        """Of that process until now."""
        ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()
        return cls(int(ran) / 1e9, int(waited) / 1e9)

    def since(self, before: Spent) -> Spent:
        """What came since then."""
        return Spent(self.ran_s - before.ran_s, self.waited_s - before.waited_s)


async def _measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    marks = Marks()
    with tempfile.TemporaryDirectory(prefix="caxton-stages-") as name:
        directory = Path(name)
        init(directory, ["origin", "provider"])
        async with running(config(bundle(directory, "origin"), None, options.durability)) as (node, gossip):
            watch(marks)
            command = [sys.executable, __file__, "--serve", gossip, "--place", name]
            process = subprocess.Popen([*command, "--durability", options.durability])
            try:
                origin = Origin(node)
                await origin.wait_for_provider()
                await origin.closed("warm-up", in_flight=8, duration_s=1.0)
                marks.steps.clear()
                marks.pauses.clear()
                before = Spent.of("self"), Spent.of(process.pid)
                load = await origin.one_way_at_rate("stages", per_s=options.rate, duration_s=options.seconds)
                spent = Spent.of("self").since(before[0]), Spent.of(process.pid).since(before[1])
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
        there = json.loads((directory / MARKS).read_text(encoding="ascii"))
    return _rows(options, load, marks, there, spent)


def _rows(
    options: argparse.Namespace,
    load: Load,
    here: Marks,
    there: dict[str, Any],
    spent: tuple[Spent, Spent],
) -> list[dict[str, Any]]:
    """The table's rows: the load as a whole, then each step."""
    first, offered_first = here.steps["begun"][0]
    began = first - (len(offered_first) - 1) / options.rate
    sent = [each for _, ids in here.steps["begun"] for each in ids]
    due = [(began + number / options.rate, [each]) for number, each in enumerate(sent)]
    steps = {"due": due, **here.steps}
    for step in ("arrived", "received", "stored", "handled", "settled", "told"):
        steps[step] = there["steps"].get(step, [])
    moments: dict[str, dict[str, float]] = {
        step: {each: at for at, ids in steps.get(step, []) for each in ids} for step in STEPS
    }
    ended = [each for each in sent if each in moments["ended"]]
    rows: list[dict[str, Any]] = []
    for before, step in [*itertools.pairwise(STEPS), ("due", "ended")]:
        took = [
            1000 * (moments[step][each] - moments[before][each])
            for each in ended
            if each in moments[step] and each in moments[before]
        ]
        at_once = [len(ids) for _, ids in steps.get(step, []) if ids]
        of_each = [size for size in at_once for _ in range(size)]
        rows.append(
            {
                "durability": options.durability,
                "rate": options.rate,
                "step": step if before != "due" or step != "ended" else "all of it",
                "p50_ms": round(percentile(took, 0.5), 2),
                "p99_ms": round(percentile(took, 0.99), 2),
                "batches": len(at_once),
                "of_p50": percentile(of_each, 0.5),
                "of_p99": percentile(of_each, 0.99),
            }
        )
    shown = load.as_row()
    facts = {
        "ended": len(load.latencies),
        "failed": load.failures,
        "origin_ran": round(spent[0].ran_s / load.seconds, 2),
        "origin_waited": round(spent[0].waited_s / load.seconds, 2),
        "provider_ran": round(spent[1].ran_s / load.seconds, 2),
        "provider_waited": round(spent[1].waited_s / load.seconds, 2),
        "load_p50_ms": shown["p50_ms"],
        "load_p99_ms": shown["p99_ms"],
    }
    for who, pauses in (("origin", here.pauses), ("provider", there["pauses"])):
        for what in ("commit", "collector"):
            took_s = pauses.get(what, [0.0])
            facts[f"{who}_{what}s"] = len(took_s)
            facts[f"{who}_{what}_ms"] = round(1000 * percentile(took_s, 0.5), 2)
            facts[f"{who}_{what}_max_ms"] = round(1000 * max(took_s), 1)
    return [{**row, **facts} for row in rows]


async def _serve(options: argparse.Namespace) -> None:
    """The process of the node that answers."""
    marks, directory = Marks(), Path(options.place)
    watch(marks)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        settings = config(bundle(directory, "provider"), options.serve, options.durability)
        async with running(settings) as (node, _):
            await offer(node, wasm=False)
            async for _ in signals:
                break
    (directory / MARKS).write_text(json.dumps(marks.as_json()), encoding="ascii")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=10_000.0, help="messages per second")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--durability", default="normal", choices=("normal", "full"))
    parser.add_argument("--against", type=Path, help="another checkout, for example of an earlier commit")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        trio.run(_serve, options)
        return 0
    if options.measure:
        print(json.dumps(trio.run(_measure, options)))
        return 0
    from benchmarks.checkouts import in_turn, measured_in  # noqa: PLC0415 - measured code may lack it

    facts, rows = machine(), []
    checkouts = in_turn(options.against)
    arguments = ["--measure", "--rate", str(options.rate), "--seconds", str(options.seconds)]
    arguments += ["--durability", options.durability]
    header = ("step", "p50_ms", "p99_ms", "batches", "of_p50", "of_p99")
    for run in range(options.runs):
        for which, checkout in checkouts.items():
            found = measured_in(checkout, __file__, *arguments)
            facts_of_run = {key: value for key, value in found[0].items() if key not in header}
            print(f"\nrun {run + 1}, {which}: {facts_of_run}\n")
            show(header, [[row[column] for column in header] for row in found])
            rows += [{"checkout": which, "run": run, **row} for row in found]
    print(f"\n{facts}\nraw: {write('messaging-stages', facts, rows) if options.csv else 'not written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
