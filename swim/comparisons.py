"""Who is in step with this node, since when not, and when it is worth while to compare.

Every ping and every ack carries the root of its sender. A foreign root says that something differs,
not that anything was lost: while news is spreading, roots differ everywhere, and gossip will settle
most of it within a second. So a comparison is opened only when the difference looks like a loss:

- The own root and the peer's have both been around for `SETTLE_S` (the peer's may have been heard
  from others), so what differs is not on its way. In a cluster at rest this finds a lost unit.
- Or the difference with that peer has lasted for `PATIENCE_S`. Under constant change nothing ever
  settles, and what is missing is fetched this way.
- Or nobody has been in step for `PATIENCE_S`. In a large cluster a pair meets once in some
  minutes, so the second rule alone would let a node wait for long. Such comparisons are opened
  every `SETTLE_S` at most.

Of two nodes that see each other's root, the one with the lower root opens at once, and the other
only when the difference outlives `YIELD_S`; else both would find the same difference twice.

With one peer, comparisons are at least `REPAIR_INTERVAL_S` apart, and twice as far after each that
brought nothing. This paces one set of units; who compares a second one keeps a second `Comparisons`.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MAX_PEERS: Final = 2048
"""Peers in step, and peers that differ, that are remembered; who was heard longest ago makes room."""
MAX_FOREIGN_ROOTS: Final = 64
"""Foreign roots of which is remembered when they appeared."""
SETTLE_S: Final = 1.0
"""A root younger than this is about to change again."""
PATIENCE_S: Final = 5.0
"""A difference older than this is compared, whatever else is going on."""
YIELD_S: Final = 1.0
"""So long the node with the higher root leaves the opening to the other."""
REPAIR_INTERVAL_S: Final = 1.0
"""Least time between two comparisons that are opened with the same peer."""
MAX_REPAIR_INTERVAL_S: Final = 16.0
"""The interval doubles up to this while comparisons bring nothing new."""
MAX_REPLIES_PER_S: Final = 64
"""Frames with which one peer's frames are answered in one second."""
RECENT_S: Final = 60.0
"""A peer that was heard so long ago still counts in the totals."""

NEVER: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class PeerStep:
    """Whether a peer holds what this node holds.

    Attributes:
        peer: its name.
        heard_at: when it last showed a root, in monotonic seconds.
        differs_since: since when its root has been another, in monotonic seconds; None if it is in step.
    """

    peer: str
    heard_at: float
    differs_since: float | None


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far this node agrees with its peers.

    Attributes:
        root: 8 bytes that stand for all that this node holds.
        in_step: peers heard within the last minute whose last root was the own one.
        differing: peers heard within the last minute whose last root was another.
        longest_s: the longest that one of these has differed without interruption, as far as was heard.
        longest_ever_s: the longest that any peer has differed and came back into step.
        peers: each peer that is remembered, in the order of their names.
    """

    root: bytes
    in_step: int
    differing: int
    longest_s: float
    longest_ever_s: float
    peers: tuple[PeerStep, ...]


class _Differing:
    """A peer whose last root was another than the own one."""

    __slots__ = ("heard_at", "interval_s", "next_opening_at", "since")

    def __init__(self, now: float) -> None:
        self.since = self.heard_at = now
        self.next_opening_at = NEVER
        self.interval_s = REPAIR_INTERVAL_S


class Comparisons:
    """Decides when to open comparisons with whom.

    Of a peer in step only the time is remembered, so that a simulator can afford a thousand peers
    of each of a thousand members.

    Args:
        max_peers: peers in step, peers that differ, and peers that were answered, each.
    """

    def __init__(self, max_peers: int = MAX_PEERS) -> None:
        self.opened = 0
        self._max_peers = max_peers
        self._in_step: dict[str, float] = {}  # when it was heard; the one heard last comes last
        self._differing: OrderedDict[str, _Differing] = OrderedDict()
        self._answered: OrderedDict[str, tuple[float, int]] = OrderedDict()  # begin of a second, frames in it
        self._roots: OrderedDict[bytes, float] = OrderedDict()
        self._own_root = b""
        self._own_root_since = NEVER
        self._in_step_at = NEVER
        self._next_unsettled_at = NEVER
        self._longest_ever_s = 0.0
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._in_step) + len(self._differing)

    def agrees(self, peer: str, own_root: bytes, now: float) -> None:
        """Take note of a peer that shows the own root."""
        self._heard(own_root, now)
        self._in_step_at = now
        self._in_step.pop(peer, None)
        self._in_step[peer] = now
        found = self._differing.pop(peer, None)
        if found is not None:
            self._longest_ever_s = max(self._longest_ever_s, now - found.since)
        if len(self._in_step) > self._max_peers:
            del self._in_step[next(iter(self._in_step))]

    def differs(self, peer: str, own_root: bytes, root: bytes, now: float) -> bool:
        """Take note of a peer that shows another root; say whether to open a comparison with it now."""
        self._heard(own_root, now)
        if self._in_step_at == NEVER:
            self._in_step_at = now
        appeared_at = self._roots.setdefault(root, now)
        if len(self._roots) > MAX_FOREIGN_ROOTS:
            self._roots.popitem(last=False)
        found = self._now_differing(peer, now)
        if now < found.next_opening_at or not self._is_due(found, own_root < root, appeared_at, now):
            return False
        found.next_opening_at = now + found.interval_s
        found.interval_s = min(found.interval_s * 2, MAX_REPAIR_INTERVAL_S)
        self.opened += 1
        return True

    def brought_news(self, peer: str) -> None:
        """Take note that a peer sent something new: comparing with it is worth while."""
        found = self._differing.get(peer)
        if found is not None:
            found.interval_s = REPAIR_INTERVAL_S

    def within_budget(self, peer: str, replies: list[bytes], now: float) -> list[bytes]:
        """Return the first of some replies to a peer, at most 64 a second."""
        if not replies:
            return replies
        second, count = self._answered.pop(peer, (NEVER, 0))
        if now >= second + 1.0:
            second, count = now, 0
        allowed = replies[: MAX_REPLIES_PER_S - count]
        self._answered[peer] = (second, count + len(allowed))
        if len(self._answered) > self._max_peers:
            self._answered.popitem(last=False)
        return allowed

    def forget(self, peer: str) -> None:
        """Drop a peer that is gone."""
        self._in_step.pop(peer, None)
        self._differing.pop(peer, None)
        self._answered.pop(peer, None)

    def divergence(self, root: bytes, now: float) -> Divergence:
        """Return how far this node, with such a root, agrees with its peers."""
        recent = now - RECENT_S
        since = [found.since for found in self._differing.values() if found.heard_at >= recent]
        steps = [PeerStep(peer, heard_at, None) for peer, heard_at in self._in_step.items()]
        steps += [PeerStep(peer, found.heard_at, found.since) for peer, found in self._differing.items()]
        return Divergence(
            root,
            in_step=sum(heard_at >= recent for heard_at in self._in_step.values()),
            differing=len(since),
            longest_s=now - min(since, default=now),
            longest_ever_s=self._longest_ever_s,
            peers=tuple(sorted(steps, key=lambda step: step.peer)),
        )

    def statistics(self) -> dict[str, int]:
        """Count peers and comparisons, as of the last time that a root was heard."""
        divergence = self.divergence(b"", self._now)
        return {
            "comparisons_opened": self.opened,
            "peers": len(self),
            "peers_in_step": divergence.in_step,
            "peers_differing": divergence.differing,
            "divergence_ms": round(1000 * divergence.longest_s),
            "longest_divergence_ms": round(1000 * divergence.longest_ever_s),
        }

    def _is_due(self, found: _Differing, is_lower: bool, appeared_at: float, now: float) -> bool:
        """Say whether a difference looks like a loss; the module's docstring has the rules."""
        settled_at = max(self._own_root_since, appeared_at) + SETTLE_S
        if now >= settled_at + (0.0 if is_lower else YIELD_S):
            return True
        if now >= found.since + PATIENCE_S:
            return True
        if now >= self._in_step_at + PATIENCE_S and now >= self._next_unsettled_at:
            self._next_unsettled_at = now + SETTLE_S
            return True
        return False

    def _heard(self, own_root: bytes, now: float) -> None:
        if own_root != self._own_root:
            self._own_root, self._own_root_since = own_root, now
        self._now = now

    def _now_differing(self, peer: str, now: float) -> _Differing:
        found = self._differing.get(peer)
        if found is not None:
            found.heard_at = now
            self._differing.move_to_end(peer)
            return found
        self._in_step.pop(peer, None)
        found = self._differing[peer] = _Differing(now)
        if len(self._differing) > self._max_peers:
            self._differing.popitem(last=False)
        return found
