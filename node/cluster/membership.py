"""Membership of the cluster: runs the swim driver, and turns what it says into what the rooms above need.

It owns the replicated maps; what of them outlives the process is in `node.cluster.memory`.
"""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass
from typing import Any, Final, Protocol

import cbor2
import trio

from node.cluster.memory import Book, ClusterMemory
from node.cluster.registry import CapabilityRegistry
from node.config import NodeConfig
from node.environment import Address, Environment
from node.errors import AddressInUse, ConfigInvalid, DuplicateIdentityError, StorageFailed
from node.message import iso8601
from node.security.identity import NodeCredentials
from node.storage.storage import Storage
from swim import driver, events, strict_cbor
from swim.codec import MAX_META_BYTES
from swim.map_events import DuplicateIdentity, Rebased
from swim.members import Member, State
from swim.protocol import Swim
from swim.replicated import Replicated

log = logging.getLogger(__name__)

SNAPSHOT_INTERVAL_S: Final = 10.0
"""How often changed state is written to disk."""
LEARN_BEFORE_PUBLISHING_S: Final = 3.0
"""How long a node with seeds waits to hear what generation its peers hold of it."""
FLUSH_PAUSE_S: Final = 0.02
"""Pause after changes of the maps were handed on, so that a burst of them is handed on together."""
RECENT_EVENTS: Final = 256
"""Membership events kept for the admin API; the oldest goes first."""
RECENT_FAILURES: Final = 4
"""Of them, failures of one seed."""
VERSION_CHARACTERS: Final = 32
"""How much of a peer's software version is shown."""


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


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member as the admin API shows it.

    Args:
        name: Its certified name.
        state: alive, suspect, dead or left.
        address: Where it gossips.
        link_address: Where it takes peer links.
        incarnation: Of its latest own word.
        version: Of its software.
        is_self: Whether it is this node.
        last_heard_s: Seconds since this node itself heard from it.
        changed_s: Seconds since its state changed.
    """

    name: str
    state: str
    address: Address
    link_address: Address | None
    incarnation: int
    version: str
    is_self: bool
    last_heard_s: float
    changed_s: float

    def as_json(self) -> dict[str, Any]:
        """The member as one JSON object."""
        link = self.link_address
        return {
            "name": self.name,
            "state": self.state,
            "address": f"{self.address[0]}:{self.address[1]}",
            "link_address": f"{link[0]}:{link[1]}" if link else None,
            "incarnation": self.incarnation,
            "version": self.version,
            "self": self.is_self,
            "last_heard_seconds": round(self.last_heard_s, 3),
            "state_changed_seconds_ago": round(self.changed_s, 3),
        }


class Membership:
    """The cluster as this node sees it.

    Args:
        environment: Clock, chance, network.
        config: The node's configuration.
        credentials: Who this node is, and whom it trusts.
        storage: Where the snapshot lives.
        version: Of this software.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        config: NodeConfig,
        credentials: NodeCredentials,
        storage: Storage,
        version: str,
    ) -> None:
        self._environment, self._config = environment, config
        self._version = version
        self.node = credentials.name
        randomness = environment.randomness
        self.replicated = Replicated(
            credentials.identity,
            credentials.authority,
            rng=randomness.stream("maps"),
            entropy=randomness.token,
        )
        cluster = config.cluster
        self.swim = Swim(
            cluster.swim_config(credentials.cluster),
            credentials.identity,
            credentials.authority,
            (cluster.advertise_host or cluster.bind_host, cluster.bind_port),
            cbor2.dumps([0, version]),
            self.replicated,
            randomness.stream("swim"),
            entropy=randomness.token,
            gossip_keys=[credentials.gossip_key],
        )
        self._memory = ClusterMemory(storage, self.swim, self.replicated)
        self.registry = CapabilityRegistry(
            self.replicated, self.node, is_up=self.is_alive, is_lost=self.is_lost, flush=self._flush
        )
        self.listeners: list[MembershipListener] = []
        self._started_at = environment.clock.now()
        self._up: dict[str, bool] = {self.node: True}
        self._remembered: dict[str, None] = {}
        self._events: list[dict[str, Any]] = []
        self._joined = trio.Event()
        self._maps_changed = trio.Event()
        self.replicated.when_changed(self._note_maps)
        self._save_failures = 0
        self._handle: driver.SwimHandle | None = None
        self._superseded: str | None = None
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
        port = _meta(member.meta)[0]
        return (member.address[0], port) if port else None

    def members(self) -> list[MemberView]:
        """Every member known, this node included, sorted by name."""
        now = self._environment.clock.now()
        others = [self._view(member, now) for member in self.swim.members()]
        return sorted([*others, self._own_view()], key=lambda view: view.name)

    def recent_events(self) -> list[dict[str, Any]]:
        """The latest membership events, oldest first, at most 256; of one seed's failures the last 4."""
        return list(self._events)

    @property
    def joined(self) -> bool:
        """Whether a seed has answered, or none was given."""
        return self._joined.is_set() or not self._config.cluster.seeds

    @property
    def partition_state(self) -> str:
        """``majority``, ``minority`` or ``isolated``, measured against every member not known to have left.

        An exact half counts as a majority for the side that holds the lowest name.
        """
        known = sorted([self.node, *(m.name for m in self.swim.members() if m.state is not State.LEFT)])
        up = [name for name in known if self.is_alive(name)]
        if len(up) == 1 and len(known) > 1:
            return "isolated"
        has_majority = 2 * len(up) > len(known) or (2 * len(up) == len(known) and up[0] == known[0])
        return "majority" if has_majority else "minority"

    def statistics(self) -> dict[str, Any]:
        """Counters of swim, of the maps and of the registry."""
        return {
            "swim": (self._handle or self.swim).statistics(),
            "maps": self.replicated.statistics(),
            "registry": self.registry.statistics(),
            "memory": {**self._memory.statistics(), "failures": self._save_failures},
        }

    # Life

    def announce_link_port(self, port: int) -> None:
        """Say where this node takes peer links; it travels in its metadata."""
        self.swim.update_meta(cbor2.dumps([port, self._version]), self._environment.clock.now())

    async def run(self, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part in the cluster until cancelled or superseded; reports the bound address.

        Raises:
            AddressInUse: the gossip port is taken.
            DuplicateIdentityError: another process has this node's name and the better claim.
        """
        book, expected = await self._memory.load(self._environment.clock.wall())
        self._remembered = dict.fromkeys(expected)
        self.swim.remember(book)
        seeds = self._seeds(book)
        async with trio.open_nursery() as nursery:
            self._handle = await nursery.start(self._drive)
            if seeds:
                self._handle.join(seeds)
            task_status.started(self._handle.address)
            nursery.start_soon(self._publish)
            nursery.start_soon(self._keep)
            nursery.start_soon(self._watch)
            await self._stop.wait()
            nursery.cancel_scope.cancel()
        if self._superseded is not None:
            raise DuplicateIdentityError(
                f"another process runs as {self.node!r}",
                why=self._superseded,
                fix="Stop one of the two, or give this one a bundle of its own (caxton init --node NAME).",
            )

    async def leave(self) -> None:
        """Say goodbye, and return when it has been said often enough; :meth:`run` ends then."""
        await self._try_to_save()
        if self._handle is not None:
            with self._environment.clock.move_on_after(self.swim.config.leave_linger_s + 1.0):
                await self._handle.leave()
        self._stop.set()

    async def _drive(self, *, task_status: trio.TaskStatus[driver.SwimHandle]) -> None:
        cluster = self._config.cluster
        if cluster.bind_host in driver.UNSPECIFIED_HOSTS and cluster.advertise_host is None:
            raise ConfigInvalid(
                f"cluster.bind_host is {cluster.bind_host}, so peers cannot be told where this node is",
                why="a node bound to every address has to say by which one it is reached",
                fix="Set cluster.advertise_host to the address of this machine that peers use.",
                details={"key": "cluster.advertise_host"},
            )
        advertised = await self._advertised(cluster.advertise_host)
        try:
            await driver.run_swim(
                self.swim,
                network=self._environment.network,
                clock=self._environment.clock,
                bind=(cluster.bind_host, cluster.bind_port),
                advertise=(advertised, 0) if advertised else None,
                on_event=self._on_event,
                task_status=task_status,
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigInvalid(
                    f"cannot listen on {cluster.bind_host}:{cluster.bind_port}",
                    why=error.strerror or str(error),
                    fix="Set cluster.bind_host to an address of this machine, and cluster.bind_port.",
                    details={"key": "cluster.bind_port"},
                ) from None
            raise AddressInUse(
                f"port {cluster.bind_port} is taken on {cluster.bind_host}",
                why="another process listens there, by UDP or TCP",
                fix="Stop it, or set cluster.bind_port (0 takes a free one).",
                details={"key": "cluster.bind_port"},
            ) from None

    async def _advertised(self, host: str | None) -> str | None:
        """The IP address of a configured host: what peers are told, because they look up no names."""
        if host is None or driver.is_ip(host):
            return host
        try:
            found = await self._environment.network.resolve(host, self._config.cluster.bind_port)
        except OSError as error:
            raise ConfigInvalid(
                f"cluster.advertise_host is {host}, which has no address",
                why=str(error),
                fix="Set it to an IP address of this machine, or to a name that this machine can look up.",
                details={"key": "cluster.advertise_host"},
            ) from None
        is_v6 = ":" in self._config.cluster.bind_host
        addresses = [address for address, _ in found]
        return next((a for a in addresses if (":" in a) == is_v6), addresses[0])

    # Work

    def _on_event(self, event: events.Event) -> None:
        self._note(event)
        member = getattr(event, "member", None)
        if isinstance(event, events.Joined):
            self._joined.set()
        elif isinstance(event, events.DuplicateName):
            self._end(f"it listens on {event.address[0]}:{event.address[1]}")
        elif isinstance(member, Member) and member.name != self.node:
            self._on_member(event, member)
        self._flush()

    def _on_member(self, event: events.Event, member: Member) -> None:
        self._remembered.pop(member.name, None)
        if isinstance(event, events.MemberReaped):
            self._up.pop(member.name, None)
            return
        was_up, self._up[member.name] = self._up.get(member.name), member.is_up
        if member.is_up:
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

    def _flush(self) -> None:
        """Hand on what changed in the maps."""
        changes = self.replicated.events()
        for change in changes:
            if isinstance(change, DuplicateIdentity) and not change.stays:
                self._end("both publish under one name, and the other one has the higher boot id")
        if self.registry.apply(changes):
            for listener in self.listeners:
                listener.registry_changed()
        if self._handle is not None:
            self._handle.wake()
        if any(isinstance(change, Rebased) for change in changes):
            log.warning("peers held a later generation of this node's map; it was published anew")

    def _note_maps(self) -> None:
        self._maps_changed.set()

    def _end(self, why: str) -> None:
        self._superseded = why
        self._stop.set()

    async def _watch(self) -> None:
        """Hand on changes of the maps that come without a membership event."""
        while True:
            await self._maps_changed.wait()
            self._maps_changed = trio.Event()
            self._flush()
            await self._environment.clock.sleep(FLUSH_PAUSE_S)

    async def _publish(self) -> None:
        """Begin to publish, once the peers have had a chance to say which generation they hold."""
        if self._config.cluster.seeds:
            with self._environment.clock.move_on_after(LEARN_BEFORE_PUBLISHING_S):
                await self._joined.wait()
        clock = self._environment.clock
        before = await self._memory.reserve_generation()
        self.replicated.start(before, clock.now(), clock.wall())
        self._flush()

    async def _keep(self) -> None:
        """Write the snapshot now and then."""
        while True:
            await self._environment.clock.sleep(SNAPSHOT_INTERVAL_S)
            await self._try_to_save()

    async def _try_to_save(self) -> None:
        """Write the snapshot; without one the next start is slower, and nothing else is lost."""
        expected = [m.name for m in self.swim.members() if m.state is not State.LEFT]
        expected += [name for name in self._remembered if self.is_lost(name)]
        try:
            await self._memory.save(expected)
        except StorageFailed as error:
            self._save_failures += 1
            log.warning("the cluster's snapshot could not be written: %s", error)

    def _seeds(self, book: Book) -> list[str]:
        """The configured seeds and, as far as there is room, the members of the last run."""
        configured = self._config.cluster.seeds
        known = [f"{_bracketed(host)}:{port}" for _, (host, port) in book]
        return [*configured, *known[: max(0, self.swim.config.max_seeds - len(configured))]]

    def _note(self, event: events.Event) -> None:
        clock = self._environment.clock
        shown: dict[str, Any] = {"event": type(event).__name__, "time": iso8601(clock.wall())}
        match event:
            case events.SeedUnreachable(seed=seed, reason=reason, attempt=attempt, retry_in_s=pause):
                shown |= {"seed": seed, "reason": reason, "attempt": attempt}
                # A seed that is tried for ever must not push everything else out.
                failures = [earlier for earlier in self._events if earlier.get("seed") == seed]
                if len(failures) >= RECENT_FAILURES:
                    self._events.remove(failures[0])
                level = logging.DEBUG if attempt & (attempt - 1) else logging.WARNING  # 1, 2, 4, 8 ...
                log.log(level, "seed %s: %s (attempt %d, next in %.1f s)", seed, reason, attempt, pause)
            case events.Joined(seeds=seeds, members=members):
                shown |= {"seeds": list(seeds), "members": members}
                log.info("joined through %s: %d members", ", ".join(seeds) or "nobody", members)
            case events.MemberDied(member=member, author=author, silent_for_s=silent):
                shown |= {"node": member.name, "author": author, "silent_seconds": round(silent, 3)}
                log.warning("%s died: declared by %s, silent for %.1f s", member.name, author, silent)
            case _:
                subject = getattr(event, "member", None)
                shown["node"] = subject.name if isinstance(subject, Member) else None
                log.info("%s %s", type(event).__name__, shown["node"])
        self._events.append(shown)
        del self._events[:-RECENT_EVENTS]

    def _own_view(self) -> MemberView:
        own = self.swim.own
        port, version = _meta(own.meta)
        link = (own.host, port)
        return MemberView(
            self.node, "alive", own.address, link, own.incarnation, version, True, 0.0, self._uptime()
        )

    def _uptime(self) -> float:
        return self._environment.clock.now() - self._started_at

    def _view(self, member: Member, now: float) -> MemberView:
        port, version = _meta(member.meta)
        return MemberView(
            member.name,
            State(member.state).name.lower(),
            member.address,
            (member.address[0], port) if port else None,
            member.incarnation,
            version,
            False,
            max(0.0, now - member.last_heard),
            max(0.0, now - member.changed_at),
        )


def _meta(meta: bytes) -> tuple[int, str]:
    """Link port and version of a member; (0, "") if it says something else."""
    try:
        port, version = strict_cbor.decode(meta, max_bytes=MAX_META_BYTES)
    except (ValueError, TypeError):
        return 0, ""  # whatever a peer wrote
    if type(port) is not int or not 0 < port < 65_536 or type(version) is not str:
        return 0, ""
    return port, version[:VERSION_CHARACTERS] if version.isascii() and version.isprintable() else ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
