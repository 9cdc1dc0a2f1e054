"""One map that every node may write: desired state, configuration, revocations, the roster.

Each write is a signed register. The register with the highest (stamp, author, digest) is the value
of its key, whatever becomes of its author. A deletion is a register without a value, a
**tombstone**, and has to be kept for as long as anybody might still bring back what it deleted.

**Retirement.** The lowest name of the roster retires tombstones: when every roster member has shown
the very root that it had itself, at some time since it got a tombstone, then all of them hold it.
It signs the list of such tombstones; the highest stamp in it is the new **horizon**. Who takes note
of a retirement, holds each listed tombstone (or something newer), and stood at the previous horizon
drops the tombstones and moves on.

**Behind the horizon.** Anybody else has been away and may hold what was deleted meanwhile. It sets
its registers up to the horizon aside, pulls, and until a healthy peer shows the same set, its root
is salted so that nobody takes it for one. What was set aside still answers reads, so that a late
node does not mistake its own ignorance for an order to delete, and goes when it has caught up. A
register up to the receiver's horizon is accepted only from a peer that stands at that horizon. By
induction nobody at a horizon holds anything that was deleted before it. If the whole roster finds
itself behind, nobody knows any longer what was deleted: what was set aside is all there is, and is
taken back by each node that finds this out before a peer has shown itself healthy again; what only
later nodes had set aside is gone.

Without a roster nothing is retired: tombstones count against `MAX_REGISTERS`, and a table that is
full of them refuses new keys, which is safe, instead of forgetting deletions, which is not.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from swim import units
from swim.hashtree import HashTree
from swim.hlc import HybridClock
from swim.units import Register, Retirement

MAX_REGISTERS: Final = 4096
"""Keys, deleted ones included."""
MAX_CONFLICTS_PER_KEY: Final = 8
MAX_CONFLICT_KEYS: Final = 256
MAX_ACKNOWLEDGING: Final = 2048
"""Peers of which is remembered how much they hold."""

Order = tuple[int, str, bytes]
"""(stamp, author, digest): which of two registers was written last."""


@dataclass(frozen=True, slots=True)
class HeldRegister:
    """A register that was checked and is held."""

    digest: bytes
    data: bytes
    register: Register
    author: str
    sequence: int
    """How many changes this node had seen when it got the register."""

    @property
    def order(self) -> Order:
        """What decides which write was last."""
        return self.register.stamp, self.author, self.digest


@dataclass(frozen=True, slots=True)
class Lost:
    """A concurrent write that lost: its author did not know of the winner, nor the winner of it.

    Attributes:
        key: what was written.
        value: the value that lost, None for a deletion.
        stamp: its hybrid logical time.
        author: the node that wrote it.
    """

    key: str
    value: bytes | None
    stamp: int
    author: str


class ClusterMap:
    """The registers, the horizon, and the writes that lost.

    Args:
        tree: the hash tree of all replicated state, which learns of every register too.
        max_registers: keys that are held, deleted ones included.
    """

    def __init__(self, tree: HashTree, *, max_registers: int = MAX_REGISTERS) -> None:
        self.clock = HybridClock()
        self.max_registers = max_registers
        self.roster: tuple[str, ...] = ()
        self._in_roster: dict[str, None] = {}
        self.horizon = 0
        self.is_behind = False
        self.by_digest: dict[bytes, HeldRegister] = {}
        self.retirement: tuple[bytes, bytes] | None = None  # digest, data
        self.bytes_held = 0
        self._trees = (HashTree(), tree)
        self._registers: dict[str, HeldRegister] = {}
        self._tombstones: dict[str, HeldRegister] = {}
        self._aside: dict[str, HeldRegister] = {}
        self._conflicts: OrderedDict[str, list[Lost]] = OrderedDict()
        self._sequence = 0
        self._acknowledged: OrderedDict[str, int] = OrderedDict()
        self._also_behind: dict[str, bytes] = {}

    def set_roster(self, names: Iterable[str]) -> None:
        """Say who has to hold a deletion before it may be forgotten; the lowest name retires."""
        self.roster = tuple(sorted(dict.fromkeys(names)))
        self._in_roster = dict.fromkeys(self.roster)

    @property
    def root(self) -> bytes:
        """The root of a hash tree over the registers and the horizon alone."""
        return self._trees[0].root

    def shown_root(self) -> bytes:
        """Return the root to show to peers: salted while this node is behind the horizon."""
        return salted(self.root) if self.is_behind else self.root

    def get(self, key: str) -> bytes | None:
        """Return the value of a key, None if it has none."""
        held = self._registers.get(key) or self._aside.get(key)
        return held.register.value if held else None

    def stamp(self, key: str) -> int:
        """Return the stamp of the last write of a key, 0 if none is known."""
        held = self._registers.get(key) or self._aside.get(key)
        return held.register.stamp if held else 0

    def is_full(self, key: str) -> bool:
        """Say whether there is no room for a write of a key."""
        return key not in self._registers and len(self._registers) >= self.max_registers

    def entries(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """Yield (key, value), in order, of the keys that begin with `prefix`."""
        for key in sorted({**self._aside, **self._registers}):
            value = self.get(key)
            if key.startswith(prefix) and value is not None:
                yield key, value

    def conflicts(self, key: str) -> list[Lost]:
        """Return the concurrent writes of a key that lost, at most 8, in the order of their loss.

        A write that is based on the present value settles them. They are what this node has seen,
        and are neither replicated nor kept over a restart.
        """
        return list(self._conflicts.get(key, ()))

    def refusal(self, register: Register, author: str, digest: bytes, peer_horizon: int) -> str:
        """Say, before its signature is checked, why a register is of no use; "" if it is.

        Args:
            register: what was received.
            author: who its credential names.
            digest: of the unit.
            peer_horizon: of the peer that sent it.
        """
        if register.stamp <= self.horizon and peer_horizon < self.horizon:
            return "behind_horizon"
        held = self._registers.get(register.key)
        if held is None:
            return "too_many_registers" if self.is_full(register.key) else ""
        if held.order > (register.stamp, author, digest):
            known = self._conflicts.get(register.key, ())
            lost = Lost(register.key, register.value, register.stamp, author)
            if lost in known or not _are_concurrent(held.register, register):
                return "stale"
        return ""

    def accept(
        self, register: Register, data: bytes, digest: bytes, author: str
    ) -> tuple[bool, bytes | None]:
        """Take note of a checked register that `refusal` had nothing against.

        Returns:
            Whether it is now the value of its key; and the digest of the register it replaced.
        """
        self.clock.observe(register.stamp)
        self._sequence += 1
        new = HeldRegister(digest, data, register, author, self._sequence)
        held = self._registers.get(register.key)
        if held is not None and held.order >= new.order:
            self._lost(new)
            return False, None
        if held is not None:
            if _are_concurrent(register, held.register):
                self._lost(held)
            elif register.based_on == held.register.stamp:
                self._conflicts.pop(register.key, None)
            self._drop(held)
        self._aside.pop(register.key, None)
        self._registers[register.key] = new
        self.by_digest[digest] = new
        self.bytes_held += len(data)
        self._add(digest)
        if register.value is None:
            self._tombstones[register.key] = new
        return True, held.digest if held else None

    # Horizon

    def acknowledge(self, peer: str) -> list[str]:
        """Take note that a healthy peer has just shown the root of exactly what is held here.

        Returns:
            Keys whose value vanishes, because this node was behind and has now caught up.
        """
        if peer in self._in_roster:
            self._acknowledged[peer] = self._sequence
            self._acknowledged.move_to_end(peer)
            if len(self._acknowledged) > MAX_ACKNOWLEDGING:
                self._acknowledged.popitem(last=False)
        if not self.is_behind:
            return []
        gone = sorted(self._aside)
        self._aside.clear()
        self._also_behind.clear()
        self.is_behind = False
        return gone

    def also_behind(self, peer: str) -> None:
        """Take note that a peer, behind like this node, holds the same; act if all the roster is."""
        if peer not in self._in_roster:
            return
        self._also_behind[peer] = self.root
        others = [name for name in self.roster if name in self._also_behind]
        if len(others) < len(self.roster) - 1:
            return
        if any(self._also_behind[name] != self.root for name in others):
            return
        self.is_behind = False
        self._also_behind.clear()
        for key in sorted(self._aside):
            held = self._aside.pop(key)
            self._registers[key] = held
            self.by_digest[held.digest] = held
            self.bytes_held += len(held.data)
            self._add(held.digest)

    def retirable(self, name: str) -> tuple[tuple[bytes, int], ...]:
        """Return the tombstones that the whole roster holds, if it is for `name` to retire them."""
        if not self.roster or name != self.roster[0] or self.is_behind:
            return ()
        others = [self._acknowledged.get(member, 0) for member in self.roster if member != name]
        settled = min(others, default=self._sequence)
        old = [held for held in self._tombstones.values() if held.sequence <= settled]
        old.sort(key=lambda held: held.order)
        half = units.MAX_RETIRED // 2
        late = [held for held in old if held.register.stamp <= self.horizon][:half]
        new = [held for held in old if held.register.stamp > self.horizon][:half]
        if not new:
            return ()
        return tuple((units.key_hash(held.register.key), held.register.stamp) for held in (*late, *new))

    def is_newer_horizon(self, retirement: Retirement, digest: bytes) -> bool:
        """Say whether a retirement is news."""
        own = self.retirement[0] if self.retirement else b""
        return (retirement.stamp, digest) > (self.horizon, own)

    def move_horizon(self, retirement: Retirement, data: bytes, digest: bytes) -> tuple[bool, list[bytes]]:
        """Take note of a checked retirement.

        Returns:
            Whether this node stood at the previous horizon and held all that was retired; and the
            digests of what is no longer held.
        """
        self.clock.observe(retirement.stamp)
        by_hash = {units.key_hash(key): held for key, held in self._registers.items()}
        was_there = not self.is_behind and retirement.previous == self.horizon
        for hashed, stamp in retirement.retired:
            held = by_hash.get(hashed)
            was_there = was_there and held is not None and held.register.stamp >= stamp
        dropped = []
        if self.retirement is not None:
            self._remove(self.retirement[0])
            dropped.append(self.retirement[0])
        self.retirement = (digest, data)
        self._add(digest)
        self.horizon = retirement.stamp
        if was_there:
            retired = [
                held
                for hashed, stamp in retirement.retired
                if (held := by_hash[hashed]).register.stamp == stamp and held.register.value is None
            ]
        else:
            self.is_behind = True
            self._also_behind.clear()
            retired = [held for held in self._registers.values() if held.register.stamp <= self.horizon]
            self._aside.update(
                {held.register.key: held for held in retired if held.register.value is not None}
            )
        for held in retired:
            self._drop(held)
            dropped.append(held.digest)
        self._sequence += 1
        return was_there, dropped

    def units(self) -> list[bytes]:
        """Return the retirement and every register, the retirement first."""
        first = [self.retirement[1]] if self.retirement else []
        return first + [self._registers[key].data for key in sorted(self._registers)]

    def adopt(self, other: "ClusterMap") -> None:
        """Hold what another instance holds; the tree of all state must already have become the other's."""
        self.clock.observe(other.clock.last)
        self.horizon, self.retirement, self.bytes_held = other.horizon, other.retirement, other.bytes_held
        self.by_digest = dict(other.by_digest)
        self._registers = dict(other._registers)  # noqa: SLF001 - its own kind
        self._tombstones = dict(other._tombstones)  # noqa: SLF001 - its own kind
        self._conflicts = OrderedDict((key, list(lost)) for key, lost in other._conflicts.items())  # noqa: SLF001 - its own kind
        self._sequence = other._sequence  # noqa: SLF001 - its own kind
        self._acknowledged.clear()
        self._trees[0].become(other._trees[0])  # noqa: SLF001 - its own kind

    def statistics(self) -> dict[str, int]:
        """Count what is held."""
        return {
            "registers": len(self._registers),
            "register_bytes": self.bytes_held,
            "tombstones": len(self._tombstones),
            "set_aside": len(self._aside),
            "behind_horizon": int(self.is_behind),
            "conflicts": sum(len(lost) for lost in self._conflicts.values()),
        }

    def _add(self, digest: bytes) -> None:
        for tree in self._trees:
            tree.add(digest)

    def _remove(self, digest: bytes) -> None:
        for tree in self._trees:
            tree.remove(digest)

    def _drop(self, held: HeldRegister) -> None:
        del self._registers[held.register.key]
        self._tombstones.pop(held.register.key, None)
        del self.by_digest[held.digest]
        self.bytes_held -= len(held.data)
        self._remove(held.digest)

    def _lost(self, held: HeldRegister) -> None:
        register = held.register
        lost = Lost(register.key, register.value, register.stamp, held.author)
        known = self._conflicts.setdefault(register.key, [])
        if lost not in known:
            known.append(lost)
            del known[:-MAX_CONFLICTS_PER_KEY]
        self._conflicts.move_to_end(register.key)
        if len(self._conflicts) > MAX_CONFLICT_KEYS:
            self._conflicts.popitem(last=False)


def _are_concurrent(winner: Register, loser: Register) -> bool:
    """Say whether the author of the later write did not know of the earlier one."""
    return winner.based_on < loser.stamp


def salted(root: bytes) -> bytes:
    """Return what a node shows in place of a root while it is behind the horizon."""
    return blake2b(b"behind" + root, digest_size=8).digest()
