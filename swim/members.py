"""The member table, and which statement about a member beats which.

A record is ordered first by the **boot** of its subject (a restarted process wins at once, whatever
was said about its past life), then by **incarnation** (only the subject raises it), then by what is
said. For one boot and incarnation the rule is a table: held state and incoming kind give what the
incoming incarnation must be. An accusation is special: it must quote exactly a boot and
incarnation that the subject itself has signed and we have seen, so nobody can invent one.

    held, incoming:    Alive    Suspect   Dead     Left
    ALIVE             higher   same      same     same
    SUSPECT           higher   never     same     same
    DEAD              higher   never     never    same
    LEFT              higher   never     never    higher

"same" means the same or a higher one where the statement is signed by the subject (Left), and
exactly the same for accusations. Everything the table refuses leaves the record as it was, so
merging is idempotent, and what is held never goes back.
"""

import random
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from enum import IntEnum
from hashlib import sha256
from typing import Final

from swim.coordinates import Coordinate
from swim.hashtree import HashTree
from swim.messages import Accusation, Address, Alive, Boot, Dead, Left, Statement, Suspect, Verdict
from swim.rtt import RttEstimator

MAX_INCARNATION_JUMP: Final = 2**20
"""A member that raises its incarnation by more than this at once, within one boot, is not believed: no
honest one refutes a million times between two of its words that we hear."""


class State(IntEnum):
    """What is held to be true of a member."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class Need(IntEnum):
    """What the incoming incarnation must be, compared with the one held."""

    HIGHER = 0
    SAME = 1
    NEVER = 2


_H, _S, _N = Need.HIGHER, Need.SAME, Need.NEVER
PRECEDENCE: Final[dict[State, dict[type[Statement], Need]]] = {
    State.ALIVE: {Alive: _H, Suspect: _S, Dead: _S, Left: _S},
    State.SUSPECT: {Alive: _H, Suspect: _N, Dead: _S, Left: _S},
    State.DEAD: {Alive: _H, Suspect: _N, Dead: _N, Left: _S},
    State.LEFT: {Alive: _H, Suspect: _N, Dead: _N, Left: _H},
}
"""The table of the module's docstring."""

STATE_OF: Final[dict[type[Statement], State]] = {
    Alive: State.ALIVE,
    Suspect: State.SUSPECT,
    Dead: State.DEAD,
    Left: State.LEFT,
}


@dataclass(frozen=True, slots=True)
class Member:
    """What the application sees of a member.

    Attributes:
        name: the certified name.
        address: where it listens.
        state: what is held to be true.
        boot: which life of its process this is.
        incarnation: of its latest own word.
        meta: its application bytes.
        public_key: its Ed25519 key.
        versions: lowest and highest protocol version it understands.
        patience_s: silence, in seconds, that it asks others to bear; above 0 it knows itself impaired.
        last_heard: time of the last packet from itself, on the receiver's clock in seconds.
        changed_at: time of the last change of `state`.
    """

    name: str
    address: Address
    state: State
    boot: Boot
    incarnation: int
    meta: bytes
    public_key: bytes
    versions: tuple[int, int]
    patience_s: int
    last_heard: float
    changed_at: float

    @property
    def is_up(self) -> bool:
        """Whether work may be sent there: alive, or only doubted."""
        return self.state <= State.SUSPECT


@dataclass(slots=True)
class Record:
    """What is held about one member.

    Attributes:
        alive: its latest verified own word.
        encoded: that word as it travels.
        digest: by which that word is known in the roll.
        public_key: the member's Ed25519 key.
        state: what is held to be true.
        verdict: what is held against `alive`, if anything.
        encoded_verdict: that as it travels.
        last_heard: time of the last packet from itself.
        changed_at: time of the last change of `state`.
        rtt: round trips of direct probes.
        coordinate: its network coordinate, once it has told one.
    """

    alive: Alive
    encoded: bytes
    digest: bytes
    public_key: bytes
    state: State
    verdict: Verdict | None
    encoded_verdict: bytes
    last_heard: float
    changed_at: float
    rtt: RttEstimator = field(default_factory=RttEstimator)
    coordinate: Coordinate | None = None

    @property
    def name(self) -> str:
        """Who this is."""
        return self.alive.name

    @property
    def version(self) -> tuple[Boot, int]:
        """Boot and incarnation held, be it from an Alive or a Left."""
        if isinstance(self.verdict, Left):
            return (self.verdict.boot, self.verdict.incarnation)
        return (self.alive.boot, self.alive.incarnation)

    @property
    def is_up(self) -> bool:
        """Whether the member is probed and counted."""
        return self.state <= State.SUSPECT

    @property
    def said_last(self) -> tuple[bytes, ...]:
        """The statements by which somebody who knows nothing comes to the same state, in order."""
        if isinstance(self.verdict, Left):
            return (self.encoded_verdict,)
        # A Dead means nothing to whoever has not heard the word that it quotes.
        return (self.encoded, self.encoded_verdict) if self.state is State.DEAD else (self.encoded,)

    def against(self, alive: Alive) -> tuple[bytes, ...]:
        """Return what beats a word of this member, for somebody who holds it; nothing if none is held."""
        said = (alive.boot, alive.incarnation)
        if not self.is_up:
            return (self.encoded_verdict,) if self.version == said else self.said_last
        return (self.encoded,) if self.version > said else ()

    def is_quoted_by(self, accusation: Accusation) -> bool:
        """Say whether an accusation quotes exactly the word that is held."""
        alive = self.alive
        return accusation.incarnation == alive.incarnation and accusation.boot == alive.boot

    def is_ahead_of(self, accusation: Accusation) -> bool:
        """Say whether an accusation quotes a word that its subject has replaced since."""
        return self.version > (accusation.boot, accusation.incarnation)

    def accepts(self, statement: Statement) -> bool:
        """Say whether a statement would change this record, by the precedence table."""
        need = PRECEDENCE[self.state][type(statement)]
        if need is Need.NEVER:
            return False
        if isinstance(statement, (Suspect, Dead)):
            return self.is_quoted_by(statement)
        said = (statement.boot, statement.incarnation)
        return said > self.version or (need is Need.SAME and said == self.version)

    def view(self) -> Member:
        """Return the frozen view for the application."""
        alive = self.alive
        return Member(
            alive.name, alive.address, self.state, alive.boot, alive.incarnation, alive.meta, self.public_key,
            (alive.lowest_version, alive.highest_version), alive.patience_s, self.last_heard, self.changed_at,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Remembered:
    """What outlives a member in the table: where it was, and which life of it is over.

    Attributes:
        address: where it was reached last.
        boot: its last life known here, None if only the address is known.
        incarnation: of its last word.
        has_left: whether it said goodbye, or was given up; then nobody tries to reach it.
        ending: the statements that say how it ended, for whoever has not heard of that.
        public_key: its key then; empty if only the address is known.
    """

    address: Address
    boot: Boot | None = None
    incarnation: int = 0
    has_left: bool = False
    ending: tuple[bytes, ...] = ()
    public_key: bytes = b""

    def is_over(self, alive: Alive) -> bool:
        """Say whether a word is from a life that is known to be over."""
        return self.boot is not None and (alive.boot, alive.incarnation) <= (self.boot, self.incarnation)


def digest_of(encoded: bytes) -> bytes:
    """Return the 8 bytes by which an encoded Alive is known in the roll."""
    return sha256(encoded).digest()[:8]


class MemberTable:
    """Everybody known except oneself, in the order in which they became known.

    Args:
        max_members: names beyond this are refused.
        max_remembered: reaped members kept for reconnection, the oldest leaves.

    Attributes:
        roll: the digests of the Alives of all who are up, this member's own included.
    """

    def __init__(self, *, max_members: int, max_remembered: int) -> None:
        self.roll = HashTree()
        self._records: dict[str, Record] = {}
        self._up: dict[str, Record] = {}  # with `_down`, all of `_records` by whether it is up
        self._down: dict[str, Record] = {}
        self._by_digest: dict[bytes, Record] = {}  # of `_up`, as `roll`
        self._ring: list[str] = []  # the names of `_up`, in order
        self._drawn_from: list[Record] | None = None  # `_up` as a list, until it changes
        self._first_change: float | None = None  # the earliest `changed_at` of `_down`
        self._remembered: OrderedDict[str, Remembered] = OrderedDict()
        self._max_members = max_members
        self._max_remembered = max_remembered

    def __len__(self) -> int:
        return len(self._records)

    @property
    def is_full(self) -> bool:
        """Whether a further name has to be refused."""
        return len(self._records) >= self._max_members

    def get(self, name: str) -> Record | None:
        """Return the record of a member."""
        return self._records.get(name)

    def by_digest(self, digest: bytes) -> Record | None:
        """Return the record of a member that is up, by the digest of its word."""
        return self._by_digest.get(digest)

    def records(self) -> list[Record]:
        """Return all records."""
        return list(self._records.values())

    def up(self) -> list[Record]:
        """Return the records of members that are alive or only doubted."""
        return list(self._up.values())

    @property
    def up_count(self) -> int:
        """How many members are alive or only doubted."""
        return len(self._up)

    def insert(self, record: Record) -> None:
        """Add the record of a new name."""
        self._records[record.name] = record
        self._remembered.pop(record.name, None)
        self._sort(record, record.digest)

    def apply(self, record: Record, statement: Statement, encoded: bytes, now: float) -> None:
        """Change a record of this table by a statement that it accepts and that has been verified."""
        before = record.digest
        if isinstance(statement, Alive):
            if statement.boot != record.alive.boot or statement.address != record.alive.address:
                record.rtt = RttEstimator()
            record.alive, record.encoded, record.digest = statement, encoded, digest_of(encoded)
            record.verdict, record.encoded_verdict = None, b""
        else:
            record.verdict, record.encoded_verdict = statement, encoded
        state = STATE_OF[type(statement)]
        if state is not record.state:
            record.state = state
            record.changed_at = now
        self._sort(record, before)

    def successor(self, name: str) -> Record | None:
        """Return the member that follows a name in the ring of those that are up, not doubted if possible."""
        if not self._ring:
            return None
        start = bisect_right(self._ring, name)
        for step in range(len(self._ring)):
            record = self._up[self._ring[(start + step) % len(self._ring)]]
            if record.state is State.ALIVE:
                return record
        return self._up[self._ring[start % len(self._ring)]]

    def choose(
        self, rng: random.Random, count: int, *, exclude: str = "", dead_since: float | None = None
    ) -> list[Record]:
        """Draw up to `count` different members that are up.

        Args:
            rng: where the draw comes from.
            count: how many.
            exclude: a name that is not drawn.
            dead_since: if given, members that died after this time may be drawn too.
        """
        if self._drawn_from is None:
            self._drawn_from = list(self._up.values())
        up, recent = self._drawn_from, []
        if dead_since is not None and self._down:
            recent = [r for r in self._down.values() if r.state is State.DEAD and r.changed_at >= dead_since]
        candidates = len(up) + len(recent)
        wanted = count + 1 if exclude else count
        # Places are drawn, not records: a list of both kinds would be made for each packet of gossip.
        places = rng.sample(range(candidates), min(wanted, candidates))
        drawn = [up[place] if place < len(up) else recent[place - len(up)] for place in places]
        return [record for record in drawn if record.name != exclude][:count] if exclude else drawn

    def reap(self, now: float, after_s: float) -> list[Record]:
        """Drop members that have been dead or gone for so long; remember what may come back."""
        if not self._down:
            return []
        due = self.next_reap(after_s)
        if due is None or due > now:
            return []
        reaped = [r for r in self._down.values() if r.changed_at + after_s <= now]
        self._first_change = None
        for record in reaped:
            self._drop(record, has_left=record.state is State.LEFT)
        return reaped

    def forget(self, name: str, boot: Boot | None) -> tuple[bool, Record | None]:
        """Take a member that is lost for good for one that has said goodbye; one that is up stays.

        Args:
            name: of the member.
            boot: its last life that is given up, None for whichever is known here.

        Returns:
            Whether it was to be tried on until now; and its record, if it was in the table.
        """
        record, past = self._records.get(name), self._remembered.get(name)
        if record is not None:
            if record.state is not State.DEAD or (boot is not None and record.alive.boot > boot):
                return False, None
            self._first_change = None
            self._drop(record, has_left=True)
            return True, record
        if past is None or past.has_left:
            return False, None
        if boot is not None and past.boot is not None and past.boot > boot:
            return False, None
        self._remembered[name] = replace(past, has_left=True)
        return True, None

    def expel(self, record: Record) -> None:
        """Drop a member at once, whatever it is held for, as one that has said goodbye."""
        record.state = State.LEFT
        self._sort(record, record.digest)
        self._first_change = None
        self._drop(record, has_left=True)

    def remember(self, name: str, remembered: Remembered) -> None:
        """Keep a member that is not in the table in the address book."""
        if name not in self._records:
            self._remembered[name] = remembered
            if len(self._remembered) > self._max_remembered:
                self._remembered.popitem(last=False)

    def remembered(self, name: str) -> Remembered | None:
        """Return what is remembered of a member that is not in the table any more."""
        return self._remembered.get(name)

    def address_book(self) -> list[tuple[str, Address]]:
        """Return name and address of everybody that has not said goodbye, reaped members included."""
        known = [(n, r.alive.address) for n, r in self._records.items() if r.state is not State.LEFT]
        return [*known, *self._remembered_addresses()]

    def lost(self) -> list[tuple[str, Address]]:
        """Return name and last address of dead members and of reaped ones."""
        dead = [(n, r.alive.address) for n, r in self._down.items() if r.state is State.DEAD]
        return [*dead, *self._remembered_addresses()]

    def next_reap(self, after_s: float) -> float | None:
        """Return when `reap` next has something to drop."""
        # The same sum as in `reap`: a rounding difference would fire a timer that does nothing.
        if not self._down:
            return None
        if self._first_change is None:
            self._first_change = min(r.changed_at for r in self._down.values())
        return self._first_change + after_s

    def statistics(self) -> dict[str, int]:
        """Count members by state, and remembered ones."""
        counts = {f"members_{state.name.lower()}": 0 for state in State}
        for record in self._records.values():
            counts[f"members_{record.state.name.lower()}"] += 1
        return {**counts, "remembered_members": len(self._remembered)}

    def _remembered_addresses(self) -> list[tuple[str, Address]]:
        return [(name, r.address) for name, r in self._remembered.items() if not r.has_left]

    def _drop(self, record: Record, *, has_left: bool) -> None:
        """Take a member that is down out of the table, and remember it."""
        del self._records[record.name], self._down[record.name]
        said, key = record.said_last, record.public_key
        past = Remembered(record.alive.address, *record.version, has_left, said, key)
        self.remember(record.name, past)

    def _sort(self, record: Record, before: bytes) -> None:
        """Put a record where its state belongs, and its word into the roll in place of the one before."""
        name = record.name
        there, elsewhere = (self._up, self._down) if record.is_up else (self._down, self._up)
        moved = elsewhere.pop(name, None) is not None or name not in there
        there[name] = record
        if moved:
            self._drawn_from = self._first_change = None
            if record.is_up:
                insort(self._ring, name)
            elif (at := bisect_left(self._ring, name)) < len(self._ring) and self._ring[at] == name:
                del self._ring[at]
        elif not record.is_up:
            self._first_change = None
        if self._by_digest.get(before) is record and (before != record.digest or not record.is_up):
            del self._by_digest[before]
            self.roll.remove(before)
        if record.is_up and record.digest not in self._by_digest:
            self._by_digest[record.digest] = record
            self.roll.add(record.digest)
