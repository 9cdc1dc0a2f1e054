"""Messages to bytes and back.

A packet is the sender's name and the messages, each with its length before it:

    length 1 | sender | (length 2 | message)*

A message is a canonical CBOR array `[code, field, ...]`. Arrays instead of maps keep it small, and the
frame of lengths lets a receiver look at the bytes of a rumour, which it has mostly heard before, without
decoding them. Each message type is a row in a table: its code and a check per field. Decoding is strict
and total: canonical encoding only, exact types, bounded lengths, no trailing bytes; anything else raises
`DecodeError` and nothing else. A statement is encoded once and passed on verbatim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from swim import strict_cbor
from swim.config import MAX_FRAME_BYTES
from swim.identity import MAX_CREDENTIAL_BYTES, SIGNATURE_BYTES, is_name
from swim.messages import (
    BOOT_ID_BYTES,
    EXCHANGE_KEY_BYTES,
    MAX_AUTHORS,
    MAX_BOOT_TIME_MS,
    MAX_COORDINATE_BYTES,
    MAX_INCARNATION,
    MAX_PATIENCE_S,
    ROOT_BYTES,
    STATEMENTS,
    TAG_BYTES,
    Ack,
    Address,
    Alive,
    Boot,
    Dead,
    DecodeError,
    Left,
    MapFrame,
    Message,
    Nack,
    Packet,
    Ping,
    PingRequest,
    RollFrame,
    Signatures,
    Suspect,
    SyncClocks,
    SyncDigest,
    SyncEnd,
    SyncRoll,
    SyncRoot,
    SyncUnit,
    UserFrame,
    Who,
)

MAX_MESSAGES: Final = 255
"""Most messages in one packet."""
MAX_HOST_CHARACTERS: Final = 64
"""An IPv6 address with a zone; statements never carry host names."""
MAX_META_BYTES: Final = 512
MAX_VERSION: Final = 255
MAX_BULK_BYTES: Final = MAX_FRAME_BYTES - 256
"""Most bytes of a map unit or of a digest's part inside a stream frame."""
MAX_GOSSIP_FRAME_BYTES: Final = 1_150
"""Most bytes of a frame of a map, of the roll, or of user traffic inside a datagram."""
SENDER_BYTES: Final = 1 + 63
"""The longest sender's name and its length."""
LENGTH_BYTES: Final = 2
"""What each message costs in a packet beside its own bytes."""

Pack = Callable[[Any], Any]
Unpack = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Field:
    """How one field travels; without `pack` as it is."""

    unpack: Unpack
    pack: Pack | None = None


def _number(highest: int, lowest: int = 0) -> _Field:
    def unpack(value: Any) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise DecodeError("bad_field")
        return value

    return _Field(unpack)


def _binary(longest: int, shortest: int = 0) -> _Field:
    def unpack(value: Any) -> bytes:
        if type(value) is not bytes or not shortest <= len(value) <= longest:
            raise DecodeError("bad_field")
        return value

    return _Field(unpack)


def _unpack_flag(value: Any) -> bool:
    if type(value) is not bool:
        raise DecodeError("bad_field")
    return value


def _unpack_name(value: Any) -> str:
    if not is_name(value):
        raise DecodeError("bad_name")
    return str(value)


def _unpack_name_or_none(value: Any) -> str:
    return "" if value == "" else _unpack_name(value)


def _unpack_root_or_none(value: Any) -> bytes:
    return b"" if value == b"" else _ROOT.unpack(value)


def require_address(address: Address) -> None:
    """Raise ValueError for an address that no member would take from an Alive."""
    host, port = address
    if not _is_host(host) or not 1 <= port <= 65_535:
        shown = f"{host[:MAX_HOST_CHARACTERS]!r} and {port}"
        raise ValueError(
            f"an address is a host of 1 to {MAX_HOST_CHARACTERS} printable ASCII characters and "
            f"a port from 1 to 65535, not {shown}"
        )


def _is_host(value: str) -> bool:
    return 1 <= len(value) <= MAX_HOST_CHARACTERS and value.isascii() and value.isprintable()


def _unpack_host(value: Any) -> str:
    if type(value) is not str or not _is_host(value):
        raise DecodeError("bad_field")
    return value


def _unpack_boot(value: Any) -> Boot:
    if type(value) is not list or len(value) != 2:
        raise DecodeError("bad_field")
    return Boot(_BOOT_TIME.unpack(value[0]), _BOOT_ID.unpack(value[1]))


def _unpack_authors(value: Any) -> Signatures:
    if type(value) is not list or not 1 <= len(value) <= MAX_AUTHORS:
        raise DecodeError("bad_field")
    authors = {}
    for pair in value:
        if type(pair) is not list or len(pair) != 2:
            raise DecodeError("bad_field")
        authors[_unpack_name(pair[0])] = _SIGNATURE.unpack(pair[1])
    if len(authors) != len(value):
        raise DecodeError("bad_field")
    return tuple(authors.items())


def _getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that returns these attributes of an object as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    get = attrgetter(*names)
    return lambda message: (get(message),)


_BOOT_TIME: Final = _number(MAX_BOOT_TIME_MS)
_BOOT_ID: Final = _binary(BOOT_ID_BYTES, BOOT_ID_BYTES)
_NAME: Final = _Field(_unpack_name)
_NAME_OR_NONE: Final = _Field(_unpack_name_or_none)
_HOST: Final = _Field(_unpack_host)
_PORT: Final = _number(65_535, 1)
_BOOT: Final = _Field(_unpack_boot, lambda boot: [boot.time_ms, boot.id])
_INCARNATION: Final = _number(MAX_INCARNATION)
_VERSION: Final = _number(MAX_VERSION, 1)
_SEQUENCE: Final = _number(2**32 - 1)
_ROOT: Final = _binary(ROOT_BYTES, ROOT_BYTES)
_ROOT_OR_NONE: Final = _Field(_unpack_root_or_none)
_TAG: Final = _binary(TAG_BYTES, TAG_BYTES)
_SIGNATURE: Final = _binary(SIGNATURE_BYTES, SIGNATURE_BYTES)
_CREDENTIAL: Final = _binary(MAX_CREDENTIAL_BYTES)
_META: Final = _binary(MAX_META_BYTES)
_EXCHANGE_KEY: Final = _binary(EXCHANGE_KEY_BYTES, EXCHANGE_KEY_BYTES)
_AUTHORS: Final = _Field(_unpack_authors, lambda authors: [list(pair) for pair in authors])
_FRAME: Final = _binary(MAX_GOSSIP_FRAME_BYTES, 1)

_SCHEMA: Final[dict[type[Any], tuple[int, tuple[tuple[str, _Field], ...]]]] = {
    message: (code, tuple(zip(message.__dataclass_fields__, fields, strict=True)))
    for message, code, fields in (
        (Alive, 1, (_NAME, _HOST, _PORT, _BOOT, _INCARNATION, _META, _VERSION, _VERSION,
                    _number(MAX_PATIENCE_S), _EXCHANGE_KEY, _CREDENTIAL, _SIGNATURE)),
        (Suspect, 2, (_NAME, _BOOT, _INCARNATION, _AUTHORS)),
        (Dead, 3, (_NAME, _BOOT, _INCARNATION, _AUTHORS, _NAME, _SIGNATURE)),
        (Left, 4, (_NAME, _BOOT, _INCARNATION, _SIGNATURE)),
        (Ping, 10, (_SEQUENCE, _NAME, _ROOT, _TAG)),
        (PingRequest, 11, (_SEQUENCE, _NAME, _number(60_000, 1), _TAG)),
        (Ack, 12, (_SEQUENCE, _NAME_OR_NONE, _ROOT_OR_NONE, _binary(MAX_COORDINATE_BYTES), _TAG)),
        (Nack, 13, (_SEQUENCE, _binary(SIGNATURE_BYTES), _TAG)),
        (Who, 14, (_SEQUENCE,)),
        (MapFrame, 15, (_FRAME,)),
        (RollFrame, 16, (_FRAME,)),
        (UserFrame, 17, (_number(255), _FRAME, _binary(TAG_BYTES))),
        (SyncRoot, 20, (_ROOT,)),
        (SyncRoll, 21, (_binary(MAX_BULK_BYTES),)),
        (SyncDigest, 22, (_binary(MAX_BULK_BYTES),)),
        (SyncUnit, 23, (_binary(MAX_BULK_BYTES, 1),)),
        (SyncEnd, 24, (_Field(_unpack_flag),)),
        (SyncClocks, 25, (_number(2**62), _number(2**62))),
    )
}  # fmt: skip
_ENCODERS: Final[dict[type[Any], tuple[int, Callable[[Any], tuple[Any, ...]], list[tuple[int, Pack]]]]] = {
    message: (
        code,
        _getter([name for name, _ in fields]),
        [(place, field.pack) for place, (_, field) in enumerate(fields, 1) if field.pack is not None],
    )
    for message, (code, fields) in _SCHEMA.items()
}
"""For each message: its code, what returns its fields, and the fields that do not travel as they are."""
_DECODERS: Final[dict[int, tuple[type[Any], tuple[Unpack, ...]]]] = {
    code: (message, tuple(field.unpack for _, field in fields)) for message, (code, fields) in _SCHEMA.items()
}
"""For each code: its message, and what checks the fields."""
_UNKNOWN: Final[tuple[type[Any], tuple[Unpack, ...]]] = (object, ())

IN_DATAGRAM: Final = frozenset(
    {*STATEMENTS, Ping, PingRequest, Ack, Nack, Who, MapFrame, RollFrame, UserFrame}
)
IN_STREAM: Final = frozenset(
    {*STATEMENTS, Ping, Ack, UserFrame, SyncRoot, SyncRoll, SyncDigest, SyncUnit, SyncClocks, SyncEnd}
)
_STATEMENT_HEADS: Final = frozenset(
    bytes([0x80 + 1 + len(_SCHEMA[kind][1]), _SCHEMA[kind][0]]) for kind in STATEMENTS
)


def encode_message(message: Message) -> bytes:
    """Encode one message, ready to be joined with others by `join_packet`."""
    code, fields_of, packs = _ENCODERS[type(message)]
    values = [code, *fields_of(message)]
    for place, pack in packs:
        values[place] = pack(values[place])
    return strict_cbor.encode(values)


def join_packet(sender: str, messages: Sequence[bytes]) -> bytes:
    """Join encoded messages, at most `MAX_MESSAGES`, into the body of a packet."""
    if len(messages) > MAX_MESSAGES:
        raise ValueError(f"{len(messages)} messages in one packet")
    name = sender.encode()
    parts = [bytes([len(name)]), name]
    for message in messages:
        parts += (len(message).to_bytes(LENGTH_BYTES, "big"), message)
    return b"".join(parts)


def split_packet(body: bytes) -> Packet:
    """Split the body of a packet that came from anywhere into its messages, which are not decoded yet.

    Raises:
        DecodeError: for every body that `join_packet` would not have written.
    """
    if not body:
        raise DecodeError("bad_packet")
    at = 1 + body[0]
    try:
        sender = body[1:at].decode("ascii")
    except UnicodeDecodeError:
        raise DecodeError("bad_name") from None
    if len(sender) != body[0] or not is_name(sender):
        raise DecodeError("bad_name")
    messages: list[bytes] = []
    size = len(body)
    while at < size:
        start = at + LENGTH_BYTES
        end = start + (body[at] << 8 | body[at + 1]) if start < size else 0
        if end > size or start >= end or len(messages) >= MAX_MESSAGES:
            raise DecodeError("bad_packet")
        messages.append(body[start:end])
        at = end
    return Packet(sender, tuple(messages))


def is_statement(encoded: bytes) -> bool:
    """Say, by its first two bytes, whether a message is a statement about a member."""
    return encoded[:2] in _STATEMENT_HEADS


def decode_message(encoded: bytes, allowed: frozenset[type[Any]]) -> Message:
    """Decode one message that came from anywhere.

    Args:
        encoded: what `split_packet` returned.
        allowed: the message types that may appear: `IN_DATAGRAM` or `IN_STREAM`.

    Raises:
        DecodeError: for everything that `encode_message` would not have written.
    """
    try:
        value = strict_cbor.decode(encoded, max_bytes=MAX_FRAME_BYTES)
    except ValueError:
        raise DecodeError("bad_cbor") from None
    if type(value) is not list or not value or type(value[0]) is not int:
        raise DecodeError("bad_message")
    kind, unpacks = _DECODERS.get(value[0], _UNKNOWN)
    if kind not in allowed:
        raise DecodeError("unknown_message")
    if len(value) != len(unpacks) + 1:
        raise DecodeError("bad_message")
    fields = iter(value)
    next(fields)
    message: Message = kind(*[unpack(next(fields)) for unpack in unpacks])
    return message
