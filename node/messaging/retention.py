"""Drops old rows of messaging, a bounded number at a time."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import apsw

from node.config.model import MessagingConfig
from node.errors import StorageFailed
from node.messaging.conversation_index import NOTED_AFTER_S, Conversations
from node.messaging.inbox import Inbox
from node.messaging.kept import Kept
from node.messaging.letterbox import DeadLetters
from node.messaging.settings import KEEP_ROWS
from node.storage import dead_letters as dead_letter_table
from node.storage import outbox as outbox_table
from node.storage.dead_letters import Totals
from node.storage.query import Forgotten
from node.storage.storage import Storage

_log = logging.getLogger(__name__)


async def forget_old_rows(  # noqa: PLR0917 - one caller
    storage: Storage,
    settings: MessagingConfig,
    wall: float,
    inbox: Inbox,
    letters: DeadLetters,
    conversations: Conversations,
    kept: Kept,
    confirmed_s: Mapping[str, float],
) -> None:
    """One round, in steps that let other writes pass; what a disk refuses is left for the next round.

    Args:
        storage: The node's database.
        settings: The section ``messaging``.
        wall: Unix seconds now.
        inbox: Knows which received messages no duplicate can follow.
        letters: Is told how many dead letters are left.
        conversations: What outlives their messages is bounded here, too.
        kept: Knows how much is to go, and is told what went.
        confirmed_s: Origin -> Unix seconds; ends that it was told before are on its disk.
    """
    is_forgotten = inbox.forgotten_by_origin(confirmed_s)
    ended_before_s = wall - settings.retention_s

    def dead(connection: apsw.Connection) -> Totals:
        dead_letter_table.forget(connection, wall - settings.dead_letter_retention_s)
        conversations.forget(connection, wall)
        return dead_letter_table.totals(connection)

    def sent(connection: apsw.Connection) -> Forgotten:
        return outbox_table.forget(
            connection,
            step.reached,
            ended_before_s=ended_before_s,
            keep=KEEP_ROWS,
            noted_before_s=wall - NOTED_AFTER_S,
            excess_bytes=kept.excess_sent,
        )

    def received(connection: apsw.Connection) -> Forgotten:
        return inbox.forget(connection, step.reached, wall=wall, is_forgotten=is_forgotten)

    try:
        kept.begin_round()
        await kept.weigh(storage, wall)
        letters.note(await storage.write(dead))
        step = Forgotten(0, 0, finished=False)
        while not step.finished:
            step = await storage.write(sent)
            kept.drop_sent(step.gone, step.weight)
        step = Forgotten(0, 0, finished=False)
        while not step.finished:
            step = await storage.write(received)
            inbox.forgot(step)
    except StorageFailed as error:
        _log.warning("old rows stay for now: %s", error)
