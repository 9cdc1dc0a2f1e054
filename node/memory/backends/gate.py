"""The one way to a memory: no backend is asked beyond a scope, and none can answer beyond it.

A request that aims at somebody else's scope is refused before the backend hears of it. Each answer is looked
through again: a backend whose own filter has failed shows nothing, and says so in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from node.errors import MemoryBackendFailed, invariant
from node.memory.model import (
    NOBODY,
    NOW,
    EntityDraft,
    ObservationDraft,
    Period,
    Provenance,
    Realm,
    RelationDraft,
    Scope,
)
from node.memory.records import Outcome, Related, Remembered
from node.memory.scopes import EVERYWHERE, Aim, Viewer

if TYPE_CHECKING:
    from node.memory.backends.protocol import Exported, MemoryBackend
    from node.memory.exporting import Counted, Part
    from node.memory.graph import Graph, Path, Walk
    from node.memory.question import Question
    from node.memory.reading import Entity
    from node.memory.search import Found

log = logging.getLogger(__name__)


class ScopeGate:
    """A backend behind the rules of who may see what, and itself a backend for who asks.

    Args:
        backend: What is asked.
    """

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self._withheld = 0

    async def remember(
        self,
        viewer: Viewer,
        realm: Realm,
        drafts: Sequence[EntityDraft],
        *,
        source: Provenance = NOBODY,
        key: str | None = None,
    ) -> list[Remembered]:
        """Store entities, where this viewer may.

        Raises:
            ScopeDenied: the realm is somebody else's.
        """
        admit(viewer, Aim(realm.scope, realm.owner))
        return await self._backend.remember(viewer, realm, drafts, source=source, key=key)

    async def supersede(
        self, viewer: Viewer, observation_id: str, draft: ObservationDraft, *, source: Provenance = NOBODY
    ) -> Remembered:
        """End an observation of this viewer, and store what holds instead."""
        admit(viewer)
        return await self._backend.supersede(viewer, observation_id, draft, source=source)

    async def relate(
        self,
        viewer: Viewer,
        realm: Realm,
        drafts: Sequence[RelationDraft],
        *,
        source: Provenance = NOBODY,
    ) -> list[Related]:
        """Store relations, where this viewer may.

        Raises:
            ScopeDenied: the realm is somebody else's.
        """
        admit(viewer, Aim(realm.scope, realm.owner))
        return await self._backend.relate(viewer, realm, drafts, source=source)

    async def search(self, viewer: Viewer, question: Question) -> Found:
        """Answer a question.

        Raises:
            ScopeDenied: it aims at somebody else's scope.
            MemoryBackendFailed: the answer has what this viewer may not see.
        """
        admit(viewer, question.aim)
        found = await self._backend.search(viewer, question)
        self._look(viewer, question.aim, [hit.entity for hit in found.hits])
        return found

    async def get(
        self, viewer: Viewer, name: str, *, aim: Aim = EVERYWHERE, period: Period = NOW, after: int = 0
    ) -> Entity:
        """An entity with what is known about it.

        Raises:
            ScopeDenied: the aim is somebody else's scope.
            MemoryBackendFailed: the answer has what this viewer may not see.
        """
        admit(viewer, aim)
        found = await self._backend.get(viewer, name, aim=aim, period=period, after=after)
        self._look(viewer, aim, [found])
        return found

    async def entities(
        self,
        viewer: Viewer,
        *,
        aim: Aim = EVERYWHERE,
        types: Sequence[str] = (),
        limit: int = 50,
        after: str = "",
    ) -> list[Entity]:
        """Entities by id.

        Raises:
            ScopeDenied: the aim is somebody else's scope.
            MemoryBackendFailed: the answer has what this viewer may not see.
        """
        admit(viewer, aim)
        found = await self._backend.entities(viewer, aim=aim, types=types, limit=limit, after=after)
        self._look(viewer, aim, found)
        return found

    async def walk(self, viewer: Viewer, start: str, way: Walk) -> Graph:
        """What is around an entity.

        Raises:
            ScopeDenied: the walk aims at somebody else's scope.
            MemoryBackendFailed: the answer has what this viewer may not see.
        """
        admit(viewer, way.aim)
        found = await self._backend.walk(viewer, start, way)
        self._look(viewer, way.aim, [node.entity for node in found.nodes])
        return found

    async def path(self, viewer: Viewer, start: str, end: str, way: Walk) -> Path | None:
        """The shortest way between two entities.

        Raises:
            ScopeDenied: the walk aims at somebody else's scope.
            MemoryBackendFailed: the answer has what this viewer may not see.
        """
        admit(viewer, way.aim)
        found = await self._backend.path(viewer, start, end, way)
        if found is not None:
            self._look(viewer, way.aim, [node.entity for node in found.nodes])
        return found

    async def forget_observation(self, viewer: Viewer, observation_id: str) -> None:
        """Take one observation of this viewer out."""
        admit(viewer)
        await self._backend.forget_observation(viewer, observation_id)

    async def forget_relation(self, viewer: Viewer, relation_id: str) -> None:
        """Take one relation of this viewer out."""
        admit(viewer)
        await self._backend.forget_relation(viewer, relation_id)

    async def forget(self, viewer: Viewer, name: str, *, aim: Aim = EVERYWHERE) -> None:
        """Take an entity of this viewer out.

        Raises:
            ScopeDenied: the aim is somebody else's scope.
        """
        admit(viewer, aim)
        await self._backend.forget(viewer, name, aim=aim)

    async def clear(self, viewer: Viewer, aim: Aim, types: Sequence[str] = ()) -> int:
        """Take out entities of a choice.

        Raises:
            ScopeDenied: the aim is somebody else's scope.
        """
        admit(viewer, aim)
        return await self._backend.clear(viewer, aim, types)

    async def record(self, viewer: Viewer, observation_ids: Sequence[str], outcome: Outcome) -> None:
        """Note what came of an answer."""
        admit(viewer)
        await self._backend.record(viewer, observation_ids, outcome)

    async def counts(self, viewer: Viewer, aim: Aim = EVERYWHERE) -> dict[Realm, tuple[int, int, int]]:
        """How much is in each realm of this viewer.

        Raises:
            ScopeDenied: the aim is somebody else's scope.
            MemoryBackendFailed: the answer has what this viewer may not see.
        """
        admit(viewer, aim)
        found = await self._backend.counts(viewer, aim)
        self._require(viewer, aim, found)
        return found

    def export(self, viewer: Viewer, aim: Aim = EVERYWHERE, *, vectors: bool = False) -> Exported:
        """All that a viewer may see; what it tells is looked through page by page.

        Raises:
            ScopeDenied: the aim is somebody else's scope.
        """
        admit(viewer, aim)
        return _GatedExport(self, self._backend.export(viewer, aim, vectors=vectors), viewer, aim)

    def statistics(self) -> dict[str, Any]:
        """Those of the backend, and how many answers were withheld."""
        return {**self._backend.statistics(), "answers_withheld": self._withheld}

    def _look(self, viewer: Viewer, aim: Aim, entities: Sequence[Entity]) -> None:
        """Withhold an answer with an entity of others, or a relation."""
        self._require(viewer, aim, (entity.realm for entity in entities))
        self._require(viewer, EVERYWHERE, (each.realm for entity in entities for each in entity.relations))

    def _require(self, viewer: Viewer, aim: Aim, realms: Iterable[Realm]) -> None:
        for realm in realms:
            if viewer.may_see(realm) and covers(aim, realm):
                continue
            self._withheld += 1
            log.error("the memory's backend answered with something in scope %s of others", realm.scope.label)
            raise MemoryBackendFailed(
                "the answer of the memory was withheld",
                why="its backend has told of a scope that was not asked for",
                fix="The backend has a defect: report it to who maintains it.",
            )


class _GatedExport:
    """An export whose pages are looked through."""

    def __init__(self, gate: ScopeGate, told: Exported, viewer: Viewer, aim: Aim) -> None:
        self._gate, self._told, self._viewer, self._aim = gate, told, viewer, aim

    @property
    def counted(self) -> Counted:
        """What it has told so far."""
        return self._told.counted

    async def entities(self) -> list[Part]:
        """The next entities."""
        found = await self._told.entities()
        self._require([part.entity for part in found if part.entity], self._aim)
        return found

    async def relations(self) -> list[dict[str, Any]]:
        """The next relations."""
        found = await self._told.relations()
        self._require(found, self._aim)
        return found

    def _require(self, lines: Sequence[dict[str, Any]], aim: Aim) -> None:
        realms = [Realm(Scope.parse(each["memory_scope"]), each.get("owner") or "") for each in lines]
        self._gate._require(self._viewer, aim, realms)  # noqa: SLF001 - one thing in two classes


def covers(aim: Aim, realm: Realm) -> bool:
    """Whether a realm is among those that are meant; an owner alone means the global scope, too."""
    if aim.scope is not None and realm.scope is not aim.scope:
        return False
    if aim.owner is None or realm.owner == aim.owner:
        return True
    return realm.scope is Scope.GLOBAL


def admit(viewer: Viewer, aim: Aim = EVERYWHERE) -> None:
    """Refuse what aims at others.

    Raises:
        ScopeDenied: the aim is somebody else's scope.
    """
    invariant(not viewer.replica, "other nodes do not come through the gate")
    if aim.scope is not None and (aim.owner is not None or aim.scope is Scope.GLOBAL):
        viewer.require(Realm(aim.scope, "" if aim.scope is Scope.GLOBAL else aim.owner or ""))
