"""Protection of packets: AES-256-GCM under derived keys, or a checksum where there is no key.

Layout of a protected packet:

    version 1 | kind and channel 1 | key id 4 | boot id 8 | counter 6 | ciphertext | tag 16

The first key of the ring encrypts, all of them decrypt, so a key is rotated by adding the new one
everywhere, then using it, then removing the old one. No key encrypts directly: each sender derives
its own with HKDF-SHA256 from (gossip key, its random boot id, channel), so a plain counter is a
nonce that never repeats, and the same counter is the replay window of that sender's boot. Header
and cluster label are authenticated. Datagrams and streams have separate keys, counters and windows.

A replay window is forgotten when more boots than `MAX_BOOTS` have been heard since, and with the
process that holds it; then old packets of that boot may pass once more. Statements are idempotent
and probes carry sequence numbers, so a replayed packet can repeat old news but not change a verdict.
"""

import hashlib
import struct
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swim.messages import DecodeError

VERSIONS: Final = (3, 3)
"""Lowest and highest protocol version that this code understands; earlier ones were never released."""
BOOT_ID_BYTES: Final = 8
KEY_BYTES: Final = 32
MAX_KEYS: Final = 8
"""Most keys in a ring; rotation needs two."""
MAX_BOOTS: Final = 2_048
"""Most sender boots, per channel, whose key and replay window are kept; the least recent goes."""
REPLAY_WINDOW: Final = 4_096
"""Packets of one sender that may overtake each other. Older ones are taken for replays."""
MAX_OVERHEAD_BYTES: Final = 2 + 4 + BOOT_ID_BYTES + 6 + 16
"""What the envelope adds to a body, at most."""

_PLAIN: Final = 1
_AES_GCM: Final = 2
_PLAIN_HEADER: Final = struct.Struct(">BBI")
_HEADER: Final = struct.Struct(">BB4s8s6s")
_COUNTER_BYTES: Final = 6
"""2**48 packets: a thousand years at 9,000 a second."""
_TAG_BYTES: Final = 16


class Channel(IntEnum):
    """What carries a packet; each has its own keys."""

    DATAGRAM = 1
    STREAM = 2


class Envelope(Protocol):
    """Protects bodies on their way.

    Attributes:
        speaks: the protocol version that packets are written in.
    """

    speaks: int

    def seal(self, channel: Channel, body: bytes) -> bytes:
        """Protect a body."""

    def open(self, channel: Channel, data: bytes) -> bytes:
        """Return the body; raise `DecodeError` if it is not a fresh one of this cluster."""


class PlainEnvelope:
    """A checksum over label and body: finds accidents and strangers, stops no attacker.

    Args:
        label: the cluster's label.
        versions: lowest and highest protocol version that is understood.

    Attributes:
        speaks: the version that packets are written in.
    """

    def __init__(self, label: str, *, versions: tuple[int, int] = VERSIONS) -> None:
        self._label = label.encode()
        self._versions = versions
        self.speaks = versions[1]

    def seal(self, channel: Channel, body: bytes) -> bytes:
        """Prefix the body with version, channel and checksum."""
        kind = _PLAIN << 4 | channel
        return _PLAIN_HEADER.pack(self.speaks, kind, self._checksum(channel, body)) + body

    def open(self, channel: Channel, data: bytes) -> bytes:
        """Return the body if version, channel and checksum fit."""
        if len(data) < _PLAIN_HEADER.size:
            raise DecodeError("truncated")
        version, kind, checksum = _PLAIN_HEADER.unpack_from(data)
        _check_header(version, self._versions, kind, _PLAIN, channel)
        body = data[_PLAIN_HEADER.size :]
        if checksum != self._checksum(channel, body):
            raise DecodeError("bad_checksum")
        return body

    def _checksum(self, channel: Channel, body: bytes) -> int:
        return zlib.crc32(body, zlib.crc32(bytes([channel]) + self._label))


@dataclass(slots=True)
class _Sender:
    """One boot of a sender on one channel under one key: its cipher and its replay window."""

    cipher: AESGCM
    highest: int = -1
    seen: int = 0

    def is_replay(self, counter: int) -> bool:
        behind = self.highest - counter
        return behind >= REPLAY_WINDOW or (behind >= 0 and bool(self.seen >> behind & 1))

    def note(self, counter: int) -> None:
        if counter > self.highest:
            shift = min(counter - self.highest, REPLAY_WINDOW)
            self.seen = (self.seen << shift | 1) & ((1 << REPLAY_WINDOW) - 1)
            self.highest = counter
        else:
            self.seen |= 1 << (self.highest - counter)


class Keyring:
    """AES-256-GCM with several keys, derived sending keys and a replay window.

    Args:
        keys: gossip keys of 32 bytes; the first encrypts.
        label: the cluster's label, authenticated with every packet.
        entropy: returns so many cryptographically random bytes.
        versions: lowest and highest protocol version that is understood.

    Attributes:
        speaks: the version that packets are written in.

    Raises:
        ValueError: for no key, too many, or one of another length.
    """

    def __init__(
        self,
        keys: Sequence[bytes],
        *,
        label: str,
        entropy: Callable[[int], bytes],
        versions: tuple[int, int] = VERSIONS,
    ) -> None:
        self._label = label.encode()
        self._versions = versions
        self.speaks = versions[1]
        self._boot_id = entropy(BOOT_ID_BYTES)
        self._keys: list[bytes] = []
        self._key_ids: dict[bytes, bytes] = {}
        self._ciphers: dict[Channel, AESGCM] = {}
        self._counters: Counter[Channel] = Counter()
        self._senders: OrderedDict[bytes, _Sender] = OrderedDict()
        self._windows_forgotten = 0
        for key in keys:
            self.add(key)
        if not self._keys:
            raise ValueError("a keyring needs at least one key")

    def add(self, key: bytes) -> None:
        """Accept packets under one more key."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a gossip key has {KEY_BYTES} bytes, not {len(key)}")
        if key in self._keys:
            return
        if len(self._keys) >= MAX_KEYS:
            raise ValueError(f"a keyring holds at most {MAX_KEYS} keys")
        self._keys.append(key)
        self._key_ids[key] = _key_id(key)

    def use(self, key: bytes) -> None:
        """Encrypt with this key, which was added before."""
        if key not in self._keys:
            raise ValueError("add the key before using it")
        self._keys.remove(key)
        self._keys.insert(0, key)
        self._ciphers.clear()

    def remove(self, key: bytes) -> None:
        """Stop accepting packets under a key that does not encrypt any more."""
        if self._keys and self._keys[0] == key:
            raise ValueError("use another key before removing this one")
        if key in self._keys:
            self._keys.remove(key)
            del self._key_ids[key]
            for sender in [s for s in self._senders if s.startswith(_key_id(key))]:
                del self._senders[sender]

    def keys(self) -> tuple[bytes, ...]:
        """Return the keys themselves, for whoever stores the ring; the first encrypts."""
        return tuple(self._keys)

    def key_ids(self) -> list[str]:
        """Name the keys without revealing them; the first encrypts."""
        return [_key_id(key).hex() for key in self._keys]

    def seal(self, channel: Channel, body: bytes) -> bytes:
        """Encrypt a body under this boot's own key for the channel."""
        key = self._keys[0]
        cipher = self._ciphers.get(channel)
        if cipher is None:
            cipher = self._ciphers[channel] = _derive(key, self._boot_id, channel)
        # One counter for all keys: a nonce is never repeated, whatever key is used next.
        counter = self._counters[channel]
        self._counters[channel] += 1
        packed = counter.to_bytes(_COUNTER_BYTES, "big")
        header = _HEADER.pack(self.speaks, _AES_GCM << 4 | channel, self._key_ids[key], self._boot_id, packed)
        return header + cipher.encrypt(counter.to_bytes(12, "big"), body, header + self._label)

    def open(self, channel: Channel, data: bytes) -> bytes:
        """Decrypt a body that some member of the cluster sealed, once."""
        if len(data) < _HEADER.size + _TAG_BYTES:
            raise DecodeError("truncated")
        version, kind, key_id, boot_id, packed = _HEADER.unpack_from(data)
        _check_header(version, self._versions, kind, _AES_GCM, channel)
        counter = int.from_bytes(packed, "big")
        who = key_id + bytes([channel]) + boot_id
        sender = self._senders.get(who)
        if sender is None:
            key = next((key for key in self._keys if self._key_ids[key] == key_id), None)
            if key is None:
                raise DecodeError("unknown_key")
            sender = _Sender(_derive(key, boot_id, channel))
        elif sender.is_replay(counter):
            raise DecodeError("replay")
        header = data[: _HEADER.size]
        try:
            body = sender.cipher.decrypt(
                counter.to_bytes(12, "big"), data[_HEADER.size :], header + self._label
            )
        except InvalidTag:
            raise DecodeError("not_authentic") from None
        sender.note(counter)
        self._senders[who] = sender  # only now: strangers must not push members out
        self._senders.move_to_end(who)
        if len(self._senders) > 2 * MAX_BOOTS:
            self._senders.popitem(last=False)
            self._windows_forgotten += 1
        return body

    def statistics(self) -> dict[str, int]:
        """Count keys and the senders whose replay windows are kept."""
        return {
            "keys": len(self._keys),
            "senders": len(self._senders),
            "replay_windows_forgotten": self._windows_forgotten,
        }


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"caxton gossip key id\0" + key).digest()[:4]


def _derive(key: bytes, boot_id: bytes, channel: Channel) -> AESGCM:
    info = b"caxton gossip packet key\0" + bytes([channel])
    hkdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=boot_id, info=info)
    return AESGCM(hkdf.derive(key))


def _check_header(version: int, known: tuple[int, int], kind: int, wanted: int, channel: Channel) -> None:
    if not known[0] <= version <= known[1]:
        raise DecodeError("unknown_version")
    if kind >> 4 != wanted:
        raise DecodeError("unencrypted" if kind >> 4 == _PLAIN else "unexpected_encryption")
    if kind & 15 != channel:
        raise DecodeError("wrong_channel")
