"""Mailboxes of clients: named addresses that outlive whoever reads them.

A client owns ``NAME@node``. What is sent there is held in the inbox table, in the same rows as an agent's,
until the client acknowledges it, its time is up, or the mailbox goes. A mailbox has no handler: one client
at a time consumes it, in order of receipt, which is the order of each conversation; a client that comes anew
takes over, and is given everything that was not acknowledged, from the oldest on. So nothing is lost when a
client or the node goes away, and what was given out but not acknowledged is given again. What is out of
protocol is answered when its turn comes, as with an agent, and not given to the client.

A mailbox is addressed as the receiver of a message, with its node. It offers no capability, but it may
subscribe to topics, as agents do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from node.cluster.provider import MAILBOX, RegistryWriter, Subscription
from node.config.model import MessagingConfig
from node.environment import Clock
from node.errors import CaxtonError, Forbidden, ResourceLimitExceeded, StorageFailed, ValidationFailed
from node.message import iso8601
from node.messaging.consumer import WINDOW, Box, Consumer, Screen
from node.messaging.decisions import NO_SUCH_AGENT
from node.messaging.inbox import Inbox
from node.messaging.mailboxes import Entry
from node.messaging.receiver import Handling
from node.messaging.settings import CLIENTS
from node.storage import inbox as inbox_table
from node.storage import mailboxes as table
from node.storage.storage import Storage

_log = logging.getLogger(__name__)

MAILBOX_LIMIT: Final = 1_000
"""Most mailboxes of one node."""
MAILBOX_SHARE: Final = 10
"""One mailbox holds at most this part of ``messaging.inbox_capacity``; all of them together half of it."""
IDLE_S: Final = 86_400.0
"""Seconds without use after which a mailbox goes, unless its client says otherwise."""
IDLE_LIMIT_S: Final = 30 * 86_400.0
"""Longest such time."""
SWEEP_S: Final = 5.0
"""How often expired messages and idle mailboxes are looked for, in seconds."""
TOUCH_S: Final = 60.0
"""How far what is stored about the last use may be behind, in seconds."""
FULL: Final = "the mailbox is full"


class MailboxNotFound(CaxtonError):
    """No mailbox of this name is on this node."""

    code = "MAILBOX_NOT_FOUND"
    status = 404


class NameConflict(CaxtonError):
    """An agent and a mailbox may not share a name."""

    code = "NAME_CONFLICT"
    status = 409


class ClientMailboxes:
    """All mailboxes of this node; see the module's docstring.

    Args:
        clock: For idle times.
        node: This node's name.
        storage: The node's database.
        settings: The section ``messaging``.
        announce: Where it is published what they subscribe to.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        node: str,
        storage: Storage,
        settings: MessagingConfig,
        announce: RegistryWriter,
    ) -> None:
        self._clock, self._announce = clock, announce
        self._node = node
        self._storage = storage
        self._capacity = max(1, settings.inbox_capacity // MAILBOX_SHARE)
        self._total = max(1, settings.inbox_capacity // 2)
        self._inbox: Inbox  # given by use_inbox: each of the two needs the other
        self._in_protocol: Screen
        self._boxes: dict[str, Box] = {}
        self._going: dict[str, None] = {}
        self._held = 0
        self._counts = dict.fromkeys(("acknowledged", "expired", "out_of_protocol", "idle"), 0)

    @property
    def capacity(self) -> int:
        """Most messages of one mailbox."""
        return self._capacity

    def use_inbox(self, inbox: Inbox, in_protocol: Screen) -> None:
        """Give the inbox, and who judges its messages; both need these mailboxes in turn."""
        self._inbox, self._in_protocol = inbox, in_protocol

    async def _screen(self, name: str, entries: Sequence[Entry]) -> list[Entry]:
        """Those that a client may be given; what may be given once only needs no acknowledgement any more."""
        found = await self._in_protocol(name, entries)
        once = {entry.seq for entry in found if entry.message.once}
        if not once:
            return found
        box = self._find(name)
        given = [(entry.seq, entry.message.id) for entry in found if entry.seq in once]
        ended = await self._inbox.end_held(
            name, lambda connection: inbox_table.held_keys(connection, name, given), Handling.SUCCEEDED
        )
        self._acknowledged(box, ended)
        return [entry for entry in found if entry.seq not in once or entry.seq in ended]

    async def load(self) -> None:
        """Take up the mailboxes of the last run."""
        stored = await self._storage.read(lambda connection: table.load(connection, MAILBOX_LIMIT))
        for row in stored:
            self._boxes[row.name] = box = Box(row)
            await self._take_up(box)
            self._publish(row)

    async def run(self) -> None:
        """Look for what has expired until cancelled."""
        touched_at = self._clock.now()
        while True:
            await self._clock.sleep(SWEEP_S)
            try:
                for name, box in list(self._boxes.items()):
                    await self._sweep(name, box)
                if self._clock.now() - touched_at >= TOUCH_S:
                    touched_at = self._clock.now()
                    await self._store_use()
            except StorageFailed as error:
                _log.warning("the mailboxes are looked after later: %s", error)

    # For the inbox

    def knows(self, name: str) -> bool:
        """Whether there is a mailbox of that name."""
        return name in self._boxes

    def refusal(self, name: str) -> str:
        """Why a mailbox takes no message; the empty string when it does."""
        full = len(self._boxes[name].held) >= self._capacity or self._held >= self._total
        return FULL if full else ""

    def arrived(self, name: str, entry: Entry) -> None:
        """A message for a mailbox is on disk."""
        box = self._boxes[name]
        self._hold(box, [entry.seq])
        if box.consumer is not None:
            box.consumer.look_back(entry.seq)
        box.expires_s = min(box.expires_s, self._clock.wall() + entry.deadline - self._clock.now())
        box.wake()

    def ruled_out(self, name: str, seq: int) -> None:
        """A message of a mailbox was out of protocol; that it has ended is durable."""
        self._counts["out_of_protocol"] += 1
        if name in self._boxes:
            self._ended(self._boxes[name], [seq])

    # For clients

    async def put(
        self,
        name: str,
        owner: str,
        idle_s: float | None = None,
        topics: tuple[Subscription, ...] | None = None,
    ) -> bool:
        """Make a mailbox, or use it and change what it is like; returns whether it is new.

        Args:
            name: Its name.
            owner: Name of the token of who asks.
            idle_s: Seconds without use after which it goes; None keeps what it has.
            topics: What it subscribes to, instead of what it did; None keeps that.

        Raises:
            NameConflict: the name is taken otherwise.
            Forbidden: it is somebody else's.
            ResourceLimitExceeded: there are too many, or the topics do not fit into the registry.
            StorageFailed: it could not be stored; it is not there.
        """
        wall = self._clock.wall()
        if idle_s is not None and not 1.0 <= idle_s <= IDLE_LIMIT_S:
            raise ValidationFailed(
                "the idle time is out of range",
                why=f"it is from 1 to {IDLE_LIMIT_S:.0f} s",
                details={"field": "idle_s"},
            )
        box = self._boxes.get(name)
        if box is not None:
            self.check_owner(name, owner)
            earlier = box.row
            box.row = row = replace(
                earlier,
                used_s=wall,
                idle_s=earlier.idle_s if idle_s is None else idle_s,
                topics=earlier.topics if topics is None else topics,
            )
            await self._save(box, row, earlier)
            return False
        if name in CLIENTS:
            raise NameConflict(f"{name!r} is no name for a mailbox", why="it is the address of all clients")
        if name in self._going:
            raise NameConflict(
                f"the mailbox {name!r} is being removed",
                why="the senders of what it held are told first",
                fix="Try again in a moment.",
            )
        if len(self._boxes) >= MAILBOX_LIMIT:
            raise ResourceLimitExceeded(
                "this node takes no more mailboxes",
                why=f"the limit is {MAILBOX_LIMIT}",
                fix="Delete one, or wait until one that is idle goes.",
                details={"limit": MAILBOX_LIMIT},
            )
        made = table.MailboxRow(name, owner, wall, wall, IDLE_S if idle_s is None else idle_s, topics or ())
        self._boxes[name] = box = Box(made)  # from now on no agent takes the name
        try:
            await self._take_up(box)  # what waited for an agent of this name that did not come
            await self._save(box, made, None)
        except BaseException:
            if self._boxes.get(name) is box:
                self._remove(box)
            raise
        return True

    async def delete(self, name: str) -> None:
        """End a mailbox: what it holds has no receiver any more, and its senders are told.

        Raises:
            MailboxNotFound: there is none.
            StorageFailed: it is still there.
        """
        self._find(name)
        await self._storage.write(lambda connection: table.delete(connection, name))
        box = self._boxes.get(name)
        if box is None:
            return  # somebody else was quicker
        self._remove(box)
        if box.consumer is not None:
            box.consumer.end("the mailbox was deleted")
        self._going[name] = None
        try:
            await self._inbox.refuse_held(name, NO_SUCH_AGENT)
        finally:
            del self._going[name]

    def refuse_agent(self, agent: str) -> None:
        """Refuse an agent that would share its name with a mailbox.

        Raises:
            NameConflict: it would.
        """
        if agent in self._boxes:
            raise NameConflict(
                f"{agent!r} is the mailbox of a client of this node",
                why="an agent and a mailbox may not share a name",
                fix="Deploy the agent under another name.",
                details={"agent": agent},
            )

    def owner(self, name: str) -> str:
        """Name of the token that made the mailbox.

        Raises:
            MailboxNotFound: there is none.
        """
        return self._find(name).row.owner

    def check_owner(self, name: str, caller: str) -> None:
        """Refuse whoever did not make the mailbox.

        Raises:
            MailboxNotFound: there is none.
            Forbidden: it is somebody else's.
        """
        if self._find(name).row.owner != caller:
            raise Forbidden(
                f"the mailbox {name!r} is not yours",
                why="only the token that made it, or one that manages the cluster, may use it",
                fix="Use that token, or a mailbox of another name.",
            )

    @contextmanager
    def consume(self, name: str, window: int = WINDOW) -> Iterator[Consumer]:
        """Read a mailbox inside a ``with`` block; whoever read it before is ended.

        Args:
            name: The mailbox.
            window: Most messages that are given before some are acknowledged.

        Raises:
            MailboxNotFound: there is none.
        """
        box = self._find(name)
        if box.consumer is not None:
            box.consumer.end("another client reads the mailbox now")
        consumer = box.consumer = Consumer(name, box, self._inbox, self._screen, window)
        self._use(box)
        try:
            yield consumer
        finally:
            if box.consumer is consumer:
                box.consumer = None
                self._use(box)

    async def acknowledge(self, name: str, given: Iterable[tuple[int, str]]) -> int:
        """The client has these messages (row and id of each); returns how many were still held.

        Raises:
            MailboxNotFound: there is none.
        """
        box = self._find(name)
        ended = await self._inbox.end_held(
            name, lambda connection: inbox_table.held_keys(connection, name, given), Handling.SUCCEEDED
        )
        return self._acknowledged(box, ended)

    async def acknowledge_through(self, name: str, seq: int, message_id: str) -> int:
        """The client has everything up to this message; returns how many were still held.

        A message that is known no more was acknowledged long ago; then nothing is.

        Raises:
            MailboxNotFound: there is none.
        """
        box = self._find(name)
        ended = await self._inbox.end_held(
            name,
            lambda connection: inbox_table.held_through(connection, name, seq, message_id),
            Handling.SUCCEEDED,
        )
        return self._acknowledged(box, ended)

    def as_json(self, owner: str | None = None) -> list[dict[str, Any]]:
        """The mailboxes as the public API shows them, by name; those of one owner, or all."""
        found = sorted(self._boxes.items())
        return [self.shown(name) for name, box in found if owner is None or box.row.owner == owner]

    def shown(self, name: str) -> dict[str, Any]:
        """One mailbox as the public API shows it.

        Raises:
            MailboxNotFound: there is none.
        """
        box = self._find(name)
        return {
            "name": name,
            "address": f"{name}@{self._node}",
            "owner": box.row.owner,
            "held": len(box.held),
            "held_limit": self._capacity,
            "topics": [{"topic": pattern, "group": group or None} for pattern, group in box.row.topics],
            "connected": box.consumer is not None,
            "created_at": iso8601(box.row.created_s),
            "last_used": iso8601(self._clock.wall() if box.consumer is not None else box.row.used_s),
            "idle_s": box.row.idle_s,
        }

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "mailboxes": len(self._boxes),
            "mailboxes_limit": MAILBOX_LIMIT,
            "connected": sum(box.consumer is not None for box in self._boxes.values()),
            "held": self._held,
            "held_limit": self._total,
            "subscribed": sum(bool(box.row.topics) for box in self._boxes.values()),
            **self._counts,
        }

    # Inside

    def _find(self, name: str) -> Box:
        found = self._boxes.get(name)
        if found is None:
            raise MailboxNotFound(
                f"no mailbox {name[:80]!r} is on this node",
                why="it was never made here, was deleted, or has been idle for too long",
                fix="Make it with PUT /mailboxes/NAME.",
            )
        return found

    def _use(self, box: Box) -> None:
        box.row, box.touched = replace(box.row, used_s=self._clock.wall()), True

    async def _save(self, box: Box, row: table.MailboxRow, earlier: table.MailboxRow | None) -> None:
        """Announce and store what a mailbox is like; where that fails, it is what it was."""
        try:
            self._publish(row)
            await self._storage.write(lambda connection: table.save(connection, row))
        except BaseException:
            if box.row is row and self._boxes.get(row.name) is box:
                box.row = earlier or row
                self._publish(earlier or replace(row, topics=()))
            raise

    def _publish(self, row: table.MailboxRow) -> None:
        if row.topics:
            self._announce.publish(
                row.name, version=MAILBOX, capabilities=(), priority=50, health=1.0, topics=row.topics
            )
        else:
            self._announce.withdraw(row.name)

    async def _take_up(self, box: Box) -> None:
        """Learn what a mailbox holds on disk."""
        name = box.row.name
        self._hold(box, await self._storage.read(lambda c: inbox_table.held_seqs(c, name)))
        box.expires_s = 0.0

    def _hold(self, box: Box, seqs: Iterable[int]) -> None:
        """Note what a mailbox holds."""
        before = len(box.held)
        box.held.update(seqs)
        self._held += len(box.held) - before

    def _remove(self, box: Box) -> None:
        """There is no such mailbox any more."""
        self._announce.withdraw(box.row.name)
        del self._boxes[box.row.name]
        self._held -= len(box.held)
        box.held.clear()

    def _acknowledged(self, box: Box, ended: list[int]) -> int:
        self._ended(box, ended)
        self._counts["acknowledged"] += len(ended)
        self._use(box)
        return len(ended)

    def _ended(self, box: Box, seqs: list[int]) -> None:
        before = len(box.held)
        box.held.difference_update(seqs)
        self._held -= before - len(box.held)
        if box.consumer is not None:
            box.consumer.forget(seqs)

    async def _sweep(self, name: str, box: Box) -> None:
        """End what has expired in a mailbox, and the mailbox if nobody uses it."""
        wall = self._clock.wall()
        if box.consumer is None and wall - box.row.used_s >= box.row.idle_s:
            if name in self._boxes:
                self._counts["idle"] += 1
                _log.info("the mailbox %s goes: it was idle for %.0f s", name, box.row.idle_s)
                await self.delete(name)
        elif box.held and wall >= box.expires_s:
            ended = await self._inbox.end_held(
                name,
                lambda connection: inbox_table.held_expired(connection, name, wall),
                Handling.EXPIRED,
                "its time was up before it was acknowledged",
            )
            self._ended(box, ended)
            self._counts["expired"] += len(ended)
            box.expires_s = await self._storage.read(
                lambda connection: inbox_table.next_expiry(connection, name)
            )

    async def _store_use(self) -> None:
        used = [
            (name, self._clock.wall() if box.consumer is not None else box.row.used_s)
            for name, box in self._boxes.items()
            if box.touched or box.consumer is not None
        ]
        if used:
            await self._storage.write(lambda connection: table.touch(connection, used))
        for name, _ in used:
            if name in self._boxes:
                self._boxes[name].touched = False
