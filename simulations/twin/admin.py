"""The admin API of a node, reached inside its network namespace, where it listens on loopback alone."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import trio

from node.errors import CaxtonError, NodeUnreachable
from simulations.twin.namespaces import Namespace

PORT: Final = 8080
HOST: Final = "127.0.0.1"
ANSWER_LIMIT_BYTES: Final = 16 * 1024 * 1024
CALLS: Final = 64
"""Calls of one node that are under way at once; more wait."""


class Refused(CaxtonError):
    """A node has said no; carries the node's code."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code: ClassVar[str] = code  # type: ignore[misc]


class Admin:
    """The admin API of one node.

    Args:
        node: Its name.
        namespace: Where it runs.
        token: What it accepts.
    """

    def __init__(self, node: str, namespace: Namespace, token: str) -> None:
        self._node, self._namespace = node, namespace
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self._limiter = trio.CapacityLimiter(CALLS)

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = 10.0
    ) -> dict[str, Any]:
        """Call a route.

        Args:
            method: HTTP method.
            path: Below ``/api/v1``.
            body: JSON object to send.
            timeout_s: How long each step may take.

        Raises:
            NodeUnreachable: nobody answers in time, or not with a JSON object.
            Refused: the node says no.
        """
        data = None if body is None else json.dumps(body)
        return await trio.to_thread.run_sync(
            self._call, method, path, data, timeout_s, limiter=self._limiter, abandon_on_cancel=True
        )

    def _call(self, method: str, path: str, data: str | None, timeout_s: float) -> dict[str, Any]:
        connection = http.client.HTTPConnection(HOST, PORT, timeout=timeout_s)
        try:
            connection.sock = self._namespace.socket()
            connection.sock.settimeout(timeout_s)
            connection.sock.connect((HOST, PORT))
            connection.request(method, f"/api/v1{path}", body=data, headers=self._headers)
            answer = connection.getresponse()
            found = json.loads(answer.read(ANSWER_LIMIT_BYTES))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NodeUnreachable(
                f"the node {self._node} does not answer", why=str(error) or type(error).__name__
            ) from error
        finally:
            connection.close()
        if not isinstance(found, dict):
            raise NodeUnreachable(
                f"the node {self._node} does not answer", why="what it says is no JSON object"
            )
        if answer.status >= 400:
            facts = found.get("error")
            facts = facts if isinstance(facts, dict) else {}
            code = str(facts.get("code", "INTERNAL_ERROR"))
            raise Refused(code, str(facts.get("message", f"status {answer.status}")))
        return found
