"""What members say to each other, as frozen values.

Two kinds of things travel. **Statements** are rumours about a member: they are relayed, merged and
kept. **Messages** are one hop long: pings, acks, map frames, and the frames of a push-pull stream.

    A                        B                       C
    |--- Ping 7 (to B) ----->|                       |        direct probe
    |<-- Ack 7 --------------|                       |
    |--- Ping 8 (to C) ----------------------------x |        lost
    |--- PingRequest 8 (C) ->|--- Ping 31 (to C) --->|        indirect probe
    |                        |<-- Ack 31 ------------|
    |<-- Ack 8 (subject C) --|                                or Nack 8, when C is silent

An Alive and a Left are signed by their subject. A Suspect and a Dead name their author and quote
the boot and incarnation of the subject's own Alive; their signature field is reserved.
"""

from dataclasses import dataclass, field
from typing import Final

from swim import strict_cbor
from swim.identity import domain

Address = tuple[str, int]
"""Host and port. The host is an IP address in text form, except in a seed."""

MAX_INCARNATION: Final = 2**32 - 1
MAX_BOOT_TIME_MS: Final = 2**53
BOOT_ID_BYTES: Final = 16
ROOT_BYTES: Final = 8


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
        incarnation: raised by the subject alone, to refute an accusation or change `meta`.
        meta: application bytes.
        credential: certifies the key that made `signature`.
        signature: over everything above except the credential.
    """

    name: str
    host: str
    port: int
    boot: Boot
    incarnation: int
    meta: bytes
    credential: bytes
    signature: bytes = field(default=b"", repr=False)

    @property
    def address(self) -> Address:
        """Where the subject is reached."""
        return (self.host, self.port)

    def signed_bytes(self) -> bytes:
        """Return what the signature covers."""
        return domain("alive") + strict_cbor.encode(
            [self.name, self.host, self.port, self.boot.time_ms, self.boot.id,
             self.incarnation, self.meta]
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Suspect:
    """An author's doubt that a member still answers."""

    name: str
    boot: Boot
    incarnation: int
    author: str
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class Dead:
    """An author's verdict after a suspicion that nobody refuted."""

    name: str
    boot: Boot
    incarnation: int
    author: str
    signature: bytes = b""


@dataclass(frozen=True, slots=True)
class Left:
    """A member's own goodbye."""

    name: str
    boot: Boot
    incarnation: int
    signature: bytes = field(default=b"", repr=False)

    def signed_bytes(self) -> bytes:
        """Return what the signature covers."""
        return domain("left") + strict_cbor.encode(
            [self.name, self.boot.time_ms, self.boot.id, self.incarnation]
        )


Statement = Alive | Suspect | Dead | Left
Verdict = Suspect | Dead | Left


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you `target`, and do you live? `root` is the sender's root of the replicated map."""

    sequence: int
    target: str
    root: bytes


@dataclass(frozen=True, slots=True)
class PingRequest:
    """Please ping `target` for me, and answer with an Ack or a Nack of `sequence`."""

    sequence: int
    target: str


@dataclass(frozen=True, slots=True)
class Ack:
    """`subject` answered the ping `sequence`; `root` is the subject's."""

    sequence: int
    subject: str
    root: bytes


@dataclass(frozen=True, slots=True)
class Nack:
    """I live, but the target of your request `sequence` has not answered me."""

    sequence: int


@dataclass(frozen=True, slots=True)
class MapFrame:
    """A frame of the replicated map, opaque to membership."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one member knows about another; a push-pull stream carries one per member.

    Attributes:
        alive: the subject's latest own word.
        verdict: what is held against it since, if anything.
        age_s: how long that has been so, in whole seconds.
    """

    alive: Alive
    verdict: Verdict | None
    age_s: int


@dataclass(frozen=True, slots=True)
class SyncDigest:
    """A piece of the sender's digest of the replicated map."""

    part: bytes


@dataclass(frozen=True, slots=True)
class SyncUnit:
    """A unit of the replicated map that the receiver lacks."""

    unit: bytes


@dataclass(frozen=True, slots=True)
class SyncEnd:
    """The sender has said its part of the push-pull."""


Message = (
    Alive | Suspect | Dead | Left | Ping | PingRequest | Ack | Nack | MapFrame
    | Snapshot | SyncDigest | SyncUnit | SyncEnd
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Packet:
    """One datagram or one stream frame: who sent it, and what it says."""

    sender: str
    messages: tuple[Message, ...]
