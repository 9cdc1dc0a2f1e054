"""Ids as the outside knows them: what kind of thing, and 16 bytes that sort by the time they were made."""

from __future__ import annotations

from typing import Final

from node.environment import Environment

ENTITY: Final = "ent_"
OBSERVATION: Final = "obs_"
RELATION: Final = "rel_"

_NOWHERE: Final = b""
"""What a text that is no id is looked for as: no row has it."""


def new_id(environment: Environment) -> bytes:
    """16 bytes of a new id (UUIDv7)."""
    return bytes.fromhex(environment.new_id().replace("-", ""))


def show_id(kind: str, id_: bytes) -> str:
    """An id as the outside knows it."""
    return kind + id_.hex()


def read_id(kind: str, text: str) -> bytes:
    """The bytes of an id; a text that is none has no bytes, which no row has."""
    digits = text.removeprefix(kind)
    if not text.startswith(kind) or len(digits) != 32 or not set(digits) <= set("0123456789abcdef"):
        return _NOWHERE
    return bytes.fromhex(digits)
