"""Replicated maps that all members of a simulated cluster hold in full from the start.

Each member owns some entries, as the capability registry has them. One member receives the units of all, and
the others adopt what it holds, so that a thousand members with a thousand maps share their units.
"""

from __future__ import annotations

from typing import Final

from benchmarks.swim import runs
from simulations.members import MemberCluster
from simulations.timeline import EPOCH_S
from swim.replicated import SWEEP_INTERVAL_S, Replicated
from swim.unit_reader import UnitReader

VALUE_BYTES: Final = 40
"""Of an entry, about: capabilities, versions, priority and health of an agent."""
ALL_BYTES: Final = 1 << 20


class SharedMaps:
    """The maps of members that are about to start, by name.

    Args:
        members: How many there are.
        entries: How many each of them owns.

    Attributes:
        held: The maps, filled by :meth:`fill`.
    """

    def __init__(self, members: int, entries: int) -> None:
        self._names = runs.names(members)
        self._entries = entries
        self._reader = UnitReader(max(1_000, 4 * members, members * entries // 2))
        self.held: dict[str, Replicated] = {}

    def of(self, name: str) -> Replicated:
        """The map of a member, as `MemberCluster` asks for it."""
        return self.held[name]

    def fill(self, cluster: MemberCluster) -> None:
        """Let each member of a cluster that has not started publish its entries, and all hold them."""
        for name in self._names:
            chance = cluster.timeline.stream(name, "map")
            made = Replicated(
                runs.identities().of(name),
                runs.identities().authority,
                rng=chance,
                entropy=chance.randbytes,
                reader=self._reader,
            )
            for number in range(self._entries):
                made.put(f"agent/{name}-w{number}/1.0.0", chance.randbytes(VALUE_BYTES))
            clock = cluster.machine(name).clock
            made.start(0, clock.local(0) - chance.uniform(0, SWEEP_INTERVAL_S), EPOCH_S)
            self.held[name] = made
        first = self.held[self._names[0]]
        for name in self._names:
            first.admit_owner(name, EPOCH_S)
            for frame in self.held[name].bulk_units(first.bulk_digest()):
                first.bulk_receive(name, frame, 0.0, EPOCH_S)
        for made in self.held.values():
            if made is not first:
                made.adopt(first)
            while made.queued():  # everybody has heard it
                made.broadcasts(ALL_BYTES, 1)
            made.events()
        roots = {made.root() for made in self.held.values()}
        if len(roots) != 1:
            raise RuntimeError(f"the maps have {len(roots)} different roots")
