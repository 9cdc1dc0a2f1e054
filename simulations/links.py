"""How packets travel from one host to another: delay, loss, duplicates, corruption, capacity, cuts.

A :class:`Link` is one direction between two hosts, so everything can be one-way. What a fault does to links
is a :class:`Rule`: who sends, who receives, and what is changed for them. Rules that overlap add up: delays
and losses accumulate, the smallest capacity counts, one cut is enough. Without a rule all pairs share one
link; with rules a pair's link is put together on first use and kept until the rules change.

Datagrams and streams share a link but may be cut apart from each other, as a firewall does that blocks UDP.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from simulations.timeline import US_PER_S

MAX_FLIPPED_BITS: Final = 8
"""A corrupted datagram has one to so many flipped bits."""
DEFAULT_QUEUE_BYTES: Final = 65_536
"""What waits in front of a link of limited capacity; more is dropped."""
MAX_DELAY_S: Final = 60.0
"""No draw of a delay is longer, however long the tail of its distribution."""


@dataclass(slots=True)
class Link:
    """One direction between two hosts.

    Args:
        delay_s: Shortest delay.
        jitter_s: Most that is added to it, uniformly.
        tail_s: Mean of an exponential tail; 0 for none.
        sigma: Spread of a log-normal factor on ``delay_s``; 0 for none.
        loss: Probability that a packet is lost.
        duplicate: Probability that a datagram arrives twice.
        reorder: Probability that a datagram is overtaken: it takes up to ``reorder_s`` longer.
        reorder_s: How far a datagram falls behind at most.
        corrupt: Probability that some bits of a datagram are flipped.
        capacity_bytes_s: Bytes per second; None for no limit.
        queue_bytes: What may wait for the link while it is busy.
        cut: Whether nothing passes at all.
        cut_datagrams: Whether no datagram passes, while streams do.
    """

    delay_s: float = 0.002
    jitter_s: float = 0.001
    tail_s: float = 0.0
    sigma: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.05
    corrupt: float = 0.0
    capacity_bytes_s: float | None = None
    queue_bytes: int = DEFAULT_QUEUE_BYTES
    cut: bool = False
    cut_datagrams: bool = False
    _free_at_us: int = field(default=0, repr=False, compare=False)

    def delay_us(self, chance: random.Random) -> int:
        """One delay in microseconds."""
        seconds = self.delay_s
        if self.sigma:
            seconds *= math.exp(self.sigma * chance.gauss(0.0, 1.0))
        if self.jitter_s:
            seconds += self.jitter_s * chance.random()
        if self.tail_s:
            seconds -= self.tail_s * math.log(1.0 - chance.random())
        return int(min(seconds, MAX_DELAY_S) * US_PER_S + 0.5)

    @property
    def typical_delay_us(self) -> int:
        """The mean delay, about: what a sender that has measured the link expects."""
        return max(1, int((self.delay_s + self.jitter_s / 2 + self.tail_s) * US_PER_S))

    def occupy(self, size: int, now_us: int) -> int | None:
        """Take the link for one packet.

        Args:
            size: Bytes of the packet.
            now_us: The time.

        Returns:
            Microseconds until the packet has left, or None when the queue is full.
        """
        if self.capacity_bytes_s is None:
            return 0
        waiting_us = max(0, self._free_at_us - now_us)
        if waiting_us * self.capacity_bytes_s > self.queue_bytes * US_PER_S:
            return None
        waiting_us += math.ceil(size * US_PER_S / self.capacity_bytes_s)
        self._free_at_us = now_us + waiting_us
        return waiting_us

    def datagram(self, data: bytes, now_us: int, chance: random.Random) -> Flight:
        """Say what becomes of a datagram sent now.

        Args:
            data: Its bytes.
            now_us: The time.
            chance: Every draw comes from it.
        """
        if self.cut or self.cut_datagrams:
            return CUT
        if self.loss and chance.random() < self.loss:
            return LOST
        after_us = self.occupy(len(data), now_us)
        if after_us is None:
            return OVERFLOWN
        after_us += self.delay_us(chance)
        if not (self.duplicate or self.reorder or self.corrupt):
            return Flight("sent", after_us, data)
        if self.reorder and chance.random() < self.reorder:
            after_us += int(self.reorder_s * chance.random() * US_PER_S)
        corrupted = bool(self.corrupt) and chance.random() < self.corrupt
        again_us = None
        if self.duplicate and chance.random() < self.duplicate:
            again_us = after_us + self.delay_us(chance)
        return Flight(
            "corrupt" if corrupted else "sent",
            after_us,
            flip_bits(data, chance) if corrupted else data,
            again_us,
        )


class Flight(NamedTuple):
    """What became of a datagram.

    Attributes:
        fate: ``sent``, ``corrupt``, ``lost``, ``cut`` or ``overflow``.
        after_us: Microseconds until it arrives; negative when it does not.
        data: What arrives.
        again_us: When it arrives a second time, if it does.
    """

    fate: str
    after_us: int
    data: bytes
    again_us: int | None = None

    @property
    def arrives(self) -> bool:
        """Whether anything arrives."""
        return self.after_us >= 0


CUT: Final = Flight("cut", -1, b"")
LOST: Final = Flight("lost", -1, b"")
OVERFLOWN: Final = Flight("overflow", -1, b"")


def flip_bits(data: bytes, chance: random.Random) -> bytes:
    """Flip one to :data:`MAX_FLIPPED_BITS` bits at different places."""
    altered = bytearray(data)
    count = min(8 * len(data), chance.randint(1, MAX_FLIPPED_BITS))
    for place in chance.sample(range(8 * len(data)), count):
        altered[place // 8] ^= 1 << place % 8
    return bytes(altered)


@dataclass(frozen=True, slots=True)
class Change:
    """What a rule does to a link, on top of what it was.

    Args:
        loss: Added as an independent chance of being lost.
        delay_s: Added to the shortest delay.
        jitter_s: Added to the jitter.
        tail_s: Added to the mean of the tail.
        sigma: Spread of the log-normal factor, if larger.
        duplicate: Added as an independent chance.
        reorder: Added as an independent chance.
        reorder_s: How far a datagram falls behind, if longer.
        corrupt: Added as an independent chance.
        capacity_bytes_s: Bytes per second, if less.
        queue_bytes: What may wait, if less.
        cut: Cut everything.
        cut_datagrams: Cut datagrams.
    """

    loss: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    tail_s: float = 0.0
    sigma: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.0
    corrupt: float = 0.0
    capacity_bytes_s: float | None = None
    queue_bytes: int | None = None
    cut: bool = False
    cut_datagrams: bool = False

    def of(self, link: Link) -> Link:
        """The link that this change makes of ``link``."""
        capacities = [c for c in (link.capacity_bytes_s, self.capacity_bytes_s) if c is not None]
        queue = link.queue_bytes
        return replace(
            link,
            delay_s=link.delay_s + self.delay_s,
            jitter_s=link.jitter_s + self.jitter_s,
            tail_s=link.tail_s + self.tail_s,
            sigma=max(link.sigma, self.sigma),
            loss=_either(link.loss, self.loss),
            duplicate=_either(link.duplicate, self.duplicate),
            reorder=_either(link.reorder, self.reorder),
            reorder_s=max(link.reorder_s, self.reorder_s),
            corrupt=_either(link.corrupt, self.corrupt),
            capacity_bytes_s=min(capacities, default=None),
            queue_bytes=queue if self.queue_bytes is None else min(queue, self.queue_bytes),
            cut=link.cut or self.cut,
            cut_datagrams=link.cut_datagrams or self.cut_datagrams,
        )


def _either(one: float, other: float) -> float:
    """The chance that at least one of two independent things happens."""
    return one + other - one * other


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A change of all links from some hosts to some others.

    Args:
        sources: Who sends; None for everybody.
        targets: Who receives; None for everybody.
        change: What becomes of those links.
    """

    sources: frozenset[str] | None
    targets: frozenset[str] | None
    change: Change

    def covers(self, source: str, target: str) -> bool:
        """Whether it changes the link from one to the other."""
        return (self.sources is None or source in self.sources) and (
            self.targets is None or target in self.targets
        )


class Links:
    """All links of one network.

    Args:
        default: The link of every pair that nothing else is said about.
    """

    def __init__(self, default: Link | None = None) -> None:
        self.default = default or Link()
        self._own: dict[tuple[str, str], Link] = {}
        self._rules: list[Rule] = []
        self._kept: dict[tuple[str, str], Link] = {}

    def of(self, source: str, target: str) -> Link:
        """The link of one direction, all rules applied."""
        if not self._rules and not self._own and self.default.capacity_bytes_s is None:
            return self.default
        pair = (source, target)
        link = self._kept.get(pair)
        if link is None:
            link = self._own.get(pair)
            self._kept[pair] = link = self._composed(source, target, link or self.default)
        return link

    def own(self, source: str, target: str) -> Link:
        """A link of one direction that is this pair's own, to be changed by hand; rules come on top of it.

        Change it before a rule covers the pair: a link with rules is put together once.
        """
        pair = (source, target)
        if pair not in self._own:
            self._own[pair] = replace(self.default)
            self._kept.pop(pair, None)
        return self._own[pair]

    def give(self, source: str, target: str, link: Link) -> None:
        """Let a pair have a link of its own in one direction; rules come on top of it."""
        self._own[source, target] = link
        self._kept.pop((source, target), None)

    def owned(self) -> list[Link]:
        """All links that :meth:`own` has made."""
        return list(self._own.values())

    def add(self, rules: Iterable[Rule]) -> None:
        """Put rules in force."""
        self._rules += rules
        self._kept.clear()

    def remove(self, rules: Iterable[Rule]) -> None:
        """Take rules out of force; those that are not in force do not matter."""
        gone = set(rules)
        self._rules = [rule for rule in self._rules if rule not in gone]
        self._kept.clear()

    def clear(self) -> None:
        """Take all rules out of force."""
        self._rules.clear()
        self._kept.clear()

    def statistics(self) -> dict[str, int]:
        """Count rules, and links that differ from the default."""
        return {"rules": len(self._rules), "links": len({**self._own, **self._kept})}

    def _composed(self, source: str, target: str, link: Link) -> Link:
        for rule in self._rules:
            if rule.covers(source, target):
                link = rule.change.of(link)
        # A queue in front of a link is of that pair alone.
        return replace(link) if link is self.default and link.capacity_bytes_s is not None else link


def separate(sides: Iterable[Iterable[str]], change: Change, *, one_way: bool = False) -> list[Rule]:
    """Rules that change what passes between hosts of different sides.

    Args:
        sides: Groups of hosts.
        change: What happens to those links; a cut, for a partition.
        one_way: Whether only links from an earlier side to a later one are changed.
    """
    groups = [frozenset(side) for side in sides]
    return [
        Rule(here, there, change)
        for number, here in enumerate(groups)
        for other, there in enumerate(groups)
        if number < other or (number > other and not one_way)
    ]
