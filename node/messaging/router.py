"""Which provider gets a message: pure scoring over what the registry shows, with the reasons kept.

Providers are weighed once, in a :class:`Ranking`, and then chosen from for as long as the registry says the
same. What a message costs is a look at who has the least in flight; a decision that was made before is not
made and encoded again.

Of a capability's versions the highest is preferred: providers of lower ones get a message only when nobody
who offers the highest may be used, or all of these are full. A conversation stays with its provider all the
same, and a broadcast goes to all versions.

Near providers are preferred: scores are multiplied by a :func:`nearness` that falls in steps from 1.0 on this
node to 0.7 beyond 100 ms. So among equals the nearest gets the message, and a far one does when it is a third
better, or less loaded by as much. Load is gossiped once a second; what happens between is seen in what this
node itself has given away: from :data:`CROWD` unsettled messages on, equally good ones farther off are
compared with the nearest. Whoever is out of credit (:mod:`node.messaging.credit`) is passed over for the next
best that is not, if there is one: what it were given would only wait here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from node.cluster.provider import ClusterView, Minority, Provider
from node.cluster.versions import Version, best_offer, shown_version, split
from node.labels import Labels, lacking
from node.message import Message
from node.messaging.explanation import EXPLAINED_LIMIT, Candidate, Decision, Target
from node.predicates import predicate
from node.vocabulary import RoutingStrategy

EQUALS_LIMIT: Final = 16
"""Of the best that are equal, how many are compared for one message; the next message goes on behind them."""
CROWD: Final = 64
"""Unsettled messages at a near provider from which on far ones that are as good are looked at."""
NEARNESS: Final = ((0.0, 1.0), (0.001, 0.98), (0.005, 0.95), (0.025, 0.9), (0.1, 0.8))
"""Round trips in seconds up to which a factor holds: this node, a rack, a site, a region, a continent."""
MAJORITY: Final = "majority"
"""The side of a partition on which all capabilities are served; without a partition every node is on it."""
FAR: Final = 0.7
"""The factor beyond them."""
NARROWED_LIMIT: Final = 16
"""Groups of providers that accept a content which are kept beside a ranking."""
CHOICES_LIMIT: Final = 64
"""Decisions of one ranking that are kept with their encoding."""

InFlight = Callable[[Target], int]
"""Messages of this node that a provider has not settled yet; fresher than gossiped load."""
IsFull = Callable[[Target], bool]
"""Whether a provider is out of credit: what it is given now waits until others of its messages have ended."""
Exclusions = tuple[tuple[str, str, str], ...]
"""Agent, node, and why it may not be used."""


class Weighed(NamedTuple):
    """A provider with its weight.

    Args:
        weight: Its score, times its nearness where that counts.
        provider: Whose it is.
        offer: What it offers of what is wanted; empty for instances of an agent.
        nearness: 1.0 on this node, and where it does not count.
    """

    weight: float
    provider: Provider
    offer: str = ""
    nearness: float = 1.0

    @property
    def version(self) -> Version:
        """The version of what it offers."""
        return split(self.offer)[1]


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


def never_full(target: Target) -> bool:
    """Every provider has credit: where nothing is sent, nothing waits."""
    del target
    return False


def addressed(agent: str, node: str, *, view: ClusterView | None = None) -> Decision:
    """The decision that the sender has taken."""
    return Decision(((agent, node),), "addressed", f"the sender addressed {agent}@{node}", view=view)


def withheld(message: Message, policy: Minority, view: ClusterView) -> Choice:
    """The decision that a message is not given away on this side of a partition."""
    then = "it waits until the partition has healed" if policy == "queue" else "it is refused"
    reason = f"this node is on the {view.side} side of a partition ({view.up} of {view.remembered}): {then}"
    wanted = message.capability or ""
    return Choice.of(Decision((), message.routing_strategy.value, reason, view=view, wanted=wanted))


def nearness(provider: Provider) -> float:
    """The factor of a provider's distance; 1.0 while that is not known."""
    rtt_s = provider.rtt_s
    if rtt_s is None:
        return 1.0
    return next((factor for limit_s, factor in NEARNESS if rtt_s <= limit_s), FAR)


def score(provider: Provider) -> float:
    """Priority x health x (1 - load)."""
    return provider.priority * provider.health * (1.0 - min(1.0, max(0.0, provider.load)))


def ranked(candidates: Sequence[Provider], wanted: str = "", *, locality: bool = True) -> list[Weighed]:
    """Providers with their weights, best first, equal ones by node and agent.

    Args:
        candidates: In any order.
        wanted: The capability they offer, whose highest version comes first unless all that offer it are
            full; the empty string for instances of an agent.
        locality: Whether near ones are preferred.
    """
    offers = [best_offer(p.capabilities, wanted) or "" if wanted else "" for p in candidates]
    has_room = {offer for offer, p in zip(offers, candidates, strict=True) if p.load < 1.0}
    ranks = {offer: (offer in has_room, split(offer)[1]) for offer in offers}
    order = {rank: place for place, rank in enumerate(sorted(set(ranks.values()), reverse=True))}
    weighed = []
    for offer, p in zip(offers, candidates, strict=True):
        near = nearness(p) if locality else 1.0
        weight = score(p) * near
        weighed.append((order[ranks[offer]], -weight, p.node, p.agent, Weighed(weight, p, offer, near)))
    weighed.sort(key=lambda entry: entry[:4])
    return [entry[4] for entry in weighed]


class Ranking:
    """Providers that may be used, best first, and the decisions among them.

    Args:
        weighed: Healthy providers of what is wanted, on nodes that are alive, as :func:`ranked` has them.
        in_flight: Asked of whoever is compared.
        is_full: Asked of whoever is about to be chosen.
        excluded: Providers that may not be used, and why; kept with each decision.
        view: The cluster as it looks; kept with each decision.
        wanted: The capability they offer; kept with each decision.
    """

    def __init__(
        self,
        weighed: list[Weighed],
        *,
        in_flight: InFlight,
        is_full: IsFull = never_full,
        excluded: Exclusions = (),
        view: ClusterView | None = None,
        wanted: str = "",
    ) -> None:
        self._weighed, self._in_flight, self._is_full = weighed, in_flight, is_full
        self.excluded, self._view, self._wanted = excluded, view, wanted
        self._targets: list[Target] = [(w.provider.agent, w.provider.node) for w in weighed]
        self._places = {target: place for place, target in enumerate(self._targets)}
        others = (at for at, each in enumerate(weighed) if each.version != weighed[0].version)
        self._preferred = next(others, len(weighed))
        worse = (at for at in range(self._preferred) if weighed[at].weight != weighed[0].weight)
        self._leaders = self._targets[: next(worse, self._preferred)]
        self._rivals: list[Target] | None = None
        self._turn = 0
        self._explained = tuple(map(self._candidate, range(min(len(weighed), EXPLAINED_LIMIT))))
        self._choices: dict[object, Choice] = {}
        self._predicates: dict[str, list[Target]] = {}
        for each, target in zip(weighed, self._targets, strict=True):
            if each.provider.accepts:
                self._predicates.setdefault(each.provider.accepts, []).append(target)
        self._accepting: dict[tuple[str, ...], Ranking] = {}
        self._meeting: dict[Labels, Ranking] = {}

    @classmethod
    def of(
        cls,
        found: Sequence[Provider],
        wanted: str,
        *,
        in_flight: InFlight,
        is_full: IsFull = never_full,
        view: ClusterView | None,
        locality: bool = True,
    ) -> Ranking:
        """The ranking of all that offer ``wanted``, the ill among them left out; see the class."""
        ill = tuple((p.agent, p.node, "its health is 0") for p in found if p.health <= 0.0)
        usable = [p for p in found if p.health > 0.0] if ill else found
        weighed = ranked(usable, wanted, locality=locality)
        told = ill[:EXPLAINED_LIMIT]
        return cls(weighed, in_flight=in_flight, is_full=is_full, excluded=told, view=view, wanted=wanted)

    @property
    def targets(self) -> Sequence[Target]:
        """Who may be chosen, best first."""
        return self._targets

    @property
    def takes_all(self) -> bool:
        """Whether it is one ranking for all contents, of which few enough are equal that all are compared."""
        return not self._predicates and len(self._leaders) <= EQUALS_LIMIT

    def without(self, left_out: Container[Target], excluded: Exclusions) -> Ranking:
        """The same ranking but for some providers, which costs no weighing.

        Args:
            left_out: Who may not be used for now.
            excluded: These and all others that may not be used, and why.
        """
        places = (place for target, place in self._places.items() if target not in left_out)
        rest = [self._weighed[place] for place in places]
        return Ranking(
            rest,
            in_flight=self._in_flight,
            is_full=self._is_full,
            excluded=excluded,
            view=self._view,
            wanted=self._wanted,
        )

    def accepting(self, content: object) -> Ranking:
        """The same ranking but for those whose predicate does not take a content.

        What is decided among those that are left is kept, as long as not too many groups of them differ.
        """
        if not self._predicates:
            return self
        refusing = tuple(text for text in self._predicates if not predicate(text).takes(content))
        if not refusing:
            return self
        found = self._accepting.get(refusing)
        if found is None:
            reasons = {
                target: f"it does not accept the content: {text}"
                for text in refusing
                for target in self._predicates[text]
            }
            told = tuple((agent, node, why) for (agent, node), why in sorted(reasons.items()))
            found = self.without(reasons, (*self.excluded, *told)[:EXPLAINED_LIMIT])
            if len(self._accepting) < NARROWED_LIMIT:
                self._accepting[refusing] = found
        return found

    def meeting(self, required: Labels) -> Ranking:
        """The same ranking but for those who lack a label that is required, kept like :meth:`accepting`."""
        found = self._meeting.get(required)
        if found is None:
            reasons = {
                target: f"it has not {', '.join(f'{name}={value}' for name, value in lacks)}"
                for each, target in zip(self._weighed, self._targets, strict=True)
                if (lacks := lacking(required, each.provider.labels, target[1]))
            }
            told = tuple((agent, node, why) for (agent, node), why in sorted(reasons.items()))
            found = self.without(reasons, (*self.excluded, *told)[:EXPLAINED_LIMIT])
            if len(self._meeting) < NARROWED_LIMIT:
                self._meeting[required] = found
        return found

    def choose(self, strategy: RoutingStrategy, chance: random.Random, sticky: Target | None) -> Choice:
        """Choose for one message.

        Args:
            strategy: How.
            chance: Draws the two that ``load_balanced`` compares.
            sticky: The provider that has had this conversation so far.
        """
        target: Target | None
        other: Target | None = None
        full: Target | None = None
        key: object
        if not self._targets:
            return self._nobody(strategy, sticky)
        if strategy is RoutingStrategy.BROADCAST:
            target, key = None, "all"
        elif sticky is not None and sticky in self._places:
            target, key = sticky, ("sticky", sticky)
        elif strategy is RoutingStrategy.LOAD_BALANCED:
            key = target, other = self._less_loaded(chance)
            if self._is_full(target):
                full = self._instead_of(target, other)
        else:
            target, other = self._best()
            key = target if other is None else ("crowded", target, other)
            if self._is_full(target):
                full = self._instead_of(target, other)
        if full is not None and target is not None:
            target, full = full, target
            key = ("credit", target, full)
        repeats = sticky is None or target is sticky  # one that is gone is told in this decision only
        found = self._choices.get(key) if repeats else None
        if found is None:
            found = Choice.of(self._decision(strategy, target, other, sticky, full))
            if repeats and len(self._choices) < CHOICES_LIMIT:
                self._choices[key] = found
        return found

    def _best(self) -> tuple[Target, Target | None]:
        """The heaviest with the least in flight; or one as good and farther off, and the crowded one."""
        leaders = self._leaders
        found = leaders[0] if len(leaders) == 1 else self._least_busy(leaders)
        waiting = self._in_flight(found)
        if waiting < CROWD:
            return found, None
        if self._rivals is None:
            good = score(self._weighed[0].provider)
            rest = range(len(leaders), self._preferred)
            self._rivals = [self._targets[at] for at in rest if score(self._weighed[at].provider) >= good]
        if not self._rivals:
            return found, None
        other = self._least_busy(self._rivals)
        return (other, found) if self._in_flight(other) < waiting else (found, None)

    def _instead_of(self, full: Target, other: Target | None) -> Target | None:
        """Who has credit: the one that was compared with, or the first of the best, or none of them."""
        if other is not None and not self._is_full(other):
            return other
        for place in range(min(self._preferred, EQUALS_LIMIT)):
            target = self._targets[place]
            if target != full and not self._is_full(target):
                return target
        return None

    def _least_busy(self, among: Sequence[Target]) -> Target:
        """Who has the least in flight; the first of these. Of many, only some are asked, others next time."""
        count = len(among)
        first = 0
        if count > EQUALS_LIMIT:
            first, self._turn = self._turn % count, self._turn + EQUALS_LIMIT
        found, least = among[first], -1
        for place in range(first, first + min(count, EQUALS_LIMIT)):
            target = among[place % count]
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
        p, q = self._weighed[first], self._weighed[second]
        load_of_one = (self._in_flight(one), p.provider.load, -p.provider.health * p.nearness)
        load_of_other = (self._in_flight(other), q.provider.load, -q.provider.health * q.nearness)
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
        self,
        strategy: RoutingStrategy,
        target: Target | None,
        other: Target | None,
        sticky: Target | None,
        full: Target | None,
    ) -> Decision:
        how, count, candidates = strategy.value, len(self._targets), self._explained
        version = shown_version(self._weighed[0].version)
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
            elif full is not None:
                reason = f"has credit, which {full[0]}@{full[1]} has not"
            elif strategy is not RoutingStrategy.LOAD_BALANCED:
                reason = f"highest of {among} by priority x health x (1 - load) x nearness"
                if other is not None:
                    reason = f"as good as {other[0]}@{other[1]}, which is nearer and has more in flight"
            elif other is None:
                reason = "the only provider"
            else:
                reason = f"less loaded than {other[0]}@{other[1]}, of {among} providers"
        return Decision(
            targets, how, reason, candidates, sticky, count, self.excluded, self._view, self._wanted
        )

    def _candidate(self, place: int) -> Candidate:
        weight, p, offer, near = self._weighed[place]
        waiting = self._in_flight((p.agent, p.node))
        return Candidate(p.agent, p.node, weight, p.priority, p.health, p.load, waiting, offer, near)
