"""What the client does with answers, refusals and broken connections, on Trio and on asyncio."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from node.client import AsyncClient, Client, Receipt, Refused, Retries, TakenOver
from node.client.calls import DURATION, RETRIES
from node.errors import (
    BlobNotFound,
    DuplicateMessage,
    Forbidden,
    NodeUnreachable,
    NoReply,
    ResourceLimitExceeded,
    ValidationFailed,
)
from tests.node.client.nodes import QUICK, RECEIPT, Node, Script, ok, refusal


def test_a_message_is_sent_with_the_token_and_an_id(run) -> None:
    node = Node(ok())
    receipt = run(node, lambda c: c.send(7, capability="echo"), token="caxton_x")
    assert receipt == Receipt("m", "c", ("w@a",), "routed")
    [request], [body] = node.requests, node.bodies()
    assert request.url == "http://node/api/v1/messages"
    assert request.headers["authorization"] == "Bearer caxton_x"
    assert (body["content"], body["capability"]) == (7, "echo")
    assert len(body["message_id"]) == 32


def test_a_broken_connection_is_tried_again_with_the_same_id(run) -> None:
    node = Node(httpx.ReadError("cut"), httpx.ConnectError("away"), ok())
    run(node, lambda c: c.send(7, capability="echo"))
    assert len({body["message_id"] for body in node.bodies()}) == 1
    assert len(node.requests) == 3


def test_what_had_got_through_is_no_error(run) -> None:
    history = {"message": {"conversation_id": "c"}, "routed_to": ["w@a"], "replies": []}
    node = Node(httpx.ReadError("cut"), refusal(409, "DUPLICATE_MESSAGE"), ok(history, 200))
    receipt = run(node, lambda c: c.send(7, capability="echo", message_id="mine"))
    assert receipt == Receipt("mine", "c", ("w@a",), "duplicate")


def test_an_id_that_was_used_before_is_an_error(run) -> None:
    node = Node(refusal(409, "DUPLICATE_MESSAGE"))
    with pytest.raises(DuplicateMessage):
        run(node, lambda c: c.send(7, capability="echo", message_id="old"))
    assert len(node.requests) == 1


def test_the_pause_is_what_the_node_asked_for_up_to_the_longest(run, monkeypatch) -> None:
    pauses = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("node.client.calls.anyio.sleep", sleep)
    full = refusal(429, "RESOURCE_LIMIT_EXCEEDED")
    run(Node(full, full, ok()), lambda c: c.send(1, capability="x"), retries=Retries(last_s=30.0))
    assert [round(pause) for pause in pauses] in ([7, 7], [7, 8], [8, 7], [8, 8])
    pauses.clear()
    run(Node(full, ok()), lambda c: c.send(1, capability="x"), retries=Retries(last_s=2.0))
    assert 2.0 <= pauses[0] <= 2.2


def test_refusals_have_the_types_of_their_codes(run) -> None:
    for status, code, kind in (
        (403, "FORBIDDEN", Forbidden),
        (504, "NO_REPLY", NoReply),
        (418, "OF_A_LATER_VERSION", Refused),
    ):
        node = Node(refusal(status, code, field="x"))
        with pytest.raises(kind) as caught:
            run(node, lambda c: c.send(1, capability="x"))
        assert (caught.value.code, caught.value.status, caught.value.why) == (code, status, "because")
        assert caught.value.details["field"] == "x"
        assert len(node.requests) == 1  # repeating it would change nothing


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": 7}', b'{"error": {"code": 7}}', b"\xff"])
def test_whatever_is_no_node_is_refused(run, body: bytes) -> None:
    with pytest.raises(Refused):
        run(Node(httpx.Response(404, content=body)), lambda c: c.message("x"))


def test_attempts_are_bounded(run) -> None:
    node = Node(httpx.ConnectError("away"))
    with pytest.raises(NodeUnreachable):
        run(node, lambda c: c.send(1, capability="x"))
    assert len(node.requests) == QUICK.attempts
    node = Node(refusal(429, "RESOURCE_LIMIT_EXCEEDED"))
    with pytest.raises(ResourceLimitExceeded):
        run(node, lambda c: c.send(1, capability="x"), retries=Retries(attempts=2, last_s=0.01))
    assert len(node.requests) == 2


def test_the_reply_to_a_request_whose_answer_was_lost_is_looked_up(run) -> None:
    asked = {"message": {"conversation_id": "c"}, "replies": []}
    node = Node(
        httpx.ReadError("cut"),
        refusal(409, "DUPLICATE_MESSAGE"),
        ok(asked, 200),
        ok(asked | {"replies": [{"message_id": "r"}]}, 200),
        ok({"message": {"message_id": "r", "content": 9}}, 200),
    )
    assert run(node, lambda c: c.request(1, capability="x", timeout_s=5))["content"] == 9
    assert node.requests[0].url.params["wait"] == "5"


def test_a_batch_is_told_each_by_itself_and_what_had_no_room_is_sent_again(run) -> None:
    full = {
        "status": "refused",
        "error": {"code": "RESOURCE_LIMIT_EXCEEDED", "message": "full", "details": {}},
    }
    bad = {"status": "refused", "error": {"code": "VALIDATION_ERROR", "message": "bad"}}
    node = Node(ok({"results": [RECEIPT, bad, full, full]}, 207), ok({"results": [RECEIPT, full]}, 207))
    found = run(node, lambda c: c.batch([{"content": n} for n in range(4)]), retries=Retries(2, 0.001, 0.01))
    assert [type(each).__name__ for each in found] == [
        "Receipt", "ValidationFailed", "Receipt", "ResourceLimitExceeded",
    ]  # fmt: skip
    first, second = (body["messages"] for body in node.bodies())
    assert second == first[2:]


def test_the_current_trace_travels_with_each_call(run) -> None:
    node = Node(ok())
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("work") as span:
        run(node, lambda c: c.send(1, capability="x"))
        with Client("http://node", transport=httpx.MockTransport(node)) as client:
            client.send(2, capability="x")
    wanted = trace.format_trace_id(span.get_span_context().trace_id)
    assert [request.headers["traceparent"].split("-")[1] for request in node.requests] == [wanted] * 2


def test_attempts_are_measured_by_meter_and_hook(run) -> None:
    reader, told = InMemoryMetricReader(), []
    meter = MeterProvider([reader]).get_meter("mine")
    node = Node(httpx.ReadError("cut"), ok())
    run(node, lambda c: c.send(1, capability="x"), meter=meter, on_metric=lambda *each: told.append(each))
    assert [(name, attributes["outcome"]) for name, _, attributes in told] == [
        (DURATION, "ReadError"),
        (RETRIES, "ReadError"),
        (DURATION, "202"),
    ]
    assert {attributes["route"] for _, _, attributes in told} == {"/messages"}
    data = reader.get_metrics_data()
    [metrics] = [scope.metrics for resource in data.resource_metrics for scope in resource.scope_metrics]
    assert {metric.name for metric in metrics} == {DURATION, RETRIES}


def event(name: str, data: Any, identifier: str = "") -> bytes:
    return f"id: {identifier}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


def held(n: int) -> bytes:
    return event("message", {"message": {"content": n}}, f"{n}-m")


def stream(*chunks: bytes, cut: bool = False) -> httpx.Response:
    async def content() -> Any:
        for chunk in chunks:
            yield chunk
        if cut:
            raise httpx.ReadError("cut")

    return httpx.Response(200, content=content())


def test_a_mailbox_is_read_over_broken_connections_without_a_repetition(run) -> None:
    shown = {"name": "orders", "address": "orders@a"}
    node = Node(
        ok(shown, 201),
        stream(b": alive\n\n", held(1), held(2), cut=True),
        httpx.ConnectError("away"),
        refusal(429, "RESOURCE_LIMIT_EXCEEDED"),
        stream(held(1), held(2), held(3)),  # and the stream just ends
        ok({"acknowledged": 3, "held": 0}, 200),
        stream(held(4), event("end", {"reason": "another client reads the mailbox now"})),
    )

    async def test(client: AsyncClient) -> list[Any]:
        mailbox = await client.mailbox("orders", topics=["orders.#"])
        assert mailbox.address == "orders@a"
        async with mailbox.subscribe(window=9) as deliveries:
            found = [await anext(deliveries) for _ in range(3)]
            assert await deliveries.ack(*found) == 3
            found.append(await anext(deliveries))
            with pytest.raises(TakenOver, match="another client"):
                await anext(deliveries)
        return [delivery.content for delivery in found]

    assert run(node, test) == [1, 2, 3, 4]
    assert json.loads(node.requests[0].content) == {"topics": ["orders.#"]}
    assert node.requests[1].url.params["window"] == "9"
    assert json.loads(node.requests[5].content) == {"ids": ["1-m", "2-m", "3-m"]}


def test_a_node_that_stays_away_ends_the_patience_of_a_reader(run) -> None:
    node = Node(ok({"name": "x", "address": "x@a"}), httpx.ConnectError("away"))

    async def test(client: AsyncClient) -> None:
        async with (await client.mailbox("x")).subscribe(patience_s=0.01) as deliveries:
            with pytest.raises(NodeUnreachable):
                await anext(deliveries)

    run(node, test)


def test_a_conversation_gives_its_id_and_fields_to_each_message(run) -> None:
    node = Node(ok())

    async def test(client: AsyncClient) -> str:
        talk = client.conversation(capability="echo", sender="me")
        await talk.send(1)
        await talk.send(2, capability="other")
        await talk.shown()
        return talk.id

    identifier = run(node, test)
    first, second = (json.loads(request.content) for request in node.requests[:2])
    assert first["conversation_id"] == second["conversation_id"] == identifier
    assert (first["capability"], second["capability"], second["sender"]) == ("echo", "other", "me")
    assert node.requests[2].url.path == f"/api/v1/conversations/{identifier}"


def test_the_synchronous_client_does_the_same() -> None:
    node = Node(ok({"name": "x", "address": "x@a"}), stream(held(1)), ok({"acknowledged": 1}, 200), ok())
    with Client("http://node", retries=QUICK, transport=httpx.MockTransport(node)) as client:
        mailbox = client.mailbox("x")
        with mailbox.subscribe() as deliveries:
            delivery = next(deliveries)
            assert (delivery.content, mailbox.ack(delivery)) == (1, 1)
        assert client.send(1, capability="x").status == "routed"


def blobs(kept: bytearray, size: int) -> Script:
    """A node that keeps what it is sent; the connection breaks at the second part, once."""
    broken: list[None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            assert int(request.url.params["size"]) == size
            if kept and not broken:
                broken.append(None)
                raise httpx.ReadError("cut")
            del kept[int(request.url.params["offset"]) :]
            kept.extend(request.content)
        elif not kept:
            return refusal(404, "BLOB_NOT_FOUND")
        found = {"blob": "x", "size_bytes": size, "received_bytes": len(kept), "complete": len(kept) == size}
        return httpx.Response(200, json=found)

    return answer


@pytest.mark.parametrize("as_path", [True, False])
def test_a_file_is_brought_in_parts_which_a_broken_connection_does_not_repeat(
    run, monkeypatch, tmp_path, as_path
) -> None:
    monkeypatch.setattr("node.client.files.PART_BYTES", 1000)
    data, kept = bytes(range(250)) * 10, bytearray()
    path = tmp_path / "sales.csv"
    path.write_bytes(data)
    node = Node(blobs(kept, len(data)))
    found = run(node, lambda c: c.upload(path if as_path else data))
    assert bytes(kept) == data
    assert found["blob"] == hashlib.sha256(data).hexdigest()
    assert (found["name"], found["media_type"]) == (
        ("sales.csv", "text/csv") if as_path else ("content", "application/octet-stream")
    )
    assert [r.url.params["offset"] for r in node.requests[1:]] == ["0", "1000", "1000", "2000"]
    assert run(node, lambda c: c.upload(data))["blob"] == found["blob"]  # it is there: nothing is sent
    assert node.requests[-1].method == "GET"


def test_an_empty_file_is_refused(run) -> None:
    with pytest.raises(ValidationFailed):
        run(Node(blobs(bytearray(), 0)), lambda c: c.upload(b""))


def test_a_file_of_a_message_is_fetched(run) -> None:
    content = httpx.Response(200, content=b"{}", headers={"content-type": "application/octet-stream"})
    node = Node(content)
    assert run(node, lambda c: c.file("m/1", "a b.txt")) == b"{}"
    assert node.requests[0].url.raw_path == b"/api/v1/messages/m%2F1/attachments/a%20b.txt"
    with pytest.raises(BlobNotFound):
        run(Node(refusal(404, "BLOB_NOT_FOUND")), lambda c: c.file("m", "x"))


def test_capabilities_and_agents_are_told_page_by_page(run) -> None:
    offered = {"capability": "echo", "agents_count": 1}
    node = Node(
        ok({"capabilities": [offered]}, 200),
        ok({"agents": [{"id": "a"}, {"id": "b"}], "total": 3}, 200),
        ok({"agents": [{"id": "c"}], "total": 3}, 200),
    )

    async def ask(client: AsyncClient) -> Any:
        return await client.capabilities(), await client.agents()

    capabilities, agents = run(node, ask)
    assert capabilities == [offered]
    assert [agent["id"] for agent in agents] == ["a", "b", "c"]
    assert [request.url.query for request in node.requests[1:]] == [
        b"limit=100&offset=0",
        b"limit=100&offset=2",
    ]
