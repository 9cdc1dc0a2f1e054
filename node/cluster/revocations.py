"""Keys that count no more, because the cluster's authority says so: a stolen one, that of a machine sold.

The authority signs a **revocation** offline (``swim.identity``); any node takes it from an operator, and a
register of the cluster map brings it to all, also to those that are away. Only what the authority has signed
is believed, so a register can be spoilt by a liar, and is then written again. Whoever speaks under a revoked
key is dropped from membership and links at once, with its own map; what it wrote for all before stays.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.cluster.forgetting import Maps
from node.environment import Clock
from node.errors import CaxtonError, ResourceLimitExceeded
from node.message import iso8601
from node.security import pki
from swim.hlc import ClockSkewError
from swim.identity import Revocation
from swim.map_events import ClusterChanged, EventsLost, MapEvent
from swim.protocol import Swim
from swim.publisher import StateError

log = logging.getLogger(__name__)

PREFIX: Final = "revoked/"
"""Below it the cluster map has a register for each key that is revoked, by the key's identifier."""


class RevocationInvalid(CaxtonError):
    """What was given is no revocation that the authority of this cluster has signed."""

    code = "REVOCATION_INVALID"
    status = 422


class KeyRevoked(CaxtonError):
    """The authority has revoked the key of this node, so it has no cluster any more."""

    code = "KEY_REVOKED"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revocation that holds.

    Args:
        said: What the authority says.
        encoded: The same, signed.
    """

    said: Revocation
    encoded: bytes

    @property
    def key_id(self) -> str:
        """Identifier of the key, in hexadecimal."""
        return pki.key_identifier(self.said.public_key).hex()

    @property
    def key(self) -> str:
        """Of its register."""
        return PREFIX + self.key_id

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.said.name,
            "key_id": self.key_id,
            "since": iso8601(self.said.since),
            "not_after": iso8601(self.said.not_after),
        }


class Revocations:
    """Heeds revocations, and spreads them.

    Args:
        swim: The membership that drops whoever is revoked.
        maps: Where they are written.
        clock: When it is.
        own_key: Raw public key of this node.
        writes: Whether it is for this node to write again what a liar has spoilt.
        end: Ends this node, whose own key is revoked.
        flush: Hands on what was written.
        save: Writes it to disk.
    """

    def __init__(
        self,
        swim: Swim,
        maps: Maps,
        clock: Clock,
        *,
        own_key: bytes,
        writes: Callable[[], bool],
        end: Callable[[CaxtonError], None],
        flush: Callable[[], None],
        save: Callable[[], Awaitable[None]],
    ) -> None:
        self._swim, self._maps, self._clock = swim, maps, clock
        self._own_key, self._writes, self._end = own_key, writes, end
        self._flush, self._save = flush, save
        self._known: dict[str, Revoked] = {}  # by the key of the register
        self._counts = {"refused": 0, "written_again": 0}

    def all(self) -> list[Revoked]:
        """Every revocation known, by name."""
        return sorted(self._known.values(), key=lambda found: (found.said.name, found.key))

    async def revoke(self, encoded: bytes) -> Revoked:
        """Take a revocation from an operator, and tell it to all.

        Raises:
            RevocationInvalid: the authority of this cluster has not signed it, or it is about the key of this
                node, whose word would not count any more.
            ResourceLimitExceeded: the cluster map takes no more, or this node may not write.
            StorageFailed: it may be lost if this node ends now.
        """
        if self._own_key in encoded:
            raise RevocationInvalid(
                "this is about the key of the node that is asked",
                why="what it said to the others would not count any more",
                fix="Give it to another node (--api).",
            )
        found = self._heed(encoded)
        if found is None:
            raise RevocationInvalid(
                "this is no revocation of this cluster",
                why="it is not signed by the cluster's authority, or was altered",
                fix="Make one with `caxton revoke DIRECTORY NAME`, with the directory of this cluster.",
            )
        holds = self._known[found.key]
        if self._maps.cluster_get(found.key) != holds.encoded:
            try:
                self._maps.cluster_put(found.key, holds.encoded, self._clock.wall())
            except (StateError, ClockSkewError) as error:
                raise ResourceLimitExceeded(
                    f"{found.said.name} is revoked here, and the others cannot be told",
                    why=str(error),
                    fix="Delete deployments that are not needed, or set the clock of this node.",
                ) from error
        self._flush()
        await self._save()
        return holds

    def apply(self, changes: Sequence[MapEvent]) -> None:
        """Heed what has changed in the cluster map."""
        for change in changes:
            if isinstance(change, ClusterChanged) and change.key.startswith(PREFIX):
                self._look_at(change.key, change.value)
            elif isinstance(change, EventsLost):
                self.apply_all()

    def apply_all(self) -> None:
        """Heed all that the cluster map says, as after a start, and write again what is not there."""
        for key, value in list(self._maps.cluster_entries(PREFIX)):
            self._look_at(key, value)
        for known in self.all():
            if self._maps.cluster_get(known.key) is None:
                self._write_again(known)

    def statistics(self) -> dict[str, int]:
        """Counts of keys that are revoked, of registers that were none, and of those written again."""
        return {"revoked": len(self._known), **self._counts}

    def _look_at(self, key: str, value: bytes | None) -> None:
        found = None if value is None else self._heed(value)
        if found is not None and found.key == key:
            return
        if value is not None:
            self._counts["refused"] += 1
        known = self._known.get(key)
        if known is not None:
            self._write_again(known)

    def _heed(self, encoded: bytes) -> Revoked | None:
        said = self._swim.revoke(encoded, self._clock.now())
        if said is None:
            return None
        found = Revoked(said, encoded)
        known = self._known.get(found.key)
        if known is None or said.since < known.said.since:
            self._known[found.key] = found
        if known is None:
            log.warning("the key %s of %s is revoked", found.key_id, said.name)
        if said.public_key == self._own_key:
            self._end(
                KeyRevoked(
                    f"the key of {said.name} is revoked",
                    why="the cluster's authority has signed that it counts no more",
                    fix="Have a bundle with a new key issued: `caxton init DIRECTORY --node NAME --renew`.",
                )
            )
        return found

    def _write_again(self, known: Revoked) -> None:
        """A liar has deleted or spoilt a register: the lowest name that is up writes it again."""
        if known.said.not_after < self._clock.wall() or not self._writes():
            return
        try:
            self._maps.cluster_put(known.key, known.encoded, self._clock.wall())
        except (StateError, ClockSkewError) as error:
            log.warning("the revocation of %s cannot be written again: %s", known.said.name, error)
            return
        self._counts["written_again"] += 1
        log.warning(
            "the revocation of %s was taken out of the cluster map, and is there again", known.said.name
        )
