"""Do harm to real nodes while clients send, then check the whole history, from outside and from disk.

    .venv/bin/python -m benchmarks.history --messages 5000 --kills 5 --rounds 20 --csv
    .venv/bin/python -m benchmarks.history --kills 0 --partitions 5 --rounds 5 --csv
    .venv/bin/python -m benchmarks.history --kills 0 --full-disks 5 --rounds 5 --csv

Each round has a cluster of its own of three processes on loopback. Clients, one per conversation and each at
one node, send requests with ids of their own in batches, and write down what they invoked, what was
acknowledged, refused, or never answered; what was not answered is sent again under the same ids. Meanwhile
harm comes to nodes, one after the other, at moments drawn from the seed: they are killed with SIGKILL and
started again, or cut off from the others, for a time below or above what membership takes to declare them
dead; or their disk is full until they have refused a message for it, and for a while longer
(:mod:`benchmarks.places`). In the end all are stopped, and this is checked:

* what was acknowledged is in its origin's database and was settled there, or is among its dead letters;
* what was settled was handled: a witness on some node has written so (``benchmarks/witness.py``);
* within one life of a node, each conversation was handled in the order in which it was sent;
* no witness ran twice for one message on one node, unless the node was killed in between;
* a node with a full disk refuses new messages with :data:`NO_ROOM`, and takes them again when there is room;
* nothing is open, and no log holds a traceback.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import apsw
import httpx

from benchmarks.places import Places, why_not
from benchmarks.report import machine, show, write
from benchmarks.witness import CAPABILITY, LOG
from tests.acceptance.processes import Cluster, Node, eventually

NAMES: Final = ("a", "b", "c")
COMMAND: Final = [sys.executable, "-P", "-m", "benchmarks.witness"]
CONVERSATIONS: Final = 6
BATCH: Final = 25
DOWN_S: Final = (0.0, 0.5, 2.0, 6.0)
"""How long a killed node stays away: below and above what membership takes to declare it dead."""
TTL_S: Final = 900.0
NEAR: Final = 12
"""Runs that are shown on either side of one that came out of order."""
DRAIN_S: Final = 180.0
EXAMPLES: Final = 3
"""Most broken promises of one kind that are told with their particulars."""
HARM_S: Final = 300.0
"""How long clients and harm wait for each other."""
REFUSED_S: Final = 30.0
"""How long a node may take to find out that its disk is full, or has room again."""
NO_ROOM: Final = "STORAGE_ERROR"
"""What is said of a message that the disk has no room for."""
ACCEPTED: Final = (202, "DUPLICATE_MESSAGE")
"""What acknowledges a message, or says that it was acknowledged before."""


@dataclass(slots=True)
class Report:
    """What came of a round.

    Args:
        counts: What happened, by kind.
        problems: Broken promises, in words; the first few of each kind.
    """

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def problem(self, what: str, example: object) -> None:
        """A promise was broken."""
        if sum(problem.startswith(what) for problem in self.problems) < EXAMPLES:
            self.problems.append(f"{what}: {str(example)[:500]}")
        self.counts["problems"] += 1


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a witness, as its node's log has it."""

    node: str
    message_id: str
    conversation: str
    number: int
    process: int


class History:
    """One round.

    Args:
        cluster: Fresh; its nodes are added here.
        seed: Draws who is killed when.
        messages: How many are sent in all.
        kills: How many nodes are killed.
        partitions: How many are cut off.
        full_disks: How many disks are full for a while.
    """

    def __init__(
        self,
        cluster: Cluster,
        seed: int,
        messages: int,
        kills: int,
        *,
        partitions: int = 0,
        full_disks: int = 0,
    ) -> None:
        self.report = Report()
        self._cluster, self._chance = cluster, random.Random(f"history {seed}")
        self._messages = messages
        self._harms = [self._kill] * kills + [self._cut_off] * partitions + [self._fill] * full_disks
        self._chance.shuffle(self._harms)
        self._begun = 0
        self._lock = threading.Lock()
        self._acknowledged: dict[str, str] = {}
        self._progress = threading.Condition(self._lock)
        self._refusals: Counter[tuple[str, str]] = Counter()
        self._places = Places(cluster, NAMES, apart=partitions > 0, small=full_disks > 0)
        self._nodes: dict[str, Node] = self._places.nodes

    def run(self) -> Report:
        """Send, do harm, mend it, stop and check."""
        try:
            return self._run()
        finally:
            self._cluster.close()
            self._places.close()

    def _run(self) -> Report:
        for name in NAMES:
            self._places.start(name, COMMAND, wait=False)
        for node in self._nodes.values():
            node.wait_ready()
        self._cluster.wait_for_each_other(*self._nodes.values())
        self._cluster.wait_for_providers(self._nodes.values(), **{CAPABILITY: NAMES})
        share = -(-self._messages // CONVERSATIONS)
        with ThreadPoolExecutor(CONVERSATIONS + 1) as pool:
            clients = [pool.submit(self._send, number, share) for number in range(CONVERSATIONS)]
            harm = pool.submit(self._do_harm)
            for each in (*clients, harm):
                each.result()
        started = time.monotonic()
        self._cluster.wait_for_each_other(*self._nodes.values())
        try:
            eventually(lambda: not any(map(_open, self._nodes.values())), within=DRAIN_S, every=0.3)
        except AssertionError:
            self.report.problem("some did not come to rest", {n.name: _open(n) for n in self._nodes.values()})
        self.report.counts["drained_ms"] = round(1000 * (time.monotonic() - started))
        for node in self._nodes.values():
            node.stop()
        self._check()
        return self.report

    # Clients and faults

    def _send(self, number: int, share: int) -> None:
        """One client: one conversation at one node, a batch after the other."""
        node, conversation = self._nodes[NAMES[number % len(NAMES)]], f"conversation-{number}"
        for first in range(0, share, BATCH):
            self._wait_for_harm(first, share)
            batch = {str(uuid.uuid4()): n for n in range(first, min(share, first + BATCH))}
            self._count("invoked", len(batch))
            while batch:
                items = [
                    {
                        "message_id": identifier,
                        "capability": CAPABILITY,
                        "content": content,
                        "conversation_id": conversation,
                        "ttl_s": TTL_S,
                    }
                    for identifier, content in batch.items()
                ]
                try:
                    answer = node.client.post("/messages/batch", json={"messages": items}, timeout=20)
                    results = answer.json()["results"] if answer.status_code < 300 else []
                    if not results:
                        self._refused(node.name, answer.json()["error"]["code"])
                except httpx.HTTPError:
                    results = []
                if not results:
                    self._count("batches_unanswered")
                    time.sleep(0.2)
                    continue
                batch = self._acknowledge(node.name, batch, results)

    def _wait_for_harm(self, sent: int, share: int) -> None:
        """Keep a part of what is to be sent for after each harm has begun, so that it hits somebody."""
        part = sent * (len(self._harms) + 1) // share
        with self._progress:
            self._progress.wait_for(lambda: self._begun >= part, timeout=HARM_S)

    def _acknowledge(self, node: str, batch: dict[str, int], results: list[dict[str, Any]]) -> dict[str, int]:
        """Write down what was acknowledged; returns what must be sent again, from the first refusal on."""
        with self._progress:
            for place, (identifier, result) in enumerate(zip(list(batch), results, strict=True)):
                said = result.get("code", 202)
                if said not in ACCEPTED:
                    self.report.counts[f"refused_{said}"] += 1
                    self._refusals[node, said] += 1
                    rest = list(batch.items())[place + 1 :]
                    later = [
                        i for (i, _), r in zip(rest, results[place + 1 :], strict=True) if "code" not in r
                    ]
                    if later:
                        self.report.problem(
                            "accepted after one that was refused before it", (identifier, later[0])
                        )
                    time.sleep(0.1)
                    return dict(list(batch.items())[place:])
                self._acknowledged[identifier] = node
            self._progress.notify_all()
        return {}

    def _refused(self, node: str, code: str) -> None:
        """A whole batch was refused."""
        with self._progress:
            self.report.counts[f"refused_{code}"] += 1
            self._refusals[node, code] += 1
            self._progress.notify_all()

    def _do_harm(self) -> None:
        """To one node after the other, each when so many messages have been acknowledged."""
        for number, harm in enumerate(self._harms):
            due = self._messages * (number + self._chance.random()) / (len(self._harms) + 1)
            with self._progress:
                self._progress.wait_for(lambda due=due: len(self._acknowledged) >= due, timeout=HARM_S)
            time.sleep(self._chance.uniform(0.0, 0.2))
            harm(self._chance.choice(NAMES), self._chance.choice(DOWN_S))

    def _kill(self, name: str, down_s: float) -> None:
        self._nodes[name].kill()
        self._has_begun("killed")
        time.sleep(down_s)
        self._places.start(name, COMMAND)

    def _cut_off(self, name: str, away_s: float) -> None:
        self._places.cut_off(name)
        self._has_begun("cut_off")
        time.sleep(away_s)
        self._places.heal(name)

    def _fill(self, name: str, longer_s: float) -> None:
        """Fill a disk until its node has refused a message for it, and see that it takes some afterwards."""
        refusals = self._refusals[name, NO_ROOM]
        self._places.fill(name)
        self._has_begun("filled")
        if not self._seen(name, lambda: self._refusals[name, NO_ROOM] > refusals):
            self.report.problem("a node with a full disk has refused nothing", name)
        time.sleep(longer_s)
        taken = self._taken(name)
        self._places.free(name)
        if not self._seen(name, lambda: self._taken(name) > taken):
            self.report.problem("a node whose disk has room again takes nothing", name)

    def _seen(self, name: str, what: Callable[[], bool]) -> bool:
        """Whether something is seen in time, or can be seen no more since all is sent."""
        with self._progress:
            return self._progress.wait_for(lambda: what() or not self._is_sending(name), timeout=REFUSED_S)

    def _taken(self, name: str) -> int:
        return sum(node == name for node in self._acknowledged.values())

    def _is_sending(self, name: str) -> bool:
        """Whether the clients of a node have still something to send."""
        clients = sum(NAMES[number % len(NAMES)] == name for number in range(CONVERSATIONS))
        return self._taken(name) < clients * (self._messages // CONVERSATIONS)

    def _has_begun(self, harm: str) -> None:
        with self._progress:
            self.report.counts[harm] += 1
            self._begun += 1
            self._progress.notify_all()

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.report.counts[what] += number

    # The check

    def _check(self) -> None:
        states, letters = {}, set()
        for name, node in self._nodes.items():
            connection = apsw.Connection(str(node.data_dir / "caxton.db"), flags=apsw.SQLITE_OPEN_READWRITE)
            for message_id, state, ended_s in connection.execute(
                "SELECT message_id, state, ended_s FROM outbox"
            ):
                states[message_id] = name, state, ended_s
            letters |= {
                message_id for (message_id,) in connection.execute("SELECT message_id FROM dead_letters")
            }
            connection.close()
        runs = list(self._runs())
        handled = {run.message_id for run in runs}
        for message_id, origin in self._acknowledged.items():
            found = states.get(message_id)
            if found is None or found[0] != origin:
                self.report.problem("an acknowledged message is not in its origin's database", message_id)
            elif found[2] is None:
                self.report.problem("an acknowledged message has not ended", (message_id, found))
            elif found[1] == "settled":
                self.report.counts["settled"] += 1
                if message_id not in handled:
                    self.report.problem("a settled message was handled by nobody", message_id)
            elif message_id in letters:
                self.report.counts["dead_letters"] += 1
            else:
                self.report.problem("a message was given up without a dead letter", (message_id, found))
        self.report.counts["acknowledged"] = len(self._acknowledged)
        check_runs(runs, self.report)

    def _runs(self) -> Iterator[Run]:
        for name, node in self._nodes.items():
            for line in (node.home / LOG).read_text().splitlines():
                what, message_id, conversation, number, process = line.split()
                if what == "begin":
                    yield Run(name, message_id, conversation, int(number), int(process))


def check_runs(runs: list[Run], report: Report) -> None:
    """What witnesses have done, held against what was promised."""
    lives: dict[tuple[str, str], list[int]] = defaultdict(list)
    lines: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for run in runs:
        lives[run.node, run.message_id].append(run.process)
        lines[run.node, run.process, run.conversation].append(run.number)
    report.counts["runs"] = len(runs)
    for key, processes in lives.items():
        report.counts["runs_again_after_a_kill"] += len(processes) - 1
        if len(set(processes)) < len(processes):
            report.problem("a handler ran twice for one message in one life of its node", key)
    for line, numbers in lines.items():
        report.counts["in_order"] += len(numbers)
        for place, (earlier, later) in enumerate(pairwise(numbers)):
            if later <= earlier:
                around = numbers[max(0, place - NEAR) : place + NEAR]
                report.problem("a conversation was handled out of order", (line, place, around))


def _open(node: Node) -> int:
    messaging = node.get("/status")["rooms"]["messaging"]
    outbox = messaging["outbox"]
    return int(outbox["open"] + outbox["backlog"] + messaging["inbox"]["held"] + messaging["local"])


def check(
    directory: Path, seed: int, messages: int, *, kills: int, partitions: int, full_disks: int
) -> Report:
    """One round in processes and directories of its own."""
    cluster = Cluster(directory / "cluster")
    try:
        history = History(cluster, seed, messages, kills, partitions=partitions, full_disks=full_disks)
        report = history.run()
        report.problems += [f"a traceback is in the log of {name}" for name in cluster.close()]
    finally:
        cluster.close()
    return report


def main() -> int:
    """Check round after round; the exit status is 1 when a promise was broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--messages", type=int, default=5_000, help="in each round")
    parser.add_argument("--kills", type=int, default=5, help="in each round")
    parser.add_argument("--partitions", type=int, default=0, help="in each round; needs root")
    parser.add_argument("--full-disks", type=int, default=0, help="in each round; needs root")
    parser.add_argument("--keep", type=Path, help="where to leave what is on the disks of a broken round")
    parser.add_argument("--csv", action="store_true", help="write the figures to results/")
    options = parser.parse_args()
    missing = why_not(apart=options.partitions > 0, small=options.full_disks > 0)
    if missing:
        print(f"this cannot be done here: {missing}", file=sys.stderr)
        return 2
    facts, rows = machine(), []
    for seed in range(options.seed, options.seed + options.rounds):
        with tempfile.TemporaryDirectory(prefix=f"history-{seed}-") as directory:
            report = check(
                Path(directory),
                seed,
                options.messages,
                kills=options.kills,
                partitions=options.partitions,
                full_disks=options.full_disks,
            )
            if report.problems and options.keep is not None:
                shutil.copytree(directory, options.keep / f"history-{seed}", dirs_exist_ok=True)
        rows.append({"seed": seed} | {key: report.counts[key] for key in COLUMNS})
        print(f"seed {seed}:", ", ".join(f"{key} {value}" for key, value in sorted(report.counts.items())))
        for problem in report.problems:
            print(f"  {problem}")
    total = {key: sum(int(row[key]) for row in rows) for key in COLUMNS}
    show(list(total), [list(total.values())])
    print(f"raw: {write(_name(options), facts, rows) if options.csv else 'not written'}")
    return int(bool(total["problems"]))


def _name(options: argparse.Namespace) -> str:
    """Of the file with the figures: by the harm that is done."""
    return "_".join(
        ["history", *["partitions"] * (options.partitions > 0), *["full_disks"] * (options.full_disks > 0)]
    )


COLUMNS: Final = (
    "acknowledged", "killed", "cut_off", "filled", "refused_STORAGE_ERROR", "settled", "dead_letters", "runs",
    "runs_again_after_a_kill", "in_order", "batches_unanswered", "drained_ms", "problems",
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
