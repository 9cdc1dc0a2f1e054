"""Search by words: what a text asks for as terms, and how well an observation answers them (BM25).

A query is data: it is cut into terms by the tokeniser that the index has, each term is quoted, and nothing
in it is syntax. Terms that nearly everything has say nothing and cost most, so they are left out as long as
another is left, and of the others the rarest are taken that few enough observations have together: SQLite's
rank takes a microsecond or two for each of these. It only chooses the candidates; their order is computed
from these alone, so that it does not tell how common a word is in the scopes of others.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apsw
import numpy as np
from numpy.typing import NDArray

from node.memory.planes import Planes
from node.memory.scopes import Scoped

QUERY_CHARACTERS_LIMIT: Final = 8_192
"""How much of a query is read for words."""
TERMS_LIMIT: Final = 16
"""Most terms of a query that are searched."""
TERM_CHARACTERS_LIMIT: Final = 64
"""Longest term that is searched."""
CANDIDATES: Final = 100
"""Most observations that are put in order."""
COMMON_ROWS: Final = 1_000
"""A term that more observations have is common, whatever share of all they are; counting stops there."""
RANKED_ROWS: Final = 1_000
"""Most observations that the terms of a query have, all together: SQLite's rank reads each of them twice."""
CACHE_LIMIT: Final = 4_096
"""Most terms whose frequency is remembered."""
RECOUNT_SHARE: Final = 0.1
"""By how much the memory grows or shrinks until frequencies are counted anew."""
TERMS_FUNCTION: Final = "caxton_terms"
"""The auxiliary function of the full-text index that tells which terms a row has, and how often."""

_K1: Final = 1.2
_B: Final = 0.75


class WordHit(NamedTuple):
    """An observation that has some of the terms.

    Args:
        observation: Its key.
        entity: The key of its entity.
        score: BM25 among the candidates.
        terms: Places of the terms it has in the list of terms.
        used: How often it was used.
        vector: As it is stored, where it is of the space that is searched.
    """

    observation: int
    entity: int
    score: float
    terms: tuple[int, ...]
    used: int
    vector: bytes | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a query asks for.

    Attributes:
        terms: As the index has them.
        common: Whether all of them are common: then the newest rows that have them are candidates, unranked.
    """

    terms: tuple[str, ...]
    common: bool = False


class Vocabulary:
    """Cuts text into the index's terms, and remembers which of them are common among what a viewer sees.

    Args:
        connection: The reader; only its tokeniser is used.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._tokenise = connection.fts5_tokenizer("porter", ["unicode61"])
        connection.register_fts5_function(TERMS_FUNCTION, _terms_of_row)
        self._known: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._counted_at = 0

    def asked(self, scoped: Scoped, text: str, observations: int, planes: Planes | None = None) -> Asked:
        """The terms of a query that are worth a search, in their order.

        Args:
            scoped: The memory as who asks sees it.
            text: Any text of a caller.
            observations: How many there are in all, to know when frequencies are out of date.
            planes: The signs in memory, which know the scopes of rows.
        """
        found = self.all_terms(text)
        rows = self._rows(scoped, found, observations, planes)
        rare = _rarest({term: rows[term] for term in found if rows[term] <= COMMON_ROWS})
        return Asked((rare or found)[:TERMS_LIMIT], common=bool(found) and not rare)

    def all_terms(self, text: str) -> tuple[str, ...]:
        """The different terms of a text, in their order, at most twice as many as are searched."""
        head = text[:QUERY_CHARACTERS_LIMIT].replace("\0", " ").encode("utf-8", "replace")
        terms: dict[str, None] = {}
        for token in self._tokenise(head, apsw.FTS5_TOKENIZE_QUERY, None, include_offsets=False):
            for term in token:
                if isinstance(term, str) and len(term) <= TERM_CHARACTERS_LIMIT:
                    terms.setdefault(term)
        return tuple(terms)[: 2 * TERMS_LIMIT]

    def _rows(
        self, scoped: Scoped, terms: Sequence[str], observations: int, planes: Planes | None
    ) -> dict[str, int]:
        """How many observations have each term, as far as it is counted."""
        if abs(observations - self._counted_at) > RECOUNT_SHARE * max(self._counted_at, COMMON_ROWS):
            self._known.clear()
            self._counted_at = observations
        reach = scoped.reach
        new = [term for term in terms if (reach, term) not in self._known]
        if new:
            counts = scoped.having([match([term]) for term in new], COMMON_ROWS + 1, planes)
            self._known.update({(reach, term): count for term, count in zip(new, counts, strict=True)})
        rows = {term: self._known[reach, term] for term in terms}
        while len(self._known) > CACHE_LIMIT:
            self._known.popitem(last=False)
        return rows


def _rarest(rows: Mapping[str, int]) -> tuple[str, ...]:
    """The rarest terms that have few enough rows together, at least one, in the order of the query."""
    kept, left = set[str](), RANKED_ROWS
    for term in sorted(rows, key=lambda each: rows[each]):
        left -= rows[term]
        if kept and left < 0:
            break
        kept.add(term)
    return tuple(term for term in rows if term in kept)


def match(terms: Sequence[str]) -> str:
    """The full-text expression that any of these terms satisfies."""
    return " OR ".join(f'"{term.replace(chr(34), chr(34) * 2)}"' for term in terms)


def word_hits(
    scoped: Scoped,
    asked: Asked,
    where: str,
    bindings: Sequence[Any],
    *,
    space: int | None = None,
    limit: int = CANDIDATES,
) -> list[WordHit]:
    """Observations that have some of the terms, the best first.

    Args:
        scoped: The memory as who asks sees it.
        asked: As :meth:`Vocabulary.asked` found it.
        where: Further conditions on ``o`` (observation) and ``e`` (its entity), or ``1``.
        bindings: Of the conditions.
        space: Number of the model whose vectors are told along with them, or None for none.
        limit: Most candidates.
    """
    terms, order = asked.terms, "words.rowid DESC" if asked.common else "words.rank"
    if not terms:
        return []
    found = scoped.rows(
        f"SELECT o.key, o.entity, o.used, iif(o.model = ?, o.vector, NULL), {TERMS_FUNCTION}(words)"  # noqa: S608
        " FROM words JOIN {observations} o ON o.key = words.rowid JOIN {entities} e ON e.key = o.entity"
        f" WHERE words MATCH ? AND {where} ORDER BY {order} LIMIT ?",
        (space, match(terms), *bindings, limit),
    )
    if not found:
        return []
    told = _read([row[4] for row in found])
    lengths, times = told[:, :1], told[:, 1:]
    frequency = np.count_nonzero(times, axis=0)
    weight = np.log(1 + (len(found) - frequency + 0.5) / (frequency + 0.5))
    norm = _K1 * (1 - _B + _B * lengths / (lengths.mean() or 1.0))
    scores = (times * (_K1 + 1) / (times + norm)) @ weight
    ranked = sorted(
        zip((-scores).tolist(), range(len(found)), strict=True), key=lambda o: (o[0], found[o[1]][0])
    )
    has: list[list[int]] = [[] for _ in found]
    for place, term in np.argwhere(times).tolist():
        has[place].append(term)
    hits = []
    for score, place in ranked:
        key, entity, used, vector, _ = found[place]
        hits.append(WordHit(key, entity, -score, tuple(has[place]), used, vector))
    return hits


def name_hits(
    scoped: Scoped, terms: Sequence[str], where: str, bindings: Sequence[Any], limit: int
) -> list[int]:
    """Keys of entities whose name or type has some of the terms, the best first."""
    if not terms:
        return []
    found = scoped.rows(
        f"SELECT e.key, {TERMS_FUNCTION}(names) FROM names JOIN {{entities}} e ON e.key = names.rowid"  # noqa: S608
        f" WHERE names MATCH ? AND {where} ORDER BY names.rank LIMIT ?",
        (match(terms), *bindings, limit),
    )
    if not found:
        return []
    told = _read([row[1] for row in found])
    had = (-np.count_nonzero(told[:, 1:], axis=1)).tolist()
    order = zip(had, told[:, 0].tolist(), (key for key, _ in found), strict=True)
    return [key for _, _, key in sorted(order)]


def _terms_of_row(api: apsw.FTS5ExtensionApi, *_: object) -> bytes:
    """The length of a row in terms, then how often it has each term of the query, in 32 bits each."""
    places = map(api.phrase_locations, range(api.phrase_count))
    times = [len(columns[0]) if len(columns) == 1 else sum(map(len, columns)) for columns in places]
    return struct.pack(f"<{1 + len(times)}I", api.column_size(-1), *times)


def _read(told: Sequence[bytes]) -> NDArray[np.int64]:
    """What the function has told of rows: for each its length, then how often it has each term."""
    return np.frombuffer(b"".join(told), "<u4").astype(np.int64).reshape(len(told), -1)
