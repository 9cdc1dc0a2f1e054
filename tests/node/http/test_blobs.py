"""Content beside the messages, over HTTP: brought in parts, named by messages, and fetched again."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node.blobs.tables import CHUNK_BYTES
from node.message import BLOB_LIMIT_BYTES
from node.messaging.delivery import Draft, Performative
from tests.node.http.fakes import NODE, SENDER, VIEWER
from tests.node.http.test_mailboxes import node

LARGE = bytes(range(256)) * 1_024 + b"end"  # four chunks and a short one
DIGEST = hashlib.sha256(LARGE).hexdigest()
URL = f"/blobs/{DIGEST}"


async def parts(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def reads(delivery: Any) -> list[Draft]:
    [file] = delivery.message.attachments
    return [Draft(Performative.INFORM, hashlib.sha256(file.data).hexdigest())]


async def test_content_is_sent_named_handled_and_fetched_again(tmp_path: Path) -> None:
    async with node(tmp_path) as (world, nodes), world.client() as client:
        nodes[NODE].attach("worker", reads, "work")
        sent = await client.put(URL, params={"size": len(LARGE)}, content=parts(LARGE))
        assert sent.json() == {
            "blob": DIGEST,
            "size_bytes": len(LARGE),
            "received_bytes": len(LARGE),
            "complete": True,
        }
        assert (await client.put(URL, content=LARGE)).json()["complete"] is True  # again, at no cost
        assert (await client.get(URL)).json() == sent.json()
        files = [{"name": "große Datei.txt", "media_type": "text/html", "blob": DIGEST}]
        answer = await client.post("/messages?wait=30", json={"capability": "work", "attachments": files})
        assert answer.json()["reply"]["content"] == DIGEST
        fetched = await client.get(f"/messages/{answer.json()['message_id']}/attachments/große Datei.txt")
        assert fetched.content == LARGE
        assert fetched.headers["content-type"] == "application/octet-stream"
        assert fetched.headers["content-length"] == str(len(LARGE))
        assert fetched.headers["content-disposition"] == "attachment; filename*=UTF-8''gro%C3%9Fe%20Datei.txt"


async def test_what_has_come_before_a_break_is_not_sent_again(tmp_path: Path) -> None:
    async with node(tmp_path) as (world, _), world.client(SENDER) as client:
        first = await client.put(URL, params={"size": len(LARGE)}, content=LARGE[: 2 * CHUNK_BYTES + 9])
        assert first.json()["received_bytes"] == 2 * CHUNK_BYTES
        assert first.json()["complete"] is False
        refused = await client.post(
            "/messages", json={"capability": "work", "attachments": [{"name": "x", "blob": DIGEST}]}
        )
        assert (refused.status_code, refused.json()["code"]) == (404, "BLOB_NOT_FOUND")
        for offset in (3 * CHUNK_BYTES, 5):
            wrong = await client.put(URL, params={"offset": offset, "size": len(LARGE)}, content=b"x")
            assert wrong.status_code == 400
            assert wrong.json()["details"]["received_bytes"] == 2 * CHUNK_BYTES
        rest = await client.put(URL, params={"offset": 2 * CHUNK_BYTES}, content=LARGE[2 * CHUNK_BYTES :])
        assert rest.json()["complete"] is True


async def test_a_file_inside_a_message_is_fetched_the_same_way(tmp_path: Path) -> None:
    async with node(tmp_path) as (world, nodes), world.client() as client:
        nodes[NODE].attach("worker", reads, "work")
        files = [{"name": "small.txt", "text": "small"}]
        sent = (await client.post("/messages", json={"capability": "work", "attachments": files})).json()
        found = await client.get(f"/messages/{sent['message_id']}/attachments/small.txt")
        assert found.content == b"small"
        missing = await client.get(f"/messages/{sent['message_id']}/attachments/other.txt")
        assert (missing.status_code, missing.json()["code"]) == (404, "BLOB_NOT_FOUND")
        assert "small.txt" in missing.json()["error"]["why"]
        unknown = await client.get("/messages/none/attachments/other.txt")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "MESSAGE_NOT_FOUND")


@pytest.mark.parametrize(
    ("url", "content", "status", "told"),
    [
        (URL, LARGE[:-1] + b"!", 400, "SHA-256"),
        (f"/blobs/{DIGEST.upper()}", LARGE, 400, "SHA-256"),
        ("/blobs/x", LARGE, 400, "SHA-256"),
        (URL, b"", 400, "size"),
        (f"{URL}?size=5", LARGE, 400, "longer"),
        (f"{URL}?size={BLOB_LIMIT_BYTES + 1}", LARGE, 400, "size"),
        (f"{URL}?offset=-1", LARGE, 400, "offset"),
        (f"{URL}?sise=1", LARGE, 400, "size"),
    ],
)
async def test_what_cannot_be_kept_is_refused(
    tmp_path: Path, url: str, content: bytes, status: int, told: str
) -> None:
    async with node(tmp_path) as (world, _), world.client(SENDER) as client:
        answer = await client.put(url, content=content)
        assert (answer.status_code, told in answer.text) == (status, True), answer.text
        assert (await client.get(URL)).json().get("complete") is not True


async def test_who_may_not_send_may_not_fill_the_disk(tmp_path: Path) -> None:
    async with node(tmp_path) as (world, _), world.client(VIEWER) as client:
        assert (await client.put(URL, content=LARGE)).status_code == 403
        assert not (tmp_path / NODE / "blobs.db").exists()
