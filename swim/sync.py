"""Streams between two members: push-pull of all that one of them lacks, and the probe over a stream.

    initiator                                     responder
    |--- Alive, SyncRoot, SyncEnd ------------------>|   who I am, and where I stand
    |<-- Alive, SyncEnd (last) ----------------------|   there we agree: nothing to say
    or
    |<-- Alive, SyncRoll, SyncDigest, SyncEnd -------|   that is what I hold
    |--- Alive*, SyncUnit*, SyncRoll, SyncDigest, SyncEnd --->|   what you lack, and what I hold
    |<-- Alive*, verdicts, SyncUnit*, SyncEnd -------|   what you lack, and what I hold against what you said
    |--- Alive, verdicts, SyncEnd (last) ----------->|   the same
    close                                            close

An Alive with which a member begins its part may carry a refutation that the other's accusations have
caused. A stream that begins with a Ping, and with what is held against its receiver, is answered with an
Ack, after the receiver's Alive unless the Ping shows the receiver's own root, and ends there.

Every frame is length-prefixed (4 bytes), compressed where that pays, and protected as datagrams are. A
stream has a deadline and a limit of bytes, and its failure is nobody's but its own. Others may have three
quarters of the streams; the rest is for those that this member opens itself.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from swim.broadcast import Replicated
from swim.codec import (
    IN_STREAM,
    LENGTH_BYTES,
    MAX_BULK_BYTES,
    decode_message,
    encode_message,
    is_statement,
    join_packet,
    split_packet,
)
from swim.compression import compress, decompress
from swim.config import MAX_FRAME_BYTES, SwimConfig
from swim.events import CloseStream, Effect, OpenStream, SendStream
from swim.keyring import MAX_OVERHEAD_BYTES, Channel, Envelope
from swim.messages import (
    Ack,
    Address,
    DecodeError,
    Ping,
    SyncClocks,
    SyncDigest,
    SyncEnd,
    SyncRoll,
    SyncRoot,
    SyncUnit,
    UserFrame,
)
from swim.roll import Roll
from swim.user_traffic import UserTraffic

FRAME_LENGTH_BYTES: Final = 4
TARGET_FRAME_BYTES: Final = 32_768
"""Messages are gathered into frames of about this size."""
MAX_FRAME_MESSAGES: Final = 200
MAX_DIGEST_BYTES: Final = 1_048_576
"""Longest digest taken from a peer."""
MAX_EVENT_BYTES: Final = 16_384
"""Latest user events that go with a push-pull."""
MAX_FORGED: Final = 8
"""Statements with a wrong signature after which a stream is closed: an honest peer may hold one of a member
whose key was replaced."""
SILENT_STREAM_S: Final = 1.0
"""An accepted stream on which nothing authentic came for so long makes room when there is none. Without
this, connections that say nothing would keep newcomers out."""


@dataclass(slots=True)
class Sync:
    """One stream.

    Attributes:
        id: the stream.
        address: the other end.
        initiator: whether this member opened it.
        seed: the seed being tried, if this is an attempt to join.
        deadline: when it is given up.
        ping: the question to ask, if this is a probe.
        said: what the other end should know of before it answers.
        buffer: bytes that are not yet a whole frame.
        taken_bytes: all bytes received so far.
        peer: who speaks at the other end, once known.
        theirs: the peer's root, once known.
        roll: the peer's digest of the roll, as far as received.
        digest: the peer's digest of the map, as far as received.
        ends: how many SyncEnd have come.
        forged: how many statements did not carry their author's signature.
        against: what this member holds against statements of the peer.
        given_frames: frames of map units that the peer lacked and was sent.
        news: units of the map that the peer has brought and that were news.
        is_done: whether the peer's whole answer has come.
    """

    id: int
    address: Address
    initiator: bool
    seed: str | None
    deadline: float
    ping: Ping | None = None
    said: Sequence[bytes] = ()
    buffer: bytearray = field(default_factory=bytearray)
    taken_bytes: int = 0
    peer: str = ""
    theirs: bytes | None = None
    roll: bytearray = field(default_factory=bytearray)
    digest: bytearray = field(default_factory=bytearray)
    ends: int = 0
    forged: int = 0
    against: dict[bytes, None] = field(default_factory=dict)
    given_frames: int = 0
    news: int = 0
    is_done: bool = False


class Owner(Protocol):
    """What push-pull needs of the protocol around it."""

    name: str
    wall_offset: float

    def introduction(self) -> list[bytes]:
        """Return the statements that tell a stranger who this is."""

    def root(self) -> bytes:
        """Return the root of all replicated state."""

    def learn_compared(self, encoded: bytes, sender: str, now: float) -> tuple[bytes, ...]:
        """Take a statement of a peer; return what is held against it."""

    def stream_ping(self, ping: Ping, sender: str, now: float) -> Ack | None:
        """Answer a ping that came over a stream."""

    def stream_ack(self, ack: Ack, sender: str, now: float) -> None:
        """Take the answer to a ping over a stream."""

    def sync_done(self, sync: Sync, now: float) -> None:
        """A push-pull that this member began has brought the peer's whole answer."""

    def sync_taken(self, sync: Sync) -> None:
        """A push-pull that the peer began is over."""

    def sync_failed(self, sync: Sync, reason: str, now: float) -> None:
        """A push-pull that this member began has come to nothing."""


class SyncStreams:
    """All streams of one member.

    Args:
        config: limits.
        owner: the protocol around it.
        envelope: protects frames.
        roll: the members that are compared.
        replicated: the map that is exchanged with the members.
        traffic: user events, the latest of which go along.
        effects: where effects are appended.
        counts: where drops are counted.
    """

    def __init__(
        self,
        config: SwimConfig,
        owner: Owner,
        envelope: Envelope,
        *,
        roll: Roll,
        replicated: Replicated,
        traffic: UserTraffic,
        effects: list[Effect],
        counts: Counter[str],
    ) -> None:
        self._config = config
        self._owner = owner
        self._envelope = envelope
        self._roll = roll
        self._replicated = replicated
        self._traffic = traffic
        self._effects = effects
        self._counts = counts
        self._streams: dict[int, Sync] = {}
        self._next_id = 1

    def begin(self, address: Address, now: float, seed: str | None = None) -> bool:
        """Open a push-pull; say whether there was room for one more."""
        if seed is None and any(s.initiator and s.address == address and s.ping is None
                                for s in self._streams.values()):  # fmt: skip
            return False
        return self._open(address, now + self._config.stream_timeout_s, seed=seed)

    def probe(self, address: Address, ping: Ping, said: Sequence[bytes], deadline: float) -> bool:
        """Ask a member over a stream whether it lives.

        Args:
            address: where it listens.
            ping: the question, tagged.
            said: encoded statements about it, which it should know of.
            deadline: until when an answer is waited for.

        Returns:
            Whether there was room for one more stream.
        """
        return self._open(address, deadline, ping=ping, said=said)

    def accepted(self, stream: int, source: Address, now: float) -> None:
        """Take a stream that a peer opened, or close it at once if there are too many."""
        if self._is_full(now) or stream in self._streams:
            self._counts["streams_over_limit"] += 1
            self._effects.append(CloseStream(stream))
            return
        deadline = now + self._config.stream_timeout_s
        self._streams[stream] = Sync(stream, source, False, None, deadline)

    def opened(self, stream: int, now: float) -> None:
        """Begin to speak on a stream that we opened."""
        sync = self._streams.get(stream)
        if sync is None or not sync.initiator:
            return
        if sync.ping is not None:
            self._send(sync, [*sync.said, encode_message(sync.ping)])
            return
        root = encode_message(SyncRoot(self._owner.root()))
        self._send(sync, [*self._owner.introduction(), root, _end(is_last=False)])

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
        if not self._streams:
            return
        for sync in [s for s in self._streams.values() if s.deadline <= now]:
            self._close(sync)
            if sync.ping is None:
                self._counts["streams_timed_out"] += 1
            self._give_up(sync, f"no answer within {self._config.stream_timeout_s:g} s", now)

    def next_timer(self) -> float | None:
        """Return the nearest deadline."""
        if not self._streams:
            return None
        return min(sync.deadline for sync in self._streams.values())

    def statistics(self) -> dict[str, int]:
        """Count the open streams."""
        return {"streams_open": len(self._streams)}

    # ---- reading ----------------------------------------------------------------------------

    def _read_frames(self, sync: Sync, now: float) -> None:
        if sync.taken_bytes > self._config.max_state_bytes:
            raise DecodeError("state_too_large")
        while sync.id in self._streams:
            frame = _next_frame(sync.buffer)
            if frame is None:
                return
            try:
                body = decompress(self._envelope.open(Channel.STREAM, frame), MAX_FRAME_BYTES)
            except ValueError:
                raise DecodeError("bad_compression") from None
            packet = split_packet(body)
            if sync.peer not in {"", packet.sender}:
                raise DecodeError("sender_changed")
            sync.peer = packet.sender
            for encoded in packet.messages:
                if sync.id in self._streams:
                    self._handle(sync, encoded, now)

    def _handle(self, sync: Sync, encoded: bytes, now: float) -> None:
        if is_statement(encoded):
            self._learn(sync, encoded, now)
            return
        message = decode_message(encoded, IN_STREAM)
        if isinstance(message, SyncEnd):
            sync.ends += 1
            self._turn(sync, message.is_last, now)
        elif isinstance(message, SyncUnit):
            wall = now + self._owner.wall_offset
            sync.news += self._replicated.bulk_receive(sync.peer, message.unit, now, wall)
        elif isinstance(message, SyncRoot):
            sync.theirs = message.root
        elif isinstance(message, SyncClocks):
            self._traffic.take_clocks(message)
        elif isinstance(message, UserFrame):
            self._traffic.take_recent(message, now)
        elif isinstance(message, SyncRoll | SyncDigest):
            digest = sync.roll if isinstance(message, SyncRoll) else sync.digest
            digest += message.part
            if len(digest) > MAX_DIGEST_BYTES:
                raise DecodeError("digest_too_large")
        elif isinstance(message, Ping) and not sync.initiator:
            answer = self._owner.stream_ping(message, sync.peer, now)
            sync.ends += 1
            if answer is not None:
                # Who shows our root holds our latest word.
                introduction = self._owner.introduction() if answer.root else []
                self._send(sync, [*introduction, encode_message(answer)])
            self._close(sync)
        elif isinstance(message, Ack) and sync.ping is not None:
            self._owner.stream_ack(message, sync.peer, now)
            self._close(sync)

    def _learn(self, sync: Sync, encoded: bytes, now: float) -> None:
        try:
            against = self._owner.learn_compared(encoded, sync.peer, now)
        except DecodeError as error:
            if error.reason != "bad_signature" or sync.forged >= MAX_FORGED:
                raise
            self._counts["dropped_bad_signature"] += 1
            sync.forged += 1
            return
        sync.against.update(dict.fromkeys(against))

    # ---- speaking ---------------------------------------------------------------------------

    def _turn(self, sync: Sync, is_last: bool, now: float) -> None:
        """Answer after the peer has said its part."""
        if sync.peer == self._owner.name or is_last:
            if sync.peer == self._owner.name and not sync.initiator:
                self._send(sync, [_end(is_last=True)])  # so that the other end knows it met itself
            self._done(sync, now)
            self._close(sync)
            return
        introduction = [*self._owner.introduction(), encode_message(self._traffic.clocks())]
        against, sync.against = list(sync.against), {}
        turn = (sync.initiator, sync.ends)
        if turn == (False, 1) and sync.theirs == self._owner.root():
            self._send(sync, [*introduction, _end(is_last=True)])
        elif turn == (False, 1):
            self._send(sync, [*introduction, *self._digests(), _end(is_last=False)])
        elif turn == (True, 1):
            said = [*introduction, *self._lacking(sync), *self._digests(), *against]
            self._send(sync, [*said, _end(is_last=False)])
        elif turn == (False, 2):
            self._send(sync, [*introduction, *self._lacking(sync), *against, _end(is_last=False)])
        elif turn == (True, 2):
            self._send(sync, [*introduction, *against, _end(is_last=True)])
            self._done(sync, now)
            self._close(sync)
        else:
            raise DecodeError("talks_on")

    def _digests(self) -> list[bytes]:
        roll, digest = self._roll.slots(), self._replicated.bulk_digest()
        return [
            *(encode_message(SyncRoll(part)) for part in _parts(roll)),
            *(encode_message(SyncDigest(part)) for part in _parts(digest)),
        ]

    def _lacking(self, sync: Sync) -> list[bytes]:
        """Return all that the peer's digests lack."""
        try:
            words = self._roll.missing(bytes(sync.roll))
        except ValueError:
            raise DecodeError("bad_digest") from None
        units = self._replicated.bulk_units(bytes(sync.digest))
        sync.given_frames = len(units)
        recent = self._traffic.recent(MAX_EVENT_BYTES)
        return [*words, *(encode_message(SyncUnit(unit)) for unit in units), *recent]

    def _send(self, sync: Sync, messages: Iterable[bytes]) -> None:
        gathered: list[bytes] = []
        size = 0
        for encoded in messages:
            length = len(encoded) + LENGTH_BYTES
            if gathered and (size + length > TARGET_FRAME_BYTES or len(gathered) >= MAX_FRAME_MESSAGES):
                self._send_frame(sync, gathered)
                gathered, size = [], 0
            gathered.append(encoded)
            size += length
        self._send_frame(sync, gathered)

    def _send_frame(self, sync: Sync, messages: Sequence[bytes]) -> None:
        body = compress(join_packet(self._owner.name, messages))
        frame = self._envelope.seal(Channel.STREAM, body)
        self._counts["stream_bytes_sent"] += len(frame) + FRAME_LENGTH_BYTES
        self._effects.append(SendStream(sync.id, len(frame).to_bytes(FRAME_LENGTH_BYTES, "big") + frame))

    # ---- life of a stream -------------------------------------------------------------------

    def _open(
        self,
        address: Address,
        deadline: float,
        *,
        seed: str | None = None,
        ping: Ping | None = None,
        said: Sequence[bytes] = (),
    ) -> bool:
        if len(self._streams) >= self._config.max_streams:
            self._counts["streams_over_limit"] += 1
            return False
        sync = Sync(self._next_id, address, True, seed, deadline, ping, said)
        self._next_id += 2
        self._streams[sync.id] = sync
        self._effects.append(OpenStream(sync.id, address))
        return True

    def _is_full(self, now: float) -> bool:
        """Say whether others have all the streams they may have, after ending one that only waits."""
        accepted = [sync for sync in self._streams.values() if not sync.initiator]
        has_room = len(self._streams) < self._config.max_streams
        if len(accepted) < max(1, self._config.max_streams * 3 // 4) and has_room:
            return False
        silent_since = now + self._config.stream_timeout_s - SILENT_STREAM_S
        silent = next((sync for sync in accepted if not sync.peer and sync.deadline <= silent_since), None)
        if silent is None:
            return True
        self._counts["dropped_stream_silent"] += 1
        self._close(silent)
        return False

    def _done(self, sync: Sync, now: float) -> None:
        self._counts["push_pulls"] += 1
        sync.is_done = True
        if sync.initiator:
            self._owner.sync_done(sync, now)
        else:
            self._owner.sync_taken(sync)

    def _give_up(self, sync: Sync, reason: str, now: float) -> None:
        if sync.initiator and sync.ping is None and not sync.is_done:
            self._counts["push_pulls_failed"] += 1
            self._owner.sync_failed(sync, reason, now)

    def _close(self, sync: Sync) -> None:
        self._streams.pop(sync.id, None)
        self._effects.append(CloseStream(sync.id))


def _end(*, is_last: bool) -> bytes:
    return encode_message(SyncEnd(is_last))


def _next_frame(buffer: bytearray) -> bytes | None:
    """Take the next whole frame off the buffer."""
    if len(buffer) < FRAME_LENGTH_BYTES:
        return None
    length = int.from_bytes(buffer[:FRAME_LENGTH_BYTES], "big")
    if length > MAX_FRAME_BYTES + MAX_OVERHEAD_BYTES:
        raise DecodeError("frame_too_large")
    if len(buffer) < FRAME_LENGTH_BYTES + length:
        return None
    frame = bytes(buffer[FRAME_LENGTH_BYTES : FRAME_LENGTH_BYTES + length])
    del buffer[: FRAME_LENGTH_BYTES + length]
    return frame


def _parts(digest: bytes) -> list[bytes]:
    step = MAX_BULK_BYTES
    return [digest[at : at + step] for at in range(0, len(digest), step)]
