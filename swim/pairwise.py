r"""What only two members share: a key per pair of boots, and the tags that authenticate probes with it.

The gossip key is everybody's, so it proves no sender, and a thief of it could keep a dead member alive by
answering for it. Each boot therefore has an X25519 key (RFC 7748) of its own, whose public half is part of
its signed Alive. Two members agree on a key without a word:

    key = HKDF-SHA256(X25519(own, other), info = "caxton pair key\0" + label + both public keys in order)

A tag is the keyed BLAKE2b (RFC 7693) of the message, cut to 8 bytes, under that key, over the name of the
sender first, so that none can be sent back to where it came from.
"""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Final, TypeVar, get_args

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swim.messages import EXCHANGE_KEY_BYTES, TAG_BYTES, Ack, Nack, Ping, PingRequest, UserFrame

MAX_PAIR_KEYS: Final = 8_192
"""Pair keys that are kept; the least recently used is agreed on anew when it is needed again."""
KEY_BYTES: Final = 32

Tagged = Ping | PingRequest | Ack | Nack | UserFrame
TAGGED: Final[tuple[type[Tagged], ...]] = get_args(Tagged)
T = TypeVar("T", bound=Tagged)
_BEFORE_TAG: Final[dict[type[Any], Callable[[Any], tuple[Any, ...]]]] = {
    kind: attrgetter(*list(kind.__dataclass_fields__)[:-1]) for kind in TAGGED
}
"""For each kind of message what returns its fields but for the last, which is the tag."""
Agree = Callable[[X25519PrivateKey, bytes, bytes, bytes], bytes]
"""(own private key, own public key, the other's public key, label) -> the key that the two share."""


def agree(own: X25519PrivateKey, own_public: bytes, other: bytes, label: bytes) -> bytes:
    """Return the key shared with the owner of a public key; both ends come to the same one.

    Raises:
        ValueError: if the other key is of low order.
    """
    secret = own.exchange(X25519PublicKey.from_public_bytes(other))
    low, high = sorted((own_public, other))
    info = b"caxton pair key\0" + label + b"\0" + low + high
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


class Pairwise:
    """The keys that this boot shares with others.

    Args:
        name: of this member.
        label: the cluster's label.
        entropy: returns so many cryptographically random bytes.
        max_keys: keys that are kept.
        agree: comes to a shared key.

    Attributes:
        public_key: for others, 32 bytes.
    """

    def __init__(
        self,
        name: str,
        label: str,
        entropy: Callable[[int], bytes],
        *,
        max_keys: int = MAX_PAIR_KEYS,
        agree: Agree = agree,
    ) -> None:
        self._private_key = X25519PrivateKey.from_private_bytes(entropy(EXCHANGE_KEY_BYTES))
        self.public_key = self._private_key.public_key().public_bytes_raw()
        self._name = name
        self._label = label.encode()
        self._max_keys = max_keys
        self._agree = agree
        self._keys: OrderedDict[bytes, bytes] = OrderedDict()

    def key(self, other: bytes) -> bytes | None:
        """Return the key shared with the owner of a public key, None if that is no good key."""
        known = self._keys.get(other)
        if known is not None:
            self._keys.move_to_end(other)
            return known
        try:
            key = self._agree(self._private_key, self.public_key, other, self._label)
        except ValueError:
            return None
        self._keys[other] = key
        if len(self._keys) > self._max_keys:
            self._keys.popitem(last=False)
        return key

    def derived(self, other: bytes, purpose: bytes) -> bytes | None:
        """Return a key for another purpose than tags, of 32 bytes, None if `other` is no good key."""
        key = self.key(other)
        return None if key is None else blake2b(purpose, key=key, digest_size=KEY_BYTES).digest()

    def tag(self, message: Tagged, other: bytes) -> bytes:
        """Return the tag of a message of this member for the owner of a public key."""
        key = self.key(other)
        return bytes(TAG_BYTES) if key is None else _tag(key, self._name, message)

    def tagged(self, message: T, other: bytes) -> T:
        """Return a message of this member with its tag for the owner of a public key."""
        kind: type[Any] = type(message)
        tagged: T = kind(*_BEFORE_TAG[kind](message), self.tag(message, other))
        return tagged

    def is_from(self, message: Tagged, sender: str, other: bytes) -> bool:
        """Say whether a message carries the tag of `sender`, the owner of a public key."""
        key = self.key(other)
        # Not compared in constant time: a tag is tried once, and the answer to a wrong one is silence.
        return key is not None and message.tag == _tag(key, sender, message)

    def statistics(self) -> dict[str, int]:
        """Count the keys that are kept."""
        return {"pair_keys": len(self._keys)}


def _tag(key: bytes, sender: str, message: Tagged) -> bytes:
    head = bytes(4) if isinstance(message, UserFrame) else message.sequence.to_bytes(4, "big")
    match message:
        case Ping():
            rest = b"i%b\0%b" % (message.target.encode(), message.root)
        case PingRequest():
            rest = b"r%b\0%b" % (message.target.encode(), message.patience_ms.to_bytes(4, "big"))
        case Ack():
            rest = b"a%b\0%b%b" % (message.subject.encode(), message.root, message.coordinate)
        case Nack():
            rest = b"n" + message.doubt
        case UserFrame():
            rest = b"u" + bytes([message.kind]) + message.frame
    return blake2b(head + rest + b"\0" + sender.encode(), key=key, digest_size=TAG_BYTES).digest()
