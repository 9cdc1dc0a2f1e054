"""The cluster's gossip keys, for operators: change them everywhere from one node, and keep them on disk.

What travels is swim's (``swim.key_rotation``); a new key is made on the node that is asked and leaves it only
sealed for one member. Whenever this node's ring has changed, by its own operation or by another member's
order, it is written back to the bundle, so that a restart keeps it. An operation of this node counts as
finished once its own ring is on disk. Members write theirs right after they have answered.

A member that is away is not asked. It comes back with the keys it has on disk, so USE and REMOVE are refused
while one is away, unless forced. Who has missed a rotation and those that have not hear each other's packets
as ``dropped_unknown_key``: that is looked at now and then, and told in the log.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from node.environment import Environment
from node.errors import CaxtonError, SecurityMaterialInvalid, ValidationFailed, nearest
from node.security.identity import NodeCredentials
from swim import events
from swim.keyring import KEY_BYTES, MAX_KEYS
from swim.keyring_messages import Verb, key_id
from swim.keyring_operations import MemberResult, OperationResult, OperationRunning
from swim.protocol import Swim

log = logging.getLogger(__name__)

STORE_RETRY_S: Final = 10.0
"""Pause before a ring that could not be written is written again."""
LOOK_INTERVAL_S: Final = 10.0
"""How often the packets under unknown keys are counted."""
WARNING_INTERVAL_S: Final = 600.0
"""Shortest time between two warnings of them: strangers can send them, too."""
GRACE_S: Final = 5.0
"""How much longer than its deadlines an operation is waited for."""
MAX_WAITED: Final = 8
"""Operations whose end is waited for; swim runs one at a time, so there is never more than one."""

Found = Callable[[], Sequence[str]]


class GossipKeyNotFound(CaxtonError):
    """This node holds no gossip key of that id."""

    code = "GOSSIP_KEY_NOT_FOUND"
    status = 404


class KeyChangeRefused(CaxtonError):
    """The change would cut members off, or the ring does not allow it; nothing was changed anywhere."""

    code = "KEY_CHANGE_REFUSED"
    status = 409


class KeyOperationRunning(CaxtonError):
    """This node is in the middle of another operation on the cluster's keys."""

    code = "KEY_OPERATION_RUNNING"
    status = 409


class GossipNotEncrypted(CaxtonError):
    """This cluster's packets carry a checksum only, so there is no key to change."""

    code = "GOSSIP_NOT_ENCRYPTED"
    status = 409


@dataclass(frozen=True, slots=True)
class KeyReport:
    """How an operation on the keys went.

    Args:
        result: What swim found, member by member.
        absent: Members that are away and were not asked.
        own: This node's name.
        not_stored: Why this node's own ring is not on disk, empty if it is.
    """

    result: OperationResult
    absent: tuple[str, ...]
    own: str
    not_stored: str

    @property
    def ok(self) -> bool:
        """Whether every member that is up did what was asked, and this node has it on disk."""
        return self.result.ok and not self.not_stored

    def as_json(self) -> dict[str, Any]:
        """The report, with the keys that anybody holds; never a key itself."""
        members = [self._member(name, each) for name, each in sorted(self.result.members.items())]
        held: Counter[str] = Counter()
        encrypting: Counter[str] = Counter()
        for each in self.result.members.values():
            held.update(each.key_ids or ())
            encrypting.update((each.key_ids or ())[:1])
        keys = [{"key_id": k, "held_by": n, "encrypts_for": encrypting[k]} for k, n in sorted(held.items())]
        return {
            "operation": self.result.verb.name.lower(),
            "key_id": self.result.key_id or None,
            "ok": self.ok,
            "members": members,
            "absent": list(self.absent),
            "keys": keys,
        }

    def _member(self, name: str, result: MemberResult) -> dict[str, Any]:
        failed = self.not_stored if name == self.own and result.ok else ""
        return {
            "name": name,
            "ok": result.ok and not failed,
            "error": result.error or failed,
            "key_ids": None if result.key_ids is None else list(result.key_ids),
        }


class GossipKeys:
    """This node's gossip keys and its word about those of the others.

    Args:
        swim: Holds the ring, and reaches the members.
        credentials: Keep the ring on disk.
        environment: Clock, chance, and the thread that writes.
        wake: Lets swim's driver send what was begun.
        absent: Names the members that are away and may come back.
        obeys: Whether certified members may change this node's keys.
    """

    def __init__(
        self,
        swim: Swim,
        credentials: NodeCredentials,
        environment: Environment,
        *,
        wake: Callable[[], None],
        absent: Found,
        obeys: bool,
    ) -> None:
        self._swim, self._credentials, self._environment = swim, credentials, environment
        self._wake, self._absent = wake, absent
        # Who orders has shown a certificate: swim knows no key of anybody else to check the order by.
        swim.keys.allow(lambda _author: obeys)
        self._changed = trio.Event()
        self._ends: dict[bytes, trio.Event] = {}
        self._storing = trio.Lock()
        self._counts: Counter[str] = Counter({"stored": 0, "failures": 0, "orders_obeyed": 0})

    # What operators do

    async def list(self, *, timeout_s: float) -> KeyReport:
        """Ask every member that is up which keys it holds.

        Raises:
            CaxtonError: see :meth:`change`.
        """
        return await self._operate(Verb.LIST, b"", timeout_s=timeout_s, force=False)

    async def install(self, *, timeout_s: float) -> KeyReport:
        """Make a new key and have every member accept packets under it.

        Raises:
            CaxtonError: see :meth:`change`.
        """
        key = self._environment.randomness.token(KEY_BYTES)
        return await self._operate(Verb.INSTALL, key, timeout_s=timeout_s, force=False)

    async def change(self, verb: Verb, wanted: str, *, timeout_s: float, force: bool = False) -> KeyReport:
        """Have every member use or remove a key that this node holds.

        Args:
            verb: USE or REMOVE.
            wanted: The key's id, 8 hexadecimal digits.
            timeout_s: How long answers are waited for, twice: members are asked what they hold, first.
            force: Go ahead whoever is away, or would be cut off.

        Raises:
            GossipKeyNotFound: this node holds no such key.
            KeyChangeRefused: it would cut members off, or the key is the one that encrypts.
            KeyOperationRunning: another one has not finished.
            GossipNotEncrypted: there are no keys.
        """
        self._need_encryption()
        key = next((key for key in self._ring() if key_id(key) == wanted), None)
        if key is None:
            held = [key_id(key) for key in self._ring()]
            guess = nearest(wanted, held)
            raise GossipKeyNotFound(
                f"{self._swim.name} holds no gossip key {wanted[:16]!r}",
                why=f"it holds {', '.join(held)}",
                fix=f"Did you mean {guess}?" if guess else "See `caxton keys list`; install makes a new key.",
                details={"key_id": wanted[:16], "held": held},
            )
        if verb is Verb.REMOVE and key == self._ring()[0]:
            raise KeyChangeRefused(
                f"{wanted} is the key that encrypts",
                why="without it nobody could read what this node sends",
                fix="Have all use another one first: `caxton keys use KEY_ID`.",
                details={"key_id": wanted},
            )
        absent = list(self._absent())
        if absent and not force:
            raise KeyChangeRefused(
                f"members are away: {_some(absent)}",
                why="whoever has missed the change of the key cannot come back with the old one",
                fix="Wait until they are back, or go ahead with --force and copy gossip.key to them then. "
                "Who is lost for good is given up with `caxton members --forget NAME`.",
                details={"absent": absent[:64]},
            )
        return await self._operate(verb, key, timeout_s=timeout_s, force=force)

    # What others do

    def note(self, event: events.Event) -> None:
        """Take an event of swim; called on the loop."""
        if isinstance(event, events.KeyringChanged):
            self._counts["orders_obeyed"] += 1
            done = event.verb.name.lower()
            log.info("gossip key %s: %s, by order of %s", key_id(event.key), done, event.author)
            self._changed.set()
        elif isinstance(event, events.KeyOperationFinished):
            self._changed.set()
            end = self._ends.get(event.operation_id)
            if end is not None:
                end.set()

    async def run(self) -> None:
        """Keep the ring on disk, and watch for packets under unknown keys, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            nursery.start_soon(self._look)

    async def store(self) -> str:
        """Write the ring to disk if it is another one than there; return why that failed, "" if not."""
        async with self._storing:
            ring = self._ring()
            if ring == self._credentials.gossip_keys:
                return ""
            try:
                await self._environment.workers.run("files", self._credentials.keep_gossip_keys, ring)
            except SecurityMaterialInvalid as error:
                self._counts["failures"] += 1
                log.error(  # noqa: TRY400 - what the disk said is told, the way to it tells nobody more
                    "the changed gossip keys are not on disk, and a restart would lose them: %s It is tried "
                    "again; or copy gossip.key from another member before the restart.",
                    error,
                )
                return str(error)
            self._counts["stored"] += 1
            return ""

    def statistics(self) -> dict[str, int]:
        """Writes, failed ones, and orders of others."""
        return {**self._counts, "keys": len(self._ring()), "waited": len(self._ends)}

    # Inside

    def _ring(self) -> tuple[bytes, ...]:
        return () if self._swim.keyring is None else self._swim.keyring.keys()

    def _need_encryption(self) -> None:
        if self._swim.keyring is None:
            raise GossipNotEncrypted(
                "this cluster's gossip is not encrypted, so there is no key to change",
                fix="Start the nodes with bundles of `caxton init DIR --node NAME`.",
            )

    async def _operate(self, verb: Verb, key: bytes, *, timeout_s: float, force: bool) -> KeyReport:
        self._need_encryption()
        now = self._environment.clock.now()
        absent = tuple(self._absent())
        try:
            operation = self._swim.keys.start(verb, key, now, deadline_s=timeout_s, force=force)
        except OperationRunning as error:
            raise KeyOperationRunning(
                "another operation on the gossip keys is running here",
                why="one ends before the next begins, so that its result is known",
                fix="Wait for its end, and try again.",
            ) from error
        except ValueError as error:
            raise KeyChangeRefused(
                "the ring of this node does not allow it",
                why=str(error),
                fix=f"See `caxton keys list`; a ring holds at most {MAX_KEYS} keys: remove an unused one.",
            ) from error
        await self._end_of(operation, 2 * timeout_s + GRACE_S)
        not_stored = await self.store()
        result = self._swim.keys.result(operation)
        report = KeyReport(result, absent, self._swim.name, not_stored)
        if result.refused:
            raise KeyChangeRefused(
                f"the members do not agree to {verb.name.lower()} {result.key_id}",
                why=result.refused,
                fix="See `caxton keys list` for who holds what; --force goes ahead and cuts them off.",
                details={"members": report.as_json()["members"]},
            )
        if verb is not Verb.LIST:
            done = sum(each.ok for each in result.members.values())
            text = "gossip key %s: %s, done by %d of %d members that are up"
            log.info(text, result.key_id, verb.name.lower(), done, len(result.members))
        return report

    async def _end_of(self, operation: bytes, within_s: float) -> None:
        """Let the driver send, and wait until swim says that the operation is over."""
        if len(self._ends) >= MAX_WAITED:
            raise ValidationFailed("too many operations on the gossip keys are waited for")
        end = self._ends[operation] = trio.Event()
        try:
            self._wake()
            with self._environment.clock.move_on_after(within_s):
                await end.wait()
        finally:
            del self._ends[operation]

    async def _keep(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            if await self.store():
                self._changed.set()
                await self._environment.clock.sleep(STORE_RETRY_S)

    async def _look(self) -> None:
        """Tell when packets come under keys that this node does not hold."""
        clock = self._environment.clock
        seen = self._unknown()
        while True:
            await clock.sleep(LOOK_INTERVAL_S)
            found = self._unknown()
            if found > seen:
                log.warning(
                    "%d packets came under a gossip key that this node does not hold: a member was away "
                    "while the key was changed, or this node was, or somebody has another cluster's key. "
                    "Whoever was away needs gossip.key of a member that was not, and a restart",
                    found - seen,
                )
                await clock.sleep(WARNING_INTERVAL_S)
            seen = self._unknown()

    def _unknown(self) -> int:
        counts = self._swim.statistics()
        return sum(counts.get(name, 0) for name in ("dropped_unknown_key", "dropped_stream_unknown_key"))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
