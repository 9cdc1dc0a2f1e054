"""What is asked and not answered yet: the probe in flight, pings for others, questions outside the turn."""

from dataclasses import dataclass, field
from typing import Final, NamedTuple


@dataclass(slots=True)
class Probe:
    """The probe in flight.

    Attributes:
        sequence: ties acks to it.
        target: who is probed.
        sent_at: when.
        direct_s: how long the direct answer may take.
        indirect_at: when relays are asked; None once they were.
        verdict_at: when silence counts as a failure.
        relays: relays asked, and what came of it: "" while nothing.
        doubts: the signed doubts of relays.
        root: of all replicated state, as it was shown with the ping.
        streamed: whether a stream was tried.
        answered: by which path an Ack came: `direct`, `relay`, `stream`; "" while none.
    """

    sequence: int
    target: str
    sent_at: float
    direct_s: float
    indirect_at: float | None
    verdict_at: float
    relays: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, bytes] = field(default_factory=dict)
    root: bytes = b""
    streamed: bool = False
    answered: str = ""

    def deadline(self) -> float:
        """Return when this probe next needs attention."""
        if self.indirect_at is None or self.answered:
            return self.verdict_at
        return self.indirect_at

    def describe(self) -> str:
        """Say in words by which paths the target was tried."""
        relays = [f"relay {name} {outcome or 'silent'}" for name, outcome in self.relays.items()]
        stream = ["stream silent"] if self.streamed else []
        return ", ".join([f"no direct answer within {self.direct_s * 1000:.0f} ms", *relays, *stream])


@dataclass(slots=True)
class Relayed:
    """A ping sent for somebody else.

    Attributes:
        origin: who asked.
        sequence: the origin's number of the probe.
        target: who is pinged.
        nack_at: when the origin is told that we live though the target is silent.
        again_at: when the target is asked once more: the doubt of a relay counts as much as a prober's, and
            one lost packet is no reason for it. Infinite once it was.
    """

    origin: str
    sequence: int
    target: str
    nack_at: float
    again_at: float

    @property
    def due(self) -> float:
        """When there is something to do."""
        return min(self.again_at, self.nack_at)


class Answered(NamedTuple):
    """What the Ack of an own ping came to.

    Attributes:
        rtt_s: the round trip in seconds, if it measures one.
        shown: the root that the ping has shown; empty if no such ping is open.
    """

    rtt_s: float | None
    shown: bytes


class Question(NamedTuple):
    """A ping outside the turn.

    Attributes:
        target: who is asked.
        shown: the root that it was shown.
    """

    target: str
    shown: bytes


NO_ANSWER: Final = Answered(None, b"")
