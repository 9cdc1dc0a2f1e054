"""The deployments of the cluster on this node: writes what is desired, and does what is decided.

What is decided comes from :mod:`node.deployments.placing`; here are the maps, the packages and the
supervisor. A package is a blob: it is fetched from any node that says that it holds it, over the links'
questions, and counts once it has its digest; its signature is judged as that of any agent that is
deployed here.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import trio

from node.agents.blueprint import Blueprint
from node.config.model import PlacementConfig
from node.deployments import facts, package
from node.deployments.desired import NAME_LIMIT, SHORT, Desired, decode
from node.deployments.facts import NodeFacts, Report
from node.deployments.handover import Handovers
from node.deployments.package import Package
from node.deployments.placing import Effect, Own, Placing, Start, Stop, View
from node.deployments.ports import Agents, Cluster, Packages
from node.deployments.ranking import Plan, ranked
from node.deployments.shown import shown
from node.deployments.state import Maps, Said
from node.deployments.wanted import Wanted, map_refusals
from node.environment import Environment
from node.errors import (
    BlobNotFound,
    CaxtonError,
    DeploymentConflict,
    DeploymentNotFound,
    ResourceLimitExceeded,
    ValidationFailed,
    nearest,
)
from node.labels import Labels
from node.memory.room import MemoryRoom
from node.message import Attachment
from swim.map_events import MapEvent
from swim.publisher import StateError

log = logging.getLogger(__name__)

DEPLOYMENTS_LIMIT: Final = 500
"""Most deployments of a cluster."""
GATHER_S: Final = 0.05
"""So long changes are gathered before they are judged, in seconds."""
LOOK_S: Final = 2.0
"""How often it is looked whether the side of a partition is another, in seconds."""
FETCH_S: Final = 10.0
"""Longest that one holder is asked for a package before the next is, in seconds; what came of it stays."""
HANDOVER_S: Final = 1.0
"""How often it is looked whether a memory belongs elsewhere, in seconds."""
AT_ONCE: Final = 4
"""Most replicas that are started, fetched or stopped at the same time."""
FAILED: Final = "AGENT_FAILED"
"""The code of a replica that has failed while it ran."""


class Deployments:
    """See the module's docstring.

    Args:
        environment: Time.
        node: This node's name.
        maps: The replicated maps.
        cluster: Who is there.
        agents: Runs replicas.
        packages: Where packages are.
        memory: What agents remember here.
        settings: Section ``cluster.placement``.
        labels: What deployments may require of this node.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        node: str,
        maps: Maps,
        cluster: Cluster,
        agents: Agents,
        packages: Packages,
        memory: MemoryRoom,
        settings: PlacementConfig,
        labels: Labels = (),
    ) -> None:
        self._clock, self._node, self._maps, self._cluster = environment.clock, node, maps, cluster
        self._agents, self._packages, self._settings = agents, packages, settings
        self._facts = NodeFacts(labels, settings.enabled)
        self._said, self._core = Said(maps), Placing(node, settings.settle_s)
        self._held: dict[str, str] = {}
        self._looked: dict[str, str] = {}
        self._published: dict[str, Report] = {}
        self._wake, self._stirred = trio.Event(), trio.Event()
        self._turn = trio.Lock()
        self._limit = trio.CapacityLimiter(AT_ONCE)
        self._unpublished = 0
        self._handovers = Handovers(
            clock=self._clock,
            node=node,
            memory=memory,
            packages=packages,
            said=self._said,
            where=self,
            publish=self._publish,
        )
        cluster.watchers.append(self._changed)
        packages.also_needed = self._needed

    # For operators

    async def deploy(
        self, found: Package, wanted: Wanted, *, by: str, replace: bool = False, based_on: int | None = None
    ) -> dict[str, Any]:
        """Have an agent run by so many nodes of the cluster; returns what is shown of it.

        Args:
            found: The agent.
            wanted: How it shall be run.
            by: Who wants it.
            replace: Whether it may take the place of an earlier deployment of that agent.
            based_on: Revision of the deployment that was read before; another one is refused.

        Raises:
            CaxtonError: the agent cannot be deployed on this node; as :meth:`AgentSupervisor.deploy` says.
            DeploymentConflict: there is one, or another one than was read; or an agent here has its id.
            ResourceLimitExceeded: there are too many, or there is no room.
            StorageFailed: it may be lost if this node ends now.
        """
        wanted.check()
        blueprint = await self._examined(found)
        definition = blueprint.definition
        data = found.encode()
        async with self._turn:
            old = self._said.desired.get(definition.id)
            if old is not None and not replace:
                raise DeploymentConflict(
                    f"there is already a deployment of {definition.id!r}",
                    why=f"version {old.version}, {old.replicas} replicas",
                    fix="Replace it explicitly (--replace), or give this one another name.",
                )
            here = self._agents.knows(definition.id) and definition.id not in self._agents.replicas()
            if old is None and here:
                raise DeploymentConflict(
                    f"an agent {definition.id!r} was deployed on this node alone",
                    why="a deployment of the cluster would run a second one beside it",
                    fix="Delete that one first, or give this one another name.",
                )
            if old is None and len(self._said.desired) >= DEPLOYMENTS_LIMIT:
                raise ResourceLimitExceeded(
                    "the cluster has too many deployments", why=f"at most {DEPLOYMENTS_LIMIT} are kept"
                )
            digest = await self._packages.keep(data)
            self._held[definition.id] = self._looked[definition.id] = _short(digest)
            desired = Desired(
                definition.id, definition.name, definition.version, digest, len(data), wanted.replicas,
                wanted.requires, wanted.priority, wanted.minority, by,
            )  # fmt: skip
            await self._write(desired, based_on)
        return self.get(definition.id)

    async def scale(
        self, agent: str, replicas: int, *, by: str, based_on: int | None = None
    ) -> dict[str, Any]:
        """Have another number of replicas.

        Raises:
            DeploymentNotFound: there is no such deployment.
            DeploymentConflict: it is another one than was read.
            ValidationFailed: the number cannot be.
            StorageFailed: it may be lost if this node ends now.
        """
        Wanted(replicas).check()
        async with self._turn:
            desired = self._find(agent)
            await self._write(dataclasses.replace(desired, replicas=replicas, by=by), based_on)
        return self.get(desired.agent)

    async def undeploy(self, agent: str, *, by: str, based_on: int | None = None) -> None:
        """Have no replica any more, and forget the deployment.

        Raises:
            DeploymentNotFound: there is no such deployment.
            DeploymentConflict: it is another one than was read.
            StorageFailed: it may be lost if this node ends now.
        """
        async with self._turn:
            desired = self._find(agent)
            self._check_base(desired.key, based_on)
            with map_refusals():
                self._maps.cluster_delete(desired.key, self._clock.wall(), based_on)
            log.info("%s wants no %s any more", by, desired.agent)
            await self._written()

    def get(self, agent: str) -> dict[str, Any]:
        """One deployment.

        Raises:
            DeploymentNotFound: there is none of that agent.
        """
        return self._shown(self._find(agent), self._view())

    def all(self) -> Sequence[dict[str, Any]]:
        """All deployments, by agent."""
        view = self._view()
        return [self._shown(desired, view) for _, desired in sorted(self._said.desired.items())]

    def nodes(self) -> Sequence[dict[str, Any]]:
        """Who takes replicas, by name, and with which labels."""
        known = self._view().facts
        return [
            {
                "node": node,
                "takes": node in known and known[node].takes,
                "labels": [f"{name}={value}" for name, value in known[node].labels] if node in known else [],
            }
            for node in self._cluster.alive_nodes()
        ]

    def statistics(self) -> dict[str, Any]:
        """Counts of what was done, and sizes."""
        return {
            **self._core.statistics(),
            "deployments_limit": DEPLOYMENTS_LIMIT,
            "malformed": self._said.malformed,
            "unpublished": self._unpublished,
            "memories": self._handovers.statistics(),
        }

    # As a room

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what is decided until cancelled."""
        self._publish({facts.NODE_KEY: self._facts.encode()})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hand_over)
            task_status.started()
            while True:
                await self._look_for_packages()
                self._judge(nursery)
                await self._await_something()

    def node_alive(self, node: str) -> None:
        """Somebody has come."""
        del node
        self._wake.set()

    node_died = node_left = node_alive

    def registry_changed(self) -> None:
        """Nothing to do: what counts here is told by the watcher."""

    def end(self) -> None:
        """This node ends: its replicas belong elsewhere from now on."""
        self._facts = dataclasses.replace(self._facts, takes=False)
        self._publish({facts.NODE_KEY: self._facts.encode()})

    # For handovers

    def taker(self, agent: str) -> str:
        """The node that the memory of an agent belongs to, if it runs there and not here; else empty."""
        node, reports = self._core.successor(agent), self._said.reports.get(agent, {})
        runs = node in reports and bool(reports[node].runs)
        return node if runs and self.is_up(node) and not self._agents.knows(agent) else ""

    def is_chosen(self, agent: str) -> bool:
        """Whether this node is to run the agent."""
        return self._node in self._core.plans.get(agent, Plan()).chosen

    def is_up(self, node: str) -> bool:
        """Whether a node is up."""
        return node in self._cluster.alive_nodes()

    async def _hand_over(self) -> None:
        """Move memories to where their agents are, one after the other."""
        while True:
            if not self._said.desired and not self._said.offers:
                await self._stirred.wait()
            while await self._handovers.step():
                pass
            await self._clock.sleep(HANDOVER_S)

    def _needed(self) -> set[str]:
        return {desired.digest for desired in self._said.desired.values()} | self._handovers.needed()

    async def _await_something(self) -> None:
        due = self._core.next_timer()
        idle = not self._said.desired and not self._agents.replicas()
        look = math.inf if idle else self._clock.now() + LOOK_S
        wait_s = min(look, math.inf if due is None or idle else due) - self._clock.now()
        with self._clock.move_on_after(max(0.0, wait_s)):
            await self._wake.wait()
        self._wake = trio.Event()
        await self._clock.sleep(GATHER_S)

    def _changed(self, events: Sequence[MapEvent]) -> None:
        if self._said.apply(events):
            self._wake.set()
            self._stirred.set()
            if not self._said.desired and not self._said.offers:
                self._stirred = trio.Event()

    def _judge(self, nursery: trio.Nursery) -> None:
        self._core.receive(self._view(), self._clock.now())
        for effect in self._core.effects():
            nursery.start_soon(self._carry_out, effect)
        self._tell()

    def _view(self) -> View:
        side, own, up = self._cluster.partition(), {}, frozenset(self._cluster.alive_nodes())
        for agent, (digest, status, _) in self._agents.replicas().items():
            own[agent] = Own(_short(digest), status, FAILED if status == "error" else "")
        others = {
            agent: {node: report for node, report in reports.items() if node != self._node}
            for agent, reports in self._said.reports.items()
        }
        return View(
            up=up,
            remembered=side.remembered,
            side=side.side,
            joined=self._cluster.joined or len(up) > 1,
            facts={**self._said.facts, self._node: self._facts},
            desired=self._said.desired,
            withdrawn=frozenset(agent for agent in own if self._said.is_withdrawn(agent)),
            reports=others,
            own=own,
            held=self._held,
        )

    # Doing

    async def _carry_out(self, effect: Effect) -> None:
        agent = effect.agent if isinstance(effect, Stop) else effect.desired.agent
        failed, missing = "", False
        async with self._limit:
            try:
                if isinstance(effect, Stop):
                    log.info("the replica of %s stops: %s", agent, effect.why)
                    await self._agents.delete(agent, grace_s=self._settings.drain_s, replica=True)
                    self._handovers.ran(agent)
                elif isinstance(effect, Start):
                    missing = not await self._start(effect.desired)
                else:
                    missing = not await self._have(effect.desired)
            except CaxtonError as error:
                log.warning("the deployment of %s does not come to be here: %s", agent, error)
                failed = error.code
        self._core.finished(agent, self._clock.now(), failed=failed, missing=missing)
        self._wake.set()

    async def _start(self, desired: Desired) -> bool:
        """Run a package; False when it cannot be had."""
        digest, status, _ = self._agents.replicas().get(desired.agent, ("", "", ""))
        if digest == desired.digest and status in ("waiting", "error"):
            await self._agents.start(desired.agent)
            return True
        if not await self._have(desired):
            return False
        data = await self._packages.content(desired.digest)
        if data is None:
            return False
        found = package.decode(data)
        blueprint = await self._examined(found)
        if blueprint.definition.id != desired.agent:
            raise ValidationFailed(
                f"the package is not of {desired.agent!r}", why=f"it is of {blueprint.definition.id!r}"
            )
        await self._agents.deploy(
            found.content,
            filename=found.filename,
            artifacts=found.files,
            name=found.name,
            workspace=found.workspace,
            deployment=desired.digest,
        )
        return True

    async def _examined(self, found: Package) -> Blueprint:
        return await self._agents.examine(
            found.content, found.filename, found.files, found.name, found.workspace
        )

    async def _have(self, desired: Desired) -> bool:
        """Have a package here, from whoever holds it; False when nobody gives it."""
        if self._held.get(desired.agent) == desired.short:
            return True
        reports = self._said.reports.get(desired.agent, {})
        up = self._cluster.alive_nodes()
        holders = [n for n in up if n in reports and reports[n].holds == desired.short and n != self._node]
        wanted = Attachment(desired.agent, "application/cbor", b"", blob=desired.digest, size=desired.size)
        for holder in ranked(desired.agent, holders):
            try:
                with self._clock.move_on_after(FETCH_S):
                    await self._packages.fetch(holder, wanted)
                    self._held[desired.agent] = desired.short
                    return True
            except BlobNotFound as error:
                log.warning("%s does not give the package of %s: %s", holder, desired.agent, error)
        return False

    async def _look_for_packages(self) -> None:
        """Know which packages are here, after a start and for those that are new."""
        for agent in sorted(self._looked.keys() - self._said.desired.keys()):
            del self._looked[agent]
            self._held.pop(agent, None)
        for agent, desired in sorted(self._said.desired.items()):
            if self._looked.get(agent) == desired.short:
                continue
            self._looked[agent] = desired.short
            try:
                is_here = await self._packages.is_here(desired.digest)
            except CaxtonError as error:
                log.warning("it cannot be told whether the package of %s is here: %s", agent, error)
                continue
            if is_here:
                self._held[agent] = desired.short

    # Telling

    def _tell(self) -> None:
        """Say what has become of each deployment here, where that has changed."""
        empty, changes = Report(), dict[str, bytes | None]()
        for agent in sorted(self._said.desired.keys() | self._published.keys()):
            report = self._core.report(agent) if agent in self._said.desired else empty
            if report == self._published.get(agent, empty):
                continue
            changes[facts.REPLICA_PREFIX + agent] = None if report == empty else report.encode()
            if report == empty:
                self._published.pop(agent, None)
            else:
                self._published[agent] = report
        self._publish(changes)

    def _publish(self, changes: Mapping[str, bytes | None]) -> None:
        if not changes:
            return
        try:
            self._maps.put_many(changes, self._clock.wall())
        except StateError as error:
            self._unpublished += 1
            log.warning("the cluster cannot be told of replicas on this node: %s", error)
            return
        self._cluster.flush()

    async def _write(self, desired: Desired, based_on: int | None) -> None:
        self._check_base(desired.key, based_on)
        value = desired.encode()
        if decode(desired.key, value) != desired:  # nobody would take it for a deployment
            raise ValidationFailed(
                "the deployment cannot be told to the cluster",
                why=f"its name, version and author are texts of 1 to {NAME_LIMIT} characters",
            )
        with map_refusals():
            self._maps.cluster_put(desired.key, value, self._clock.wall(), based_on)
        log.info("%s wants %d of %s %s", desired.by, desired.replicas, desired.agent, desired.version)
        await self._written()

    async def _written(self) -> None:
        self._cluster.flush()
        self._wake.set()
        await self._cluster.save()

    def _check_base(self, key: str, based_on: int | None) -> None:
        stamp = self._maps.cluster_stamp(key)
        if based_on is not None and based_on != stamp:
            raise DeploymentConflict(
                "the deployment has changed since it was read",
                why=f"its revision is {stamp}, not {based_on}",
                fix="Read it again, and decide anew.",
                details={"revision": str(stamp)},
            )

    def _find(self, agent: str) -> Desired:
        known = self._said.desired
        found = known.get(agent) or next((d for d in known.values() if d.name == agent), None)
        if found is None:
            guess = nearest(agent[:80], [*known, *(d.name for d in known.values())])
            raise DeploymentNotFound(
                f"there is no deployment of {agent[:80]!r}",
                why="as far as this node knows, the cluster runs no agent of that id or name",
                fix=f"Did you mean {guess!r}?" if guess else "List them with `caxton deployments`.",
            )
        return found

    def _shown(self, desired: Desired, view: View) -> dict[str, Any]:
        conflicts = self._maps.conflicts(desired.key)
        found = shown(desired, self._core, view, self._maps.cluster_stamp(desired.key), conflicts)
        return found | {"memories": self._handovers.shown(desired.agent)}


def _short(digest: str) -> str:
    return digest[:SHORT]
