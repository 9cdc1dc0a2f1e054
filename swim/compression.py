"""Bounded compression of what is large and alike: stream frames, not datagrams.

    tag 1 | content                tag 0: as it is; tag 1: raw DEFLATE (RFC 1951)

Data is compressed only where that saves a tenth of it. DEFLATE can blow a kilobyte up to a
megabyte, so expansion stops at the limit that the receiver names: nothing beyond it is ever
allocated. There is no checksum of its own, because what carries the data is authenticated.

Signatures, keys and boot ids are noise, and make up most of a statement. What is left of realistic
content: of one Alive all of it, of a datagram full of statements 86 %, of a datagram with one map
unit of text keys 59 %; of a stream frame of Snapshots 77 %, of one of map units 39 %. A datagram
costs 40 to 90 microseconds to compress, twenty times its encryption, whether that helps or not, and
mostly carries statements; so datagrams are left alone.

Whoever sees the length of encrypted data learns how well it was compressed. So never put a secret
into one piece with text that somebody else may choose; gossip keys travel uncompressed.
"""

import zlib
from typing import Final

LEVEL: Final = 3
"""The fastest on map units; level 1 leaves 8 % more, level 6 takes half as long again for 4 % less."""
MIN_BYTES: Final = 64
"""Shorter data is not tried."""
_STORED: Final = 0
_DEFLATED: Final = 1
_RAW: Final = -15
"""zlib's name for a bare DEFLATE stream with a window of 32 KiB."""


def compress(data: bytes) -> bytes:
    """Return a tag and the data, compressed where that saves at least a tenth."""
    if len(data) >= MIN_BYTES:
        deflated = zlib.compress(data, LEVEL, _RAW)
        if 10 * len(deflated) <= 9 * len(data):
            return bytes([_DEFLATED]) + deflated
    return bytes([_STORED]) + data


def decompress(data: bytes, max_bytes: int) -> bytes:
    """Return what `compress` was given.

    Args:
        data: a tag and the content, from anybody.
        max_bytes: most bytes to return; a longer result is refused while it is no longer than this.

    Raises:
        ValueError: for an unknown tag, more than `max_bytes`, a truncated or corrupt stream, and
            bytes after its end.
    """
    if not data:
        raise ValueError("nothing to decompress: the tag is missing")
    if data[0] == _STORED:
        if len(data) - 1 > max_bytes:
            raise ValueError(f"{len(data) - 1} bytes where at most {max_bytes} are accepted")
        return data[1:]
    if data[0] != _DEFLATED:
        raise ValueError(f"unknown compression {data[0]}")
    stream = zlib.decompressobj(_RAW)
    try:
        # One byte more than is accepted, because zlib takes a limit of 0 for none at all.
        content = stream.decompress(memoryview(data)[1:], max_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"not a DEFLATE stream: {error}") from error
    if len(content) > max_bytes:
        raise ValueError(f"it expands to more than {max_bytes} bytes")
    if not stream.eof:
        raise ValueError("the DEFLATE stream is truncated")
    if stream.unused_data:
        raise ValueError("bytes after the end of the DEFLATE stream")
    return content
