"""One run of real nodes: the phases of :mod:`simulations.nodes.run`, in real time, on real processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio

from node.errors import CaxtonError
from simulations.faults import Agents, Fault, Reset, Restart
from simulations.injector import Injector
from simulations.nodes.actions import NoExcuses
from simulations.nodes.knowledge import POLL_S, Knowledge, Truth
from simulations.nodes.measures import measure
from simulations.nodes.properties import CHECKS, SAMPLE_S, Ledger, queues_are_bounded
from simulations.nodes.run import SEEDS
from simulations.nodes.scenario import START_S, NodeScenario
from simulations.nodes.witness import Mood
from simulations.nodes.workload import Clients
from simulations.runner import CRASHED, INTERRUPTED, NOT_LIVE, NOT_SAFE, OK, Result
from simulations.twin.clock import RealTimeline
from simulations.twin.fabric import Fabric
from simulations.twin.machine import Machine, duration_s
from simulations.twin.member import TwinFailed
from simulations.twin.nodes import TwinNodes

MEET_S: Final = 60.0
"""All nodes see each other and all providers within this, in seconds, or nothing is measured."""
SLACK_S: Final = 60.0
"""What a run may take beyond its scenario, its start and its judgement, in seconds."""
PREFIX: Final = "caxton-twin-"
_ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OURS: Final = re.compile(rf"{PREFIX}(\d+)-")


class TwinInjector(Injector):
    """The faults of membership, broken connections and sick agents, done to real processes.

    Args:
        nodes: To whom.
        seeds: Names of the nodes that others join through.
        nursery: Where what takes time goes on.
    """

    def __init__(self, nodes: TwinNodes, seeds: Sequence[str], nursery: trio.Nursery) -> None:
        super().__init__(nodes, NoExcuses(), seeds)
        self._nodes, self._nursery = nodes, nursery

    def heal(self) -> None:
        """End everything that goes wrong, bad moods too."""
        super().heal()
        for name in self._nodes.machines:
            self._nodes.set_mood(name, self._nodes.mood)

    def _apply(self, fault: Fault) -> None:
        if isinstance(fault, Reset):
            everybody = self._nodes.machines
            self._nursery.start_soon(
                self._nodes.fabric.reset, fault.sources or everybody, fault.targets or everybody
            )
            self._note("reset", "connections")
        elif isinstance(fault, Agents):
            self._upset(fault)
        else:
            if isinstance(fault, Restart) and fault.upgrade:
                for name in fault.members:
                    self._nodes.upgrade(name)
            super()._apply(fault)

    def _upset(self, fault: Agents) -> None:
        self._note("agents", f"{','.join(fault.members)} begins")
        for name in fault.members:
            self._nodes.set_mood(name, Mood(fault.takes_s or self._nodes.mood.takes_s, fault.raises))
            if fault.for_s is not None:
                self._later(fault.for_s, self._calm, name)

    def _calm(self, name: str) -> None:
        self._nodes.set_mood(name, self._nodes.mood)
        self._note("agents", f"{name} ends")


class TwinRun:
    """One run of real nodes.

    Args:
        scenario: What is run.
        seed: The plan of faults and what clients ask follow from it; what happens does not.
        plan: The faults.
        machine: What can be done here.
        tell: Is given each line of the trace, with the arguments of :meth:`simulations.trace.Trace.add`.
    """

    def __init__(
        self,
        scenario: NodeScenario,
        seed: int,
        *,
        plan: Sequence[Fault],
        machine: Machine,
        tell: Callable[[int, str, str, str], None] | None = None,
    ) -> None:
        self.scenario, self.seed, self.plan = scenario, seed, tuple(plan)
        self._machine = machine
        self._ledger: Ledger | None = None
        self._timeline = RealTimeline(seed)
        self._timeline.trace.listener = tell
        self._knowledge = Knowledge()
        self._measures: dict[str, Any] = {}
        self._interrupted = False

    def run(self) -> Result:
        """Run to the end, or to Ctrl-C; all processes and files are gone then."""
        result = Result(self.scenario.name, self.seed, plan=self.plan)
        try:
            with _directory() as directory:
                trio.run(self._main, directory)
        except* (TwinFailed, CaxtonError) as group:
            result.code, result.crash = CRASHED, "\n".join(_texts(group))
        return self._complete(result)

    async def _main(self, directory: Path) -> None:
        fabric = Fabric(self.scenario.names(), self._machine)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._end_on_signal, nursery.cancel_scope)
                nodes = TwinNodes(self.scenario, directory, fabric, self._timeline, nursery)
                try:
                    with trio.move_on_after(duration_s(self.scenario) + MEET_S + SLACK_S) as scope:
                        await self._phases(nodes, nursery)
                    if scope.cancelled_caught:
                        raise TwinFailed(f"{self.scenario.name} took {SLACK_S:g} s longer than it says")
                finally:
                    nodes.kill_all()
                nursery.cancel_scope.cancel()
        finally:
            fabric.close()

    async def _end_on_signal(
        self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Let Ctrl-C, SIGTERM and SIGHUP end the run where that is safe, so that all processes are ended."""
        with trio.open_signal_receiver(*_ENDINGS) as signals:
            task_status.started()
            async for _ in signals:
                self._interrupted = True
                scope.cancel()

    async def _phases(self, nodes: TwinNodes, nursery: trio.Nursery) -> None:
        scenario, links, timeline = self.scenario, nodes.links, self._timeline
        links.default = scenario.network.link()
        for near, far in scenario.network.far(scenario.names()):
            links.give(near, far, scenario.network.between.link())
        await nursery.start(nodes.fabric.run)
        await self._start(nodes)
        timeline.begin_at(START_S)
        timeline.record("-", "all see all")
        clients = None if scenario.workload is None else Clients(nodes, scenario.workload)
        ledger = self._ledger = Ledger(nodes, clients, lost_power=nodes.lost_disks)
        injector = TwinInjector(nodes, scenario.names()[:SEEDS], nursery)
        ledger.happened = injector.happened
        injector.plan(self.plan)
        nursery.start_soon(timeline.run)
        async with trio.open_nursery() as watching:
            watching.start_soon(self._sample, nodes, ledger)
            watching.start_soon(self._look, nodes)
            if clients is not None:
                watching.start_soon(clients.run, scenario.safety_s)
            await _until(timeline, scenario.safety_s)
            if scenario.heal:
                injector.heal()
            await _until(timeline, timeline.now() + duration_s(scenario) - scenario.safety_s)
            watching.cancel_scope.cancel()
        await self._judge(nodes, ledger)

    async def _start(self, nodes: TwinNodes) -> None:
        """Start those who are there from the start, and wait until each sees all of them and all providers.

        Raises:
            TwinFailed: they do not meet.
        """
        scenario, names = self.scenario, self.scenario.present()
        async with trio.open_nursery() as starting:
            for number, name in enumerate(names):
                starting.start_soon(nodes.boot, name, names[: min(number, SEEDS)])
        deployed = {name for deployment in scenario.agents for name in deployment.on(scenario.names())}
        providers = deployed.intersection(names)
        with trio.move_on_after(MEET_S):
            for name in names:
                while await nodes.up(name) != set(names) or await nodes.providers(name) != providers:
                    await trio.sleep(POLL_S)
            return
        raise TwinFailed(f"{scenario.name}: the nodes have not met within {MEET_S:g} s")

    async def _sample(self, nodes: TwinNodes, ledger: Ledger) -> None:
        """Measure queues again and again."""
        while True:
            found: dict[str, Mapping[str, Any]] = {}
            await _ask(nodes, nodes.statistics, found)
            for name, statistics in found.items():
                queues_are_bounded(ledger, name, statistics)
            await trio.sleep(SAMPLE_S)

    async def _look(self, nodes: TwinNodes) -> None:
        """See what everybody holds of everybody again and again."""
        timeline, number, began_s = self._timeline, 0, self._timeline.now()
        while True:
            awake = [name for name, node in nodes.running.items() if not node.paused]
            truth = Truth.of(awake, nodes.running.keys() - awake, nodes.machines, nodes.links)
            seen_s = timeline.now()
            views: dict[str, set[str]] = {}
            await _ask(nodes, nodes.up, views)
            self._knowledge.look(truth, views, timeline.now(), seen_s=seen_s)
            number = max(number + 1, int((timeline.now() - began_s) / POLL_S))
            await _until(timeline, began_s + number * POLL_S)

    async def _judge(self, nodes: TwinNodes, ledger: Ledger) -> None:
        self._knowledge.finish()
        nodes.read_executions()
        for check in CHECKS:
            await check(ledger)
        self._measures = await measure(ledger) | self._knowledge.measures()

    def _complete(self, result: Result) -> Result:
        ledger = self._ledger
        if ledger is not None:
            result.violations, result.checks = ledger.violations, ledger.checks
        result.measures = self._measures
        if self._interrupted:
            result.code = INTERRUPTED
        if result.code == OK and result.violations:
            unsafe = any(found.property.startswith("always_") for found in result.violations)
            result.code = NOT_SAFE if unsafe else NOT_LIVE
        result.virtual_s = round(self._timeline.now(), 1)
        result.lines, result.tail = self._timeline.trace.count, self._timeline.trace.tail()
        return result


async def _ask(nodes: TwinNodes, question: Callable[[str], Any], answers: dict[str, Any]) -> None:
    """Ask all who are awake at once; those that do not answer are missing."""

    async def ask(name: str) -> None:
        try:
            answers[name] = await question(name)
        except CaxtonError:  # it has ended, or was stopped, meanwhile
            return

    async with trio.open_nursery() as asking:
        for name, node in nodes.running.items():
            if not node.paused:
                asking.start_soon(ask, name)


async def _until(timeline: RealTimeline, at_s: float) -> None:
    await trio.sleep(max(0.0, at_s - timeline.now()))


@contextmanager
def _directory() -> Iterator[Path]:
    """A private directory; those of runs whose process has ended without removing its own go first."""
    above = Path(tempfile.gettempdir())
    for left in above.glob(f"{PREFIX}*"):
        match = _OURS.match(left.name)
        if match and not Path(f"/proc/{match[1]}").exists() and left.lstat().st_uid == os.geteuid():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _texts(group: BaseExceptionGroup[Exception]) -> Iterator[str]:
    """What the errors in a group say, however deep, each once."""
    seen: set[str] = set()
    for error in group.exceptions:
        texts = _texts(error) if isinstance(error, BaseExceptionGroup) else [str(error)]
        for text in texts:
            if text not in seen:
                seen.add(text)
                yield text
