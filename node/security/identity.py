"""A node's own credentials: what it shows on peer links, how it checks peers, how it signs statements.

The long-term identity is a CA for one name only (``node.security.pki``). From it the node issues its TLS
leaf, rotates it at half its life, and nobody else is involved. OpenSSL verifies the chain of a peer up to
the cluster authority; :meth:`NodeCredentials.verify_peer` then checks what OpenSSL does not: that the leaf
names the very node whose authority issued it, and the node that was expected.
"""

from __future__ import annotations

import logging
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from node.environment import Environment
from node.errors import PeerRejected, SecurityMaterialInvalid
from node.security import authority as files
from node.security import pki
from node.security.files import make_directory, sync_directory
from swim.identity import ClusterAuthority, Ed25519Identity, is_name

logger = logging.getLogger(__name__)

ROTATE_AT: Final = pki.LEAF_LIFETIME.total_seconds() / 2
"""A leaf with less than this left is replaced; a node that sleeps through it still has half a day."""
CHECK_INTERVAL_S: Final = 600.0
"""How often the wall clock is looked at: it may jump, so one long sleep would not do."""
EXPIRY_WARNING_S: Final = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityPaths:
    """Where the files of a node bundle are."""

    ca_cert: Path
    node_cert: Path
    node_key: Path
    credential: Path
    gossip_key: Path
    tokens: Path

    @classmethod
    def of_files(cls, paths: Mapping[str, Path | None]) -> SecurityPaths:
        """The files that a configuration names; raises TypeError for one that is missing."""
        return cls(**{name: path for name, path in paths.items() if path is not None})

    @classmethod
    def of_bundle(cls, directory: Path) -> SecurityPaths:
        """The files of a bundle that :func:`node.security.authority.issue_node` wrote."""
        return cls(
            ca_cert=directory / "ca.crt",
            node_cert=directory / "node.crt",
            node_key=directory / "node.key",
            credential=directory / "node.credential",
            gossip_key=directory / "gossip.key",
            tokens=directory / "tokens.yaml",
        )


class NodeCredentials:
    """One node's identity and its view of who belongs to the cluster; a ``LinkCredentials``.

    Args:
        material: The node's keys and certificates.
        environment: Source of leaf keys, and of the time.
        gossip_key_file: Where changed gossip keys are kept; nowhere if None.
    """

    def __init__(
        self,
        material: pki.NodeMaterial,
        environment: Environment,
        *,
        gossip_key_file: Path | None = None,
    ) -> None:
        self._material = material
        self._environment = environment
        self._gossip_key_file = gossip_key_file
        self._gossip_keys = material.gossip_keys
        self._authority = ClusterAuthority(_raw_public_key(material.ca_cert), material.cluster)
        self._identity = Ed25519Identity(material.name, material.key, material.credential)
        self._leaf = pki.issue_leaf(material, environment)
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._rotations = 0

    @classmethod
    def load(cls, paths: SecurityPaths, environment: Environment) -> NodeCredentials:
        """Read a node bundle, and check that its files belong together and are valid now.

        Raises:
            SecurityMaterialInvalid: says which file, why, and what to do.
        """
        ca_cert, cert = files.read_cert(paths.ca_cert), files.read_cert(paths.node_cert)
        key = files.read_key(paths.node_key)
        files.check_issued(cert, ca_cert)
        if key.public_key() != cert.public_key():
            raise SecurityMaterialInvalid(
                f"{paths.node_key} is not the key of {paths.node_cert}",
                fix="Use the files of one bundle together.",
            )
        _check_validity(cert, paths.node_cert, environment.clock.wall())
        credential = files.read_credential(paths.credential)
        name, cluster = pki.common_name(cert.subject), _cluster_name(ca_cert)
        admitted = None
        if is_name(name) and is_name(cluster):
            authority = ClusterAuthority(_raw_public_key(ca_cert), cluster)
            admitted = authority.admit(credential, environment.clock.wall())
        if (
            admitted is None
            or admitted.name != name
            or admitted.public_key != key.public_key().public_bytes_raw()
        ):
            raise SecurityMaterialInvalid(
                f"{paths.credential} does not certify the key of {paths.node_cert}",
                fix="Use the files of one bundle together, or renew the bundle with `caxton init --renew`.",
            )
        _warn_if_readable(paths.node_key, paths.gossip_key)
        material = pki.NodeMaterial(
            admitted.name, cluster, ca_cert, cert, key, credential, files.read_gossip_keys(paths.gossip_key)
        )
        return cls(material, environment, gossip_key_file=paths.gossip_key)

    @classmethod
    def ephemeral(
        cls, name: str, environment: Environment, *, secrets: pki.ClusterSecrets | None = None
    ) -> NodeCredentials:
        """Credentials that exist in memory only: for simulations, and for nodes that keep nothing.

        Args:
            name: The node's name.
            environment: Source of keys, and of the time.
            secrets: The cluster to belong to (:func:`node.security.pki.new_cluster`); a new one if None.
        """
        secrets = secrets or pki.new_cluster(environment, "ephemeral")
        return cls(pki.certify_node(secrets, name, environment), environment)

    @property
    def name(self) -> str:
        """The node's name."""
        return self._material.name

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return self._material.cluster

    @property
    def identity(self) -> Ed25519Identity:
        """What signs this node's statements."""
        return self._identity

    @property
    def public_key(self) -> bytes:
        """This node's long-term key, raw Ed25519, 32 bytes."""
        return self._material.key.public_key().public_bytes_raw()

    @property
    def authority(self) -> ClusterAuthority:
        """What decides whose statements count."""
        return self._authority

    @property
    def gossip_keys(self) -> tuple[bytes, ...]:
        """The 32-byte keys of gossip packets, as they were read or kept last; the first encrypts."""
        return self._gossip_keys

    def keep_gossip_keys(self, keys: Sequence[bytes]) -> None:
        """Keep the gossip keys for the next start; blocks until they are on disk.

        Args:
            keys: All that this node holds; the first encrypts.

        Raises:
            SecurityMaterialInvalid: the file cannot be written; it is as before.
        """
        if self._gossip_key_file is not None:
            files.write_gossip_keys(self._gossip_key_file, keys)
        self._gossip_keys = tuple(keys)

    @property
    def ca_fingerprint(self) -> str:
        """SHA-256 of the cluster authority's certificate, in hexadecimal."""
        return files.fingerprint(self._material.ca_cert)

    @property
    def key_id(self) -> str:
        """Identifier of this node's long-term key, in hexadecimal: how people call it."""
        return pki.key_id(self._material.cert).hex()

    @property
    def cert(self) -> x509.Certificate:
        """The certificate of this node's long-term key: what a revocation is made of."""
        return self._material.cert

    @property
    def expires_s(self) -> float:
        """Unix time at which the node's certificate ends and must have been renewed."""
        return self._material.cert.not_valid_after_utc.timestamp()

    def client_context(self) -> ssl.SSLContext:
        """TLS 1.3 as the dialling side."""
        return self._context(server=False)

    def server_context(self) -> ssl.SSLContext:
        """TLS 1.3 as the accepting side; a client certificate is required."""
        return self._context(server=True)

    def leaf(self) -> bytes:
        """This node's leaf certificate (DER)."""
        return pki.cert_der(self._leaf.cert)

    def rotate_if_due(self) -> bool:
        """Replace the leaf if less than half its life is left; say whether it was replaced.

        Open links keep the certificate they were opened with.
        """
        left = self._leaf.cert.not_valid_after_utc.timestamp() - self._environment.clock.wall()
        # More than a whole life left: the clock was ahead when the leaf was made and has gone back.
        if ROTATE_AT < left <= pki.LEAF_LIFETIME.total_seconds():
            return False
        self._leaf = pki.issue_leaf(self._material, self._environment)
        self._contexts.clear()
        self._rotations += 1
        return True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the leaf fresh, and warn in time of the node certificate's end, until cancelled."""
        task_status.started()
        warned = False
        while True:
            if self.rotate_if_due():
                logger.info("rotated the TLS certificate of %s", self.name)
            left = self.expires_s - self._environment.clock.wall()
            if left < EXPIRY_WARNING_S and not warned:
                warned = True
                logger.warning(
                    "the node certificate of %s ends in %.1f days: renew it with `caxton init DIR --node %s "
                    "--renew`",
                    self.name,
                    left / 86_400,
                    self.name,
                )
            await self._environment.clock.sleep(CHECK_INTERVAL_S)

    def verify_peer(self, leaf_der: bytes, expected: str | None = None) -> str:
        """The name of the peer that has proven to hold ``leaf_der``, whose chain OpenSSL has verified.

        Args:
            leaf_der: The leaf certificate of the peer.
            expected: The node that was dialled, if this side dialled.

        Raises:
            PeerRejected: the leaf names another node than its issuer or than expected, is outside its
                validity, or its node is revoked.
        """
        try:
            leaf = x509.load_der_x509_certificate(leaf_der)
            named = _named_node(leaf)
            issuer = pki.common_name(leaf.issuer)
            issuer_key = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
            begins, ends = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        except (ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension):
            raise PeerRejected("the peer's certificate is not one that a node issues") from None
        if named is None or not is_name(named):
            raise PeerRejected("the peer's certificate names no node")
        if named != issuer:
            raise PeerRejected(
                "the peer's certificate names another node than its issuer",
                why=f"it names {named!r}, its issuer is {str(issuer)[:80]!r}",
            )
        if not begins <= self._environment.clock.wall() <= ends:
            raise PeerRejected(
                f"the certificate of {named} is outside its validity",
                fix="Check the clocks of both machines.",
            )
        revoked = map(pki.key_identifier, self._authority.revoked_keys())
        if issuer_key.key_identifier is None or issuer_key.key_identifier in revoked:
            raise PeerRejected(f"the key of {named} is revoked")
        if expected is not None and named != expected:
            raise PeerRejected(f"the peer is {named}, not {expected}")
        return named

    def statistics(self) -> dict[str, int]:
        """Rotations so far, and what the authority has seen."""
        return {"rotations": self._rotations} | {
            f"authority_{key}": value for key, value in self._authority.statistics().items()
        }

    def _context(self, *, server: bool) -> ssl.SSLContext:
        if server not in self._contexts:
            self._contexts[server] = self._build_context(server=server)
        return self._contexts[server]

    def _build_context(self, *, server: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.maximum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # peers are named by URI, which verify_peer checks
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        if server:
            context.num_tickets = 0  # a resumed session would skip the check of the certificate
        context.load_verify_locations(cadata=pki.cert_pem(self._material.ca_cert).decode())
        # The ssl module reads keys from files only. The file is the owner's alone (mode 0600), exists
        # for the time of this call, and holds the day's key, never the long-term one.
        try:
            with tempfile.NamedTemporaryFile(prefix="caxton-leaf-") as file:
                file.write(pki.key_pem(self._leaf.key) + pki.cert_pem(self._leaf.cert, self._material.cert))
                file.flush()
                context.load_cert_chain(file.name)
        except OSError as error:
            raise SecurityMaterialInvalid(
                "cannot hand the TLS key to OpenSSL",
                why=error.strerror or str(error),
                fix="Make the directory for temporary files (TMPDIR) writable.",
            ) from None
        return context


def ensure_local_cluster(directory: Path, name: str, environment: Environment) -> SecurityPaths:
    """The bundle of a one-node cluster under ``directory``, made on the first run.

    This is what bare ``caxton start`` uses; such a node listens on loopback only, yet its links and its
    gossip are protected like any other's.

    Args:
        directory: Where the cluster is kept, with the operator's admin.token.
        name: The node's name.
        environment: Source of keys, and of the time.

    Raises:
        SecurityMaterialInvalid: it cannot be written, or what is there is damaged.
    """
    if not directory.exists():
        make_directory(directory.parent)
        with tempfile.TemporaryDirectory(prefix=".caxton-init-", dir=directory.parent) as unfinished:
            made = Path(unfinished) / "cluster"
            files.create_cluster(made, environment=environment)
            made.rename(directory)  # whole or not at all
            sync_directory(directory.parent)
    bundle = directory / "nodes" / name
    if not (bundle / "node.key").exists():
        files.issue_node(directory, name, environment=environment)
    return SecurityPaths.of_bundle(bundle)


def _raw_public_key(cert: x509.Certificate) -> bytes:
    key = cert.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise SecurityMaterialInvalid("the cluster authority's key is not Ed25519")
    return key.public_bytes_raw()


def _cluster_name(ca_cert: x509.Certificate) -> str:
    return (pki.common_name(ca_cert.subject) or "").rpartition(" ")[2]


def _named_node(leaf: x509.Certificate) -> str | None:
    """The host of the one URI among the subject's alternative names."""
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or len(list(names)) != 1:
        return None
    host = urlsplit(uris[0]).netloc
    return host if uris[0] == pki.node_uri(host) else None


def _check_validity(cert: x509.Certificate, path: Path, wall: float) -> None:
    if wall < cert.not_valid_before_utc.timestamp():
        raise SecurityMaterialInvalid(
            f"{path} is not valid yet", why="this machine's clock is behind", fix="Set the clock."
        )
    if wall > cert.not_valid_after_utc.timestamp():
        raise SecurityMaterialInvalid(
            f"{path} has expired",
            why=f"it was valid until {cert.not_valid_after_utc:%Y-%m-%d}",
            fix="Renew it with `caxton init DIR --node NAME --renew`.",
        )


def _warn_if_readable(*secrets: Path) -> None:
    for path in secrets:
        if path.stat().st_mode & 0o077:
            logger.warning("%s can be read by other users: restrict it with chmod 600", path)
