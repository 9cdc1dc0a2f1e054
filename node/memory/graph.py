"""Walks along relations: what is around an entity, and the shortest way between two.

A walk goes level by level, with one statement for each level and the strongest relations first, and ends at
its bounds on depth, nodes and edges. (A recursive statement of SQL visits a node once for every way to it,
and cannot stop at a number of edges.) Depth first is another order of the same result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from node.errors import ValidationFailed
from node.memory.ids import RELATION, show_id
from node.memory.model import NOW, Period, checked_share
from node.memory.reading import (
    TYPES_LIMIT,
    Entity,
    at_time,
    entities_of,
    entity_key,
    observations_of,
    of_types,
)
from node.memory.scopes import EVERYWHERE, Aim, Scoped

DEPTH_LIMIT: Final = 10
"""Farthest a walk goes, in relations."""
NODES_LIMIT: Final = 2_000
"""Most entities of one walk."""
EDGES_LIMIT: Final = 10_000
"""Most relations of one walk."""
WALK_OBSERVATIONS_LIMIT: Final = 5
"""Observations shown of each entity of a walk."""


class Direction(StrEnum):
    """Which way relations are followed."""

    OUT = "out"
    IN = "in"
    BOTH = "both"


class Order(StrEnum):
    """In which order the entities of a walk are told."""

    BREADTH = "breadth_first"
    DEPTH = "depth_first"


@dataclass(frozen=True, slots=True)
class Walk:
    """How to walk.

    Attributes:
        depth: How far, in relations.
        types: Only along relations of these types, or all.
        direction: Which way relations are followed; those that hold both ways are followed either way.
        min_strength: Only along relations at least so strong, 0 to 1.
        order: In which order entities are told.
        nodes: Most entities.
        edges: Most relations.
        period: Only along what holds at this time.
        aim: In which scopes.
        observations: Whether some of what is known about each entity is told.
    """

    depth: int = 3
    types: tuple[str, ...] = ()
    direction: Direction = Direction.BOTH
    min_strength: float = 0.0
    order: Order = Order.BREADTH
    nodes: int = 200
    edges: int = EDGES_LIMIT
    period: Period = NOW
    aim: Aim = EVERYWHERE
    observations: bool = False

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("max_depth", self.depth, 0, DEPTH_LIMIT),
            ("max_nodes", self.nodes, 1, NODES_LIMIT),
            ("max_edges", self.edges, 1, EDGES_LIMIT),
            ("relation_types", len(self.types), 0, TYPES_LIMIT),
        ):
            if not low <= value <= high:
                raise ValidationFailed(
                    f"{name} is {value}", why=f"it may be from {low} to {high}", details={"field": name}
                )
        checked_share(self.min_strength, "min_strength")


class Node(NamedTuple):
    """An entity of a walk.

    Args:
        entity: Which one.
        depth: How many relations it is away from the start.
    """

    entity: Entity
    depth: int


class Edge(NamedTuple):
    """A relation of a walk, with the ids of its ends."""

    id: str
    source_id: str
    target_id: str
    type: str
    strength: float
    confidence: float
    bidirectional: bool

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "relation_id": self.id,
            "from_entity_id": self.source_id,
            "to_entity_id": self.target_id,
            "relation_type": self.type,
            "strength": self.strength,
            "confidence": self.confidence,
            "bidirectional": self.bidirectional,
        }


@dataclass(frozen=True, slots=True)
class Graph:
    """What a walk has found.

    Attributes:
        nodes: Entities, in the order of the walk; the start is the first.
        edges: Relations between them, as they were met.
        cut: Whether a bound on nodes or edges has ended it.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    cut: bool = False

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "graph": {
                "nodes": [_node_json(node) for node in self.nodes],
                "edges": [edge.as_json() for edge in self.edges],
            },
            "traversal_stats": {
                "nodes_visited": len(self.nodes),
                "edges_traversed": len(self.edges),
                "max_depth_reached": max(node.depth for node in self.nodes),
                "truncated": self.cut,
                "entity_types": _counted(node.entity.type for node in self.nodes),
                "relation_types": _counted(edge.type for edge in self.edges),
            },
        }


@dataclass(frozen=True, slots=True)
class Path:
    """A shortest way between two entities: each edge leads between the nodes around it."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "length": len(self.edges),
            "nodes": [_node_json(node) for node in self.nodes],
            "edges": [edge.as_json() for edge in self.edges],
        }


_Row = tuple[int, bytes, int, int, str, float, float, int]
"""A relation: key, id, source, target, type, strength, confidence, whether it holds both ways."""


@dataclass(slots=True)
class _Walker:
    """A walk under way, in whole numbers."""

    scoped: Scoped
    way: Walk
    now_s: float
    depth: dict[int, int]
    """Entity -> its depth, in the order in which they were met."""
    edges: dict[int, _Row] = field(default_factory=dict)
    cause: dict[int, int] = field(default_factory=dict)
    """Entity -> the relation over which it was met first."""
    known: dict[int, Entity] = field(default_factory=dict)
    """What was read of entities so far."""
    cut: bool = False

    def step(self, frontier: Sequence[int]) -> list[int]:
        """Follow the relations of one level; returns the entities that are new."""
        met, depth = self._relations(frontier), self.depth
        seen = self._seen({end for row in met for end in row[2:4] if end not in depth})
        level = depth[frontier[0]] + 1
        new: list[int] = []
        for row in met:
            fresh = [end for end in row[2:4] if end not in depth]
            if not seen.issuperset(fresh):
                continue
            if len(depth) + len(fresh) > self.way.nodes:
                self.cut = True
                continue
            self.edges[row[0]] = row
            for end in fresh:
                depth[end] = level
                self.cause[end] = row[0]
                new.append(end)
        return new

    def entities(self, keys: Sequence[int]) -> dict[int, Entity]:
        """The entities of a walk, in the order of their keys here."""
        self.known |= entities_of(self.scoped, [key for key in keys if key not in self.known])
        return {key: self.known[key] for key in keys}

    def _seen(self, ends: set[int]) -> set[int]:
        """Which of these entities who asks may see."""
        if len(ends) <= self.way.nodes - len(self.depth):
            # All of them will be told, so they are read at once.
            found = entities_of(self.scoped, sorted(ends))
            self.known |= found
            return set(found)
        return {
            row[0]
            for row in self.scoped.rows(
                # In this order: SQLite would go through all entities of the scope.
                "SELECT e.key FROM json_each(?) j CROSS JOIN {entities} e ON e.key = j.value",
                (json.dumps(sorted(ends)),),
            )
        }

    def _relations(self, frontier: Sequence[int]) -> list[_Row]:
        """Relations of one level that were not met yet, the strongest first."""
        room = self.way.edges - len(self.edges)
        time, at = at_time("r", self.way.period, self.now_s)
        kind, types = of_types("r", self.way.types)
        sides = []
        if self.way.direction is not Direction.IN:
            sides += ["r.source_entity IN (%s)", "r.target_entity IN (%s) AND r.both_ways"]
        if self.way.direction is not Direction.OUT:
            sides += ["r.target_entity IN (%s)", "r.source_entity IN (%s) AND r.both_ways"]
        if self.way.direction is Direction.BOTH:
            sides = ["r.source_entity IN (%s)", "r.target_entity IN (%s)"]
        keys = json.dumps(list(frontier))
        columns = (
            "r.key, r.id, r.source_entity, r.target_entity, r.type, r.strength, r.confidence, r.both_ways"
        )
        parts, bindings = [], []
        for side in sides:
            where = side % "SELECT value FROM json_each(?)"
            parts.append(
                f"SELECT {columns} FROM {{relations}} r"  # noqa: S608 - names of our own
                f" WHERE {where} AND r.strength >= ? AND {time} AND {kind}"
            )
            bindings += [keys, self.way.min_strength, *at, *types]
        # One more than there is room for, and those of this level that are known already.
        limit = room + 1 + len(self.edges)
        sql = f"{' UNION '.join(parts)} ORDER BY 6 DESC, 1 LIMIT ?"
        found = [row for row in self.scoped.rows(sql, (*bindings, limit)) if row[0] not in self.edges]
        if len(found) > room:
            self.cut = True
        return found[:room]


def walk(scoped: Scoped, start: str, way: Walk, now_s: float) -> Graph:
    """What is around an entity.

    Args:
        scoped: The memory as who asks sees it.
        start: Name or id of the entity.
        way: How to walk.
        now_s: Unix seconds.

    Raises:
        EntityNotFound: there is no such entity for who asks.
    """
    key = entity_key(scoped, start)
    walker = _Walker(scoped, way, now_s, {key: 0})
    frontier = [key]
    for _ in range(way.depth):
        frontier = walker.step(frontier)
        if not frontier:
            break
    order = list(walker.depth)
    if way.order is Order.DEPTH:
        order = _depth_first(key, walker)
    known = walker.entities(order)
    if way.observations:
        for each in order:
            told = observations_of(scoped, each, way.period, now_s, limit=WALK_OBSERVATIONS_LIMIT)
            known[each] = known[each]._replace(observations=tuple(told))
    nodes = tuple(Node(known[each], walker.depth[each]) for each in order)
    return Graph(nodes, tuple(_edge(known, row) for row in walker.edges.values()), walker.cut)


def shortest_path(scoped: Scoped, start: str, end: str, way: Walk, now_s: float) -> Path | None:
    """A shortest way between two entities, or None when there is none within the bounds.

    Args:
        scoped: The memory as who asks sees it.
        start: Name or id of the first.
        end: Name or id of the last.
        way: How to walk; its depth is the longest way.
        now_s: Unix seconds.

    Raises:
        EntityNotFound: one of them is not there for who asks.
    """
    key, goal = entity_key(scoped, start), entity_key(scoped, end)
    walker = _Walker(scoped, way, now_s, {key: 0})
    frontier = [key]
    for _ in range(way.depth):
        if goal in walker.depth or not frontier:
            break
        frontier = walker.step(frontier)
    if goal not in walker.depth:
        return None
    keys, rows = [goal], []
    while keys[-1] != key:
        row = walker.edges[walker.cause[keys[-1]]]
        rows.append(row)
        keys.append(row[2] if row[3] == keys[-1] else row[3])
    keys.reverse()
    known = walker.entities(keys)
    nodes = tuple(Node(known[each], depth) for depth, each in enumerate(keys))
    return Path(nodes, tuple(_edge(known, row) for row in reversed(rows)))


def _depth_first(start: int, walker: _Walker) -> list[int]:
    """The entities of a walk, each followed by those that were met from it."""
    children: dict[int, list[int]] = {}
    for entity, relation in walker.cause.items():
        row = walker.edges[relation]
        children.setdefault(row[2] if row[3] == entity else row[3], []).append(entity)
    found, waiting = [], [start]
    while waiting:
        entity = waiting.pop()
        found.append(entity)
        waiting += reversed(children.get(entity, []))
    return found


def _edge(known: dict[int, Entity], row: _Row) -> Edge:
    return Edge(show_id(RELATION, row[1]), known[row[2]].id, known[row[3]].id, *row[4:7], bool(row[7]))


def _node_json(node: Node) -> dict[str, Any]:
    shown = node.entity.as_json()
    del shown["relations"]
    return shown | {"depth": node.depth}


def _counted(names: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in sorted(names):
        found[name] = found.get(name, 0) + 1
    return found
