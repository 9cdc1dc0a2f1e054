"""What a node refused, as the same types of errors that the node raised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from node import errors
from node.errors import CaxtonError

_TYPES: Final[Mapping[str, type[CaxtonError]]] = {
    found.code: found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, CaxtonError) and found is not CaxtonError
}


class Refused(CaxtonError):
    """The node answered with an error that has no type of its own here; its ``code`` is the node's."""

    code = "REFUSED"
    status = 502

    def __init__(self, code: str, what: str, *, status: int, **rest: Any) -> None:
        super().__init__(what, **rest)
        self.code = code  # type: ignore[misc]
        self.status = status  # type: ignore[misc]


class TakenOver(CaxtonError):
    """Another client reads the mailbox now, or it was deleted."""

    code = "MAILBOX_TAKEN_OVER"
    status = 409


def error_of(found: object, status: int = 0, retry_after: str | None = None) -> CaxtonError:
    """The error that a node has answered.

    Args:
        found: The ``error`` of the answer, or whatever came instead.
        status: The HTTP status, where there was one.
        retry_after: The header of that name.
    """
    if not isinstance(found, dict) or not isinstance(found.get("code"), str):
        return Refused(
            "REFUSED", f"the node answered {status}", status=status, fix="Is this a node's address?"
        )
    code, details = found["code"], found.get("details")
    given: dict[str, Any] = {
        "why": str(found.get("why") or ""),
        "fix": str(found.get("fix") or ""),
        "details": dict(details) if isinstance(details, dict) else {},
    }
    if retry_after is not None and retry_after.isdecimal():
        given["details"].setdefault("retry_after_s", int(retry_after))
    what = str(found.get("message") or code)
    if code in _TYPES:
        return _TYPES[code](what, **given)
    return Refused(code, what, status=status, **given)
