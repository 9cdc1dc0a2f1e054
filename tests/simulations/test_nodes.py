"""Scenarios of whole nodes: what holds, and that each property catches a bug planted in production code."""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import apsw
import pytest

from node.cluster.registry import CapabilityRegistry
from node.messaging import runs
from node.messaging.decisions import Decisions
from node.messaging.delivery import Draft
from node.messaging.mailboxes import Entry, Mailbox
from node.messaging.outbox import Outbox
from node.messaging.runs import Runs
from node.storage import inbox as inbox_table
from node.storage import outbox as outbox_table
from node.storage import storage as storage_room
from node.transport.session import FrameChannel
from simulations.compare import compare
from simulations.nodes import credit, properties
from simulations.nodes import run as run_of_nodes
from simulations.nodes.properties import CHECKS
from simulations.nodes.scenario import START_S, NodeScenario
from simulations.runner import NOT_LIVE, NOT_SAFE, OK, Result, run
from simulations.scenario import ScenarioError, available, check, load
from tests.simulations.test_planted_bugs import the_lost_are_not_tried

Patch = pytest.MonkeyPatch
BASE = {
    "name": "test",
    "about": "a test",
    "runs": "nodes",
    "members": 3,
    "agents": [{"agent": "witness"}],
    "workload": {"capability": "witness", "per_s": 5, "reply_within_s": 8, "poison": 0.1},
    "safety_s": 10,
    "bounds": {"converge_s": 12},
}


def scenario(*faults: dict, **changes: object) -> NodeScenario:
    made = check({**BASE, "faults": list(faults), **changes}, "test")
    assert isinstance(made, NodeScenario)
    return made


def outcome(tested: NodeScenario, seed: int = 1) -> Result:
    result = run(tested, seed)
    assert not result.crash, result.crash
    return result


# ---- planted bugs: a patch to production code that one property catches -------------------------------


def full_is_no_better_than_normal(patch: Patch) -> None:
    """What the operator asked to survive the loss of power is not synchronised."""
    connect = storage_room._connect
    patch.setattr(
        storage_room, "_connect", lambda *args, durability, **how: connect(*args, durability="normal", **how)
    )


def what_fails_never_ends(patch: Patch) -> None:
    """A message that cannot be delivered in its time goes on waiting."""
    end = Decisions.end
    patch.setattr(
        Decisions,
        "end",
        lambda self, letter, state, *rest: state == "settled" and end(self, letter, state, *rest),
    )


def the_registry_forgets_one_provider(patch: Patch) -> None:
    """Entries of one node are not taken in."""
    apply = CapabilityRegistry.apply
    patch.setattr(
        CapabilityRegistry,
        "apply",
        lambda self, events: apply(self, [e for e in events if getattr(e, "owner", "") != "n3"]),
    )


def what_has_ended_is_handled_again(patch: Patch) -> None:
    """A node that comes back takes up all messages that it has, not only those that are held."""

    def every(
        connection: apsw.Connection, target: str, known: Callable[[int], bool] = lambda seq: False
    ) -> Iterator[inbox_table.InboxRow]:
        query = f"SELECT {inbox_table._COLUMNS} FROM inbox WHERE target = ? ORDER BY seq"
        for row in inbox_table.rows(connection, query, (target,)):
            yield inbox_table.InboxRow(*row)

    patch.setattr(inbox_table, "held", every)


def the_newest_goes_first(patch: Patch) -> None:
    """Of the messages of a conversation that wait, the one that came last is handled next."""
    push = Mailbox._push

    def wrong(self: Mailbox, entry: Entry) -> None:
        push(self, entry)
        behind = self._lanes[entry.lane]
        if behind is not None and len(behind) > 1:
            behind.pop()
            behind.insert(0, entry)

    patch.setattr(Mailbox, "_push", wrong)


def the_outbox_is_never_full(patch: Patch) -> None:
    """Whatever clients send is taken."""
    patch.setattr(Outbox, "check_room", lambda *_: None)


def a_message_settles_without_its_handler(patch: Patch) -> None:
    """What was taken in is said to be done."""

    async def nothing(*_: object) -> list[Draft]:
        return []

    patch.setattr(Runs, "_call", nothing)


def every_answer_counts(patch: Patch) -> None:
    """That another provider has answered before is not noticed."""
    patch.setattr(outbox_table, "reply_arrived", lambda *_, **_named: True)


def a_handler_may_raise_for_ever(patch: Patch) -> None:
    """There is no end to the runs of a handler that raises."""
    patch.setattr(runs, "HANDLER_ATTEMPTS", 50)


def a_link_waits_for_ever(patch: Patch) -> None:
    """A link whose peer is silent is not given up."""
    init = FrameChannel.__init__

    def patient(self: FrameChannel, stream: Any, *, limits: Any, **how: Any) -> None:
        init(self, stream, limits=replace(limits, dead_s=math.inf), **how)

    patch.setattr(FrameChannel, "__init__", patient)


@dataclass(frozen=True)
class Planted:
    property: str
    scenario: NodeScenario
    plant: Callable[[Patch], None]


HALF_OPEN = scenario(
    {"crash": {"members": ["n1"], "at_s": 6, "power": True}},
    {"restart": {"members": ["n1"], "at_s": 7}},
    {"partition": {"pairs": [["n1", "n3"]], "at_s": 6.5, "for_s": 32}},
    agents=[{"agent": "witness", "skip": 2}],
    workload={"capability": "witness", "per_s": 15, "turns": 1, "reply_within_s": 8},
    settings={"messaging.outbox_capacity": 80},
    safety_s=56,
)
BACKLOG = {"capability": "witness", "per_s": 10, "turns": 10, "reply_within_s": 8}
PLANTED = [
    Planted(
        "always_handled_once",
        scenario({"crash": {"members": ["n2"], "at_s": 6}}, {"restart": {"members": ["n2"], "at_s": 8}},
                 workload={**BACKLOG, "per_s": 20}),
        what_has_ended_is_handled_again,
    ),
    Planted(
        "always_in_order",
        scenario(agents=[{"agent": "witness", "takes_s": 0.6}], workload=BACKLOG),
        the_newest_goes_first,
    ),
    Planted(
        "always_queues_are_bounded",
        scenario(workload={"capability": "nobody-has-it", "per_s": 20, "reply_within_s": 8},
                 settings={"messaging.outbox_capacity": 10}),
        the_outbox_is_never_full,
    ),
    # n1 is back before anybody declares it dead, and n3, the only provider, cannot hear its resets. The
    # connection is repaired long after the cut is; answers pile up on it, unless the link is given up.
    Planted("always_queues_are_bounded", HALF_OPEN, a_link_waits_for_ever),
    Planted("finally_settled_is_handled", scenario(workload=BACKLOG), a_message_settles_without_its_handler),
    Planted(
        "finally_settled_is_handled",
        scenario(
            {"partition": {"sides": [["n2"], "rest"], "at_s": 5, "for_s": 6}},
            agents=[{"agent": "witness", "takes_s": 1, "skip": 1}],
            workload={"capability": "witness", "per_s": 8, "turns": 1, "reply_within_s": 20},
            safety_s=13,
        ),
        every_answer_counts,
    ),
    Planted("finally_poison_is_put_aside", scenario(), a_handler_may_raise_for_ever),
    Planted(
        "finally_accepted_is_kept",
        scenario(
            {"crash": {"members": ["n2"], "at_s": 6, "power": True}},
            {"restart": {"members": ["n2"], "at_s": 8}},
            settings={"storage.durability": "full"},
            workload={"capability": "witness", "per_s": 20, "reply_within_s": 8},
        ),
        full_is_no_better_than_normal,
    ),
    Planted(
        "finally_everything_ends",
        scenario(workload={"capability": "nobody-has-it", "per_s": 2, "reply_within_s": 8}),
        what_fails_never_ends,
    ),
    Planted("finally_registries_agree", scenario(), the_registry_forgets_one_provider),
    Planted(
        "finally_members_are_who_runs",
        scenario(
            {"partition": {"sides": [["n1"], "rest"], "at_s": 4, "for_s": 20}},
            agents=[], workload=None, safety_s=25, bounds={"converge_s": 20},
        ),
        the_lost_are_not_tried,
    ),
]  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.property)
def test_a_planted_bug_fails_exactly_its_property(planted: Planted, monkeypatch: Patch) -> None:
    healthy = outcome(planted.scenario)
    assert healthy.failed == []
    assert healthy.checks[planted.property] > 0, "the scenario does not put the property to the test"
    planted.plant(monkeypatch)
    failed = outcome(planted.scenario)
    assert failed.failed == [planted.property], [violation.text for violation in failed.violations]
    assert failed.code == (NOT_SAFE if planted.property.startswith("always_") else NOT_LIVE)


def test_every_property_has_a_bug_that_it_catches() -> None:
    whole = outcome(scenario())
    assert {planted.property for planted in PLANTED} == set(whole.checks) - {credit.NAME}
    assert len(CHECKS) + 1 == len({planted.property for planted in PLANTED})
    assert whole.code == OK


# ---- the scenarios that come with the simulator ---------------------------------------------------------


NODES = [name for name in available() if load(name).runs == "nodes"]


def test_there_are_scenarios_of_whole_nodes() -> None:
    assert len(NODES) >= 7


@pytest.mark.parametrize("name", NODES)
def test_a_scenario_holds(name: str) -> None:
    result = outcome(load(name))  # type: ignore[arg-type]
    assert result.failed == [], [violation.text for violation in result.violations]
    assert result.measures["accepted"] > 50
    assert result.measures["answered_inform"] > result.measures["accepted"] / 4, "so few answers judge little"


def test_two_processes_with_different_hash_seeds_write_the_same_trace_byte_for_byte() -> None:
    command = [sys.executable, "-m", "simulations", "members", "run", "power_loss", "--seed", "3"]
    difference, lines = compare(command)
    assert difference == ""
    assert lines > 500


# ---- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"crahs": {"members": ["n1"], "at_s": 5}}, "nearest is 'crash'"),
        ({"join": {"at_s": 5, "members": ["n3"]}}, "is none of nodes"),
        ({"crash": {"members": ["n1"], "at_s": -1}}, "greater than or equal to 0"),
        ({"crash": {"members": ["n1"], "at_s": 1}}, f"the first {START_S:g} s"),
        ({"disk": {"members": ["n1"], "at_s": 5, "ful": True}}, "nearest is 'full'"),
        ({"crash": {"members": ["n12"], "at_s": 5}}, "which is no node; the nearest is n"),
        ({"restart": {"members": ["n1"], "at_s": 5, "moved": True}}, "a restart with moved"),
        ({"clock": {"members": ["n1"], "at_s": 5, "rate": 1.01}}, "a clock with rate"),
        ({"partition": {"sides": [["n1"], ["m2"]], "at_s": 5}}, "a partition of m2, which is no node"),
    ],
)
def test_a_fault_that_cannot_happen_is_refused_with_its_place(fault: dict, told: str) -> None:
    with pytest.raises(ScenarioError, match=r"test: .*faults") as refused:
        scenario(fault)
    assert told in str(refused.value)


def test_an_agent_that_there_is_not_is_refused() -> None:
    with pytest.raises(ScenarioError, match="agents: ekho cannot be read"):
        scenario(agents=[{"agent": "ekho"}])


def test_a_file_that_there_is_not_is_refused_and_a_sample_is_found() -> None:
    asked = {"capability": "witness", "content": {}}
    with pytest.raises(ScenarioError, match=r"workload: files: .*no sample 'slaes\.csv'"):
        scenario(workload={**asked, "files": ["slaes.csv"]})
    found = scenario(workload={**asked, "files": ["demo/sales.csv"]}).workload.attachments()
    assert [(file.name, file.media_type) for file in found] == [("sales.csv", "text/csv")]


def test_what_means_nothing_to_whole_nodes_is_refused() -> None:
    with pytest.raises(ScenarioError, match="encrypted: whole nodes have no such key"):
        scenario(encrypted=True)


def test_a_node_runs_all_agents_that_are_deployed_on_it() -> None:
    agents = [{"agent": "echo", "artifacts": ["echo.wat"]}, {"agent": "data_analyzer", "first": 2}]
    seen: list[int] = []
    check_registries = properties.registries_agree

    async def counted(ledger: properties.Ledger) -> None:
        seen.extend(len(node.node.supervisor.list()) for node in ledger.actions.live())
        await check_registries(ledger)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_of_nodes, "CHECKS", (counted,))
        assert outcome(scenario(agents=agents)).failed == []
    assert seen == [2, 2, 1]


def test_membership_has_no_disks() -> None:
    data = {**BASE, "runs": "members", "faults": [{"disk": {"members": ["m000"], "at_s": 5, "full": True}}]}
    for key in ("agents", "workload"):
        del data[key]
    with pytest.raises(ScenarioError, match="none of members"):
        check(data, "test")


@pytest.mark.parametrize("seed", range(1, 21))
def test_a_small_cluster_survives_a_partition(seed: int) -> None:
    tested = scenario(
        {"partition": {"sides": [{"draw": 1}, "rest"], "at_s": 4, "for_s": 6}},
        agents=[{"agent": "witness", "takes_s": 0.05}],
        safety_s=12,
    )
    result = outcome(tested, seed)
    assert result.failed == [], [violation.text for violation in result.violations]
    assert result.measures["ended_settled"] > 20
