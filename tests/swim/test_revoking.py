"""A member whose key the authority revokes is one no longer, wherever it stands, until it has another key."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swim.events import MemberDied, MemberForgotten, MemberRevoked, MemberSuspected
from swim.identity import Ed25519Identity, issue_credential, issue_revocation
from swim.members import State
from tests.swim import net as network
from tests.swim.net import CA, CLUSTER, WALL, Net, authority

OTHERS = ("n0", "n1", "n2")


def cluster(**changes: object) -> Net:
    """Four members, each with its own view of who counts."""
    net = Net()
    for number in range(4):
        net.add(f"n{number}", seeds=["n0:7946"] if number else [], trusts=authority(), **changes)
    net.run_for(10, until=net.all_up)
    net.run_for(3)
    net.forget()
    return net


def revocation(name: str, since: float = WALL) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b".")).public_key().public_bytes_raw()
    return issue_revocation(CA, cluster=CLUSTER, name=name, public_key=key, since=since, not_after=WALL + 1e9)


def revoke(net: Net, *names: str, since: float = WALL) -> None:
    for name in names:
        found = net.hosts[name].swim.revoke(revocation("n3", since), net.now)
        assert found is not None
        assert found.name == "n3"
        net.pump(name)


@pytest.mark.parametrize("since", [WALL, WALL + 3600.0], ids=["now", "of a clock that is ahead"])
def test_a_revoked_member_is_dropped_at_once_and_does_not_come_back_by_its_own_word(since: float) -> None:
    net = cluster(reconnect_interval_s=1.0)
    revoke(net, *OTHERS, since=since)
    for name in OTHERS:
        assert [event.member.name for event in net.told(name, MemberRevoked)] == ["n3"]
        assert net.state(name, "n3") is None
        assert net.hosts[name].swim.partition(net.now).remembered == 3
    roots = {net.hosts[name].swim.root() for name in OTHERS}
    net.forget()
    net.run_for(60)  # it runs on, speaks, and opens streams
    assert all(net.up(name) == [other for other in OTHERS if other != name] for name in OTHERS)
    assert not net.all_told(MemberSuspected, by=OTHERS)
    assert not net.all_told(MemberDied, by=OTHERS)
    assert len({net.hosts[name].swim.root() for name in OTHERS} | roots) == 1
    assert net.total("dropped_credential_refused") > 0


def test_who_has_not_heard_of_it_brings_nobody_back_and_is_not_suspected_for_it() -> None:
    net = cluster()
    revoke(net, "n0")
    net.run_for(60)
    assert net.up("n0") == ["n1", "n2"]
    assert net.up("n1") == ["n0", "n2", "n3"]
    revoke(net, "n1", "n2")
    net.run_for(30)
    assert [net.up(name) for name in OTHERS] == [["n1", "n2"], ["n0", "n2"], ["n0", "n1"]]
    assert not net.all_told(MemberDied, by=OTHERS)


@pytest.mark.parametrize("reap_after_s", [5.0, 1000.0], ids=["reaped", "dead"])
def test_a_revoked_member_that_is_down_counts_and_is_tried_no_more(reap_after_s: float) -> None:
    net = cluster(reap_after_s=reap_after_s, reconnect_interval_s=1.0)
    net.kill("n3")
    gone = (None, State.DEAD)
    net.run_for(30, until=lambda: all(net.state(name, "n3") in gone for name in OTHERS))
    net.run_for(10)
    revoke(net, *OTHERS)
    revoke(net, *OTHERS)  # heard twice
    for name in OTHERS:
        assert net.hosts[name].swim.partition(net.now).remembered == 3
        assert len(net.told(name, MemberRevoked, MemberForgotten)) == 1
    net.add("n3", seeds=["n0:7946"], trusts=authority())  # whoever has the key starts it again
    net.run_for(30)
    assert all(net.state(name, "n3") is None for name in OTHERS)


def test_with_another_key_the_name_is_a_member_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net = cluster()
    revoke(net, *OTHERS)
    net.kill("n3")
    key = Ed25519PrivateKey.from_private_bytes(b"another".ljust(32, b"."))
    public_key = key.public_key().public_bytes_raw()
    credential = issue_credential(CA, cluster=CLUSTER, name="n3", public_key=public_key, not_after=WALL + 1e9)
    monkeypatch.setattr(network, "identity_of", lambda name: Ed25519Identity(name, key, credential))
    net.add("n3", seeds=["n0:7946"], trusts=authority())
    assert net.run_for(30, until=net.all_up) < 30
    revoke(net, *OTHERS)  # heard again: it is about the other key
    net.run_for(10)
    assert net.all_up()


def test_what_is_remembered_of_another_key_is_left_alone() -> None:
    """A node that hears of a revocation again, after each start, must not give up who has a new key."""
    net = cluster(reap_after_s=5.0)
    swim = net.hosts["n0"].swim
    net.kill("n2")
    net.run_for(60, until=lambda: net.state("n0", "n2") is None)
    known = swim._table.remembered("n2")
    assert known is not None
    renewed = replace(known, public_key=b"another")
    swim._table.remember("n2", renewed)
    assert swim.revoke(revocation("n2"), net.now) is not None
    assert "n2" in dict(swim.address_book())
    swim._table.remember("n2", known)
    assert swim.revoke(revocation("n2"), net.now) is not None
    assert "n2" not in dict(swim.address_book())
    swim.remember([("n9", ("n9", 7946))])  # of whom only the address is known
    assert swim.revoke(revocation("n9"), net.now) is not None
    assert "n9" in dict(swim.address_book())


def test_what_the_authority_has_not_signed_is_counted_and_not_believed() -> None:
    net = cluster()
    swim = net.hosts["n0"].swim
    forged = bytearray(revocation("n3"))
    forged[-1] ^= 1
    for garbage in (bytes(forged), b"", b"\x87", revocation("n3")[:-1]):
        assert swim.revoke(garbage, net.now) is None
    assert net.count("n0", "revocations_refused") == 4
    assert net.state("n0", "n3") is State.ALIVE
