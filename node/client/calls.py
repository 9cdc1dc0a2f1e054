"""Calls of a node's API: tried again where that is safe, measured, and with the trace that they belong to.

Every call is made so that it may be repeated: messages have an id of the client's own, which a node accepts
once. So what fails on the way is tried again, after a pause that doubles, and where the node has said when to
come again (``Retry-After``), after that.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import httpx
from opentelemetry import metrics, propagate

from node.client.failures import Refused, error_of
from node.errors import CaxtonError, NodeUnreachable

API: Final = "/api/v1"
OnMetric = Callable[[str, float, Mapping[str, str]], None]
"""Told name, value and attributes of each measurement."""
DURATION: Final = "caxton.client.duration"
"""Histogram: seconds that one attempt of a call took, by method, route and outcome."""
RETRIES: Final = "caxton.client.retries"
"""Counter: attempts that were repeated, by method, route and outcome."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and after which pauses, a call is tried again.

    Args:
        attempts: Most attempts of one call; 1 for no repetition.
        first_s: The first pause in seconds; it doubles, and jitter takes or adds a quarter.
        last_s: The longest pause, also where the node asks for more.
        statuses: The HTTP statuses after which a call is repeated.
    """

    attempts: int = 5
    first_s: float = 0.1
    last_s: float = 30.0
    statuses: frozenset[int] = frozenset({429, 503, 507})

    def pause_s(self, attempt: int, asked_s: float | None, chance: random.Random) -> float:
        """Seconds before the attempt after this one."""
        if asked_s is not None:
            return min(self.last_s, asked_s) * (1.0 + 0.1 * chance.random())
        pause_s = min(self.last_s, self.first_s * 2.0 ** min(attempt - 1, 16))
        return pause_s * (0.75 + 0.5 * chance.random())


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node has answered.

    Args:
        status: The HTTP status.
        body: The JSON, or the bytes of a file.
        repeated: Whether an earlier attempt may have got through.
    """

    status: int
    body: Any
    repeated: bool


@dataclass(slots=True)
class Meters:
    """Where measurements go: to OpenTelemetry's meter, and to the application's own function."""

    on_metric: OnMetric | None = None
    meter: metrics.Meter = field(default_factory=lambda: metrics.get_meter("caxton.client"))
    _duration: metrics.Histogram = field(init=False)
    _retries: metrics.Counter = field(init=False)

    def __post_init__(self) -> None:
        self._duration = self.meter.create_histogram(DURATION, "s", "Time of one attempt of a call.")
        self._retries = self.meter.create_counter(RETRIES, "1", "Attempts that were repeated.")

    def attempt(self, seconds: float, attributes: Mapping[str, str]) -> None:
        """An attempt has ended."""
        self._duration.record(seconds, attributes)
        if self.on_metric is not None:
            self.on_metric(DURATION, seconds, attributes)

    def retry(self, attributes: Mapping[str, str]) -> None:
        """It is repeated."""
        self._retries.add(1, attributes)
        if self.on_metric is not None:
            self.on_metric(RETRIES, 1, attributes)


class Calls:
    """See the module's docstring.

    Args:
        url: The node's address, as ``http://127.0.0.1:8080``.
        token: Bearer token, if any.
        timeout_s: Longest time that an answer may take, beyond what the node is asked to wait.
        retries: How often calls are repeated.
        meters: Where measurements go.
        transport: How requests are made; by default over the network.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        timeout_s: float,
        retries: Retries,
        meters: Meters,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self.url, self.retries, self.chance = url, retries, random.Random()  # noqa: S311 - jitter
        self._meters, self._timeout_s = meters, timeout_s
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/") + API,
            headers=headers,
            timeout=timeout_s,
            trust_env=False,
            transport=transport,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        route: str | None = None,
        body: Any = None,
        content: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        wait_s: float = 0.0,
    ) -> Answer:
        """Call a route, and again where that may help.

        Args:
            method: HTTP method.
            path: Below the API.
            route: The path with its parameters' names, for measurements.
            body: JSON to send.
            content: Bytes to send instead.
            query: Parameters; those that are None are left out.
            wait_s: How long the node was asked to wait.

        Raises:
            CaxtonError: the node refused, by the type of its code.
            NodeUnreachable: no attempt was answered.
        """
        attributes = {"method": method, "route": route or path}
        given = {key: value for key, value in (query or {}).items() if value is not None}
        attempt, unsure = 1, False
        while True:
            began, error, asked_s = time.monotonic(), None, None
            try:
                response = await self._http.request(
                    method,
                    path,
                    json=body,
                    content=content,
                    params=given,
                    headers=traced(),
                    timeout=httpx.Timeout(self._timeout_s, read=self._timeout_s + wait_s),
                )
                status, outcome = response.status_code, str(response.status_code)
                if status < 400:
                    self._meters.attempt(time.monotonic() - began, attributes | {"outcome": outcome})
                    return Answer(status, _body(response), unsure)
                error = _refusal(response)
                asked = error.details.get("retry_after_s") if status == 429 else None
                asked_s = float(asked) if isinstance(asked, int | float) else None
            except (httpx.TransportError, json.JSONDecodeError) as broken:
                status, outcome = 0, type(broken).__name__
                error = unreachable(self._http.base_url, broken)
                unsure = True
            measured = attributes | {"outcome": outcome}
            self._meters.attempt(time.monotonic() - began, measured)
            if (status and status not in self.retries.statuses) or attempt >= self.retries.attempts:
                if unsure:
                    error.details.setdefault("unsure", True)
                raise error
            self._meters.retry(measured)
            await anyio.sleep(self.retries.pause_s(attempt, asked_s, self.chance))
            attempt += 1

    @asynccontextmanager
    async def events(
        self, path: str, query: Mapping[str, Any], silence_s: float, *, body: Any = None
    ) -> AsyncIterator[AsyncIterator[tuple[str, str, Any]]]:
        """Server-sent events of a route, one attempt: name, id and data of each.

        Args:
            path: Below the API.
            query: Parameters.
            silence_s: Longest time without a byte, in seconds.
            body: JSON to post; nothing is posted without it.

        Raises:
            CaxtonError: the node refused.
            httpx.TransportError: the connection ended.
        """
        timeout = httpx.Timeout(self._timeout_s, read=silence_s)
        async with self._http.stream(
            "GET" if body is None else "POST",
            path,
            params=dict(query),
            json=body,
            headers=traced(),
            timeout=timeout,
        ) as response:
            if response.status_code >= 400:
                await response.aread()
                raise _refusal(response)
            lines = response.aiter_lines()
            try:
                async with aclosing(_events(lines)) as found:
                    yield found
            finally:
                await _finish(response, lines)


def _body(response: httpx.Response) -> Any:
    if response.headers.get("content-type") == "application/octet-stream":
        return response.content
    return response.json() if response.content else None


def traced() -> dict[str, str]:
    """Headers that carry the trace which is current where the call is made."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


def unreachable(url: object, error: Exception) -> NodeUnreachable:
    """A node that did not answer."""
    return NodeUnreachable(
        f"the node at {url} did not answer",
        why=f"{type(error).__name__}: {error}".rstrip(": "),
        fix="Does it run, and is this its address?",
    )


def _refusal(response: httpx.Response) -> CaxtonError:
    try:
        found = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        found = None
    inner = found.get("error") if isinstance(found, dict) else None
    error = error_of(inner, response.status_code, response.headers.get("retry-after"))
    if isinstance(error, Refused):
        return error
    error.details.setdefault("request_id", response.headers.get("x-request-id"))
    return error


async def _events(lines: AsyncIterator[str]) -> AsyncGenerator[tuple[str, str, Any], None]:
    fields: dict[str, str] = {}
    async for line in lines:
        name, colon, value = line.partition(":")
        if colon and name:
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            yield fields.get("event", "message"), fields.get("id", ""), json.loads(fields["data"])
            fields = {}


async def _finish(response: httpx.Response, lines: AsyncIterator[str]) -> None:
    """End a stream that was not read to its end.

    The generators inside of it end by reading on, which fails at once: none is left for the garbage
    collector, which could not wait for it.
    """
    with anyio.CancelScope(shield=True):
        await response.aclose()
        with suppress(httpx.HTTPError, httpx.StreamError):
            async for _ in lines:
                pass
