"""A process that is a node searches for garbage less often, and still does."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from node.collector import THRESHOLDS, collect_less_often, keep_what_is_there


class _Cycle:
    """Something only the collector can free."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.enable()
    gc.unfreeze()
    gc.set_threshold(*before)


def test_cycles_are_freed_after_as_many_new_objects_as_the_threshold_says() -> None:
    collect_less_often()
    assert gc.get_threshold() == THRESHOLDS
    gc.collect()
    there = weakref.ref(_Cycle())
    kept = [[] for _ in range(THRESHOLDS[0] // 2)]
    assert there() is not None, "half of the threshold must not start a search"
    kept += [[] for _ in range(THRESHOLDS[0])]
    assert there() is None


def test_what_a_start_has_made_is_looked_at_no_more_and_what_comes_later_is() -> None:
    gc.disable()  # no search of its own in between
    before = weakref.ref(_Cycle())
    keep_what_is_there()
    after = weakref.ref(_Cycle())
    gc.collect()
    assert before() is not None, "it was garbage when the node was ready, and stays"
    assert after() is None
    gc.unfreeze()
    gc.collect()
    assert before() is None
