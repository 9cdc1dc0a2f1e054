"""What members say to each other to rotate a gossip key: sealed pairwise, so that the old key reads nothing.

A new key must not travel under an old one that may be stolen: that is why it is rotated. So each
request and each result is encrypted for one receiver, under a key that only the two of them have:

    sealed      [kind, operation id: 16, sender, receiver, nonce: 12, ciphertext]     4 request, 5 result
    request     [order, receiver's boot id: 16, key: 32 or none]
    result      [status, error, [key id: 4, ...], boot id: 16]
    order       [author, boot_time_ms, boot_id, sequence, operation id, verb, key digest, signature]

AES-256-GCM under HKDF-SHA256(pairwise key, salt = operation id, info = sender and receiver); kind,
operation id and receiver are authenticated with it. The order is signed by its author over
`domain("keyring") + CBOR(the array without the signature)`, once for all receivers: who has stolen a
receiver's own keys still cannot command it, and who said what can be proven. It commits to the key by
a digest. Naming the receiver's boot makes a request worthless after a restart, when the receiver has
forgotten which orders it has carried out.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swim import strict_cbor
from swim.identity import SIGNATURE_BYTES, domain, is_name
from swim.keyring import KEY_BYTES, MAX_KEYS
from swim.messages import BOOT_ID_BYTES, MAX_BOOT_TIME_MS, Boot

MAX_SEALED_BYTES: Final = 1_100
"""Longest request or result, so that it fits a datagram whatever wraps it."""
OPERATION_ID_BYTES: Final = 16
NONCE_BYTES: Final = 12
KEY_ID_BYTES: Final = 4
DIGEST_BYTES: Final = 32
MAX_SEQUENCE: Final = 2**53
MAX_ORDER_BYTES: Final = 320
MAX_ERROR_CHARACTERS: Final = 128


class Kind(IntEnum):
    """What a sealed message holds."""

    REQUEST = 4
    RESULT = 5


class Verb(IntEnum):
    """What a member is asked to do with its keyring."""

    INSTALL = 1
    USE = 2
    REMOVE = 3
    LIST = 4


class Status(IntEnum):
    """What became of a request at one member."""

    DONE = 0
    FAILED = 1
    NOT_ALLOWED = 2
    ANOTHER_BOOT = 3
    SUPERSEDED = 4


@dataclass(frozen=True, slots=True)
class Order:
    """What an author has all members do, the same for each of them.

    Attributes:
        author: who gives the order.
        boot: the life in which it does.
        sequence: one higher with each order of that life.
        operation_id: 16 random bytes.
        verb: what to do.
        key_digest: commits to the key, empty if the verb needs none.
        signature: the author's.
    """

    author: str
    boot: Boot
    sequence: int
    operation_id: bytes
    verb: Verb
    key_digest: bytes
    signature: bytes = field(default=b"", repr=False)

    def signed_bytes(self) -> bytes:
        """Return what the signature covers."""
        return domain("keyring") + strict_cbor.encode(self._fields())

    def encode(self) -> bytes:
        """Encode the order, signature included."""
        return strict_cbor.encode([*self._fields(), self.signature])

    def _fields(self) -> list[Any]:
        boot = self.boot
        return [
            self.author, boot.time_ms, boot.id, self.sequence, self.operation_id, int(self.verb),
            self.key_digest,
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """An order as one member gets it.

    Attributes:
        order: encoded, with its signature.
        boot_id: the life of the receiver that it is meant for.
        key: the key in question, empty for LIST.
    """

    order: bytes
    boot_id: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """One member's answer.

    Attributes:
        status: what became of the request.
        error: why not, in words.
        key_ids: the keys it holds, without revealing them; the first encrypts.
        boot_id: the life of the member that answers.
    """

    status: Status
    error: str
    key_ids: tuple[str, ...]
    boot_id: bytes


@dataclass(frozen=True, slots=True)
class Sealed:
    """A request or a result on its way between two members."""

    kind: Kind
    operation_id: bytes
    sender: str
    receiver: str
    nonce: bytes
    ciphertext: bytes

    @classmethod
    def seal(
        cls,
        kind: Kind,
        body: bytes,
        *,
        operation_id: bytes,
        sender: str,
        receiver: str,
        pairwise_key: bytes,
        nonce: bytes,
    ) -> "Sealed":
        """Encrypt a body for one receiver.

        Args:
            kind: what the body is.
            body: an encoded request or result.
            operation_id: of the operation that it belongs to.
            sender: who seals.
            receiver: who alone can open.
            pairwise_key: 32 bytes that only the two of them have.
            nonce: 12 random bytes.
        """
        sealed = cls(kind, operation_id, sender, receiver, nonce, b"")
        ciphertext = sealed._cipher(pairwise_key).encrypt(nonce, body, sealed._associated())
        return cls(kind, operation_id, sender, receiver, nonce, ciphertext)

    def open(self, pairwise_key: bytes) -> bytes:
        """Return the body; raise ValueError if the sender did not seal it so for the receiver."""
        try:
            return self._cipher(pairwise_key).decrypt(self.nonce, self.ciphertext, self._associated())
        except InvalidTag:
            raise ValueError("not sealed by its sender for its receiver") from None

    def encode(self) -> bytes:
        """Encode the message."""
        return strict_cbor.encode(
            [int(self.kind), self.operation_id, self.sender, self.receiver, self.nonce, self.ciphertext]
        )

    def _cipher(self, pairwise_key: bytes) -> AESGCM:
        info = b"caxton keyring operation\0" + self.sender.encode() + b"\0" + self.receiver.encode()
        hkdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=self.operation_id, info=info)
        return AESGCM(hkdf.derive(pairwise_key))

    def _associated(self) -> bytes:
        return bytes([self.kind]) + self.operation_id + self.receiver.encode()


def key_id(key: bytes) -> str:
    """Name a gossip key as `swim.keyring` does, without revealing it."""
    return sha256(b"caxton gossip key id\0" + key).digest()[:KEY_ID_BYTES].hex()


def key_digest(key: bytes) -> bytes:
    """Return the 32 bytes by which an order commits to a key, none for no key."""
    return sha256(b"caxton gossip key digest\0" + key).digest() if key else b""


def decode_sealed(data: bytes) -> Sealed:
    """Decode a sealed message from anybody; raise ValueError if it is none."""
    fields = _array(strict_cbor.decode(data, max_bytes=MAX_SEALED_BYTES), 6)
    kind, operation_id, sender, receiver, nonce, ciphertext = fields
    if not is_name(sender) or not is_name(receiver):
        raise ValueError("not a member's name")
    return Sealed(
        Kind(_integer(kind, 0, 255)),
        _bytes(operation_id, OPERATION_ID_BYTES),
        sender,
        receiver,
        _bytes(nonce, NONCE_BYTES),
        _bytes(ciphertext, 1, MAX_SEALED_BYTES),
    )


def decode_order(data: bytes) -> Order:
    """Decode an order; raise ValueError if it is none."""
    fields = _array(strict_cbor.decode(data, max_bytes=MAX_ORDER_BYTES), 8)
    author, boot_time_ms, boot_id, sequence, operation_id, verb, digest, signature = fields
    if not is_name(author):
        raise ValueError("not a member's name")
    verb = Verb(_integer(verb, 0, 255))
    return Order(
        author,
        Boot(_integer(boot_time_ms, 0, MAX_BOOT_TIME_MS), _bytes(boot_id, BOOT_ID_BYTES)),
        _integer(sequence, 1, MAX_SEQUENCE),
        _bytes(operation_id, OPERATION_ID_BYTES),
        verb,
        _bytes(digest, 0 if verb is Verb.LIST else DIGEST_BYTES),
        _bytes(signature, SIGNATURE_BYTES),
    )


def encode_request(request: Request) -> bytes:
    """Encode a request, to be sealed."""
    return strict_cbor.encode([request.order, request.boot_id, request.key])


def decode_request(body: bytes) -> tuple[Request, Order]:
    """Decode what a sealed request held, and its order; raise ValueError if they do not fit together."""
    encoded, boot_id, key = _array(strict_cbor.decode(body, max_bytes=MAX_SEALED_BYTES), 3)
    order = decode_order(_bytes(encoded, 1, MAX_ORDER_BYTES))
    request = Request(encoded, _bytes(boot_id, BOOT_ID_BYTES), _bytes(key, 0, KEY_BYTES))
    if len(key) not in {0, KEY_BYTES} or key_digest(key) != order.key_digest:
        raise ValueError("not the key that the order is about")
    return request, order


def encode_result(result: Result) -> bytes:
    """Encode a result, to be sealed."""
    key_ids = [bytes.fromhex(each) for each in result.key_ids]
    return strict_cbor.encode([int(result.status), result.error, key_ids, result.boot_id])


def decode_result(body: bytes) -> Result:
    """Decode what a sealed result held; raise ValueError if it is none."""
    status, error, key_ids, boot_id = _array(strict_cbor.decode(body, max_bytes=MAX_SEALED_BYTES), 4)
    if type(error) is not str or len(error) > MAX_ERROR_CHARACTERS:
        raise ValueError("an error is text of at most 128 characters")
    if type(key_ids) is not list or len(key_ids) > MAX_KEYS:
        raise ValueError(f"a member holds at most {MAX_KEYS} keys")
    return Result(
        Status(_integer(status, 0, 255)),
        error,
        tuple([_bytes(each, KEY_ID_BYTES).hex() for each in key_ids]),
        _bytes(boot_id, BOOT_ID_BYTES),
    )


def _array(value: Any, length: int) -> list[Any]:
    if type(value) is not list or len(value) != length:
        raise ValueError(f"not an array of {length}")
    return value


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"not an integer from {low} to {high}")
    return value


def _bytes(value: Any, shortest: int, longest: int | None = None) -> bytes:
    if type(value) is not bytes or not shortest <= len(value) <= (shortest if longest is None else longest):
        raise ValueError("bytes of another length")
    return value
