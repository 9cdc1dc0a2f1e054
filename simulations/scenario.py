"""Scenarios: which members, which network, which faults, and how long things may take; read from YAML.

A scenario says who is struck in words (``{draw: 5}``, ``{share: 0.01}``, ``all``, ``rest``); with a seed
these become names, and the plan that results is what is run and kept. What is wrong with a file is told with
its place, and with the nearest word that would be right.
"""

from __future__ import annotations

import dataclasses
import difflib
import glob
import importlib
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simulations import production
from simulations.faults import KINDS, OF_NODES, Fault, Join, named, read
from simulations.links import Link
from simulations.properties import PROPERTIES, Bounds, Sometimes
from simulations.swarm import DRAWS, Swarm, draw_plan
from swim.config import PROFILES, SwimConfig

SCENARIOS: Final = Path(__file__).parent / "scenarios"
MAX_MEMBERS: Final = 20_000


class Runs(NamedTuple):
    """What can be run, as module and name: membership alone is spared Trio, SQLite and all of the node.

    Attributes:
        scenario: The class of its scenarios.
        run: The class of its runs.
        collector: The class of what watches a run for a page.
    """

    scenario: tuple[str, str]
    run: tuple[str, str]
    collector: tuple[str, str]


RUNS: Final = {
    "members": Runs(
        (__name__, "Scenario"),
        ("simulations.runner", "Run"),
        ("simulations.report.members", "MemberCollector"),
    ),
    "nodes": Runs(
        ("simulations.nodes.scenario", "NodeScenario"),
        ("simulations.nodes.run", "NodeRun"),
        ("simulations.report.nodes", "NodeCollector"),
    ),
}
"""By the word that a scenario says in `runs`."""


class ScenarioError(Exception):
    """A scenario that cannot be run; the text says where it is wrong and what would be right."""


class Network(BaseModel):
    """The link of every pair that no fault touches; see :class:`simulations.links.Link`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    delay_s: Annotated[float, Field(ge=0)] = 0.001
    jitter_s: Annotated[float, Field(ge=0)] = 0.002
    tail_s: Annotated[float, Field(ge=0)] = 0.0
    sigma: Annotated[float, Field(ge=0, le=3)] = 0.0
    loss: Annotated[float, Field(ge=0, le=1)] = 0.0
    duplicate: Annotated[float, Field(ge=0, le=1)] = 0.0
    reorder: Annotated[float, Field(ge=0, le=1)] = 0.0
    reorder_s: Annotated[float, Field(ge=0)] = 0.05
    corrupt: Annotated[float, Field(ge=0, le=1)] = 0.0
    capacity_bytes_s: Annotated[float, Field(gt=0)] | None = None

    def link(self) -> Link:
        """The link that is meant."""
        return Link(**self.model_dump())


class Scenario(BaseModel):
    """One scenario.

    Attributes:
        name: Its name.
        about: What it shows, in a sentence.
        runs: What its members are: ``members`` of membership alone, or whole ``nodes``.
        members: How many there are at first.
        start: ``converged``: they know each other; ``join``: they start within ``spread_s`` and have to meet.
        spread_s: See ``start``.
        profile: The core's profile.
        config: Parameters of the core on top of the profile.
        encrypted: Whether packets are encrypted; else they carry a checksum.
        network: The links.
        safety_s: How long faults may happen.
        faults: What goes wrong, members in words or by name.
        swarm: Bounds of a plan that is drawn from the seed, on top of ``faults``.
        heal: Whether everything is healed after the safety phase.
        bounds: How long things may take.
        settled_s: How long the run goes on after healing, if that is longer than the bounds ask for.
        sometimes: What some run of a sweep must have met.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kinds: ClassVar[frozenset[str]] = frozenset(KINDS) - OF_NODES
    """Of faults that can happen to it."""
    met: ClassVar[Sequence[str]] = tuple(Sometimes.NAMES)
    """What a run can meet."""
    name: str
    about: str
    runs: str = "members"
    members: Annotated[int, Field(ge=1, le=MAX_MEMBERS)]
    start: Literal["converged", "join"] = "converged"
    spread_s: Annotated[float, Field(ge=0)] = 0.0
    profile: str = "lan"
    config: dict[str, Any] = Field(default_factory=dict)
    encrypted: bool = False
    network: Network = Field(default_factory=Network)
    safety_s: Annotated[float, Field(gt=0)]
    faults: tuple[dict[str, Any], ...] = ()
    swarm: Swarm | None = None
    heal: bool = True
    bounds: Bounds = Field(default_factory=Bounds)
    settled_s: Annotated[float, Field(ge=0)] = 0.0
    sometimes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """The names of the members there are at first."""
        width = max(3, len(str(self.members - 1)))
        return [f"m{number:0{width}}" for number in range(self.members)]

    def swim_config(self) -> SwimConfig:
        """The core's parameters."""
        return production.configuration(self.profile, self.config)

    def plan(self, seed: int) -> tuple[Fault, ...]:
        """The faults of a seed, by the names of those they strike, in the order of their time."""
        chance = random.Random(f"{seed}/plan")
        names = self.names()
        found = [read(_named(fault, names, chance)) for fault in self.faults]
        if self.swarm is not None:
            found += draw_plan(self.swarm, names, self.safety_s, random.Random(f"{seed}/swarm"))
        return tuple(sorted(found, key=lambda fault: fault.at_s))


def available() -> list[str]:
    """The names of the scenarios that come with the simulator."""
    return sorted(path.stem for path in SCENARIOS.glob("*/*.yaml"))


def load(name: str, changes: Sequence[str] = ()) -> Scenario:
    """Read a scenario.

    Args:
        name: Of one that comes with the simulator, or the path of a file.
        changes: ``key=value`` with keys like ``network.loss``; values are YAML.

    Raises:
        ScenarioError: there is no such scenario, or something in it is wrong.
    """
    is_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_file else next(iter(SCENARIOS.glob(f"*/{glob.escape(name)}.yaml")), None)
    if path is None or not path.is_file():
        raise ScenarioError(f"there is no scenario {name!r}{_nearest(name, available())}")
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ScenarioError(f"{path.name}: {error}") from None
    if not isinstance(data, dict):
        raise ScenarioError(f"{path.name}: a scenario is a mapping")
    data.setdefault("name", path.stem)
    for change in changes:
        _set(data, change)
    try:
        scenario = check(data, path.name)
        is_shortened = any(change.startswith("safety_s=") for change in changes)
        check_strikes(scenario, path.name, end_s=math.inf if is_shortened else scenario.safety_s)
    except ScenarioError as error:
        raise ScenarioError(_with_line(str(error), path.name, text, changes)) from None
    return scenario


def check(data: Mapping[str, Any], where: str) -> Scenario:
    """Build a scenario from data.

    Args:
        data: As YAML or JSON has it.
        where: What its errors begin with.

    Raises:
        ScenarioError: something in it is wrong.
    """
    model = _model(data.get("runs", "members"), where)
    try:
        scenario = model.model_validate(data)
    except ValidationError as error:
        raise ScenarioError(_explain(error, where, model)) from None
    parameters = [field.name for field in dataclasses.fields(SwimConfig)]
    for words, known, key in (
        ([scenario.profile], list(PROFILES), "profile"),
        (scenario.config, parameters, "config"),
        (scenario.sometimes, list(scenario.met), "sometimes"),
        (
            scenario.swarm.kinds if scenario.swarm else (),
            sorted(scenario.kinds & DRAWS.keys()),
            "swarm.kinds",
        ),
    ):
        for word in words:
            if word not in known:
                raise ScenarioError(f"{where}: {key}: there is no {word!r}{_nearest(word, known)}")
    try:
        scenario.swim_config()
    except (TypeError, ValueError) as error:
        raise ScenarioError(f"{where}: config: {error}") from None
    for number, fault in enumerate(scenario.faults):
        _check_fault(fault, scenario, f"{where}: faults.{number}")
    return scenario


def check_strikes(
    scenario: Scenario, where: str, *, plan: Sequence[Fault] | None = None, end_s: float = math.inf
) -> None:
    """Refuse faults that would never happen, so that a run does not pass because of a slip of the pen.

    Only what was written by hand is looked at: of a plan that was shrunk, a fault may be left of a member
    whose start is not needed.

    Args:
        scenario: Whose faults.
        where: What the error begins with.
        plan: Faults instead of the scenario's own.
        end_s: When everything is healed, unless it was shortened on purpose.

    Raises:
        ScenarioError: a fault strikes somebody who never is, or comes too late.
    """
    key = "faults" if plan is None else "plan"
    if plan is None:
        plan = [read(_named(fault, scenario.names(), random.Random(0))) for fault in scenario.faults]
    known = scenario.names() + [name for fault in plan if isinstance(fault, Join) for name in fault.members]
    for number, fault in enumerate(plan):
        place = f"{where}: {key}.{number}.{fault.kind}"
        if fault.at_s > end_s:
            raise ScenarioError(f"{place}: at_s: at {fault.at_s:g} s all is healed; safety_s is {end_s:g}")
        for name in named(fault):
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.5) or [f"{known[0]} to {known[-1]}"]
                raise ScenarioError(
                    f"{place}: there is no {name!r}, and none joins; the nearest is {near[0]}"
                )


def _model(runs: Any, where: str) -> type[Scenario]:
    if runs not in RUNS:
        raise ScenarioError(f"{where}: runs: there is no {runs!r}{_nearest(str(runs), RUNS)}")
    module, name = RUNS[runs].scenario
    model: type[Scenario] = getattr(importlib.import_module(module), name)
    return model


def _check_fault(fault: Mapping[str, Any], scenario: Scenario, where: str) -> None:
    kind = next(iter(fault), "")
    if len(fault) != 1 or kind not in scenario.kinds:
        raise ScenarioError(
            f"{where}: a fault is a mapping with one key, its kind; {kind!r} is none of {scenario.runs}"
            f"{_nearest(str(kind), scenario.kinds)}"
        )
    if scenario.runs == "members" and isinstance(fault[kind], Mapping) and fault[kind].get("upgrade"):
        raise ScenarioError(f"{where}.{kind}: upgrade: only whole nodes have a version of their software")
    try:
        read(_named(fault, scenario.names(), random.Random(0)))
    except ValidationError as error:
        raise ScenarioError(_explain(error, f"{where}.{kind}", KINDS[kind])) from None
    except ValueError as error:
        raise ScenarioError(f"{where}.{kind}: {error}") from None


# ---- words for members ---------------------------------------------------------------------------

_WHO: Final = ("members", "sources", "targets")


def _named(fault: Mapping[str, Any], names: list[str], chance: random.Random) -> dict[str, Any]:
    """A fault with names in place of words."""
    ((kind, values),) = fault.items()
    if not isinstance(values, Mapping):
        raise ValueError("its value is no mapping")  # noqa: TRY004 - told as an error of the file
    named = dict(values)
    for key in _WHO:
        if key in named:
            named[key] = _choose(named[key], names, chance)
    if "sides" in named:
        taken: list[str] = []
        sides = []
        for side in named["sides"]:
            left = [name for name in names if name not in taken]
            sides.append(_choose(side, left, chance))
            taken += sides[-1]
        named["sides"] = sides
    if isinstance(named.get("pairs"), Mapping):
        count = int(named["pairs"].get("draw", 1))
        named["pairs"] = [chance.sample(names, 2) for _ in range(count)]
    return {kind: named}


def _choose(who: Any, names: list[str], chance: random.Random) -> list[str]:
    """The members that are meant.

    Args:
        who: Names; ``all`` or ``rest``; or a mapping with one of ``draw`` (so many at random), ``share``
            (such a part of them, at least one), ``first``, ``last``.
        names: Whom to choose from.
        chance: Where draws come from.

    Raises:
        ValueError: it cannot be understood.
    """
    if isinstance(who, Sequence) and not isinstance(who, str):
        return [str(name) for name in who]
    if who in ("all", "rest"):
        return list(names)
    if isinstance(who, Mapping) and len(who) == 1:
        ((how, count),) = who.items()
        count = max(1, round(count * len(names))) if how == "share" else int(count)
        if how in ("draw", "share"):
            return sorted(chance.sample(names, min(count, len(names))))
        if how in ("first", "last"):
            return names[:count] if how == "first" else names[-count:]
    raise ValueError(f"members are names, all, rest, or one of draw, share, first, last; not {who!r}")


# ---- what is wrong -------------------------------------------------------------------------------


def _explain(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """The first thing that is wrong, with its place and the nearest word that would be right."""
    # A key that does not exist is told before what is missing: it is mostly that, misspelt.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        known = _keys(model, [str(part) for part in first["loc"][:-1]])
        return f"{where}: {place}: there is no such key{_nearest(str(first['loc'][-1]), known)}"
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}: {place}: {said}" if place else f"{where}: {said}"


def _with_line(told: str, where: str, text: str, changes: Sequence[str]) -> str:
    """The same error with the line of what it is about, unless that was not read from the file."""
    place = told.removeprefix(f"{where}: ").partition(": ")[0].split(".")
    if any(change.split(".")[0].split("=")[0] == place[0] for change in changes):
        return told
    node, line = yaml.compose(text, yaml.SafeLoader), 0
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            break
    return f"{where}, line {line}: {told.removeprefix(f'{where}: ')}" if line else told


def _keys(model: type[BaseModel], path: Iterable[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        inner = None if field is None else field.annotation
        for candidate in (inner, *getattr(inner, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; the nearest is {near[0]!r}" if near else f"; there are {', '.join(sorted(known))}"


def _set(data: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    if not equals:
        raise ScenarioError(f"--set {change}: write key=value")
    *path, last = key.split(".")
    for part in path:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ScenarioError(f"--set {change}: {part} has no keys")
    data[last] = yaml.safe_load(value)


__all__ = ["PROPERTIES", "SCENARIOS", "Network", "Scenario", "ScenarioError", "available", "check", "load"]
