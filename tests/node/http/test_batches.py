from __future__ import annotations

from typing import Any

import pytest

from tests.node.http.fakes import SENDER, VIEWER, World

MESSAGE = {"capability": "echo", "content": {"action": "analyze"}}


async def test_a_batch_answers_for_each_message_by_itself_and_in_order() -> None:
    world = World()
    body = {
        "batch_id": "b7",
        "messages": [
            MESSAGE | {"message_id": "m-1", "ttl_s": 9},
            {"content": 1},
            MESSAGE | {"priority": "high"},
            "no message",
            MESSAGE | {"wait_s": 1},
            MESSAGE | {"message_id": "m-1"},
            MESSAGE | {"message_id": "a b"},
            MESSAGE,
        ],
    }
    async with world.client(SENDER) as client:
        answer = await client.post("/messages/batch", json=body)
    found = answer.json()
    assert answer.status_code == 207
    assert (found["batch_id"], found["accepted"], found["duplicates"], found["refused"]) == ("b7", 2, 1, 5)
    results = found["results"]
    assert [each["index"] for each in results] == list(range(8))
    assert [each["status"] for each in results] == [
        "accepted", "refused", "refused", "refused", "refused", "duplicate", "refused", "accepted",
    ]  # fmt: skip
    assert results[0]["message_id"] == results[5]["message_id"] == "m-1"
    assert [each["error"]["details"]["field"] for each in results[1:5]] == [
        "receiver",
        "priority",
        "",
        "wait_s",
    ]
    assert results[5]["error"]["code"] == "DUPLICATE_MESSAGE"
    assert [(m.id == "m-1", ttl_s) for m, _, ttl_s in world.bus.accepted] == [(True, 9), (False, None)]
    assert world.bus.batches == [3]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [MESSAGE] * 1001}, "messages"),
        ({"messages": MESSAGE}, "messages"),
        ({"messages": [MESSAGE], "batchid": "x"}, "batchid"),
        ({"messages": [MESSAGE], "batch_id": 7}, "batch_id"),
        ({}, "messages"),
    ],
)
async def test_a_batch_that_is_none_is_refused_as_a_whole(body: dict[str, Any], field: str) -> None:
    world = World(limit_bytes=1 << 20)
    async with world.client() as client:
        answer = await client.post("/messages/batch", json=body)
    assert (answer.status_code, answer.json()["details"]["field"]) == (400, field)
    assert world.bus.accepted == []


async def test_a_batch_is_bounded_in_bytes_and_needs_the_permission_to_send() -> None:
    world = World()
    body = {"messages": [MESSAGE | {"content": "x" * 100}] * 50}
    async with world.client() as client:
        assert (await client.post("/messages/batch", json=body)).status_code == 413
    async with world.client(VIEWER) as client:
        assert (await client.post("/messages/batch", json={"messages": [MESSAGE]})).status_code == 403
    assert world.bus.accepted == []


async def test_nobody_sends_under_the_name_of_an_agent_in_a_batch_either() -> None:
    world = World()
    await world.agents.deploy(b"x", name="worker")
    async with world.client() as client:
        body = {"messages": [MESSAGE | {"sender": "worker"}, MESSAGE]}
        found = (await client.post("/messages/batch", json=body)).json()
    assert (found["results"][0]["error"]["code"], found["accepted"]) == ("FORBIDDEN", 1)


async def test_a_message_is_checked_without_being_sent() -> None:
    world = World()
    async with world.client(SENDER) as client:
        good = (await client.post("/messages/validate", json=MESSAGE)).json()
        bad = (
            await client.post("/messages/validate", json=MESSAGE | {"priority": 11, "recever": "x"})
        ).json()
        broken = await client.post(
            "/messages/validate", content=b"{", headers={"content-type": "application/json"}
        )
    assert (good["valid"], good["errors"], good["message"]["capability"]) == (True, [], "echo")
    assert good["routing"]["routed_to"] == ["worker@beta"]
    [candidate] = good["routing"]["candidates"]
    assert (candidate["agent"], candidate["node"], candidate["score"]) == ("worker", "beta", 2.5)
    assert (bad["valid"], bad["message"], bad["routing"]) == (False, None, None)
    assert bad["errors"][0]["details"]["field"] == "recever"
    assert broken.status_code == 400
    assert world.bus.accepted == []


async def test_a_check_tells_of_an_id_that_is_known() -> None:
    world = World()
    async with world.client() as client:
        assert (await client.post("/messages", json=MESSAGE | {"message_id": "m-1"})).status_code == 202
        found = (await client.post("/messages/validate", json=MESSAGE | {"message_id": "m-1"})).json()
    assert (found["valid"], found["errors"][0]["code"]) == (False, "DUPLICATE_MESSAGE")


async def test_the_description_shows_what_a_message_of_a_batch_is() -> None:
    async with World().client() as client:
        document = (await client.get("/openapi.json")).json()
    item = document["components"]["schemas"]["BatchBody"]["properties"]["messages"]["items"]
    assert {"message_id", "capability", "content"} <= set(item["properties"])
    assert "wait_s" not in item["properties"]
