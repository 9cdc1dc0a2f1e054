"""Content beside the messages: looked for when one is accepted, fetched where one is handled.

A message names its blobs by their SHA-256 and size, which are sealed with it. They stay at its origin until
it has ended. The node that handles it asks the origin for their chunks, over the link's questions, which come
after all messages; chunks that have arrived are durable, so a broken link or a restart goes on where they
end. An agent gets its message with the bytes in it; how many bytes are held for that is bounded.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import apsw
import trio
from msgspec.structs import replace

from node.blobs.store import BlobStore, not_here
from node.blobs.tables import CHUNK_BYTES, Row, chunk_count
from node.environment import Environment
from node.errors import BlobNotFound, CaxtonError, MessageNotFound
from node.message import BLOB_LIMIT_BYTES, Attachment, Message
from node.messaging.delivery import Draft
from node.messaging.ports import LinkSender
from node.storage import accepted, inbox
from node.storage import message_blobs as table
from node.storage.storage import Storage

BLOB: Final = "blob"
"""The question for one chunk: about ``digest:number``."""
INLINE_BYTES: Final = 256 * 1024
"""An attachment of an agent's answer that is larger becomes a blob."""
AT_ONCE: Final = 8
"""Chunks asked for at once."""
ASK_S: Final = 10.0
"""Longest wait for one chunk, in seconds."""
FIRST_PAUSE_S: Final = 0.2
LAST_PAUSE_S: Final = 5.0
"""Pauses while the origin does not answer: the first, which doubles, and the longest."""
UNKNOWN_LIMIT: Final = 3
"""How often an origin may say that it has no such blob before it is believed."""
HELD_LIMIT_BYTES: Final = 4 * BLOB_LIMIT_BYTES
"""Most bytes of blobs in memory for handlers that run."""


class Blobs:
    """The blobs of the messages of this node.

    Args:
        environment: Time.
        node: This node's name.
        store: Where they are.
        storage: The node's database, which knows what is needed.
    """

    def __init__(self, *, environment: Environment, node: str, store: BlobStore, storage: Storage) -> None:
        self._clock = environment.clock
        self._workers = environment.workers
        self._node, self.store, self._storage = node, store, storage
        self.links: LinkSender | None = None
        self.also_needed: Callable[[], set[str]] = set  # what something beside messages needs
        self._fetching: dict[str, trio.Lock] = {}
        self._held = 0
        self._freed = trio.Event()
        self._counts = dict.fromkeys(("fetched", "chunks_fetched", "chunks_told", "not_there"), 0)

    async def run(self) -> None:
        """Drop what no message needs until cancelled."""
        await self.store.run(self._needed)

    # At the origin

    async def sized(self, message: Message) -> Message:
        """A message that is to be accepted, with the sizes of its blobs; they are kept for it from now on.

        Raises:
            BlobNotFound: one is not here as a whole.
            StorageFailed: the disk refuses.
        """
        found = []
        for attachment in message.attachments:
            if attachment.blob:
                row = await self.store.whole(attachment.blob)
                if row is None:
                    raise not_here(attachment.blob)
                attachment = replace(attachment, data=b"", size=row.size)  # noqa: PLW2901 - as it is sealed
            found.append(attachment)
        return replace(message, attachments=tuple(found))

    async def outsourced(self, draft: Draft) -> Draft:
        """An agent's answer whose large attachments are blobs.

        Raises:
            ResourceLimitExceeded: there is no room for them.
            ValidationFailed: one is larger than a blob may be.
            StorageFailed: the disk refuses.
        """
        if not all(isinstance(a, Attachment) for a in draft.attachments):
            return draft  # it is refused when it is sealed
        if not any(a.blob or len(a.data) > INLINE_BYTES for a in draft.attachments):
            return draft
        attachments = []
        for attachment in draft.attachments:
            if attachment.blob:  # of the message that is answered
                attachment = replace(attachment, data=b"")  # noqa: PLW2901 - as it is sealed
                if await self.store.whole(attachment.blob) is None:
                    raise not_here(attachment.blob)
            elif len(attachment.data) > INLINE_BYTES:
                digest = await self.keep(attachment.data)
                size = len(attachment.data)
                attachment = replace(attachment, data=b"", blob=digest, size=size)  # noqa: PLW2901
            attachments.append(attachment)
        return dataclasses.replace(draft, attachments=tuple(attachments))

    async def answer(self, about: str) -> bytes | None:
        """The chunk that a peer asks for, or None when it is not here."""
        digest, _, number = about.partition(":")
        chunk: list[bytes] = []
        if number.isascii() and number.isdecimal() and len(number) <= len(str(chunk_count(BLOB_LIMIT_BYTES))):
            try:
                row = await self.store.find(digest)
                if row is not None and row.complete:
                    chunk = await self.store.chunks(row, int(number), 1)
            except CaxtonError:  # of a sick disk; the link it came by goes on
                chunk = []
        self._counts["chunks_told" if chunk else "not_there"] += 1
        return chunk[0] if chunk else None

    # Where a message is handled

    async def filled(self, message: Message, origin: str, deadline: float) -> Message:
        """The message with the content of its blobs, for a handler; :meth:`release` follows.

        Args:
            message: One that was received here.
            origin: The node that has its blobs.
            deadline: Moment on the monotonic clock at which nobody wants the message any more.

        Raises:
            BlobNotFound: the content cannot be had, or not in time.
            CaxtonError: it is not what it should be, there is no room for it here, or the disk refuses.
        """
        size, reserved = _size(message), False
        try:
            with self._clock.move_on_after(max(0.0, deadline - self._clock.now())):
                for attachment in message.attachments:
                    if attachment.blob:
                        await self.fetch(origin, attachment)
                while self._held and self._held + size > HELD_LIMIT_BYTES:
                    await self._freed.wait()
                self._held, reserved = self._held + size, True
                attachments = [await self._filled(attachment) for attachment in message.attachments]
                size = 0  # whoever has it gives it back
                return replace(message, attachments=tuple(attachments))
        finally:
            if reserved and size:
                self._free(size)
        raise BlobNotFound(
            "its attachments did not arrive in time",
            why=f"{origin} did not send them before its time was up",
            fix="Give the message more time (ttl_s), or look at the link to that node.",
            details={"node": origin},
        )

    def release(self, message: Message) -> None:
        """A handler has done with the content of a message that :meth:`filled` gave it."""
        self._free(_size(message))

    async def fetch(self, origin: str, attachment: Attachment) -> Row:
        """Have a blob here as a whole; asks ``origin`` for what is missing, for as long as it takes.

        Raises:
            BlobNotFound: the origin does not have it.
            CaxtonError: it is not what it should be, there is no room for it here, or the disk refuses.
        """
        digest = attachment.blob
        lock = self._fetching.setdefault(digest, trio.Lock())
        try:
            async with lock:
                row = await self.store.whole(digest)
                if row is not None:
                    return row
                if origin == self._node:
                    raise not_here(digest)
                row = await self.store.begin(digest, attachment.size)
                try:
                    await self._ask_for(origin, row)
                except BlobNotFound:
                    await self.store.give_up(row)  # names of what there is not would take all the room
                    raise
                await self.store.finish(row)
                self._counts["fetched"] += 1
                return row
        finally:
            if not lock.locked():  # nobody else has waited for it, and has it now
                self._fetching.pop(digest, None)

    # For the node itself

    async def keep(self, data: bytes) -> str:
        """Have content here as a blob; returns its digest.

        Raises:
            ResourceLimitExceeded: there is no room for it.
            ValidationFailed: it is larger than a blob may be.
            StorageFailed: the disk refuses.
        """
        digest: str = await self._workers.run("blobs", _sha256, data)
        row = await self.store.begin(digest, len(data))
        if not row.complete:
            chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
            for first in range(row.chunks, len(chunks), AT_ONCE):
                await self.store.append(row, first, chunks[first : first + AT_ONCE])
            await self.store.finish(row)
        return digest

    async def is_here(self, digest: str) -> bool:
        """Whether a blob is here as a whole.

        Raises:
            StorageFailed: the disk refuses.
        """
        return await self.store.whole(digest) is not None

    async def content(self, digest: str) -> bytes | None:
        """The content of a blob that is here as a whole; otherwise None.

        Raises:
            StorageFailed: the disk refuses.
        """
        row = await self.store.whole(digest)
        if row is None:
            return None
        found = []
        for first in range(0, chunk_count(row.size), AT_ONCE):
            found += await self.store.chunks(row, first, AT_ONCE)
        return b"".join(found)

    async def drop(self, digests: Sequence[str]) -> None:
        """Let go of blobs that nothing needs any more.

        Raises:
            StorageFailed: the disk refuses.
        """
        kept = await self._needed(digests)
        await self.store.drop([digest for digest in digests if digest not in kept])

    # For clients

    async def attachment(self, message_id: str, name: str) -> tuple[Attachment, str]:
        """A file of a message that this node has accepted or received, and the node that has its content.

        Raises:
            MessageNotFound: this node knows no such message (any more).
            BlobNotFound: the message has no such file.
        """

        def query(connection: apsw.Connection) -> bytes | None:
            row = accepted.find(connection, message_id)
            if row is not None:
                return row.sealed
            received = inbox.find(connection, message_id, 1)
            return received[0].sealed if received else None

        sealed = await self._storage.read(query)
        if sealed is None:
            raise MessageNotFound(
                f"this node knows no message {message_id[:80]!r}",
                why="it was never here, or has aged out",
                fix="Ask the node that sent or received it.",
            )
        message = Message.unseal(sealed)
        for attachment in message.attachments:
            if attachment.name == name:
                return attachment, message.sender.rpartition("@")[2]
        raise BlobNotFound(
            f"the message has no file {name[:80]!r}",
            why="its files are: " + (", ".join(a.name for a in message.attachments)[:300] or "none"),
            fix="Name one of them.",
        )

    def statistics(self) -> dict[str, Any]:
        """Counts and sizes."""
        return {
            **self.store.statistics(),
            "held_bytes": self._held,
            "held_bytes_limit": HELD_LIMIT_BYTES,
            **self._counts,
        }

    # Inside

    async def _needed(self, digests: Sequence[str]) -> set[str]:
        by_messages = await self._storage.write(lambda connection: table.needed(connection, digests))
        return by_messages.union(self.also_needed().intersection(digests))

    async def _filled(self, attachment: Attachment) -> Attachment:
        if not attachment.blob:
            return attachment
        data = await self.content(attachment.blob)
        if data is None:
            raise not_here(attachment.blob)
        return replace(attachment, data=data)

    def _free(self, size: int) -> None:
        self._held -= size
        self._freed.set()
        self._freed = trio.Event()

    async def _ask_for(self, origin: str, row: Row) -> None:
        """Ask for the chunks that are missing, a few at once, until all are here."""
        count, here = chunk_count(row.size), row.chunks
        pause_s, unknown = FIRST_PAUSE_S, 0
        while here < count:
            wanted = range(here, min(here + AT_ONCE, count))
            got = await self._ask_at_once(origin, row.digest, wanted)
            chunks = []
            for number in wanted:  # what came after a gap is asked for again
                if not isinstance(got.get(number), bytes):
                    break
                chunks.append(got[number])
            if chunks:
                here = await self.store.append(row, here, [c for c in chunks if c is not None])
                self._counts["chunks_fetched"] += len(chunks)
                pause_s, unknown = FIRST_PAUSE_S, 0
                continue
            unknown = unknown + 1 if here in got else 0
            if unknown >= UNKNOWN_LIMIT:
                raise BlobNotFound(
                    f"{origin} does not have the blob {row.digest[:12]}… any more",
                    fix="Send the message again, with its files.",
                    details={"blob": row.digest, "node": origin},
                )
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def _ask_at_once(self, origin: str, digest: str, numbers: Iterable[int]) -> dict[int, bytes | None]:
        """The chunks that came, and None for those that the origin does not have."""
        got: dict[int, bytes | None] = {}

        async def ask(number: int) -> None:
            answer = None
            if self.links is not None:
                answer = await self.links.ask(origin, BLOB, f"{digest}:{number}", timeout_s=ASK_S)
            if answer is not None and answer.state != "refused":
                got[number] = answer.body if answer.state == "known" else None

        async with trio.open_nursery() as nursery:
            for number in numbers:
                nursery.start_soon(ask, number)
        return got


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _size(message: Message) -> int:
    return sum(attachment.size for attachment in message.attachments)
