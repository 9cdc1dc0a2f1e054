"""Keeps the shared memory of this node and that of the others the same, over the peer links.

What is asked and when is decided by :mod:`node.memory.replication.exchange`, what is believed by
:mod:`node.memory.replication.replica`; here are the links, the tasks and the file. Each partner has a
task of its own, and one at a time catches up, so that nothing is fetched twice. While nobody has stored
anything that is shared, nothing of this costs anything.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from node.environment import Environment
from node.errors import CaxtonError
from node.memory.replication.exchange import Exchange, partners
from node.memory.replication.wire import BodyInvalid, Page, Request, decode_page, decode_request, encode
from node.memory.room import MemoryRoom
from node.transport.handler import PullHandler

if TYPE_CHECKING:
    from node.memory.replication.shared import SharedMemory

log = logging.getLogger(__name__)

WATCH_S: Final = 1.0
"""How often it is looked who holds something, in seconds."""
RETRY_S: Final = 0.5
"""Pause before a partner is asked again whose link is down, in seconds."""
PULL_S: Final = 10.0
"""Longest that a page is waited for while others wait to catch up, in seconds."""
TURN_S: Final = 5.0
"""So long one partner is followed while others wait to catch up, in seconds; then it is their turn."""
DISK_S: Final = 30.0
"""Pause after the disk has refused, in seconds."""
GATHER_S: Final = 0.02
"""So long this node gathers what it says before it signs it, in seconds."""
INDEX_AFTER_S: Final = 0.5
"""So long nothing came from others before their vectors are indexed, in seconds."""
TIDY_EVERY_S: Final = 3_600.0
"""How often it is let go of what was forgotten long ago, in seconds."""


_NO_LOGS: Final[Mapping[str, Any]] = MappingProxyType(
    {"digest": None, "origins": (), "logs": 0, "operations": 0, "bytes": 0, "forgotten": 0}
)


class PullLinks(Protocol):
    """The part of the peer links that is needed here (``node.transport.links.Links``)."""

    pulls: PullHandler | None

    def ensure(self, peer: str) -> None:
        """Dial ``peer`` if there is no link to it."""
        ...

    def is_open(self, peer: str) -> bool:
        """Whether the link to ``peer`` is open."""
        ...

    async def pull(self, peer: str, body: bytes) -> bytes | None:
        """Ask ``peer`` for a page; None when the link is gone."""
        ...

    def answer_pull(self, peer: str, number: int, body: bytes) -> bool:
        """Answer a pull of ``peer``."""
        ...


class Holders(Protocol):
    """Who holds something (``node.cluster.holders.MemoryHolders``)."""

    def announce(self) -> None:
        """Tell that this node does."""
        ...

    def others(self) -> list[str]:
        """The others that do, and are up."""
        ...


class Replicas:
    """See the module's docstring.

    Args:
        environment: Time.
        node: This node's name.
        memory: Its memory.
        links: Links to peers.
        holders: Who holds something.
    """

    def __init__(
        self, *, environment: Environment, node: str, memory: MemoryRoom, links: PullLinks, holders: Holders
    ) -> None:
        self._clock, self._node = environment.clock, node
        self._memory, self._links, self._holders = memory, links, holders
        self._exchange = Exchange(node)
        self._followed: dict[str, trio.CancelScope] = {}
        self._asked: OrderedDict[str, tuple[int, Request]] = OrderedDict()
        self._turn = trio.Lock()
        self._is_stale = memory.exists
        self._wake = trio.Event()
        self._wake_answers = trio.Event()
        self._has_taken = trio.Event()
        self._is_open = self._has_finished = False
        self._taken_s = 0.0
        self._has_looked_back = False
        self._counts = dict.fromkeys(
            ("pages", "taken", "void", "refused", "vectors_refused", "malformed", "started_again"), 0
        )
        memory.on_change = self._changed
        links.pulls = self

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Exchange until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer)
            nursery.start_soon(self._tell)
            nursery.start_soon(self._tidy)
            nursery.start_soon(self._index)
            task_status.started()
            while True:
                self._watch(nursery)
                await self._clock.sleep(WATCH_S)

    async def statistics_of_logs(self) -> dict[str, Any]:
        """The logs of this node, and how far it and its partners are from each other."""
        shared = await self._shared_if_any()
        return {**self.statistics(), **(_NO_LOGS if shared is None else await shared.statistics())}

    def statistics(self) -> dict[str, Any]:
        """Partners, and counts since the start."""
        return {
            "partners": sorted(self._followed),
            **self._counts,
            **self._exchange.statistics(self._clock.now()),
        }

    # For the links (node.transport.handler.PullHandler)

    def on_pull(self, peer: str, number: int, body: bytes) -> None:
        """Put a peer's request in line, or let it wait for news."""
        try:
            request = decode_request(body)
        except BodyInvalid as error:
            self._counts["malformed"] += 1
            log.warning("%s asks for no page: %s", peer, error)
            request = Request((), wait=True)
        if request.wait:
            self._exchange.wait(peer, number, request, self._clock.now())
            self._wake.set()
        else:
            self._asked[peer] = (number, request)
            self._wake_answers.set()

    def on_pull_lost(self, peer: str) -> None:
        """A peer's link is gone before it was answered."""
        self._asked.pop(peer, None)
        self._exchange.lost(peer)

    # Answering

    async def _answer(self) -> None:
        """Answer requests one at a time, in turn."""
        while True:
            if not self._asked:
                self._wake_answers = trio.Event()
                await self._wake_answers.wait()
            if not self._asked:  # its link was lost meanwhile
                continue
            peer, (number, request) = self._asked.popitem(last=False)
            page = Page(())
            try:
                shared = await self._shared_if_any()
                if shared is not None:
                    await self._freshen(shared)
                    page = await shared.page({(each.node, each.log): each.seen for each in request.have})
            except CaxtonError as error:
                log.warning("%s cannot be told of the shared memory: %s", peer, error)
            self._links.answer_pull(peer, number, encode(page))

    async def _tell(self) -> None:
        """Answer those who wait, when there is something new."""
        while True:
            due = self._exchange.next_due()
            # A file that is there is opened for those who wait, not before.
            is_wanted = self._is_stale and (self._is_open or due is not None)
            if not is_wanted:
                self._wake = trio.Event()
                with self._clock.move_on_after(
                    math.inf if due is None else max(0.0, due - self._clock.now())
                ):
                    await self._wake.wait()
            else:
                await self._clock.sleep(GATHER_S)
                try:
                    shared = await self._shared_if_any()
                    if shared is not None:
                        await self._freshen(shared)
                except CaxtonError as error:
                    log.warning("what was shared cannot be signed: %s", error)
                    await self._clock.sleep(DISK_S)
            for peer, number in self._exchange.due(self._clock.now()):
                self._links.answer_pull(peer, number, encode(Page(self._exchange.headings())))

    async def _freshen(self, shared: SharedMemory) -> None:
        """Sign what this node has said, and know how much of each log it holds."""
        if self._is_stale:
            self._is_stale = False
            try:
                self._exchange.know(await shared.heads(), self._clock.now())
            except CaxtonError:
                self._is_stale = True
                raise
            self._wake.set()

    def _changed(self) -> None:
        self._is_stale = True
        if not self._is_open:
            self._is_open = True
            self._has_taken.set()
        self._wake.set()

    # Following

    def _watch(self, nursery: trio.Nursery) -> None:
        """Say that this node holds something, and follow who else does."""
        if self._memory.exists:
            self._holders.announce()
        wanted = partners(self._node, self._holders.others())
        for peer in sorted(self._followed.keys() - set(wanted)):
            self._followed.pop(peer).cancel()
            self._exchange.leave(peer)
        for peer in wanted:
            if peer not in self._followed:
                scope = self._followed[peer] = trio.CancelScope()
                nursery.start_soon(self._follow, peer, scope)

    async def _follow(self, peer: str, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                if not self._links.is_open(peer):
                    self._links.ensure(peer)
                    await self._clock.sleep(RETRY_S)
                    continue
                await self._clock.sleep_until(self._exchange.paused_until(peer))
                try:
                    async with self._turn:
                        is_in_step = await self._catch_up(peer)
                except CaxtonError as error:
                    log.warning("what %s tells cannot be stored: %s", peer, error)
                    await self._clock.sleep(DISK_S)
                    continue
                if not is_in_step or not await self._await_news(peer):
                    await self._clock.sleep(RETRY_S)

    async def _catch_up(self, peer: str) -> bool:
        """Take all that a partner has; False when it was not to be had, or is to be gone on with later."""
        until_s = self._clock.now() + TURN_S
        shared = await self._shared_if_any()
        if shared is not None:
            await self._freshen(shared)
        while self._clock.now() < until_s or not self._turn.statistics().tasks_waiting:
            page = None
            with self._clock.move_on_after(PULL_S):
                page = await self._pull(peer, wait=False)
            if page is None:
                return False
            if page.stretches:
                if not await self._take(peer, page):
                    return False
                continue
            now = self._clock.now()
            self._exchange.told(peer, page, now)
            if self._exchange.is_repairing(peer):
                continue
            if self._exchange.is_missing(peer, now):
                log.warning("%s has more than it tells", peer)
                self._exchange.refuse(peer, now)
                return False
            shared = await self._shared_if_any()
            if shared is not None:
                await shared.in_step()
            return True
        return False

    async def _take(self, peer: str, page: Page) -> bool:
        """Believe what a page proves; False when the partner is to be left alone for now."""
        # Loaded with the memory, which brings numpy.
        from node.memory.replication.replica import PageRefused, Stalled  # noqa: PLC0415

        shared = (await self._memory.file()).shared
        if shared is None:
            return False
        now = self._clock.now()
        if await self._start_again(shared, peer, page):
            return True
        try:
            taken = await shared.take(page)
        except PageRefused as error:
            log.warning("%s is not believed: %s", peer, error)
            self._exchange.refuse(peer, now)
            return False
        except Stalled as error:
            log.warning("%s", error)
            self._exchange.stall(error.log, error.why, now)
            return self._exchange.gained(peer, anything=False)
        self._counts["pages"] += 1
        self._taken_s = self._clock.now()
        self._has_taken.set()
        for name in ("kept", "void", "refused", "vectors_refused"):
            self._counts["taken" if name == "kept" else name] += getattr(taken, name)
        has_grown = self._exchange.know(taken.heads, self._clock.now())
        is_repair = self._exchange.told(peer, page, self._clock.now())
        self._wake.set()
        if not has_grown and not is_repair:
            log.warning("%s repeats itself", peer)
            self._exchange.refuse(peer, now)
            return False
        return self._exchange.gained(peer, anything=taken.kept + taken.known > 0)

    async def _start_again(self, shared: SharedMemory, peer: str, page: Page) -> bool:
        """Give up what a partner knows better, after a long absence; says whether it was one."""
        if self._has_looked_back:
            return False
        self._has_looked_back = True
        if not await shared.was_away():
            return False
        log.warning("this node was away for long: the shared memory is taken anew from %s", peer)
        self._counts["started_again"] += 1
        heads = await shared.start_again(page.heads)
        self._exchange.know(heads, self._clock.now())
        own = [head.name for head in heads if head.node == self._node]
        self._exchange.repair(peer, own)  # what it has said itself comes from there, too
        return True

    async def _await_news(self, peer: str) -> bool:
        """Wait until a partner has something new; False when it has not after all, or its link is gone."""
        page = await self._pull(peer, wait=True)
        if page is None:
            return False
        self._exchange.told(peer, page, self._clock.now())
        return self._exchange.is_missing(peer, self._clock.now())

    async def _pull(self, peer: str, *, wait: bool) -> Page | None:
        request = self._exchange.request(peer, self._clock.now(), wait=wait)
        body = await self._links.pull(peer, encode(request))
        if body is None:
            return None
        try:
            return decode_page(body)
        except BodyInvalid as error:
            self._counts["malformed"] += 1
            log.warning("%s has sent no page: %s", peer, error)
            self._exchange.refuse(peer, self._clock.now())
            return None

    async def _shared_if_any(self) -> SharedMemory | None:
        if not self._memory.exists:
            await trio.lowlevel.checkpoint()
            return None
        return (await self._memory.file()).shared

    async def _index(self) -> None:
        """Index the vectors that came from others, once they have come; and end what the last life began."""
        while True:
            await self._has_taken.wait()
            self._has_taken = trio.Event()
            while self._clock.now() < self._taken_s + INDEX_AFTER_S:  # after those who catch up
                await self._clock.sleep(INDEX_AFTER_S)
            try:
                shared = await self._shared_if_any()
                if shared is not None and not self._has_finished:
                    await shared.finish_forgetting()
                    self._has_finished = True
                if shared is not None and await shared.index_vectors():
                    self._has_taken.set()
            except CaxtonError as error:
                log.warning("vectors from other nodes cannot be indexed: %s", error)
                await self._clock.sleep(DISK_S)
                self._has_taken.set()

    async def _tidy(self) -> None:
        while True:
            await self._clock.sleep(TIDY_EVERY_S)
            try:
                shared = await self._shared_if_any()
                if shared is not None:
                    await shared.tidy()
            except CaxtonError as error:
                log.warning("what was forgotten long ago stays for now: %s", error)
