"""What members say to each other, as frozen values.

Two kinds of things travel. **Statements** are rumours about a member: they are relayed, merged and
kept. **Messages** are one hop long: pings, acks, frames of the maps, and what push-pull streams carry.

    A                        B                       C
    |--- Ping 7 (to B) ----->|                       |        direct probe
    |<-- Ack 7 --------------|                       |
    |--- Ping 8 (to C) ----------------------------x |        lost
    |--- PingRequest 8 (C) ->|--- Ping 31 (to C) --->|        indirect probe
    |=== stream: Ping 8 ============================>|        and the same question over a stream
    |                        |<-- Ack 31 ------------|
    |<-- Ack 8 (subject C) --|                                or, when C is silent,
    |<-- Nack 8 -------------|                                B's own signed doubt of C

Every statement is signed by whoever it is the word of. An Alive and a Left are their subject's. A Suspect
carries the signatures of all who doubt, as far as known; a Dead carries them too, and its declarer's, so
that it proves by itself that enough members could not reach the subject. All of them quote the boot and
incarnation of an Alive that the subject signed, so nobody can invent one.

Probes are authenticated between the two members concerned (`swim.pairwise`), by a `tag`: a stolen gossip
key does not keep the dead alive.
"""

from dataclasses import dataclass, field
from typing import Final

from swim import strict_cbor
from swim.identity import domain

Address = tuple[str, int]
"""Host and port. The host is an IP address in text form, except in a seed."""

MAX_INCARNATION: Final = 2**32 - 1
MAX_BOOT_TIME_MS: Final = 2**53
BOOT_ID_BYTES: Final = 8
ROOT_BYTES: Final = 8
EXCHANGE_KEY_BYTES: Final = 32
TAG_BYTES: Final = 8
"""A guess at a tag has to be tried on line, one packet each."""
MAX_COORDINATE_BYTES: Final = 24
MAX_PATIENCE_S: Final = 30
"""Longest additional silence that a member may ask others to bear."""
MAX_AUTHORS: Final = 4
"""Most signatures in one accusation: one more than a verdict needs."""


class DecodeError(Exception):
    """Bytes that are not a packet of this protocol; the only thing decoding ever raises.

    Args:
        reason: a short stable word, under which the drop is counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, order=True)
class Boot:
    """One life of a process; the later one is the greater.

    Attributes:
        time_ms: wall time at the start of the process, in milliseconds.
        id: random bytes that tell two processes with one start time apart.
    """

    time_ms: int
    id: bytes


@dataclass(frozen=True, slots=True)
class Alive:
    """A member's own word that it lives, where, and what it wants others to know.

    Attributes:
        name: the subject, as its credential certifies.
        host: where it listens, for datagrams and streams alike.
        port: the port of both.
        boot: which life of the process speaks.
        incarnation: raised by the subject alone: to refute an accusation, or to change what follows.
        meta: application bytes.
        lowest_version: oldest protocol version it understands.
        highest_version: newest one.
        patience_s: silence, in whole seconds, that it asks others to bear before they accuse it: it
            has seen itself stall, or had to refute too often. At most 30.
        exchange_key: the X25519 public key of this boot, for what only two members share.
        credential: certifies the key that made `signature`.
        signature: over everything above except the credential.
    """

    name: str
    host: str
    port: int
    boot: Boot
    incarnation: int
    meta: bytes
    lowest_version: int
    highest_version: int
    patience_s: int
    exchange_key: bytes
    credential: bytes
    signature: bytes = field(default=b"", repr=False)

    @property
    def address(self) -> Address:
        """Where the subject is reached."""
        return (self.host, self.port)

    def signed_bytes(self) -> bytes:
        """Return what the signature covers."""
        return domain("alive") + strict_cbor.encode(
            [self.name, self.host, self.port, self.boot.time_ms, self.boot.id, self.incarnation, self.meta,
             self.lowest_version, self.highest_version, self.patience_s, self.exchange_key]
        )  # fmt: skip


Signatures = tuple[tuple[str, bytes], ...]
"""(author, Ed25519 signature) pairs, each author once."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """The doubt of one or several authors that a member still answers."""

    name: str
    boot: Boot
    incarnation: int
    authors: Signatures


@dataclass(frozen=True, slots=True)
class Dead:
    """The verdict after a suspicion that nobody refuted, with the doubts that it rests on.

    Attributes:
        name: the subject.
        boot: of the word that it rests on.
        incarnation: of that word.
        authors: the doubts.
        declarer: who passed the verdict.
        signature: the declarer's.
    """

    name: str
    boot: Boot
    incarnation: int
    authors: Signatures
    declarer: str
    signature: bytes = field(default=b"", repr=False)

    def signed_bytes(self) -> bytes:
        """Return what the declarer's signature covers."""
        return _about("dead", self.name, self.boot, self.incarnation, self.declarer)


@dataclass(frozen=True, slots=True)
class Left:
    """A member's own goodbye."""

    name: str
    boot: Boot
    incarnation: int
    signature: bytes = field(default=b"", repr=False)

    def signed_bytes(self) -> bytes:
        """Return what the signature covers."""
        return _about("left", self.name, self.boot, self.incarnation, self.name)


def doubt_bytes(name: str, boot: Boot, incarnation: int, author: str) -> bytes:
    """Return what an author signs to say that it could not reach a member."""
    return _about("suspect", name, boot, incarnation, author)


def _about(purpose: str, name: str, boot: Boot, incarnation: int, author: str) -> bytes:
    return domain(purpose) + strict_cbor.encode([name, boot.time_ms, boot.id, incarnation, author])


Statement = Alive | Suspect | Dead | Left
Accusation = Suspect | Dead
Verdict = Suspect | Dead | Left


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you `target`, and do you live? `root` is the sender's root of all replicated state."""

    sequence: int
    target: str
    root: bytes
    tag: bytes = b""


@dataclass(frozen=True, slots=True)
class PingRequest:
    """Please ping `target` for me, and tell me within `patience_ms` what came of it."""

    sequence: int
    target: str
    patience_ms: int
    tag: bytes = b""


@dataclass(frozen=True, slots=True)
class Ack:
    """I live, or the target of your request does. What the asker knows anyway is left out.

    Attributes:
        sequence: of the ping, or of the request for one.
        subject: who lives, in the answer of a relay; empty where that is the sender.
        root: the sender's root of all replicated state; empty if it is the ping's, and from a relay.
        coordinate: the sender's network coordinate, packed; empty in the answer of a relay.
        tag: authenticates the sender.
    """

    sequence: int
    subject: str
    root: bytes
    coordinate: bytes = b""
    tag: bytes = b""


@dataclass(frozen=True, slots=True)
class Nack:
    """I live, but the target of your request `sequence` has not answered me.

    Attributes:
        sequence: of the request.
        doubt: the sender's signature for its doubt of the target's latest word; empty if it has none.
        tag: authenticates the sender.
    """

    sequence: int
    doubt: bytes
    tag: bytes = b""


@dataclass(frozen=True, slots=True)
class Who:
    """Your ping `sequence` cannot be checked: tell me who you are. The sender's own Alive goes with it."""

    sequence: int


@dataclass(frozen=True, slots=True)
class MapFrame:
    """A frame of the replicated map, opaque to membership."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class RollFrame:
    """A frame of the comparison of two members' rolls (`swim.roll`)."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class UserFrame:
    """A user event, a query or an answer to one, or a step of a key rotation; opaque here.

    Attributes:
        kind: which of them (`swim.user_traffic`).
        frame: the rest.
        tag: authenticates the sender of what is meant for one member; empty in what is gossiped.
    """

    kind: int
    frame: bytes
    tag: bytes = b""


@dataclass(frozen=True, slots=True)
class SyncRoot:
    """Where the sender of a push-pull stands: whoever stands there too has nothing to add."""

    root: bytes


@dataclass(frozen=True, slots=True)
class SyncRoll:
    """A piece of the sender's digest of the members it takes for up."""

    part: bytes


@dataclass(frozen=True, slots=True)
class SyncDigest:
    """A piece of the sender's digest of the replicated map."""

    part: bytes


@dataclass(frozen=True, slots=True)
class SyncUnit:
    """A unit of the replicated map that the receiver lacks."""

    unit: bytes


@dataclass(frozen=True, slots=True)
class SyncClocks:
    """The sender's Lamport clocks of user events and of queries."""

    events: int
    queries: int


@dataclass(frozen=True, slots=True)
class SyncEnd:
    """The sender has said its part, for now.

    Attributes:
        is_last: whether nothing more is to be said by either side.
    """

    is_last: bool


Message = (
    Alive | Suspect | Dead | Left | Ping | PingRequest | Ack | Nack | Who | MapFrame | RollFrame | UserFrame
    | SyncRoot | SyncRoll | SyncDigest | SyncUnit | SyncClocks | SyncEnd
)  # fmt: skip
STATEMENTS: Final = (Alive, Suspect, Dead, Left)


@dataclass(frozen=True, slots=True)
class Packet:
    """One datagram or one stream frame: who sent it, and what it says, still encoded."""

    sender: str
    messages: tuple[bytes, ...]
