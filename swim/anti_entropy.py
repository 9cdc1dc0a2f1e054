"""Repairs what gossip lost: two nodes with different roots find the difference and exchange it.

Frames, each one canonical CBOR array of at most `max_frame_bytes`:

    push      [1, horizon, cluster_root, [unit, ...]]
    hashes    [2, horizon, cluster_root, node, hashes: 64 x 8 bytes]
    summary   [3, horizon, cluster_root, node, covered: 8 bytes, digests: n x 8 bytes]
    want      [4, horizon, cluster_root, digests: n x 8 bytes]

and on streams, once per exchange,

    slots     [5, horizon, cluster_root, n x (slot: 2 bytes, hash: 8 bytes)]

`horizon` and `cluster_root` say where the sender stands (`swim/cluster_map.py`). A node that sees a
foreign root opens with `hashes` of the root, or at once with a `summary` if all its digests fit
into one. `hashes` is answered with a `summary` of the children that differ, or with `hashes` of a
child that has too many digests; a `summary`, which lists all its sender's digests below the covered
children, with `push` of what it lacks and `want` of what it has more; `want` with `push`. So a
difference is found in at most four frames, each side's effort is bounded by the frame and not by
the set, and there is no state between frames that could be lost.

What a unit is does not matter here: opaque bytes, known by 8 evenly spread bytes of their hash, each
small enough for one frame with `FRAME_OVERHEAD_BYTES` and `UNIT_HEADER_BYTES` around it. The
replicated maps compare their units with one instance; another one, with a tree of its own and
neither horizon nor cluster root (`NOWHERE`), compares any other set of signed statements:

    tree, statements = HashTree(), {}
    repair = AntiEntropy(tree, fetch=statements.get, rng=rng, max_frame_bytes=1150)
    # on a foreign root: send repair.opening(); on a frame: frame = decode(data, max_bytes=1150),
    # take in frame.units, send repair.answer(frame). For a stream: repair.slots(), at the other end
    # repair.missing(frame). How often to open, and how much to answer, is for the caller to bound.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from swim import strict_cbor
from swim.hashtree import DIGEST_BYTES, EMPTY, FANOUT, SLOTS, HashTree
from swim.hlc import MAX_STAMP

PUSH: Final = 1
HASHES: Final = 2
SUMMARY: Final = 3
WANT: Final = 4
SLOTS_DIGEST: Final = 5

MAX_REPLY_FRAMES: Final = 8
"""Frames with which one frame is answered at most; the next exchange goes on from there."""
OPEN_FRAMES: Final = 8
"""Frames in which room for a unit is looked for when many are packed."""
FRAME_OVERHEAD_BYTES: Final = 40
"""All of a frame but its units or digests."""
MIN_FRAME_BYTES: Final = FANOUT * DIGEST_BYTES + FRAME_OVERHEAD_BYTES
MAX_SLOTS_DIGEST_BYTES: Final = SLOTS * (2 + DIGEST_BYTES) + FRAME_OVERHEAD_BYTES
UNIT_HEADER_BYTES: Final = 3
NOWHERE: Final = (0, EMPTY)
"""The stand of who has no cluster map."""

_UNSIGNED: Final = 0x00
_BYTES: Final = 0x40
_ARRAY: Final = 0x80
"""Major types of CBOR."""
_PUSH_HEADER: Final = bytes([_ARRAY + 4, PUSH])


class Frame(NamedTuple):
    """A decoded frame: what kind it is, where its sender stands, and its fields by kind."""

    kind: int
    horizon: int
    cluster_root: bytes
    node: int = 0
    covered: int = 0
    digests: tuple[bytes, ...] = ()
    hashes: bytes = b""
    units: tuple[bytes, ...] = ()
    slots: tuple[tuple[int, bytes], ...] = ()


def decode(data: bytes, *, max_bytes: int) -> Frame:
    """Decode a frame and check every bound, or raise ValueError."""
    if data[:2] == _PUSH_HEADER and len(data) <= max_bytes:
        return _decode_push(data)
    fields = strict_cbor.decode(data, max_bytes=max_bytes)
    if type(fields) is not list or len(fields) < 4 or type(fields[0]) is not int:
        raise ValueError("a frame is an array that begins with its kind")
    kind, horizon, cluster_root, *rest = fields
    if type(horizon) is not int or not 0 <= horizon <= MAX_STAMP:
        raise ValueError("not a horizon")
    if type(cluster_root) is not bytes or len(cluster_root) != DIGEST_BYTES:
        raise ValueError("not a root")
    match kind, rest:
        case 2, [int(node), bytes(hashes)] if len(hashes) == FANOUT * DIGEST_BYTES:
            return Frame(kind, horizon, cluster_root, node=_node(node), hashes=hashes)
        case 3, [int(node), bytes(covered), bytes(digests)] if len(covered) == DIGEST_BYTES:
            return Frame(
                kind,
                horizon,
                cluster_root,
                node=_node(node),
                covered=int.from_bytes(covered, "big"),
                digests=_digests(digests),
            )
        case 4, [bytes(digests)]:
            return Frame(kind, horizon, cluster_root, digests=_digests(digests))
        case 5, [bytes(packed)]:
            return Frame(kind, horizon, cluster_root, slots=_slots(packed))
    raise ValueError("unknown kind of frame, or fields that do not belong to it")


def encode_push(horizon: int, cluster_root: bytes, units: Iterable[bytes]) -> bytes:
    """Encode a push as canonical CBOR, the way `_decode_push` takes it apart."""
    parts = [b"", *(part for unit in units for part in (_header(_BYTES, len(unit)), unit))]
    parts[0] = (
        _PUSH_HEADER
        + _header(_UNSIGNED, horizon)
        + _header(_BYTES, DIGEST_BYTES)
        + cluster_root
        + _header(_ARRAY, len(parts) // 2)
    )
    return b"".join(parts)


def _decode_push(data: bytes) -> Frame:
    """Decode a push, the frame that almost all packets carry, without a general decoder."""
    try:
        horizon, at = _read_header(data, 2, _UNSIGNED)
        if data[at] != _BYTES + DIGEST_BYTES or horizon > MAX_STAMP:
            raise ValueError("not a horizon and a root")
        cluster_root = data[at + 1 : at + 1 + DIGEST_BYTES]
        count, at = _read_header(data, at + 1 + DIGEST_BYTES, _ARRAY)
        units = []
        while count:
            size, at = _read_header(data, at, _BYTES)
            units.append(data[at : at + size])
            at += size
            count -= 1
    except IndexError:
        raise ValueError("a push that ends too early") from None
    if at != len(data):
        raise ValueError("a push that ends too early, or too late")
    return Frame(PUSH, horizon, cluster_root, units=tuple(units))


class AntiEntropy:
    """Answers frames from what a hash tree and a table of units hold.

    Args:
        tree: the digests of all that is held; the owner of the set keeps it up to date.
        fetch: returns the unit with a digest, None if it is not held.
        rng: chooses where to begin when not everything fits, so that nothing waits for ever.
        max_frame_bytes: size no frame exceeds; `MIN_FRAME_BYTES` at least.
        is_unwanted: says of a digest that is not held that it need not be sent either.
        stand: returns (horizon, cluster root) to put into frames.
        first: returns the digest that has to be sent before all others, if there is one.

    Raises:
        ValueError: if frames are too small for the 64 hashes of a node.
    """

    def __init__(
        self,
        tree: HashTree,
        *,
        fetch: Callable[[bytes], bytes | None],
        rng: random.Random,
        max_frame_bytes: int,
        is_unwanted: Callable[[bytes], bool] = lambda _digest: False,
        stand: Callable[[], tuple[int, bytes]] = lambda: NOWHERE,
        first: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        if max_frame_bytes < MIN_FRAME_BYTES:
            raise ValueError(f"frames need at least {MIN_FRAME_BYTES} bytes")
        self._tree = tree
        self._fetch = fetch
        self._is_unwanted = is_unwanted
        self._stand = stand
        self._first = first
        self._rng = rng
        self.max_frame_bytes = max_frame_bytes
        self._max_digests = (max_frame_bytes - FRAME_OVERHEAD_BYTES) // DIGEST_BYTES
        self._slots: tuple[object, bytes] = (None, b"")

    def opening(self) -> list[bytes]:
        """Return the frames that begin the comparison with a peer that has another root."""
        if self._tree.size <= self._max_digests:
            return [self._summary(0, range(FANOUT))]
        return [self._frame(HASHES, 0, self._tree.hashes(0))]

    def answer(self, frame: Frame) -> list[bytes]:
        """Return the frames that answer one, at most 8."""
        if frame.kind == HASHES:
            return self._answer_hashes(frame)
        if frame.kind == SUMMARY:
            return self._answer_summary(frame)
        if frame.kind == WANT:
            return self.push(frame.digests)
        return []

    def push(self, digests: Iterable[bytes], max_frames: int = MAX_REPLY_FRAMES) -> list[bytes]:
        """Return frames with the units of the digests, those that are held, in order."""
        found = [unit for digest in digests if (unit := self._fetch(digest)) is not None]
        return self.push_all(found, self.max_frame_bytes, max_frames)

    def push_all(
        self, units: Sequence[bytes], frame_bytes: int, max_frames: int | None = None
    ) -> list[bytes]:
        """Return frames with units, each of which fits into one; the first so many frames.

        A unit goes into the first of the last frames in which there is room, so the first unit is
        the first of the first frame, and no two neighbours could be one.
        """
        whole = frame_bytes - FRAME_OVERHEAD_BYTES
        if 0 < sum(map(len, units)) <= whole - len(units) * UNIT_HEADER_BYTES:
            return [self.push_units(units)]
        batches: list[list[bytes]] = []
        rooms: list[int] = []
        for unit in units:
            size = len(unit) + UNIT_HEADER_BYTES
            begin = max(0, len(rooms) - OPEN_FRAMES)
            at = next((at for at in range(begin, len(rooms)) if rooms[at] >= size), None)
            if at is None:
                if len(batches) == max_frames:
                    break
                at = len(batches)
                batches.append([])
                rooms.append(whole)
            batches[at].append(unit)
            rooms[at] -= size
        return [self.push_units(batch) for batch in batches]

    def push_units(self, units: Sequence[bytes]) -> bytes:
        """Return one frame with units that are known to fit."""
        return encode_push(*self._stand(), units)

    def slots(self) -> bytes:
        """Return the digest of the whole set that opens an exchange over a stream.

        It has 10 bytes for each slot that is not empty: 10 kB for 1,000 units, and, as there are no
        more than 4,096 slots, at most `MAX_SLOTS_DIGEST_BYTES`, 41 kB, however many units there are.
        """
        of_what = (self._tree.root, *self._stand())
        if self._slots[0] != of_what:  # members in step exchange it again and again
            occupied = self._tree.occupied()
            packed = b"".join(slot.to_bytes(2, "big") + hashed for slot, hashed in occupied)
            self._slots = (of_what, self._frame(SLOTS_DIGEST, packed))
        return self._slots[1]

    def missing(self, frame: Frame) -> list[bytes]:
        """Return frames with all units of the slots in which a stream's other end differs."""
        digests = self.differing(frame)
        return self.push(self._in_order(digests), max_frames=len(digests) + 1)

    def differing(self, frame: Frame) -> list[bytes]:
        """Return the digests in the slots in which a stream's other end differs."""
        theirs = dict(frame.slots)
        return [
            digest
            for slot, hashed in self._tree.occupied()
            if theirs.get(slot) != hashed
            for digest in self._tree.digests(1 + slot // FANOUT, slot % FANOUT)
        ]

    def _answer_hashes(self, frame: Frame) -> list[bytes]:
        frames: list[bytes] = []
        children = self._rotated(self._tree.differing(frame.node, frame.hashes))
        group: list[int] = []
        size = 0
        for child in children:
            if len(frames) + 1 >= MAX_REPLY_FRAMES:
                break
            count = self._tree.count(frame.node, child)
            if count > self._max_digests:
                if frame.node == 0:
                    frames.append(self._frame(HASHES, child + 1, self._tree.hashes(child + 1)))
                continue
            if size + count > self._max_digests:
                frames.append(self._summary(frame.node, group))
                group, size = [], 0
            group.append(child)
            size += count
        if group:
            frames.append(self._summary(frame.node, group))
        return frames

    def _answer_summary(self, frame: Frame) -> list[bytes]:
        listed = frozenset(frame.digests)
        lacking: list[bytes] = []
        children = [child for child in range(FANOUT) if frame.covered >> child & 1]
        for child in self._rotated(children):
            own = self._tree.digests(frame.node, child)
            lacking += [digest for digest in own if digest not in listed]
            if len(lacking) > self._max_digests:
                break
        wanted = [
            digest for digest in frame.digests if digest not in self._tree and not self._is_unwanted(digest)
        ]
        frames = self.push(self._in_order(lacking), MAX_REPLY_FRAMES - 1)
        if wanted:
            chosen = self._rotated(wanted)[: self._max_digests]
            frames.append(self._frame(WANT, b"".join(chosen)))
        return frames

    def _in_order(self, digests: list[bytes]) -> list[bytes]:
        first = self._first()
        return sorted(digests, key=lambda digest: digest != first)

    def _rotated(self, items: list[Any]) -> list[Any]:
        if len(items) < 2:
            return items
        start = self._rng.randrange(len(items))
        return items[start:] + items[:start]

    def _summary(self, node: int, children: Iterable[int]) -> bytes:
        chosen = list(children)
        covered = sum(1 << child for child in chosen).to_bytes(8, "big")
        digests = [digest for child in chosen for digest in self._tree.digests(node, child)]
        return self._frame(SUMMARY, node, covered, b"".join(digests))

    def _frame(self, kind: int, *fields: object) -> bytes:
        return strict_cbor.encode([kind, *self._stand(), *fields])


def _header(major: int, value: int) -> bytes:
    """Return the shortest head of a CBOR item: its major type and a value or length."""
    if value < 24:
        return bytes((major | value,))
    if value < 256:
        return bytes((major | 24, value))
    if value < 65_536:
        return bytes((major | 25, value >> 8, value & 255))
    if value < 2**32:
        return bytes((major | 26,)) + value.to_bytes(4, "big")
    return bytes((major | 27,)) + value.to_bytes(8, "big")


def _read_header(data: bytes, at: int, major: int) -> tuple[int, int]:
    """Return the value or length of the head at a position, and the position behind it.

    Raises:
        ValueError: if it is of another major type, or not the shortest.
        IndexError: if `data` ends in it.
    """
    lead = data[at] - major
    if lead == 25:
        value = data[at + 1] << 8 | data[at + 2]
        if value > 255:
            return value, at + 3
    elif 0 <= lead < 24:
        return lead, at + 1
    elif lead == 24:
        if data[at + 1] > 23:
            return data[at + 1], at + 2
    elif lead in {26, 27}:
        width = 4 if lead == 26 else 8
        value = int.from_bytes(data[at + 1 : at + 1 + width], "big")
        if value >= 1 << width * 4 and len(data) > at + width:
            return value, at + 1 + width
    raise ValueError("not the head that belongs here, or not its shortest form")


def _node(node: int) -> int:
    if type(node) is bool or not 0 <= node <= FANOUT:
        raise ValueError("not a node of the tree")
    return node


def _digests(packed: bytes) -> tuple[bytes, ...]:
    if len(packed) % DIGEST_BYTES:
        raise ValueError("a digest has 8 bytes")
    return tuple(packed[at : at + DIGEST_BYTES] for at in range(0, len(packed), DIGEST_BYTES))


def _slots(packed: bytes) -> tuple[tuple[int, bytes], ...]:
    if len(packed) % (2 + DIGEST_BYTES):
        raise ValueError("a slot and its hash have 10 bytes")
    return tuple(
        (int.from_bytes(packed[at : at + 2], "big"), packed[at + 2 : at + 10])
        for at in range(0, len(packed), 10)
    )
