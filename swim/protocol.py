"""`Swim`: the membership protocol as one state machine; inputs in, effects and events out.

Theory of operation (SWIM, Das et al., DSN 2002; Lifeguard, Dadgar et al., DSN 2018). Each probe
interval one member is pinged. If it is silent, others are asked to ping it. If it stays silent it
is **suspected**, everybody is told by rumours riding on packets, and if it does not refute with a
higher incarnation before the suspicion ends it is declared **dead**. Full state is exchanged with
a random member now and then, with a seed at the start, and with a lost member's address for ever,
so that rumours that were lost and partitions that have healed are repaired without anybody's help.

Nothing here reads a clock, owns a socket or draws randomness of its own. Times are seconds on the
driver's monotonic clock; `wall_offset` turns them into wall time, which only credentials and the
replicated map need. After every input the driver drains `effects()` and `events()` and asks
`next_timer()` when to call `handle_timer()`.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from swim.broadcast import Replicated, RumourQueue
from swim.codec import IN_DATAGRAM, decode_packet, encode_message
from swim.config import MAX_PACKET_BYTES, SwimConfig
from swim.events import Effect, Event, Joined, MemberReaped
from swim.health import Health
from swim.identity import Authority, Identity
from swim.keyring import Channel, Envelope, Keyring, PlainEnvelope
from swim.learning import Learning
from swim.members import Member, MemberTable, Record
from swim.messages import (
    BOOT_ID_BYTES,
    Ack,
    Address,
    Alive,
    Boot,
    Dead,
    DecodeError,
    Left,
    MapFrame,
    Message,
    Nack,
    Ping,
    PingRequest,
    Snapshot,
    Statement,
    Suspect,
)
from swim.outgoing import Outgoing
from swim.own_word import OwnWord
from swim.probe import Prober
from swim.seeds import Seeds
from swim.sync import Sync, SyncStreams

MAX_GOODBYES: Final = 64
"""Members told directly that we leave; the others hear it by rumour."""
FIRST_PUSH_PULL_S: Final = 1.0
"""Pause between joining and the next push-pull; it doubles up to `push_pull_interval_s`. Whoever joins
together with many others learns there what it was told too early to know."""


class Swim:
    """One member of a cluster.

    Args:
        config: the parameters.
        identity: speaks for this member; its name is the member's name.
        authority: decides whose statements count.
        address: where others reach this member; `start` may replace it.
        meta: application bytes that travel with the member.
        replicated: the replicated map that rides along.
        rng: every random choice is drawn from it.
        entropy: returns so many cryptographically random bytes.
        gossip_keys: keys of 32 bytes, the first encrypts; with none, packets carry a checksum
            only, which is for development and simulation.

    Attributes:
        wall_offset: wall time minus `now`, in seconds; the driver refreshes it.
        keyring: rotates the gossip keys; None without encryption.
        has_left: whether a goodbye has been said for long enough; nothing happens afterwards.
    """

    def __init__(  # noqa: PLR0917 (the seven parts of a member, in their fixed order)
        self,
        config: SwimConfig,
        identity: Identity,
        authority: Authority,
        address: Address,
        meta: bytes,
        replicated: Replicated,
        rng: random.Random,
        *,
        entropy: Callable[[int], bytes],
        gossip_keys: Sequence[bytes] = (),
    ) -> None:
        self._check_meta(config, meta)
        self.config = config
        self.name = identity.name
        self.wall_offset = 0.0
        self.has_left = False
        self.keyring: Keyring | None = None
        if gossip_keys:
            self.keyring = Keyring(gossip_keys, label=config.label, entropy=entropy)
        self._envelope: Envelope = self.keyring or PlainEnvelope(config.label)
        self._replicated = replicated
        self._rng = rng
        self._effects: list[Effect] = []
        self._events: list[Event] = []
        self._counts: Counter[str] = Counter()
        self._table = MemberTable(
            max_members=config.max_members, max_remembered=config.max_remembered_addresses
        )
        self._rumours = RumourQueue(config.max_rumours)
        self._health = Health(config.health_max, config.lag_warning_s)
        self._own = OwnWord(
            config,
            identity,
            Alive(name=identity.name, host=address[0], port=address[1], meta=meta, incarnation=0,
                  boot=Boot(0, entropy(BOOT_ID_BYTES)), credential=identity.credential),
            rumours=self._rumours,
            health=self._health,
            events=self._events,
            counts=self._counts,
        )  # fmt: skip
        self._outgoing = Outgoing(
            config,
            identity.name,
            self._envelope,
            rumours=self._rumours,
            replicated=replicated,
            table=self._table,
            effects=self._effects,
            counts=self._counts,
        )
        self._seeds = Seeds(config, rng)
        self._prober = Prober(config, rng, self._table, self._health, self)
        self._learning = Learning(
            config,
            self,
            authority,
            table=self._table,
            rumours=self._rumours,
            ring=self._prober.ring,
            events=self._events,
            counts=self._counts,
        )
        self._streams = SyncStreams(
            config, self, self._envelope, replicated=replicated, effects=self._effects, counts=self._counts
        )
        self._gossip_at = self._push_pull_at = self._reconnect_at = self._meet_after = 0.0
        self._push_pull_pause_s = config.push_pull_interval_s
        self._leave_until: float | None = None

    # ---- life -------------------------------------------------------------------------------

    def start(self, now: float, address: Address | None = None) -> None:
        """Begin this life of the process: called once, before any other input.

        Args:
            now: the time.
            address: where others reach this member, if it was not known before.
        """
        if self._own.is_spoken:
            raise RuntimeError("a Swim starts once; build a new one for a new life")
        self._own.start(now + self.wall_offset, address or self.address)
        self._prober.start(now)
        self._gossip_at = now + self.config.gossip_interval_s * self._rng.uniform(0.5, 1)
        self._push_pull_at = now + self.config.push_pull_interval_s * self._rng.uniform(0.5, 1)
        self._reconnect_at = now + self.config.reconnect_interval_s * self._rng.uniform(0.5, 1)

    def join(self, seeds: Sequence[str], now: float) -> None:
        """Try these seeds, `host:port`, until one answers.

        Raises:
            ValueError: for a malformed seed.
        """
        self._seeds.add(list(seeds), now)
        if self._is_running():
            self._try_seeds(now)

    def leave(self, now: float) -> None:
        """Say goodbye; `has_left` turns true after the configured linger."""
        if not self._is_running() or self._leave_until is not None:
            return
        goodbye = self._own.leave()
        self._seeds.answered()
        self._prober.stop()
        listeners = self._table.choose(self._rng, MAX_GOODBYES)
        for record in listeners:
            self.send(record.alive.address, [goodbye])
        self._leave_until = now + (self.config.leave_linger_s if listeners else 0.0)
        self._finish_leaving(now)

    def update_meta(self, meta: bytes, now: float) -> None:
        """Change this member's metadata and tell everybody.

        Raises:
            ValueError: if `meta` is too long.
        """
        self._check_meta(self.config, meta)
        if self._own.change_meta(meta):
            self._gossip_at = min(self._gossip_at, now)

    # ---- the five verbs ---------------------------------------------------------------------

    def receive(self, data: bytes, source: Address, now: float) -> None:
        """Handle one datagram, from anybody, with anything in it."""
        if not self._is_running():
            self._counts["dropped_not_running"] += 1
            return
        if len(data) > MAX_PACKET_BYTES:
            self._counts["dropped_oversized"] += 1
            return
        try:
            body = self._envelope.open(Channel.DATAGRAM, data)
            packet = decode_packet(body, IN_DATAGRAM, max_bytes=MAX_PACKET_BYTES)
        except DecodeError as error:
            self._counts[f"dropped_{error.reason}"] += 1
            return
        self._counts["packets_received"] += 1
        if packet.sender != self.name:
            self._own.meet(now)
        record = self._table.get(packet.sender)
        if record is not None:
            record.last_heard = now
        for message in packet.messages:  # news first, so that answers carry its consequences
            if isinstance(message, (Alive, Suspect, Dead, Left)):
                self._learning.learn(message, now)
        if packet.sender == self.name:
            self._counts["dropped_own_packet"] += 1
            return
        for message in packet.messages:
            self._handle(message, packet.sender, source, now)

    def handle_timer(self, now: float) -> None:
        """Do everything that is due."""
        due = self.next_timer()
        if due is None or due > now:
            return
        if self._health.timer_lagged(now - due):
            # We did not run, so nobody could refute to us: give the time back.
            self._counts["stalls"] += 1
            self._learning.postpone(now - due)
        self._prober.handle_timer(now)
        self._learning.handle_timer(now)
        self._streams.handle_timer(now)
        self._try_seeds(now)
        map_due = self._replicated.next_timer()
        if map_due is not None and map_due <= now:
            self._replicated.handle_timer(now, now + self.wall_offset)
        if now >= self._gossip_at:
            self._gossip_at = now + self.config.gossip_interval_s
            self._gossip(now)
        if now >= self._push_pull_at:
            self._push_pull_at = now + self._spread(self._push_pull_pause_s)
            self._push_pull_pause_s = min(self.config.push_pull_interval_s, 2 * self._push_pull_pause_s)
            for record in self._table.choose(self._rng, 1):
                self._streams.begin(record.alive.address, now)
        if now >= self._reconnect_at:
            self._reconnect_at = now + self._spread(self.config.reconnect_interval_s)
            self._reconnect(now)
        self._reap(now)
        self._finish_leaving(now)

    def next_timer(self) -> float | None:
        """Return when `handle_timer` is wanted, or None for never."""
        if not self._is_running():
            return None
        times = [
            self._gossip_at, self._push_pull_at, self._reconnect_at, self._leave_until,
            self._prober.next_timer(), self._learning.next_timer(), self._streams.next_timer(),
            self._seeds.next_timer(), self._replicated.next_timer(),
            self._table.next_reap(self.config.reap_after_s),
        ]  # fmt: skip
        return min(time for time in times if time is not None)

    def effects(self) -> list[Effect]:
        """Drain what the driver shall do, in order."""
        effects = list(self._effects)
        self._effects.clear()
        return effects

    def events(self) -> list[Event]:
        """Drain what has happened, in order."""
        events = list(self._events)
        self._events.clear()
        return events

    # ---- streams ----------------------------------------------------------------------------

    def stream_accepted(self, stream: int, source: Address, now: float) -> None:
        """A peer opened a stream; `stream` is an even number never used before."""
        if self._is_running():
            self._streams.accepted(stream, source, now)

    def stream_opened(self, stream: int, now: float) -> None:
        """A stream asked for by an effect is open."""
        self._streams.opened(stream, now)

    def stream_failed(self, stream: int, reason: str, now: float) -> None:
        """A stream could not be opened, or broke."""
        self._streams.failed(stream, reason, now)

    def stream_received(self, stream: int, data: bytes, now: float) -> None:
        """Bytes came on a stream, cut anywhere."""
        self._streams.received(stream, data, now)

    def stream_closed(self, stream: int, now: float) -> None:
        """The other end closed a stream."""
        self._streams.closed(stream, now)

    # ---- views ------------------------------------------------------------------------------

    @property
    def address(self) -> Address:
        """Where others reach this member."""
        return self._own.alive.address

    @property
    def own(self) -> Alive:
        """This member's own latest word."""
        return self._own.alive

    def members(self) -> list[Member]:
        """Return everybody known except this member, dead and departed ones included."""
        return [record.view() for record in self._table.records()]

    def member(self, name: str) -> Member | None:
        """Return one member."""
        record = self._table.get(name)
        return None if record is None else record.view()

    def address_book(self) -> list[tuple[str, Address]]:
        """Return name and address of everybody that has not said goodbye, forgotten members included."""
        return self._table.address_book()

    def remember(self, book: Sequence[tuple[str, Address]]) -> None:
        """Take back what `address_book` returned in an earlier life: each is tried until it is met."""
        self._table.remember([(name, address) for name, address in book if name != self.name])

    def statistics(self) -> dict[str, int]:
        """Count everything: members, queues, streams, health, and every drop by its reason."""
        return {
            **dict(sorted(self._counts.items())),
            **self._table.statistics(),
            **self._rumours.statistics(),
            **self._health.statistics(),
            **self._streams.statistics(),
            **self._prober.statistics(),
            **(self.keyring.statistics() if self.keyring else {}),
            "incarnation": self.own.incarnation,
            "seeds_pending": len(self._seeds),
        }

    # ---- what the parts ask of the whole -----------------------------------------------------

    def send(self, to: Address, messages: Sequence[Message], record: Record | None = None) -> None:
        """Send messages with what else fits; a doubted or dead receiver is told so (buddy system)."""
        self._outgoing.send(to, messages, record)

    def root(self) -> bytes:
        """Return the root of the replicated map."""
        return self._replicated.root()

    def size(self) -> int:
        """Return how many members are up, this one included."""
        return self._table.up_count + 1

    def count(self, what: str) -> None:
        """Count something."""
        self._counts[what] += 1

    def accuse(self, record: Record, now: float) -> None:
        """A probe of ours has failed."""
        self._learning.accuse(record, now)

    def about_self(self, statement: Statement, now: float) -> None:
        """Defend this member: refute, outbid a past life, or find out that we are superseded."""
        if self._own.hear(statement, now, lambda alive: self._learning.verify(alive, now) is not None):
            self._gossip_at = min(self._gossip_at, now)

    def snapshots(self, now: float, *, only_self: bool = False) -> list[Snapshot]:
        """Return what a push-pull tells: this member, then the others."""
        own = [Snapshot(self._own.alive, self._own.goodbye, 0)]
        if only_self:
            return own
        return own + [record.snapshot(now) for record in self._table.records()]

    def learn_snapshot(self, snapshot: Snapshot, sync: Sync, now: float) -> None:
        """Take what a peer told in a push-pull."""
        if sync.peer != self.name:
            self._own.meet(now)
        self._learning.learn_snapshot(snapshot, sync.peer, now, spread=not sync.was_alone)

    def sync_done(self, sync: Sync, now: float) -> None:
        """A push-pull has succeeded; if it was an attempt to join, that is over."""
        if sync.peer == self.name:
            self._counts["met_self"] += 1
            if sync.seed is not None and self._seeds.is_self(sync.seed):
                self._events.append(Joined((), self.size()))
        elif sync.seed is not None and len(self._seeds):
            self._seeds.answered()
            self._events.append(Joined((sync.seed,), self.size()))
            self._push_pull_pause_s = min(FIRST_PUSH_PULL_S, self.config.push_pull_interval_s)
            self._push_pull_at = min(self._push_pull_at, now + self._spread(self._push_pull_pause_s))
        record = self._table.get(sync.peer)
        if record is not None:
            record.last_heard = now

    def sync_failed(self, sync: Sync, reason: str, now: float) -> None:
        """A push-pull has failed; a seed is tried again later."""
        if sync.seed is not None:
            event = self._seeds.failed(sync.seed, reason, now)
            if event is not None:
                self._events.append(event)

    # ---- inside -----------------------------------------------------------------------------

    def _handle(self, message: Message, sender: str, source: Address, now: float) -> None:
        record = self._table.get(sender)
        if isinstance(message, Ping):
            if message.target != self.name:
                self._counts["dropped_wrong_target"] += 1
                return
            answer: list[Message] = [Ack(message.sequence, self.name, self.root())]
            if record is not None and source != record.alive.address:
                # Perhaps an older process under a name that has moved on: it shall learn of that.
                answer.append(record.alive)
            self.send(source, answer, record)
            self._compare_root(record, message.root, now)
            if record is None and now >= self._meet_after:
                self._meet_after = now + self.config.probe_interval_s
                self._streams.begin(source, now)
        elif isinstance(message, PingRequest):
            self._prober.relay(message, source, record, now)
        elif isinstance(message, Ack):
            self._prober.acked(message, sender)
            if message.subject == sender:
                self._compare_root(record, message.root, now)
        elif isinstance(message, Nack):
            self._prober.nacked(message, sender)
        elif isinstance(message, MapFrame):
            if record is None or not record.is_up:
                self._counts["dropped_map_frame_of_stranger"] += 1
                return
            wall = now + self.wall_offset
            self._send_frames(record, self._replicated.receive(sender, message.frame, now, wall))

    def _compare_root(self, record: Record | None, root: bytes, now: float) -> None:
        if record is not None and record.is_up:
            frames = self._replicated.peer_root(record.alive.name, root, now)
            self._send_frames(record, frames)

    def _send_frames(self, record: Record, frames: Sequence[bytes]) -> None:
        self._outgoing.send_encoded(record.alive.address, [encode_message(MapFrame(f)) for f in frames])

    def _gossip(self, now: float) -> None:
        targets = self._table.choose(
            self._rng, self.config.gossip_nodes, dead_since=now - self.config.gossip_to_dead_s
        )
        for record in targets:
            self._outgoing.gossip(record.alive.address)

    def _reconnect(self, now: float) -> None:
        lost = self._table.lost_addresses()
        if lost and self._leave_until is None:
            self._counts["reconnect_attempts"] += 1
            self._streams.begin(self._rng.choice(lost), now)

    def _try_seeds(self, now: float) -> None:
        for text, address in self._seeds.due(now):
            if not self._streams.begin(address, now, text):
                event = self._seeds.failed(text, "too many streams are open here", now)
                if event is not None:
                    self._events.append(event)

    def _reap(self, now: float) -> None:
        for record in self._table.reap(now, self.config.reap_after_s):
            self._replicated.forget(record.alive.name)
            self._events.append(MemberReaped(record.view()))

    def _finish_leaving(self, now: float) -> None:
        if self._leave_until is not None and now >= self._leave_until:
            self.has_left = True

    def _is_running(self) -> bool:
        return self._own.is_spoken and not self.has_left

    def _spread(self, interval_s: float) -> float:
        return interval_s * self._rng.uniform(0.8, 1.2)

    @staticmethod
    def _check_meta(config: SwimConfig, meta: bytes) -> None:
        if len(meta) > config.max_meta_bytes:
            raise ValueError(f"meta has {len(meta)} bytes; at most {config.max_meta_bytes} travel")
