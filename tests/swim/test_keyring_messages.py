"""The form of orders, requests and results about the gossip key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swim import strict_cbor
from swim.keyring import MAX_KEYS
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
)
from swim.messages import Boot
from tests.swim.keyring_net import OLD, Member

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
