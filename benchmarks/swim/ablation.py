"""The production classes with parts of the protocol taken out: what those parts are worth, on equal ground.

Nothing is written anew: a context manager patches the classes of ``swim`` while a simulated cluster runs, so
that both sides of a comparison share the codec, the gossip, the repair by roots, the probes with their
relays, the simulator and its faults. What both ablations lack, compared with caxton:

* **quorums**: one accuser is enough. Its Suspect is announced at once and starts everybody's timer, and any
  Dead is believed at once.
* **the last check**: nobody asks a suspect once more before the verdict, and an ack alone postpones nothing.
* **telling**: an accusation goes to the suspect by gossip only; a refutation goes to all by gossip only, and
  nobody corrects who spreads an outdated accusation.
* **patience**: a member that stalls does not ask for longer suspicions.
* **stalls**: a process that stood still gives nobody time back, and its lag does not count as ill health.
* **the stream probe** (``stream_probes`` is off), and relays' doubts as signatures.

:func:`plain_swim` is SWIM with suspicion (Das et al., DSN 2002, section 4.2): besides the above it has no
local health, no nacks, one fixed suspicion timeout whoever confirms, and no verdict on packets to a suspect.
:func:`lifeguard` keeps what Lifeguard adds (Dadgar et al., 2018) as memberlist has it: local health, nacks
for it, a suspicion that shrinks with independent accusers, and the buddy system.

Left in, to the advantage of both: a paused process reads what has arrived before its timers fire (the
simulator's driver does that), members that differ repair by their roots, those lately dead still hear gossip,
the ring successor is probed in every other slot, and who failed to answer is probed again soon.
"""

# ruff: noqa: SLF001 - an ablation reaches inside on purpose

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

from simulations.production import configuration
from swim.accusations import Accusations
from swim.codec import encode_message
from swim.config import SwimConfig
from swim.core import Core
from swim.health import Health
from swim.inflight import Probe, Relayed
from swim.members import Record
from swim.messages import Address, Alive, Dead, DecodeError, Message, Statement, doubt_bytes
from swim.outgoing import Outgoing
from swim.own_word import OwnWord
from swim.probe import Prober
from swim.reception import Reception
from swim.suspicion import Case

MEMBERLIST_PROBE_TIMEOUT_S: Final = 0.5
MEMBERLIST_SUSPICION_MULT: Final = 4
MEMBERLIST_SUSPICION_MAX_MULT: Final = 6


@dataclass(frozen=True, slots=True)
class System:
    """What can be put to the same test.

    Attributes:
        about: In a few words.
        config: Its parameters, by the number of members.
        ablation: Patches the production classes while it is open.
    """

    about: str
    config: Callable[[int], SwimConfig]
    ablation: Callable[[], AbstractContextManager[None]] = nullcontext


def memberlist_suspicion_s(members: int) -> float:
    """The shortest suspicion of memberlist's LAN profile, in seconds."""
    return MEMBERLIST_SUSPICION_MULT * max(1.0, math.log10(members))


def _lan(_: int) -> SwimConfig:
    return configuration("lan", {})


def _plain(_: int) -> SwimConfig:
    return _fixed(configuration("lan", {}).suspicion_min_s)


def _fixed(suspicion_s: float, **changes: float) -> SwimConfig:
    fixed = {"suspicion_min_s": suspicion_s, "suspicion_max_s": suspicion_s, "suspicion_confirmations": 0}
    return configuration(
        "lan", {"health_max": 0, "doubt_margin_s": 0.0, "stream_probes": False, **fixed, **changes}
    )


def _memberlist_probes() -> dict[str, Any]:
    """Half a second for the direct answer, the verdict after a whole interval."""
    return {
        "probe_timeout_min_s": MEMBERLIST_PROBE_TIMEOUT_S,
        "probe_timeout_s": MEMBERLIST_PROBE_TIMEOUT_S,
        "probe_verdict_mult": 2.0,
    }


def _memberlist_suspicion(members: int) -> dict[str, Any]:
    shortest_s = memberlist_suspicion_s(members)
    longest_s = MEMBERLIST_SUSPICION_MAX_MULT * shortest_s
    return {"suspicion_min_s": shortest_s, "suspicion_max_s": longest_s, "suspicion_confirmations": 2}


def _plain_slow(members: int) -> SwimConfig:
    return _fixed(memberlist_suspicion_s(members), **_memberlist_probes())


def _slow(members: int) -> SwimConfig:
    return configuration("lan", {**_memberlist_suspicion(members), **_memberlist_probes()})


def _lifeguard(members: int) -> SwimConfig:
    changes = {"health_max": 7, "doubt_margin_s": 0.0, "stream_probes": False, **_memberlist_probes()}
    return configuration("lan", {**_memberlist_suspicion(members), **changes})


@contextmanager
def plain_swim() -> Iterator[None]:
    """Make the production classes plain SWIM with suspicion; see the module's docstring."""
    with ExitStack() as stack:
        for owner, name, replacement in (*_WITHOUT, *_WITHOUT_LIFEGUARD):
            stack.enter_context(patch.object(owner, name, replacement))
        yield


@contextmanager
def lifeguard() -> Iterator[None]:
    """Make the production classes SWIM with Lifeguard, as memberlist has it; see the module's docstring."""
    with ExitStack() as stack:
        for owner, name, replacement in (*_WITHOUT, (Accusations, "doubt", _unconfirmed_doubt)):
            stack.enter_context(patch.object(owner, name, replacement))
        yield


SYSTEMS: Final[dict[str, System]] = {
    "caxton": System("profile lan", _lan),
    "swim": System("plain SWIM, caxton's timers, suspicion fixed at caxton's shortest", _plain, plain_swim),
    "swim-slow": System(
        "plain SWIM, memberlist's timers, suspicion fixed at its shortest", _plain_slow, plain_swim
    ),
    "lifeguard-slow": System("SWIM and Lifeguard, memberlist's timers", _lifeguard, lifeguard),
    "caxton-slow": System("caxton's protocol, memberlist's timers", _slow),
}
"""By the name that the command line knows."""


# ---- what takes the place of production methods --------------------------------------------------------


def _one_is_enough(_: Accusations, wanted: int) -> int:
    del wanted
    return 1


def _is_signed(self: Accusations, record: Record, author: str, signature: bytes) -> bool:
    """Whoever is known may accuse, held for dead or not."""
    accuser = self._table.get(author)
    if accuser is None or author == record.name:
        return False
    alive = record.alive
    signed = doubt_bytes(alive.name, alive.boot, alive.incarnation, author)
    if not self._verify(accuser.public_key, signature, signed):
        raise DecodeError("bad_signature")
    return True


def _review_suspicion(self: Accusations, record: Record, case: Case, now: float) -> bool:
    """The verdict falls when the time is up, and on nothing else."""
    case.due = case.deadline()
    if now >= case.due:
        dead = Dead(record.name, case.boot, case.incarnation, case.authors(), self._owner.name)
        dead = replace(dead, signature=self._identity.sign(dead.signed_bytes()))
        self._bury(record, case, dead, encode_message(dead), now)
    return False


def _believe(  # noqa: PLR0917 - the arguments of what it replaces
    self: Accusations, record: Record, case: Case, dead: Dead, encoded: bytes, now: float
) -> None:
    self._bury(record, case, dead, encoded, now)


_doubt = Accusations.doubt


def _unconfirmed_doubt(
    self: Accusations, record: Record, confirmations: Mapping[str, bytes], now: float
) -> None:
    """A nack says that the relay lives, and signs nothing."""
    del confirmations
    _doubt(self, record, {}, now)


def _refute_by_gossip(self: Core, statement: Statement, now: float) -> tuple[bytes, ...]:
    self._own.hear(statement, now, lambda said: self._signatures_in(said, now))
    return ()


def _refute_always(_: OwnWord, signatures: int, now: float) -> bool:
    del now
    return signatures > 0


def _impatient(self: OwnWord, now: float) -> Alive:
    del now
    return self.alive


def _nothing(*_: object) -> None:
    return None


def _no_heartbeat(_: OwnWord, now: float, *, is_well: bool, is_heard: bool) -> None:
    del now, is_well, is_heard


def _no_stall(*_: object) -> bool:
    return False


_send = Outgoing.send


def _send_no_verdict(
    self: Outgoing,
    to: Address,
    messages: Sequence[Message],
    record: Record | None = None,
    *,
    statements: Sequence[bytes] = (),
) -> None:
    """No buddy system."""
    del record
    _send(self, to, messages, statements=statements)


_ask_others = Prober._ask_others


def _ask_others_in_time(self: Prober, probe: Probe, now: float) -> None:
    """The verdict falls when it was planned, however late this process is."""
    planned = probe.verdict_at
    _ask_others(self, probe, now)
    probe.verdict_at = min(planned, probe.verdict_at)


def _no_nack(_: Prober, relayed: Relayed) -> None:
    del relayed


_WITHOUT: Final[tuple[tuple[type, str, Callable[..., Any]], ...]] = (
    (Reception, "_correct", _nothing),
    (Accusations, "_quorum", _one_is_enough),
    (Accusations, "_is_valid", _is_signed),
    (Accusations, "_review_suspicion", _review_suspicion),
    (Accusations, "_take_verdict", _believe),
    (Accusations, "acked", _nothing),
    (Core, "tell_subject", _nothing),
    (Core, "about_self", _refute_by_gossip),
    (OwnWord, "stalled", _nothing),
    (OwnWord, "handle_timer", _no_heartbeat),
    (OwnWord, "_with_patience", _impatient),
    (OwnWord, "_shall_refute", _refute_always),
    (Health, "timer_lagged", _no_stall),
    (Health, "loop_lagged", _nothing),
    (Prober, "_ask_others", _ask_others_in_time),
)
"""What both ablations replace."""
_WITHOUT_LIFEGUARD: Final[tuple[tuple[type, str, Callable[..., Any]], ...]] = (
    (Outgoing, "send", _send_no_verdict),
    (Prober, "_refuse_relayed", _no_nack),
)
"""What plain SWIM lacks besides; local health is off by its parameter."""
