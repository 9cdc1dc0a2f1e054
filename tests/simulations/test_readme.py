"""The simulator's page names what there is: faults, properties, columns of the trace, commands."""

import io
import re
from pathlib import Path

import yaml

import simulations
from simulations.cli import command, summary
from simulations.faults import KINDS
from simulations.nodes.scenario import NodeScenario, Workload
from simulations.nodes.sometimes import SOMETIMES
from simulations.properties import PROPERTIES, Sometimes
from simulations.properties.base import Bounds
from simulations.runner import Run, run
from simulations.scenario import Network, Scenario, available, load
from simulations.swarm import Swarm

PAGE = (Path(simulations.__file__).parent / "README.md").read_text(encoding="utf-8")


def rows(word: str) -> list[str]:
    """The first cells of the table whose head begins with a word."""
    table = PAGE.split(f"\n| {word} |", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


def test_every_fault_and_every_property_is_explained():
    assert sorted(rows("Kind")) == sorted(KINDS)
    assert [*rows("Always"), *rows("Eventually"), *rows("Finally")] == list(PROPERTIES)
    assert sorted(set(re.findall(r"`(sometimes_\w+)`", PAGE))) == sorted({*Sometimes.NAMES, *SOMETIMES})


def test_every_key_of_a_fault_is_in_its_row_with_a_default_that_says_something():
    table = PAGE.split("\n| Kind |", 1)[1].split("\n\n", 1)[0]
    told = {}
    for line in table.splitlines()[2:]:
        kind, _, keys = (cell.strip() for cell in line.strip("|").split(" | "))
        told[kind.strip("`")] = [yaml.safe_load(f"{{{key}}}") for key in re.findall(r"`([^`]+)`", keys)]
    silent = (None, False, 0, ())
    for kind, fault in KINDS.items():
        own = {name: field for name, field in fault.model_fields.items() if name not in ("at_s", "for_s")}
        expected = {
            name: None if field.is_required() or field.default in silent else field.default
            for name, field in own.items()
        }
        found = {
            key: tuple(value) if isinstance(value, list) else value
            for each in told[kind]
            for key, value in each.items()
        }
        assert found == expected
    lasting = PAGE.split("in seconds of the run; ", 1)[1].split(" have `for_s`", 1)[0]
    assert re.findall(r"`(\w+)`", lasting) == [k for k in rows("Kind") if "for_s" in KINDS[k].model_fields]


def test_everything_that_a_run_prints_is_explained():
    told = {
        word
        for row in re.findall(r"^\| (`[^|]+) \|", PAGE, re.MULTILINE)
        for word in re.findall(r"`(\w+)`", row)
    }
    families = tuple(word[: re.search("[A-Z]", word).start()] for word in told if re.search("[A-Z]", word))
    assert sorted(families) == ["answered_", "ended_", "known_", "refused_", "unknown_"]
    for name, changes in (("crash", ["members=5", "safety_s=20"]), ("shared_memory", ["safety_s=9"])):
        loaded = load(name, changes)
        printed = summary(loaded, run(loaded, 1), 1.0).keys() - {"scenario", "seed"}
        assert len(printed) > 15
        assert {key for key in printed - told if not key.startswith(families)} == set()


def test_every_command_is_shown():
    assert all(
        f"simulate {name} " in PAGE or f"`{name} " in PAGE or f"`{name}`" in PAGE for name in command.commands
    )


def test_the_example_of_a_scenario_has_every_key_and_can_be_read(tmp_path):
    example = PAGE.split("about: One sentence", 1)[1].split("```", 1)[0]
    assert all(f"\n{key}:" in example for key in Scenario.model_fields if key not in ("name", "about"))
    file = tmp_path / "example.yaml"
    file.write_text(f"about: One sentence{example}", encoding="utf-8")
    loaded = load(str(file))
    for key, model in (("bounds", Bounds), ("network", Network), ("swarm", Swarm)):
        assert getattr(loaded, key).model_fields_set == model.model_fields.keys()
        defaults = model().model_dump() | ({"loss": 0.01} if model is Network else {})
        assert getattr(loaded, key).model_dump() == defaults


def test_the_example_of_whole_nodes_has_every_key_of_its_own_and_can_be_run(tmp_path):
    example = PAGE.split("### Of whole nodes", 1)[1].split("```yaml\n", 1)[1].split("```", 1)[0]
    own = NodeScenario.model_fields.keys() - Scenario.model_fields.keys()
    assert all(f"\n{key}:" in example for key in own)
    assert all(f"{key}:" in example for key in Workload.model_fields)
    file = tmp_path / "example.yaml"
    file.write_text(example, encoding="utf-8")
    assert isinstance(load(str(file)), NodeScenario)


def test_every_property_of_whole_nodes_is_explained():
    short = ["safety_s=9", "faults=[]"]
    found = run(load("sick_agents", [*short, "workload.poison=0.5", "memory={}"]), 1).checks
    placed = "placed=[{agent: triage, replicas: 1, remembers: true}]"
    found |= run(load("sick_agents", [*short, placed]), 1).checks
    found |= run(load("shared_budget", short), 1).checks
    assert sorted([*rows("Always, of nodes"), *rows("Finally, of nodes")]) == sorted(found)


def test_every_scenario_of_whole_nodes_is_listed():
    nodes = [name for name in available() if load(name).runs == "nodes"]
    assert rows("Scenario") == nodes
    assert all(f"| `{name}` | {load(name).about} |" in PAGE for name in nodes)


def test_the_legend_explains_every_column_of_a_trace():
    sink = io.StringIO()
    for name, changes in (("swarm", ["members=6"]), ("loss", ["members=6", "safety_s=20"])):
        Run(load(name, changes), 3, sink=sink).run()
    met = {line[22:30].strip() for line in sink.getvalue().splitlines()}
    assert met - {"violated"} <= set(rows("what"))
    assert len(met) >= 9


def test_the_examples_in_python_run(capsys):
    for example in PAGE.split("```python\n")[1:]:
        exec(example.split("```", 1)[0], {})
    ran, driven = capsys.readouterr().out.splitlines()
    assert ran.startswith("0 [] ")
    assert f"  # {driven}\n" in PAGE
