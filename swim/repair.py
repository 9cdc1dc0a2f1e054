"""When two members compare what they hold, and by which way.

Roots ride on probes. While news is still spreading they differ everywhere, and a comparison would find what
is on its way already; so one is opened only when this member's own state has been quiet for `SETTLE_S`, or
has been out of step for `IMPATIENT_S` in spite of it: with everybody, or with this very peer whenever their
probes met. Whoever has heard news asks a random member for its root once things have settled, and goes on
doing so until one agrees: what a rumour has missed is found then, and not only with the next probe. A member
that stays out of step although packets are exchanged opens a stream.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

from swim.broadcast import Replicated
from swim.codec import encode_message
from swim.config import SwimConfig
from swim.members import Record
from swim.messages import DecodeError, MapFrame, RollFrame
from swim.roll import Roll, mixed

SETTLE_S: Final = 0.4
"""Rumours reach everybody in less, unless they are lost."""
IMPATIENT_S: Final = 5.0
OPENING_GAP_S: Final = 0.5
"""Least time between two comparisons of rolls that this member opens."""
MAX_DIFFERING: Final = 64
"""Peers whose root differed when it was last seen; the first of them leaves. A cluster with more members that
never settles has no two that agree, so that all differ from everybody."""
MAX_ANSWERS_PER_S: Final = 128
"""Frames of rolls with which peers are answered in one second, all together."""


class Owner(Protocol):
    """What comparing needs of the protocol around it."""

    wall_offset: float

    def send_encoded(self, record: Record, encoded: Sequence[bytes]) -> None:
        """Send encoded messages in as many datagrams as they need."""

    def learn_compared(self, encoded: bytes, sender: str, now: float) -> tuple[bytes, ...]:
        """Take a statement of a peer; return what is held against it."""

    def open_stream(self, record: Record, now: float) -> None:
        """Open a push-pull with a member."""

    def introduction(self) -> list[bytes]:
        """Return the statements that tell a stranger who this is."""

    def ask_for_root(self, now: float) -> None:
        """Ask a random member for its root."""

    def is_spreading(self) -> bool:
        """Say whether this member goes round with streams (`swim/spreading.py`)."""


class Repair:
    """Keeps this member in step with others.

    Args:
        config: the parameters.
        owner: the protocol around it.
        roll: who is up.
        replicated: the map.
        counts: where comparisons are counted.
    """

    def __init__(
        self,
        config: SwimConfig,
        owner: Owner,
        *,
        roll: Roll,
        replicated: Replicated,
        counts: Counter[str],
    ) -> None:
        self._config = config
        self._owner = owner
        self._roll = roll
        self._replicated = replicated
        self._counts = counts
        self._root = b""
        self._quiet_since = 0.0
        self._out_of_step_since: float | None = None
        self._differing: OrderedDict[str, float] = OrderedDict()  # since when, by peer
        self._next_opening_at = self._next_stream_at = 0.0
        self._ask_at: float | None = None
        self._ask_latest = 0.0
        self._second = self._answers = 0

    def root(self) -> bytes:
        """Return the root of all replicated state."""
        return mixed(self._roll.root(), self._replicated.root())

    def disturbed(self, now: float) -> None:
        """There is news: once it has spread, somebody is asked whether anything was missed."""
        self._quiet_since = now
        if self._ask_at is None:
            self._ask_at = now + SETTLE_S
            self._ask_latest = now + IMPATIENT_S

    def handle_timer(self, now: float) -> None:
        """Ask for a root, if things have settled."""
        if self._ask_at is None or now < self._ask_at:
            return
        quiet_at = self._quiet_since + SETTLE_S
        if now < quiet_at and now < self._ask_latest:
            self._ask_at = quiet_at
            return
        self._ask_at = None
        self._owner.ask_for_root(now)

    def next_timer(self) -> float | None:
        """Return when `handle_timer` is wanted."""
        return self._ask_at

    def compare(self, record: Record, root: bytes, now: float) -> None:
        """Take the root that a member has shown with a probe."""
        own = self.root()
        if own != self._root:
            self._root, self._quiet_since = own, now
        # If the rolls agree, this is the peer's root of the map; if not, it is nobody's.
        map_root = mixed(root, self._roll.root())
        if root == own:
            self._out_of_step_since = None
            self._differing.pop(record.name, None)
            self._replicated.peer_root(record.name, map_root, now)
            return
        if self._out_of_step_since is None:
            self._out_of_step_since = now
        if self._ask_at is None:
            self._ask_at = now + SETTLE_S
        if self._owner.is_spreading():  # what packets would find is on its way over streams
            return
        frames = self._replicated.peer_root(record.name, map_root, now)
        encoded = [encode_message(MapFrame(frame)) for frame in frames]
        out_of_step_s = now - self._out_of_step_since
        impatient_at = IMPATIENT_S + min(self._out_of_step_since, self._differs_since(record.name, now))
        if now >= self._next_opening_at and (now - self._quiet_since >= SETTLE_S or now >= impatient_at):
            self._next_opening_at = now + OPENING_GAP_S
            self._counts["roll_comparisons"] += 1
            encoded += [encode_message(RollFrame(frame)) for frame in self._roll.opening()]
        self._owner.send_encoded(record, encoded)
        if out_of_step_s >= self._config.repair_stream_after_s and now >= self._next_stream_at:
            self._next_stream_at = now + self._config.repair_stream_after_s
            self._counts["repair_streams"] += 1
            self._owner.open_stream(record, now)

    def welcome(self, record: Record) -> None:
        """Tell somebody who has just introduced itself who we are, and begin to compare."""
        self._counts["welcomes"] += 1
        frames = [encode_message(RollFrame(frame)) for frame in self._roll.opening()]
        self._owner.send_encoded(record, [*self._owner.introduction(), *frames])

    def take_roll_frame(self, record: Record, frame: bytes, now: float) -> None:
        """Take a frame of the comparison of rolls.

        Raises:
            DecodeError: for a frame that is none, or holds a forged statement.
        """
        try:
            words, answers = self._roll.receive(frame)
        except ValueError:
            raise DecodeError("bad_roll_frame") from None
        against: dict[bytes, None] = {}
        for word in words:
            against.update(dict.fromkeys(self._owner.learn_compared(word, record.name, now)))
        if int(now) != self._second:
            self._second, self._answers = int(now), 0
        answers = answers[: MAX_ANSWERS_PER_S - self._answers]
        self._answers += len(answers)
        encoded = [encode_message(RollFrame(answer)) for answer in answers]
        self._owner.send_encoded(record, [*against, *encoded])

    def take_map_frame(self, record: Record, frame: bytes, now: float) -> None:
        """Take a frame of the replicated map."""
        wall = now + self._owner.wall_offset
        frames = self._replicated.receive(record.name, frame, now, wall)
        self._owner.send_encoded(record, [encode_message(MapFrame(frame)) for frame in frames])

    def _differs_since(self, peer: str, now: float) -> float:
        since = self._differing.setdefault(peer, now)
        if len(self._differing) > MAX_DIFFERING:
            self._differing.popitem(last=False)
        return since

    def statistics(self) -> dict[str, int]:
        """Say whether this member is out of step."""
        return {"out_of_step": int(self._out_of_step_since is not None)}
