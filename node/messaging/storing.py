"""Writing deliveries that arrive: each is looked up by its deduplication key, and what is new is stored.

All of it is part of a job of :class:`node.storage.storage.Storage`, and leaves its answers in the deliveries
(:class:`node.messaging.arrivals.Arriving`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import cbor2

from node.messaging.arrivals import Arrived, Arriving, Batch
from node.messaging.conversation_view import kin_of
from node.messaging.fences import BEHIND
from node.messaging.receiver import ArrivalAction, ItemState, arrive
from node.storage import conversations as conversation_table
from node.storage import inbox as table
from node.storage import outbox as outbox_table
from node.transport.proof import FrameProof
from node.vocabulary import Performative

Proven = tuple[Sequence[Arriving], int | None]
"""The messages of one frame, and the number of its signature."""
OFFERS: Final = (Performative.PROPOSE, Performative.ACCEPT_PROPOSAL)
"""Answers that want an answer in turn, and get one however late they are."""


def encoded(proof: FrameProof | None) -> bytes | None:
    """A proof as it is stored."""
    if proof is None:
        return None
    hashes = list(proof.hashes)
    return cbor2.dumps([proof.credential, proof.receiver, hashes, proof.envelopes, proof.signature])


def store_frames(
    connection: apsw.Connection, batch: Batch, frames: Sequence[tuple[Sequence[Arrived], bytes | None]]
) -> None:
    """Store what is new of frames that came together; each has a proof of its own."""
    judged = iter(batch.items)  # in order, without what is no message
    found = next(judged, None)
    proven: list[Proven] = []
    for arrived, proof in frames:
        items: list[Arriving] = []
        for item, _ in arrived:
            if found is not None and found.item is item:
                items.append(found)
                found = next(judged, None)
        if items:
            proven.append(
                (items, None if proof is None else table.add_proof(connection, batch.origin, proof))
            )
    _store(connection, proven, batch.origin)


def store(connection: apsw.Connection, items: Sequence[Arriving], origin: str) -> None:
    """Store what is new of deliveries without a proof; what is known already is left in the items."""
    _store(connection, [(items, None)], origin)


def _store(connection: apsw.Connection, proven: Sequence[Proven], origin: str) -> None:
    """Store frames in one statement where all of their messages are new, and ask nothing about replies."""
    rows, is_plain = [], True
    for items, proof_id in proven:
        for item in items:
            row = item.row
            if item.message.has_kin:
                conversation_table.relate(connection, kin_of(item.message), row.received_s)
            if row.in_reply_to is not None or item.turned_away:
                is_plain = False
            rows.append((*row[: table.PROOF], proof_id))
    seqs = table.insert_many(connection, rows) if is_plain else None
    if seqs is not None:
        of_each = iter(seqs)
        for items, _ in proven:
            for item in items:
                item.seq = next(of_each)
        return
    for items, proof_id in proven:
        stored = [_store_one(connection, item, origin, proof_id) for item in items]
        if proof_id is not None and not any(stored):
            table.drop_proof(connection, proof_id)


def _store_one(connection: apsw.Connection, item: Arriving, origin: str, proof_id: int | None) -> bool:
    """Look one delivery up, and store it if it is new; returns whether it was."""
    row = item.row
    known = table.find_key(connection, origin, row.message_id, row.target)
    if known is None and item.turned_away:
        item.action, item.reason = ArrivalAction.REFUSE, item.turned_away
        return False
    if known is None:
        message = item.message
        if row.in_reply_to is not None and not outbox_table.reply_arrived(
            connection,
            row.in_reply_to,
            message.sender,
            row.received_s,
            is_offer=message.performative in OFFERS,
        ):
            item.state, item.reason = ItemState.LATE, "another provider answered first"
            row = row._replace(state=item.state.value, reason=item.reason, ended_s=row.received_s)
        item.seq = table.insert(connection, row, proof_id)
        return True
    if item.turned_away == BEHIND and not 0 < item.behind < known.seq:
        item.turned_away = ""  # it was here before what was refused
    item.action = arrive(ItemState(known.state), known.epoch, row.epoch)
    item.seq, item.state, item.reason = known.seq, ItemState(known.state), known.reason
    if item.action is ArrivalAction.HOLD_AGAIN and item.turned_away:
        item.action, item.reason = ArrivalAction.REFUSE, item.turned_away
    if item.action is ArrivalAction.HOLD_AGAIN:
        table.hold_again(connection, item.seq, row.epoch, row.expires_s)
        item.state, item.reason = ItemState.HELD, ""
    elif item.action is ArrivalAction.RAISE_EPOCH:
        table.raise_epoch(connection, item.seq, row.epoch)
    return False
