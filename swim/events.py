"""What `Swim` asks of its driver (effects) and tells its owner (events), as frozen values.

Effects are done in order. Events are told in order; each is final when told.
"""

from dataclasses import dataclass, field

from swim.keyring_messages import Verb
from swim.members import Member
from swim.messages import Address
from swim.queries import Asked
from swim.user_events import UserEvent


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send these bytes as one datagram; losing it is no error."""

    data: bytes
    to: Address


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Connect, and report `stream_opened` or `stream_failed` under this id.

    Attributes:
        id: chosen by the core, always odd; the driver numbers accepted streams evenly.
        to: where to. The host may be a name (of a seed), to be resolved now.
    """

    id: int
    to: Address


@dataclass(frozen=True, slots=True)
class SendStream:
    """Send these bytes on an open stream, after what was sent before."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Close a stream after all that was sent on it; no report is expected."""

    id: int


Effect = SendDatagram | OpenStream | SendStream | CloseStream


@dataclass(frozen=True, slots=True)
class Joined:
    """A seed has answered, or every seed turned out to be this member itself.

    Attributes:
        seeds: the seed that answered, or nothing.
        members: size of the cluster as known now, this member included.
    """

    seeds: tuple[str, ...]
    members: int


@dataclass(frozen=True, slots=True)
class SeedUnreachable:
    """An attempt at a seed failed; it will be tried again.

    Attributes:
        seed: as given to `join`.
        reason: what went wrong, in words.
        attempt: how many attempts at this seed have failed.
        retry_in_s: pause before the next one.
    """

    seed: str
    reason: str
    attempt: int
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """A member unknown before is up."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberAlive:
    """A member that was held dead or departed is up again.

    Attributes:
        member: as it is now.
        restarted: whether its process is another one than before.
    """

    member: Member
    restarted: bool


@dataclass(frozen=True, slots=True)
class MemberUpdated:
    """A member that is up changed its metadata, address or patience, or restarted before anybody noticed."""

    member: Member
    restarted: bool


@dataclass(frozen=True, slots=True)
class MemberSuspected:
    """A member is doubted; it stays up until it is declared dead.

    Attributes:
        member: as it is now.
        author: who doubts it.
    """

    member: Member
    author: str


@dataclass(frozen=True, slots=True)
class MemberRefuted:
    """A doubted member has proved that it lives."""

    member: Member
    restarted: bool


@dataclass(frozen=True, slots=True)
class MemberDied:
    """A member did not refute in time.

    Attributes:
        member: as it is now.
        author: who declared it dead.
        accusers: who had doubted it, as far as known here.
        silent_for_s: time since this member itself last heard from it.
    """

    member: Member
    author: str
    accusers: tuple[str, ...]
    silent_for_s: float


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A member said goodbye."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberReaped:
    """A dead or departed member was dropped from the table."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberForgotten:
    """A member that was lost for good counts and is tried no more, because `Swim.forget` was told so."""

    name: str


@dataclass(frozen=True, slots=True)
class MemberRevoked:
    """A member was dropped because its key is revoked; it may come back with another key.

    Attributes:
        member: as it was held when that was heard of.
    """

    member: Member


@dataclass(frozen=True, slots=True)
class DuplicateName:
    """Another live process speaks under this member's name and is the younger one.

    This process has lost: nobody will believe it any more, and it should stop.

    Attributes:
        name: the shared name.
        address: where the other one listens.
    """

    name: str
    address: Address


@dataclass(frozen=True, slots=True)
class MemberRefused:
    """A node that the authority vouches for cannot be a member; told once per name.

    Attributes:
        name: its name.
        address: where it listens.
        reason: why, in words.
    """

    name: str
    address: Address
    reason: str


@dataclass(frozen=True, slots=True)
class Impaired:
    """This member has noticed that it stalls or is hard to reach, and tells others; or that is over.

    Attributes:
        patience_s: silence in seconds that others are asked to bear; 0 when it is over.
    """

    patience_s: int


@dataclass(frozen=True, slots=True)
class PathLost:
    """Datagrams do not pass between this member and another, which lives.

    Attributes:
        peer: the other one.
        by: how it is reached instead: `relay` or `stream`.
    """

    peer: str
    by: str


@dataclass(frozen=True, slots=True)
class PathRestored:
    """Datagrams pass again between this member and another."""

    peer: str


@dataclass(frozen=True, slots=True)
class UserEventHeard:
    """A member announced something to all."""

    event: UserEvent


@dataclass(frozen=True, slots=True)
class QuestionHeard:
    """A member asks something that this one shall answer, by `Swim.traffic.answer`."""

    asked: Asked


@dataclass(frozen=True, slots=True)
class QueryFinished:
    """A query of this member is over, and `Swim.traffic.collect` gives what came back."""

    query_id: bytes


@dataclass(frozen=True, slots=True)
class KeyringChanged:
    """A member has changed this one's gossip keys; whoever stores them has to know.

    Attributes:
        author: who gave the order.
        verb: what was done.
        key: with which key.
    """

    author: str
    verb: Verb
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyOperationFinished:
    """An operation on the cluster's keys is over, and `Swim.keys.result` says how it went."""

    operation_id: bytes


Event = (
    Joined | SeedUnreachable | MemberJoined | MemberAlive | MemberUpdated | MemberSuspected
    | MemberRefuted | MemberDied | MemberLeft | MemberReaped | MemberForgotten | MemberRevoked
    | MemberRefused | DuplicateName | Impaired | PathLost | PathRestored | UserEventHeard | QuestionHeard
    | QueryFinished | KeyringChanged | KeyOperationFinished
)  # fmt: skip
