"""Agents that the cluster places itself, in scenarios of whole nodes: what is wanted, and what must hold.

Replicas belong to no node of the scenario; they are deployed by an operator's call on one node, and may be
scaled or withdrawn by calls on others while faults happen. What is wanted in the end is what the nodes
agree on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import trio
from pydantic import BaseModel, ConfigDict, Field

from node.agents.definition import parse_definition
from node.deployments.limits import REPLICAS_LIMIT
from node.deployments.package import Package
from node.deployments.ranking import ranked
from node.deployments.wanted import Wanted
from node.errors import CaxtonError
from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.scopes import Aim, for_agent
from node.samples import sample

if TYPE_CHECKING:
    from simulations.kernel import World
    from simulations.nodes.actions import NodeActions
    from simulations.nodes.properties import SimulatedLedger

ONE_EACH: Final = "always_one_replica_on_a_node"
AS_WANTED: Final = "finally_replicas_are_as_wanted"
MEMORY: Final = "finally_own_memory_follows_the_replica"
REMEMBER_S: Final = 5.0
"""How often something is stored that an agent remembers for itself."""


class Change(BaseModel):
    """Another number of replicas, wanted by an operator on one node.

    Attributes:
        at_s: When.
        node: The node that is told; it is left out if it does not run then.
        replicas: How many; None withdraws the deployment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    at_s: Annotated[float, Field(ge=3)]
    node: str
    replicas: Annotated[int, Field(ge=0, le=REPLICAS_LIMIT)] | None = None


class Placed(BaseModel):
    """An agent that so many nodes shall run.

    Attributes:
        agent: Name of a sample agent.
        artifacts: Files that it names, beside it.
        replicas: By how many nodes.
        remembers: Whether something is stored every five seconds that it remembers for itself, on a node that
            runs it.
        changes: What is wanted later.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    agent: str
    artifacts: tuple[str, ...] = ()
    replicas: Annotated[int, Field(ge=1, le=REPLICAS_LIMIT)]
    remembers: bool = False
    changes: tuple[Change, ...] = ()

    def package(self) -> Package:
        """What is deployed.

        Raises:
            OSError: there is no such sample.
        """
        files = {name: sample(f"agents/{name}").read_bytes() for name in self.artifacts}
        return Package(sample(f"agents/{self.agent}.md").read_bytes(), f"{self.agent}.md", files)

    def id(self) -> str:
        """The id of the agent."""
        return parse_definition(self.package().content, known_tools=()).id


async def place(actions: NodeActions) -> None:
    """Deploy what shall be placed, on the first node that runs, at the start of a run.

    Raises:
        CaxtonError: it cannot be deployed.
    """
    for placed in actions.scenario.placed:
        name, running = next(iter(actions.running.items()))
        await running.node.deployments.deploy(
            placed.package(), Wanted(placed.replicas), by=f"operator@{name}"
        )


def change_later(world: World, nursery: trio.Nursery, actions: NodeActions) -> None:
    """Have operators change what is wanted when the scenario says so."""
    for placed in actions.scenario.placed:
        agent = placed.id()
        for change in placed.changes:
            world.at(change.at_s, partial(nursery.start_soon, _change, world, actions, agent, change))


async def _change(world: World, actions: NodeActions, agent: str, change: Change) -> None:
    running = actions.running.get(change.node)
    if running is None:
        return
    world.record(change.node, f"wants {change.replicas} of {agent}")
    try:
        if change.replicas is None:
            await running.node.deployments.undeploy(agent, by=f"operator@{change.node}")
        else:
            await running.node.deployments.scale(agent, change.replicas, by=f"operator@{change.node}")
    except CaxtonError as error:  # it does not know the deployment, or its disk is sick
        world.record(change.node, f"refused {error.code}")


def remember_later(world: World, nursery: trio.Nursery, ledger: SimulatedLedger) -> None:
    """Store what agents remember for themselves, now and then while faults happen."""
    for placed in ledger.actions.scenario.placed:
        at_s, number = REMEMBER_S, 0
        while placed.remembers and at_s < ledger.actions.scenario.safety_s:
            world.at(at_s, partial(nursery.start_soon, _remember, ledger, placed.id(), f"fact {number}"))
            at_s, number = at_s + REMEMBER_S, number + 1


async def _remember(ledger: SimulatedLedger, agent: str, text: str) -> None:
    where = sorted(replicas_of(ledger.actions, agent))
    if not where or ledger.actions.running[where[0]].paused:
        return
    running = ledger.actions.running[where[0]]
    draft = EntityDraft("facts", "list", (ObservationDraft(text),))
    try:
        store = await running.node.memory.store()
        await store.remember(for_agent(agent), Realm(Scope.AGENT, agent), [draft])
    except CaxtonError:
        return
    if not running.host.fenced:
        ledger.remembered.setdefault(agent, []).append(text)


async def own_memory_follows_the_replica(ledger: SimulatedLedger) -> None:
    """What was stored for an agent alone is where its replica is, and nowhere else, once all nodes are back.

    With several replicas each has its own; of an agent that runs nowhere, it is where it was.
    """
    actions = ledger.actions
    if len(actions.running) < len(actions.machines) or ledger.lost_power:
        return  # it may be on a node that does not run, or was on a disk that is gone
    for agent, texts in sorted(ledger.remembered.items()):
        held = {name: await _remembered(actions, name, agent) for name in sorted(actions.running)}
        ledger.checked(MEMORY)
        lost = set(texts).difference(*held.values())
        if lost:
            ledger.violated(MEMORY, f"what {agent} was told is nowhere: {', '.join(sorted(lost))}")
        where = replicas_of(actions, agent)
        left = [name for name in held if held[name] and name not in where]
        if where and left:
            ledger.violated(MEMORY, f"what {agent} remembers is left on {', '.join(left)}")


async def _remembered(actions: NodeActions, name: str, agent: str) -> set[str]:
    memory = actions.running[name].node.memory
    if not memory.exists:
        return set()
    export = (await memory.file()).export(for_agent(agent), Aim(Scope.AGENT, agent))
    found: set[str] = set()
    while parts := await export.entities():
        found.update(told["text"] for part in parts for told in part.observations)
    return found


def replicas_of(actions: NodeActions, agent: str) -> dict[str, str]:
    """The nodes that really run a replica, and which package."""
    found = {}
    for name, running in actions.running.items():
        digest, status, _ = running.node.supervisor.replicas().get(agent, ("", "", ""))
        if status == "running":
            found[name] = digest
    return found


def one_replica_on_a_node(ledger: SimulatedLedger) -> None:
    """No node runs two agents of one deployment; looked at again and again."""
    if not ledger.actions.scenario.placed:
        return
    for name, running in ledger.actions.running.items():
        digests = [agent.deployment for agent in running.node.supervisor.list() if agent.deployment]
        ledger.checked(ONE_EACH)
        if len(digests) != len(set(digests)):
            ledger.violated(ONE_EACH, f"{name} runs two replicas of one deployment")


async def replicas_are_as_wanted(ledger: SimulatedLedger) -> None:
    """After the heal so many nodes run the wanted package as are wanted, where all agree, and no others."""
    actions = ledger.actions
    running = sorted(actions.running)
    if 2 * len(running) <= len(actions.machines):
        return  # nobody sees a majority
    for placed in actions.scenario.placed:
        agent = placed.id()
        wanted = {name: _wanted(actions, name, agent) for name in running}
        ledger.checked(AS_WANTED)
        if len(set(wanted.values())) != 1:
            ledger.violated(AS_WANTED, f"the nodes do not agree on what is wanted of {agent}: {wanted}")
            continue
        digest, count = wanted[running[0]]
        expected = sorted(ranked(agent, running)[:count])
        found = replicas_of(actions, agent)
        if sorted(found) != expected or any(digest != each for each in found.values()):
            ledger.violated(
                AS_WANTED,
                f"{agent} runs on {', '.join(sorted(found)) or 'no node'}, not on "
                f"{', '.join(expected) or 'none'}, of which {count} are wanted",
            )


def _wanted(actions: NodeActions, name: str, agent: str) -> tuple[str, int]:
    """The package that a node takes for wanted, and how many."""
    deployments = actions.running[name].node.deployments
    found = next((each for each in deployments.all() if each["agent"] == agent), None)
    return ("", 0) if found is None else (found["digest"], found["replicas"])
