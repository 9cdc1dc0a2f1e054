"""HTTP on behalf of agents: to named domains only, never to what only this node can reach, all of it bounded.

A request is made hop by hop. For each hop the host must be allowed by the configuration and by the agent's
own file, all its addresses must be public or named by the configuration, and the connection goes to the
address that was judged (:mod:`node.security.outbound`). A redirect is a new hop with the same checks, and
takes neither body nor headers of the caller to another host. What comes back is read and unpacked only as far
as the bound, so that neither an endless answer nor a small one that unpacks without end costs memory.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import SplitResult, urldefrag, urljoin

from node.config.tools import HttpClientConfig
from node.environment import Environment
from node.errors import Forbidden, ToolFailed, ValidationFailed
from node.security.outbound import (
    Pinned,
    domain_allowed,
    is_public,
    is_within,
    plain_address,
    resolve_all,
    split_url,
    target_of,
)
from node.tools.readable import read_page

if TYPE_CHECKING:
    import httpx

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
"""What may be asked for."""
REDIRECTS_LIMIT: Final = 5
"""Most redirects of one call."""
CALL_S: Final = 20.0
"""Longest time of one call with all its redirects, in seconds."""
BODY_LIMIT: Final = 256 * 1024
"""Largest body that is sent, in bytes."""
HEADERS_LIMIT: Final = 20
"""Most headers of a call."""
HEADER_LIMIT: Final = 1_024
"""Longest header that is sent or shown, in characters."""
CHUNK_BYTES: Final = 16_384
"""How much of a body is unpacked at once, in bytes."""
TEXT_LIMIT: Final = 50_000
"""Most characters of one answer."""

_SHOWN: Final = (
    *("cache-control", "content-language", "content-length", "content-type", "date", "etag", "last-modified"),
    *("link", "location", "retry-after", "server", "www-authenticate", "x-ratelimit-remaining"),
)
_NOT_THEIRS: Final = frozenset(
    {
        *("accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "te", "trailer"),
        *("transfer-encoding", "upgrade", "proxy-authorization", "proxy-connection"),
    }
)
"""Headers that belong to the connection, which is not the caller's."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SAFE: Final = ("GET", "HEAD")
_TEXTUAL: Final = ("json", "xml", "yaml", "javascript", "x-www-form-urlencoded", "csv", "markdown", "toml")

Form = Literal["text", "raw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCall:
    """What is asked for.

    Args:
        url: Where to.
        method: One of :data:`METHODS`.
        headers: Additional ones.
        json_body: JSON to send; at most one of both bodies.
        text_body: Text to send.
        form: ``text`` reads HTML as a person would; ``raw`` gives it as it came.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    json_body: Any = None
    text_body: str | None = None
    form: Form = "text"


@dataclass(frozen=True, slots=True)
class _Hop:
    parts: SplitResult
    method: str
    headers: Mapping[str, str]
    body: bytes | None


class HttpClient:
    """Makes the calls of all agents of a node.

    Args:
        environment: Clock and network.
        settings: Where it may go; the calling agent must be allowed to go there, too.
        version: This node's software, as its name for itself.
    """

    def __init__(self, *, environment: Environment, settings: HttpClientConfig, version: str) -> None:
        self._environment, self._settings = environment, settings
        self._agent = f"caxton/{version}"

    async def call(self, call: HttpCall, domains: Collection[str]) -> dict[str, Any]:
        """Make a call and follow its redirects.

        Args:
            call: What is asked for.
            domains: Patterns of the domains that the agent may call.

        Raises:
            ValidationFailed: the call does not have the form it must have.
            Forbidden: it leads to where it must not.
            ToolFailed: nobody answered in time, or not by the rules of HTTP.
        """
        import httpx  # noqa: PLC0415 - 100 ms of import that a node without such tools is spared

        hop = _first_hop(call, self._agent)
        clock = self._environment.clock
        try:
            with clock.move_on_after(CALL_S):
                async with httpx.AsyncClient(
                    trust_env=False,
                    follow_redirects=False,
                    timeout=CALL_S,
                    limits=httpx.Limits(max_keepalive_connections=0),
                ) as http:
                    return await self._follow(http, hop, call.form, domains)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, zlib.error) as error:
            text = f"{type(error).__name__}: {error}".rstrip(": ")
            raise ToolFailed(f"{hop.parts.hostname} could not be called", why=text[:200]) from None
        raise ToolFailed(
            f"{hop.parts.hostname} did not answer in time",
            why=f"it took more than {CALL_S:.0f} s",
            fix="Try again later.",
        )

    async def _follow(
        self, http: httpx.AsyncClient, hop: _Hop, form: Form, domains: Collection[str]
    ) -> dict[str, Any]:
        for redirects in range(REDIRECTS_LIMIT + 1):
            address = await self._judged(hop.parts, domains)
            http.cookies.clear()  # they would go by address, which other hosts may share
            request = Pinned(hop.parts, address).request(
                http, hop.method, headers=hop.headers, content=hop.body
            )
            response = await http.send(request, stream=True)
            try:
                onward = response.headers.get("location") if response.status_code in _REDIRECTS else None
                if onward is None:
                    data, whole = await self._read(response)
                    return _answer(hop, response, data, whole=whole, form=form, redirects=redirects)
                hop = _next_hop(hop, response.status_code, onward)
            finally:
                await response.aclose()
        raise ToolFailed(f"{hop.parts.hostname} redirects without end", why=f"{REDIRECTS_LIMIT} is the most")

    async def _judged(self, parts: SplitResult, domains: Collection[str]) -> str:
        """The address to connect to; every address of the host must be one that may be called.

        Raises:
            Forbidden: the host, or one of its addresses, must not be called.
        """
        host, port = target_of(parts)
        for patterns, who, fix in (
            (self._settings.allowed_domains, "the node", "tools.http_client.allowed_domains"),
            (domains, "the agent", "security.allowed_domains in the agent's file"),
        ):
            if not domain_allowed(host, patterns):
                known = ", ".join(sorted(patterns)[:10]) or "none"
                raise Forbidden(
                    f"{host} must not be called", why=f"{who} may call {known}", fix=f"Add it to {fix}."
                )
        found = await resolve_all(self._environment.network, host, port)
        for address in found:
            ip = plain_address(address)
            if not is_public(ip) and not is_within(ip, self._settings.allowed_networks):
                raise Forbidden(
                    f"{host} leads to {ip}, which is no public address",
                    why="an agent could reach what only this node can",
                    fix="Add its network to tools.http_client.allowed_networks if it is meant.",
                )
        if not found:
            raise ToolFailed(f"{host} has no address")
        return found[0]

    async def _read(self, response: httpx.Response) -> tuple[bytes, bool]:
        """The body as far as it may be read, unpacked, and whether that is all of it."""
        limit = self._settings.max_response_bytes
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise ToolFailed("the answer is packed in a way that was not asked for", why=coding[:80])
        async with _raw(response) as chunks:
            if coding not in ("", "identity"):
                return await _unpacked(chunks, limit)
            data = bytearray()
            async for chunk in chunks:
                data += chunk
                if len(data) > limit:
                    return bytes(data[:limit]), False
            return bytes(data), True


@asynccontextmanager
async def _raw(response: httpx.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body as it comes, which may be left half read.

    The client's own generators, one inside the other, must then be brought to an end: closed, the response
    has nothing more to read, so they end by themselves.
    """
    import httpx  # noqa: PLC0415 - loaded already

    chunks = response.aiter_raw(CHUNK_BYTES)
    try:
        yield chunks
    finally:
        await response.aclose()
        with suppress(httpx.HTTPError, httpx.StreamError):
            async for _ in chunks:
                pass


async def _unpacked(raw: AsyncIterator[bytes], limit: int) -> tuple[bytes, bool]:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # the header tells gzip from zlib
    data = bytearray()
    async for chunk in raw:
        data += unpacker.decompress(chunk, limit + 1 - len(data))
        if len(data) > limit:
            return bytes(data[:limit]), False
    return bytes(data), unpacker.eof or not data  # nothing at all follows a HEAD


def _first_hop(call: HttpCall, agent: str) -> _Hop:
    if call.method not in METHODS:
        raise ValidationFailed(f"{call.method[:20]!r} is no method", fix="Use one of " + ", ".join(METHODS))
    headers = {"user-agent": agent, "accept": "*/*", **_checked_headers(call.headers)}
    headers["accept-encoding"] = "gzip"
    body: bytes | None = None
    if call.json_body is not None and call.text_body is not None:
        raise ValidationFailed("a call has one body", why="both json and text are given")
    if call.json_body is not None:
        body = json.dumps(call.json_body, ensure_ascii=False, allow_nan=False).encode()
        headers.setdefault("content-type", "application/json")
    elif call.text_body is not None:
        body = call.text_body.encode()
        headers.setdefault("content-type", "text/plain; charset=utf-8")
    if body is not None and call.method in _SAFE:
        raise ValidationFailed(f"a {call.method} has no body", fix="Use POST, PUT or PATCH.")
    if body is not None and len(body) > BODY_LIMIT:
        raise ValidationFailed("the body is too large", why=f"at most {BODY_LIMIT:,} bytes are sent")
    return _Hop(_parts(call.url), call.method, headers, body)


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    if len(headers) > HEADERS_LIMIT:
        raise ValidationFailed("too many headers", why=f"at most {HEADERS_LIMIT} are sent")
    checked: dict[str, str] = {}
    for name, value in headers.items():
        plain = name.strip().lower()
        told = name[:80]
        if not plain or not plain.isascii() or not plain.replace("-", "").replace("_", "").isalnum():
            raise ValidationFailed(f"{told!r} is no name of a header")
        if plain in _NOT_THEIRS:
            raise ValidationFailed(f"the header {told!r} cannot be chosen", fix="Leave it out.")
        if len(value) > HEADER_LIMIT or not value.isprintable() or not value.isascii():
            raise ValidationFailed(
                f"the header {told!r} is not valid", why=f"at most {HEADER_LIMIT} printable ASCII characters"
            )
        checked[plain] = value
    return checked


def _parts(url: str) -> SplitResult:
    try:
        return split_url(urldefrag(url.strip()).url)
    except ValueError as error:
        raise ValidationFailed(f"{url[:80]!r} is no URL that can be called", why=str(error)) from None


def _next_hop(hop: _Hop, status: int, location: str) -> _Hop:
    """Where a redirect leads; to another host it takes nothing of the caller's along."""
    try:
        parts = _parts(urljoin(hop.parts.geturl(), location))
    except (ValueError, ValidationFailed):
        raise ToolFailed(f"{hop.parts.hostname} redirects to no URL") from None
    same_host = (parts.scheme, *target_of(parts)) == (hop.parts.scheme, *target_of(hop.parts))
    to_get = hop.method not in _SAFE and (status == 303 or (status in (301, 302) and hop.method == "POST"))
    method = "GET" if to_get else hop.method
    if not same_host and method not in _SAFE:
        raise ToolFailed(
            f"{hop.parts.hostname} redirects to {parts.hostname}",
            why=f"a {method} is not carried to another host",
            fix="Call the other host itself if it is meant.",
        )
    own = ("user-agent", "accept", "accept-encoding")
    dropped = ("content-type",) if to_get else ()
    headers = {k: v for k, v in hop.headers.items() if k in own or (same_host and k not in dropped)}
    return _Hop(parts, method, headers, None if to_get else hop.body)


def _answer(
    hop: _Hop, response: httpx.Response, data: bytes, *, whole: bool, form: Form, redirects: int
) -> dict[str, Any]:
    """The answer as the model sees it."""
    media_type, _, parameters = response.headers.get("content-type", "").partition(";")
    media_type = media_type.strip().lower()
    shown = {k: v[:HEADER_LIMIT] for k, v in response.headers.items() if k in _SHOWN}
    answer: dict[str, Any] = {
        "url": hop.parts.geturl(),
        "status": response.status_code,
        "content_type": media_type,
        "headers": shown,
        "redirects": redirects,
        "bytes": len(data),
    }
    text = _text(data, media_type, parameters)
    if text is None:
        return answer | {"truncated": not whole, "note": "the content is not text and is left out"}
    if media_type.endswith("json") and text and whole and len(text) <= TEXT_LIMIT:
        try:
            return answer | {"json": json.loads(text), "truncated": False}
        except (ValueError, RecursionError):
            answer["note"] = "it says that it is JSON, and is not"
    if form == "text" and media_type in ("text/html", "application/xhtml+xml"):
        page = read_page(text, hop.parts.geturl())
        links = [{"text": link.text, "url": link.url} for link in page.links]
        answer |= {"title": page.title, "links": links}
        text = page.text
    return answer | {"text": text[:TEXT_LIMIT], "truncated": not whole or len(text) > TEXT_LIMIT}


def _text(data: bytes, media_type: str, parameters: str) -> str | None:
    """The content as text, or None where it is none."""
    textual = media_type.startswith("text/") or any(word in media_type for word in _TEXTUAL)
    if not textual and (media_type or b"\x00" in data):
        return None
    _, found, charset = parameters.lower().partition("charset=")
    try:
        return data.decode(charset.strip(" \"';") if found else "utf-8", errors="replace")
    except LookupError:  # an encoding nobody knows
        return data.decode("utf-8", errors="replace")
