"""What rides on packets: rumours about members and units of the replicated map, in fair shares.

A rumour is sent a bounded number of times, fewest-sent first (SWIM, section 4.1), and a newer one
about the same subject replaces it. The map bounds its own retransmissions. Packets alternate
between serving rumours first and serving the map first, and whoever is first may fill the packet,
so each gets at least every second packet whatever the other has waiting.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from swim.codec import MAX_MESSAGES, encode_message
from swim.messages import ROOT_BYTES, MapFrame, Statement, Suspect

FRAME_HEADER_BYTES: Final = 8
"""What a map frame costs beyond its bytes: array, code and length."""
MIN_MAP_BYTES: Final = 64
"""With less room than this the map is not asked."""
MIN_RUMOUR_BYTES: Final = 24
"""No rumour is shorter: a boot alone takes 18 bytes."""
MAX_BURST_RUMOURS: Final = 1_024
"""Rumours sent to one member at once."""
MAX_SKIPPED: Final = 32
"""Rumours too long for the room that are passed over before the search ends."""


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

    def queued(self) -> int:
        """Return how many units wait for `broadcasts`."""

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

    def queued(self) -> int:
        """Return that nothing waits."""
        return 0

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
    sent: int = 0


Subject = tuple[str, str]
"""(whom a rumour is about, author): the author only of a suspicion, because each one counts."""


class RumourQueue:
    """Statements on their way to everybody.

    They are kept by how often they were sent, so that a packet is filled without looking at all that wait.

    Args:
        max_rumours: most that wait; the most-sent one leaves, and is counted.
    """

    def __init__(self, max_rumours: int) -> None:
        self._max_rumours = max_rumours
        self._rumours: dict[Subject, _Rumour] = {}
        self._by_sent: list[OrderedDict[Subject, _Rumour]] = [OrderedDict()]
        self._about: dict[str, dict[Subject, None]] = {}
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._rumours)

    def add(self, statement: Statement) -> None:
        """Queue a statement that was just believed; older ones about the subject are moot.

        Suspicions of one member by several authors wait side by side, because each one counts.
        """
        subject = statement.name
        author = statement.author if isinstance(statement, Suspect) else ""
        for key in [(subject, author)] if author else list(self._about.get(subject, ())):
            self._discard(key)
        rumour = _Rumour(encode_message(statement))
        self._rumours[subject, author] = self._by_sent[0][subject, author] = rumour
        self._about.setdefault(subject, {})[subject, author] = None
        if len(self._rumours) > self._max_rumours:
            self._discard(next(iter(next(queue for queue in reversed(self._by_sent) if queue))))
            self._dropped += 1

    def has(self, subject: str) -> bool:
        """Say whether news about a member waits."""
        return subject in self._about

    def take(self, limit_bytes: int, limit_count: int, transmissions: int) -> list[bytes]:
        """Return rumours that fit, fewest-sent first, counting them as sent.

        Among those never sent the newest goes first, among others the one that has waited longest.

        Args:
            limit_bytes: room in the packet.
            limit_count: most rumours to return.
            transmissions: a rumour sent this often is dropped.
        """
        taken: list[Subject] = []
        room, skipped = limit_bytes, 0
        for sent, queue in enumerate(self._by_sent):
            for key in queue if sent else reversed(queue):
                if len(taken) >= limit_count or skipped >= MAX_SKIPPED or room < MIN_RUMOUR_BYTES:
                    return self._sent(taken, transmissions)
                size = len(queue[key].encoded)
                if size <= room:
                    room -= size
                    taken.append(key)
                else:
                    skipped += 1
        return self._sent(taken, transmissions)

    def _sent(self, keys: list[Subject], transmissions: int) -> list[bytes]:
        """Count rumours as sent once more; return them encoded."""
        encoded = []
        for key in keys:
            rumour = self._rumours[key]
            encoded.append(rumour.encoded)
            if rumour.sent + 1 >= transmissions:
                self._discard(key)
                continue
            del self._by_sent[rumour.sent][key]
            rumour.sent += 1
            if rumour.sent == len(self._by_sent):
                self._by_sent.append(OrderedDict())
            self._by_sent[rumour.sent][key] = rumour
        return encoded

    def _discard(self, key: Subject) -> None:
        rumour = self._rumours.pop(key, None)
        if rumour is None:
            return
        del self._by_sent[rumour.sent][key]
        about = self._about[key[0]]
        del about[key]
        if not about:
            del self._about[key[0]]

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

    def burst(self, room: int, *, members: int, transmissions: int) -> list[bytes]:
        """Return encoded messages for several packets, no rumour and no unit twice.

        While both wait, rumours and units get half of the room each, and what one leaves the other takes.

        Args:
            room: bytes in all packets together.
            members: size of the cluster, for the map's retransmissions.
            transmissions: how often a rumour is sent.
        """
        share = room // 2 if self._replicated.queued() else room
        taken = self._rumours.take(share, MAX_BURST_RUMOURS, transmissions)
        room -= sum(map(len, taken))
        if self._replicated.queued():
            per_frame = self._max_map_frame_bytes + FRAME_HEADER_BYTES
            frames = self._replicated.broadcasts(room // per_frame * self._max_map_frame_bytes, members)
            taken += [encode_message(MapFrame(frame)) for frame in frames]
        return taken

    def _map_frames(self, room: int, members: int) -> list[bytes]:
        """Ask the map once: each call counts as a transmission of all that it returns."""
        limit = room - FRAME_HEADER_BYTES
        if limit < MIN_MAP_BYTES:
            return []
        frames = self._replicated.broadcasts(min(limit, self._max_map_frame_bytes), members)
        return [encode_message(MapFrame(frame)) for frame in frames]
