"""A task over HTTP: read strictly, bounded, and answered with the whole outcome."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from node.http import traffic
from tests.node.http.fakes import SENDER, VIEWER, World

TASK: dict[str, Any] = {"capability": "data-analysis", "content": {"action": "analyze"}}


async def test_a_task_is_called_for_as_the_body_says() -> None:
    world = World()
    body = TASK | {"award": {"by": "content.cost", "prefer": "lowest"}, "deadline_s": 2.5, "priority": 7}
    async with world.client(SENDER) as client:
        answer = await client.post("/tasks", json=body)
    assert (answer.status_code, answer.json()["by"], answer.json()["prefer"]) == (
        200,
        "content.cost",
        "lowest",
    )
    [(message, _, deadline_s)] = world.bus.accepted
    assert (message.performative, message.capability, message.sender) == (
        "cfp",
        "data-analysis",
        "client@alpha",
    )
    assert (message.priority, message.goes_to_all, deadline_s) == (7, True, 2.5)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"capability": None}, "capability"),
        ({"capability": "Not Kebab"}, "capability"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": 61}, "deadline_s"),
        ({"result_s": 301}, "result_s"),
        ({"award": {"prefer": "cheapest"}}, "award.prefer"),
        ({"award": {"prefer": "lowest"}}, "award.by"),
        ({"award": {"by": "content.cost"}}, "award.by"),
        ({"award": {"by": "cost", "prefer": "lowest"}}, "award.by"),
        ({"award": {"winners": 0}}, "award.winners"),
        ({"award": {"reserves": 17}}, "award.reserves"),
        ({"awrad": {}}, "awrad"),
    ],
)
async def test_a_bad_task_is_refused_with_its_field(change: dict[str, Any], field: str) -> None:
    world = World()
    async with world.client() as client:
        answer = await client.post("/tasks", json=TASK | change)
    assert answer.status_code == 400
    assert answer.json()["details"]["field"] == field
    assert world.bus.accepted == []


async def test_it_needs_the_permission_and_nobody_elses_name() -> None:
    world = World()
    async with world.client(VIEWER) as client:
        assert (await client.post("/tasks", json=TASK)).status_code == 403
    async with world.client() as client:
        await client.post("/agents", json={"content": "x", "name": "worker"})
        assert (await client.post("/tasks", json=TASK | {"sender": "worker"})).status_code == 403
    assert world.bus.accepted == []


async def test_tasks_count_among_the_requests_that_wait(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(traffic, "WAITING_LIMIT", 1)
    world = World()
    world.bus.delay_s = 5
    statuses: list[int] = []

    async def post() -> None:
        statuses.append((await client.post("/tasks", json=TASK)).status_code)

    async with world.client() as client, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(post)
    assert sorted(statuses) == [200, 429, 429]
