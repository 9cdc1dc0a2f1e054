"""Push-pull: two members exchange all they know over a stream.

    initiator                                   responder
    |--- Snapshot*, SyncDigest, SyncEnd ------------>|   learns the members
    |<-- Snapshot*, SyncUnit*, SyncDigest, SyncEnd --|   and sends what the digest lacks
    |--- Snapshot (itself), SyncUnit*, SyncEnd ----->|   the initiator answers in kind
    close                                        close

The last Snapshot carries a refutation that the responder's accusations may have caused. Every
frame is length-prefixed (4 bytes) and protected as datagrams are. A stream has a deadline and a
limit of bytes, and its failure is nobody's but its own. Others may have three quarters of the streams;
the rest is for those that this member opens itself.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from swim.broadcast import Replicated
from swim.codec import IN_STREAM, MAX_BULK_BYTES, decode_packet, encode_message, join_packet
from swim.config import MAX_FRAME_BYTES, SwimConfig
from swim.events import CloseStream, Effect, OpenStream, SendStream
from swim.keyring import MAX_OVERHEAD_BYTES, Channel, Envelope
from swim.messages import (
    Address,
    DecodeError,
    Message,
    Snapshot,
    SyncDigest,
    SyncEnd,
    SyncUnit,
)

LENGTH_BYTES: Final = 4
TARGET_FRAME_BYTES: Final = 32_768
"""Messages are gathered into frames of about this size."""
MAX_FRAME_MESSAGES: Final = 200
MAX_DIGEST_BYTES: Final = 1_048_576
"""Longest digest of a map taken from a peer."""
SILENT_STREAM_S: Final = 1.0
"""An accepted stream on which nothing authentic came for so long makes room when there is none. Without
this, connections that say nothing would keep newcomers out."""


@dataclass(slots=True)
class Sync:
    """One push-pull stream.

    Attributes:
        id: the stream.
        address: the other end.
        initiator: whether this member opened it.
        seed: the seed being tried, if this is an attempt to join.
        deadline: when it is given up.
        buffer: bytes that are not yet a whole frame.
        taken_bytes: all bytes received so far.
        peer: who speaks at the other end, once known.
        digest: the peer's digest of the map, as far as received.
        ends: how many SyncEnd have come.
        was_alone: whether this member knew nobody when the peer began to speak: then nobody is left to be
            told what it learns.
    """

    id: int
    address: Address
    initiator: bool
    seed: str | None
    deadline: float
    buffer: bytearray = field(default_factory=bytearray)
    taken_bytes: int = 0
    peer: str = ""
    digest: bytearray = field(default_factory=bytearray)
    ends: int = 0
    was_alone: bool = False


class Owner(Protocol):
    """What push-pull needs of the protocol around it."""

    name: str
    wall_offset: float

    def snapshots(self, now: float, *, only_self: bool = False) -> list[Snapshot]:
        """Return what is known."""

    def size(self) -> int:
        """Return how many members are up, this one included."""

    def learn_snapshot(self, snapshot: Snapshot, sync: Sync, now: float) -> None:
        """Take what a peer knows."""

    def sync_done(self, sync: Sync, now: float) -> None:
        """A push-pull that this member began has brought the peer's whole answer."""

    def sync_failed(self, sync: Sync, reason: str, now: float) -> None:
        """A push-pull that this member began has come to nothing."""


class SyncStreams:
    """All push-pull streams of one member.

    Args:
        config: limits.
        owner: the protocol around it.
        envelope: protects frames.
        replicated: the map that is exchanged with the members.
        effects: where effects are appended.
        counts: where drops are counted.
    """

    def __init__(
        self,
        config: SwimConfig,
        owner: Owner,
        envelope: Envelope,
        *,
        replicated: Replicated,
        effects: list[Effect],
        counts: Counter[str],
    ) -> None:
        self._config = config
        self._owner = owner
        self._envelope = envelope
        self._replicated = replicated
        self._effects = effects
        self._counts = counts
        self._streams: dict[int, Sync] = {}
        self._next_id = 1

    def begin(self, address: Address, now: float, seed: str | None = None) -> bool:
        """Open a push-pull; say whether there was room for one more."""
        if not self._has_room():
            self._counts["streams_over_limit"] += 1
            return False
        if seed is None and any(s.initiator and s.address == address for s in self._streams.values()):
            return False
        sync = Sync(self._next_id, address, True, seed, now + self._config.stream_timeout_s)
        self._next_id += 2
        self._streams[sync.id] = sync
        self._effects.append(OpenStream(sync.id, address))
        return True

    def accepted(self, stream: int, source: Address, now: float) -> None:
        """Take a stream that a peer opened, or close it at once if there are too many."""
        if self._is_full(now) or stream in self._streams:
            self._counts["streams_over_limit"] += 1
            self._effects.append(CloseStream(stream))
            return
        deadline = now + self._config.stream_timeout_s
        self._streams[stream] = Sync(stream, source, False, None, deadline)

    def _is_full(self, now: float) -> bool:
        """Say whether others have all the streams they may have, after ending one that only waits."""
        accepted = [sync for sync in self._streams.values() if not sync.initiator]
        if len(accepted) < max(1, self._config.max_streams * 3 // 4) and self._has_room():
            return False
        silent_since = now + self._config.stream_timeout_s - SILENT_STREAM_S
        silent = next((sync for sync in accepted if not sync.peer and sync.deadline <= silent_since), None)
        if silent is None:
            return True
        self._counts["dropped_stream_silent"] += 1
        self._close(silent)
        return False

    def _has_room(self) -> bool:
        return len(self._streams) < self._config.max_streams

    def opened(self, stream: int, now: float) -> None:
        """Say our part on a stream that we opened."""
        sync = self._streams.get(stream)
        if sync is None or not sync.initiator:
            return
        snapshots = self._owner.snapshots(now)
        self._send(sync, [*snapshots, *_digest(self._replicated.bulk_digest()), SyncEnd()])

    def failed(self, stream: int, reason: str, now: float) -> None:
        """Forget a stream that could not be opened or broke."""
        sync = self._streams.pop(stream, None)
        if sync is not None:
            self._give_up(sync, reason, now)

    def closed(self, stream: int, now: float) -> None:
        """Forget a stream that the other end closed."""
        sync = self._streams.pop(stream, None)
        if sync is None:
            return
        self._effects.append(CloseStream(stream))
        if sync.initiator:
            reason = "the other end closed the connection in the middle of its answer"
            if not sync.taken_bytes:
                reason = (
                    "the other end closed the connection without an answer; it may be busy, belong to "
                    "another cluster, hold another gossip key, or be no Caxton gossip port"
                )
            self._give_up(sync, reason, now)
        elif sync.buffer or not sync.ends:
            self._counts["dropped_stream_truncated"] += 1

    def received(self, stream: int, data: bytes, now: float) -> None:
        """Take bytes of a stream; whole frames are handled, bad ones end the stream."""
        sync = self._streams.get(stream)
        if sync is None:
            return
        sync.taken_bytes += len(data)
        sync.buffer += data
        try:
            self._read_frames(sync, now)
        except DecodeError as error:
            self._counts[f"dropped_stream_{error.reason}"] += 1
            self._close(sync)
            self._give_up(sync, f"its answer was not understood ({error.reason})", now)

    def handle_timer(self, now: float) -> None:
        """Give up what has taken too long."""
        for sync in [s for s in self._streams.values() if s.deadline <= now]:
            self._close(sync)
            self._counts["streams_timed_out"] += 1
            self._give_up(sync, f"no answer within {self._config.stream_timeout_s:g} s", now)

    def next_timer(self) -> float | None:
        """Return the nearest deadline."""
        return min((sync.deadline for sync in self._streams.values()), default=None)

    def statistics(self) -> dict[str, int]:
        """Count the open streams."""
        return {"streams_open": len(self._streams)}

    def _read_frames(self, sync: Sync, now: float) -> None:
        if sync.taken_bytes > self._config.max_state_bytes:
            raise DecodeError("state_too_large")
        while sync.id in self._streams:
            frame = _next_frame(sync.buffer)
            if frame is None:
                return
            packet = decode_packet(self._envelope.open(Channel.STREAM, frame), IN_STREAM)
            if sync.peer not in {"", packet.sender}:
                raise DecodeError("sender_changed")
            if not sync.peer:
                sync.was_alone = self._owner.size() == 1
            sync.peer = packet.sender
            self._handle(sync, packet.messages, now)

    def _handle(self, sync: Sync, messages: Iterable[Message], now: float) -> None:
        for message in messages:
            if sync.peer == self._owner.name and isinstance(message, SyncEnd):
                if not sync.initiator:
                    self._send(sync, [SyncEnd()])  # so that the other end knows it met itself
                self._close(sync)
                self._done(sync, now)
                return
            if isinstance(message, Snapshot):
                self._owner.learn_snapshot(message, sync, now)
            elif isinstance(message, SyncDigest):
                sync.digest += message.part
                if len(sync.digest) > MAX_DIGEST_BYTES:
                    raise DecodeError("digest_too_large")
            elif isinstance(message, SyncUnit):
                wall = now + self._owner.wall_offset
                self._replicated.bulk_receive(sync.peer, message.unit, now, wall)
            elif isinstance(message, SyncEnd):
                sync.ends += 1
                self._turn(sync, now)

    def _turn(self, sync: Sync, now: float) -> None:
        """Answer after the peer has said its part."""
        digest = bytes(sync.digest)
        if sync.initiator:
            units = self._replicated.bulk_units(digest)
            own = self._owner.snapshots(now, only_self=True)
            self._send(sync, [*own, *map(SyncUnit, units), SyncEnd()])
            self._close(sync)
            self._done(sync, now)
        elif sync.ends == 1:
            units, reply = self._replicated.bulk_reply(digest)
            snapshots = self._owner.snapshots(now)
            self._send(sync, [*snapshots, *map(SyncUnit, units), *_digest(reply), SyncEnd()])
        else:
            self._close(sync)

    def _done(self, sync: Sync, now: float) -> None:
        self._counts["push_pulls"] += 1
        if sync.initiator:
            self._owner.sync_done(sync, now)

    def _give_up(self, sync: Sync, reason: str, now: float) -> None:
        if sync.initiator:
            self._counts["push_pulls_failed"] += 1
            self._owner.sync_failed(sync, reason, now)

    def _close(self, sync: Sync) -> None:
        self._streams.pop(sync.id, None)
        self._effects.append(CloseStream(sync.id))

    def _send(self, sync: Sync, messages: Iterable[Message]) -> None:
        gathered: list[bytes] = []
        size = 0
        for message in messages:
            encoded = encode_message(message)
            if gathered and (size + len(encoded) > TARGET_FRAME_BYTES or len(gathered) >= MAX_FRAME_MESSAGES):
                self._send_frame(sync, gathered)
                gathered, size = [], 0
            gathered.append(encoded)
            size += len(encoded)
        self._send_frame(sync, gathered)

    def _send_frame(self, sync: Sync, messages: list[bytes]) -> None:
        body = join_packet(self._owner.name, messages)
        frame = self._envelope.seal(Channel.STREAM, body)
        self._effects.append(SendStream(sync.id, len(frame).to_bytes(LENGTH_BYTES, "big") + frame))


def _next_frame(buffer: bytearray) -> bytes | None:
    """Take the next whole frame off the buffer."""
    if len(buffer) < LENGTH_BYTES:
        return None
    length = int.from_bytes(buffer[:LENGTH_BYTES], "big")
    if length > MAX_FRAME_BYTES + MAX_OVERHEAD_BYTES:
        raise DecodeError("frame_too_large")
    if len(buffer) < LENGTH_BYTES + length:
        return None
    frame = bytes(buffer[LENGTH_BYTES : LENGTH_BYTES + length])
    del buffer[: LENGTH_BYTES + length]
    return frame


def _digest(digest: bytes) -> list[SyncDigest]:
    step = MAX_BULK_BYTES
    return [SyncDigest(digest[at : at + step]) for at in range(0, len(digest), step)]
