"""Search: by meaning, by words and by name, fused by reciprocal rank; every hit says why it is one.

Theory of operation. Three lists are made, each in its own order: observations whose vectors are near the
question's, observations that have its words, entities whose names have them. An entity counts once in each
list, by its best observation; its score is the sum of 1 / (60 + rank) over the lists (Cormack, Clarke and
Buettcher, 2009), divided by what the first in all lists would get. Ranks need no common scale, which cosine
and BM25 do not have.

Where who asks sees few observations, or the filters leave few, all their vectors are compared. Otherwise
the signs of all are searched, in memory where they have room (:mod:`node.memory.planes`) and else in the
file, and the nearest are compared by their 8-bit numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import apsw
import numpy as np

from node.memory.embedding import EmbeddingModel
from node.memory.indexes import space_of
from node.memory.model import NOW
from node.memory.planes import Planes
from node.memory.question import Question
from node.memory.reading import (
    Entity,
    at_time,
    entities_of,
    observations_by_key,
    observations_of,
    of_types,
    relations_of,
    uses_by_key,
)
from node.memory.scopes import Aim, Scoped, Viewer
from node.memory.vectors import Vector, packed, similarities
from node.memory.words import CANDIDATES, Vocabulary, WordHit, name_hits, word_hits

EXACT_LIMIT: Final = 2_000
"""Up to so many observations, all vectors are compared."""
NEAREST: Final = 128
"""Observations with the nearest signs that are compared by their numbers."""
NEAREST_FILTERED: Final = (256, 1_024)
"""The same when filters will drop some of them: the second where they have left too few of the first."""
SHOWN: Final = 5
"""Most observations of one hit that are shown."""
RANK_CONSTANT: Final = 60
"""How little the very first ranks stand out."""
BYTES_PER_TOKEN: Final = 4
"""How many bytes of text a model's token is taken for."""
_LISTS: Final = ("meaning", "words", "name")


class Reason(NamedTuple):
    """Why an entity is in one of the lists.

    Args:
        rank: Its place there, from 1.
        observation: The key of the observation that brought it there; 0 in the list of names.
        terms: The words it has, in the list of words.
    """

    rank: int
    observation: int = 0
    terms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """One result.

    Attributes:
        entity: What was found, with the observations that were, the best first.
        score: From 0 to 1, where nothing but the lists counts.
        similarity: Of its most similar observation, 0 to 1; None without vectors.
        similarities: Of each observation shown, by its id.
        reasons: List -> why it is in it.
    """

    entity: Entity
    score: float
    similarity: float | None
    similarities: Mapping[str, float]
    reasons: Mapping[str, Reason]

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        shown = self.entity.as_json()
        for observation in shown["observations"]:
            observation["similarity_score"] = self.similarities.get(observation["observation_id"])
        why = {name: {"rank": reason.rank} for name, reason in self.reasons.items()}
        if "words" in self.reasons:
            why["words"]["terms"] = list(self.reasons["words"].terms)  # type: ignore[assignment]
        return shown | {"score": self.score, "similarity_score": self.similarity, "why": why}


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a question.

    Attributes:
        hits: This page, the best first.
        total: How many results there are on all pages; candidates are bounded, so it is at most some
            hundreds.
        terms: The words that were searched.
        by_meaning: Whether vectors were compared.
        cut: Whether the budget of tokens has cut something off.
        degraded: Whether the embedder has failed, so that only words were searched.
    """

    hits: tuple[Hit, ...]
    total: int
    terms: tuple[str, ...] = ()
    by_meaning: bool = False
    cut: bool = False
    degraded: bool = False


class OutsideVectors(Protocol):
    """A server that has the vectors, too, and is asked first what is near."""

    async def candidates(
        self, viewer: Viewer, aim: Aim, model: EmbeddingModel, vector: Vector, *, past: bool
    ) -> list[int] | None:
        """Keys of observations that may be near a vector, or None when only the file can tell."""
        ...

    def statistics(self) -> Mapping[str, Any]:
        """Counts, and whether it answers."""
        ...


@dataclass(slots=True)
class _Lists:
    """The three lists by entity, and what is known of the observations in them."""

    similarity: dict[int, float] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    """Observations that were ever used."""
    entity_of: dict[int, int] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    """Observations, as they came into any list: better ones of each list first."""
    reasons: dict[int, dict[str, Reason]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    sums: dict[int, float] = field(default_factory=dict)
    """Entity -> what its ranks add up to."""

    def add(
        self, name: str, entity: int, observation: int = 0, terms: tuple[str, ...] = (), *, used: int = 0
    ) -> None:
        """Put an entity at the end of a list, unless it is in it."""
        if observation:
            self.entity_of[observation] = entity
            self.order.append(observation)
            if used:
                self.used.add(observation)
        there = self.reasons.setdefault(entity, {})
        if name not in there:
            rank = self.lengths[name] = self.lengths.get(name, 0) + 1
            there[name] = Reason(rank, observation, terms)
            self.sums[entity] = self.sums.get(entity, 0.0) + 1 / (RANK_CONSTANT + rank)


def search(
    connection: apsw.Connection,
    vocabulary: Vocabulary,
    viewer: Viewer,
    question: Question,
    *,
    now_s: float,
    vector: Vector | None,
    model: EmbeddingModel | None,
    threshold: float,
    planes: Planes | None = None,
    candidates: Sequence[int] | None = None,
) -> Found:
    """Answer a question from one snapshot of the memory.

    Args:
        connection: The reader; only the chokepoint and the indexes see it.
        vocabulary: Of this reader.
        viewer: Who asks.
        question: What.
        now_s: Unix seconds.
        vector: Of the question, or None when it could not be embedded.
        model: Of the vector.
        threshold: Least similarity of what is found by its meaning alone, where the question names none.
        planes: The signs in memory, of this reader.
        candidates: Keys of observations that may be near, where a server of vectors has been asked.

    Raises:
        ScopeDenied: the question aims at somebody else's scope.
    """
    scoped = Scoped(connection, viewer, question.aim)
    conditions = _conditions(question, now_s)
    lists = _Lists()
    space = None if vector is None or model is None else space_of(connection, model)
    if vector is not None and space is not None:
        for key, entity, near, used in by_meaning(
            scoped, question, space.key, vector, conditions, planes=planes, candidates=candidates
        ):
            lists.similarity[key] = near
            if near > 0.0:
                lists.add("meaning", entity, key, used=used)
    asked = vocabulary.asked(scoped, question.text, scoped.totals()["observations"], planes)
    hits = word_hits(scoped, asked, *conditions.both, space=None if space is None else space.key)
    for hit in hits:
        terms = tuple([asked.terms[place] for place in hit.terms])
        lists.add("words", hit.entity, hit.observation, terms, used=hit.used)
    for entity in name_hits(scoped, asked.terms, *conditions.entity, CANDIDATES):
        lists.add("name", entity)
    if vector is not None and space is not None:
        _compare_the_rest(lists, hits, vector)
    ranked = _ranked(lists, question.min_similarity, threshold, by_meaning=space is not None)
    found = _weighed(scoped, lists, ranked, question, now_s)
    page = found[question.offset : question.offset + question.limit]
    shown, cut = within_budget(_shown(scoped, lists, question, now_s, page), question.max_tokens)
    return Found(tuple(shown), len(found), asked.terms, space is not None, cut)


Near: TypeAlias = tuple[int, int, float, int]
"""An observation: its key, its entity, how similar it is, how often it was used."""
_Condition: TypeAlias = tuple[str, tuple[Any, ...]]


class Conditions(NamedTuple):
    """What is left of what is found, each with its bindings.

    Args:
        entity: On ``e``, an entity that is found by its name.
        both: On ``e`` and ``o``, an entity and its observation.
        observation: What of it can be told of ``o`` alone.
        rest: What of it is then still to be told.
        rest_of_entity: Whether that can be told of ``e`` alone.
    """

    entity: _Condition = ("1", ())
    both: _Condition = ("1", ())
    observation: _Condition = ("1", ())
    rest: _Condition = ("1", ())
    rest_of_entity: bool = True


def _conditions(question: Question, now_s: float) -> Conditions:
    """What an entity must be, and what it and its observation must be together."""
    alone = [of_types("e", question.types), at_time("e", question.period, now_s)]
    also, rest = at_time("o", question.period, now_s), list(alone)
    for key, value in question.metadata.items():
        path, wanted = f'$."{key}"', json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        alone.append(("e.metadata -> ? = ?", (path, wanted)))
        rest.append(("(e.metadata -> ? = ? OR o.metadata -> ? = ?)", (path, wanted, path, wanted)))
    return Conditions(_all(alone), _all([*rest, also]), also, _all(rest), not question.metadata)


def _all(conditions: Sequence[_Condition]) -> _Condition:
    where = " AND ".join(f"({sql})" for sql, _ in conditions)
    return where, tuple(value for _, bindings in conditions for value in bindings)


def by_meaning(
    scoped: Scoped,
    question: Question,
    space: int,
    vector: Vector,
    conditions: Conditions,
    *,
    planes: Planes | None = None,
    candidates: Sequence[int] | None = None,
) -> list[Near]:
    """Observations near a question, the nearest first.

    Args:
        scoped: The memory as who asks sees it.
        question: What narrows it.
        space: Number of the model's space.
        vector: Of the question.
        conditions: What it leaves.
        planes: The signs in memory, of this reader.
        candidates: What else has looked for them has found, as keys of observations.
    """
    if candidates is not None:
        return _compared(scoped, candidates, space, vector, conditions)
    if scoped.observations() <= EXACT_LIMIT:
        return _exactly(scoped, space, vector, conditions)
    found: list[Near] = []
    [sought] = packed([vector])
    for count in NEAREST_FILTERED if question.filtered else (NEAREST,):
        past = question.period != NOW
        nearest = scoped.nearest(space, sought, count, past=past, planes=planes)
        found = _compared(scoped, nearest, space, vector, conditions)
        if len(found) >= CANDIDATES or not question.filtered:
            return found
    where, bindings = conditions.both
    [(matching,)] = scoped.rows(
        "SELECT count(*) FROM (SELECT 1 FROM {entities} e JOIN {observations} o ON o.entity = e.key"  # noqa: S608
        f" WHERE o.model = ? AND {where} LIMIT ?)",
        (space, *bindings, EXACT_LIMIT + 1),
    )
    return found if matching > EXACT_LIMIT else _exactly(scoped, space, vector, conditions)


def _exactly(scoped: Scoped, space: int, vector: Vector, conditions: Conditions) -> list[Near]:
    """All that a question leaves, compared."""
    where, bindings = conditions.both
    found = scoped.rows(
        "SELECT o.key, o.entity, o.vector, o.used FROM {entities} e JOIN {observations} o ON o.entity = e.key"  # noqa: S608
        f" WHERE o.model = ? AND {where}",
        (space, *bindings),
    )
    return _by_similarity(vector, found)[:CANDIDATES]


def _compared(
    scoped: Scoped, keys: Sequence[int], space: int, vector: Vector, conditions: Conditions
) -> list[Near]:
    """The nearest of some observations that a question leaves: of most of them no entity is looked up."""
    where, bindings = conditions.observation
    ordered = _by_similarity(
        vector,
        scoped.rows(
            "SELECT o.key, o.entity, o.vector, o.used FROM json_each(?) j CROSS JOIN {observations} o"  # noqa: S608
            f" ON o.key = j.value WHERE o.model = ? AND {where}",
            (json.dumps(list(keys)), space, *bindings),
        ),
    )
    where, bindings = conditions.rest
    found: list[Near] = []
    for first in range(0, len(ordered), CANDIDATES):
        some = ordered[first : first + CANDIDATES]
        # In this order: SQLite would go through all entities of the scope, and all that is known of them.
        if conditions.rest_of_entity:
            asked, column = sorted({near[1] for near in some}), 1
            joined = "SELECT e.key FROM json_each(?) j CROSS JOIN {entities} e ON e.key = j.value"
        else:
            asked, column = [near[0] for near in some], 0
            joined = (
                "SELECT o.key FROM json_each(?) j CROSS JOIN {observations} o ON o.key = j.value"
                " CROSS JOIN {entities} e ON e.key = o.entity"
            )
        fit = {key for (key,) in scoped.rows(f"{joined} WHERE {where}", (json.dumps(asked), *bindings))}
        found += [each for each in some if each[column] in fit]
        if len(found) >= CANDIDATES:
            break
    return found[:CANDIDATES]


def _by_similarity(vector: Vector, found: Sequence[Any]) -> list[Near]:
    """Rows of (key, entity, vector, used), the nearest first."""
    near = similarities(vector, [row[2] for row in found])
    order = np.lexsort(([row[0] for row in found], -near)).tolist()
    similar = near.tolist()
    return [(found[place][0], found[place][1], similar[place], found[place][3]) for place in order]


def _compare_the_rest(lists: _Lists, hits: Sequence[WordHit], vector: Vector) -> None:
    """Find out how like the question the observations are that were found by their words alone."""
    # In the order of their keys: the last digits of a product depend on its place among the others.
    rest = sorted(
        (hit.observation, hit.vector)
        for hit in hits
        if hit.vector is not None and hit.observation not in lists.similarity
    )
    near = similarities(vector, [stored for _, stored in rest])
    lists.similarity.update(zip((key for key, _ in rest), near.tolist(), strict=True))


def _ranked(
    lists: _Lists, least: float | None, threshold: float, *, by_meaning: bool
) -> list[tuple[int, float, float | None]]:
    """Entities that are like enough: (key, score, similarity), not in order."""
    best: dict[int, float] = {}
    for observation, entity in lists.entity_of.items():
        near = lists.similarity.get(observation)
        if near is not None and near >= best.get(entity, 0.0):
            best[entity] = near
    top = len(_LISTS) / (RANK_CONSTANT + 1)
    found = []
    for entity, reasons in lists.reasons.items():
        similarity = best.get(entity)
        if by_meaning:
            alone = len(reasons) == 1 and "meaning" in reasons
            needed = least if least is not None else threshold if alone else 0.0
            if (similarity or 0.0) < needed:
                continue
        found.append((entity, lists.sums[entity] / top, similarity))
    return found


def _weighed(
    scoped: Scoped,
    lists: _Lists,
    ranked: Sequence[tuple[int, float, float | None]],
    question: Question,
    now_s: float,
) -> list[tuple[int, float, float | None]]:
    """The same in their final order, after recency, use and outcomes."""
    found = ranked
    # Age counts for all; where it does not, those that nobody has used yet have nothing to be weighed by.
    if question.weighing.recency > 0 or lists.used:
        best = {entity: _best_observation(lists, entity) for entity, _, _ in ranked}
        weighed = best.values() if question.weighing.recency > 0 else lists.used.intersection(best.values())
        known = uses_by_key(scoped, [key for key in weighed if key])
        factors = {key: question.weighing.factor(use, now_s) for key, use in known.items()}
        found = [(entity, score * factors.get(best[entity], 1.0), near) for entity, score, near in ranked]
    return sorted(found, key=lambda each: (-each[1], -(each[2] or 0.0), each[0]))


def _best_observation(lists: _Lists, entity: int) -> int:
    """The observation that brought an entity into its list; the one by meaning before the one by words."""
    reasons = lists.reasons[entity]
    return next((reasons[name].observation for name in ("meaning", "words") if name in reasons), 0)


def _shown(
    scoped: Scoped,
    lists: _Lists,
    question: Question,
    now_s: float,
    page: Sequence[tuple[int, float, float | None]],
) -> list[Hit]:
    """The results of a page; one question for all entities and one for all observations."""
    entities = entities_of(scoped, [key for key, _, _ in page])
    chosen = _observations_shown(lists, [key for key, _, _ in page])
    known = observations_by_key(scoped, [each for keys in chosen.values() for each in keys])
    hits = []
    for key, score, similarity in page:
        observations = [known[each] for each in chosen[key]]
        if not observations:
            observations = observations_of(scoped, key, question.period, now_s, limit=SHOWN)
        near = {known[each].id: lists.similarity[each] for each in chosen[key] if each in lists.similarity}
        relations = relations_of(scoped, key, question.period, now_s) if question.relations else []
        entity = entities[key]._replace(observations=tuple(observations), relations=tuple(relations))
        hits.append(Hit(entity, score, similarity, near, lists.reasons[key]))
    return hits


def _observations_shown(lists: _Lists, entities: Sequence[int]) -> dict[int, list[int]]:
    """Entity -> its observations that are shown: those that brought it into its lists, then the others."""
    found: dict[int, list[int]] = {}
    for key in entities:
        reasons = lists.reasons[key]
        found[key] = [reasons[name].observation for name in ("words", "meaning") if name in reasons]
    for observation in lists.order:
        if (entity := lists.entity_of[observation]) in found:
            found[entity].append(observation)
    return {key: list(dict.fromkeys(keys))[:SHOWN] for key, keys in found.items()}


def within_budget(hits: Sequence[Hit], max_tokens: int | None) -> tuple[list[Hit], bool]:
    """The best hits, and of them the best observations, whose texts fit; says whether something does not."""
    if max_tokens is None:
        return list(hits), False
    left, kept = max_tokens, []
    for hit in hits:
        left -= tokens(f"{hit.entity.name} ({hit.entity.type}): ")
        fitting = []
        for observation in hit.entity.observations:
            left -= tokens(observation.text)
            if left < 0:
                break
            fitting.append(observation)
        if fitting or (left >= 0 and not hit.entity.observations):
            kept.append(replace(hit, entity=hit.entity._replace(observations=tuple(fitting))))
        if left < 0:
            return kept, True
    return kept, False


def tokens(text: str) -> int:
    """How many tokens of a model a text is taken for."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)
