"""A cluster's gossip key is rotated while it runs, and neither thief nor liar gains by it."""

import hashlib
import random
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim import strict_cbor
from swim.keyring import MAX_KEYS, Channel, Keyring
from swim.keyring_messages import (
    MAX_ERROR_CHARACTERS,
    MAX_SEALED_BYTES,
    Kind,
    Order,
    Request,
    Result,
    Sealed,
    Status,
    Verb,
    decode_order,
    decode_request,
    decode_result,
    decode_sealed,
    encode_request,
    encode_result,
    key_digest,
    key_id,
)
from swim.keyring_operations import (
    BATCH,
    MAX_REBOOTS,
    MAX_RESULTS,
    RETRY_INITIAL_S,
    RETRY_MAX_S,
    KeyringInitiator,
    MemberResult,
    OperationResult,
    OperationRunning,
    UnknownOperation,
)
from swim.keyring_responder import MAX_AUTHORS, KeyringChange, KeyringResponder, Reply
from swim.messages import Boot

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32


class Signer:
    """An identity whose signature is a hash: enough to tell authors apart, and fast."""

    credential = b""

    def __init__(self, name: str) -> None:
        self.name = name

    def sign(self, data: bytes) -> bytes:
        return hashlib.sha512(self.name.encode() + b"\0" + data).digest()


def is_signed(author: str, data: bytes, signature: bytes) -> bool:
    return Signer(author).sign(data) == signature


def between(a: str, b: str) -> bytes:
    """The key that two members share."""
    return hashlib.sha256(" ".join(sorted((a, b))).encode()).digest()


def boot_of(name: str, life: int) -> Boot:
    return Boot(life, hashlib.sha256(f"{name} {life}".encode()).digest()[:8])


class Member:
    """One member with its ring and both roles."""

    def __init__(
        self, name: str, keys: Iterable[bytes] = (OLD,), *, allowed: str = "a", life: int = 1
    ) -> None:
        entropy = random.Random(f"{name} {life}").randbytes
        self.name, self.boot = name, boot_of(name, life)
        self.ring = Keyring(list(keys), label="test", entropy=entropy)
        self.initiator = KeyringInitiator(
            Signer(name), self.boot, self.ring, lambda peer: between(name, peer), entropy
        )
        self.responder = KeyringResponder(
            name,
            self.boot,
            self.ring,
            pairwise_key=lambda peer: between(name, peer),
            verify_author=is_signed,
            is_allowed=lambda author: author in allowed,
            entropy=entropy,
        )
        self.changes: list[KeyringChange] = []

    def holds(self) -> list[bytes]:
        return list(self.ring._keys)


class Net:
    """Members, and a network that is a function call; `lost` decides which datagrams it loses."""

    def __init__(self, *members: Member) -> None:
        self.members = {member.name: member for member in members}
        self.lost: Callable[[str, str], bool] = lambda _sender, _receiver: False
        self.seen: list[bytes] = []
        self.now = 0.0

    def boots(self, but: str) -> dict[str, bytes | None]:
        return {name: member.boot.id for name, member in self.members.items() if name != but}

    def carry(self, initiator: Member) -> None:
        """Bring requests to members and their replies back, until nothing is under way."""
        while sent := initiator.initiator.outgoing():
            for to, request in sent:
                self.seen.append(request)
                if self.lost(initiator.name, to) or to not in self.members:
                    continue
                reply = self.members[to].responder.receive(request)
                assert reply is not None
                if reply.change is not None:
                    self.members[to].changes.append(reply.change)
                self.seen.append(reply.encoded)
                if not self.lost(to, initiator.name):
                    initiator.initiator.receive(reply.encoded, self.now)

    def run(self, initiator: Member, verb: Verb, key: bytes = b"", **options: object) -> OperationResult:
        """Run an operation to its end."""
        boots = self.boots(initiator.name)
        operation = initiator.initiator.start(verb, key, boots, self.now, **options)  # type: ignore[arg-type]
        self.carry(initiator)
        while (due := initiator.initiator.next_timer()) is not None:
            self.now = max(self.now, due)
            initiator.initiator.handle_timer(self.now)
            self.carry(initiator)
        assert initiator.initiator.finished() == [operation]
        return initiator.initiator.result(operation)


def cluster(count: int = 4) -> Net:
    return Net(*[Member(name) for name in "abcdefgh"[:count]])


def ids(*keys: bytes) -> tuple[str, ...]:
    return tuple(key_id(key) for key in keys)


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


# Losses


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


# Safety


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


# Thieves and liars


def request_of(
    author: str,
    receiver: str,
    verb: Verb,
    key: bytes,
    *,
    sequence: int,
    life: int = 1,
    boot: Boot | None = None,
) -> bytes:
    """A request that the author might have sent."""
    operation_id = hashlib.sha256(f"{author} {verb} {sequence}".encode()).digest()[:16]
    fields = (author, boot_of(author, life), sequence, operation_id, verb, key_digest(key))
    order = Order(*fields, Signer(author).sign(Order(*fields).signed_bytes()))
    request = Request(order.encode(), (boot or boot_of(receiver, 1)).id, key)
    return Sealed.seal(
        Kind.REQUEST,
        encode_request(request),
        operation_id=operation_id,
        sender=author,
        receiver=receiver,
        pairwise_key=between(author, receiver),
        nonce=bytes(12),
    ).encode()


def outcome(member: Member, request: bytes) -> Status:
    reply = member.responder.receive(request)
    assert isinstance(reply, Reply)
    return decode_result(decode_sealed(reply.encoded).open(between("a", member.name))).status


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


def test_the_authors_remembered_are_bounded() -> None:
    b = Member("b", allowed="".join(f"n{index}," for index in range(MAX_AUTHORS + 5)))
    for index in range(MAX_AUTHORS + 5):
        assert b.responder.receive(request_of(f"n{index}", "b", Verb.LIST, b"", sequence=1)) is not None
    assert b.responder.statistics()["keyring_authors"] == MAX_AUTHORS


# The form


names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
boots = st.builds(Boot, st.integers(0, 2**53), st.binary(min_size=8, max_size=8))
verbs_and_keys = st.one_of(
    st.tuples(st.just(Verb.LIST), st.just(b"")),
    st.tuples(st.sampled_from([Verb.INSTALL, Verb.USE, Verb.REMOVE]), st.binary(min_size=32, max_size=32)),
)
results = st.builds(
    Result,
    st.sampled_from(list(Status)),
    st.text(max_size=MAX_ERROR_CHARACTERS),
    st.lists(st.binary(min_size=4, max_size=4).map(bytes.hex), max_size=MAX_KEYS).map(tuple),
    st.binary(min_size=8, max_size=8),
)


@given(names, names, boots, st.integers(1, 2**53), verbs_and_keys)
def test_a_request_comes_back_as_it_was_and_fits(
    author: str, receiver: str, boot: Boot, sequence: int, what: tuple[Verb, bytes]
) -> None:
    verb, key = what
    order = Order(author, boot, sequence, b"i" * 16, verb, key_digest(key), b"s" * 64)
    request = Request(order.encode(), b"b" * 8, key)
    sealed = Sealed.seal(
        Kind.REQUEST, encode_request(request), operation_id=b"i" * 16, sender=author, receiver=receiver,
        pairwise_key=OLD, nonce=bytes(12),
    )  # fmt: skip
    assert len(sealed.encode()) <= MAX_SEALED_BYTES // 2
    assert decode_sealed(sealed.encode()) == sealed
    assert decode_request(sealed.open(OLD)) == (request, order)
    assert decode_order(order.encode()).signed_bytes() == order.signed_bytes()
    assert key == b"" or key not in repr(request).encode()


@given(names, names, results)
def test_a_result_comes_back_as_it_was_and_fits(sender: str, receiver: str, result: Result) -> None:
    sealed = Sealed.seal(
        Kind.RESULT, encode_result(result), operation_id=b"i" * 16, sender=sender, receiver=receiver,
        pairwise_key=OLD, nonce=bytes(12),
    )  # fmt: skip
    assert len(sealed.encode()) <= MAX_SEALED_BYTES
    assert decode_result(decode_sealed(sealed.encode()).open(OLD)) == result


@given(st.binary(max_size=300))
def test_garbage_is_refused_everywhere(data: bytes) -> None:
    b = Member("b")
    assert b.responder.receive(data) is None
    assert b.responder.statistics()["keyring_requests_malformed"] == 1
    for decode in (decode_sealed, decode_order, decode_request, decode_result):
        with pytest.raises(ValueError):  # noqa: PT011 (any reason will do)
            decode(data)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 40), st.text(max_size=5), st.binary(max_size=70)
)


@given(st.lists(scalars | st.lists(scalars, max_size=3), max_size=9))
def test_well_formed_cbor_of_the_wrong_shape_is_a_value_error_or_comes_back(value: list[object]) -> None:
    data = strict_cbor.encode(value)
    decoded: list[bytes] = []
    for decode in (
        lambda: decode_sealed(data).encode(),
        lambda: decode_order(data).encode(),
        lambda: encode_request(decode_request(data)[0]),
        lambda: encode_result(decode_result(data)),
    ):
        try:
            decoded.append(decode())
        except ValueError:
            continue
    assert all(again == data for again in decoded)


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
