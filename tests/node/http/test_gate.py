from __future__ import annotations

import json
import random

import httpx
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from node.errors import ResourceLimitExceeded
from node.http import gate, traffic
from node.http.routes import RouteTable
from node.security.permissions import ROUTES, Permission
from node.telemetry.tracing import Tracing
from tests.node.http.fakes import ADMIN, SENDER, VIEWER, TrioClock, World

MESSAGE = {"capability": "echo", "content": 1}


def test_the_routes_of_the_application_are_those_of_the_permission_table() -> None:
    described = World().app.openapi()["paths"]
    served = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, methods in described.items()
        for method in methods
    }
    assert served | {("GET", "/docs"), ("GET", "/openapi.json")} == set(ROUTES)


def test_a_literal_route_wins_over_a_parameter() -> None:
    table = RouteTable([("GET", "/agents/{agent}"), ("GET", "/agents/all"), ("POST", "/agents/{agent}")])
    assert table.match("/api/v1/agents/all").methods == ("GET",)
    assert table.match("/api/v1/agents/x").methods == ("GET", "POST")
    assert table.match("/api/v1/agents/x/y").template is None
    assert table.match("/agents/x").template is None


@pytest.mark.parametrize(("method", "template"), sorted(ROUTES))
async def test_every_route_is_closed_without_a_token_unless_the_table_calls_it_public(
    method: str, template: str
) -> None:
    async with World().client(token=None) as client:
        answer = await client.request(method, template)
    public = ROUTES[(method, template)] is Permission.PUBLIC
    assert answer.status_code == (200 if public else 401)
    if not public:
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize(
    ("method", "template"), sorted(k for k, v in ROUTES.items() if v is not Permission.PUBLIC)
)
async def test_a_token_opens_only_what_its_role_has(method: str, template: str) -> None:
    async with World().client(token=VIEWER) as client:
        answer = await client.request(method, template.replace("{capability}", "echo"))
    forbidden = ROUTES[(method, template)] is not Permission.VIEW_METRICS
    assert (answer.status_code == 403) is forbidden


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic Y2F4dG9uX2FkbWlu"},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"x-caxton-token": ""},
        {"x-caxton-token": "é".encode("latin-1").decode("latin-1")},
    ],
)
async def test_a_wrong_credential_is_refused_even_in_dev_mode(headers: dict[str, str]) -> None:
    for dev_mode in (False, True):
        async with World(dev_mode=dev_mode).client(token=None) as client:
            raw = {k: v.encode("latin-1") for k, v in headers.items()}
            assert (await client.get("/status", headers=raw)).status_code == 401  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["authorization", "x-caxton-token"])
async def test_two_credentials_are_none(name: str) -> None:
    prefix = "Bearer " if name == "authorization" else ""
    async with World(dev_mode=True).client(token=None) as client:
        headers = [(name, prefix + VIEWER), (name, prefix + ADMIN)]
        assert (await client.get("/status", headers=headers)).status_code == 401
        own = [("origin", "http://127.0.0.1:8080"), ("origin", "https://evil.example")]
        assert (await client.get("/status", headers=own)).status_code == 403


async def test_no_other_site_may_read_an_answer() -> None:
    async with World().client() as client:
        headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        asked = await client.options("/messages", headers=headers)
        read = await client.get("/status", headers={"origin": "https://evil.example"})
    assert asked.status_code == 405
    for answer in (asked, read):
        assert [name for name in answer.headers if name.startswith("access-control-")] == []


async def test_the_token_may_come_in_either_header() -> None:
    async with World().client(token=None) as client:
        answer = await client.get("/status", headers={"X-Caxton-Token": VIEWER})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("address", "host", "origin", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8080", None, 200),
        ("::1", "localhost:8080", "http://localhost:8080", 200),
        ("127.0.0.1", "evil.example:8080", None, 403),
        ("127.0.0.1", "127.0.0.1:8080", "https://evil.example", 403),
        ("127.0.0.1", "127.0.0.1:8080", "http://127.0.0.1:9999", 403),
        ("127.0.0.1", "127.0.0.1:8080", "null", 403),
        ("10.0.0.9", "127.0.0.1:8080", None, 403),
    ],
)
async def test_dev_mode_is_for_this_machine_and_no_foreign_page(
    address: str, host: str, origin: str | None, status: int
) -> None:
    async with World(dev_mode=True).client(token=None, address=address, host=host) as client:
        headers = {} if origin is None else {"origin": origin}
        assert (await client.get("/status", headers=headers)).status_code == status


async def test_unknown_routes_and_methods_are_refused_after_the_token() -> None:
    world = World()
    async with world.client() as client:
        missing = await client.get("/nothing")
        wrong = await client.put("/agents")
    assert (missing.status_code, missing.json()["code"]) == (404, "ROUTE_NOT_FOUND")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, POST")
    async with world.client(token=None) as client:
        assert (await client.get("/nothing")).status_code == 401


async def raw_request(
    world: World, receive: list[dict[str, object]], *, length: bytes = b"", forever: bool = False
) -> list[dict]:  # type: ignore[type-arg]
    sent: list[dict] = []  # type: ignore[type-arg]

    async def incoming() -> dict[str, object]:
        if receive:
            return receive.pop(0)
        if forever:
            await trio.sleep_forever()
        return {"type": "http.disconnect"}

    async def outgoing(message: dict) -> None:  # type: ignore[type-arg]
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/messages",
        "headers": [(b"x-caxton-token", SENDER.encode()), (b"content-length", length)],
        "client": ("127.0.0.1", 1),
        "query_string": b"",
    }
    await world.app(scope, incoming, outgoing)  # type: ignore[arg-type]
    return sent


def part(body: bytes, *, more: bool = False) -> dict[str, object]:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize("length", [b"", b"100", b"5000", b"9" * 5000, b"-1", b"\xb2\xb2"])
async def test_a_body_above_the_limit_is_refused_whatever_was_declared(length: bytes) -> None:
    sent = await raw_request(World(), [part(b"x" * 100, more=True) for _ in range(60)], length=length)
    assert sent[0]["status"] == 413
    assert b'"limit_bytes": 4096' in sent[1]["body"]


@pytest.mark.parametrize(
    ("path", "limit"), [("/agents", 16_384), ("/config-agents", 16_384), ("/messages", 4_096)]
)
async def test_a_deployment_may_be_larger_than_other_requests(path: str, limit: int) -> None:
    body = {"content": "x", "name": "w"}
    async with World().client() as client:
        fits = await client.post(path, content=json.dumps(body).ljust(limit))
        too_large = await client.post(path, content=json.dumps(body).ljust(limit + 1))
    assert fits.status_code != 413
    assert (too_large.status_code, too_large.json()["details"]) == (413, {"limit_bytes": limit})


async def test_a_body_that_never_ends_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    sent = await raw_request(World(), [part(b"{", more=True)], forever=True)
    assert sent[0]["status"] == 408


async def test_a_caller_that_hangs_up_gets_no_answer_and_leaves_nothing_behind() -> None:
    world = World()
    assert await raw_request(world, [part(b"{", more=True)]) == []
    async with world.client() as client:
        assert (await client.post("/messages", json=MESSAGE)).status_code == 202


async def test_bodies_held_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_BYTES_LIMIT", 1000)
    world = World()
    sent = await raw_request(world, [part(b"x" * 2000)])
    assert sent[0]["status"] == 429
    async with world.client() as client:
        assert (await client.post("/messages", json=MESSAGE)).status_code == 202


async def test_requests_and_waits_at_once_are_bounded(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(gate, "IN_FLIGHT_LIMIT", 3)
    monkeypatch.setattr(traffic, "WAITING_LIMIT", 2)
    world = World()
    world.bus.delay_s = 5
    statuses: list[tuple[int, str]] = []

    async def post(client: httpx.AsyncClient) -> None:
        answer = await client.post("/messages?wait=10", json=MESSAGE)
        statuses.append((answer.status_code, answer.json().get("error", {}).get("message", "")))

    async with world.client() as client, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(post, client)
    assert sorted(code for code, _ in statuses) == [200, 200, 429, 429, 429]
    async with world.client() as client:
        http = (await client.get("/status")).json()["http"]
    assert (http["in_flight"], http["waiting"], http["body_bytes"], http["refused"]) == (1, 0, 0, 3)


async def test_a_full_room_says_when_to_come_back() -> None:
    world = World()
    world.bus.error = ResourceLimitExceeded("the outbox is full", details={"retry_after_s": 2.3})
    async with world.client() as client:
        answer = await client.post("/messages", json=MESSAGE)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


@pytest.mark.parametrize("wrap", [False, True])
async def test_a_bug_is_answered_without_its_traceback(wrap: bool, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    bug: Exception = ZeroDivisionError("secret detail")
    world.bus.error = ExceptionGroup("group", [bug]) if wrap else bug
    async with world.client() as client:
        answer = await client.post("/messages", json=MESSAGE)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (500, "INTERNAL_ERROR")
    assert "secret" not in answer.text
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["request_id"] in caplog.text


async def test_an_operating_error_inside_a_nursery_is_still_that_error() -> None:
    world = World()
    world.bus.error = ExceptionGroup("nursery", [ResourceLimitExceeded("the outbox is full")])
    async with world.client() as client:
        assert (await client.post("/messages", json=MESSAGE)).status_code == 429


async def test_answers_may_not_be_sniffed_framed_or_kept() -> None:
    async with World().client(token=None) as client:
        headers = (await client.get("/health")).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"


async def test_a_request_continues_the_callers_trace_into_the_bus() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing.create(
        node="alpha", enabled=True, clock=TrioClock(), id_source=random.Random(3), exporter=exporter
    )
    world = World(tracing=tracing)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with world.client() as client:
        await client.post("/messages", json=MESSAGE, headers={"traceparent": parent})
        await client.post("/messages", json={"capability": "echo", "priority": 77})
        await client.get("/health")
    first, second = exporter.get_finished_spans()
    assert first.name == "POST /api/v1/messages"
    assert f"{first.context.trace_id:032x}" == parent[3:35]
    assert first.attributes is not None
    assert first.attributes["http.response.status_code"] == 202
    [(_, traceparent, _)] = world.bus.accepted
    assert traceparent == f"00-{first.context.trace_id:032x}-{first.context.span_id:016x}-01"
    assert second.status.is_unset is False


@pytest.mark.parametrize(
    ("path", "version", "status"), [("/api/v1/ws", "2", 403), ("/api/v1/other", "1.1", 404)]
)
async def test_a_websocket_of_another_kind_or_place_is_refused(path: str, version: str, status: int) -> None:
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        return {"type": "websocket.connect"}

    async def send(message: dict[str, object]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    scope = {"type": "websocket", "path": path, "headers": [], "http_version": version}
    await World().app(scope, receive, send)  # type: ignore[arg-type]
    assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", status)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "X"]),
    path=st.one_of(
        st.sampled_from([t for _, t in ROUTES]),
        st.text(max_size=30).map(lambda s: "/agents/" + s),
        st.text(max_size=30).map(lambda s: "/capabilities/" + s),
    ),
    query=st.binary(max_size=40),
    body=st.binary(max_size=200),
    content_type=st.sampled_from(
        [b"application/json", b"", b"text/plain", b"application/json; charset=\xff", b"a/b+json"]
    ),
)
def test_no_request_gets_a_5xx(
    *, world: World, method: str, path: str, query: bytes, body: bytes, content_type: bytes
) -> None:
    async def run() -> None:
        sent: list[dict[str, object]] = []

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": "/api/v1" + path,
            "headers": [(b"x-caxton-token", b"caxton_admin"), (b"content-type", content_type)],
            "client": ("127.0.0.1", 1),
            "query_string": query,
        }
        await world.app(scope, receive, send)  # type: ignore[arg-type]
        status = sent[0]["status"]
        assert isinstance(status, int)
        assert status < 500

    trio.run(run)
