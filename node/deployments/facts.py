"""What each node says of itself in its own map: whether it takes replicas, and what became of each.

``placement/node`` holds the node's labels and whether it takes replicas; a node without it is of a
version that knows no deployments, and gets none. ``replica/AGENT`` says of one deployment which package
the node runs, which it holds, and which it could not run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.deployments.desired import SHORT
from node.errors import ValidationFailed
from node.labels import Labels, check_labels
from swim import strict_cbor
from swim.units import MAX_BUCKET_BYTES

NODE_KEY: Final = "placement/node"
REPLICA_PREFIX: Final = "replica/"
CODE_LIMIT: Final = 40
_HALF: Final = SHORT // 2


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
