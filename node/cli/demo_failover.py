"""The end of the story: many requests at once, the loss of the node that answers, and no request lost.

Requests are sent without waiting, in batches, until the victim holds enough of them; nothing is slowed
down. The first batch is shared among the providers; where they are too quick for it, the next ones continue
the conversation with the victim, so that all of them go there. Its process then gets SIGKILL. What is
unsettled on it is read from the sender right before and right after, and the smaller number counts.
Afterwards each request must have ended with exactly one reply, and that reply must hold the same analysis as
the first one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from node.cli.client import segment
from node.cli.demo_story import (
    CAPABILITY,
    POLL_S,
    Answer,
    DemoFailed,
    Stage,
    analysis_of,
    members,
    node_of,
    request_body,
)

UNSETTLED_WANTED: Final = 10
"""Requests that must be unsettled on the victim when it is killed."""
UNSETTLED_MARGIN: Final = 12
"""How many more there must be before, since some may be settled while the signal is on its way."""
BATCHES: Final = (64, 64, 96, 128, 128)
"""Sizes of the batches, as long as the victim holds too few; the first is shared among the providers."""
MAX_BURST_BYTES: Final = 60_000_000
"""Most bytes of one burst; the outbox of a node holds 64 MiB."""
SENDING_AT_ONCE: Final = 8
DETECTION_S: Final = 40.0
"""Longest wait for the death to be noticed, in seconds."""
QUIET_S: Final = 30.0
"""How long no request may be answered before the rest is given up, in seconds."""
LOOKED_UP_AT_ONCE: Final = 24
"""Most requests looked up between two looks at the members."""


@dataclass(slots=True)
class Verdict:
    """What became of one request.

    Args:
        message_id: The request.
        answered_by: Who replied, ``agent@node``.
        replies: How many replies count.
        correct: Whether the reply is INFORM with the same analysis as the first.
        rerouted: Whether it was taken from the victim and given to another provider.
        outcome: How the sender's node closed it.
    """

    message_id: str
    answered_by: str | None
    replies: int
    correct: bool
    rerouted: bool
    outcome: str | None

    @property
    def answered(self) -> bool:
        """Exactly one reply, and the right one."""
        return self.replies == 1 and self.correct


@dataclass(slots=True)
class Failover:
    """What the loss of a node did.

    Args:
        victim: The node.
        victim_pid: Its process.
        unsettled_at_kill: Requests it had not settled then.
        burst: Requests sent.
        suspected_s: Seconds from the signal until the sender suspected it.
        detection_s: Seconds from the signal until the sender declared it dead.
        verdicts: One per request of the burst.
        members: All members as the sender saw them at the end.
    """

    victim: str
    victim_pid: int | None
    unsettled_at_kill: int = 0
    burst: int = 0
    suspected_s: float | None = None
    detection_s: float | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    members: list[dict[str, Any]] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Requests with exactly one reply, the right one."""
        return sum(verdict.answered for verdict in self.verdicts)

    @property
    def lost(self) -> int:
        """Requests without it."""
        return self.burst - self.answered

    @property
    def rerouted(self) -> int:
        """Requests that were taken from the victim and given to another provider.

        A few of them may have been answered by the victim: its reply had arrived, and it died before it
        could tell that it was done.
        """
        return sum(verdict.rerouted for verdict in self.verdicts)

    @property
    def answered_by(self) -> dict[str, int]:
        """Replies by agent."""
        return dict(sorted(Counter(v.answered_by for v in self.verdicts if v.answered_by).items()))

    @property
    def unanswered(self) -> list[dict[str, Any]]:
        """The requests without exactly one right reply, and how the sender's node closed them."""
        return [
            {"message_id": v.message_id, "outcome": v.outcome, "replies": v.replies, "rerouted": v.rerouted}
            for v in self.verdicts
            if not v.answered
        ]

    def missing(self) -> list[str]:
        """What the demo promised and did not show."""
        found = []
        if self.unsettled_at_kill < UNSETTLED_WANTED:
            found.append(
                f"only {self.unsettled_at_kill} requests were unsettled on {self.victim} when it was killed"
            )
        if self.lost:
            found.append(f"{self.lost} of {self.burst} requests do not have exactly one right reply")
        if not self.rerouted:
            found.append("no request was re-routed")
        return found


def tell_failover(stage: Stage, answer: Answer) -> Failover:
    """Load, loss, detection, and every answer.

    Raises:
        CaxtonError: something does not come; says what.
    """
    victim = stage.node(answer.node)
    found = Failover(victim.name, victim.pid)
    stage.scene.nodes[victim.name].role = "victim"
    with stage.step(f"Send requests until {victim.name} has more than it can settle") as step:
        sent = _load(stage, answer)
        found.burst = len(sent)
        step.detail = f"{len(sent)} requests sent without waiting"
    lookup = _Lookup(stage, sent, answer.analysis)
    with stage.step(f"Kill {victim.name} with SIGKILL") as step:
        before = _unsettled(stage, victim.name)
        victim.kill()
        killed_at = time.monotonic()
        found.unsettled_at_kill = min(before, _unsettled(stage, victim.name))
        step.detail = f"pid {victim.pid}, {found.unsettled_at_kill} requests unsettled on it"
    with stage.step(f"Notice the death of {victim.name}") as step:
        _await_death(stage, found, lookup, killed_at)
        step.detail = f"declared dead after {found.detection_s:.2f} s"
    with stage.step("Answer every request, over another provider where needed") as step:
        lookup.until_all_ended()
        found.verdicts = [lookup.verdict(message_id, victim.name) for message_id in sent]
        found.members = members(stage.sender)
        stage.scene.rerouted, stage.scene.answered = found.rerouted, found.answered
        by = ", ".join(f"{count} by {agent}" for agent, count in found.answered_by.items())
        step.detail = f"{found.rerouted} re-routed, {found.lost} lost; {by}"
    return found


def _load(stage: Stage, answer: Answer) -> list[str]:
    """Send batches until enough is unsettled on the victim; the ids of all requests."""
    balanced = request_body(stage, "load_balanced")
    sticky = request_body(stage, "best_match") | {"conversation_id": answer.conversation_id}
    most = MAX_BURST_BYTES // max(1, len(stage.csv.data))
    sent: list[str] = []

    def send(body: dict[str, Any]) -> str:
        message_id = str(stage.sender.client.call("POST", "/messages", body=body)["message_id"])
        stage.scene.sent += 1
        return message_id

    pool = ThreadPoolExecutor(SENDING_AT_ONCE)
    try:
        for number, size in enumerate(BATCHES):
            batch, body = min(size, most - len(sent)), sticky if number else balanced
            sent += pool.map(send, [body] * batch)
            how = f"the conversation with {answer.routed_to}" if number else "load_balanced"
            stage.screen.moved(f"REQUEST {CAPABILITY} x {batch}  client@{stage.sender.name} -> {how}")
            if _unsettled(stage, answer.node) >= UNSETTLED_WANTED + UNSETTLED_MARGIN:
                return sent
    finally:
        pool.shutdown(cancel_futures=True)
    raise DemoFailed(
        f"{answer.node} settles requests faster than they can be sent",
        why=f"{len(sent)} requests did not leave {UNSETTLED_WANTED + UNSETTLED_MARGIN} unsettled on it",
        fix="Give the demo a larger file with --csv.",
    )


def _unsettled(stage: Stage, node: str) -> int:
    """Requests of the sender that ``node`` has not settled, as the sender's status has it."""
    count: int = stage.sender.client.get("/status")["unsettled_by_node"].get(node, 0)
    stage.scene.nodes[node].unsettled = count
    return count


def _await_death(stage: Stage, found: Failover, lookup: _Lookup, killed_at: float) -> None:
    """Watch the sender's membership until the victim is dead, and its replies meanwhile."""
    while True:
        states = {m["name"]: m["state"] for m in members(stage.sender)}
        state, after_s = states.get(found.victim, "gone"), time.monotonic() - killed_at
        stage.scene.nodes[found.victim].state = state
        if state != "alive" and found.suspected_s is None:
            found.suspected_s = after_s
            stage.screen.moved(f"{stage.sender.name} suspects {found.victim} after {after_s:.2f} s")
        if state == "dead":
            found.detection_s = after_s
            stage.screen.moved(f"{stage.sender.name} declares {found.victim} dead after {after_s:.2f} s")
            return
        if after_s > DETECTION_S:
            raise DemoFailed(
                f"{stage.sender.name} has not noticed that {found.victim} is dead",
                why=f"after {DETECTION_S:.0f} s its state is {state!r}",
            )
        lookup.some()
        time.sleep(POLL_S)


class _Lookup:
    """Follows the requests of a burst on the sender's node.

    Args:
        stage: The nodes.
        sent: Ids of the requests.
        expected: The analysis that each reply must hold.
    """

    def __init__(self, stage: Stage, sent: list[str], expected: dict[str, Any]) -> None:
        self._stage, self._expected = stage, expected
        self._open = list(sent)
        self._get: Callable[..., Any] = stage.sender.client.get

    def some(self) -> None:
        """Look a few of the open requests up, the longest unseen first."""
        looked_up, self._open = self._open[:LOOKED_UP_AT_ONCE], self._open[LOOKED_UP_AT_ONCE:]
        for message_id in looked_up:
            history = self._get(f"/messages/{segment(message_id)}")
            if history.get("outcome") is None or not history.get("answered_by"):
                self._open.append(message_id)
                continue
            self._stage.scene.answered += 1
            by = node_of(str(history["replies"][0]["from"])) if history.get("replies") else ""
            if by in self._stage.scene.nodes:
                self._stage.scene.nodes[by].answered += 1
            if len(history.get("routes", ())) > 1:
                self._stage.scene.rerouted += 1

    def until_all_ended(self) -> None:
        """Look up until every request has ended with a reply, or none has for :data:`QUIET_S`."""
        still_open, changed_at = len(self._open), time.monotonic()
        while self._open and time.monotonic() - changed_at < QUIET_S:
            self.some()
            if len(self._open) != still_open:
                still_open, changed_at = len(self._open), time.monotonic()
            else:
                time.sleep(POLL_S)

    def verdict(self, message_id: str, victim: str) -> Verdict:
        """What became of one request, with its replies as the sender's node keeps them."""
        history = self._get(f"/messages/{segment(message_id)}")
        replies = [reply for reply in history["replies"] if reply["state"] != "late"]
        moved = [route["state"] == "moved" and node_of(route["to"]) == victim for route in history["routes"]]
        return Verdict(
            message_id,
            answered_by=str(replies[0]["from"]) if replies else None,
            replies=len(replies),
            correct=bool(replies) and self._is_expected(str(replies[0]["message_id"])),
            rerouted=any(moved) and not all(moved),
            outcome=history.get("outcome"),
        )

    def _is_expected(self, reply_id: str) -> bool:
        reply = self._get(f"/messages/{segment(reply_id)}")["message"]
        try:
            return analysis_of(reply) == self._expected
        except DemoFailed:
            return False
