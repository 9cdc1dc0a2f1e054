"""Short calls of several guests share a hop to a worker; each has its own end, whatever the others do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import outcome
import pytest
import trio
import trio.testing

from node.agents.grants import Grant
from node.agents.wasm.calls import Progress
from node.agents.wasm.hops import HOP_LIMIT, LINGER_S, PROBATION, SHORT_FUEL, TRIAL, Expectation, Hops
from node.environment import Environment, ThreadWorkers, system_environment
from tests.node.agents.rooms import delivery
from tests.node.agents.wasm.guests import House, ask, guest

CLOCK = system_environment().clock
SHARING = frozenset(Grant) - {Grant.MEMORY, Grant.TOOLS}
"""With these a guest never waits for the loop."""


class Worker(ThreadWorkers):
    """One that makes a hop when it is told to, on the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.hops = list[int]()
        self.broken: Exception | None = None
        self.go = trio.Semaphore(0)

    async def run(self, lane: str, job: Callable[..., Any], *args: Any) -> Any:
        assert lane == "wasm"
        self.hops.append(len(args[0]))
        await self.go.acquire()
        if self.broken is not None:
            raise self.broken
        return job(*args)


class Rooms:
    """Hops over such a worker, and what became of the turns of some guests."""

    def __init__(self) -> None:
        self.worker, self.ticks = Worker(), 0
        around = system_environment()
        environment = Environment(around.clock, around.randomness, around.network, self.worker)
        self.hops = Hops(environment, self._tick)
        self.made = list[str]()
        self.results: dict[str, object] = {}
        self.progress: dict[str, Progress] = {}
        self.expectations: dict[str, Expectation] = {}

    async def turn(self, name: str, calls: int = 1, raises: Exception | None = None) -> None:
        def job(progress: Progress) -> str:
            self.made.append(name)
            self.progress[name] = progress
            if raises is not None:
                raise raises
            return name.upper()

        expectation = self.expectations[name] = Expectation()
        try:
            self.results[name] = await self.hops.run(job, calls, 1.0, expectation)
        except (ValueError, RuntimeError) as error:
            self.results[name] = str(error)
        except trio.Cancelled:
            self.results[name] = "cancelled"
            raise

    def _tick(self) -> None:
        self.ticks += 1


@pytest.fixture
def rooms() -> Rooms:
    return Rooms()


async def begin(nursery: trio.Nursery, rooms: Rooms, *names: str, **more: Any) -> list[trio.CancelScope]:
    """Begin turns, in this order; returns what cancels each."""
    scopes = []
    for name in names:
        scope = trio.CancelScope()
        scopes.append(scope)

        async def within(name: str = name, scope: trio.CancelScope = scope) -> None:
            with scope:
                await rooms.turn(name, **more)

        nursery.start_soon(within)
        await trio.testing.wait_all_tasks_blocked()
    return scopes


async def test_who_comes_while_a_hop_is_under_way_shares_the_next(rooms: Rooms) -> None:
    async with trio.open_nursery() as nursery:
        await begin(nursery, rooms, "a", "b", "c", "d")
        assert rooms.hops.statistics() == {"hops": 1, "turns": 1, "waiting": 3}
        rooms.worker.go.release()
        await trio.testing.wait_all_tasks_blocked()
        assert rooms.results == {"a": "A"}
        rooms.worker.go.release()
    assert rooms.worker.hops == [1, 3]
    assert rooms.made == ["a", "b", "c", "d"]
    assert rooms.results == {"a": "A", "b": "B", "c": "C", "d": "D"}
    assert rooms.hops.statistics() == {"hops": 2, "turns": 4, "waiting": 0}


async def test_a_hop_takes_so_many_calls_along_and_no_more(rooms: Rooms) -> None:
    async with trio.open_nursery() as nursery:
        await begin(nursery, rooms, "a", "b", "c", "d", calls=HOP_LIMIT // 2)
        for _ in range(3):
            rooms.worker.go.release()
    assert rooms.worker.hops == [1, 2, 1]
    assert list(rooms.results) == ["a", "b", "c", "d"]


async def test_what_one_job_raises_is_heard_by_its_caller_alone(rooms: Rooms) -> None:
    async with trio.open_nursery() as nursery:
        await begin(nursery, rooms, "a", "b")
        await begin(nursery, rooms, "bad", raises=ValueError("mine"))
        await begin(nursery, rooms, "c")
        rooms.worker.go.release()
        rooms.worker.go.release()
    assert rooms.results == {"a": "A", "b": "B", "bad": "mine", "c": "C"}


async def test_without_a_worker_everybody_hears_why_and_the_next_hop_is_made(rooms: Rooms) -> None:
    rooms.worker.broken = RuntimeError("no thread")
    async with trio.open_nursery() as nursery:
        await begin(nursery, rooms, "a", "b", "c")
        rooms.worker.go.release()
        rooms.worker.go.release()
    assert rooms.results == dict.fromkeys("abc", "no thread")
    rooms.worker.broken = None
    rooms.worker.go.release()
    await rooms.turn("d")
    assert rooms.results["d"] == "D"


async def test_who_goes_away_while_waiting_is_not_called_and_leaves_its_place_to_the_next(
    rooms: Rooms,
) -> None:
    async with trio.open_nursery() as nursery:
        _, first, _ = await begin(nursery, rooms, "a", "b", "c")
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert rooms.hops.statistics()["waiting"] == 1
        rooms.worker.go.release()
        rooms.worker.go.release()
    assert rooms.made == ["a", "c"]
    assert rooms.results == {"a": "A", "b": "cancelled", "c": "C"}
    assert rooms.ticks == 0


async def test_who_is_told_to_lead_while_it_goes_away_leaves_the_lead_to_the_next(rooms: Rooms) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rooms.turn, "first")
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as leaving:
                leaving.start_soon(rooms.turn, "second")
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(rooms.turn, "third")
                await trio.testing.wait_all_tasks_blocked()
                pass_on = rooms.hops._pass_on

                def cancelled_in_the_same_tick() -> None:
                    scope.cancel()  # its task has this to hear, and has not heard it yet
                    pass_on()

                rooms.hops._pass_on = cancelled_in_the_same_tick  # type: ignore[method-assign]
                rooms.worker.go.release()
                await trio.sleep_forever()
        rooms.hops._pass_on = pass_on  # type: ignore[method-assign]
        rooms.worker.go.release()
    assert rooms.results == {"first": "FIRST", "second": "cancelled", "third": "THIRD"}
    assert rooms.made == ["first", "third"]


async def test_who_goes_away_during_the_hop_ends_its_own_guest_and_waits_for_that(rooms: Rooms) -> None:
    async with trio.open_nursery() as nursery:
        _, _, third = await begin(nursery, rooms, "a", "b", "c")
        rooms.worker.go.release()
        await trio.testing.wait_all_tasks_blocked()
        third.cancel()  # b has taken it along
        await trio.testing.wait_all_tasks_blocked()
        assert rooms.ticks == 1
        assert "c" not in rooms.results  # its sandbox is not free before the hop has ended
        rooms.worker.go.release()
    assert rooms.made == ["a", "b"]
    assert rooms.results == {"a": "A", "b": "B", "c": "cancelled"}


async def test_a_leader_that_goes_away_carries_the_others_through(rooms: Rooms) -> None:
    async with trio.open_nursery() as nursery:
        _, leader, _, _ = await begin(nursery, rooms, "a", "b", "c", "d")
        rooms.worker.go.release()
        await trio.testing.wait_all_tasks_blocked()
        leader.cancel()
        await begin(nursery, rooms, "e")
        rooms.worker.go.release()
        rooms.worker.go.release()
    assert rooms.worker.hops == [1, 3, 1]
    assert rooms.results == {"a": "A", "b": "cancelled", "c": "C", "d": "D", "e": "E"}


async def hang(rooms: Rooms, turns: list[Any], until: Callable[[], bool]) -> None:
    """The first of these turns is made, and takes until then."""
    rooms.hops._at = 0  # as the worker would
    turns[0].progress.call = 0
    while not until():
        await CLOCK.sleep(0.005)
    turns[0].result = outcome.Value("late")


@pytest.mark.parametrize(("took_s", "is_slow"), [(LINGER_S / 2, False), (3 * LINGER_S, True)])
async def test_a_guest_whose_turn_lingers_counts_as_slow(
    rooms: Rooms, autojump_clock: trio.testing.MockClock, took_s: float, is_slow: bool
) -> None:
    until = CLOCK.now() + took_s
    rooms.hops._run = lambda turns: hang(rooms, turns, lambda: CLOCK.now() >= until)  # type: ignore[method-assign]
    await rooms.turn("a")
    for _ in range(TRIAL):
        rooms.expectations["a"].took(0)
    assert rooms.expectations["a"].is_short is not is_slow


async def test_waiting_for_a_worker_makes_nobody_slow(
    rooms: Rooms, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rooms.turn, "a")
        await CLOCK.sleep(10.0)
        rooms.worker.go.release()
    assert rooms.results == {"a": "A"}
    for _ in range(TRIAL):
        rooms.expectations["a"].took(0)
    assert rooms.expectations["a"].is_short


async def test_the_clock_ends_a_call_of_a_hop(rooms: Rooms, autojump_clock: trio.testing.MockClock) -> None:
    begun, stopped = CLOCK.now(), list[Progress]()

    def until(turns: list[Any]) -> bool:
        if turns[0].progress.is_stopped():
            stopped.append(turns[0].progress)
        return bool(stopped)

    rooms.hops._run = lambda turns: hang(rooms, turns, lambda: until(turns))  # type: ignore[method-assign]
    await rooms.turn("a")
    assert stopped[0].expired == 0
    assert rooms.ticks > 0
    assert CLOCK.now() - begun == pytest.approx(1.0, abs=0.11)  # of virtual time


async def test_who_has_less_time_than_those_before_is_looked_at_sooner(
    rooms: Rooms, autojump_clock: trio.testing.MockClock
) -> None:
    rooms.worker.go.release()
    await rooms.turn("a")  # whose watch goes on, at its own pace
    begun, stopped = CLOCK.now(), list[Progress]()

    def until(turns: list[Any]) -> bool:
        if turns[0].progress.is_stopped():
            stopped.append(turns[0].progress)
        return bool(stopped)

    rooms.hops._run = lambda turns: hang(rooms, turns, lambda: until(turns))  # type: ignore[method-assign]
    await rooms.hops.run(lambda progress: None, 1, 0.1, Expectation())
    assert stopped[0].expired == 0
    assert CLOCK.now() - begun == pytest.approx(0.1, abs=0.011)  # of virtual time


async def test_the_watch_of_hops_ends_with_them_and_begins_with_the_next(
    rooms: Rooms, autojump_clock: trio.testing.MockClock
) -> None:
    seen = list[bool]()
    for _ in range(2):
        rooms.worker.go.release()
        await rooms.turn("a")
        seen.append(rooms.hops.is_watched)
        await CLOCK.sleep(2 * LINGER_S)
        seen.append(rooms.hops.is_watched)
    assert seen == [True, False, True, False]


def test_a_guest_is_expected_to_be_short_as_long_as_it_is() -> None:
    expectation = Expectation()
    assert not expectation.is_short
    for _ in range(TRIAL):
        expectation.took(SHORT_FUEL)
    assert expectation.is_short
    expectation.took(SHORT_FUEL + 1)
    for _ in range(PROBATION):
        assert not expectation.is_short
        expectation.took(1)
    assert expectation.is_short


async def test_messages_for_several_agents_share_hops_and_each_has_its_answer() -> None:
    house = House(system_environment())
    agents = [
        await house.load(guest(f"(call $answer (i32.const {number}))"), SHARING, f"guest-{number}")
        for number in range(8)
    ]
    for agent in agents:
        await agent.handle(delivery(None))
    answers = dict[int, Any]()

    async def several(number: int) -> None:
        for _ in range(20):
            answers[number] = await ask(agents[number])
            assert answers[number] == number

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(several, number)
    counted = house.runtime.statistics()["hops"]
    assert len(answers) == 8
    assert counted["turns"] == 8 * 20
    assert counted["hops"] < counted["turns"]


async def test_a_guest_that_is_trusted_and_turns_slow_is_ended_and_goes_alone_from_then_on() -> None:
    house = House(system_environment())
    spin = "(if (i32.gt_u (local.get $length) (i32.const 1000)) (then (loop $on (br $on))))"
    body = f"{spin} (call $answer (i32.const 1))"
    agent = await house.load(guest(body), SHARING, fuel=2**62, timeout_s=0.2)
    other = await house.load(guest(), SHARING, "other", timeout_s=0.2)
    assert (await ask(agent), await ask(other)) == (1, 1)
    results = dict[str, Any]()

    async def note(name: str, who: Any, content: object) -> None:
        results[name] = await ask(who, content)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note, "slow", agent, "x" * 2_000)
        nursery.start_soon(note, "other", other, None)
    assert results["slow"][0] == "wall_clock"
    assert results["other"] == 1
    assert house.runtime.statistics()["hops"]["turns"] == 2
    assert await ask(agent) == 1
    assert house.runtime.statistics()["hops"]["turns"] == 2
    assert await ask(other) == 1
    assert house.runtime.statistics()["hops"]["turns"] == 3


async def test_a_guest_that_may_wait_for_the_loop_goes_alone() -> None:
    house = House()
    agent = await house.load(guest(), [Grant.TOOLS, Grant.MESSAGES])
    assert [await ask(agent) for _ in range(TRIAL + 1)] == [1] * (TRIAL + 1)
    assert house.runtime.statistics()["hops"]["turns"] == 0
