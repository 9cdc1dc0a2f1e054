"""What two nodes say to each other about their logs: bodies of the frames Pull and Page.

A request says how much of each log its sender holds. A page says how much its sender holds, and brings signed
stretches that the other does not have, whole, with those of their operations that still hold.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from node.memory.replication.head import (
    DIGEST_BYTES,
    LOG_ID_BYTES,
    LOGS_LIMIT,
    STALLED_LIMIT,
    STRETCH_BYTES,
    STRETCH_OPERATIONS,
)
from node.memory.replication.operations import HASH_BYTES, MAX_BODY_BYTES
from swim.identity import MAX_CREDENTIAL_BYTES, MAX_NAME_CHARACTERS, SIGNATURE_BYTES, is_name

PAGE_BYTES: Final = 128 * 1024
"""Bytes of stretches beyond which a page takes no further one."""
STRETCH_LIMIT_BYTES: Final = MAX_BODY_BYTES + STRETCH_BYTES
"""Most bytes of operations in one stretch. No origin signs more together: a page that passes them on, behind
others and with the headings of all logs, stays within what a link carries."""
PAGE_STRETCHES: Final = 64
"""Most stretches of one page."""
EVERYTHING: Final = 2**53
"""How much of a log is said to be held of which nothing is wanted."""

Node = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
LogId = Annotated[bytes, Meta(min_length=LOG_ID_BYTES, max_length=LOG_ID_BYTES)]
Number = Annotated[int, Meta(ge=0, le=EVERYTHING)]


class Have(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How much of a log is held."""

    node: Node
    log: LogId
    seen: Number


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the sender holds.

    Args:
        have: Of each log, also of those that are left alone; of others nothing.
        wait: Whether the answer shall wait until there is something that the sender does not hold, and then
            only say so.
    """

    have: Annotated[tuple[Have, ...], Meta(max_length=LOGS_LIMIT + STALLED_LIMIT)]
    wait: bool


class Heading(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How much of a log is held, and a digest of what of it holds."""

    node: Node
    log: LogId
    seen: Number
    digest: Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]


class Stretch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed stretch of a log; see :class:`node.memory.replication.proofs.Proof`.

    Args:
        operations: Number and bytes of those that hold.
    """

    node: Node
    log: LogId
    first: Annotated[int, Meta(ge=1, le=EVERYTHING)]
    signed_ms: Number
    credential: Annotated[bytes, Meta(min_length=1, max_length=MAX_CREDENTIAL_BYTES)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
    hashes: Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES * STRETCH_OPERATIONS)]
    operations: Annotated[
        tuple[tuple[int, Annotated[bytes, Meta(min_length=1, max_length=MAX_BODY_BYTES)]], ...],
        Meta(max_length=STRETCH_OPERATIONS),
    ]

    @property
    def last(self) -> int:
        """The number of its last operation."""
        return self.first + len(self.hashes) // HASH_BYTES - 1

    @property
    def operations_bytes(self) -> int:
        """Bytes of its operations."""
        return sum(len(body) for _, body in self.operations)

    @property
    def size_bytes(self) -> int:
        """Bytes of all of it, near enough."""
        return self.operations_bytes + len(self.hashes) + len(self.credential) + len(self.signature)


class Page(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the sender holds, and some of what the other does not."""

    heads: Annotated[tuple[Heading, ...], Meta(max_length=LOGS_LIMIT)]
    stretches: Annotated[tuple[Stretch, ...], Meta(max_length=PAGE_STRETCHES)] = ()


_ENCODER: Final = msgspec.msgpack.Encoder()
_REQUESTS: Final = msgspec.msgpack.Decoder(Request)
_PAGES: Final = msgspec.msgpack.Decoder(Page)
_Told = TypeVar("_Told", Request, Page)


class BodyInvalid(Exception):
    """The bytes are no request, or no page."""


def encode(body: Request | Page) -> bytes:
    """A body as it is sent."""
    return _ENCODER.encode(body)


def decode_request(body: bytes) -> Request:
    """Read a request; total.

    Raises:
        BodyInvalid: it is none.
    """
    return _decode(_REQUESTS, body)


def decode_page(body: bytes) -> Page:
    """Read a page; total. Nothing in it is believed yet.

    Raises:
        BodyInvalid: it is none.
    """
    page = _decode(_PAGES, body)
    for stretch in page.stretches:
        if len(stretch.hashes) % HASH_BYTES or not is_name(stretch.node) or stretch.last > EVERYTHING:
            raise BodyInvalid("a stretch has no form")
        if stretch.operations_bytes > STRETCH_LIMIT_BYTES:
            raise BodyInvalid(f"a stretch has more than {STRETCH_LIMIT_BYTES} bytes")
    if not all(is_name(head.node) for head in page.heads):
        raise BodyInvalid("a log of nobody")
    return page


def _decode(decoder: msgspec.msgpack.Decoder[_Told], body: bytes) -> _Told:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BodyInvalid(str(error)[:200]) from None
