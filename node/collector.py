"""How often Python looks for reference cycles in a process that is a node.

A node keeps tables of many small objects that live long: registry entries, open messages, members. By default
every 700 new ones start a search among the young, and every hundredth search is of all. These found nothing
to free, and took a sixth of the time in which ten nodes learnt of 20,000 agents (``benchmarks/registry.py``).
"""

from __future__ import annotations

import gc
from typing import Final

THRESHOLDS: Final = (10_000, 20, 10)
"""New objects before a search of the youngest, a millisecond long; searches before one of older ones."""


def collect_less_often() -> None:
    """Set the thresholds of this process; whoever owns the process calls this, never a library or a room."""
    gc.set_threshold(*THRESHOLDS)


def keep_what_is_there() -> None:
    """Look no more at what a start has made, which stays; called by the same once the node is ready.

    A search of everything would pass its 140,000 objects, most of them of imported modules, in 44 ms. Some
    3,000 of them are garbage, which stays as well: finding it would hold up the node as long.
    """
    gc.freeze()
