"""Holds the replicated maps to convergence, whatever happens to three nodes; and the test to that."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from swim import anti_entropy, cluster_map, units
from swim.cluster_map import ClusterMap
from swim.hlc import MAX_STAMP, ClockSkewError
from swim.map_events import BehindHorizon, DuplicateIdentity, Rebased
from swim.owner_maps import Held, OwnerMap, OwnerMaps
from swim.publisher import Publisher, StateError
from tests.swim.map_model import MAX_FRAME_BYTES, Peers, identity, push

NAMES = ("a", "b", "c")
CLUSTER_KEYS = ("x", "y", "z")
KEYS = tuple(f"key-{number}" for number in range(12))
names = st.sampled_from(NAMES)
keys = st.sampled_from(KEYS)
cluster_keys = st.sampled_from(CLUSTER_KEYS)
values = st.binary(min_size=1, max_size=2).map(lambda seed: seed * 200)

Rank = tuple[units.Generation, int]
Write = tuple[int, str, bytes, bytes | None]
"""(stamp, author, digest, value) of a write of the cluster map."""


class ThreeNodes(RuleBasedStateMachine):
    """Three nodes, what their owners wrote, and what the cluster map has to be."""

    reached: ClassVar[dict[str, int]] = {}  # in how many runs something happened that has to be tried

    def __init__(self) -> None:
        super().__init__()
        self.peers = Peers(*NAMES, roster=NAMES)
        self.owned: dict[str, dict[str, bytes]] = {name: {} for name in NAMES}
        self.writes: dict[str, list[Write]] = {}
        self.disks: dict[str, list[bytes]] = {name: [] for name in NAMES}
        self.counters = dict.fromkeys(NAMES, 1)
        self.generations: dict[str, units.Generation] = {}
        self.seen: dict[tuple[str, str, str], Rank] = {}  # reader, owner, key
        self.retired: dict[tuple[bytes, int], None] = {}  # key hash, stamp
        self.undecided: dict[str, dict[bytes | None, None]] = {}  # cluster key -> values it may have
        self.ranks: dict[bytes, Rank] = {}
        self.held_up: list[tuple[str, bytes]] = []

    @initialize(busy=st.booleans())
    def begin(self, busy: bool) -> None:
        if busy:
            for name, cluster_key in zip(NAMES, CLUSTER_KEYS, strict=True):
                self.put(name, {key: key.encode() * 40 for key in KEYS[::2]})
                self.cluster_put(name, cluster_key, b"begin")
            self.time_passes(3)

    # What a user does

    @rule(name=names, entries=st.dictionaries(keys, values, min_size=1, max_size=8))
    def put(self, name: str, entries: dict[str, bytes]) -> None:
        for key, value in entries.items():
            self.peers[name].put(key, value)
            self.owned[name][key] = value

    @rule(name=names, several=st.lists(keys, min_size=1, max_size=8))
    def delete(self, name: str, several: list[str]) -> None:
        for key in several:
            self.peers[name].delete(key)
            self.owned[name].pop(key, None)

    @rule(name=names, key=cluster_keys, value=values)
    def cluster_put(self, name: str, key: str, value: bytes) -> None:
        self.cluster_write(name, key, value)

    @rule(name=names, key=cluster_keys)
    def cluster_delete(self, name: str, key: str) -> None:
        self.cluster_write(name, key, None)

    # What happens to the nodes

    @rule(one=names, other=names)
    def gossip(self, one: str, other: str) -> None:
        if one != other:
            self.peers.ping(one, other)
            self.settle_accounts()

    @rule(name=names)
    def lose_frames(self, name: str) -> None:
        self.peers[name].broadcasts(1200, 3)

    @rule(one=names, other=names, at=st.integers(0, 1150), bit=st.integers(0, 7))
    def alter_a_frame(self, one: str, other: str, at: int, bit: int) -> None:
        for frame in self.peers[one].broadcasts(1200, 3):
            altered = bytearray(frame)
            altered[-1 - at % len(frame)] ^= 1 << bit
            self.hand_over(one, other, bytes(altered))

    @rule(one=names, other=names, victim=names)
    def forge(self, one: str, other: str, victim: str) -> None:
        """Say in the name of another, with a signature of one's own, that all its entries are gone."""
        held = units.decode(self.peers[victim].own_units()[0], max_bytes=2000)
        assert isinstance(held, units.Bucket)
        forged = dataclasses.replace(held, version=held.version + 1000, entries={})
        if one != victim:
            self.hand_over(one, other, push(units.encode(forged, identity(one))))

    @rule(one=names)
    def hold_up_frames(self, one: str) -> None:
        """Let the network keep frames, with all that a node says of itself, for later."""
        horizon = self.peers[one]._cluster.horizon
        self.held_up += [(one, frame) for frame in self.peers[one].broadcasts(1200, 3)]
        for unit in self.peers[one].own_units() + self.peers[one]._cluster.units():
            self.held_up.append((one, push(unit, horizon=horizon)))
        del self.held_up[:-40]

    @rule(other=names, which=st.lists(st.integers(0, 39), min_size=1, max_size=12))
    def deliver_late(self, other: str, which: list[int]) -> None:
        for number in which:
            if self.held_up:
                one, frame = self.held_up[number % len(self.held_up)]
                self.hand_over(one, other, frame)

    @rule(name=names, other=names, several=st.sets(keys, min_size=6), which=st.integers(0, 7))
    def split_and_lose_all_but_one(self, name: str, other: str, several: set[str], which: int) -> None:
        """Let an owner need more buckets than before, and another node get one of them only."""
        self.put(name, dict.fromkeys(sorted(several), b"long" * 80))
        own = self.peers[name].own_units()
        self.hand_over(name, other, push(own[which % len(own)]))

    @rule(seconds=st.integers(1, 12))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.peers.settle(rounds=1)
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
            self.forget_what_was_seen(name, reaped)
            assert reaped not in self.peers[name].owners()

    @rule(name=names, reaped=names)
    def come_back(self, name: str, reaped: str) -> None:
        self.peers[name].admit_owner(reaped, self.peers.wall_of(name))

    # What deletions have to survive

    @rule(away=names, key=cluster_keys, seconds=st.integers(1, 12))
    def delete_while_one_is_away(self, away: str, key: str, seconds: int) -> None:
        """Let all know a value, and all but one its deletion; that one is still away afterwards."""
        writer = NAMES[NAMES.index(away) - 1]
        self.peers.heal()
        self.cluster_write(writer, key, b"to be deleted")
        self.time_passes(4)
        self.peers.partition(away)
        self.cluster_write(writer, key, None)
        self.time_passes(seconds)

    @rule(late=names, key=cluster_keys, seconds=st.integers(8, 20))
    def come_back_with_an_old_disk(self, late: str, key: str, seconds: int) -> None:
        """Let one wake up with a value on its disk whose deletion the others have probably forgotten."""
        self.peers.heal()
        self.cluster_write(late, key, b"to be deleted")
        self.time_passes(4)
        disk = self.peers[late].export()
        self.cluster_write(late, key, None)
        self.time_passes(seconds)
        self.restart(late, counter=self.counters[late], stored=disk)

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

    @invariant()
    def no_reader_goes_back(self) -> None:
        """What a reader was told by a newer bucket is never again answered by an older one."""
        for reader in NAMES:
            for owner in NAMES:
                found = self.peers[reader]._maps.of(owner)
                for key in KEYS:
                    held = found.deciding(key)
                    rank = self.rank_of(held) if held else ((0, b""), 0)
                    assert rank >= self.seen.get((reader, owner, key), ((0, b""), 0))
                    self.seen[reader, owner, key] = rank

    # What holds in the end

    def teardown(self) -> None:
        for node in self.peers.nodes.values():
            happened = {**node.statistics(), "retirement": node._cluster.horizon}
            for what in ("retirement", "behind_horizon", "comparisons_opened"):
                self.reached[what] = self.reached.get(what, 0) + bool(happened[what])
        self.peers.heal()
        self.peers.skew_s.clear()
        for name in NAMES:
            for other in NAMES:
                self.peers[name].admit_owner(other, self.peers.wall)
                if other != name:
                    self.peers[name].observe_clock(other, 0.0)
        self.peers.advance(200.0)  # until stamps from the future are not any more
        self.time_passes(60)
        assert self.peers.agree()
        assert self.peers["a"].export() == self.peers["b"].export() == self.peers["c"].export()
        for reader in NAMES:
            assert self.peers[reader].statistics()["behind_horizon"] == 0
            for owner in NAMES:
                assert self.map_of(reader, owner) == self.owned[owner]
            for key in CLUSTER_KEYS:
                last = max(self.writes.get(key, []), default=(0, "", b"", None))
                assert self.peers[reader].cluster_get(key) in (last[3], *self.undecided.get(key, ()))

    # The model

    def hand_over(self, one: str, other: str, frame: bytes) -> None:
        if one != other:
            self.peers[other].receive(one, frame, self.peers.now, self.peers.wall_of(other))
            self.settle_accounts()

    def map_of(self, reader: str, owner: str) -> dict[str, bytes]:
        return {key: value for name, key, value in self.peers[reader].entries() if name == owner}

    def rank_of(self, held: Held) -> Rank:
        """Return what the owner signed, whatever the code under test makes of it."""
        if held.digest not in self.ranks:
            bucket = units.decode(held.data, max_bytes=2000)
            assert isinstance(bucket, units.Bucket)
            self.ranks[held.digest] = (bucket.generation, bucket.version)
        return self.ranks[held.digest]

    def forget_what_was_seen(self, reader: str, owner: str) -> None:
        for key in KEYS:
            self.seen.pop((reader, owner, key), None)

    def restart(self, name: str, *, counter: int, stored: list[bytes]) -> None:
        before = self.generations.pop(name, (0, b""))
        for owner in NAMES:
            self.forget_what_was_seen(name, owner)
        node = self.peers.boot(name, counter=counter, stored=stored)
        assert node.generation is not None
        if counter:  # with a lost disk, the counter is learned only once peers have been heard
            assert node.generation > before
        self.counters[name] = node.generation[0]
        self.owned[name] = {}
        self.forget_lost_writes()

    def revive(self, name: str) -> None:
        """Do what an operator or a service manager does when the node has stopped."""
        if self.peers[name].statistics()["is_stopped"]:
            self.restart(name, counter=self.counters[name], stored=self.peers[name].export())

    def settle_accounts(self) -> None:
        """Write down what nodes report, as a node and its disk would."""
        for name in NAMES:
            retirement = self.peers[name]._cluster.retirement
            if retirement is not None:
                unit = units.decode(retirement[1], max_bytes=2000)
                assert isinstance(unit, units.Retirement)
                self.retired.update(dict.fromkeys(unit.retired))
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
        self.held_up = [(one, frame) for one, frame in self.held_up if not has_register(frame)]
        clusters = [node._cluster for node in self.peers.nodes.values()]
        horizon = max(cluster.horizon for cluster in clusters)
        nobody_knows = all(cluster.is_behind or cluster.horizon < horizon for cluster in clusters)
        if nobody_knows:  # all who had seen the deletions are gone: what was set aside may come back, or not
            self.retired = {}
            for cluster in clusters:
                for key, held in cluster._aside.items():
                    self.undecided.setdefault(key, {})[held.register.value] = None
        self.retired = {held: None for held in self.retired if held[1] <= horizon}
        for key, writes in self.writes.items():
            held = [cluster._registers[key].order for cluster in clusters if key in cluster._registers]
            last = max(held, default=(0, "", b""))
            self.writes[key] = [
                write
                for write in writes
                if write[:3] <= last or (units.key_hash(key), write[0]) in self.retired
            ]

    def cluster_write(self, name: str, key: str, value: bytes | None) -> None:
        node, wall = self.peers[name], self.peers.wall_of(name)
        try:
            stamp: int | None
            if value is None:  # noqa: SIM108 - one line would be too long
                stamp = node.cluster_delete(key, wall)
            else:
                stamp = node.cluster_put(key, value, wall)
        except ClockSkewError:
            return
        if stamp is not None:
            self.note_write(name, key, stamp, value)

    def note_write(self, name: str, key: str, stamp: int, value: bytes | None) -> None:
        digest = self.peers[name]._cluster._registers[key].digest
        for other in self.writes.setdefault(key, []):
            if other[:2] == (stamp, name):  # a life that forgot its last stamp, on a clock that stands still
                self.undecided.setdefault(key, {}).update({value: None, other[3]: None})
        self.writes[key].append((stamp, name, digest, value))


def has_register(frame: bytes) -> bool:
    decoded = anti_entropy.decode(frame, max_bytes=2000)
    read = [units.decode(unit, max_bytes=2000) for unit in decoded.units]
    return any(isinstance(unit, units.Register) for unit in read)


@pytest.mark.timeout(120)
def test_three_nodes_converge_whatever_happens() -> None:
    ThreeNodes.reached.clear()
    run(examples=60, steps=40)
    assert all(ThreeNodes.reached.values()), ThreeNodes.reached


def run(*, examples: int, steps: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
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
            phases=phases,
        ),
    )


# Planted bugs: the same machine has to catch each


def skip_the_version_check(patch: pytest.MonkeyPatch) -> None:
    """Take whatever bucket came last, as if it were the newest."""
    accept = OwnerMaps.accept
    versions = iter(range(10**6, 10**9))

    def accept_as_newest(self: OwnerMaps, owner: str, bucket: Any, *rest: Any) -> Any:
        newest = dataclasses.replace(
            bucket, version=next(versions), generation=max(bucket.generation, self.of(owner).generation)
        )
        return accept(self, owner, newest, *rest)

    patch.setattr(OwnerMaps, "refusal", lambda *_: None)
    patch.setattr(OwnerMaps, "accept", accept_as_newest)


def believe_every_signature(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(units, "is_signed_by", lambda *_: True)


def do_not_bump_the_generation(patch: pytest.MonkeyPatch) -> None:
    def start(self: Publisher, counter_on_disk: int, entropy: Callable[[int], bytes]) -> Any:
        self.generation = (max(counter_on_disk, 1), bytes(8))
        self._publish(sorted(self._map.buckets))
        return self.generation

    patch.setattr(Publisher, "start", start)


def forget_deletions_at_once(patch: pytest.MonkeyPatch) -> None:
    def retirable(self: ClusterMap, _name: str) -> Any:
        return tuple(
            (units.key_hash(key), held.register.stamp)
            for key, held in self._tombstones.items()
            if held.register.stamp > self.horizon
        )

    patch.setattr(ClusterMap, "retirable", retirable)
    patch.setattr(ClusterMap, "refusal", lambda *_: "")


def drop_tombstones_without_moving_the_horizon(patch: pytest.MonkeyPatch) -> None:
    """Forget deletions as soon as the sweep comes by, as a time to live would."""

    def retire(self: Publisher) -> None:
        cluster = self._state.cluster
        for held in list(cluster._tombstones.values()):
            cluster._drop(held)

    patch.setattr(Publisher, "retire", retire)


def believe_who_is_behind_the_horizon(patch: pytest.MonkeyPatch) -> None:
    """Accept registers up to the horizon from peers that were away when they were deleted."""
    refusal = ClusterMap.refusal
    patch.setattr(ClusterMap, "refusal", lambda self, *rest: refusal(self, *rest[:-1], MAX_STAMP))


def push_from_behind_the_horizon(patch: pytest.MonkeyPatch) -> None:
    """Move on to a new horizon with all that one has, as if one had been there all the time."""
    move_horizon = ClusterMap.move_horizon

    def move_and_keep(self: ClusterMap, *rest: Any) -> Any:
        kept = dict(self._registers)
        was_there, dropped = move_horizon(self, *rest)
        if was_there:
            return was_there, dropped
        self.is_behind = False
        self._aside.clear()
        for held in kept.values():
            if held.register.key not in self._registers:
                self.accept(held.register, held.data, held.digest, held.author)
        return True, []

    patch.setattr(ClusterMap, "move_horizon", move_and_keep)


def let_any_later_write_win(patch: pytest.MonkeyPatch) -> None:
    """Order registers by arrival instead of by stamp."""
    patch.setattr(cluster_map.HeldRegister, "order", property(lambda self: (self.sequence, "", b"")))
    patch.setattr(ClusterMap, "refusal", lambda *_: "")


def drop_the_parent_when_one_half_arrives(patch: pytest.MonkeyPatch) -> None:
    """Forget, on a split, that the other half may not have arrived."""
    covered = OwnerMap.is_covered

    def is_covered(self: OwnerMap, place: int, rank: Any) -> bool:
        return covered(self, place, rank) or any(held.rank > rank for held in self.overlapping(place))

    patch.setattr(OwnerMap, "is_covered", is_covered)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "plant",
    [
        skip_the_version_check,
        believe_every_signature,
        do_not_bump_the_generation,
        forget_deletions_at_once,
        drop_tombstones_without_moving_the_horizon,
        believe_who_is_behind_the_horizon,
        push_from_behind_the_horizon,
        let_any_later_write_win,
        drop_the_parent_when_one_half_arrives,
    ],
)
def test_a_planted_bug_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, KeyError, StateError)):
        run(examples=400, steps=40, phases=[Phase.generate])
