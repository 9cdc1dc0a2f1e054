"""Bearer tokens of the admin API: a node keeps only their hashes and roles.

A token is 256 random bits, so one SHA-256 is enough: there is nothing to guess, and a slow hash would
only hand an attacker a way to keep the node busy.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from node.environment import Environment
from node.errors import Forbidden, SecurityMaterialInvalid, Unauthorized, nearest
from node.security.files import read_bounded
from node.security.permissions import ROLES, Permission

TOKEN_PREFIX: Final = "caxton_"  # noqa: S105 - the prefix that lets secret scanners find a leaked token
MAX_TOKEN_CHARS: Final = 256
MAX_TOKENS: Final = 256
"""Most tokens one node accepts; every one is compared on each request."""

_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request, and what it may do."""

    name: str
    permissions: frozenset[Permission]

    def require(self, permission: Permission) -> None:
        """Let the request pass only with ``permission``.

        Raises:
            Forbidden: it is missing.
        """
        if permission is not Permission.PUBLIC and permission not in self.permissions:
            raise Forbidden(
                f"{self.name} lacks the permission {permission.value}",
                fix="Use a token whose role has it.",
                details={"permission": permission.value},
            )


ANONYMOUS: Final = Principal("anonymous", frozenset({Permission.PUBLIC}))
"""A request without a token, where the route is public."""

DEVELOPER: Final = Principal("developer", ROLES["admin"])
"""Every request in dev mode, which the configuration allows on loopback only."""


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    principal: Principal


class Tokens:
    """The tokens one node accepts.

    Args:
        entries: (name, role, SHA-256 of the token in hexadecimal).
        dev_mode: A request without a token is the developer's; set it only for a loopback listener.
    """

    def __init__(self, entries: Iterable[tuple[str, str, str]] = (), *, dev_mode: bool = False) -> None:
        self._entries = tuple(
            _Entry(bytes.fromhex(digest), Principal(name, ROLES[role])) for name, role, digest in entries
        )
        self._dev_mode = dev_mode
        self._refused = 0

    @classmethod
    def load(cls, path: Path, *, dev_mode: bool = False) -> Tokens:
        """Read a ``tokens.yaml``.

        Raises:
            SecurityMaterialInvalid: it cannot be read, or an entry is not valid.
        """
        try:
            found = yaml.safe_load(read_bounded(path, "token list"))
        except yaml.YAMLError as error:
            raise SecurityMaterialInvalid(f"{path} is not YAML", why=str(error)[:200]) from None
        entries = found.get("tokens") if isinstance(found, dict) else None
        if not isinstance(entries, list) or len(entries) > MAX_TOKENS:
            raise SecurityMaterialInvalid(
                f"{path} has no list of tokens",
                why=f"it needs `tokens:` with at most {MAX_TOKENS} entries of name, role and sha256",
            )
        return cls([_entry(path, number, entry) for number, entry in enumerate(entries)], dev_mode=dev_mode)

    @property
    def dev_mode(self) -> bool:
        """Whether a request without a token is the developer's."""
        return self._dev_mode

    def authenticate(self, token: str | None) -> Principal:
        """Whose token this is; takes the same time whichever entry matches, or none.

        Raises:
            Unauthorized: no token, or not one of ours.
        """
        if token is None and self._dev_mode:
            return DEVELOPER
        if token is None:
            self._refused += 1
            raise Unauthorized(
                "the request has no token",
                fix="Send `Authorization: Bearer TOKEN`; `caxton init` wrote one to admin.token.",
            )
        found: Principal | None = None
        if len(token) <= MAX_TOKEN_CHARS:
            digest = hashlib.sha256(token.encode(errors="replace")).digest()
            for entry in self._entries:
                if hmac.compare_digest(digest, entry.digest):
                    found = entry.principal
        if found is None:
            self._refused += 1
            raise Unauthorized(
                "the token is not valid on this node", fix="Use a token of this cluster (see admin.token)."
            )
        return found

    def statistics(self) -> dict[str, int]:
        """How many tokens are accepted, and how many requests were refused for theirs."""
        return {"tokens": len(self._entries), "refused": self._refused}


def new_token(environment: Environment) -> str:
    """A new token, 256 bits in URL-safe text."""
    raw = environment.randomness.token(32)
    return TOKEN_PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def tokens_yaml(entries: Iterable[tuple[str, str, str]]) -> bytes:
    """The file that nodes get.

    Args:
        entries: (name, role, the token in clear); only its hash is written.
    """
    lines = [
        "# Who may use the admin API: hashes only, the tokens themselves stay with their owners.",
        "tokens:",
    ]
    for name, role, token in entries:
        digest = hashlib.sha256(token.encode()).hexdigest()
        lines += [f"  - name: {name}", f"    role: {role}", f"    sha256: {digest}"]
    return ("\n".join(lines) + "\n").encode()


def _entry(path: Path, number: int, entry: object) -> tuple[str, str, str]:
    where = f"entry {number + 1} of {path}"
    if not isinstance(entry, dict) or {str(key) for key in entry} != {"name", "role", "sha256"}:
        raise SecurityMaterialInvalid(f"{where} is not valid", why="it needs exactly name, role and sha256")
    name, role, digest = (str(entry[key]) for key in ("name", "role", "sha256"))
    if not _LABEL.fullmatch(name):
        raise SecurityMaterialInvalid(f"{where} has no usable name")
    if role not in ROLES:
        guess = nearest(role, ROLES)
        raise SecurityMaterialInvalid(
            f"{where} has the unknown role {role[:80]!r}",
            why="roles are " + ", ".join(ROLES),
            fix=f"Did you mean {guess!r}?" if guess else "Use one of them.",
        )
    if not _SHA256_HEX.fullmatch(digest):
        raise SecurityMaterialInvalid(f"{where} has no SHA-256 in 64 lower-case hexadecimal digits")
    return name, role, digest
