"""Members with keyrings, and a network between them that is a function call."""

import hashlib
import random
from collections.abc import Callable, Iterable

from swim.keyring import Keyring
from swim.keyring_messages import (
    Kind,
    Order,
    Request,
    Sealed,
    Status,
    Verb,
    decode_result,
    decode_sealed,
    encode_request,
    key_digest,
    key_id,
)
from swim.keyring_operations import (
    KeyringInitiator,
    OperationResult,
)
from swim.keyring_responder import KeyringChange, KeyringResponder, Reply
from swim.messages import Boot

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32


class Signer:
    """An identity whose signature is a hash: enough to tell authors apart, and fast."""

    credential = b""

    def __init__(self, name: str) -> None:
        self.name = name

    def sign(self, data: bytes) -> bytes:
        return hashlib.sha512(self.name.encode() + b"\0" + data).digest()


def is_signed(author: str, data: bytes, signature: bytes) -> bool:
    return Signer(author).sign(data) == signature


def between(a: str, b: str) -> bytes:
    """The key that two members share."""
    return hashlib.sha256(" ".join(sorted((a, b))).encode()).digest()


def boot_of(name: str, life: int) -> Boot:
    return Boot(life, hashlib.sha256(f"{name} {life}".encode()).digest()[:8])


class Member:
    """One member with its ring and both roles."""

    def __init__(
        self, name: str, keys: Iterable[bytes] = (OLD,), *, allowed: str = "a", life: int = 1
    ) -> None:
        entropy = random.Random(f"{name} {life}").randbytes
        self.name, self.boot = name, boot_of(name, life)
        self.ring = Keyring(list(keys), label="test", entropy=entropy)
        self.initiator = KeyringInitiator(
            Signer(name), self.boot, self.ring, lambda peer: between(name, peer), entropy
        )
        self.responder = KeyringResponder(
            name,
            self.boot,
            self.ring,
            pairwise_key=lambda peer: between(name, peer),
            verify_author=is_signed,
            is_allowed=lambda author: author in allowed,
            entropy=entropy,
        )
        self.changes: list[KeyringChange] = []

    def holds(self) -> list[bytes]:
        return list(self.ring._keys)


class Net:
    """Members, and a network that is a function call; `lost` decides which datagrams it loses."""

    def __init__(self, *members: Member) -> None:
        self.members = {member.name: member for member in members}
        self.lost: Callable[[str, str], bool] = lambda _sender, _receiver: False
        self.seen: list[bytes] = []
        self.now = 0.0

    def boots(self, but: str) -> dict[str, bytes | None]:
        return {name: member.boot.id for name, member in self.members.items() if name != but}

    def carry(self, initiator: Member) -> None:
        """Bring requests to members and their replies back, until nothing is under way."""
        while sent := initiator.initiator.outgoing():
            for to, request in sent:
                self.seen.append(request)
                if self.lost(initiator.name, to) or to not in self.members:
                    continue
                reply = self.members[to].responder.receive(request)
                assert reply is not None
                if reply.change is not None:
                    self.members[to].changes.append(reply.change)
                self.seen.append(reply.encoded)
                if not self.lost(to, initiator.name):
                    initiator.initiator.receive(reply.encoded, self.now)

    def run(self, initiator: Member, verb: Verb, key: bytes = b"", **options: object) -> OperationResult:
        """Run an operation to its end."""
        boots = self.boots(initiator.name)
        operation = initiator.initiator.start(verb, key, boots, self.now, **options)  # type: ignore[arg-type]
        self.carry(initiator)
        while (due := initiator.initiator.next_timer()) is not None:
            self.now = max(self.now, due)
            initiator.initiator.handle_timer(self.now)
            self.carry(initiator)
        assert initiator.initiator.finished() == [operation]
        return initiator.initiator.result(operation)


def cluster(count: int = 4) -> Net:
    return Net(*[Member(name) for name in "abcdefgh"[:count]])


def ids(*keys: bytes) -> tuple[str, ...]:
    return tuple(key_id(key) for key in keys)


def request_of(
    author: str,
    receiver: str,
    verb: Verb,
    key: bytes,
    *,
    sequence: int,
    life: int = 1,
    boot: Boot | None = None,
) -> bytes:
    """A request that the author might have sent."""
    operation_id = hashlib.sha256(f"{author} {verb} {sequence}".encode()).digest()[:16]
    fields = (author, boot_of(author, life), sequence, operation_id, verb, key_digest(key))
    order = Order(*fields, Signer(author).sign(Order(*fields).signed_bytes()))
    request = Request(order.encode(), (boot or boot_of(receiver, 1)).id, key)
    return Sealed.seal(
        Kind.REQUEST,
        encode_request(request),
        operation_id=operation_id,
        sender=author,
        receiver=receiver,
        pairwise_key=between(author, receiver),
        nonce=bytes(12),
    ).encode()


def outcome(member: Member, request: bytes) -> Status:
    reply = member.responder.receive(request)
    assert isinstance(reply, Reply)
    return decode_result(decode_sealed(reply.encoded).open(between("a", member.name))).status
