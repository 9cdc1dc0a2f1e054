"""What ``caxton init`` writes: the cluster's authority, and one bundle of files per node.

The cluster directory stays with the operator; a node gets only its own bundle. Nothing in here ever
overwrites a key, unless a renewal of one node is asked for by name.

    DIR/            ca.crt  ca.key  gossip.key  admin.token  tokens.yaml  cluster.yaml
    DIR/replaced/   NAME-KEYID.crt, the certificates that renewals replaced
    DIR/revoked/    NAME-KEYID.revocation, what ``caxton revoke`` has signed
    DIR/nodes/NAME/ ca.crt  node.crt  node.key  node.credential  gossip.key  tokens.yaml  node.yaml
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.environment import Environment
from node.errors import SecurityMaterialInvalid, ValidationFailed
from node.security import pki
from node.security.files import (
    PUBLIC_MODE,
    SECRET_MODE,
    check_unshared,
    make_directory,
    read_bounded,
    write_atomically,
)
from node.security.tokens import new_token, tokens_yaml
from swim.identity import is_name
from swim.keyring import MAX_KEYS

GOSSIP_KEY_BYTES: Final = 32
_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ClusterFiles:
    """The files of a cluster's owner.

    Args:
        directory: Where they are.
        cluster: The cluster's name.
    """

    directory: Path
    cluster: str

    @property
    def ca_cert(self) -> Path:
        """The authority's certificate."""
        return self.directory / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The authority's key; keep it offline."""
        return self.directory / "ca.key"

    @property
    def gossip_key(self) -> Path:
        """The keys of gossip packets, in hexadecimal, one a line; the first encrypts."""
        return self.directory / "gossip.key"

    @property
    def admin_token(self) -> Path:
        """The operator's bearer token, the only place where it stands in clear."""
        return self.directory / "admin.token"

    @property
    def tokens(self) -> Path:
        """The hashes of tokens that nodes accept."""
        return self.directory / "tokens.yaml"

    @property
    def description(self) -> Path:
        """The cluster's name and fingerprint; written last, so its presence means: complete."""
        return self.directory / "cluster.yaml"


@dataclass(frozen=True, slots=True)
class NodeBundle:
    """The files of one node.

    Args:
        directory: Where they are.
        name: The node's name.
        cluster: The cluster's name.
    """

    directory: Path
    name: str
    cluster: str

    @property
    def config(self) -> Path:
        """A configuration that ``caxton start --config`` takes as it is."""
        return self.directory / "node.yaml"

    @property
    def tokens(self) -> Path:
        """The hashes of tokens that this node accepts."""
        return self.directory / "tokens.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What a node's first ``node.yaml`` says about its network; everything else keeps its default.

    Args:
        bind_host: Where gossip and peer links listen.
        advertise_host: The address that peers are told, if it is not ``bind_host``.
        http_host: Where the admin API listens.
        http_port: Its port.
        gossip_port: UDP and TCP port of membership.
        link_port: TCP port of peer links.
        seeds: ``host:port`` of members to join.
        profile: Timing profile, one of local, lan, wan, edge.
    """

    bind_host: str = _LOOPBACK
    advertise_host: str | None = None
    http_host: str = _LOOPBACK
    http_port: int = 8080
    gossip_port: int = 7946
    link_port: int = 7947
    seeds: Sequence[str] = ()
    profile: str = "lan"


def create_cluster(directory: Path, *, environment: Environment, cluster: str | None = None) -> ClusterFiles:
    """Write a new cluster authority, gossip key and admin token into ``directory``.

    Args:
        directory: Created if it does not exist; must hold no cluster yet.
        environment: Source of keys, and of the time.
        cluster: The cluster's name; a random one by default.

    Raises:
        ValidationFailed: the name cannot name a cluster.
        SecurityMaterialInvalid: the directory holds a cluster already, or cannot be written.
    """
    name = cluster if cluster is not None else f"cluster-{environment.randomness.token(4).hex()}"
    _check_name(name, "cluster")
    files = ClusterFiles(directory, name)
    for path in (files.ca_key, files.ca_cert, files.gossip_key, files.description):
        if path.exists():
            raise SecurityMaterialInvalid(
                f"{directory} already holds a cluster",
                why=f"{path.name} exists, and a new key would lock out every node issued with the old one",
                fix=f"Add a node with `caxton init {directory} --node NAME`, or choose another directory.",
            )
    secrets = pki.new_cluster(environment, name)
    token = new_token(environment)
    make_directory(directory)
    check_unshared(directory)
    write_atomically(files.ca_key, pki.key_pem(secrets.ca_key), mode=SECRET_MODE)
    write_atomically(files.ca_cert, pki.cert_pem(secrets.ca_cert), mode=PUBLIC_MODE)
    write_atomically(files.gossip_key, gossip_keys_text(secrets.gossip_keys), mode=SECRET_MODE)
    write_atomically(files.admin_token, token.encode() + b"\n", mode=SECRET_MODE)
    write_atomically(files.tokens, tokens_yaml([("admin", "admin", token)]), mode=SECRET_MODE)
    description = f"# A Caxton cluster. Keep ca.key offline: whoever has it can add nodes.\ncluster: {name}\n"
    description += f"ca_fingerprint: {fingerprint(secrets.ca_cert)}\n"
    write_atomically(files.description, description.encode(), mode=PUBLIC_MODE)
    return files


def issue_node(
    directory: Path,
    name: str,
    *,
    environment: Environment,
    settings: NodeSettings | None = None,
    renew: bool = False,
) -> NodeBundle:
    """Write the bundle of node ``name`` into ``directory/nodes/NAME``.

    Args:
        directory: A cluster written by :func:`create_cluster`.
        name: The node's name, unique in the cluster.
        environment: Source of keys, and of the time.
        settings: What node.yaml says; loopback and the default ports if None.
        renew: Replace the key and certificates of an existing node; its node.yaml is kept.

    Raises:
        ValidationFailed: the name cannot name a node.
        SecurityMaterialInvalid: no cluster there, the node exists, or it cannot be written.
    """
    _check_name(name, "node")
    files, secrets = load_cluster(directory)
    bundle = NodeBundle(directory / "nodes" / name, name, secrets.cluster)
    if (bundle.directory / "node.key").exists() and not renew:
        raise SecurityMaterialInvalid(
            f"the node {name!r} exists already",
            why=f"{bundle.directory} holds its key, and two nodes must not share a name",
            fix="Choose another name, or renew its certificate with --renew.",
        )
    material = pki.certify_node(secrets, name, environment)
    make_directory(bundle.directory)
    _keep_replaced(directory, name, bundle.directory / "node.crt")
    contents = (
        ("ca.crt", pki.cert_pem(material.ca_cert), PUBLIC_MODE),
        ("node.crt", pki.cert_pem(material.cert), PUBLIC_MODE),
        ("node.credential", base64.b64encode(material.credential) + b"\n", PUBLIC_MODE),
        ("gossip.key", gossip_keys_text(material.gossip_keys), SECRET_MODE),
        ("tokens.yaml", read_bounded(files.tokens, "token list"), SECRET_MODE),
    )
    for file_name, content, mode in contents:
        write_atomically(bundle.directory / file_name, content, mode=mode)
    if not bundle.config.exists():
        text = _node_yaml(name, secrets.cluster, settings or NodeSettings())
        write_atomically(bundle.config, text.encode(), mode=PUBLIC_MODE)
    # The key comes last: its presence means that the bundle is complete.
    write_atomically(bundle.directory / "node.key", pki.key_pem(material.key), mode=SECRET_MODE)
    return bundle


def _keep_replaced(directory: Path, name: str, path: Path) -> None:
    """Keep the certificate that a renewal replaces: without it, its key could not be revoked later."""
    if path.exists():
        make_directory(directory / "replaced")
        kept = directory / "replaced" / f"{name}-{pki.key_id(read_cert(path)).hex()[:8]}.crt"
        write_atomically(kept, read_bounded(path, "certificate"), mode=PUBLIC_MODE)


def load_cluster(directory: Path) -> tuple[ClusterFiles, pki.ClusterSecrets]:
    """Read what :func:`create_cluster` wrote.

    Raises:
        SecurityMaterialInvalid: no cluster there, or its files do not belong together.
    """
    description = directory / "cluster.yaml"
    if not description.exists():
        raise SecurityMaterialInvalid(
            f"{directory} holds no cluster",
            why=f"{description} does not exist",
            fix=f"Create one with `caxton init {directory}`.",
        )
    try:
        found = yaml.safe_load(read_bounded(description, "cluster description"))
    except yaml.YAMLError:
        found = None
    cluster = found.get("cluster") if isinstance(found, dict) else None
    if not is_name(cluster):
        raise SecurityMaterialInvalid(f"{description} does not name a cluster")
    files = ClusterFiles(directory, str(cluster))
    key = read_key(files.ca_key)
    cert = read_cert(files.ca_cert)
    if cert.public_key() != key.public_key():
        raise SecurityMaterialInvalid(
            f"{files.ca_key} is not the key of {files.ca_cert}", fix="Restore both from one backup."
        )
    return files, pki.ClusterSecrets(files.cluster, key, cert, read_gossip_keys(files.gossip_key))


def fingerprint(cert: x509.Certificate) -> str:
    """SHA-256 of a certificate, in hexadecimal: what two operators compare by telephone."""
    return cert.fingerprint(hashes.SHA256()).hex()


def read_cert(path: Path) -> x509.Certificate:
    """The one certificate in a PEM file.

    Raises:
        SecurityMaterialInvalid: there is none.
    """
    try:
        certs = x509.load_pem_x509_certificates(read_bounded(path, "certificate"))
    except ValueError as error:
        raise SecurityMaterialInvalid(f"{path} is no certificate", why=str(error)[:200]) from None
    if len(certs) != 1:
        raise SecurityMaterialInvalid(f"{path} must hold one certificate", why=f"it holds {len(certs)}")
    return certs[0]


def read_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key in an unencrypted PEM file.

    Raises:
        SecurityMaterialInvalid: there is none.
    """
    try:
        key = serialization.load_pem_private_key(read_bounded(path, "private key"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # the reason could quote the key: it is not shown
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SecurityMaterialInvalid(f"{path} is no unencrypted Ed25519 private key in PEM")
    return key


def read_gossip_keys(path: Path) -> tuple[bytes, ...]:
    """The gossip keys that a file holds in hexadecimal, one a line; the first encrypts.

    Raises:
        SecurityMaterialInvalid: it does not.
    """
    lines = read_bounded(path, "gossip key").split()
    try:
        keys = tuple(dict.fromkeys(map(binascii.unhexlify, lines)))
    except ValueError:
        keys = ()
    if not 0 < len(keys) <= MAX_KEYS or any(len(key) != GOSSIP_KEY_BYTES for key in keys):
        raise SecurityMaterialInvalid(
            f"{path} is no gossip key",
            why=f"it must hold 1 to {MAX_KEYS} lines of 64 hexadecimal digits (32 bytes)",
            fix="Copy gossip.key from a bundle of the cluster, a running node's for choice.",
        )
    return keys


def write_gossip_keys(path: Path, keys: Sequence[bytes]) -> None:
    """Replace a file that :func:`read_gossip_keys` reads, whole or not at all, and sync it.

    Args:
        path: The file, or a link to it.
        keys: Of 32 bytes each; the first encrypts.

    Raises:
        SecurityMaterialInvalid: the system refuses.
    """
    write_atomically(path.resolve(), gossip_keys_text(keys), mode=SECRET_MODE)


def gossip_keys_text(keys: Sequence[bytes]) -> bytes:
    """Gossip keys as their file holds them."""
    return b"".join(key.hex().encode() + b"\n" for key in keys)


def read_credential(path: Path) -> bytes:
    """The compact credential that a file holds in base64.

    Raises:
        SecurityMaterialInvalid: it does not.
    """
    try:
        return base64.b64decode(read_bounded(path, "credential").strip(), validate=True)
    except ValueError:
        raise SecurityMaterialInvalid(f"{path} is no credential", why="it is not base64") from None


def check_issued(cert: x509.Certificate, ca_cert: x509.Certificate) -> None:
    """Check that ``ca_cert`` signed ``cert``.

    Raises:
        SecurityMaterialInvalid: it did not.
    """
    try:
        cert.verify_directly_issued_by(ca_cert)
    except (ValueError, TypeError, InvalidSignature):
        raise SecurityMaterialInvalid(
            "the node's certificate was not issued by this cluster's authority",
            why=f"the authority's fingerprint is {fingerprint(ca_cert)[:16]}",
            fix="Use the files of one bundle together.",
        ) from None


def _check_name(name: str, what: str) -> None:
    if not is_name(name):
        raise ValidationFailed(
            f"{name[:80]!r} cannot name a {what}",
            why="a name has 1 to 63 of a-z, 0-9 and '-', and begins and ends with a letter or digit",
            fix="Choose such a name.",
            details={"field": "name"},
        )


def _node_yaml(name: str, cluster: str, settings: NodeSettings) -> str:
    """The first configuration of a node; quoted by JSON's rules, which YAML shares."""
    advertise = settings.advertise_host
    lines = [
        f"# Node {name} of cluster {cluster}. Start it with: caxton start --config node.yaml",
        "# Relative paths are relative to this file. ${NAME} and ${NAME:-default} take values from the",
        "# environment; CAXTON_SECTION__KEY overrides a key, for example CAXTON_SERVER__PORT=8081.",
        "",
        "server:",
        f"  host: {json.dumps(settings.http_host)}  # the admin API; needs a token from tokens.yaml",
        f"  port: {settings.http_port}",
        "",
        "cluster:",
        f"  node_name: {json.dumps(name)}",
        f"  bind_host: {json.dumps(settings.bind_host)}  # 0.0.0.0 to be reached from other machines",
        *([f"  advertise_host: {json.dumps(advertise)}"] if advertise else []),
        f"  bind_port: {settings.gossip_port}  # membership, UDP and TCP",
        f"  link_port: {settings.link_port}  # messages, TLS 1.3",
        f"  profile: {json.dumps(settings.profile)}  # local, lan, wan or edge",
        f"  seeds: {json.dumps(list(settings.seeds))}  # host:port of any members to join",
        "",
        "security:",
        "  ca_cert: ca.crt",
        "  node_cert: node.crt",
        "  node_key: node.key",
        "  credential: node.credential",
        "  gossip_key: gossip.key",
        "  tokens: tokens.yaml",
        "",
        "storage:",
        "  data_dir: data",
        "",
    ]
    return "\n".join(lines)
