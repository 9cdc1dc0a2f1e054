"""What is always repeated, and what is new every day."""

import os
import time

import pytest

from simulations.corpus import CORPUS, entries, read
from simulations.runner import OK
from simulations.scenario import ScenarioError, load
from simulations.sweep import sweep

FRESH_SEEDS = 12
FRESH_BUDGET_S = 15.0
SEED_VARIABLE = "CAXTON_SIMULATION_SEED"
"""The first of the fresh seeds; by default it follows from the date."""


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_the_corpus_ends_as_it_should(entry):
    assert entry.differs(entry.run()) == ""


def test_the_corpus_is_there():
    assert len(entries()) >= 10
    assert all(entry.about.endswith(".") for entry in entries())


def test_fresh_seeds_hold_too(capsys):
    first = int(os.environ.get(SEED_VARIABLE) or time.strftime("%Y%m%d00", time.gmtime()))
    found = sweep(load("swarm"), range(first, first + FRESH_SEEDS), budget_s=FRESH_BUDGET_S)
    with capsys.disabled():
        print(f"\nfresh seeds {first}..{first + len(found.rows) - 1} of swarm")  # noqa: T201 - to run them again
    failures = [(result.seed, [v.text for v in result.violations][:3]) for result in found.failures]
    assert failures == []
    assert found.code == OK


@pytest.mark.parametrize(
    "text",
    [
        "about: x\n",
        "about: x\nscenario: crash\nseed: 1\nplan: [{crahs: {}}]\n",
        "about: x\nscenario: crash\nseed: 1\nplan: [{crash: {members: [m999], at_s: 1}}]\n",
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ScenarioError, match=r"bad\.yaml"):
        read(file)


def test_the_corpus_is_part_of_the_simulator():
    assert CORPUS.is_dir()
