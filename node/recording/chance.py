"""The state of a generator of chance, as a recording keeps it."""

from __future__ import annotations

import random
from typing import Final

_WORD_BYTES: Final = 4
_VERSION: Final = 3
"""Of the states of ``random.Random``: Mersenne Twister, 624 words and a place."""


def state_of(chance: random.Random) -> bytes:
    """The state of a generator, to be restored by :func:`generator`."""
    _, words, _ = chance.getstate()
    return b"".join(word.to_bytes(_WORD_BYTES, "big") for word in words)


def generator(state: bytes) -> random.Random:
    """A generator that goes on from a state.

    Raises:
        ValueError: it is no state.
    """
    words = [int.from_bytes(state[at : at + _WORD_BYTES], "big") for at in range(0, len(state), _WORD_BYTES)]
    chance = random.Random(0)  # noqa: S311 - its state is replaced
    chance.setstate((_VERSION, tuple(words), None))
    return chance
