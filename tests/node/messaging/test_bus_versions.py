"""Which version of a capability the bus gives a message to."""

from node.messaging.explanation import decision
from node.vocabulary import Performative
from tests.node.messaging.asking import ask, send
from tests.node.messaging.rooms import cluster, echo


async def test_a_lower_version_is_taken_when_nobody_has_the_wanted_one(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["a"].attach("old", echo("old"), "work:v1.4")
        c["b"].attach("new", echo("new"), "work:v2")
        fields = {"capability": "work:v3", "fallback_versions": ("v2", "1")}
        assert (await ask(c["a"], **fields)).content["by"] == "new"
        [route] = (await c["a"].bus.history((await send(c["a"], **fields)).message_id)).routes
        assert decision(route.decision).wanted == "work:v2"
        c["a"].cluster.withdraw("b", "new")
        assert (await ask(c["a"], **fields)).content["by"] == "old"


async def test_a_conversation_goes_back_to_the_wanted_version_when_it_is_there(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("old", echo("old"), "work:v1")
        fields = {"capability": "work:v2", "fallback_versions": ("v1",), "conversation_id": "talk"}
        assert (await ask(c["a"], **fields)).content["by"] == "old"
        c["a"].attach("new", echo("new"), "work:v2")
        assert (await ask(c["a"], **fields)).content["by"] == "new"


async def test_a_message_waits_when_no_version_it_is_content_with_is_there(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a") as c:
        c["a"].attach("old", echo("old"), "work:v1")
        reply = await ask(c["a"], capability="work:v3", fallback_versions=("v2",))
        assert (reply.performative, reply.content["code"]) == (Performative.FAILURE, "CAPABILITY_NOT_FOUND")


async def test_who_would_be_chosen_follows_versions(tmp_path, autojump_clock):
    async with cluster(tmp_path, "a", "b") as c:
        c["a"].attach("old", echo(), "work:v1")
        c["b"].attach("new", echo(), "work:v2")
        bus, message = c["a"].bus, c["a"].message
        assert bus.preview(message(capability="work")).targets == (("new", "b"),)
        assert bus.preview(message(capability="work:v1")).targets == (("old", "a"),)
        fallen = bus.preview(message(capability="work:v7", fallback_versions=("v3", "v1")))
        assert (fallen.targets, fallen.wanted) == ((("old", "a"),), "work:v1")
        assert bus.preview(message(capability="work:v7")).targets == ()
