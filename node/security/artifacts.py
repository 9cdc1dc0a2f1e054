"""Whose signature counts on an artifact, and whether one is needed at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.config.model import SecurityConfig
from swim.identity import domain, verify

AUTHORITY: Final = "the cluster authority"
CONFIGURED: Final = "security.agents.trusted_keys"
_PURPOSE: Final = domain("wasm-manifest")
"""The authority's key signs certificates and credentials, too: none of them can stand for a manifest."""


@dataclass(frozen=True, slots=True)
class ArtifactTrust:
    """What a node asks of the WebAssembly it is given.

    Args:
        required: Whether only what a trusted key has signed is taken.
        keys: Raw public key in hexadecimal -> whose it is.
    """

    required: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: SecurityConfig, authority_key: bytes) -> ArtifactTrust:
        """What a configuration asks for.

        Args:
            config: The section ``security``.
            authority_key: Raw public key of the node's cluster authority.
        """
        wanted = config.agents.require_signed
        return cls(
            required=config.present if wanted == "auto" else wanted == "always",
            keys=dict.fromkeys(config.agents.trusted_keys, CONFIGURED) | {authority_key.hex(): AUTHORITY},
        )


ANYBODY: Final = ArtifactTrust()
"""Of a node on its own: modules need no signature."""


def public_key_hex(key: Ed25519PrivateKey) -> str:
    """The public part of a key as configurations and manifests name it: 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def sign_artifact(key: Ed25519PrivateKey, statement: bytes) -> str:
    """A signature over what is said of an artifact, in hexadecimal."""
    return key.sign(_PURPOSE + statement).hex()


def is_signed(public_key: str, signature: str, statement: bytes) -> bool:
    """Whether the signature is the key's, and of this statement; both in hexadecimal."""
    return verify(bytes.fromhex(public_key), bytes.fromhex(signature), _PURPOSE + statement)
