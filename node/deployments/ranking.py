"""Where the replicas of a deployment belong: a pure function of who is there and what they say.

Rendezvous hashing: each node has a rank for each deployment that depends on nothing but their two names,
so all nodes that see the same make the same choice without asking each other, and whoever comes or goes
moves the replicas that it gets or had, and no others. (Thaler and Ravishankar, 1998.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from node.deployments.desired import Desired
from node.deployments.facts import NodeFacts
from node.labels import lacking

RANKS_REMEMBERED: Final = 65_536
"""Ranks that are not computed again: those of all deployments of a large cluster."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where one deployment belongs.

    Args:
        chosen: The nodes that run it, the first first.
        spare: The node that is next, and holds the package in advance; empty for none.
        excluded: Why the others cannot run it, by node.
    """

    chosen: tuple[str, ...] = ()
    spare: str = ""
    excluded: Mapping[str, str] = field(default_factory=dict)


@lru_cache(maxsize=RANKS_REMEMBERED)
def rank(agent: str, node: str) -> bytes:
    """The rank of a node for a deployment; the highest are chosen."""
    return blake2b(f"{agent}\0{node}".encode(), digest_size=16).digest()


def ranked(agent: str, nodes: Iterable[str]) -> list[str]:
    """Nodes by their rank for a deployment, the first first."""
    return sorted(nodes, key=lambda node: (rank(agent, node), node), reverse=True)


def plan(desired: Desired, nodes: Mapping[str, NodeFacts | None], failed: Mapping[str, str]) -> Plan:
    """Where a deployment belongs.

    Args:
        desired: The deployment.
        nodes: Who is there, and what they say of themselves; None for nothing.
        failed: Nodes that could not run this very package, and why.
    """
    excluded: dict[str, str] = {}
    for node, facts in nodes.items():
        if facts is None:
            excluded[node] = "it has not said that it takes replicas"
        elif not facts.takes:
            excluded[node] = "it takes no replicas"
        elif lack := lacking(desired.requires, facts.labels, node):
            excluded[node] = "it lacks " + ", ".join(f"{name}={value}" for name, value in lack)
        elif node in failed:
            excluded[node] = f"it could not run it: {failed[node]}"
    eligible = ranked(desired.agent, [node for node in nodes if node not in excluded])
    count = desired.replicas
    spare = eligible[count] if count and len(eligible) > count else ""
    return Plan(tuple(eligible[:count]), spare, excluded)


def meets(desired: Desired, facts: NodeFacts | None, node: str) -> bool:
    """Whether a node has what a deployment requires."""
    return facts is not None and not lacking(desired.requires, facts.labels, node)


def all_run(nodes: Collection[str], desired: Desired, runs: Mapping[str, str]) -> bool:
    """Whether these nodes, and at least one, run the package that is desired."""
    return bool(nodes) and all(runs.get(node) == desired.short for node in nodes)
