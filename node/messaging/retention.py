"""Drops old rows of messaging, a bounded number at a time."""

from __future__ import annotations

import logging

import apsw

from node.config.model import MessagingConfig
from node.errors import StorageFailed
from node.messaging.inbox import Inbox
from node.messaging.letterbox import DeadLetters
from node.messaging.settings import KEEP_ROWS, WATERMARK_S
from node.storage import dead_letters as dead_letter_table
from node.storage import outbox as outbox_table
from node.storage.dead_letters import Totals
from node.storage.storage import Storage

_log = logging.getLogger(__name__)


async def forget_old_rows(
    storage: Storage, settings: MessagingConfig, wall: float, inbox: Inbox, letters: DeadLetters
) -> None:
    """One round; what a disk refuses is left for the next.

    Args:
        storage: The node's database.
        settings: The section ``messaging``.
        wall: Unix seconds now.
        inbox: Knows which received messages no duplicate can follow.
        letters: Is told how many dead letters are left.
    """
    watermark_s = inbox.watermark(WATERMARK_S)

    def job(connection: apsw.Connection) -> tuple[int, Totals]:
        outbox_table.forget(connection, ended_before_s=wall - settings.retention_s, keep=KEEP_ROWS)
        dead_letter_table.forget(connection, wall - settings.dead_letter_retention_s)
        gone = inbox.forget(connection, wall=wall, watermark_s=watermark_s, keep=KEEP_ROWS)
        return gone, dead_letter_table.totals(connection)

    try:
        gone, totals = await storage.write(job)
    except StorageFailed as error:
        _log.warning("old rows stay for now: %s", error)
    else:
        inbox.forgot(gone)
        letters.note(totals)
