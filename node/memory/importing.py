"""Takes a file back into the memory, line by line, by ordinary writes.

Theory of operation. Lines that follow each other and belong to one scope, owner and source become one request
of :meth:`~node.memory.store.MemoryStore.remember`, which is stored whole or not at all. What is there already
is looked up first and neither embedded nor stored again, past facts included; so an import that was killed is
repeated from the start, and ends in the state that it would have had.

What is known about an entity is a set, and sets only grow by an import. The strategies differ in what
becomes of values that are there and differ: ``update_existing`` takes over those of the file,
``skip_existing`` leaves them, ``error_on_conflict`` stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from node.environment import Environment
from node.errors import (
    CaxtonError,
    EmbeddingFailed,
    EntityConflict,
    MemoryLimitExceeded,
    ResourceLimitExceeded,
    StorageFailed,
)
from node.memory.embedding import Embedder, EmbeddingModel
from node.memory.grouping import Group, Item, groups
from node.memory.known import Facts, Known, Link, known_entities, known_links
from node.memory.lines import EntityLine, ObservationLine, RelationLine, read_line
from node.memory.model import (
    EntityDraft,
    ObservationDraft,
    Provenance,
    Realm,
    RelationDraft,
    encoded_metadata,
)
from node.memory.scopes import Viewer
from node.memory.store import MemoryStore
from node.memory.vectors import Vector

ERRORS_LIMIT: Final = 100
"""Most refused lines that are told one by one; more are counted."""
_FATAL: Final = (StorageFailed, MemoryLimitExceeded, ResourceLimitExceeded)
"""What the next line would meet as well."""


class Strategy(StrEnum):
    """What becomes of values that are there and differ from those of the file."""

    UPDATE = "update_existing"
    SKIP = "skip_existing"
    ERROR = "error_on_conflict"


class Conflict(EntityConflict):
    """A value is there and differs, and the import is to stop at that."""


@dataclass(slots=True)
class Report:
    """What an import has done."""

    entities_created: int = 0
    entities_known: int = 0
    observations_added: int = 0
    observations_known: int = 0
    relations_added: int = 0
    relations_known: int = 0
    vectors_taken: int = 0
    refused: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    lines: int = 0
    complete: bool = False
    """Whether the last line of an export was seen."""
    stopped_by: dict[str, Any] | None = None

    def refuse(self, number: int, error: CaxtonError) -> None:
        """Note that a line was not taken."""
        self.refused += 1
        if len(self.errors) < ERRORS_LIMIT:
            self.errors.append({"line": number, "error": error.as_json()["error"]})

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        errors = sorted(self.errors, key=lambda told: told["line"])
        told = {name: getattr(self, name) for name in self.__slots__}
        return told | {"errors": errors, "errors_limit": ERRORS_LIMIT}


class Import:
    """One import.

    Args:
        store: Where to.
        embedder: Whose vectors are taken as they are.
        environment: Tells what is past; its workers read the lines (lane ``files``).
        viewer: Who imports.
        realm: Where lines belong that do not say so.
        strategy: What becomes of values that differ.
    """

    def __init__(
        self,
        store: MemoryStore,
        embedder: Embedder,
        environment: Environment,
        *,
        viewer: Viewer,
        realm: Realm,
        strategy: Strategy,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._clock, self._workers = environment.clock, environment.workers
        self._viewer = viewer
        self._realm = realm
        self._strategy = strategy
        self.report = Report()

    async def take(self, lines: Sequence[tuple[int, object]]) -> bool:
        """Take the next lines; says whether to go on.

        Args:
            lines: Numbers, and what was read: JSON values, or what is wrong with them.
        """
        read: list[tuple[int, EntityLine | RelationLine]] = []
        self.report.lines += len(lines)
        for number, line, kind in await self._workers.run("files", _read, lines):
            if isinstance(line, CaxtonError):
                self.report.refuse(number, line)
                if kind == "header":
                    return self._stopped(line, number)
            elif line is not None:
                read.append((number, line))
            elif kind == "end":
                self.report.complete = True
        for group in groups(read, self._realm, self.report.refuse):
            try:
                await self._take_group(group)
            except (*_FATAL, Conflict) as error:
                return self._stopped(error, group.lines[0][0])
        return True

    def _stopped(self, error: CaxtonError, number: int) -> bool:
        at = error.details.get("line", number)
        self.report.stopped_by = {"line": at, "error": error.as_json()["error"]}
        return False

    async def _take_group(self, group: Group) -> None:
        if group.entities:
            await self._entities(group.realm, group.source, group.entities)
        else:
            await self._relations(group.realm, group.source, group.relations)

    async def _entities(self, realm: Realm, source: Provenance, items: Sequence[Item]) -> None:
        texts: dict[str, list[str]] = {}
        for _, line in items:
            texts.setdefault(line.name, []).extend(each.text for each in line.observations)
        try:
            known = await self._store.storage.read(lambda c: known_entities(c, self._viewer, realm, texts))
        except CaxtonError as error:
            self._all_refused(items, error)
            return
        self.report.entities_known += len(known)
        vectors: dict[tuple[str, str], Vector] = {}
        drafts: list[tuple[int, EntityDraft]] = []
        for number, line in items:
            try:
                draft = self._draft(line, known.setdefault(line.name, Known()), vectors)
            except Conflict as error:
                error.details = dict(error.details) | {"line": number}
                raise
            except CaxtonError as error:
                self.report.refuse(number, error)
                continue
            if draft is not None:
                drafts.append((number, draft))
        await self._remember(realm, source, drafts, vectors)

    def _all_refused(self, items: Sequence[tuple[int, Any]], error: CaxtonError) -> None:
        if isinstance(error, _FATAL):
            raise error
        for number, _ in items:
            self.report.refuse(number, error)

    async def _remember(
        self,
        realm: Realm,
        source: Provenance,
        drafts: Sequence[tuple[int, EntityDraft]],
        vectors: dict[tuple[str, str], Vector],
    ) -> None:
        """Store entities together; where one is refused, each on its own."""
        if not drafts:
            return
        try:
            stored = await self._store.remember(
                self._viewer, realm, [draft for _, draft in drafts], source=source, known=vectors
            )
        except _FATAL:
            raise
        except CaxtonError as error:
            if len(drafts) == 1:
                self.report.refuse(drafts[0][0], error)
                return
            for each in drafts:
                await self._remember(realm, source, [each], vectors)
            return
        self.report.entities_created += sum(each.created for each in stored)
        self.report.observations_added += sum(each.added for each in stored)
        self.report.observations_known += sum(len(each.observation_ids) - each.added for each in stored)

    def _draft(
        self, line: EntityLine, known: Known, vectors: dict[tuple[str, str], Vector]
    ) -> EntityDraft | None:
        """What is new in a line, or None when nothing is.

        Raises:
            Conflict: something differs, and the import is to stop at that.
            CaxtonError: the line cannot be remembered.
        """
        told = {
            "confidence": line.confidence,
            "strength": line.strength,
            "valid_from_s": line.valid_from_s,
            "valid_to_s": line.valid_to_s,
            "metadata": line.metadata,
        }
        draft = EntityDraft(line.name, line.kind, metadata=line.metadata, **_fields(told, known.values))
        if known.type is not None and known.type != line.kind:
            kind = Conflict if self._strategy is Strategy.ERROR else EntityConflict
            raise kind(
                f"the entity {draft.name!r} is a {known.type!r}, not a {line.kind!r}",
                why="a name stands for one thing in its scope",
                fix="Give it the type that is there, or another name.",
                details={"entity_name": draft.name, "entity_type": known.type},
            )
        differing = known.differing(told) if known.type is not None else []
        if differing and self._strategy is Strategy.ERROR:
            raise Conflict(
                f"the entity {draft.name!r} is there with another {differing[0]}",
                why="the import is to stop at what differs (error_on_conflict)",
                fix="Import with update_existing or skip_existing, or correct the file.",
                details={"entity_name": draft.name, "fields": differing},
            )
        keeps = self._strategy is Strategy.SKIP and known.type is not None
        values = dict(known.values) if keeps else _fields(told, known.values)
        metadata = None if keeps else line.metadata
        new = self._new_facts(line, known.facts, vectors)
        if known.type is not None and not new and (keeps or not differing):
            return None
        known.type, known.values = line.kind, values
        if metadata is not None:
            known.metadata = encoded_metadata(metadata)
        return EntityDraft(line.name, line.kind, tuple(new), metadata, **values)

    def _new_facts(
        self, line: EntityLine, facts: Facts, vectors: dict[tuple[str, str], Vector]
    ) -> list[ObservationDraft]:
        now_s, model, new = self._clock.wall(), self._model(), []
        for told in line.observations:
            if facts.has(told.text, told.valid_to_s, now_s):
                self.report.observations_known += 1
                continue
            start_s = _since(told, now_s)
            new.append(
                ObservationDraft(told.text, told.confidence, start_s, told.valid_to_s, told.metadata or {})
            )
            facts.add(told.text, told.valid_to_s)
            vector = None if told.vector is None or model is None else told.vector.vector(model)
            if vector is not None:
                vectors[line.name, told.text] = vector
                self.report.vectors_taken += 1
        return new

    async def _relations(
        self, realm: Realm, source: Provenance, items: Sequence[tuple[int, RelationLine]]
    ) -> None:
        try:
            known = await self._store.storage.read(
                lambda c: known_links(c, self._viewer, realm, [line for _, line in items])
            )
        except CaxtonError as error:
            self._all_refused(items, error)
            return
        drafts: list[tuple[int, RelationDraft]] = []
        for number, line in items:
            try:
                draft = self._new_relation(line, known)
            except Conflict as error:
                error.details = dict(error.details) | {"line": number}
                raise
            except CaxtonError as error:
                self.report.refuse(number, error)
                continue
            if draft is None:
                self.report.relations_known += 1
            else:
                drafts.append((number, draft))
        await self._relate(realm, source, drafts)

    async def _relate(
        self, realm: Realm, source: Provenance, drafts: Sequence[tuple[int, RelationDraft]]
    ) -> None:
        if not drafts:
            return
        try:
            made = await self._store.relate(
                self._viewer, realm, [draft for _, draft in drafts], source=source
            )
        except _FATAL:
            raise
        except CaxtonError as error:
            if len(drafts) == 1:
                self.report.refuse(drafts[0][0], error)
                return
            for each in drafts:
                await self._relate(realm, source, [each])
            return
        added = sum(each.created for each in made)
        self.report.relations_added += added
        self.report.relations_known += len(made) - added

    def _new_relation(
        self, line: RelationLine, known: dict[tuple[str, str, str], list[Link]]
    ) -> RelationDraft | None:
        """The relation of a line, or None when it is there, or the import leaves what is there.

        Raises:
            Conflict: another is there, and the import is to stop at that.
            CaxtonError: it cannot be remembered.
        """
        now_s = self._clock.wall()
        draft = RelationDraft(
            line.start,
            line.end,
            line.kind,
            line.strength,
            line.confidence,
            line.bidirectional,
            _since(line, now_s),
            line.valid_to_s,
            line.metadata or {},
        )
        told = Link(
            draft.strength,
            draft.confidence,
            draft.bidirectional,
            line.valid_from_s,
            draft.valid_to_s,
            encoded_metadata(draft.metadata),
        )
        links = known.setdefault((draft.source, draft.target, draft.type), [])
        past = line.valid_to_s is not None and line.valid_to_s <= now_s
        if past:
            # A past relation is history, which does not end the one that holds.
            if any(link.valid_to_s == line.valid_to_s or not link.ended for link in links):
                return None
        else:
            holding = [link for link in links if not link.ended]
            if any(link.says(told) for link in holding):
                return None
            if holding and self._strategy is Strategy.SKIP:
                return None
            if holding and self._strategy is Strategy.ERROR:
                raise Conflict(
                    f"{draft.source!r} {draft.type} {draft.target!r} is there with other values",
                    why="the import is to stop at what differs (error_on_conflict)",
                    fix="Import with update_existing or skip_existing, or correct the file.",
                    details={"from_entity": draft.source, "to_entity": draft.target},
                )
        for link in links:
            link.ended = True
        links.append(told)
        return draft

    def _model(self) -> EmbeddingModel | None:
        try:
            return self._embedder.model
        except EmbeddingFailed:
            return None


def _read(
    lines: Sequence[tuple[int, object]],
) -> list[tuple[int, EntityLine | RelationLine | CaxtonError | None, object]]:
    """What lines say: their numbers, what was read or is wrong, and what they call themselves."""
    found: list[tuple[int, EntityLine | RelationLine | CaxtonError | None, object]] = []
    for number, value in lines:
        kind = value.get("type") if isinstance(value, dict) else None
        try:
            found.append((number, value if isinstance(value, CaxtonError) else read_line(value), kind))
        except CaxtonError as error:
            found.append((number, error, kind))
    return found


def _since(told: ObservationLine | RelationLine, now_s: float) -> float | None:
    """Since when something holds: what was stored elsewhere, since it was stored there."""
    created_s = told.created_s
    if told.valid_from_s is not None or created_s is None or created_s >= now_s:
        return told.valid_from_s
    return created_s if told.valid_to_s is None or created_s < told.valid_to_s else None


def _fields(told: dict[str, Any], there: dict[str, Any]) -> dict[str, Any]:
    """The values of an entity: those of the file, else those that are there, else those by default."""
    default = {"confidence": 1.0, "strength": 1.0, "valid_from_s": None, "valid_to_s": None}
    return {
        name: told[name] if told[name] is not None else there.get(name, default[name]) for name in default
    }
