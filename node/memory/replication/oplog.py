"""The operation logs in the memory's file: what is kept, what it makes void, what is told.

Theory of operation. Each node numbers its operations without gaps and signs them by the stretch. What a node
holds of a log is known by one number, up to which it has seen everything. An operation that another one makes
void is taken out at once, on every node: so the logs are as large as what is remembered, a newcomer is
brought up to date by what is left of them, and two nodes that have seen the same hold the same. Which of two
counts depends on the two alone, never on which came first:

* of two that say the same kind of thing about one element the higher (stamp, node, hash) counts;
* an observation or a relation that was forgotten stays forgotten;
* forgetting an entity makes void what was said about it, or on the supposition of it, up to that stamp.

Forgettings themselves are kept for :data:`FORGOTTEN_S`; whoever was away for longer starts again from a
peer's log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import apsw

from node.memory.replication.head import DIGEST_BYTES, LOGS_LIMIT, STRETCH_BYTES, STRETCH_OPERATIONS, Head
from node.memory.replication.operations import HASH_BYTES, Facts, Kind, body_hash
from node.memory.replication.proofs import Place, Proof, Proofs
from node.memory.rows import full
from node.storage.query import each, number, rows
from swim.hlc import stamp_at

NODE_LOGS_LIMIT: Final = 64
"""Most logs of one node; it begins a new one each time it comes back with an older file."""
NODE_OPERATIONS_LIMIT: Final = 2_000_000
"""Most operations that hold, of all logs of one node."""
NODE_BYTES_LIMIT: Final = 4 * 1024**3
"""Most bytes of them, and of the signed stretches that are kept."""
FORGOTTEN_S: Final = 30 * 86_400.0
"""How long it is kept what was forgotten, in seconds."""
FORGOTTEN_LIMIT: Final = 500_000
"""Most forgettings that are kept; beyond it the oldest leave early."""
NOTHING: Final = bytes(HASH_BYTES)
"""Stands for an operation that was void before it was signed."""

_DIGESTED: Final = frozenset(
    {Kind.ENTITY, Kind.OBSERVATION, Kind.OBSERVATION_END, Kind.RELATION, Kind.RELATION_END}
)


class Held(NamedTuple):
    """An operation that holds."""

    key: int
    log: int
    seq: int
    kind: Kind
    stamp: int
    born: int
    element: bytes
    entity: bytes | None
    other: bytes | None
    body: bytes
    proof: int | None


@dataclass(slots=True)
class Log:
    """One log, as it is changed.

    Args:
        bytes: Of the operations that hold, and of the stretches that are kept.
    """

    key: int
    node: str
    log: bytes
    seen: int
    sealed: int
    digest: int
    operations: int
    bytes: int
    changed: bool = False

    @property
    def head(self) -> Head:
        """How much of it is held."""
        return Head(self.node, self.log, self.seen, self.digest.to_bytes(DIGEST_BYTES, "big"))


@dataclass(frozen=True, slots=True)
class Admitted:
    """What became of an operation.

    Attributes:
        kept: Whether it holds; otherwise something else has made it void before.
        void: What it has made void.
        end: What ends it, where that came before.
    """

    kept: bool
    void: Sequence[Held] = ()
    end: Held | None = None


_HELD: Final = "key, log, seq, kind, stamp, born, element, entity, other, body, proof"
_ABOUT_ENTITY: Final = "(entity = ?1 OR (other = ?1 AND kind IN (4, 5)))"


@dataclass(slots=True)
class OperationLogs:
    """The logs inside one transaction; :meth:`flush` ends it.

    Args:
        connection: The writer, or a reader that changes nothing.
    """

    connection: apsw.Connection
    _logs: dict[int, Log] = field(default_factory=dict, init=False)
    _keys: dict[tuple[str, bytes], int] = field(default_factory=dict, init=False)
    _of_node: dict[str, list[Log]] = field(default_factory=dict, init=False)
    _proofs: Proofs = field(init=False)
    _place: Place | None = field(default=None, init=False)
    """Of the stretch that the operations stand on which are admitted now."""
    _brought: int = field(default=0, init=False)
    """How many operations it has brought that held when they came."""
    _forgotten: dict[bytes, int] = field(default_factory=dict, init=False)
    _new: set[bytes] = field(default_factory=set, init=False)
    """Elements that no operation is about, or names beside its own."""

    def __post_init__(self) -> None:
        self._proofs = Proofs(self.connection)

    # Logs

    def find(self, node: str, log: bytes) -> Log | None:
        """A log, or None."""
        key = self._keys.get((node, log))
        if key is None:
            found = rows(self.connection, "SELECT key FROM logs WHERE node = ? AND log = ?", (node, log))
            if not found:
                return None
            key = self._keys[node, log] = int(found[0][0])
        return self.log(key)

    def make(self, node: str, log: bytes) -> Log:
        """A log, made when there is none.

        Raises:
            MemoryLimitExceeded: there are too many, of this node or of all.
        """
        found = self.find(node, log)
        if found is not None:
            return found
        of_node = number(self.connection, "SELECT count(*) FROM logs WHERE node = ?", (node,))
        if of_node >= NODE_LOGS_LIMIT or number(self.connection, "SELECT count(*) FROM logs") >= LOGS_LIMIT:
            raise full(f"logs of {node}", NODE_LOGS_LIMIT)
        self.connection.execute(
            "INSERT INTO logs (node, log, digest) VALUES (?, ?, ?)", (node, log, bytes(DIGEST_BYTES))
        )
        self._of_node.pop(node, None)
        return self.log(self.connection.last_insert_rowid())

    def log(self, key: int) -> Log:
        """The log of a number."""
        if key not in self._logs:
            [(node, log, seen, sealed, digest, count, size)] = rows(
                self.connection,
                "SELECT node, log, seen, sealed, digest, operations, bytes FROM logs WHERE key = ?",
                (key,),
            )
            made = Log(key, node, log, seen, sealed, int.from_bytes(digest, "big"), count, size)
            self._logs[key], self._keys[node, log] = made, key
        return self._logs[key]

    def all(self) -> list[Log]:
        """All logs, in a fixed order."""
        return [self.log(key) for (key,) in rows(self.connection, "SELECT key FROM logs ORDER BY node, log")]

    def of_node(self, node: str) -> list[Log]:
        """The logs of a node."""
        if node not in self._of_node:
            found = rows(self.connection, "SELECT key FROM logs WHERE node = ?", (node,))
            self._of_node[node] = [self.log(key) for (key,) in found]
        return self._of_node[node]

    def has_seen(self, log: Log, seq: int) -> None:
        """Take note that everything up to ``seq`` was seen."""
        if seq > log.seen:
            log.seen, log.changed = seq, True

    def flush(self) -> bool:
        """Write what has changed of the logs; says whether anything has."""
        changed = [log for log in self._logs.values() if log.changed]
        for log in changed:
            self.connection.execute(
                "UPDATE logs SET seen = ?, sealed = ?, digest = ?, operations = ?, bytes = ? WHERE key = ?",
                (
                    log.seen,
                    log.sealed,
                    log.digest.to_bytes(DIGEST_BYTES, "big"),
                    log.operations,
                    log.bytes,
                    log.key,
                ),
            )
            log.changed = False
        return bool(changed)

    # Operations

    def holds(self, log: Log, seq: int, element: bytes, body: bytes) -> bool:
        """Whether an operation of this number, on this element and of these bytes holds.

        It is found by its element, since a node may have used a number any number of times.
        """
        sql = "SELECT count(*) FROM operations WHERE element = ? AND +log = ? AND +seq = ? AND body = ?"
        return number(self.connection, sql, (element, log.key, seq, body)) > 0

    def expect(self, elements: Sequence[bytes]) -> None:
        """Find out which of the elements of a stretch are new: of these nothing is looked for one by one."""
        marks = ",".join("?" * len(elements))
        sql = (
            f"SELECT element FROM operations WHERE element IN ({marks})"  # noqa: S608 - marks alone
            f" UNION ALL SELECT other FROM operations WHERE other IN ({marks})"
        )
        known = {row[0] for row in rows(self.connection, sql, (*elements, *elements))}
        self._new = set(elements) - known

    def about(self, element: bytes) -> dict[Kind, Held]:
        """What holds of an element, one of each kind."""
        if element in self._new:
            return {}
        return {held.kind: held for held in self._held("element = ?", (element,))}

    def forgotten(self, entity: bytes) -> int:
        """Up to which stamp what was said of an entity is gone, or 0."""
        if entity not in self._forgotten:
            sql = "SELECT stamp FROM operations WHERE element = ? AND kind = 6"
            found = rows(self.connection, sql, (entity,))
            self._forgotten[entity] = int(found[0][0]) if found else 0
        return self._forgotten[entity]

    def supposing(self, entity: bytes) -> Held | None:
        """Of what holds on the supposition that there is an entity, the highest."""
        sql = f"SELECT {_HELD} FROM operations WHERE kind IN (2, 4) AND {_ABOUT_ENTITY}"  # noqa: S608 - own names
        found = [_held(row) for row in rows(self.connection, sql + " ORDER BY born DESC LIMIT 8", (entity,))]
        return max(found, key=self._rank, default=None)

    def predecessors(self, observation: bytes) -> list[bytes]:
        """The observations that ended in favour of this one."""
        if observation in self._new:
            return []
        sql = "SELECT element FROM operations WHERE other = ? AND kind = 3 ORDER BY element"
        return [row[0] for row in rows(self.connection, sql, (observation,))]

    def admit(self, log: Log, seq: int, facts: Facts, body: bytes) -> Admitted:
        """Keep an operation unless something has made it void, and take out what it makes void.

        Raises:
            MemoryLimitExceeded: its node has too many that hold.
        """
        about = self.about(facts.element)
        if self._is_void(facts, about):
            return Admitted(kept=False)
        same = about.get(facts.kind)
        rank = (facts.stamp, log.node, body_hash(body))
        if same is not None and self._rank(same) >= rank:
            return Admitted(kept=False)
        void = [] if same is None else [same]
        if facts.kind is Kind.FORGET_ENTITY:
            void += [held for held in about.values() if held.kind is Kind.ENTITY and held.born <= facts.stamp]
            sql = f"{_ABOUT_ENTITY} AND born <= ?2"
            void += self._held(sql, (facts.element, facts.stamp))
        elif facts.kind is Kind.FORGET_OBSERVATION or facts.kind is Kind.FORGET_RELATION:
            void += [held for kind, held in about.items() if kind is not facts.kind]
        self.remove(void)
        self._insert(log, seq, facts, body)
        return Admitted(True, void, about.get(Kind.OBSERVATION_END) or about.get(Kind.RELATION_END))

    def remove(self, void: Sequence[Held]) -> None:
        """Take operations out."""
        for held in void:
            self.connection.execute("DELETE FROM operations WHERE key = ?", (held.key,))
            self._count(self.log(held.log), held.kind, held.body, -1)
            self._forgotten.pop(held.element, None)
            if held.proof is not None:
                self._proofs.left(held.proof)

    def _is_void(self, facts: Facts, about: dict[Kind, Held]) -> bool:
        """Whether what was forgotten has an operation in it."""
        if facts.kind in {Kind.OBSERVATION, Kind.OBSERVATION_END}:
            return Kind.FORGET_OBSERVATION in about or self._gone(facts.entity, facts.born)
        if facts.kind in {Kind.RELATION, Kind.RELATION_END}:
            return (
                Kind.FORGET_RELATION in about
                or self._gone(facts.entity, facts.born)
                or self._gone(facts.other, facts.born)
            )
        forgotten = about.get(Kind.FORGET_ENTITY)
        return facts.kind is Kind.ENTITY and forgotten is not None and facts.born <= forgotten.stamp

    def _gone(self, entity: bytes | None, born: int) -> bool:
        return entity is not None and born <= self.forgotten(entity)

    def _insert(self, log: Log, seq: int, facts: Facts, body: bytes) -> None:
        if sum(each.operations for each in self.of_node(log.node)) >= NODE_OPERATIONS_LIMIT:
            raise full(f"operations of {log.node}", NODE_OPERATIONS_LIMIT)
        self._require_bytes(log, len(body))
        self.connection.execute(
            "INSERT INTO operations (log, seq, kind, stamp, born, element, entity, other, body, proof)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                log.key,
                seq,
                int(facts.kind),
                facts.stamp,
                facts.born,
                facts.element,
                facts.entity,
                facts.other,
                body,
                self._place.key if self._place is not None and self._place.is_named else None,
            ),
        )
        self._brought += 1
        self._count(log, facts.kind, body, 1)
        self._forgotten.pop(facts.element, None)
        self._new -= {facts.element, facts.other}

    def _require_bytes(self, log: Log, size: int) -> None:
        if sum(each.bytes for each in self.of_node(log.node)) + size > NODE_BYTES_LIMIT:
            raise full(f"bytes of operations of {log.node}", NODE_BYTES_LIMIT)

    def _count(self, log: Log, kind: Kind, body: bytes, by: int) -> None:
        if kind in _DIGESTED:
            log.digest ^= int.from_bytes(body_hash(body)[:DIGEST_BYTES], "big")
        log.operations += by
        log.bytes += by * len(body)
        log.changed = True

    def _rank(self, held: Held) -> tuple[int, str, bytes]:
        return held.stamp, self.log(held.log).node, body_hash(held.body)

    def _held(self, where: str, bindings: tuple[Any, ...]) -> list[Held]:
        sql = f"SELECT {_HELD} FROM operations WHERE {where}"  # noqa: S608 - names of our own
        return [_held(row) for row in rows(self.connection, sql, bindings)]

    # What is told

    def unsealed(self, log: Log) -> list[Proof]:
        """The stretches of a log that are not signed yet, without signatures; see :meth:`prove`."""
        found: list[Proof] = []
        hashes: list[bytes] = []
        first, size = log.sealed + 1, 0
        sql = "SELECT seq, body FROM operations WHERE log = ? AND seq > ? ORDER BY seq"
        held = dict(each(self.connection, sql, (log.key, log.sealed)))
        for seq in range(log.sealed + 1, log.seen + 1):
            body = held.get(seq, b"")
            if hashes and (len(hashes) == STRETCH_OPERATIONS or size + len(body) > STRETCH_BYTES):
                found.append(Proof(first, seq - 1, 0, b"", b"", b"".join(hashes)))
                hashes, first, size = [], seq, 0
            hashes.append(body_hash(body) if body else NOTHING)
            size += len(body)
        if hashes:
            found.append(Proof(first, log.seen, 0, b"", b"", b"".join(hashes)))
        return found

    def knows(self, log: Log, proof: Proof) -> bool:
        """Whether a signed stretch is kept."""
        return self._proofs.place(log.key, proof).is_kept

    def start_again(self, log: Log, before: int) -> list[Held]:
        """Take out what holds of a log up to a number, as if it had never been seen; returns what it was."""
        held = self._held("log = ? AND seq <= ?", (log.key, before))
        self.remove(held)
        self._let_go(self._proofs.drop(log.key, before))
        return held

    def prove(self, log: Log, proof: Proof) -> None:
        """Keep a signed stretch of this node's own, until it is tidied; the same one twice is one."""
        place = self._proofs.place(log.key, proof)
        if not place.is_kept:
            self._proofs.keep(log.key, place, proof, named=False)
            self._has_kept(log, proof)

    def stand_on(self, log: Log, proof: Proof) -> None:
        """Have the operations that are admitted from now on stand on a stretch of another node."""
        self._place, self._brought = self._proofs.place(log.key, proof), 0

    def keep_if_needed(self, log: Log, proof: Proof) -> None:
        """Keep the stretch that operations stood on, if it has brought one that holds, or it is the last one.

        Raises:
            MemoryLimitExceeded: its node has too many bytes already.
        """
        place, self._place = self._place, None
        is_needed = self._brought > 0 or proof.last > self._proofs.last(log.key)
        if place is not None and not place.is_kept and is_needed:
            self._require_bytes(log, proof.size_bytes)
            self._proofs.keep(log.key, place, proof, named=True, is_void=self._brought == 0)
            self._has_kept(log, proof)

    def prune(self) -> None:
        """Let go of the stretches of others on which nothing stands any more since this transaction."""
        self._let_go(self._proofs.prune())

    def proofs(self, log: Log, after: int) -> Iterator[tuple[Proof, list[tuple[int, bytes]]]]:
        """Signed stretches that reach beyond a number, each with those of its operations that hold."""
        return self._proofs.beyond(log.key, after)

    def ends_alone(self, log: Log, proof: Proof) -> bool:
        """Whether no other signed stretch ends where this one does."""
        return self._proofs.ends_alone(log.key, proof)

    def _has_kept(self, log: Log, proof: Proof) -> None:
        log.bytes += proof.size_bytes
        log.sealed, log.changed = max(log.sealed, proof.last), True

    def _let_go(self, gone: Iterable[tuple[int, int]]) -> None:
        for key, size in gone:
            log = self.log(key)
            log.bytes, log.changed = log.bytes - size, True

    def move_unsealed(self, log: Log, to: Log) -> None:
        """Give what is not signed yet new numbers in another log of the same node."""
        for held in self._held("log = ? AND seq > ? ORDER BY seq", (log.key, log.sealed)):
            to.seen += 1
            self.connection.execute(
                "UPDATE operations SET log = ?, seq = ? WHERE key = ?", (to.key, to.seen, held.key)
            )
            self._count(log, held.kind, held.body, -1)
            self._count(to, held.kind, held.body, 1)
        log.seen, log.changed = log.sealed, True

    # What leaves

    def forget_old(self, wall: float, limit: int) -> int:
        """Take out forgettings that are older than they are kept, at most ``limit``; returns how many."""
        beyond = number(self.connection, "SELECT count(*) FROM operations WHERE kind >= 6") - FORGOTTEN_LIMIT
        where = "kind >= 6 AND stamp < ? ORDER BY stamp LIMIT ?"
        old = self._held(where, (stamp_at(wall - FORGOTTEN_S), limit))
        if not old and beyond > 0:
            old = self._held("kind >= 6 ORDER BY stamp LIMIT ?", (min(beyond, limit),))
        self.remove(old)
        self._let_go(self._proofs.tidy())
        return len(old)


def read_meta(connection: apsw.Connection, key: str) -> Any:
    """A value beside the tables, or None."""
    found = rows(connection, "SELECT value FROM meta WHERE key = ?", (key,))
    return found[0][0] if found else None


def keep_meta(connection: apsw.Connection, key: str, value: bytes | float) -> None:
    """Keep a value beside the tables."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _held(row: Sequence[Any]) -> Held:
    key, log, seq, kind, *facts = row
    return Held(key, log, seq, Kind(kind), *facts)
