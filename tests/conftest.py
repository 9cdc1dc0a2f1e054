"""What holds for every test: property tests draw the same examples in every run, whatever ran before.

Hypothesis mixes constants found in the source of all imported modules into what it draws, so that even a
derandomized test depends on which tests ran before it in the process. The pool is therefore kept empty.
"""

import os

import hypothesis
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


def pytest_configure(config):
    assert callable(providers._get_local_constants), "another Hypothesis: see the module's docstring"
    providers._get_local_constants = lambda: NO_CONSTANTS
