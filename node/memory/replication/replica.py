"""This node's side of the logs: what is signed and told, and what is believed of what others tell.

All of it runs inside jobs of the memory's file, off the event loop. A page is taken whole or not at all, in
one transaction, so a process may die at any instant of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import apsw

from node.errors import MemoryLimitExceeded
from node.memory.embedding import EmbeddingModel
from node.memory.records import Limits
from node.memory.replication.head import Head, LogName
from node.memory.replication.journal import Journal
from node.memory.replication.merge import Merger
from node.memory.replication.operations import OperationInvalid, body_hash, decode
from node.memory.replication.oplog import Log, OperationLogs
from node.memory.replication.proofs import Proof
from node.memory.replication.wire import (
    PAGE_BYTES,
    PAGE_STRETCHES,
    STRETCH_LIMIT_BYTES,
    Heading,
    Page,
    Stretch,
)
from node.memory.rows import Rows
from node.memory.scopes import REPLICA, Scoped
from swim import strict_cbor
from swim.hlc import MAX_SKEW_S, HybridClock, stamp_at
from swim.identity import Authority, Identity, domain, verify

AWAY_S: Final = 29 * 86_400.0
"""Who was out of step for so long, in seconds, starts again from a peer's logs: others may have forgotten by
then what they were told to forget."""


class PageRefused(Exception):
    """A peer has told what nobody said."""


class Stalled(Exception):
    """A log cannot be followed for now.

    Args:
        log: Which one.
        why: ``clock`` or ``room``.
    """

    def __init__(self, log: LogName, why: str) -> None:
        super().__init__(f"the log of {log[0]} is not followed for now: {why}")
        self.log, self.why = log, why


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a page.

    Attributes:
        kept: Operations that are new here and hold.
        known: That hold already.
        void: That others had made void.
        refused: That are none, by their origin's own fault.
        vectors_refused: Vectors of another length than their model has.
        heads: How much is held now.
    """

    kept: int
    known: int
    void: int
    refused: int
    vectors_refused: int
    heads: Sequence[Head]


class Replica:
    """What a node needs to write and follow logs.

    Args:
        identity: Signs this node's log.
        authority: Whose signatures count; asked on a worker thread.
        token: Makes ids of logs.
        rests: Makes what a job calls between two operations that it carries out
            (:meth:`node.environment.Workers.rests`).
    """

    def __init__(
        self,
        identity: Identity,
        authority: Authority,
        token: Callable[[int], bytes],
        rests: Callable[[], Callable[[], None]] = lambda: _go_on,
    ) -> None:
        self.node = identity.name
        self._identity, self._authority, self._token, self._rests = identity, authority, token, rests
        self._clock = HybridClock()

    def journal(self, connection: apsw.Connection, wall: float) -> Journal:
        """Where a writer's job puts down what it does."""
        return Journal(connection, self.node, self._clock, wall, self._token)

    def seal(self, connection: apsw.Connection, wall: float) -> None:
        """Sign what this node has said since it last did."""
        journal = self.journal(connection, wall)
        if not journal.has_log:
            return
        log, signed_ms = journal.log, int(wall * 1000)
        for each in journal.logs.unsealed(log):
            told = statement(log.node, log.log, each.first, signed_ms, each.hashes)
            signature = self._identity.sign(told)
            proof = each._replace(
                signed_ms=signed_ms, credential=self._identity.credential, signature=signature
            )
            journal.logs.prove(log, proof)
        journal.flush()

    def take(
        self,
        connection: apsw.Connection,
        page: Page,
        limits: Limits,
        model: EmbeddingModel | None,
        wall: float,
    ) -> Taken:
        """Believe what a page proves; to be undone whole where it raises.

        Args:
            connection: The writer's.
            page: What a peer has told.
            limits: How much is remembered at most.
            model: Of the vectors that are searched here.
            wall: Unix seconds.

        Raises:
            PageRefused: something in it was not said by the node that it names.
            Stalled: a log is ahead of the time, or there is no room for it.
        """
        journal = self.journal(connection, wall)
        merger = Merger(Rows(connection, Scoped(connection, REPLICA), limits), journal.logs, model)
        kept = known = void = refused = 0
        rest = self._rests()
        latest = stamp_at(wall + MAX_SKEW_S)
        for stretch in page.stretches:
            rest()
            name = (stretch.node, stretch.log)
            proof = self._proven(stretch, wall)
            try:
                log = journal.logs.make(*name)
                seen = log.seen
                self._mind_own_place(journal, log, proof)
                if log.node != self.node:
                    journal.logs.stand_on(log, proof)
                read = []
                for seq, body in stretch.operations:
                    if not proof.first <= seq <= proof.last or proof.hash_of(seq) != body_hash(body):
                        raise PageRefused(f"an operation of {stretch.node} was altered")
                    try:
                        operation, facts = decode(body, stretch.node)
                    except OperationInvalid:
                        refused += 1
                        continue
                    if seq <= seen and journal.logs.holds(log, seq, facts.element, body):
                        known += 1
                        continue
                    if facts.stamp > latest:
                        raise Stalled(name, "clock")
                    journal.clock.observe(facts.stamp)
                    read.append((seq, operation, facts, body))
                journal.logs.expect([facts.element for _, _, facts, _ in read])
                for seq, operation, facts, body in read:
                    rest()
                    is_kept = merger.apply(log, seq, operation, facts, body)
                    kept, void = kept + is_kept, void + (not is_kept)
                if log.node == self.node:
                    journal.logs.prove(log, proof)
                else:
                    journal.logs.keep_if_needed(log, proof)
            except MemoryLimitExceeded:
                raise Stalled(name, "room") from None
            journal.logs.has_seen(log, proof.last)
        merger.finish()
        journal.logs.prune()
        journal.flush()
        return Taken(kept, known, void, refused, merger.vectors_refused, heads(connection))

    def start_again(
        self, connection: apsw.Connection, peer: Sequence[Heading], limits: Limits, wall: float
    ) -> list[Head]:
        """Give up what a peer knows better; what it has not seen, this node's own words among it, stays.

        Returns:
            How much of each log is held now; what was given up comes again, as far as it holds.
        """
        logs = OperationLogs(connection)
        merger = Merger(Rows(connection, Scoped(connection, REPLICA), limits), logs)
        for told in peer:
            log = logs.find(told.node, told.log)
            if log is None:
                continue
            merger.drop(logs.start_again(log, told.seen), stamp_at(wall))
            if log.node != self.node and log.seen <= told.seen:
                log.seen = log.sealed = 0
                log.changed = True
        logs.flush()
        return heads(connection)

    def _proven(self, stretch: Stretch, wall: float) -> Proof:
        """The proof of a stretch.

        Raises:
            PageRefused: its node did not sign it.
            Stalled: it was signed in the future.
        """
        signed_s = stretch.signed_ms / 1000
        if signed_s > wall + MAX_SKEW_S:
            raise Stalled((stretch.node, stretch.log), "clock")
        admitted = self._authority.admit(stretch.credential, signed_s)
        told = statement(stretch.node, stretch.log, stretch.first, stretch.signed_ms, stretch.hashes)
        if (
            admitted is None
            or admitted.name != stretch.node
            or not verify(admitted.public_key, stretch.signature, told)
        ):
            raise PageRefused(f"what is told of {stretch.node} was not signed by it")
        return Proof(
            stretch.first,
            stretch.last,
            stretch.signed_ms,
            stretch.credential,
            stretch.signature,
            stretch.hashes,
        )

    def _mind_own_place(self, journal: Journal, log: Log, proof: Proof) -> None:
        """Begin a new log when a peer knows more of the own one: this file is older than what was told."""
        is_own = log.node == self.node and journal.has_log and journal.log is log
        if is_own and not journal.logs.knows(log, proof):
            journal.logs.move_unsealed(log, journal.begin())


def _go_on() -> None:
    """No rest."""


def statement(node: str, log: bytes, first: int, signed_ms: int, hashes: bytes) -> bytes:
    """What the origin of a stretch signs."""
    return domain("memory-log") + strict_cbor.encode([node, log, first, signed_ms, hashes])


def heads(connection: apsw.Connection) -> list[Head]:
    """How much of each log is held."""
    return [log.head for log in OperationLogs(connection).all()]


def page_for(connection: apsw.Connection, have: Mapping[LogName, int]) -> Page:
    """What a peer does not hold, in signed stretches, as much as a page takes.

    Args:
        connection: The reader.
        have: Log -> how much of it the peer holds.
    """
    logs = OperationLogs(connection)
    every = logs.all()
    told = tuple(Heading(log.node, log.log, log.sealed, log.head.digest) for log in every if log.sealed)
    return Page(told, _stretches(logs, every, have))


def _stretches(logs: OperationLogs, every: Sequence[Log], have: Mapping[LogName, int]) -> tuple[Stretch, ...]:
    """As many as a page takes.

    Whoever has taken a page asks for what goes beyond it. So stretches that end at one number, as those of a
    node do that has used numbers twice, come in one page, as long as that takes them.
    """
    found, size, begun, is_full = list[Stretch](), 0, 0, False
    for log in every:
        last = 0
        for proof, operations in logs.proofs(log, have.get((log.node, log.log), 0)):
            made = Stretch(
                log.node,
                log.log,
                proof.first,
                proof.signed_ms,
                proof.credential,
                proof.signature,
                proof.hashes,
                tuple(operations),
            )
            if proof.last != last:
                if is_full:
                    return tuple(found)
                begun, last = len(found), proof.last
            elif len(found) == PAGE_STRETCHES or size + made.size_bytes > PAGE_BYTES + STRETCH_LIMIT_BYTES:
                return tuple(found[: begun or len(found)])
            found.append(made)
            size += made.size_bytes
            is_full = size > PAGE_BYTES or len(found) == PAGE_STRETCHES
            if is_full and logs.ends_alone(log, proof):
                return tuple(found)
    return tuple(found)
