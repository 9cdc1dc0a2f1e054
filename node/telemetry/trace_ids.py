"""Trace and span ids drawn from a node's own generator; imported only when tracing is enabled."""

from __future__ import annotations

import random

from opentelemetry.sdk.trace.id_generator import IdGenerator


class DrawnIds(IdGenerator):
    """Ids of one generator, never zero, so that a replayed run has the same traces.

    Args:
        source: The generator; only ever asked on the event loop.
    """

    def __init__(self, source: random.Random) -> None:
        self._source = source

    def generate_span_id(self) -> int:
        """64 bits, not all zero."""
        return self._source.randrange(1, 1 << 64)

    def generate_trace_id(self) -> int:
        """128 bits, not all zero."""
        return self._source.randrange(1, 1 << 128)
