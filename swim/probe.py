"""Who is probed next, and how far the probe in flight has come.

Slots alternate. Every other one takes the next member of a shuffled round robin (SWIM, section 4.3): all
are probed once per round, in random order, so that probes of one member spread. The slots between take this
member's successor in the ring of names: so each member is probed by its predecessor every two intervals,
which bounds how long the first failed probe of a crashed member can take, whatever the size of the cluster.

One probe is in flight at a time. It moves DIRECT -> (relays and a stream) -> verdict. How long the direct
answer may take follows the round trips of that very member (RFC 6298), within bounds. A relay's side of an
indirect probe is a `Relayed`. Outside the turn a member is asked before a verdict (`check`), and one of the
past whether it lives (`knock`).
"""

import math
import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

from swim.config import SwimConfig
from swim.health import Health
from swim.inflight import NO_ANSWER, Answered, Probe, Question, Relayed
from swim.members import MemberTable, Record
from swim.messages import Ack, Message, Nack, Ping, PingRequest
from swim.paths import Paths

MAX_RELAYED: Final = 256
"""Most indirect probes done for others at once; further requests are refused and counted."""
MAX_RELAYED_PER_ORIGIN: Final = 64
"""Most of them for one member, so that nobody takes the relays away from the others."""
MAX_QUESTIONS: Final = 256
"""Most members asked outside the turn at once; the one asked first is given up."""
MAX_ASKED_AROUND_PER_S: Final = 32
"""Most members in a second that others are asked for before a verdict."""
MAX_AGAIN: Final = 64
"""Most members that are probed again soon, because the last probe left something open."""
MAX_RELAY_PATIENCE_S: Final = 60.0
STREAM_PATIENCE_S: Final = 2.5
"""How long a stream may take that is the only path: its first packet may be lost (RFC 6298: 1 s)."""
RELAY_ROUND_TRIPS: Final = 1.5
"""So many of its own round trips a relay waits for a target at least, whatever little patience it is asked to
have: else its signature would doubt who could not have answered yet."""
RELAY_SHARE: Final = 0.8
"""The part of the time before the verdict that a relay may take (Lifeguard's nack timeout)."""
ASK_AGAIN_SHARE: Final = 0.5
"""The part of its own time after which a relay asks a silent target once more."""


class ProbeRing:
    """The shuffled round robin.

    Args:
        rng: decides the order.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._members: dict[str, None] = {}
        self._round: list[str] = []  # may name who is gone, and is looked through once per round
        self._next = 0

    def add(self, name: str) -> None:
        """Insert a member at a random place of the rest of the round."""
        if name not in self._members:
            self._members[name] = None
            self._round.insert(self._rng.randint(self._next, len(self._round)), name)

    def discard(self, name: str) -> None:
        """Take a member out of the round."""
        self._members.pop(name, None)

    def next(self) -> str | None:
        """Return whom to probe now, or None when there is nobody."""
        while self._members:
            if self._next >= len(self._round):
                self._round = list(self._members)
                self._rng.shuffle(self._round)
                self._next = 0
            name = self._round[self._next]
            self._next += 1
            if name in self._members:
                return name
        return None


class Owner(Protocol):
    """What probing needs of the protocol around it."""

    name: str

    def send(
        self,
        record: Record,
        messages: Sequence[Message],
        *,
        statements: Sequence[bytes] = (),
    ) -> None:
        """Send messages in a datagram, tagged for the receiver."""

    def root(self) -> bytes:
        """Return the root of all replicated state."""

    def heard_lately(self, now: float) -> list[str]:
        """Return whom this member has heard from lately."""

    def estimated_rtt_s(self, record: Record) -> float | None:
        """Return what network coordinates say of a round trip."""

    def may_stream(self, name: str) -> bool:
        """Say whether a member may be asked over a stream."""

    def probe_stream(self, record: Record, ping: Ping, patience_s: float, now: float) -> bool:
        """Ask a member over a stream; say whether one could be opened."""

    def doubt(self, record: Record) -> bytes:
        """Return this member's signature for its doubt of a member's latest word."""

    def doubt_of_past(self, name: str) -> bytes:
        """Return this member's signature for its doubt of somebody who was reaped; empty for a stranger."""

    def introduction(self) -> list[bytes]:
        """Return the statements that tell a stranger who this is."""

    def probe_failed(self, record: Record, probe: Probe, now: float) -> None:
        """Doubt a member that has not answered."""

    def proved(self, name: str, now: float) -> None:
        """Somebody has proved that it lives."""

    def count(self, what: str) -> None:
        """Count something."""


class Prober:
    """Probes others, and probes for others.

    Args:
        config: the parameters.
        rng: decides the order, the relays and the first sequence number.
        owner: the protocol around it.
        table: where members are found.
        health: stretches intervals, and learns from the outcome.
        paths: learns which direct paths are in doubt.

    Attributes:
        ring: who is probed; kept by whoever changes the table.
    """

    def __init__(
        self,
        config: SwimConfig,
        rng: random.Random,
        owner: Owner,
        *,
        table: MemberTable,
        health: Health,
        paths: Paths,
    ) -> None:
        self.ring = ProbeRing(rng)
        self._config = config
        self._rng = rng
        self._table = table
        self._health = health
        self._paths = paths
        self._owner = owner
        self._sequence = rng.getrandbits(31)
        self._slot = rng.getrandbits(1)
        self._probe: Probe | None = None
        self._next_at: float | None = None
        self._again: OrderedDict[str, None] = OrderedDict()
        self._second = self._asked_around = 0
        self._was_again = False
        self._questions: OrderedDict[int, Question] = OrderedDict()
        self._relayed: dict[int, Relayed] = {}

    def start(self, now: float) -> None:
        """Begin probing, at a random moment of the first interval."""
        self._next_at = now + self._config.probe_interval_s * self._rng.random()

    def stop(self) -> None:
        """Probe nobody any more; requests of others are still served."""
        self._probe = self._next_at = None

    def handle_timer(self, now: float) -> None:
        """Move the probe in flight on, start the next one, and answer for relayed ones."""
        for sequence, relayed in [(s, r) for s, r in self._relayed.items() if r.due <= now]:
            if relayed.nack_at <= now:
                del self._relayed[sequence]
                self._refuse_relayed(relayed)
            else:
                relayed.again_at = math.inf
                self._ask_again(sequence, relayed)
        probe = self._probe
        if probe is not None and probe.deadline() <= now:
            if probe.indirect_at is not None and not probe.answered:
                self._ask_others(probe, now)
                return
            self._judge(probe, now)
        if self._probe is None and self._next_at is not None and self._next_at <= now:
            self._begin(now)

    def next_timer(self) -> float | None:
        """Return when `handle_timer` is wanted."""
        due = self._next_at if self._probe is None else self._probe.deadline()
        if self._relayed:
            first = min(relayed.due for relayed in self._relayed.values())
            due = first if due is None else min(due, first)
        return due

    def acked(self, ack: Ack, sender: str, now: float, *, by_stream: bool = False) -> Answered:
        """Take an authentic Ack of our own probe, from the target or a relay, or of a relayed one."""
        found = NO_ANSWER
        subject = ack.subject or sender
        probe, question = self._probe, self._questions.get(ack.sequence)
        if probe is not None and (ack.sequence, subject) == (probe.sequence, probe.target):
            if sender == subject or sender in probe.relays:
                found = Answered(self._answered(probe, sender, now, by_stream=by_stream), probe.root)
        elif question is not None and question.target == subject == sender:
            del self._questions[ack.sequence]
            self._owner.proved(sender, now)
            found = Answered(None, question.shown)
        relayed = self._relayed.get(ack.sequence)
        if relayed is not None and relayed.target == subject == sender:
            del self._relayed[ack.sequence]
            origin = self._table.get(relayed.origin)
            if origin is not None:
                self._owner.send(origin, [Ack(relayed.sequence, subject, b"")])
        return found

    def nacked(self, nack: Nack, sender: str) -> None:
        """Take a relay's authentic word that it lives though the target does not answer it."""
        probe = self._probe
        if probe is not None and nack.sequence == probe.sequence and sender in probe.relays:
            probe.relays[sender] = "not answered either"
            if nack.doubt:
                probe.doubts[sender] = nack.doubt

    def asked_who(self, sequence: int, sender: str) -> None:
        """The target of a ping does not know our latest life: introduce ourselves, and ask again."""
        probe, question = self._probe, self._questions.get(sequence)
        record, root = self._table.get(sender), self._owner.root()
        if record is None:
            return
        if probe is not None and (probe.sequence, probe.target) == (sequence, sender):
            probe.root = root
        elif question is not None and question.target == sender:
            self._questions[sequence] = Question(sender, root)
        else:
            return
        self._owner.count("introductions")
        ping = Ping(sequence, sender, root)
        self._owner.send(record, [ping], statements=self._owner.introduction())

    def check(self, record: Record, *, introduce: bool = False) -> Ping:
        """Ask a member, or somebody of the past, whether it lives, outside the turn; return the question."""
        sequence, root = self._new_sequence(), self._owner.root()
        self._questions[sequence] = Question(record.name, root)
        if len(self._questions) > MAX_QUESTIONS:
            self._questions.popitem(last=False)
        statements = self._owner.introduction() if introduce else []
        ping = Ping(sequence, record.name, root)
        self._owner.send(record, [ping], statements=statements)
        return ping

    def ask_around(self, record: Record, sequence: int, patience_s: float, now: float) -> None:
        """Ask some members for a member, who tell its latest word with their answers.

        Who has missed a refutation would else bury somebody who is well for all others. When many seem to
        have died at once it is not that, and no more than :data:`MAX_ASKED_AROUND_PER_S` are asked for.
        """
        if int(now) != self._second:
            self._second, self._asked_around = int(now), 0
        if self._asked_around >= MAX_ASKED_AROUND_PER_S:
            return
        self._asked_around += 1
        patience_ms = max(1, int(1000 * min(patience_s, MAX_RELAY_PATIENCE_S)))
        request = PingRequest(sequence, record.name, patience_ms)
        for relay in self._choose_relays(record.name, now):
            self._owner.send(relay, [request])

    def relay(self, request: PingRequest, origin: Record, now: float) -> None:
        """Ping somebody for a peer."""
        target = self._table.get(request.target)
        if target is None:
            self._owner.count("relays_about_the_past")
            doubt = self._owner.doubt_of_past(request.target)
            self._owner.send(origin, [Nack(request.sequence, doubt)])
            return
        by_origin = sum(relayed.origin == origin.name for relayed in self._relayed.values())
        if len(self._relayed) >= MAX_RELAYED or by_origin >= MAX_RELAYED_PER_ORIGIN:
            self._owner.count("dropped_relay_refused")
            return
        shortest_s = max(self._config.probe_timeout_min_s, RELAY_ROUND_TRIPS * target.rtt.srtt_s)
        patience_s = min(max(request.patience_ms / 1000, shortest_s), MAX_RELAY_PATIENCE_S)
        sequence = self._new_sequence()
        nack_at, again_at = now + patience_s, now + patience_s * ASK_AGAIN_SHARE
        self._relayed[sequence] = Relayed(origin.name, request.sequence, target.name, nack_at, again_at)
        self._owner.send(target, [Ping(sequence, target.name, self._owner.root())])

    def direct_timeout_s(self, record: Record) -> float:
        """Return how long a direct answer of a member may take, before local health stretches it."""
        estimate_s = self._owner.estimated_rtt_s(record)
        return record.rtt.timeout_s(
            self._config.probe_timeout_min_s,
            self._config.probe_timeout_s,
            fallback_s=None if estimate_s is None else 3 * estimate_s,
        )

    def statistics(self) -> dict[str, int]:
        """Count what awaits an answer."""
        return {
            "relayed_probes": len(self._relayed),
            "questions_open": len(self._questions),
            "probed_again_soon": len(self._again),
        }

    # ---- inside -----------------------------------------------------------------------------

    def _choose(self) -> Record | None:
        """Return whom to probe in this slot."""
        self._slot ^= 1
        if self._slot:
            return self._table.successor(self._owner.name)
        self._was_again = not self._was_again and bool(self._again)
        while self._was_again and self._again:
            record = self._table.get(self._again.popitem(last=False)[0])
            if record is not None and record.is_up:
                return record
        name = self.ring.next()
        return None if name is None else self._table.get(name)

    def _begin(self, now: float) -> None:
        stretch = self._health.multiplier
        self._next_at = now + self._config.probe_interval_s * stretch
        record = self._choose()
        if record is None:
            return
        direct_s = self.direct_timeout_s(record) * stretch
        verdict_at = now + direct_s * self._config.probe_verdict_mult
        sequence, root = self._new_sequence(), self._owner.root()
        self._probe = Probe(sequence, record.name, now, direct_s, now + direct_s, verdict_at, root=root)
        self._owner.count("probes")
        self._owner.send(record, [Ping(sequence, record.name, root)])

    def _ask_others(self, probe: Probe, now: float) -> None:
        probe.indirect_at = None
        record = self._table.get(probe.target)
        if record is None or not record.is_up:
            probe.verdict_at = now
            return
        # If this process stalled, relays still get their full time before the verdict; and their Nacks have
        # to travel: one that came later would confirm nothing, and its relay would pass for silent.
        relays = self._choose_relays(probe.target, now)
        longest_s = self._config.probe_timeout_s
        away_s = max((relay.rtt.timeout_s(0.0, longest_s, fallback_s=0.0) for relay in relays), default=0.0)
        patience_s = probe.direct_s * (self._config.probe_verdict_mult - 1)
        patience_s = max(patience_s, away_s + probe.direct_s / RELAY_SHARE)
        if self._paths.is_lost(probe.target) and self._owner.may_stream(probe.target):
            # Only a stream can save it, and one lost packet of a stream costs a second.
            patience_s = max(patience_s, STREAM_PATIENCE_S)
        probe.verdict_at = max(probe.verdict_at, now + patience_s)
        relay_s = (patience_s - away_s) * RELAY_SHARE
        patience_ms = max(1, int(min(relay_s, MAX_RELAY_PATIENCE_S) * 1000))
        request = PingRequest(probe.sequence, probe.target, patience_ms)
        for relay in relays:
            probe.relays[relay.name] = ""
            self._owner.send(relay, [request])
        ping = Ping(probe.sequence, probe.target, probe.root)
        probe.streamed = self._owner.probe_stream(record, ping, patience_s, now)

    def _choose_relays(self, target: str, now: float) -> list[Record]:
        """Draw relays; a member that hears few asks those few first: others would neither ask nor confirm."""
        count = self._config.indirect_probes
        drawn = self._table.choose(self._rng, count, exclude=target)
        if self._health.is_well:
            return drawn
        known = [self._table.get(name) for name in self._owner.heard_lately(now) if name != target]
        heard = [record for record in known if record is not None and record.is_up]
        first = self._rng.sample(heard, min(count, len(heard)))
        return [*first, *(record for record in drawn if record not in first)][:count]

    def _answered(self, probe: Probe, sender: str, now: float, *, by_stream: bool) -> float | None:
        path = "stream" if by_stream else "direct" if sender == probe.target else "relay"
        if not probe.answered:
            probe.answered = path
            # A stream over a lost path has longer, but once it has answered nobody waits for more than usual.
            usual_s = probe.direct_s * self._config.probe_verdict_mult
            probe.verdict_at = min(probe.verdict_at, max(now, probe.sent_at + usual_s))
            self._health.probe_answered()
            self._owner.count("probes_answered")
            self._owner.proved(probe.target, now)
        if path != "direct":
            return None
        probe.answered = path  # even if it comes after a relay's
        self._paths.answered(probe.target)
        return now - probe.sent_at

    def _judge(self, probe: Probe, now: float) -> None:
        self._probe = None
        record = self._table.get(probe.target)
        self._health.probe_ended(answered=bool(probe.answered), directly=probe.answered == "direct")
        if probe.answered:
            if probe.answered != "direct" and record is not None:
                self._owner.count(f"probes_saved_by_{probe.answered}")
                if self._paths.saved(probe.target, probe.answered, now):
                    self._probe_again(probe.target)
            return
        self._owner.count("probes_failed")
        nacks = sum(bool(outcome) for outcome in probe.relays.values())
        self._health.probe_failed(relays=len(probe.relays), nacks=nacks)
        if record is not None and record.is_up:
            self._probe_again(probe.target)
            self._owner.probe_failed(record, probe, now)

    def _probe_again(self, name: str) -> None:
        self._again[name] = None
        if len(self._again) > MAX_AGAIN:
            self._again.popitem(last=False)

    def _ask_again(self, sequence: int, relayed: Relayed) -> None:
        target = self._table.get(relayed.target)
        if target is not None:
            self._owner.send(target, [Ping(sequence, target.name, self._owner.root())])

    def _refuse_relayed(self, relayed: Relayed) -> None:
        """Tell who asked that we live and the target is silent, with our own signed doubt."""
        origin, target = self._table.get(relayed.origin), self._table.get(relayed.target)
        if origin is None:
            return
        doubt, said = b"", []
        if target is not None and target.is_up:
            doubt = self._owner.doubt(target)
            said.append(target.encoded)
        elif target is not None:
            said.append(target.encoded_verdict)
        self._owner.send(origin, [Nack(relayed.sequence, doubt)], statements=said)

    def _new_sequence(self) -> int:
        self._sequence = (self._sequence + 1) % 2**32
        return self._sequence
