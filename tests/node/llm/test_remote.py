"""A provider behind a real HTTP server that streams, stalls, cuts, refuses, talks nonsense, and lies."""

from __future__ import annotations

import contextlib
import gzip
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio

from node.config import LlmPrice
from node.errors import ConfigInvalid, ProviderFailed
from node.llm.anthropic import AnthropicDialect
from node.llm.failures import RequestFailed
from node.llm.openai import OpenAiDialect
from node.llm.prices import PriceTable
from node.llm.provider import Completion, CompletionRequest, Delta, Usage
from node.llm.remote import ERROR_LIMIT_BYTES, REQUEST_LIMIT_BYTES, RemoteProvider, RemoteSettings
from tests.node.agents.inline import TestClock
from tests.node.llm.requests import CLOCK, SCHEMA, WEATHER, asked
from tests.node.llm.server import Answer, Server, events, flood, hang_up, head, raw, serving, stall, whole
from tests.node.llm.test_dialects import CALLS, CHUNKS, EVENTS, KEY, MESSAGE, chat, told

PRICES = PriceTable({"gpt-*": LlmPrice(input=2.0, output=8.0, cached_input=0.5, cache_write=2.5)})
SAID = chat({"content": "21 degrees"})


def provider(server: Server, kind: str = "openai", **more: Any) -> RemoteProvider:
    dialect: Any = {"openai": OpenAiDialect, "anthropic": AnthropicDialect}[kind](
        base_url=server.url, api_key=KEY, default_model=more.pop("model", "gpt-x"), headers_given={}
    )
    settings = RemoteSettings(base_url=server.url, secrets=(KEY,), **more)
    return RemoteProvider("main", dialect, settings, prices=PRICES, clock=TestClock())


async def ask(
    *answers: Answer, request: CompletionRequest | None = None, deltas: list[str] | None = None, **more: Any
) -> Completion:
    """Ask a server that gives this answer."""
    async with serving(*answers) as server:
        asking = provider(server, **more)

        def note(delta: Delta) -> None:
            assert deltas is not None
            deltas.append(delta.text)

        found: Completion | RequestFailed
        try:
            found = await asking.complete(request or asked(), on_delta=None if deltas is None else note)
        except RequestFailed as error:
            found = error  # raised below, outside of the server's nursery, which would wrap it
        await asking.aclose()
    if isinstance(found, RequestFailed):
        raise found
    return found


async def failed(*answers: Answer, **more: Any) -> RequestFailed:
    with pytest.raises(RequestFailed) as raised:
        await ask(*answers, **more)
    assert KEY not in str(raised.value) + str(raised.value.details)
    return raised.value


async def test_an_answer_comes_whole_with_its_usage_and_its_cost() -> None:
    async with serving(whole(SAID)) as server:
        asking = provider(server, stream=False)
        completion = await asking.complete(asked())
        await asking.aclose()
    [seen] = server.seen
    assert seen.target == "/chat/completions"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.body["messages"][1] == {"role": "user", "content": "Bern, please."}
    assert (completion.text, completion.provider, completion.model) == ("21 degrees", "main", "gpt-x")
    assert completion.usage == Usage(20, 7, cached_tokens=12, cache_write_tokens=3)
    assert completion.cost_micros == 5 * 2 + 7 * 8 + 6 + 8  # 12 * 0.5, and 3 * 2.5 rounded up


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("openai", events(CHUNKS)), ("anthropic", events(EVENTS, done=False, named=True))],
)
async def test_an_answer_is_streamed_with_parallel_tool_calls(kind: str, answer: Answer) -> None:
    deltas: list[str] = []
    completion = await ask(answer, kind=kind, deltas=deltas, request=asked(tools=(WEATHER, CLOCK)))
    assert deltas == ["Let ", "me see."]
    assert (completion.text, completion.finish_reason) == ("Let me see.", "tool_calls")
    assert told(completion.tool_calls) == CALLS
    assert completion.usage == Usage(20, 7, cached_tokens=12, cache_write_tokens=3)


async def test_a_server_that_does_not_stream_although_asked_is_read_all_the_same() -> None:
    deltas: list[str] = []
    completion = await ask(whole(MESSAGE), kind="anthropic", deltas=deltas)
    assert (completion.text, deltas, completion.cost_micros) == ("Let me see.", ["Let me see."], 80)


async def test_a_model_without_a_price_has_no_cost() -> None:
    assert (await ask(whole(SAID | {"model": "x"}), model="y")).cost_micros is None
    assert (await ask(whole(SAID | {"model": "x"}), model="gpt-y")).cost_micros is not None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "rejected"),
        (401, "unauthorized"),
        (403, "unauthorized"),
        (404, "not_found"),
        (408, "timeout"),
        (409, "conflict"),
        (413, "too_large"),
        (422, "rejected"),
        (429, "rate_limited"),
        (500, "overloaded"),
        (503, "overloaded"),
        (529, "overloaded"),
        (302, "rejected"),
    ],
)
async def test_every_status_is_told_as_what_it_means(status: int, kind: str) -> None:
    error = await failed(whole({"error": {"message": f"no, {KEY}\nis bad"}}, status, "location: http://x/"))
    assert error.kind == kind
    assert error.why == f"it answered {status}: no, [key] is bad"
    assert error.details == {"kind": kind, "status": status, "provider": "main"}
    assert error.usage == Usage()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("retry-after: 7", 7.0),
        ("retry-after-ms: 1500", 1.5),
        ("retry-after: -3", 0.0),
        ("retry-after: 1e99", 86_400.0),
        ("retry-after: nan", None),
        ("retry-after: soon", None),
        ("retry-after: Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("retry-after: Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("x: y", None),
    ],
)
async def test_how_long_to_wait_is_read_in_every_form(header: str, seconds: float | None) -> None:
    assert (await failed(whole({}, 429, header))).retry_after_s == seconds


@pytest.mark.parametrize("body", [b"", b"<html>" * 10_000, b"[]", b'{"error": 3}', b"\xff\xfe"])
async def test_an_error_without_words_is_told_by_its_status(body: bytes) -> None:
    assert (await failed(whole(body, 500))).why == "it answered 500"


async def test_of_an_error_without_end_only_the_beginning_is_read() -> None:
    async def endless(stream: trio.SocketStream) -> None:
        await stream.send_all(head(500, "text/plain"))
        while True:
            await stream.send_all(b"x" * ERROR_LIMIT_BYTES)

    assert (await failed(endless)).kind == "overloaded"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (hang_up, "cut"),
        (events(CHUNKS[:2], done=False), "cut"),
        (raw(head(200, "application/json", "content-length: 900") + b'{"choi'), "cut"),
        (raw(b"\x16\x03\x01\x00\xa5 not HTTP at all\r\n\r\n"), "cut"),
        (whole(b"<html>welcome</html>"), "malformed"),
        (whole(b"\xff\xfe\x00"), "malformed"),
        (whole([1]), "malformed"),
        (whole(gzip.compress(b"{}"), 200, "content-encoding: gzip"), "malformed"),
        (raw(head(200, "text/event-stream") + b"data: {\n\n"), "malformed"),
        (raw(head(200, "text/event-stream") + b"data: \xff\n\n"), "malformed"),
        (events([{"error": {"message": f"limit of {KEY}", "code": 429}}]), "rate_limited"),
        (whole({"error": {"message": "broke", "code": 500}}), "overloaded"),
        (flood, "too_large"),
        (whole(b" " * 200_000), "too_large"),
    ],
)
async def test_every_way_to_break_an_answer_is_told_as_one(answer: Answer, kind: str) -> None:
    assert (await failed(answer, answer_bytes=100_000)).kind == kind


async def test_silence_ends() -> None:
    assert (await failed(stall, read_s=0.05)).kind == "timeout"
    error = await failed(events(CHUNKS[:2], done=False, then="stall"), read_s=0.05)
    assert (error.kind, error.shown) == ("timeout", False)


async def test_a_trickle_ends_at_the_limit_of_the_whole_answer() -> None:
    async def trickle(stream: trio.SocketStream) -> None:
        await stream.send_all(head(200, "text/event-stream"))
        while True:
            await stream.send_all(b": still thinking\n\n")
            await trio.sleep(0.01)  # noqa: TID251 - a real server

    error = await failed(trickle, total_s=0.1)
    assert (error.kind, error.why) == ("timeout", "no whole answer within 0.1 s")


async def test_nobody_there_is_told_as_such() -> None:
    async with serving() as server:
        pass
    asking = provider(server)
    with pytest.raises(RequestFailed) as raised:
        await asking.complete(asked())
    assert raised.value.kind == "unreachable"
    assert "refused" in raised.value.why
    assert "exception" not in raised.value.why


async def test_what_was_shown_of_an_answer_that_broke_off_is_told_with_what_it_cost() -> None:
    deltas: list[str] = []
    error = await failed(events(CHUNKS[:2], done=False), deltas=deltas)
    assert (deltas, error.shown) == (["Let ", "me see."], True)
    assert error.usage.estimated
    assert error.usage.output_tokens == 3  # 11 bytes
    assert error.usage.input_tokens > 10
    assert error.cost_micros == error.usage.input_tokens * 2 + 3 * 8
    counted = await failed(events(EVENTS[:4], done=False), kind="anthropic")
    assert counted.usage == Usage(20, 1, cached_tokens=12, cache_write_tokens=3)
    assert not counted.shown


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 9, "completion_tokens": 0},
        {"prompt_tokens": 10**15, "completion_tokens": 3},
        {"prompt_tokens": -5, "completion_tokens": 3},
    ],
)
async def test_usage_that_is_a_lie_is_estimated_instead(usage: object) -> None:
    completion = await ask(whole(SAID | {"usage": usage}))
    assert completion.usage.estimated
    assert completion.usage.input_tokens > 10
    assert completion.usage.output_tokens == 3  # 10 bytes


async def test_an_answer_by_a_schema_is_read_and_held_against_it() -> None:
    request = asked(response_schema=SCHEMA)
    completion = await ask(whole(chat({"content": '{"high": 21}'})), request=request)
    assert completion.content == {"high": 21}
    for content, reason in (
        ('{"high": "warm"}', "high: 'warm' is not of type 'integer'"),
        ('{"high": 21, "low": 3}', "Additional properties"),
        ("warm", "not JSON"),
        ("NaN", "not JSON"),
    ):
        error = await failed(whole(chat({"content": content})), request=request)
        assert (error.kind, error.answer) == ("unfollowed", content)
        assert reason in error.why


async def test_a_refusal_is_an_outcome_and_no_failure() -> None:
    completion = await ask(whole(chat({"content": None, "refusal": "I must not."})))
    assert (completion.outcome, completion.text, completion.finish_reason) == (
        "refused",
        "I must not.",
        "refusal",
    )


async def test_a_request_without_a_model_or_beyond_its_limit_is_not_sent() -> None:
    async with serving() as server:
        with pytest.raises(ProviderFailed, match=r"llm\.providers\.main\.model"):
            await provider(server, model="").complete(asked())
        long = asked(response_schema={"description": "x" * REQUEST_LIMIT_BYTES})
        with pytest.raises(RequestFailed, match="too large"):
            await provider(server).complete(long)
    assert server.seen == []


async def test_the_model_of_the_request_wins() -> None:
    async with serving(whole(SAID)) as server:
        asking = provider(server)
        await asking.complete(asked(model="gpt-z"))
        await asking.aclose()
    assert server.seen[0].body["model"] == "gpt-z"


def test_certificates_are_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    server = Server(url="https://127.0.0.1:9")
    with pytest.raises(ConfigInvalid, match="certificates"):
        provider(server, ca_cert=path)
    with pytest.raises(ConfigInvalid, match="certificates"):
        provider(server, ca_cert=tmp_path / "none.pem")


async def test_a_certificate_that_nobody_vouches_for_is_not_accepted(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*_self_signed(tmp_path))
    async with trio.open_nursery() as nursery:

        async def shake(stream: trio.SocketStream) -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await trio.SSLStream(stream, context, server_side=True).do_handshake()

        listeners = await nursery.start(trio.serve_tcp, shake, 0)
        port = listeners[0].socket.getsockname()[1]
        asking = provider(Server(url=f"https://127.0.0.1:{port}"))
        with pytest.raises(RequestFailed) as raised:
            await asking.complete(asked())
        assert raised.value.kind == "unreachable"
        assert "certificate" in raised.value.why.lower()
        nursery.cancel_scope.cancel()


def _self_signed(directory: Path) -> tuple[Path, Path]:
    import datetime as dt  # noqa: PLC0415
    import ipaddress  # noqa: PLC0415

    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start.replace(year=2100))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    paths = directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths
