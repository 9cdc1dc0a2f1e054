"""Agents are deployed all or nothing, survive a restart, and answer messages from end to end."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from node.agents.settings import AgentSettings
from node.errors import (
    AgentAlreadyExists,
    AgentInvalid,
    AgentNotFound,
    InvalidWasm,
    ProviderNotFound,
    ResourceLimitExceeded,
    StorageFailed,
    ValidationFailed,
)
from node.message import Attachment
from node.messaging.client_mailboxes import NameConflict
from node.storage.agents import load_agents
from node.vocabulary import Performative
from tests.node.agents.rooms import FakeRegistry, MemoryStore, Rooms, rooms
from tests.node.agents.test_definition import PUBLISHED, agent
from tests.node.agents.wasm.guests import guest

CONFIGS = Path(__file__).parents[3] / "configs"
SALES = Attachment("sales.csv", "text/csv", (CONFIGS / "demo" / "sales.csv").read_bytes())
ECHO = (CONFIGS / "agents" / "echo.wat").read_bytes()


def sample(name: str) -> bytes:
    return (CONFIGS / "agents" / name).read_bytes()


def fnv1a(data: bytes) -> int:
    checksum = 0x811C9DC5
    for byte in data:
        checksum = (checksum ^ byte) * 0x01000193 % 2**32
    return checksum


def state(here: Rooms, store: MemoryStore) -> object:
    return (
        [info.as_json() for info in here.supervisor.list()],
        sorted(here.bus.handlers),
        dict(here.registry.published),
        load_agents(store.connection),
    )


async def test_the_published_example_is_deployed_with_the_tools_there_are() -> None:
    async with rooms() as here:
        info = (await here.supervisor.deploy(PUBLISHED)).as_json()
        assert (info["id"], info["name"], info["status"]) == ("data-analyzer", "DataAnalyzer", "running")
        assert info["tools"][0] == "csv_analyze"
        assert {"http_get", "chart"} <= set(info["tools"])
        assert not [w["field"] for w in info["warnings"] if w["field"].startswith("tools")]
        assert here.registry.published["data-analyzer"][1] == ("data-analysis", "report-generation")


async def test_an_agent_that_would_share_its_name_with_a_mailbox_is_refused() -> None:
    async with rooms() as here:
        here.bus.mailboxes.names.append("data-analyzer")
        with pytest.raises(NameConflict):
            await here.supervisor.deploy(PUBLISHED)
        assert (here.supervisor.list(), here.supervisor.knows("data-analyzer")) == ([], False)
        here.bus.mailboxes.names.clear()
        await here.supervisor.deploy(PUBLISHED)
        assert here.supervisor.knows("data-analyzer")


async def test_a_request_is_answered_with_the_real_totals_of_the_attached_file() -> None:
    async with rooms() as here:
        await here.supervisor.deploy(sample("data_analyzer.md"))
        [draft] = await here.send("data-analyzer", {"action": "analyze", "file": "sales.csv"}, SALES)
        assert draft.performative is Performative.INFORM
        assert draft.content["provider"] == "builtin"
        result = draft.content["results"][0]["result"]
        lines = SALES.data.decode().splitlines()[1:]
        assert result["rows"] == len(lines)
        total = sum((Fraction(line.rsplit(",", 1)[1]) for line in lines), Fraction(0))
        assert Fraction(str(result["totals"]["revenue"])) == total
        assert any(str(result["totals"]["revenue"]) in fact for fact in draft.content["answer"])
        stats = here.supervisor.get("DataAnalyzer").execution_stats
        assert (stats["total_requests"], stats["successful_requests"]) == (1, 1)


@pytest.mark.parametrize(
    ("file", "capability", "content", "tool"),
    [
        ("sales_ranker.md", "sales-ranking", {"action": "top", "by": "region", "count": 3}, "csv_top"),
        ("sales_ranker.md", "data-aggregation", "average revenue by region", "csv_aggregate"),
        ("record_librarian.md", "record-lookup", {"action": "find", "value": "Headlamp"}, "csv_find"),
        ("data_inspector.md", "data-quality", {"action": "inspect"}, "csv_describe"),
        ("data_analyzer.md", "report-generation", {"action": "report"}, "csv_analyze"),
    ],
)
async def test_every_sample_agent_does_what_its_page_says(
    file: str, capability: str, content: object, tool: str
) -> None:
    async with rooms(settings=AgentSettings(strict=True)) as here:
        info = await here.supervisor.deploy(sample(file))
        assert capability in info.capabilities
        [draft] = await here.send(info.id, content, SALES, capability=capability)
        assert draft.performative is Performative.INFORM
        assert [r["tool"] for r in draft.content["results"]] == [tool]
        assert draft.content["answer"]


async def test_the_echo_agent_answers_from_its_sandbox() -> None:
    async with rooms() as here:
        info = await here.supervisor.deploy(sample("echo.md"), artifacts={"echo.wat": ECHO})
        assert (info.id, info.kind, here.bus.concurrency[info.id]) == ("echo-agent", "wasm", 64)
        [draft] = await here.send("echo-agent", {"hello": "wörld"})
        raw = '{"hello":"wörld"}'.encode()
        assert draft.content == {"echo": {"hello": "wörld"}, "bytes": len(raw), "checksum": fnv1a(raw)}
        assert "echoed a message" in [r.text for r in here.supervisor.logs("echo-agent")]


async def test_a_module_alone_names_its_own_capabilities() -> None:
    async with rooms() as here:
        info = await here.supervisor.deploy(ECHO, filename="my_echo.wat")
        assert (info.id, info.capabilities) == ("my-echo", ("echo",))
        with pytest.raises(ValidationFailed):
            await here.supervisor.deploy(ECHO)


async def test_a_failed_deployment_changes_nothing() -> None:
    store = MemoryStore()
    async with rooms(store, settings=AgentSettings(max_agents=2)) as here:
        await here.supervisor.deploy(sample("data_analyzer.md"))
        await here.supervisor.deploy(sample("echo.md"), artifacts={"echo.wat": ECHO})
        before = state(here, store)
        with pytest.raises(AgentAlreadyExists):
            await here.supervisor.deploy(PUBLISHED)
        with pytest.raises(AgentInvalid):
            await here.supervisor.deploy(b"---\nname: data-analyzer\n---\n", replace=True)
        with pytest.raises(AgentInvalid, match="missing"):
            await here.supervisor.deploy(sample("echo.md"), replace=True)
        with pytest.raises(InvalidWasm):
            await here.supervisor.deploy(sample("echo.md"), artifacts={"echo.wat": b"(module)"}, replace=True)
        with pytest.raises(ProviderNotFound, match="opanai"):
            await here.supervisor.deploy(agent("llm: {provider: opanai}", name="data-analyzer"), replace=True)
        with pytest.raises(ResourceLimitExceeded):
            await here.supervisor.deploy(agent())
        with pytest.raises(ResourceLimitExceeded):
            await here.supervisor.deploy(sample("echo.md"), artifacts={"x": bytes(34_000_000)}, replace=True)
        with pytest.raises(ResourceLimitExceeded):
            await here.supervisor.deploy(b"#" * 5_000_000, replace=True)
        with pytest.raises(ResourceLimitExceeded, match="at most 33,554,432"):
            await here.supervisor.deploy(b"\0asm" + bytes(34_000_000), filename="x.wasm", replace=True)
        store.fails = True
        with pytest.raises(StorageFailed):
            await here.supervisor.deploy(PUBLISHED, replace=True)
        assert state(here, store) == before


async def test_an_agent_is_replaced_without_a_gap_in_its_log() -> None:
    async with rooms() as here:
        first = await here.supervisor.deploy(agent())
        second = await here.supervisor.deploy(agent().replace(b"1.2.3", b"1.3.0"), replace=True)
        assert (first.version, second.version) == ("1.2.3", "1.3.0")
        assert first.registration != second.registration
        assert here.registry.published["tester"][0] == "1.3.0"
        assert [r.text for r in here.supervisor.logs("tester")] == [
            "deployed version 1.2.3",
            "deployed version 1.3.0",
        ]


async def test_agents_come_back_after_a_restart_as_they_were() -> None:
    store = MemoryStore()
    async with rooms(store) as here:
        await here.supervisor.deploy(sample("data_analyzer.md"), workspace="team")
        await here.supervisor.deploy(sample("echo.md"), artifacts={"echo.wat": ECHO}, name="other-echo")
        await here.supervisor.deploy(ECHO, name="BareEcho")
        await here.supervisor.deploy(sample("data_inspector.md"))
        await here.supervisor.stop("data-inspector", grace_s=2.0)
        assert here.bus.drains == [("data-inspector", 2.0)]
        before = {info.id: (info.version, info.status, info.workspace) for info in here.supervisor.list()}
        published = dict(here.registry.published)
    async with rooms(store) as here:
        after = {info.id: (info.version, info.status, info.workspace) for info in here.supervisor.list()}
        assert after == before
        assert here.registry.published == published
        assert sorted(here.bus.handlers) == ["bare-echo", "data-analyzer", "other-echo"]
        await here.supervisor.start("DataInspector")
        assert here.supervisor.get("data-inspector").status == "running"
        [draft] = await here.send("bare-echo", "x")
        assert draft.content["echo"] == "x"


async def test_restored_agents_are_announced_as_one_change_and_withdrawn_as_one() -> None:
    store = MemoryStore()
    names = [f"agent-{number}" for number in range(5)]
    async with rooms(store) as here:
        for name in names:
            await here.supervisor.deploy(agent(name=name))
        published = dict(here.registry.published)
        await here.supervisor.stop("agent-4")
    async with rooms(store) as here:
        assert here.registry.batches == [4]
        assert here.registry.published == {name: published[name] for name in names[:4]}
        await here.supervisor.drain(grace_s=1.0)
        assert here.registry.withdrawn[0] == tuple(names[:4])
        assert here.registry.published == {}


async def test_a_restored_agent_that_does_not_fit_into_the_map_is_shown_and_the_others_are_announced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    async with rooms(store) as here:
        await here.supervisor.deploy(agent())
        await here.supervisor.deploy(agent(name="large"))
    registry = FakeRegistry()
    registry.too_large = ["large"]
    async with rooms(store, registry=registry) as here:
        assert (here.supervisor.get("large").status, here.supervisor.get("tester").status) == (
            "error",
            "running",
        )
        assert "cannot be announced" in here.supervisor.get("large").error
        assert list(registry.published) == ["tester"]
        assert "agent large offers nothing" in caplog.text
        registry.too_large = []
        await here.supervisor.start("large")
        assert list(registry.published) == ["tester", "large"]


@pytest.mark.parametrize("full_between", [False, True])
async def test_a_new_agent_that_cannot_be_announced_is_not_deployed_in_the_least(
    *, full_between: bool
) -> None:
    store = MemoryStore()
    async with rooms(store) as here:
        await here.supervisor.deploy(agent(name="other"))
        before = state(here, store)
        if full_between:  # it is asked whether it fits, and the map fills up while the agent is stored
            here.registry.full_from = "new"
        else:
            here.registry.too_large = ["new"]
        with pytest.raises(ResourceLimitExceeded, match="cannot be announced"):
            await here.supervisor.deploy(agent(name="new"))
        assert state(here, store) == before
        assert not here.supervisor.knows("new")
        here.registry.too_large, here.registry.full_from = [], ""
        await here.supervisor.deploy(agent(name="new"))
        assert "new" in here.registry.published


async def test_an_agent_that_cannot_be_announced_stays_stopped_or_what_it_was() -> None:
    store = MemoryStore()
    async with rooms(store) as here:
        await here.supervisor.deploy(agent(), auto_start=False)
        await here.supervisor.deploy(agent(name="other"))
        before = state(here, store)
        here.registry.too_large = ["tester", "other"]
        with pytest.raises(ResourceLimitExceeded):
            await here.supervisor.start("tester")
        with pytest.raises(ResourceLimitExceeded):
            await here.supervisor.deploy(agent(name="other"), replace=True)
        assert state(here, store) == before


async def test_an_agent_that_cannot_come_back_is_shown_and_the_others_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    async with rooms(store) as here:
        await here.supervisor.deploy(agent())
        await here.supervisor.deploy(agent(name="other"))
    store.connection.execute("UPDATE agents SET content = x'00' WHERE id = 'other'")
    async with rooms(store) as here:
        broken = here.supervisor.get("other")
        assert (broken.status, here.supervisor.get("tester").status) == ("error", "running")
        assert broken.error
        assert "agent other cannot be restored" in caplog.text
        await here.supervisor.deploy(agent(name="other"), replace=True)
        assert here.supervisor.get("other").status == "running"


async def test_stop_start_and_delete() -> None:
    store = MemoryStore()
    async with rooms(store) as here:
        await here.supervisor.deploy(agent(), auto_start=False)
        assert (here.supervisor.get("tester").status, here.bus.handlers) == ("stopped", {})
        await here.supervisor.start("tester")
        await here.supervisor.start("tester")
        assert "tester" in here.bus.handlers
        await here.supervisor.delete("tester", force=True)
        assert (here.bus.handlers, here.bus.drains) == ({}, [("tester", 0.0)])
        assert load_agents(store.connection) == []
        with pytest.raises(AgentNotFound):
            here.supervisor.get("tester")


async def test_an_unknown_agent_is_named_with_the_nearest() -> None:
    async with rooms() as here:
        await here.supervisor.deploy(agent())
        with pytest.raises(AgentNotFound, match="'tester'"):
            await here.supervisor.stop("testr")


async def test_a_node_that_ends_drains_its_agents_and_keeps_them() -> None:
    store = MemoryStore()
    async with rooms(store) as here:
        await here.supervisor.deploy(agent())
        await here.supervisor.deploy(ECHO, name="echo")
        await here.supervisor.drain(grace_s=1.0)
        assert (here.bus.handlers, here.registry.published) == ({}, {})
        assert sorted(here.bus.drains) == [("echo", 1.0), ("tester", 1.0)]
    assert [row.status for row in load_agents(store.connection)] == ["running", "running"]


async def test_what_an_agent_subscribes_to_is_published_and_shown() -> None:
    file = (
        b"---\nname: Listener\nversion: 1.0.0\ntopics: [{topic: orders.#, group: g}]\n"
        b"accepts: content.amount > 100\nsystem_prompt: x\n---\n"
    )
    async with rooms() as here:
        info = (await here.supervisor.deploy(file)).as_json()
        assert here.registry.topics["listener"] == (("orders.#", "g"),)
        assert here.registry.accepts["listener"] == "content.amount > 100"
        assert (info["topics"], info["capabilities"]) == ([{"topic": "orders.#", "group": "g"}], [])


COUNTER = guest(
    """(local $n i32)
      (if (i32.gt_u (local.get $length) (i32.const 2000)) (then (unreachable)))
      (drop (call $load_data (i32.const 2000) (i32.const 1) (i32.const 2100) (i32.const 4)))
      (local.set $n (i32.add (i32.load (i32.const 2100)) (i32.const 1)))
      (i32.store (i32.const 2100) (local.get $n))
      (drop (call $store_data (i32.const 2000) (i32.const 1) (i32.const 2100) (i32.const 4)))
      (call $answer (local.get $n))""",
    imports=("load_data", "store_data"),
)
COUNTING = (
    b"---\nname: Counter\nversion: 1.0.0\ncapabilities: [counting]\nruntime: wasm\nmodule: counter.wat\n"
    b"wasm: {grants: [state], fresh: true, quarantine_after: 2}\n---\n"
)


async def count(here: Rooms, content: object = None) -> object:
    [draft] = await here.send("counter", content, capability="counting")
    return draft.content


async def test_what_a_module_stored_outlives_a_restart_and_a_new_version_and_ends_with_the_agent() -> None:
    store = MemoryStore()
    files = {"counter.wat": COUNTER}
    async with rooms(store) as here:
        await here.supervisor.deploy(COUNTING, artifacts=files)
        assert [await count(here), await count(here)] == [1, 2]
    async with rooms(store) as here:
        assert await count(here) == 3
        await here.supervisor.deploy(COUNTING, artifacts=files, replace=True)
        assert await count(here) == 4
        await here.supervisor.delete("counter")
        await here.supervisor.deploy(COUNTING, artifacts=files)
        assert await count(here) == 1


async def test_a_module_needs_the_grants_of_its_agent_file() -> None:
    async with rooms() as here:
        ungranted = COUNTING.replace(b"grants: [state], ", b"")
        with pytest.raises(InvalidWasm, match="not granted"):
            await here.supervisor.deploy(ungranted, artifacts={"counter.wat": COUNTER})
        with pytest.raises(InvalidWasm, match="not granted"):
            await here.supervisor.deploy(COUNTER, filename="counter.wat")


async def test_a_quarantined_agent_is_seen_and_not_sent_to_until_it_is_started_again() -> None:
    async with rooms() as here:
        await here.supervisor.deploy(COUNTING, artifacts={"counter.wat": COUNTER})
        for _ in range(2):
            await count(here, "x" * 2000)
        info = here.supervisor.get("counter").as_json()
        assert info["status"] == "error"
        assert "quarantined after 2 failures" in info["error"]
        assert here.registry.published == {}
        refused = await count(here)
        assert isinstance(refused, dict)
        assert refused["details"] == {"limit": "quarantine"}
        info = (await here.supervisor.start("counter")).as_json()
        assert (info["status"], "error" in info) == ("running", False)
        assert await count(here) == 1
        assert "counter" in here.registry.published
