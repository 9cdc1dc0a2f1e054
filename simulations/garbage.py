"""Python's search for cyclic garbage, done rarely while a simulation runs.

A simulated cluster of a thousand holds millions of objects that live as long as it does. By default Python
looks for cycles whenever 700 more objects were made than dropped, and now and then among all of them: a tenth
of the time of a run, for next to nothing, because what a core and the network make is dropped by counting
references. Streams do make cycles, so that the search goes on, but after a hundred thousand objects.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

RARE: Final = (100_000, 10, 10)
"""Thresholds of the three generations (`gc.set_threshold`) during a run."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Look for cyclic garbage rarely; afterwards as often as before."""
    before = gc.get_threshold()
    gc.set_threshold(*RARE)
    try:
        yield
    finally:
        gc.set_threshold(*before)
