"""Walks along relations of the graph, level by level and within the same bounds as in the file.

Cypher's own variable-length patterns visit an entity once for every way to it, and cannot stop at a number
of entities; a statement for each level can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from node.memory.backends.neo4j.graph_schema import Reach, all_of, at_time, of_types
from node.memory.backends.neo4j.reading import ask, entities, find, observations
from node.memory.graph import (
    WALK_OBSERVATIONS_LIMIT,
    Direction,
    Edge,
    Graph,
    Node,
    Order,
    Path,
    Walk,
)

if TYPE_CHECKING:
    from neo4j import ManagedTransaction

_Met = dict[str, Any]
"""A relation with its ends ``source`` and ``target``."""


@dataclass(slots=True)
class _Walker:
    """A walk under way; entities and relations by their ids."""

    tx: ManagedTransaction
    reach: Reach
    way: Walk
    now_s: float
    depth: dict[str, int]
    """Entity -> its depth, in the order in which they were met."""
    edges: dict[str, _Met] = field(default_factory=dict)
    cause: dict[str, str] = field(default_factory=dict)
    """Entity -> the relation over which it was met first."""
    cut: bool = False

    def step(self, frontier: Sequence[str]) -> list[str]:
        """Follow the relations of one level; returns the entities that are new."""
        level, new = self.depth[frontier[0]] + 1, []
        for met in self._relations(frontier):
            fresh = [end for end in (met["source"], met["target"]) if end not in self.depth]
            if len(self.depth) + len(fresh) > self.way.nodes:
                self.cut = True
                continue
            self.edges[met["id"]] = met
            for end in fresh:
                self.depth[end], self.cause[end] = level, met["id"]
                new.append(end)
        return new

    def _relations(self, frontier: Sequence[str]) -> list[_Met]:
        """Relations of one level that were not met yet, the strongest first."""
        room = self.way.edges - len(self.edges)
        condition = all_of(
            self.reach.of("r", "s", "t"),
            at_time("r", self.way.period, self.now_s),
            of_types("r", self.way.types),
        )
        out = self.way.direction is not Direction.IN
        into = self.way.direction is not Direction.OUT
        found: dict[str, _Met] = {}
        for end, follows in (("s", out), ("t", into)):
            ways = "true" if follows else "r.both_ways"
            for row in ask(
                self.tx,
                f"MATCH ({end}:CaxtonEntity) WHERE {end}.id IN $frontier"
                " MATCH (s:CaxtonEntity)-[r:CaxtonRelates]->(t:CaxtonEntity)"
                f" WHERE {ways} AND r.strength >= $strength AND {condition.where}"
                " RETURN r{.id, .type, .strength, .confidence, .both_ways, .created_s,"
                " source: s.id, target: t.id} AS r"
                " ORDER BY r.strength DESC, r.created_s, r.id LIMIT $limit",
                condition.parameters
                | {
                    "frontier": list(frontier),
                    "strength": self.way.min_strength,
                    # One more than there is room for, and those of this level that are known already.
                    "limit": room + 1 + len(self.edges),
                },
            ):
                found[row["r"]["id"]] = row["r"]
        fresh = [met for met in found.values() if met["id"] not in self.edges]
        fresh.sort(key=lambda met: (-met["strength"], met["created_s"], met["id"]))
        if len(fresh) > room:
            self.cut = True
        return fresh[:room]


def walk(tx: ManagedTransaction, reach: Reach, start: str, way: Walk, now_s: float) -> Graph:
    """What is around an entity.

    Raises:
        EntityNotFound: there is no such entity for who asks.
    """
    id_ = find(tx, reach, start)["id"]
    walker = _Walker(tx, reach, way, now_s, {id_: 0})
    frontier = [id_]
    for _ in range(way.depth):
        frontier = walker.step(frontier)
        if not frontier:
            break
    order = _depth_first(id_, walker) if way.order is Order.DEPTH else list(walker.depth)
    known = entities(tx, reach, order)
    if way.observations:
        for each in order:
            told = observations(tx, reach, each, way.period, now_s, limit=WALK_OBSERVATIONS_LIMIT)
            known[each] = known[each]._replace(observations=tuple(told))
    nodes = tuple(Node(known[each], walker.depth[each]) for each in order)
    return Graph(nodes, tuple(map(_edge, walker.edges.values())), walker.cut)


def shortest_path(
    tx: ManagedTransaction, reach: Reach, start: str, end: str, way: Walk, *, now_s: float
) -> Path | None:
    """A shortest way between two entities, or None when there is none within the bounds.

    Raises:
        EntityNotFound: one of them is not there for who asks.
    """
    id_, goal = find(tx, reach, start)["id"], find(tx, reach, end)["id"]
    walker = _Walker(tx, reach, way, now_s, {id_: 0})
    frontier = [id_]
    for _ in range(way.depth):
        if goal in walker.depth or not frontier:
            break
        frontier = walker.step(frontier)
    if goal not in walker.depth:
        return None
    ids, edges = [goal], []
    while ids[-1] != id_:
        met = walker.edges[walker.cause[ids[-1]]]
        edges.append(_edge(met))
        ids.append(met["source"] if met["target"] == ids[-1] else met["target"])
    ids.reverse()
    known = entities(tx, reach, ids)
    return Path(tuple(Node(known[each], depth) for depth, each in enumerate(ids)), tuple(reversed(edges)))


def _depth_first(start: str, walker: _Walker) -> list[str]:
    """The entities of a walk, each followed by those that were met from it."""
    children: dict[str, list[str]] = {}
    for entity, relation in walker.cause.items():
        met = walker.edges[relation]
        children.setdefault(met["source"] if met["target"] == entity else met["target"], []).append(entity)
    found, waiting = [], [start]
    while waiting:
        entity = waiting.pop()
        found.append(entity)
        waiting += reversed(children.get(entity, []))
    return found


def _edge(met: _Met) -> Edge:
    return Edge(
        met["id"],
        met["source"],
        met["target"],
        met["type"],
        met["strength"],
        met["confidence"],
        met["both_ways"],
    )
