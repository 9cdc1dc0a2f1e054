"""What rides on packets: rumours about members, units of the replicated map, user traffic, in fair shares.

A rumour is sent a bounded number of times, fewest-sent first (SWIM, section 4.1), and a newer one
about the same subject replaces it. A rumour that is heard again counts as sent by half: whoever says it
knows it, and so do others (rumour mongering with feedback, Demers et al., 1987). The map bounds its own
retransmissions. Packets take turns in whom they serve first, and whoever is first may fill the packet, so
each of the three gets at least every third packet whatever the others have waiting.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from swim.codec import LENGTH_BYTES, MAX_MESSAGES, encode_message
from swim.messages import ROOT_BYTES, MapFrame, Statement

FRAME_HEADER_BYTES: Final = 5
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

    def fresh(self) -> bool:
        """Say whether a unit waits that was never sent."""

    def bulk_digest(self) -> bytes:
        """Return what is held, in short, for a push-pull."""

    def bulk_reply(self, digest: bytes) -> tuple[list[bytes], bytes]:
        """Return the units the owner of the digest lacks, and our own digest."""

    def bulk_units(self, digest: bytes) -> list[bytes]:
        """Return the units the owner of the digest lacks."""

    def bulk_receive(self, peer: str, unit: bytes, now: float, wall: float) -> int:
        """Take one frame of a push-pull; return how many of its units were news."""

    def bulk_waits(self) -> int:
        """Return a number that grows when much is published at once, for streams to spread; 0 for nothing."""

    def bulk_over(self, *, is_spread: bool) -> None:
        """Take note that streams have spread it, or that they cannot."""

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

    def fresh(self) -> bool:
        """Return that nothing waits."""
        return False

    def bulk_digest(self) -> bytes:
        """Return the digest of nothing."""
        return b""

    def bulk_reply(self, digest: bytes) -> tuple[list[bytes], bytes]:
        """Offer nothing."""
        return [], b""

    def bulk_units(self, digest: bytes) -> list[bytes]:
        """Offer nothing."""
        return []

    def bulk_receive(self, peer: str, unit: bytes, now: float, wall: float) -> int:
        """Ignore a unit."""
        return 0

    def bulk_waits(self) -> int:
        """Return that nothing waits."""
        return 0

    def bulk_over(self, *, is_spread: bool) -> None:
        """Nothing waited."""

    def forget(self, owner: str) -> None:
        """Nothing is held."""

    def next_timer(self) -> float | None:
        """Never wake."""
        return None

    def handle_timer(self, now: float, wall: float) -> None:
        """Nothing is due."""


@dataclass(slots=True)
class _Rumour:
    key: str
    encoded: bytes
    sent: int = 0
    heard: int = 0


class RumourQueue:
    """Encoded messages on their way to everybody.

    They are kept by how often they were sent, so that a packet is filled without looking at all that wait.

    Args:
        max_rumours: most that wait; the most-sent one leaves, and is counted.
        what: prefix of the statistics.
    """

    def __init__(self, max_rumours: int, *, what: str = "rumours") -> None:
        self._max_rumours = max_rumours
        self._what = what
        self._rumours: dict[str, _Rumour] = {}
        self._by_bytes: dict[bytes, _Rumour] = {}
        self._by_sent: list[OrderedDict[str, _Rumour]] = [OrderedDict()]
        self._dropped = self._heard = 0

    def __len__(self) -> int:
        return len(self._rumours)

    def waits(self) -> bool:
        """Say whether anything waits."""
        return bool(self._rumours)

    @property
    def fresh(self) -> bool:
        """Whether something waits that was never sent."""
        return bool(self._by_sent[0])

    def add(self, statement: Statement, encoded: bytes) -> None:
        """Queue a statement that was just believed; an older one about the subject is moot."""
        self.put(statement.name, encoded)

    def put(self, key: str, encoded: bytes) -> None:
        """Queue a message, in place of one under the same key."""
        self.discard(key)
        rumour = _Rumour(key, encoded)
        self._rumours[key] = self._by_sent[0][key] = self._by_bytes[encoded] = rumour
        if len(self._rumours) > self._max_rumours:
            self.discard(next(iter(next(queue for queue in reversed(self._by_sent) if queue))))
            self._dropped += 1

    def has(self, key: str) -> bool:
        """Say whether news under a key waits."""
        return key in self._rumours

    def heard(self, encoded: bytes, transmissions: int) -> bool:
        """Take note that a waiting message came from somebody else too; say whether it is one that waits."""
        rumour = self._by_bytes.get(encoded)
        if rumour is None:
            return False
        self._heard += 1
        rumour.heard += 1
        self._end_if_known(rumour, transmissions)
        return True

    def take(self, limit_bytes: int, limit_count: int, transmissions: int) -> list[bytes]:
        """Return rumours that fit, fewest-sent first, counting them as sent.

        Among those never sent the newest goes first, among others the one that has waited longest.

        Args:
            limit_bytes: room in the packet, for messages and their lengths.
            limit_count: most rumours to return.
            transmissions: a rumour sent this often is dropped.
        """
        if not self._rumours:
            return []
        taken: list[_Rumour] = []
        room, skipped = limit_bytes, 0
        for sent, queue in enumerate(self._by_sent):
            if not queue:
                continue  # most are empty, and an iterator for each would be most of the work
            for rumour in queue.values() if sent else reversed(queue.values()):
                if len(taken) >= limit_count or skipped >= MAX_SKIPPED or room < MIN_RUMOUR_BYTES:
                    return self._sent(taken, transmissions)
                size = len(rumour.encoded) + LENGTH_BYTES
                if size <= room:
                    room -= size
                    taken.append(rumour)
                else:
                    skipped += 1
        return self._sent(taken, transmissions)

    def discard(self, key: str) -> None:
        """Drop what waits under a key."""
        rumour = self._rumours.pop(key, None)
        if rumour is not None:
            del self._by_sent[rumour.sent][key]
            del self._by_bytes[rumour.encoded]

    def statistics(self) -> dict[str, int]:
        """Count what waits, what was pushed out, and what came from others while it waited."""
        return {
            f"{self._what}_waiting": len(self._rumours),
            f"{self._what}_dropped": self._dropped,
            f"{self._what}_heard_again": self._heard,
        }

    def _sent(self, rumours: list[_Rumour], transmissions: int) -> list[bytes]:
        """Count rumours as sent once more; return them encoded."""
        for rumour in rumours:
            self._count(rumour, transmissions)
        return [rumour.encoded for rumour in rumours]

    def _count(self, rumour: _Rumour, transmissions: int) -> None:
        del self._by_sent[rumour.sent][rumour.key]
        rumour.sent += 1
        if rumour.sent == len(self._by_sent):
            self._by_sent.append(OrderedDict())
        self._by_sent[rumour.sent][rumour.key] = rumour
        self._end_if_known(rumour, transmissions)

    def _end_if_known(self, rumour: _Rumour, transmissions: int) -> None:
        """Drop what was said often enough, but nothing that was never sent: all copies may get lost."""
        if rumour.sent and rumour.sent + rumour.heard // 2 >= transmissions:
            self.discard(rumour.key)


class Piggyback:
    """Fills packets with rumours, map units and user traffic in fair shares.

    Args:
        rumours: the queue of statements.
        replicated: the map.
        user: the queue of user events and queries.
        max_map_frame_bytes: longest frame asked of the map.
    """

    def __init__(
        self, rumours: RumourQueue, replicated: Replicated, user: RumourQueue, max_map_frame_bytes: int
    ) -> None:
        self._rumours = rumours
        self._replicated = replicated
        self._user = user
        self._max_map_frame_bytes = max_map_frame_bytes
        self._turn = 0

    def waits(self) -> bool:
        """Say whether anything waits."""
        return self._rumours.waits() or self._user.waits() or self._replicated.queued() > 0

    def fresh(self) -> bool:
        """Say whether anything waits that was never sent."""
        return self._rumours.fresh or self._user.fresh or self._replicated.fresh()

    def fill(
        self, room: int, *, members: int, transmissions: int, already: Sequence[bytes] = ()
    ) -> list[bytes]:
        """Return encoded messages that fit into `room` bytes.

        Args:
            room: bytes left in the packet, for messages and their lengths.
            members: size of the cluster, for the map's retransmissions.
            transmissions: how often a rumour is sent.
            already: encoded messages that the packet holds and that need no second copy.
        """
        self._turn = (self._turn + 1) % 3
        taken: list[bytes] = []
        for step in range(3):
            turn = (self._turn + step) % 3
            if turn == 1:
                more = self._map_frames(room, members)
            else:
                queue = self._user if turn else self._rumours
                count = MAX_MESSAGES - 32 - len(taken) - len(already)
                more = queue.take(room, max(0, count), transmissions)
                if already:
                    more = [rumour for rumour in more if rumour not in already]
            taken += more
            room -= sum(map(len, more)) + LENGTH_BYTES * len(more)
        return taken

    def burst(self, room: int, *, members: int, transmissions: int) -> list[bytes]:
        """Return encoded messages for several packets, no rumour and no unit twice.

        Whatever waits gets an equal share of the room, and what one leaves the others take.

        Args:
            room: bytes in all packets together.
            members: size of the cluster, for the map's retransmissions.
            transmissions: how often a rumour is sent.
        """
        taken: list[bytes] = []
        kinds = [kind for kind in (self._rumours, self._user) if len(kind)]
        waiting = len(kinds) + bool(self._replicated.queued())
        for queue in kinds:
            share = room // waiting
            waiting -= 1
            more = queue.take(share, MAX_BURST_RUMOURS, transmissions)
            taken += more
            room -= sum(map(len, more)) + LENGTH_BYTES * len(more)
        if waiting:
            per_frame = self._max_map_frame_bytes + FRAME_HEADER_BYTES + LENGTH_BYTES
            if room < per_frame:
                return taken + self._map_frames(room, members)
            frames = self._replicated.broadcasts(room // per_frame * self._max_map_frame_bytes, members)
            taken += [encode_message(MapFrame(frame)) for frame in frames]
        return taken

    def _map_frames(self, room: int, members: int) -> list[bytes]:
        """Ask the map once: each call counts as a transmission of all that it returns."""
        limit = room - FRAME_HEADER_BYTES - LENGTH_BYTES
        if limit < MIN_MAP_BYTES or not self._replicated.queued():
            return []
        frames = self._replicated.broadcasts(min(limit, self._max_map_frame_bytes), members)
        return [encode_message(MapFrame(frame)) for frame in frames]
