"""The memory as a file: everything that a viewer may see, page by page, in one of three forms.

``jsonl`` is Caxton's own: one object a line, each of which stands for itself. An entity with much to tell has
several lines, so that a line, and what is held of an export, is bounded. ``json`` is the same as one
document. ``mcp`` is what the MCP server ``server-memory`` keeps: names, types and texts of what holds now.

A page is one snapshot. What is stored while an export runs may be missing in it, but a relation never leads
to an entity that is: entities that came later are left out, and relations come last.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import apsw

from node.memory import indexes
from node.memory.ids import ENTITY, OBSERVATION, RELATION, show_id
from node.memory.model import Scope, decoded_metadata
from node.memory.scopes import Aim, Scoped, Viewer
from node.storage.storage import Storage

FORMAT: Final = "caxton-memory"
"""What the first line of an export calls itself."""
VERSION: Final = 1
"""Of the form of the lines."""
PAGE_BYTES: Final = 256 * 1024
"""Bytes of text after which a page ends, and a line of one entity."""
PAGE_ENTITIES: Final = 100
"""Most entities, or parts of entities, of one page."""
PART_OBSERVATIONS: Final = 200
"""Most observations of one line."""
PAGE_RELATIONS: Final = 500
"""Most relations of one page."""

_ENTITY: Final = (
    "key, id, realm, name, type, confidence, strength, version, created_s, updated_s, valid_from_s,"
    " valid_to_s, source, metadata"
)

Form = Literal["jsonl", "json", "mcp"]


@dataclass(slots=True)
class Part:
    """An entity with some of what is known about it; ``first`` and ``last`` say which part of it.

    Of one that was forgotten between two parts, the last has nothing in it.
    """

    entity: dict[str, Any]
    observations: list[dict[str, Any]]
    first: bool
    last: bool


@dataclass(slots=True)
class Cursor:
    """How far an export is."""

    entity: int = 0
    observation: int = 0
    """The last one told of ``entity``, while there are more of it; else 0."""
    until: int | None = None
    """The last entity that was there when it began."""
    relation: int = 0


@dataclass(slots=True)
class Counted:
    """What an export has told."""

    entities: int = 0
    observations: int = 0
    relations: int = 0

    def as_json(self) -> dict[str, int]:
        """As the last line says it."""
        return {
            "entities": self.entities,
            "observations": self.observations,
            "relations": self.relations,
        }


@dataclass(slots=True)
class Export:
    """One run over the memory.

    Args:
        storage: The memory's file.
        viewer: Who asks.
        aim: In which scopes.
        vectors: Whether observations come with theirs.
        counted: What it has told.
        cursor: How far it is; one of before goes on from there.
    """

    storage: Storage
    viewer: Viewer
    aim: Aim
    vectors: bool = False
    counted: Counted = field(default_factory=Counted)
    cursor: Cursor = field(default_factory=Cursor)
    _models: dict[int, tuple[str, str]] = field(default_factory=dict, init=False)

    async def entities(self) -> list[Part]:
        """The next entities; none at their end.

        Raises:
            ScopeDenied: the aim is somebody else's scope.
            StorageFailed: the disk refused.
        """
        found = await self.storage.read(self._entities)
        self.counted.entities += sum(part.first for part in found)
        self.counted.observations += sum(len(part.observations) for part in found)
        return found

    async def relations(self) -> list[dict[str, Any]]:
        """The next relations; none at their end.

        Raises:
            StorageFailed: the disk refused.
        """
        found = await self.storage.read(self._relations)
        self.counted.relations += len(found)
        return found

    def _entities(self, connection: apsw.Connection) -> list[Part]:
        scoped, cursor = Scoped(connection, self.viewer, self.aim), self.cursor
        found: list[Part] = []
        if cursor.until is None:
            [(cursor.until,)] = scoped.rows("SELECT coalesce(max(key), 0) FROM {entities}")
        if self.vectors:
            self._models = indexes.model_names(connection)
        room = PAGE_BYTES
        while room > 0 and len(found) < PAGE_ENTITIES:
            part, size = self._next(scoped)
            if part is None:
                break
            found.append(part)
            room -= size
        return found

    def _next(self, scoped: Scoped) -> tuple[Part | None, int]:
        cursor = self.cursor
        first = cursor.observation == 0
        rows = scoped.rows(
            f"SELECT {_ENTITY} FROM {{entities}} WHERE key >= ? AND key <= ? ORDER BY key LIMIT 1",  # noqa: S608
            (cursor.entity + first, cursor.until),
        )
        if rows and not first and rows[0][0] != cursor.entity:
            rows = []
        if not rows and not first:  # it was forgotten between two pages
            cursor.observation = 0
            return Part({}, [], first=False, last=True), 0
        if not rows:
            return None, 0
        cursor.entity = rows[0][0]
        keys = [
            key
            for (key,) in scoped.rows(
                "SELECT key FROM {observations} WHERE entity = ? AND key > ? ORDER BY key LIMIT ?",
                (cursor.entity, cursor.observation, PART_OBSERVATIONS + 1),
            )
        ]
        observations: list[dict[str, Any]] = []
        size, taken = 256, 0
        for key in keys[:PART_OBSERVATIONS]:
            told = self._observation(scoped, key)
            observations.append(told)
            size += len(told["text"]) + (512 if self.vectors else 128)
            taken, cursor.observation = taken + 1, key
            if size >= PAGE_BYTES:
                break
        last = taken == len(keys)
        if last:
            cursor.observation = 0
        return Part(_entity(scoped, rows[0]), observations, first, last), size

    def _observation(self, scoped: Scoped, key: int) -> dict[str, Any]:
        [row] = scoped.rows(
            "SELECT o.id, o.text, o.confidence, o.created_s, o.valid_from_s, o.valid_to_s, o.used,"
            " o.accepted, o.corrected, o.rejected, o.source, o.metadata, o.model, o.vector,"
            " (SELECT s.id FROM {observations} s WHERE s.key = o.successor), o.ended"
            " FROM {observations} o WHERE o.key = ?",
            (key,),
        )
        outcomes = dict(zip(("used", "accepted", "corrected", "rejected"), row[6:10], strict=True))
        told = {
            "observation_id": show_id(OBSERVATION, row[0]),
            "text": row[1],
            "confidence": row[2],
            "created_s": row[3],
            "valid_from_s": row[4],
            "valid_to_s": row[5],
            "ended": bool(row[15]) or None,
            "superseded_by": None if row[14] is None else show_id(OBSERVATION, row[14]),
            "outcomes": outcomes if any(outcomes.values()) else None,
            "source": scoped.source(row[10]).as_json(),
            "metadata": decoded_metadata(row[11]),
        }
        if self.vectors and row[13] is not None:
            name, digest = self._models[row[12]]
            data = base64.b64encode(row[13]).decode()
            told["vector"] = {"model": name, "digest": digest, "dtype": "int8", "data": data}
        return known(told)

    def _relations(self, connection: apsw.Connection) -> list[dict[str, Any]]:
        scoped, cursor = Scoped(connection, self.viewer, self.aim), self.cursor
        rows = scoped.rows(
            "SELECT r.key, r.id, r.realm, s.name, t.name, r.type, r.strength, r.confidence, r.both_ways,"
            " r.created_s, r.valid_from_s, r.valid_to_s, r.source, r.metadata, s.id, t.id, r.version, r.ended"
            " FROM {relations} r"
            " JOIN {entities} s ON s.key = r.source_entity JOIN {entities} t ON t.key = r.target_entity"
            " WHERE r.key > ? AND s.key <= ? AND t.key <= ? ORDER BY r.key LIMIT ?",
            (cursor.relation, cursor.until, cursor.until, PAGE_RELATIONS),
        )
        if rows:
            cursor.relation = rows[-1][0]
        return [_relation(scoped, row) for row in rows]


def _entity(scoped: Scoped, row: Sequence[Any]) -> dict[str, Any]:
    realm = scoped.realm_of(row[2])
    return known(
        {
            "type": "entity",
            "entity_id": show_id(ENTITY, row[1]),
            "entity_name": row[3],
            "entity_type": row[4],
            "memory_scope": realm.scope.label,
            "owner": realm.owner if realm.scope is not Scope.GLOBAL else None,
            "confidence": row[5],
            "strength": row[6],
            "version": row[7],
            "created_s": row[8],
            "updated_s": row[9],
            "valid_from_s": row[10],
            "valid_to_s": row[11],
            "source": scoped.source(row[12]).as_json(),
            "metadata": decoded_metadata(row[13]),
        }
    )


def _relation(scoped: Scoped, row: Sequence[Any]) -> dict[str, Any]:
    realm = scoped.realm_of(row[2])
    return known(
        {
            "type": "relation",
            "relation_id": show_id(RELATION, row[1]),
            "from_entity": row[3],
            "to_entity": row[4],
            "from_entity_id": show_id(ENTITY, row[14]),
            "to_entity_id": show_id(ENTITY, row[15]),
            "relation_type": row[5],
            "memory_scope": realm.scope.label,
            "owner": realm.owner if realm.scope is not Scope.GLOBAL else None,
            "strength": row[6],
            "confidence": row[7],
            "bidirectional": bool(row[8]),
            "version": row[16],
            "created_s": row[9],
            "valid_from_s": row[10],
            "valid_to_s": row[11],
            "ended": bool(row[17]) or None,
            "source": scoped.source(row[12]).as_json(),
            "metadata": decoded_metadata(row[13]),
        }
    )


def known(told: dict[str, Any]) -> dict[str, Any]:
    """Without what there is nothing to say of."""
    return {key: value for key, value in told.items() if value is not None and value != {}}


class Writing:
    """Turns what an :class:`Export` tells into the bytes of a form.

    Args:
        form: Which one.
        head: What the first line says besides the form and its version.
        now_s: What "now" is for a form that knows no past, in Unix seconds.
    """

    def __init__(self, form: Form, head: dict[str, Any], now_s: float) -> None:
        self._form, self._now_s = form, now_s
        self._head = {"type": "header", "format": FORMAT, "version": VERSION, **head}
        self._some = False
        self._observations = False

    def begin(self) -> bytes:
        """What comes first."""
        if self._form == "mcp":
            return b""
        if self._form == "jsonl":
            return _line(self._head)
        return _dumped(self._head)[:-1].encode() + b',"entities":['

    def parts(self, parts: Sequence[Part]) -> bytes:
        """A page of entities."""
        return b"".join(self._part(part) for part in parts)

    def between(self) -> bytes:
        """What stands between entities and relations."""
        self._some = False
        return b'],"relations":[' if self._form == "json" else b""

    def relations(self, relations: Sequence[dict[str, Any]]) -> bytes:
        """A page of relations."""
        if self._form == "jsonl":
            return b"".join(map(_line, relations))
        if self._form == "json":
            return b"".join(self._separated(_dumped(each)) for each in relations)
        return b"".join(
            _line(
                {
                    "type": "relation",
                    "from": each["from_entity"],
                    "to": each["to_entity"],
                    "relationType": each["relation_type"],
                }
            )
            for each in relations
            if self._holds(each)
        )

    def end(self, counted: Counted) -> bytes:
        """What comes last; a file without it is incomplete."""
        if self._form == "mcp":
            return b""
        if self._form == "jsonl":
            return _line({"type": "end", **counted.as_json()})
        return b'],"end":' + _dumped(counted.as_json()).encode() + b"}\n"

    def _part(self, part: Part) -> bytes:
        if self._form == "jsonl":
            return _line(part.entity | {"observations": part.observations}) if part.entity else b""
        told: list[Any] = part.observations
        head = part.entity
        if self._form == "mcp":
            told = [each["text"] for each in part.observations if self._holds(each)]
            names = {"name": head.get("entity_name"), "entityType": head.get("entity_type")}
            head = {"type": "entity"} | names
        found = ""
        if part.first:
            found = "," if self._form == "json" and self._some else ""
            found += _dumped(head)[:-1] + ',"observations":['
            self._some, self._observations = True, False
        for each in told:
            found += ("," if self._observations else "") + _dumped(each)
            self._observations = True
        if part.last:
            found += "]}\n" if self._form == "mcp" else "]}"
        return found.encode()

    def _separated(self, text: str) -> bytes:
        found = ("," if self._some else "") + text
        self._some = True
        return found.encode()

    def _holds(self, told: dict[str, Any]) -> bool:
        since, until = told.get("valid_from_s", 0.0), told.get("valid_to_s", math.inf)
        return bool(since <= self._now_s < until)


def _dumped(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # Characters that some programs take for the end of a line.
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")


def _line(value: dict[str, Any]) -> bytes:
    return _dumped(value).encode() + b"\n"
