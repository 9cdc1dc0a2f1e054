"""A span below a parent, and none where there is no parent: an agent never starts a trace of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from node.telemetry.tracing import Span, Tracing


@contextmanager
def child_span(
    tracing: Tracing,
    name: str,
    parent: str,
    attributes: Mapping[str, str | int | float | bool],
    *,
    kind: str = "internal",
) -> Iterator[Span]:
    """A span below ``parent`` that lasts as long as the block; without a parent nothing is recorded."""
    if not parent:
        yield Span()
        return
    with tracing.span(name, parent=parent, kind=kind, attributes=attributes) as span:
        yield span
