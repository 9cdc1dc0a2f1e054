"""What rides on packets: rumours about members and units of the replicated map, in fair shares.

A rumour is sent a bounded number of times, fewest-sent first (SWIM, section 4.1), and a newer one
about the same subject replaces it. The map bounds its own retransmissions. Packets alternate
between serving rumours first and serving the map first, and whoever is first may fill the packet,
so each gets at least every second packet whatever the other has waiting.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from swim.codec import MAX_MESSAGES, encode_message
from swim.messages import ROOT_BYTES, MapFrame, Statement, Suspect

FRAME_HEADER_BYTES: Final = 8
"""What a map frame costs beyond its bytes: array, code and length."""
MIN_MAP_BYTES: Final = 64
"""With less room than this the map is not asked."""


class Replicated(Protocol):
    """What membership needs of the replicated map (`swim.replicated`)."""

    def root(self) -> bytes:
        """Return the 8-byte hash over everything held; it rides on pings and acks."""

    def peer_root(self, peer: str, root: bytes, now: float) -> list[bytes]:
        """Note a peer's root; return frames for that peer, if it differs."""

    def receive(self, peer: str, frame: bytes, now: float, wall: float) -> list[bytes]:
        """Handle a frame of a peer; return frames for that peer."""

    def broadcasts(self, limit_bytes: int, members: int) -> list[bytes]:
        """Return frames to send to somebody now, each counted as one transmission."""

    def bulk_digest(self) -> bytes:
        """Return what is held, in short, for a push-pull."""

    def bulk_reply(self, digest: bytes) -> tuple[list[bytes], bytes]:
        """Return the units the owner of the digest lacks, and our own digest."""

    def bulk_units(self, digest: bytes) -> list[bytes]:
        """Return the units the owner of the digest lacks."""

    def bulk_receive(self, peer: str, unit: bytes, now: float, wall: float) -> None:
        """Take one unit of a push-pull."""

    def forget(self, owner: str) -> None:
        """Drop what a reaped member owned."""

    def next_timer(self) -> float | None:
        """Return when the map wants to be woken, on the clock of `now`."""

    def handle_timer(self, now: float, wall: float) -> None:
        """Do what is due."""


class NothingReplicated:
    """The map of a cluster that replicates nothing: membership alone."""

    def root(self) -> bytes:
        """Return the root of nothing."""
        return bytes(ROOT_BYTES)

    def peer_root(self, peer: str, root: bytes, now: float) -> list[bytes]:
        """Ask for nothing."""
        return []

    def receive(self, peer: str, frame: bytes, now: float, wall: float) -> list[bytes]:
        """Ignore a frame."""
        return []

    def broadcasts(self, limit_bytes: int, members: int) -> list[bytes]:
        """Send nothing."""
        return []

    def bulk_digest(self) -> bytes:
        """Return the digest of nothing."""
        return b""

    def bulk_reply(self, digest: bytes) -> tuple[list[bytes], bytes]:
        """Offer nothing."""
        return [], b""

    def bulk_units(self, digest: bytes) -> list[bytes]:
        """Offer nothing."""
        return []

    def bulk_receive(self, peer: str, unit: bytes, now: float, wall: float) -> None:
        """Ignore a unit."""

    def forget(self, owner: str) -> None:
        """Nothing is held."""

    def next_timer(self) -> float | None:
        """Never wake."""
        return None

    def handle_timer(self, now: float, wall: float) -> None:
        """Nothing is due."""


@dataclass(slots=True)
class _Rumour:
    encoded: bytes
    order: int
    sent: int = 0


class RumourQueue:
    """Statements on their way to everybody.

    Args:
        max_rumours: most that wait; the most-sent one leaves, and is counted.
    """

    def __init__(self, max_rumours: int) -> None:
        self._max_rumours = max_rumours
        self._rumours: dict[tuple[str, str], _Rumour] = {}
        self._order = 0
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._rumours)

    def add(self, statement: Statement) -> None:
        """Queue a statement that was just believed; older ones about the subject are moot.

        Suspicions of one member by several authors wait side by side, because each one counts.
        """
        author = statement.author if isinstance(statement, Suspect) else ""
        if not author:
            for key in [key for key in self._rumours if key[0] == statement.name]:
                del self._rumours[key]
        self._order += 1
        self._rumours[statement.name, author] = _Rumour(encode_message(statement), self._order)
        if len(self._rumours) > self._max_rumours:
            worst = max(self._rumours, key=lambda key: self._rumours[key].sent)
            del self._rumours[worst]
            self._dropped += 1

    def has(self, subject: str) -> bool:
        """Say whether news about a member waits."""
        return any(name == subject for name, _ in self._rumours)

    def take(self, limit_bytes: int, limit_count: int, transmissions: int) -> list[bytes]:
        """Return rumours that fit, fewest-sent and then newest first, counting them as sent.

        Args:
            limit_bytes: room in the packet.
            limit_count: most rumours to return.
            transmissions: a rumour sent this often is dropped.
        """
        taken: list[bytes] = []
        room = limit_bytes
        ranked = sorted(self._rumours.items(), key=lambda item: (item[1].sent, -item[1].order))
        for key, rumour in ranked:
            if len(taken) >= limit_count:
                break
            if len(rumour.encoded) > room:
                continue
            room -= len(rumour.encoded)
            taken.append(rumour.encoded)
            rumour.sent += 1
            if rumour.sent >= transmissions:
                del self._rumours[key]
        return taken

    def statistics(self) -> dict[str, int]:
        """Count what waits and what was pushed out."""
        return {"rumours_waiting": len(self._rumours), "rumours_dropped": self._dropped}


class Piggyback:
    """Fills packets with rumours and map units in fair shares.

    Args:
        rumours: the queue of statements.
        replicated: the map.
        max_map_frame_bytes: longest frame asked of the map.
    """

    def __init__(self, rumours: RumourQueue, replicated: Replicated, max_map_frame_bytes: int) -> None:
        self._rumours = rumours
        self._replicated = replicated
        self._max_map_frame_bytes = max_map_frame_bytes
        self._map_first = False

    def fill(
        self, room: int, *, members: int, transmissions: int, already: Sequence[bytes] = ()
    ) -> list[bytes]:
        """Return encoded messages that fit into `room` bytes.

        Args:
            room: bytes left in the packet.
            members: size of the cluster, for the map's retransmissions.
            transmissions: how often a rumour is sent.
            already: encoded messages that the packet holds and that need no second copy.
        """
        self._map_first = not self._map_first
        taken: list[bytes] = []
        for map_turn in (self._map_first, not self._map_first):
            if map_turn:
                more = self._map_frames(room, members)
            else:
                count = MAX_MESSAGES - 32 - len(taken) - len(already)
                more = self._rumours.take(room, max(0, count), transmissions)
                more = [rumour for rumour in more if rumour not in already]
            taken += more
            room -= sum(map(len, more))
        return taken

    def _map_frames(self, room: int, members: int) -> list[bytes]:
        """Ask the map once: each call counts as a transmission of all that it returns."""
        limit = room - FRAME_HEADER_BYTES
        if limit < MIN_MAP_BYTES:
            return []
        frames = self._replicated.broadcasts(min(limit, self._max_map_frame_bytes), members)
        return [encode_message(MapFrame(frame)) for frame in frames]
