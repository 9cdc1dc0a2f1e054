"""A delivery is believed only with the secret, only as it was sent, and only for a while."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from node.webhook_signature import ID, SIGNATURE, TIMESTAMP, TOLERANCE_S, SignatureInvalid, sign, verify

BODY = b'{"id":"1"}'


def headers(**changes: str) -> dict[str, str]:
    return {ID: "1", TIMESTAMP: "1000", SIGNATURE: sign("secret", 1000, BODY)} | changes


def test_it_is_hmac_over_time_and_body() -> None:
    expected = hmac.new(b"secret", b"1000." + BODY, hashlib.sha256).hexdigest()
    assert sign("secret", 1000, BODY) == f"v1={expected}"


def test_what_was_signed_is_believed_within_the_window() -> None:
    for now_s in (1000.0, 1000.0 - TOLERANCE_S, 1000.0 + TOLERANCE_S):
        assert verify("secret", headers(), BODY, now_s=now_s) == "1"
    assert verify("secret", {k.title(): v for k, v in headers().items()}, BODY, now_s=1000.0) == "1"


@pytest.mark.parametrize(
    ("given", "secret", "body", "now_s"),
    [
        (headers(), "another", BODY, 1000.0),
        (headers(), "secret", BODY + b" ", 1000.0),
        (headers(), "secret", BODY, 1001.0 + TOLERANCE_S),
        (headers(), "secret", BODY, 999.0 - TOLERANCE_S),
        (headers(**{TIMESTAMP: "1001"}), "secret", BODY, 1000.0),
        (headers(**{TIMESTAMP: "-1"}), "secret", BODY, 1000.0),
        (headers(**{TIMESTAMP: "²"}), "secret", BODY, 1000.0),
        (headers(**{TIMESTAMP: "9" * 400}), "secret", BODY, 1000.0),
        (headers(**{SIGNATURE: ""}), "secret", BODY, 1000.0),
        (headers(**{SIGNATURE: "v1=\ud800"}), "secret", BODY, 1000.0),
        ({SIGNATURE: sign("secret", 1000, BODY)}, "secret", BODY, 1000.0),
    ],
)
def test_anything_else_is_not(given: dict[str, str], secret: str, body: bytes, now_s: float) -> None:
    with pytest.raises(SignatureInvalid):
        verify(secret, given, body, now_s=now_s)
