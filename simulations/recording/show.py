"""Inputs and outputs of a recording in words: packets by the messages in them, values by their names."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from types import ModuleType
from typing import Any, Final

from node.recording.format import MAX_RECORD_BYTES, Step
from node.recording.values import MAX_DEPTH
from node.recording.vault import SEALED_HEADER_BYTES, SEALED_TAG_BYTES
from swim import events, map_events, members, messages, queries, query_messages, strict_cbor, user_events
from swim.codec import IN_DATAGRAM, IN_STREAM, decode_message, split_packet
from swim.compression import decompress
from swim.config import MAX_FRAME_BYTES
from swim.messages import DecodeError

LINE_LIMIT: Final = 400
"""Longest line."""
LINES_LIMIT: Final = 80
"""Most lines about one step's outputs; of more, those around the first difference are shown."""
_BYTES_SHOWN: Final = 12
_ARRAYS: Final = b"\x80"
"""No array in CBOR begins with less."""
_PLAIN_HEADER_BYTES: Final = 6
_STREAM_LENGTH_BYTES: Final = 4
_SEALED: Final = 2
_MODULES: Final[tuple[ModuleType, ...]] = (
    events, map_events, members, messages, queries, query_messages, user_events,
)  # fmt: skip
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    kind.__name__: tuple(field.name for field in dataclasses.fields(kind) if field.init)
    for module in _MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}
"""Names of the fields of what membership tells."""


def tree_of(packed: bytes) -> Any:
    """A packed value as plain lists and maps; None if it is none."""
    try:
        return strict_cbor.decode_any_order(packed, max_bytes=MAX_RECORD_BYTES, max_depth=MAX_DEPTH)
    except ValueError:
        return None


def step_lines(number: int, core: str, step: Step) -> list[str]:
    """What a step was given, and what it asked meanwhile."""
    lines = [f"step {number} of {core}: {step.verb}", *_indented(_given(step))]
    lines += [f"    asked {kind}: {value(answer)}" for kind, _, answer in step.draws if kind not in _DULL]
    return [_short(line) for line in lines]


def output_lines(outputs: Any) -> list[str]:
    """What came out of a step, one line each."""
    if type(outputs) is not list:
        return ["(too long to be kept in the recording)"]
    return [_short(_output(each)) for each in outputs] or ["nothing"]


def differing_lines(expected: Sequence[str], found: Sequence[str]) -> list[str]:
    """Two lists of outputs beside each other: ``-`` recorded only, ``+`` found only."""
    lines = [line for line in difflib.ndiff(list(expected), list(found)) if not line.startswith("?")]
    first = next((at for at, line in enumerate(lines) if line[0] in "-+"), 0)
    start = max(0, first - 5) if len(lines) > LINES_LIMIT else 0
    shown = lines[start : start + LINES_LIMIT]
    left = len(lines) - len(shown)
    return [*shown, f"  ({left} more lines)"] if left else shown


def value(tree: Any) -> str:
    """A value in words."""
    match tree:
        case bytes():
            nested = tree_of(tree) if tree[:1] >= _ARRAYS else None
            return value(nested) if type(nested) is list else f"<{len(tree)} bytes {_hex(tree)}>"
        case {"is": [str(name), [*fields]]}:
            names = FIELDS.get(name, ())
            named = len(names) == len(fields)
            parts = [
                f"{names[at]}={value(field)}" if named else value(field) for at, field in enumerate(fields)
            ]
            return f"{name}({', '.join(parts)})"
        case {"of": [str(name), member]}:
            return f"{name}.{member}"
        case {"map": [*pairs]}:
            return "{" + ", ".join(f"{value(pair[0])}: {value(pair[1])}" for pair in pairs) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(value, tree)) + "]"
    return repr(tree)


_DULL: Final = frozenset({"seal", "open", "tag", "entropy", "now", "wall"})
"""Answers that say nothing to a reader, or are shown in their place."""


def _given(step: Step) -> list[str]:
    tree = tree_of(step.arguments)
    match tree:
        case [_, [bytes(data), [str(host), int(port)], now], _] if step.verb == "swim.receive":
            opened = next((answer for kind, _, answer in step.draws if kind == "open"), None)
            about = f"{len(data)} bytes from {host}:{port} at {value(now)}"
            if isinstance(opened, str):
                return [f"{about}, refused: {opened}"]
            body = opened if isinstance(opened, bytes) else data[_PLAIN_HEADER_BYTES:]
            return [about, *_messages(body, IN_DATAGRAM)]
        case [_, [*given], dict(named)]:
            return [", ".join([*map(value, given), *([value(named)] if named.get("map") else [])])]
    return [value(tree)]


def _output(tree: Any) -> str:
    match tree:
        case ["datagram", str(host), int(port), bytes(data)]:
            said = "; ".join(_messages(_body(data), IN_DATAGRAM))
            return f"datagram of {len(data)} bytes to {host}:{port}: {said}"
        case ["send", int(number), bytes(data)]:
            said = "; ".join(_stream_messages(data[_STREAM_LENGTH_BYTES:]))
            return f"{len(data)} bytes on stream {number}: {said}"
        case ["open", int(number), str(host), int(port)]:
            return f"open stream {number} to {host}:{port}"
        case ["close", int(number)]:
            return f"close stream {number}"
        case ["event", told]:
            return f"event {value(told)}"
        case ["timer", due]:
            return "no timer" if due is None else f"timer at {due!r}"
        case ["raised", str(name), str(text)]:
            return f"raised {name}: {text}"
        case [str(kind), *values]:
            return f"{kind} {', '.join(map(value, values))}"
    return value(tree)


def _body(data: bytes) -> bytes:
    if len(data) > 1 and data[1] >> 4 == _SEALED:
        return data[SEALED_HEADER_BYTES : len(data) - SEALED_TAG_BYTES]
    return data[_PLAIN_HEADER_BYTES:]


def _stream_messages(frame: bytes) -> list[str]:
    try:
        body = decompress(_body(frame), MAX_FRAME_BYTES)
    except ValueError as error:
        return [f"undecodable: {error}"]
    return _messages(body, IN_STREAM)


def _messages(body: bytes, allowed: frozenset[type[Any]]) -> list[str]:
    try:
        packet = split_packet(body)
    except DecodeError as error:
        return [f"undecodable: {error.reason}"]
    return [f"{packet.sender} says {text}" for text in _decoded(packet.messages, allowed)] or ["nothing"]


def _decoded(encoded: Sequence[bytes], allowed: frozenset[type[Any]]) -> Iterator[str]:
    for each in encoded:
        try:
            message = decode_message(each, allowed)
        except DecodeError as error:
            yield f"undecodable: {error.reason}"
            continue
        parts = [
            f"{field.name}={_field(getattr(message, field.name))}" for field in dataclasses.fields(message)
        ]
        yield f"{type(message).__name__}({', '.join(parts)})"


def _field(held: Any) -> str:
    if isinstance(held, bytes):
        return _hex(held)
    if dataclasses.is_dataclass(held):
        return "/".join(_field(getattr(held, field.name)) for field in dataclasses.fields(held))
    if isinstance(held, tuple):
        return "[" + ", ".join(map(_field, held)) + "]"
    return str(held)


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _hex(data: bytes) -> str:
    """Bytes, or how they begin and a hash, so that two that differ are never shown alike."""
    if len(data) <= _BYTES_SHOWN:
        return data.hex()
    return f"{data[:_BYTES_SHOWN].hex()}..{_hash(data)}"


def _short(line: str) -> str:
    shown = line.encode("ascii", "backslashreplace").decode("ascii")
    return shown if len(shown) <= LINE_LIMIT else f"{shown[: LINE_LIMIT - 10]}..{_hash(shown.encode())}"


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=4).hexdigest()
