"""Clients that let nodes remember and forget what all of them share, and what must become of it.

Every fact has a text of its own, so that it is known which of them a node holds. What a client was told is
stored must be on every node in the end, what it was told is forgotten on none, and all nodes must hold the
same, whatever else that is: where a process died over a request, nobody knows whether it was carried out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import trio
from pydantic import BaseModel, ConfigDict, Field

from node.errors import CaxtonError, EntityNotFound
from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.scopes import OPERATOR, Aim
from simulations.faults import Chance

if TYPE_CHECKING:
    from simulations.cluster import SimulatedNode
    from simulations.nodes.actions import NodeActions
    from simulations.nodes.properties import SimulatedLedger

AGREE: Final = "finally_memories_agree"
KEPT: Final = "finally_remembered_is_kept"
GONE: Final = "finally_forgotten_stays_forgotten"
WORKSPACE: Final = "lab"
REALMS: Final = (Realm(Scope.GLOBAL), Realm(Scope.WORKSPACE, WORKSPACE))
SHOWN: Final = 5
"""Most facts that a violation names."""


class Remembering(BaseModel):
    """Facts that are stored and forgotten while faults happen.

    Attributes:
        per_s: Requests a second, all nodes together, each to a node drawn at random.
        forget: Share of the requests that forget what was stored before, on whatever node.
        entities: So many things the facts are about, half of them global, half in a workspace.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    per_s: Annotated[float, Field(gt=0, le=1_000)] = 3.0
    forget: Chance = 0.25
    entities: Annotated[int, Field(ge=1, le=1_000)] = 6


@dataclass(slots=True)
class Fact:
    """Something that a node was told.

    Attributes:
        text: What; no other fact has the same.
        entity: The thing it is about.
        realm: Where it is stored.
        node: Who was told.
        boot: In which of its lives.
        id: Of the observation; nothing until its client was told that it is stored.
        forgotten_on: The node and the life whose client was told that it is forgotten.
        is_doubtful: Whether a client has asked for its end and was not told how that went.
    """

    text: str
    entity: str
    realm: Realm
    node: str
    boot: int
    id: str = ""
    forgotten_on: tuple[str, int] | None = None
    is_doubtful: bool = False


class Rememberers:
    """Stores and forgets.

    Args:
        actions: The nodes.
        wanted: How much of what.

    Attributes:
        facts: All that were told, in order.
        refused: How many requests were refused.
    """

    def __init__(self, actions: NodeActions, wanted: Remembering) -> None:
        self._actions, self._wanted = actions, wanted
        self._chance: random.Random = actions.timeline.stream("remembering")
        self.facts: list[Fact] = []
        self.refused = 0

    async def run(self, until_s: float) -> None:
        """Go on until a time of the run."""
        world, number, began_s = self._actions.timeline, 0, self._actions.timeline.now()
        async with trio.open_nursery() as nursery:
            while (at_s := began_s + number / self._wanted.per_s) < until_s:
                over = trio.Event()
                world.at(at_s, over.set)
                await over.wait()
                nursery.start_soon(self._ask, number)
                number += 1

    def measures(self) -> dict[str, int]:
        """What was stored and forgotten, as clients were told."""
        return {
            "remembered": sum(bool(fact.id) for fact in self.facts),
            "forgotten": sum(fact.forgotten_on is not None for fact in self.facts),
            "memory_refused": self.refused,
        }

    async def _ask(self, number: int) -> None:
        awake = {name: node for name, node in self._actions.running.items() if not node.paused}
        if not awake:
            return
        node = awake[self._chance.choice(sorted(awake))]
        old = [fact for fact in self.facts if fact.id and fact.forgotten_on is None and not fact.is_doubtful]
        try:
            if old and self._chance.random() < self._wanted.forget:
                await self._forget(node, self._chance.choice(old))
            else:
                await self._remember(node, number)
        except CaxtonError:
            self.refused += 1

    async def _remember(self, node: SimulatedNode, number: int) -> None:
        thing = number % self._wanted.entities
        fact = Fact(
            f"fact {number} told {node.name}", f"thing {thing}", REALMS[thing % 2], node.name, node.boot
        )
        self.facts.append(fact)
        store = await node.node.memory.store()
        draft = EntityDraft(fact.entity, "thing", (ObservationDraft(fact.text),))
        [stored] = await store.remember(OPERATOR, fact.realm, [draft])
        if not node.host.fenced:  # else its client has heard nothing
            fact.id = stored.observation_ids[0]

    async def _forget(self, node: SimulatedNode, fact: Fact) -> None:
        fact.is_doubtful = True
        try:
            store = await node.node.memory.store()
            await store.forget_observation(OPERATOR, fact.id)
        except EntityNotFound:  # the node has not heard of it yet
            fact.is_doubtful = node.host.fenced
            raise
        if not node.host.fenced:
            fact.is_doubtful, fact.forgotten_on = False, (node.name, node.boot)


# ---- what must hold ----------------------------------------------------------------------------------


async def memories_agree(ledger: SimulatedLedger) -> None:
    """All nodes that run hold the same shared memory, by its digest."""
    if ledger.rememberers is None:
        return
    digests: dict[str, str] = {}
    for node in ledger.actions.live():
        memory = node.node.memory
        shared = (await memory.file()).shared if memory.exists else None
        digests[node.name] = "nothing" if shared is None else await shared.digest()
    for name, digest in digests.items():
        ledger.checked(AGREE)
        first, held = next(iter(digests.items()))
        if digest != held:
            ledger.violated(AGREE, f"{name} holds {digest[:12]}, {first} {held[:12]}")


async def remembered_is_kept(ledger: SimulatedLedger) -> None:
    """Every node that runs holds what was stored and not forgotten, in whatever life it was stored."""
    if ledger.rememberers is None:
        return
    wanted = [
        fact
        for fact in ledger.rememberers.facts
        if fact.id
        and fact.forgotten_on is None
        and not fact.is_doubtful
        and not _may_be_lost(ledger, fact.node, fact.boot)
    ]
    for node in ledger.actions.live():
        held = await _held(node)
        ledger.checked(KEPT, len(wanted))
        missing = [fact.text for fact in wanted if (fact.realm, fact.entity, fact.text) not in held]
        if missing:
            ledger.violated(KEPT, f"{node.name} has lost {_some(missing)}")


async def forgotten_stays_forgotten(ledger: SimulatedLedger) -> None:
    """No node that runs holds what was forgotten, wherever that was."""
    if ledger.rememberers is None:
        return
    gone = [
        fact
        for fact in ledger.rememberers.facts
        if fact.forgotten_on is not None and not _may_be_lost(ledger, *fact.forgotten_on)
    ]
    for node in ledger.actions.live():
        held = await _held(node)
        ledger.checked(GONE, len(gone))
        back = [fact.text for fact in gone if (fact.realm, fact.entity, fact.text) in held]
        if back:
            ledger.violated(GONE, f"{node.name} still holds {_some(back)}")


def _may_be_lost(ledger: SimulatedLedger, name: str, boot: int) -> bool:
    """Whether that life ended without what was not durable, or is over and its node may have told nobody."""
    if name not in ledger.actions.running:
        return True
    return any(lost == name and life >= boot for lost, life in ledger.lost_power)


async def _held(node: SimulatedNode) -> set[tuple[Realm, str, str]]:
    """Everything that a node holds in the realms of the facts."""
    found: set[tuple[Realm, str, str]] = set()
    store = await node.node.memory.existing()
    if store is None:
        return found
    for realm in REALMS:
        aim, after = Aim(realm.scope, realm.owner or None), ""
        while page := await store.entities(OPERATOR, aim=aim, after=after):
            after = page[-1].id
            for entity in page:
                found.update([(realm, entity.name, text) for text in await _texts(node, entity.id)])
    return found


async def _texts(node: SimulatedNode, entity: str) -> list[str]:
    found: list[str] = []
    store = await node.node.memory.store()
    while page := (await store.get(OPERATOR, entity, after=len(found))).observations:
        found += [observation.text for observation in page]
    return found


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
