"""Moves what an agent remembers for itself to where its replica is now.

A node that has such a memory and no longer a replica **offers** it to the node that took its place: the
parts become blobs, and an entry of its own map names their list and the taker (``handover/AGENT``). The
taker fetches them like any blobs, in chunks that survive a broken link, imports them, and says so in an
entry of its own (``taken/AGENT/NODE``). Only then, and only if its memory is still the same, does the
first node forget it; then both entries go. Each step is decided from what there is, so a crash anywhere
goes on where it was: a node that was dead offers its memory when it is back, however long that takes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import trio

from node.deployments import memories
from node.deployments.facts import (
    HANDOVER_PREFIX,
    TAKEN_PREFIX,
    Offer,
    encode_taken,
)
from node.deployments.ports import Packages
from node.deployments.state import Said
from node.environment import Clock
from node.errors import BlobNotFound, CaxtonError
from node.memory.room import MemoryRoom
from node.message import Attachment

log = logging.getLogger(__name__)

RETRY_S: Final = 30.0
"""Pause after a memory could not be offered or taken, in seconds."""
FETCH_S: Final = 15.0
"""Longest that one part is waited for in one go, in seconds; chunks that came stay."""


class Where(Protocol):
    """Where replicas are (``node.deployments.room.Deployments``)."""

    def taker(self, agent: str) -> str:
        """The node that the memory of an agent belongs to, if it runs there and not here; else empty."""
        ...

    def is_chosen(self, agent: str) -> bool:
        """Whether this node is to run the agent."""
        ...

    def is_up(self, node: str) -> bool:
        """Whether a node is up."""
        ...


class Handovers:
    """What is offered and taken by one node; one memory at a time.

    Args:
        clock: Time.
        node: This node's name.
        memory: Its memory.
        packages: Its blobs.
        said: What nodes have said.
        where: Where replicas are.
        publish: Changes entries of the own map.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        node: str,
        memory: MemoryRoom,
        packages: Packages,
        said: Said,
        where: Where,
        publish: Callable[[Mapping[str, bytes | None]], None],
    ) -> None:
        self._clock, self._node, self._memory, self._packages = clock, node, memory, packages
        self._said, self._where, self._publish = said, where, publish
        self._offers: dict[str, Offer] = {}
        self._blobs: dict[str, list[str]] = {}
        self._acknowledged: dict[tuple[str, str], str] = {}
        self._nothing: set[str] = set()
        self._paused: dict[str, float] = {}
        self._counts = dict.fromkeys(("offered", "handed_over", "taken", "refused", "failed"), 0)

    def needed(self) -> set[str]:
        """The blobs of what is offered."""
        return {digest for digests in self._blobs.values() for digest in digests}

    def ran(self, agent: str) -> None:
        """A replica has been here, so there may be something that it remembers."""
        self._nothing.discard(agent)

    async def step(self) -> bool:
        """Do one thing that is to be done; says whether there was one."""
        for agent in sorted(self._said.desired):
            if await self._guarded(agent, self._offer(agent)):
                return True
        for agent in sorted(self._said.offers):
            for source, offer in sorted(self._said.offers[agent].items()):
                if offer.taker != self._node:
                    continue
                if await self._guarded(f"{source} {agent}", self._take(agent, source, offer)):
                    return True
        self._tidy()
        return False

    def shown(self, agent: str) -> list[dict[str, Any]]:
        """The memories of an agent that are on their way."""
        return [
            {"from": source, "to": offer.taker, "up": self._where.is_up(source)}
            for source, offer in sorted(self._said.offers.get(agent, {}).items())
        ]

    def statistics(self) -> dict[str, int]:
        """Counts of memories."""
        return {**self._counts, "offers_open": len(self._offers)}

    async def _guarded(self, what: str, step: Any) -> bool:
        """Take a step, unless one like it has failed lately."""
        if self._clock.now() < self._paused.get(what, 0.0):
            step.close()
            return False
        try:
            return bool(await step)
        except CaxtonError as error:
            log.warning("what %s remembers is not moved for now: %s", what, error)
            self._counts["failed"] += 1
            self._paused[what] = self._clock.now() + RETRY_S
            return False

    # At the node that has it

    async def _offer(self, agent: str) -> bool:
        taker, offer = self._where.taker(agent), self._offers.get(agent)
        if not taker:
            if offer is not None:
                self._withdraw(agent)
            return False
        if agent in self._nothing:
            await trio.lowlevel.checkpoint()
            return False
        if offer is None or offer.taker != taker:
            if offer is None and not await memories.remembers(self._memory, agent):
                self._nothing.add(agent)
                return False
            await self._publish_offer(agent, taker)
            return True
        if self._said.taken.get((agent, taker, self._node)) != offer.digest:
            return False
        parts = [_digest(part) async for part in memories.parts(self._memory, agent)]
        if _digest(memories.encode_list(agent, parts))[0] != offer.digest:  # it has changed meanwhile
            await self._publish_offer(agent, taker)
            return True
        await memories.forget(self._memory, agent)
        log.info("what %s remembers for itself is with %s now", agent, taker)
        self._counts["handed_over"] += 1
        self._nothing.add(agent)
        blobs = self._blobs.get(agent, [])
        self._withdraw(agent)
        await self._packages.drop(blobs)
        return True

    async def _publish_offer(self, agent: str, taker: str) -> None:
        parts: memories.Parts = []
        async for part in memories.parts(self._memory, agent):
            parts.append((await self._packages.keep(part), len(part)))
            self._blobs[agent] = [digest for digest, _ in parts]
        listed = memories.encode_list(agent, parts)
        digest = await self._packages.keep(listed)
        self._blobs[agent] = [*(each for each, _ in parts), digest]
        offer = self._offers[agent] = Offer(taker, digest, len(listed))
        self._counts["offered"] += 1
        self._publish({HANDOVER_PREFIX + agent: offer.encode()})

    def _withdraw(self, agent: str) -> None:
        self._offers.pop(agent, None)
        self._blobs.pop(agent, None)
        self._publish({HANDOVER_PREFIX + agent: None})

    # At the node that takes it

    async def _take(self, agent: str, source: str, offer: Offer) -> bool:
        if self._acknowledged.get((agent, source)) == offer.digest or not self._where.is_chosen(agent):
            await trio.lowlevel.checkpoint()
            return False
        if not self._where.is_up(source):
            return False
        listed = await self._fetched(source, offer.digest, offer.size)
        parts = memories.decode_list(listed, agent)
        refused = []
        for digest, size in parts:
            refused += await memories.take(self._memory, agent, await self._fetched(source, digest, size))
        if refused:  # it stays where it is, and nothing is lost
            self._counts["refused"] += 1
            self._paused[f"{source} {agent}"] = self._clock.now() + 10 * RETRY_S
            what = "of what %s remembers on %s %d lines are refused: %s"
            log.warning(what, agent, source, len(refused), refused[0])
            return False
        self._acknowledged[agent, source] = offer.digest
        self._counts["taken"] += 1
        log.info("what %s has remembered for itself on %s is here now", agent, source)
        self._publish({f"{TAKEN_PREFIX}{agent}/{source}": encode_taken(offer.digest)})
        await self._packages.drop([offer.digest, *(digest for digest, _ in parts)])
        return True

    async def _fetched(self, source: str, digest: str, size: int) -> bytes:
        wanted = Attachment("memory", "application/octet-stream", b"", blob=digest, size=size)
        data = None
        with self._clock.move_on_after(FETCH_S):
            await self._packages.fetch(source, wanted)
            data = await self._packages.content(digest)
        if data is None:
            raise BlobNotFound("a part of the memory did not arrive in time", why=f"{source} did not send it")
        return data

    def _tidy(self) -> None:
        """Take back what was said of offers and deployments that are gone, and forget the rest of them."""
        for agent in sorted(self._offers.keys() - self._said.desired.keys()):
            self._withdraw(agent)
        self._nothing &= self._said.desired.keys()
        now = self._clock.now()
        self._paused = {what: until for what, until in self._paused.items() if now < until}
        for agent, source in sorted(self._acknowledged):
            if source not in self._said.offers.get(agent, {}) and self._where.is_up(source):
                del self._acknowledged[agent, source]
                self._publish({f"{TAKEN_PREFIX}{agent}/{source}": None})


def _digest(part: bytes) -> tuple[str, int]:
    return hashlib.sha256(part).hexdigest(), len(part)
