"""How a webhook's receiver knows that a delivery comes from the node that it registered with, and is new.

The signature is HMAC-SHA256 (RFC 2104) under the webhook's secret, over the time of the attempt and the body:
``timestamp + "." + body``. Since the time is signed, an old delivery cannot be given out as a new one; its
receiver refuses what lies outside of a window around its own clock, and knows repetitions by their id.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from node.errors import CaxtonError

ID: Final = "caxton-webhook-id"
"""Header with the id of a delivery, the same in all its attempts."""
TIMESTAMP: Final = "caxton-webhook-timestamp"
"""Header with the time of the attempt in whole Unix seconds."""
SIGNATURE: Final = "caxton-webhook-signature"
"""Header with ``v1=`` and the signature in hexadecimal."""
TOLERANCE_S: Final = 300.0
"""How far the clocks of node and receiver may be apart, the time on the way included, in seconds."""
_SCHEME: Final = "v1="


class SignatureInvalid(CaxtonError):
    """A delivery is not from the node that has the secret, or is an old one."""

    code = "SIGNATURE_INVALID"
    status = 401


def sign(secret: str, timestamp_s: int, body: bytes) -> str:
    """The value of the header :data:`SIGNATURE`.

    Args:
        secret: The webhook's.
        timestamp_s: The value of the header :data:`TIMESTAMP`.
        body: The body, byte for byte.
    """
    signed = str(timestamp_s).encode() + b"." + body
    return _SCHEME + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def verify(
    secret: str, headers: Mapping[str, str], body: bytes, *, now_s: float, tolerance_s: float = TOLERANCE_S
) -> str:
    """Check a delivery; returns its id, by which a receiver knows one that comes twice.

    Args:
        secret: The webhook's.
        headers: Those of the request; names in any case.
        body: The body, byte for byte as it came.
        now_s: Unix seconds on the receiver's clock.
        tolerance_s: How far the time of the attempt may be from it.

    Raises:
        SignatureInvalid: a header is missing or malformed, the time is outside of the window, or the
            signature is not of this body under this secret.
    """
    given = {name.lower(): value for name, value in headers.items()}
    identifier, stamp, signature = (given.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not identifier or not stamp.isascii() or not stamp.isdecimal() or len(stamp) > 12:
        raise SignatureInvalid(
            "the delivery has no id or no time", fix=f"It has the headers {ID} and {TIMESTAMP}."
        )
    if abs(now_s - int(stamp)) > tolerance_s:
        raise SignatureInvalid(
            "the delivery is not of now",
            why=f"its time is {abs(now_s - int(stamp)):.0f} s away, and {tolerance_s:.0f} s are tolerated",
            fix="Compare the clocks of the node and of this machine.",
        )
    expected = sign(secret, int(stamp), body)
    if not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
        raise SignatureInvalid(
            "the signature is not of this delivery",
            why="the secret is another one, or the body is not as it was sent",
            fix="Verify the body byte for byte as it came, before it is parsed.",
        )
    return identifier
