"""Kill and pause real nodes at random while clients send, then check every message's history.

    .venv/bin/python -m benchmarks.torture --seed 1 --seconds 60

Of three node processes on loopback all offer one capability, two another, one a third. A few clients, one
per conversation, send through the admin APIs of the nodes in turn while a plan drawn from the seed kills
(SIGKILL) and pauses (SIGSTOP) nodes, the senders' own ones too, for times below and above what membership
takes to declare a node dead. Then everything is brought back, and the nodes have to come to rest. What is
checked, by the API alone:

* every message that was answered with 200 or 202 is known at its origin and has one terminal state,
* it has exactly one reply that counts; it is an answer, or FAILURE together with a dead letter,
* what was handled by one provider without being moved was handled in the order in which it was sent,
* nothing is open on any node, and no log holds a traceback.

The plan is the seed's; the interleaving is the machine's: run a failing seed more than once.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from tests.acceptance.agents import ECHO, scripted, write_worker
from tests.acceptance.processes import Cluster, Node, eventually

NAMES: Final = ("a", "b", "c")
PROVIDERS: Final = {"echo": ("a", "b", "c"), "slow-work": ("b", "c"), "lonely-work": ("c",)}
CAPABILITIES: Final = tuple(PROVIDERS)
SCRIPT: Final = """\
strict: true
rules:
  - times: 0
    latency_s: 0.1
    content: {done: true}
"""
CONVERSATIONS: Final = 6
DOWN_S: Final = (0.0, 1.0, 3.0, 7.0, 12.0)
"""How long a node is away: below and above what membership takes to declare it dead."""
TTL_S: Final = 600.0
PAUSE_BETWEEN_SENDS_S: Final = 0.05
DRAIN_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One node is away for a while.

    Args:
        at_s: Seconds from the start of the sending.
        node: The node.
        kill: SIGKILL and a new start, or SIGSTOP and SIGCONT.
        down_s: For how long.
    """

    at_s: float
    node: str
    kill: bool
    down_s: float


@dataclass(frozen=True, slots=True)
class Sent:
    """One message that a node has accepted."""

    origin: str
    conversation: str
    message_id: str


@dataclass(slots=True)
class Report:
    """What came of a run.

    Args:
        counts: What happened, by kind.
        problems: Broken promises, in words.
    """

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def plan(seed: int, seconds: float, down_s: Sequence[float] = DOWN_S) -> list[Fault]:
    """Faults of at least one node after another for ``seconds``; now and then of two at once."""
    chance = random.Random(f"torture {seed}")
    faults: list[Fault] = []
    free_from = dict.fromkeys(NAMES, 0.0)
    at_s = 0.0
    while True:
        at_s += chance.uniform(0.3, 4.0)
        if at_s >= seconds:
            return faults
        free = [name for name in NAMES if free_from[name] <= at_s]
        if len(free) < 2:
            continue
        fault = Fault(at_s, chance.choice(free), chance.random() < 0.75, chance.choice(down_s))
        free_from[fault.node] = at_s + fault.down_s + 3.0
        faults.append(fault)


class Torture:
    """One run against one cluster.

    Args:
        cluster: Fresh; its nodes are added here.
        directory: For agent files.
        seed: Draws the plan and what the clients send.
    """

    def __init__(self, cluster: Cluster, directory: Path, seed: int) -> None:
        self.report = Report()
        self._seed = seed
        self._stop = threading.Event()
        self._sent: list[Sent] = []
        self._lock = threading.Lock()
        self._cluster = cluster
        nodes = cluster.start(*NAMES, settings=scripted(directory, SCRIPT))
        self._nodes: dict[str, Node] = {node.name: node for node in nodes}
        files = {
            "echo": ECHO,
            "slow-work": write_worker(directory),
            "lonely-work": write_worker(directory, "Hermit", "lonely-work"),
        }
        for capability, names in PROVIDERS.items():
            for name in names:
                self._nodes[name].deploy(files[capability])
        cluster.wait_for_providers(
            nodes, **{capability.replace("-", "_"): names for capability, names in PROVIDERS.items()}
        )

    def run(self, seconds: float, down_s: Sequence[float] = DOWN_S, drain_s: float = DRAIN_S) -> Report:
        """Send and break things for ``seconds``, bring everything back, and check."""
        faults = plan(self._seed, seconds, down_s)
        with ThreadPoolExecutor(CONVERSATIONS + len(NAMES)) as pool:
            clients = [pool.submit(self._send, number) for number in range(CONVERSATIONS)]
            breakers = [
                pool.submit(self._break, [f for f in faults if f.node == name], time.monotonic())
                for name in NAMES
            ]
            for breaker in breakers:
                breaker.result()
            time.sleep(0.5)
            self._stop.set()
            for client in clients:
                client.result()
        self._drain(drain_s)
        self._check()
        return self.report

    # Clients and faults

    def _send(self, number: int) -> None:
        """One client: one conversation, one message after the other, to the nodes in turn."""
        chance = random.Random(f"client {self._seed} {number}")
        conversation = f"conversation-{number}"
        count = 0
        while not self._stop.wait(chance.uniform(0.0, 2 * PAUSE_BETWEEN_SENDS_S)):
            count += 1
            node = self._nodes[NAMES[(number + count) % len(NAMES)]]
            body: dict[str, Any] = {
                "capability": CAPABILITIES[number % len(CAPABILITIES)],
                "content": count,
                "conversation_id": conversation,
                "routing_strategy": "load_balanced",
                "ttl_s": TTL_S,
            }
            if chance.random() < 0.1:
                body["wait_s"] = 2.0
            try:
                answer = node.client.post("/messages", json=body, timeout=15)
            except httpx.HTTPError:
                self._count("send_unanswered")
                continue
            found = answer.json()
            if answer.status_code in (200, 202):
                message_id = found["message_id"]
            elif answer.status_code == 504:
                message_id = found["details"]["message_id"]
            else:
                self._count(f"send_refused_{answer.status_code}")
                continue
            self._count("accepted")
            with self._lock:
                self._sent.append(Sent(node.name, conversation, message_id))

    def _break(self, faults: Sequence[Fault], started: float) -> None:
        """Do to one node what the plan has for it."""
        for fault in faults:
            time.sleep(max(0.0, started + fault.at_s - time.monotonic()))
            node = self._nodes[fault.node]
            others = [other for other in self._nodes.values() if other is not node]
            if fault.kill:
                node.kill()
                self._count("killed")
                time.sleep(fault.down_s)
                node.start(*others)
            else:
                node.pause()
                self._count("paused")
                time.sleep(fault.down_s)
                node.resume()

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.report.counts[what] += number

    # The check

    def _drain(self, drain_s: float) -> None:
        started = time.monotonic()
        nodes = list(self._nodes.values())
        self._cluster.wait_for_each_other(*nodes)

        def at_rest() -> bool:
            return all(_open_messages(node) == 0 for node in nodes)

        try:
            eventually(at_rest, within=drain_s, every=0.2)
        except AssertionError:
            for node in nodes:
                status = node.get("/status")
                self._problem(f"{node.name} did not come to rest: {status['rooms']['messaging']}")
        self.report.counts["drained_ms"] = round(1000 * (time.monotonic() - started))

    def _check(self) -> None:
        histories = {sent.message_id: self._history(sent.origin, sent.message_id) for sent in self._sent}
        letters = {
            letter["message_id"]
            for node in self._nodes.values()
            for letter in node.get("/dead-letters", limit=200)["dead_letters"]
        }
        for sent in self._sent:
            history = histories[sent.message_id]
            if history is None:
                self._problem(f"{sent} vanished")
                continue
            self._check_end(sent, history, letters)
        self._check_order(histories)

    def _check_end(self, sent: Sent, history: dict[str, Any], letters: set[str]) -> None:
        counts = self.report.counts
        outcome = history["outcome"]
        counts[f"outcome_{outcome}"] += 1
        counts["moved"] += sum(event["event"] == "moved" for event in history["events"])
        counts["late"] += sum(event["event"].startswith("late") for event in history["events"])
        counted = [reply for reply in history["replies"] if reply["state"] != "late"]
        if outcome is None:
            self._problem(f"{sent} has not ended: {history}")
        elif len(counted) != 1:
            self._problem(f"{sent} ended {outcome} with {len(counted)} replies that count: {history}")
        elif outcome != "settled":
            self._problem(f"{sent} was given up: {history['reason']}: {history}")
            if sent.message_id not in letters:
                self._problem(f"{sent} was given up without a dead letter")
        elif counted[0]["from"].startswith("system@"):
            self._problem(f"{sent} was settled, and its reply is a FAILURE: {history}")

    def _check_order(self, histories: dict[str, dict[str, Any] | None]) -> None:
        """Each (conversation, sender, provider): what was never moved ended there in the order of sending."""
        lines: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
        for sent in self._sent:
            history = histories[sent.message_id]
            if history is None or len(history["routes"]) != 1 or history["events"]:
                continue
            to = history["routes"][0]["to"]
            there = self._history(to.partition("@")[2], sent.message_id)
            copies = (
                [] if there is None else [c for c in there["received"] if c["target"] == to.partition("@")[0]]
            )
            if len(copies) != 1 or "ended_at" not in copies[0]:
                self._problem(f"{sent} is said to be settled by {to}, which has not: {there}")
                continue
            lines[sent.conversation, sent.origin, to].append((copies[0]["ended_at"], sent.message_id))
        for line, ended in sorted(lines.items()):
            self.report.counts["in_order"] += len(ended)
            moments = [moment for moment, _ in ended]
            if moments != sorted(moments):
                self._problem(f"{line} was not handled in order: {ended}")

    def _history(self, node: str, message_id: str) -> dict[str, Any] | None:
        answer = self._nodes[node].client.get(f"/messages/{message_id}")
        found: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
        return found

    def _problem(self, what: str) -> None:
        self.report.problems.append(what)


def _open_messages(node: Node) -> int:
    messaging = node.get("/status")["rooms"]["messaging"]
    outbox, inbox = messaging["outbox"], messaging["inbox"]
    return int(outbox["open"] + outbox["backlog"] + inbox["held"] + messaging["local"])


def torture(directory: Path, seed: int, seconds: float) -> Report:
    """One run in processes and directories of its own."""
    cluster = Cluster(directory / "cluster")
    try:
        report = Torture(cluster, directory, seed).run(seconds)
        report.problems += [f"a traceback is in the log of {name}" for name in cluster.close()]
    finally:
        cluster.close()
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long things are broken, per seed")
    parser.add_argument("--keep", type=Path, default=None, help="where data and logs stay after a failure")
    options = parser.parse_args()
    failed = 0
    for seed in range(options.seed, options.seed + options.seeds):
        directory = Path(tempfile.mkdtemp(prefix=f"torture-{seed}-", dir=options.keep))
        report = torture(directory, seed, options.seconds)
        print(f"seed {seed}:", ", ".join(f"{key} {value}" for key, value in sorted(report.counts.items())))
        for problem in report.problems:
            print(f"  {problem}")
        if report.problems:
            failed += 1
            print(f"  data and logs are in {directory}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
