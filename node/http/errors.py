"""How the admin API says no: every refusal is one JSON object with code, what, why and fix."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from node.errors import CaxtonError, ResourceLimitExceeded, Unauthorized, ValidationFailed
from node.message import iso8601
from node.wording import said_of

PROBLEM_LIMIT: Final = 20
"""Most problems of one request that are listed."""
TEXT_LIMIT: Final = 200
"""Longest quotation of the caller's own text, in characters."""


class ClientGone(Exception):
    """The caller hung up before its request was complete."""


class RouteNotFound(CaxtonError):
    """No route of the admin API has this path."""

    code = "ROUTE_NOT_FOUND"
    status = 404


class MethodNotAllowed(CaxtonError):
    """The path exists, but not with this method."""

    code = "METHOD_NOT_ALLOWED"
    status = 405


class RequestTooLarge(CaxtonError):
    """The body of a request is above ``server.request_limit_bytes``."""

    code = "REQUEST_TOO_LARGE"
    status = 413


class RequestTimedOut(CaxtonError):
    """The body of a request did not arrive in time."""

    code = "REQUEST_TIMEOUT"
    status = 408


class UnsupportedMediaType(CaxtonError):
    """The body of a request is not declared as JSON."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


class InternalError(CaxtonError):
    """A bug in Caxton; the log of the node has the details under the request's id."""

    code = "INTERNAL_ERROR"


def as_caxton(error: BaseException) -> CaxtonError | None:
    """The one operating error inside ``error``, or None when it is anything else."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, CaxtonError) else None


def error_response(
    error: CaxtonError, *, request_id: str, wall_s: float
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body that answer a request with ``error``."""
    headers = {"content-type": "application/json"}
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = 'Bearer realm="caxton"'
    if isinstance(error, ResourceLimitExceeded):
        headers["retry-after"] = str(_retry_after(error.details))
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = ", ".join(error.details.get("allowed", []))
    body = error.as_json() | {"timestamp": iso8601(wall_s), "request_id": request_id}
    return error.status, headers, json.dumps(body, default=str).encode()


def facts(error: CaxtonError) -> dict[str, Any]:
    """The inner shape of an error, for answers that hold several."""
    found: dict[str, Any] = error.as_json()["error"]
    return found


def _retry_after(details: Mapping[str, Any]) -> int:
    wanted = details.get("retry_after_s", 1)
    return max(1, math.ceil(wanted)) if isinstance(wanted, int | float) and math.isfinite(wanted) else 1


def validation_failed(problems: Sequence[Mapping[str, Any]], document: object) -> ValidationFailed:
    """Pydantic's list of problems as one of our errors.

    Args:
        problems: What ``ValidationError.errors()`` lists.
        document: The text of the body, to give a syntax error its line and column.
    """
    first = problems[0] if problems else {}
    if first.get("type") == "json_invalid":
        return _not_json(first, document)
    listed = [_problem(problem) for problem in problems[:PROBLEM_LIMIT]]
    guess = next((p["nearest"] for p in listed if p.get("nearest")), None)
    return ValidationFailed(
        "the request is not valid",
        why="; ".join(f"{p['field']}: {p['message']}" if p["field"] else p["message"] for p in listed),
        fix=f"Did you mean {guess!r}?" if guess else "Correct it and send again.",
        details={"field": listed[0]["field"] if listed else "", "problems": listed},
    )


def _problem(problem: Mapping[str, Any]) -> dict[str, Any]:
    place, *path = [str(part)[:TEXT_LIMIT] for part in problem.get("loc", ())] or ["body"]
    context = problem.get("ctx", {})
    if "key" in context:
        path.append(context["key"])
    found: dict[str, Any] = {
        "field": ".".join(path),
        "in": place,
        "type": problem.get("type", "invalid"),
        "message": said_of(problem)[: 2 * TEXT_LIMIT],
    }
    if found["type"] == "missing" and not path:
        found["message"] = "there is no body"
    if context.get("nearest"):
        found["nearest"] = context["nearest"]
    return found


def _not_json(problem: Mapping[str, Any], document: object) -> ValidationFailed:
    loc = problem.get("loc", ("body", 0))
    position = loc[1] if len(loc) > 1 and isinstance(loc[1], int) else 0
    before = document[:position] if isinstance(document, str) else ""
    line, column = before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1
    reason = problem.get("ctx", {}).get("error", "syntax error")
    return ValidationFailed(
        "the body is not valid JSON",
        why=f"{reason} at line {line}, column {column}",
        fix="Correct it and send again.",
        details={"line": line, "column": column, "position": position},
    )
