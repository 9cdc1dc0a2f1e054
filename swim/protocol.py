"""`Swim`: the membership protocol as one state machine; inputs in, effects and events out.

Theory of operation (SWIM, Das et al., DSN 2002; Lifeguard, Dadgar et al., DSN 2018). Each probe
interval one member is pinged. If it is silent, others are asked to ping it, and it is asked over a stream.
If it stays silent and others confirm, it is **suspected**, everybody is told by rumours riding on packets,
and if it does not refute with a higher incarnation before the suspicion ends it is declared **dead**.
Roots of hash trees ride on probes, so that what rumours missed is found and repaired in small packets; a
lost member's address is tried for ever, so that partitions that have healed are repaired without anybody's
help.

Nothing here reads a clock, owns a socket or draws randomness of its own. Times are seconds on the
driver's monotonic clock; `wall_offset` turns them into wall time, which only credentials and the
replicated map need. After every input the driver drains `effects()` and `events()` and asks
`next_timer()` when to call `handle_timer()`.
"""

import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from swim import identity as identities
from swim.accusations import Accusations, Verify
from swim.broadcast import Replicated, RumourQueue
from swim.codec import encode_message, split_packet
from swim.config import MAX_PACKET_BYTES, SwimConfig
from swim.coordinates import Coordinate, Vivaldi, distance
from swim.events import Effect, Event, Joined, MemberReaped
from swim.evidence import Evidence, Finding
from swim.health import Health
from swim.identity import Authority, Identity
from swim.keyring import VERSIONS, Channel, Envelope, Keyring, PlainEnvelope
from swim.learning import Learning
from swim.members import Member, MemberTable, Record, Remembered
from swim.messages import (
    BOOT_ID_BYTES,
    TAG_BYTES,
    Ack,
    Address,
    Alive,
    Boot,
    Dead,
    DecodeError,
    Message,
    Ping,
    Statement,
    Suspect,
    UserFrame,
    doubt_bytes,
)
from swim.outgoing import Outgoing
from swim.own_word import OwnWord
from swim.pairwise import Pairwise, Tagged
from swim.partition import Partition, judge
from swim.paths import LostPath, Paths
from swim.probe import Prober
from swim.reception import Reception
from swim.repair import Repair
from swim.roll import Roll
from swim.seeds import Seeds
from swim.sync import Sync, SyncStreams

MAX_GOODBYES: Final = 64
"""Members told directly that we leave; the others hear it by rumour."""
MAX_HEARD: Final = 8
"""Members last heard that are remembered; quorums need three."""


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
        verify: checks an Ed25519 signature; a simulator of many members may hand in one that remembers
            what it has checked.
        versions: lowest and highest protocol version that is spoken.

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
        verify: Verify = identities.verify,
        versions: tuple[int, int] = VERSIONS,
    ) -> None:
        self._check_meta(config, meta)
        self.config = config
        self.name = identity.name
        self.wall_offset = 0.0
        self.has_left = False
        self.keyring: Keyring | None = None
        if gossip_keys:
            self.keyring = Keyring(gossip_keys, label=config.label, entropy=entropy, versions=versions)
        self._envelope: Envelope = self.keyring or PlainEnvelope(config.label, versions=versions)
        self._verify = verify
        self._replicated = replicated
        self._rng = rng
        self._effects: list[Effect] = []
        self._events: list[Event] = []
        self._counts: Counter[str] = Counter()
        self._table = MemberTable(max_members=config.max_members, max_remembered=config.max_remembered)
        self._rumours = RumourQueue(config.max_rumours)
        self._user_queue = RumourQueue(config.max_rumours, what="user_frames")
        self._health = Health(config.health_max, config.lag_warning_s)
        self._evidence = Evidence(identity.name)
        self._paths = Paths(self._events)
        self._vivaldi = Vivaldi(rng)
        self._pairwise = Pairwise(identity.name, config.label, entropy)
        self._own = self._build_own_word(identity, address, meta, entropy, versions)
        self._roll = Roll(self._table, lambda: self._own.encoded if self._own.goodbye is None else b"", rng)
        self._build_conversation(rng)
        self._build_beliefs(identity, authority, verify, versions)
        self._heard: OrderedDict[str, float] = OrderedDict()
        self._last_gossip_at = self._reconnect_at = self._refresh_at = 0.0
        self._started_at = 0.0
        self._leave_until: float | None = None
        self._stream_probes_off: dict[str, None] = {}

    def _build_own_word(
        self,
        identity: Identity,
        address: Address,
        meta: bytes,
        entropy: Callable[[int], bytes],
        versions: tuple[int, int],
    ) -> OwnWord:
        host, port = address
        alive = Alive(
            identity.name, host, port, Boot(0, entropy(BOOT_ID_BYTES)), 0, meta, *versions, 0,
            self._pairwise.public_key, identity.credential,
        )  # fmt: skip
        return OwnWord(
            self.config,
            identity,
            alive,
            table=self._table,
            rumours=self._rumours,
            health=self._health,
            events=self._events,
            counts=self._counts,
        )

    def _build_conversation(self, rng: random.Random) -> None:
        """Build what sends and compares."""
        self._outgoing = Outgoing(
            self.config,
            self.name,
            self._envelope,
            rumours=self._rumours,
            user=self._user_queue,
            replicated=self._replicated,
            table=self._table,
            effects=self._effects,
            counts=self._counts,
        )
        self._seeds = Seeds(self.config, rng)
        self._prober = Prober(
            self.config, rng, self, table=self._table, health=self._health, paths=self._paths
        )
        self._repair = Repair(
            self.config, self, roll=self._roll, replicated=self._replicated, counts=self._counts
        )
        self._streams = SyncStreams(
            self.config,
            self,
            self._envelope,
            roll=self._roll,
            replicated=self._replicated,
            effects=self._effects,
            counts=self._counts,
        )

    def _build_beliefs(
        self, identity: Identity, authority: Authority, verify: Verify, versions: tuple[int, int]
    ) -> None:
        """Build what judges statements, and what hands them in."""
        self._accusations = Accusations(
            self.config,
            identity,
            self,
            verify=verify,
            table=self._table,
            rumours=self._rumours,
            health=self._health,
            evidence=self._evidence,
            events=self._events,
            counts=self._counts,
        )
        self._learning = Learning(
            self.config,
            self,
            authority,
            verify=verify,
            versions=versions,
            accusations=self._accusations,
            table=self._table,
            rumours=self._rumours,
            evidence=self._evidence,
            events=self._events,
            counts=self._counts,
        )
        self._reception = Reception(
            self.config,
            self,
            learning=self._learning,
            prober=self._prober,
            repair=self._repair,
            pairwise=self._pairwise,
            vivaldi=self._vivaldi,
            table=self._table,
            rumours=self._rumours,
            counts=self._counts,
        )

    # ---- life -------------------------------------------------------------------------------

    def start(self, now: float, address: Address | None = None) -> None:
        """Begin this life of the process: called once, before any other input.

        Args:
            now: the time.
            address: where others reach this member, if it was not known before.
        """
        if self._own.is_spoken:
            raise RuntimeError("a Swim starts once; build a new one for a new life")
        self._started_at = self._last_gossip_at = now
        self._own.start(now + self.wall_offset, address or self.address)
        self._prober.start(now)
        self._reconnect_at = now + self.config.reconnect_interval_s * self._rng.uniform(0.5, 1)
        self._refresh_at = now + self._spread(self.config.seed_refresh_s)

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
        goodbye = encode_message(self._own.leave())
        self._seeds.answered()
        self._prober.stop()
        listeners = self._table.choose(self._rng, MAX_GOODBYES)
        for record in listeners:
            self.send(record, [], statements=[goodbye])
        self._leave_until = now + (self.config.leave_linger_s if listeners else 0.0)
        self._finish_leaving(now)

    def update_meta(self, meta: bytes, now: float) -> None:
        """Change this member's metadata and tell everybody.

        Raises:
            ValueError: if `meta` is too long.
        """
        del now
        self._check_meta(self.config, meta)
        self._own.change(meta=meta)

    def update_address(self, address: Address, now: float) -> None:
        """Tell everybody that this member is now reached elsewhere."""
        del now
        self._own.change(address=address)

    def load(self, words: Iterable[bytes], now: float) -> int:
        """Take back what `words` returned, in an earlier life or of another member.

        What cannot be decoded, or does not prove itself, is counted and left out.

        Returns:
            How many members became known.
        """
        loaded = 0
        for encoded in words:
            try:
                statement = self._reception.decode_statement(encoded)
                if isinstance(statement, Alive):
                    loaded += self._learning.load(statement, encoded, now)
            except DecodeError as error:
                self._counts[f"dropped_{error.reason}"] += 1
        return loaded

    def words(self) -> list[bytes]:
        """Return the latest words of all who are up, this member included, to be loaded later."""
        return [self._own.encoded, *(record.encoded for record in self._table.up())]

    # ---- the five verbs ---------------------------------------------------------------------

    def receive(self, data: bytes, source: Address, now: float) -> None:
        """Handle one datagram, from anybody, with anything in it."""
        if not self._is_running():
            self._counts["dropped_not_running"] += 1
            return
        if len(data) > MAX_PACKET_BYTES:
            self._counts["dropped_oversized"] += 1
            return
        if not self._reception.is_allowed(source[0]):
            self._counts["dropped_network_not_allowed"] += 1
            return
        try:
            packet = split_packet(self._envelope.open(Channel.DATAGRAM, data))
        except DecodeError as error:
            self._counts[f"dropped_{error.reason}"] += 1
            return
        if packet.sender == self.name:
            self._counts["dropped_own_packet"] += 1
            return
        self._counts["packets_received"] += 1
        self._own.meet(now)
        self._reception.take(packet, source, now)

    def handle_timer(self, now: float) -> None:
        """Do everything that is due."""
        due = self.next_timer()
        if due is None or due > now:
            return
        # Probes are due at moments that were planned; what waits for gossip may be due since long ago.
        lag_s = max(0.0, now - (self._prober.next_timer() or now))
        if self._health.timer_lagged(lag_s, now):
            # We did not run, so nobody could refute to us: give the time back.
            self._counts["stalls"] += 1
            self._accusations.postpone(lag_s)
            self._own.stalled(lag_s, now)
        self._prober.handle_timer(now)
        self._accusations.handle_timer(now)
        self._streams.handle_timer(now)
        self._own.handle_timer(now, is_well=self._health.is_well)
        self._try_seeds(now)
        map_due = self._replicated.next_timer()
        if map_due is not None and map_due <= now:
            self._replicated.handle_timer(now, now + self.wall_offset)
        gossip_due = self._gossip_due()
        if gossip_due is not None and gossip_due <= now:
            self._gossip(now)
        if now >= self._reconnect_at:
            self._reconnect_at = now + self._spread(self.config.reconnect_interval_s)
            self._reconnect(now)
        if now >= self._refresh_at:
            self._refresh_at = now + self._spread(self.config.seed_refresh_s)
            self._visit_seed(now)
        self._reap(now)
        self._finish_leaving(now)

    def next_timer(self) -> float | None:
        """Return when `handle_timer` is wanted, or None for never."""
        if not self._is_running():
            return None
        due = min(self._reconnect_at, self._refresh_at)
        for time in (
            self._leave_until, self._prober.next_timer(), self._accusations.next_timer(), self._gossip_due(),
            self._streams.next_timer(), self._seeds.next_timer(), self._replicated.next_timer(),
            self._own.next_timer(), self._table.next_reap(self.config.reap_after_s),
        ):  # fmt: skip
            if time is not None and time < due:
                due = time
        return due

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

    def loop_lagged(self, lag_s: float, now: float) -> None:
        """Take note of how long the event loop around this member could not serve it."""
        self._health.loop_lagged(lag_s, now)
        self._own.stalled(lag_s, now)

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

    def why(self, name: str) -> tuple[Finding, ...]:
        """Return the findings that led to what is held of a member, the oldest first."""
        return self._evidence.why(name)

    def lost_paths(self) -> list[LostPath]:
        """Return the members that live but cannot be reached directly from here."""
        return self._paths.lost()

    def partition(self, now: float) -> Partition:
        """Return on which side of a partition this member finds itself."""
        up = [record.name for record in self._table.up()]
        lost = [name for name, _ in self._table.lost()]
        last = next(reversed(self._heard.values()), self._started_at)
        return judge(self.name, up, lost, heard_nobody=bool(up) and now > last + self._isolation_s())

    def rtt(self, a: str, b: str) -> float | None:
        """Return the round trip in seconds between two members, as network coordinates have it."""
        ends = [self._vivaldi.own if name == self.name else self._coordinate(name) for name in (a, b)]
        return None if ends[0] is None or ends[1] is None else distance(ends[0], ends[1])

    def protocol_version(self) -> int:
        """Return the newest protocol version that everybody who is up understands."""
        highest = [record.alive.highest_version for record in self._table.up()]
        return min([self._own.alive.highest_version, *highest])

    def set_stream_probes(self, name: str, *, enabled: bool) -> None:
        """Say whether a member may be asked over a stream when datagrams fail; it may, at first."""
        self._stream_probes_off.pop(name, None)
        if not enabled and len(self._stream_probes_off) < self.config.max_members:
            self._stream_probes_off[name] = None

    def address_book(self) -> list[tuple[str, Address]]:
        """Return name and address of everybody that has not said goodbye, forgotten members included."""
        return self._table.address_book()

    def remember(self, book: Sequence[tuple[str, Address]]) -> None:
        """Take back what `address_book` returned in an earlier life: each is tried until it is met."""
        for name, address in book:
            if name != self.name:
                self._table.remember(name, Remembered(address))

    def statistics(self) -> dict[str, int]:
        """Count everything: members, queues, streams, health, and every drop by its reason."""
        parts = (
            self._table, self._rumours, self._user_queue, self._health, self._streams, self._prober,
            self._accusations, self._learning, self._evidence, self._paths, self._pairwise, self._repair,
            self._vivaldi,
        )  # fmt: skip
        counted = dict(sorted(self._counts.items()))
        for part in parts:
            counted.update(part.statistics())
        if self.keyring is not None:
            counted.update(self.keyring.statistics())
        return {**counted, "incarnation": self.own.incarnation, "seeds_pending": self._seeds.pending}

    # ---- what the parts ask of the whole ------------------------------------------------------

    def send(self, record: Record, messages: Sequence[Message], *, statements: Sequence[bytes] = ()) -> None:
        """Send messages with what else fits, tagged; a doubted or dead receiver is told so (buddy system)."""
        key = record.alive.exchange_key
        tagged = [
            replace(message, tag=self._pairwise.tag(message, key)) if isinstance(message, Tagged) else message
            for message in messages
        ]
        self._outgoing.send(record.alive.address, tagged, record, statements=statements)

    def send_to(
        self,
        to: Address,
        messages: Sequence[Message],
        record: Record | None,
        *,
        statements: Sequence[bytes] = (),
    ) -> None:
        """Send messages to an address."""
        self._outgoing.send(to, messages, record, statements=statements)

    def send_encoded(self, record: Record, encoded: Sequence[bytes]) -> None:
        """Send encoded messages in as many datagrams as they need."""
        self._outgoing.send_encoded(record.alive.address, encoded)

    def root(self) -> bytes:
        """Return the root of all replicated state."""
        return self._repair.root()

    def size(self) -> int:
        """Return how many members are up, this one included."""
        return self._table.up_count + 1

    def transmissions(self) -> int:
        """Return how often a rumour is sent."""
        return self.config.retransmissions(self.size())

    def count(self, what: str) -> None:
        """Count something."""
        self._counts[what] += 1

    def heard(self, name: str, now: float) -> None:
        """A member has said something that only itself can say."""
        self._heard[name] = now
        self._heard.move_to_end(name)
        if len(self._heard) > MAX_HEARD:
            self._heard.popitem(last=False)

    def reachable(self, exclude: str, now: float) -> int:
        """Return how many others were heard from lately, as far as it matters for a quorum."""
        since = now - self._isolation_s()
        return sum(at >= since for name, at in self._heard.items() if name != exclude)

    def estimated_rtt_s(self, record: Record) -> float | None:
        """Return what network coordinates say of a round trip."""
        return None if record.coordinate is None else distance(self._vivaldi.own, record.coordinate)

    def ack(self, sequence: int) -> Ack:
        """Return the answer to a ping, not tagged yet."""
        return Ack(sequence, self.name, self.root(), self._vivaldi.own.pack(), bytes(TAG_BYTES))

    def introduction(self) -> list[bytes]:
        """Return the statements that tell a stranger who this is."""
        return [self._own.encoded]

    def doubt(self, record: Record) -> bytes:
        """Return this member's own encoded Suspect of a member."""
        alive = record.alive
        authors = ((self.name, self._accusations.sign(record)),)
        return encode_message(Suspect(alive.name, alive.boot, alive.incarnation, authors))

    def probe_stream(self, record: Record, ping: Ping, patience_s: float, now: float) -> bool:
        """Ask a member over a stream; say whether one could be opened."""
        if not self.config.stream_probes or record.name in self._stream_probes_off:
            return False
        tagged = replace(ping, tag=self._pairwise.tag(ping, record.alive.exchange_key))
        return self._streams.probe(record.alive.address, tagged, now, patience_s)

    def stream_ping(self, ping: Ping, sender: str, now: float) -> Ack | None:
        """Answer a ping that came over a stream."""
        record = self._reception.authentic(ping, sender, now)
        if record is None or ping.target != self.name:
            return None
        ack = self.ack(ping.sequence)
        return replace(ack, tag=self._pairwise.tag(ack, record.alive.exchange_key))

    def stream_ack(self, ack: Ack, sender: str, now: float) -> None:
        """Take the answer to a ping over a stream."""
        self._reception.take_ack(ack, sender, now, by_stream=True)

    def probe_failed(self, record: Record, detail: str, now: float) -> None:
        """Doubt a member that has not answered."""
        self._evidence.note(record.name, now, "probe_failed", f"{detail}; penalty {self._health.penalty}")
        self._accusations.doubt(record, now)

    def proved(self, name: str, now: float) -> None:
        """Somebody has proved that it lives."""
        record = self._table.get(name)
        if record is not None:
            self._accusations.acked(record, now)
        else:
            self._learning.knock_answered(name, now)

    def check(self, record: Record, now: float) -> None:
        """Ask a member whether it lives, outside the turn."""
        del now
        self._prober.check(record)

    def knock(self, record: Record, now: float) -> None:
        """Ask somebody who is not in the table whether it lives."""
        del now
        self._prober.check(record, introduce=True)

    def tell_subject(self, record: Record, encoded: bytes) -> None:
        """Send a member what is said about it."""
        self._counts["subjects_told"] += 1
        self.send_encoded(record, [encoded])

    def came(self, record: Record, now: float) -> None:
        """A member is up that was not."""
        del now
        self._prober.ring.add(record.name)
        self._agree_on_version()

    def gone(self, record: Record, now: float) -> None:
        """A member is not up any more."""
        del now
        self._prober.ring.discard(record.name)
        self._paths.forget(record.name)
        self._heard.pop(record.name, None)
        self._agree_on_version()

    def about_self(self, statement: Statement, now: float) -> None:
        """Defend this member: refute, outbid a past life, or find out that we are superseded."""
        refuted = self._own.hear(statement, now, lambda said: self._is_valid_about_self(said, now))
        if refuted is None:
            return
        self._evidence.note(
            self.name, now, "accused", f"doubted by {', '.join(a for a, _ in refuted.authors)}"
        )
        for author, _ in refuted.authors:
            record = self._table.get(author)
            if record is not None:
                self.send(record, [], statements=[self._own.encoded])

    def learn_compared(self, encoded: bytes, sender: str, now: float) -> bytes | None:
        """Take a statement of a peer that compares notes; return what is held against it."""
        statement = self._reception.decode_statement(encoded)
        self._own.meet(now)
        return self._learning.learn(statement, encoded, sender, now, compared=True)

    def take_user_frame(self, frame: UserFrame, sender: str, now: float) -> None:
        """Take user traffic."""

    def open_stream(self, record: Record, now: float) -> None:
        """Open a push-pull with a member."""
        self._streams.begin(record.alive.address, now)

    def sync_done(self, sync: Sync, now: float) -> None:
        """A push-pull has succeeded; if it was an attempt to join, that is over."""
        if sync.peer == self.name:
            self._counts["met_self"] += 1
            if sync.seed is not None and self._seeds.is_self(sync.seed):
                self._events.append(Joined((), self.size()))
        elif sync.seed is not None and self._seeds.answered():
            self._events.append(Joined((sync.seed,), self.size()))
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

    def _gossip_due(self) -> float | None:
        """Return when what waits shall be sent on: news soon, other things at the next tick."""
        if not self._table.up_count or not self._outgoing.waits():
            return None
        pause_s = self.config.eager_gap_s if self._outgoing.fresh() else self.config.gossip_interval_s
        return self._last_gossip_at + pause_s

    def _gossip(self, now: float) -> None:
        self._last_gossip_at = now
        targets = self._table.choose(
            self._rng, self.config.gossip_nodes, dead_since=now - self.config.gossip_to_dead_s
        )
        for record in targets:
            self._outgoing.gossip(record.alive.address)

    def _reconnect(self, now: float) -> None:
        """Try the address of somebody who was lost; the more are up, the rarer each of them tries."""
        lost = self._table.lost()
        if not lost or self._leave_until is not None:
            return
        if self._rng.random() * self.size() < len(lost):
            self._counts["reconnect_attempts"] += 1
            self._streams.begin(self._rng.choice(lost)[1], now)

    def _try_seeds(self, now: float) -> None:
        for text, address in self._seeds.due(now):
            if not self._streams.begin(address, now, text):
                event = self._seeds.failed(text, "too many streams are open here", now)
                if event is not None:
                    self._events.append(event)

    def _visit_seed(self, now: float) -> None:
        """Look one seed up again: its name may lead elsewhere by now, or to a part that was cut off."""
        address = self._seeds.revisit()
        if address is not None and self._leave_until is None:
            self._streams.begin(address, now)

    def _reap(self, now: float) -> None:
        for record in self._table.reap(now, self.config.reap_after_s):
            self._replicated.forget(record.name)
            self._vivaldi.forget(record.name)
            self._stream_probes_off.pop(record.name, None)
            self._accusations.close(record.name)
            self._events.append(MemberReaped(record.view()))

    def _agree_on_version(self) -> None:
        """Speak the newest version that everybody understands."""
        if self._own.alive.lowest_version != self._own.alive.highest_version:
            self._envelope.speaks = max(self._own.alive.lowest_version, self.protocol_version())

    def _is_valid_about_self(self, statement: Statement, now: float) -> bool:
        """Say whether a statement about this member is signed by anybody who may say so."""
        if isinstance(statement, Alive):
            return self._learning.verify(statement, now) is not None
        if not isinstance(statement, (Suspect, Dead)):
            return False
        alive = self._own.alive
        for author, signature in statement.authors:
            record = self._table.get(author)
            signed = doubt_bytes(alive.name, alive.boot, alive.incarnation, author)
            if record is not None and self._verify(record.public_key, signature, signed):
                return True
        return False

    def _coordinate(self, name: str) -> Coordinate | None:
        record = self._table.get(name)
        return None if record is None else record.coordinate

    def _isolation_s(self) -> float:
        return max(self.config.isolation_s, 4 * self.config.probe_interval_s * self._health.multiplier)

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
