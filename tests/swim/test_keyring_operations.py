"""A cluster's gossip key is rotated while it runs."""

import random
from itertools import pairwise

import pytest

from swim.keyring import MAX_KEYS, Channel
from swim.keyring_messages import (
    Sealed,
    Verb,
    decode_sealed,
)
from swim.keyring_operations import (
    BATCH,
    MAX_REBOOTS,
    MAX_RESULTS,
    RETRY_INITIAL_S,
    RETRY_MAX_S,
    MemberResult,
    OperationRunning,
    UnknownOperation,
)
from swim.keyring_responder import KeyringChange
from tests.swim.keyring_net import (
    NEW,
    OLD,
    Member,
    Net,
    boot_of,
    cluster,
    ids,
)


def test_a_key_is_rotated_on_every_member_without_a_packet_lost() -> None:
    net = cluster()
    a, b = net.members["a"], net.members["b"]
    for verb, key, held in (
        (Verb.INSTALL, NEW, [OLD, NEW]),
        (Verb.USE, NEW, [NEW, OLD]),
        (Verb.REMOVE, OLD, [NEW]),
    ):
        assert b.ring.open(Channel.DATAGRAM, a.ring.seal(Channel.DATAGRAM, b"x")) == b"x"
        result = net.run(a, verb, key)
        assert result.ok
        assert list(result.members) == ["a", "b", "c", "d"]
        for name, member in net.members.items():
            assert member.holds() == held
            assert result.members[name] == MemberResult(ok=True, error="", key_ids=ids(*held))
    assert b.ring.open(Channel.DATAGRAM, a.ring.seal(Channel.DATAGRAM, b"x")) == b"x"
    assert b.changes == [KeyringChange("a", Verb.INSTALL, NEW), KeyringChange("a", Verb.USE, NEW),
                         KeyringChange("a", Verb.REMOVE, OLD)]  # fmt: skip


def test_the_keys_of_every_member_are_listed() -> None:
    net = Net(Member("a"), Member("b", [OLD, NEW]), Member("c", [NEW]))
    result = net.run(net.members["a"], Verb.LIST)
    assert result.ok
    assert {name: each.key_ids for name, each in result.members.items()} == {
        "a": ids(OLD),
        "b": ids(OLD, NEW),
        "c": ids(NEW),
    }
    assert net.members["b"].changes == []


def test_a_cluster_of_one_rotates_alone() -> None:
    net = cluster(1)
    for verb, key in ((Verb.INSTALL, NEW), (Verb.USE, NEW), (Verb.REMOVE, OLD)):
        assert net.run(net.members["a"], verb, key).ok
    assert net.members["a"].holds() == [NEW]


def test_keys_are_named_as_the_ring_names_them() -> None:
    assert list(ids(OLD, NEW)) == Member("a", [OLD, NEW]).ring.key_ids()


@pytest.mark.parametrize("seed", range(8))
def test_lost_datagrams_are_repeated_and_orders_carried_out_once(seed: int) -> None:
    net, rng = cluster(8), random.Random(seed)
    net.lost = lambda _sender, _receiver: rng.random() < 0.4
    a = net.members["a"]
    for verb, key in ((Verb.INSTALL, NEW), (Verb.USE, NEW), (Verb.REMOVE, OLD)):
        assert net.run(a, verb, key, deadline_s=300.0).ok
    for name, member in net.members.items():
        assert member.holds() == [NEW]
        assert name == "a" or [change.verb for change in member.changes] == [
            Verb.INSTALL,
            Verb.USE,
            Verb.REMOVE,
        ]


def test_repetitions_come_less_and_less_often_until_the_time_is_up() -> None:
    net = cluster(2)
    net.lost = lambda _sender, receiver: receiver == "b"
    a = net.members["a"]
    operation = a.initiator.start(Verb.LIST, b"", net.boots("a"), 0.0, deadline_s=30.0)
    sent = [0.0] * len(a.initiator.outgoing())
    while (due := a.initiator.next_timer()) is not None:
        a.initiator.handle_timer(due)
        sent += [due] * len(a.initiator.outgoing())
    pauses = [later - earlier for earlier, later in pairwise(sent)]
    assert pauses[:4] == [RETRY_INITIAL_S, 1.0, 2.0, 4.0]
    assert set(pauses[4:]) == {RETRY_MAX_S}
    result = a.initiator.result(operation)
    assert (result.finished, result.ok) == (True, False)
    assert result.members["b"] == MemberResult(ok=False, error="no answer", key_ids=None)
    assert result.members["a"].ok


def test_many_members_are_asked_some_at_a_time() -> None:
    a = Member("a")
    a.initiator.start(Verb.LIST, b"", {f"n{index}": None for index in range(200)}, 0.0)
    batches = [len(a.initiator.outgoing())]
    while (due := a.initiator.next_timer() or 1.0) < RETRY_INITIAL_S:
        a.initiator.handle_timer(due)
        batches.append(len(a.initiator.outgoing()))
    assert batches == [BATCH, BATCH, BATCH, 200 - 3 * BATCH]


def test_a_key_that_some_member_lacks_is_not_used_unless_forced() -> None:
    net = Net(Member("a", [OLD, NEW]), Member("b", [OLD, NEW]), Member("c"))
    result = net.run(net.members["a"], Verb.USE, NEW)
    assert (result.finished, result.ok) == (True, False)
    assert "c" in result.refused
    assert "b" not in result.refused.partition(":")[2]
    assert [member.holds()[0] for member in net.members.values()] == [OLD] * 3
    assert not any(each.ok for each in result.members.values())
    forced = net.run(net.members["a"], Verb.USE, NEW, force=True)
    assert (forced.ok, forced.refused) == (False, "")
    assert [member.holds()[0] for member in net.members.values()] == [NEW, NEW, OLD]
    assert "add the key" in forced.members["c"].error


def test_a_member_that_is_silent_stands_against_use() -> None:
    net = Net(*[Member(name, [OLD, NEW]) for name in "abc"])
    net.lost = lambda _sender, receiver: receiver == "c"
    result = net.run(net.members["a"], Verb.USE, NEW)
    assert "c" in result.refused
    assert net.members["b"].holds()[0] == OLD
    assert result.members["c"].error == "no answer"


def test_a_key_with_which_some_member_encrypts_is_not_removed_not_even_by_force() -> None:
    net = Net(Member("a", [NEW, OLD]), Member("b", [NEW, OLD]), Member("c", [OLD, NEW]))
    result = net.run(net.members["a"], Verb.REMOVE, OLD)
    assert "c" in result.refused
    assert all(OLD in member.holds() for member in net.members.values())
    forced = net.run(net.members["a"], Verb.REMOVE, OLD, force=True)
    assert not forced.ok
    assert net.members["b"].holds() == [NEW]
    assert net.members["c"].holds() == [OLD, NEW]
    assert "use another" in forced.members["c"].error


def test_what_the_own_ring_refuses_is_not_asked_of_others() -> None:
    a = Member("a", [OLD, *[bytes([n]) * 32 for n in range(MAX_KEYS - 1)]])
    for verb, key, reason in (
        (Verb.INSTALL, NEW, "at most"),
        (Verb.INSTALL, b"short", "32 bytes"),
        (Verb.LIST, NEW, "takes none"),
        (Verb.USE, NEW, "install the key"),
        (Verb.REMOVE, OLD, "use another"),
    ):
        with pytest.raises(ValueError, match=reason):
            a.initiator.start(verb, key, {"b": None}, 0.0)
    for deadline in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="deadline_s"):
            a.initiator.start(Verb.LIST, b"", {}, 0.0, deadline_s=deadline)
    assert a.initiator.outgoing() == []
    assert a.initiator.next_timer() is None


def test_a_full_ring_elsewhere_is_reported_with_its_reason() -> None:
    net = Net(Member("a"), Member("b", [bytes([n]) * 32 for n in range(MAX_KEYS)]))
    result = net.run(net.members["a"], Verb.INSTALL, NEW)
    assert not result.ok
    assert "at most 8 keys" in result.members["b"].error


def test_an_author_without_permission_changes_nothing() -> None:
    net = cluster()
    result = net.run(net.members["b"], Verb.INSTALL, NEW)
    assert not result.ok
    assert "b may not" in result.members["c"].error
    assert net.members["c"].holds() == [OLD]


def test_one_operation_runs_at_a_time_and_the_last_results_are_kept() -> None:
    net = cluster(2)
    a = net.members["a"]
    a.initiator.start(Verb.LIST, b"", net.boots("a"), 0.0)
    with pytest.raises(OperationRunning):
        a.initiator.start(Verb.LIST, b"", net.boots("a"), 0.0)
    net.carry(a)
    kept = []
    for _ in range(MAX_RESULTS + 1):
        kept.append(a.initiator.start(Verb.LIST, b"", net.boots("a"), 0.0))
        assert not a.initiator.result(kept[-1]).finished
        net.carry(a)
    assert a.initiator.finished() == kept[-MAX_RESULTS:]
    assert a.initiator.result(kept[1]).ok
    with pytest.raises(UnknownOperation):
        a.initiator.result(kept[0])
    assert a.initiator.statistics()["keyring_results_kept"] == MAX_RESULTS


def test_a_member_that_restarts_meanwhile_is_asked_again_under_its_new_boot() -> None:
    net = Net(Member("a"), Member("b", life=2))
    a = net.members["a"]
    operation = a.initiator.start(Verb.INSTALL, NEW, {"b": boot_of("b", 1).id}, 0.0)
    net.carry(a)
    assert a.initiator.result(operation).ok
    assert net.members["b"].holds() == [OLD, NEW]


def test_a_member_whose_boot_never_settles_is_given_up() -> None:
    a = Member("a")
    operation = a.initiator.start(Verb.LIST, b"", {"b": None}, 0.0)
    for life in range(1, MAX_REBOOTS + 3):
        for _, request in a.initiator.outgoing():
            reply = Member("b", life=life).responder.receive(request)
            assert reply is not None
            a.initiator.receive(reply.encoded, 0.0)
            a.initiator.receive(reply.encoded, 0.0)
    assert "restarted" in a.initiator.result(operation).members["b"].error
    assert a.initiator.statistics()["keyring_requests_sent"] == MAX_REBOOTS + 1


def test_results_that_are_late_or_not_authentic_change_nothing() -> None:
    net = cluster(3)
    a, b = net.members["a"], net.members["b"]
    a.initiator.receive(b"garbage", 0.0)
    operation = a.initiator.start(Verb.LIST, b"", net.boots("a"), 0.0)
    requests = dict(a.initiator.outgoing())
    reply = b.responder.receive(requests["b"])
    assert reply is not None
    sealed = decode_sealed(reply.encoded)
    forged = Sealed(sealed.kind, sealed.operation_id, "c", "a", sealed.nonce, sealed.ciphertext)
    a.initiator.receive(forged.encode(), 0.0)
    a.initiator.receive(requests["c"], 0.0)
    a.initiator.receive(reply.encoded, 0.0)
    a.initiator.receive(reply.encoded, 0.0)
    counted = a.initiator.statistics()
    assert counted["keyring_results_malformed"] == 1
    assert counted["keyring_results_not_authentic"] == 1
    assert counted["keyring_results_late"] == 2
    assert counted["keyring_members_awaited"] == 1
    assert [name for name, each in a.initiator.result(operation).members.items() if each.ok] == ["a", "b"]


def test_a_member_without_a_pairwise_key_is_reported_at_once() -> None:
    a = Member("a")
    a.initiator._pairwise_key = lambda _peer: None
    operation = a.initiator.start(Verb.INSTALL, NEW, {"b": None}, 0.0)
    result = a.initiator.result(operation)
    assert result.finished
    assert "no pairwise key" in result.members["b"].error
