"""Searches in the graph: by meaning, by words and by name, fused as in the file (:mod:`node.memory.search`).

Where who asks sees few observations, or filters leave few, all their vectors are compared; otherwise the
index of the space is asked for more than are needed, since it knows no scopes, and they are narrowed after.
The full text is narrowed in its own query, by places as words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from node.memory.backends.neo4j.graph_schema import (
    NAMES,
    TEXTS,
    Condition,
    Reach,
    all_of,
    at_time,
    label,
    of_types,
)
from node.memory.backends.neo4j.reading import ask, entities, observation, observations, relations
from node.memory.backends.neo4j.writing import tag
from node.memory.embedding import EmbeddingModel
from node.memory.question import Question
from node.memory.reading import Observation, Use
from node.memory.search import (
    EXACT_LIMIT,
    RANK_CONSTANT,
    SHOWN,
    Found,
    Hit,
    Reason,
    within_budget,
)
from node.memory.vectors import Vector
from node.memory.words import CANDIDATES, TERM_CHARACTERS_LIMIT, TERMS_LIMIT

if TYPE_CHECKING:
    from neo4j import ManagedTransaction

INDEXED_LIMIT: Final = 2_000
"""Nearest of everybody's that the index of a space is asked for."""
TEXTS_LIMIT: Final = 500
"""Texts that the full text is asked for before filters narrow them."""
LISTS: Final = 3
_COMMON: Final = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for if in into is it no not of on or such that the their then there"
        " these they this to was will with",
    )
)
"""Words that the full text's analyser leaves out: a query of nothing else would have no words."""


@dataclass(slots=True)
class _Lists:
    """The three lists by entity, and what is known of the observations in them."""

    similarity: dict[str, float] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Observations, as they came into any list: better ones of each list first."""
    reasons: dict[str, dict[str, Reason]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)

    def add(
        self, name: str, entity: str, told: dict[str, Any] | None = None, terms: tuple[str, ...] = ()
    ) -> None:
        """Put an entity at the end of a list, unless it is in it."""
        if told is not None:
            self.told.setdefault(told["id"], told)
        there = self.reasons.setdefault(entity, {})
        if name not in there:
            self.lengths[name] = self.lengths.get(name, 0) + 1
            there[name] = Reason(self.lengths[name], 0, terms)


@dataclass(frozen=True, slots=True)
class _Ranked:
    entity: str
    score: float
    similarity: float | None


def search(
    tx: ManagedTransaction,
    reach: Reach,
    question: Question,
    *,
    now_s: float,
    vector: Vector | None,
    model: EmbeddingModel | None,
    threshold: float,
) -> Found:
    """Answer a question; see :func:`node.memory.search.search` for the arguments."""
    alone, both = _conditions(reach, question, now_s)
    lists = _Lists()
    if vector is not None and model is not None:
        _by_meaning(tx, lists, both, vector, model)
    terms = _terms(question.text)
    if terms:
        _by_words(tx, reach, lists, both, terms)
        _by_name(tx, reach, lists, alone, terms)
    if vector is not None and model is not None:
        _compare_the_rest(tx, lists, vector, model)
    ranked = _weighed(
        lists, _ranked(lists, question.min_similarity, threshold, vector is not None), question, now_s
    )
    page = ranked[question.offset : question.offset + question.limit]
    hits, cut = within_budget(_shown(tx, reach, lists, question, page, now_s=now_s), question.max_tokens)
    return Found(tuple(hits), len(ranked), terms, vector is not None, cut)


def _conditions(reach: Reach, question: Question, now_s: float) -> tuple[Condition, Condition]:
    """What an entity must be, and what it and its observation must be together."""
    alone = [reach.of("e"), of_types("e", question.types), at_time("e", question.period, now_s)]
    both = [*alone, reach.of("o"), at_time("o", question.period, now_s)]
    for number, (key, value) in enumerate(question.metadata.items()):
        wanted = {f"tag{number}": tag(key, value)}
        alone.append(Condition(f"$tag{number} IN coalesce(e.tags, [])", wanted))
        both.append(Condition(f"$tag{number} IN coalesce(e.tags, []) + coalesce(o.tags, [])", wanted))
    return all_of(*alone), all_of(*both)


def _terms(text: str) -> tuple[str, ...]:
    """The words of a question that are searched, in their order; nothing in them is syntax."""
    words = (word.lower()[:TERM_CHARACTERS_LIMIT] for word in re.findall(r"\w+", text[:8_192]))
    return tuple(dict.fromkeys(word for word in words if word not in _COMMON))[:TERMS_LIMIT]


def _by_meaning(
    tx: ManagedTransaction, lists: _Lists, both: Condition, vector: Vector, model: EmbeddingModel
) -> None:
    told = both.parameters | {"vector": vector.tolist(), "limit": CANDIDATES}
    pattern = f"(o:{label(model)})-[:CaxtonAbout]->(e:CaxtonEntity)"
    [row] = ask(
        tx,
        f"MATCH {pattern} WHERE {both.where} WITH o LIMIT $few RETURN count(o) AS count",
        both.parameters | {"few": EXACT_LIMIT + 1},
    )
    if row["count"] <= EXACT_LIMIT:
        start = (
            f"MATCH {pattern} WHERE {both.where}"
            " WITH o, e, vector.similarity.cosine(o.vector, $vector) AS near"
        )
    else:
        start = (
            "CALL db.index.vector.queryNodes($index, $many, $vector) YIELD node AS o, score AS near"
            f" MATCH (o)-[:CaxtonAbout]->(e:CaxtonEntity) WHERE {both.where} WITH o, e, near"
        )
        told |= {"index": label(model), "many": INDEXED_LIMIT}
    found = ask(tx, f"{start} RETURN o{{.*}} AS o, near ORDER BY near DESC, o.id LIMIT $limit", told)
    for each in found:
        similarity = _cosine(each["near"])
        lists.similarity[each["o"]["id"]] = similarity
        if similarity > 0.0:
            lists.add("meaning", each["o"]["entity"], each["o"])


def _by_words(
    tx: ManagedTransaction, reach: Reach, lists: _Lists, both: Condition, terms: Sequence[str]
) -> None:
    for row in ask(
        tx,
        "CALL db.index.fulltext.queryNodes($index, $query, {limit: $many}) YIELD node AS o, score"
        f" MATCH (o)-[:CaxtonAbout]->(e:CaxtonEntity) WHERE {both.where}"
        " RETURN o{.*} AS o, score ORDER BY score DESC, o.id LIMIT $limit",
        both.parameters
        | {
            "index": TEXTS,
            "query": _query(reach, ("text",), terms),
            "many": TEXTS_LIMIT,
            "limit": CANDIDATES,
        },
    ):
        text = row["o"]["text"].lower()
        lists.add("words", row["o"]["entity"], row["o"], tuple(term for term in terms if term in text))


def _by_name(
    tx: ManagedTransaction, reach: Reach, lists: _Lists, alone: Condition, terms: Sequence[str]
) -> None:
    for row in ask(
        tx,
        "CALL db.index.fulltext.queryNodes($index, $query, {limit: $many}) YIELD node AS e, score"
        f" WHERE {alone.where} RETURN e.id AS id, score ORDER BY score DESC, e.id LIMIT $limit",
        alone.parameters
        | {"index": NAMES, "query": _query(reach, ("name", "type"), terms), "many": TEXTS_LIMIT}
        | {"limit": CANDIDATES},
    ):
        lists.add("name", row["id"])


def _query(reach: Reach, fields: Sequence[str], terms: Sequence[str]) -> str:
    """A query of the full text; terms are words, and quoted, so that none of them is an operator."""
    words = " ".join(f'"{term}"' for term in terms)
    asked = " ".join(f"{name}:({words})" for name in fields)
    return f"+{reach.words} +({asked})" if reach.words else asked


def _compare_the_rest(tx: ManagedTransaction, lists: _Lists, vector: Vector, model: EmbeddingModel) -> None:
    """Find out how like the question the observations are that were found by their words."""
    missing = [id_ for id_ in lists.told if id_ not in lists.similarity]
    for row in ask(
        tx,
        f"MATCH (o:{label(model)}) WHERE o.id IN $ids"
        " RETURN o.id AS id, vector.similarity.cosine(o.vector, $vector) AS near",
        {"ids": missing, "vector": vector.tolist()},
    ):
        lists.similarity[row["id"]] = _cosine(row["near"])


def _cosine(near: float | None) -> float:
    """The cosine, cut to 0 to 1, of what Neo4j tells as (1 + cosine) / 2."""
    return 0.0 if near is None else min(1.0, max(0.0, 2.0 * near - 1.0))


def _ranked(lists: _Lists, least: float | None, threshold: float, by_meaning: bool) -> list[_Ranked]:
    """Entities that are like enough, not in order."""
    best: dict[str, float] = {}
    for id_, told in lists.told.items():
        if id_ in lists.similarity:
            best[told["entity"]] = max(lists.similarity[id_], best.get(told["entity"], 0.0))
    top, found = LISTS / (RANK_CONSTANT + 1), []
    for entity, reasons in lists.reasons.items():
        similarity = best.get(entity)
        if by_meaning:
            needed = least if least is not None else threshold if set(reasons) == {"meaning"} else 0.0
            if (similarity or 0.0) < needed:
                continue
        score = sum(1 / (RANK_CONSTANT + reason.rank) for reason in reasons.values()) / top
        found.append(_Ranked(entity, score, similarity))
    return found


def _weighed(lists: _Lists, ranked: Sequence[_Ranked], question: Question, now_s: float) -> list[_Ranked]:
    """The same in their final order, after recency, use and outcomes of their best observations."""
    first: dict[str, dict[str, Any]] = {}
    for told in lists.told.values():
        first.setdefault(told["entity"], told)
    found = []
    for each in ranked:
        told = first.get(each.entity, {})
        factor = 1.0
        if told:
            use = Use(*(told[name] for name in ("created_s", "used", "accepted", "corrected", "rejected")))
            factor = question.weighing.factor(use, now_s)
        found.append(replace(each, score=each.score * factor))
    return sorted(found, key=lambda each: (-each.score, -(each.similarity or 0.0), each.entity))


def _shown(
    tx: ManagedTransaction,
    reach: Reach,
    lists: _Lists,
    question: Question,
    page: Sequence[_Ranked],
    *,
    now_s: float,
) -> list[Hit]:
    known = entities(tx, reach, [each.entity for each in page])
    hits = []
    for each in page:
        told: list[Observation] = [
            observation(one) for one in lists.told.values() if one["entity"] == each.entity
        ][:SHOWN]
        if not told:
            told = observations(tx, reach, each.entity, question.period, now_s, limit=SHOWN)
        related = relations(tx, reach, each.entity, question.period, now_s) if question.relations else []
        shown = known[each.entity]._replace(observations=tuple(told), relations=tuple(related))
        near = {one.id: lists.similarity[one.id] for one in told if one.id in lists.similarity}
        hits.append(Hit(shown, each.score, each.similarity, near, lists.reasons[each.entity]))
    return hits
