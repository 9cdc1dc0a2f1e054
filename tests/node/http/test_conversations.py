"""Routes of conversations: pages, one, and closing them."""

from __future__ import annotations

from typing import Any

import pytest

from node.messaging.conversation_index import ARCHIVE_LIMIT, PAGE_LIMIT, Selection
from tests.node.http.fakes import NODE, SENDER, START, VIEWER, World

MESSAGE = {"capability": "echo", "content": 1}


async def test_conversations_are_shown_in_pages_by_a_selection() -> None:
    world = World()
    query = "limit=7&before=3.4&status=active&closed=false&participant=worker&since=1h"
    async with world.client(SENDER) as client:
        await client.post("/messages", json=MESSAGE | {"conversation_id": "c1"})
        shown = (await client.get(f"/conversations?{query}")).json()
        await client.get("/conversations")
    assert [each["id"] for each in shown["conversations"]] == ["c1"]
    assert "messages" not in shown["conversations"][0]
    assert (shown["limit"], shown["next"]) == (7, "3.4")
    assert world.bus.conversations.calls == [
        ("page", 7, Selection("active", closed=False, participant="worker", since_s=START - 3600), "3.4"),
        ("page", 50, Selection(), None),
    ]


async def test_one_conversation_has_its_messages_and_what_answers_what() -> None:
    world = World()
    async with world.client(SENDER) as client:
        kin = {"parent_conversation": "c0", "merge_conversations": ["c2", "c3"]}
        sent = (await client.post("/messages", json=MESSAGE | {"conversation_id": "c1"} | kin)).json()
        shown = (await client.get("/conversations/c1")).json()
    assert shown["message_chain"] == [
        {"message_id": sent["message_id"], "performative": "request", "answers": None, "depth": 0}
    ]
    assert shown["participants"] == [f"client@{NODE}"]
    assert (shown["messages"][0]["parent_conversation"], shown["messages"][0]["status"]) == ("c0", "settled")
    assert shown["messages"][0]["merge_conversations"] == ["c2", "c3"]


async def test_conversations_are_closed_by_name_or_by_silence() -> None:
    world = World()
    async with world.client() as client:
        named = (await client.post("/conversations/archive", json={"conversations": ["a", "b"]})).json()
        body = {"older_than": "24h", "status": "completed", "after": "1.2"}
        silent = (await client.post("/conversations/archive", json=body)).json()
    assert named == {"archived": 2, "conversations": ["a", "b"], "next": None}
    assert silent == {"archived": 2, "conversations": ["c1", "c2"], "next": "5.6"}
    assert world.bus.conversations.calls == [
        ("archive_these", "a", "b"),
        ("archive", 86_400.0, "completed", "1.2"),
    ]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/conversations?limit=0", None),
        ("GET", f"/conversations?limit={PAGE_LIMIT + 1}", None),
        ("GET", "/conversations?status=sleeping", None),
        ("GET", "/conversations?closed=perhaps", None),
        ("GET", "/conversations?since=yesterday", None),
        ("GET", "/conversations?particpant=x", None),
        ("POST", "/conversations/archive", {}),
        ("POST", "/conversations/archive", {"conversations": []}),
        ("POST", "/conversations/archive", {"conversations": ["x"] * (ARCHIVE_LIMIT + 1)}),
        ("POST", "/conversations/archive", {"conversations": ["x"], "older_than": "1h"}),
        ("POST", "/conversations/archive", {"conversations": ["x"], "status": "active"}),
        ("POST", "/conversations/archive", {"older_than": "long"}),
        ("POST", "/conversations/archive", {"older_than": "1h", "status": "closed"}),
        ("POST", "/messages", MESSAGE | {"conversation_id": "c", "parent_conversation": "c"}),
        ("POST", "/messages", MESSAGE | {"merge_conversations": ["a", "a"]}),
        ("POST", "/messages", MESSAGE | {"merge_conversations": [str(n) for n in range(17)]}),
        ("POST", "/messages", MESSAGE | {"parent_conversation": "a\nb"}),
    ],
)
async def test_bad_input_is_refused_by_its_place(method: str, path: str, body: Any) -> None:
    world = World()
    async with world.client() as client:
        answer = await client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")
    assert (world.bus.conversations.calls, world.bus.accepted) == ([], [])


@pytest.mark.parametrize(("token", "reads", "closes"), [(SENDER, 200, 403), (VIEWER, 403, 403)])
async def test_who_may_read_and_close_conversations(token: str, reads: int, closes: int) -> None:
    world = World()
    async with world.client(token) as client:
        assert (await client.get("/conversations")).status_code == reads
        assert (await client.get("/conversations/c1")).status_code == reads
        answer = await client.post("/conversations/archive", json={"older_than": "1h"})
    assert answer.status_code == closes
