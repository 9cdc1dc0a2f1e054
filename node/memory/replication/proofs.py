"""Which signed stretches are kept: those that an operation stands on, and the last of each log.

Theory of operation. An operation is passed on with the stretch that its origin has signed, so each one that
holds needs a stretch that is kept. A stretch of another node is kept if it has brought an operation that was
not held before; these **stand** on it, and name it. Whoever has signed the same again, or nothing at all, has
brought nothing, and that stretch is let go; so is one on which nothing stands any more. The last stretch of a
log stays in any case, since it says how long the log is. So no more stretches are kept than operations hold,
and logs are, whatever a member signs; and all of it is found by keys, however many stretches overlap.

Operations that this node has said itself name none: its own stretches are kept until they are tidied, for a
peer that tells of an own stretch which is not known here is one that knows more
(:meth:`node.memory.replication.replica.Replica.take`). So are stretches from before there were names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import apsw

from node.memory.replication.operations import HASH_BYTES, body_hash
from node.storage.query import each, number, rows


class Proof(NamedTuple):
    """A signed stretch of a log.

    Args:
        first: The number of its first operation.
        last: Of its last.
        signed_ms: When the origin signed it, in Unix milliseconds: its credential must count then.
        credential: The origin's.
        signature: Over the names of node and log, ``first``, ``signed_ms`` and the hashes.
        hashes: Of its operations, one after the other.
    """

    first: int
    last: int
    signed_ms: int
    credential: bytes
    signature: bytes
    hashes: bytes

    def hash_of(self, seq: int) -> bytes:
        """The hash of the operation of a number in this stretch."""
        start = (seq - self.first) * HASH_BYTES
        return self.hashes[start : start + HASH_BYTES]

    @property
    def size_bytes(self) -> int:
        """Bytes of it that are kept."""
        return len(self.credential) + len(self.signature) + len(self.hashes)


class Place(NamedTuple):
    """Where a stretch is kept.

    Args:
        key: By what the operations know it that stand on it.
        is_named: Whether they do.
        is_kept: Whether it is there already.
    """

    key: int
    is_named: bool
    is_kept: bool


_COLUMNS: Final = "first, last, signed_ms, credential, signature, hashes"
_SIZE: Final = "length(credential) + length(signature) + length(hashes)"
_IS_NOT_LAST: Final = (
    "(EXISTS (SELECT 1 FROM proofs p WHERE p.log = proofs.log AND p.last > proofs.last) OR EXISTS"
    " (SELECT 1 FROM proofs p WHERE p.log = proofs.log AND p.last = proofs.last AND p.key < proofs.key))"
)
_IS_NAMED: Final = "EXISTS (SELECT 1 FROM operations o WHERE o.proof = proofs.key)"
_IS_VOID: Final = (
    f"CASE WHEN named THEN NOT {_IS_NAMED} ELSE NOT EXISTS (SELECT 1 FROM operations o"  # noqa: S608 - own names
    " WHERE o.log = proofs.log AND o.seq BETWEEN proofs.first AND proofs.last) END"
)


@dataclass(slots=True)
class Proofs:
    """The signed stretches inside one transaction.

    Args:
        connection: The writer, or a reader that changes nothing.
    """

    connection: apsw.Connection
    _left: set[int] = field(default_factory=set, init=False)
    """Stretches on which one operation fewer stands, or that are not the last any more."""
    _next_key: int = field(default=0, init=False)
    _last: dict[int, int] = field(default_factory=dict, init=False)
    """Log -> up to which number its stretches are kept."""
    _void: dict[int, list[int]] = field(default_factory=dict, init=False)
    """Log -> its last stretch, if nothing stood on it from the first; of logs that have grown."""

    def place(self, log: int, proof: Proof) -> Place:
        """Where a stretch is kept, or would be."""
        sql = "SELECT key, named FROM proofs WHERE log = ? AND first = ? AND signature = ?"
        found = rows(self.connection, sql, (log, proof.first, proof.signature))
        if found:
            return Place(found[0][0], bool(found[0][1]), True)
        if not self._next_key:
            self._next_key = 1 + number(self.connection, "SELECT coalesce(max(key), 0) FROM proofs")
        return Place(self._next_key, True, False)

    def last(self, log: int) -> int:
        """Up to which number stretches of a log are kept, or 0."""
        if log not in self._last:
            sql = "SELECT coalesce(max(last), 0) FROM proofs WHERE log = ?"
            self._last[log] = number(self.connection, sql, (log,))
        return self._last[log]

    def ends_alone(self, log: int, proof: Proof) -> bool:
        """Whether no other stretch ends where this one does."""
        sql = "SELECT count(*) FROM (SELECT 1 FROM proofs WHERE log = ? AND last = ? LIMIT 2)"
        return number(self.connection, sql, (log, proof.last)) < 2

    def keep(self, log: int, place: Place, proof: Proof, *, named: bool, is_void: bool = False) -> None:
        """Keep a stretch that is not kept yet.

        Args:
            log: The key of its log.
            place: Where.
            proof: What.
            named: Whether operations name it.
            is_void: Whether none does.
        """
        before = self.last(log)
        if proof.last > before:
            if log not in self._void:
                sql = "SELECT key FROM proofs WHERE log = ? AND last = ? AND named"
                self._void[log] = [key for (key,) in rows(self.connection, sql, (log, before))]
            self._left.update(self._void[log])
            self._void[log], self._last[log] = [place.key] if is_void else [], proof.last
        self.connection.execute(
            f"INSERT INTO proofs (key, log, named, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            (place.key, log, named, *proof),
        )
        self._next_key = place.key + 1

    def left(self, key: int) -> None:
        """Take note that an operation does not stand on a stretch any more."""
        self._left.add(key)

    def prune(self) -> Iterator[tuple[int, int]]:
        """Let go of what nothing stands on any more; yields log and bytes of each.

        Only what has come up in this transaction is looked at; :meth:`tidy` looks at everything.
        """
        sql = (
            f"DELETE FROM proofs WHERE key = ? AND named AND NOT {_IS_NAMED} AND {_IS_NOT_LAST}"  # noqa: S608
            f" RETURNING log, {_SIZE}"
        )
        left, self._left = sorted(self._left), set()
        for key in left:
            yield from rows(self.connection, sql, (key,))

    def tidy(self) -> Iterator[tuple[int, int]]:
        """Let go of all of which nothing holds, but the last of each log; yields log and bytes of each."""
        sql = f"DELETE FROM proofs WHERE {_IS_VOID} AND {_IS_NOT_LAST} RETURNING log, {_SIZE}"  # noqa: S608
        yield from rows(self.connection, sql)

    def drop(self, log: int, before: int) -> Iterator[tuple[int, int]]:
        """Let go of the stretches of a log up to a number; yields log and bytes of each."""
        self._last.pop(log, None)
        sql = f"DELETE FROM proofs WHERE log = ? AND last <= ? RETURNING log, {_SIZE}"  # noqa: S608
        yield from rows(self.connection, sql, (log, before))

    def beyond(self, log: int, after: int) -> Iterator[tuple[Proof, list[tuple[int, bytes]]]]:
        """Signed stretches that reach beyond a number, whole, each with the operations that stand on it.

        Of one that begins before that number all are told: its node has used numbers twice, and who has seen
        the number has seen another operation of it.
        """
        sql = f"SELECT key, named, {_COLUMNS} FROM proofs WHERE log = ? AND last > ?"  # noqa: S608
        for key, named, *columns in each(
            self.connection, sql + " ORDER BY last, first, signature", (log, after)
        ):
            proof = Proof(*columns)
            if named:
                sql = "SELECT seq, body FROM operations WHERE proof = ? ORDER BY seq"
                yield proof, rows(self.connection, sql, (key,))
            else:
                sql = "SELECT seq, body FROM operations WHERE log = ? AND seq BETWEEN ? AND ?"
                sql += " AND proof IS NULL ORDER BY seq"
                found = rows(self.connection, sql, (log, proof.first, proof.last))
                yield proof, [(seq, body) for seq, body in found if proof.hash_of(seq) == body_hash(body)]
