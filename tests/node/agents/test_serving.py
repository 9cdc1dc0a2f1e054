"""An update swaps an agent without a gap: conversations under way finish on the version they began with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from node.agents.journal import Journal
from node.agents.serving import CONVERSATIONS_LIMIT, KEPT_S, VERSIONS_LIMIT, Serving
from node.errors import ResourceLimitExceeded
from node.llm.provider import Completion, CompletionRequest
from node.messaging.delivery import Delivery, Draft
from node.vocabulary import Performative
from tests.node.agents.inline import TestClock
from tests.node.agents.rooms import MemoryStore, delivery, rooms
from tests.node.agents.test_configured import Recorder, recorded
from tests.node.agents.test_definition import agent


class Version:
    """A runtime that answers with its number."""

    def __init__(self, number: int) -> None:
        self.number = number

    async def handle(self, _: Delivery) -> Sequence[Draft]:
        await trio.lowlevel.checkpoint()
        return [Draft(Performative.INFORM, self.number)]


def serving() -> Serving:
    clock = TestClock()
    return Serving("a", Version(1), Journal(clock, 10), clock)


async def asked(serving: Serving, conversation: str) -> Any:
    [draft] = await serving.handle(delivery("x", conversation=conversation))
    return draft.content


async def test_a_conversation_keeps_its_version_and_a_new_one_gets_the_newest() -> None:
    here = serving()
    assert await asked(here, "old") == 1
    assert here.renew(Version(2)) == 1
    assert [await asked(here, name) for name in ("new", "old", "new", "old")] == [2, 1, 2, 1]


async def test_silence_ends_what_a_conversation_keeps(autojump_clock: Any) -> None:
    here = serving()
    await asked(here, "old")
    here.renew(Version(2))
    await TestClock().sleep(KEPT_S)
    assert await asked(here, "old") == 1  # and has spoken just now
    await TestClock().sleep(KEPT_S + 1)
    assert await asked(here, "old") == 2
    await TestClock().sleep(KEPT_S + 1)
    assert here.renew(Version(3)) == 0


async def test_versions_and_conversations_are_bounded() -> None:
    here = serving()
    await asked(here, "first")
    for number in range(2, VERSIONS_LIMIT + 1):
        here.renew(Version(number))
        assert await asked(here, "first") == 1
    assert here.renew(Version(9)) == 0
    assert await asked(here, "first") == 9
    here.renew(Version(10))
    for number in range(CONVERSATIONS_LIMIT):
        await asked(here, f"c{number}")
    assert await asked(here, "first") == 10


def test_what_is_remembered_is_bounded_and_told() -> None:
    assert serving().statistics()["conversations_limit"] == CONVERSATIONS_LIMIT


class Slow(Recorder):
    """A provider that waits until it is told to answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = trio.Event(), trio.Event()

    async def complete(self, request: CompletionRequest, **_: object) -> Completion:
        self.requests.append(request)
        self.asked.set()
        await self.go.wait()
        return Completion(text=request.messages[0].text, provider=self.name)


def version(number: int) -> bytes:
    return agent(f"description: v{number}").replace(b"Test.", f"I am {number}.".encode())


async def test_what_runs_when_an_agent_is_replaced_finishes_on_the_old_version_and_nothing_waits() -> None:
    provider = Slow()
    answers: dict[str, Any] = {}
    async with rooms(providers=recorded(provider)) as here, trio.open_nursery() as nursery:
        await here.supervisor.deploy(version(1))

        async def send(name: str) -> None:
            [draft] = await here.send("tester", "x", conversation=name)
            answers[name] = draft.content["answer"]

        nursery.start_soon(send, "old")
        await provider.asked.wait()
        await here.supervisor.deploy(version(2), replace=True)
        assert here.bus.drains == []
        nursery.start_soon(send, "new")
        await trio.testing.wait_all_tasks_blocked()
        provider.go.set()
        while len(answers) < 2:
            await trio.lowlevel.checkpoint()
        await send("old")
        assert answers == {"old": "I am 1.", "new": "I am 2."}
        assert any("1 conversations finish" in r.text for r in here.supervisor.logs("tester"))
        await here.supervisor.stop("tester")
        await here.supervisor.start("tester")
        await send("old")
        assert answers["old"] == "I am 2."


async def test_an_update_that_cannot_be_announced_leaves_the_old_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    async with rooms(store, providers=recorded(Recorder())) as here:
        await here.supervisor.deploy(version(1))

        def refuse(*_: object, **__: object) -> None:
            raise ResourceLimitExceeded("the entry is too large")

        monkeypatch.setattr(here.registry, "publish", refuse)
        with pytest.raises(ResourceLimitExceeded):
            await here.supervisor.deploy(version(2), replace=True)
        assert here.supervisor.get("tester").description == "v1"
        [(content,)] = list(store.connection.execute("SELECT content FROM agents"))
        assert content == version(1)
