"""Vectors from an endpoint that speaks OpenAI's ``POST /embeddings``, where the configuration names one."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from node.environment import Clock, Workers
from node.errors import EmbeddingFailed
from node.memory.embedding.embedder import EmbeddingModel, Vectors
from node.memory.embedding.engine import Portion, TextRefused

if TYPE_CHECKING:
    import httpx

RUN_TEXTS: Final = 64
RUN_CHARACTERS: Final = 65_536
TEXT_CHARACTERS: Final = 8_192
"""Characters of a text that are sent, the first ones."""
_PORTION: Final = Portion(RUN_TEXTS, RUN_CHARACTERS, TEXT_CHARACTERS)
ATTEMPTS: Final = 3
RETRY_AFTER_LIMIT_S: Final = 10.0
"""The longest wait between two attempts, whatever the endpoint asks for."""
FIRST_WAIT_S: Final = 0.5
BYTES_PER_NUMBER: Final = 32
ANSWER_BYTES_SPARE: Final = 65_536
"""Of an answer, beside its numbers."""
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
_REFUSED: Final = frozenset({400, 413, 422})
"""Statuses that are about a text, and not about the endpoint."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where vectors come from.

    Attributes:
        url: What ``/embeddings`` is appended to, such as ``https://models.example.com/v1``.
        model: The model's name there.
        dimension: Numbers in its vectors.
        api_key: Sent as a bearer token, if there is one.
        timeout_s: For one attempt, from connecting to the end of the answer.
        provider: Who is behind the address: what another one calls by the same name may be another model.
    """

    url: str
    model: str
    dimension: int
    api_key: str = field(default="", repr=False)
    timeout_s: float = 30.0
    provider: str = "openai-compatible"


class HttpEngine:
    """An engine behind an :class:`Endpoint`.

    Args:
        endpoint: Where it is.
        workers: Where answers are read (lane ``model``): a large one would hold up the event loop.
        clock: Waits between attempts.
        transport: For tests.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        workers: Workers,
        clock: Clock,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        said = json.dumps([endpoint.provider, endpoint.model, endpoint.dimension])
        digest = hashlib.sha256(said.encode()).hexdigest()
        self._model = EmbeddingModel(endpoint.model, digest, endpoint.dimension)
        self._endpoint = endpoint
        self._workers = workers
        self._clock = clock
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._counts = {"requests": 0, "failed_requests": 0}

    @property
    def model(self) -> EmbeddingModel:
        """The space of the vectors."""
        return self._model

    @property
    def portion(self) -> Portion:
        """How much one request takes."""
        return _PORTION

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        """Ask for the vectors of ``texts``; blank ones are not sent, and have zeros.

        Raises:
            EmbeddingFailed: the endpoint does not answer, or not with vectors of this model.
            TextRefused: it refuses one of the texts.
        """
        sent = [text for text in texts if text.strip()]
        body = await self._answer(sent) if sent else b'{"data": []}'
        return await self._workers.run("model", self._read, body, texts)

    def statistics(self) -> dict[str, int | float | str]:
        """Counts of requests."""
        return {**self._counts}

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _read(self, body: bytes, texts: Sequence[str]) -> Vectors:
        """The vectors in the body of an answer, zeros for blank texts; blocks."""
        import numpy as np  # noqa: PLC0415 - see node.memory.embedding.embedder

        dimension = self._endpoint.dimension
        rows = np.zeros((len(texts), dimension), np.float32)
        asked = [index for index, text in enumerate(texts) if text.strip()]
        try:
            answer = json.loads(body)["data"]
            found = {int(item["index"]): np.array(item["embedding"], np.float64) for item in answer}
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._failed("its answer is not a list of embeddings") from error
        if sorted(found) != list(range(len(asked))):
            raise self._failed(f"it was asked for {len(asked)} vectors and answered with {len(found)}")
        for position, index in enumerate(asked):
            vector = found[position]
            if vector.shape != (dimension,):
                shape = "x".join(map(str, vector.shape))
                raise self._failed(f"its vectors have {shape} numbers, not {dimension}")
            length = float(np.linalg.norm(vector))
            if not 0 < length < float("inf"):
                raise self._failed("it answered with a vector without a direction")
            rows[index] = vector / length
        return rows

    async def _answer(self, texts: Sequence[str]) -> bytes:
        """The body of a good answer, after some attempts if need be."""
        httpx = await self._workers.run("model", importlib.import_module, "httpx")
        said = {"model": self._endpoint.model, "input": list(texts), "encoding_format": "float"}
        wait_s = FIRST_WAIT_S
        attempt = 1
        while True:
            self._counts["requests"] += 1
            failure, again = self._failed(f"no answer within {self._endpoint.timeout_s:g} s"), True
            with self._clock.move_on_after(self._endpoint.timeout_s):
                try:
                    status, headers, body = await self._post(httpx, said, len(texts))
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    failure = self._failed(f"{type(error).__name__}: {error}")
                    again = isinstance(error, httpx.TransportError)
                else:
                    if status == 200:
                        return body
                    failure = self._refusal(status, body)
                    again = status in _BUSY
                    wait_s = max(wait_s, _seconds(headers.get("retry-after", "")))
            self._counts["failed_requests"] += 1
            if not again or attempt == ATTEMPTS:
                raise failure
            await self._clock.sleep(min(wait_s, RETRY_AFTER_LIMIT_S))
            wait_s *= 2
            attempt += 1

    async def _post(self, httpx: Any, said: Any, count: int) -> tuple[int, Mapping[str, str], bytes]:
        if self._client is None:
            # Proxies and passwords that the process finds around it are not what the configuration asked for.
            self._client = httpx.AsyncClient(
                timeout=self._endpoint.timeout_s, transport=self._transport, trust_env=False
            )
        sent = {"Accept-Encoding": "identity"}  # what is unpacked could be a thousand times what came
        if self._endpoint.api_key:
            sent["Authorization"] = f"Bearer {self._endpoint.api_key}"
        limit = count * self._endpoint.dimension * BYTES_PER_NUMBER + ANSWER_BYTES_SPARE
        address = f"{self._endpoint.url.rstrip('/')}/embeddings"
        async with self._client.stream("POST", address, json=said, headers=sent) as response:
            body = bytearray()
            # Cancelled rather than left: httpx's generators are not closed when they are left half read.
            with trio.CancelScope() as scope:
                async for part in response.aiter_bytes():
                    body += part[: limit + 1 - len(body)]
                    if len(body) > limit:
                        scope.cancel()
            if len(body) > limit:
                raise self._failed(f"its answer has more than {limit} bytes")
            return response.status_code, response.headers, bytes(body)

    def _refusal(self, status: int, body: bytes) -> EmbeddingFailed:
        said = " ".join(body[:300].decode("utf-8", "replace").split())
        kind = TextRefused if status in _REFUSED else EmbeddingFailed
        return self._failed(f"it answered with status {status}: {said}", kind)

    def _failed(self, why: str, kind: type[EmbeddingFailed] = EmbeddingFailed) -> EmbeddingFailed:
        return kind(
            f"the embedding endpoint {self._endpoint.url} gave no vectors",
            why=why,
            fix="Check its address, key, model and dimension, and whether it is up.",
            details={"url": self._endpoint.url, "model": self._endpoint.model},
        )


def _seconds(retry_after: str) -> float:
    """The wait that ``Retry-After`` asks for, if it says so in seconds."""
    try:
        asked = float(retry_after)
    except ValueError:
        return 0.0
    return asked if 0 <= asked < float("inf") else 0.0
