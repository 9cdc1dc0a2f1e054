"""A job that waits for the event loop takes turns with it, and what it waits for is its caller's."""

import threading

import pytest
import trio

from node.environment import CannotWait
from node.message import Message
from node.vocabulary import Performative
from simulations.cluster import SimulatedCluster
from simulations.kernel import run
from simulations.turns import Turns
from tests.node.agents.wasm.test_outside import asking, file, text

REMEMBERING = asking(
    f"""(drop (call $store_memory {text(2000, "tea is green")}))
    (call $tell (call $search_memory {text(4000, "tea")} (i32.const 3)))""",
    "tea is green",
    "tea",
)


async def test_a_job_and_the_loop_take_turns(autojump_clock: trio.testing.MockClock) -> None:
    turns, told = Turns(), list[object]()

    async def work(number: int) -> int:
        told.append(("loop", number, trio.current_time()))
        await trio.sleep(10.0)
        return number * 2

    def job() -> str:
        told.append(threading.current_thread() is threading.main_thread())
        told.append(turns.wait(lambda: work(1)))
        told.append(turns.wait(lambda: work(2)))
        return "ended"

    began = trio.current_time()
    assert await turns.run(job) == "ended"
    assert told == [False, ("loop", 1, began), 2, ("loop", 2, began + 10.0), 4]


async def test_what_work_or_job_raises_is_raised_where_it_is_waited_for() -> None:
    turns = Turns()

    async def fails() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError("work")

    def job() -> None:
        with pytest.raises(KeyError):
            turns.wait(fails)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await turns.run(job)
    with pytest.raises(CannotWait):
        turns.wait(fails)


@pytest.mark.parametrize("answers", [True, False])
async def test_a_caller_that_goes_away_ends_the_wait_and_then_the_job(
    autojump_clock: trio.testing.MockClock, answers: bool
) -> None:
    turns, told = Turns(), list[str]()

    def job() -> str:
        try:
            turns.wait(trio.sleep_forever)
        except trio.Cancelled:
            told.append("cancelled")
            if not answers:
                raise
        return "nobody hears this"

    with trio.move_on_after(1.0) as scope:
        await turns.run(job)
    assert (scope.cancelled_caught, told) == (True, ["cancelled"])
    assert threading.active_count() == 1 or not any("_begin" in t.name for t in threading.enumerate())


async def _remembered(world, directory):
    async with trio.open_nursery() as nursery:
        cluster = SimulatedCluster(world, directory, nursery)
        await cluster.start("alpha")
        running = cluster.nodes["alpha"]
        await running.node.supervisor.deploy(file("memory"), artifacts={"asker.wat": REMEMBERING})
        replies = []
        for number in range(3):
            identifier = running.environment.new_id()
            message = Message(
                id=identifier,
                reply_with=identifier,
                performative=Performative.REQUEST,
                sender="client@alpha",
                capability="asking",
                content=number,
                conversation_id="tea",
                timestamp_s=running.environment.clock.wall(),
            )
            reply = await running.node.bus.request(message, timeout_s=60.0)
            replies.append((reply.id, reply.performative, reply.content))
        now = running.environment.clock.now()
        nursery.cancel_scope.cancel()
    return replies, now


def test_a_guest_of_a_simulated_node_has_the_memory_and_the_same_seed_gives_the_same_history(tmp_path):
    first, again = (
        run(lambda world, n=n: _remembered(world, tmp_path / str(n)), 7, limit_s=600.0) for n in (1, 2)
    )
    assert [content for _, _, content in first[0]] == [["tea is green"]] * 3
    assert first == again
