"""Messages to CBOR and back: a packet is `[sender, [message, ...]]`, a message `[code, field, ...]`.

Arrays instead of maps keep packets small. Each message type is a row in a table: its code, where
it may appear, and a check per field. Decoding is strict and total: canonical encoding only, exact
types, bounded lengths, no trailing bytes; anything else raises `DecodeError` and nothing else.
Messages are encoded one by one, so that a rumour is encoded once however often it is sent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from swim import strict_cbor
from swim.config import MAX_FRAME_BYTES
from swim.identity import MAX_CREDENTIAL_BYTES, SIGNATURE_BYTES, is_name
from swim.messages import (
    BOOT_ID_BYTES,
    MAX_BOOT_TIME_MS,
    MAX_INCARNATION,
    ROOT_BYTES,
    Ack,
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
    Snapshot,
    Suspect,
    SyncDigest,
    SyncEnd,
    SyncUnit,
)

MAX_MESSAGES: Final = 255
"""Most messages in one packet."""
MAX_HOST_CHARACTERS: Final = 64
"""An IPv6 address with a zone; statements never carry host names."""
MAX_META_BYTES: Final = 512
MAX_BULK_BYTES: Final = MAX_FRAME_BYTES - 256
"""Most bytes of a map unit or of a digest's part inside a stream frame."""
ENVELOPE_BYTES: Final = 1 + 65 + 2
"""The array, the longest sender's name, and the header of the message list."""

Pack = Callable[[Any], Any]
Unpack = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Field:
    """How one field travels."""

    pack: Pack
    unpack: Unpack


def _same(value: Any) -> Any:
    return value


def _number(highest: int, lowest: int = 0) -> _Field:
    def unpack(value: Any) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise DecodeError("bad_field")
        return value

    return _Field(_same, unpack)


def _binary(longest: int, shortest: int = 0) -> _Field:
    def unpack(value: Any) -> bytes:
        if type(value) is not bytes or not shortest <= len(value) <= longest:
            raise DecodeError("bad_field")
        return value

    return _Field(_same, unpack)


def _unpack_name(value: Any) -> str:
    if not is_name(value):
        raise DecodeError("bad_name")
    return str(value)


def _unpack_host(value: Any) -> str:
    if type(value) is not str or not 1 <= len(value) <= MAX_HOST_CHARACTERS:
        raise DecodeError("bad_field")
    if not (value.isascii() and value.isprintable()):
        raise DecodeError("bad_field")
    return value


def _unpack_boot(value: Any) -> Boot:
    if type(value) is not list or len(value) != 2:
        raise DecodeError("bad_field")
    return Boot(_BOOT_TIME.unpack(value[0]), _BOOT_ID.unpack(value[1]))


def _unpack_alive(value: Any) -> Alive:
    message = _unpack(value, (Alive,))
    if not isinstance(message, Alive):
        raise DecodeError("bad_field")
    return message


def _unpack_verdict(value: Any) -> Message | None:
    return None if value is None else _unpack(value, (Suspect, Dead, Left))


def _pack(message: Message) -> list[Any]:
    code, fields = _SCHEMA[type(message)]
    return [code, *(field.pack(getattr(message, name)) for name, field in fields)]


def _pack_optional(message: Message | None) -> list[Any] | None:
    return None if message is None else _pack(message)


_BOOT_TIME: Final = _number(MAX_BOOT_TIME_MS)
_BOOT_ID: Final = _binary(BOOT_ID_BYTES, BOOT_ID_BYTES)
_NAME: Final = _Field(_same, _unpack_name)
_HOST: Final = _Field(_same, _unpack_host)
_PORT: Final = _number(65_535, 1)
_BOOT: Final = _Field(lambda boot: [boot.time_ms, boot.id], _unpack_boot)
_INCARNATION: Final = _number(MAX_INCARNATION)
_SEQUENCE: Final = _number(2**32 - 1)
_ROOT: Final = _binary(ROOT_BYTES, ROOT_BYTES)
_SIGNATURE: Final = _binary(SIGNATURE_BYTES, SIGNATURE_BYTES)
_RESERVED: Final = _binary(SIGNATURE_BYTES)
_CREDENTIAL: Final = _binary(MAX_CREDENTIAL_BYTES)
_META: Final = _binary(MAX_META_BYTES)
_ACCUSATION: Final = (_NAME, _BOOT, _INCARNATION, _NAME, _RESERVED)

_SCHEMA: Final[dict[type[Any], tuple[int, tuple[tuple[str, _Field], ...]]]] = {
    message: (code, tuple(zip(message.__dataclass_fields__, fields, strict=True)))
    for message, code, fields in (
        (Alive, 1, (_NAME, _HOST, _PORT, _BOOT, _INCARNATION, _META, _CREDENTIAL, _SIGNATURE)),
        (Suspect, 2, _ACCUSATION),
        (Dead, 3, _ACCUSATION),
        (Left, 4, (_NAME, _BOOT, _INCARNATION, _SIGNATURE)),
        (Ping, 10, (_SEQUENCE, _NAME, _ROOT)),
        (PingRequest, 11, (_SEQUENCE, _NAME)),
        (Ack, 12, (_SEQUENCE, _NAME, _ROOT)),
        (Nack, 13, (_SEQUENCE,)),
        (MapFrame, 14, (_binary(1_150, 1),)),
        (Snapshot, 21, (_Field(_pack, _unpack_alive),
                        _Field(_pack_optional, _unpack_verdict),
                        _number(2**32 - 1))),
        (SyncDigest, 22, (_binary(MAX_BULK_BYTES),)),
        (SyncUnit, 23, (_binary(MAX_BULK_BYTES, 1),)),
        (SyncEnd, 24, ()),
    )
}  # fmt: skip
_BY_CODE: Final = {code: message for message, (code, _) in _SCHEMA.items()}

STATEMENTS: Final = (Alive, Suspect, Dead, Left)
IN_DATAGRAM: Final = (*STATEMENTS, Ping, PingRequest, Ack, Nack, MapFrame)
IN_STREAM: Final = (Snapshot, SyncDigest, SyncUnit, SyncEnd)


def encode_message(message: Message) -> bytes:
    """Encode one message, ready to be joined with others by `join_packet`."""
    return strict_cbor.encode(_pack(message))


def join_packet(sender: str, messages: Sequence[bytes]) -> bytes:
    """Join encoded messages, at most `MAX_MESSAGES`, into the body of a packet."""
    count = len(messages)
    if count > MAX_MESSAGES:
        raise ValueError(f"{count} messages in one packet")
    header = bytes([0x80 + count]) if count < 24 else bytes([0x98, count])
    return b"".join((b"\x82", strict_cbor.encode(sender), header, *messages))


def encode_packet(packet: Packet) -> bytes:
    """Encode a whole packet."""
    return join_packet(packet.sender, [encode_message(message) for message in packet.messages])


def decode_packet(body: bytes, allowed: tuple[type[Any], ...], *, max_bytes: int = MAX_FRAME_BYTES) -> Packet:
    """Decode the body of a packet that came from anywhere.

    Args:
        body: what the envelope held.
        allowed: the message types that may appear: `IN_DATAGRAM` or `IN_STREAM`.
        max_bytes: longer bodies are refused unread.

    Raises:
        DecodeError: for every body that `encode_packet` would not have written.
    """
    try:
        packet = strict_cbor.decode(body, max_bytes=max_bytes)
    except ValueError:
        raise DecodeError("bad_cbor") from None
    if type(packet) is not list or len(packet) != 2 or type(packet[1]) is not list:
        raise DecodeError("bad_packet")
    if len(packet[1]) > MAX_MESSAGES:
        raise DecodeError("bad_packet")
    sender = _unpack_name(packet[0])
    return Packet(sender, tuple([_unpack(message, allowed) for message in packet[1]]))


def _unpack(value: Any, allowed: tuple[type[Any], ...]) -> Message:
    if type(value) is not list or not value or type(value[0]) is not int:
        raise DecodeError("bad_message")
    kind = _BY_CODE.get(value[0])
    if kind is None or kind not in allowed:
        raise DecodeError("unknown_message")
    _, fields = _SCHEMA[kind]
    if len(value) != len(fields) + 1:
        raise DecodeError("bad_message")
    unpacked: Message = kind(
        *[field.unpack(item) for (_, field), item in zip(fields, value[1:], strict=True)]
    )
    return unpacked
