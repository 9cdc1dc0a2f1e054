"""What a memory must be able to do, wherever it is kept: the seam between the node and its backends.

A backend is handed who asks with every call (:class:`~node.memory.scopes.Viewer`), and what of it is meant
(:class:`~node.memory.scopes.Aim`, :class:`~node.memory.model.Realm`): there is no call without them. It
has to narrow its own queries by both. Above it stands :class:`~node.memory.backends.gate.ScopeGate`, which
refuses what is aimed at others before the backend hears of it, and withholds an answer with anything in it
that who asks may not see.

All times are Unix seconds, shares and similarities are from 0 to 1, ids are the texts of
:mod:`node.memory.ids`. What is told by a call that returned is kept: a backend acknowledges nothing that
it might lose.

A package registers one under the entry point group :data:`GROUP`, as a :data:`MakeBackend`; the name of the
entry point is what ``memory.backend`` names. ``tests/node/memory/backends`` holds every backend against the
same suite.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import trio

from node.environment import Environment
from node.memory.model import (
    NOBODY,
    NOW,
    EntityDraft,
    ObservationDraft,
    Period,
    Provenance,
    Realm,
    RelationDraft,
)
from node.memory.records import Limits, Outcome, Related, Remembered
from node.memory.scopes import EVERYWHERE, Aim, Viewer

if TYPE_CHECKING:
    from node.memory.embedding import Embedder
    from node.memory.exporting import Counted, Part
    from node.memory.graph import Graph, Path, Walk
    from node.memory.question import Question
    from node.memory.reading import Entity
    from node.memory.search import Found

GROUP: Final = "caxton.memory_backends"
"""Entry point group of the backends of other packages."""


class Exported(Protocol):
    """One run over all that a viewer may see, page by page; entities first."""

    @property
    def counted(self) -> Counted:
        """What it has told so far."""
        ...

    async def entities(self) -> list[Part]:
        """The next entities with what is known about them; none at their end."""
        ...

    async def relations(self) -> list[dict[str, Any]]:
        """The next relations; none at their end."""
        ...


class MemoryBackend(Protocol):
    """Remembers, searches, walks and forgets for viewers.

    Every call may raise :class:`~node.errors.StorageFailed` or
    :class:`~node.errors.MemoryBackendFailed` when the disk or the server behind it refuses; nothing was
    acknowledged then.
    """

    async def remember(
        self,
        viewer: Viewer,
        realm: Realm,
        drafts: Sequence[EntityDraft],
        *,
        source: Provenance = NOBODY,
        key: str | None = None,
    ) -> list[Remembered]:
        """Store entities with what is known about them, all or none; what is there is not stored twice.

        Args:
            viewer: Who stores.
            realm: Where.
            drafts: What.
            source: By whose word.
            key: An idempotency key: the same request under it is answered as it was, and does nothing.

        Raises:
            ScopeDenied: the realm is somebody else's.
            MemoryTooLarge: it is too much at once.
            EntityConflict: a name there has another type, or the key was used for something else.
            MemoryLimitExceeded: there is no room for it.
        """
        ...

    async def supersede(
        self, viewer: Viewer, observation_id: str, draft: ObservationDraft, *, source: Provenance = NOBODY
    ) -> Remembered:
        """End an observation, and store what holds instead.

        Raises:
            EntityNotFound: there is no such observation for this viewer.
            EntityConflict: it was superseded before, or nothing would change.
        """
        ...

    async def relate(
        self,
        viewer: Viewer,
        realm: Realm,
        drafts: Sequence[RelationDraft],
        *,
        source: Provenance = NOBODY,
    ) -> list[Related]:
        """Store how entities relate, all or none; a relation that was told otherwise before ends.

        Raises:
            ScopeDenied: the realm is somebody else's.
            EntityNotFound: an end is neither in the realm nor in the global scope.
        """
        ...

    async def search(self, viewer: Viewer, question: Question) -> Found:
        """Answer a question; the best first."""
        ...

    async def get(
        self, viewer: Viewer, name: str, *, aim: Aim = EVERYWHERE, period: Period = NOW, after: int = 0
    ) -> Entity:
        """An entity by its name or id, with what is known about it and its relations.

        Args:
            viewer: Who asks.
            name: Of the entity, or its id; of several the one in the narrowest scope.
            aim: In which scopes.
            period: What of it, by time.
            after: Observations to leave out before the first.

        Raises:
            EntityNotFound: there is none for this viewer.
        """
        ...

    async def entities(
        self,
        viewer: Viewer,
        *,
        aim: Aim = EVERYWHERE,
        types: Sequence[str] = (),
        limit: int = 50,
        after: str = "",
    ) -> list[Entity]:
        """Entities by id, without what is known about them; ``after`` is the last of the page before."""
        ...

    async def walk(self, viewer: Viewer, start: str, way: Walk) -> Graph:
        """What is around an entity, along relations.

        Raises:
            EntityNotFound: there is no such entity for this viewer.
        """
        ...

    async def path(self, viewer: Viewer, start: str, end: str, way: Walk) -> Path | None:
        """The shortest way between two entities, or None within the bounds of the walk.

        Raises:
            EntityNotFound: one of them is not there for this viewer.
        """
        ...

    async def forget_observation(self, viewer: Viewer, observation_id: str) -> None:
        """Take one observation out for good.

        Raises:
            EntityNotFound: there is none of that id for this viewer.
        """
        ...

    async def forget_relation(self, viewer: Viewer, relation_id: str) -> None:
        """Take one relation out for good.

        Raises:
            EntityNotFound: there is none of that id for this viewer.
        """
        ...

    async def forget(self, viewer: Viewer, name: str, *, aim: Aim = EVERYWHERE) -> None:
        """Take an entity out for good, with all that is known about it.

        Raises:
            EntityNotFound: there is none of that name or id for this viewer.
        """
        ...

    async def clear(self, viewer: Viewer, aim: Aim, types: Sequence[str] = ()) -> int:
        """Take out all entities of a choice; returns how many."""
        ...

    async def record(self, viewer: Viewer, observation_ids: Sequence[str], outcome: Outcome) -> None:
        """Note what came of an answer that observations were used for; it weighs in later searches.

        Raises:
            EntityNotFound: one of them is not there for this viewer; then none is noted.
        """
        ...

    async def counts(self, viewer: Viewer, aim: Aim = EVERYWHERE) -> dict[Realm, tuple[int, int, int]]:
        """Entities, observations and relations in each realm of a viewer that has any."""
        ...

    def export(self, viewer: Viewer, aim: Aim = EVERYWHERE, *, vectors: bool = False) -> Exported:
        """All that a viewer may see; ``vectors`` says whether observations come with theirs."""
        ...

    def statistics(self) -> Mapping[str, Any]:
        """Sizes, limits, counts since the start, and whether what is behind it answers."""
        ...


class OutsideBackend(MemoryBackend, Protocol):
    """A backend that is not the node's own file: it has a life of its own, and takes copies."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what is due in the background; runs until cancelled."""
        ...

    async def aclose(self) -> None:
        """Let go of connections; doing it twice is harmless."""
        ...

    async def take(self, parts: Sequence[Part]) -> None:
        """Store copies of entities with their observations, as an export with vectors tells them.

        Ids, versions, times, sources and outcomes are taken over. What is there under the same id is
        replaced, so that a copy that was cut off is simply repeated.
        """
        ...

    async def take_relations(self, relations: Sequence[dict[str, Any]]) -> None:
        """The same of relations, whose entities are there."""
        ...


@dataclass(frozen=True, slots=True)
class BackendContext:
    """What a backend is made with.

    Attributes:
        environment: Time, ids, and workers for what blocks.
        node: Name of the node, for the provenance of what it stores.
        embedder: Makes vectors of texts; may fail, and then words are searched.
        limits: How much is remembered at most.
        threshold: Least similarity of what is found by its meaning alone.
    """

    environment: Environment
    node: str
    embedder: Embedder
    limits: Limits
    threshold: float


MakeBackend: TypeAlias = Callable[[BackendContext, Mapping[str, Any]], Awaitable[OutsideBackend]]
"""What an entry point names: makes a backend of a context and of ``memory.options``."""
