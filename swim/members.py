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
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from swim.messages import Address, Alive, Boot, Dead, Left, Snapshot, Statement, Suspect, Verdict


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
    last_heard: float
    changed_at: float

    @property
    def is_up(self) -> bool:
        """Whether work may be sent there: alive, or only doubted."""
        return self.state <= State.SUSPECT


@dataclass(slots=True)
class Record:
    """What is held about one member; `alive` is always a verified word of its own."""

    alive: Alive
    public_key: bytes
    state: State
    verdict: Verdict | None
    last_heard: float
    changed_at: float

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

    def accepts(self, statement: Statement) -> bool:
        """Say whether a statement would change this record, by the precedence table."""
        need = PRECEDENCE[self.state][type(statement)]
        said = (statement.boot, statement.incarnation)
        if need is Need.NEVER:
            return False
        if isinstance(statement, (Suspect, Dead)):
            return said == (self.alive.boot, self.alive.incarnation)
        return said > self.version or (need is Need.SAME and said == self.version)

    def apply(self, statement: Statement, now: float) -> None:
        """Change the record by a statement that it accepts and that has been verified."""
        if isinstance(statement, Alive):
            self.alive = statement
            self.verdict = None
        else:
            self.verdict = statement
        state = STATE_OF[type(statement)]
        if state is not self.state:
            self.state = state
            self.changed_at = now

    def view(self) -> Member:
        """Return the frozen view for the application."""
        return Member(
            self.alive.name, self.alive.address, self.state, self.alive.boot,
            self.alive.incarnation, self.alive.meta, self.public_key, self.last_heard,
            self.changed_at,
        )  # fmt: skip

    def snapshot(self, now: float) -> Snapshot:
        """Return the record as a push-pull carries it."""
        return Snapshot(self.alive, self.verdict, max(0, int(now - self.changed_at)))


class MemberTable:
    """Everybody known except oneself, in the order in which they became known.

    Args:
        max_members: names beyond this are refused.
        max_remembered: addresses of reaped members kept for reconnection, the oldest leaves.
    """

    def __init__(self, *, max_members: int, max_remembered: int) -> None:
        self._records: dict[str, Record] = {}
        self._up: dict[str, Record] = {}  # with `_down`, all of `_records` by whether it is up
        self._down: dict[str, Record] = {}
        self._drawn_from: list[Record] | None = None  # `_up` as a list, until it changes
        self._first_change: float | None = None  # the earliest `changed_at` of `_down`
        self._remembered: OrderedDict[str, Address] = OrderedDict()
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
        self._records[record.alive.name] = record
        self._remembered.pop(record.alive.name, None)
        self._sort(record)

    def apply(self, record: Record, statement: Statement, now: float) -> None:
        """Change a record of this table by a statement that it accepts and that has been verified."""
        record.apply(statement, now)
        self._sort(record)

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
        candidates = self._drawn_from
        if dead_since is not None and self._down:
            recent = [r for r in self._down.values() if r.state is State.DEAD and r.changed_at >= dead_since]
            candidates = [*candidates, *recent]
        wanted = count + 1 if exclude else count
        drawn = rng.sample(candidates, min(wanted, len(candidates)))
        return [record for record in drawn if record.alive.name != exclude][:count]

    def reap(self, now: float, after_s: float) -> list[Record]:
        """Drop members that have been dead or gone for so long; remember the dead's address."""
        due = self.next_reap(after_s)
        if due is None or due > now:
            return []
        reaped = [r for r in self._down.values() if r.changed_at + after_s <= now]
        self._first_change = None
        for record in reaped:
            del self._records[record.alive.name], self._down[record.alive.name]
            if record.state is State.DEAD:
                self.remember([(record.alive.name, record.alive.address)])
        return reaped

    def remember(self, book: Sequence[tuple[str, Address]]) -> None:
        """Keep addresses of members that are not in the table, for reconnection."""
        for name, address in book:
            if name not in self._records:
                self._remembered[name] = address
                if len(self._remembered) > self._max_remembered:
                    self._remembered.popitem(last=False)

    def address_book(self) -> list[tuple[str, Address]]:
        """Return name and address of everybody that has not said goodbye, reaped members included."""
        known = [(n, r.alive.address) for n, r in self._records.items() if r.state is not State.LEFT]
        return [*known, *self._remembered.items()]

    def lost_addresses(self) -> list[Address]:
        """Return where dead members and reaped ones were last reached, each once."""
        dead = [r.alive.address for r in self._down.values() if r.state is State.DEAD]
        return list(dict.fromkeys([*dead, *self._remembered.values()]))

    def next_reap(self, after_s: float) -> float | None:
        """Return when `reap` next has something to drop."""
        # The same sum as in `reap`: a rounding difference would fire a timer that does nothing.
        if not self._down:
            return None
        if self._first_change is None:
            self._first_change = min(r.changed_at for r in self._down.values())
        return self._first_change + after_s

    def statistics(self) -> dict[str, int]:
        """Count members by state, and remembered addresses."""
        counts = {f"members_{state.name.lower()}": 0 for state in State}
        for record in self._records.values():
            counts[f"members_{record.state.name.lower()}"] += 1
        return {**counts, "remembered_addresses": len(self._remembered)}

    def _sort(self, record: Record) -> None:
        name = record.alive.name
        there, elsewhere = (self._up, self._down) if record.is_up else (self._down, self._up)
        if elsewhere.pop(name, None) is not None or name not in there:
            self._drawn_from = None
        there[name] = record
        self._first_change = None
