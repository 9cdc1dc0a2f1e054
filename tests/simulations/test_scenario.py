"""Scenarios: what comes with the simulator can be read, and what is wrong is told with its place."""

import re

import pytest

from simulations import faults
from simulations.scenario import Scenario, ScenarioError, available, check, load
from tests.simulations.scenarios import BASE, scenario


def test_a_name_is_that_of_one_scenario():
    assert len(available()) == len(set(available()))


@pytest.mark.parametrize("name", available())
def test_every_scenario_can_be_read_and_planned(name):
    loaded = load(name)
    assert loaded.name == name
    assert loaded.about.endswith(".")
    assert loaded.plan(1) == loaded.plan(1)
    assert all(fault.at_s <= loaded.safety_s for fault in loaded.plan(1))


def test_there_is_a_scenario_for_each_kind_of_trouble():
    assert set(available()) >= {
        "crash", "mass_join", "starved", "loss", "one_way", "udp_blocked", "lossy_few", "partition_minute",
        "partition_hour", "partition_month", "churn", "swarm", "thousand",
    }  # fmt: skip


def test_another_seed_strikes_others():
    crash = scenario({"crash": {"members": {"draw": 2}, "at_s": 1}})
    struck = {crash.plan(seed)[0].members for seed in range(30)}
    assert len(struck) > 8
    assert all(len(members) == 2 for members in struck)


def test_members_can_be_chosen_in_words():
    (partition,) = scenario({"partition": {"sides": [{"share": 0.5}, {"first": 1}, "rest"], "at_s": 1}}).plan(
        1
    )
    assert [len(side) for side in partition.sides] == [3, 1, 2]
    assert len({name for side in partition.sides for name in side}) == 6
    (crash,) = scenario({"crash": {"members": {"last": 2}, "at_s": 1}}).plan(1)
    assert crash.members == ("m004", "m005")
    (leave,) = scenario({"leave": {"members": "all", "at_s": 1}}).plan(1)
    assert len(leave.members) == 6
    (pairs,) = scenario({"partition": {"pairs": {"draw": 3}, "at_s": 1}}).plan(1)
    assert len(pairs.pairs) == 3


def test_the_plan_is_in_the_order_of_time():
    plan = scenario(
        {"leave": {"members": ["m001"], "at_s": 9}}, {"crash": {"members": ["m002"], "at_s": 1}}
    ).plan(1)
    assert [type(fault) for fault in plan] == [faults.Crash, faults.Leave]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"membres": 3}, "membres: there is no such key; the nearest is 'members'"),
        ({"bounds": {"detcet_s": 3}}, "bounds.detcet_s: there is no such key; the nearest is 'detect_s'"),
        ({"network": {"los": 0.1}}, "network.los: there is no such key; the nearest is 'loss'"),
        ({"network": {"loss": 2}}, "network.loss: Input should be less than or equal to 1"),
        ({"members": 0}, "members: Input should be greater than or equal to 1"),
        ({"profile": "lam"}, "profile: there is no 'lam'; the nearest is 'lan'"),
        ({"config": {"suspicion_min": 3}}, "there is no 'suspicion_min'; the nearest is 'suspicion_min_s'"),
        ({"config": {"max_rumours": 0}}, "config: counts and caps must be at least 1"),
        ({"sometimes": ["sometimes_a_death"]}, "the nearest is 'sometimes_a_death_was_declared'"),
        ({"swarm": {"kinds": ["puase"]}}, "swarm.kinds: there is no 'puase'; the nearest is 'pause'"),
        (
            {"faults": [{"crahs": {}}]},
            "faults.0: a fault is a mapping with one key, its kind; 'crahs' is none",
        ),
        ({"faults": [{"crahs": {}}]}, "'crahs' is none of members; the nearest is 'crash'"),
        ({"faults": [{"crash": {"members": ["a"], "at": 1}}]}, "faults.0.crash: at: there is no such key"),
        ({"faults": [{"crash": {"members": "some", "at_s": 1}}]}, "members are names, all, rest, or one of"),
        ({"faults": [{"crash": []}]}, "faults.0.crash: its value is no mapping"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_the_nearest_word(changes, told):
    with pytest.raises(ScenarioError) as error:
        check({**BASE, **changes}, "test")
    assert str(error.value).startswith("test: ")
    assert told in str(error.value)


def test_a_scenario_that_does_not_exist_is_told_with_the_nearest():
    with pytest.raises(ScenarioError, match="the nearest is 'partition_hour'"):
        load("partition_hours")


def test_a_file_of_ones_own_can_be_changed_on_the_command_line(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("about: mine.\nmembers: 3\nsafety_s: 1\n")
    loaded = load(str(file), ["members=5", "network.loss=0.25", "config={reap_after_s: 7}"])
    assert isinstance(loaded, Scenario)
    assert (loaded.name, loaded.members, loaded.network.loss) == ("mine", 5, 0.25)
    assert loaded.swim_config().reap_after_s == 7


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("crash: {members: [m007], at_s: 1}", "there is no 'm007', and none joins; the nearest is m00"),
        ("partition: {sides: [[m000], [nobody]], at_s: 1}", "there is no 'nobody'"),
        ("partition: {pairs: [[m000, m003]], at_s: 1}", "there is no 'm003'"),
        ("disturb: {targets: [m009], at_s: 1, loss: 1}", "there is no 'm009'"),
        ("crash: {members: [m001], at_s: 11}", "at_s: at 11 s all is healed; safety_s is 10"),
    ],
)
def test_a_fault_that_would_never_happen_is_refused(tmp_path, fault, told):
    file = tmp_path / "mine.yaml"
    file.write_text(f"about: mine.\nmembers: 3\nsafety_s: 10\nfaults:\n  - {fault}\n")
    with pytest.raises(ScenarioError, match=re.escape(told)) as error:
        load(str(file))
    assert str(error.value).startswith("mine.yaml, line 5: faults.0.")


def test_whoever_joins_can_be_struck_and_a_run_can_be_cut_short(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "about: mine.\nmembers: 3\nsafety_s: 10\nfaults:\n"
        "  - join: {members: [new], at_s: 1}\n  - crash: {members: [new], at_s: 9}\n"
    )
    assert len(load(str(file)).plan(1)) == 2
    assert load(str(file), ["safety_s=5"]).safety_s == 5


@pytest.mark.parametrize(
    ("written", "instead", "told"),
    [
        ("power: true", "pwoer: true", "line 7: faults.0.crash: pwoer: there is no such key; the nearest is"),
        (
            "{crash: {members: [n3]",
            "{crahs: {members: [n9]",
            "line 10: faults.2: a fault is a mapping",
        ),
        (
            "[n3], at_s: 16",
            "[n33], at_s: 16",
            "line 10: faults.2: a crash of n33, which is no node",
        ),
        ("at_s: 9", "at_s: 1", "line 8: faults.1: a restart at 1 s; the first 3 s are the start's"),
        ("at_s: 6", "at_s: -6", "line 7: faults.0.crash: at_s: Input should be greater than or equal to 0"),
        ("per_s: 5", "pers: 5", "line 5: workload.pers: there is no such key; the nearest is 'per_s'"),
        ("runs: nodes", "runs: node", "line 2: runs: there is no 'node'; the nearest is 'nodes'"),
        ("about: A test.\n", "", "bad.yaml: about: Field required"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path, written, instead, told):
    text = """about: A test.
runs: nodes
members: 3
agents: [{agent: witness}]
workload: {capability: witness, per_s: 5}
faults:
  - {crash: {members: [n2], at_s: 6, power: true}}
  - {restart: {members: [n2], at_s: 9}}
  # a comment, which is a line, too
  - {crash: {members: [n3], at_s: 16}}
safety_s: 20
"""
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    assert load(str(file)).members == 3
    assert text.count(written) == 1
    file.write_text(text.replace(written, instead))
    with pytest.raises(ScenarioError) as error:
        load(str(file))
    assert told in str(error.value)
    assert str(error.value).startswith("bad.yaml")


def test_what_is_wrong_on_the_command_line_has_no_line_of_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("about: mine.\nmembers: 3\nsafety_s: 1\n")
    with pytest.raises(ScenarioError, match=r"^mine\.yaml: members: Input should be"):
        load(str(file), ["members=0"])


@pytest.mark.parametrize("text", [b"- a\n", b"a: [\n", b"about: x\n", b"about: \xff\n"])
def test_a_file_that_is_no_scenario_is_refused(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_bytes(text)
    with pytest.raises(ScenarioError, match=r"bad\.yaml"):
        load(str(file))


def test_a_change_without_a_value_is_refused():
    with pytest.raises(ScenarioError, match="write key=value"):
        load("crash", ["members"])
    with pytest.raises(ScenarioError, match="has no keys"):
        load("crash", ["members.x=1"])
