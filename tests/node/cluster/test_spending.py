"""What nodes tell each other of their spending: summed up, and not believed where it cannot be."""

from __future__ import annotations

import cbor2
import pytest
import trio
from trio.testing import MockClock

from node.cluster.spending import AMOUNT_LIMIT, KEY, SharedSpending
from node.llm.budget import Spent
from tests.node.agents.inline import TestClock


class Maps:
    def __init__(self) -> None:
        self.held: dict[tuple[str, str], bytes] = {}
        self.flushed = 0

    def put(self, key: str, value: bytes, wall: float) -> None:
        self.held["n1", key] = value

    def delete(self, key: str, wall: float) -> None:
        del self.held["n1", key]

    def owners(self) -> list[str]:
        return sorted({owner for owner, _ in self.held})

    def get(self, owner: str, key: str) -> bytes | None:
        return self.held.get((owner, key))

    def set_load(self, vector: bytes, now: float) -> None: ...

    def load(self, owner: str) -> bytes | None:
        return None

    def flush(self) -> None:
        self.flushed += 1


def spending(maps: Maps, members: int = 3) -> SharedSpending:
    return SharedSpending(maps, "n1", members=lambda: members, flush=maps.flush, clock=TestClock())


async def test_the_others_are_summed_up_for_the_period_it_is(autojump_clock: MockClock) -> None:
    maps = Maps()
    shared = spending(maps)
    shared.publish(7, Spent(1, 2, 3))
    assert (cbor2.loads(maps.held["n1", KEY]), maps.flushed) == ([7, 1, 2, 3], 1)
    maps.held["n2", KEY] = cbor2.dumps([7, 10, 20, 30])
    maps.held["n3", KEY] = cbor2.dumps([7, 100, 200, 300])
    maps.held["n4", KEY] = cbor2.dumps([6, 5, 5, 5])
    maps.held["n4", f"{KEY}/else"] = cbor2.dumps([7, 5, 5, 5])
    assert shared.others(7) == Spent(110, 220, 330)
    maps.held["n2", KEY] = cbor2.dumps([7, 11, 20, 30])
    assert shared.others(7).tokens == 110
    await trio.sleep(1)  # noqa: TID251 - the clock of the tests
    assert shared.others(7).tokens == 111
    assert shared.others(6) == Spent(5, 5, 5)
    assert (shared.members(), spending(maps, 0).members()) == (3, 1)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        cbor2.dumps([7, 1, 2]),
        cbor2.dumps([7, 1, 2, -3]),
        cbor2.dumps([7, 1, 2, True]),
        cbor2.dumps([7, AMOUNT_LIMIT + 1, 2, 3]),
        cbor2.dumps({"a": 1}),
        cbor2.dumps(7),
    ],
)
async def test_what_is_not_well_formed_is_not_believed(value: bytes) -> None:
    maps = Maps()
    maps.held["n2", KEY] = value
    shared = spending(maps)
    assert shared.others(7) == Spent()
    assert shared.statistics() == {"malformed": 1}
