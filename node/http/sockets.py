"""``GET /api/v1/ws``: who may open a WebSocket, how many there are, and how each ends."""

from __future__ import annotations

from typing import Any, Final

import trio
from starlette.types import Receive, Scope, Send

from node.errors import CaxtonError, Forbidden, ResourceLimitExceeded
from node.http.errors import RouteNotFound, error_response
from node.http.origin import all_headers, is_loopback, presented_token, require_local, same_origin
from node.http.routes import API
from node.http.services import Caller, NodeServices
from node.http.socket_session import GOING_AWAY, Closed, Session
from node.http.streams import Streams

PATH: Final = f"{API}/ws"
STRANGER_FRAME_BYTES: Final = 4_096
"""Longest frame of a client that has not said who it is."""
STRANGER_LIMIT: Final = 64
"""Most sockets whose client has not said yet who it is."""
CLOSE_S: Final = 1.0
"""Longest time that telling a client why its socket is closed may take, in seconds."""


class Sockets:
    """All WebSockets of this node.

    Args:
        services: The rooms of the node.
        streams: Counts them, among all streams, and ends them when the node stops.
    """

    def __init__(self, services: NodeServices, streams: Streams) -> None:
        self._services, self._streams = services, streams
        self._open = self._strangers = 0
        self._counts = dict.fromkeys(
            ("sockets_refused", "sockets_unauthorized", "sockets_overlong", "sockets_slow"), 0
        )

    def overlong(self) -> None:
        """A frame was longer than it may be, and its socket is being closed."""
        self._counts["sockets_overlong"] += 1

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "sockets": self._open,
            "strangers": self._strangers,
            "strangers_limit": STRANGER_LIMIT,
            **self._counts,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket, or refuse it with an HTTP answer."""
        await receive()  # websocket.connect
        try:
            caller = self._admit(scope)
            with self._streams.open():
                await self._serve(scope, receive, send, caller)
            if self._streams.ending:
                await self._close(send, GOING_AWAY, "the node stops")
        except CaxtonError as error:
            await self._refuse(send, error)

    def _admit(self, scope: Scope) -> Caller | None:
        """Whose token came with the request; None where the client has to say hello first.

        Raises:
            CaxtonError: it may not.
        """
        headers = all_headers(scope["headers"])
        if scope["path"] != PATH:
            raise RouteNotFound("there is no such route", fix=f"The WebSocket is at {PATH}.")
        if scope["http_version"] != "1.1":
            raise Forbidden("a WebSocket is opened with HTTP/1.1 here", fix="Do not use HTTP/2 for it.")
        origin, client = headers.get("origin"), scope.get("client")
        local = client is not None and is_loopback(str(client[0]))
        if origin is not None and not same_origin(origin, headers.get("host", ""), local=local):
            raise Forbidden(
                "a page of another site may not open a WebSocket here",
                why="its Origin is not that of this API",
                fix="Open it from a page of this node or of this machine, or from no page.",
            )
        token = presented_token(headers)
        if token is not None:
            return self._services.tokens.authenticate(token)
        if self._services.tokens.dev_mode:
            require_local(scope, headers)
            return self._services.tokens.authenticate(None)
        if self._strangers >= STRANGER_LIMIT:
            raise ResourceLimitExceeded(
                "too many clients have not said who they are",
                why=f"the limit is {STRANGER_LIMIT}",
                fix="Send the token with the request.",
                details={"retry_after_s": 5},
            )
        return None

    async def _serve(self, scope: Scope, receive: Receive, send: Send, caller: Caller | None) -> None:
        self._open += 1
        stranger = caller is None
        self._strangers += stranger
        connection = scope.get("state", {}).get("connection")
        if connection is not None:
            connection.expect_signs_of_life()
            allowed = connection.frame_limit_bytes
            connection.frame_limit_bytes = STRANGER_FRAME_BYTES if stranger else allowed

        def known() -> None:
            nonlocal stranger
            self._strangers -= stranger
            stranger = False
            if connection is not None:
                connection.frame_limit_bytes = allowed

        try:
            await send({"type": "websocket.accept"})
            session = Session(self._services, caller, receive, send, on_known=known)
            try:
                await session.run()
            except* Closed as group:
                closed = _first(group)
                self._counts[f"sockets_{closed.count}"] += 1
                await self._close(send, closed.code, closed.reason)
        finally:
            self._counts["sockets_slow"] += connection is not None and connection.stalled
            known()
            self._open -= 1

    async def _close(self, send: Send, code: int, reason: str) -> None:
        with trio.CancelScope(shield=True), self._services.environment.clock.move_on_after(CLOSE_S):
            await send({"type": "websocket.close", "code": code, "reason": reason})

    async def _refuse(self, send: Send, error: CaxtonError) -> None:
        self._counts["sockets_unauthorized" if error.status in (401, 403) else "sockets_refused"] += 1
        environment = self._services.environment
        status, headers, body = error_response(
            error, request_id=environment.new_id(), wall_s=environment.clock.wall()
        )
        pairs: list[Any] = [(name.encode(), value.encode()) for name, value in headers.items()]
        pairs.append((b"content-length", str(len(body)).encode()))
        await send({"type": "websocket.http.response.start", "status": status, "headers": pairs})
        await send({"type": "websocket.http.response.body", "body": body})


def _first(group: BaseExceptionGroup[Closed]) -> Closed:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
