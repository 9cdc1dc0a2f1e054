"""What a log is known by, and the bounds of logs that all nodes share."""

from __future__ import annotations

from typing import Final, NamedTuple

LOG_ID_BYTES: Final = 8
DIGEST_BYTES: Final = 16
LOGS_LIMIT: Final = 4_096
"""Most logs, of all nodes that ever were."""
STALLED_LIMIT: Final = 512
"""Most logs that are left alone at one time; of more the first are asked for again."""
STRETCH_OPERATIONS: Final = 256
"""Most operations under one signature."""
STRETCH_BYTES: Final = 128 * 1024
"""Bytes of operations under one signature; a single one may exceed it."""

LogName = tuple[str, bytes]
"""A log: its node, and which one of that node's."""


class Head(NamedTuple):
    """How much of a log is held.

    Args:
        node: Whose.
        log: Which of its logs.
        seen: Everything up to this number was seen.
        digest: Equal where the same operations hold.
    """

    node: str
    log: bytes
    seen: int
    digest: bytes

    @property
    def name(self) -> LogName:
        """Which log it is."""
        return self.node, self.log
