"""All webhooks of one node: made, shown, removed, and told.

Each webhook has one task, which reads what concerns it, and brings one delivery at a time, in order. What
fails is tried again after a pause that doubles; after ``webhooks.max_attempts`` it is dead, which is shown,
and the next one has its turn. A target that fails again and again is left alone
for a while by all webhooks that lead to it; that costs a delivery no attempt.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from node.config.model import WebhooksConfig
from node.environment import Environment
from node.errors import CaxtonError, ResourceLimitExceeded, StorageFailed
from node.message import iso8601
from node.messaging.conversation_view import Limits
from node.security.outbound import target_of
from node.storage import webhooks as table
from node.storage.storage import Storage
from node.storage.webhooks import DeliveryRow, WebhookRow
from node.webhooks.breaker import Breakers
from node.webhooks.courier import AttemptFailed, Courier, Policy, TargetForbidden, split_url
from node.webhooks.events import QUEUE_LIMIT, Reader

_log = logging.getLogger(__name__)

WEBHOOK_LIMIT: Final = 64
"""Most webhooks of one node."""
DEAD_LIMIT: Final = 100
"""Most dead deliveries of one webhook that are kept, the newest ones."""
LOOK_S: Final = 0.5
"""How often a webhook looks for what has happened, in seconds."""
RETRY_FIRST_S: Final = 1.0
RETRY_LAST_S: Final = 300.0
"""Pauses between attempts, first and at most, in seconds; jitter takes or adds a quarter."""
SECRET_BYTES: Final = 32
"""Bytes of chance in a secret that a node makes."""


class WebhookNotFound(CaxtonError):
    """No webhook of this id is on this node."""

    code = "WEBHOOK_NOT_FOUND"
    status = 404


@dataclass(slots=True, eq=False)
class _Hook:
    row: WebhookRow
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    delivered: int = 0
    failures: int = 0
    last_error: str = ""
    last_delivered_s: float | None = None


class Webhooks:
    """See the module's docstring.

    Args:
        environment: Clock, chance, network.
        node: This node's name.
        storage: The node's database.
        settings: The section ``webhooks``.
        dev_mode: Whether webhooks may lead to this machine.
        limits: When conversations are closed.
        version: This node's software.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        node: str,
        storage: Storage,
        settings: WebhooksConfig,
        dev_mode: bool,
        limits: Limits,
        version: str,
    ) -> None:
        self._environment, self._clock, self._storage = environment, environment.clock, storage
        self._settings = settings
        self._chance = environment.randomness.stream("webhooks")
        self._policy = Policy(settings, dev_mode)
        self._courier = Courier(environment=environment, policy=self._policy, version=version)
        self._reader = Reader(node, environment.new_id, limits)
        self._breakers = Breakers()
        self._hooks: dict[str, _Hook] = {}
        self._nursery: trio.Nursery | None = None
        self._counts = dict.fromkeys(("delivered", "failures", "dead"), 0)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell what happens until cancelled."""
        for row in await self._storage.read(lambda connection: table.load(connection, WEBHOOK_LIMIT)):
            self._hooks[row.id] = _Hook(row)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for hook in self._hooks.values():
                    nursery.start_soon(self._serve, hook)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            await self._courier.aclose()

    async def register(
        self, *, url: str, events: tuple[str, ...], chosen: dict[str, str], secret: str | None, owner: str
    ) -> dict[str, Any]:
        """Make a webhook; it is durable when this returns, and told of what happens from now on.

        Args:
            url: Where it is told.
            events: Of what, of :data:`node.webhooks.events.EVENTS`.
            chosen: Field of a message -> the value that it must have.
            secret: What deliveries are signed with; None has one made.
            owner: Name of the token of who asks.

        Returns:
            As :meth:`shown`, and the secret, which is never shown again.

        Raises:
            ValidationFailed: the URL is none.
            TargetForbidden: it must not be called.
            ResourceLimitExceeded: there are too many.
            StorageFailed: it could not be stored.
        """
        self._policy.check_scheme(split_url(url))
        if len(self._hooks) >= WEBHOOK_LIMIT:
            raise ResourceLimitExceeded(
                "this node takes no more webhooks",
                why=f"the limit is {WEBHOOK_LIMIT}",
                fix="Delete one.",
                details={"limit": WEBHOOK_LIMIT},
            )
        secret = secret or self._environment.randomness.token(SECRET_BYTES).hex()
        made = WebhookRow(self._environment.new_id(), url, events, chosen, secret, owner, self._clock.wall())
        hook = self._hooks[made.id] = _Hook(made)
        try:
            hook.row = await self._storage.write(lambda connection: table.add(connection, made))
        except BaseException:
            del self._hooks[made.id]
            raise
        if self._nursery is not None:
            self._nursery.start_soon(self._serve, hook)
        return await self.shown(made.id) | {"secret": secret}

    async def remove(self, webhook_id: str) -> None:
        """Remove a webhook and what it is still to be told.

        Raises:
            WebhookNotFound: there is none.
            StorageFailed: it is still there.
        """
        hook = self._find(webhook_id)
        await self._storage.write(lambda connection: table.delete(connection, webhook_id))
        self._hooks.pop(webhook_id, None)
        hook.scope.cancel(reason="the webhook was removed")

    async def shown(self, webhook_id: str) -> dict[str, Any]:
        """One webhook as the public API shows it, with its dead deliveries; never with its secret.

        Raises:
            WebhookNotFound: there is none.
        """
        hook = self._find(webhook_id)
        counts, dead = await self._storage.read(
            lambda connection: (
                table.counts(connection, webhook_id),
                table.dead(connection, webhook_id, DEAD_LIMIT),
            )
        )
        return self._shown(hook, counts) | {"dead_deliveries": [_dead_json(row) for row in dead]}

    async def listed(self) -> list[dict[str, Any]]:
        """All webhooks as the public API shows them, the oldest first."""
        hooks = list(self._hooks.values())
        counts = await self._storage.read(
            lambda connection: [table.counts(connection, hook.row.id) for hook in hooks]
        )
        return [self._shown(hook, count) for hook, count in zip(hooks, counts, strict=True)]

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "webhooks": len(self._hooks),
            "webhooks_limit": WEBHOOK_LIMIT,
            "missed": sum(hook.row.missed for hook in self._hooks.values()),
            **self._counts,
            **self._breakers.statistics(self._clock.now()),
        }

    # Inside

    def _find(self, webhook_id: str) -> _Hook:
        found = self._hooks.get(webhook_id)
        if found is None:
            raise WebhookNotFound(
                f"no webhook {webhook_id[:80]!r} is on this node",
                why="it was never made here, or was removed",
                fix="List them with GET /webhooks.",
            )
        return found

    def _shown(self, hook: _Hook, counts: dict[str, int]) -> dict[str, Any]:
        row, now = hook.row, self._clock.now()
        return {
            "id": row.id,
            "url": row.url,
            "events": list(row.events),
            "filter": dict(row.chosen),
            "owner": row.owner,
            "created_at": iso8601(row.created_s),
            "queued": counts["queued"],
            "queued_limit": QUEUE_LIMIT,
            "watched": counts["watched"],
            "dead": counts["dead"],
            "dead_limit": DEAD_LIMIT,
            "missed": row.missed,
            "delivered": hook.delivered,
            "failures": hook.failures,
            "breaker": self._breakers.state(_target(row), now),
            "last_delivered": None if hook.last_delivered_s is None else iso8601(hook.last_delivered_s),
            "last_error": hook.last_error or None,
        }

    async def _serve(self, hook: _Hook) -> None:
        """Read and tell until the webhook is removed."""
        with hook.scope:
            while True:
                try:
                    await self._read(hook)
                    pause_s = await self._bring(hook)
                except StorageFailed as error:
                    _log.warning("the webhook %s waits for the disk: %s", hook.row.id, error)
                    pause_s = LOOK_S
                if pause_s > 0.0:
                    await self._clock.sleep(min(pause_s, LOOK_S))

    async def _read(self, hook: _Hook) -> None:
        wall, row = self._clock.wall(), hook.row
        if await self._storage.read(lambda connection: self._reader.has_news(connection, row, wall)):
            step = await self._storage.write(lambda connection: self._reader.step(connection, row, wall))
            hook.row = step.row

    async def _bring(self, hook: _Hook) -> float:
        """Bring the next delivery, if its time has come; returns how long there is nothing to do."""
        row = hook.row
        delivery = await self._storage.read(lambda connection: table.first(connection, row.id))
        if delivery is None:
            return LOOK_S
        target, wall = _target(row), self._clock.wall()
        wait_s = max(
            self._breakers.wait_s(target, self._clock.now()),
            min(delivery.next_s - wall, RETRY_LAST_S * 1.25),  # the wall clock may have gone back
        )
        if wait_s > 0.0:
            return wait_s
        self._breakers.begin(target)
        try:
            await self._courier.bring(
                row.url, delivery_id=delivery.delivery_id, secret=row.secret, body=delivery.body
            )
        except (AttemptFailed, TargetForbidden) as error:
            self._breakers.failed(target, self._clock.now())
            await self._failed(hook, delivery, str(error))
            return 0.0
        except BaseException:
            self._breakers.given_up(target)
            raise
        self._breakers.succeeded(target)
        hook.last_delivered_s = self._clock.wall()
        await self._storage.write(lambda connection: table.done(connection, delivery.seq))
        hook.delivered += 1  # what is shown as delivered is not shown as queued, too
        self._counts["delivered"] += 1
        return 0.0

    async def _failed(self, hook: _Hook, delivery: DeliveryRow, reason: str) -> None:
        hook.failures += 1
        hook.last_error = reason
        self._counts["failures"] += 1
        attempts = delivery.attempts + 1
        if attempts >= self._settings.max_attempts:
            _log.warning(
                "the webhook %s was not told of %s %s: %s",
                hook.row.id,
                delivery.event,
                delivery.about,
                reason,
            )
            await self._storage.write(
                lambda connection: table.give_up(connection, delivery, reason, DEAD_LIMIT)
            )
            self._counts["dead"] += 1  # what is counted as dead is shown as dead
            return
        pause_s = min(RETRY_LAST_S, RETRY_FIRST_S * 2.0 ** min(attempts - 1, 16))
        next_s = self._clock.wall() + pause_s * (0.75 + 0.5 * self._chance.random())
        await self._storage.write(
            lambda connection: table.failed(connection, delivery.seq, next_s, attempts, reason)
        )


def _target(row: WebhookRow) -> str:
    host, port = target_of(split_url(row.url))
    return f"{host}:{port}"


def _dead_json(row: DeliveryRow) -> dict[str, Any]:
    return {
        "delivery_id": row.delivery_id,
        "event": row.event,
        "about": row.about,
        "attempts": row.attempts,
        "reason": row.reason,
        "created_at": iso8601(row.created_s),
    }
