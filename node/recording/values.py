"""Values of a recording as plain CBOR, and back: what goes into a core, and what comes out of it.

Sequences come back as tuples. Dataclasses, structs, named tuples, enumerations and mappings are wrapped in a
map with one key, so that nothing plain is taken for one of them; only classes that the reader names are built
again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Final

import cbor2
import msgspec

from swim import strict_cbor

MAX_DEPTH: Final = 32
"""Deepest nesting of a value."""
_MAPPING: Final = "map"
_INSTANCE: Final = "is"
_MEMBER: Final = "of"


class UnknownValue(ValueError):
    """Something of a recording that this version cannot build again."""


def pack(value: object) -> bytes:
    """Encode a value that :func:`plain` takes."""
    return cbor2.dumps(plain(value))


def plain(value: Any) -> Any:
    """A value as lists, texts, numbers, bytes and maps.

    Raises:
        TypeError: it holds something that is none of them, no dataclass, struct or enumeration.
    """
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple or kind is list:
        return [item if type(item) in _PLAIN else plain(item) for item in value]
    names = _fields_of(kind)
    if names is not None:
        fields = [getattr(value, name) for name in names]
        return {_INSTANCE: [kind.__name__, plain(fields)]}
    if isinstance(value, Enum):
        return {_MEMBER: [kind.__name__, plain(value.value)]}
    if isinstance(value, Mapping):
        return {_MAPPING: [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"a {kind.__name__} cannot be recorded")


def unpack(data: bytes, classes: Mapping[str, type[Any]], *, max_bytes: int) -> Any:
    """Decode what :func:`pack` encoded.

    Args:
        data: The encoding.
        classes: What may be built, by name.
        max_bytes: Longer input is refused unread.

    Raises:
        UnknownValue: it is no such encoding, or needs another class.
    """
    try:
        tree = strict_cbor.decode_any_order(data, max_bytes=max_bytes, max_depth=MAX_DEPTH)
    except ValueError as error:
        raise UnknownValue(str(error)) from None
    return revive(tree, classes)


def revive(tree: Any, classes: Mapping[str, type[Any]]) -> Any:
    """A value out of its plain form; see :func:`unpack`.

    Raises:
        UnknownValue: it needs another class.
    """
    if type(tree) is list:
        return tuple(revive(item, classes) for item in tree)
    if type(tree) is not dict:
        return tree
    match tree:
        case {"map": [*pairs]} if all(type(pair) is list and len(pair) == 2 for pair in pairs):
            try:
                return {revive(key, classes): revive(item, classes) for key, item in pairs}
            except TypeError:
                raise UnknownValue("a mapping has a key that cannot be one") from None
        case {"is": [str(name), [*values]]} if _is_built(classes.get(name)):
            return _build(classes[name], [revive(value, classes) for value in values])
        case {"of": [str(name), value]} if name in classes and issubclass(classes[name], Enum):
            try:
                return classes[name](revive(value, classes))
            except ValueError:
                raise UnknownValue(f"{value!r} is no {name}") from None
    raise UnknownValue(f"this version cannot build {str(tree)[:80]}")


def _is_built(kind: Any) -> bool:
    return _fields_of(kind) is not None


def _build(kind: Any, values: list[Any]) -> Any:
    names = _fields_of(kind) or ()
    if len(names) != len(values):
        raise UnknownValue(
            f"{kind.__name__} has {len(names)} fields here, and {len(values)} in the recording"
        )
    try:
        return kind(**dict(zip(names, values, strict=True)))
    except (TypeError, ValueError) as error:
        raise UnknownValue(f"{kind.__name__} cannot be built: {error}") from None


@lru_cache(maxsize=1_024)
def _fields_of(kind: Any) -> tuple[str, ...] | None:
    """The names that a dataclass, a struct or a named tuple is built from; None for another class."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if isinstance(kind, type) and issubclass(kind, tuple):
        return getattr(kind, "_fields", None)
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple(field.name for field in dataclasses.fields(kind) if field.init)


_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})
