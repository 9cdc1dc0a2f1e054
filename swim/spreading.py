"""Spreads what is too much for gossip: who has published many buckets at once goes round with streams.

Gossip sends a unit a dozen times from each member that has it, most of these times to somebody who has it
already. For one unit that is what makes it fast and certain; for the hundred buckets of two thousand agents
it is a flood in which nine packets of ten are for nothing. So these are not gossiped. Their owner opens one
push-pull after another (`swim/sync.py`), each with another random member, and each brings exactly what one
of the two lacks; a member that has got much in this way goes round in turn (rumour mongering by push-pull,
Demers et al., Epidemic Algorithms, 1987). Who meets `ENOUGH_AGREED` members, one after the other, that lack
next to nothing ends its round.

Nothing rests on it: roots on probes find what a round has missed, and the buckets of an owner that reached
nobody over a stream are gossiped after all.
"""

from collections import Counter
from typing import Final, Protocol

from swim.broadcast import Replicated
from swim.config import SwimConfig
from swim.members import Record
from swim.messages import Address
from swim.sync import Sync

MAX_VISITS: Final = 32
"""Members that are visited in one round."""
ENOUGH_AGREED: Final = 3
"""Members that lacked next to nothing, one after the other, after which a round ends."""
LITTLE_FRAMES: Final = 8
"""Frames of units that are next to nothing: what one burst of gossip carries."""
PATIENCE_S: Final = 1.0
"""How long a member that is visited may keep the round waiting; its stream goes on without."""
MUCH_NEWS: Final = 32
"""Units that somebody has brought over a stream from which on they are passed on over streams."""


class Owner(Protocol):
    """What spreading needs of the protocol around it."""

    def begin_stream(self, to: Address, now: float) -> bool:
        """Open a push-pull; say whether there was room for one more."""

    def choose(self, count: int) -> list[Record]:
        """Draw so many members that are up."""

    def size(self) -> int:
        """Return how many members are up, this one included."""


class Spreading:
    """The rounds of one member: one at a time, with one stream at a time.

    Args:
        config: the pause after a stream that could not be opened.
        owner: the protocol around it.
        replicated: the map, which says whether something waits to be spread.
        counts: where streams are counted.
    """

    def __init__(
        self, config: SwimConfig, owner: Owner, *, replicated: Replicated, counts: Counter[str]
    ) -> None:
        self._config = config
        self._owner = owner
        self._replicated = replicated
        self._counts = counts
        self._to_visit: list[Record] | None = None  # None between two rounds
        self._target: Address | None = None
        self._relays = False
        self._published = self._agreed = self._reached = 0
        self._next_at = 0.0

    @property
    def is_on(self) -> bool:
        """Whether a round is going on, which finds what differs by itself."""
        return self._to_visit is not None

    def next_timer(self) -> float | None:
        """Return when `handle_timer` is wanted."""
        is_wanted = self.is_on or self._relays or self._replicated.bulk_waits()
        return self._next_at if is_wanted and self._owner.size() > 1 else None

    def handle_timer(self, now: float) -> None:
        """Visit the next member, if it is time to."""
        due = self.next_timer()
        if due is None or due > now:
            return
        if self._to_visit is None:
            self._to_visit = self._owner.choose(MAX_VISITS)
            self._agreed = self._reached = 0
        self._target = None
        if not self._to_visit:
            self._end()
            return
        record = self._to_visit.pop()
        self._published = self._replicated.bulk_waits()
        if self._owner.begin_stream(record.alive.address, now):
            self._target, self._next_at = record.alive.address, now + PATIENCE_S
            self._counts["spreading_streams"] += 1
        else:
            self._next_at = now + self._config.eager_gap_s

    def took(self, news: int) -> None:
        """Take note of how many units somebody has brought over a stream that it had opened."""
        if news >= MUCH_NEWS:
            self._relays = True
            self._agreed = 0

    def done(self, sync: Sync, now: float) -> None:
        """Take note of a push-pull that has succeeded."""
        if sync.address != self._target:
            return
        self._target, self._next_at = None, now
        self._reached += 1
        self._agreed = self._agreed + 1 if sync.given_frames <= LITTLE_FRAMES else 0
        if self._replicated.bulk_waits() > self._published:
            self._agreed = 0  # more was published meanwhile, which that member has not seen
        if self._agreed >= ENOUGH_AGREED:
            self._end()

    def failed(self, sync: Sync, now: float) -> None:
        """Take note of a push-pull that has come to nothing; the next member is visited."""
        if sync.address == self._target:
            self._target, self._next_at = None, now + self._config.eager_gap_s

    def statistics(self) -> dict[str, int]:
        """Say whether a round is going on."""
        return {"spreading": int(self.is_on)}

    def _end(self) -> None:
        self._to_visit, self._relays = None, False
        self._replicated.bulk_over(is_spread=self._reached > 0)
