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
"""Peers whose step is remembered; the one that was heard longest ago makes room."""
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


class _Peer:
    """What is remembered of one peer."""

    __slots__ = ("differs_since", "heard_at", "interval_s", "next_opening_at", "replies", "second")

    def __init__(self) -> None:
        self.heard_at = NEVER
        self.differs_since: float | None = None
        self.next_opening_at = NEVER
        self.interval_s = REPAIR_INTERVAL_S
        self.second = NEVER
        self.replies = 0


class Comparisons:
    """Decides when to open comparisons with whom.

    Args:
        max_peers: peers that are remembered.
    """

    def __init__(self, max_peers: int = MAX_PEERS) -> None:
        self.opened = 0
        self._max_peers = max_peers
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._roots: OrderedDict[bytes, float] = OrderedDict()
        self._own_root = b""
        self._own_root_since = NEVER
        self._in_step_at = NEVER
        self._next_unsettled_at = NEVER
        self._longest_ever_s = 0.0
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._peers)

    def agrees(self, peer: str, own_root: bytes, now: float) -> None:
        """Take note of a peer that shows the own root."""
        found = self._heard(peer, own_root, now)
        found.interval_s = REPAIR_INTERVAL_S
        self._in_step_at = now
        if found.differs_since is not None:
            self._longest_ever_s = max(self._longest_ever_s, now - found.differs_since)
            found.differs_since = None

    def differs(self, peer: str, own_root: bytes, root: bytes, now: float) -> bool:
        """Take note of a peer that shows another root; say whether to open a comparison with it now."""
        found = self._heard(peer, own_root, now)
        if found.differs_since is None:
            found.differs_since = now
        if self._in_step_at == NEVER:
            self._in_step_at = now
        appeared_at = self._roots.setdefault(root, now)
        if len(self._roots) > MAX_FOREIGN_ROOTS:
            self._roots.popitem(last=False)
        if now < found.next_opening_at or not self._is_due(found, own_root < root, appeared_at, now):
            return False
        found.next_opening_at = now + found.interval_s
        found.interval_s = min(found.interval_s * 2, MAX_REPAIR_INTERVAL_S)
        self.opened += 1
        return True

    def brought_news(self, peer: str) -> None:
        """Take note that a peer sent something new: comparing with it is worth while."""
        found = self._peers.get(peer)
        if found is not None:
            found.interval_s = REPAIR_INTERVAL_S

    def within_budget(self, peer: str, replies: list[bytes], now: float) -> list[bytes]:
        """Return the first of some replies to a peer, at most 64 a second."""
        if not replies:
            return replies
        found = self._peer(peer)
        if now >= found.second + 1.0:
            found.second, found.replies = now, 0
        allowed = replies[: MAX_REPLIES_PER_S - found.replies]
        found.replies += len(allowed)
        return allowed

    def forget(self, peer: str) -> None:
        """Drop a peer that is gone."""
        self._peers.pop(peer, None)

    def divergence(self, root: bytes, now: float) -> Divergence:
        """Return how far this node, with such a root, agrees with its peers."""
        recent = [found for found in self._peers.values() if found.heard_at >= now - RECENT_S]
        since = [found.differs_since for found in recent if found.differs_since is not None]
        return Divergence(
            root,
            in_step=len(recent) - len(since),
            differing=len(since),
            longest_s=now - min(since, default=now),
            longest_ever_s=self._longest_ever_s,
            peers=tuple(
                PeerStep(name, self._peers[name].heard_at, self._peers[name].differs_since)
                for name in sorted(self._peers)
            ),
        )

    def statistics(self) -> dict[str, int]:
        """Count peers and comparisons, as of the last time that a root was heard."""
        divergence = self.divergence(b"", self._now)
        return {
            "comparisons_opened": self.opened,
            "peers": len(self._peers),
            "peers_in_step": divergence.in_step,
            "peers_differing": divergence.differing,
            "divergence_ms": round(1000 * divergence.longest_s),
            "longest_divergence_ms": round(1000 * divergence.longest_ever_s),
        }

    def _is_due(self, found: _Peer, is_lower: bool, appeared_at: float, now: float) -> bool:
        """Say whether a difference looks like a loss; the module's docstring has the rules."""
        settled_at = max(self._own_root_since, appeared_at) + SETTLE_S
        if now >= settled_at + (0.0 if is_lower else YIELD_S):
            return True
        if found.differs_since is not None and now >= found.differs_since + PATIENCE_S:
            return True
        if now >= self._in_step_at + PATIENCE_S and now >= self._next_unsettled_at:
            self._next_unsettled_at = now + SETTLE_S
            return True
        return False

    def _heard(self, peer: str, own_root: bytes, now: float) -> _Peer:
        if own_root != self._own_root:
            self._own_root, self._own_root_since = own_root, now
        found = self._peer(peer)
        found.heard_at = self._now = now
        return found

    def _peer(self, peer: str) -> _Peer:
        found = self._peers.get(peer)
        if found is not None:
            self._peers.move_to_end(peer)
            return found
        found = self._peers[peer] = _Peer()
        if len(self._peers) > self._max_peers:
            self._peers.popitem(last=False)
        return found
