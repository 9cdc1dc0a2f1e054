"""Strict CBOR for bytes that strangers send: one encoding per value, no tags, bounded depth.

Two nodes that sign, hash and compare encodings need each value to have exactly one encoding, so
a decoded value must encode back to the very bytes it came from. Tags are refused before their
decoders run: a tag can ask for a regular expression, a huge number or a cyclic list.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

import cbor2

MAX_DEPTH: Final = 8
"""Deepest nesting of arrays and maps that is decoded."""


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not accepted")


class _EveryTagRefused(Mapping[int, Any]):
    """A table of tag decoders that has one answer for every tag."""

    def __getitem__(self, key: int) -> Any:
        return _refuse_tag

    def __iter__(self) -> Iterator[int]:
        return iter(_BUILT_IN_TAGS)

    def __len__(self) -> int:
        return len(_BUILT_IN_TAGS)


_BUILT_IN_TAGS: Final = (
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37),
    *(100, 256, 258, 260, 261, 1004, 43000, 55799),
)
_REFUSED: Final = _EveryTagRefused()


def encode(value: object) -> bytes:
    """Encode a value in the one form that `decode` accepts.

    Args:
        value: null, booleans, integers, floats, str, bytes, and lists, tuples and maps of them.
    """
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, max_bytes: int) -> Any:
    """Decode the one canonical CBOR item in `data`, or raise ValueError for anything else.

    Args:
        data: the encoding, and nothing after it.
        max_bytes: longer input is refused unread.

    Returns:
        The value; arrays come back as lists.

    Raises:
        ValueError: for every input that `encode` would not have written.
    """
    return _decode(data, max_bytes, canonical=True)


def decode_any_order(data: bytes, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> Any:
    """Decode like `decode`, but for a caller that checks the order of keys itself, at a fifth of the time.

    Everything else has its one encoding; floats, whose shortest form is not looked for, come back
    only in their longest, so that a caller that accepts any must not use this.
    """
    return _decode(data, max_bytes, canonical=False, max_depth=max_depth)


def _decode(data: bytes, max_bytes: int, *, canonical: bool, max_depth: int = MAX_DEPTH) -> Any:
    if len(data) > max_bytes:
        raise ValueError(f"{len(data)} bytes of CBOR where at most {max_bytes} are accepted")
    try:
        value = cbor2.loads(
            data,
            semantic_decoders=_REFUSED,
            tag_hook=_refuse_tag,
            max_depth=max_depth,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
        same = cbor2.dumps(value, canonical=canonical) == data
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not CBOR as this protocol writes it: {error}") from error
    if not same:
        raise ValueError("not the canonical encoding of its value")
    return value
