"""JSON bodies, read without the leniency of Python's own reader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def strict_json(body: bytes) -> Any:
    """Read a JSON text as RFC 8259 has it: UTF-8, no NaN, no lone surrogates, no key twice, bounded depth.

    Raises:
        json.JSONDecodeError: with the position, whatever is wrong.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("not UTF-8", "", error.start) from None
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_object)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("nested too deep", "", 0) from None
    except UnicodeEncodeError:
        raise json.JSONDecodeError("half of a surrogate pair", "", 0) from None
    except ValueError as error:  # a constant or key we refuse, or a number of too many digits
        raise json.JSONDecodeError(str(error)[:200], "", 0) from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return found


class StrictRequest(Request):
    """A request whose body is read by :func:`strict_json`."""

    async def json(self) -> Any:
        """The body; raises json.JSONDecodeError, which FastAPI turns into a validation error."""
        return strict_json(await self.body())


class StrictRoute(APIRoute):
    """A route whose handler gets a :class:`StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind our reader."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await inner(StrictRequest(request.scope, request.receive))

        return handle
