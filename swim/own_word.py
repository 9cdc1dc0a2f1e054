"""What a member says of itself: its boot, its incarnation, its metadata, its patience, its goodbye.

Only the subject raises its incarnation: to refute an accusation, and to change what it says. A word under
its own name that is ahead of its own is either what a past life left behind (the clock went back), which
is outbid, or that of a younger process with the same name, which has won. A goodbye under its own name that
this process has not said is taken back, whatever incarnation or boot it names.

**Patience.** A member that notices that it stalls, that has to refute again and again, or that reaches others
by relays and streams only, asks them to bear longer silences of it, within a bound. One that has to refute
often, and whose own probes are not answered either, also speaks up by itself every `HEARTBEAT_S`: its
incarnation rises, which ends all doubts about the one before. So a member behind a link that loses most
packets is shown as impaired, and neither flaps nor makes others refute; and one that has really died is found
out after its patience.
"""

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from swim.accusations import SUSPICION_QUORUM
from swim.broadcast import RumourQueue
from swim.codec import encode_message
from swim.config import SwimConfig
from swim.events import DuplicateName, Event, Impaired
from swim.health import Health
from swim.identity import Identity
from swim.members import MemberTable, digest_of
from swim.messages import (
    MAX_INCARNATION,
    MAX_PATIENCE_S,
    Accusation,
    Address,
    Alive,
    Boot,
    Dead,
    Left,
    Statement,
    Suspect,
)

MAX_REBASES: Final = 3
"""How often a leftover of a past life is outbid before it is taken for a live duplicate."""
IMPAIRED_REFUTATIONS: Final = 3
"""So many refutations within `IMPAIRED_WINDOW_S` make a member ask for all the patience there is."""
IMPAIRED_WINDOW_S: Final = 60.0
"""Also how long a member has to be well before it takes its request for patience back."""
HEARTBEAT_S: Final = 10.0
"""How often a member that had to refute too often speaks up by itself."""
LONE_REFUTATION_GAP_S: Final = 1.0
"""Least time between two refutations of what too few members say to be believed by anybody, and between two
goodbyes that are taken back: each one makes everybody talk, and a single liar shall not."""
STALL_PATIENCE: Final = 1.5
"""Patience asked for, as a multiple of the longest stall seen lately."""


class OwnWord:
    """This member's own latest word, and its defence.

    Args:
        config: the parameters.
        identity: signs it.
        alive: what is to be said first, not signed yet.
        table: whose roll lists this word too.
        rumours: where it is queued for others.
        health: learns of accusations that had to be refuted.
        events: where events are appended.
        counts: where refutations and drops are counted.

    Attributes:
        alive: the latest word.
        encoded: the same, as it travels.
        goodbye: the last one, once it has been said.
        is_spoken: whether this life has begun.
    """

    def __init__(
        self,
        config: SwimConfig,
        identity: Identity,
        alive: Alive,
        *,
        table: MemberTable,
        rumours: RumourQueue,
        health: Health,
        events: list[Event],
        counts: Counter[str],
    ) -> None:
        self.alive = alive
        self.encoded = b""
        self.goodbye: Left | None = None
        self.is_spoken = False
        self._config = config
        self._identity = identity
        self._table = table
        self._rumours = rumours
        self._health = health
        self._events = events
        self._counts = counts
        self._met_at: float | None = None
        self._rebases = 0
        self._superseded = False
        self._refuted_at: deque[float] = deque(maxlen=IMPAIRED_REFUTATIONS)
        self._lone_refuted_at = self._returned_at = -math.inf
        self._stalled_at = -math.inf
        self._heartbeat_at: float | None = None
        self._relax_at: float | None = None

    def statistics(self) -> dict[str, int]:
        """Tell the incarnation, the patience asked for in seconds, and whether another process is newer."""
        return {
            "incarnation": self.alive.incarnation,
            "patience_s": self.alive.patience_s,
            "superseded": int(self._superseded),
        }

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
        self._rumours.add(self.goodbye, encode_message(self.goodbye))
        self._table.roll.remove(digest_of(self.encoded))
        return self.goodbye

    def change(self, *, meta: bytes | None = None, address: Address | None = None) -> bool:
        """Change metadata or address; say whether there is something to tell."""
        host, port = address or self.alive.address
        said = replace(self.alive, meta=self.alive.meta if meta is None else meta, host=host, port=port)
        if said == self.alive:
            return False
        if not self.is_spoken:
            self.alive = said
            return False
        self._raise_incarnation(said.incarnation, said)
        return True

    def hear(
        self, statement: Statement, now: float, count_signatures: Callable[[Statement], int]
    ) -> Accusation | None:
        """Refute, outbid a past life, take a goodbye back, or find out that this process is superseded.

        Args:
            statement: about this member, from anybody.
            now: the time.
            count_signatures: checks the signatures of a statement, and says how many members have signed it.

        Returns:
            An accusation that was refuted, which its authors should hear of soon.
        """
        if not self.is_spoken or self._superseded:
            return None
        said, held = (statement.boot, statement.incarnation), (self.alive.boot, self.alive.incarnation)
        if isinstance(statement, Alive):
            if said > held and count_signatures(statement):
                self._meet_own_name(statement, now)
        elif isinstance(statement, Left):
            if said >= held and self.goodbye is None:
                self._take_back(statement, now)
        elif isinstance(statement, (Suspect, Dead)) and self.goodbye is None:
            if said == held and self._shall_refute(count_signatures(statement), now):
                self._counts["refutations"] += 1
                self._raise_incarnation(statement.incarnation, self._with_patience(now))
                return statement
            if said > held:
                self._counts["dropped_accusation_of_unseen_incarnation"] += 1
            elif said < held and not self._rumours.has(self.alive.name):
                self._rumours.add(self.alive, self.encoded)  # not only the sender has missed our latest word
        return None

    def has_answered(self, statement: Statement) -> bool:
        """Say whether a statement is an accusation that the latest word has answered already."""
        if not self.is_spoken or self.goodbye is not None or not isinstance(statement, (Suspect, Dead)):
            return False
        held = (self.alive.boot, self.alive.incarnation)
        return (statement.boot, statement.incarnation) < held

    def stalled(self, stall_s: float, now: float) -> None:
        """This process did not run for a while: where that may happen again, ask for patience."""
        is_notable = stall_s >= self._config.suspicion_min_s / 3 and self._table.up_count
        if not is_notable or not self.is_spoken or self.goodbye is not None:
            return
        self._stalled_at = now
        patience_s = min(MAX_PATIENCE_S, math.ceil(stall_s * STALL_PATIENCE))
        if patience_s > self.alive.patience_s:
            self._raise_incarnation(self.alive.incarnation, self._patient(patience_s, now))

    def handle_timer(self, now: float, *, is_well: bool, is_heard: bool) -> None:
        """Ask for patience, speak up while impaired, and take the request back once that is over.

        Args:
            now: the time.
            is_well: whether this member's own probes are answered.
            is_heard: whether datagrams pass between this member and others.
        """
        if self.goodbye is not None:
            return
        if is_well and not is_heard and self.alive.patience_s < MAX_PATIENCE_S:
            self._raise_incarnation(self.alive.incarnation, self._patient(MAX_PATIENCE_S, now))
        if self._heartbeat_at is not None and now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_S
            if not is_well:
                self._counts["heartbeats"] += 1
                self._raise_incarnation(self.alive.incarnation, self.alive)
        if self._relax_at is not None and now >= self._relax_at:
            last = max(self._stalled_at, *self._refuted_at, -math.inf)
            if not (is_well and is_heard) or now < last + IMPAIRED_WINDOW_S:
                self._relax_at = now + HEARTBEAT_S
                return
            self._heartbeat_at = self._relax_at = None
            self._events.append(Impaired(0))
            self._raise_incarnation(self.alive.incarnation, replace(self.alive, patience_s=0))

    def next_timer(self) -> float | None:
        """Return when `handle_timer` is wanted."""
        if self._relax_at is None or self.goodbye is not None:
            return None  # whoever speaks up by itself also waits for the end of that
        return min((at for at in (self._heartbeat_at, self._relax_at) if at is not None), default=None)

    # ---- inside -----------------------------------------------------------------------------

    def _shall_refute(self, signatures: int, now: float) -> bool:
        """Say whether an accusation is to be answered; what enough members say tells of an impairment."""
        if signatures >= max(1, min(SUSPICION_QUORUM, self._table.up_count - 1)):
            self._health.refuted()
            self._refuted_at.append(now)
            return True
        if not signatures or now < self._lone_refuted_at + LONE_REFUTATION_GAP_S:
            return False
        self._lone_refuted_at = now
        return True

    def _with_patience(self, now: float) -> Alive:
        often = len(self._refuted_at) == IMPAIRED_REFUTATIONS
        if not often or now - self._refuted_at[0] > IMPAIRED_WINDOW_S:
            return self.alive
        self._heartbeat_at = now + HEARTBEAT_S
        return self._patient(MAX_PATIENCE_S, now)

    def _patient(self, patience_s: int, now: float) -> Alive:
        self._relax_at = now + IMPAIRED_WINDOW_S
        if patience_s == self.alive.patience_s:
            return self.alive
        self._counts["patience_asked"] += 1
        self._events.append(Impaired(patience_s))
        return replace(self.alive, patience_s=patience_s)

    def _meet_own_name(self, other: Alive, now: float) -> None:
        """A verified word under our name is ahead of ours: a past life's, or a living double's."""
        if other.boot == self.alive.boot:
            self._raise_incarnation(other.incarnation, self.alive)
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

    def _take_back(self, goodbye: Left, now: float) -> None:
        """Answer a goodbye that this process has not said: its key was used elsewhere, or by a past life."""
        if now < self._returned_at + LONE_REFUTATION_GAP_S:
            return
        if goodbye.signature != self._identity.sign(goodbye.signed_bytes()):
            return  # Ed25519 signs alike each time (RFC 8032)
        self._returned_at = now
        self._counts["goodbyes_taken_back"] += 1
        if goodbye.boot == self.alive.boot:
            self._raise_incarnation(goodbye.incarnation, self.alive)
        else:
            boot = Boot(goodbye.boot.time_ms + 1, self.alive.boot.id)
            self._speak(replace(self.alive, boot=boot, incarnation=0))

    def _raise_incarnation(self, above: int, said: Alive) -> None:
        if above >= MAX_INCARNATION:
            said = replace(said, boot=Boot(said.boot.time_ms + 1, said.boot.id), incarnation=0)
        else:
            said = replace(said, incarnation=above + 1)
        self._speak(said)

    def _speak(self, said: Alive) -> None:
        if self.encoded and self.goodbye is None:
            self._table.roll.remove(digest_of(self.encoded))
        self.alive = replace(said, signature=self._identity.sign(said.signed_bytes()))
        self.encoded = encode_message(self.alive)
        if self.goodbye is None:
            self._table.roll.add(digest_of(self.encoded))
            self._rumours.add(self.alive, self.encoded)
