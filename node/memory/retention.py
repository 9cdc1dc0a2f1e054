"""Forgets what is old, and the oldest of an owner who remembers too much: in steps, in the background.

An observation is as old as its last sign of life: when it was stored, or last used for an answer. One that is
older than ``max_age_s`` is forgotten, whether or not it still holds; an entity goes with the last that was
known about it, unless it was changed since. Of an owner (or the global scope) with more than
``max_entities_per_owner`` entities, those go that were changed longest ago. It is ordinary forgetting: it is
done by the store, and other nodes hear of it as of any other.

Nothing is forgotten by default.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Final

import apsw
import trio

from node.environment import Environment
from node.errors import CaxtonError, EntityNotFound, ValidationFailed
from node.memory import indexes
from node.memory.ids import ENTITY, OBSERVATION, read_id, show_id
from node.memory.model import Realm, Scope
from node.memory.records import Retain
from node.memory.scopes import OPERATOR, Aim, Scoped
from node.memory.store import MemoryStore
from node.storage.query import rows

log = logging.getLogger(__name__)

STEP: Final = 200
"""Most rows that are looked for at once."""
LEAST_EVERY_S: Final = 60.0
"""Shortest time between two runs, in seconds."""
_KEY: Final = "retention"
"""Under which the policy that was set at run time is kept in the file."""


class Retention:
    """Keeps one memory within its policy.

    Args:
        store: The memory.
        environment: Time.
        configured: The policy of the configuration; one that was set at run time holds instead.
    """

    def __init__(self, store: MemoryStore, environment: Environment, configured: Retain) -> None:
        self._store = store
        self._clock = environment.clock
        self._configured = configured
        self._set: Retain | None = None
        self._loaded = False
        self._changed = trio.Event()
        self._counts = {"runs": 0, "forgotten_observations": 0, "forgotten_entities": 0}
        self._failure: str | None = None

    async def policy(self) -> tuple[Retain, bool]:
        """The policy that holds, and whether it was set at run time.

        Raises:
            StorageFailed: the disk refused.
        """
        if not self._loaded:
            self._set = await self._store.storage.read(_kept)
            self._loaded = True
        return (self._configured, False) if self._set is None else (self._set, True)

    async def change(self, policy: Retain | None) -> None:
        """Let another policy hold from now on, also after a restart; None for that of the configuration.

        Raises:
            ValidationFailed: it is none.
            StorageFailed: the disk refused.
        """
        if policy is not None and policy.every_s < LEAST_EVERY_S:
            raise ValidationFailed(
                f"cleanup_frequency is {policy.every_s:g} s", why=f"it may be {LEAST_EVERY_S:g} s at least"
            )
        await self._store.storage.write(lambda c: _keep(c, policy))
        self._set, self._loaded = policy, True
        self._changed.set()

    async def run(self) -> None:
        """Forget what is due, again and again; runs until cancelled."""
        while True:
            self._changed = trio.Event()
            every_s = self._configured.every_s
            try:
                policy, _ = await self.policy()
                every_s = policy.every_s
                await self.run_once()
            except (CaxtonError, apsw.Error) as error:  # a sick disk ends no node; it is tried again
                log.warning("memory could not forget what is due: %s", error)
                self._failure = str(error)
            with self._clock.move_on_after(max(every_s, LEAST_EVERY_S)):
                await self._changed.wait()

    async def run_once(self) -> None:
        """Forget what is due now.

        Raises:
            StorageFailed: the disk refused.
        """
        policy, _ = await self.policy()
        if policy.max_age_s is not None:
            await self._forget_old(self._clock.wall() - policy.max_age_s)
        if policy.max_entities_per_owner is not None:
            await self._forget_many(policy.max_entities_per_owner)
        self._counts["runs"] += 1
        self._failure = None

    def statistics(self) -> dict[str, Any]:
        """Counts since the start."""
        return {**self._counts, "failure": self._failure or ""}

    async def _forget_old(self, before_s: float) -> None:
        after = 0
        while True:
            step = await self._store.storage.read(partial(_old, after=after, before_s=before_s))
            for _, observation, _ in step:
                await self._forget_observation(observation)
            emptied = sorted({entity for _, _, entity in step if entity is not None})
            await self._forget_entities(await self._store.storage.read(partial(_empty, entities=emptied)))
            if len(step) < STEP:
                break
            after = step[-1][0]
        while empty := await self._store.storage.read(lambda c: _never_known(c, before_s)):
            await self._forget_entities(empty)

    async def _forget_many(self, limit: int) -> None:
        for realm, (entities, _, _) in (await self._store.counts(OPERATOR)).items():
            over = entities - limit
            while over > 0:
                oldest = await self._store.storage.read(partial(_oldest, realm=realm, count=min(over, STEP)))
                if not oldest:
                    break
                await self._forget_entities(oldest)
                over -= len(oldest)

    async def _forget_observation(self, observation: str) -> None:
        try:
            await self._store.forget_observation(OPERATOR, observation)
        except EntityNotFound:  # somebody else forgot it meanwhile
            return
        self._counts["forgotten_observations"] += 1

    async def _forget_entities(self, entities: Sequence[str]) -> None:
        for entity in entities:
            try:
                await self._store.forget(OPERATOR, entity)
            except EntityNotFound:
                continue
            self._counts["forgotten_entities"] += 1


def _old(connection: apsw.Connection, after: int, before_s: float) -> list[tuple[int, str, str | None]]:
    """Observations without a sign of life since a time: key, id, and the entity that had none either."""
    return [
        (key, show_id(OBSERVATION, id_), show_id(ENTITY, entity) if changed_s < before_s else None)
        for key, id_, entity, changed_s in Scoped(connection, OPERATOR).rows(
            "SELECT o.key, o.id, e.id, e.updated_s FROM {observations} o"
            " JOIN {entities} e ON e.key = o.entity"
            " WHERE o.key > ? AND max(o.created_s, coalesce(o.used_s, 0)) < ? ORDER BY o.key LIMIT ?",
            (after, before_s, STEP),
        )
    ]


def _empty(connection: apsw.Connection, entities: Sequence[str]) -> list[str]:
    """Those of some entities that nothing is known about any more."""
    scoped, sql = Scoped(connection, OPERATOR), "SELECT 1 FROM {entities} WHERE id = ? AND known = 0"
    return [entity for entity in entities if scoped.rows(sql, (read_id(ENTITY, entity),))]


def _never_known(connection: apsw.Connection, before_s: float) -> list[str]:
    """Entities that nothing is known about and that were not changed since a time."""
    found = Scoped(connection, OPERATOR).rows(
        "SELECT id FROM {entities} WHERE known = 0 AND updated_s < ? LIMIT ?", (before_s, STEP)
    )
    return [show_id(ENTITY, row[0]) for row in found]


def _oldest(connection: apsw.Connection, realm: Realm, count: int) -> list[str]:
    aim = Aim(realm.scope, None if realm.scope is Scope.GLOBAL else realm.owner)
    found = Scoped(connection, OPERATOR, aim).rows(
        "SELECT id FROM {entities} ORDER BY updated_s, key LIMIT ?", (count,)
    )
    return [show_id(ENTITY, row[0]) for row in found]


def _kept(connection: apsw.Connection) -> Retain | None:
    found = rows(connection, "SELECT value FROM meta WHERE key = ?", (_KEY,))
    return Retain(**json.loads(found[0][0])) if found else None


def _keep(connection: apsw.Connection, policy: Retain | None) -> None:
    indexes.keep_setting(connection, _KEY, None if policy is None else json.dumps(asdict(policy)))
