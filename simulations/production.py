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
from swim.identity import ClusterAuthority, Ed25519Identity, issue_credential
from swim.members import Member, Record, State
from swim.messages import Address
from swim.protocol import Swim

CLUSTER: Final = "simulated"
VALID_S: Final = 50 * 365 * 86_400.0
"""Credentials outlive every run."""
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


def build(
    config: SwimConfig,
    identities: Identities,
    name: str,
    address: Address,
    chance: random.Random,
    *,
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
        gossip_keys: Keys of the packets' encryption; a checksum without any.
        replicated: Makes the map that rides along, by the member's name.
    """
    return Swim(
        config,
        identities.of(name),
        identities.authority,
        address=address,
        meta=b"",
        replicated=NothingReplicated() if replicated is None else replicated(name),
        rng=chance,
        entropy=chance.randbytes,
        gossip_keys=gossip_keys,
    )


def acquaint(swims: Sequence[tuple[Swim, float, random.Random]]) -> None:
    """Let started members know each other as if they had met long ago; nothing is left to be told.

    Args:
        swims: Each member with its time and a source for the order of its probes.
    """
    known = [(swim.own, swim._own._identity) for swim, _, _ in swims]
    words = []
    for own, _ in known:
        admitted = swims[0][0]._learning._authority.admit(own.credential, EPOCH_S)
        if admitted is None:
            raise RuntimeError(f"the credential of {own.name} is not admitted")
        words.append((own, admitted.public_key))
    for swim, now, chance in swims:
        for alive, public_key in words:
            if alive.name != swim.name:
                swim._table.insert(Record(alive, public_key, State.ALIVE, None, now, now))
        names = [alive.name for alive, _ in words if alive.name != swim.name]
        chance.shuffle(names)
        swim._prober.ring._names[:] = names
        swim._rumours._discard((swim.name, ""))
        swim.effects(), swim.events()


def remembered(swim: Swim) -> Any:
    """What a member keeps on disk, for its next life."""
    return swim.address_book()


def recall(swim: Swim, kept: Any, now: float) -> None:
    """Give a member what it kept in an earlier life."""
    del now
    swim.remember(kept)


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
    "streams_open": "max_streams",
    "remembered_addresses": "max_remembered_addresses",
    "seeds_pending": "max_seeds",
}
"""Which statistic of a member may not exceed which of its parameters."""
MEMBERS: Final = ("members_alive", "members_suspect", "members_dead", "members_left")
"""Statistics that together may not exceed ``max_members``."""
SUSPECTED: Final = "members_suspect"
RELAYED: Final = "relayed_probes"
MAX_RELAYED: Final = 256
SAVED_BY_RELAY: Final = "probes_saved_by_relay"
REFUTATIONS: Final = "refutations"
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
    return [
        *found,
        ("members", members, config.max_members),
        (RELAYED, statistics[RELAYED], MAX_RELAYED),
    ]


_KINDS: Final = {
    1: "alive", 2: "suspect", 3: "dead", 4: "left", 10: "ping", 11: "ping-req", 12: "ack", 13: "nack",
    14: "map",
}  # fmt: skip
_PLAIN_HEADER_BYTES: Final = 7


def kind_of(data: bytes) -> str:
    """What the first message of a datagram is, as far as it can be seen without the key."""
    if len(data) < 12 or data[1] != 1:
        return "sealed"
    at = _PLAIN_HEADER_BYTES + 1
    head = data[at]
    at += head - 0x60 + 1 if head < 0x78 else data[at + 1] + 2
    at += 2 if data[at] == 0x98 else 1
    return _KINDS.get(data[at + 1], "other")
