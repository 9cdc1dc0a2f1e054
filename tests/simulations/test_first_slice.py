"""Three production nodes, a thousand requests, one paused, one crashed: the same run from the same seed."""

import sys

import pytest

from simulations.__main__ import run_first_slice
from simulations.compare import compare, first_difference


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """One run in this process."""
    path = tmp_path_factory.mktemp("trace") / "first_slice.trace"
    return run_first_slice(1, path), path.read_text().splitlines()


def test_two_processes_with_different_hash_seeds_write_the_same_trace_byte_for_byte():
    difference, lines = compare([sys.executable, "-m", "simulations", "run", "--seed", "1"])
    assert difference == ""
    assert lines > 5000


def test_every_request_is_answered_although_a_node_paused_and_another_crashed(trace):
    outcome, _ = trace
    assert (outcome.answered, outcome.failed) == (1000, 0)
    assert all(outcome.by_node[node] > 100 for node in ("beta", "gamma"))


def test_the_trouble_really_happened(trace):
    _, lines = trace
    happened = [line.split()[1:] for line in lines if line.split()[2] not in ("udp", "tcp", "request")]
    assert happened == [
        ["alpha", "ready"],
        ["beta", "ready"],
        ["gamma", "ready"],
        ["beta", "paused"],
        ["beta", "resumed"],
        ["gamma", "crashed"],
        ["gamma", "ready"],
    ]
    restart = max(number for number, line in enumerate(lines) if line.split()[1:] == ["gamma", "ready"])
    assert any("@gamma" in line for line in lines[restart:]), "the restarted node was never given work"


def test_each_request_ends_once(trace):
    _, lines = trace
    numbers = sorted(int(line.split()[3]) for line in lines if line.split()[2] == "request")
    assert numbers == list(range(1000))


def test_another_seed_is_another_run(trace, tmp_path):
    assert run_first_slice(2, tmp_path / "t").digest != trace[0].digest


UNSTABLE = """
import sys
with open(sys.argv[2], "w") as file:
    print(*{"alpha", "beta", "gamma", "delta", "epsilon"}, file=file)
"""


def test_the_comparison_catches_an_order_that_depends_on_the_hash_seed():
    difference, _ = compare([sys.executable, "-c", UNSTABLE])
    assert difference.startswith("line 1")


def test_the_first_difference_is_named():
    assert first_difference(b"a\nb\n", b"a\nc\n") == "line 2, after 'a':\n  b\n  c"
    assert "beginning" in first_difference(b"a\n", b"a\nb\n")
