"""Scenarios of whole nodes: which agents run where, and who asks whom for what, how often."""

from __future__ import annotations

import difflib
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from node.errors import CaxtonError
from node.message import Attachment
from node.samples import sample
from simulations.faults import Chance, Fault, Restart
from simulations.links import Link
from simulations.nodes.memories import Remembering
from simulations.nodes.placing import Placed
from simulations.nodes.sometimes import SOMETIMES
from simulations.nodes.witness import AGENT, CAPACITY
from simulations.scenario import Network, Scenario

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
        takes_s: Mean time that the agent ``witness`` takes for a message.
        capacity: Messages that wait for it in memory; so many it lets wait, all its origins together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    agent: str
    artifacts: tuple[str, ...] = ()
    first: Annotated[int, Field(ge=1)] | None = None
    skip: Annotated[int, Field(ge=0)] = 0
    takes_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    capacity: Annotated[int, Field(ge=1, le=100_000)] = CAPACITY

    @property
    def is_witness(self) -> bool:
        """Whether it is the agent whose every run is seen (:mod:`simulations.nodes.witness`)."""
        return self.agent == AGENT

    @model_validator(mode="after")
    def _only_the_witness_takes_its_time(self) -> Deployment:
        if not self.is_witness:
            for key in sorted({"takes_s", "capacity"} & self.model_fields_set):
                raise ValueError(f"{key}: only the agent {AGENT} has such a key")
        return self

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
        poison: Share of the requests on which the agent ``witness`` raises.
        content: Of each request; its number by default.
        files: Files that go with each request, by path, or of the samples, as ``demo/sales.csv``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    capability: str
    per_s: Annotated[float, Field(gt=0, le=10_000)] = 5.0
    turns: Annotated[int, Field(ge=1, le=1_000)] = 5
    strategy: Literal["best_match", "load_balanced"] = "load_balanced"
    reply_within_s: Annotated[float, Field(gt=0)] = 60.0
    poison: Chance = 0.0
    content: Any = None
    files: tuple[str, ...] = ()

    def attachments(self) -> tuple[Attachment, ...]:
        """What goes with each request.

        Raises:
            OSError: a file cannot be read.
            CaxtonError: there is neither such a file nor such a sample.
        """
        found = []
        for name in self.files:
            file = Path(name) if Path(name).exists() else sample(name)
            media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            found.append(Attachment(file.name, media_type, file.read_bytes()))
        return tuple(found)


class Between(Network):
    """The links between regions, which have more delay than those inside."""

    delay_s: Annotated[float, Field(ge=0)] = 0.04
    jitter_s: Annotated[float, Field(ge=0)] = 0.005


class NodeNetwork(Network):
    """The links of whole nodes.

    Attributes:
        regions: How many nodes each region has, the first by name in the first; none for one region.
        between: Links between two regions.
    """

    regions: tuple[Annotated[int, Field(ge=1)], ...] = ()
    between: Between = Field(default_factory=Between)

    def link(self) -> Link:
        """The link inside a region."""
        return Link(**self.model_dump(exclude={"regions", "between"}))

    def far(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The pairs of nodes that are in different regions, one for each direction."""
        region = [number for number, size in enumerate(self.regions) for _ in range(size)]
        for (near, here), (far, there) in product(zip(names, region, strict=False), repeat=2):
            if here != there:
                yield near, far


class NodeScenario(Scenario):
    """A scenario of whole nodes.

    Attributes:
        network: The links.
        absent: So many nodes, the last by name, are not started until a fault starts them.
        agents: Which agents run where.
        placed: Agents that the cluster places itself.
        workload: What is asked of them.
        memory: What they are told to remember, and to forget.
        settings: Configuration keys of all nodes, beside those of the simulation.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({
        "pause", "starve", "crash", "restart", "leave", "partition", "disturb", "clock", "churn", "disk",
        "reset", "agents", "provider", "jump",
    })  # fmt: skip
    met: ClassVar[Sequence[str]] = tuple(SOMETIMES)
    runs: Literal["nodes"]
    members: Annotated[int, Field(ge=1, le=MAX_NODES)]
    profile: str = "local"
    network: NodeNetwork = Field(default_factory=NodeNetwork)
    absent: Annotated[int, Field(ge=0)] = 0
    agents: tuple[Deployment, ...] = ()
    placed: tuple[Placed, ...] = ()
    workload: Workload | None = None
    memory: Remembering | None = None
    settings: dict[str, Any] = Field(default_factory=dict)

    def names(self) -> list[str]:
        """The names of the nodes."""
        return [f"n{number + 1}" for number in range(self.members)]

    def present(self) -> list[str]:
        """The names of the nodes that are there from the start."""
        return self.names()[: self.members - self.absent]

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
    def _has_its_nodes(self) -> NodeScenario:
        if self.absent >= self.members:
            raise ValueError("absent: no node is there from the start")
        if self.network.regions and sum(self.network.regions) != self.members:
            raise ValueError(f"network: regions have {sum(self.network.regions)} of {self.members} nodes")
        return self

    @model_validator(mode="after")
    def _strikes_nodes_there_are(self) -> NodeScenario:
        names = self.names()
        for number, fault in enumerate(self.faults):
            for kind, values in fault.items():
                if kind in self.kinds and isinstance(values, Mapping):
                    _check_names(f"faults.{number}: a {kind}", values, names)
        return self

    @model_validator(mode="after")
    def _names_what_there_is(self) -> NodeScenario:
        try:
            if self.workload is not None:
                self.workload.attachments()
        except (OSError, CaxtonError) as error:
            raise ValueError(f"workload: files: {error}") from None
        for placed in self.placed:
            try:
                placed.id()
            except (OSError, CaxtonError) as error:
                raise ValueError(f"placed: {placed.agent} cannot be read: {error}") from None
            for change in placed.changes:
                if change.node not in self.names():
                    raise ValueError(
                        f"placed: {change.node} is no node; they are {self.names()[0]} to {self.names()[-1]}"
                    )
        for deployment in self.agents:
            try:
                if not deployment.is_witness:
                    deployment.read()
            except (OSError, CaxtonError) as error:
                raise ValueError(f"agents: {deployment.agent} cannot be read: {error}") from None
        if unused := UNUSED & self.model_fields_set:
            raise ValueError(f"{min(unused)}: whole nodes have no such key; settings has theirs")
        return self

    @model_validator(mode="before")
    @classmethod
    def _begins_after_the_start(cls, data: Any) -> Any:
        for number, fault in enumerate(data.get("faults", ()) if isinstance(data, Mapping) else ()):
            for kind, values in fault.items() if isinstance(fault, Mapping) else ():
                at_s = values.get("at_s") if isinstance(values, Mapping) else None
                if isinstance(at_s, int | float) and 0 <= at_s < START_S:  # what is negative is told as such
                    raise ValueError(
                        f"faults.{number}: a {kind} at {at_s:g} s; the first {START_S:g} s are the start's"
                    )
        return data


def _check_names(fault: str, values: Mapping[str, Any], names: list[str]) -> None:
    """Refuse what nodes cannot do, and names that are none of theirs."""
    for key in ("moved", "rate"):
        if values.get(key):
            raise ValueError(f"{fault} with {key}; nodes keep their addresses and rates")
    for name in _named(values):
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.5) or [f"{names[0]} to {names[-1]}"]
            raise ValueError(f"{fault} of {name}, which is no node; the nearest is {near[0]}")


def _named(values: Mapping[str, Any]) -> Iterator[str]:
    """The names in a fault; words for nodes are none."""
    groups = [values.get(key) for key in ("members", "sources", "targets")]
    groups += [*(values.get("sides") or ()), *(values.get("pairs") or ())]
    for group in groups:
        if isinstance(group, list | tuple):
            yield from (str(name) for name in group)
