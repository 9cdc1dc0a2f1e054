"""What the cluster has said of deployments, kept up by the events of the replicated maps.

Nothing is stored twice: these are indexes over the maps, built anew when events were lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from node.deployments import desired, facts
from node.deployments.desired import Desired
from node.deployments.facts import NodeFacts, Offer, Report
from swim.cluster_map import Lost
from swim.map_events import ClusterChanged, EntryChanged, EventsLost, MapEvent


class Maps(Protocol):
    """The part of the replicated maps that is needed here (``swim.replicated.Replicated``)."""

    def put_many(self, changes: Mapping[str, bytes | None], wall: float) -> None:
        """Change entries of the own map, all or nothing; None removes."""
        ...

    def entries(self, prefix: str = "") -> Iterator[tuple[str, str, bytes]]:
        """All (owner, key, value) below ``prefix``."""
        ...

    def cluster_get(self, key: str) -> bytes | None:
        """The value of a register, None if it has none."""
        ...

    def cluster_stamp(self, key: str) -> int:
        """The stamp of its last write, 0 if none is known."""
        ...

    def cluster_entries(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """All registers below ``prefix`` that have a value."""
        ...

    def conflicts(self, key: str) -> list[Lost]:
        """The concurrent writes of a register that lost."""
        ...

    def cluster_put(self, key: str, value: bytes, wall: float, based_on: int | None = None) -> int:
        """Write a register; returns the stamp."""
        ...

    def cluster_delete(self, key: str, wall: float, based_on: int | None = None) -> int | None:
        """Delete a register; returns the stamp, None if it had no value."""
        ...


class Said:
    """What was said, by whom.

    Args:
        maps: The replicated maps.

    Attributes:
        desired: The deployments, by agent.
        facts: What nodes say of themselves.
        reports: What nodes say of deployments: agent -> node -> report.
        offers: Memories that are offered: agent -> node that has it -> offer.
        taken: The lists of parts that were taken: by agent, node that took them, and node that had them.
        malformed: Values that could not be read.
    """

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self.desired: dict[str, Desired] = {}
        self.facts: dict[str, NodeFacts] = {}
        self.reports: dict[str, dict[str, Report]] = {}
        self.offers: dict[str, dict[str, Offer]] = {}
        self.taken: dict[tuple[str, str, str], str] = {}
        self.malformed = 0
        self._rebuild()

    def apply(self, events: Sequence[MapEvent]) -> bool:
        """Take in what changed in the maps; says whether anything of it is about deployments."""
        changed = False
        for event in events:
            if isinstance(event, ClusterChanged) and event.key.startswith(desired.PREFIX):
                self._set_desired(event.key, event.value)
            elif isinstance(event, EntryChanged) and event.key == facts.NODE_KEY:
                self._set_facts(event.owner, event.value)
            elif isinstance(event, EntryChanged) and event.key.startswith(facts.REPLICA_PREFIX):
                self._set_report(event.owner, event.key, event.value)
            elif isinstance(event, EntryChanged) and event.key.startswith(facts.HANDOVER_PREFIX):
                self._set_offer(event.owner, event.key, event.value)
            elif isinstance(event, EntryChanged) and event.key.startswith(facts.TAKEN_PREFIX):
                self._set_taken(event.owner, event.key, event.value)
            elif isinstance(event, EventsLost):
                self._rebuild()
            else:
                continue
            changed = True
        return changed

    def is_withdrawn(self, agent: str) -> bool:
        """Whether the deployment of an agent is known to have been deleted, rather than not known."""
        key = desired.PREFIX + agent
        return self._maps.cluster_get(key) is None and self._maps.cluster_stamp(key) > 0

    def _rebuild(self) -> None:
        self.desired, self.facts, self.reports = {}, {}, {}
        self.offers, self.taken = {}, {}
        for key, value in self._maps.cluster_entries(desired.PREFIX):
            self._set_desired(key, value)
        for owner, _, value in self._maps.entries(facts.NODE_KEY):
            self._set_facts(owner, value)
        for owner, key, value in self._maps.entries(facts.REPLICA_PREFIX):
            self._set_report(owner, key, value)
        for owner, key, value in self._maps.entries(facts.HANDOVER_PREFIX):
            self._set_offer(owner, key, value)
        for owner, key, value in self._maps.entries(facts.TAKEN_PREFIX):
            self._set_taken(owner, key, value)

    def _set_desired(self, key: str, value: bytes | None) -> None:
        found = None if value is None else desired.decode(key, value)
        if found is not None:
            self.desired[found.agent] = found
            return
        self.malformed += value is not None
        self.desired.pop(key.removeprefix(desired.PREFIX), None)

    def _set_facts(self, owner: str, value: bytes | None) -> None:
        found = None if value is None else facts.decode_facts(value)
        if found is not None:
            self.facts[owner] = found
            return
        self.malformed += value is not None
        self.facts.pop(owner, None)

    def _set_report(self, owner: str, key: str, value: bytes | None) -> None:
        agent = key.removeprefix(facts.REPLICA_PREFIX)
        found = None if value is None else facts.decode_report(value)
        if found is not None:
            self.reports.setdefault(agent, {})[owner] = found
            return
        self.malformed += value is not None
        held = self.reports.get(agent, {})
        held.pop(owner, None)
        if not held:
            self.reports.pop(agent, None)

    def _set_offer(self, owner: str, key: str, value: bytes | None) -> None:
        agent = key.removeprefix(facts.HANDOVER_PREFIX)
        found = None if value is None else facts.decode_offer(value)
        if found is not None:
            self.offers.setdefault(agent, {})[owner] = found
            return
        self.malformed += value is not None
        held = self.offers.get(agent, {})
        held.pop(owner, None)
        if not held:
            self.offers.pop(agent, None)

    def _set_taken(self, owner: str, key: str, value: bytes | None) -> None:
        agent, _, source = key.removeprefix(facts.TAKEN_PREFIX).partition("/")
        found = "" if value is None else facts.decode_taken(value)
        if found:
            self.taken[agent, owner, source] = found
            return
        self.malformed += value is not None
        self.taken.pop((agent, owner, source), None)
