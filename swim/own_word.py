"""What a member says of itself: its boot, its incarnation, its metadata, its goodbye.

Only the subject raises its incarnation: to refute an accusation, and to change its metadata. A word under
its own name that is ahead of its own is either what a past life left behind (the clock went back), which
is outbid, or that of a younger process with the same name, which has won.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from swim.broadcast import RumourQueue
from swim.config import SwimConfig
from swim.events import DuplicateName, Event
from swim.health import Health
from swim.identity import Identity
from swim.messages import MAX_INCARNATION, Address, Alive, Boot, Dead, Left, Statement, Suspect

MAX_REBASES: Final = 3
"""How often a leftover of a past life is outbid before it is taken for a live duplicate."""


class OwnWord:
    """This member's own latest word, and its defence.

    Args:
        config: the parameters.
        identity: signs it.
        alive: what is to be said first, not signed yet.
        rumours: where it is queued for others.
        health: learns of accusations that had to be refuted.
        events: where events are appended.
        counts: where refutations and drops are counted.

    Attributes:
        alive: the latest word.
        goodbye: the last one, once it has been said.
        is_spoken: whether this life has begun.
    """

    def __init__(
        self,
        config: SwimConfig,
        identity: Identity,
        alive: Alive,
        *,
        rumours: RumourQueue,
        health: Health,
        events: list[Event],
        counts: Counter[str],
    ) -> None:
        self.alive = alive
        self.goodbye: Left | None = None
        self.is_spoken = False
        self._config = config
        self._identity = identity
        self._rumours = rumours
        self._health = health
        self._events = events
        self._counts = counts
        self._met_at: float | None = None
        self._rebases = 0
        self._superseded = False

    def start(self, wall: float, address: Address) -> None:
        """Begin this life.

        Args:
            wall: seconds since the epoch; a clock before it counts as zero.
            address: where others reach this member.
        """
        self.is_spoken = True
        host, port = address
        boot = Boot(max(0, int(wall * 1000)), self.alive.boot.id)
        self._speak(replace(self.alive, host=host, port=port, boot=boot))

    def meet(self, now: float) -> None:
        """Take note that a peer has been heard; from the first one on, a past life should soon show."""
        if self._met_at is None:
            self._met_at = now

    def leave(self) -> Left:
        """Say goodbye."""
        goodbye = Left(self.alive.name, self.alive.boot, self.alive.incarnation)
        self.goodbye = replace(goodbye, signature=self._identity.sign(goodbye.signed_bytes()))
        self._rumours.add(self.goodbye)
        return self.goodbye

    def change_meta(self, meta: bytes) -> bool:
        """Change the metadata; say whether there is something to tell."""
        if meta == self.alive.meta:
            return False
        if not self.is_spoken:
            self.alive = replace(self.alive, meta=meta)
            return False
        self._raise_incarnation(self.alive.incarnation, meta=meta)
        return True

    def hear(self, statement: Statement, now: float, is_verified: Callable[[Alive], bool]) -> bool:
        """Refute, outbid a past life, or find out that this process is superseded.

        Args:
            statement: about this member, from anybody.
            now: the time.
            is_verified: checks the signature of an Alive.

        Returns:
            Whether an accusation was refuted, which others should hear of soon.
        """
        if not self.is_spoken or self._superseded:
            return False
        said, held = (statement.boot, statement.incarnation), (self.alive.boot, self.alive.incarnation)
        if isinstance(statement, Alive):
            if said > held and is_verified(statement):
                self._meet_own_name(statement, now)
        elif isinstance(statement, (Suspect, Dead)) and self.goodbye is None:
            if said == held:
                self._counts["refutations"] += 1
                self._health.refuted()
                self._raise_incarnation(statement.incarnation)
                return True
            if said > held:
                self._counts["dropped_accusation_of_unseen_incarnation"] += 1
            elif not self._rumours.has(self.alive.name):
                self._rumours.add(self.alive)  # its author has missed our latest word
        return False

    def _meet_own_name(self, other: Alive, now: float) -> None:
        """A verified word under our name is ahead of ours: a past life's, or a living double's."""
        if other.boot == self.alive.boot:
            self._raise_incarnation(other.incarnation)
            return
        # Nobody else can listen where we do, and who was alone until now has not met its past yet.
        is_past = other.address == self.alive.address or (
            self._met_at is None or now - self._met_at <= self._config.duplicate_grace_s
        )
        if is_past and self._rebases < MAX_REBASES:
            self._rebases += 1
            self._counts["rebases"] += 1
            boot = Boot(other.boot.time_ms + 1, self.alive.boot.id)
            self._speak(replace(self.alive, boot=boot, incarnation=0))
            return
        self._superseded = True
        self._events.append(DuplicateName(self.alive.name, other.address))

    def _raise_incarnation(self, above: int, *, meta: bytes | None = None) -> None:
        own = self.alive
        if above >= MAX_INCARNATION:
            boot = Boot(own.boot.time_ms + 1, own.boot.id)
            own = replace(own, boot=boot, incarnation=0)
        else:
            own = replace(own, incarnation=above + 1)
        self._speak(own if meta is None else replace(own, meta=meta))

    def _speak(self, own: Alive) -> None:
        self.alive = replace(own, signature=self._identity.sign(own.signed_bytes()))
        if self.goodbye is None:
            self._rumours.add(self.alive)
