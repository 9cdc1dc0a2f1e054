"""One digest of everything that is shared: equal where nodes agree, byte for byte."""

from __future__ import annotations

import hashlib
from typing import Final

import apsw
import msgspec

from node.memory.scopes import REPLICA, Scoped

_ENTITIES: Final = (
    "SELECT e.realm, e.id, e.name, e.type, e.confidence, e.strength, e.valid_from_s, e.valid_to_s,"
    " e.metadata, e.known FROM {entities} e ORDER BY e.id"
)
_OBSERVATIONS: Final = (
    "SELECT o.realm, o.id, e.id, o.text, o.confidence, o.created_s, o.valid_from_s, o.valid_to_s, o.ended,"
    " s.id, o.metadata, o.source FROM {observations} o JOIN {entities} e ON e.key = o.entity"
    " LEFT JOIN {observations} s ON s.key = o.successor ORDER BY o.id"
)
_RELATIONS: Final = (
    "SELECT r.realm, r.id, s.id, t.id, r.type, r.strength, r.confidence, r.both_ways, r.ended, r.created_s,"
    " r.valid_from_s, r.valid_to_s, r.metadata, r.source FROM {relations} r"
    " JOIN {entities} s ON s.key = r.source_entity JOIN {entities} t ON t.key = r.target_entity ORDER BY r.id"
)


def state_digest(connection: apsw.Connection) -> str:
    """BLAKE2b-256 of all shared entities, observations and relations, in the order of their ids.

    Versions, times of change, outcomes and vectors are a node's own and not in it.
    """
    scoped, digest = Scoped(connection, REPLICA), hashlib.blake2b(digest_size=32)
    encoder = msgspec.msgpack.Encoder()
    for sql, has_source in ((_ENTITIES, False), (_OBSERVATIONS, True), (_RELATIONS, True)):
        for row in scoped.each(sql):
            realm = scoped.realm_of(row[0])
            told = [int(realm.scope), realm.owner, *row[1:]]
            if has_source:
                source = scoped.source(told.pop())
                told += [source.agent, source.conversation, source.message, source.node]
            digest.update(encoder.encode(told))
    return digest.hexdigest()
