"""Server-sent events (WHATWG HTML, section 9.2.6), read from bytes as they come; no I/O.

Of the fields only ``event`` and ``data`` matter here. Nothing is bounded here: who feeds it counts the bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    name: str
    data: str


class EventReader:
    """Cuts a stream of bytes into events."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        self._first = True

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete.

        Raises:
            UnicodeDecodeError: a line is not UTF-8.
        """
        rest = self._rest + data
        events = []
        start = 0
        for end in _LINE_END.finditer(rest):
            if end.group() == b"\r" and end.end() == len(rest):
                break  # its line feed may still come
            event = self._line(rest[start : end.start()].decode())
            start = end.end()
            if event is not None:
                events.append(event)
        self._rest = rest[start:]
        return events

    def _line(self, line: str) -> Event | None:
        if self._first:
            line, self._first = line.removeprefix("\ufeff"), False
        if not line:
            name, data = self._name, self._data
            self._name, self._data = "", []
            return Event(name, "\n".join(data)) if data else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        return None
