from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from node.http.message_answers import MailboxesBody, MailboxView
from tests.node.http.fakes import NODE, SENDER, VIEWER, World
from tests.node.http.test_answers import exact
from tests.node.messaging.rooms import Cluster, cluster, eventually


@asynccontextmanager
async def node(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[World, Cluster]]:
    """The admin API of a node over a real bus."""
    async with cluster(tmp_path, NODE, **options) as nodes:
        yield World(bus=nodes[NODE].bus, limit_bytes=1 << 20), nodes


def message(content: Any, to: str = "alice", **fields: Any) -> dict[str, Any]:
    return {"performative": "inform", "receiver": f"{to}@{NODE}", "content": content} | fields


async def test_a_mailbox_is_made_used_shown_and_removed(tmp_path: Path) -> None:
    async with node(tmp_path) as (world, nodes), world.client(SENDER) as client:
        made = await client.put("/mailboxes/alice", json={"idle_s": 600})
        again = await client.put("/mailboxes/alice")
        assert (made.status_code, again.status_code) == (201, 200)
        shown = exact(MailboxView).model_validate(again.json(), strict=True).model_dump()
        assert (shown["address"], shown["owner"], shown["idle_s"]) == ("alice@alpha", "sender", 600)
        assert (await client.post("/messages", json=message("hello"))).status_code == 202
        await eventually(lambda: nodes[NODE].bus.mailboxes.shown("alice")["held"] == 1)
        listed = (await client.get("/mailboxes")).json()
        exact(MailboxesBody).model_validate(listed, strict=True)
        assert [(box["name"], box["held"], box["connected"]) for box in listed["mailboxes"]] == [
            ("alice", 1, False)
        ]
        assert (await client.delete("/mailboxes/alice")).status_code == 204
        assert (await client.get("/mailboxes")).json()["mailboxes"] == []
        gone = await client.delete("/mailboxes/alice")
        assert (gone.status_code, gone.json()["code"]) == (404, "MAILBOX_NOT_FOUND")


async def test_a_mailbox_subscribes_to_topics_as_an_agent_does(tmp_path: Path) -> None:
    async with node(tmp_path) as (world, _), world.client(SENDER) as client:
        topics = ["orders.#", {"topic": "prices.*", "group": "readers"}, "orders.#"]
        made = await client.put("/mailboxes/alice", json={"topics": topics})
        assert made.json()["topics"] == [
            {"topic": "orders.#", "group": None},
            {"topic": "prices.*", "group": "readers"},
        ]
        sent = await client.post("/messages", json={"performative": "inform", "topic": "orders.eu"})
        assert sent.json()["routed_to"] == [f"alice@{NODE}"]
        assert (await client.put("/mailboxes/alice", json={})).json()["topics"] != []
        assert (await client.put("/mailboxes/alice", json={"topics": []})).json()["topics"] == []


@pytest.mark.parametrize(
    "topics",
    [
        ["orders..eu"],
        ["a.#.b"],
        [{"topic": "x", "group": "not one"}],
        [{"group": "x"}],
        [7],
        "x",
        ["x"] * 17,
        [{"topic": "x", "more": 1}],
    ],
)
async def test_what_is_no_topic_is_refused(tmp_path: Path, topics: Any) -> None:
    async with node(tmp_path) as (world, nodes), world.client(SENDER) as client:
        refused = await client.put("/mailboxes/alice", json={"topics": topics})
        assert (refused.status_code, refused.json()["code"]) == (400, "VALIDATION_ERROR")
        assert not nodes[NODE].bus.mailboxes.knows("alice")


async def test_a_mailbox_is_its_owners_and_the_managers(tmp_path: Path) -> None:
    async with node(tmp_path) as (world, _):
        async with world.client(SENDER) as sender, world.client() as admin:
            assert (await admin.put("/mailboxes/boss")).status_code == 201
            assert (await sender.put("/mailboxes/alice")).status_code == 201
            assert (await sender.put("/mailboxes/boss")).status_code == 403
            assert (await sender.delete("/mailboxes/boss")).status_code == 403
            assert [box["name"] for box in (await sender.get("/mailboxes")).json()["mailboxes"]] == ["alice"]
            assert len((await admin.get("/mailboxes")).json()["mailboxes"]) == 2
            assert (await admin.put("/mailboxes/alice")).json()["owner"] == "sender"
            assert (await admin.delete("/mailboxes/alice")).status_code == 204
        async with world.client(VIEWER) as viewer:
            assert (await viewer.put("/mailboxes/carol")).status_code == 403


async def test_nobody_sends_under_the_name_of_somebody_elses_mailbox(tmp_path: Path) -> None:
    async with node(tmp_path) as (world, _), world.client() as admin, world.client(SENDER) as sender:
        await admin.put("/mailboxes/boss")
        await sender.put("/mailboxes/alice")
        await sender.put("/mailboxes/bob")
        forged = await sender.post("/messages", json=message("pay", "bob", sender="boss"))
        assert (forged.status_code, forged.json()["code"]) == (403, "FORBIDDEN")
        batch = {"messages": [message("pay", "bob", sender="boss"), message(1, "bob", sender="alice")]}
        found = (await sender.post("/messages/batch", json=batch)).json()["results"]
        assert [each["status"] for each in found] == ["refused", "routed"]
        checked = await sender.post("/messages/validate", json=batch["messages"][0])
        assert checked.json()["valid"] is False
        assert (await admin.post("/messages", json=message(2, "bob", sender="alice"))).status_code == 202


async def test_an_agent_and_a_mailbox_do_not_share_a_name(tmp_path: Path) -> None:
    async with node(tmp_path) as (world, _), world.client() as client:
        await world.agents.deploy(b"x", name="worker")
        taken = await client.put("/mailboxes/worker")
        assert (taken.status_code, taken.json()["code"]) == (409, "NAME_CONFLICT")
        reserved = await client.put("/mailboxes/client")
        assert (reserved.status_code, reserved.json()["code"]) == (409, "NAME_CONFLICT")


@pytest.mark.parametrize("name", ["A", "a b", "x" * 65, "-a", "a@b", "%00", "a%2Fb"])
async def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    async with node(tmp_path) as (world, _), world.client() as client:
        assert (await client.put(f"/mailboxes/{name}")).status_code in (400, 404)
        assert (await client.get("/mailboxes")).json()["mailboxes"] == []


@pytest.mark.parametrize("body", [{"idle_s": 0}, {"idle_s": 1e9}, {"idle_s": "1"}, {"idle": 5}, []])
async def test_a_body_that_is_wrong_is_refused(tmp_path: Path, body: Any) -> None:
    async with node(tmp_path) as (world, _), world.client() as client:
        assert (await client.put("/mailboxes/alice", json=body)).status_code == 400
        assert (await client.get("/mailboxes")).json()["mailboxes"] == []


async def test_every_way_of_sending_says_when_to_come_again_if_there_is_no_room(tmp_path: Path) -> None:
    async with node(tmp_path, settings={"outbox_capacity": 1}) as (world, _), world.client() as client:
        lost = {"capability": "nobody-has-it"}
        assert (await client.post("/messages", json=lost)).status_code == 202
        for path in ("/messages", "/messages?wait=1"):
            full = await client.post(path, json=lost)
            assert (full.status_code, full.headers["retry-after"]) == (429, "30")
        [result] = (await client.post("/messages/batch", json={"messages": [lost]})).json()["results"]
        assert result["error"]["details"]["retry_after_s"] == 30
