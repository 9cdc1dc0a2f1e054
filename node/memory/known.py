"""What is there already of what a file tells: looked up by the names and texts of one request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

from node.errors import InvalidEntityData
from node.memory.lines import RelationLine
from node.memory.model import Realm, Scope, checked_name, encoded_metadata, text_digest
from node.memory.scopes import Scoped, Viewer


@dataclass(slots=True)
class Facts:
    """Texts that are known about an entity, each with the times at which it ends, None for not yet."""

    _until: dict[str, set[float | None]] = field(default_factory=dict)
    _ended: set[tuple[str, float | None]] = field(default_factory=set)

    def add(self, text: str, valid_to_s: float | None, *, ended: bool = False) -> None:
        """Note one."""
        self._until.setdefault(text, set()).add(valid_to_s)
        if ended:
            self._ended.add((text, valid_to_s))

    def has(self, text: str, valid_to_s: float | None, now_s: float) -> bool:
        """Whether a fact is there: a past one with the same end, another as one that holds."""
        known = self._until.get(text, set())
        if valid_to_s is not None and valid_to_s <= now_s:
            return valid_to_s in known
        return any((until is None or until > now_s) and (text, until) not in self._ended for until in known)


@dataclass(slots=True)
class Known:
    """An entity that may be there; ``type`` is None when it is not."""

    type: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    metadata: str | None = None
    facts: Facts = field(default_factory=Facts)

    def differing(self, told: Mapping[str, Any]) -> list[str]:
        """Names of values that are told, and are not those that are there."""
        found = [
            name for name, value in self.values.items() if told[name] is not None and told[name] != value
        ]
        metadata = told["metadata"]
        if metadata is not None and encoded_metadata(metadata) != self.metadata:
            found.append("metadata")
        return found


@dataclass(slots=True)
class Link:
    """What a relation says, besides what it connects."""

    strength: float
    confidence: float
    both_ways: bool
    valid_from_s: float | None
    valid_to_s: float | None
    metadata: str | None
    created_s: float | None = None
    ended: bool = False

    def says(self, told: Link) -> bool:
        """Whether it says the same; since when it holds is compared where that is told."""
        here = (self.strength, self.confidence, self.both_ways, self.valid_to_s, self.metadata)
        there = (told.strength, told.confidence, told.both_ways, told.valid_to_s, told.metadata)
        since = told.valid_from_s in (None, self.valid_from_s, self.created_s)
        return here == there and since


def known_entities(
    connection: apsw.Connection, viewer: Viewer, realm: Realm, texts: Mapping[str, Sequence[str]]
) -> dict[str, Known]:
    """What is there of entities, by the names that a file gives them.

    Args:
        connection: The reader.
        viewer: Who imports.
        realm: Where.
        texts: Name -> the texts that the file has about it.

    Raises:
        ScopeDenied: the realm is somebody else's.
    """
    scoped = Scoped(connection, viewer)
    place = scoped.realm_key(realm)
    found: dict[str, Known] = {}
    if place is None:
        return found
    for name, told in texts.items():
        rows = scoped.rows(
            "SELECT key, type, confidence, strength, valid_from_s, valid_to_s, metadata FROM {entities}"
            " WHERE realm = ? AND name = ?",
            (place, _form(name)),
        )
        if not rows:
            continue
        [(key, type_, confidence, strength, start_s, end_s, metadata)] = rows
        values = {
            "confidence": confidence,
            "strength": strength,
            "valid_from_s": start_s,
            "valid_to_s": end_s,
        }
        known = found[name] = Known(type_, values, metadata)
        digests = sorted({text_digest(text) for text in told if _is_text(text)})
        for text, until, ended in scoped.rows(
            "SELECT o.text, o.valid_to_s, o.ended FROM {observations} o WHERE o.entity = ?"
            " AND o.digest IN (SELECT value FROM json_each(?))",
            (key, json.dumps(digests)),
        ):
            known.facts.add(text, until, ended=bool(ended))
    return found


def known_links(
    connection: apsw.Connection, viewer: Viewer, realm: Realm, lines: Sequence[RelationLine]
) -> dict[tuple[str, str, str], list[Link]]:
    """What is there of relations, by the names of their ends and their types.

    Raises:
        ScopeDenied: the realm is somebody else's.
    """
    scoped = Scoped(connection, viewer)
    place = scoped.realm_key(realm)
    found: dict[tuple[str, str, str], list[Link]] = {}
    if place is None:
        return found
    for line in lines:
        ends = (_form(line.start), _form(line.end), _form(line.kind))
        if ends in found:
            continue
        # As the store resolves names: in the realm itself, else in the global one.
        keys = [_end(scoped, realm, place, name) for name in ends[:2]]
        found[ends] = [
            Link(strength, confidence, bool(both), start_s, end_s, metadata, created_s, bool(ended))
            for strength, confidence, both, start_s, end_s, metadata, created_s, ended in scoped.rows(
                "SELECT strength, confidence, both_ways, valid_from_s, valid_to_s, metadata, created_s, ended"
                " FROM {relations} WHERE source_entity = ? AND target_entity = ? AND type = ? AND realm = ?",
                (*keys, ends[2], place),
            )
        ]
    return found


def _end(scoped: Scoped, realm: Realm, place: int, name: str) -> int | None:
    for key, there in scoped.rows(
        "SELECT e.key, e.realm FROM {entities} e WHERE e.name = ? ORDER BY e.realm = ? DESC, e.key",
        (name, place),
    ):
        found = scoped.realm_of(there)
        if found == realm or found.scope is Scope.GLOBAL:
            return int(key)
    return None


def _form(name: str) -> str:
    """A name as it would be stored; one that cannot be is found nowhere."""
    try:
        return checked_name(name, "name")
    except InvalidEntityData:
        return ""


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
