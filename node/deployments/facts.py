"""What each node says of itself in its own map: whether it takes replicas, and what became of each.

``placement/node`` holds the node's labels and whether it takes replicas; a node without it is of a
version that knows no deployments, and gets none. ``replica/AGENT`` says of one deployment which package
the node runs, which it holds, and which it could not run. ``handover/AGENT`` offers what an agent has
remembered for itself on that node to another, and ``taken/AGENT/NODE`` says that it was taken
(:mod:`node.deployments.handover`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.deployments.desired import SHORT
from node.errors import ValidationFailed
from node.labels import Labels, check_labels
from node.message import BLOB_LIMIT_BYTES
from swim import strict_cbor
from swim.units import MAX_BUCKET_BYTES

NODE_KEY: Final = "placement/node"
REPLICA_PREFIX: Final = "replica/"
HANDOVER_PREFIX: Final = "handover/"
TAKEN_PREFIX: Final = "taken/"
CODE_LIMIT: Final = 40
_HALF: Final = SHORT // 2
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node says of itself.

    Args:
        labels: What deployments may require of it.
        takes: Whether it takes replicas: not where that is switched off, and not while the node ends.
    """

    labels: Labels = ()
    takes: bool = True

    def encode(self) -> bytes:
        """The value of the entry."""
        return strict_cbor.encode([[list(label) for label in self.labels], self.takes])


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one deployment on one node; packages by the beginning of their digest, empty for none.

    Args:
        runs: The package that it runs.
        holds: The package that it has, and gives to others.
        failed: The package that it could not run.
        code: Why: the code of the error.
    """

    runs: str = ""
    holds: str = ""
    failed: str = ""
    code: str = ""

    def encode(self) -> bytes:
        """The value of the entry."""
        digests = [bytes.fromhex(digest) for digest in (self.runs, self.holds, self.failed)]
        return strict_cbor.encode([*digests, self.code])


@dataclass(frozen=True, slots=True)
class Offer:
    """A memory that a node gives away.

    Args:
        taker: The node that it is for.
        digest: SHA-256 of the list of its parts.
        size: Of the list in bytes.
    """

    taker: str
    digest: str
    size: int

    def encode(self) -> bytes:
        """The value of the entry."""
        return strict_cbor.encode([self.taker, bytes.fromhex(self.digest), self.size])


def decode_offer(value: bytes) -> Offer | None:
    """What a node offers; None where it is not well-formed."""
    try:
        taker, digest, size = strict_cbor.decode(value, max_bytes=MAX_BUCKET_BYTES)
    except (ValueError, TypeError):
        return None
    if type(taker) is not str or type(digest) is not bytes or len(digest) != _DIGEST_BYTES:
        return None
    return Offer(taker, digest.hex(), size) if type(size) is int and 0 < size <= BLOB_LIMIT_BYTES else None


def encode_taken(digest: str) -> bytes:
    """The value of an entry that says what was taken."""
    return strict_cbor.encode(bytes.fromhex(digest))


def decode_taken(value: bytes) -> str:
    """The list that was taken; empty where it is not well-formed."""
    try:
        digest = strict_cbor.decode(value, max_bytes=MAX_BUCKET_BYTES)
    except ValueError:
        return ""
    return digest.hex() if type(digest) is bytes and len(digest) == _DIGEST_BYTES else ""


def decode_facts(value: bytes) -> NodeFacts | None:
    """What a node says of itself; None where it is not well-formed."""
    try:
        labels, takes = strict_cbor.decode(value, max_bytes=MAX_BUCKET_BYTES)
        return NodeFacts(check_labels(labels), takes) if type(takes) is bool else None
    except (ValueError, TypeError, ValidationFailed):
        return None


def decode_report(value: bytes) -> Report | None:
    """What a node says of one deployment; None where it is not well-formed."""
    try:
        *digests, code = strict_cbor.decode(value, max_bytes=MAX_BUCKET_BYTES)
    except (ValueError, TypeError):
        return None
    if len(digests) != 3 or not all(type(d) is bytes and len(d) in (0, _HALF) for d in digests):
        return None
    if type(code) is not str or len(code) > CODE_LIMIT or not code.isascii() or not code.isprintable():
        return None
    runs, holds, failed = (digest.hex() for digest in digests)
    return Report(runs, holds, failed, code)
