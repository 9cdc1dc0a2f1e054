"""Messages in and out of real nodes as they come: lines, events, and mailboxes that outlive both ends."""

import json

import trio

from tests.acceptance.agents import ECHO
from tests.acceptance.processes import eventually
from tests.node.http.socket_client import SocketClient


def lines(node, values, **parameters):
    """Send messages as lines; returns what the node told of them, as lines."""
    body = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    with node.client.stream("POST", "/messages/stream", content=iter([body]), params=parameters) as answer:
        assert answer.status_code == 200
        return [json.loads(line) for line in answer.iter_lines()]


def events(node, path, count, **options):
    """The first events of a stream, as (event, id, data); fewer if it ends before."""
    found, fields = [], {}
    with node.client.stream("GET", path, **options) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            name, colon, value = line.partition(": ")
            if colon and name:
                fields[name] = value
            elif not line and fields:
                found.append((fields["event"], fields.get("id"), json.loads(fields["data"])))
                fields = {}
                if len(found) == count:
                    break
    return found


def test_lines_are_accepted_told_and_answered_across_nodes(cluster):
    a, b = cluster.start("a", "b")
    b.deploy(ECHO)
    cluster.wait_for_providers([a], echo=["b"])
    asked = [{"capability": "echo", "content": n, "conversation_id": "talk"} for n in range(50)]
    told = lines(a, [*asked, {"content": "to nobody"}], wait=30)
    receipts = [line for line in told if "status" in line]
    replies = {line["line"]: line["reply"] for line in told if "reply" in line}
    assert [line["line"] for line in receipts] == list(range(1, 52))
    assert receipts[-1]["error"]["details"]["field"] == "receiver"
    assert sorted(replies) == list(range(1, 51)), told
    assert {reply["sender"].partition("@")[2] for reply in replies.values()} == {"b"}
    happened = [name for name, _, _ in events(a, f"/messages/{receipts[0]['message_id']}/events", 100)]
    assert (happened[0], happened[-1]) == ("accepted", "end")
    assert "reply" in happened


def test_nothing_is_lost_while_client_and_node_go_and_come(cluster):
    a, b = cluster.start("a", "b")
    assert b.client.put("/mailboxes/orders").status_code == 201
    letters = [
        {"performative": "inform", "receiver": "orders@b", "content": n, "conversation_id": "orders"}
        for n in range(40)
    ]
    assert {line["status"] for line in lines(a, letters[:20])} == {"routed"}
    path = "/mailboxes/orders/events"
    first = events(b, path, 12)
    assert [data["message"]["content"] for _, _, data in first] == list(range(12))
    acknowledged = {"Last-Event-ID": first[7][1]}
    again = events(b, path, 4, headers=acknowledged)
    assert [data["message"]["content"] for _, _, data in again] == [8, 9, 10, 11]
    b.kill()
    lines(a, letters[20:])
    b.start(a)
    eventually(lambda: b.get("/mailboxes")["mailboxes"][0]["held"] == 32, within=60)
    rest = events(b, path, 32)
    assert [data["message"]["content"] for _, _, data in rest] == list(range(8, 40))
    done = b.post("/mailboxes/orders/acknowledgements", {"up_to": rest[-1][1]})
    assert done == {"acknowledged": 32, "held": 0}
    eventually(lambda: a.get("/status")["unsettled_by_node"] == {}, within=30)


def test_a_websocket_loses_nothing_over_disconnects_and_a_restart(cluster):
    a, b = cluster.start("a", "b")
    assert b.client.put("/mailboxes/orders").status_code == 201

    def port(node):
        return node.ports["server.port"]

    async def send(count):
        client = await SocketClient.open(port(a), token=cluster.token)
        for n in range(count):
            message = {"performative": "inform", "receiver": "orders@b", "content": n, "conversation_id": "o"}
            await client.send({"type": "send", "id": n, "message": message})
        assert [(await client.expect("accepted"))["id"] for _ in range(count)] == list(range(count))
        await client.close()

    async def read(count, acknowledge):
        client = await SocketClient.open(port(b), token=None)
        await client.send({"type": "hello", "token": cluster.token})
        await client.send({"type": "subscribe", "mailbox": "orders"})
        found = await client.messages(count)
        numbers = [frame["delivery"] for frame in found[:acknowledge]]
        await client.send({"type": "ack", "delivery": numbers})
        await client.close()  # in the middle: more is on its way
        return [frame["message"]["content"] for frame in found]

    trio.run(send, 50)
    assert trio.run(read, 20, 10) == list(range(20))
    eventually(lambda: b.get("/mailboxes")["mailboxes"][0]["held"] == 40, within=30)
    assert trio.run(read, 12, 5) == list(range(10, 22))
    eventually(lambda: b.get("/mailboxes")["mailboxes"][0]["held"] == 35, within=30)
    b.kill()
    b.start(a)
    assert trio.run(read, 35, 35) == list(range(15, 50))
    eventually(lambda: b.get("/mailboxes")["mailboxes"][0]["held"] == 0, within=30)
    eventually(lambda: a.get("/status")["unsettled_by_node"] == {}, within=30)
