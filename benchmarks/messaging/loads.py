"""Loads on a node that sends, and what they measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from benchmarks.messaging.metronome import metronome
from benchmarks.report import percentile
from node.errors import CaxtonError
from node.message import Message
from node.node import Node
from node.vocabulary import Performative, RoutingStrategy

CAPABILITY: Final = "echo"
"""What the requests ask for; the sample agent in WebAssembly offers it too."""
SINK: Final = "sink"
"""What messages ask for that want no answer."""
PAYLOAD: Final = "x" * 200
BATCH: Final = 100
"""Messages accepted in one write, one way."""
AT_ONCE: Final = 1_000
"""Most messages that are accepted at once where a rate is to be kept."""
BEAT_S: Final = 0.0005
"""How often messages of such a rate are offered, in seconds."""
REQUEST_TIMEOUT_S: Final = 30.0
READY_S: Final = 180.0


@dataclass(slots=True)
class Load:
    """What one load has measured; latencies in seconds.

    Args:
        name: What the table calls it.
        setting: How much of it.
        seconds: How long it lasted.
        latencies: Of requests, each until its answer.
        failures: What was refused, or not answered.
        settled: Messages that want no answer and ended meanwhile.
        drained: Those that ended after it.
    """

    name: str
    setting: str
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failures: int = 0
    settled: int = 0
    drained: int = 0

    def as_row(self) -> dict[str, Any]:
        """The raw figures."""
        times = self.latencies or [float("nan")]
        done = self.settled or len(self.latencies)
        return {
            "load": self.name,
            "setting": self.setting,
            "seconds": round(self.seconds, 3),
            "ended": done,
            "failed": self.failures,
            "per_s": round(done / self.seconds, 1),
            "p50_ms": round(1000 * percentile(times, 0.50), 3),
            "p99_ms": round(1000 * percentile(times, 0.99), 3),
            "max_ms": round(1000 * max(times), 3),
        }


class Ends:
    """The moments at which messages have ended.

    Args:
        expected: How many there will be.
    """

    def __init__(self, expected: int) -> None:
        self.expected, self.moments, self.all = expected, list[float](), trio.Event()

    def note(self, messages: int) -> None:
        """So many have ended now."""
        self.moments += [time.perf_counter()] * messages
        self.expect_fewer(0)

    def expect_fewer(self, messages: int) -> None:
        """So many will not end: they were refused."""
        self.expected -= messages
        if len(self.moments) >= self.expected:
            self.all.set()


class Origin:
    """The node that sends, and the load on it.

    Args:
        node: It runs in this process.
        payload: The text in every message.
        strategy: How providers are chosen.
    """

    def __init__(
        self,
        node: Node,
        *,
        payload: str = PAYLOAD,
        strategy: RoutingStrategy = RoutingStrategy.BEST_MATCH,
    ) -> None:
        self._node, self._payload, self._strategy = node, payload, strategy
        self._environment = node.environment

    async def closed(self, name: str, *, in_flight: int, duration_s: float) -> Load:
        """Keep ``in_flight`` requests on their way for ``duration_s``."""
        load = Load(name, f"{in_flight} in flight")
        began = time.perf_counter()
        end = began + duration_s

        async def one_after_the_other() -> None:
            while time.perf_counter() < end:
                await self._one(load, time.perf_counter())

        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(one_after_the_other)
        load.seconds = time.perf_counter() - began
        return load

    async def at_rate(self, name: str, *, per_s: float, duration_s: float) -> Load:
        """Send ``per_s`` requests a second, whether the ones before are answered or not."""
        load = Load(name, f"{per_s:g} per second")
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(int(per_s * duration_s)):
                due = began + number / per_s
                await trio.sleep(max(0.0, due - time.perf_counter()))
                nursery.start_soon(self._one, load, due)
        load.seconds = time.perf_counter() - began
        return load

    async def one_way(self, name: str, *, window: int, duration_s: float, batch: int = BATCH) -> Load:
        """Have ``window`` messages on their way that want no answer, for ``duration_s``."""
        load = Load(name, f"{window} open, {batch} at a time")
        bus = self._node.bus
        before = self._settled()
        began = time.perf_counter()
        while time.perf_counter() < began + duration_s:
            if self._open() + batch > window:
                await trio.sleep(0.001)
                continue
            accepted = await bus.accept_many([self._message(SINK) for _ in range(batch)])
            load.failures += sum(isinstance(each, CaxtonError) for each in accepted)
        load.seconds, load.settled = time.perf_counter() - began, self._settled() - before
        while self._open():
            await trio.sleep(0.01)
        load.drained = self._settled() - before - load.settled
        return load

    async def one_way_at_rate(self, name: str, *, per_s: float, duration_s: float) -> Load:
        """Send ``per_s`` messages a second that want no answer; a latency is from when one is due to its end.

        What is due is offered every half millisecond, in one call, as a gateway does for many clients.
        Messages end in about the order in which they were accepted, so the n-th end is counted as that of the
        n-th message. It is when its write is done that a message has ended.
        """
        load = Load(name, f"{per_s:g} per second")
        bus = self._node.bus
        while self._open():  # else ends of before are taken for ends of these
            await trio.sleep(0.01)
        total, sent = int(per_s * duration_s), 0
        with self._ends(total) as ends, metronome(BEAT_S) as beats:
            began = time.perf_counter()
            while sent < total:
                await beats.beat()
                due = min(total, int((time.perf_counter() - began) * per_s) + 1) - sent
                messages = [self._message(SINK) for _ in range(min(due, AT_ONCE))]
                accepted = await bus.accept_many(messages)
                refused = sum(isinstance(each, CaxtonError) for each in accepted)
                load.failures += refused
                ends.expect_fewer(refused)
                sent += len(messages)
            await ends.all.wait()
        load.latencies = [at - began - n / per_s for n, at in enumerate(ends.moments)]
        load.seconds = time.perf_counter() - began
        return load

    @contextmanager
    def _ends(self, expected: int) -> Iterator[Ends]:
        """When messages of this node end, inside a context: nothing tells it but the parts of the bus."""
        ends = Ends(expected)
        drain = self._node.bus._outbox._drain  # noqa: SLF001 - a watcher of its own would be a part of the load
        ended = drain.ended

        def noted(messages: int, now: float) -> None:
            ended(messages, now)
            ends.note(messages)

        drain.ended = noted  # type: ignore[method-assign]
        try:
            yield ends
        finally:
            drain.ended = ended  # type: ignore[method-assign]

    def _open(self) -> int:
        outbox = self._node.bus._outbox  # noqa: SLF001 - to count all else would be a thirtieth of the load
        return outbox._core.open_count  # noqa: SLF001 - the same

    def _settled(self) -> int:
        outbox = self._node.bus._outbox  # noqa: SLF001 - what all parts of the bus count would be half of the load
        return int(outbox.statistics()["settled"])

    async def wait_for_provider(self, providers: int = 1) -> None:
        """Return when a request is answered: membership, registry and link are there.

        Raises:
            trio.TooSlowError: none was within :data:`READY_S`.
        """
        with trio.fail_after(READY_S):
            while len(self._node.membership.registry.providers(CAPABILITY)) < providers:
                await trio.sleep(0.05)
            await self._node.bus.request(self._message(), timeout_s=READY_S)

    async def _one(self, load: Load, since: float) -> None:
        try:
            reply = await self._node.bus.request(self._message(), timeout_s=REQUEST_TIMEOUT_S)
        except CaxtonError:
            load.failures += 1
            return
        if reply.performative is Performative.INFORM:
            load.latencies.append(time.perf_counter() - since)
        else:
            load.failures += 1

    def _message(self, capability: str = CAPABILITY) -> Message:
        identifier = self._environment.new_id()
        return Message(
            id=identifier,
            performative=Performative.REQUEST if capability == CAPABILITY else Performative.INFORM,
            sender=f"client@{self._node.name}",
            capability=capability,
            content={"text": self._payload},
            routing_strategy=self._strategy,
            conversation_id=identifier,
            reply_with=identifier,
            timestamp_s=self._environment.clock.wall(),
        )
