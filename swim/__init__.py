"""Membership and replicated state for a cluster of peers; the core does no I/O.

`Swim` is the protocol, `run_swim` in `swim.driver` runs it under Trio.
"""

from swim.broadcast import NothingReplicated, Replicated
from swim.config import SwimConfig
from swim.events import (
    CloseStream,
    DuplicateName,
    Effect,
    Event,
    Impaired,
    Joined,
    KeyOperationFinished,
    KeyringChanged,
    MemberAlive,
    MemberDied,
    MemberForgotten,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberRefused,
    MemberRefuted,
    MemberRevoked,
    MemberSuspected,
    MemberUpdated,
    OpenStream,
    PathLost,
    PathRestored,
    QueryFinished,
    QuestionHeard,
    SeedUnreachable,
    SendDatagram,
    SendStream,
    UserEventHeard,
)
from swim.members import Member, State
from swim.messages import Address
from swim.protocol import Swim

__all__ = [
    "Address",
    "CloseStream",
    "DuplicateName",
    "Effect",
    "Event",
    "Impaired",
    "Joined",
    "KeyOperationFinished",
    "KeyringChanged",
    "Member",
    "MemberAlive",
    "MemberDied",
    "MemberForgotten",
    "MemberJoined",
    "MemberLeft",
    "MemberReaped",
    "MemberRefused",
    "MemberRefuted",
    "MemberRevoked",
    "MemberSuspected",
    "MemberUpdated",
    "NothingReplicated",
    "OpenStream",
    "PathLost",
    "PathRestored",
    "QueryFinished",
    "QuestionHeard",
    "Replicated",
    "SeedUnreachable",
    "SendDatagram",
    "SendStream",
    "State",
    "Swim",
    "SwimConfig",
    "UserEventHeard",
]
