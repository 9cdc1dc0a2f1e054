"""What holds for every test: properties draw the same examples in every run, and long files come first.

Hypothesis mixes constants found in the source of all imported modules into what it draws, so that even a
derandomized test depends on which tests ran before it in the process. The pool is therefore kept empty.

With ``--dist loadfile`` each process of pytest-xdist takes the next file when it is done with one, and the
last files decide when all are done. So what takes longest is begun first (:data:`LONGEST`).
"""

import os
from pathlib import Path

import hypothesis
import pytest
from _pytest.outcomes import Skipped
from hypothesis.internal.conjecture import providers

hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("searching", deadline=None)
hypothesis.settings.load_profile(os.environ.get("CAXTON_HYPOTHESIS", "repeatable"))

NO_CONSTANTS = providers.Constants(
    integers=providers.SortedSet(),
    floats=providers.SortedSet(key=providers.float_to_int),
    bytes=providers.SortedSet(),
    strings=providers.SortedSet(),
)

TESTS = Path(__file__).parent
LONGEST = (
    "acceptance/test_dockerfile.py",
    "acceptance/test_history.py",
    "simulations/test_twin_real.py",
    "acceptance/test_messages.py",
    "acceptance/test_membership.py",
    "acceptance/test_demo.py",
    "acceptance/test_bad_input.py",
    "simulations/test_nodes.py",
    "node/agents/wasm/test_build_components.py",
    "acceptance/test_mcp.py",
    "acceptance/test_torture.py",
    "simulations/test_first_slice.py",
    "acceptance/test_keys.py",
    "acceptance/test_client.py",
    "node/http/test_gate.py",
    "simulations/test_shared_state.py",
    "acceptance/test_security.py",
    "acceptance/test_tools.py",
    "acceptance/test_shared_memory.py",
    "acceptance/test_streams.py",
    "acceptance/test_operators.py",
    "acceptance/test_approvals.py",
    "acceptance/test_tracing.py",
    "acceptance/test_partials.py",
    "acceptance/test_recording.py",
    "simulations/test_report_browser.py",
    "simulations/test_runner.py",
    "simulations/test_corpus.py",
    "node/agents/wasm/test_build_core.py",
)
"""Files of tests that take longer than some ten seconds, the longest first."""


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # else files with few tests, the longest, come last
    # Tests start some hundred processes of nodes; each would compile four hundred modules anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    assert callable(providers._get_local_constants), "another Hypothesis: see the module's docstring"
    providers._get_local_constants = lambda: NO_CONSTANTS


def pytest_collection_modifyitems(items):
    place = {TESTS / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call():
    """Let asynchronous tests say why they are skipped, which pytest-trio loses on the way."""
    try:
        return (yield)
    except Skipped as skipped:
        skipped.msg = skipped.msg or _why(skipped.__context__)
        raise


def _why(error):
    """The reason of the skip within a group of exceptions."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return getattr(error, "msg", "")
