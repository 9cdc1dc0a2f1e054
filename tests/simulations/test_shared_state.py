"""What nodes share: budgets, memory, the room of a mailbox. Each property catches a planted bug."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from node.cluster.spending import SharedSpending
from node.llm import budgets as budgets_room
from node.llm.budget import Ledger, Spent
from node.memory.replication.merge import Merger
from node.memory.writing import Writer
from node.messaging.credit import Credits
from simulations.faults import Partition
from simulations.nodes import credit, memories, spending
from simulations.nodes.bills import Bill
from simulations.nodes.properties import SHARED, SimulatedLedger
from simulations.nodes.run import NodeRun
from simulations.nodes.scenario import NodeScenario
from simulations.nodes.spending import beyond, left
from simulations.runner import NOT_LIVE, NOT_SAFE
from simulations.scenario import ScenarioError, check, load
from simulations.twin.machine import needs, without
from tests.simulations.test_nodes import BASE, full_is_no_better_than_normal, outcome, scenario

Patch = pytest.MonkeyPatch


# ---- planted bugs -------------------------------------------------------------------------------------


def nobody_hears_what_others_spend(patch: Patch) -> None:
    """The counters of the other nodes are not added."""
    patch.setattr(SharedSpending, "others", lambda *_: Spent())


def nobody_waits_for_the_counters_of_others(patch: Patch) -> None:
    """A node spends more than its share before the others can have heard of it."""
    patch.setattr(Ledger, "_recently", lambda *_: Spent())


def what_was_spent_is_forgotten(patch: Patch) -> None:
    """A node that comes back begins its budgets anew."""
    patch.setattr(budgets_room, "load_spending", lambda *_: [])


def everybody_is_granted_the_whole_mailbox(patch: Patch) -> None:
    """Each origin may send as much as if it were alone."""

    def whole(self: Credits, agent: str, origin: str, *_: object) -> int | None:
        found, capacity = self._origin(agent, origin), self._capacity(agent)
        if found is None or found.window == capacity:
            return None
        self._set(self._accounts[agent], found, capacity)
        return capacity

    patch.setattr(Credits, "_window", whole)


def others_are_not_quite_believed(patch: Patch) -> None:
    """What another node says is taken with half the confidence it is said with."""
    original = Merger._observation

    def doubted(self: Merger, said: Any, *rest: Any) -> None:
        original(self, msgspec.structs.replace(said, confidence=said.confidence / 2), *rest)

    patch.setattr(Merger, "_observation", doubted)


def nothing_is_ever_forgotten(patch: Patch) -> None:
    """A client is told that something is forgotten, and it is still there."""
    patch.setattr(Writer, "forget_observation", lambda *_: None)


@dataclass(frozen=True)
class Planted:
    property: str
    scenario: NodeScenario
    plant: Callable[[Patch], None]


SPENDING = {
    "agents": [{"agent": "meeting_summarizer"}],
    "workload": {"capability": "meeting-summary", "per_s": 10, "reply_within_s": 20, "content": "Sum up."},
    "bounds": {"converge_s": 21},
}
FAR = {
    "llm.provider": "far",
    "llm.providers": {"far": {"type": "openai", "base_url": "http://127.0.0.1:9", "model": "large"}},
}
REMEMBERING = {
    "workload": None,
    "memory": {"per_s": 5},
    "settings": {"storage.durability": "full"},
    "bounds": {"converge_s": 30},
}
PLANTED = [
    Planted(
        spending.NAME,
        scenario(**SPENDING, settings={**FAR, "llm.budgets.cluster.tokens": 50_000}),
        nobody_hears_what_others_spend,
    ),
    Planted(
        spending.NAME,
        scenario(
            **{**SPENDING, "workload": {**SPENDING["workload"], "per_s": 40, "turns": 1}},
            safety_s=5,
            settings={**FAR, "llm.budgets.cluster.tokens": 40_000, "runtime.agent_concurrency": 8},
        ),
        nobody_waits_for_the_counters_of_others,
    ),
    Planted(
        spending.NAME,
        scenario(
            {"crash": {"members": ["n2"], "at_s": 7}},
            {"restart": {"members": ["n2"], "at_s": 8}},
            **SPENDING,
            settings={**FAR, "llm.budgets.agent.tokens": 20_000},
        ),
        what_was_spent_is_forgotten,
    ),
    Planted(
        credit.NAME,
        scenario(
            agents=[{"agent": "witness", "takes_s": 0.5, "first": 1, "capacity": 100}],
            workload={"capability": "witness", "per_s": 80, "turns": 1, "reply_within_s": 15},
            bounds={"converge_s": 20},
        ),
        everybody_is_granted_the_whole_mailbox,
    ),
    Planted(
        memories.AGREE,
        scenario({"partition": {"sides": [["n1"], "rest"], "at_s": 4, "for_s": 4}}, **REMEMBERING),
        others_are_not_quite_believed,
    ),
    Planted(
        memories.KEPT,
        scenario(
            {"partition": {"sides": [["n2"], "rest"], "at_s": 4, "for_s": 4}},
            {"crash": {"members": ["n2"], "at_s": 7, "power": True}},
            {"restart": {"members": ["n2"], "at_s": 9}},
            **REMEMBERING,
        ),
        full_is_no_better_than_normal,
    ),
    Planted(memories.GONE, scenario(**REMEMBERING), nothing_is_ever_forgotten),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.plant.__name__)
def test_a_planted_bug_fails_exactly_its_property(planted: Planted, monkeypatch: Patch) -> None:
    healthy = outcome(planted.scenario)
    assert healthy.failed == [], [violation.text for violation in healthy.violations]
    assert healthy.checks[planted.property] > 0, "the scenario does not put the property to the test"
    planted.plant(monkeypatch)
    failed = outcome(planted.scenario)
    assert failed.failed == [planted.property], [violation.text for violation in failed.violations]
    assert failed.code == (NOT_SAFE if planted.property.startswith("always_") else NOT_LIVE)


def test_every_property_of_what_is_shared_has_a_bug_that_it_catches() -> None:
    names = {spending.NAME, credit.NAME, memories.AGREE, memories.KEPT, memories.GONE}
    assert {planted.property for planted in PLANTED} == names
    assert len(SHARED) + 1 == len(names), "a property that no bug was planted for"


# ---- what is stated of budgets ------------------------------------------------------------------------


def bill(node: str, began_s: float, cost: int, *, promised: int = 100, ended_s: float = math.inf) -> Bill:
    return Bill(node, 0, "a", "c", began_s, began_s, Spent(promised), Spent(cost), ended_s)


def of(spent: Spent) -> int:
    return spent.tokens


def test_what_is_beyond_the_promise_counts_for_the_requests_that_are_under_way_at_once() -> None:
    bills = [
        bill("n1", 1, 130, ended_s=3),
        bill("n1", 2, 120, ended_s=4),
        bill("n1", 4.1, 140, ended_s=5),
        bill("n1", 4.5, 10, ended_s=5),
    ]
    assert beyond(bills, of) == 50
    assert beyond(bills[2:], of) == 40
    assert beyond(bills[3:], of) == 0
    assert beyond([], of) == 0


def test_what_is_left_is_what_everybody_knows_to_be_left() -> None:
    bills = [bill("n1", 1, 300), bill("n2", 2, 300), bill("n1", 3, 600)]
    assert [left(bills, 1_000, of, at_s) for at_s in (1, 2, 3, 4)] == [1_000, 700, 400, 0]


@pytest.mark.parametrize(
    ("fault", "sides"),
    [
        ({"sides": [["n1"], ["n2", "n3", "n4"]]}, 2),
        ({"sides": [["n1"], ["n2"], ["n3", "n4"]]}, 3),
        ({"sides": [["n1"], ["n2"]]}, 1),  # n3 and n4 hear both, and tell
        ({"pairs": [["n1", "n2"]]}, 1),
        ({"pairs": [["n1", "n2"], ["n1", "n3"], ["n1", "n4"]]}, 2),
    ],
)
def test_a_cut_has_as_many_sides_as_there_are_nodes_that_hear_nothing_of_each_other(
    fault: dict[str, Any], sides: int
) -> None:
    assert spending._sides(["n1", "n2", "n3", "n4"], Partition(at_s=1, **fault)) == sides


def test_the_slack_of_a_budget_is_that_of_the_scenario() -> None:
    """Without a fault: the dearest request, once for each node but one, and what went beyond promises."""
    calm = scenario(**SPENDING, settings={**FAR, "llm.budgets.cluster.tokens": 50_000})
    cut = calm.model_copy(update={"faults": ({"partition": {"sides": [["n1"], "rest"], "at_s": 5}},)})
    slacks = []
    for tested in (calm, cut):
        seen: list[SimulatedLedger] = []
        assert NodeRun(tested, 1, observe=seen.append).run().failed == []
        bills = seen[0].actions.bills.all
        dearest = max(bill.promised.tokens for bill in bills)
        of_nodes = sum(beyond([b for b in bills if b.node == name], of) for name in ("n1", "n2", "n3"))
        [(_, spent, limit, slack)] = spending.findings(seen[0])
        assert spent == sum(bill.cost.tokens for bill in bills)
        assert limit == 50_000
        slacks.append(slack - 2 * dearest - of_nodes)
    assert slacks[0] == 0
    assert slacks[1] == 50_000, "nothing was spent five seconds before the cut"


def test_nothing_is_stated_for_the_cluster_where_links_are_bad_all_the_time() -> None:
    tested = scenario(
        {"disturb": {"at_s": 4, "for_s": 5, "loss": 0.3}},
        **SPENDING,
        settings={**FAR, "llm.budgets.cluster.tokens": 50_000, "llm.budgets.agent.tokens": 50_000},
    )
    result = outcome(tested)
    assert result.failed == []
    assert result.checks[spending.NAME] == 3, "the budgets of the agent on three nodes, and no other"


def test_models_fail_for_agents_that_were_there_before_a_restart_too() -> None:
    tested = scenario(
        {"crash": {"members": ["n1"], "at_s": 4}},
        {"restart": {"members": ["n1"], "at_s": 5}},
        {"provider": {"members": ["n1"], "at_s": 6, "rate_limited": 1.0}},
        agents=[{"agent": "data_analyzer", "first": 1}],
        workload={"capability": "data-analysis", "per_s": 5, "reply_within_s": 20, "content": "Sum up."},
        bounds={"converge_s": 21},
    )
    assert outcome(tested).sometimes["sometimes_a_model_failed"] > 5


def test_what_a_node_was_told_that_never_comes_back_is_not_asked_of_the_others() -> None:
    """It may have died before it told anybody; what it was told before is on its disk."""
    result = outcome(load("shared_memory"), 3)
    assert result.failed == [], [violation.text for violation in result.violations]


# ---- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"memory": {"per_s": 0}}, "memory.per_s"),
        ({"memory": {"forget": 1.5}}, "memory.forget"),
        ({"memory": {"entitys": 3}}, "nearest is 'entities'"),
        (
            {"agents": [{"agent": "echo", "artifacts": ["echo.wat"], "capacity": 5}]},
            "capacity: only the agent",
        ),
        ({"agents": [{"agent": "witness", "capacity": 0}]}, "capacity"),
        ({"sometimes": ["sometimes_a_budget_refuses"]}, "nearest is 'sometimes_a_budget_refused'"),
        ({"runs": "members", "agents": [], "memory": {}}, "there is no such key"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        check({**BASE, "faults": [], **changes}, "test")
    assert told in str(refused.value)


def test_real_processes_are_not_asked_for_what_only_the_simulator_has() -> None:
    for name, need in (
        ("shared_budget", "models"),
        ("shared_memory", "memory"),
        ("full_mailboxes", "mailbox"),
    ):
        tested = load(name)
        assert isinstance(tested, NodeScenario)
        plan = tested.plan(1)
        assert need in needs(tested, plan)
        assert need not in needs(*without([need], tested, plan))
