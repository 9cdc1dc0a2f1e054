"""What a message took in memory is free when it has ended, without a search for cycles."""

import gc

import pytest

from node.messaging.letters import Lane, Letter, Route
from tests.node.messaging.rooms import cluster, echo, eventually, pause
from tests.node.messaging.test_crashes import quiet


def in_memory():
    return sum(isinstance(each, (Letter, Route, Lane)) for each in gc.get_objects())


@pytest.fixture
def no_search():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("nodes", ["a", "ab"])
async def test_messages_that_have_ended_leave_nothing_that_waits_for_the_collector(
    tmp_path, autojump_clock, no_search, nodes
):
    async with cluster(tmp_path, *nodes) as c:
        c[nodes[-1]].attach("worker", echo("w", []), "work")
        await c["a"].bus.request(c["a"].message(capability="work", content="warm"), timeout_s=5)
        await eventually(quiet(c))
        before = in_memory()
        for number in range(20):
            await c["a"].bus.request(c["a"].message(capability="work", content=number), timeout_s=5)
        await c["a"].bus.accept_many([c["a"].message(capability="work", content="x") for _ in range(100)])
        await eventually(quiet(c))
        await pause(5)  # lanes that nobody stands in are forgotten when the next message comes
        assert in_memory() <= before + 10
