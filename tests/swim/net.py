"""A network in memory and in virtual time, with the verbs that tests about membership need."""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swim import identity as identities
from swim.broadcast import NothingReplicated, Replicated
from swim.codec import IN_DATAGRAM, decode_message, encode_message, join_packet, split_packet
from swim.config import MAX_PACKET_BYTES, SwimConfig
from swim.events import CloseStream, Event, OpenStream, SendDatagram, SendStream
from swim.identity import ClusterAuthority, Ed25519Identity, issue_credential
from swim.keyring import VERSIONS, Channel, PlainEnvelope
from swim.members import State
from swim.messages import Address, Message
from swim.pairwise import Tagged
from swim.protocol import Swim

WALL = 1_800_000_000.0
CA = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
CLUSTER = "test"
ENVELOPE = PlainEnvelope(CLUSTER)
CONNECT_TIMEOUT_S = 3.0
CHECK_S = 0.01
"""How often a condition is looked at: often enough for bounds in seconds, and cheap."""


@cache
def identity_of(name: str, ca: Ed25519PrivateKey = CA) -> Ed25519Identity:
    """Issue the identity of a node; the same name always has the same key."""
    key = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))
    public_key = key.public_key().public_bytes_raw()
    credential = issue_credential(ca, cluster=CLUSTER, name=name, public_key=public_key, not_after=WALL + 1e9)
    return Ed25519Identity(name, key, credential)


def authority() -> ClusterAuthority:
    return ClusterAuthority(CA.public_key().public_bytes_raw(), CLUSTER)


class Verifier:
    """Checks signatures, remembers the answers, and counts who asks: each member has its own count."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes, bytes], bool] = {}

    def check(self, public_key: bytes, signature: bytes, data: bytes) -> bool:
        key = (public_key, signature, data)
        if key not in self._known:
            self._known[key] = identities.verify(public_key, signature, data)
        return self._known[key]


@dataclass
class Host:
    """One process: its core, what it told, and whether it runs."""

    swim: Swim
    address: Address
    events: list[Event] = field(default_factory=list)
    told_at: list[float] = field(default_factory=list)
    running: bool = True
    next_stream: int = 2
    due: float | None = None
    checks: int = 0
    socket: list[tuple[bytes, Address]] | None = None
    """What has arrived while the process stands still; None while it runs."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One datagram as it left."""

    at: float
    source: str
    to: str
    data: bytes

    @property
    def encoded(self) -> tuple[bytes, ...]:
        return split_packet(ENVELOPE.open(Channel.DATAGRAM, self.data)).messages

    @property
    def messages(self) -> list[Message]:
        return [decode_message(encoded, IN_DATAGRAM) for encoded in self.encoded]


class Net:
    """Hosts, links and virtual time.

    Attributes:
        loss: part of all datagrams that is lost.
        loss_at: the same by host, for what it sends and for what it is sent; connections suffer too.
        mute: hosts from which nothing gets out.
        deaf: hosts to which nothing gets through.
        censor: says of a datagram that it shall be lost.
        sent: every datagram, in order.
    """

    def __init__(self, *, seed: int = 1, config: SwimConfig | None = None, delay_s: float = 0.002) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.config = config or SwimConfig.profile("local", label=CLUSTER)
        self.delay_s = delay_s
        self.hosts: dict[str, Host] = {}
        self.lives: Counter[str] = Counter()
        self.blocked: set[tuple[str, str]] = set()
        self.datagrams_blocked: set[tuple[str, str]] = set()
        self.streams_refused: set[str] = set()
        self.loss = 0.0
        self.loss_at: dict[str, float] = {}
        self.mute: set[str] = set()
        self.deaf: set[str] = set()
        self.censor: Callable[[Sent], bool] | None = None
        self.sent: list[Sent] = []
        self._authority = authority()
        self._verifier = Verifier()
        self._arrivals: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._timers: list[tuple[float, str]] = []
        self._stale: dict[str, None] = {}
        self._peers: dict[tuple[str, int], tuple[str, int]] = {}

    # ---- processes --------------------------------------------------------------------------

    def add(
        self,
        name: str,
        *,
        meta: bytes = b"",
        seeds: list[str] | None = None,
        replicated: Replicated | None = None,
        keys: list[bytes] | None = None,
        label: str | None = None,
        wall: float = WALL,
        address: Address | None = None,
        trusts: ClusterAuthority | None = None,
        versions: tuple[int, int] = VERSIONS,
        **changes: object,
    ) -> Swim:
        """Start a process; a name used before is a restart at the same address."""
        self.lives[name] += 1
        rng = random.Random(f"{self.rng.random()}/{name}")
        where = address or (name, 7946)
        key = where[0]
        if label is not None:
            changes["label"] = label
        swim = Swim(
            replace(self.config, **changes),  # type: ignore[arg-type]
            identity_of(name),
            trusts or self._authority,
            address=where,
            meta=meta,
            replicated=replicated or NothingReplicated(),
            rng=rng,
            entropy=rng.randbytes,
            gossip_keys=keys or (),
            verify=lambda *args: self._verify(key, *args),
            versions=versions,
        )
        swim.wall_offset = wall - 1000.0
        self.hosts[key] = Host(swim, where)
        swim.start(self.now)
        if seeds:
            swim.join(seeds, self.now)
        self.pump(key)
        return swim

    def kill(self, name: str) -> None:
        """SIGKILL: it says and hears nothing any more; its streams break."""
        self.hosts[name].running = False
        for (host, _), (peer, other) in list(self._peers.items()):
            if host == name:
                self._at(lambda p=peer, o=other: self._fail(p, o, "connection reset"))

    def freeze(self, name: str) -> None:
        """Let a process stand still while its socket fills."""
        self.hosts[name].running = False
        self.hosts[name].socket = []

    def thaw(self, name: str) -> None:
        """Let it run again: it reads its socket first, as the driver does."""
        host = self.hosts[name]
        waiting, host.socket, host.running = host.socket or [], None, True
        self._stale[name] = None
        for data, source in waiting:
            host.swim.receive(data, source, self.now)
            self.pump(name)

    def pause(self, name: str, seconds: float) -> None:
        """Let one process stand still for a while."""
        self.freeze(name)
        self.run_for(seconds)
        self.thaw(name)

    # ---- faults -----------------------------------------------------------------------------

    def partition(self, *groups: list[str]) -> None:
        """Let nothing pass between groups, in either direction."""
        for group in groups:
            for other in groups:
                if other is not group:
                    self.blocked |= {(a, b) for a in group for b in other}

    def drop(self, source: str, to: str) -> None:
        """Lose all datagrams one way; streams still pass."""
        self.datagrams_blocked.add((source, to))

    def heal(self) -> None:
        """Take all faults of the network back."""
        for faults in (self.blocked, self.datagrams_blocked, self.streams_refused, self.mute, self.deaf):
            faults.clear()
        self.loss_at.clear()
        self.censor = None
        self.loss = 0.0

    def inject(
        self, to: str, *messages: Message | bytes, sender: str = "n1", source: Address = ("elsewhere", 1)
    ) -> None:
        """Let a host hear a packet that nobody sent."""
        encoded = [m if isinstance(m, bytes) else encode_message(m) for m in messages]
        self.hear(to, ENVELOPE.seal(Channel.DATAGRAM, join_packet(sender, encoded)), source)

    def hear(self, to: str, data: bytes, source: Address = ("elsewhere", 1)) -> None:
        """Let a host receive bytes."""
        self.hosts[to].swim.receive(data, source, self.now)
        self.pump(to)

    def tagged(self, message: Tagged, sender: str, to: str) -> Tagged:
        """Return a message with the tag that a host would give it for another."""
        pairwise = self.hosts[sender].swim._pairwise
        return replace(message, tag=pairwise.tag(message, self.hosts[to].swim.own.exchange_key))

    # ---- time -------------------------------------------------------------------------------

    def roundtrip(self) -> None:
        """Give every packet now in flight, and its answer, time to arrive."""
        self.run_for(4 * self.delay_s)

    def run_for(self, seconds: float, until: Callable[[], bool] | None = None) -> float:
        """Run, and return how long it took until the condition held (or the time given)."""
        start, end = self.now, self.now + seconds
        check_at = start
        self._stale |= dict.fromkeys(self.hosts)  # tests reach into cores between two runs
        while True:
            if until is not None and self.now >= check_at:
                check_at = self.now + CHECK_S
                if until():
                    return self.now - start
            due, name = self._next_due(end)
            arrival = self._arrivals[0][0] if self._arrivals else end
            if min(due, arrival) >= end:
                self.now = end
                return seconds
            if arrival <= due:
                at, _, what = heapq.heappop(self._arrivals)
                self.now = max(self.now, at)
                what()
            else:
                self.now = max(self.now, due)
                self.hosts[name].swim.handle_timer(self.now)
                self.pump(name)

    def _next_due(self, end: float) -> tuple[float, str]:
        """Return the next timer and whose it is; only hosts that were pumped are asked again."""
        for name in self._stale:
            host = self.hosts[name]
            host.due = host.swim.next_timer()
            if host.due is not None:
                heapq.heappush(self._timers, (host.due, name))
        self._stale.clear()
        while self._timers:
            due, name = self._timers[0]
            host = self.hosts[name]
            if host.running and host.due == due:
                return due, name
            heapq.heappop(self._timers)
            host.due = None if host.due == due else host.due
        return end, ""

    # ---- what can be seen -------------------------------------------------------------------

    def up(self, name: str) -> list[str]:
        """Return whom a host takes for up."""
        return sorted(record.name for record in self.hosts[name].swim._table.up())

    def state(self, observer: str, subject: str) -> State | None:
        record = self.hosts[observer].swim._table.get(subject)
        return None if record is None else record.state

    def told(self, name: str, *kinds: type[Event]) -> list:  # type: ignore[type-arg]
        """Return the events of a kind that a host has told."""
        return [event for event in self.hosts[name].events if isinstance(event, kinds)]

    def all_told(self, *kinds: type[Event], by: Iterable[str] | None = None) -> list:  # type: ignore[type-arg]
        """Return the events of a kind that anybody (or these) has told."""
        return [event for name in (self.hosts if by is None else by) for event in self.told(name, *kinds)]

    def count(self, name: str, what: str) -> int:
        return self.hosts[name].swim.statistics().get(what, 0)

    def total(self, what: str) -> int:
        """Return a count over all hosts that run."""
        return sum(self.count(name, what) for name in self.running())

    def running(self) -> list[str]:
        return [name for name, host in self.hosts.items() if host.running]

    def all_up(self) -> bool:
        """Say whether every running host sees every other as up, and nobody else."""
        running = [host.swim for host in self.hosts.values() if host.running]
        if any(swim._table.up_count != len(running) - 1 for swim in running):
            return False
        names = {swim.name for swim in running}
        return all({record.name for record in s._table.up()} == names - {s.name} for s in running)

    def forget(self) -> None:
        """Forget what was sent and told so far."""
        self.sent.clear()
        for host in self.hosts.values():
            host.events.clear()
            host.told_at.clear()

    # ---- inside -----------------------------------------------------------------------------

    def pump(self, name: str) -> None:
        """Carry out what a core asks for."""
        host = self.hosts[name]
        self._stale[name] = None
        for effect in host.swim.effects():
            if isinstance(effect, SendDatagram):
                self._send(name, effect)
            elif isinstance(effect, OpenStream):
                self._open(name, effect)
            elif isinstance(effect, SendStream):
                peer = self._peers.get((name, effect.id))
                if peer is not None:
                    self._at(lambda p=peer, d=effect.data: self._bytes(name, p, d))
            elif isinstance(effect, CloseStream):
                peer = self._peers.pop((name, effect.id), None)
                if peer is not None:
                    self._at(lambda p=peer: self._closed(name, p))
        for event in host.swim.events():
            host.events.append(event)
            host.told_at.append(self.now)

    def _verify(self, name: str, public_key: bytes, signature: bytes, data: bytes) -> bool:
        self.hosts[name].checks += 1
        return self._verifier.check(public_key, signature, data)

    def _at(self, what: Callable[[], None], delay_s: float | None = None) -> None:
        self._order += 1
        delay_s = self.delay_s if delay_s is None else delay_s
        heapq.heappush(self._arrivals, (self.now + delay_s, self._order, what))

    def _passes(self, source: str, to: str) -> bool:
        """Say whether anything can pass one way."""
        return (source, to) not in self.blocked and source not in self.mute and to not in self.deaf

    def _is_lost(self, source: str, to: str) -> bool:
        if self.rng.random() < self.loss:
            return True
        if not self.loss_at:
            return False
        kept = (1 - self.loss_at.get(source, 0.0)) * (1 - self.loss_at.get(to, 0.0))
        return self.rng.random() >= kept

    def _send(self, name: str, effect: SendDatagram) -> None:
        assert len(effect.data) <= MAX_PACKET_BYTES
        to = effect.to[0]
        sent = Sent(self.now, name, to, effect.data)
        self.sent.append(sent)
        if self.censor is not None and self.censor(sent):
            return
        if (name, to) in self.datagrams_blocked or not self._passes(name, to) or self._is_lost(name, to):
            return
        self._at(lambda: self._datagram(to, effect.data, self.hosts[name].address))

    def _datagram(self, to: str, data: bytes, source: Address) -> None:
        host = self.hosts.get(to)
        if host is None:
            return
        if host.socket is not None:
            host.socket.append((data, source))
        elif host.running:
            host.swim.receive(data, source, self.now)
            self.pump(to)

    def _open(self, name: str, effect: OpenStream) -> None:
        to = effect.to[0]
        passes = self._passes(name, to) and self._passes(to, name)
        # A connection needs some four packets to get through in time.
        if not passes or (self.loss_at and any(self._is_lost(name, to) for _ in range(4))):
            self._at(lambda: self._fail(name, effect.id, "timed out"), CONNECT_TIMEOUT_S)
            return
        host = self.hosts.get(to)
        if host is not None and host.socket is not None:
            return  # the connection stands, but nobody will ever speak on it
        if host is None or not host.running or to in self.streams_refused:
            self._at(lambda: self._fail(name, effect.id, "connection refused"))
            return
        number, host.next_stream = host.next_stream, host.next_stream + 2
        self._peers[name, effect.id] = (to, number)
        self._peers[to, number] = (name, effect.id)
        host.swim.stream_accepted(number, self.hosts[name].address, self.now)
        self.pump(to)

        def opened() -> None:
            self.hosts[name].swim.stream_opened(effect.id, self.now)
            self.pump(name)

        self._at(opened)

    def _bytes(self, source: str, peer: tuple[str, int], data: bytes) -> None:
        name, stream = peer
        if self.hosts[name].running and self._passes(source, name):
            half = len(data) // 2
            for part in (data[:half], data[half:]):
                self.hosts[name].swim.stream_received(stream, part, self.now)
            self.pump(name)

    def _closed(self, source: str, peer: tuple[str, int]) -> None:
        name, stream = peer
        self._peers.pop(peer, None)
        if self.hosts[name].running and self._passes(source, name):
            self.hosts[name].swim.stream_closed(stream, self.now)
            self.pump(name)

    def _fail(self, name: str, stream: int, reason: str) -> None:
        self._peers.pop((name, stream), None)
        if self.hosts[name].running:
            self.hosts[name].swim.stream_failed(stream, reason, self.now)
            self.pump(name)


def cluster(count: int, *, seed: int = 1, profile: str = "local", **changes: object) -> Net:
    """Return a network of `count` members n0, n1, ... that all see each other."""
    net = Net(seed=seed, config=SwimConfig.profile(profile, label=CLUSTER, **changes))  # type: ignore[arg-type]
    for number in range(count):
        net.add(f"n{number}", seeds=["n0:7946"] if number else None)
    net.run_for(20, until=net.all_up)
    assert net.all_up()
    return net


def settled(count: int, *, seed: int = 1, profile: str = "local", **changes: object) -> Net:
    """Return such a network after the news of its making has been told, with nothing sent or told yet."""
    net = cluster(count, seed=seed, profile=profile, **changes)
    net.run_for(5)
    net.run_for(60, until=lambda: not net.total("rumours_waiting"))
    net.forget()
    return net
