"""Lines of a file as the requests that they become: of one scope, owner and source, and of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from node.errors import CaxtonError, ValidationFailed
from node.memory.lines import EntityLine, ObservationLine, RelationLine, SourceLine
from node.memory.model import BATCH_LIMIT, Provenance, Realm, Scope

BATCH_OBSERVATIONS: Final = 200
"""Most observations of one request: a second of embedding."""
BATCH_BYTES: Final = 1024**2
"""Characters of text after which a request is complete; a single observation may have more."""
BATCH_RELATIONS: Final = 200
"""Most relations of one request."""

NOBODY_SAYS: Final = SourceLine()
"""The source of what names none."""

Item = tuple[int, EntityLine]
"""A line's number, and (a part of) the entity it tells of."""


@dataclass(slots=True)
class Group:
    """Lines that become one request."""

    realm: Realm
    source: Provenance
    entities: list[Item] = field(default_factory=list)
    relations: list[tuple[int, RelationLine]] = field(default_factory=list)
    observations: int = 0
    size: int = 0

    @property
    def lines(self) -> Sequence[tuple[int, Any]]:
        """All of them."""
        return self.entities or self.relations

    def takes(self, realm: Realm, source: Provenance, line: EntityLine | RelationLine) -> bool:
        """Whether a line belongs to the same request, and has room in it."""
        if (realm, source) != (self.realm, self.source):
            return False
        if isinstance(line, RelationLine):
            return not self.entities and len(self.relations) < BATCH_RELATIONS
        fits = self.observations + len(line.observations) <= BATCH_OBSERVATIONS
        return not self.relations and len(self.entities) < BATCH_LIMIT and fits and self.size < BATCH_BYTES

    def add(self, number: int, line: EntityLine | RelationLine) -> None:
        """Take a line."""
        if isinstance(line, RelationLine):
            self.relations.append((number, line))
            return
        self.entities.append((number, line))
        self.observations += len(line.observations)
        self.size += sum(len(each.text) for each in line.observations)


def groups(
    lines: Sequence[tuple[int, EntityLine | RelationLine]],
    default: Realm,
    refuse: Callable[[int, CaxtonError], None],
) -> Iterator[Group]:
    """The requests that lines become, in their order."""
    group: Group | None = None
    for number, whole in lines:
        try:
            realm = _realm(whole, default)
        except CaxtonError as error:
            refuse(number, error)
            continue
        for told, line in _parts(whole):
            try:
                source = Provenance(told.agent, told.conversation, told.message, told.node)
            except CaxtonError as error:
                refuse(number, error)
                break
            if group is not None and not group.takes(realm, source, line):
                yield group
                group = None
            if group is None:
                group = Group(realm, source)
            group.add(number, line)
    if group is not None:
        yield group


def _parts(line: EntityLine | RelationLine) -> Iterator[tuple[SourceLine, EntityLine | RelationLine]]:
    """An entity in parts of one source that fit into a request."""
    if isinstance(line, RelationLine) or not line.observations:
        yield line.source or NOBODY_SAYS, line
        return
    part: list[ObservationLine] = []
    source, size = NOBODY_SAYS, 0
    for each in line.observations:
        told = each.source or line.source or NOBODY_SAYS
        if part and (told != source or len(part) == BATCH_OBSERVATIONS or size >= BATCH_BYTES):
            yield source, line.model_copy(update={"observations": part})
            part, size = [], 0
        part.append(each)
        source, size = told, size + len(each.text)
    yield source, line.model_copy(update={"observations": part})


def _realm(line: EntityLine | RelationLine, default: Realm) -> Realm:
    """Where a line belongs.

    Raises:
        CaxtonError: there is no such scope, or its owner is missing.
    """
    if line.memory_scope is None:
        if line.owner is not None:
            raise ValidationFailed("an owner without a memory_scope", details={"field": "memory_scope"})
        return default
    scope = Scope.parse(line.memory_scope)
    if scope is not Scope.GLOBAL and line.owner is None:
        raise ValidationFailed(
            f"the scope {scope.label} needs an owner",
            fix="Give owner: the agent's id, or the workspace's name.",
            details={"field": "owner"},
        )
    return Realm(scope, line.owner or "")
