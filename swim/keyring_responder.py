"""What a member does with an order about its gossip keys: once, and only if its author may give it.

A member carries each order out once, in the author's own sequence, so a repeated or recorded request
changes nothing, and neither does one from before the member's last start: it would have to name
the boot that runs. An answer is made for every genuine request, because answers get lost; a repeated
request gets the first outcome again. Messages: `swim.keyring_messages`.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from swim.keyring_messages import (
    MAX_ERROR_CHARACTERS,
    NONCE_BYTES,
    Kind,
    Order,
    Request,
    Result,
    Sealed,
    Status,
    Verb,
    decode_request,
    decode_sealed,
    encode_result,
)
from swim.lamport import VerifyAuthor
from swim.messages import Boot

MAX_AUTHORS: Final = 256
"""Authors whose latest order a member remembers; the least recent one makes room."""

PairwiseKey = Callable[[str], bytes | None]
"""Returns the 32 bytes that only this member and a peer have, None if there are none."""
Entropy = Callable[[int], bytes]
"""Returns so many cryptographically random bytes."""


class Ring(Protocol):
    """What is needed of `swim.keyring.Keyring`."""

    def add(self, key: bytes) -> None:
        """Accept packets under one more key; raise ValueError if it cannot."""

    def use(self, key: bytes) -> None:
        """Encrypt with a key that was added; raise ValueError if it was not."""

    def remove(self, key: bytes) -> None:
        """Forget a key; raise ValueError if it encrypts."""

    def key_ids(self) -> list[str]:
        """Name the keys; the first encrypts."""


@dataclass(frozen=True, slots=True)
class KeyringChange:
    """What an order has changed in this member's ring, for whoever stores the ring.

    Attributes:
        author: who gave the order.
        verb: what was done.
        key: with which key.
    """

    author: str
    verb: Verb
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a member answers to a request, and what it has changed.

    Attributes:
        to: the author, to whom `encoded` goes.
        encoded: the sealed result.
        change: None if the ring is as before.
    """

    to: str
    encoded: bytes
    change: KeyringChange | None


class KeyringResponder:
    """Carries out, once each, the orders of authors that are allowed to give them.

    Args:
        name: of this member.
        boot: this life of the process.
        ring: the keys.
        pairwise_key: returns the key shared with a peer.
        verify_author: says whether a member's key made a signature.
        is_allowed: says whether a member may order others about.
        entropy: returns so many cryptographically random bytes.
    """

    def __init__(
        self,
        name: str,
        boot: Boot,
        ring: Ring,
        *,
        pairwise_key: PairwiseKey,
        verify_author: VerifyAuthor,
        is_allowed: Callable[[str], bool],
        entropy: Entropy,
    ) -> None:
        self._name = name
        self._boot = boot
        self._ring = ring
        self._pairwise_key = pairwise_key
        self._verify_author = verify_author
        self._is_allowed = is_allowed
        self._entropy = entropy
        self._latest: OrderedDict[str, tuple[tuple[Boot, int, bytes], Status, str]] = OrderedDict()
        self._counts: Counter[str] = Counter({f"keyring_requests_{what}": 0 for what in _REQUESTS})

    def receive(self, encoded: bytes) -> Reply | None:
        """Take a request from anybody; return the reply, None if it deserves none."""
        try:
            sealed = decode_sealed(encoded)
        except ValueError:
            return self._refuse("malformed")
        pairwise_key = self._pairwise_key(sealed.sender)
        if sealed.kind is not Kind.REQUEST or sealed.receiver != self._name or pairwise_key is None:
            return self._refuse("misdirected")
        try:
            body = sealed.open(pairwise_key)
        except ValueError:
            return self._refuse("not_authentic")
        try:
            request, order = decode_request(body)
        except ValueError:
            return self._refuse("malformed")
        if order.author != sealed.sender or order.operation_id != sealed.operation_id:
            return self._refuse("not_authentic")
        if not self._verify_author(order.author, order.signed_bytes(), order.signature):
            return self._refuse("bad_signature")
        self._counts["keyring_requests_taken"] += 1
        status, error, change = self._obey(request, order)
        result = Result(status, error, tuple(self._ring.key_ids()), self._boot.id)
        reply = Sealed.seal(
            Kind.RESULT,
            encode_result(result),
            operation_id=order.operation_id,
            sender=self._name,
            receiver=order.author,
            pairwise_key=pairwise_key,
            nonce=self._entropy(NONCE_BYTES),
        )
        return Reply(order.author, reply.encode(), change)

    def statistics(self) -> dict[str, int]:
        """Count requests by what became of them, and authors that are remembered."""
        return {**self._counts, "keyring_authors": len(self._latest)}

    def _obey(self, request: Request, order: Order) -> tuple[Status, str, KeyringChange | None]:
        """Carry the order out, unless it was before or must not be; return how that went."""
        if not self._is_allowed(order.author):
            return Status.NOT_ALLOWED, f"{order.author} may not change this member's keys", None
        if request.boot_id != self._boot.id:
            return Status.ANOTHER_BOOT, "this member has been restarted", None
        this = (order.boot, order.sequence, order.operation_id)
        latest = self._latest.get(order.author)
        if latest is not None and this == latest[0]:
            self._counts["keyring_requests_repeated"] += 1
            return latest[1], latest[2], None
        if latest is not None and this[:2] <= latest[0][:2]:
            return Status.SUPERSEDED, "a later order of the same author was carried out", None
        error = apply(self._ring, order.verb, request.key)
        status = Status.FAILED if error else Status.DONE
        self._latest[order.author] = (this, status, error)
        self._latest.move_to_end(order.author)
        if len(self._latest) > MAX_AUTHORS:
            self._latest.popitem(last=False)
        if error or order.verb is Verb.LIST:
            return status, error, None
        return status, error, KeyringChange(order.author, order.verb, request.key)

    def _refuse(self, reason: str) -> Reply | None:
        self._counts[f"keyring_requests_{reason}"] += 1
        return None


_REQUESTS: Final = ("taken", "repeated", "malformed", "misdirected", "not_authentic", "bad_signature")


def apply(ring: Ring, verb: Verb, key: bytes) -> str:
    """Do with a ring what a verb says; return why that was impossible, nothing if it was not."""
    try:
        if verb is Verb.INSTALL:
            ring.add(key)
        elif verb is Verb.USE:
            ring.use(key)
        elif verb is Verb.REMOVE:
            ring.remove(key)
    except ValueError as error:
        return str(error)[:MAX_ERROR_CHARACTERS] or "refused"
    return ""
