"""A provider behind HTTP: sends one request in a dialect and reads the answer; tries once.

Nothing of it is believed or unbounded: connecting, each silence and the whole answer have their time, the
request and the answer their size, redirects are not followed, compression is not asked for (a small answer
could unpack to any size), proxies of the environment are not used, and the key appears in no error, also
where the provider quotes it.
"""

from __future__ import annotations

import json
import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from node.environment import Clock
from node.errors import ConfigInvalid
from node.llm.bare_calls import bare_call
from node.llm.failures import Kind, RequestFailed, kind_of_status
from node.llm.prices import PriceTable
from node.llm.provider import TOOL_NONE, Completion, CompletionRequest, Delta, OnDelta, Usage
from node.llm.schema import structured_content
from node.llm.wire import Answer, Dialect, Nonsense, StreamReader, Trouble, estimate, parse_json, without_keys
from node.sse import EventReader
from node.telemetry.version import software_version

REQUEST_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Largest request, in bytes."""
ERROR_LIMIT_BYTES: Final = 16 * 1024
"""Most of the answer to a request that failed that is read, in bytes."""
KEPT_CONNECTIONS: Final = 20
"""Most idle connections to one provider that are kept for later."""
ERROR_SHOWN: Final = 300
"""Most characters of it that are quoted."""
RETRY_AFTER_LIMIT_S: Final = 86_400.0
"""Longest wait that a provider is believed to ask for; retries have their own, shorter one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSettings:
    """How a provider is reached.

    Args:
        base_url: Its address, without a slash at the end.
        connect_s: Longest time to connect, in seconds.
        read_s: Longest silence, in seconds.
        total_s: Longest time for a whole answer, in seconds.
        answer_bytes: Largest answer.
        stream: Whether answers are asked for piece by piece.
        ca_cert: Certificates to trust in place of the system's.
        secrets: What no error may show.
    """

    base_url: str
    connect_s: float = 10.0
    read_s: float = 60.0
    total_s: float = 120.0
    answer_bytes: int = 4 * 1024 * 1024
    stream: bool = True
    ca_cert: Path | None = None
    secrets: tuple[str, ...] = ()


class RemoteProvider:
    """A provider that is asked over HTTP.

    Args:
        name: The name it is configured and labelled by.
        dialect: The language it speaks.
        settings: How it is reached.
        prices: What its models cost.
        clock: Bounds the whole answer.

    Raises:
        ConfigInvalid: the certificates cannot be read.
    """

    def __init__(
        self, name: str, dialect: Dialect, settings: RemoteSettings, *, prices: PriceTable, clock: Clock
    ) -> None:
        self.name = name
        self._dialect = dialect
        self._settings = settings
        self._prices = prices
        self._clock = clock
        self._tls = _trusting(settings.ca_cert)
        self._client: httpx.AsyncClient | None = None

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Ask once.

        Raises:
            RequestFailed: no model is named, or it did not answer as it must; says in which way.
        """
        model = self._model_of(request)
        body = json.dumps(self._dialect.body(request, model=model, stream=self._settings.stream)).encode()
        if len(body) > REQUEST_LIMIT_BYTES:
            raise RequestFailed(
                "too_large",
                why=f"the request has {len(body):,} bytes; at most {REQUEST_LIMIT_BYTES:,} are sent",
            )
        asking = _Asking(len(body), on_delta)
        try:
            return await self._translated(request, model, body, asking)
        except RequestFailed as error:
            error.usage, error.shown = asking.spent(), asking.shown
            error.cost_micros = self._prices.cost_micros(error.usage, model) or 0
            raise

    async def aclose(self) -> None:
        """Close its connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _translated(
        self, request: CompletionRequest, model: str, body: bytes, asking: _Asking
    ) -> Completion:
        """Ask, and tell every way to fail in the words of :mod:`node.llm.failures`."""
        try:
            with self._clock.move_on_after(self._settings.total_s):
                answer = await self._ask(model, body, asking)
                return self._completion(request, model, answer, asking)
        except Nonsense as error:
            raise self._failed("malformed", str(error)) from None
        except Trouble as error:
            raise self._failed(error.kind, str(error)) from None
        except httpx.TimeoutException as error:
            connecting = isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout)
            kind: Kind = "unreachable" if connecting else "timeout"
            raise self._failed(kind, f"{type(error).__name__} within its limit") from None
        except httpx.ConnectError as error:
            raise self._failed("unreachable", _reason(error)) from None
        except httpx.HTTPError as error:
            raise self._failed("cut", _reason(error)) from None
        raise self._failed("timeout", f"no whole answer within {self._settings.total_s:g} s")

    def _model_of(self, request: CompletionRequest) -> str:
        model = request.model or self._dialect.default_model
        if not model:
            raise RequestFailed(
                "rejected",
                why=f"no model is named for the provider {self.name!r}",
                fix=f"Set llm.providers.{self.name}.model, or llm.model in the agent file.",
            )
        return model

    async def _ask(self, model: str, body: bytes, asking: _Asking) -> Answer:
        url = self._settings.base_url + self._dialect.path(model)
        headers = self._dialect.headers() | {
            "content-type": "application/json",
            "accept": "text/event-stream" if self._settings.stream else "application/json",
            "accept-encoding": "identity",
        }
        async with _stream(self._opened(), url, headers, body) as response:
            asking.sent = True
            if not response.is_success:
                raise await self._refusal(response)
            if response.headers.get("content-encoding", "identity") != "identity":
                raise Nonsense("it is compressed, which was not asked for")
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "text/event-stream":
                return await self._read_events(response, asking)
            whole = bytearray()
            async with _body(response) as chunks:
                async for chunk in chunks:
                    self._count(chunk, asking)
                    whole += chunk
            answer = self._dialect.read(parse_json(bytes(whole)))
            asking.show(answer.text)
            return answer

    async def _read_events(self, response: httpx.Response, asking: _Asking) -> Answer:
        events, reader = EventReader(), self._dialect.reader()
        asking.reader = reader
        async with _body(response) as chunks:
            async for chunk in chunks:
                self._count(chunk, asking)
                try:
                    found = events.feed(chunk)
                except UnicodeDecodeError:
                    raise Nonsense("it is not UTF-8") from None
                for event in found:
                    asking.show(reader.feed(event))
        if not reader.complete:
            raise RequestFailed("cut", why="the stream ended before the answer was complete")
        return reader.answer()

    def _count(self, chunk: bytes, asking: _Asking) -> None:
        """Hold the body against its limit."""
        asking.received += len(chunk)
        if asking.received > self._settings.answer_bytes:
            raise RequestFailed(
                "too_large", why=f"the answer has more than {self._settings.answer_bytes:,} bytes"
            )

    async def _refusal(self, response: httpx.Response) -> RequestFailed:
        """What an answer that is no success says."""
        status = response.status_code
        kind: Kind = "rejected" if response.is_redirect else kind_of_status(status)
        said = await _beginning(response)
        words = _message_of(said)
        why = f"it answered {status}" + (f": {words[:ERROR_SHOWN]}" if words else "")
        return RequestFailed(
            kind,
            why=self._plain(why),
            fix="Correct the key of the provider." if kind == "unauthorized" else "",
            retry_after_s=_retry_after(response.headers, self._clock.wall()),
            details={"status": status, "provider": self.name},
        )

    def _completion(
        self, request: CompletionRequest, model: str, answer: Answer, asking: _Asking
    ) -> Completion:
        usage = asking.believed(answer)
        offered = request.tools and request.tool_choice != TOOL_NONE and not answer.tool_calls
        bare = bare_call(answer.text, request.tools) if offered else None
        if bare is not None:
            answer = replace(answer, text="", tool_calls=(bare,), stop="tool_calls")
        completion = Completion(
            text=answer.text,
            tool_calls=answer.tool_calls,
            usage=usage,
            finish_reason=answer.stop,
            outcome="refused" if answer.stop == "refusal" and not answer.tool_calls else "answer",
            provider=self.name,
            model=answer.model or model,
            cost_micros=self._prices.cost_micros(usage, answer.model, model),
        )
        if request.response_schema is None or answer.tool_calls or completion.outcome == "refused":
            return completion
        return replace(completion, content=structured_content(answer.text, request.response_schema))

    def _failed(self, kind: Kind, why: str) -> RequestFailed:
        return RequestFailed(kind, why=self._plain(why)[:ERROR_SHOWN], details={"provider": self.name})

    def _plain(self, text: str) -> str:
        return without_keys(text, self._settings.secrets)

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            settings = self._settings
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(settings.read_s, connect=settings.connect_s),
                verify=self._tls(),
                trust_env=False,
                follow_redirects=False,
                limits=httpx.Limits(max_keepalive_connections=KEPT_CONNECTIONS),  # turns are taken outside
                headers={"user-agent": f"caxton/{software_version()}"},
            )
        return self._client


class _Asking:
    """One request under way.

    Args:
        request_bytes: Size of its body.
        on_delta: Is shown the answer.
    """

    def __init__(self, request_bytes: int, on_delta: OnDelta | None) -> None:
        self._request_bytes = request_bytes
        self._on_delta = on_delta
        self._said = 0
        self.sent = self.shown = False
        self.received = 0
        self.reader: StreamReader | None = None

    def show(self, text: str) -> None:
        """Hand on a piece of the answer."""
        self._said += len(text.encode(errors="replace"))
        if text and self._on_delta is not None:
            self.shown = True
            self._on_delta(Delta(text))

    def spent(self) -> Usage:
        """What an attempt that failed has cost, as far as can be told: a prompt is paid once it was read."""
        if self.reader is not None and self.reader.usage is not None:
            return self.reader.usage
        if not self.received:
            return Usage()
        return Usage(estimate(self._request_bytes), estimate(self._said), estimated=True)

    def believed(self, answer: Answer) -> Usage:
        """What the answer has cost: as the provider counts, unless that cannot be."""
        said = len(answer.text) + sum(len(json.dumps(dict(c.arguments))) for c in answer.tool_calls)
        counted = answer.usage
        # Small servers, and streams through some gateways, count nothing, or say 0.
        if counted is not None and counted.input_tokens > 0 and (counted.output_tokens > 0 or not said):
            return counted
        made = counted.output_tokens if counted is not None else 0
        return Usage(estimate(self._request_bytes), max(made, estimate(said)), estimated=True)


@asynccontextmanager
async def _stream(
    client: httpx.AsyncClient, url: str, headers: dict[str, str], body: bytes
) -> AsyncIterator[httpx.Response]:
    try:
        async with client.stream("POST", url, headers=headers, content=body) as response:
            yield response
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise RequestFailed("not_found", why=f"its address is not valid ({type(error).__name__})") from None


@asynccontextmanager
async def _body(response: httpx.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body as it comes; whoever has had enough of it may leave.

    The client's own generators, one inside the other, must then be brought to an end: closed, the response
    has nothing more to read, so they end by themselves.
    """
    chunks = response.aiter_raw()
    try:
        yield chunks
    finally:
        await response.aclose()
        with suppress(httpx.HTTPError):
            async for _ in chunks:
                pass


def _reason(error: BaseException) -> str:
    """The innermost words for what went wrong: a client wraps errors that have none of their own."""
    found: BaseException | None = error
    said = type(error).__name__
    while found is not None:
        if isinstance(found, BaseExceptionGroup):  # one error for each address that was tried
            found = found.exceptions[0]
            continue
        said = str(found) or said
        found = found.__cause__ or found.__context__
    return " ".join(said.split())


async def _beginning(response: httpx.Response) -> bytes:
    """The first bytes of an answer that is not read for its sense."""
    said = b""
    try:
        async with _body(response) as chunks:
            async for chunk in chunks:
                said += chunk
                if len(said) >= ERROR_LIMIT_BYTES:
                    break
    except httpx.HTTPError:
        pass  # the status says enough
    return said[:ERROR_LIMIT_BYTES]


def _message_of(said: bytes) -> str:
    """The message inside an error, whatever its shape; on one line."""
    try:
        found: Any = parse_json(said)
    except Nonsense:
        return ""  # a gateway's page, which says no more than the status
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    if isinstance(found, dict):
        found = found.get("message", "")
    return " ".join(str(found).split()) if isinstance(found, str) else ""


def _retry_after(headers: httpx.Headers, wall_s: float) -> float | None:
    """How long to wait, in seconds: from a number of them, of milliseconds, or from a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return min(max(0.0, seconds), RETRY_AFTER_LIMIT_S)
    try:
        until = parsedate_to_datetime(headers["retry-after"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, until - wall_s), RETRY_AFTER_LIMIT_S)


def _trusting(ca_cert: Path | None) -> Callable[[], ssl.SSLContext]:
    """Makes the TLS context when it is first needed; certificates of one's own are read at once."""
    if ca_cert is None:
        return partial(httpx.create_ssl_context, trust_env=False)
    try:
        context = ssl.create_default_context(cafile=str(ca_cert))
    except (OSError, ssl.SSLError) as error:
        raise ConfigInvalid(
            f"the certificates {str(ca_cert)!r} cannot be read",
            why=str(error),
            fix="Name a file of certificates in PEM form, or remove ca_cert.",
        ) from None
    return lambda: context
