"""A network in memory and in virtual time, with the verbs that tests about membership need."""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swim.broadcast import NothingReplicated, Replicated
from swim.config import MAX_PACKET_BYTES, SwimConfig
from swim.events import CloseStream, Event, OpenStream, SendDatagram, SendStream
from swim.identity import ClusterAuthority, Ed25519Identity, issue_credential
from swim.members import State
from swim.messages import Address
from swim.protocol import Swim

WALL = 1_800_000_000.0
CA = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
CLUSTER = "test"


def identity_of(name: str, ca: Ed25519PrivateKey = CA) -> Ed25519Identity:
    """Issue the identity of a node; the same name always has the same key."""
    key = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))
    public_key = key.public_key().public_bytes_raw()
    credential = issue_credential(ca, cluster=CLUSTER, name=name, public_key=public_key, not_after=WALL + 1e9)
    return Ed25519Identity(name, key, credential)


def authority() -> ClusterAuthority:
    return ClusterAuthority(CA.public_key().public_bytes_raw(), CLUSTER)


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


@dataclass(order=True)
class _Arrival:
    at: float
    order: int
    what: Callable[[], None] = field(compare=False)


class Net:
    """Hosts, links and virtual time."""

    def __init__(self, *, seed: int = 1, config: SwimConfig | None = None, delay_s: float = 0.002) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.config = config or SwimConfig.profile("local", label=CLUSTER)
        self.delay_s = delay_s
        self.hosts: dict[str, Host] = {}
        self.lives: Counter[str] = Counter()
        self.blocked: set[tuple[str, str]] = set()
        self.datagrams_blocked: set[tuple[str, str]] = set()
        self.loss = 0.0
        self.sent: list[tuple[str, bytes]] = []
        self._arrivals: list[_Arrival] = []
        self._order = 0
        self._timers: list[tuple[float, str]] = []
        self._stale: dict[str, None] = {}
        self._peers: dict[tuple[str, int], tuple[str, int]] = {}

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
    ) -> Swim:
        """Start a process; a name used before is a restart at the same address."""
        self.lives[name] += 1
        rng = random.Random(f"{self.rng.random()}/{name}")
        where = address or (name, 7946)
        config = self.config if label is None else SwimConfig.profile("local", label=label)
        swim = Swim(
            config,
            identity_of(name),
            trusts or authority(),
            address=where,
            meta=meta,
            replicated=replicated or NothingReplicated(),
            rng=rng,
            entropy=rng.randbytes,
            gossip_keys=keys or (),
        )
        swim.wall_offset = wall - 1000.0
        swim.start(self.now)
        key = name if address is None else address[0]
        self.hosts[key] = Host(swim, where)
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

    def partition(self, left: list[str], right: list[str]) -> None:
        """Let nothing pass between two groups, in either direction."""
        for a in left:
            for b in right:
                self.blocked |= {(a, b), (b, a)}

    def heal(self) -> None:
        self.blocked.clear()
        self.datagrams_blocked.clear()

    def drop(self, source: str, to: str) -> None:
        """Lose all datagrams one way; streams still pass."""
        self.datagrams_blocked.add((source, to))

    def roundtrip(self) -> None:
        """Give every packet now in flight, and its answer, time to arrive."""
        self.run_for(4 * self.delay_s)

    def run_for(self, seconds: float, until: Callable[[], bool] | None = None) -> float:
        """Run, and return how long it took until the condition held (or the time given)."""
        start, end = self.now, self.now + seconds
        self._stale |= dict.fromkeys(self.hosts)  # tests reach into cores between two runs
        while True:
            if until is not None and until():
                return self.now - start
            due, name = self._next_due(end)
            arrival = self._arrivals[0].at if self._arrivals else end
            if min(due, arrival) >= end:
                self.now = end
                return seconds
            if arrival <= due:
                event = heapq.heappop(self._arrivals)
                self.now = max(self.now, event.at)
                event.what()
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

    def pause(self, name: str, seconds: float) -> None:
        """Let one process stand still while its socket fills; then it reads first, as the driver does."""
        host = self.hosts[name]
        host.running = False
        waiting: list[tuple[bytes, Address]] = []
        receive = host.swim.receive
        host.swim.receive = lambda data, source, now: waiting.append((data, source))  # type: ignore[method-assign]
        self.paused = name
        self.run_for(seconds)
        self.paused = ""
        host.running = True
        self._stale[name] = None
        host.swim.receive = receive  # type: ignore[method-assign]
        for data, source in waiting:
            host.swim.receive(data, source, self.now)
            self.pump(name)

    paused = ""

    def up(self, name: str) -> list[str]:
        """Return whom a host takes for up."""
        return sorted(m.name for m in self.hosts[name].swim.members() if m.is_up)

    def state(self, observer: str, subject: str) -> State | None:
        member = self.hosts[observer].swim.member(subject)
        return None if member is None else member.state

    def told(self, name: str, kind: type[Event]) -> list[Event]:
        """Return the events of a kind that a host has told."""
        return [event for event in self.hosts[name].events if isinstance(event, kind)]

    def all_up(self) -> bool:
        """Say whether every running host sees every other as up, and nobody else."""
        running = sorted(name for name, host in self.hosts.items() if host.running)
        return all(self.up(name) == [n for n in running if n != name] for name in running)

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
                    self._at(lambda p=peer, d=effect.data: self._bytes(p, d))
            elif isinstance(effect, CloseStream):
                peer = self._peers.pop((name, effect.id), None)
                if peer is not None:
                    self._at(lambda p=peer: self._closed(p))
        for event in host.swim.events():
            host.events.append(event)
            host.told_at.append(self.now)

    def _at(self, what: Callable[[], None], delay_s: float | None = None) -> None:
        self._order += 1
        delay_s = self.delay_s if delay_s is None else delay_s
        heapq.heappush(self._arrivals, _Arrival(self.now + delay_s, self._order, what))

    def _hears(self, name: str) -> bool:
        return name in self.hosts and (self.hosts[name].running or self.paused == name)

    def _send(self, name: str, effect: SendDatagram) -> None:
        assert len(effect.data) <= MAX_PACKET_BYTES
        self.sent.append((name, effect.data))
        to = effect.to[0]
        link = (name, to)
        if link in self.blocked or link in self.datagrams_blocked or self.rng.random() < self.loss:
            return
        self._at(lambda: self._datagram(to, effect.data, self.hosts[name].address))

    def _datagram(self, to: str, data: bytes, source: Address) -> None:
        if self._hears(to):
            self.hosts[to].swim.receive(data, source, self.now)
            self.pump(to)

    def _open(self, name: str, effect: OpenStream) -> None:
        to = effect.to[0]
        if (name, to) in self.blocked:
            self._at(lambda: self._fail(name, effect.id, "timed out"), 3.0)
            return
        if to not in self.hosts or not self.hosts[to].running:
            self._at(lambda: self._fail(name, effect.id, "connection refused"))
            return
        host = self.hosts[to]
        number, host.next_stream = host.next_stream, host.next_stream + 2
        self._peers[name, effect.id] = (to, number)
        self._peers[to, number] = (name, effect.id)
        host.swim.stream_accepted(number, self.hosts[name].address, self.now)
        self.pump(to)

        def opened() -> None:
            self.hosts[name].swim.stream_opened(effect.id, self.now)
            self.pump(name)

        self._at(opened)

    def _bytes(self, peer: tuple[str, int], data: bytes) -> None:
        name, stream = peer
        if (name, self.hosts[name].running) == (name, True):
            half = len(data) // 2
            for part in (data[:half], data[half:]):
                self.hosts[name].swim.stream_received(stream, part, self.now)
            self.pump(name)

    def _closed(self, peer: tuple[str, int]) -> None:
        name, stream = peer
        self._peers.pop(peer, None)
        if self.hosts[name].running:
            self.hosts[name].swim.stream_closed(stream, self.now)
            self.pump(name)

    def _fail(self, name: str, stream: int, reason: str) -> None:
        self._peers.pop((name, stream), None)
        if self.hosts[name].running:
            self.hosts[name].swim.stream_failed(stream, reason, self.now)
            self.pump(name)


def cluster(count: int, *, seed: int = 1, **changes: object) -> Net:
    """Return a network of `count` members n0, n1, ... that all see each other."""
    net = Net(seed=seed, config=SwimConfig.profile("local", label=CLUSTER, **changes))
    for number in range(count):
        net.add(f"n{number}", seeds=["n0:7946"] if number else None)
    net.run_for(10, until=net.all_up)
    assert net.all_up()
    return net
