"""What an agent remembers for itself, as blobs that can be moved: parts of whole lines, and a list of them.

The lines are those of an export (:mod:`node.memory.exporting`), with vectors and outcomes. Taking them
is an import of :mod:`node.memory.importing`: what is known about an entity is a set that only grows,
what is there already is not stored twice, and of values that differ those of the taker stay. So a part
that was taken twice, or a memory that comes back after a while, does no harm.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from node.errors import ValidationFailed
from node.memory.model import Realm, Scope
from node.memory.room import MemoryRoom
from node.memory.scopes import Aim, for_agent
from swim import strict_cbor

FORMAT: Final = 1
PART_BYTES: Final = 4 * 1024 * 1024
"""Bytes after which a part ends; a line of an export, which is not divided, has up to 8 MB."""
PARTS_LIMIT: Final = 4_096
"""Most parts of one memory."""
OUTCOMES_LIMIT: Final = 100
"""Most times that one kind of outcome of an observation is made up for; more weighs nothing."""
RECORDED_AT_ONCE: Final = 100
"""Observations whose outcome is noted together."""
LINES_AT_ONCE: Final = 100
"""Lines that are taken together."""
_LIST_BYTES: Final = 64 + PARTS_LIMIT * 48
_DIGEST_BYTES: Final = 32

Parts = list[tuple[str, int]]
"""SHA-256 and size of each part."""


async def remembers(memory: MemoryRoom, agent: str) -> bool:
    """Whether anything is remembered here that is the agent's own.

    Raises:
        StorageFailed: the disk refuses.
    """
    if memory.outside or not memory.exists:
        return False
    store = await memory.file()
    counts = await store.counts(for_agent(agent), _aim(agent))
    return any(entities for entities, _, _ in counts.values())


async def parts(memory: MemoryRoom, agent: str) -> AsyncIterator[bytes]:
    """All that is the agent's own, as parts; the same memory always gives the same parts.

    Raises:
        StorageFailed: the disk refuses.
    """
    from node.memory.exporting import Writing  # noqa: PLC0415 - numpy comes with it

    store = await memory.file()
    export = store.export(for_agent(agent), _aim(agent), vectors=True)
    writing = Writing("jsonl", {}, 0.0)
    waiting = writing.begin()
    while found := await export.entities():
        waiting += writing.parts(found)
        if len(waiting) >= PART_BYTES:
            yield waiting
            waiting = b""
    while relations := await export.relations():
        waiting += writing.relations(relations)
        if len(waiting) >= PART_BYTES:
            yield waiting
            waiting = b""
    yield waiting + writing.end(export.counted)


async def take(memory: MemoryRoom, agent: str, part: bytes) -> list[str]:
    """Take a part; returns why lines of it were refused.

    Raises:
        CaxtonError: nothing more can be taken for now; what was is kept.
        ValidationFailed: these are no lines.
    """
    from node.memory.importing import Strategy  # noqa: PLC0415 - numpy comes with it

    try:
        lines = [json.loads(line) for line in part.splitlines()]
    except (ValueError, RecursionError):
        raise ValidationFailed("this is no part of a memory", why="its lines are no JSON") from None
    upkeep = await memory.upkeep()
    realm = Realm(Scope.AGENT, agent)
    refused: list[str] = []
    async with upkeep.importing(for_agent(agent), realm, Strategy.SKIP) as work:
        for first in range(0, len(lines), LINES_AT_ONCE):
            batch: Sequence[tuple[int, Any]] = list(
                enumerate(lines[first : first + LINES_AT_ONCE], first + 1)
            )
            if not await work.take(batch):
                raise ValidationFailed(
                    "the memory cannot be taken", why=json.dumps(work.report.stopped_by)[:300]
                )
        refused += [json.dumps(told["error"])[:200] for told in work.report.errors]
        if work.report.refused and not refused:
            refused.append(f"{work.report.refused} lines")
    await _take_outcomes(memory, agent, lines)
    return refused


async def _take_outcomes(memory: MemoryRoom, agent: str, lines: Sequence[Any]) -> None:
    """Have what came of answers count for at least as much as it did where the lines come from.

    An import leaves them out, for whoever takes a file has not given these answers; a replica has.
    """
    from node.memory.records import Outcome  # noqa: PLC0415 - numpy comes with it

    wanted = {
        (line["entity_name"], told["text"]): Counter(told["outcomes"])
        for line in lines
        if isinstance(line, dict) and line.get("type") == "entity"
        for told in line.get("observations", ())
        if told.get("outcomes")
    }
    lacking: dict[Outcome, Counter[str]] = {outcome: Counter() for outcome in Outcome}
    if not wanted:
        return
    async for entity, told in _observations(memory, agent):
        more = wanted.get((entity, told["text"]), Counter()) - Counter(told.get("outcomes") or {})
        judged = 0
        for outcome in (Outcome.ACCEPTED, Outcome.CORRECTED, Outcome.REJECTED):
            lacking[outcome][told["observation_id"]] = more[outcome.value]
            judged += more[outcome.value]
        lacking[Outcome.USED][told["observation_id"]] = more[Outcome.USED.value] - judged
    store = await memory.file()
    for outcome, times in lacking.items():
        for _ in range(OUTCOMES_LIMIT):
            ids = [identifier for identifier, left in sorted(times.items()) if left > 0]
            for first in range(0, len(ids), RECORDED_AT_ONCE):
                await store.record(for_agent(agent), ids[first : first + RECORDED_AT_ONCE], outcome)
            times.subtract(ids)
            if not ids:
                break


async def _observations(memory: MemoryRoom, agent: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    store = await memory.file()
    export = store.export(for_agent(agent), _aim(agent))
    while found := await export.entities():
        for part in found:
            for told in part.observations:
                yield part.entity["entity_name"], told


async def forget(memory: MemoryRoom, agent: str) -> None:
    """Forget all that is the agent's own: another node has it.

    Raises:
        StorageFailed: the disk refuses.
    """
    store = await memory.file()
    await store.clear(for_agent(agent), _aim(agent))


def encode_list(agent: str, found: Parts) -> bytes:
    """The list of a memory's parts."""
    return strict_cbor.encode([FORMAT, agent, [[bytes.fromhex(digest), size] for digest, size in found]])


def decode_list(data: bytes, agent: str) -> Parts:
    """Read a list of parts.

    Raises:
        ValidationFailed: it is none, or of another agent.
    """
    try:
        form, whose, found = strict_cbor.decode(data, max_bytes=_LIST_BYTES)
        read = [(digest.hex(), size) for digest, size in found]
        sound = all(
            len(digest) == 2 * _DIGEST_BYTES and type(size) is int and size > 0 for digest, size in read
        )
    except (ValueError, TypeError, AttributeError):
        sound, form, whose, read = False, 0, "", []
    if not sound or form != FORMAT or whose != agent or len(read) > PARTS_LIMIT:
        raise ValidationFailed("this is no list of a memory's parts", why=f"it is not one of {agent}")
    return read


def _aim(agent: str) -> Aim:
    return Aim(Scope.AGENT, agent)
