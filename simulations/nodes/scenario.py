"""Scenarios of whole nodes: which agents run where, and who asks whom for what, how often."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from node.errors import CaxtonError
from node.samples import sample
from simulations.faults import Fault, Restart
from simulations.scenario import Scenario

START_S: Final = 3.0
"""So much of a run belongs to the start; faults and messages come later."""
MAX_NODES: Final = 50
UNUSED: Final = frozenset({"start", "spread_s", "config", "encrypted"})
"""Keys of membership's scenarios that mean nothing to whole nodes, and are refused rather than ignored."""


class Deployment(BaseModel):
    """An agent, and the nodes that run it.

    Attributes:
        agent: Name of a sample agent, or path of an agent's file.
        artifacts: Files that it names, beside it.
        first: On so many nodes, the first by name; on all of them by default.
        skip: But not on so many of the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    agent: str
    artifacts: tuple[str, ...] = ()
    first: Annotated[int, Field(ge=1)] | None = None
    skip: Annotated[int, Field(ge=0)] = 0

    def on(self, names: list[str]) -> list[str]:
        """The nodes that run it."""
        return names[self.skip : self.first]

    def read(self) -> tuple[bytes, dict[str, bytes]]:
        """The agent's file, and its artifacts by name."""
        path = Path(self.agent)
        if path.suffix == ".md":
            beside = {name: (path.parent / name).read_bytes() for name in self.artifacts}
            return path.read_bytes(), beside
        artifacts = {name: sample(f"agents/{name}").read_bytes() for name in self.artifacts}
        return sample(f"agents/{self.agent}.md").read_bytes(), artifacts


class Workload(BaseModel):
    """Requests that are sent while faults happen.

    Attributes:
        capability: What is asked for.
        per_s: Requests a second, all nodes together, evenly spread; each comes from a node drawn at random.
        turns: Requests of one conversation, all from one node.
        strategy: How a provider is chosen.
        reply_within_s: How long a client waits; the life of its request, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    capability: str
    per_s: Annotated[float, Field(gt=0, le=10_000)] = 5.0
    turns: Annotated[int, Field(ge=1, le=1_000)] = 5
    strategy: Literal["best_match", "load_balanced"] = "load_balanced"
    reply_within_s: Annotated[float, Field(gt=0)] = 60.0


class NodeScenario(Scenario):
    """A scenario of whole nodes.

    Attributes:
        agents: Which agents run where.
        workload: What is asked of them.
        settings: Configuration keys of all nodes, beside those of the simulation.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({
        "pause", "starve", "crash", "restart", "leave", "partition", "disturb", "clock", "churn", "disk",
    })  # fmt: skip
    runs: Literal["nodes"]
    members: Annotated[int, Field(ge=1, le=MAX_NODES)]
    profile: str = "local"
    agents: tuple[Deployment, ...] = ()
    workload: Workload | None = None
    settings: dict[str, Any] = Field(default_factory=dict)

    def names(self) -> list[str]:
        """The names of the nodes."""
        return [f"n{number + 1}" for number in range(self.members)]

    def plan(self, seed: int) -> tuple[Fault, ...]:
        """The faults of a seed; drawn ones begin after the start, and move nobody to another address."""
        found = []
        for fault in super().plan(seed):
            at_s = fault.at_s if fault.at_s >= START_S else fault.at_s + START_S
            changes = {"moved": False} if isinstance(fault, Restart) else {}
            found.append(fault.model_copy(update={"at_s": at_s, **changes}))
        return tuple(sorted(found, key=lambda fault: fault.at_s))

    @property
    def is_durable(self) -> bool:
        """Whether what is accepted survives the loss of power."""
        return self.settings.get("storage.durability") == "full"

    @model_validator(mode="after")
    def _names_what_there_is(self) -> NodeScenario:
        for deployment in self.agents:
            try:
                deployment.read()
            except (OSError, CaxtonError) as error:
                raise ValueError(f"agents: {deployment.agent} cannot be read: {error}") from None
        if unused := UNUSED & self.model_fields_set:
            raise ValueError(f"{min(unused)}: whole nodes have no such key; settings has theirs")
        names = self.names()
        for fault in self.faults:
            for kind, values in fault.items():
                for key in ("moved", "rate"):
                    if isinstance(values, Mapping) and values.get(key):
                        raise ValueError(f"faults: a {kind} with {key}; nodes keep their addresses and rates")
                for name in _named(values) if isinstance(values, Mapping) else ():
                    if name not in names:
                        near = difflib.get_close_matches(name, names, 1, 0.5) or [
                            f"{names[0]} to {names[-1]}"
                        ]
                        raise ValueError(
                            f"faults: a {kind} of {name}, which is no node; the nearest is {near[0]}"
                        )
        return self

    @model_validator(mode="before")
    @classmethod
    def _begins_after_the_start(cls, data: Any) -> Any:
        for fault in data.get("faults", ()) if isinstance(data, Mapping) else ():
            for kind, values in fault.items() if isinstance(fault, Mapping) else ():
                at_s = values.get("at_s") if isinstance(values, Mapping) else None
                if isinstance(at_s, int | float) and 0 <= at_s < START_S:  # what is negative is told as such
                    raise ValueError(
                        f"faults: a {kind} at {at_s:g} s; the first {START_S:g} s are the start's"
                    )
        return data


def _named(values: Mapping[str, Any]) -> Iterator[str]:
    """The names in a fault; words for nodes are none."""
    groups = [values.get(key) for key in ("members", "sources", "targets")]
    groups += [*(values.get("sides") or ()), *(values.get("pairs") or ())]
    for group in groups:
        if isinstance(group, list | tuple):
            yield from (str(name) for name in group)
