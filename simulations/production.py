"""What the simulator knows of the membership core beyond its verbs: the one place to change with it.

The core is used as its driver uses it (``swim/driver.py``). Whatever else is needed, to start members that
know each other already, to name the kind of a packet, to know which statistic has which bound, is said here,
so that a change of the core is a change of this file.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from simulations.timeline import EPOCH_S
from swim.broadcast import NothingReplicated, Replicated
from swim.config import ProfileName, SwimConfig
from swim.events import (
    Event,
    MemberAlive,
    MemberDied,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberRefuted,
    MemberSuspected,
    MemberUpdated,
)
from swim.evidence import MAX_SUBJECTS
from swim.hearing import MAX_HEARD
from swim.identity import Authority, ClusterAuthority, Ed25519Identity, issue_credential, verify
from swim.learning import MAX_KNOCKS
from swim.members import Member, Record, State
from swim.messages import Address
from swim.pairwise import MAX_PAIR_KEYS, agree
from swim.probe import MAX_AGAIN, MAX_QUESTIONS, MAX_RELAYED
from swim.protocol import Swim
from swim.reception import MAX_CORRECTED, MAX_SEEN

CLUSTER: Final = "simulated"
VALID_S: Final = 50 * 365 * 86_400.0
"""Credentials outlive every run."""
MAX_VERIFIED: Final = 1_000_000
"""Answers about signatures that are remembered; then all are forgotten."""
MAX_AGREED: Final = 1_000_000
"""Keys that only one of two members has asked for; then all are forgotten."""
MIN_LAG_S: Final = 0.05
"""A shorter lag is not told (``swim.driver.MIN_LAG_S``, which cannot be imported without Trio)."""
Version = tuple[int, bytes, int]
"""Boot (time and id) and incarnation: which word of a member's own is meant."""


class Identities:
    """One authority, and an identity per name that follows from the name alone."""

    def __init__(self) -> None:
        self._ca = Ed25519PrivateKey.from_private_bytes(_key("authority"))
        self.authority = ClusterAuthority(self._ca.public_key().public_bytes_raw(), CLUSTER)
        self._issued: dict[str, Ed25519Identity] = {}

    def of(self, name: str) -> Ed25519Identity:
        """The identity of a name, the same in every run."""
        identity = self._issued.get(name)
        if identity is None:
            key = Ed25519PrivateKey.from_private_bytes(_key(f"node {name}"))
            credential = issue_credential(
                self._ca,
                cluster=CLUSTER,
                name=name,
                public_key=key.public_key().public_bytes_raw(),
                not_after=EPOCH_S + VALID_S,
            )
            identity = self._issued[name] = Ed25519Identity(name, key, credential)
        return identity


def _key(what: str) -> bytes:
    return hashlib.sha256(f"simulated {what}".encode()).digest()


def configuration(profile: str, changes: dict[str, Any]) -> SwimConfig:
    """The parameters of all members.

    Args:
        profile: Name of a profile of the core.
        changes: Parameters set on top of it.

    Raises:
        ValueError: for a value that cannot work.
        TypeError: for a parameter that does not exist.
    """
    return SwimConfig.profile(cast("ProfileName", profile), **{"label": CLUSTER, **changes})


class Cryptography:
    """Checks Ed25519 signatures and credentials and agrees on X25519 keys, each member for itself.

    Nothing is remembered but what each production member remembers by itself.

    Args:
        authority: Whose credentials count.
    """

    def __init__(self, authority: ClusterAuthority) -> None:
        self._authority = authority
        self._asked = 0

    def authority(self) -> Authority:
        """Who decides for one member whose statements count."""
        return ClusterAuthority(self._authority.ca_public_key, self._authority.cluster)

    def check(self, public_key: bytes, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` is that of ``data`` under ``public_key``."""
        self._asked += 1
        return verify(public_key, signature, data)

    def agree(self, own: X25519PrivateKey, own_public: bytes, other: bytes, label: bytes) -> bytes:
        """Return the key shared by the owners of two public keys; raise ValueError for one of low order."""
        return agree(own, own_public, other, label)

    def statistics(self) -> dict[str, int]:
        """Count questions about signatures."""
        return {"signatures_asked": self._asked}


class SharedCryptography(Cryptography):
    """The same for all members of a cluster together: no pure function is computed twice.

    A statement that a thousand members receive is checked once instead of a thousand times, and the key that
    two members share is come to once instead of by each. Only results are remembered, never identities: who
    asks again gets the answer that it would get without it, and a run leaves the same trace.
    """

    def __init__(self, authority: ClusterAuthority) -> None:
        super().__init__(authority)
        self._known: dict[tuple[bytes, bytes, bytes], bool] = {}
        self._keys: dict[tuple[frozenset[bytes], bytes], bytes] = {}

    def authority(self) -> Authority:
        """The one of all members, which checks a credential once."""
        return self._authority

    def check(self, public_key: bytes, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` is that of ``data`` under ``public_key``."""
        self._asked += 1
        question = (public_key, signature, data)
        answer = self._known.get(question)
        if answer is None:
            if len(self._known) >= MAX_VERIFIED:
                self._known.clear()
            answer = self._known[question] = verify(public_key, signature, data)
        return answer

    def agree(self, own: X25519PrivateKey, own_public: bytes, other: bytes, label: bytes) -> bytes:
        """Return the key shared by the owners of two public keys; raise ValueError for one of low order."""
        pair = (frozenset((own_public, other)), label)
        key = self._keys.pop(pair, None)  # there are two who ask
        if key is None:
            key = self._keys[pair] = agree(own, own_public, other, label)
            if len(self._keys) > MAX_AGREED:
                self._keys.clear()
        return key

    def statistics(self) -> dict[str, int]:
        """Count questions, and answers that are remembered."""
        return {**super().statistics(), "signatures_known": len(self._known)}


def build(
    config: SwimConfig,
    identities: Identities,
    name: str,
    address: Address,
    chance: random.Random,
    *,
    cryptography: Cryptography,
    gossip_keys: Sequence[bytes] = (),
    replicated: Callable[[str], Replicated] | None = None,
) -> Swim:
    """A member that has not started.

    Args:
        config: Its parameters.
        identities: Who everybody is.
        name: Its name.
        address: Where others reach it.
        chance: Its randomness; its entropy is drawn from it too.
        cryptography: Checks signatures and agrees on keys.
        gossip_keys: Keys of the packets' encryption; a checksum without any.
        replicated: Makes the map that rides along, by the member's name.
    """
    return Swim(
        config,
        identities.of(name),
        cryptography.authority(),
        address=address,
        meta=b"",
        replicated=NothingReplicated() if replicated is None else replicated(name),
        rng=chance,
        entropy=chance.randbytes,
        gossip_keys=gossip_keys,
        verify=cryptography.check,
        agree=cryptography.agree,
    )


def acquaint(swims: Sequence[tuple[Swim, float]]) -> None:
    """Let started members know each other as if they had met long ago; nothing is left to be told.

    Args:
        swims: Each member with its time.
    """
    if not swims:
        return
    words = [swim.words()[0] for swim, _ in swims]
    known = []
    for (swim, now), others in zip(swims[:2], (words, words[:1]), strict=False):
        swim.load(others, now)  # checks each word once; the first of the members is checked by the second
        known += swim._table.records()
    for swim, now in swims:
        for record in known:
            if record.name != swim.name and swim._table.get(record.name) is None:
                # What `load` does with a word that is good, without checking it a thousand times.
                swim._table.insert(
                    Record(
                        record.alive, record.encoded, record.digest, record.public_key, State.ALIVE, None,
                        b"", now, now,
                    )
                )  # fmt: skip
                swim._prober.ring.add(record.name)
        swim._rumours.discard(swim.name)  # everybody has heard its first word
        swim.effects(), swim.events()


def remembered(swim: Swim) -> Any:
    """What a member keeps on disk, for its next life."""
    return swim.words(), swim.address_book()


def recall(swim: Swim, kept: Any, now: float) -> tuple[str, ...]:
    """Give a member what it kept in an earlier life; return whom it was told of."""
    words, book = kept
    swim.load(words, now)
    swim.remember(book)
    return tuple(name for name, _ in book)


def lagged(swim: Swim, lag_s: float, now: float) -> None:
    """Tell a member how long its event loop could not serve it, as the driver does."""
    if lag_s > MIN_LAG_S:
        swim.loop_lagged(lag_s, now)


def skipped(swim: Swim, seconds: float) -> None:
    """Let a member's probes go on after a leap of its clock as if they had been due that much later.

    Probes are what a member measures its own lateness by: else it takes the leap for a stall of itself, asks
    for patience and speaks up under a new incarnation, of which nothing may be seen after a quiet stretch.
    """
    prober = swim._prober
    if prober._next_at is not None:
        prober._next_at += seconds
    probe = prober._probe
    if probe is not None:
        probe.verdict_at += seconds
        if probe.indirect_at is not None:
            probe.indirect_at += seconds


def version_of(member: Member) -> Version:
    """Which word of a member's own is held."""
    return member.boot.time_ms, member.boot.id, member.incarnation


def own_version(swim: Swim) -> Version:
    """Which word of its own a member has said last."""
    return swim.own.boot.time_ms, swim.own.boot.id, swim.own.incarnation


SPOKEN_OF: Final = (
    MemberJoined, MemberAlive, MemberUpdated, MemberSuspected, MemberRefuted, MemberDied, MemberLeft,
    MemberReaped,
)  # fmt: skip
"""Events that tell of one other member, in ``event.member``."""


def subject(event: Event) -> Member | None:
    """Whom an event tells of."""
    return event.member if isinstance(event, SPOKEN_OF) else None


def tells_up(event: Event) -> bool | None:
    """Whether an event says that its subject is up from now on, or down; None for neither."""
    if isinstance(event, MemberJoined | MemberAlive):
        return True
    return False if isinstance(event, MemberDied | MemberLeft) else None


BOUNDED_BY: Final = {
    "rumours_waiting": "max_rumours",
    "user_frames_waiting": "max_rumours",
    "streams_open": "max_streams",
    "remembered_members": "max_remembered",
    "seeds_pending": "max_seeds",
}
"""Which statistic of a member may not exceed which of its parameters."""
LIMITS: Final = {
    "relayed_probes": MAX_RELAYED,
    "questions_open": MAX_QUESTIONS,
    "probed_again_soon": MAX_AGAIN,
    "knocks_waiting": MAX_KNOCKS,
    "statements_seen": MAX_SEEN,
    "members_corrected": MAX_CORRECTED,
    "members_heard": MAX_HEARD,
    "evidence_subjects": MAX_SUBJECTS,
    "pair_keys": MAX_PAIR_KEYS,
}
"""Which statistic may not exceed which constant of the core."""
MEMBERS: Final = ("members_alive", "members_suspect", "members_dead", "members_left")
"""Statistics that together may not exceed ``max_members``."""
SUSPECTED: Final = "members_suspect"
SAVED_BY_RELAY: Final = "probes_saved_by_relay"
STALLS: Final = "stalls"


def bounded(statistics: dict[str, int], config: SwimConfig) -> list[tuple[str, int, int]]:
    """What a member has of everything that is bounded, and how much it may have.

    Args:
        statistics: Of the member.
        config: Its parameters.

    Returns:
        For each: what, how much there is, how much there may be.
    """
    found = [(what, statistics[what], getattr(config, limit)) for what, limit in BOUNDED_BY.items()]
    members = sum(statistics[state] for state in MEMBERS)
    found += [(what, statistics[what], limit) for what, limit in LIMITS.items()]
    return [*found, ("members", members, config.max_members)]


_KINDS: Final = {
    1: "alive", 2: "suspect", 3: "dead", 4: "left", 10: "ping", 11: "ping-req", 12: "ack", 13: "nack",
    14: "who", 15: "map", 16: "roll", 17: "user",
}  # fmt: skip
_PLAIN: Final = 1
_PLAIN_HEADER_BYTES: Final = 6
_LENGTH_BYTES: Final = 2


def kind_of(data: bytes) -> str:
    """What the first message of a datagram is, as far as it can be seen without the key."""
    if len(data) <= _PLAIN_HEADER_BYTES or data[1] >> 4 != _PLAIN:
        return "sealed"
    at = _PLAIN_HEADER_BYTES + 1 + data[_PLAIN_HEADER_BYTES] + _LENGTH_BYTES + 1
    return _KINDS.get(data[at], "other") if at < len(data) else "other"
