from __future__ import annotations

import base64
import contextlib
import json
from html.parser import HTMLParser
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from node.http.strict_json import strict_json
from node.messaging.settings import TTL_LIMIT_S
from tests.node.http.fakes import SENDER, START, World

MESSAGE = {"capability": "echo", "content": {"action": "analyze"}}


async def test_health_needs_no_token_and_says_who_answers() -> None:
    async with World().client(token=None) as client:
        body = (await client.get("/health")).json()
    assert set(body) == {"status", "version", "node", "agents_count", "uptime", "ready"}
    assert (body["status"], body["node"], body["ready"]) == ("healthy", "alpha", True)


async def test_status_and_cluster_show_what_the_rooms_count() -> None:
    async with World().client() as client:
        status = (await client.get("/status")).json()
        members = (await client.get("/cluster/members")).json()
        cluster = (await client.get("/cluster/status")).json()
    assert status["unsettled_by_node"] == {"beta": 2}
    assert (status["http"]["requests"], status["http"]["in_flight"], status["http"]["body_bytes"]) == (
        1,
        1,
        0,
    )
    assert status["rooms"] == {"storage": {"bytes": 1}}
    assert [m["name"] for m in members["members"]] == ["alpha", "beta"]
    assert cluster["members_by_state"] == {"alive": 1, "suspect": 1}
    assert (cluster["agents_count"], cluster["capabilities"]) == (1, {"echo": 1})
    assert (cluster["joined"], cluster["events"][0]["seed"]) == (False, "10.0.0.9:7946")


async def test_every_view_of_the_cluster_says_on_which_side_of_a_partition_it_was_taken() -> None:
    async with World().client() as client:
        for path in ("/status", "/cluster/members", "/cluster/status"):
            body = (await client.get(path)).json()
            assert body["partition_state"] == "majority"
            assert body["partition"] == {"state": "majority", "up": 2, "remembered": 3}


async def test_why_a_member_is_held_for_what_it_is_can_be_asked() -> None:
    async with World().client() as client:
        story = (await client.get("/cluster/members/beta/why")).json()
        missing = await client.get("/cluster/members/betta/why")
        hostile = await client.get("/cluster/members/" + "x" * 500 + "/why")
    assert (story["node"], story["name"], story["doubted_by"]) == ("alpha", "beta", ["alpha"])
    assert story["findings"][0]["what"] == "suspected"
    assert (missing.status_code, missing.json()["code"]) == (404, "MEMBER_NOT_FOUND")
    assert "beta" in missing.json()["error"]["fix"]
    assert len(hostile.json()["error"]["message"]) < 200


async def test_who_cannot_reach_whom_and_what_is_counted_can_be_asked() -> None:
    async with World().client() as client:
        reach = (await client.get("/cluster/reachability")).json()
        counted = (await client.get("/cluster/statistics")).json()
    assert reach["unreachable"] == [{"node": "alpha", "cannot_reach": ["beta"], "count": 1}]
    assert reach["lost_paths"] == []
    assert (counted["swim"]["members_alive"], counted["maps"]["owners"]) == (1, 2)
    assert counted["partition"]["remembered"] == 3


async def test_shutdown_is_asked_of_the_node() -> None:
    world = World()
    async with world.client() as client:
        assert (await client.post("/shutdown")).status_code == 202
    assert world.stopped == 1


async def test_sending_answers_with_a_receipt_once_the_message_is_accepted() -> None:
    world = World()
    async with world.client(SENDER) as client:
        answer = await client.post("/messages", json=MESSAGE | {"performative": "REQUEST", "ttl_s": 60})
    [(message, _, ttl_s)] = world.bus.accepted
    assert answer.status_code == 202
    assert answer.json() == {
        "message_id": message.id,
        "conversation_id": message.id,
        "routed_to": ["worker@beta"],
        "routing_strategy": "best_match",
        "status": "accepted",
        "timestamp": "2023-11-14T22:13:20.000Z",
    }
    assert (message.sender, message.performative, ttl_s) == ("client@alpha", "request", 60)
    assert message.timestamp_s >= START


@pytest.mark.parametrize("how", ["query", "body"])
async def test_waiting_answers_with_the_reply(how: str) -> None:
    async with World().client() as client:
        if how == "query":
            answer = await client.post("/messages?wait=2.5", json=MESSAGE)
        else:
            answer = await client.post("/messages", json=MESSAGE | {"wait_s": 2})
    body = answer.json()
    assert (answer.status_code, body["status"]) == (200, "answered")
    assert body["reply"]["content"] == {"echo": MESSAGE["content"]}
    assert body["routed_to"] == ["worker@beta"]


@pytest.mark.parametrize("strategy", ["best_match", "broadcast"])
async def test_the_life_of_a_message_holds_when_its_reply_is_waited_for(strategy: str) -> None:
    world = World()
    async with world.client() as client:
        body = MESSAGE | {"routing_strategy": strategy, "ttl_s": 7}
        assert (await client.post("/messages?wait=2", json=body)).status_code == 200
    assert [ttl_s for _, _, ttl_s in world.bus.accepted] == [7]


@pytest.mark.parametrize(("ttl_s", "status"), [(TTL_LIMIT_S, 202), (TTL_LIMIT_S + 1, 400)])
async def test_the_longest_life_is_that_of_messaging(ttl_s: float, status: int) -> None:
    async with World().client() as client:
        answer = await client.post("/messages", json=MESSAGE | {"ttl_s": ttl_s})
    assert answer.status_code == status
    assert status == 202 or answer.json()["details"]["field"] == "ttl_s"


async def test_a_broadcast_gathers_the_replies() -> None:
    async with World().client() as client:
        answer = await client.post("/messages?wait=2", json=MESSAGE | {"routing_strategy": "broadcast"})
    assert [r["sender"] for r in answer.json()["replies"]] == ["worker@beta", "worker@gamma"]


async def test_no_reply_names_the_message_that_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    world.bus.delay_s = 10
    async with world.client() as client:
        answer = await client.post("/messages?wait=1", json=MESSAGE)
        assert (answer.status_code, answer.json()["code"]) == (504, "NO_REPLY")
        identifier = answer.json()["details"]["message_id"]
        assert (await client.get(f"/messages/{identifier}")).json()["message_id"] == identifier


async def test_messages_conversations_and_dead_letters_can_be_looked_up() -> None:
    async with World().client() as client:
        sent = (await client.post("/messages", json=MESSAGE | {"conversation_id": "c1"})).json()
        found = (await client.get(f"/messages/{sent['message_id']}")).json()
        talk = (await client.get("/conversations/c1")).json()
        dead = (await client.get("/dead-letters?limit=2")).json()
        missing = await client.get("/messages/none")
    assert found["routed_to"] == ["worker@beta"]
    assert [m["message_id"] for m in talk["messages"]] == [sent["message_id"]]
    assert len(dead["dead_letters"]) == 2
    assert (missing.status_code, missing.json()["code"]) == (404, "MESSAGE_NOT_FOUND")


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"performative": "requst"}, "performative", "request"),
        ({"routing_strategy": "bestmatch"}, "routing_strategy", "best_match"),
        ({"capabilty": "echo"}, "capabilty", "capability"),
        ({"capability": "Data Analysis"}, "capability", "kebab-case"),
        ({"receiver": "worker"}, "receiver", "exactly one"),
        ({"load_algorithm": "roundrobin"}, "load_algorithm", "round_robin"),
        (
            {"load_algorithm": "performance", "routing_strategy": "broadcast"},
            "load_algorithm",
            "load_balanced",
        ),
        ({"routing_preferences": {"strategy": "brodcast"}}, "routing_strategy", "broadcast"),
        ({"routing_preferences": {"strateg": "x"}}, "routing_preferences.strateg", "strategy"),
        ({"fallback_versions": ["one"]}, "fallback_versions", "v?"),
        ({"fallback_versions": "v1"}, "fallback_versions", "list"),
        ({"fallback_versions": ["v1"] * 9}, "fallback_versions", "8"),
        (
            {"fallback_versions": ["v1"], "capability": None, "receiver": "w"},
            "fallback_versions",
            "capability",
        ),
        ({"delivery": "exactly_once"}, "delivery", "at_most_once"),
        ({"capability": None}, "receiver", "exactly one"),
        ({"priority": 10}, "priority", "9"),
        ({"priority": "5"}, "priority", "whole number"),
        ({"priority": True}, "priority", "whole number"),
        ({"reply_by": "tomorrow"}, None, "ISO 8601"),
        ({"reply_by": "2026-01-01T00:00:00"}, None, "time zone"),
        ({"sender": "client@beta"}, "sender", "client@alpha"),
        ({"sender": "two words"}, "sender", "address"),
        ({"wait_s": 1e9}, "wait_s", "300"),
        ({"wait_s": 0}, "wait_s", "it must be above 0"),
        ({"attachments": [{"name": "../x", "text": "a"}]}, "attachments", "plain file name"),
        ({"attachments": [{"name": "x", "base64": "%"}]}, "attachments", "decoded"),
        ({"attachments": [{"name": "x", "txt": "a"}]}, "attachments.0.txt", "text"),
        ({"attachments": [{"name": "x", "text": "a"}] * 17}, "attachments", "16"),
    ],
)
async def test_a_wrong_message_is_refused_with_field_and_fix(
    change: dict[str, Any], field: str | None, says: str
) -> None:
    world = World()
    async with world.client() as client:
        answer = await client.post("/messages", json=MESSAGE | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "VALIDATION_ERROR")
    assert error["details"].get("field") == field
    assert says in f"{error['message']} {error['why']} {error['fix']}"
    assert world.bus.accepted == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"capability": "echo",\n  oops}', "line 2, column 3"),
        (b'{"content": NaN}', "NaN is not a JSON value"),
        (b'{"a": 1, "a": 2}', "there twice"),
        (b'{"content": "\\ud800"}', "surrogate"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "too deep"),
        (b'{"content": ' + b"1" * 5000 + b"}", "digits"),
        (b"", "there is no body"),
        (b"[]", "object"),
        (b"null", "object"),
    ],
)
async def test_a_body_that_is_not_json_is_refused_with_its_place(body: bytes, why: str) -> None:
    async with World(limit_bytes=200_000).client() as client:
        answer = await client.post("/messages", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert why in answer.json()["error"]["why"]


async def test_deep_content_is_refused() -> None:
    async with World().client() as client:
        answer = await client.post(
            "/messages",
            content=b'{"capability": "echo", "content": ' + b"[" * 500 + b"]" * 500 + b"}",
            headers={"content-type": "application/json"},
        )
    assert (answer.status_code, answer.json()["details"]["field"]) == (400, "content")


async def test_a_body_of_another_type_is_refused() -> None:
    async with World().client() as client:
        answer = await client.post("/messages", content=b"{}", headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_nobody_sends_under_the_name_of_an_agent() -> None:
    async with World().client() as client:
        await client.post("/agents", json={"content": "x", "name": "worker"})
        answer = await client.post("/messages", json=MESSAGE | {"sender": "worker"})
    assert answer.status_code == 403


@pytest.mark.parametrize("prefix", ["/agents", "/config-agents"])
async def test_the_life_of_an_agent(prefix: str) -> None:
    world = World()
    deployment = {
        "content": "---\nname: w\n---",
        "name": "worker",
        "filename": "w.md",
        "artifacts": {"w.wasm": base64.b64encode(b"\0asm").decode()},
    }
    async with world.client() as client:
        assert (await client.post(prefix, json=deployment)).status_code == 201
        again = await client.post(prefix, json=deployment)
        assert (again.status_code, again.json()["code"]) == (409, "AGENT_ALREADY_EXISTS")
        assert (await client.post(prefix, json=deployment | {"replace": True})).status_code == 201
        assert (await client.get(f"{prefix}/worker")).json()["status"] == "running"
        stopped = await client.post(f"{prefix}/worker/stop", json={"grace_period_seconds": 1})
        assert stopped.json()["status"] == "stopped"
        assert (await client.post(f"{prefix}/worker/stop")).status_code == 200
        assert (await client.get(f"{prefix}?status=stopped")).json()["total"] == 1
        assert (await client.get(f"{prefix}?status=running")).json()["total"] == 0
        assert (await client.post(f"{prefix}/worker/start")).json()["status"] == "running"
        assert (await client.delete(f"{prefix}/worker?force=true")).status_code == 204
        assert (await client.get(f"{prefix}/worker")).status_code == 404
    assert world.agents.forced


async def test_artifacts_arrive_as_bytes_beside_the_file() -> None:
    world = World()
    encoded = base64.b64encode(b"\0asm").decode()
    async with world.client() as client:
        await client.post("/agents", json={"content_base64": encoded, "name": "w", "filename": "w.wasm"})
        wrong = await client.post("/agents", json={"content": "x", "artifacts": {"a.wasm": "%"}})
        both = await client.post("/agents", json={"content": "x", "content_base64": encoded})
        path = await client.post("/agents", json={"content": "x", "filename": "../../etc/passwd"})
    assert world.agents.agents["w"].files == {"w.wasm": b"\0asm"}
    assert wrong.json()["details"]["field"] == "artifacts.a.wasm"
    assert [a.status_code for a in (wrong, both, path)] == [400, 400, 400]


async def test_a_broken_agent_file_says_line_and_column() -> None:
    async with World().client() as client:
        answer = await client.post("/agents", json={"content": "broken"})
    assert answer.status_code == 422
    assert answer.json()["details"]["problems"] == [{"line": 2, "column": 1}]


async def test_lists_are_paged_and_filtered() -> None:
    async with World().client() as client:
        for number in range(5):
            await client.post("/agents", json={"content": "x", "name": f"a{number}"})
        page = (await client.get("/agents?capability=echo&limit=2&offset=3")).json()
        none = (await client.get("/agents?capability=other")).json()
        wrong = [
            await client.get(f"/agents?{query}") for query in ("limit=201", "offset=-1", "limit=x", "limt=1")
        ]
    assert [a["name"] for a in page["agents"]] == ["a3", "a4"]
    assert (page["total"], none["total"]) == (5, 0)
    assert [a.status_code for a in wrong] == [400] * 4
    assert "limit" in wrong[-1].json()["error"]["fix"]


async def test_logs_take_a_time_or_a_duration() -> None:
    async with World().client() as client:
        await client.post("/agents", json={"content": "x", "name": "w"})
        by_time = (await client.get("/agents/w/logs?since=2023-11-14T22:13:20Z&level=error")).json()
        by_span = (await client.get("/agents/w/logs?since=1h")).json()
        wrong = [await client.get(f"/agents/w/logs?{q}") for q in ("since=soon", "tail=1001", "level=loud")]
    assert by_time["records"][0]["since_s"] == START
    assert by_time["records"][0]["level"] == "error"
    assert by_span["records"][0]["since_s"] == START - 3600
    assert [a.status_code for a in wrong] == [400] * 3
    assert "90s" in wrong[0].json()["error"]["fix"]


async def test_capabilities_name_their_providers_and_their_neighbours() -> None:
    async with World().client() as client:
        every = (await client.get("/capabilities")).json()
        one = (await client.get("/capabilities/echo")).json()
        missing = await client.get("/capabilities/ecco")
        wrong = await client.get("/capabilities/Not%20One")
    assert every["capabilities"][0] | {"chosen": one["chosen"]} == one
    assert one["providers"][0]["node"] == "beta"
    assert (missing.status_code, missing.json()["details"]["related"]) == (
        404,
        [{"capability": "echo", "agents_count": 1}],
    )
    assert wrong.status_code == 400


async def test_the_description_names_permissions_and_no_422() -> None:
    async with World().client(token=None) as client:
        described = (await client.get("/openapi.json")).json()
    send = described["paths"]["/api/v1/messages"]["post"]
    assert send["x-permission"] == "SendMessage"
    assert "422" not in send["responses"]
    assert described["paths"]["/api/v1/health"]["get"]["security"] == []


async def test_the_human_page_loads_and_runs_nothing() -> None:
    async with World().client(token=None) as client:
        answer = await client.get("/docs")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            assert not any(name in ("src", "style") or name.startswith("on") for name, _ in attrs)

    Tags().feed(answer.text)
    assert not {"script", "link", "img", "iframe"} & set(tags)
    assert "/api/v1/dead-letters" in answer.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON)
def test_strict_json_reads_what_any_json_writer_writes(value: Any) -> None:
    try:
        written = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert strict_json(written) == value
    assert strict_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_strict_json_raises_nothing_but_its_own_error(body: bytes) -> None:
    with contextlib.suppress(json.JSONDecodeError):
        strict_json(body)


async def test_gossip_keys_are_changed_with_an_admins_token_only() -> None:
    world = World()
    async with world.client() as client:
        assert (await client.get("/cluster/keys?timeout_s=2")).json()["operation"] == "list"
        assert (await client.post("/cluster/keys", json={"operation": "install"})).status_code == 200
        change = {"operation": "use", "key_id": "00000001", "force": True, "timeout_s": 3}
        assert (await client.post("/cluster/keys", json=change)).json()["node"] == "alpha"
        unknown = await client.post("/cluster/keys", json={"operation": "remove", "key_id": "00000002"})
    assert world.members.keys.asked == [("list", 2.0), ("install", 10.0), ("use", "00000001", 3.0, True)]
    assert (unknown.status_code, unknown.json()["code"]) == (404, "GOSSIP_KEY_NOT_FOUND")
    async with world.client(SENDER) as client:
        assert (await client.post("/cluster/keys", json={"operation": "install"})).status_code == 403


async def test_a_member_is_given_up_with_an_admins_token_only() -> None:
    world, path = World(), "/cluster/members/gamma/forget"
    async with world.client() as client:
        answer = await client.post(path, json={"force": True})
        assert (answer.status_code, answer.json()["partition"]["up"]) == (200, 2)
        assert (await client.post(path, json={})).json()["name"] == "gamma"
        assert (await client.post(path, json={"force": "yes"})).status_code == 400
        refused = await client.post("/cluster/members/beta/forget", json={})
    assert (refused.status_code, refused.json()["code"]) == (409, "FORGET_REFUSED")
    async with world.client(SENDER) as client:
        assert (await client.post(path, json={})).status_code == 403
    assert world.members.forgetting.asked == [("gamma", True), ("gamma", False)]


async def test_a_revocation_is_taken_with_an_admins_token_only_and_shown_to_all() -> None:
    world, path = World(), "/cluster/revocations"
    signed = {"revocation": base64.b64encode(b"signed").decode()}
    async with world.client() as client:
        taken = await client.post(path, json=signed)
        assert (taken.status_code, taken.json()["name"], taken.json()["node"]) == (200, "gamma", "alpha")
        forged = await client.post(path, json={"revocation": base64.b64encode(b"forged").decode()})
        assert (forged.status_code, forged.json()["code"]) == (422, "REVOCATION_INVALID")
        for wrong in (
            {},
            {"revocation": ""},
            {"revocation": "%"},
            {"revocation": "A" * 513},
            {"revocation": 1},
        ):
            answer = await client.post(path, json=wrong)
            assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")
        assert len((await client.get(path)).json()["revocations"]) == 1
    async with world.client(SENDER) as client:
        assert (await client.post(path, json=signed)).status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {"operation": "install", "key_id": "00000001"},
        {"operation": "use"},
        {"operation": "use", "key_id": "0000000G"},
        {"operation": "use", "key_id": "00" * 32},
        {"operation": "list"},
        {"operation": "install", "key": "00" * 32},
        {"operation": "install", "timeout_s": 0},
        {"operation": "install", "timeout_s": 1e9},
        {"operation": "install", "force": "yes"},
    ],
)
async def test_a_change_of_keys_that_makes_no_sense_is_refused(body: dict[str, Any]) -> None:
    world = World()
    async with world.client() as client:
        answer = await client.post("/cluster/keys", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR")
    assert world.members.keys.asked == []


async def test_a_capability_is_shown_with_its_versions_and_who_would_be_chosen() -> None:
    world = World()
    async with world.client() as client:
        found = (await client.get("/capabilities/echo?strategy=least-loaded")).json()
        unknown = await client.get("/capabilities/echo?strategy=bestmatch")
        odd = await client.get("/capabilities/echo?version=two")
    assert found["versions"] == [{"version": None, "agents_count": 1}]
    assert found["providers"][0]["offers"] == "echo"
    assert (found["chosen"]["targets"], found["chosen"]["strategy"]) == (["worker@beta"], "load_balanced")
    assert unknown.json()["error"]["details"]["nearest"] == "best_match"
    assert (odd.status_code, odd.json()["details"]["field"]) == (400, "version")
