"""Where a request comes from, and what it shows for itself: headers, tokens, origins."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.types import Scope

from node.errors import Forbidden

_LOOPBACK_NAMES: Final = frozenset({"localhost", "ip6-localhost"})


def all_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Every header by its name; one that came twice has both values, so that neither is taken for the one.

    A proxy and this node might choose differently between two tokens, or between two origins.
    """
    found: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def presented_token(headers: dict[str, str]) -> str | None:
    """The presented token; the empty string, which is never valid, for a credential of another kind."""
    authorization = headers.get("authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""
    return headers.get("x-caxton-token")


def require_local(scope: Scope, headers: dict[str, str]) -> None:
    """Let a request without a token pass only from this machine and from no foreign web page.

    A web page whose name was rebound to 127.0.0.1 arrives under its own name in ``Host``; one that posts
    across sites says so in ``Origin``.

    Raises:
        Forbidden: it comes from somewhere else.
    """
    client = scope.get("client")
    host = headers.get("host", "")
    origin = headers.get("origin")
    if (
        client is not None
        and is_loopback(str(client[0]))
        and is_loopback(_hostname(f"//{host}"))
        and (origin is None or _hostname(origin, with_port=True) == _hostname(f"//{host}", with_port=True))
    ):
        return
    raise Forbidden(
        "a request without a token must come from this machine",
        why="the connection, the Host header or the Origin header names another one",
        fix="Send a token, or use http://127.0.0.1.",
    )


def _hostname(url: str, *, with_port: bool = False) -> str:
    try:
        parts = urlsplit(url)
        return parts.netloc.lower() if with_port else (parts.hostname or "")
    except ValueError:
        return ""


def same_origin(origin: str, host: str, *, local: bool) -> bool:
    """Whether a page of this origin may speak with this API.

    Args:
        origin: What the browser says where the page is from.
        host: Under which name the API was asked.
        local: Whether the connection comes from this machine; then pages of this machine may, too.
    """
    if _hostname(origin, with_port=True) == _hostname(f"//{host}", with_port=True) != "":
        return True
    return local and is_loopback(_hostname(origin)) and is_loopback(_hostname(f"//{host}"))


def is_loopback(host: str) -> bool:
    """Whether a name or address is that of this machine to itself."""
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
