"""What a run measures beside what it demands: how long detections and agreement took, and what was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from simulations import production
from simulations.timeline import US_PER_S
from simulations.views import Views
from simulations.watcher import Watcher
from swim.events import Event, MemberDied, MemberSuspected

if TYPE_CHECKING:
    from simulations.members import MemberCluster, SimulatedMember

MAX_DETECTIONS: Final = 1_000_000
"""Detections that are kept of one run."""


class Measures(Watcher):
    """Measures a run.

    Args:
        cluster: Whose run.
        views: When they agree.

    Attributes:
        detections_s: For each crash and each member that declared it: seconds from the one to the other.
        false_deaths: Verdicts of members on others that ran, excused ones included; one on a member whose
            goodbye was lost is neither this nor a detection.
        suspicions: How often a member began to suspect another.
    """

    def __init__(self, cluster: MemberCluster, views: Views) -> None:
        self._cluster, self._views = cluster, views
        self._ended_us: dict[tuple[str, int, bytes], int | None] = {}
        self.detections_s: list[float] = []
        self.false_deaths = 0
        self.suspicions = 0

    def changed(self, what: str, member: SimulatedMember) -> None:
        """Note which lives have ended, and of crashes when."""
        if what in ("crashed", "left", "stopped"):
            life = (member.name, *production.own_version(member.swim)[:2])
            self._ended_us[life] = self._cluster.timeline.now_us if what == "crashed" else None

    def told(self, member: SimulatedMember, event: Event) -> None:
        """Note verdicts."""
        if isinstance(event, MemberSuspected):
            self.suspicions += 1
        elif isinstance(event, MemberDied):
            life = (event.member.name, *production.version_of(event.member)[:2])
            if life not in self._ended_us:
                self.false_deaths += 1
                return
            ended_us = self._ended_us[life]
            if ended_us is not None and len(self.detections_s) < MAX_DETECTIONS:
                self.detections_s.append((self._cluster.timeline.now_us - ended_us) / US_PER_S)

    def report(self, calm_us: int) -> dict[str, Any]:
        """All measures, as JSON has them.

        Args:
            calm_us: When the last fault of links ended.
        """
        agreed_us = self._views.agreed_us
        return {
            "detections": len(self.detections_s),
            **{f"detect_{name}_s": value for name, value in quantiles(self.detections_s).items()},
            "false_deaths": self.false_deaths,
            "suspicions": self.suspicions,
            "agreed_at_s": None if agreed_us is None else agreed_us / US_PER_S,
            "agreed_after_calm_s": None if agreed_us is None else max(0, agreed_us - calm_us) / US_PER_S,
            "wrong_views": self._views.wrong,
            **self._traffic(),
        }

    def _traffic(self) -> dict[str, Any]:
        machines = self._cluster.machines.values()
        packets: dict[str, int] = {}
        payload: dict[str, int] = {}
        for machine in machines:
            for kind, count in machine.traffic.packets.items():
                packets[kind] = packets.get(kind, 0) + count
            for kind, size in machine.traffic.payload_bytes.items():
                payload[kind] = payload.get(kind, 0) + size
        virtual_s = self._cluster.timeline.now() or 1.0
        per_member = sum(payload.values()) / max(1, len(machines)) / virtual_s
        return {
            "sent_bytes_per_member_s": round(per_member, 1),
            "packets": dict(sorted(packets.items())),
            "payload_bytes": dict(sorted(payload.items())),
        }


def quantiles(values: list[float]) -> dict[str, float]:
    """The median, the 99th percentile and the largest of some values; nothing of none."""
    if not values:
        return {}
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "p50": ordered[round(last * 0.5)],
        "p99": ordered[round(last * 0.99)],
        "max": ordered[last],
    }
