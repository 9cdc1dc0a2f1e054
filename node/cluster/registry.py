"""The capability registry: a view on the owner maps of the cluster, and this node's entries in its own.

Each node writes only its own agents, under ``agent/<id>/<version>``; what the others offer is read from
their maps. Nothing is stored twice: the view is an index by capability, kept up by the maps' events, and
built anew when events were lost. A node that membership does not show as up offers nothing, whatever its
map still says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Final, Protocol

import cbor2

from node.cluster.provider import MAILBOX, MINORITY_POLICIES, Minority, Offer, Provider, Subscription
from node.cluster.subscriptions import Subscriptions
from node.cluster.versions import base_name, best_offer, split
from node.environment import Clock
from node.errors import ResourceLimitExceeded, ValidationFailed, nearest
from node.labels import Labels, check_labels
from node.message import check_capability
from node.predicates import check_predicate
from node.topics import check_pattern, is_topic
from swim import strict_cbor
from swim.map_events import EntryChanged, EventsLost, MapEvent
from swim.units import MAX_BUCKET_BYTES

PREFIX: Final = "agent/"
CAPABILITIES_LIMIT: Final = 64
"""Most capabilities of one agent that are believed."""
RTT_KEPT_S: Final = 10.0
"""How long the round trip to a node is taken for what it was, in seconds: coordinates move slowly."""
RTTS_LIMIT: Final = 10_000
"""Most nodes whose round trip is remembered."""
SUBSCRIPTIONS_LIMIT: Final = 16
"""Most subscriptions of one agent that are believed."""
RELATED_LIMIT: Final = 5
"""Most related capabilities that are named to a sender whose capability nobody has."""
VALUES_REMEMBERED: Final = 4096
"""Values of entries that are remembered: those of one definition on many nodes are the same."""

_HEALTH_STEPS: Final = 255
_MALFORMED: Final = (ValidationFailed, ValueError, TypeError)


class Maps(Protocol):
    """The part of the replicated maps this view needs (``swim.replicated.Replicated``)."""

    def put(self, key: str, value: bytes, wall: float) -> None:
        """Set an entry of the own map; ``wall`` is when, in seconds since the epoch."""
        ...

    def delete(self, key: str, wall: float) -> None:
        """Remove an entry of the own map."""
        ...

    def put_many(self, changes: Mapping[str, bytes | None], wall: float) -> None:
        """Change entries of the own map, all or nothing; None removes."""
        ...

    def check(self, changes: Mapping[str, bytes | None]) -> None:
        """Raise what :meth:`put_many` would raise now."""
        ...

    def owners(self) -> list[str]:
        """The nodes whose maps are held, in order."""
        ...

    def get(self, owner: str, key: str) -> bytes | None:
        """A node's value for a key, None if it has none."""
        ...

    def entries(self, prefix: str = "") -> Iterator[tuple[str, str, bytes]]:
        """All (owner, key, value) below ``prefix``."""
        ...

    def set_load(self, vector: bytes, now: float) -> None:
        """Publish the own load vector."""
        ...

    def load(self, owner: str) -> bytes | None:
        """The latest load vector of a node."""
        ...


def offers(provider: Provider, capability: str) -> bool:
    """Whether a provider offers ``capability``; a version, when one is asked for, must match."""
    return best_offer(provider.capabilities, capability) is not None


class CapabilityRegistry:
    """Who offers what, cluster-wide.

    Args:
        maps: The replicated maps.
        node: This node's name.
        is_up: Whether membership holds a node to be up.
        is_lost: Whether it holds a node to be dead: not up, but not gone by its own word either.
        flush: Called after a change of the own map, so that the change is handed on at once.
        clock: Dates changes, from which peers tell how long they were on their way.
        rtt: Estimates the round trip to a node in seconds; None if it is not known.
    """

    def __init__(
        self,
        maps: Maps,
        node: str,
        *,
        is_up: Callable[[str], bool],
        is_lost: Callable[[str], bool],
        flush: Callable[[], None],
        clock: Clock,
        rtt: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        self._maps, self._node, self._flush = maps, node, flush
        self._is_up, self._is_lost, self._clock = is_up, is_lost, clock
        self._own: dict[str, str] = {}
        self._entries: dict[tuple[str, str], Provider] = {}
        self._by_capability: dict[str, dict[tuple[str, str], Provider]] = {}
        self._by_agent: dict[str, dict[tuple[str, str], Provider]] = {}
        self._changes = self._changed_for_all = 0
        self._changed: dict[str, int] = {}
        self._rtt = rtt
        self._rtts: dict[str, tuple[float | None, float]] = {}
        self._subscriptions = Subscriptions()
        self._topics_changed = 0
        self._malformed = 0

    # What this node offers

    def publish(
        self,
        agent: str,
        *,
        version: str,
        capabilities: tuple[str, ...],
        priority: int,
        health: float,
        topics: tuple[Subscription, ...] = (),
        accepts: str = "",
        minority: Minority = "serve",
        labels: Labels = (),
    ) -> None:
        """Offer these capabilities and subscribe to these topics from now on, or change that.

        Raises:
            ResourceLimitExceeded: the entry does not fit into the map.
        """
        more = (topics, accepts, minority, labels)
        self.publish_many((Offer(agent, version, capabilities, priority, health, *more),))

    def publish_many(self, offers: Sequence[Offer]) -> None:
        """Offer all of this from now on, as one change of the map, or none of it.

        The cost is one signature for each bucket that changes: of two thousand agents, a hundred and thirty.

        Raises:
            ResourceLimitExceeded: the entries do not fit into the map, and none of them is published.
        """
        keys = {offer.agent: _key(offer) for offer in offers}
        with _refusals(offers):
            self._maps.put_many(_entries(offers), self._clock.wall())
        earlier = ((self._own.get(agent), key) for agent, key in keys.items())
        gone = {old: None for old, key in earlier if old is not None and old != key}
        if gone:  # afterwards, so that an agent is offered all the time
            self._maps.put_many(gone, self._clock.wall())
        self._own.update(keys)
        self._flush()

    def check(self, offer: Offer) -> None:
        """Raise what it would raise to publish this now, and change nothing.

        Raises:
            ResourceLimitExceeded: the entry does not fit into the map.
        """
        with _refusals((offer,)):
            self._maps.check(_entries((offer,)))

    def withdraw(self, *agents: str) -> None:
        """Offer nothing of these any more."""
        keys = [self._own.pop(agent, None) for agent in agents]
        gone = {key: None for key in keys if key is not None}
        if gone:
            self._maps.put_many(gone, self._clock.wall())
            self._flush()

    def set_load(self, load: float, now: float) -> None:
        """Tell the cluster how busy this node is, 0.0 to 1.0, in steps of 1/16."""
        step = min(16, max(0, math.ceil(load * 16)))
        self._maps.set_load(bytes([step * 15]), now)
        self._flush()

    # What the cluster offers

    def version(self, wanted: str) -> int:
        """A number that grows when what is said of a capability or agent may change, but for loads."""
        changed = self._changed.get(split(wanted)[0], 0)
        return max(changed, self._changed_for_all)

    def providers(self, capability: str) -> list[Provider]:
        """All that offer ``capability``, sorted by (node, agent).

        A version, when one is asked for, must match; see :mod:`node.cluster.versions`.
        """
        name, version = split(capability)
        held = self._by_capability.get(name, {})
        found = (held[key] for key in sorted(held) if self._is_up(key[0]))
        now = self._clock.now()
        return [self._as_seen(p, now) for p in found if not version or offers(p, capability)]

    def instances(self, agent: str) -> list[Provider]:
        """All instances of the agent of that id, sorted by node."""
        found, now = self._by_agent.get(agent, {}), self._clock.now()
        return [self._as_seen(found[key], now) for key in sorted(found) if self._is_up(key[0])]

    def topics_version(self) -> int:
        """A number that grows when others may subscribe to a topic than before."""
        return max(self._topics_changed, self._changed_for_all)

    def subscribers(self, topic: str) -> list[Provider]:
        """All that subscribe to ``topic``, sorted by (node, agent)."""
        entries = [self._entries[key] for key in self._subscriptions.holders(topic)]
        found, now = {(p.node, p.agent): p for p in entries}, self._clock.now()
        return [self._as_seen(found[where], now) for where in sorted(found) if self._is_up(where[0])]

    def expects(self, wanted: str) -> bool:
        """Whether a node that died, and may come back, offers this capability or runs this agent."""
        offering = self._by_capability.get(base_name(wanted), {}).values()
        running = self._by_agent.get(wanted, {}).values()
        return any(self._is_lost(p.node) for p in (*(p for p in offering if offers(p, wanted)), *running))

    def minority(self, capability: str) -> Minority:
        """The strictest policy for minorities of all that offer ``capability``, here or on a lost node."""
        held = self._by_capability.get(base_name(capability), {}).values()
        there = [p for p in held if self._is_up(p.node) or self._is_lost(p.node)]
        policies = [p.minority for p in there if offers(p, capability)]
        return max(policies, key=MINORITY_POLICIES.index, default="serve")

    def capabilities(self) -> list[tuple[str, list[Provider]]]:
        """Every capability that is offered now, sorted by name, with its providers."""
        found = [(name, self.providers(name)) for name in sorted(self._by_capability)]
        return [(name, providers) for name, providers in found if providers]

    def related(self, capability: str) -> list[tuple[str, int]]:
        """Capabilities with a name like this one, and how many agents offer each."""
        words = set(base_name(capability).split("-"))
        offered = dict(self.capabilities())
        close = [name for name in offered if words & set(name.split("-"))]
        guess = nearest(base_name(capability), offered)
        if guess is not None and guess not in close:
            close.insert(0, guess)
        return [(name, len(offered[name])) for name in close[:RELATED_LIMIT]]

    # Keeping up

    def apply(self, events: Sequence[MapEvent]) -> bool:
        """Take in what changed in the maps; returns whether anything a router cares about did."""
        changed = False
        for event in events:
            if isinstance(event, EntryChanged) and event.key.startswith(PREFIX):
                self._set((event.owner, event.key), event.value)
                changed = True
            elif isinstance(event, EventsLost):
                self._rebuild()
                changed = True
        return changed

    def liveness_changed(self) -> None:
        """A node is up now, or is not any more: what it offers counts, or does not."""
        self._changes += 1
        self._changed_for_all = self._changes

    def statistics(self) -> dict[str, int]:
        """Counts of entries and of what was not believed."""
        return {
            "entries": len(self._entries),
            "capabilities": len(self._by_capability),
            "own_agents": len(self._own),
            "subscriptions": len(self._subscriptions),
            "malformed_entries": self._malformed,
            "round_trips": len(self._rtts),
            "round_trips_limit": RTTS_LIMIT,
        }

    def _rebuild(self) -> None:
        for held in sorted(self._entries):
            self._set(held, None)
        for owner, key, value in self._maps.entries(PREFIX):
            self._set((owner, key), value)

    def _set(self, key: tuple[str, str], value: bytes | None) -> None:
        self._changes += 1
        gone = self._entries.pop(key, None)
        if gone is not None:
            for name in _base_names(gone.capabilities):
                self._drop(self._by_capability, name, gone)
            self._drop(self._by_agent, gone.agent, gone)
            for pattern, _ in gone.topics:
                self._subscriptions.remove(pattern, key)
        provider = None if value is None else self._decode(key, value)
        if provider is not None:
            self._entries[key] = provider
            for name in _base_names(provider.capabilities):
                self._by_capability.setdefault(name, {})[(provider.node, provider.agent)] = provider
            if provider.version != MAILBOX:  # which is addressed with its node, or by a topic
                self._by_agent.setdefault(provider.agent, {})[(provider.node, provider.agent)] = provider
            for pattern, _ in provider.topics:
                self._subscriptions.add(pattern, key)
        for concerned in (gone, provider):
            if concerned is not None:
                self._note_change(concerned)
                if concerned.topics:
                    self._topics_changed = self._changes

    def _note_change(self, provider: Provider) -> None:
        """Give new versions to the names that an entry had or has; no more are kept than there are names."""
        own = () if provider.version == MAILBOX else (provider.agent,)
        for name in (*own, *_base_names(provider.capabilities)):
            if name in self._by_capability or name in self._by_agent:
                self._changed[name] = self._changes
            else:
                self._changed.pop(name, None)
                self._changed_for_all = self._changes

    @staticmethod
    def _drop(index: dict[str, dict[tuple[str, str], Provider]], name: str, gone: Provider) -> None:
        held, where = index.get(name, {}), (gone.node, gone.agent)
        if held.get(where) is not gone:
            return  # the entry of another version of the agent has taken its place
        del held[where]
        if not held:
            del index[name]

    def _decode(self, key: tuple[str, str], value: bytes) -> Provider | None:
        """Read an entry another node wrote: signed, so it is its word, but not therefore well-formed."""
        owner, path = key
        said = _read(value)
        agent, slash, version = path.removeprefix(PREFIX).partition("/")
        if said is None or not slash or "/" in version or not (agent.isascii() and path.isprintable()):
            self._malformed += 1
            return None
        return Provider(
            *(agent, owner, version, said.capabilities, said.priority, said.health),
            topics=said.topics,
            accepts=said.accepts,
            minority=said.minority,
            labels=said.labels,
        )

    def _as_seen(self, provider: Provider, now: float) -> Provider:
        """An entry with the load that its node told last, and how far that is."""
        vector = self._maps.load(provider.node)
        p, load, rtt_s = provider, vector[0] / 240 if vector else 0.0, self._rtt_to(provider.node, now)
        if not load and rtt_s is None:
            return p
        return Provider(
            *(p.agent, p.node, p.version, p.capabilities, p.priority, p.health),
            *(load, rtt_s, p.topics, p.accepts, p.minority, p.labels),
        )

    def _rtt_to(self, node: str, now: float) -> float | None:
        if node == self._node:
            return 0.0
        rtt_s, until = self._rtts.get(node, (None, now))
        if now >= until:
            rtt_s = self._rtt(node)
            if len(self._rtts) >= RTTS_LIMIT:
                self._rtts.clear()
            self._rtts[node] = rtt_s, now + RTT_KEPT_S
        return rtt_s


def _key(offer: Offer) -> str:
    return f"{PREFIX}{offer.agent}/{offer.version}"


def _entries(offers: Sequence[Offer]) -> dict[str, bytes]:
    """What these offers are in the map."""
    return {_key(offer): _value(offer) for offer in offers}


def _value(offer: Offer) -> bytes:
    said = [list(offer.capabilities), offer.priority, round(offer.health * _HEALTH_STEPS)]
    more: list[object] = [[list(topic) for topic in offer.topics], offer.accepts, offer.minority]
    more.append([list(label) for label in offer.labels])
    while more and more[-1] in ([], "", "serve"):  # what says nothing takes no room
        more.pop()
    return cbor2.dumps([*said, *more])


@contextmanager
def _refusals(offers: Sequence[Offer]) -> Iterator[None]:
    """Say of which agents it is, and what to do, when the map does not take them."""
    try:
        yield
    except Exception as error:
        if getattr(error, "code", "") != "entry_too_large":
            raise
        one = offers[0].agent if len(offers) == 1 else None
        what = f"the agent {one!r} cannot be" if one is not None else f"{len(offers)} agents cannot all be"
        raise ResourceLimitExceeded(
            f"{what} announced to the cluster",
            why=str(error),
            fix="Offer fewer capabilities or topics, or give them and `accepts` shorter texts.",
        ) from error


@lru_cache(maxsize=VALUES_REMEMBERED)
def _read(value: bytes) -> Offer | None:
    """What an entry says, but for agent and version; None if it is not well-formed."""
    try:
        capabilities, priority, health, *more = strict_cbor.decode(value, max_bytes=MAX_BUCKET_BYTES)
        names = tuple(check_capability(name) for name in capabilities)
        topics = _topics(*more[:1])
        accepts = _accepts(*more[1:2])
        minority = _minority(*more[2:3])
        labels = _labels(*more[3:])
    except _MALFORMED:
        return None
    if (
        type(capabilities) is list
        and type(priority) is type(health) is int
        and len(names) + len(topics) > 0
        and len(names) <= CAPABILITIES_LIMIT
        and 0 <= priority <= 1000
        and 0 <= health <= _HEALTH_STEPS
    ):
        return Offer("", "", names, priority, health / _HEALTH_STEPS, topics, accepts, minority, labels)
    return None


@lru_cache(maxsize=VALUES_REMEMBERED)
def _base_names(capabilities: tuple[str, ...]) -> tuple[str, ...]:
    return tuple({base_name(capability): None for capability in capabilities})


def _accepts(found: object = "") -> str:
    """The predicate of an entry, which is compiled once here.

    Raises:
        ValidationFailed: it is none.
    """
    return "" if found == "" else check_predicate(found)


def _minority(found: object = "serve") -> Minority:
    """The policy of an entry.

    Raises:
        ValueError: it is none.
    """
    for policy in MINORITY_POLICIES:
        if found == policy:
            return policy
    raise ValueError("not a policy")


def _labels(found: object = ()) -> Labels:
    """The labels of an entry.

    Raises:
        ValidationFailed: they are none.
    """
    return check_labels(found)


def _topics(found: object = ()) -> tuple[Subscription, ...]:
    """The subscriptions of an entry.

    Raises:
        ValueError: they are not well-formed, or too many.
    """
    if not isinstance(found, list | tuple) or len(found) > SUBSCRIPTIONS_LIMIT:
        raise ValueError("not a list of subscriptions")
    topics = []
    for pattern, group in found:
        if group != "" and not is_topic(group):
            raise ValueError("not a group")
        topics.append((check_pattern(pattern), group))
    return tuple(topics)
