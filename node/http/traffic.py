"""What the admin API counts, for ``GET /status``."""

from __future__ import annotations

from dataclasses import asdict, dataclass


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

    def statistics(self) -> dict[str, int]:
        """All counts by name."""
        return asdict(self)
