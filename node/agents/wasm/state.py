"""What a guest keeps between messages, so that its instance can be dropped at any time.

Three layers of changes lie over what is stored: those of the message being handled, dropped when it fails;
those of its batch, written in one transaction before any of its answers leaves; and the stored values in
memory. A value of None marks a removed key.

Instances of one agent that work at once see each other's changes when these are written; the last wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

KEYS_LIMIT: Final = 1024
"""Most keys of one agent."""
KEY_LIMIT_BYTES: Final = 256
"""Longest key."""
VALUE_LIMIT_BYTES: Final = 65_536
"""Longest value."""
STATE_LIMIT_BYTES: Final = 1024 * 1024
"""Most bytes of one agent's keys and values together."""


class AgentState:
    """The stored values of one agent, and how large they are together."""

    def __init__(self, stored: Mapping[bytes, bytes]) -> None:
        self._values = dict(stored)
        self.size = sum(len(key) + len(value) for key, value in stored.items())

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        return self._values.get(key)

    def apply(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Take over what has been written."""
        for key, value in changes.items():
            old = self._values.pop(key, None)
            self.size -= 0 if old is None else len(key) + len(old)
            if value is not None:
                self._values[key] = value
                self.size += len(key) + len(value)

    def statistics(self) -> dict[str, int]:
        """How full it is."""
        return {
            "keys": len(self),
            "keys_limit": KEYS_LIMIT,
            "bytes": self.size,
            "bytes_limit": STATE_LIMIT_BYTES,
        }


class StateChanges:
    """The changes of one batch over an agent's state; used by one worker at a time."""

    def __init__(self, state: AgentState) -> None:
        self._state = state
        self._batch: dict[bytes, bytes | None] = {}
        self._call: dict[bytes, bytes | None] = {}
        self._keys, self._bytes = len(state), state.size
        self._kept = (self._keys, self._bytes)

    @property
    def written(self) -> Mapping[bytes, bytes | None]:
        """What must be stored before an answer of the batch leaves."""
        return self._batch

    def get(self, key: bytes) -> bytes | None:
        """The value as the current message sees it."""
        for layer in (self._call, self._batch):
            if key in layer:
                return layer[key]
        return self._state.get(key)

    def put(self, key: bytes, value: bytes) -> bool:
        """Change a value; False when there is no room for it."""
        old = self.get(key)
        keys = self._keys + (old is None)
        size = self._bytes + len(value) + (len(key) if old is None else -len(old))
        if keys > KEYS_LIMIT or size > STATE_LIMIT_BYTES:
            return False
        self._call[key] = value
        self._keys, self._bytes = keys, size
        return True

    def remove(self, key: bytes) -> bool:
        """Remove a key; False when there is none."""
        old = self.get(key)
        if old is None:
            return False
        self._call[key] = None
        self._keys -= 1
        self._bytes -= len(key) + len(old)
        return True

    def keep(self) -> None:
        """The message was handled: its changes count."""
        self._batch.update(self._call)
        self._call.clear()
        self._kept = (self._keys, self._bytes)

    def drop(self) -> None:
        """The message failed: its changes never happened."""
        self._call.clear()
        self._keys, self._bytes = self._kept
