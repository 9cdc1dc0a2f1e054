"""A span below a parent, and none where there is no parent: an agent never starts a trace of its own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from node.telemetry.tracing import Span, Tracing

_NONE: Final = Span()


def child_span(
    tracing: Tracing,
    name: str,
    parent: str,
    attributes: Mapping[str, str | int | float | bool],
    *,
    kind: str = "internal",
) -> AbstractContextManager[Span]:
    """A span below ``parent`` that lasts as long as the block; without a parent nothing is recorded."""
    if not parent:
        return _NONE
    return tracing.span(name, parent=parent, kind=kind, attributes=attributes)
