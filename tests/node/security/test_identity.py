"""Peers prove who they are: real TLS handshakes, and the checks that OpenSSL leaves to us."""

from __future__ import annotations

import dataclasses
import logging
import ssl

import pytest
import trio
import trio.testing
from cryptography import x509

from node.environment import SecureStream, SystemNetwork
from node.errors import PeerRejected
from node.security import pki
from node.security.identity import CHECK_INTERVAL_S, ROTATE_AT, NodeCredentials
from swim.identity import domain, verify
from tests.node.security.environments import seeded


def pair(wall: float | None = None) -> tuple[NodeCredentials, NodeCredentials]:
    environment, _ = seeded(wall=wall)
    secrets = pki.new_cluster(environment, "prod")
    a, b = (NodeCredentials.ephemeral(n, environment, secrets=secrets) for n in ("alpha", "beta"))
    return a, b


class Unshown(NodeCredentials):
    """Dials without a certificate of its own."""

    def client_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=pki.cert_pem(self._material.ca_cert).decode())
        return context


async def shake(dialler: NodeCredentials, acceptor: NodeCredentials) -> tuple[SecureStream, SecureStream]:
    """Shake hands and exchange one byte each way, as the links do."""
    network = SystemNetwork()
    left, right = trio.testing.memory_stream_pair()
    found: dict[str, SecureStream] = {}

    async def side(name: str, stream: trio.abc.Stream, credentials: NodeCredentials) -> None:
        try:
            secure = await (network.secure_client if name == "d" else network.secure_server)(
                stream, credentials
            )
            await secure.stream.send_all(b"x")
            if await secure.stream.receive_some(1) == b"x":
                found[name] = secure
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(side, "d", left, dialler)
        nursery.start_soon(side, "a", right, acceptor)
    if len(found) != 2:
        raise PeerRejected("no handshake")
    return found["d"], found["a"]


async def test_two_nodes_of_a_cluster_shake_hands_and_name_each_other() -> None:
    alpha, beta = pair()
    at_alpha, at_beta = await shake(alpha, beta)
    assert alpha.verify_peer(at_alpha.peer_leaf, "beta") == "beta"
    assert beta.verify_peer(at_beta.peer_leaf) == "alpha"
    assert at_alpha.peer_leaf == beta.leaf()
    assert at_alpha.stream.version() == "TLSv1.3"  # type: ignore[attr-defined]


async def test_a_node_of_another_cluster_is_refused_both_ways() -> None:
    alpha, _ = pair()
    other, _ = seeded(99)
    stranger = NodeCredentials.ephemeral("beta", other)
    with pytest.raises(PeerRejected):
        await shake(stranger, alpha)
    with pytest.raises(PeerRejected):
        await shake(alpha, stranger)


async def test_a_client_without_a_certificate_is_refused() -> None:
    alpha, beta = pair()
    with pytest.raises(PeerRejected):
        await shake(Unshown(alpha._material, alpha._environment), beta)


async def test_a_node_cannot_issue_a_leaf_that_names_another_node() -> None:
    alpha, beta = pair()
    forged = dataclasses.replace(alpha._material, name="gamma")
    mallory = NodeCredentials(forged, alpha._environment)
    with pytest.raises(PeerRejected):  # OpenSSL: outside the permitted subtree
        await shake(mallory, beta)
    with pytest.raises(PeerRejected, match="another node than its issuer"):  # and the application
        beta.verify_peer(mallory.leaf())


async def test_a_node_cannot_issue_a_sub_authority_for_another_name() -> None:
    environment, _ = seeded()
    secrets = pki.new_cluster(environment, "prod")
    beta = NodeCredentials.ephemeral("beta", environment, secrets=secrets)
    mallory = pki.certify_node(secrets, "mallory", environment)
    below = pki.certify_node(
        dataclasses.replace(secrets, ca_key=mallory.key, ca_cert=mallory.cert), "alpha", environment
    )
    forger = NodeCredentials(dataclasses.replace(below, ca_cert=secrets.ca_cert), environment)

    def with_both_authorities() -> ssl.SSLContext:
        context = NodeCredentials.client_context(forger)
        context.load_verify_locations(cadata=pki.cert_pem(mallory.cert).decode())  # to complete the chain
        return context

    forger.client_context = with_both_authorities  # type: ignore[method-assign]
    with pytest.raises(PeerRejected):
        await shake(forger, beta)


def test_a_leaf_counts_only_within_its_validity_and_for_the_expected_node() -> None:
    environment, clock = seeded()
    secrets = pki.new_cluster(environment, "prod")
    alpha, beta = (NodeCredentials.ephemeral(n, environment, secrets=secrets) for n in ("alpha", "beta"))
    leaf = beta.leaf()
    assert alpha.verify_peer(leaf) == "beta"
    with pytest.raises(PeerRejected, match="not gamma"):
        alpha.verify_peer(leaf, "gamma")
    clock.wall_s += 86_401
    with pytest.raises(PeerRejected, match="validity"):
        alpha.verify_peer(leaf)
    clock.wall_s -= 3 * 86_400
    with pytest.raises(PeerRejected, match="validity"):
        alpha.verify_peer(leaf)


def test_a_revoked_key_is_refused_and_the_renewed_one_is_not() -> None:
    environment, _ = seeded()
    secrets = pki.new_cluster(environment, "prod")
    lost, renewed = (NodeCredentials.ephemeral("beta", environment, secrets=secrets) for _ in range(2))
    alpha = NodeCredentials.ephemeral("alpha", environment, secrets=secrets)
    assert alpha.verify_peer(lost.leaf()) == "beta"
    assert alpha.authority.revoke(pki.revoke(secrets, lost.cert, environment.clock.wall())) is not None
    with pytest.raises(PeerRejected, match="revoked"):
        alpha.verify_peer(lost.leaf())
    assert alpha.verify_peer(renewed.leaf()) == "beta"


@pytest.mark.parametrize("what", ["empty", "garbage", "authority", "node authority", "cut"])
def test_what_is_no_leaf_of_a_node_is_refused(what: str) -> None:
    alpha, beta = pair()
    shown = {
        "empty": b"",
        "garbage": b"\x30\x03abc",
        "authority": pki.cert_der(beta._material.ca_cert),
        "node authority": pki.cert_der(beta._material.cert),
        "cut": beta.leaf()[:-5],
    }[what]
    with pytest.raises(PeerRejected):
        alpha.verify_peer(shown)


def test_the_leaf_is_replaced_at_half_its_life_and_when_the_clock_went_back() -> None:
    environment, clock = seeded()
    alpha = NodeCredentials.ephemeral("alpha", environment)
    first, context = alpha.leaf(), alpha.client_context()
    assert alpha.client_context() is context
    clock.wall_s += ROTATE_AT - 60
    assert not alpha.rotate_if_due()
    clock.wall_s += 120
    assert alpha.rotate_if_due()
    second = alpha.leaf()
    assert second != first
    assert alpha.client_context() is not context
    clock.wall_s -= 86_400
    assert alpha.rotate_if_due()
    assert alpha.leaf() != second


async def test_a_running_node_rotates_and_warns_before_its_certificate_ends(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    environment, clock = seeded()
    alpha = NodeCredentials.ephemeral("alpha", environment)
    async with trio.open_nursery() as nursery:
        await nursery.start(alpha.run)
        clock.wall_s += ROTATE_AT + 1
        with caplog.at_level(logging.WARNING):
            await clock.sleep(CHECK_INTERVAL_S + 1)
            assert alpha.statistics()["rotations"] == 1
            assert not caplog.records
            clock.wall_s = alpha.expires_s - 86_400
            await clock.sleep(CHECK_INTERVAL_S * 3)
        assert ["ends in 1.0 days" in r.getMessage() for r in caplog.records] == [True]
        nursery.cancel_scope.cancel()


def test_the_identity_signs_what_its_credential_proves() -> None:
    alpha, beta = pair()
    data = domain("test") + b"hello"
    admitted = beta.authority.admit(alpha.identity.credential, alpha._environment.clock.wall())
    assert admitted is not None
    assert admitted.name == "alpha"
    assert verify(admitted.public_key, alpha.identity.sign(data), data)
    stranger = NodeCredentials.ephemeral("alpha", seeded(5)[0])
    assert beta.authority.admit(stranger.identity.credential, alpha._environment.clock.wall()) is None


def test_certificates_carry_what_strict_verification_asks_for() -> None:
    alpha, _ = pair()
    leaf = x509.load_der_x509_certificate(alpha.leaf())
    for cert in (leaf, alpha._material.cert, alpha._material.ca_cert):
        for extension in (
            x509.BasicConstraints,
            x509.KeyUsage,
            x509.SubjectKeyIdentifier,
            x509.AuthorityKeyIdentifier,
        ):
            cert.extensions.get_extension_for_class(extension)  # type: ignore[type-var]
    assert alpha.server_context().verify_flags & ssl.VERIFY_X509_STRICT
    assert alpha.server_context().minimum_version is ssl.TLSVersion.TLSv1_3
    assert alpha.server_context().verify_mode is ssl.CERT_REQUIRED
