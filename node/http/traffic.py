"""What the admin API counts, for ``GET /status``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from node.errors import ResourceLimitExceeded

WAITING_LIMIT: Final = 256
"""Most requests that wait for a reply at once."""


@dataclass(slots=True)
class Traffic:
    """Counts since the start, and what is held now; the bounds stand where they are enforced.

    Args:
        requests: Requests that arrived.
        refused: Those answered with an operating error.
        failed: Those that met a bug.
        in_flight: Requests being answered now.
        waiting: Those of them that wait for a reply.
        body_bytes: Bytes of request bodies held now.
    """

    requests: int = 0
    refused: int = 0
    failed: int = 0
    in_flight: int = 0
    waiting: int = 0
    body_bytes: int = 0

    @contextmanager
    def wait_for_reply(self) -> Iterator[None]:
        """Count a request among those that wait for a reply.

        Raises:
            ResourceLimitExceeded: :data:`WAITING_LIMIT` do already.
        """
        if self.waiting >= WAITING_LIMIT:
            raise ResourceLimitExceeded(
                "too many requests wait for a reply",
                why=f"the limit is {WAITING_LIMIT}",
                fix="Send without waiting and look the message up, or try again later.",
                details={"retry_after_s": 1},
            )
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def statistics(self) -> dict[str, int]:
        """All counts by name."""
        return asdict(self)
