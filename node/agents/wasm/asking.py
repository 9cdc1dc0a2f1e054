"""The host functions by which core modules ask for the memory and for tools.

What comes back has no length that a guest could know, and a tool is not called twice to find out. So the
host keeps the answer, or the reason why there is none, and ``take_answer`` fetches it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from node.agents.wasm.failure import Kind, NotDone
from node.agents.wasm.host import Host, Status
from node.agents.wasm.outside import (
    ARGUMENTS_LIMIT_BYTES,
    CONTENT_LIMIT_BYTES,
    NAME_LIMIT_BYTES,
    QUERY_LIMIT_BYTES,
)

_WORD: Final = 0xFFFF_FFFF
_STATUSES: Final[dict[Kind, Status]] = {
    "unavailable": Status.UNAVAILABLE,
    "no-room": Status.NO_ROOM,
    "invalid": Status.REFUSED,
}


class Pointing(Protocol):
    """An instance of a core module, as these functions need it."""

    host: Host

    def guest_bytes(self, pointer: int, length: int, limit: int) -> bytes:
        """What it points at."""
        ...

    def put(self, pointer: int, room: int, data: bytes) -> int:
        """Write into its room, if that is large enough; the length of the data."""
        ...


def _search(guest: Pointing, query: int, length: int, limit: int) -> int:
    guest.host.charge()
    asked = guest.guest_bytes(query, length, QUERY_LIMIT_BYTES)
    return _kept(guest, lambda: msgspec.json.encode(guest.host.outside().search(_text(asked), limit & _WORD)))


def _store(guest: Pointing, content: int, length: int) -> int:
    guest.host.charge()
    told = guest.guest_bytes(content, length, CONTENT_LIMIT_BYTES)
    return _kept(guest, lambda: guest.host.outside().store(_text(told)).encode())


def _call(guest: Pointing, name: int, name_length: int, arguments: int, length: int) -> int:
    guest.host.charge()
    tool = guest.guest_bytes(name, name_length, NAME_LIMIT_BYTES)
    given = guest.guest_bytes(arguments, length, ARGUMENTS_LIMIT_BYTES)
    return _kept(guest, lambda: guest.host.outside().call(_text(tool), _text(given)).encode())


def _take(guest: Pointing, room: int, length: int) -> int:
    guest.host.charge()
    found = guest.host.answer()
    written = guest.put(room, length, found or b"")
    return Status.NOT_FOUND if found is None else written


def _kept(guest: Pointing, ask: Callable[[], bytes]) -> int:
    """Ask, and keep what comes back; its length, or why there is none."""
    try:
        return guest.host.keep_answer(ask())
    except NotDone as error:
        guest.host.keep_answer(error.reason.encode("utf-8", "replace"))
        return _STATUSES[error.kind]


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NotDone("invalid", "this is not UTF-8") from None


ASKING_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "search_memory": _search,
    "store_memory": _store,
    "call_tool": _call,
    "take_answer": _take,
}
"""By the names of the imports."""
