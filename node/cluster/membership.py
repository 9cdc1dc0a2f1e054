"""Membership of the cluster: runs the swim driver, and turns what it says into what the rooms above need.

It owns the replicated maps; what of them outlives the process is in `node.cluster.memory`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import trio

from node.cluster import reachability
from node.cluster.cores import build_cores
from node.cluster.driving import drive
from node.cluster.forgetting import Forgetting
from node.cluster.holders import MemoryHolders
from node.cluster.journal import Journal
from node.cluster.keyring import GossipKeys
from node.cluster.memory import ClusterMemory, Remembrance
from node.cluster.provider import ClusterView
from node.cluster.reachability import Reachability, lost_path_as_json
from node.cluster.registry import CapabilityRegistry
from node.cluster.revocations import Revocations
from node.cluster.spending import SharedSpending
from node.cluster.user_traffic import UserTraffic
from node.cluster.views import MemberView, decode_meta, encode_meta, own_view, shown_address, view_of
from node.cluster.why import Story, Why
from node.config import NodeConfig
from node.environment import Address, Environment
from node.errors import CaxtonError, DuplicateIdentityError, StorageFailed
from node.recording.tape import Recorder
from node.security.identity import NodeCredentials
from node.storage.storage import Storage
from node.telemetry.version import Release
from swim import driver, events
from swim.map_events import DuplicateIdentity, MapEvent, Rebased
from swim.members import Member, State
from swim.partition import Partition
from swim.publisher import StateError

log = logging.getLogger(__name__)

SNAPSHOT_INTERVAL_S: Final = 10.0
"""How often changed state is written to disk."""
FIRST_SNAPSHOT_S: Final = 1.0
"""How long after somebody was met the first time: a node that loses power then would know nobody."""
LEARN_BEFORE_PUBLISHING_S: Final = 3.0
"""How long a node with seeds waits to hear what generation its peers hold of it."""
FLUSH_PAUSE_S: Final = 0.02
"""Pause after changes of the maps were handed on, so that a burst of them is handed on together."""
REJOIN_SEEDS: Final = 8
"""Members of the last run that are visited at once at a start; all others are probed, or tried in turn."""


class MembershipListener(Protocol):
    """Who is told of changes; called on the loop, must not block."""

    def node_alive(self, node: str) -> None:
        """A node is up, or up again."""
        ...

    def node_died(self, node: str) -> None:
        """A node was declared dead."""
        ...

    def node_left(self, node: str) -> None:
        """A node said goodbye."""
        ...

    def registry_changed(self) -> None:
        """Somebody offers something else than before."""
        ...


class Membership:
    """The cluster as this node sees it.

    Args:
        environment: Clock, chance, network.
        config: The node's configuration.
        credentials: Who this node is, and whom it trusts.
        storage: Where the snapshot lives.
        release: What this node says it is.
        recorder: Writes down what goes into membership and maps, if it is to be replayed.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        config: NodeConfig,
        credentials: NodeCredentials,
        storage: Storage,
        release: Release,
        recorder: Recorder | None = None,
    ) -> None:
        self._environment, self._config = environment, config
        self._version = release.software
        self.node = credentials.name
        self.swim, self.replicated = build_cores(environment, config, credentials, release, recorder)
        for name in config.cluster.no_stream_probes:
            self.swim.set_stream_probes(name, enabled=False)
        self.keys = GossipKeys(
            self.swim,
            credentials,
            environment,
            wake=self._wake,
            absent=self.away,
            obeys=config.security.key_rotation == "members",
        )
        self.traffic = UserTraffic(self.swim, environment, release.software, wake=self._wake)
        self._memory = ClusterMemory(storage, self.swim, self.replicated)
        self.registry = CapabilityRegistry(
            self.replicated,
            self.node,
            is_up=self.is_alive,
            is_lost=self.is_lost,
            flush=self.flush,
            clock=environment.clock,
            rtt=lambda node: self.swim.rtt(self.node, node),
        )
        self.reachability = Reachability(
            self.replicated, self.node, is_up=self.is_alive, clock=environment.clock
        )
        self.spending = SharedSpending(
            self.replicated,
            self.node,
            members=lambda: self.partition().remembered,
            flush=self.flush,
            clock=environment.clock,
        )
        self.holders = MemoryHolders(
            self.replicated, self.node, is_up=self.is_alive, flush=self.flush, clock=environment.clock
        )
        self.forgetting = Forgetting(
            self.swim,
            self.replicated,
            environment.clock,
            partition=self.partition,
            flush=self.flush,
            save=self.save,
        )
        self.listeners: list[MembershipListener] = []
        self.revocations = Revocations(
            self.swim,
            self.replicated,
            environment.clock,
            own_key=credentials.public_key,
            writes=lambda: self.node == self.alive_nodes()[0],
            end=self._end,
            flush=self.flush,
            save=self.save,
        )
        self.watchers: list[Callable[[Sequence[MapEvent]], None]] = [
            self.revocations.apply,
            self.forgetting.apply,
        ]
        self._journal = Journal(environment.clock)
        self._why = Why(self.swim, environment.clock)
        self._started_at = self._registry_changed_at = environment.clock.now()
        self._up: dict[str, bool] = {self.node: True}
        self._remembered: dict[str, None] = {}
        self._joined, self._met = trio.Event(), trio.Event()
        self._maps_changed = trio.Event()
        self._paths_changed = trio.Event()
        self.replicated.when_changed(self._note_maps)
        self._save_failures = 0
        self._handle: driver.SwimHandle | None = None
        self._failure: CaxtonError | None = None
        self._stop = trio.Event()

    # Questions

    def is_alive(self, node: str) -> bool:
        """Whether work may be sent there."""
        return self._up.get(node, False)

    def is_lost(self, node: str) -> bool:
        """Whether it is dead, or not heard of since this start: it may come back, with what it offered."""
        member = self.swim.member(node)
        if member is None:
            return node in self._remembered and self._uptime() < self.swim.config.reap_after_s
        return member.state is State.DEAD

    def alive_nodes(self) -> list[str]:
        """The nodes that are up, this one included, sorted."""
        return sorted(node for node, up in self._up.items() if up)

    def link_address(self, node: str) -> Address | None:
        """Where a node takes peer links; None while it is not up."""
        member = self.swim.member(node)
        if member is None or not member.is_up:
            return None
        port = decode_meta(member.meta)[0]
        return (member.address[0], port) if port else None

    def view(self) -> ClusterView:
        """The cluster as it looks from here, for the record."""
        found, age_s = self.partition(), self._environment.clock.now() - self._registry_changed_at
        return ClusterView(found.up, found.remembered, str(found.side), age_s)

    def members(self) -> list[MemberView]:
        """Every member known, this node included, sorted by name."""
        now = self._environment.clock.now()
        others = [view_of(self.swim, member, now) for member in self.swim.members()]
        return sorted([*others, own_view(self.swim, self._uptime())], key=lambda view: view.name)

    def why(self, name: str) -> Story:
        """Why a member is held for what it is.

        Raises:
            MemberNotFound: nothing is known of it.
        """
        return self._why.story(name, self.members())

    def recent_events(self) -> list[dict[str, Any]]:
        """The latest membership events, oldest first, at most 256; of one seed's failures the last 4."""
        return self._journal.recent()

    def unreachable(self) -> dict[str, Any]:
        """Who cannot reach whom directly, by the word of every node; and the paths this node has lost."""
        clock = self._environment.clock
        return {
            "unreachable": [row.as_json() for row in self.reachability.rows()],
            "lost_paths": [lost_path_as_json(path, clock) for path in self.swim.lost_paths()],
        }

    @property
    def joined(self) -> bool:
        """Whether a seed has answered, or none was given."""
        return self._joined.is_set() or not self._config.cluster.seeds

    def partition(self) -> Partition:
        """On which side of a partition this node finds itself, of all members that have not said goodbye.

        An exact half counts as a majority for the side that holds the lowest name.
        """
        return self.swim.partition(self._environment.clock.now())

    def away(self) -> list[str]:
        """The members that are not up and have not said goodbye, sorted, be they dead or not shown any more.

        However long ago that was: their addresses are tried for ever, so they may come back.
        """
        return sorted(name for name, _ in self.swim.address_book() if not self.is_alive(name))

    def statistics(self) -> dict[str, Any]:
        """Counters of swim, of the maps and of the registry."""
        return {
            "swim": (self._handle or self.swim).statistics(),
            "maps": self.replicated.statistics(),
            "registry": self.registry.statistics(),
            "spending": self.spending.statistics(),
            "memory": {**self._memory.statistics(), "failures": self._save_failures},
            "reachability": self.reachability.statistics(),
            "keys": self.keys.statistics(),
            "traffic": self.traffic.statistics(),
            "forgetting": self.forgetting.statistics(),
            "revocations": self.revocations.statistics(),
        }

    # Life

    def announce_link_port(self, port: int) -> None:
        """Say where this node takes peer links; it travels in its metadata."""
        self.swim.update_meta(encode_meta(port, self._version), self._environment.clock.now())

    async def run(self, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part in the cluster until cancelled or superseded; reports the bound address.

        Raises:
            AddressInUse: the gossip port is taken.
            DuplicateIdentityError: another process has this node's name and the better claim.
            KeyRevoked: the authority has revoked this node's key.
        """
        known = await self._memory.load(self._environment.clock.wall())
        self.revocations.apply_all()
        self._check_place()
        self._remembered = dict.fromkeys(n for n in known.expected if not self.forgetting.is_given_up(n))
        async with trio.open_nursery() as nursery:
            self._handle = await nursery.start(
                drive, self.swim, self._environment, self._config.cluster, self._on_event
            )
            self._rejoin(self._handle, known)
            task_status.started(self._handle.address)
            nursery.start_soon(self._publish)
            nursery.start_soon(self._keep)
            nursery.start_soon(self._watch)
            nursery.start_soon(self._publish_paths)
            nursery.start_soon(self.keys.run)
            await self._stop.wait()
            if self._failure is not None:
                await self._try_to_save()  # what it has failed of, so that the next start knows at once
            nursery.cancel_scope.cancel()
        self._check_place()

    async def leave(self) -> None:
        """Say goodbye, and return when it has been said often enough; :meth:`run` ends then."""
        await self._try_to_save()
        await self.keys.store()
        if self._handle is not None:
            with self._environment.clock.move_on_after(self.swim.config.leave_linger_s + 1.0):
                await self._handle.leave()
        self._stop.set()

    def _rejoin(self, handle: driver.SwimHandle, known: Remembrance) -> None:
        """Take back the members of the last run, and look for the cluster through them and the seeds."""
        loaded = self.swim.load(known.words, self._environment.clock.now())
        self.swim.remember(known.book)  # whoever is a member already is left out
        if loaded:
            log.info("%d members are known from the last run", loaded)
        configured = self._config.cluster.seeds
        room = max(0, self.swim.config.max_seeds - len(configured))
        places = [shown_address(address) for _, address in known.book]
        chosen = self._environment.randomness.stream("rejoin").sample(
            places, min(len(places), REJOIN_SEEDS, room)
        )
        handle.join(list(dict.fromkeys([*configured, *chosen])))

    # Work

    def _on_event(self, event: events.Event) -> None:
        self._journal.note(event)
        self._why.note(event)
        self.keys.note(event)
        self.traffic.note(event)
        self.forgetting.note(event)
        if isinstance(event, _PATH_EVENTS):
            self._paths_changed.set()
        member = getattr(event, "member", None)
        if isinstance(event, events.Joined):
            self._joined.set()
        elif isinstance(event, events.MemberForgotten):
            self._drop(event.name)
        elif isinstance(event, events.MemberRevoked):
            self._drop(event.member.name)
            for listener in self.listeners:
                listener.node_left(event.member.name)
                listener.registry_changed()
        elif isinstance(event, events.DuplicateName):
            self._end(self._duplicate(f"it listens on {event.address[0]}:{event.address[1]}"))
        elif isinstance(member, Member) and member.name != self.node:
            self._on_member(event, member)
        self.flush()

    def _on_member(self, event: events.Event, member: Member) -> None:
        if isinstance(event, events.MemberReaped):
            self._drop(member.name)
            return
        self._remembered.pop(member.name, None)
        was_up, self._up[member.name] = self._up.get(member.name), member.is_up
        if bool(was_up) != member.is_up:
            self.registry.liveness_changed()
        if member.is_up:
            self._met.set()
            self.replicated.admit_owner(member.name, self._environment.clock.wall())
        for listener in self.listeners:
            if member.is_up and not was_up:
                listener.node_alive(member.name)
            elif not member.is_up and was_up:
                died = isinstance(event, events.MemberDied)
                (listener.node_died if died else listener.node_left)(member.name)
        if bool(was_up) != member.is_up:
            for listener in self.listeners:
                listener.registry_changed()

    def _drop(self, name: str) -> None:
        """A member is not shown any more."""
        self._remembered.pop(name, None)
        self._up.pop(name, None)
        self.registry.liveness_changed()

    def flush(self) -> None:
        """Hand on what changed in the maps: whoever has changed them calls it."""
        changes = self.replicated.events()
        for change in changes:
            if isinstance(change, DuplicateIdentity) and not change.stays:
                self._end(self._duplicate("both publish as it, and the other one has the higher boot id"))
        for watch in self.watchers:
            watch(changes)
        if self.registry.apply(changes):
            self._registry_changed_at = self._environment.clock.now()
            for listener in self.listeners:
                listener.registry_changed()
        self._wake()
        if any(isinstance(change, Rebased) for change in changes):
            log.warning("peers held a later generation of this node's map; it was published anew")

    def _wake(self) -> None:
        """Let the driver look at what was begun; before it runs, it will look anyway."""
        if self._handle is not None:
            self._handle.wake()

    def _note_maps(self) -> None:
        self._maps_changed.set()

    def _duplicate(self, why: str) -> CaxtonError:
        return DuplicateIdentityError(
            f"another process runs as {self.node!r}",
            why=why,
            fix="Stop one of the two, or give this one a bundle of its own (caxton init --node NAME).",
        )

    def _check_place(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _end(self, failure: CaxtonError) -> None:
        """End this node: it has no place in the cluster any more."""
        self._failure = failure
        self._stop.set()

    async def _watch(self) -> None:
        """Hand on changes of the maps that come without a membership event."""
        while True:
            await self._maps_changed.wait()
            self._maps_changed = trio.Event()
            self.flush()
            await self._environment.clock.sleep(FLUSH_PAUSE_S)

    async def _publish_paths(self) -> None:
        """Tell the cluster whom this node cannot reach directly, when that changes, at most once a second."""
        while True:
            await self._paths_changed.wait()
            self._paths_changed = trio.Event()
            try:
                if self.reachability.publish(self.swim.lost_paths()):
                    self.flush()
            except StateError as error:
                log.warning("the others cannot be told whom this node cannot reach: %s", error)
            await self._environment.clock.sleep(reachability.PUBLISH_INTERVAL_S)

    async def _publish(self) -> None:
        """Begin to publish, once the peers have had a chance to say which generation they hold."""
        if self._config.cluster.seeds:
            with self._environment.clock.move_on_after(LEARN_BEFORE_PUBLISHING_S):
                await self._joined.wait()
        clock = self._environment.clock
        before = await self._memory.reserve_generation()
        self.replicated.start(before, clock.now(), clock.wall())
        self.revocations.apply_all()
        self.forgetting.apply_all()
        self.flush()

    async def _keep(self) -> None:
        """Write the snapshot now and then."""
        clock = self._environment.clock
        with clock.move_on_after(SNAPSHOT_INTERVAL_S):
            await self._met.wait()
            await clock.sleep(FIRST_SNAPSHOT_S)
        while True:
            await self._try_to_save()
            await clock.sleep(SNAPSHOT_INTERVAL_S)

    async def save(self) -> None:
        """Write the snapshot, and so what was just written to the cluster map.

        Raises:
            StorageFailed: it cannot be written.
        """
        expected = [m.name for m in self.swim.members() if m.state is not State.LEFT]
        expected += [name for name in self._remembered if self.is_lost(name)]
        await self._memory.save(expected)

    async def _try_to_save(self) -> None:
        """Write the snapshot; without one the next start is slower, and nothing else is lost."""
        try:
            await self.save()
        except StorageFailed as error:
            self._save_failures += 1
            log.warning("the cluster's snapshot could not be written: %s", error)

    def _uptime(self) -> float:
        return self._environment.clock.now() - self._started_at


_PATH_EVENTS = (events.PathLost, events.PathRestored, events.MemberDied, events.MemberLeft)
"""After these, whom this node cannot reach may be another set than before."""
