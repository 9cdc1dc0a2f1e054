"""Faults as data: written, read back, drawn from a seed."""

import json
import random

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from simulations import faults
from simulations.swarm import DRAWS, Swarm, draw_plan

NAMES = [f"m{number}" for number in range(6)]
seconds = st.floats(0, 1e6).map(lambda value: round(value, 6))
chance = st.floats(0, 1).map(lambda value: round(value, 6))
names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(tuple)
maybe = st.none() | st.booleans()

FAULT = st.one_of(
    st.builds(faults.Pause, at_s=seconds, for_s=st.none() | seconds, members=names),
    st.builds(
        faults.Starve, at_s=seconds, members=names, paused_s=st.tuples(chance, seconds.map(lambda s: s + 1))
    ),
    st.builds(faults.Crash, at_s=seconds, members=names, power=st.booleans()),
    st.builds(faults.Restart, at_s=seconds, members=names, disk=st.booleans(), moved=st.booleans()),
    st.builds(faults.Join, at_s=seconds, members=names),
    st.builds(faults.Leave, at_s=seconds, members=names),
    st.builds(
        faults.Partition,
        at_s=seconds,
        sides=st.tuples(names, names),
        mode=st.sampled_from(["symmetric", "one_way"]),
        datagrams_only=st.booleans(),
        excuses=maybe,
    ),
    st.builds(faults.Partition, at_s=seconds, pairs=st.just((("m1", "m2"),))),
    st.builds(
        faults.Disturb, at_s=seconds, sources=st.none() | names, loss=chance, corrupt=chance, excuses=maybe
    ),
    st.builds(faults.Clock, at_s=seconds, members=names, rate=st.none() | st.floats(0.6, 1.9)),
    st.builds(faults.Churn, at_s=seconds, for_s=seconds, per_s=st.floats(0.01, 5)),
    st.builds(faults.Jump, at_s=seconds, to_s=seconds.map(lambda s: s + 1e6 + 1)),
)


@given(st.lists(FAULT, max_size=5))
def test_a_plan_is_the_same_after_json_and_yaml(plan):
    data = faults.write_plan(plan)
    assert list(faults.read_plan(json.loads(json.dumps(data)))) == plan
    assert list(faults.read_plan(yaml.safe_load(yaml.safe_dump(data)))) == plan


def test_every_kind_of_fault_can_be_read():
    kinds = (
        "agents churn clock crash disk disturb join jump leave partition pause provider reset restart starve"
    )
    assert sorted(faults.KINDS) == kinds.split()


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"pause": {"members": [], "at_s": 1}}, "members"),
        ({"pause": {"members": ["a"], "at_s": -1}}, "at_s"),
        ({"pause": {"members": ["a"], "at_s": 1, "fro_s": 2}}, "fro_s"),
        ({"starve": {"members": ["a"], "at_s": 1, "paused_s": [3, 1]}}, "paused_s"),
        ({"disturb": {"at_s": 1, "loss": 1.5}}, "loss"),
        ({"partition": {"at_s": 1}}, "either sides or pairs"),
        ({"partition": {"at_s": 1, "sides": [["a"]]}}, "at least two"),
        ({"jump": {"at_s": 5, "to_s": 5}}, "to_s"),
        ({"clock": {"members": ["a"], "at_s": 1, "rate": 3}}, "rate"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_with_its_place(data, where):
    with pytest.raises(ValidationError, match=where):
        faults.read(data)


def test_what_excuses_a_death():
    sides = {"at_s": 1, "sides": (("a",), ("b",))}
    assert faults.Partition(**sides).is_excuse
    assert not faults.Partition(**sides, datagrams_only=True).is_excuse
    assert not faults.Partition(at_s=1, pairs=(("a", "b"),)).is_excuse
    assert faults.Partition(at_s=1, pairs=(("a", "b"),), excuses=True).is_excuse
    assert faults.Disturb(at_s=1, loss=0.8).is_excuse
    assert not faults.Disturb(at_s=1, loss=0.3).is_excuse
    assert faults.Disturb(at_s=1, delay_s=0.2).is_excuse


def test_a_swarm_is_drawn_from_its_seed_and_stays_within_bounds():
    swarm = Swarm(most=20, kinds=tuple(DRAWS), loss=0.1, pause_s=3)
    plans = [draw_plan(swarm, NAMES, 100.0, random.Random(seed)) for seed in range(200)]
    again = [draw_plan(swarm, NAMES, 100.0, random.Random(seed)) for seed in range(200)]
    assert plans == again
    assert len({str(plan) for plan in plans}) > 190
    drawn = [fault for plan in plans for fault in plan]
    assert {fault.kind for fault in drawn} == {*DRAWS, "restart"}
    assert all(fault.loss <= 0.1 for fault in drawn if isinstance(fault, faults.Disturb))
    assert all(fault.for_s <= 3 for fault in drawn if isinstance(fault, faults.Pause))
    assert all(fault.at_s <= 100 for fault in drawn)


def test_each_swarm_leaves_kinds_out():
    kinds = [
        {fault.kind for fault in draw_plan(Swarm(most=40), NAMES, 100.0, random.Random(seed))}
        for seed in range(50)
    ]
    assert all(len(present - {"restart"}) < len(Swarm().kinds) for present in kinds)
    assert len({frozenset(present) for present in kinds}) > 20
