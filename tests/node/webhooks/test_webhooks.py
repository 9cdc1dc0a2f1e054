"""Webhooks over a real bus and a real HTTP server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx  # noqa: F401 - imported before time counts
import pytest
import trio

from node.config.model import WebhooksConfig
from node.environment import SystemClock
from node.errors import ResourceLimitExceeded, StorageFailed, ValidationFailed
from node.messaging.conversation_view import Limits
from node.messaging.delivery import Draft
from node.vocabulary import Performative
from node.webhook_signature import ID, SIGNATURE, TIMESTAMP, verify
from node.webhooks import breaker, courier, events, webhooks
from node.webhooks.courier import TargetForbidden
from node.webhooks.webhooks import WebhookNotFound, Webhooks
from tests.node.http.duplex import soon
from tests.node.messaging.rooms import Node, cluster, echo
from tests.node.webhooks.target import target

LOOPBACK = WebhooksConfig(require_https=False, allowed_networks=("127.0.0.0/8",), max_attempts=3)
SECRET = "a secret of sixteen"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (webhooks, "LOOK_S", 0.01),
        (webhooks, "RETRY_FIRST_S", 0.01),
        (events, "WATCH_FIRST_S", 0.01),
        (breaker, "OPEN_FIRST_S", 0.05),
    ):
        monkeypatch.setattr(module, name, value)


@asynccontextmanager
async def told(node: Node, settings: WebhooksConfig = LOOPBACK, **options: Any) -> AsyncIterator[Webhooks]:
    made = Webhooks(
        environment=node.environment,
        node=node.name,
        storage=node.storage,
        settings=settings,
        limits=Limits(86_400.0, 604_800.0),
        version="1",
        **({"dev_mode": False} | options),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


async def register(hooks: Webhooks, url: str, *events_: str, **chosen: str) -> str:
    found = await hooks.register(
        url=url,
        events=events_ or ("message.response",),
        chosen=chosen,
        secret=SECRET,
        owner="admin",
    )
    return str(found["id"])


async def until(condition: Callable[[], bool]) -> None:
    with soon():
        while not condition():
            await SystemClock().sleep(0.005)


async def ask(node: Node, content: object, **fields: Any) -> str:
    """A request that is answered."""
    message = node.message(**({"capability": "work", "content": content} | fields))
    await node.bus.request(message, timeout_s=5)
    return message.id


async def test_an_answer_is_told_signed_with_an_id(tmp_path) -> None:
    async with cluster(tmp_path, "a") as c, target() as server, told(c["a"]) as hooks:
        c["a"].attach("worker", echo(), "work")
        await ask(c["a"], "before")  # what was answered before is nobody's business
        webhook_id = await register(hooks, server.url)
        await ask(c["a"], 7)
        await until(lambda: len(server.received) == 1)
        [got] = server.received
        body = got.json
        now_s = c["a"].environment.clock.wall()
        assert verify(SECRET, got.headers, got.body, now_s=now_s) == got.headers[ID] == body["id"]
        assert (body["event"], body["webhook_id"], body["node"]) == ("message.response", webhook_id, "a")
        assert body["data"]["message"]["content"]["echo"] == 7
        assert got.path == "/hook?x=1"
        assert got.headers["host"] == f"127.0.0.1:{server.port}"
        await until(lambda: hooks.statistics()["delivered"] == 1)
        shown = await hooks.shown(webhook_id)
        assert (shown["queued"], shown["dead"], shown["delivered"]) == (0, 0, 1)
        assert SECRET not in str(shown)


async def test_what_fails_is_tried_again_under_the_same_id_until_it_arrives(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(courier, "ATTEMPT_S", 1.0)
    settings = LOOPBACK.model_copy(update={"max_attempts": 9})
    async with (
        cluster(tmp_path, "a") as c,
        target(500, "cut", "redirect", "stall", 404) as server,
        told(c["a"], settings) as hooks,
    ):
        monkeypatch.setattr(breaker, "FAILURES", 99)
        c["a"].attach("worker", echo(), "work")
        webhook_id = await register(hooks, server.url)
        await ask(c["a"], 1)
        await ask(c["a"], 2)
        await until(lambda: len(server.received) == 7)
        contents = [got.json["data"]["message"]["content"]["echo"] for got in server.received]
        assert contents == [1] * 6 + [2]  # in order, and nothing overtakes
        assert len({got.headers[ID] for got in server.received}) == 2
        assert [got.path for got in server.received] == ["/hook?x=1"] * 7  # no redirect was followed
        assert len({got.body for got in server.received}) == 2
        shown = await hooks.shown(webhook_id)
        assert (shown["failures"], shown["last_error"]) == (5, "it answered 404.")


async def test_what_fails_too_often_is_dead_and_shown_and_the_next_has_its_turn(tmp_path) -> None:
    async with cluster(tmp_path, "a") as c, target(500, 500, 500) as server, told(c["a"]) as hooks:
        c["a"].attach("worker", echo(), "work")
        webhook_id = await register(hooks, server.url)
        await ask(c["a"], 1)
        await ask(c["a"], 2)
        await until(lambda: len(server.received) == 4)
        await until(lambda: hooks.statistics()["delivered"] == 1)
        shown = await hooks.shown(webhook_id)
        [dead] = shown["dead_deliveries"]
        assert (dead["attempts"], dead["reason"], dead["event"]) == (
            3,
            "it answered 500.",
            "message.response",
        )
        assert (shown["dead"], shown["queued"], hooks.statistics()["dead"]) == (1, 0, 1)


async def test_what_was_not_told_is_told_after_a_restart(tmp_path) -> None:
    async with cluster(tmp_path, "a") as c, target() as server:
        c["a"].attach("worker", echo(), "work")
        async with told(c["a"]) as hooks:
            await register(hooks, server.url)
        await ask(c["a"], 1)  # nobody tells just now
        async with told(c["a"]) as hooks:
            await until(lambda: hooks.statistics()["delivered"] == 1)
        assert [got.json["data"]["message"]["content"]["echo"] for got in server.received] == [1]


async def test_the_filter_chooses_by_fields_of_the_message(tmp_path) -> None:
    async with cluster(tmp_path, "a") as c, target() as server, told(c["a"]) as hooks:
        c["a"].attach("worker", echo(), "work")
        c["a"].attach("other", echo(), "play")
        await register(hooks, server.url, sender="worker", conversation_id="talk", performative="inform")
        await ask(c["a"], 1, conversation_id="another")
        await ask(c["a"], 2, conversation_id="talk", capability="play")
        await ask(c["a"], 3, conversation_id="talk")
        await until(lambda: len(server.received) == 1)
        assert server.received[0].json["data"]["message"]["content"]["echo"] == 3


async def test_a_conversation_is_told_when_nothing_is_open_in_it_once(tmp_path) -> None:
    async with cluster(tmp_path, "a") as c, target() as server, told(c["a"]) as hooks:
        go = trio.Event()

        async def slow(delivery: Any) -> list[Draft]:
            await go.wait()
            return [Draft(Performative.INFORM, "late")]

        c["a"].attach("worker", echo(), "work")
        c["a"].attach("slow", slow, "wait")
        await register(hooks, server.url, "conversation.complete")
        await c["a"].bus.accept(c["a"].message(capability="wait", conversation_id="talk"))
        last = await ask(c["a"], 1, conversation_id="talk")
        await until(lambda: hooks._hooks[next(iter(hooks._hooks))].row.inbox_seq >= 3)
        assert server.received == []
        go.set()
        await until(lambda: len(server.received) == 1)
        body = server.received[0].json
        assert (body["event"], body["data"]["conversation_id"]) == ("conversation.complete", "talk")
        assert body["data"]["message_count"] == 4
        await until(lambda: hooks.statistics()["delivered"] == 1)
        for _ in range(20):  # two answers, and one end
            await SystemClock().sleep(0.01)
        shown = await hooks.listed()
        assert (len(server.received), shown[0]["watched"], shown[0]["queued"]) == (1, 0, 0)
        assert last


async def test_a_dead_letter_is_told_even_where_its_number_was_used_before(tmp_path) -> None:
    async with cluster(tmp_path, "a") as c, target() as server, told(c["a"]) as hooks:
        await register(hooks, server.url, "message.dead")
        for n in range(2):
            message = c["a"].message(receiver="nobody@a", performative=Performative.INFORM, content=n)
            await c["a"].bus.accept(message, ttl_s=0.01)
            await until(lambda n=n: len(server.received) == n + 1)
            body = server.received[-1].json
            assert (body["event"], body["data"]["message_id"]) == ("message.dead", message.id)
            assert body["data"]["message"]["content"] == n
            await c["a"].bus.letters.drop(message.id)


async def test_a_target_that_is_down_is_left_alone_and_costs_no_attempts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(breaker, "OPEN_FIRST_S", 1_000.0)
    settings = LOOPBACK.model_copy(update={"max_attempts": 20})
    async with cluster(tmp_path, "a") as c, target(*[500] * 99) as server, told(c["a"], settings) as hooks:
        c["a"].attach("worker", echo(), "work")
        first = await register(hooks, server.url)
        await register(hooks, server.url)
        await ask(c["a"], 1)
        await until(lambda: hooks.statistics()["breakers_open"] == 1)
        await SystemClock().sleep(0.5)  # one that the other webhook had begun before may still arrive
        count = len(server.received)
        await SystemClock().sleep(0.3)
        assert len(server.received) == count <= breaker.FAILURES + 1
        assert (await hooks.shown(first))["breaker"] == "open"


async def test_a_large_message_goes_without_its_content(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(events, "BODY_LIMIT", 2_000)
    async with cluster(tmp_path, "a") as c, target() as server, told(c["a"]) as hooks:
        c["a"].attach("worker", echo(), "work")
        await register(hooks, server.url)
        await ask(c["a"], "x" * 5_000)
        await until(lambda: len(server.received) == 1)
        [got] = server.received
        assert (got.json["truncated"], got.json["data"]["message"]["content"]) == (True, None)
        assert len(got.body) <= 2_000


async def test_no_more_is_queued_than_the_limit_and_nothing_is_left_out(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(events, "QUEUE_LIMIT", 3)
    async with cluster(tmp_path, "a") as c, target("stall") as server, told(c["a"]) as hooks:
        monkeypatch.setattr(courier, "ATTEMPT_S", 1.0)
        c["a"].attach("worker", echo(), "work")
        webhook_id = await register(hooks, server.url)
        for n in range(8):
            await ask(c["a"], n)
        await until(lambda: len(server.received) == 1)
        assert (await hooks.shown(webhook_id))["queued"] <= 3
        await until(lambda: hooks.statistics()["delivered"] == 8)
        told_of = [got.json["data"]["message"]["content"]["echo"] for got in server.received]
        assert told_of == [0, *range(8)]


async def test_a_webhook_that_is_removed_is_told_no_more(tmp_path) -> None:
    async with cluster(tmp_path, "a") as c, target("stall") as server, told(c["a"]) as hooks:
        c["a"].attach("worker", echo(), "work")
        webhook_id = await register(hooks, server.url)
        await ask(c["a"], 1)
        await until(lambda: len(server.received) == 1)
        await hooks.remove(webhook_id)
        with pytest.raises(WebhookNotFound):
            await hooks.remove(webhook_id)
        await ask(c["a"], 2)
        await SystemClock().sleep(0.1)
        assert (len(server.received), await hooks.listed()) == (1, [])
        left = await c["a"].storage.read(
            lambda connection: connection.execute("SELECT count(*) FROM webhook_deliveries").fetchall()
        )
        assert left == [(0,)]


async def test_private_addresses_are_refused_when_the_connection_is_made(tmp_path, monkeypatch) -> None:
    settings = WebhooksConfig(require_https=False, max_attempts=1)
    async with cluster(tmp_path, "a") as c, target() as server, told(c["a"], settings) as hooks:
        c["a"].attach("worker", echo(), "work")
        webhook_id = await register(hooks, f"http://localhost:{server.port}/")
        await ask(c["a"], 1)
        await until(lambda: hooks.statistics()["dead"] == 1)
        shown = await hooks.shown(webhook_id)
        assert "no public address" in shown["dead_deliveries"][0]["reason"]
        assert server.received == []


async def test_in_dev_mode_this_machine_may_be_called(tmp_path) -> None:
    async with (
        cluster(tmp_path, "a") as c,
        target() as server,
        told(c["a"], WebhooksConfig(), dev_mode=True) as hooks,
    ):
        c["a"].attach("worker", echo(), "work")
        await register(hooks, server.url)
        await ask(c["a"], 1)
        await until(lambda: len(server.received) == 1)


async def test_what_is_no_url_or_too_many_is_refused(tmp_path, monkeypatch) -> None:
    async with cluster(tmp_path, "a") as c, told(c["a"], WebhooksConfig()) as hooks:
        for url in (
            "ftp://x/",
            "https://",
            "https://u:p@x/",
            "https://x/#f",
            "https://x:0/",
            "https://x:99999/",
            "https://x/ y",
            "https://[::1",
            "x",
            "https://ü/",
        ):
            with pytest.raises(ValidationFailed):
                await register(hooks, url)
        with pytest.raises(TargetForbidden):
            await register(hooks, "http://example.com/")
        monkeypatch.setattr(webhooks, "WEBHOOK_LIMIT", 1)
        await register(hooks, "https://example.com/")
        with pytest.raises(ResourceLimitExceeded):
            await register(hooks, "https://example.com/")


async def test_a_webhook_that_could_not_be_stored_is_not_there(tmp_path, monkeypatch) -> None:
    async with cluster(tmp_path, "a") as c, told(c["a"]) as hooks:

        async def refuse(job: object) -> None:
            raise StorageFailed("the disk is full")

        monkeypatch.setattr(c["a"].storage, "write", refuse)
        with pytest.raises(StorageFailed):
            await register(hooks, "https://example.com/")
        monkeypatch.undo()
        assert await hooks.listed() == []


def test_the_headers_have_the_names_that_are_documented() -> None:
    assert (ID, TIMESTAMP, SIGNATURE) == (
        "caxton-webhook-id",
        "caxton-webhook-timestamp",
        "caxton-webhook-signature",
    )
