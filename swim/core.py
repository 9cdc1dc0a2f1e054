"""The parts of one member, and what each of them asks of the others.

`Core` builds the parts and is the owner that each of them talks to: it sends for them, and carries what one
finds out to whoever has to know. What the outside sees, and when what is due, is `swim.protocol.Swim`.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence

from swim import identity as identities
from swim.accusations import Accusations, Verify
from swim.broadcast import Replicated, RumourQueue
from swim.config import SwimConfig
from swim.coordinates import Vivaldi, distance
from swim.events import Effect, Event, Joined
from swim.evidence import Evidence
from swim.health import Health
from swim.hearing import Hearing
from swim.identity import Authority, Identity
from swim.inflight import Probe
from swim.keyring import VERSIONS, Envelope, Keyring, PlainEnvelope
from swim.learning import Learning
from swim.members import MemberTable, Record, State
from swim.messages import (
    BOOT_ID_BYTES,
    Ack,
    Address,
    Alive,
    Boot,
    Message,
    Ping,
    Statement,
    UserFrame,
)
from swim.networks import AllowedNetworks
from swim.outgoing import Outgoing
from swim.own_word import OwnWord
from swim.pairwise import TAGGED, Agree, agree
from swim.paths import Paths
from swim.probe import Prober
from swim.reception import Reception
from swim.repair import Repair
from swim.roll import Roll
from swim.seeds import Seeds
from swim.spreading import Spreading
from swim.sync import Sync, SyncStreams
from swim.user_traffic import Kind, UserTraffic
from swim.vault import OPEN_VAULT, Vault


class Core:
    """The inside of one member.

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
        agree: comes to the key that two members share; the same goes for it.
        versions: lowest and highest protocol version that is spoken.
        vault: builds the parts that hold secret keys.

    Attributes:
        wall_offset: wall time minus `now`, in seconds; the driver refreshes it.
        keyring: rotates the gossip keys; None without encryption.
        has_left: whether a goodbye has been said for long enough; nothing happens afterwards.
        traffic: user events and queries.
        keys: rotates the gossip keys of the whole cluster.
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
        agree: Agree = agree,
        versions: tuple[int, int] = VERSIONS,
        vault: Vault = OPEN_VAULT,
    ) -> None:
        self._check_meta(config, meta)
        self.config = config
        self.name = identity.name
        self.wall_offset = 0.0
        self.has_left = False
        self.keyring: Keyring | None = None
        if gossip_keys:
            self.keyring = vault.keyring(gossip_keys, label=config.label, entropy=entropy, versions=versions)
        self._envelope: Envelope = self.keyring or PlainEnvelope(config.label, versions=versions)
        self._verify = verify
        self._identity = identity
        self._replicated = replicated
        self._rng = rng
        self._effects: list[Effect] = []
        self._events: list[Event] = []
        self._networks = AllowedNetworks(config.allowed_networks)
        self._counts: Counter[str] = Counter()
        self._table = MemberTable(max_members=config.max_members, max_remembered=config.max_remembered)
        self._rumours = RumourQueue(config.max_rumours)
        self._user_queue = RumourQueue(config.max_rumours, what="user_frames")
        self._health = Health(config.health_max, config.lag_warning_s)
        self._hearing = Hearing(config, self._health)
        self._evidence = Evidence(identity.name)
        self._paths = Paths(self._events)
        self._vivaldi = Vivaldi(rng)
        self._pairwise = vault.pairwise(identity.name, config.label, entropy, agree=agree)
        self._own = self._build_own_word(identity, address, meta, entropy, versions)
        self._roll = Roll(self._table, lambda: self._own.encoded if self._own.goodbye is None else b"", rng)
        self.keys = vault.rotation(
            identity,
            self,
            ring=self.keyring,
            table=self._table,
            pairwise=self._pairwise,
            entropy=entropy,
            events=self._events,
        )
        self._build_conversation(rng)
        self._build_beliefs(identity, authority, verify, versions)
        self._last_gossip_at = self._reconnect_at = self._refresh_at = 0.0
        self._leave_until: float | None = None
        self._timers: tuple[Callable[[], float | None], ...] = ()
        self._stream_probes_off: set[str] = set()

    def _build_own_word(self, identity: Identity, address: Address, meta: bytes,
                        entropy: Callable[[int], bytes], versions: tuple[int, int]) -> OwnWord:  # fmt: skip
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
        self.traffic = UserTraffic(
            self.config,
            self._identity,
            self,
            table=self._table,
            queue=self._user_queue,
            events=self._events,
            counts=self._counts,
        )
        self._outgoing = Outgoing(
            self.config,
            self.name,
            self._envelope,
            rumours=self._rumours,
            user=self._user_queue,
            replicated=self._replicated,
            table=self._table,
            effects=self._effects,
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
            traffic=self.traffic,
            effects=self._effects,
            counts=self._counts,
        )
        self._spreading = Spreading(self.config, self, replicated=self._replicated, counts=self._counts)

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
            networks=self._networks,
            accusations=self._accusations,
            table=self._table,
            rumours=self._rumours,
            evidence=self._evidence,
            events=self._events,
            counts=self._counts,
        )
        self._reception = Reception(
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

    def send(self, record: Record, messages: Sequence[Message], *, statements: Sequence[bytes] = ()) -> None:
        """Send messages with what else fits, tagged; a doubted or dead receiver is told so (buddy system)."""
        key = record.alive.exchange_key
        tagged = [
            self._pairwise.tagged(message, key) if isinstance(message, TAGGED) else message
            for message in messages
        ]
        self._outgoing.send(record.alive.address, tagged, record, statements=statements)

    def send_to(self, to: Address, messages: Sequence[Message], record: Record | None, *,
                statements: Sequence[bytes] = ()) -> None:  # fmt: skip
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

    def protocol_version(self) -> int:
        """Return the newest protocol version that everybody understands who has not said goodbye.

        The dead count until they are reaped: one behind a partition has to read that it is held for dead.
        """
        highest = [r.alive.highest_version for r in self._table.records() if r.state is not State.LEFT]
        return min([self._own.alive.highest_version, *highest])

    def transmissions(self) -> int:
        """Return how often a rumour is sent."""
        return self.config.retransmissions(self.size())

    def count(self, what: str) -> None:
        """Count something."""
        self._counts[what] += 1

    def heard(self, name: str, now: float) -> None:
        """A member has said something that only itself can say."""
        self._hearing.heard(name, now)

    def reachable(self, exclude: str, now: float) -> int:
        """Return how many others were heard from lately, as far as it matters for a quorum."""
        return sum(name != exclude for name in self._hearing.lately(now))

    def heard_lately(self, now: float) -> list[str]:
        """Return whom this member has heard from lately, the latest first."""
        return self._hearing.lately(now)

    def estimated_rtt_s(self, record: Record) -> float | None:
        """Return what network coordinates say of a round trip."""
        return None if record.coordinate is None else distance(self._vivaldi.own, record.coordinate)

    def ack(self, ping: Ping) -> Ack:
        """Return the answer to a ping, not tagged yet."""
        root = self.root()
        news = b"" if root == ping.root else root
        return Ack(ping.sequence, "", news, self._vivaldi.own.pack())

    def introduction(self) -> list[bytes]:
        """Return the statements that tell a stranger who this is."""
        return [self._own.encoded]

    def doubt(self, record: Record) -> bytes:
        """Return this member's signature for its doubt of a member's latest word."""
        return self._accusations.sign(record)

    def doubt_of_past(self, name: str) -> bytes:
        """Return this member's signature for its doubt of somebody who was reaped; empty for a stranger."""
        return self._accusations.sign_past(name)

    def may_stream(self, name: str) -> bool:
        """Say whether a member may be asked over a stream."""
        return self.config.stream_probes and name not in self._stream_probes_off

    def probe_stream(self, record: Record, ping: Ping, patience_s: float, now: float) -> bool:
        """Ask a member over a stream; say whether one could be opened."""
        if not self.may_stream(record.name):
            return False
        tagged = self._pairwise.tagged(ping, record.alive.exchange_key)
        said = [record.encoded_verdict] if record.verdict is not None else []
        return self._streams.probe(record.alive.address, tagged, said, now + patience_s)

    def stream_ping(self, ping: Ping, sender: str, now: float) -> Ack | None:
        """Answer a ping that came over a stream."""
        record = self._reception.authentic(ping, sender, now)
        if record is None or ping.target != self.name:
            return None
        return self._pairwise.tagged(self.ack(ping), record.alive.exchange_key)

    def stream_ack(self, ack: Ack, sender: str, now: float) -> None:
        """Take the answer to a ping over a stream."""
        self._reception.take_ack(ack, sender, now, by_stream=True)

    def probe_failed(self, record: Record, probe: Probe, now: float) -> None:
        """Doubt a member that has not answered."""
        detail = f"{probe.describe()}; local health penalty {self._health.penalty}"
        self._evidence.note(record.name, now, "probe_failed", detail)
        self._accusations.doubt(record, probe.doubts, now)

    def proved(self, name: str, now: float) -> None:
        """Somebody has proved that it lives."""
        record = self._table.get(name)
        if record is not None:
            self._accusations.acked(record, now)
        else:
            self._learning.knock_answered(name, now)

    def check(self, record: Record, now: float) -> None:
        """Ask a member a last time whether it lives, by every path, and others what they know of it."""
        ping = self._prober.check(record)
        patience_s = self.config.probe_timeout_s * self.config.probe_verdict_mult
        self.probe_stream(record, ping, patience_s, now)
        self._prober.ask_around(record, ping.sequence, patience_s / 2, now)

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
        if self._table.up_count == 1:
            self._hearing.in_company(now)
        self._reception.forget_seen()  # what its author or subject was unknown for may count now
        self._prober.ring.add(record.name)
        self.agree_on_version()

    def gone(self, record: Record, now: float) -> None:
        """A member is not up any more."""
        del now
        self._prober.ring.discard(record.name)
        self._paths.forget(record.name)
        self._hearing.forget(record.name)
        self.agree_on_version()

    def agree_on_version(self) -> None:
        """Speak the newest version that everybody understands; who knows nobody tries one after the other."""
        if len(self._table) and self._own.alive.lowest_version != self._own.alive.highest_version:
            self._envelope.speaks = max(self._own.alive.lowest_version, self.protocol_version())

    def about_self(self, statement: Statement, now: float) -> tuple[bytes, ...]:
        """Defend this member: refute, outbid a past life, take back a goodbye, or find out we are superseded.

        Returns:
            Our word, if the statement is an accusation that it has already answered.
        """
        is_answered = self._own.has_answered(statement)
        refuted = self._own.hear(statement, now, lambda said: self._signatures_in(said, now))
        if refuted is None:
            return (self._own.encoded,) if is_answered else ()
        doubters = ", ".join(author for author, _ in refuted.authors)
        self._evidence.note(self.name, now, "accused", f"doubted by {doubters}")
        if not self._health.is_heard:  # our datagrams may not arrive, so say it over a stream, too
            for record in self._table.choose(self._rng, 1):
                self._streams.begin(record.alive.address, now)
        for author, _ in refuted.authors:
            accuser = self._table.get(author)
            if accuser is not None:
                self.send(accuser, [], statements=[self._own.encoded])
        return ()

    def learn_compared(self, encoded: bytes, sender: str, now: float) -> tuple[bytes, ...]:
        """Take a statement of a peer that compares notes; return what is held against it."""
        statement = self._reception.decode_statement(encoded)
        self._own.meet(now)
        return self._learning.learn(statement, encoded, sender, now, compared=True)

    def take_user_frame(self, frame: UserFrame, sender: str, now: float) -> None:
        """Take user traffic."""
        if frame.kind in {Kind.KEY_REQUEST, Kind.KEY_RESULT}:
            self.keys.take(frame, now)
        else:
            self.traffic.take(frame, sender, now)

    def authenticate(self, frame: UserFrame, sender: str, now: float) -> Record | None:
        """Return the record of the sender of a tagged frame, None if the tag is not its."""
        return self._reception.authentic(frame, sender, now)

    def is_by(self, author: str, signed: bytes, signature: bytes) -> bool:
        """Say whether a member's key made a signature."""
        if author == self.name:
            return False  # what comes under our own name is from an earlier life
        record = self._table.get(author)
        return record is not None and self._verify(record.public_key, signature, signed)

    def open_stream(self, record: Record, now: float) -> None:
        """Open a push-pull with a member."""
        self._streams.begin(record.alive.address, now)

    def is_spreading(self) -> bool:
        """Say whether this member goes round with streams."""
        return self._spreading.is_on

    def begin_stream(self, to: Address, now: float) -> bool:
        """Open a push-pull; say whether there was room for one more."""
        return self._streams.begin(to, now)

    def choose(self, count: int) -> list[Record]:
        """Draw so many members that are up."""
        return self._table.choose(self._rng, count)

    def ask_for_root(self, now: float) -> None:
        """Ask a random member for its root."""
        del now
        for record in self._table.choose(self._rng, 1):
            self._prober.check(record)

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
        self._spreading.done(sync, now)

    def sync_taken(self, sync: Sync) -> None:
        """A push-pull that a peer began is over; what it has brought may be much."""
        self._spreading.took(sync.news)

    def sync_failed(self, sync: Sync, reason: str, now: float) -> None:
        """A push-pull has failed; a seed is tried again later."""
        self._spreading.failed(sync, now)
        if sync.seed is not None:
            event = self._seeds.failed(sync.seed, reason, now)
            if event is not None:
                self._events.append(event)

    # ---- inside -----------------------------------------------------------------------------

    def _signatures_in(self, statement: Statement, now: float) -> int:
        """Count those who may say what a statement about this member says, and have signed it."""
        if isinstance(statement, Alive):
            return int(self._learning.verify(statement, now) is not None)
        return self._accusations.signatures_in(statement, self._own.alive)

    @staticmethod
    def _check_meta(config: SwimConfig, meta: bytes) -> None:
        if len(meta) > config.max_meta_bytes:
            raise ValueError(f"meta has {len(meta)} bytes; at most {config.max_meta_bytes} travel")
