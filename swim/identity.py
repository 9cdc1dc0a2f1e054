"""Who a node is, and how its peers can tell: Ed25519 keys certified by the cluster authority.

A **credential** is a compact certificate: the authority's signature over (cluster, name, public
key, expiry). It is about 125 bytes, so that it fits beside a statement inside one gossip packet,
where an X.509 certificate would not. Credentials are forwarded with the statements they prove; a
receiver needs only the authority's public key to check a statement of a node it has never met.

Every signature in the system covers `domain(purpose) + data`. The purpose ends with a zero byte,
so a signature made for one purpose can never be presented for another.

Layout of a credential, a canonical CBOR array:

    [1, cluster: str, name: str, public_key: bytes 32, not_after: uint seconds, signature: bytes 64]

The signature covers `domain("credential") + CBOR([1, cluster, name, public_key, not_after])`.

A **revocation** is the authority's word that a key counts only for what was signed before a time:

    [1, cluster: str, name: str, public_key: bytes 32, since: uint seconds, not_after: uint seconds,
     signature: bytes 64]

under `domain("revocation")`. What the key certified has an end of its own, `not_after`, after which nobody
need keep the revocation.
"""

import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from swim import strict_cbor

CREDENTIAL_VERSION: Final = 1
MAX_CREDENTIAL_BYTES: Final = 320
"""Two names of 63 characters, the key, the expiry and the signature, with room to spare."""
REVOCATION_VERSION: Final = 1
MAX_REVOCATION_BYTES: Final = 320
MAX_CACHED_CREDENTIALS: Final = 4096
"""Admitted credentials an authority remembers: four for each node of a 1,000-node cluster."""
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

MAX_NAME_CHARACTERS: Final = 63
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_REVOCATION_TYPES: Final = [int, str, str, bytes, int, int, bytes]


class Identity(Protocol):
    """What a node needs in order to speak for itself."""

    @property
    def name(self) -> str:
        """The node's name, which the credential certifies."""

    @property
    def credential(self) -> bytes:
        """The certificate that peers are shown."""

    def sign(self, data: bytes) -> bytes:
        """Sign `data`, which must begin with `domain(purpose)`."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A credential that the authority vouches for.

    Attributes:
        name: the node's name.
        public_key: its raw Ed25519 public key, 32 bytes.
        not_after: wall time in seconds since the epoch at which the credential ends.
    """

    name: str
    public_key: bytes
    not_after: float


@dataclass(frozen=True, slots=True)
class Revocation:
    """The authority's word that a key counts no more.

    Attributes:
        name: of the node whose key it was.
        public_key: the key, raw Ed25519, 32 bytes.
        since: wall time in seconds since the epoch; what the key signed later does not count.
        not_after: wall time at which the credential ends anyway.
    """

    name: str
    public_key: bytes
    since: float
    not_after: float


class Authority(Protocol):
    """Decides which credentials count."""

    def admit(self, credential: bytes, wall: float) -> Admitted | None:
        """Return whom the credential certifies at `wall` seconds since the epoch, or None."""

    def revoke(self, encoded: bytes) -> Revocation | None:
        """Let a key count no more if the authority has signed that; return what it says, or None."""

    def is_revoked(self, public_key: bytes) -> bool:
        """Say whether a key counts no more."""


def domain(purpose: str) -> bytes:
    """Return the prefix that keeps a signature for `purpose` from standing for anything else."""
    return f"caxton/{purpose}/1".encode() + b"\0"


def is_name(text: object) -> bool:
    """Say whether `text` can name a node or a cluster: a DNS label in lower case."""
    return isinstance(text, str) and len(text) <= MAX_NAME_CHARACTERS and _matches(text)


@lru_cache(maxsize=8192)
def _matches(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def verify(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Say whether `signature` is the key's Ed25519 signature of `data`; bad input is a plain no.

    Loading a key takes a hundredth of the time of the check, so loaded keys are not cached.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


class Ed25519Identity:
    """An identity whose private key is at hand, in this process.

    Args:
        name: the node's name, the one in the credential.
        private_key: its long-term key.
        credential: what `issue_credential` returned for this name and key.
    """

    __slots__ = ("_private_key", "credential", "name")

    def __init__(self, name: str, private_key: Ed25519PrivateKey, credential: bytes) -> None:
        _require_name(name, "node")
        self.name = name
        self.credential = credential
        self._private_key = private_key

    def sign(self, data: bytes) -> bytes:
        """Sign `data`, which must begin with `domain(purpose)`."""
        return self._private_key.sign(data)


def issue_credential(
    ca_private_key: Ed25519PrivateKey,
    *,
    cluster: str,
    name: str,
    public_key: bytes,
    not_after: float,
) -> bytes:
    """Certify that `public_key` is the key of node `name` in `cluster`.

    Args:
        ca_private_key: the cluster authority's key.
        cluster: the cluster's name; a credential of another cluster is refused.
        name: the node's name.
        public_key: the node's raw Ed25519 public key, 32 bytes.
        not_after: wall time in seconds since the epoch at which the credential ends; whole
            seconds count.

    Returns:
        The credential, about 125 bytes.

    Raises:
        ValueError: for a name or key that no authority would admit.
    """
    _require_name(cluster, "cluster")
    _require_name(name, "node")
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    if not math.isfinite(not_after) or not 0 <= not_after < 2**53:
        raise ValueError(f"not_after must be seconds since the epoch, not {not_after!r}")
    statement = [CREDENTIAL_VERSION, cluster, name, public_key, int(not_after)]
    signature = ca_private_key.sign(domain("credential") + strict_cbor.encode(statement))
    return strict_cbor.encode([*statement, signature])


def issue_revocation(
    ca_private_key: Ed25519PrivateKey,
    *,
    cluster: str,
    name: str,
    public_key: bytes,
    since: float,
    not_after: float,
) -> bytes:
    """Say with the authority's key that a node's key counts no more.

    Args:
        ca_private_key: the cluster authority's key.
        cluster: the cluster's name.
        name: of the node whose key it is.
        public_key: that key, raw Ed25519, 32 bytes.
        since: wall time in seconds since the epoch after which nothing that it signs counts.
        not_after: when the credential of the key ends; whole seconds count.

    Returns:
        The revocation, about 130 bytes.

    Raises:
        ValueError: for what no authority would take.
    """
    _require_name(cluster, "cluster")
    _require_name(name, "node")
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    for moment in (since, not_after):
        if not math.isfinite(moment) or not 0 <= moment < 2**53:
            raise ValueError(f"times are seconds since the epoch, not {moment!r}")
    statement = [REVOCATION_VERSION, cluster, name, public_key, int(since), math.ceil(not_after)]
    signature = ca_private_key.sign(domain("revocation") + strict_cbor.encode(statement))
    return strict_cbor.encode([*statement, signature])


class ClusterAuthority:
    """Admits the credentials that the authority of one cluster has issued, and has not revoked.

    The signature of a credential is checked once and remembered; its expiry is checked each time.
    Refusals are not remembered, so garbage cannot push admitted credentials out of the cache. Revocations
    are kept for good: there are no more of them than credentials that the authority has issued.

    Args:
        ca_public_key: the authority's raw Ed25519 public key, 32 bytes.
        cluster: the cluster's name.
        max_cached: admitted credentials that are remembered.
    """

    def __init__(
        self, ca_public_key: bytes, cluster: str, *, max_cached: int = MAX_CACHED_CREDENTIALS
    ) -> None:
        _require_name(cluster, "cluster")
        if len(ca_public_key) != PUBLIC_KEY_BYTES:
            raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(ca_public_key)}")
        self.ca_public_key = ca_public_key
        self.cluster = cluster
        self._max_cached = max_cached
        self._admitted: OrderedDict[bytes, Admitted] = OrderedDict()
        self._revoked: dict[bytes, Revocation] = {}
        self._refused = 0

    def admit(self, credential: bytes, wall: float) -> Admitted | None:
        """Return whom the credential certifies at `wall` seconds since the epoch, or None."""
        admitted = self._admitted.get(credential)
        if admitted is None:
            admitted = self._check(credential)
            if admitted is not None:
                self._admitted[credential] = admitted
                if len(self._admitted) > self._max_cached:
                    self._admitted.popitem(last=False)
        else:
            self._admitted.move_to_end(credential)
        if admitted is None or not wall <= self._ends(admitted):  # NaN is refused too
            self._refused += 1
            return None
        return admitted

    def revoke(self, encoded: bytes) -> Revocation | None:
        """Let a key count no more if the authority has signed that; return what it says, or None.

        Of several for one key the earliest `since` holds.
        """
        found = self._check_revocation(encoded)
        if found is not None:
            known = self._revoked.get(found.public_key)
            if known is None or found.since < known.since:
                self._revoked[found.public_key] = found
        return found

    def is_revoked(self, public_key: bytes) -> bool:
        """Say whether a key counts no more."""
        return public_key in self._revoked

    def revoked_keys(self) -> tuple[bytes, ...]:
        """Return the keys that count no more."""
        return tuple(self._revoked)

    def statistics(self) -> dict[str, int]:
        """Count what is remembered, what was refused, and the keys that are revoked."""
        return {"cached": len(self._admitted), "refused": self._refused, "revoked": len(self._revoked)}

    def _ends(self, admitted: Admitted) -> float:
        """Return until when what a key signs counts."""
        revoked = self._revoked.get(admitted.public_key)
        return admitted.not_after if revoked is None else min(admitted.not_after, revoked.since)

    def _check_revocation(self, encoded: bytes) -> Revocation | None:
        try:
            fields = strict_cbor.decode(encoded, max_bytes=MAX_REVOCATION_BYTES)
        except ValueError:
            return None
        if type(fields) is not list or [type(field) for field in fields] != _REVOCATION_TYPES:
            return None
        version, cluster, name, public_key, since, not_after, signature = fields
        if version != REVOCATION_VERSION or cluster != self.cluster or not is_name(name):
            return None
        if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
            return None
        if not (0 <= since < 2**53 and 0 <= not_after < 2**53):
            return None
        signed = domain("revocation") + strict_cbor.encode(fields[:6])
        if not verify(self.ca_public_key, signature, signed):
            return None
        return Revocation(name, public_key, float(since), float(not_after))

    def _check(self, credential: bytes) -> Admitted | None:
        try:
            fields = strict_cbor.decode(credential, max_bytes=MAX_CREDENTIAL_BYTES)
        except ValueError:
            return None
        if type(fields) is not list or len(fields) != 6:
            return None
        version, cluster, name, public_key, not_after, signature = fields
        if type(version) is not int or version != CREDENTIAL_VERSION or cluster != self.cluster:
            return None
        if not is_name(name) or type(public_key) is not bytes or type(signature) is not bytes:
            return None
        if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
            return None
        if type(not_after) is not int or not 0 <= not_after < 2**53:
            return None
        signed = domain("credential") + strict_cbor.encode(fields[:5])
        if not verify(self.ca_public_key, signature, signed):
            return None
        return Admitted(name=name, public_key=public_key, not_after=float(not_after))


def _require_name(name: str, what: str) -> None:
    if not is_name(name):
        raise ValueError(
            f"{name!r} cannot name a {what}: use 1 to 63 of a-z, 0-9 and '-', "
            "beginning and ending with a letter or digit"
        )
