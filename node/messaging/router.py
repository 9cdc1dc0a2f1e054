"""Which provider gets a message: pure scoring over what the registry shows, with the reasons kept.

Providers are weighed once, in a :class:`Ranking`, and then chosen from for as long as the registry says the
same. What a message costs is a look at who has the least in flight; a decision that was made before is not
made and encoded again.

Of a capability's versions the highest is preferred: providers of lower ones get a message only when nobody
who offers the highest may be used, or all of these are full. A conversation stays with its provider all the
same, and a broadcast goes to all versions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Final

from node.cluster.provider import ClusterView, Provider
from node.cluster.versions import best_offer, shown_version, split
from node.message import RoutingStrategy
from node.messaging.explanation import EXPLAINED_LIMIT, Candidate, Decision, Target

EQUALS_LIMIT: Final = 16
"""Of the best that are equal, how many are compared for one message; the next message goes on behind them."""
CHOICES_LIMIT: Final = 64
"""Decisions of one ranking that are kept with their encoding."""

InFlight = Callable[[Target], int]
"""Messages of this node that a provider has not settled yet; fresher than gossiped load."""
Exclusions = tuple[tuple[str, str, str], ...]
"""Agent, node, and why it may not be used."""
Weighed = tuple[float, Provider, str]
"""A score, whose it is, and what it offers of what is wanted; no more than an agent wants no offer."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision, and its encoding.

    Args:
        decision: What was chosen and why.
        encoded: The same as it is stored.
    """

    decision: Decision
    encoded: bytes

    @classmethod
    def of(cls, decision: Decision) -> Choice:
        """Encode a decision."""
        return cls(decision, decision.encode())


def addressed(agent: str, node: str, *, view: ClusterView | None = None) -> Decision:
    """The decision that the sender has taken."""
    return Decision(((agent, node),), "addressed", f"the sender addressed {agent}@{node}", view=view)


def score(provider: Provider) -> float:
    """Priority x health x (1 - load)."""
    return provider.priority * provider.health * (1.0 - min(1.0, max(0.0, provider.load)))


def ranked(candidates: Sequence[Provider], wanted: str = "") -> list[Weighed]:
    """Providers with their scores, best first, equal ones by node and agent.

    Args:
        candidates: In any order.
        wanted: The capability they offer, whose highest version comes first unless all that offer it are
            full; the empty string for instances of an agent.
    """
    offers = [best_offer(p.capabilities, wanted) or "" if wanted else "" for p in candidates]
    has_room = {offer for offer, p in zip(offers, candidates, strict=True) if p.load < 1.0}
    ranks = {offer: (offer in has_room, split(offer)[1]) for offer in offers}
    order = {rank: place for place, rank in enumerate(sorted(set(ranks.values()), reverse=True))}
    weighed = [
        (order[ranks[offer]], -score(p), p.node, p.agent, p, offer)
        for offer, p in zip(offers, candidates, strict=True)
    ]
    weighed.sort(key=lambda entry: entry[:4])
    return [(-negative, p, offer) for _, negative, _, _, p, offer in weighed]


class Ranking:
    """Providers that may be used, best first, and the decisions among them.

    Args:
        weighed: Healthy providers of what is wanted, on nodes that are alive, as :func:`ranked` has them.
        in_flight: Asked of whoever is compared.
        excluded: Providers that may not be used, and why; kept with each decision.
        view: The cluster as it looks; kept with each decision.
        wanted: The capability they offer; kept with each decision.
    """

    def __init__(
        self,
        weighed: list[Weighed],
        *,
        in_flight: InFlight,
        excluded: Exclusions = (),
        view: ClusterView | None = None,
        wanted: str = "",
    ) -> None:
        self._weighed, self._in_flight = weighed, in_flight
        self.excluded, self._view, self._wanted = excluded, view, wanted
        self._targets: list[Target] = [(p.agent, p.node) for _, p, _ in weighed]
        self._places = {target: place for place, target in enumerate(self._targets)}
        best, newest = (weighed[0][0], split(weighed[0][2])[1]) if weighed else (0.0, ())
        others = (at for at, (_, _, offer) in enumerate(weighed) if split(offer)[1] != newest)
        self._preferred = next(others, len(weighed))
        worse = (at for at, (found, _, _) in enumerate(weighed[: self._preferred]) if found != best)
        self._equals = next(worse, self._preferred)
        self._next_equal = 0
        self._explained = tuple(map(self._candidate, range(min(len(weighed), EXPLAINED_LIMIT))))
        self._choices: dict[object, Choice] = {}

    @classmethod
    def of(
        cls, found: Sequence[Provider], wanted: str, *, in_flight: InFlight, view: ClusterView | None
    ) -> Ranking:
        """The ranking of all that offer ``wanted``, the ill among them left out; see the class."""
        ill = tuple((p.agent, p.node, "its health is 0") for p in found if p.health <= 0.0)
        usable = [p for p in found if p.health > 0.0] if ill else found
        excluded = ill[:EXPLAINED_LIMIT]
        return cls(ranked(usable, wanted), in_flight=in_flight, excluded=excluded, view=view, wanted=wanted)

    def without(self, left_out: Container[Target], excluded: Exclusions) -> Ranking:
        """The same ranking but for some providers, which costs no weighing.

        Args:
            left_out: Who may not be used for now.
            excluded: These and all others that may not be used, and why.
        """
        rest = [entry for entry in self._weighed if (entry[1].agent, entry[1].node) not in left_out]
        return Ranking(
            rest, in_flight=self._in_flight, excluded=excluded, view=self._view, wanted=self._wanted
        )

    def choose(self, strategy: RoutingStrategy, chance: random.Random, sticky: Target | None) -> Choice:
        """Choose for one message.

        Args:
            strategy: How.
            chance: Draws the two that ``load_balanced`` compares.
            sticky: The provider that has had this conversation so far.
        """
        target: Target | None
        other: Target | None = None
        key: object
        if not self._targets:
            return self._nobody(strategy, sticky)
        if strategy is RoutingStrategy.BROADCAST:
            target, key = None, "all"
        elif sticky is not None and sticky in self._places:
            target, key = sticky, ("sticky", sticky)
        elif strategy is RoutingStrategy.LOAD_BALANCED:
            key = target, other = self._less_loaded(chance)
        else:
            key = target = self._targets[0] if self._equals == 1 else self._least_busy()
        repeats = sticky is None or target is sticky  # one that is gone is told in this decision only
        found = self._choices.get(key) if repeats else None
        if found is None:
            found = Choice.of(self._decision(strategy, target, other, sticky))
            if repeats and len(self._choices) < CHOICES_LIMIT:
                self._choices[key] = found
        return found

    def _least_busy(self) -> Target:
        """Of the best, who has the least in flight; the first of these."""
        first, equals = 0, self._equals
        if equals > EQUALS_LIMIT:
            first, self._next_equal = self._next_equal, (self._next_equal + EQUALS_LIMIT) % equals
        found, least = self._targets[first], -1
        for place in range(first, first + min(equals, EQUALS_LIMIT)):
            target = self._targets[place % equals]
            waiting = self._in_flight(target)
            if waiting < least or least < 0:
                found, least = target, waiting
                if not waiting:
                    break
        return found

    def _less_loaded(self, chance: random.Random) -> tuple[Target, Target | None]:
        """The power of two choices (Mitzenmacher 2001): compare two at random, take the less loaded."""
        count = self._preferred
        if count == 1:
            return self._targets[0], None
        first, second = int(chance.random() * count), int(chance.random() * (count - 1))
        if second >= first:
            second += 1
        one, other = self._targets[first], self._targets[second]
        p, q = self._weighed[first][1], self._weighed[second][1]
        load_of_one = (self._in_flight(one), p.load, -p.health)
        load_of_other = (self._in_flight(other), q.load, -q.health)
        # equal ones fall by chance, since their order is drawn
        return (one, other) if load_of_one <= load_of_other else (other, one)

    def _nobody(self, strategy: RoutingStrategy, sticky: Target | None) -> Choice:
        reason = "nobody who offers it may be used" if self.excluded else "nobody offers it"
        return Choice.of(
            Decision(
                (),
                strategy.value,
                reason,
                sticky=sticky,
                excluded=self.excluded,
                view=self._view,
                wanted=self._wanted,
            )
        )

    def _decision(
        self, strategy: RoutingStrategy, target: Target | None, other: Target | None, sticky: Target | None
    ) -> Decision:
        how, count, candidates = strategy.value, len(self._targets), self._explained
        version = shown_version(split(self._weighed[0][2])[1])
        among = f"{self._preferred} with {version}" if version and self._preferred < count else f"{count}"
        if target is None:
            targets = tuple(sorted(self._targets, key=lambda t: (t[1], t[0])))
            reason = f"all {count} providers"
        else:
            targets = (target,)
            place = self._places[target]
            if place >= EXPLAINED_LIMIT:
                candidates = (*candidates[:-1], self._candidate(place))
            if target is sticky:
                how, reason = "sticky", "the provider of this conversation so far"
            elif strategy is not RoutingStrategy.LOAD_BALANCED:
                reason = f"highest of {among} by priority x health x (1 - load)"
            elif other is None:
                reason = "the only provider"
            else:
                reason = f"less loaded than {other[0]}@{other[1]}, of {among} providers"
        return Decision(
            targets, how, reason, candidates, sticky, count, self.excluded, self._view, self._wanted
        )

    def _candidate(self, place: int) -> Candidate:
        weight, p, offer = self._weighed[place]
        waiting = self._in_flight((p.agent, p.node))
        return Candidate(p.agent, p.node, weight, p.priority, p.health, p.load, waiting, offer)
