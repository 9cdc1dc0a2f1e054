"""What is in the graph: labels, constraints, indexes, and the condition that every statement carries.

``CaxtonEntity`` nodes, ``CaxtonObservation`` nodes that are ``CaxtonAbout`` one, ``CaxtonRelates``
relationships between entities, ``CaxtonRequest`` nodes for idempotency keys. Each has ``place``: its scope
and owner as one text. An observation with a vector has the label of its model's space, too, which has an
index of its own: spaces cannot be mixed. ``places`` are for the full text, whose queries are narrowed by
them as words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.memory.backends.gate import admit, covers
from node.memory.embedding import EmbeddingModel
from node.memory.model import Period, Realm, Scope, Timing
from node.memory.scopes import Aim, Viewer

TEXTS: Final = "caxton_texts"
"""Full text of observations."""
NAMES: Final = "caxton_names"
"""Full text of the names and types of entities."""
SCHEMA: Final = [
    "CREATE CONSTRAINT caxton_entity IF NOT EXISTS FOR (e:CaxtonEntity) REQUIRE e.id IS UNIQUE",
    "CREATE CONSTRAINT caxton_name IF NOT EXISTS FOR (e:CaxtonEntity) REQUIRE (e.place, e.name) IS UNIQUE",
    "CREATE CONSTRAINT caxton_observation IF NOT EXISTS FOR (o:CaxtonObservation) REQUIRE o.id IS UNIQUE",
    "CREATE CONSTRAINT caxton_request IF NOT EXISTS FOR (q:CaxtonRequest) REQUIRE (q.place, q.key) IS UNIQUE",
    "CREATE INDEX caxton_named IF NOT EXISTS FOR (e:CaxtonEntity) ON (e.name)",
    "CREATE INDEX caxton_relation IF NOT EXISTS FOR ()-[r:CaxtonRelates]-() ON (r.id)",
    "CREATE INDEX caxton_observed IF NOT EXISTS FOR (o:CaxtonObservation) ON (o.entity, o.digest)",
    "CREATE INDEX caxton_placed IF NOT EXISTS FOR (o:CaxtonObservation) ON (o.place)",
    "CREATE INDEX caxton_related IF NOT EXISTS FOR ()-[r:CaxtonRelates]-() ON (r.place)",
    (
        f"CREATE FULLTEXT INDEX {TEXTS} IF NOT EXISTS FOR (o:CaxtonObservation) ON EACH [o.text, o.places]"
        " OPTIONS {indexConfig: {`fulltext.analyzer`: 'english'}}"
    ),
    (
        f"CREATE FULLTEXT INDEX {NAMES} IF NOT EXISTS FOR (e:CaxtonEntity) ON EACH [e.name, e.type, e.places]"
        " OPTIONS {indexConfig: {`fulltext.analyzer`: 'standard-no-stop-words'}}"
    ),
]
"""Everything but the index of each space."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of a statement, with its parameters."""

    where: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reach:
    """What who asks may see and means.

    Attributes:
        realms: Exactly these; None for all, of which ``aim`` may mean some.
        aim: What an operator means.
    """

    realms: tuple[Realm, ...] | None
    aim: Aim

    def of(self, *names: str) -> Condition:
        """The condition that what these names stand for is within reach."""
        told: list[str] = ["true"]
        parameters: dict[str, Any] = {}
        for name in names:
            if self.realms is not None:
                told.append(f"{name}.place IN $places")
                parameters["places"] = [place(realm) for realm in self.realms]
            if self.aim.scope is not None:
                told.append(f"{name}.scope = $scope")
                parameters["scope"] = int(self.aim.scope)
            if self.aim.owner is not None:
                told.append(f"({name}.owner = $owner OR {name}.scope = {int(Scope.GLOBAL)})")
                parameters["owner"] = self.aim.owner
        return Condition(" AND ".join(told), parameters)

    @property
    def words(self) -> str:
        """The same as words of a full text's query; empty where it cannot be said in words."""
        if self.realms is None:
            return ""
        return "places:(" + " ".join(place_word(realm) for realm in self.realms) + ")"


def reach_of(viewer: Viewer, aim: Aim) -> Reach:
    """What a viewer sees of what is meant.

    Raises:
        ScopeDenied: the aim is somebody else's scope.
    """
    admit(viewer, aim)
    if viewer.operator:
        return Reach(None, aim)
    realms = [Realm(Scope.GLOBAL), *(Realm(Scope.WORKSPACE, name) for name in viewer.workspaces)]
    if viewer.agent is not None:
        realms.append(Realm(Scope.AGENT, viewer.agent))
    return Reach(tuple(realm for realm in realms if covers(aim, realm)), aim)


def place(realm: Realm) -> str:
    """Scope and owner as one text."""
    return f"{int(realm.scope)}/{realm.owner}"


def place_word(realm: Realm) -> str:
    """The same as a word that no stemmer changes."""
    return f"p{hashlib.sha256(place(realm).encode()).hexdigest()[:24]}0"


def placed(realm: Realm) -> dict[str, Any]:
    """What everything has that is somewhere."""
    return {
        "place": place(realm),
        "places": place_word(realm),
        "scope": int(realm.scope),
        "owner": realm.owner,
    }


def realm_of(told: dict[str, Any]) -> Realm:
    """Where something is."""
    return Realm(Scope(told["scope"]), told["owner"])


def label(model: EmbeddingModel) -> str:
    """The label of observations with vectors of a model; the name of its index as well."""
    return f"CaxtonSpace_{model.digest[:16]}"


def space(model: EmbeddingModel) -> str:
    """The statement that makes the index of a space."""
    name = label(model)
    return (
        f"CREATE VECTOR INDEX {name} IF NOT EXISTS FOR (o:{name}) ON (o.vector) OPTIONS {{indexConfig:"
        f" {{`vector.dimensions`: {model.dimension:d}, `vector.similarity_function`: 'cosine'}}}}"
    )


def at_time(name: str, period: Period, now_s: float) -> Condition:
    """The condition that something holds at the time of a question."""
    end, start = f"{name}.valid_to_s", f"coalesce({name}.valid_from_s, {name}.created_s)"
    if period.timing is Timing.ALL:
        return Condition("true", {})
    if period.timing is Timing.CURRENT:
        begun = f"({name}.valid_from_s IS NULL OR {name}.valid_from_s <= $now_s)"
        return Condition(f"({end} IS NULL OR {end} > $now_s) AND {begun}", {"now_s": now_s})
    # What starts and ends in the same instant never held.
    where = f"({end} IS NULL OR ({end} > $start_s AND {end} > {start})) AND {start} < $end_s"
    return Condition(
        where, {"start_s": period.start_s or 0.0, "end_s": now_s if period.end_s is None else period.end_s}
    )


def of_types(name: str, types: Sequence[str]) -> Condition:
    """The condition that something is of one of these types, if any are given."""
    return Condition(f"{name}.type IN $types", {"types": list(types)}) if types else Condition("true", {})


def all_of(*conditions: Condition) -> Condition:
    """All of them."""
    parameters: dict[str, Any] = {}
    for each in conditions:
        parameters |= each.parameters
    return Condition(" AND ".join(f"({each.where})" for each in conditions), parameters)
