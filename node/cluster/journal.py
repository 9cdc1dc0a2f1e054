"""What has happened to the membership, in words: for the log, and the latest of it for the admin API.

A table says how each event of swim is told, and how loudly: a warning is what an operator should look at,
information is the ordinary life of a cluster, and what repeats itself is for debugging.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from node.cluster.views import shown_address
from node.environment import Clock
from node.message import iso8601
from swim import events
from swim.members import State

log = logging.getLogger(__name__)

RECENT_EVENTS: Final = 256
"""Membership events kept for the admin API; the oldest goes first."""
RECENT_FAILURES: Final = 4
"""Of them, failures of one seed."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event as it is told.

    Args:
        level: Of the log record.
        text: One sentence.
        facts: The same for programs, JSON values only.
    """

    level: int
    text: str
    facts: dict[str, Any]


class Journal:
    """The latest membership events.

    Args:
        clock: Says when they happened.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: list[dict[str, Any]] = []

    def note(self, event: events.Event) -> None:
        """Log an event and keep it; what is not about the membership is left to others."""
        if type(event) not in TELLERS:
            return
        told = tell(event)
        log.log(told.level, "%s", told.text)
        if isinstance(event, events.SeedUnreachable):
            # A seed that is tried for ever must not push everything else out.
            failures = [earlier for earlier in self._events if earlier.get("seed") == event.seed]
            if len(failures) >= RECENT_FAILURES:
                self._events.remove(failures[0])
        time = iso8601(self._clock.wall())
        self._events.append({"event": type(event).__name__, "time": time, "text": told.text, **told.facts})
        del self._events[:-RECENT_EVENTS]

    def recent(self) -> list[dict[str, Any]]:
        """The latest events, oldest first, at most 256; of one seed's failures the last 4."""
        return list(self._events)


def tell(event: events.Event) -> Told:
    """Say in words what happened to the membership."""
    return TELLERS[type(event)](event)


def _joined(event: events.Joined) -> Told:
    through = ", ".join(event.seeds) or "nobody: every seed is this node itself"
    facts = {"seeds": list(event.seeds), "members": event.members}
    return Told(logging.INFO, f"joined through {through}; {event.members} members are up", facts)


def _seed_unreachable(event: events.SeedUnreachable) -> Told:
    attempt = event.attempt
    level = logging.DEBUG if attempt & (attempt - 1) else logging.WARNING  # 1, 2, 4, 8 ...
    text = f"seed {event.seed}: {event.reason} (attempt {attempt}, next in {event.retry_in_s:.1f} s)"
    return Told(level, text, {"seed": event.seed, "reason": event.reason, "attempt": attempt})


def _member_joined(event: events.MemberJoined) -> Told:
    member = event.member
    return Told(
        logging.INFO, f"{member.name} is a member, at {shown_address(member.address)}", _node(member.name)
    )


def _member_alive(event: events.MemberAlive) -> Told:
    how = "restarted" if event.restarted else "the same process as before"
    facts = _node(event.member.name) | {"restarted": event.restarted}
    return Told(logging.INFO, f"{event.member.name} is back ({how})", facts)


def _member_updated(event: events.MemberUpdated) -> Told:
    member = event.member
    said = f"is at {shown_address(member.address)}"
    if member.patience_s:
        said += f", knows itself impaired and asks for {member.patience_s} s of patience"
    if event.restarted:
        said = f"has restarted before anybody noticed, {said}"
    facts = _node(member.name) | {"restarted": event.restarted, "patience_seconds": member.patience_s}
    return Told(logging.INFO, f"{member.name} {said}", facts)


def _member_suspected(event: events.MemberSuspected) -> Told:
    name, author = event.member.name, event.author
    text = f"{name} is suspected: {author} and whoever confirms it cannot reach it; it may still answer"
    return Told(logging.INFO, text, _node(name) | {"author": author})


def _member_refuted(event: events.MemberRefuted) -> Told:
    name = event.member.name
    how = (
        "has restarted and is suspected no more"
        if event.restarted
        else "has answered the suspicion: it lives"
    )
    return Told(logging.INFO, f"{name} {how}", _node(name) | {"restarted": event.restarted})


def _member_died(event: events.MemberDied) -> Told:
    name, author, silent_s = event.member.name, event.author, event.silent_for_s
    accusers = ", ".join(event.accusers) or author
    text = f"{name} died: declared by {author}, unreachable for {accusers}, silent here for {silent_s:.1f} s"
    facts = {"author": author, "accusers": list(event.accusers), "silent_seconds": round(silent_s, 3)}
    return Told(logging.WARNING, text, _node(name) | facts)


def _member_left(event: events.MemberLeft) -> Told:
    return Told(logging.INFO, f"{event.member.name} has said goodbye", _node(event.member.name))


def _member_reaped(event: events.MemberReaped) -> Told:
    name = event.member.name
    tried = "" if event.member.state is State.LEFT else "; its address is tried on"
    return Told(logging.INFO, f"{name} is not shown any more{tried}", _node(name))


def _member_forgotten(event: events.MemberForgotten) -> Told:
    text = f"{event.name} was given up as lost for good: it counts and is tried no more"
    return Told(logging.INFO, text, _node(event.name))


def _member_revoked(event: events.MemberRevoked) -> Told:
    name = event.member.name
    text = f"{name} is a member no more: its key is revoked. Change the gossip key, which it knows"
    return Told(logging.WARNING, text, _node(name))


def _duplicate_name(event: events.DuplicateName) -> Told:
    address = shown_address(event.address)
    text = (
        f"another process speaks as {event.name}, at {address}, and is the younger one: this one has to stop"
    )
    return Told(logging.ERROR, text, _node(event.name) | {"address": address})


def _member_refused(event: events.MemberRefused) -> Told:
    address = shown_address(event.address)
    text = (
        f"{event.name} at {address} has a certificate of this cluster and cannot be a member: {event.reason}"
    )
    return Told(logging.WARNING, text, _node(event.name) | {"address": address, "reason": event.reason})


def _impaired(event: events.Impaired) -> Told:
    facts = {"patience_seconds": event.patience_s}
    if not event.patience_s:
        return Told(logging.INFO, "this node has been well for a while: it asks for patience no more", facts)
    text = (
        f"this node stalls or is hard to reach, and asks the others to bear {event.patience_s} s of silence: "
        "look at its load, its memory and its network"
    )
    return Told(logging.WARNING, text, facts)


def _path_lost(event: events.PathLost) -> Told:
    how = {"relay": "through others", "stream": "by TCP"}.get(event.by, event.by)
    text = (
        f"no datagrams pass between this node and {event.peer}, which lives and is reached {how}: look for a "
        "firewall that stops UDP one way"
    )
    return Told(logging.WARNING, text, _node(event.peer) | {"by": event.by})


def _path_restored(event: events.PathRestored) -> Told:
    text = f"datagrams pass again between this node and {event.peer}"
    return Told(logging.INFO, text, _node(event.peer))


def _node(name: str) -> dict[str, Any]:
    return {"node": name}


TELLERS: Final[Mapping[type, Callable[[Any], Told]]] = MappingProxyType(
    {
        events.Joined: _joined,
        events.SeedUnreachable: _seed_unreachable,
        events.MemberJoined: _member_joined,
        events.MemberAlive: _member_alive,
        events.MemberUpdated: _member_updated,
        events.MemberSuspected: _member_suspected,
        events.MemberRefuted: _member_refuted,
        events.MemberDied: _member_died,
        events.MemberLeft: _member_left,
        events.MemberReaped: _member_reaped,
        events.MemberForgotten: _member_forgotten,
        events.MemberRevoked: _member_revoked,
        events.MemberRefused: _member_refused,
        events.DuplicateName: _duplicate_name,
        events.Impaired: _impaired,
        events.PathLost: _path_lost,
        events.PathRestored: _path_restored,
    }
)
"""How each event of the membership is told; those of user traffic and of keys are not in here."""
