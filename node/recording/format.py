"""The file of a recording: a header, then records, each with its length and checksum.

Layout, numbers big-endian:

    magic 8 | format 2 | length 4 | CRC-32 4 | header (CBOR)      once
                         length 4 | CRC-32 4 | record (CBOR)      for every core and every input

A file that ends in the middle of a record, as a crash leaves it, counts up to the last whole one. What
follows a record whose checksum is wrong does not count either, because nothing tells where the next begins.
Nothing in it is believed for its length: a record has at most :data:`MAX_RECORD_BYTES`.
"""

from __future__ import annotations

import os
import platform
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final

import cbor2

from node.errors import CaxtonError
from node.recording.values import MAX_DEPTH, UnknownValue
from swim import strict_cbor

MAGIC: Final = b"CAXTON\x00R"
FORMAT: Final = 1
MAX_RECORD_BYTES: Final = 32 * 1024 * 1024
"""Longest record; a snapshot of the maps that is loaded at a start has at most 16 MB."""
_FORMAT_BYTES: Final = 2
_NUMBER_BYTES: Final = 4
_FRAME_BYTES: Final = 2 * _NUMBER_BYTES
_MAX_HEADER_BYTES: Final = 65_536
MODE: Final = 0o600
"""A recording holds what the node was told, messages among it: it is its owner's alone."""


class RecordingInvalid(CaxtonError):
    """A file is no recording, or none that this version can read."""

    code = "RECORDING_INVALID"
    status = 400
    exit_code = 2


class RecordingUnwritable(CaxtonError):
    """A recording cannot be begun where it was asked for."""

    code: ClassVar[str] = "RECORDING_UNWRITABLE"
    status = 400
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Header:
    """Whose recording it is.

    Args:
        node: The node's name.
        version: Of Caxton.
        python: Of the interpreter.
        zlib: Of the library that compresses, whose output is among what is compared.
        began_s: Unix seconds.
    """

    node: str
    version: str
    python: str
    zlib: str
    began_s: float

    @classmethod
    def of_this(cls, node: str, version: str, began_s: float) -> Header:
        """The header of a recording that this process begins."""
        return cls(node, version, platform.python_version(), zlib.ZLIB_RUNTIME_VERSION, began_s)


@dataclass(frozen=True, slots=True)
class Core:
    """Tells which core the number stands for, from here on."""

    number: int
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class Step:
    """One input of one core.

    Args:
        core: Its number.
        verb: What was asked of it.
        arguments: With what, packed.
        draws: What it asked of its surroundings meanwhile, in order: kind, what it asked, the answer.
        digest: BLAKE2b of what came out, 16 bytes.
        outputs: What came out, packed; empty if it was too long to be kept.
    """

    core: int
    verb: str
    arguments: bytes
    draws: tuple[tuple[str, bytes, Any], ...]
    digest: bytes
    outputs: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The recording was ended, and did not break off."""

    reason: str


Record = Core | Step | End
_KINDS: Final = {0: Core, 1: Step, 2: End}
_FIELD_TYPES: Final = {
    0: (int, str, int),
    1: (int, str, bytes, list, bytes, bytes),
    2: (str,),
}


def create(path: Path) -> BinaryIO:
    """Make a new file that only its owner may read; never follows a link, never overwrites.

    Raises:
        RecordingUnwritable: it exists, or the system refuses.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(path, flags, MODE), "wb")
    except OSError as error:
        raise RecordingUnwritable(
            f"cannot record into {path}",
            why=error.strerror or str(error),
            fix="Name a file that does not exist yet, in a directory that you may write to.",
            details={"path": str(path)},
        ) from None


def header_bytes(header: Header) -> bytes:
    """The beginning of a file."""
    body = cbor2.dumps([header.node, header.version, header.python, header.zlib, header.began_s])
    return MAGIC + FORMAT.to_bytes(_FORMAT_BYTES, "big") + _framed(body)


def record_bytes(record: Record) -> bytes:
    """One record with its length and checksum."""
    match record:
        case Core():
            fields: list[Any] = [0, record.number, record.name, record.version]
        case Step():
            draws = [list(draw) for draw in record.draws]
            fields = [
                1, record.core, record.verb, record.arguments, draws, record.digest, record.outputs,
            ]  # fmt: skip
        case End():
            fields = [2, record.reason]
    return _framed(cbor2.dumps(fields))


class Recording:
    """A recording that is read: its header at once, its records one by one.

    Args:
        path: The file.

    Attributes:
        header: Whose it is.
        broken: Why reading ended before the file's proper end; empty while, or if, it did not.

    Raises:
        RecordingInvalid: it is no recording, or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken = ""
        with self._opened() as file:
            self.header = self._header(file)
            self._begins = file.tell()

    def records(self) -> Iterator[Record]:
        """The records, up to the end or to the first that is damaged (:attr:`broken` says which)."""
        with self._opened() as file:
            file.seek(self._begins)
            ended = False
            while True:
                at = file.tell()
                body = self._next(file, MAX_RECORD_BYTES, at)
                if body is None:
                    if not ended:
                        self.broken = (
                            self.broken
                            or f"it breaks off at byte {at}, as a process that was killed leaves it"
                        )
                    return
                try:
                    record = _decode(body)
                except (ValueError, TypeError) as error:
                    self.broken = f"the record at byte {at} makes no sense: {error}"
                    return
                ended = isinstance(record, End)
                yield record

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise RecordingInvalid(f"cannot read {self.path}", why=error.strerror or str(error)) from None

    def _header(self, file: BinaryIO) -> Header:
        start = file.read(len(MAGIC) + _FORMAT_BYTES)
        if not start.startswith(MAGIC):
            raise RecordingInvalid(
                f"{self.path} is no recording",
                why="it does not begin as one",
                fix="Recordings are written by `caxton start --record FILE`.",
            )
        version = int.from_bytes(start[len(MAGIC) :], "big")
        if len(start) == len(MAGIC) + _FORMAT_BYTES and version != FORMAT:
            raise RecordingInvalid(
                f"{self.path} is a recording of format {version}",
                why=f"this version of Caxton reads format {FORMAT}",
                fix="Replay it with the version of Caxton that recorded it.",
                details={"format": version, "readable": FORMAT},
            )
        body = self._next(file, _MAX_HEADER_BYTES, len(start))
        fields: Any = None
        if body is not None:
            try:
                fields = strict_cbor.decode_any_order(body, max_bytes=_MAX_HEADER_BYTES)
            except ValueError:
                fields = None
        match fields:
            case [str(node), str(caxton), str(python), str(library), float(began_s)]:
                return Header(node, caxton, python, library, began_s)
        raise RecordingInvalid(
            f"{self.path} is a recording without a whole header",
            why="the process was killed before it had written one, or the file was damaged",
        )

    def _next(self, file: BinaryIO, most: int, at: int) -> bytes | None:
        """The body of the next frame; None at the end, and where no whole frame is left."""
        frame = file.read(_FRAME_BYTES)
        if len(frame) < _FRAME_BYTES:
            return None
        length = int.from_bytes(frame[:_NUMBER_BYTES], "big")
        if length > most:
            self.broken = f"the record at byte {at} is damaged: it claims {length} bytes"
            return None
        body = file.read(length)
        if len(body) < length:
            return None
        if zlib.crc32(body) != int.from_bytes(frame[_NUMBER_BYTES:], "big"):
            self.broken = f"the record at byte {at} is damaged: its checksum is wrong"
            return None
        return body


def is_recording(path: Path) -> bool:
    """Whether a file begins as recordings do."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(_NUMBER_BYTES, "big") + zlib.crc32(body).to_bytes(_NUMBER_BYTES, "big") + body


def _decode(body: bytes) -> Record:
    try:
        fields = strict_cbor.decode_any_order(body, max_bytes=MAX_RECORD_BYTES, max_depth=MAX_DEPTH)
    except ValueError as error:
        raise UnknownValue(str(error)) from None
    if type(fields) is not list or not fields or type(fields[0]) is not int or fields[0] not in _KINDS:
        raise UnknownValue("it is of no known kind")
    kind, *values = fields
    types = _FIELD_TYPES[kind]
    if len(values) != len(types) or any(type(v) is not t for v, t in zip(values, types, strict=True)):
        raise UnknownValue("its fields are not those of its kind")
    if kind == 1:
        values[3] = tuple(_draw(draw) for draw in values[3])
    made: Record = _KINDS[kind](*values)
    return made


def _draw(draw: Any) -> tuple[str, bytes, Any]:
    match draw:
        case [str(kind), bytes(question), answer]:
            return kind, question, answer
    raise UnknownValue("one of its draws is none")
