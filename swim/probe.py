"""Who is probed next, and how far the probe in flight has come.

Members are probed in shuffled round robin (SWIM, section 4.3): every member is probed once per
round, so detection time is bounded, and the order is random, so probes of one member spread. New
members enter at a random place of the round.

One probe is in flight at a time. It moves DIRECT -> INDIRECT -> verdict; a relay's side of an
indirect probe is a `Relayed`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from swim.config import SwimConfig
from swim.health import Health
from swim.members import MemberTable, Record
from swim.messages import Ack, Address, Message, Nack, Ping, PingRequest

MAX_RELAYED: Final = 256
"""Most indirect probes done for others at once; further requests are refused and counted."""


class ProbeRing:
    """The shuffled round robin.

    Args:
        rng: decides the order.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._names: list[str] = []
        self._next = 0

    def add(self, name: str) -> None:
        """Insert a member at a random place of the rest of the round."""
        if name not in self._names:
            self._names.insert(self._rng.randint(self._next, len(self._names)), name)

    def discard(self, name: str) -> None:
        """Take a member out of the round."""
        if name in self._names:
            place = self._names.index(name)
            del self._names[place]
            if place < self._next:
                self._next -= 1

    def next(self) -> str | None:
        """Return whom to probe now, or None when there is nobody."""
        if not self._names:
            return None
        if self._next >= len(self._names):
            self._rng.shuffle(self._names)
            self._next = 0
        name = self._names[self._next]
        self._next += 1
        return name


@dataclass(slots=True)
class Probe:
    """The probe in flight.

    Attributes:
        sequence: ties acks to it.
        target: who is probed.
        indirect_at: when relays are asked; None once they were.
        verdict_at: when silence counts as a failure.
        relays: names of the relays asked whose Nack has not come.
        asked: how many relays were asked.
        answered: whether an Ack came.
    """

    sequence: int
    target: str
    indirect_at: float | None
    verdict_at: float
    relays: list[str] = field(default_factory=list)
    asked: int = 0
    answered: bool = False

    def deadline(self) -> float:
        """Return when this probe next needs attention."""
        if self.indirect_at is None or self.answered:
            return self.verdict_at
        return self.indirect_at


@dataclass(slots=True)
class Relayed:
    """A ping sent for somebody else.

    Attributes:
        origin: where the answer goes.
        sequence: the origin's number of the probe.
        target: who is pinged.
        nack_at: when the origin is told that we live though the target is silent; None once done.
        expires_at: when the answer interests nobody any more.
    """

    origin: Address
    sequence: int
    target: str
    nack_at: float | None
    expires_at: float

    def deadline(self) -> float:
        """Return when this needs attention."""
        return self.expires_at if self.nack_at is None else self.nack_at


class Owner(Protocol):
    """What probing needs of the protocol around it."""

    def send(self, to: Address, messages: Sequence[Message], record: Record | None = None) -> None:
        """Send messages in a datagram."""

    def root(self) -> bytes:
        """Return the root of the replicated map."""

    def accuse(self, record: Record, now: float) -> None:
        """Doubt a member that has not answered."""

    def count(self, what: str) -> None:
        """Count something."""


class Prober:
    """Probes others, and probes for others.

    Args:
        config: the parameters.
        rng: decides the order, the relays and the first sequence number.
        table: where members are found.
        health: stretches intervals, and learns from the outcome.
        owner: the protocol around it.

    Attributes:
        ring: who is probed; kept by whoever changes the table.
    """

    def __init__(
        self,
        config: SwimConfig,
        rng: random.Random,
        table: MemberTable,
        health: Health,
        owner: Owner,
    ) -> None:
        self.ring = ProbeRing(rng)
        self._config = config
        self._rng = rng
        self._table = table
        self._health = health
        self._owner = owner
        self._sequence = rng.getrandbits(31)
        self._probe: Probe | None = None
        self._next_at: float | None = None
        self._relayed: dict[int, Relayed] = {}

    def start(self, now: float) -> None:
        """Begin probing, at a random moment of the first interval."""
        self._next_at = now + self._config.probe_interval_s * self._rng.random()

    def stop(self) -> None:
        """Probe nobody any more; requests of others are still served."""
        self._probe = self._next_at = None

    def handle_timer(self, now: float) -> None:
        """Move the probe in flight on, start the next one, and answer for relayed ones."""
        for sequence, relayed in list(self._relayed.items()):
            if relayed.nack_at is not None and relayed.nack_at <= now:
                relayed.nack_at = None
                self._owner.send(relayed.origin, [Nack(relayed.sequence)])
            if relayed.expires_at <= now:
                del self._relayed[sequence]
        probe = self._probe
        if probe is not None and probe.deadline() <= now:
            if probe.indirect_at is not None and not probe.answered:
                self._ask_relays(probe, now)
                return
            self._judge(probe, now)
        if self._probe is None and self._next_at is not None and self._next_at <= now:
            self._begin(now)

    def next_timer(self) -> float | None:
        """Return when `handle_timer` is wanted."""
        times = [relayed.deadline() for relayed in self._relayed.values()]
        if self._probe is not None:
            times.append(self._probe.deadline())
        elif self._next_at is not None:
            times.append(self._next_at)
        return min(times, default=None)

    def acked(self, ack: Ack, sender: str) -> None:
        """Take an Ack of our own probe, from the target or a relay, or of a relayed one."""
        probe = self._probe
        if (
            probe is not None
            and not probe.answered
            and (ack.sequence, ack.subject) == (probe.sequence, probe.target)
        ):
            probe.answered = True
            self._health.probe_answered()
            self._owner.count("probes_answered")
            if sender != ack.subject:
                self._owner.count("probes_saved_by_relay")
        relayed = self._relayed.get(ack.sequence)
        if relayed is not None and relayed.target == ack.subject == sender:
            del self._relayed[ack.sequence]
            answer = Ack(relayed.sequence, ack.subject, ack.root)
            self._owner.send(relayed.origin, [answer])

    def nacked(self, nack: Nack, sender: str) -> None:
        """Take a relay's word that it lives though the target does not answer it."""
        probe = self._probe
        if probe is not None and nack.sequence == probe.sequence and sender in probe.relays:
            probe.relays.remove(sender)

    def relay(self, request: PingRequest, source: Address, origin: Record | None, now: float) -> None:
        """Ping somebody for a peer; strangers are neither pinged nor served."""
        target = self._table.get(request.target)
        if origin is None or target is None or len(self._relayed) >= MAX_RELAYED:
            self._owner.count("dropped_relay_refused")
            return
        sequence = self._new_sequence()
        self._relayed[sequence] = Relayed(
            source,
            request.sequence,
            request.target,
            now + 0.8 * self._config.probe_timeout_s,
            now + self._config.probe_interval_s,
        )
        ping = Ping(sequence, request.target, self._owner.root())
        self._owner.send(target.alive.address, [ping], target)

    def statistics(self) -> dict[str, int]:
        """Count the pings sent for others that await an answer."""
        return {"relayed_probes": len(self._relayed)}

    def _begin(self, now: float) -> None:
        stretch = self._health.multiplier
        self._next_at = now + self._config.probe_interval_s * stretch
        name = self.ring.next()
        record = None if name is None else self._table.get(name)
        if record is None:
            return
        indirect_at = now + self._config.probe_timeout_s * stretch
        probe = Probe(self._new_sequence(), record.alive.name, indirect_at, self._next_at)
        self._probe = probe
        self._owner.count("probes")
        ping = Ping(probe.sequence, probe.target, self._owner.root())
        self._owner.send(record.alive.address, [ping], record)

    def _ask_relays(self, probe: Probe, now: float) -> None:
        probe.indirect_at = None
        # If this process stalled, relays still get their full time before the verdict.
        patience_s = self._config.probe_interval_s - self._config.probe_timeout_s
        probe.verdict_at = max(probe.verdict_at, now + patience_s)
        request = PingRequest(probe.sequence, probe.target)
        for relay in self._table.choose(self._rng, self._config.indirect_probes, exclude=probe.target):
            probe.relays.append(relay.alive.name)
            probe.asked += 1
            self._owner.send(relay.alive.address, [request], relay)

    def _judge(self, probe: Probe, now: float) -> None:
        self._probe = None
        if probe.answered:
            return
        self._owner.count("probes_failed")
        self._health.probe_failed(relays=probe.asked, nacks=probe.asked - len(probe.relays))
        record = self._table.get(probe.target)
        if record is not None and record.is_up:
            self._owner.accuse(record, now)

    def _new_sequence(self) -> int:
        self._sequence = (self._sequence + 1) % 2**32
        return self._sequence
