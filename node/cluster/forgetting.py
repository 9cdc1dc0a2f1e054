"""Members that are lost for good: whoever operates the cluster gives them up, and they count no more.

A member that has not said goodbye counts for ever in what is a majority, and is tried for ever. For a machine
that burned, an operator says the goodbye in its place: a register of the cluster map, so that nodes which are
away now learn of it when they come back. It names the last life that is given up. Should the member be alive
after all, or come back in a new life, it joins as any other, and takes the register back itself.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from node.cluster.why import QUOTED_CHARACTERS, MemberNotFound
from node.environment import Clock
from node.errors import CaxtonError, ResourceLimitExceeded, nearest
from swim import strict_cbor
from swim.events import Event, MemberDied
from swim.hlc import ClockSkewError
from swim.identity import is_name
from swim.map_events import ClusterChanged, EventsLost, MapEvent
from swim.members import State
from swim.messages import BOOT_ID_BYTES, Boot
from swim.partition import Partition, Side
from swim.protocol import Swim
from swim.publisher import StateError
from swim.units import MAX_BUCKET_BYTES

log = logging.getLogger(__name__)

PREFIX: Final = "forgotten/"
"""Below it the cluster map has a register for each member that was given up."""
FORMAT: Final = 1


class ForgetRefused(CaxtonError):
    """A member may not be given up: it is up, or the one who asks may itself be cut off."""

    code = "FORGET_REFUSED"
    status = 409


class Maps(Protocol):
    """The part of the replicated maps that is needed here (``swim.replicated.Replicated``)."""

    def cluster_get(self, key: str) -> bytes | None:
        """The value of a register, None if it has none."""
        ...

    def cluster_entries(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """All registers below ``prefix`` that have a value."""
        ...

    def cluster_put(self, key: str, value: bytes, wall: float, based_on: int | None = None) -> int:
        """Write a register; returns the stamp."""
        ...

    def cluster_delete(self, key: str, wall: float, based_on: int | None = None) -> int | None:
        """Delete a register; returns the stamp, None if it had no value."""
        ...


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What a register says.

    Args:
        boot: The last life that is given up; None for any that is not up.
    """

    boot: Boot | None

    def encode(self) -> bytes:
        """The value of the register."""
        boot = self.boot
        return strict_cbor.encode([FORMAT, *(() if boot is None else (boot.time_ms, boot.id))])


def decode(value: bytes) -> GivenUp | None:
    """What a register says; None where it is not well-formed, or of another format."""
    try:
        found = strict_cbor.decode(value, max_bytes=MAX_BUCKET_BYTES)
    except ValueError:
        return None
    if type(found) is not list or [type(part) for part in found] not in ([int], [int, int, bytes]):
        return None
    form, *boot = found
    if form != FORMAT or (boot and (boot[0] < 0 or len(boot[1]) != BOOT_ID_BYTES)):
        return None
    return GivenUp(Boot(*boot) if boot else None)


class Forgetting:
    """Gives up members that are lost for good, and heeds what others have given up.

    Args:
        swim: Whose members they are.
        maps: Where it is written.
        clock: When it is.
        partition: On which side of a partition this node is.
        flush: Hands on what was written.
        save: Writes it to disk.
    """

    def __init__(
        self,
        swim: Swim,
        maps: Maps,
        clock: Clock,
        *,
        partition: Callable[[], Partition],
        flush: Callable[[], None],
        save: Callable[[], Awaitable[None]],
    ) -> None:
        self._swim, self._maps, self._clock = swim, maps, clock
        self._partition, self._flush, self._save = partition, flush, save
        self._counts = {"forgotten": 0, "taken_back": 0, "malformed": 0}

    async def forget(self, name: str, *, force: bool = False) -> None:
        """Have every node, also those that are away now, count a lost member no more.

        Args:
            name: Of the member.
            force: Go ahead without a majority.

        Raises:
            MemberNotFound: none of that name counts here.
            ForgetRefused: it is up, or this node is not on the side of the majority.
            ResourceLimitExceeded: the cluster map takes no more, or this node may not write.
            StorageFailed: it may be lost if this node ends now.
        """
        self._check(name, force=force)
        given_up = GivenUp(self._swim.last_life(name))
        try:
            self._maps.cluster_put(PREFIX + name, given_up.encode(), self._clock.wall())
        except (StateError, ClockSkewError) as error:
            raise ResourceLimitExceeded(
                f"the cluster cannot be told that {name} is given up",
                why=str(error),
                fix="Delete deployments that are not needed, or set the clock of this node.",
            ) from error
        log.info("%s is given up as lost for good, by order%s", name, " and by force" if force else "")
        self._flush()
        await self._save()

    def apply(self, changes: Sequence[MapEvent]) -> None:
        """Heed what has changed in the cluster map."""
        for change in changes:
            if isinstance(change, ClusterChanged) and change.key.startswith(PREFIX):
                self._heed(change.key, change.value)
            elif isinstance(change, EventsLost):
                self.apply_all()

    def apply_all(self) -> None:
        """Heed all that the cluster map says, as after a start."""
        for key, value in list(self._maps.cluster_entries(PREFIX)):
            self._heed(key, value)

    def is_given_up(self, name: str) -> bool:
        """Whether a member was given up, and has not said since that it is there."""
        return self._maps.cluster_get(PREFIX + name) is not None

    def note(self, event: Event) -> None:
        """Forget a member that was given up before its death was heard of here."""
        if isinstance(event, MemberDied):
            key = PREFIX + event.member.name
            self._heed(key, self._maps.cluster_get(key))

    def statistics(self) -> dict[str, int]:
        """Counts of members forgotten, of words about this node taken back, and of malformed ones."""
        return dict(self._counts)

    def _check(self, name: str, *, force: bool) -> None:
        member = None if name == self._swim.name else self._swim.member(name)
        if name == self._swim.name or (member is not None and member.is_up):
            raise ForgetRefused(
                f"{name} is up",
                why="only who is lost for good is given up; whoever is up would count again at once",
                fix="Have it leave: `caxton stop` on its machine.",
                details={"member": name},
            )
        counting = [known for known, _ in self._swim.address_book()]
        if name not in counting:
            has_left = member is not None and member.state is State.LEFT
            guess = nearest(name, counting)
            unknown = "it never joined, has said goodbye, or was given up"
            raise MemberNotFound(
                f"no member {name[:QUOTED_CHARACTERS]!r} counts here",
                why="it has said goodbye" if has_left else unknown,
                fix=f"Did you mean {guess!r}?" if guess else "There is nothing to do.",
                details={"nearest": guess} if guess else {},
            )
        found = self._partition()
        if found.side is not Side.MAJORITY and not force:
            raise ForgetRefused(
                f"this node sees {found.up} of {found.remembered} members, which is no majority",
                why="it may be this node that is cut off, and the others that are well",
                fix="Ask a node of the majority; if the others are lost for good, go ahead with --force.",
                details={"up": found.up, "remembered": found.remembered},
            )

    def _heed(self, key: str, value: bytes | None) -> None:
        if value is None:
            return
        name, given_up = key.removeprefix(PREFIX), decode(value)
        if given_up is None or not is_name(name):
            self._counts["malformed"] += 1
        elif name == self._swim.name:
            self._take_back(key)
        elif self._swim.forget(name, given_up.boot):
            self._counts["forgotten"] += 1

    def _take_back(self, key: str) -> None:
        """Say that this node is there after all."""
        try:
            self._maps.cluster_delete(key, self._clock.wall())
        except (StateError, ClockSkewError) as error:
            log.warning("this node was given up, and cannot say yet that it is there: %s", error)
            return
        self._counts["taken_back"] += 1
        log.info("this node had been given up as lost for good, and counts again")
