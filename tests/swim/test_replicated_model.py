"""Holds the replicated maps to convergence, whatever happens to three nodes; and the test to that."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from swim import units
from swim.cluster_map import ClusterMap
from swim.hlc import ClockSkewError, ClockWatch
from swim.map_events import BehindHorizon, DuplicateIdentity, Rebased
from swim.owner_maps import OwnerMap, OwnerMaps
from swim.publisher import Publisher
from tests.swim.map_model import MAX_FRAME_BYTES, Peers

NAMES = ("a", "b", "c")
names = st.sampled_from(NAMES)
keys = st.sampled_from([f"key-{number}" for number in range(12)])
cluster_keys = st.sampled_from(["x", "y", "z"])
values = st.binary(min_size=1, max_size=2).map(lambda seed: seed * 120)

Write = tuple[int, str, bytes | None]
"""(stamp, author, value) of a write of the cluster map."""


class ThreeNodes(RuleBasedStateMachine):
    """Three nodes, what their owners wrote, and what the cluster map has to be."""

    def __init__(self) -> None:
        super().__init__()
        self.peers = Peers(*NAMES)
        self.owned: dict[str, dict[str, bytes]] = {name: {} for name in NAMES}
        self.writes: dict[str, list[Write]] = {}
        self.disks: dict[str, list[bytes]] = {name: [] for name in NAMES}
        self.counters = dict.fromkeys(NAMES, 1)
        self.generations: dict[str, units.Generation] = {}
        for name in NAMES:
            self.peers[name].set_roster(NAMES)

    # What a user does

    @rule(name=names, key=keys, value=values)
    def put(self, name: str, key: str, value: bytes) -> None:
        self.revive(name)
        self.peers[name].put(key, value)
        self.owned[name][key] = value

    @rule(name=names, key=keys)
    def delete(self, name: str, key: str) -> None:
        self.revive(name)
        self.peers[name].delete(key)
        self.owned[name].pop(key, None)

    @rule(name=names, key=cluster_keys, value=values)
    def cluster_put(self, name: str, key: str, value: bytes) -> None:
        try:
            stamp = self.peers[name].cluster_put(key, value, self.peers.wall_of(name))
        except ClockSkewError:
            return
        self.writes.setdefault(key, []).append((stamp, name, value))

    @rule(name=names, key=cluster_keys)
    def cluster_delete(self, name: str, key: str) -> None:
        try:
            stamp = self.peers[name].cluster_delete(key, self.peers.wall_of(name))
        except ClockSkewError:
            return
        if stamp is not None:
            self.writes.setdefault(key, []).append((stamp, name, None))

    # What happens to the nodes

    @rule(one=names, other=names)
    def gossip(self, one: str, other: str) -> None:
        if one != other:
            self.peers.ping(one, other)
            self.settle_accounts()

    @rule(name=names)
    def lose_a_frame(self, name: str) -> None:
        self.peers[name].broadcasts(1200, 3)

    @rule(one=names, other=names, at=st.integers(0, 1150), bit=st.integers(0, 7))
    def alter_a_frame(self, one: str, other: str, at: int, bit: int) -> None:
        for frame in self.peers[one].broadcasts(1200, 3):
            altered = bytearray(frame)
            altered[-1 - at % len(frame)] ^= 1 << bit
            self.peers[other].receive(
                one, bytes(altered), self.peers.now, self.peers.wall_of(other)
            )

    @rule(seconds=st.sampled_from([0.5, 3.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.peers.advance(seconds)
        self.settle_accounts()

    @rule(name=names)
    def partition(self, name: str) -> None:
        self.peers.partition(name)

    @rule()
    def heal(self) -> None:
        self.peers.heal()

    @rule(name=names, seconds=st.sampled_from([-40.0, 0.0, 50.0, 90.0]))
    def skew(self, name: str, seconds: float) -> None:
        self.peers.skew_s[name] = seconds
        for node in NAMES:
            for other in NAMES:
                if node != other:
                    offset = self.peers.skew_s.get(other, 0.0) - self.peers.skew_s.get(node, 0.0)
                    self.peers[node].observe_clock(other, offset)

    @rule(name=names)
    def save(self, name: str) -> None:
        self.disks[name] = self.peers[name].export()

    @rule(name=names)
    def crash(self, name: str) -> None:
        self.restart(name, counter=self.counters[name], stored=self.disks[name])

    @rule(name=names)
    def crash_and_lose_the_disk(self, name: str) -> None:
        self.disks[name] = []
        self.restart(name, counter=0, stored=[])

    @rule(name=names, reaped=names)
    def reap(self, name: str, reaped: str) -> None:
        self.peers[name].forget(reaped)
        if name != reaped:
            assert reaped not in self.peers[name].owners()

    @rule(name=names, reaped=names)
    def come_back(self, name: str, reaped: str) -> None:
        self.peers[name].admit_owner(reaped, self.peers.wall_of(name))

    # What holds at every moment

    @invariant()
    def frames_fit(self) -> None:
        assert self.peers.largest_frame <= MAX_FRAME_BYTES

    @invariant()
    def generations_do_not_regress(self) -> None:
        for name in NAMES:
            generation = self.peers[name].generation
            assert generation is not None
            assert generation >= self.generations.get(name, (0, b""))
            self.generations[name] = generation

    @invariant()
    def a_node_reads_what_it_wrote(self) -> None:
        for name in NAMES:
            assert self.map_of(name, name) == self.owned[name]

    # What holds in the end

    def teardown(self) -> None:
        self.peers.heal()
        self.peers.skew_s.clear()
        for name in NAMES:
            for other in NAMES:
                self.peers[name].admit_owner(other, self.peers.wall)
                if other != name:
                    self.peers[name].observe_clock(other, 0.0)
        self.peers.advance(200.0)  # until stamps from the future are not any more
        for _ in range(80):
            self.peers.settle(rounds=1)
            self.settle_accounts()
            for name in NAMES:
                self.revive(name)
        assert self.peers.agree()
        assert self.peers["a"].export() == self.peers["b"].export() == self.peers["c"].export()
        for reader in NAMES:
            assert self.peers[reader].statistics()["behind_horizon"] == 0
            for owner in NAMES:
                assert self.map_of(reader, owner) == self.owned[owner]
            for key in ("x", "y", "z"):
                last = max(self.writes.get(key, []), default=(0, "", None))
                assert self.peers[reader].cluster_get(key) == last[2]

    # The model

    def map_of(self, reader: str, owner: str) -> dict[str, bytes]:
        return {
            key: value for name, key, value in self.peers[reader].entries() if name == owner
        }

    def restart(self, name: str, *, counter: int, stored: list[bytes]) -> None:
        self.generations.pop(name, None)  # of a lost disk, until peers have been heard
        node = self.peers.boot(name, counter=counter, stored=stored)
        node.set_roster(NAMES)
        assert node.generation is not None
        self.counters[name] = node.generation[0]
        self.owned[name] = {}
        self.forget_lost_writes()

    def revive(self, name: str) -> None:
        """Do what an operator or a service manager does when the node has stopped."""
        if self.peers[name].statistics()["is_stopped"]:
            self.restart(
                name, counter=self.counters[name], stored=self.peers[name].export()
            )

    def settle_accounts(self) -> None:
        """Write down what nodes report, as a node and its disk would."""
        for name in NAMES:
            for event in self.peers[name].events():
                if isinstance(event, Rebased):
                    self.counters[name] = event.generation[0]
                if isinstance(event, BehindHorizon):
                    self.forget_lost_writes()
                if isinstance(event, DuplicateIdentity) and not event.stays:
                    self.revive(name)

    def forget_lost_writes(self) -> None:
        """Forget the writes that only a crashed node, or one behind the horizon, knew."""
        horizon = max(node._cluster.horizon for node in self.peers.nodes.values())
        for key, writes in self.writes.items():
            held = [node.cluster_stamp(key) for node in self.peers.nodes.values()]
            shown = {
                node._cluster._registers[key].register.stamp
                for node in self.peers.nodes.values()
                if key in node._cluster._registers
            }
            self.writes[key] = [
                write
                for write in writes
                if write[0] in shown
                or write[0] < max(held)
                or (write[2] is None and write[0] <= horizon)
            ]


@pytest.mark.timeout(120)
def test_three_nodes_converge_whatever_happens() -> None:
    run(examples=60, steps=40)


def run(*, examples: int, steps: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        ThreeNodes,
        settings=settings(
            derandomize=True,
            database=None,
            deadline=None,
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            report_multiple_bugs=False,
        ),
    )
