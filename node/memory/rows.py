"""Rows of what is remembered, with their indexes, counts and limits: what every change is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import apsw

from node.errors import MemoryLimitExceeded
from node.memory import indexes
from node.memory.records import Limits
from node.memory.scopes import OPERATOR, Scoped

OBSERVATIONS_LIMIT: Final = 2_000_000
"""Most observations in all."""
RELATIONS_LIMIT: Final = 2_000_000
"""Most relations in all."""


class StoredVector(NamedTuple):
    """A vector as it is kept.

    Args:
        space: Of the model that made it.
        stored: Its numbers as whole ones.
        bits: Their signs, or None when these are to be indexed later.
    """

    space: indexes.Space
    stored: bytes
    bits: bytes | None


@dataclass(slots=True)
class Rows:
    """The rows that one job changes.

    Args:
        connection: The writer's connection; only the indexes see it.
        scoped: The memory as who asks sees it.
        limits: How much is remembered at most.
    """

    connection: apsw.Connection
    scoped: Scoped
    limits: Limits
    _totals: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._totals = self.scoped.totals()

    def add_entity(self, realm: int, values: Mapping[str, Any]) -> int:
        """Add an entity; returns its key.

        Raises:
            MemoryLimitExceeded: there is no room for it.
        """
        self._require_room("entities", 1, self.limits.entities)
        if self.scoped.entities_in(realm) >= self.limits.entities_of_owner:
            raise full("entities of this owner", self.limits.entities_of_owner)
        key = self.scoped.insert("entities", realm, values)
        indexes.index_name(self.connection, key, values["name"], values["type"])
        self.scoped.count(realm, "entities", 1)
        return key

    def add_observation(self, realm: int, values: Mapping[str, Any], vector: StoredVector | None) -> int:
        """Add an observation; its entity's count is for :meth:`counted`."""
        if vector is None:
            key = self.scoped.insert("observations", realm, values)
        else:
            # In one statement: to lengthen a row costs more than to write it.
            told = {"model": vector.space.key, "vector": vector.stored}
            key = self.scoped.insert("observations", realm, {**values, **told})
            if vector.bits is None:
                indexes.postpone_vector(self.connection, key)
            else:
                indexes.index_vector(self.connection, vector.space, key, realm, vector.bits)
        indexes.index_text(self.connection, key, values["text"])
        return key

    def add_relation(self, realm: int, values: Mapping[str, Any]) -> int:
        """Add a relation.

        Raises:
            MemoryLimitExceeded: there is no room for it.
        """
        self._require_room("relations", 1, RELATIONS_LIMIT)
        key = self.scoped.insert("relations", realm, values)
        self.scoped.count(realm, "relations", 1)
        return key

    def end_observation(
        self, key: int, realm: int, model: int | None, at_s: float, successor: int | None
    ) -> None:
        """Say of an observation that it no longer holds."""
        self.scoped.change(
            "UPDATE observations SET ended = 1, successor = ?,"
            " valid_to_s = CASE WHEN valid_to_s < ? THEN valid_to_s ELSE ? END WHERE key = ? AND {reach}",
            (successor, at_s, at_s, key),
        )
        if model is not None:
            indexes.end_vector(self.connection, model, key, realm)

    def end_relation(self, key: int, at_s: float) -> None:
        """Say of a relation that it no longer holds."""
        self.scoped.change(
            "UPDATE relations SET ended = 1,"
            " valid_to_s = CASE WHEN valid_to_s < ? THEN valid_to_s ELSE ? END WHERE key = ? AND {reach}",
            (at_s, at_s, key),
        )

    def drop_observations(self, keys: Sequence[int]) -> None:
        """Take observations out; their entity's count is for :meth:`counted`."""
        for key in keys:
            [(text, model)] = self.scoped.rows("SELECT text, model FROM {observations} WHERE key = ?", (key,))
            indexes.forget_text(self.connection, key, text)
            if model is not None:
                indexes.forget_vector(self.connection, model, key)
            self.scoped.change(
                "UPDATE observations SET successor = NULL WHERE successor = ? AND {reach}", (key,)
            )
            self.scoped.change("DELETE FROM observations WHERE key = ? AND {reach}", (key,))

    def drop_relation(self, key: int, realm: int) -> None:
        """Take one relation out."""
        self.scoped.change("DELETE FROM relations WHERE key = ? AND {reach}", (key,))
        self.scoped.count(realm, "relations", -1)

    def drop_entity(self, key: int) -> None:
        """Take an entity without observations out, with the relations to it, those of others too."""
        [(realm, name, type_)] = self.scoped.rows(
            "SELECT realm, name, type FROM {entities} WHERE key = ?", (key,)
        )
        everyone = Scoped(self.connection, OPERATOR)
        for direction in ("source_entity", "target_entity"):
            for place, count in everyone.rows(
                f"SELECT realm, count(*) FROM {{relations}} WHERE {direction} = ? GROUP BY realm",  # noqa: S608
                (key,),
            ):
                everyone.count(place, "relations", -count)
            everyone.change(f"DELETE FROM relations WHERE {direction} = ? AND {{reach}}", (key,))  # noqa: S608
        indexes.forget_name(self.connection, key, name, type_)
        self.scoped.change("DELETE FROM entities WHERE key = ? AND {reach}", (key,))
        self.scoped.count(realm, "entities", -1)

    def counted(self, entity: int, realm: int, by: int) -> None:
        """Keep the counts of an entity's observations.

        Raises:
            MemoryLimitExceeded: there is no room for so many more.
        """
        if by > 0:
            self.require_observations(by)
        self.scoped.change("UPDATE entities SET known = known + ? WHERE key = ? AND {reach}", (by, entity))
        self.scoped.count(realm, "observations", by)

    def require_observations(self, by: int) -> None:
        """Make sure that there is room for so many more observations.

        Raises:
            MemoryLimitExceeded: there is not.
        """
        self._require_room("observations", by, OBSERVATIONS_LIMIT)

    def count_required(self, entity: int, realm: int, by: int, now_s: float) -> None:
        """Count observations for which room was made sure of, and note that the entity has changed."""
        self.scoped.change(
            "UPDATE entities SET known = known + ?, version = version + ?, updated_s = ?"
            " WHERE key = ? AND {reach}",
            (by, by, now_s, entity),
        )
        self.scoped.count(realm, "observations", by)

    def touch(self, entity: int, now_s: float) -> None:
        """Note that something about an entity has changed."""
        self.scoped.change(
            "UPDATE entities SET version = version + 1, updated_s = ? WHERE key = ? AND {reach}",
            (now_s, entity),
        )

    def _require_room(self, table: str, by: int, limit: int) -> None:
        if self._totals[table] + by > limit:
            raise full(table, limit)
        self._totals[table] += by


def full(what: str, limit: int) -> MemoryLimitExceeded:
    """What is said when there is no room."""
    return MemoryLimitExceeded(
        f"the memory has no room for more {what}",
        why=f"the limit is {limit}",
        fix="Forget something, or raise the limit where it is a setting (memory.max_entities).",
        details={"limit": limit},
    )
