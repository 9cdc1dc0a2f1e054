"""Requests travel to whoever offers the capability, and each is answered, whoever dies meanwhile."""

import base64
import csv
import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance.agents import ECHO, RANKER, scripted, write_worker
from tests.acceptance.processes import CONFIGS, eventually

SALES = CONFIGS / "demo" / "sales.csv"


def send_many(node, number, **fields):
    """Send so many requests at once, faster than they are worked off; returns the accepted messages' ids."""
    with ThreadPoolExecutor(8) as pool:
        receipts = pool.map(lambda n: node.send("slow-work", n, **fields), range(number))
        return [receipt["message_id"] for receipt in receipts]


def answers(node, message_id):
    """The replies to a message that counted at its origin."""
    return [reply for reply in node.message(message_id)["replies"] if reply["state"] != "late"]


def all_answered(node, ids):
    """Wait until every message has ended and has its answer; fails on the first that has two."""

    def is_answered(message_id):
        found = node.message(message_id)
        counted = [reply for reply in found["replies"] if reply["state"] != "late"]
        assert len(counted) <= 1, found
        return found["outcome"] is not None and counted

    for message_id in ids:
        eventually(lambda message_id=message_id: is_answered(message_id), within=40)


def performatives(node, ids):
    """How the messages were answered, counted; what came late, after another answer, does not count."""
    found = Counter()
    for message_id in ids:
        shown = node.get(f"/conversations/{node.message(message_id)['conversation_id']}")["messages"]
        replies = [m for m in shown if m.get("in_reply_to") == message_id and m["status"] != "late"]
        found.update(reply["performative"] for reply in replies)
    return found


@pytest.fixture(scope="module")
def three(shared_cluster, tmp_path_factory):
    """One sender, and two nodes that offer what it wants."""
    files = tmp_path_factory.mktemp("agents")
    nodes = shared_cluster.start("a", "b", "c", settings=scripted(files))
    _, b, c = nodes
    for node, priority in ((b, 90), (c, 10)):
        node.deploy(RANKER)
        node.deploy(write_worker(files))
        node.deploy(write_worker(files, "Favourite", "weighing", priority))
    c.deploy(ECHO)
    shared_cluster.wait_for_providers(nodes, sales_ranking=["b", "c"], slow_work=["b", "c"])
    shared_cluster.wait_for_providers(nodes, weighing=["b", "c"], echo=["c"])
    return nodes


def test_a_request_is_answered_by_another_node_from_the_file_that_travels_with_it(three):
    a = three[0]
    raw = SALES.read_bytes()
    attached = {"name": "sales.csv", "media_type": "text/csv", "base64": base64.b64encode(raw).decode()}
    content = {"action": "aggregate", "operation": "sum", "column": "quantity", "by": "region"}
    found = a.request("data-aggregation", content, attachments=[attached])
    reply = found["reply"]
    assert reply["performative"] == "inform"
    assert reply["sender"] in {"sales-ranker@b", "sales-ranker@c"}
    assert found["routed_to"] == [reply["sender"]]
    totals = Counter()
    for row in csv.DictReader(io.StringIO(raw.decode())):
        totals[row["region"]] += int(row["quantity"] or 0)
    [answer] = reply["content"]["results"]
    assert {group["name"]: group["value"] for group in answer["result"]["groups"]} == totals


def test_best_match_takes_the_provider_of_the_highest_priority(three):
    a = three[0]
    assert {a.request("weighing", n)["reply"]["sender"] for n in range(5)} == {"favourite@b"}


def test_load_balanced_spreads_over_the_providers(three):
    a = three[0]
    with ThreadPoolExecutor(16) as pool:
        requests = [
            pool.submit(a.request, "slow-work", number, routing_strategy="load_balanced")
            for number in range(48)
        ]
        senders = Counter(request.result()["reply"]["sender"] for request in requests)
    assert senders.keys() == {"worker@b", "worker@c"}
    assert min(senders.values()) >= 12, senders


def test_broadcast_asks_all_providers_and_gathers_their_replies(three):
    a = three[0]
    found = a.request("slow-work", "all of you", routing_strategy="broadcast")
    assert sorted(reply["sender"] for reply in found["replies"]) == ["worker@b", "worker@c"]
    assert all(reply["performative"] == "inform" for reply in found["replies"])
    assert sorted(found["routed_to"]) == ["worker@b", "worker@c"]


def test_a_webassembly_agent_answers_across_nodes(three):
    a = three[0]
    content = {"hello": "world", "n": [1, 2, 3]}
    reply = a.request("echo", content)["reply"]
    assert (reply["performative"], reply["sender"]) == ("inform", "echo-agent@c")
    assert reply["content"]["echo"] == content


def test_an_agent_is_reached_by_its_address_and_by_its_name(three):
    a = three[0]
    for receiver in ("echo-agent@c", "echo-agent"):
        body = {"receiver": receiver, "content": "you", "wait_s": 20}
        assert a.post("/messages", body)["reply"]["sender"] == "echo-agent@c"


def test_a_conversation_shows_both_sides(three):
    a = three[0]
    found = a.request("echo", "one")
    shown = a.get(f"/conversations/{found['conversation_id']}")
    assert [m["performative"] for m in shown["messages"]] == ["request", "inform"]


def test_when_nobody_can_answer_the_sender_gets_failure_with_relatives_and_a_dead_letter_stays(three):
    a = three[0]
    found = a.request("sales-rankings", 1)
    reply = found["reply"]
    assert (reply["performative"], reply["sender"]) == ("failure", "system@a")
    assert reply["content"]["code"] == "CAPABILITY_NOT_FOUND"
    details = reply["content"]["details"]
    assert details["wanted"] == "sales-rankings"
    assert {"capability": "sales-ranking", "agents": 2} in details["related"]
    assert details["suggestions"][0] == "sales-ranking"
    assert "sales-ranking" in reply["content"]["fix"]
    letters = {letter["message_id"]: letter for letter in a.get("/dead-letters")["dead_letters"]}
    letter = letters[found["message_id"]]
    assert "sales-rankings" in str(letter["history"])
    assert letter["reason"]


def test_a_message_waits_for_a_provider_that_comes_in_time(three, tmp_path):
    a, b, _ = three
    message_id = a.send("late-work", 1)["message_id"]
    assert a.message(message_id)["status"] == "waiting"
    b.deploy(write_worker(tmp_path, "Latecomer", "late-work"))
    all_answered(a, [message_id])
    assert performatives(a, [message_id]) == {"inform": 1}


def test_requests_unsettled_on_a_node_that_is_killed_are_answered_by_another(cluster, tmp_path):
    a, b, c = cluster.start("a", "b", "c", settings=[*scripted(tmp_path), ("runtime.agent_concurrency", 2)])
    for node in (b, c):
        node.deploy(write_worker(tmp_path))
    cluster.wait_for_providers([a, b, c], slow_work=["b", "c"])
    ids = send_many(a, 40, routing_strategy="load_balanced")
    victim = eventually(
        lambda: next((n for n in (b, c) if a.get("/status")["unsettled_by_node"].get(n.name, 0) >= 10), None),
        every=0.01,
    )
    survivor = c if victim is b else b
    victim.kill()
    all_answered(a, ids)
    assert performatives(a, ids) == {"inform": 40}
    moved = [i for i in ids if any(r["to"].endswith(f"@{victim.name}") for r in a.message(i)["routes"])]
    redone = [i for i in moved if answers(a, i)[0]["from"] == f"worker@{survivor.name}"]
    assert len(redone) >= 5, "work that was unsettled on the victim is done again by the survivor"
    assert a.get("/dead-letters")["dead_letters"] == []

    # What the victim had done unheard is told when it comes back, and counts no second time.
    victim.start(a)
    cluster.wait_for_each_other(a, b, c)
    eventually(lambda: a.get("/status")["unsettled_by_node"].get(victim.name, 0) == 0)
    all_answered(a, ids)
    assert max(len(answers(a, i)) for i in ids) == 1


def test_requests_unsettled_on_a_node_that_leaves_are_answered_by_it_or_by_another(cluster, tmp_path):
    a, b, c = cluster.start("a", "b", "c", settings=[*scripted(tmp_path), ("runtime.agent_concurrency", 2)])
    for node in (b, c):
        node.deploy(write_worker(tmp_path))
    cluster.wait_for_providers([a], slow_work=["b", "c"])
    ids = send_many(a, 40, routing_strategy="load_balanced")
    eventually(lambda: a.get("/status")["unsettled_by_node"].get("b", 0) >= 10, every=0.01)
    b.stop()
    all_answered(a, ids)
    assert performatives(a, ids) == {"inform": 40}


def test_a_sender_that_is_killed_with_a_full_outbox_loses_nothing(cluster, tmp_path):
    settings = [*scripted(tmp_path), ("runtime.agent_concurrency", 64), ("messaging.outbox_capacity", 600)]
    a, b = cluster.start("a", "b", settings=settings)
    b.deploy(write_worker(tmp_path))
    cluster.wait_for_providers([a], slow_work=["b"])
    b.pause()
    ids = send_many(a, 300)  # half of the outbox: more of it one capability does not get
    refused = a.client.post("/messages", json={"capability": "slow-work"})
    assert refused.status_code == 429, "its share of the outbox is full"
    assert refused.json()["code"] == "RESOURCE_LIMIT_EXCEEDED"
    a.kill()
    a.start()
    assert {a.message(i)["outcome"] for i in ids} == {None}, (
        "nothing was answered by a provider that stands still"
    )
    b.resume()
    cluster.wait_for_each_other(a, b)
    all_answered(a, ids)
    assert performatives(a, ids) == {"inform": 300}
    status = a.get("/status")
    assert sum(status["unsettled_by_node"].values()) == 0
    assert a.get("/dead-letters")["dead_letters"] == []


def test_both_ends_killed_in_the_middle_of_the_work_lose_nothing(cluster, tmp_path):
    a, b = cluster.start("a", "b", settings=scripted(tmp_path))
    b.deploy(write_worker(tmp_path))
    cluster.wait_for_providers([a], slow_work=["b"])
    ids = send_many(a, 40)
    eventually(lambda: any(a.message(i)["outcome"] for i in ids))
    b.kill()
    a.kill()
    b.start(a, wait=False)
    a.start(b)
    b.wait_ready()
    cluster.wait_for_each_other(a, b)
    all_answered(a, ids)
    assert performatives(a, ids) == {"inform": 40}
