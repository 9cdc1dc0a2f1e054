"""The routes of webhooks; what is told is tested in tests/node/webhooks."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from node.security.permissions import ROLES, Permission
from tests.node.http.fakes import SENDER, World

BODY = {"url": "https://hooks.example/x", "events": ["message.response"]}


class FakeWebhooks:
    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []

    async def register(self, **fields: Any) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        self.made.append(fields)
        return {}


async def test_what_is_asked_for_is_registered_in_the_name_of_who_asks() -> None:
    hooks = FakeWebhooks()
    async with World(webhooks=hooks).client() as client:
        events = ["message.dead", "message.response", "message.dead"]
        asked = {"events": events, "filter": {"sender": "worker"}, "secret": "s" * 16}
        assert (await client.post("/webhooks", json=BODY | asked)).status_code == 201
    assert hooks.made == [
        {
            "url": "https://hooks.example/x",
            "events": ("message.dead", "message.response"),
            "chosen": {"sender": "worker"},
            "secret": "s" * 16,
            "owner": "admin",
        }
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"url": ""},
        {"url": "https://x/" + "x" * 2_048},
        {"events": []},
        {"events": ["message.sent"]},
        {"events": "message.dead"},
        {"filter": {"content": "x"}},
        {"filter": {"sender": 7}},
        {"secret": "short"},
        {"headers": {}},
    ],
)
async def test_what_is_malformed_is_refused(change: dict[str, Any]) -> None:
    hooks = FakeWebhooks()
    async with World(webhooks=hooks).client() as client:
        refused = await client.post("/webhooks", json=BODY | change)
        assert (refused.status_code, refused.json()["code"]) == (400, "VALIDATION_ERROR")
    assert hooks.made == []


async def test_only_who_may_change_the_configuration_may_have_the_node_call_others() -> None:
    assert [role for role, may in ROLES.items() if Permission.MODIFY_CONFIG in may] == ["admin"]
    async with World(webhooks=FakeWebhooks()).client(SENDER) as client:
        for method, path in (("POST", ""), ("GET", ""), ("GET", "/x"), ("DELETE", "/x")):
            assert (await client.request(method, f"/webhooks{path}", json=BODY)).status_code == 403
