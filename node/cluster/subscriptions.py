"""Who subscribes to a topic: a trie over the levels of all patterns in the cluster.

A look-up goes down level by level along at most all prefixes that match, without recursion: it never costs
more than going through every subscription would, whatever the patterns are.
"""

from __future__ import annotations

from node.topics import ONE, REST

Holder = tuple[str, str]
"""Whose a subscription is."""


class _Node:
    """One level of a trie: those that end here, those that take the rest, and what follows."""

    __slots__ = ("below", "here", "rest")

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        self.here: dict[Holder, None] = {}
        self.rest: dict[Holder, None] = {}

    @property
    def is_empty(self) -> bool:
        return not (self.below or self.here or self.rest)


class Subscriptions:
    """The subscriptions of a cluster; bounded by the entries of its maps."""

    def __init__(self) -> None:
        self._root = _Node()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, pattern: str, holder: Holder) -> None:
        """Take note of a subscription."""
        at = self._root
        for level in pattern.split("."):
            if level == REST:
                held = at.rest
                break
            at = at.below.setdefault(level, _Node())
        else:
            held = at.here
        self._count += holder not in held
        held[holder] = None

    def remove(self, pattern: str, holder: Holder) -> None:
        """Forget one, and the levels that nobody needs any more."""
        way: list[tuple[_Node, str]] = []
        at = self._root
        is_rest = False
        for level in pattern.split("."):
            if level == REST:
                is_rest = True
                break
            found = at.below.get(level)
            if found is None:
                return
            way.append((at, level))
            at = found
        held = at.rest if is_rest else at.here
        self._count -= holder in held
        held.pop(holder, None)
        for parent, level in reversed(way):
            if not parent.below[level].is_empty:
                return
            del parent.below[level]

    def holders(self, topic: str) -> list[Holder]:
        """Whose subscriptions match, each once, sorted."""
        found: dict[Holder, None] = {}
        reached = [self._root]
        for level in topic.split("."):
            following = []
            for node in reached:
                found.update(node.rest)
                following += [below for key in (level, ONE) if (below := node.below.get(key)) is not None]
            reached = following
        for node in reached:
            found.update(node.here)
            found.update(node.rest)
        return sorted(found)
