"""What a node tells of itself in its metadata, and members as the admin API shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cbor2

from node.environment import Address
from swim import strict_cbor
from swim.codec import MAX_META_BYTES
from swim.members import Member, State
from swim.protocol import Swim

VERSION_CHARACTERS: Final = 32
"""How much of a peer's software version is shown."""


def encode_meta(link_port: int, version: str) -> bytes:
    """What a node tells of itself.

    Args:
        link_port: Where it takes peer links; 0 while it takes none.
        version: Of its software.
    """
    return cbor2.dumps([link_port, version])


def decode_meta(meta: bytes) -> tuple[int, str]:
    """Link port and version of a member; (0, "") if it says something else."""
    try:
        port, version = strict_cbor.decode(meta, max_bytes=MAX_META_BYTES)
    except (ValueError, TypeError):
        return 0, ""  # whatever a peer wrote
    if type(port) is not int or not 0 < port < 65_536 or type(version) is not str:
        return 0, ""
    return port, version[:VERSION_CHARACTERS] if version.isascii() and version.isprintable() else ""


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member as the admin API shows it.

    Args:
        name: Its certified name.
        state: alive, suspect, dead or left.
        address: Where it gossips.
        link_address: Where it takes peer links.
        incarnation: Of its latest own word.
        version: Of its software.
        is_self: Whether it is this node.
        rtt_s: Round trip from here as network coordinates have it, in seconds; None while not known.
        patience_s: Silence, in seconds, that it asks others to bear; above 0 it knows itself impaired.
        last_heard_s: Seconds since this node itself heard from it.
        changed_s: Seconds since its state changed.
    """

    name: str
    state: str
    address: Address
    link_address: Address | None
    incarnation: int
    version: str
    is_self: bool
    rtt_s: float | None
    patience_s: int
    last_heard_s: float
    changed_s: float

    def as_json(self) -> dict[str, Any]:
        """The member as one JSON object."""
        return {
            "name": self.name,
            "state": self.state,
            "address": shown_address(self.address),
            "link_address": shown_address(self.link_address) if self.link_address else None,
            "incarnation": self.incarnation,
            "version": self.version,
            "self": self.is_self,
            "rtt_seconds": None if self.rtt_s is None else round(self.rtt_s, 6),
            "patience_seconds": self.patience_s,
            "last_heard_seconds": round(self.last_heard_s, 3),
            "state_changed_seconds_ago": round(self.changed_s, 3),
        }


def view_of(swim: Swim, member: Member, now: float) -> MemberView:
    """Another member, as this node sees it now."""
    port, version = decode_meta(member.meta)
    return MemberView(
        member.name,
        State(member.state).name.lower(),
        member.address,
        (member.address[0], port) if port else None,
        member.incarnation,
        version,
        False,
        swim.rtt(swim.name, member.name) if member.is_up else None,
        member.patience_s,
        max(0.0, now - member.last_heard),
        max(0.0, now - member.changed_at),
    )


def own_view(swim: Swim, uptime_s: float) -> MemberView:
    """This node itself."""
    own = swim.own
    port, version = decode_meta(own.meta)
    link = (own.host, port) if port else None
    return MemberView(
        swim.name,
        "alive",
        own.address,
        link,
        own.incarnation,
        version,
        True,
        None,
        own.patience_s,
        0.0,
        uptime_s,
    )


def shown_address(address: Address) -> str:
    """``host:port``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
