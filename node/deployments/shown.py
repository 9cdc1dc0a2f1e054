"""A deployment as the public API shows it: what is desired, where it runs, and why not elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from node.deployments.desired import PREFIX, Desired, decode
from node.deployments.facts import Report
from node.deployments.placing import Placing, View
from node.deployments.ranking import Plan
from node.labels import labels_shown
from node.message import iso8601
from swim.cluster_map import Lost
from swim.hlc import wall_of


def shown(
    desired: Desired, core: Placing, view: View, stamp: int, conflicts: Sequence[Lost]
) -> dict[str, Any]:
    """One deployment, JSON values only.

    Args:
        desired: What is wanted.
        core: Says where it belongs.
        view: What this node sees.
        stamp: Of the register.
        conflicts: Concurrent writes of it that lost.
    """
    reports = dict(view.reports.get(desired.agent, {}))
    reports[core.node] = core.report(desired.agent)
    there = {node: reports.get(node, Report()) for node in sorted(view.up)}
    plan = core.plans.get(desired.agent, Plan())
    nodes = [_replica(node, desired, core, plan, there) for node in _concerned(desired, plan, there)]
    running = sum(report.runs == desired.short for report in there.values())
    why = _why(desired, core, view, plan, there)
    extra = any(node["state"] in ("extra", "outdated") for node in nodes)
    state = "running" if running >= desired.replicas and not extra else "changing"
    if state == "changing" and why:
        state = "short"
    return {
        "agent": desired.agent,
        "name": desired.name,
        "version": desired.version,
        "digest": desired.digest,
        "size_bytes": desired.size,
        "replicas": desired.replicas,
        "running": running,
        "state": state,
        "why": why or None,
        "nodes": nodes,
        "excluded": [{"node": node, "why": reason} for node, reason in plan.excluded.items()],
        "spare": plan.spare or None,
        "requires": labels_shown(desired.requires),
        "priority": desired.priority,
        "minority": desired.minority,
        "by": desired.by,
        "revision": str(stamp),
        "updated_at": iso8601(wall_of(stamp)),
        "conflicts": [_lost(lost) for lost in conflicts],
    }


def _concerned(desired: Desired, plan: Plan, there: dict[str, Report]) -> list[str]:
    """Where it belongs, in the order of the ranking, and then where else something of it is."""
    others = [
        node
        for node, report in sorted(there.items())
        if node not in plan.chosen and (report.runs or report.failed == desired.short)
    ]
    return [*plan.chosen, *others]


def _replica(
    node: str, desired: Desired, core: Placing, plan: Plan, there: dict[str, Report]
) -> dict[str, Any]:
    report, why = there.get(node), ""
    if report is None:
        state, why = "lost", "it is not up; its replica moves when that has lasted"
    elif node not in plan.chosen and report.runs:
        state, why = "extra", "it belongs elsewhere, and stops when those run it"
    elif report.runs == desired.short:
        state = "running"
    elif report.runs:
        state, why = "outdated", "it runs an earlier package until its turn comes"
    elif report.failed == desired.short:
        state, why = "failed", report.code
    else:
        state = "starting"
        why = core.why_waiting(desired.agent) if node == core.node else ""
    if report is not None and report.failed == desired.short and state in ("outdated", "extra"):
        why = f"it could not run the new package: {report.code}"
    return {"node": node, "state": state, "why": why or None}


def _why(desired: Desired, core: Placing, view: View, plan: Plan, there: dict[str, Report]) -> str:
    """Why not all run that are wanted, as far as it can be told here."""
    if desired.replicas == 0:
        return ""
    if not core.is_sure:
        return f"{core.node} sees no majority of the cluster, or not for long enough: nothing is started here"
    if len(plan.chosen) < desired.replicas:
        able = len(plan.chosen) or "none"
        return f"of {len(view.up)} nodes {able} can run it, and {desired.replicas} are wanted"
    if not any(report.holds == desired.short for report in there.values()):
        return "its package is on no node that is up"
    return ""


def _lost(lost: Lost) -> dict[str, Any]:
    found = None if lost.value is None else decode(PREFIX + lost.key.removeprefix(PREFIX), lost.value)
    return {
        "author": lost.author,
        "written_at": iso8601(wall_of(lost.stamp)),
        "deleted": lost.value is None,
        "replicas": None if found is None else found.replicas,
        "digest": None if found is None else found.digest,
    }
