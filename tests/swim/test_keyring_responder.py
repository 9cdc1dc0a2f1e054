"""Orders about the gossip key: neither thief nor liar gains by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim.keyring_messages import (
    Kind,
    Order,
    Request,
    Sealed,
    Status,
    Verb,
    decode_sealed,
    encode_request,
    key_digest,
)
from swim.keyring_responder import MAX_AUTHORS
from tests.swim.keyring_net import (
    NEW,
    OLD,
    OTHER,
    Member,
    Signer,
    between,
    boot_of,
    cluster,
    outcome,
    request_of,
)


def test_a_new_key_is_readable_for_nobody_but_its_receiver() -> None:
    net = cluster()
    net.run(net.members["a"], Verb.INSTALL, NEW)
    net.run(net.members["a"], Verb.USE, NEW)
    assert len(net.seen) > 10
    for datagram in net.seen:
        assert NEW not in datagram
        sealed = decode_sealed(datagram)
        assert sealed.open(between(sealed.sender, sealed.receiver))
        for thief_holds in (OLD, between(sealed.sender, "m"), between("b", "c")):
            with pytest.raises(ValueError, match="not sealed"):
                sealed.open(thief_holds)


def test_a_recorded_order_does_nothing_again_and_an_older_one_nothing_at_all() -> None:
    b = Member("b", [OLD, NEW])
    use_old, use_new = (request_of("a", "b", Verb.USE, key, sequence=n) for n, key in ((1, OLD), (2, NEW)))
    assert outcome(b, use_old) is Status.DONE
    assert outcome(b, use_new) is Status.DONE
    assert outcome(b, use_old) is Status.SUPERSEDED
    assert b.holds() == [NEW, OLD]
    reply = b.responder.receive(use_new)
    assert reply is not None
    assert reply.change is None
    assert b.responder.statistics()["keyring_requests_repeated"] == 1


def test_after_a_restart_an_order_from_before_is_worthless() -> None:
    recorded = request_of("a", "b", Verb.USE, OLD, sequence=1)
    restarted = Member("b", [NEW, OLD], life=2)
    assert outcome(restarted, recorded) is Status.ANOTHER_BOOT
    assert restarted.holds() == [NEW, OLD]
    assert (
        outcome(restarted, request_of("a", "b", Verb.USE, OLD, sequence=1, boot=restarted.boot))
        is Status.DONE
    )


def test_an_authors_restart_does_not_bring_its_older_orders_back() -> None:
    b = Member("b", [OLD, NEW])
    assert outcome(b, request_of("a", "b", Verb.USE, NEW, sequence=1, life=2)) is Status.DONE
    assert outcome(b, request_of("a", "b", Verb.USE, OLD, sequence=9, life=1)) is Status.SUPERSEDED
    assert b.holds()[0] == NEW


def test_a_request_for_another_or_by_another_is_dropped() -> None:
    b, c = Member("b"), Member("c")
    for_b = request_of("a", "b", Verb.INSTALL, NEW, sequence=1)
    assert c.responder.receive(for_b) is None
    sealed = decode_sealed(for_b)
    redirected = Sealed(sealed.kind, sealed.operation_id, "a", "c", sealed.nonce, sealed.ciphertext)
    assert c.responder.receive(redirected.encode()) is None
    renamed = Sealed(sealed.kind, sealed.operation_id, "d", "b", sealed.nonce, sealed.ciphertext)
    assert b.responder.receive(renamed.encode()) is None
    assert c.responder.statistics()["keyring_requests_misdirected"] == 1
    assert c.responder.statistics()["keyring_requests_not_authentic"] == 1
    assert b.responder.statistics()["keyring_requests_not_authentic"] == 1


def sealed_by(sender: str, order: Order, key: bytes) -> bytes:
    """Any order, sealed for b by a member that has a pairwise key with it."""
    return Sealed.seal(
        Kind.REQUEST,
        encode_request(Request(order.encode(), boot_of("b", 1).id, key)),
        operation_id=b"i" * 16,
        sender=sender,
        receiver="b",
        pairwise_key=between(sender, "b"),
        nonce=bytes(12),
    ).encode()


def test_an_order_counts_only_from_its_author_under_its_signature_and_with_its_key() -> None:
    b = Member("b", allowed="am")
    fields = ("a", boot_of("a", 1), 1, b"i" * 16, Verb.INSTALL, key_digest(NEW))
    unsigned = Order(*fields, b"s" * 64)
    genuine = Order(*fields, Signer("a").sign(unsigned.signed_bytes()))
    assert b.responder.receive(sealed_by("a", unsigned, NEW)) is None
    assert b.responder.receive(sealed_by("m", genuine, NEW)) is None
    assert b.responder.receive(sealed_by("a", genuine, OTHER)) is None
    assert b.responder.receive(sealed_by("a", genuine, b"")) is None
    counted = b.responder.statistics()
    assert [
        counted[f"keyring_requests_{what}"] for what in ("bad_signature", "not_authentic", "malformed")
    ] == [1, 1, 2]
    assert b.holds() == [OLD]
    assert b.responder.receive(sealed_by("a", genuine, NEW)) is not None


def test_the_authors_remembered_are_bounded() -> None:
    b = Member("b", allowed="".join(f"n{index}," for index in range(MAX_AUTHORS + 5)))
    for index in range(MAX_AUTHORS + 5):
        assert b.responder.receive(request_of(f"n{index}", "b", Verb.LIST, b"", sequence=1)) is not None
    assert b.responder.statistics()["keyring_authors"] == MAX_AUTHORS


@given(st.data())
def test_an_altered_request_is_dropped(data: st.DataObject) -> None:
    altered = bytearray(request_of("a", "b", Verb.INSTALL, NEW, sequence=1))
    altered[data.draw(st.integers(0, len(altered) - 1))] ^= data.draw(st.integers(1, 255))
    b = Member("b")
    assert b.responder.receive(bytes(altered)) is None
    assert b.holds() == [OLD]


@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_whatever_the_order_of_arrival_the_last_order_stands(order: list[int], repeated: list[int]) -> None:
    requests = [
        request_of("a", "b", Verb.USE, key, sequence=sequence)
        for sequence, key in enumerate((OLD, NEW, OLD, OTHER, OLD, NEW), start=1)
    ]
    b = Member("b", [OLD, NEW, OTHER])
    for index in [*order, *repeated]:
        assert b.responder.receive(requests[index]) is not None
    assert b.holds()[0] == NEW
