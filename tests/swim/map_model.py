"""A little cluster of replicated maps in memory: what the tests of `swim.replicated` talk to."""

import random
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swim import strict_cbor
from swim.identity import ClusterAuthority, Ed25519Identity, issue_credential
from swim.replicated import Limits, Replicated

CA = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
CLUSTER = "test"
MAX_FRAME_BYTES = 1150
NEVER = 4e9


def authority() -> ClusterAuthority:
    return ClusterAuthority(CA.public_key().public_bytes_raw(), CLUSTER)


def identity(name: str, not_after: float = NEVER) -> Ed25519Identity:
    key = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))
    credential = issue_credential(
        CA,
        cluster=CLUSTER,
        name=name,
        public_key=key.public_key().public_bytes_raw(),
        not_after=not_after,
    )
    return Ed25519Identity(name, key, credential)


def push(*pushed: bytes, horizon: int = 0) -> bytes:
    """Return a frame with units, from a sender that stands at `horizon`."""
    return strict_cbor.encode([1, horizon, bytes(8), list(pushed)])


class Peers:
    """Nodes that exchange frames over a network that may be partitioned, on one clock."""

    def __init__(
        self, *names: str, seed: int = 0, limits: Limits | None = None, roster: Sequence[str] = ()
    ) -> None:
        self.roster = roster
        self.random = random.Random(seed)
        self.limits = limits
        self.now = 0.0
        self.wall = 1_000_000.0
        self.skew_s: dict[str, float] = {}
        self.cut: list[frozenset[str]] = []
        self.largest_frame = 0
        self.frames = 0
        self.nodes: dict[str, Replicated] = {}
        for name in names:
            self.boot(name)
            for other in self.nodes:
                self.nodes[name].admit_owner(other, self.wall)
                self.nodes[other].admit_owner(name, self.wall)

    def __getitem__(self, name: str) -> Replicated:
        return self.nodes[name]

    def boot(self, name: str, *, counter: int = 0, stored: list[bytes] | None = None) -> Replicated:
        """Start a node, with what its disk holds, knowing all others."""
        node = self.create(name)
        for other in self.nodes:
            node.admit_owner(other, self.wall)
        node.load_units(stored or [], self.wall)
        self.nodes[name] = node
        node.start(counter, self.now, self.wall_of(name))
        return node

    def create(self, name: str) -> Replicated:
        node = Replicated(
            identity(name),
            authority(),
            rng=random.Random(self.random.random()),
            entropy=self.random.randbytes,
            max_frame_bytes=MAX_FRAME_BYTES,
            limits=self.limits,
        )
        node.set_roster(self.roster)
        return node

    def wall_of(self, name: str) -> float:
        return self.wall + self.skew_s.get(name, 0.0)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds
        for name in sorted(self.nodes):
            due = self.nodes[name].next_timer()
            if due is not None and due <= self.now:
                self.nodes[name].handle_timer(self.now, self.wall_of(name))

    def partition(self, *names: str) -> None:
        """Cut each pair of nodes of which exactly one is named."""
        self.cut = [
            frozenset((a, b))
            for a in self.nodes
            for b in self.nodes
            if a < b and (a in names) != (b in names)
        ]

    def heal(self) -> None:
        self.cut = []

    def deliver(self, source: str, target: str, frames: list[bytes]) -> None:
        """Deliver frames and all answers to them."""
        waiting = [(source, target, frame) for frame in frames]
        for _ in range(200):
            if not waiting:
                return
            sender, receiver, frame = waiting.pop(0)
            self.frames += 1
            self.largest_frame = max(self.largest_frame, len(frame))
            replies = self.nodes[receiver].receive(sender, frame, self.now, self.wall_of(receiver))
            waiting += [(receiver, sender, reply) for reply in replies]
        raise AssertionError("the exchange does not end")

    def ping(self, source: str, target: str, *, gossip: bool = True) -> None:
        """Let one node probe another, with the root and what is to be gossiped on board."""
        if frozenset((source, target)) in self.cut:
            return
        for a, b in ((source, target), (target, source)):
            if gossip:
                frames = self.nodes[a].broadcasts(1200, len(self.nodes))
                assert sum(map(len, frames)) <= 1200
                self.deliver(a, b, frames)
            self.deliver(b, a, self.nodes[b].peer_root(a, self.nodes[a].root(), self.now))

    def settle(self, rounds: int = 60, *, gossip: bool = True) -> None:
        """Let everybody probe everybody until all roots agree."""
        for _ in range(rounds):
            self.advance(1.0)
            for source in sorted(self.nodes):
                for target in sorted(self.nodes):
                    if source < target:
                        self.ping(source, target, gossip=gossip)
            if self.agree() and not self.cut:
                return

    def agree(self) -> bool:
        return len({node.root() for node in self.nodes.values()}) == 1

    def bulk(self, source: str, target: str) -> None:
        """Let two nodes exchange everything over a stream, as in push-pull."""
        a, b = self.nodes[source], self.nodes[target]
        units, digest = b.bulk_reply(a.bulk_digest())
        for unit in units:
            a.bulk_receive(target, unit, self.now, self.wall_of(source))
        for unit in a.bulk_units(digest):
            b.bulk_receive(source, unit, self.now, self.wall_of(target))


def three_with_a_roster() -> Peers:
    """Three nodes of which each knows that there are three."""
    return Peers("a", "b", "c", roster="abc")
