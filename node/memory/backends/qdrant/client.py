"""Qdrant's REST interface, as much of it as the memory needs: collections, points, nearest neighbours.

Every request here may be sent twice without harm, so those that a busy or unreachable server has failed are
sent again, a few times. A breaker leaves a server alone that keeps failing, so that searches do not wait
for it one after the other.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from node.breaker import Breaker, BreakerLimits
from node.environment import Environment
from node.errors import MemoryBackendFailed

if TYPE_CHECKING:
    import ssl

    import httpx

ATTEMPTS: Final = 3
"""Requests for the same thing."""
FIRST_WAIT_S: Final = 0.1
"""Pause before the second attempt, in seconds; doubled for each further one."""
ANSWER_BYTES_LIMIT: Final = 4 * 1024**2
"""Largest answer that is read, in bytes."""
BREAKER: Final = BreakerLimits(failures=3, open_s=10.0, probes=1)
"""When a server is left alone."""
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""


@dataclass(frozen=True, slots=True)
class QdrantServer:
    """Where the vectors are.

    Attributes:
        url: Scheme, host and port, such as ``https://vectors.example.org:6333``.
        api_key: Sent as the header ``api-key``, if there is one.
        ca_cert: Certificates to trust in place of the well-known ones.
        timeout_s: For one attempt, from connecting to the end of the answer.
    """

    url: str
    api_key: str = field(default="", repr=False)
    ca_cert: Path | None = None
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Point:
    """One vector on the server.

    Attributes:
        id: The key of the observation's row.
        vector: Its numbers.
        realm: The number of its realm; minus that when the observation no longer holds.
    """

    id: int
    vector: Sequence[float]
    realm: int


class QdrantClient:
    """Speaks with one server.

    Args:
        server: Where it is.
        environment: Time, and workers for what loads slowly.
        transport: For tests.
    """

    def __init__(
        self,
        server: QdrantServer,
        environment: Environment,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._server = server
        self._environment = environment
        self._clock = environment.clock
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._breaker = Breaker(BREAKER)
        self._counts = {"requests": 0, "failed_requests": 0}
        self._opening = trio.Lock()

    async def collections(self) -> list[str]:
        """Names of all collections.

        Raises:
            MemoryBackendFailed: the server does not answer.
        """
        found = await self._ask("GET", "/collections")
        return [str(each["name"]) for each in _of(found, "collections", list)]

    async def dimension(self, collection: str) -> int | None:
        """Numbers in the vectors of a collection, or None when there is none of that name.

        Raises:
            MemoryBackendFailed: the server does not answer, or the collection is none of ours.
        """
        found = await self._ask("GET", f"/collections/{collection}", absent_is_none=True)
        if found is None:
            return None
        try:
            return int(found["config"]["params"]["vectors"]["size"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._failed(f"the collection {collection} has no plain vectors") from error

    async def make(self, collection: str, dimension: int) -> None:
        """Make a collection for vectors that are compared by their cosine.

        Raises:
            MemoryBackendFailed: the server does not answer, or refuses.
        """
        said = {"vectors": {"size": dimension, "distance": "Cosine"}}
        await self._ask("PUT", f"/collections/{collection}", said)
        said_index = {"field_name": "realm", "field_schema": "integer"}
        await self._ask("PUT", f"/collections/{collection}/index?wait=true", said_index)

    async def drop(self, collection: str) -> None:
        """Take a collection out; one that is not there is no error.

        Raises:
            MemoryBackendFailed: the server does not answer.
        """
        await self._ask("DELETE", f"/collections/{collection}", absent_is_none=True)

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Store points; those of the same ids are replaced. On return they are kept and searched.

        Raises:
            MemoryBackendFailed: the server does not answer, or refuses.
        """
        told = [
            {"id": each.id, "vector": list(each.vector), "payload": {"realm": each.realm}} for each in points
        ]
        await self._ask("PUT", f"/collections/{collection}/points?wait=true", {"points": told})

    async def delete(self, collection: str, ids: Sequence[int]) -> None:
        """Take points out; those that are not there are no error.

        Raises:
            MemoryBackendFailed: the server does not answer.
        """
        path = f"/collections/{collection}/points/delete?wait=true"
        await self._ask("POST", path, {"points": list(ids)}, absent_is_none=True)

    async def count(self, collection: str) -> int:
        """How many points a collection has, exactly; 0 for one that is not there.

        Raises:
            MemoryBackendFailed: the server does not answer.
        """
        path = f"/collections/{collection}/points/count"
        found = await self._ask("POST", path, {"exact": True}, absent_is_none=True)
        return 0 if found is None else int(_of(found, "count", int))

    async def nearest(
        self,
        collection: str,
        vector: Sequence[float],
        realms: Sequence[int] | None,
        *,
        past: bool,
        limit: int,
    ) -> list[int] | None:
        """Ids of the points that are nearest to a vector, the nearest first; None without such a collection.

        Args:
            collection: Where to search.
            vector: What is searched for.
            realms: Numbers of the realms that who asks may see; None for all.
            past: Whether what no longer holds is searched, too.
            limit: Most ids.

        Raises:
            MemoryBackendFailed: the server does not answer.
        """
        said: dict[str, Any] = {"query": list(vector), "limit": limit, "with_payload": False}
        must: list[dict[str, Any]] = []
        if realms is not None:
            seen = [*realms, *(-each for each in realms if past)]
            must.append({"key": "realm", "match": {"any": seen}})
        elif not past:
            must.append({"key": "realm", "range": {"gt": 0}})
        if must:
            said["filter"] = {"must": must}
        found = await self._ask(
            "POST", f"/collections/{collection}/points/query", said, absent_is_none=True, once=True
        )
        if found is None:
            return None
        return [int(_of(each, "id", int)) for each in _of(found, "points", list)[:limit]]

    def statistics(self) -> dict[str, Any]:
        """Counts of requests, and whether the server is left alone."""
        return {**self._counts, "breaker": self._breaker.statistics(self._clock.now())}

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _ask(
        self,
        method: str,
        path: str,
        said: Mapping[str, Any] | None = None,
        *,
        absent_is_none: bool = False,
        once: bool = False,
    ) -> Any:
        """What the server answers, after some attempts if need be; who searches makes one."""
        admission = self._breaker.admit(self._clock.now())
        if admission is None:
            raise self._failed("it has failed before and is left alone for a while")
        decided = False
        try:
            status, body = await self._answered(method, path, said, 1 if once else ATTEMPTS)
            decided = True
            self._breaker.succeeded(admission)
        except MemoryBackendFailed:
            decided = True
            self._breaker.failed(admission, self._clock.now())
            raise
        finally:
            if not decided:
                self._breaker.abandoned(admission)
        if status == 404 and absent_is_none:
            return None
        if status != 200:
            told = " ".join(body[:300].decode("utf-8", "replace").split())
            raise self._failed(f"it answered with status {status}: {told}")
        try:
            return json.loads(body)["result"]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise self._failed("its answer is none of Qdrant's") from error

    async def _answered(
        self, method: str, path: str, said: Mapping[str, Any] | None, attempts: int
    ) -> tuple[int, bytes]:
        """Status and body of an answer that says something about the request.

        Raises:
            MemoryBackendFailed: there is none.
        """
        httpx = await self._environment.workers.run("files", importlib.import_module, "httpx")
        wait_s, why = FIRST_WAIT_S, ""
        for attempt in range(attempts):
            if attempt:
                await self._clock.sleep(wait_s)
                wait_s *= 2
            self._counts["requests"] += 1
            why = f"no answer within {self._server.timeout_s:g} s"
            with self._clock.move_on_after(self._server.timeout_s):
                try:
                    status, body = await self._send(httpx, method, path, said)
                except httpx.HTTPError as error:
                    why = f"{type(error).__name__}: {error}"
                else:
                    if status not in _BUSY:
                        return status, body
                    why = f"it answered with status {status}"
            self._counts["failed_requests"] += 1
        raise self._failed(why)

    async def _send(
        self, httpx: Any, method: str, path: str, said: Mapping[str, Any] | None
    ) -> tuple[int, bytes]:
        client = await self._opened(httpx)
        body = bytearray()
        async with client.stream(method, f"{self._server.url}{path}", json=said) as response:
            # Cancelled rather than left: httpx's generators are not closed when they are left half read.
            with trio.CancelScope() as scope:
                async for part in response.aiter_bytes():
                    body += part[: ANSWER_BYTES_LIMIT + 1 - len(body)]
                    if len(body) > ANSWER_BYTES_LIMIT:
                        scope.cancel()
            if len(body) > ANSWER_BYTES_LIMIT:
                raise self._failed(f"its answer has more than {ANSWER_BYTES_LIMIT} bytes")
            return response.status_code, bytes(body)

    async def _opened(self, httpx: Any) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:
                # Proxies and passwords that the process finds around it are not what was configured.
                headers = {"Accept-Encoding": "identity"}
                if self._server.api_key:
                    headers["api-key"] = self._server.api_key
                verify = await self._environment.workers.run("files", _trust, self._server.ca_cert)
                self._client = httpx.AsyncClient(
                    headers=headers,
                    timeout=self._server.timeout_s,
                    transport=self._transport,
                    trust_env=False,
                    verify=verify,
                )
            return self._client

    def _failed(self, why: str) -> MemoryBackendFailed:
        return MemoryBackendFailed(
            f"the Qdrant server {self._server.url} failed",
            why=why,
            fix="Check that it is up, and memory.qdrant: host, port, tls, api_key, ca_cert.",
            details={"url": self._server.url},
        )


def _trust(ca_cert: Path | None) -> ssl.SSLContext:
    """What a server's certificate is held against; blocks."""
    import ssl  # noqa: PLC0415

    return ssl.create_default_context(cafile=None if ca_cert is None else str(ca_cert))


def _of(found: Any, name: str, kind: type) -> Any:
    """A part of an answer, of the type that it must have.

    Raises:
        MemoryBackendFailed: it is not there.
    """
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, kind):
        raise MemoryBackendFailed("the Qdrant server failed", why=f"its answer has no {name}")
    return value
