"""The scripts of benchmarks run with the code as it is: nobody notices a broken one before it is needed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks import routing
from node.vocabulary import RoutingStrategy

SCRIPTS = sorted(
    ".".join(path.with_suffix("").parts[-len(path.relative_to(top.parent).parts) :])
    for top in [Path(routing.__file__).parent]
    for path in top.rglob("*.py")
    if path.name != "__init__.py" and "real" not in path.parts
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_imported(script: str) -> None:
    importlib.import_module(script)


@pytest.mark.parametrize("how", RoutingStrategy)
def test_the_cost_of_routing_is_measured(how: RoutingStrategy) -> None:
    assert routing.microseconds(routing.registry(50), "offered-by-10", how, 20) > 0
