"""What a member comes to believe about the others: statements are checked, weighed and passed on.

A statement is first compared with what is held (`swim.members`), because most are old news, then
verified, then believed: the table changes, an event is told, the rumour is queued, and a suspicion
starts, gains a confirmation, or ends. In a push-pull a Dead is taken as a Suspect, so that after a
healed partition the members of each side can refute before the other side buries them twice.
"""

from collections import Counter
from dataclasses import replace
from typing import Protocol

from swim.broadcast import RumourQueue
from swim.config import SwimConfig
from swim.events import (
    Event,
    MemberAlive,
    MemberDied,
    MemberJoined,
    MemberLeft,
    MemberRefuted,
    MemberSuspected,
    MemberUpdated,
)
from swim.identity import Authority, verify
from swim.members import STATE_OF, MemberTable, Record, State
from swim.messages import Alive, Dead, Left, Snapshot, Statement, Suspect
from swim.probe import ProbeRing
from swim.suspicion import Suspicion

SANE_WALL_S = 1_704_067_200.0
"""1 January 2024. A clock before it was never set, and is no judge of anybody's future."""


class Owner(Protocol):
    """What learning needs of the protocol around it."""

    name: str
    wall_offset: float

    def size(self) -> int:
        """Return how many members are up, this one included."""

    def about_self(self, statement: Statement, now: float) -> None:
        """Handle a statement about this member."""


class Learning:
    """Beliefs of one member about the others.

    Args:
        config: the parameters.
        owner: the protocol around it.
        authority: decides whose statements count.
        table: what is believed.
        rumours: where news is queued for others.
        ring: who is probed.
        events: where events are appended.
        counts: where drops are counted.
    """

    def __init__(
        self,
        config: SwimConfig,
        owner: Owner,
        authority: Authority,
        *,
        table: MemberTable,
        rumours: RumourQueue,
        ring: ProbeRing,
        events: list[Event],
        counts: Counter[str],
    ) -> None:
        self._config = config
        self._owner = owner
        self._authority = authority
        self._table = table
        self._rumours = rumours
        self._ring = ring
        self._events = events
        self._counts = counts
        self._suspicions: dict[str, Suspicion] = {}  # one per SUSPECT record of the table

    def learn(self, statement: Statement, now: float) -> None:
        """Take one statement, from anybody."""
        if statement.name == self._owner.name:
            self._owner.about_self(statement, now)
        elif isinstance(statement, Alive):
            self._learn_alive(statement, now)
        elif isinstance(statement, Left):
            self._learn_left(statement, now)
        else:
            self._learn_accusation(statement, now)

    def learn_snapshot(self, snapshot: Snapshot, sender: str, now: float, *, spread: bool) -> None:
        """Take what a peer told of one member in a push-pull.

        Args:
            snapshot: what it told.
            sender: the peer.
            now: the time.
            spread: whether to tell others of members that are news here.
        """
        alive, verdict = snapshot.alive, snapshot.verdict
        if verdict is not None and verdict.name != alive.name:
            self._counts["dropped_bad_snapshot"] += 1
            return
        stranger = alive.name != self._owner.name and self._table.get(alive.name) is None
        if stranger and isinstance(verdict, (Dead, Left)):
            self._learn_gone(alive, verdict, snapshot.age_s, now)
            return
        if alive.name == self._owner.name:
            self._owner.about_self(alive, now)
        else:
            self._learn_alive(alive, now, spread=spread)
        if isinstance(verdict, (Suspect, Dead)):
            verdict = Suspect(verdict.name, verdict.boot, verdict.incarnation, sender)
        if verdict is not None:
            self.learn(verdict, now)

    def accuse(self, record: Record, now: float) -> None:
        """Doubt a member because our own probe of it has failed."""
        alive = record.alive
        self._learn_accusation(Suspect(alive.name, alive.boot, alive.incarnation, self._owner.name), now)

    def verify(self, alive: Alive, now: float) -> bytes | None:
        """Return the subject's public key if its word is its own, or count why not."""
        wall = now + self._owner.wall_offset
        lead_s = alive.boot.time_ms / 1000 - wall
        admitted = self._authority.admit(alive.credential, wall)
        if wall >= SANE_WALL_S and lead_s > self._config.max_clock_lead_s:
            self._refuse("boot_time_ahead")
        elif len(alive.meta) > self._config.max_meta_bytes:
            self._refuse("meta_too_long")
        elif admitted is None:
            self._refuse("credential_refused")
        elif admitted.name != alive.name:
            self._refuse("credential_of_another")
        elif not verify(admitted.public_key, alive.signature, alive.signed_bytes()):
            self._refuse("bad_signature")
        else:
            return admitted.public_key
        return None

    def postpone(self, seconds: float) -> None:
        """Give all suspicions back the time during which this process did not run."""
        for suspicion in self._suspicions.values():
            suspicion.postpone(seconds)

    def handle_timer(self, now: float) -> None:
        """Declare dead whom nobody has heard refute."""
        due = [name for name, s in self._suspicions.items() if s.deadline <= now]
        for name in due:
            record = self._table.get(name)
            if record is not None:
                alive = record.alive
                verdict = Dead(name, alive.boot, alive.incarnation, self._owner.name)
                self._learn_accusation(verdict, now)

    def next_timer(self) -> float | None:
        """Return when the next suspicion ends."""
        return min((s.deadline for s in self._suspicions.values()), default=None)

    def _learn_alive(self, alive: Alive, now: float, *, spread: bool = True) -> None:
        record = self._table.get(alive.name)
        if record is not None and not record.accepts(alive):
            return
        if record is None and self._table.is_full:
            self._refuse("member_table_full")
            return
        public_key = self.verify(alive, now)
        if public_key is None:
            return
        if spread:
            self._rumours.add(alive)
        if record is None:
            record = Record(alive, public_key, State.ALIVE, None, now, now)
            self._table.insert(record)
            self._ring.add(alive.name)
            self._events.append(MemberJoined(record.view()))
            return
        before, said_before = record.state, record.alive
        self._table.apply(record, alive, now)
        record.public_key = public_key
        self._suspicions.pop(alive.name, None)
        restarted = alive.boot != said_before.boot
        if before is State.SUSPECT:
            self._events.append(MemberRefuted(record.view(), restarted))
        elif before is not State.ALIVE:
            self._ring.add(alive.name)
            self._events.append(MemberAlive(record.view(), restarted))
        if before <= State.SUSPECT and (
            restarted or (alive.address, alive.meta) != (said_before.address, said_before.meta)
        ):
            self._events.append(MemberUpdated(record.view(), restarted))

    def _learn_accusation(self, accusation: Suspect | Dead, now: float) -> None:
        record = self._table.get(accusation.name)
        author = accusation.author
        if record is None:
            self._refuse("accusation_of_stranger")
            return
        if (accusation.boot, accusation.incarnation) > record.version:
            self._refuse("accusation_of_unseen_incarnation")
            return
        if author != self._owner.name and self._table.get(author) is None:
            self._refuse("accusation_by_stranger")
            return
        suspicion = self._suspicions.get(accusation.name)
        if isinstance(accusation, Suspect) and suspicion is not None:
            said = (accusation.boot, accusation.incarnation)
            if said == record.version and suspicion.confirm(author):
                self._rumours.add(accusation)
            return
        if not record.accepts(accusation):
            return
        self._table.apply(record, accusation, now)
        self._rumours.add(accusation)
        if isinstance(accusation, Suspect):
            self._suspicions[accusation.name] = self._suspicion(author, now)
            self._events.append(MemberSuspected(record.view(), author))
            return
        self._suspicions.pop(accusation.name, None)
        self._ring.discard(accusation.name)
        accusers = () if suspicion is None else suspicion.authors
        silent_for_s = now - record.last_heard
        self._events.append(MemberDied(record.view(), author, accusers, silent_for_s))

    def _suspicion(self, author: str, now: float) -> Suspicion:
        members = self._owner.size()
        shortest_s, longest_s = self._config.suspicion_bounds_s(members)
        return Suspicion(
            author,
            now,
            shortest_s=shortest_s,
            longest_s=longest_s,
            confirmations=min(self._config.suspicion_confirmations, members - 2),
        )

    def _learn_left(self, left: Left, now: float) -> None:
        record = self._table.get(left.name)
        if record is None:
            self._refuse("goodbye_of_stranger")
            return
        if not record.accepts(left):
            return
        if not verify(record.public_key, left.signature, left.signed_bytes()):
            self._refuse("bad_signature")
            return
        self._table.apply(record, left, now)
        self._suspicions.pop(left.name, None)
        self._ring.discard(left.name)
        self._rumours.add(left)
        self._events.append(MemberLeft(record.view()))

    def _learn_gone(self, alive: Alive, verdict: Dead | Left, age_s: int, now: float) -> None:
        """Remember a member that was gone before we heard of it; nobody is told."""
        if age_s >= self._config.reap_after_s:
            return
        if self._table.is_full:
            self._refuse("member_table_full")
            return
        public_key = self.verify(alive, now)
        if public_key is None:
            return
        record = Record(alive, public_key, State.ALIVE, None, now, now)
        if not record.accepts(verdict):
            self._refuse("bad_snapshot")
            return
        if isinstance(verdict, Left) and not verify(public_key, verdict.signature, verdict.signed_bytes()):
            self._refuse("bad_signature")
            return
        record = replace(record, state=STATE_OF[type(verdict)], verdict=verdict,
                         last_heard=now - age_s, changed_at=now - age_s)  # fmt: skip
        self._table.insert(record)

    def _refuse(self, reason: str) -> None:
        self._counts[f"dropped_{reason}"] += 1
