"""The certificates of a cluster: who signs what, and which fields make the peers believe it.

Three levels, all Ed25519:

* the **cluster CA**, offline after ``caxton init``; the only trust anchor of every node;
* one **node CA** per node, certified by the cluster CA, path length 0, its names constrained to the
  one URI host that is the node's name. Its key is the node's long-term identity;
* a **leaf** per node, valid for a day, issued by the node itself for TLS, naming ``caxton://NAME``.

So a node rotates its TLS key without anyone's help, and a stolen leaf is worthless after a day.
The fields satisfy OpenSSL's ``X509_STRICT`` (Python 3.13's default): RFC 5280 sections 4.2.1.1,
4.2.1.2, 4.2.1.3, 4.2.1.9, 4.2.1.10 and 4.2.1.12.

Keys and serial numbers come from the environment's token source and times from its wall clock; as
Ed25519 signs deterministically, a seeded environment yields the same bytes each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.environment import Environment
from swim.identity import issue_credential, issue_revocation

CA_LIFETIME: Final = timedelta(days=3650)
NODE_LIFETIME: Final = timedelta(days=825)
LEAF_LIFETIME: Final = timedelta(hours=24)
BACKDATE: Final = timedelta(hours=24)
"""Certificates are valid from a day before they were made: clocks of small machines are often behind."""
URI_SCHEME: Final = "caxton"


@dataclass(frozen=True, slots=True)
class ClusterSecrets:
    """What the owner of a cluster holds, and nobody else.

    Args:
        cluster: The cluster's name, bound into every credential and gossip packet.
        ca_key: The cluster authority's key.
        ca_cert: Its self-signed certificate, the trust anchor of every node.
        gossip_keys: Of 32 bytes each, the AES-256-GCM keys of gossip packets; the first encrypts.
    """

    cluster: str
    ca_key: Ed25519PrivateKey
    ca_cert: x509.Certificate
    gossip_keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class NodeMaterial:
    """What one node holds.

    Args:
        name: The node's name.
        cluster: The cluster's name.
        ca_cert: The trust anchor.
        cert: The node's own constrained CA certificate.
        key: Its long-term identity.
        credential: The compact form of ``cert`` for gossip (``swim.identity``).
        gossip_keys: Of 32 bytes each; the first encrypts.
    """

    name: str
    cluster: str
    ca_cert: x509.Certificate
    cert: x509.Certificate
    key: Ed25519PrivateKey
    credential: bytes
    gossip_keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A short-lived TLS certificate and its key."""

    cert: x509.Certificate
    key: Ed25519PrivateKey


def new_key(environment: Environment) -> Ed25519PrivateKey:
    """A new Ed25519 key from the environment's token source."""
    return Ed25519PrivateKey.from_private_bytes(environment.randomness.token(32))


def new_cluster(environment: Environment, cluster: str) -> ClusterSecrets:
    """A new cluster authority and gossip key."""
    key = new_key(environment)
    # The spaces keep the authority's name from ever being a node's name.
    subject = _name(f"Caxton cluster {cluster}")
    cert = (
        _builder(environment, subject, subject, key.public_key(), CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, None)
    )
    return ClusterSecrets(cluster, key, cert, (environment.randomness.token(32),))


def certify_node(secrets: ClusterSecrets, name: str, environment: Environment) -> NodeMaterial:
    """A new node identity, certified by the cluster authority."""
    key = new_key(environment)
    cert = (
        _builder(environment, _name(name), secrets.ca_cert.subject, key.public_key(), NODE_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(
            x509.NameConstraints(
                permitted_subtrees=[x509.UniformResourceIdentifier(name)], excluded_subtrees=None
            ),
            critical=True,
        )
        .add_extension(_issued_by(secrets.ca_cert), critical=False)
        .sign(secrets.ca_key, None)
    )
    credential = issue_credential(
        secrets.ca_key,
        cluster=secrets.cluster,
        name=name,
        public_key=key.public_key().public_bytes_raw(),
        not_after=cert.not_valid_after_utc.timestamp(),
    )
    return NodeMaterial(name, secrets.cluster, secrets.ca_cert, cert, key, credential, secrets.gossip_keys)


def issue_leaf(material: NodeMaterial, environment: Environment) -> Leaf:
    """A new TLS certificate of the node, issued by the node."""
    key = new_key(environment)
    cert = (
        _builder(environment, _name(material.name), material.cert.subject, key.public_key(), LEAF_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(node_uri(material.name))]),
            critical=False,
        )
        .add_extension(_issued_by(material.cert), critical=False)
        .sign(material.key, None)
    )
    return Leaf(cert, key)


def node_uri(name: str) -> str:
    """The URI that names a node in a certificate."""
    return f"{URI_SCHEME}://{name}"


def common_name(name: x509.Name) -> str | None:
    """The one common name in ``name``, or None."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else None


@lru_cache(maxsize=1024)
def key_identifier(public_key: bytes) -> bytes:
    """The subject key identifier of a raw Ed25519 public key (RFC 5280, 4.2.1.2); see :func:`key_id`."""
    key = Ed25519PublicKey.from_public_bytes(public_key)
    return x509.SubjectKeyIdentifier.from_public_key(key).digest


def key_id(cert: x509.Certificate) -> bytes:
    """The subject key identifier of a certificate made here."""
    return cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def revoke(secrets: ClusterSecrets, cert: x509.Certificate, since_s: float) -> bytes:
    """The authority's word that the key of a node's certificate counts only until ``since_s`` (Unix seconds).

    Raises:
        ValueError: the certificate is not one of a node.
    """
    key, name = cert.public_key(), common_name(cert.subject)
    if not isinstance(key, Ed25519PublicKey) or name is None:
        raise ValueError("it is no certificate of a node")
    return issue_revocation(
        secrets.ca_key,
        cluster=secrets.cluster,
        name=name,
        public_key=key.public_bytes_raw(),
        since=since_s,
        not_after=cert.not_valid_after_utc.timestamp(),
    )


def key_pem(key: Ed25519PrivateKey) -> bytes:
    """A private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def cert_pem(*certs: x509.Certificate) -> bytes:
    """Certificates as concatenated PEM."""
    return b"".join(cert.public_bytes(serialization.Encoding.PEM) for cert in certs)


def cert_der(cert: x509.Certificate) -> bytes:
    """A certificate as DER."""
    return cert.public_bytes(serialization.Encoding.DER)


def _builder(
    environment: Environment,
    subject: x509.Name,
    issuer: x509.Name,
    key: Ed25519PublicKey,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    moment = datetime.fromtimestamp(int(environment.clock.wall()), UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(int.from_bytes(b"\x01" + environment.randomness.token(15), "big"))
        .not_valid_before(moment - BACKDATE)
        .not_valid_after(moment + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _issued_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
