"""Joining through seeds: every seed is tried with its own backoff until one has answered.

Afterwards one of them is visited now and then: a name may lead to another address by then.

A node that starts before its seeds, or with a wrong one, keeps trying for ever and says so.
"""

import random
from dataclasses import dataclass
from typing import Final

from swim.config import SwimConfig
from swim.events import SeedUnreachable
from swim.messages import Address

MAX_DOUBLINGS: Final = 16
"""The pause stops doubling here, long after it has reached any sensible limit."""


def parse_seed(text: str) -> Address:
    """Split `host:port`, where an IPv6 host stands in brackets.

    Raises:
        ValueError: naming what is wrong with the seed.
    """
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"seed {text!r}: write an IPv6 address in brackets, as [::1]:7946")
    if not colon or not host:
        raise ValueError(f"seed {text!r} is not host:port, for example 10.0.0.5:7946")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise ValueError(f"seed {text!r}: {port!r} is not a port from 1 to 65535")
    return (host, int(port))


@dataclass(slots=True)
class _Seed:
    text: str
    address: Address
    next_at: float
    attempts: int = 0
    trying: bool = False


class Seeds:
    """The seeds still being tried.

    Args:
        config: pauses and the largest number of seeds.
        rng: spreads the attempts of many members.
    """

    def __init__(self, config: SwimConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._seeds: dict[str, _Seed] = {}
        self._visited: dict[str, Address] = {}  # the ones given, once one of them has answered

    def add(self, texts: list[str], now: float) -> None:
        """Start trying these seeds.

        Raises:
            ValueError: for a malformed seed, or too many.
        """
        parsed = [(text, parse_seed(text)) for text in texts]
        if len(self._seeds.keys() | self._visited.keys() | dict(parsed).keys()) > self._config.max_seeds:
            raise ValueError(f"at most {self._config.max_seeds} seeds are tried at once")
        for text, address in parsed:
            self._seeds.setdefault(text, _Seed(text, address, now))

    def due(self, now: float) -> list[tuple[str, Address, int]]:
        """Return the seeds to try now and how often each has failed, marking them as being tried."""
        if not self._seeds:
            return []
        due = [seed for seed in self._seeds.values() if not seed.trying and seed.next_at <= now]
        for seed in due:
            seed.trying = True
        return [(seed.text, seed.address, seed.attempts) for seed in due]

    def failed(self, text: str, reason: str, now: float) -> SeedUnreachable | None:
        """Note a failed attempt; return what to tell, unless the seed does not matter any more."""
        seed = self._seeds.get(text)
        if seed is None:
            return None
        doublings = min(seed.attempts, MAX_DOUBLINGS)
        seed.attempts += 1
        seed.trying = False
        pause = min(self._config.join_retry_max_s, self._config.join_retry_initial_s * 2.0**doublings)
        pause *= self._rng.uniform(0.75, 1.25)
        seed.next_at = now + pause
        return SeedUnreachable(text, reason, seed.attempts, pause)

    def is_self(self, text: str) -> bool:
        """Drop a seed that is this member itself; say whether none is left."""
        self._seeds.pop(text, None)
        return not self._seeds

    def answered(self) -> bool:
        """A seed has answered, or none matters any more: say whether any was still being tried."""
        were_tried = bool(self._seeds)
        self._visited.update((text, seed.address) for text, seed in self._seeds.items())
        self._seeds.clear()
        return were_tried

    def revisit(self) -> Address | None:
        """Return a seed to look up again, once the search is over; None while there is none."""
        if self._seeds or not self._visited:
            return None
        return self._visited[self._rng.choice(list(self._visited))]

    def statistics(self) -> dict[str, int]:
        """Count the seeds still being tried, their failures, and those that are visited now and then."""
        failures = sum(seed.attempts for seed in self._seeds.values())
        pending, visited = len(self._seeds), len(self._visited)
        return {"seeds_pending": pending, "seed_failures": failures, "seeds_visited": visited}

    def next_timer(self) -> float | None:
        """Return when a seed is due."""
        if not self._seeds:
            return None
        return min((s.next_at for s in self._seeds.values() if not s.trying), default=None)
