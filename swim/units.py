"""The signed units that replicated state is made of; whoever holds one forwards it verbatim.

Each unit is a canonical CBOR array: its kind, its author's credential, its fields, and last the
author's Ed25519 signature over `domain(purpose) + CBOR(the array without the signature)`:

    bucket      [1, credential, counter, boot_id, version, depth, prefix, published_ms, {key: value},
                 signature]
    register    [2, credential, stamp, key, value | null, based_on, signature]
    retirement  [3, credential, stamp, previous, retired, signature]
    load        [4, credential, counter, boot_id, sequence, vector, signature]

A unit is known by its **digest**, the first 8 bytes of its SHA-256. Whether the author is who the
credential says, and whether the signature is right, is for `is_signed_by` and the authority;
decoding checks the form and every bound. A unit is encoded once, by its author: a receiver checks
the signature over the bytes that came, and that they are the canonical ones by encoding them once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from swim import strict_cbor
from swim.hlc import MAX_STAMP
from swim.identity import (
    MAX_CREDENTIAL_BYTES,
    SIGNATURE_BYTES,
    Admitted,
    Identity,
    domain,
    verify,
)

BOOT_ID_BYTES: Final = 8
MAX_COUNTER: Final = 2**48
"""Far above any number of restarts; a peer cannot push a generation to the end of the integers."""
MAX_VERSION: Final = 2**53
MAX_PUBLISHED_MS: Final = 2**53
MAX_DEPTH: Final = 16
"""Deepest split of a map: buckets are ranges of the first 16 bits of a key's hash."""
MAX_KEY_BYTES: Final = 160
MAX_BUCKET_BYTES: Final = 1000
"""Entries of a bucket, encoded; fewer where frame, credential and signature leave less."""
MAX_LOAD_BYTES: Final = 32
MAX_RETIRED: Final = 40
"""Tombstones retired by one unit: 16 bytes each."""
RETIRED_BYTES: Final = 16

Generation = tuple[int, bytes]
"""(counter, boot id): one life of a node; compared in this order."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """All of an owner's entries whose key hash begins with `depth` bits equal to `prefix`.

    `published_ms` is the owner's wall time when it signed the bucket, in milliseconds since the
    epoch. It serves statistics only: which bucket is newer is for `generation` and `version` to say.
    """

    credential: bytes
    generation: Generation
    version: int
    depth: int
    prefix: int
    entries: dict[str, bytes]
    published_ms: int = 0


@dataclass(frozen=True, slots=True)
class Register:
    """One author's write to the cluster map; `value` None deletes; `based_on` 0 is a first write."""

    credential: bytes
    stamp: int
    key: str
    value: bytes | None
    based_on: int


@dataclass(frozen=True, slots=True)
class Retirement:
    """Tombstones that the whole roster holds, and therefore nobody has to keep any longer.

    Attributes:
        credential: of the node that saw the roster agree.
        stamp: the new horizon, the highest stamp among the retired.
        previous: the horizon before.
        retired: (first 8 bytes of the key's SHA-256, stamp) of each tombstone.
    """

    credential: bytes
    stamp: int
    previous: int
    retired: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class Load:
    """A node's latest quantised load vector."""

    credential: bytes
    generation: Generation
    sequence: int
    vector: bytes


Unit = Bucket | Register | Retirement | Load


def digest_of(unit: bytes) -> bytes:
    """Return the 8 bytes by which a unit is known."""
    return sha256(unit).digest()[:8]


def key_hash(key: str) -> bytes:
    """Return the 8 bytes that place a key in its bucket, and stand for it in a retirement."""
    return sha256(key.encode()).digest()[:8]


def prefix_of(key: str, depth: int) -> int:
    """Return the first `depth` bits, at most 16, of a key's hash."""
    return int.from_bytes(key_hash(key)[:2], "big") >> (MAX_DEPTH - depth)


def entries_bytes(entries: dict[str, bytes]) -> int:
    """Return the size of a bucket's entries on the wire."""
    return len(strict_cbor.encode(entries))


def header_bytes(length: int) -> int:
    """Return the size of what CBOR writes before so many bytes, characters or items, at most 65,535."""
    return 1 if length < 24 else 2 if length < 256 else 3


def is_key(key: object) -> bool:
    """Say whether `key` can be a key: a str of 1 to 160 bytes in UTF-8."""
    if type(key) is not str or not key or len(key) > MAX_KEY_BYTES:
        return False
    try:
        return len(key.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:
        return False


def encode(unit: Unit, identity: Identity) -> bytes:
    """Encode and sign a unit of one's own."""
    body = strict_cbor.encode(_fields(unit))
    signature = identity.sign(_DOMAINS[type(unit)] + body)
    return bytes([body[0] + 1]) + body[1:] + _SIGNATURE_HEADER + signature


def is_signed_by(admitted: Admitted, unit: Unit, data: bytes) -> bool:
    """Say whether `data`, which decoded to `unit`, carries the signature of `admitted`.

    What was signed is the array without its last field: the same bytes, but for a smaller count.
    """
    signed = _DOMAINS[type(unit)] + bytes([data[0] - 1]) + data[1:_UNSIGNED]
    return verify(admitted.public_key, data[-SIGNATURE_BYTES:], signed)


def overhead_bytes(credential: bytes) -> int:
    """Return how much of a unit is not entries, key or value, at most, for one credential."""
    return len(credential) + 3 + SIGNATURE_BYTES + 2 + BOOT_ID_BYTES + 34


def decode(data: bytes, *, max_bytes: int) -> Unit:
    """Decode a unit and check every bound, or raise ValueError.

    Args:
        data: the unit, as received.
        max_bytes: longer units are refused unread.
    """
    fields = strict_cbor.decode_any_order(data, max_bytes=max_bytes)
    if type(fields) is not list or not fields or type(fields[0]) is not int:
        raise ValueError("a unit is an array that begins with its kind")
    reader = _READERS.get(fields[0])
    if reader is None or len(fields) != reader[1]:
        raise ValueError("unknown kind of unit, or a field too many or too few")
    _bytes(fields[1], 1, MAX_CREDENTIAL_BYTES)
    _bytes(fields[-1], SIGNATURE_BYTES, SIGNATURE_BYTES)
    return reader[0](fields)


def _fields(unit: Unit) -> list[Any]:
    match unit:
        case Bucket(credential, (counter, boot_id), version, depth, prefix, entries, published_ms):
            return [1, credential, counter, boot_id, version, depth, prefix, published_ms, entries]
        case Register(credential, stamp, key, value, based_on):
            return [2, credential, stamp, key, value, based_on]
        case Retirement(credential, stamp, previous, retired):
            packed = b"".join(hashed + at.to_bytes(8, "big") for hashed, at in retired)
            return [3, credential, stamp, previous, packed]
        case Load(credential, (counter, boot_id), sequence, vector):
            return [4, credential, counter, boot_id, sequence, vector]


def _bucket(fields: list[Any]) -> Bucket:
    _, credential, counter, boot_id, version, depth, prefix, published_ms, entries, _ = fields
    generation = (_integer(counter, 1, MAX_COUNTER), _bytes(boot_id, BOOT_ID_BYTES, BOOT_ID_BYTES))
    _integer(depth, 0, MAX_DEPTH)
    _integer(prefix, 0, (1 << depth) - 1)
    _integer(version, 1, MAX_VERSION)
    _integer(published_ms, 0, MAX_PUBLISHED_MS)
    if type(entries) is not dict:
        raise ValueError("entries are a map")
    _check_entries(entries, depth, prefix)
    return Bucket(credential, generation, version, depth, prefix, entries, published_ms)


def _check_entries(entries: dict[Any, Any], depth: int, prefix: int) -> None:
    """Raise ValueError unless these are entries of this bucket, in their one order and not too long."""
    size = header_bytes(len(entries))
    last_length, last = 0, b""
    shift = MAX_DEPTH - depth
    for key, value in entries.items():
        if type(key) is not str or type(value) is not bytes:
            raise ValueError("an entry is a text and bytes")
        raw = key.encode()
        length = len(raw)
        if not 0 < length <= MAX_KEY_BYTES or len(value) > MAX_BUCKET_BYTES:
            raise ValueError("a key or a value that is empty or too long")
        if length < last_length or (length == last_length and raw <= last):
            raise ValueError("keys that are not in canonical order: the shorter first, then by their bytes")
        if depth and int.from_bytes(sha256(raw).digest()[:2], "big") >> shift != prefix:
            raise ValueError("a key that cannot be in this bucket")
        size += header_bytes(length) + length + header_bytes(len(value)) + len(value)
        last_length, last = length, raw
    if size > MAX_BUCKET_BYTES:
        raise ValueError("a bucket holds at most 1,000 bytes")


def _register(fields: list[Any]) -> Register:
    _, credential, stamp, key, value, based_on, _ = fields
    if not is_key(key):
        raise ValueError("not a key")
    if value is not None:
        _bytes(value, 0, MAX_BUCKET_BYTES)
    _integer(stamp, 1, MAX_STAMP)
    return Register(credential, stamp, key, value, _integer(based_on, 0, stamp - 1))


def _retirement(fields: list[Any]) -> Retirement:
    _, credential, stamp, previous, packed, _ = fields
    _bytes(packed, RETIRED_BYTES, MAX_RETIRED * RETIRED_BYTES)
    if len(packed) % RETIRED_BYTES:
        raise ValueError("a retired tombstone has 16 bytes")
    retired = tuple(
        (packed[at : at + 8], int.from_bytes(packed[at + 8 : at + 16], "big"))
        for at in range(0, len(packed), RETIRED_BYTES)
    )
    _integer(stamp, 1, MAX_STAMP)
    if stamp != max(at for _, at in retired):
        raise ValueError("the horizon is the highest retired stamp")
    return Retirement(credential, stamp, _integer(previous, 0, stamp - 1), retired)


def _load(fields: list[Any]) -> Load:
    _, credential, counter, boot_id, sequence, vector, _ = fields
    generation = (_integer(counter, 1, MAX_COUNTER), _bytes(boot_id, BOOT_ID_BYTES, BOOT_ID_BYTES))
    _integer(sequence, 1, MAX_VERSION)
    return Load(credential, generation, sequence, _bytes(vector, 0, MAX_LOAD_BYTES))


_DOMAINS: Final = {kind: domain(kind.__name__.lower()) for kind in (Bucket, Register, Retirement, Load)}
_SIGNATURE_HEADER: Final = bytes([0x58, SIGNATURE_BYTES])
_UNSIGNED: Final = -(len(_SIGNATURE_HEADER) + SIGNATURE_BYTES)
"""Where the signature begins, seen from the end of a unit."""
_READERS: Final[dict[int, tuple[Callable[[list[Any]], Unit], int]]] = {
    1: (_bucket, 10),
    2: (_register, 7),
    3: (_retirement, 6),
    4: (_load, 7),
}


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"not an integer from {low} to {high}")
    return value


def _bytes(value: Any, shortest: int, longest: int) -> bytes:
    if type(value) is not bytes or not shortest <= len(value) <= longest:
        raise ValueError(f"not {shortest} to {longest} bytes")
    return value
