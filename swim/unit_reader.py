"""Reads units once: what was just read is remembered by its bytes.

Gossip brings each new unit a dozen times within a second or two. A unit that is remembered costs
neither a hash nor a decoding, whatever came of it the first time; whether it is still held, and
whether its signature is right, is for `swim/state.py` to say, every time.

A simulator may give all members of a process one reader with room for all their units: they then
share what they decode, each still checks every signature itself, and the bytes that travel are the
same.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from swim import units
from swim.units import Unit

MAX_REMEMBERED: Final = 256
"""Units that are remembered; the oldest makes room. A few seconds of a busy cluster."""


class Read(NamedTuple):
    """A unit as it came in: its digest, its bytes, and what they say."""

    digest: bytes
    data: bytes
    unit: Unit


class UnitReader:
    """Remembers the units that were read last.

    Args:
        max_remembered: units that are remembered.
    """

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._remembered: OrderedDict[bytes, Read] = OrderedDict()

    def __len__(self) -> int:
        return len(self._remembered)

    def recall(self, data: bytes) -> Read | None:
        """Return what was read before, None if it is not remembered."""
        return self._remembered.get(data)

    def read(self, data: bytes, digest: bytes, *, max_bytes: int) -> Read:
        """Decode a unit and remember it.

        Args:
            data: the unit.
            digest: of the unit.
            max_bytes: longer units are refused unread.

        Raises:
            ValueError: if it is none; that is not remembered.
        """
        read = Read(digest, data, units.decode(data, max_bytes=max_bytes))
        self._remembered[data] = read
        if len(self._remembered) > self._max_remembered:
            self._remembered.popitem(last=False)
        return read
