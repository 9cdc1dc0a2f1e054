from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from swim import strict_cbor
from swim.identity import (
    Admitted,
    ClusterAuthority,
    Ed25519Identity,
    Revocation,
    domain,
    is_name,
    issue_credential,
    issue_revocation,
    verify,
)

CA = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
NODE = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
NODE_KEY = NODE.public_key().public_bytes_raw()
CREDENTIAL = issue_credential(CA, cluster="prod", name="node-1", public_key=NODE_KEY, not_after=2_000.0)


def authority(cluster: str = "prod", **options: int) -> ClusterAuthority:
    return ClusterAuthority(CA.public_key().public_bytes_raw(), cluster, **options)


def test_an_issued_credential_is_admitted_until_it_expires() -> None:
    gate = authority()
    assert gate.admit(CREDENTIAL, 1_999.0) == Admitted("node-1", NODE_KEY, 2_000.0)
    assert gate.admit(CREDENTIAL, 2_000.5) is None
    assert gate.admit(CREDENTIAL, 1_000.0) is not None
    assert gate.statistics() == {"cached": 1, "refused": 1, "revoked": 0}


def test_a_credential_is_small_enough_to_travel_with_every_statement() -> None:
    assert 100 <= len(CREDENTIAL) <= 170


def test_a_credential_of_another_cluster_or_authority_is_refused() -> None:
    assert authority("staging").admit(CREDENTIAL, 0.0) is None
    other = Ed25519PrivateKey.from_private_bytes(b"\x03" * 32)
    forged = issue_credential(other, cluster="prod", name="node-1", public_key=NODE_KEY, not_after=2_000.0)
    assert authority().admit(forged, 0.0) is None


@given(position=st.integers(0, len(CREDENTIAL) - 1), flip=st.integers(1, 255))
def test_a_credential_altered_by_one_byte_is_refused(position: int, flip: int) -> None:
    altered = bytearray(CREDENTIAL)
    altered[position] ^= flip
    assert authority().admit(bytes(altered), 0.0) is None


@given(st.binary(max_size=400))
def test_garbage_is_refused_without_an_exception(garbage: bytes) -> None:
    assert authority().admit(garbage, 0.0) is None
    assert not verify(garbage, garbage, garbage)


def revocation(since: float = 1_000.0, cluster: str = "prod", ca: Ed25519PrivateKey = CA) -> bytes:
    return issue_revocation(
        ca, cluster=cluster, name="node-1", public_key=NODE_KEY, since=since, not_after=2_000.5
    )


def test_a_revoked_key_counts_for_what_it_has_signed_before_alone() -> None:
    gate = authority()
    assert gate.admit(CREDENTIAL, 1_500.0) is not None  # now it is remembered
    assert gate.revoke(revocation()) == Revocation("node-1", NODE_KEY, 1_000.0, 2_001.0)
    assert gate.is_revoked(NODE_KEY)
    assert gate.admit(CREDENTIAL, 1_000.0) is not None
    assert gate.admit(CREDENTIAL, 1_000.5) is None
    assert gate.revoke(revocation(since=1_200.0)) is not None  # a later one takes nothing back
    assert gate.admit(CREDENTIAL, 1_000.5) is None
    assert gate.revoke(revocation(since=500.0)) is not None
    assert gate.admit(CREDENTIAL, 600.0) is None
    assert gate.revoked_keys() == (NODE_KEY,)
    assert gate.statistics()["revoked"] == 1
    other = Ed25519PrivateKey.from_private_bytes(b"\x04" * 32).public_key().public_bytes_raw()
    renewed = issue_credential(CA, cluster="prod", name="node-1", public_key=other, not_after=2_000.0)
    assert gate.admit(renewed, 1_500.0) is not None


def test_a_revocation_of_another_cluster_or_authority_is_not_believed() -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"\x03" * 32)
    for forged in (revocation(cluster="staging"), revocation(ca=other), CREDENTIAL, b"", b"\x80"):
        gate = authority()
        assert gate.revoke(forged) is None
        assert not gate.is_revoked(NODE_KEY)
    assert authority().admit(revocation(), 0.0) is None  # nor does it stand for a credential


@given(position=st.integers(0, len(revocation()) - 1), flip=st.integers(1, 255))
def test_a_revocation_altered_by_one_byte_is_not_believed(position: int, flip: int) -> None:
    altered = bytearray(revocation())
    altered[position] ^= flip
    assert authority().revoke(bytes(altered)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Node"}, {"cluster": ""}, {"public_key": b"short"}, {"since": float("nan")}, {"since": -1.0},
        {"not_after": 2.0**53}, {"not_after": float("inf")},
    ],
)  # fmt: skip
def test_a_revocation_that_nobody_would_take_is_not_issued(wrong: dict[str, Any]) -> None:
    said: dict[str, Any] = {
        "cluster": "prod", "name": "a", "public_key": NODE_KEY, "since": 1.0, "not_after": 2.0
    }  # fmt: skip
    assert authority().revoke(issue_revocation(CA, **said)) is not None
    with pytest.raises(ValueError, match=r"cannot name|32 bytes|seconds since"):
        issue_revocation(CA, **said | wrong)


def test_the_cache_of_admitted_credentials_is_bounded() -> None:
    gate = authority(max_cached=2)
    for number in range(5):
        credential = issue_credential(
            CA, cluster="prod", name=f"n{number}", public_key=NODE_KEY, not_after=10.0
        )
        assert gate.admit(credential, 0.0) is not None
    assert gate.statistics()["cached"] == 2


def test_a_signature_for_one_purpose_does_not_serve_another() -> None:
    identity = Ed25519Identity("node-1", NODE, CREDENTIAL)
    signature = identity.sign(domain("bucket") + b"data")
    assert verify(NODE_KEY, signature, domain("bucket") + b"data")
    assert not verify(NODE_KEY, signature, domain("register") + b"data")


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a" * 64, "ä", "a\n", None, 3], ids=repr)
def test_names_are_dns_labels(name: object) -> None:
    assert not is_name(name)
    with pytest.raises(ValueError, match="cannot name a node"):
        Ed25519Identity(name, NODE, CREDENTIAL)  # type: ignore[arg-type]


def test_the_longest_name_still_fits() -> None:
    credential = issue_credential(CA, cluster="c" * 63, name="n" * 63, public_key=NODE_KEY, not_after=2.0**40)
    assert authority("c" * 63).admit(credential, 0.0) is not None


@pytest.mark.parametrize("not_after", [float("nan"), float("inf"), -1.0])
def test_an_expiry_that_is_no_time_is_refused(not_after: float) -> None:
    with pytest.raises(ValueError, match="seconds since the epoch"):
        issue_credential(CA, cluster="c", name="n", public_key=NODE_KEY, not_after=not_after)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(values)
def test_strict_cbor_has_one_encoding_per_value(value: object) -> None:
    try:
        decoded = strict_cbor.decode(strict_cbor.encode(value), max_bytes=10_000)
    except ValueError as error:
        assert "depth" in str(error)  # noqa: PT017 - only nesting may be refused here
    else:
        assert decoded == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x01",  # something after the item
        b"\x18\x01",  # a longer form than needed
        b"\x9f\x01\xff",  # indefinite length
        b"\xa2\x61a\x01\x61a\x02",  # a key twice
        b"\xa2\x61b\x01\x61a\x02",  # keys out of order
        b"\xd8\x23\x61a",  # a regular expression
        b"\xd8\x1c\x81\xd8\x1d\x00",  # a list that contains itself
        b"\xc2\x41\x01",  # a bignum that is an integer
        b"\xd8\x99\x01",  # an unknown tag
        b"\xd9\xd9\xf7\x01",  # the tag that means CBOR
        b"\x81" * 9 + b"\x01",  # deeper than any message
        b"\x5b" + b"\xff" * 8,  # a length of 2**64 - 1
        b"\x61\xff",  # not UTF-8
    ],
)
def test_strict_cbor_refuses_every_other_form(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"CBOR|canonical"):
        strict_cbor.decode(data, max_bytes=100)


def test_strict_cbor_refuses_long_input_unread() -> None:
    with pytest.raises(ValueError, match="at most 3"):
        strict_cbor.decode(strict_cbor.encode(b"long"), max_bytes=3)
