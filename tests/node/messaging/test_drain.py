from pathlib import Path

import pytest

from node.errors import ResourceLimitExceeded
from node.messaging.drain import LONGEST_S, DrainRate
from tests.node.messaging.rooms import cluster, echo, pause


@pytest.mark.parametrize(("per_second", "seconds"), [(1000, 1), (100, 10), (50, 20), (10, 30), (0, 30)])
def test_who_finds_the_outbox_full_is_told_when_a_tenth_of_it_will_be_free(
    per_second: int, seconds: int
) -> None:
    rate = DrainRate()
    for second in range(60):
        rate.ended(per_second // 2, second + 0.1)
        rate.ended(per_second - per_second // 2, second + 0.9)
    assert rate.retry_after_s(10_000, 60.0) == seconds


def test_what_ended_long_ago_says_nothing() -> None:
    rate = DrainRate()
    assert rate.retry_after_s(100, 5.0) == LONGEST_S
    rate.ended(1_000, 5.0)
    assert rate.retry_after_s(100, 5.5) == 1
    assert rate.retry_after_s(100, 40.0) == LONGEST_S


async def test_a_full_outbox_says_when_to_come_again(autojump_clock: object, tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", settings={"outbox_capacity": 20}) as nodes:
        nodes["a"].attach("worker", echo(), "work")

        async def fill() -> int:
            for _ in range(20):
                await nodes["a"].bus.accept(nodes["a"].message(capability="nobody-has-it"), ttl_s=60)
            with pytest.raises(ResourceLimitExceeded) as caught:
                await nodes["a"].bus.accept(nodes["a"].message(capability="work"))
            return int(caught.value.details["retry_after_s"])

        assert await fill() == LONGEST_S
        await pause(120)
        for _ in range(8):
            await nodes["a"].bus.accept(nodes["a"].message(capability="work"))
            await pause(0.5)
        assert await fill() < 5
