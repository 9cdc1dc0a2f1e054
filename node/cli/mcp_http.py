"""Serves an MCP server by HTTP on this machine, to those who show a token.

Everybody on the machine can reach a port of loopback, and so can any page that a browser of it shows: the
first are kept out by the token, the second by the SDK, which checks Host and Origin.
"""

from __future__ import annotations

import hmac
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import click

from node.errors import AddressInUse

Scope = MutableMapping[str, Any]
Asgi = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


async def serve_http(app: Asgi, *, name: str, port: int, variable: str) -> None:
    """Serve on loopback until the process is ended.

    Args:
        app: The SDK's application of the server.
        name: Of the server, for people.
        port: Of 127.0.0.1.
        variable: The environment variable that holds the token; without it one is made, and told.

    Raises:
        AddressInUse: the port is taken.
    """
    from hypercorn.config import Config  # noqa: PLC0415 - only HTTP needs it
    from hypercorn.trio import serve as hypercorn_serve  # noqa: PLC0415

    from node.environment import system_environment  # noqa: PLC0415

    named = os.environ.get(variable)
    token = named or system_environment().randomness.token(24).hex()
    config = Config()
    config.bind = [f"fd://{_listening(port)}"]
    config.loglevel = "WARNING"
    made = "" if named else f", with the token {token}"
    click.echo(f"serving {name} at http://127.0.0.1:{port}/mcp{made}", err=True)
    await hypercorn_serve(guarded(app, token), config)  # type: ignore[arg-type] # its types are stricter than ASGI


def _listening(port: int) -> int:
    """The descriptor of a socket on loopback, which the server takes over.

    Raises:
        AddressInUse: the port is taken.
    """
    bound = socket.socket()
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
    except OSError as error:
        bound.close()
        raise AddressInUse(
            f"port {port} of 127.0.0.1 cannot be used",
            why=error.strerror or "it is taken",
            fix="Choose another.",
        ) from None
    return bound.detach()


def guarded(app: Asgi, token: str) -> Asgi:
    """An application for those who show a token: everybody on the machine can reach the port."""
    expected = f"Bearer {token}".encode()

    async def checked(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            shown = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(shown, expected):
                headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Bearer")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": b"a token is needed\n"})
                return
        await app(scope, receive, send)

    return checked
