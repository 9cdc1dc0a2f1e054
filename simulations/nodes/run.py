"""One run of whole nodes: a scenario and a seed in, a result out; the phases are those of membership."""

from __future__ import annotations

import gc
import logging
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO

import trio

from node.errors import CaxtonError
from simulations import kernel, production
from simulations.cluster import SimulatedCluster
from simulations.faults import Churn, Crash, Fault, Jump, Starve
from simulations.kernel import World
from simulations.leap import MOST_LEAP_ATTEMPTS, SKIPPED_US, NotQuiet, check_jump
from simulations.nodes.actions import NodeActions, NodeInjector
from simulations.nodes.credit import credit_is_kept
from simulations.nodes.knowledge import POLL_S as LOOK_S
from simulations.nodes.knowledge import Knowledge, Truth
from simulations.nodes.measures import measure
from simulations.nodes.memories import Rememberers
from simulations.nodes.placing import (
    change_later,
    one_replica_on_a_node,
    place,
    remember_later,
)
from simulations.nodes.properties import (
    CHECKS,
    INSIDE,
    SAMPLE_S,
    SimulatedLedger,
    queues_are_bounded,
)
from simulations.nodes.scenario import START_S, NodeScenario
from simulations.nodes.sometimes import met
from simulations.nodes.workload import Clients
from simulations.runner import CRASHED, INTERRUPTED, NOT_LIVE, NOT_SAFE, OK, Result
from simulations.scenario import ScenarioError
from simulations.timeline import US_PER_S

LIMIT_S: Final = 30 * 86_400.0
SEEDS: Final = 2
"""How many nodes, the first by name, are the seeds of all others."""
POLL_S: Final = 0.05
COLLECT_AFTER: Final = (50_000, 20, 50)
"""Thresholds of the garbage collector during a run, which makes few cycles and many objects."""

# What nodes log is said in their own time and place; whoever wants to see it gives the logger a handler.
logging.getLogger("node").addHandler(logging.NullHandler())


class NodeRun:
    """One run of whole nodes.

    Args:
        scenario: What is run.
        seed: Everything random follows from it.
        plan: The faults, if they shall be others than those that follow from the seed.
        sink: Where the trace is written.
        identities: Of members; nodes have their own.
        observe: Is given the ledger of the run before anything happens, to watch it.
    """

    def __init__(
        self,
        scenario: NodeScenario,
        seed: int,
        *,
        plan: Sequence[Fault] | None = None,
        sink: TextIO | None = None,
        identities: object = None,
        observe: Callable[[SimulatedLedger], None] | None = None,
    ) -> None:
        del identities
        self.scenario, self.seed = scenario, seed
        self.plan = scenario.plan(seed) if plan is None else tuple(plan)
        self._sink, self._observe = sink, observe
        self._world: World | None = None
        self._ledger: SimulatedLedger | None = None
        self._measures: dict[str, Any] = {}
        self._knowledge = Knowledge()
        self._cannot_start: CaxtonError | None = None

    def run(self) -> Result:
        """Run to the end, or to Ctrl-C.

        Raises:
            ScenarioError: a node cannot start as the scenario wants it, with its agents.
        """
        result = Result(self.scenario.name, self.seed, plan=self.plan)
        with tempfile.TemporaryDirectory(prefix="caxton-simulation-") as directory, _collecting_less():

            async def main(world: World) -> None:
                self._world = world
                async with trio.open_nursery() as nursery:
                    await self._phases(world, Path(directory), nursery)
                    nursery.cancel_scope.cancel()

            try:
                kernel.run(main, self.seed, limit_s=LIMIT_S, sink=self._sink)
            except BaseException as error:
                if _is_interrupt(error):
                    result.code = INTERRUPTED
                    return self._complete(result)
                if not isinstance(error, Exception):
                    raise
                if self._cannot_start is not None:
                    raise ScenarioError(f"{self.scenario.name}: {self._cannot_start}") from None
                result.crash = traceback.format_exc()
                result.code = CRASHED
        return self._complete(result)

    def model_failures(self) -> dict[str, int]:
        """How often language models failed in which way, all nodes together."""
        weathers = self._ledger.actions.weathers.values() if self._ledger is not None else ()
        return dict(sum((weather.counts for weather in weathers), Counter()))

    async def _phases(self, world: World, directory: Path, nursery: trio.Nursery) -> None:
        scenario = self.scenario
        cluster = SimulatedCluster(world, directory, nursery)
        actions = NodeActions(cluster, nursery, scenario)
        cluster.network.links.default = scenario.network.link()
        for near, far in scenario.network.far(scenario.names()):
            cluster.network.links.give(near, far, scenario.network.between.link())
        clients = None if scenario.workload is None else Clients(actions, scenario.workload)
        rememberers = None if scenario.memory is None else Rememberers(actions, scenario.memory)
        ledger = self._ledger = SimulatedLedger(
            actions, clients, actions.lost_disks, actions=actions, rememberers=rememberers, plan=self.plan
        )
        if self._observe is not None:
            self._observe(ledger)
        await self._start(actions)
        injector = NodeInjector(actions, scenario.names()[:SEEDS])
        ledger.happened = injector.happened
        injector.plan(self.plan)
        self._note_losses(world, ledger)
        self._sample(world, ledger)
        self._look(world, actions)
        change_later(world, nursery, actions)
        remember_later(world, nursery, ledger)
        if clients is not None:
            nursery.start_soon(clients.run, scenario.safety_s)
        if rememberers is not None:
            nursery.start_soon(rememberers.run, scenario.safety_s)
        for jump in self.plan:
            if isinstance(jump, Jump) and jump.at_s < scenario.safety_s:
                await _until(world, jump.at_s)
                await self._jump(world, actions, jump)
        await _until(world, scenario.safety_s)
        if scenario.heal:
            injector.heal()
        bounds = scenario.bounds
        patience_s = 0.0 if scenario.workload is None else scenario.workload.reply_within_s
        await _until(world, world.now() + max(bounds.converge_s, patience_s, scenario.settled_s))
        for check in CHECKS:
            await check(ledger)
        for inside in INSIDE:
            await inside(ledger)
        self._knowledge.finish()
        self._measures = await measure(ledger) | self._knowledge.measures()
        if rememberers is not None:
            self._measures |= rememberers.measures()

    async def _start(self, actions: NodeActions) -> None:
        """Start those who are there from the start, and wait until each sees all providers."""
        world, scenario, names = actions.timeline, self.scenario, self.scenario.present()
        for number, name in enumerate(names):
            try:
                await actions.boot(name, names[: min(number, SEEDS)])
            except CaxtonError as error:
                self._cannot_start = error
                raise
        await place(actions)
        deployed = {name for deployment in scenario.agents for name in deployment.on(scenario.names())}
        providers = deployed.intersection(names)
        capability = "" if scenario.workload is None else scenario.workload.capability
        while capability and world.now() < START_S:
            seen = [node.node.membership.registry.providers(capability) for node in actions.live()]
            if all({provider.node for provider in found} == providers for found in seen):
                break
            await _until(world, world.now() + POLL_S)
        await _until(world, START_S)

    async def _jump(self, world: World, actions: NodeActions, jump: Jump) -> None:
        """Leap as soon as all is quiet: nobody who is awake suspects anybody."""
        check_jump(jump, self.plan, unquiet=(Starve, Churn))
        for _ in range(MOST_LEAP_ATTEMPTS):
            awake = [node.node.membership.swim for node in actions.live() if not node.paused]
            if not any(swim.statistics()[production.SUSPECTED] for swim in awake):
                break
            await _until(world, world.now() + 1.0)
        else:
            raise NotQuiet(f"a jump from {jump.at_s:g} s: it did not become quiet")
        to_us = round(jump.to_s * US_PER_S)
        skipped_s = jump.to_s - world.now()
        world.record("-", f"fault jump {to_us}")
        world.leap(to_us, to_us + SKIPPED_US)
        for swim in awake:
            production.skipped(swim, skipped_s)

    def _sample(self, world: World, ledger: SimulatedLedger) -> None:
        """Measure queues now and from now on."""
        for life in ledger.actions.running.values():
            queues_are_bounded(ledger, life.name, ledger.statistics(life))
            credit_is_kept(ledger, life)
        one_replica_on_a_node(ledger)
        world.at(world.now() + SAMPLE_S, partial(self._sample, world, ledger))

    def _look(self, world: World, actions: NodeActions) -> None:
        """See what everybody holds of everybody now and from now on."""
        awake = [name for name, node in actions.running.items() if not node.paused]
        truth = Truth.of(awake, actions.running.keys() - awake, actions.machines, actions.links)
        self._knowledge.look(truth, {name: actions.seen_up(name) for name in awake}, world.now())
        world.at(world.now() + LOOK_S, partial(self._look, world, actions))

    def _note_losses(self, world: World, ledger: SimulatedLedger) -> None:
        """Note which lives end without what is not durable, by the loss of power: just before they do."""
        is_durable = self.scenario.is_durable

        def note(names: Sequence[str]) -> None:
            for name in names:
                if name in ledger.actions.running:
                    ledger.lost_power.add((name, ledger.actions.cluster.boot_of(name)))

        for fault in self.plan:
            if isinstance(fault, Crash) and fault.power and not is_durable:
                world.at_us(round(fault.at_s * US_PER_S) - 1, note, fault.members)

    def _complete(self, result: Result) -> Result:
        ledger, world = self._ledger, self._world
        if ledger is not None:
            result.violations = ledger.violations
            result.checks = ledger.checks
            result.sometimes = met(ledger)
            result.measures = self._measures
        if result.code == OK and result.violations:
            unsafe = any(found.property.startswith("always_") for found in result.violations)
            result.code = NOT_SAFE if unsafe else NOT_LIVE
        if world is not None:
            result.virtual_s = world.now()
            result.digest, result.lines = world.trace.digest(), world.trace.count
            result.tail = world.trace.tail()[-200:]
        return result


def _is_interrupt(error: BaseException) -> bool:
    """Whether it is Ctrl-C, which comes out of nurseries in groups."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)


async def _until(world: World, at_s: float) -> None:
    over = trio.Event()
    world.at(at_s, over.set)
    await over.wait()


@contextmanager
def _collecting_less() -> Iterator[None]:
    """Let the garbage collector look less often, and not at what was there before."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
