"""Key rotation over the members themselves: who may order it, and what becomes of members that are down."""

import pytest

from swim.config import SwimConfig
from swim.events import KeyOperationFinished, KeyringChanged
from swim.keyring_messages import Verb, key_id
from swim.keyring_operations import OperationResult
from tests.swim.net import CLUSTER, Net

OLD, NEW = b"o" * 32, b"n" * 32


def encrypted(count: int, *, obeys: bool = True) -> Net:
    """Return members that share one gossip key, and obey each other if they are told to."""
    net = Net(config=SwimConfig.profile("local", label=CLUSTER))
    for number in range(count):
        swim = net.add(f"n{number}", seeds=["n0:7946"] if number else None, keys=[OLD])
        if obeys:
            swim.keys.allow(lambda _author: True)
    net.run_for(20, until=net.all_up)
    net.run_for(3)
    net.forget()
    return net


def order(
    net: Net, verb: Verb, key: bytes = b"", *, force: bool = False, within_s: float = 5.0
) -> OperationResult:
    """Let n0 begin an operation, wait for its end, and return what came of it."""
    keys = net.hosts["n0"].swim.keys
    operation = keys.start(verb, key, net.now, deadline_s=within_s, force=force)
    net.pump("n0")
    net.run_for(3 * within_s, until=lambda: keys.result(operation).finished)
    return keys.result(operation)


def rings(net: Net) -> dict[str, list[str]]:
    return {name: net.hosts[name].swim.keyring.key_ids() for name in net.running()}  # type: ignore[union-attr]


def test_nobody_may_change_a_members_keys_before_it_was_said_who() -> None:
    net = encrypted(3, obeys=False)
    result = order(net, Verb.INSTALL, NEW)
    assert not result.ok
    assert result.members["n1"].error == "n0 may not change this member's keys"
    assert rings(net) == {"n0": [key_id(OLD), key_id(NEW)], "n1": [key_id(OLD)], "n2": [key_id(OLD)]}
    assert not net.all_told(KeyringChanged)


def test_a_key_is_changed_on_all_members_while_they_talk() -> None:
    net = encrypted(4)
    assert order(net, Verb.INSTALL, NEW).ok
    assert order(net, Verb.USE, NEW).ok
    assert order(net, Verb.REMOVE, OLD).ok
    assert set(map(tuple, rings(net).values())) == {(key_id(NEW),)}
    assert len(net.told("n2", KeyringChanged)) == 3
    assert len(net.told("n0", KeyOperationFinished)) == 3
    net.run_for(30)
    assert net.all_up()
    assert not net.total("suspicions_begun")
    assert not net.total("dropped_unknown_key")


@pytest.mark.parametrize("down", ["silent", "dead"])
def test_a_member_that_is_down_stands_against_use_until_it_is_dead_and_then_is_not_asked(down: str) -> None:
    net = encrypted(4)
    assert order(net, Verb.INSTALL, NEW).ok
    net.kill("n3")
    if down == "dead":
        net.run_for(20, until=net.all_up)
    result = order(net, Verb.USE, NEW, within_s=1.0)
    if down == "dead":
        assert result.ok
        assert sorted(result.members) == ["n0", "n1", "n2"]
        assert {ring[0] for ring in rings(net).values()} == {key_id(NEW)}
    else:
        assert "n3" in result.refused
        assert result.members["n3"].error == "no answer"
        assert {ring[0] for ring in rings(net).values()} == {key_id(OLD)}


def test_who_missed_a_rotation_is_outside_and_comes_back_with_the_new_key() -> None:
    net = encrypted(3)
    net.kill("n2")
    net.run_for(20, until=net.all_up)
    assert order(net, Verb.INSTALL, NEW).ok
    assert order(net, Verb.USE, NEW).ok
    assert order(net, Verb.REMOVE, OLD).ok
    net.add("n2", seeds=["n0:7946"], keys=[OLD])
    net.run_for(20)
    assert not net.all_up()
    assert net.count("n0", "dropped_unknown_key") > 0
    net.kill("n2")
    net.add("n2", seeds=["n0:7946"], keys=[NEW, OLD])
    assert net.run_for(20, until=net.all_up) < 5
