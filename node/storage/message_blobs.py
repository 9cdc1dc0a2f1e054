"""Which blobs the accepted messages of this node need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw

from node.storage.query import number


def add(connection: apsw.Connection, named: Iterable[tuple[str, int]]) -> None:
    """Messages (their seqs) name blobs (their digests); part of the job that accepts them."""
    connection.executemany("INSERT OR IGNORE INTO message_blobs (blob, seq) VALUES (?, ?)", named)


def needed(connection: apsw.Connection, digests: Sequence[str]) -> set[str]:
    """Those of some blobs that a message names which has not ended; the others are named by none any more."""
    found = set()
    for digest in digests:
        if number(
            connection,
            "SELECT EXISTS (SELECT 1 FROM message_blobs AS named WHERE blob = ? AND ("
            " EXISTS (SELECT 1 FROM outbox WHERE outbox.seq = named.seq AND ended_s IS NULL)"
            " OR EXISTS (SELECT 1 FROM backlog WHERE backlog.seq = named.seq)))",
            (digest,),
        ):
            found.add(digest)
        else:
            connection.execute("DELETE FROM message_blobs WHERE blob = ?", (digest,))
    return found
