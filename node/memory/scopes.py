"""The one place where a question meets the data: no statement leaves it without the scope of who asks.

Theory of operation. A :class:`Scoped` knows the realms that its viewer may see, as whole numbers.
Statements name the guarded tables only as ``{entities}``, ``{observations}`` and ``{relations}``, which
become sub-selects over these realms (SQLite flattens them), or end their condition with ``{reach}``, which
becomes the predicate itself. A statement that names a guarded table in any other way is a bug and is
refused before SQLite sees it. Everything else in this package is handed a ``Scoped`` and never a
connection; a test reads the sources and keeps it so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import apsw

from node.errors import MemoryLimitExceeded, ScopeDenied, ValidationFailed, invariant
from node.memory.model import NOBODY, Provenance, Realm, Scope, checked_name
from node.storage.query import each, number, rows

if TYPE_CHECKING:
    from node.memory.planes import Planes
    from node.memory.vectors import Packed

WORKSPACES_LIMIT: Final = 64
"""Most workspaces that one viewer is in."""
REALMS_LIMIT: Final = 20_000
"""Most scopes and owners that anything is remembered for."""
ANSWERS_LIMIT: Final = 1_000
"""Most answers of one scope and owner that are kept under idempotency keys."""
SHARDS: Final = 16
"""Parts that bit vectors are searched in: sixteen short lists of the best cost less than a long one."""
CHECKED_CACHED: Final = 512
"""Statements that are not checked again; their scopes, which may be long, are not kept with them."""

_GUARDED: Final = ("entities", "observations", "relations")
_BARE: Final = re.compile(
    r"(?<![{\w])(entities|observations|relations|realms|requests|vectors_\w+|changes)(?![}\w])"
)
_INDEXES: Final = {"words": "{observations}", "names": "{entities}"}
"""Full-text index -> the table that a statement must join it with."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks.

    Attributes:
        agent: The agent that asks, or None.
        workspaces: The workspaces it is in.
        operator: Whether it is an operator of the node, who may see everything.
        replica: Whether it is the other nodes of the cluster, who see what is shared: every workspace and the
            global scope, and nothing that is an agent's own.
        scopes: Of what an agent may see, what this one looks at.
    """

    agent: str | None = None
    workspaces: tuple[str, ...] = ()
    operator: bool = False
    replica: bool = False
    scopes: tuple[Scope, ...] = tuple(Scope)

    def __post_init__(self) -> None:
        if self.agent is not None:
            object.__setattr__(self, "agent", checked_name(self.agent, "agent_id"))
        if len(self.workspaces) > WORKSPACES_LIMIT:
            raise ValidationFailed(
                f"a viewer is in {len(self.workspaces)} workspaces",
                why=f"at most {WORKSPACES_LIMIT} are looked at",
            )
        invariant(
            self.scopes == tuple(Scope) or not (self.operator or self.replica), "only agents look at less"
        )
        names = tuple(sorted({checked_name(name, "workspace") for name in self.workspaces}))
        object.__setattr__(self, "workspaces", names)

    def may_see(self, realm: Realm) -> bool:
        """Whether what is remembered there is shown to this viewer."""
        if realm.scope not in self.scopes:
            return False
        if self.operator or realm.scope is Scope.GLOBAL:
            return True
        if realm.scope is Scope.AGENT:
            return realm.owner == self.agent
        return self.replica or realm.owner in self.workspaces

    def require(self, realm: Realm) -> None:
        """Refuse a realm of others, without a look whether anything is in it.

        Raises:
            ScopeDenied: it is not this viewer's.
        """
        if not self.may_see(realm):
            raise ScopeDenied(
                f"the scope {realm.scope.label} of {realm.owner!r} is not yours",
                why="what is remembered there is shown to its owner only",
                fix="Leave the scope out, or use one of your own.",
                details={"memory_scope": realm.scope.label},
            )


OPERATOR: Final = Viewer(operator=True)
"""Who runs the node."""
REPLICA: Final = Viewer(replica=True)
"""The other nodes of the cluster."""


@dataclass(frozen=True, slots=True)
class Aim:
    """Which of the realms that a viewer may see are meant.

    Attributes:
        scope: Only this scope, or None for all.
        owner: Only of this owner, or None for all.
    """

    scope: Scope | None = None
    owner: str | None = None


EVERYWHERE: Final = Aim()


class Scoped:
    """The memory as one viewer sees it, inside one transaction.

    Args:
        connection: The reader, or the writer inside a job.
        viewer: Who asks.
        aim: What of it is meant.

    Raises:
        ScopeDenied: the aim is somebody else's scope.
    """

    def __init__(self, connection: apsw.Connection, viewer: Viewer, aim: Aim = EVERYWHERE) -> None:
        if aim.scope is not None and (aim.owner is not None or aim.scope is Scope.GLOBAL):
            viewer.require(Realm(aim.scope, aim.owner or ""))
        self._connection = connection
        self._viewer = viewer
        self._sources: dict[int, Provenance] = {}
        self._everything = viewer.operator and aim == EVERYWHERE
        self._shared = viewer.replica and aim == EVERYWHERE
        self._realms = {} if self._everything or self._shared else self._resolve(viewer, aim)
        self._reach = self._reaching()

    @property
    def viewer(self) -> Viewer:
        """Who asks."""
        return self._viewer

    @property
    def numbers(self) -> list[int] | None:
        """Numbers of the realms that this viewer sees and means; None for all."""
        invariant(not self._shared, "other nodes do not search here")
        return None if self._everything else sorted(self._realms)

    @property
    def reach(self) -> str:
        """The predicate, as a key of what is remembered about what this viewer sees."""
        return self._reach

    def rows(self, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
        """All rows of a bounded question."""
        return rows(self._connection, self._expand(sql), tuple(bindings))

    def each(self, sql: str, bindings: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows of a question one by one; the caller may stop early."""
        return each(self._connection, self._expand(sql), tuple(bindings))

    def change(self, sql: str, bindings: Sequence[Any] = ()) -> int:
        """Change or delete rows; the statement ends its condition with ``{reach}``. Returns how many."""
        invariant("{reach}" in sql, "a change without the scope of who makes it")
        found = self._connection.execute(sql.replace("{reach}", self._reach), tuple(bindings))
        found.fetchall()
        return self._connection.changes()

    def insert(self, table: str, realm: int, values: Mapping[str, Any]) -> int:
        """Add a row to a guarded table; returns its key."""
        invariant(table in _GUARDED, "a row for a table that is not guarded")
        invariant(self._covers(realm), "a row for somebody else's scope")
        columns = {"realm": realm, **values}
        marks = ",".join("?" * len(columns))
        self._connection.execute(
            f"INSERT INTO {table} ({','.join(columns)}) VALUES ({marks})",  # noqa: S608 - names of our own
            tuple(columns.values()),
        )
        return self._connection.last_insert_rowid()

    def realm_key(self, realm: Realm) -> int | None:
        """The number of a realm, or None when nothing was ever remembered there.

        Raises:
            ScopeDenied: it is somebody else's.
        """
        self._viewer.require(realm)
        found = rows(
            self._connection,
            "SELECT key FROM realms WHERE scope = ? AND owner = ?",
            (int(realm.scope), realm.owner),
        )
        return int(found[0][0]) if found else None

    def make_realm(self, realm: Realm) -> int:
        """The number of a realm, made when there is none yet.

        Raises:
            ScopeDenied: it is somebody else's.
            MemoryLimitExceeded: there are too many.
        """
        found = self.realm_key(realm)
        if found is None:
            if number(self._connection, "SELECT count(*) FROM realms") >= REALMS_LIMIT:
                raise MemoryLimitExceeded(
                    "the memory has no room for another owner",
                    why=f"it remembers for {REALMS_LIMIT} of them",
                    fix="Forget what is remembered for agents that are gone.",
                )
            self._connection.execute(
                "INSERT INTO realms (scope, owner) VALUES (?, ?)", (int(realm.scope), realm.owner)
            )
            found = self._connection.last_insert_rowid()
        self._realms[found] = realm
        self._reach = self._reaching()
        return found

    def realm_of(self, key: int) -> Realm:
        """The realm with a number that a row of this viewer has."""
        if key not in self._realms:
            invariant(self._everything or self._shared, "the realm of a row that this viewer cannot see")
            found = rows(self._connection, "SELECT scope, owner FROM realms WHERE key = ?", (key,))
            realm = Realm(Scope(found[0][0]), found[0][1])
            invariant(self._viewer.may_see(realm), "the realm of a row that this viewer cannot see")
            self._realms[key] = realm
        return self._realms[key]

    def source(self, key: int | None) -> Provenance:
        """By whose word a row is remembered; the row is one that this viewer sees."""
        if key is None:
            return NOBODY
        if key not in self._sources:
            sql = "SELECT agent, conversation, message, node FROM sources WHERE key = ?"
            found = rows(self._connection, sql, (key,))
            self._sources[key] = Provenance(*found[0]) if found else NOBODY
        return self._sources[key]

    def count(self, realm: int, column: str, by: int) -> None:
        """Keep the count of a realm's rows in step with a change."""
        invariant(column in _GUARDED, "a count that is not kept")
        invariant(self._covers(realm), "a count of somebody else's rows")
        self._connection.execute(
            f"UPDATE realms SET {column} = {column} + ? WHERE key = ?",  # noqa: S608 - a name of our own
            (by, realm),
        )

    def entities_in(self, realm: int) -> int:
        """Entities of one realm of this viewer."""
        invariant(self._covers(realm), "a count of somebody else's rows")
        return number(self._connection, "SELECT entities FROM realms WHERE key = ?", (realm,))

    def totals(self) -> dict[str, int]:
        """Rows of everybody, for the limits; never shown to a viewer."""
        sums = ", ".join(f"coalesce(sum({table}), 0)" for table in _GUARDED)
        found = rows(self._connection, f"SELECT {sums} FROM realms")[0]  # noqa: S608 - names of our own
        return dict(zip(_GUARDED, found, strict=True))

    def counts(self) -> dict[Realm, tuple[int, int, int]]:
        """Entities, observations and relations of every realm of this viewer."""
        where = f"key{self._reach.removeprefix('realm')}"
        found = rows(
            self._connection,
            f"SELECT scope, owner, entities, observations, relations FROM realms WHERE {where}"  # noqa: S608
            " ORDER BY scope, owner",
        )
        return {Realm(Scope(scope), owner): tuple(counted) for scope, owner, *counted in found}

    def answered(self, realm: int, key: str) -> tuple[bytes, str] | None:
        """What was asked and answered under an idempotency key, or None."""
        invariant(self._everything or realm in self._realms, "a request of somebody else")
        sql = "SELECT digest, answer FROM requests WHERE realm = ? AND key = ?"
        found = rows(self._connection, sql, (realm, key))
        return (found[0][0], found[0][1]) if found else None

    def answer(self, realm: int, key: str, digest: bytes, at_s: float, answer: str) -> None:
        """Keep what was answered under an idempotency key; of too many of a realm the oldest leave."""
        invariant(self._everything or realm in self._realms, "a request of somebody else")
        execute = self._connection.execute
        execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?)", (realm, key, digest, at_s, answer))
        if (
            number(self._connection, "SELECT count(*) FROM requests WHERE realm = ?", (realm,))
            > ANSWERS_LIMIT
        ):
            oldest = "SELECT key FROM requests WHERE realm = ? ORDER BY at_s, key LIMIT 1"
            execute(f"DELETE FROM requests WHERE realm = ? AND key = ({oldest})", (realm, realm))  # noqa: S608

    def observations(self) -> int:
        """How many observations there are in the realms of this viewer."""
        where = f"key{self._reach.removeprefix('realm')}"
        return number(self._connection, f"SELECT coalesce(sum(observations), 0) FROM realms WHERE {where}")  # noqa: S608

    def having(self, expressions: Sequence[str], limit: int, planes: Planes | None = None) -> list[int]:
        """How many observations that may be seen match full-text expressions, each counted up to ``limit``.

        Args:
            expressions: See :func:`node.memory.words.match`; different ones.
            limit: Where counting stops: to walk all that have a common word is what is to be spared.
            planes: The signs in memory, of this connection: they know the scopes, which else are looked up in
                the file, row by row.
        """
        counted: list[int | None] = [None] * len(expressions)
        if planes is not None and not self._shared:
            pages = self._keys_of(expressions, 0, limit)
            told = zip(expressions, pages, strict=True)
            counted = [self._counted(expression, page, limit, planes) for expression, page in told]
        return [
            self._looked_up(expression, limit) if count is None else count
            for expression, count in zip(expressions, counted, strict=True)
        ]

    def _looked_up(self, expression: str, limit: int) -> int:
        """How many rows match by what the file knows of each."""
        [(found,)] = self.rows(
            "SELECT count(*) FROM (SELECT 1 FROM words JOIN {observations} o ON o.key = words.rowid"
            " WHERE words MATCH ? LIMIT ?)",
            (expression, limit),
        )
        return int(found)

    def _counted(self, expression: str, page: str | None, limit: int, planes: Planes) -> int | None:
        """The same by the signs in memory, from a first page on; None where they do not know all rows."""
        count = 0
        while page:
            seen = planes.visible(page, self.numbers)
            if seen is None:
                return None
            count += seen
            if page.count(",") + 1 < limit or count >= limit:
                break
            [page] = self._keys_of([expression], int(page.rpartition(",")[2]), limit)
        return min(count, limit)

    def _keys_of(self, expressions: Sequence[str], after: int, limit: int) -> list[str | None]:
        """The keys of rows that match each of some expressions, beyond a key, with commas between them.

        As a text a thousand keys are read in half of the time that they take as rows.
        """
        sql = (
            "SELECT (SELECT group_concat(rowid) FROM (SELECT rowid FROM words"
            " WHERE words MATCH j.value AND rowid > ? ORDER BY rowid LIMIT ?))"
            " FROM json_each(?) j ORDER BY j.key"
        )
        told = rows(self._connection, sql, (after, limit, json.dumps(list(expressions))))
        return [text for (text,) in told]

    def nearest(
        self,
        model: int,
        sought: Packed,
        count: int,
        *,
        past: bool,
        planes: Planes | None = None,
    ) -> list[int]:
        """Keys of observations whose vectors may be near: candidates, not yet in order.

        Args:
            model: Number of the embedding model whose space is searched.
            sought: The question's vector, as it would be stored.
            count: How many; where the signs in the file are searched, twice as many.
            past: Whether those that ended are looked at, too; they are filed under minus their realm.
            planes: The signs in memory, of this connection; without them those in the file are searched.
        """
        if self._shared or not (self._everything or self._realms):  # other nodes do not search here
            return []
        total = self.totals()["observations"]
        if planes is not None and planes.follow(self._connection, model, len(sought.stored), total):
            return planes.nearest(sought, self.numbers, count, past=past)
        if self._everything:
            reach = "" if past else "AND realm > 0"
        else:
            keys = sorted(self._realms)
            reach = f"AND realm IN ({','.join(str(key) for key in keys + [-k for k in keys if past])})"
        sql = f"SELECT key FROM vectors_{model} WHERE bits MATCH vec_bit(?) AND k = ? AND shard = ? {reach}"  # noqa: S608
        found: list[int] = []
        for shard in range(SHARDS):
            found += [
                row[0] for row in rows(self._connection, sql, (sought.bits, -(-2 * count // SHARDS), shard))
            ]
        return found

    def narrowed(self, aim: Aim) -> Scoped:
        """The same viewer, looking at less.

        Raises:
            ScopeDenied: the aim is somebody else's scope.
        """
        return Scoped(self._connection, self._viewer, aim)

    def _reaching(self) -> str:
        """The predicate of this viewer's realms."""
        if self._everything:
            return "realm > 0"
        if self._shared:
            return "realm IN (SELECT key FROM realms WHERE scope > 0)"
        return f"realm IN ({','.join(str(key) for key in sorted(self._realms))})"

    def _covers(self, realm: int) -> bool:
        """Whether a realm is one of this viewer's."""
        return self._everything or realm in self._realms or (self._shared and bool(self.realm_of(realm)))

    def _expand(self, sql: str) -> str:
        """A statement with the scope of who asks in it."""
        found = _checked(sql)
        for table in _GUARDED:
            seen = f"(SELECT * FROM {table} WHERE {self._reach})"  # noqa: S608 - a name and numbers of our own
            found = found.replace(f"{{{table}}}", seen)
        return found

    def _resolve(self, viewer: Viewer, aim: Aim) -> dict[int, Realm]:
        """The realms that a viewer may see and means; an operator who means some is matched by them."""
        choice: list[str] = ["1"]
        bindings: list[Any] = []
        if aim.scope is not None:
            choice.append("scope = ?")
            bindings.append(int(aim.scope))
        if aim.owner is not None:
            choice.append("(owner = ? OR scope = 2)" if aim.scope is None else "owner = ?")
            bindings.append("" if aim.scope is Scope.GLOBAL else aim.owner)
        if not viewer.operator:
            marks = ",".join("?" * len(viewer.workspaces))
            choice.append(f"(scope = 2 OR (scope = 0 AND owner = ?) OR (scope = 1 AND owner IN ({marks})))")
            bindings += [viewer.agent or "", *viewer.workspaces]
        if viewer.scopes != tuple(Scope):
            choice.append(f"scope IN ({','.join('?' * len(viewer.scopes))})")
            bindings += [int(scope) for scope in viewer.scopes]
        invariant(not viewer.replica, "other nodes aim at nothing in particular")
        sql = f"SELECT key, scope, owner FROM realms WHERE {' AND '.join(choice)}"  # noqa: S608 - bound values
        return {
            key: Realm(Scope(scope), owner)
            for key, scope, owner in rows(self._connection, sql, tuple(bindings))
        }


@lru_cache(maxsize=CHECKED_CACHED)
def _checked(sql: str) -> str:
    """A statement that names what is guarded only by its scope; to check one costs more than many take."""
    bare = _BARE.search(sql)
    invariant(bare is None, f"a statement names {bare and bare[0]} without its scope")
    for index, needed in _INDEXES.items():
        if re.search(rf"\b{index}\b", sql):
            invariant(needed in sql, f"a statement searches {index} without the scope of its rows")
    invariant(any(f"{{{table}}}" in sql for table in _GUARDED), "a statement without any guarded table")
    return sql


def for_agent(agent: str, workspaces: Sequence[str] = ()) -> Viewer:
    """The viewer that an agent is."""
    return Viewer(agent=agent, workspaces=tuple(workspaces))


def with_workspaces(viewer: Viewer, workspaces: Sequence[str]) -> Viewer:
    """The same viewer, in these workspaces."""
    return replace(viewer, workspaces=tuple(workspaces))
