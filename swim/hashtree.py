"""Finds the difference between two large sets of 8-byte digests in a few small packets.

The set is spread over 4,096 slots by the first 12 bits of each digest; 64 slots make a branch, 64
branches the tree. A slot's hash covers its digests in order, a branch's hash its 64 slots, the root
the 64 branches. Two levels suffice because 64 hashes of 8 bytes fit into one packet, and because
4,096 slots hold some 65,000 digests before the digests of a slot no longer do.

A **node** of the tree is named by a number: 0 is the root with its 64 branches, 1 to 64 are the
branches with their 64 slots.

**Cost.** Changes only mark what they touch; the hashes are computed when somebody reads them, so a
set that is filled at once pays for each hash once, and one change between two reads of the root
costs three hashes, some 6 microseconds, however large the set. An empty tree takes 1.2 kB and a
microsecond, a branch comes into being with its first digest (1.5 kB, all 64 of them 110 kB for
1,000 digests and 180 kB for 5,000), and a `copy` shares all branches with its original until one of
the two changes them. So one process may hold a few of them for each of a thousand simulated members.

Nothing here knows what the digests stand for: the replicated maps keep one tree, and whatever else
has units that are known by 8 evenly spread bytes may keep another.
"""

from hashlib import blake2b
from typing import Final

FANOUT: Final = 64
SLOTS: Final = FANOUT * FANOUT
DIGEST_BYTES: Final = 8
EMPTY: Final = bytes(DIGEST_BYTES)
"""The hash of a slot, or of a branch, without digests."""
_NO_HASHES: Final = bytes(FANOUT * DIGEST_BYTES)


def _hash(data: bytes | bytearray) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


class _Branch:
    """64 slots, each the digests in it, in order; and their hashes, but for those in `stale`."""

    __slots__ = ("hashes", "size", "slots", "stale")

    def __init__(self, original: "_Branch | None" = None) -> None:
        self.slots: list[tuple[bytes, ...]] = original.slots.copy() if original else [()] * FANOUT
        self.hashes: bytearray = bytearray(original.hashes if original else _NO_HASHES)
        self.size: int = original.size if original else 0
        self.stale: int = original.stale if original else 0  # a bit for each slot that was changed

    def hash(self) -> bytes:
        """Return the hash over the 64 slots, having hashed those that were changed."""
        stale, self.stale = self.stale, 0
        while stale:
            child = (stale & -stale).bit_length() - 1
            stale &= stale - 1
            members = self.slots[child]
            at = child * DIGEST_BYTES
            self.hashes[at : at + DIGEST_BYTES] = _hash(b"".join(members)) if members else EMPTY
        return _hash(self.hashes) if self.size else EMPTY


class HashTree:
    """A set of 8-byte digests with the hashes that let two of its kind be compared.

    The digests have to be evenly spread, such as the first bytes of a SHA-256, and of at most some
    65,000 units: beyond that the digests of one slot no longer fit into a frame.
    """

    __slots__ = ("_branches", "_hashes", "_own", "_root", "_stale", "size")

    def __init__(self) -> None:
        self.size = 0
        """How many digests there are."""
        self._branches: list[_Branch | None] = [None] * FANOUT
        self._hashes = bytearray(_NO_HASHES)
        self._root = EMPTY
        self._own = 0  # a bit for each branch that no copy shares
        self._stale = 0  # a bit for each branch that was changed

    def __contains__(self, digest: bytes) -> bool:
        branch = self._branches[digest[0] >> 2]
        return branch is not None and digest in branch.slots[(digest[0] & 3) << 4 | digest[1] >> 4]

    @property
    def root(self) -> bytes:
        """The 8 bytes that stand for the whole set; `EMPTY` for none."""
        if self._stale:
            self._rehash()
        return self._root

    def copy(self) -> "HashTree":
        """Return an independent set of the same digests, at the cost of 64 references."""
        twin = HashTree()
        twin._branches = self._branches.copy()
        twin._hashes = bytearray(self._hashes)
        twin._root, twin._stale, twin.size = self._root, self._stale, self.size
        self._own = 0
        return twin

    def become(self, other: "HashTree") -> None:
        """Replace the content by that of another set, as `copy` does."""
        twin = other.copy()
        self._branches, self._hashes = twin._branches, twin._hashes  # noqa: SLF001 - its own kind
        self._root, self._stale, self.size = twin._root, twin._stale, twin.size  # noqa: SLF001 - its own kind
        self._own = 0

    def add(self, digest: bytes) -> None:
        """Put a digest into the set; one that is in it already changes nothing."""
        number, child = digest[0] >> 2, (digest[0] & 3) << 4 | digest[1] >> 4
        branch = self._branches[number]
        members = branch.slots[child] if branch is not None else ()
        if digest in members:
            return
        if branch is None or not self._own >> number & 1:
            branch = self._make_own(number)
        branch.slots[child] = tuple(sorted((*members, digest))) if members else (digest,)
        branch.size += 1
        branch.stale |= 1 << child
        self._stale |= 1 << number
        self.size += 1

    def remove(self, digest: bytes) -> None:
        """Take a digest out of the set; one that is not in it changes nothing."""
        number, child = digest[0] >> 2, (digest[0] & 3) << 4 | digest[1] >> 4
        branch = self._branches[number]
        if branch is None or digest not in branch.slots[child]:
            return
        if not self._own >> number & 1:
            branch = self._make_own(number)
        branch.slots[child] = tuple(member for member in branch.slots[child] if member != digest)
        branch.size -= 1
        branch.stale |= 1 << child
        self._stale |= 1 << number
        self.size -= 1

    def hashes(self, node: int) -> bytes:
        """Return the 64 hashes of 8 bytes below a node."""
        if self._stale:
            self._rehash()
        if node == 0:
            return bytes(self._hashes)
        branch = self._branches[node - 1]
        return _NO_HASHES if branch is None else bytes(branch.hashes)

    def count(self, node: int, child: int) -> int:
        """Return how many digests lie below a child, 0 to 63, of a node."""
        branch = self._branches[child if node == 0 else node - 1]
        if branch is None:
            return 0
        return branch.size if node == 0 else len(branch.slots[child])

    def digests(self, node: int, child: int) -> list[bytes]:
        """Return the digests below a child, 0 to 63, of a node, in order."""
        branch = self._branches[child if node == 0 else node - 1]
        if branch is None:
            return []
        if node:
            return list(branch.slots[child])
        return [digest for members in branch.slots for digest in members]

    def differing(self, node: int, hashes: bytes) -> list[int]:
        """Return the children, 0 to 63, of a node whose hash is not the one in `hashes`."""
        unlike = int.from_bytes(self.hashes(node), "big") ^ int.from_bytes(hashes, "big")
        children = []
        while unlike:
            left = (unlike.bit_length() - 1) // 64  # children to the right of the first that differs
            children.append(FANOUT - 1 - left)
            unlike &= (1 << left * 64) - 1
        return children

    def occupied(self) -> list[tuple[int, bytes]]:
        """Return (slot, hash) of every slot that has digests, in order."""
        if self._stale:
            self._rehash()
        return [
            (number * FANOUT + child, bytes(branch.hashes[child * DIGEST_BYTES : (child + 1) * DIGEST_BYTES]))
            for number, branch in enumerate(self._branches)
            if branch is not None
            for child, members in enumerate(branch.slots)
            if members
        ]

    def _make_own(self, number: int) -> _Branch:
        """Return a branch that no copy shares."""
        branch = self._branches[number] = _Branch(self._branches[number])
        self._own |= 1 << number
        return branch

    def _rehash(self) -> None:
        stale, self._stale = self._stale, 0
        while stale:
            number = (stale & -stale).bit_length() - 1
            stale &= stale - 1
            branch = self._branches[number]
            if branch is not None:
                at = number * DIGEST_BYTES
                self._hashes[at : at + DIGEST_BYTES] = branch.hash()
        self._root = _hash(self._hashes) if self.size else EMPTY
