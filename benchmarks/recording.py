"""What it costs a node to record its cores, and how much a recording grows.

    .venv/bin/python -m benchmarks.recording

The same inputs go into production cores that are recorded and into some that are not, alternately in one
process; each figure is the median of several rounds, in processor time, because such machines are shared.
Without `--record` the cores are the very objects that
they are without this feature: nothing is called in between.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.report import machine, write
from node.cluster.provider import ClusterView, Provider
from node.config.model import MessagingConfig
from node.message import Message
from node.messaging.deliveries import Deliveries, Surroundings
from node.messaging.recording import record_deliveries
from node.messaging.settings import Timing
from node.recording.format import Header
from node.recording.membership import record_member
from node.recording.tape import Recorder
from node.transport.frames import DeliveryKey, Outcome
from node.vocabulary import Performative, RoutingStrategy
from simulations.production import Identities, configuration
from simulations.timeline import EPOCH_S
from swim.events import SendDatagram
from swim.protocol import Swim
from swim.replicated import Replicated

KEY: Final = bytes(range(32))
HEADER: Final = Header("bench", "0", "0", "0", 0.0)
LIMIT_BYTES: Final = 2 * 1024**3
STEP_S: Final = 0.05


class Bench:
    """What stands for the rooms around the core of delivery."""

    def __init__(self) -> None:
        self.providers_ = [Provider("echo", f"n{number}", "1.0", ("echo",)) for number in range(4)]
        self.sent: list[tuple[str, DeliveryKey]] = []

    def version(self, wanted: str) -> int:
        """Nothing ever changes."""
        return 1

    def providers(self, capability: str) -> list[Provider]:
        """All of them."""
        return self.providers_

    instances = subscribers = providers

    def topics_version(self) -> int:
        """Nothing ever changes."""
        return 1

    def expects(self, wanted: str) -> bool:
        """Nobody is away."""
        return False

    def related(self, capability: str) -> list[tuple[str, int]]:
        """None."""
        return []

    def is_alive(self, node: str) -> bool:
        """Everybody is there."""
        return True

    def view(self) -> ClusterView:
        """The cluster is whole."""
        return ClusterView(1, 1, "majority", 0.0)

    def now(self) -> float:
        """Monotonic seconds."""
        return time.perf_counter()

    wall = now

    def is_ready(self, peer: str) -> bool:
        """Links take everything."""
        return True

    def deliver(self, peer: str, items: Sequence[Any]) -> int:
        """Links take everything."""
        self.sent += [(peer, item.key) for item in items]
        return len(items)

    def ensure(self, peer: str) -> None:
        """There is a link."""

    def told(self, *_: object) -> None:
        """Somebody is told."""


def membership(inputs: int, recorder: Recorder | None) -> float:
    """Let two members probe each other; return the seconds that the inputs of the first took."""
    identities, config = Identities(), configuration("lan", {})
    a = member(identities, config, "a", recorder)
    b = member(identities, config, "b", None)
    for swim, host in ((a, "10.0.0.1"), (b, "10.0.0.2")):
        swim.wall_offset = EPOCH_S
        swim.start(0.0, (host, 7946))
    b.load(a.words(), 0.0)
    a.load(b.words(), 0.0)
    took = now = 0.0
    done = 0

    def timed(call: Callable[[], object]) -> list[SendDatagram]:
        nonlocal took, done
        began = time.process_time()
        call()
        effects, _ = a.effects(), a.events()
        took += time.process_time() - began
        done += 1
        return [effect for effect in effects if isinstance(effect, SendDatagram)]

    while done < inputs:
        now += STEP_S
        due = a.next_timer()
        to_b = timed(partial(a.handle_timer, now)) if due is not None and due <= now else []
        b.handle_timer(now)
        for effect in to_b:
            b.receive(effect.data, ("10.0.0.1", 7946), now)
        for other in b.effects():
            if isinstance(other, SendDatagram):
                for answer in timed(partial(a.receive, other.data, ("10.0.0.2", 7946), now)):
                    b.receive(answer.data, ("10.0.0.1", 7946), now)
    return took / done


def member(identities: Identities, config: Any, name: str, recorder: Recorder | None) -> Swim:
    """A member with its maps, recorded or not."""
    chance, map_chance = random.Random(1), random.Random(2)
    entropy = random.Random(name).randbytes
    identity, authority = identities.of(name), identities.authority
    if recorder is not None:
        swim, _ = record_member(
            recorder, config, identity, authority,
            address=("0.0.0.0", 7946), meta=b"", chance=chance, map_chance=map_chance, entropy=entropy,
            gossip_keys=[KEY], versions=(2, 2),
        )  # fmt: skip
        return swim
    maps = Replicated(identity, authority, rng=map_chance, entropy=entropy)
    return Swim(
        config, identity, authority, ("0.0.0.0", 7946), b"", maps, chance, entropy=entropy, gossip_keys=[KEY]
    )


def delivery(messages: int, recorder: Recorder | None) -> float:
    """Accept, route, send and settle messages; return seconds per message in the core."""
    bench: Any = Bench()
    around = Surroundings(
        time=bench, registry=bench, membership=bench, new_id=lambda: "id",
        router_chance=random.Random(1), retry_chance=random.Random(2),
        deliver_locally=bench.told, on_arrival=bench.told, on_end=bench.told,
    )  # fmt: skip
    settings, timing = MessagingConfig(), Timing()
    if recorder is None:
        core = Deliveries(node="a", settings=settings, timing=timing, around=around)
    else:
        core = record_deliveries(recorder, "a", settings, timing, around)
    core.use_links(bench)
    made = [message(number) for number in range(messages)]
    began = time.process_time()
    for each, sealed in made:
        letter = core.prepare(each, sealed, at=(0.0, 1.7e9), traceparent="", hops=0, ttl_s=None)
        core.admit([letter])
        peer, key = bench.sent.pop()
        core.received(peer, [key])
        changes = core.report(peer, [Outcome(key, "settled")])
        core.give_up(changes)
        core.written(changes)
        core.send(changes)
    return (time.process_time() - began) / messages


def message(number: int) -> tuple[Message, bytes]:
    """A request of some hundred bytes."""
    made = Message(
        id=f"m{number}", performative=Performative.REQUEST, sender="client@a", capability="echo",
        content={"number": number, "text": "x" * 300}, conversation_id=f"c{number}", reply_with=f"m{number}",
        routing_strategy=RoutingStrategy.LOAD_BALANCED,
    )  # fmt: skip
    return made, made.seal()


CORES: Final[dict[str, tuple[Callable[[int, Recorder | None], float], str]]] = {
    "membership": (membership, "input"),
    "delivery": (delivery, "message"),
}


def main() -> None:
    """Measure, print, and keep the raw figures if that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=5_000, help="per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--csv", action="store_true", help="write the raw figures into results/")
    wanted = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as directory:
        for name, (measure, what) in CORES.items():
            off, on, grown = [], [], 0.0
            for at in range(wanted.rounds):
                off.append(measure(wanted.inputs, None) * 1e6)
                path = Path(directory) / f"{name}-{at}.rec"
                recorder = Recorder(path, HEADER, time.perf_counter, limit_bytes=LIMIT_BYTES)
                on.append(measure(wanted.inputs, recorder) * 1e6)
                recorder.stop("measured")
                grown = path.stat().st_size / wanted.inputs
                path.unlink()
                rows.append({"core": name, "round": at, "off_us": off[-1], "on_us": on[-1], "bytes": grown})
            ratio = median(on) / median(off)
            print(
                f"{name:<11} per {what}: {median(off):7.1f} us, recorded {median(on):7.1f} us "
                f"(x {ratio:.2f}), {grown:.0f} bytes"
            )
    if wanted.csv:
        print(write("recording", machine(), rows))


if __name__ == "__main__":
    main()
