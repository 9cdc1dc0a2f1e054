"""What a peer says of itself is read or ignored, and shown as it is."""

import cbor2
import pytest

from node.cluster.views import decode_meta, encode_meta, shown_address


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        (encode_meta(7947, "0.1.0"), (7947, "0.1.0")),
        (encode_meta(0, "0.1.0"), (0, "")),
        (cbor2.dumps([70_000, "x"]), (0, "")),
        (cbor2.dumps(["7947", "x"]), (0, "")),
        (cbor2.dumps([7947, "\x1b[2Jevil"]), (7947, "")),
        (cbor2.dumps([7947, "9" * 100]), (7947, "9" * 32)),
        (b"\xd8\x1d\x00", (0, "")),
        (b"", (0, "")),
    ],
)
def test_what_a_peer_says_of_itself_is_read_or_ignored(meta, expected):
    assert decode_meta(meta) == expected


def test_an_address_is_shown_as_a_seed_is_written():
    assert shown_address(("10.0.0.5", 7946)) == "10.0.0.5:7946"
    assert shown_address(("2001:db8::5", 7946)) == "[2001:db8::5]:7946"
