"""Queries: a question to every member, or to some, answered directly to who asked (serf's queries).

    A                       B                       C
    |--- question (gossip) --------->|--- question (gossip) --->|
    |<-- response: ack --------------|                          |     if acks are wanted
    |<-- response: answer -----------|                          |
    |<-- response: answer -------------------------------------|

The author gathers one answer per member until the time is up. Questions are signed by their author
(`swim.query_messages`); a response is not, and counts only if the caller knows, by the packet's
authentication, which member sent it. Each question is taken once, as events are (`swim.lamport`).
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from swim.identity import Identity
from swim.lamport import MAX_TIMES, StatementLog, VerifyAuthor
from swim.messages import Boot
from swim.query_messages import (
    MAX_RESPONSE_PAYLOAD_BYTES,
    MAX_TIMEOUT_S,
    Question,
    Tags,
    decode_question,
    decode_response,
    encode_question,
    encode_response,
    question_id,
)

MAX_OPEN: Final = 64
"""Queries of our own that gather answers at once, and as many that wait to be collected."""
MAX_RESPONDERS: Final = 4_096
"""Members whose answer one query takes."""
MAX_GATHERED_BYTES: Final = 16 * 1024 * 1024
"""Answers kept for all queries together."""
MAX_ANSWERABLE: Final = 1_024
"""Questions of others that wait for our answer; the oldest makes room."""
TIMEOUT_MULT: Final = 16
"""serf's QueryTimeoutMult."""


class TooManyQueries(Exception):
    """So many queries of this member gather answers already that another one is refused."""

    code = "too_many_queries"

    def __init__(self) -> None:
        super().__init__(f"{MAX_OPEN} queries of this member are open: wait until one of them has ended")


class UnknownQuery(LookupError):
    """No query of this member has that id, or its result was collected before."""

    code = "unknown_query"

    def __init__(self, query_id: bytes) -> None:
        super().__init__(f"no query {query_id.hex()}: it was never asked here, or collected already")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was heard for the first time.

    Attributes:
        id: 8 bytes by which responses refer to it.
        question: what is asked, and by whom.
        deadline: until when an answer is waited for, in seconds on this member's clock.
        concerns_us: whether the filters let this member answer.
    """

    id: bytes
    question: Question
    deadline: float
    concerns_us: bool


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What has come back.

    Attributes:
        acks: members that acknowledged, in the order heard.
        responses: answer per member, in the order heard.
        finished: whether the time is up, or everybody who was named has answered.
    """

    acks: tuple[str, ...]
    responses: dict[str, bytes]
    finished: bool


@dataclass(slots=True)
class _Open:
    """A query of our own that gathers answers."""

    deadline: float
    nodes: tuple[str, ...]
    everybody_named: bool
    acks: dict[str, None] = field(default_factory=dict)
    responses: dict[str, bytes] = field(default_factory=dict)


def default_timeout_s(members: int, gossip_interval_s: float, *, mult: int = TIMEOUT_MULT) -> float:
    """Return how long serf would wait: `mult` * ceil(log10(n + 1)) gossip intervals.

    Args:
        members: size of the cluster.
        gossip_interval_s: seconds between two gossip ticks.
        mult: the factor.
    """
    return mult * math.ceil(math.log10(max(1, members) + 1)) * gossip_interval_s


class Queries:
    """The queries of one member: its own, and those it is asked.

    Args:
        identity: signs what this member asks.
        boot: this life of the process.
        verify_author: says whether a member's key made a signature.
        tags: of this member, for filters; assign to the attribute when they change.
        max_buffer: Lamport times whose questions are remembered.
    """

    def __init__(
        self,
        identity: Identity,
        boot: Boot,
        verify_author: VerifyAuthor,
        *,
        tags: Mapping[str, str] | None = None,
        max_buffer: int = MAX_TIMES,
    ) -> None:
        self.tags = dict(tags or {})
        self._identity = identity
        self._boot = boot
        self._verify_author = verify_author
        self._log = StatementLog(max_times=max_buffer)
        self._open: dict[bytes, _Open] = {}
        self._done: OrderedDict[bytes, QueryResult] = OrderedDict()
        self._ended: list[bytes] = []
        self._gathered_bytes = 0
        self._answerable: OrderedDict[bytes, float] = OrderedDict()
        self._counts: Counter[str] = Counter({f"queries_{what}": 0 for what in _COUNTED})

    @property
    def clock(self) -> int:
        """The Lamport time, to be told in push-pulls."""
        return self._log.clock.time

    def joined(self, clock: int) -> None:
        """Take a peer's clock from an authenticated push-pull; older questions are not taken."""
        self._log.joined(clock)

    # Asking

    def ask(
        self,
        name: str,
        payload: bytes,
        now: float,
        *,
        timeout_s: float,
        nodes: Sequence[str] = (),
        tags: Tags | None = None,
        want_ack: bool = False,
        no_broadcast: bool = False,
    ) -> tuple[bytes, bytes]:
        """Ask the members; this one is not asked.

        Args:
            name: 1 to 64 bytes of printable text.
            payload: at most 1,024 bytes.
            now: time in seconds.
            timeout_s: how long answers are waited for, above 0 and at most 600; see `default_timeout_s`.
            nodes: names of those who shall answer, at most 64; nobody means everybody.
            tags: accepted values per tag, at most 16 of 16; no value means that the tag must be there.
            want_ack: let members acknowledge receipt before they answer.
            no_broadcast: members do not gossip the question on, because the caller sends it to all itself.

        Returns:
            The query's id, and the encoded question to gossip.

        Raises:
            ValueError: for an argument out of its bounds, or a question too long for a datagram.
            TooManyQueries: if 64 queries are open.
        """
        if len(self._open) >= MAX_OPEN:
            raise TooManyQueries
        if not 0.001 <= timeout_s <= MAX_TIMEOUT_S:
            raise ValueError(f"a query waits for 0.001 to {MAX_TIMEOUT_S:.0f} s, not {timeout_s!r}")
        question = Question(
            name=name,
            payload=payload,
            author=self._identity.name,
            boot=self._boot,
            time=self._log.next_time((self._identity.name, self._boot)),
            nodes=tuple(nodes),
            tags={tag: tuple(values) for tag, values in (tags or {}).items()},
            wants_ack=want_ack,
            forward=not no_broadcast,
            timeout_ms=int(timeout_s * 1000),
            signature=b"",
        )
        encoded = encode_question(question, self._identity)
        self._log.add_own(encoded, (question.author, question.boot), question.time)
        query_id = question_id(encoded)
        everybody_named = bool(question.nodes) and not question.tags
        self._open[query_id] = _Open(now + timeout_s, question.nodes, everybody_named)
        self._counts["queries_asked"] += 1
        return query_id, encoded

    def receive_response(self, encoded: bytes, sender: str, now: float) -> bool:
        """Take a response to one of our queries.

        Args:
            encoded: the response.
            sender: the member that sent it, as the packet's authentication says.
            now: time in seconds.

        Returns:
            Whether it counts.
        """
        try:
            query_id, answer = decode_response(encoded)
        except ValueError:
            return self._drop("malformed_response")
        query = self._open.get(query_id)
        if query is None or now >= query.deadline:
            return self._drop("late_response")
        if query.nodes and sender not in query.nodes:
            return self._drop("unasked_response")
        known: Mapping[str, object] = query.acks if answer is None else query.responses
        if sender in known:
            return self._drop("repeated_response")
        if len(known) >= MAX_RESPONDERS or self._gathered_bytes + len(answer or b"") > MAX_GATHERED_BYTES:
            return self._drop("response_over_limit")
        if answer is None:
            query.acks[sender] = None
            return True
        query.responses[sender] = answer
        self._gathered_bytes += len(answer)
        self._counts["queries_responses"] += 1
        if query.everybody_named and len(query.responses) == len(query.nodes):
            self._end(query_id)
        return True

    def collect(self, query_id: bytes) -> QueryResult:
        """Return what has come back; a finished query is given out once, and forgotten.

        Raises:
            UnknownQuery: if there is no such query, or it was collected.
        """
        query = self._open.get(query_id)
        if query is not None:
            return QueryResult(tuple(query.acks), dict(query.responses), finished=False)
        result = self._done.pop(query_id, None)
        if result is None:
            raise UnknownQuery(query_id)
        self._gathered_bytes -= sum(map(len, result.responses.values()))
        return result

    def finished(self) -> list[bytes]:
        """Drain the ids of queries that have ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def next_timer(self) -> float | None:
        """Return when the first open query ends."""
        if not self._open:
            return None
        return min((query.deadline for query in self._open.values()), default=None)

    def handle_timer(self, now: float) -> None:
        """End the queries whose time is up."""
        if not self._open:
            return
        for query_id in [query_id for query_id, query in self._open.items() if query.deadline <= now]:
            self._end(query_id)

    def _end(self, query_id: bytes) -> None:
        query = self._open.pop(query_id)
        self._done[query_id] = QueryResult(tuple(query.acks), query.responses, finished=True)
        self._ended.append(query_id)
        if len(self._done) > MAX_OPEN:
            forgotten, result = self._done.popitem(last=False)
            self._gathered_bytes -= sum(map(len, result.responses.values()))
            self._ended = [ended for ended in self._ended if ended != forgotten]
            self._counts["queries_uncollected"] += 1

    # Being asked

    def receive(self, encoded: bytes, now: float) -> Asked | None:
        """Take a question that gossip brought.

        Args:
            encoded: the question, from anybody.
            now: time in seconds.

        Returns:
            The question if it is new: to be gossiped on if it says `forward`, and to be answered if
            it concerns this member. None if it is to be dropped.
        """
        if self._log.holds(encoded):
            self._counts["queries_duplicate"] += 1
            return None
        try:
            question = decode_question(encoded)
        except ValueError:
            self._counts["queries_malformed"] += 1
            return None
        refusal = self._log.take(
            encoded,
            (question.author, question.boot),
            question.time,
            lambda: self._verify_author(question.author, question.signed_bytes(), question.signature),
        )
        if refusal:
            self._counts[f"queries_{refusal}"] += 1
            return None
        asked = Asked(
            question_id(encoded),
            question,
            now + question.timeout_ms / 1000,
            question.concerns(self._identity.name, self.tags),
        )
        self._counts["queries_heard"] += 1
        if asked.concerns_us:
            self._answerable[asked.id] = asked.deadline
            if len(self._answerable) > MAX_ANSWERABLE:
                self._answerable.popitem(last=False)
                self._counts["queries_unanswered"] += 1
        return asked

    def acknowledge(self, asked: Asked, now: float) -> bytes | None:
        """Return the acknowledgement to send to the author, None if none is wanted or it is too late."""
        if not asked.question.wants_ack or not asked.concerns_us or now >= asked.deadline:
            return None
        return encode_response(asked.id, None)

    def answer(self, asked: Asked, payload: bytes, now: float) -> bytes | None:
        """Return the response to send to the author.

        Args:
            asked: as `receive` returned it.
            payload: at most 1,024 bytes.
            now: time in seconds.

        Returns:
            The response, or None if the question was answered before, does not concern this member,
            or is not waited for any more; that is counted.

        Raises:
            ValueError: for a payload that is too long.
        """
        if len(payload) > MAX_RESPONSE_PAYLOAD_BYTES:
            raise ValueError(
                f"{len(payload)} bytes in an answer, and {MAX_RESPONSE_PAYLOAD_BYTES} are allowed"
            )
        deadline = self._answerable.pop(asked.id, None)
        if deadline is None or now >= deadline:
            self._counts["queries_answer_refused"] += 1
            return None
        self._counts["queries_answered"] += 1
        return encode_response(asked.id, payload)

    def statistics(self) -> dict[str, int]:
        """Count questions and responses by what became of them, and what is held."""
        return {
            **self._counts,
            **self._log.statistics("queries"),
            "queries_open": len(self._open),
            "queries_to_collect": len(self._done),
            "queries_answerable": len(self._answerable),
            "queries_gathered_bytes": self._gathered_bytes,
        }

    def _drop(self, reason: str) -> bool:
        self._counts[f"queries_{reason}"] += 1
        return False


_COUNTED: Final = (
    "asked", "responses", "uncollected", "heard", "answered", "unanswered", "answer_refused", "duplicate",
    "malformed", "too_old", "conflicting", "bad_signature", "too_far_ahead", "malformed_response",
    "late_response", "unasked_response", "repeated_response", "response_over_limit",
)  # fmt: skip
