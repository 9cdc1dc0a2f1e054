"""What agents call by HTTP: only where both the node and the agent allow it, never inwards, and bounded."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
import trio.testing

from node.config.tools import HttpClientConfig
from node.errors import Forbidden, ToolFailed, ValidationFailed
from node.security.outbound import domain_allowed
from node.tools import http_client
from node.tools.builtin_servers import builtin_servers
from node.tools.caller import Caller
from node.tools.http_client import CALL_S, REDIRECTS_LIMIT, TEXT_LIMIT, HttpCall, HttpClient
from tests.node.tools.web import Names, environment_with, page, redirect, web

HERE = [["127.0.0.1"]]
OPEN = ("site.example", "other.example")
LOOPBACK = HttpClientConfig(allowed_domains=("*.example",), allowed_networks=("127.0.0.0/8",))


def client(names: Names | None = None, settings: HttpClientConfig = LOOPBACK) -> HttpClient:
    names = names or Names(site=HERE, other=HERE)
    return HttpClient(environment=environment_with(names), settings=settings, version="1")


async def get(url: str, **more: Any) -> dict[str, Any]:
    return await client().call(HttpCall(url=url, **more), OPEN)


@pytest.mark.parametrize(
    ("host", "patterns", "allowed"),
    [
        ("example.org", ("example.org",), True),
        ("Example.ORG.", ("example.org",), True),
        ("a.b.example.org", ("*.example.org",), True),
        ("example.org", ("*.example.org",), False),
        ("evilexample.org", ("*.example.org", "example.org"), False),
        ("example.org.evil.net", ("example.org", "*.example.org"), False),
        ("anything.net", ("*",), True),
        ("example.org", (), False),
    ],
)
def test_a_pattern_covers_what_it_says(host: str, patterns: tuple[str, ...], allowed: bool) -> None:
    assert domain_allowed(host, patterns) is allowed


@pytest.mark.parametrize(
    ("node", "agent", "who"),
    [((), ("site.example",), "the node"), (("site.example",), (), "the agent"), ((), (), "the node")],
)
async def test_both_the_node_and_the_agent_must_allow_a_domain(
    node: tuple[str, ...], agent: tuple[str, ...], who: str
) -> None:
    names = Names(site=HERE)
    settings = HttpClientConfig(allowed_domains=node, allowed_networks=("127.0.0.0/8",))
    with pytest.raises(Forbidden) as caught:
        await client(names, settings).call(HttpCall(url="http://site.example/"), agent)
    assert caught.value.why.startswith(who)
    assert names.asked == []  # what is not allowed is not even looked up


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1"])
async def test_no_domain_leads_to_an_address_that_is_not_public(address: str) -> None:
    anywhere = HttpClientConfig(allowed_domains=("*",))
    names = Names(site=[["93.184.216.34", address]])
    with pytest.raises(Forbidden, match="no public address"):
        await client(names, anywhere).call(HttpCall(url="http://site.example/"), ("*",))


async def test_the_connection_goes_to_the_address_that_was_judged() -> None:
    names = Names(site=[["127.0.0.1"], ["10.0.0.1"]])  # a second look-up would lead elsewhere
    async with web(hello=page(b"hello")) as site:
        answer = await client(names).call(HttpCall(url=site.url("/hello")), OPEN)
        assert answer["text"] == "hello"
        assert site.seen[0].headers["host"] == f"site.example:{site.port}"
        assert names.asked == ["site.example"]


async def test_html_is_read_as_a_person_would_and_json_as_json() -> None:
    html = (
        b"<html><head><title> Tea  shop</title><style>p{}</style></head><body><h1>Teas</h1>"
        b"<script>alert('x')</script><p>Green &amp; black.<p><a href='/more'>More <b>teas</b></a>"
        b"<a href='javascript:x()'>no</a></body></html>"
    )
    async with web(
        html=page(html, "text/html; charset=utf-8"), json=page(b'{"a": [1]}', "application/json")
    ) as site:
        answer = await get(site.url("/html"))
        assert (answer["title"], answer["text"]) == ("Tea shop", "Teas\n\nGreen & black.\nMore teasno")
        assert answer["links"] == [{"text": "More teas", "url": site.url("/more")}]
        assert (await get(site.url("/html"), form="raw"))["text"] == html.decode()
        answer = await get(site.url("/json"))
        assert (answer["json"], answer["status"], answer["truncated"]) == ({"a": [1]}, 200, False)
        assert "text" not in answer


async def test_what_is_not_text_is_counted_and_left_out() -> None:
    async with web(
        png=page(b"\x89PNG\x00", "image/png"), odd=page(b"a\xff", "text/plain; charset=klingon")
    ) as site:
        answer = await get(site.url("/png"))
        assert (answer["bytes"], "text" in answer, "json" in answer) == (5, False, False)
        assert (await get(site.url("/odd")))["text"] == "a\N{REPLACEMENT CHARACTER}"


async def test_a_body_and_headers_are_sent_as_they_are_given() -> None:
    async with web(api=page(b"{}", "application/json", 201)) as site:
        answer = await get(site.url("/api"), method="POST", json_body={"ä": 1}, headers={"X-Key": "k"})
        assert answer["status"] == 201
        [seen] = site.seen
        assert (seen.method, seen.body) == ("POST", '{"ä": 1}'.encode())
        assert (seen.headers["x-key"], seen.headers["content-type"]) == ("k", "application/json")


@pytest.mark.parametrize(
    "call",
    [
        {"url": "ftp://site.example/"},
        {"url": "http://user:secret@site.example/"},
        {"url": "http://site.example:0/"},
        {"url": "http://site.example/a b"},
        {"url": "http://[::1"},
        {"url": "http://site.example/", "method": "TRACE"},
        {"url": "http://site.example/", "text_body": "x"},
        {"url": "http://site.example/", "method": "POST", "text_body": "x", "json_body": 1},
        {"url": "http://site.example/", "method": "POST", "text_body": "x" * (256 * 1024 + 1)},
        {"url": "http://site.example/", "headers": {"Host": "other.example"}},
        {"url": "http://site.example/", "headers": {"x-a": "1\r\nx-b: 2"}},
        {"url": "http://site.example/", "headers": {"x a": "1"}},
        {"url": "http://site.example/", "headers": {f"x-{n}": "1" for n in range(21)}},
    ],
)
async def test_a_call_without_the_right_form_is_not_made(call: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed):
        await get(**call)


async def test_a_redirect_is_judged_like_a_call() -> None:
    names = Names(site=HERE, other=HERE, inner=[["10.0.0.1"]])
    async with web(hello=page(b"hello")) as site:
        site.pages |= {
            "/ok": redirect("/hello#part"),
            "/stranger": redirect("http://stranger.net/"),
            "/inner": redirect("http://inner.example/"),
            "/file": redirect("file:///etc/passwd"),
            "/loop": redirect("/loop"),
        }
        answer = await client(names).call(HttpCall(url=site.url("/ok")), OPEN)
        assert (answer["text"], answer["redirects"], answer["url"]) == ("hello", 1, site.url("/hello"))
        for path, error in (("/stranger", "must not"), ("/inner", "no public"), ("/file", "no URL")):
            with pytest.raises((Forbidden, ToolFailed), match=error):
                await client(names).call(HttpCall(url=site.url(path)), (*OPEN, "inner.example"))
        asked = len(site.seen)
        with pytest.raises(ToolFailed, match="without end"):
            await client(names).call(HttpCall(url=site.url("/loop")), OPEN)
        assert len(site.seen) - asked == REDIRECTS_LIMIT + 1


async def test_a_redirect_takes_nothing_of_the_callers_to_another_host() -> None:
    async with web(hello=page(b"hello")) as site:
        there = site.url("/hello", "other.example")
        site.pages |= {
            "/other": redirect(there),
            "/kept": redirect(there, 307),
            "/same": redirect("/hello", 307),
        }
        key = {"authorization": "secret"}
        await get(site.url("/other"), method="POST", text_body="body", headers=key)
        assert (site.seen[-1].method, site.seen[-1].body) == ("GET", b"")
        assert "authorization" not in site.seen[-1].headers
        for method, path in (("POST", "/kept"), ("DELETE", "/kept"), ("PUT", "/other")):
            with pytest.raises(ToolFailed, match=r"redirects to other\.example"):
                await get(site.url(path), method=method)
        await get(site.url("/same"), method="POST", text_body="body", headers=key)
        assert (site.seen[-1].method, site.seen[-1].body) == ("POST", b"body")
        assert site.seen[-1].headers["authorization"] == "secret"


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "POST", "GET"),
        (302, "PUT", "PUT"),
        (303, "DELETE", "GET"),
        (307, "POST", "POST"),
        (308, "DELETE", "DELETE"),
        (302, "HEAD", "HEAD"),
    ],
)
async def test_a_redirect_keeps_or_changes_the_method_as_http_says(
    status: int, method: str, then: str
) -> None:
    async with web(hello=page(b""), there=redirect("/hello", status)) as site:
        await get(site.url("/there"), method=method)
        assert [seen.method for seen in site.seen] == [method, then]


async def test_no_cookie_is_kept_between_hops() -> None:
    async with web(hello=page(b"hello")) as site:
        site.pages["/set"] = page(
            b"", status=302, headers={"location": "/hello", "set-cookie": "a=b; Path=/"}
        )
        await get(site.url("/set"))
        assert [("cookie" in seen.headers) for seen in site.seen] == [False, False]


async def test_an_answer_is_read_as_far_as_the_bound() -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    packed = page(bomb, headers={"content-encoding": "gzip"})
    small = page(gzip.compress(b"hello"), headers={"content-encoding": "gzip"})
    odd = page(b"hello", headers={"content-encoding": "br"})
    async with web(packed=packed, small=small, long=page(b"1" * 2_000_000), odd=odd) as site:
        for path in ("/packed", "/long"):
            answer = await get(site.url(path))
            assert (answer["bytes"], answer["truncated"]) == (1024**2, True)
            assert len(answer["text"]) == TEXT_LIMIT
        assert (await get(site.url("/small")))["text"] == "hello"
        with pytest.raises(ToolFailed, match="not asked for"):
            await get(site.url("/odd"))


async def test_a_small_answer_that_unpacks_without_end_takes_no_memory() -> None:
    bomb = gzip.compress(b"0" * 50_000_000)

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield bomb

    async with aclosing(chunks()) as raw:
        tracemalloc.start()
        data, whole = await http_client._unpacked(raw, 1_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (len(data), whole) == (1_000, False)
    assert peak < 1_000_000


async def test_who_does_not_answer_is_left_in_time(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05  # real sockets need a moment of real time
    async with web() as site:
        with pytest.raises(ToolFailed, match=r"in time|Timeout"):
            await get(site.url("/silent"))
        assert trio.current_time() == pytest.approx(CALL_S, abs=1.0)  # noqa: TID251 - virtual time


async def test_what_does_not_speak_http_is_a_failed_tool() -> None:
    async with web(odd=b"SSH-2.0-x\r\n", cut=page(b"hello")[:-2]) as site:
        for path in ("/odd", "/cut"):
            with pytest.raises(ToolFailed, match="could not be called"):
                await get(site.url(path))


async def test_the_server_calls_for_the_domains_of_its_caller() -> None:
    from mcp.client.client import Client  # noqa: PLC0415 - half a second that most tests are spared

    from node.tools.http_server import create_http_server  # noqa: PLC0415

    async with web(hello=page(b"hello")) as site, Client(create_http_server(client(), Caller.of)) as peer:
        meta: Any = Caller("a", domains=OPEN).as_meta()
        answer = await peer.call_tool("http_get", {"url": site.url("/hello"), "form": "raw"}, meta=meta)
        assert answer.structured_content is not None
        assert answer.structured_content["text"] == "hello"
        refused = await peer.call_tool("http_get", {"url": site.url("/hello")}, meta=Caller("a").as_meta())  # type: ignore[arg-type]
        assert refused.is_error
        listed = await peer.list_tools()
    announced = {server.name: server.tools for server in builtin_servers()}
    assert tuple(tool.name for tool in listed.tools) == announced["http_client"]
    assert http_client.METHODS == ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def test_what_is_quoted_first_of_an_answer_is_bounded() -> None:
    from node.tools import http_server  # noqa: PLC0415 - the SDK takes half a second

    links = [{"text": "", "url": f"http://a/{n}"} for n in range(9)]
    page: dict[str, Any] = {
        "url": "http://a/",
        "status": 200,
        "title": "T",
        "links": links,
        "text": "x\n\n" * 30,
    }
    found = http_server._facts(page | {"text": page["text"] + "y" * 999})
    assert found[:2] == ["T: http://a/ (status 200)", "x"]
    assert found[http_server.FACTS_LINES + 1] == f"... and {31 - http_server.FACTS_LINES} more lines"
    assert found[-1].count("http://a/") == 2 * http_server.FACTS_LINKS
    assert http_server._facts({"url": "u", "status": 204, "json": {"é": 1}}) == ["u (status 204)", '{"é": 1}']
    [_, cut] = http_server._facts({"url": "u", "status": 200, "text": "y" * 999})
    assert len(cut) == http_server.FACT_LIMIT
