"""User events and queries, for operators: announce something to every node, ask them all, and answer.

Events are kept for a while, in a bounded ring, for the admin API. Each node answers two questions: ``ping``
(its name and version) and ``uptime`` (seconds). Other names are answered by nobody, and counted.
What travels is swim's (``swim.user_events``, ``swim.queries``): signed, and gossiped.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from node.environment import Environment
from node.errors import ResourceLimitExceeded, ValidationFailed
from node.message import iso8601
from swim import events
from swim.protocol import Swim
from swim.queries import Asked, QueryResult, TooManyQueries, default_timeout_s
from swim.user_events import UserEvent

RECENT_USER_EVENTS: Final = 256
"""User events kept for the admin API; the oldest goes first."""
GRACE_S: Final = 1.0
"""How much longer than its timeout a query is waited for."""


class UserTraffic:
    """The user events and queries of one node.

    Args:
        swim: Reaches the members.
        environment: Says what time it is.
        version: Of this software.
        wake: Lets swim's driver send what was begun.
    """

    def __init__(
        self, swim: Swim, environment: Environment, version: str, *, wake: Callable[[], None]
    ) -> None:
        self._swim, self._clock, self._wake = swim, environment.clock, wake
        self._started_at = self._clock.now()
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT_USER_EVENTS)
        self._ends: dict[bytes, trio.Event] = {}  # as many as swim has open queries, at most
        self._counts: Counter[str] = Counter({"answered": 0, "unanswered": 0, "answers_late": 0})
        self._answers: dict[str, Callable[[], str]] = {
            "ping": lambda: f"{swim.name} {version}",
            "uptime": lambda: f"{self._clock.now() - self._started_at:.3f}",
        }

    def fire(self, name: str, payload: str) -> dict[str, Any]:
        """Announce something to every member; return the event.

        Raises:
            ValidationFailed: the name or the payload is out of its bounds.
        """
        try:
            event = self._swim.traffic.fire(name, payload.encode(), self._clock.now())
        except ValueError as error:
            raise _invalid("event", error) from None
        self._wake()
        return self._keep(event)

    async def ask(
        self, name: str, payload: str, *, nodes: Sequence[str] = (), timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Ask the members, this one included, and return what came back in time.

        Args:
            name: Of the question.
            payload: What goes with it.
            nodes: Who shall answer; nobody means everybody, and then the whole time is waited.
            timeout_s: How long answers are waited for; as long as gossip takes if None.

        Raises:
            ValidationFailed: an argument is out of its bounds.
            ResourceLimitExceeded: too many queries are open.
        """
        own = self._swim.name
        others = [node for node in dict.fromkeys(nodes) if node != own]
        answers: dict[str, str] = {}
        if name in self._answers and (not nodes or own in nodes):
            answers[own] = self._answers[name]()
        if timeout_s is None:
            members = sum(member.is_up for member in self._swim.members()) + 1
            timeout_s = default_timeout_s(members, self._swim.config.gossip_interval_s)
        finished = True
        if others or not nodes:
            result = await self._gather(name, payload.encode(), others, timeout_s)
            answers |= {node: answer.decode(errors="replace") for node, answer in result.responses.items()}
            finished = result.finished
        shown = [{"node": node, "answer": answer} for node, answer in sorted(answers.items())]
        return {"name": name, "finished": finished, "answers": shown}

    def recent_events(self) -> list[dict[str, Any]]:
        """The latest user events that were fired or heard here, oldest first, at most 256."""
        return list(self._recent)

    def note(self, event: events.Event) -> None:
        """Take an event of swim; called on the loop."""
        if isinstance(event, events.UserEventHeard):
            self._keep(event.event)
        elif isinstance(event, events.QuestionHeard):
            self._answer(event.asked)
        elif isinstance(event, events.QueryFinished):
            end = self._ends.get(event.query_id)
            if end is not None:
                end.set()

    def statistics(self) -> dict[str, int]:
        """Questions of others by what became of them, and what is kept."""
        return {**self._counts, "events_kept": len(self._recent), "queries_waited": len(self._ends)}

    def _answer(self, asked: Asked) -> None:
        answer = self._answers.get(asked.question.name)
        if answer is None:
            self._counts["unanswered"] += 1
        elif self._swim.traffic.answer(asked, answer().encode(), self._clock.now()):
            self._counts["answered"] += 1
        else:
            self._counts["answers_late"] += 1

    def _keep(self, event: UserEvent) -> dict[str, Any]:
        kept = {
            "name": event.name,
            "payload": event.payload.decode(errors="replace"),
            "author": event.author,
            "lamport_time": event.time,
            "heard_at": iso8601(self._clock.wall()),
        }
        self._recent.append(kept)
        return kept

    async def _gather(self, name: str, payload: bytes, nodes: Sequence[str], timeout_s: float) -> QueryResult:
        now = self._clock.now()
        try:
            query = self._swim.traffic.ask(name, payload, now, timeout_s=timeout_s, nodes=nodes)
        except ValueError as error:
            raise _invalid("query", error) from None
        except TooManyQueries as error:
            raise ResourceLimitExceeded(
                "too many queries are open on this node", why=str(error), fix="Try again when one has ended."
            ) from None
        end = self._ends[query] = trio.Event()
        try:
            self._wake()
            with self._clock.move_on_after(timeout_s + GRACE_S):
                await end.wait()
        finally:
            del self._ends[query]
        return self._swim.traffic.collect(query)


def _invalid(what: str, error: ValueError) -> ValidationFailed:
    return ValidationFailed(
        f"this cannot be a user {what}",
        why=str(error),
        fix="A name has 1 to 64 bytes of printable text; a payload at most 512 bytes, of a query 1,024.",
    )
