from node.message import Performative
from tests.node.messaging.rooms import cluster, echo, pause


async def test_a_request_is_answered_on_its_own_node(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("worker", echo("w"), "work")
        reply = await c["a"].bus.request(c["a"].message(capability="work", content=[1]), timeout_s=5)
        assert (reply.performative, reply.content) == (Performative.INFORM, {"echo": [1], "by": "w"})
        assert reply.sender == "worker@a"


async def test_a_request_is_answered_across_nodes(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["b"].attach("worker", echo("w"), "work")
        message = c["a"].message(capability="work", content="hello")
        reply = await c["a"].bus.request(message, timeout_s=5)
        assert reply.content == {"echo": "hello", "by": "w"}
        await pause(1)
        assert c["a"].bus.unsettled_by_node() == {}
        assert c["b"].bus.unsettled_by_node() == {}
