"""Who gets a message, given the registry, who is alive, who refused it, and the conversation so far."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from node.cluster.provider import CapabilityView, ClusterView, Minority, Provider
from node.labels import lacking
from node.message import Message
from node.messaging.audience import Audience
from node.messaging.breakers import Breakers
from node.messaging.explanation import EXPLAINED_LIMIT, Decision, Target
from node.messaging.letters import Letter, wishes
from node.messaging.oldest import drop_oldest
from node.messaging.ports import MembershipView, Time
from node.messaging.router import (
    MAJORITY,
    Choice,
    Exclusions,
    IsFull,
    Ranking,
    addressed,
    never_full,
    withheld,
)
from node.vocabulary import RoutingStrategy

STICKY_LIMIT: Final = 10_000
"""Conversations whose provider is remembered; the longest unused are forgotten."""

VIEW_S: Final = 0.25
"""How old the view of the cluster may be when providers are ranked, in seconds."""
RANKINGS_LIMIT: Final = 2_048
"""Rankings that are kept, one for each capability or agent that was wanted; the oldest are dropped."""
ADDRESSED_LIMIT: Final = 1_024
"""Decisions about addressed agents that are kept for :data:`VIEW_S`."""
RANKED_S: Final = 0.1
"""How long a ranking of few providers counts while only loads change."""
RANKED_PER_PROVIDER_S: Final = 0.0002
"""How much longer for each provider, so that ranking takes a bounded share of time."""
RANKED_LIMIT_S: Final = 1.0
"""How long it counts at most."""


@dataclass(slots=True)
class _Ranked:
    """A ranking, for as long as it counts.

    Args:
        ranking: Providers that may be used, best first.
        version: Of the registry's answer.
        until: Moment on the monotonic clock from which loads are looked at again.
        spared: The same without those who are left alone for now, and as of which version of the breakers.
    """

    ranking: Ranking
    version: int
    until: float
    spared: tuple[Ranking, int] | None = None


class _Plain(NamedTuple):
    """The latest decision, where it would be the same for others.

    Args:
        now: When it was made, on the monotonic clock.
        wanted: The capability.
        version: Of the registry's answer.
        target: Who was chosen.
        in_flight: What it had then; as soon as that has changed there is something to decide.
        choice: The decision.
    """

    now: float
    wanted: str
    version: int
    target: Target
    in_flight: int
    choice: Choice


class Placement:
    """Decides, and remembers which provider has which conversation.

    Args:
        time: Now.
        chance: Draws for the router.
        node: This node's name.
        registry: Who offers what.
        membership: Who is there.
        in_flight: Messages that a provider was given and has not settled.
        is_full: Whether a provider is out of credit.
        breakers: Who is left alone for now.
        locality: Whether near providers are preferred.
    """

    def __init__(
        self,
        *,
        time: Time,
        chance: random.Random,
        node: str,
        registry: CapabilityView,
        membership: MembershipView,
        in_flight: Callable[[Target], int],
        breakers: Breakers,
        is_full: IsFull = never_full,
        locality: bool = True,
    ) -> None:
        self._time = time
        self._chance = chance
        self._node = node
        self._registry = registry
        self._membership = membership
        self._breakers = breakers
        self._in_flight, self._is_full, self._locality = in_flight, is_full, locality
        self._sticky: dict[tuple[str, str], Target] = {}
        self._waiting: dict[tuple[str, str], dict[int, Letter]] = {}
        self._waiting_for: dict[str, int] = {}
        self._rankings: OrderedDict[tuple[str, bool], _Ranked] = OrderedDict()
        self._audiences: OrderedDict[str, tuple[Audience, int, float]] = OrderedDict()
        self._addressed: OrderedDict[Target, Choice] = OrderedDict()
        self._view: ClusterView | None = None
        self._viewed_at = 0.0
        self._plain: _Plain | None = None

    @property
    def is_anybody_waiting(self) -> bool:
        """Whether any message has no provider."""
        return bool(self._waiting)

    def decide(self, letter: Letter, now: float, followed: Target | None = None) -> Choice:
        """Who gets a message; nobody while an earlier one of its conversation waits for the same.

        Args:
            letter: The message.
            now: Monotonic seconds.
            followed: Who has an earlier one of its conversation still to end, whether or not it is seen now.
        """
        plain = self._plain
        if plain is not None and followed is None and self._is_like(plain, letter, now):
            self._remember((letter.message.conversation_id, letter.wanted), plain.target)
            return plain.choice
        how, wanted = letter.message.routing_strategy, letter.wanted
        policy = self.minority(letter, now)
        if policy != "serve":
            return withheld(letter.message, policy, self._look(now))
        if letter.message.topic is not None:
            return self._audience(wanted, now).accepting(letter.message.content).choose(how, self._chance)
        if self._has_to_wait(letter):
            chosen_by = how.value if letter.address is None else "addressed"
            reason = "an earlier message waits too"
            return Choice.of(Decision((), chosen_by, reason, view=self._look(now)))
        if letter.address is not None:
            return self._decide_addressed(letter, letter.address, now)
        conversation = letter.message.conversation_id, wanted
        choice = self._choose(letter, now, self._sticky.get(conversation))
        if letter.message.require:
            followed = None  # what must be elsewhere is not kept in order with what need not
        if followed is not None and choice.decision.targets != (followed,):
            if letter.excluded.get(followed, 0.0) > now:
                reason = "what is before it is with {}@{}, which refused it for now".format(*followed)
                return Choice.of(Decision((), "sticky", reason, sticky=followed, view=self._look(now)))
            reason = "it has earlier messages of this conversation"
            choice = Choice.of(Decision((followed,), "sticky", reason, sticky=followed, view=self._look(now)))
        if not self._breakers.are_all_closed:
            for target in choice.decision.targets:
                self._breakers.chosen(target, now)
        if choice.decision.targets and not letter.broadcast:
            self._remember(conversation, choice.decision.targets[0])
            self._plain = self._repeatable(letter, choice, now)
        return choice

    def _is_like(self, plain: _Plain, letter: Letter, now: float) -> bool:
        """Whether a message is bound to be decided about as another one at the same moment."""
        message, wanted = letter.message, letter.wanted
        return (
            plain.now == now
            and plain.wanted == wanted
            and _asks_for_the_best(letter)
            and letter.order not in self._waiting
            and (message.conversation_id, wanted) not in self._sticky
            and plain.in_flight == self._in_flight(plain.target)
            and plain.version == self._registry.version(wanted)
        )

    def _repeatable(self, letter: Letter, choice: Choice, now: float) -> _Plain | None:
        """A decision as it is made again for each message of a batch that asks for the same, and no more."""
        kept = self._rankings.get((letter.wanted, False))
        if kept is None or choice.decision.strategy != "best_match" or not _asks_for_the_best(letter):
            return None
        if not (self._breakers.are_all_closed and kept.ranking.takes_all):
            return None
        target = choice.decision.targets[0]
        return _Plain(now, letter.wanted, kept.version, target, self._in_flight(target), choice)

    def _has_to_wait(self, letter: Letter) -> bool:
        """Whether an earlier message of the conversation waits for the same."""
        waiting = self._waiting.get(letter.order)
        return waiting is not None and any(
            earlier.seq < letter.seq and earlier.wanted == letter.wanted for earlier in waiting.values()
        )

    def _choose(self, letter: Letter, now: float, sticky: Target | None) -> Choice:
        """Whom the ranking says, of the first wish for which it says anybody."""
        how = letter.message.routing_strategy
        first = self._ranking(letter, letter.wanted, now).choose(how, self._chance, sticky)
        if first.decision.targets:
            return first
        for wish in letter.wishes[1:]:
            other = self._ranking(letter, wish, now).choose(how, self._chance, sticky)
            if other.decision.targets:
                return other
        return first

    def minority(self, letter: Letter, now: float) -> Minority:
        """The policy that holds for a message here: that of its capability on the smaller side."""
        capability = letter.message.capability
        if capability is None or self._look(now).side == MAJORITY:
            return "serve"
        return self._registry.minority(capability)

    def providers(self, letter: Letter) -> list[Provider]:
        """All that offer what a message wants or is content with, as it requires, on nodes that are alive."""
        return [
            p for wish in letter.wishes for p in self._offering(letter, wish) if _meets(letter.message, p)
        ]

    def instead(self, letter: Letter, now: float) -> list[Target]:
        """Who else gets a message to a topic, because a member of its group will not handle it."""
        message = letter.message
        if message.topic is None or message.routing_strategy is not RoutingStrategy.LOAD_BALANCED:
            return []
        audience = self._audience(message.topic, now).accepting(message.content)
        served = [route.target for route in letter.routes.values() if route.active or route.settled]
        return audience.instead(letter.routes, served, self._chance)

    def reaches(self, node: str) -> bool:
        """Whether a node is there now."""
        return node == self._node or self._membership.is_alive(node)

    def out_of_credit(self, message: Message) -> bool:
        """Whether everybody who could be given a message now is out of credit, and there is somebody."""
        agent, at, node = (message.receiver or "").rpartition("@")
        if at:
            return self._is_full((agent, node))
        offered = self._registry.instances if message.capability is None else self._registry.providers
        able = (p for wish in wishes(message) for p in offered(wish) if _meets(message, p))
        found = [(p.agent, p.node) for p in able]
        return bool(found) and all(map(self._is_full, found))

    def is_hopeful(self, letter: Letter) -> bool:
        """Whether somebody who offers what a message wants is there, or may come back."""
        return bool(self.providers(letter)) or any(map(self._registry.expects, letter.wishes))

    def related(self, letter: Letter) -> list[tuple[str, int]]:
        """Capabilities like the wanted one, with their numbers of agents."""
        return list(self._registry.related(letter.wanted))

    def sticky(self, conversation_id: str, wanted: str) -> Target | None:
        """The provider that has had this conversation so far."""
        return self._sticky.get((conversation_id, wanted))

    def stick(self, letter: Letter, target: Target) -> None:
        """The conversation of a message that was open at the last stop has had this provider so far."""
        if letter.address is None and not letter.broadcast:
            self._remember((letter.message.conversation_id, letter.wanted), target)

    def unstick(self, letter: Letter) -> None:
        """The conversation of a message needs another provider."""
        self._sticky.pop((letter.message.conversation_id, letter.wanted), None)

    def waits(self, letter: Letter) -> None:
        """A message has no provider for now; those behind it wait, too."""
        waiting = self._waiting.setdefault(letter.order, {})
        if letter.seq not in waiting:
            waiting[letter.seq] = letter
            self._waiting_for[letter.wanted] = self._waiting_for.get(letter.wanted, 0) + 1

    def waits_no_more(self, letter: Letter) -> None:
        """A message has a provider, or has ended."""
        waiting = self._waiting.get(letter.order)
        if waiting is None or waiting.pop(letter.seq, None) is None:
            return
        if not waiting:
            del self._waiting[letter.order]
        self._waiting_for[letter.wanted] -= 1
        if not self._waiting_for[letter.wanted]:
            del self._waiting_for[letter.wanted]

    def waiting_for(self, wanted: str) -> int:
        """How many messages for a capability or receiver have no provider."""
        return self._waiting_for.get(wanted, 0)

    def waiting(self) -> list[Letter]:
        """The messages without a provider, in order of acceptance."""
        found = [letter for waiting in self._waiting.values() for letter in waiting.values()]
        return sorted(found, key=lambda letter: letter.seq)

    def statistics(self) -> dict[str, int]:
        """Sizes and bounds."""
        return {
            "waiting": sum(len(waiting) for waiting in self._waiting.values()),
            "sticky": len(self._sticky),
            "sticky_limit": STICKY_LIMIT,
            "rankings": len(self._rankings),
            "rankings_limit": RANKINGS_LIMIT,
            "audiences": len(self._audiences),
            "audiences_limit": RANKINGS_LIMIT,
        }

    def _decide_addressed(self, letter: Letter, address: Target, now: float) -> Choice:
        if letter.excluded.get(address, 0.0) > now:
            reason = "the addressed agent refused it for now"
            return Choice.of(Decision((), "addressed", reason, view=self._look(now)))
        view = self._look(now)
        found = self._addressed.get(address)
        if found is None or found.decision.view is not view:
            found = self._addressed[address] = Choice.of(addressed(*address, view=view))
            if len(self._addressed) > ADDRESSED_LIMIT:
                self._addressed.popitem(last=False)
        return found

    def _audience(self, topic: str, now: float) -> Audience:
        """The subscribers of a topic."""
        version = self._registry.topics_version()
        kept = self._audiences.get(topic)
        if kept is None or kept[1] != version or now >= kept[2]:
            found = self._registry.subscribers(topic)
            audience = Audience(
                found,
                topic,
                in_flight=self._in_flight,
                is_full=self._is_full,
                view=self._look(now),
                locality=self._locality,
            )
            kept = self._audiences[topic] = audience, version, now + _counts_s(len(found))
            if len(self._audiences) > RANKINGS_LIMIT:
                self._audiences.popitem(last=False)
        return kept[0]

    def _offering(self, letter: Letter, wish: str) -> Sequence[Provider]:
        by_name = letter.message.capability is None
        return self._registry.instances(wish) if by_name else self._registry.providers(wish)

    def _ranking(self, letter: Letter, wish: str, now: float) -> Ranking:
        """Those that meet a wish of a message and may be given it."""
        version = self._registry.version(wish)
        kept = self._rankings.get((wish, letter.message.capability is None))
        if kept is None or kept.version != version or now >= kept.until:
            kept = self._rank(letter, wish, version, now)
        ranking = kept.ranking if self._breakers.are_all_closed else self._spared(kept, now)
        if letter.excluded:
            ranking = self._without_refusers(ranking, letter, now)
        if letter.message.require:
            ranking = ranking.meeting(letter.message.require)
        return ranking if letter.message.capability is None else ranking.accepting(letter.message.content)

    def _rank(self, letter: Letter, wish: str, version: int, now: float) -> _Ranked:
        """Rank all that meet a wish of a message, as the registry shows them now."""
        found, by_name = self._offering(letter, wish), letter.message.capability is None
        wanted = "" if by_name else wish
        ranking = Ranking.of(
            found,
            wanted,
            in_flight=self._in_flight,
            is_full=self._is_full,
            view=self._look(now),
            locality=self._locality,
        )
        kept = _Ranked(ranking, version, now + _counts_s(len(found)))
        self._rankings[wish, by_name] = kept
        if len(self._rankings) > RANKINGS_LIMIT:
            self._rankings.popitem(last=False)
        return kept

    def _spared(self, kept: _Ranked, now: float) -> Ranking:
        """A ranking without those whose breakers are open, unless that leaves nobody."""
        version = self._breakers.version(now)
        if kept.spared is None or kept.spared[1] != version:
            why_not = {target: self._breakers.why_not(target, now) for target in kept.ranking.targets}
            left_out = {target: why for target, why in why_not.items() if why is not None}
            ranking = kept.ranking
            if len(left_out) == len(why_not) > 0:
                self._breakers.ignored()
            elif left_out:
                ranking = ranking.without(left_out, _reasons(ranking.excluded, sorted(left_out.items())))
            kept.spared = ranking, version
        return kept.spared[0]

    @staticmethod
    def _without_refusers(ranking: Ranking, letter: Letter, now: float) -> Ranking:
        """A ranking without those that this message is not given to for now."""
        left_out = {target: until - now for target, until in letter.excluded.items() if until > now}
        if not left_out:
            return ranking
        reasons = ((target, f"left out for {pause_s:.1f} s") for target, pause_s in sorted(left_out.items()))
        return ranking.without(left_out, _reasons(ranking.excluded, reasons))

    def _remember(self, conversation: tuple[str, str], target: Target) -> None:
        sticky = self._sticky
        sticky.pop(conversation, None)  # what is used again is no longer among the oldest
        sticky[conversation] = target
        if len(sticky) > STICKY_LIMIT:
            drop_oldest(sticky, STICKY_LIMIT)

    def _look(self, now: float) -> ClusterView:
        """The cluster as it was seen at most :data:`VIEW_S` ago; it goes with every decision."""
        if self._view is None or now - self._viewed_at >= VIEW_S:
            self._view, self._viewed_at = self._membership.view(), now
        return self._view


def _asks_for_the_best(letter: Letter) -> bool:
    """Whether a message wants the best of a capability, and nothing more."""
    message = letter.message
    return (
        message.routing_strategy is RoutingStrategy.BEST_MATCH
        and message.capability is not None
        and message.receiver is None
        and not (message.require or message.fallback_versions or letter.excluded)
    )


def _meets(message: Message, provider: Provider) -> bool:
    """Whether a provider has what a message requires."""
    return not message.require or not lacking(message.require, provider.labels, provider.node)


def _counts_s(providers: int) -> float:
    """How long a ranking of so many counts, in seconds; where there is no choice, as long as any."""
    if providers == 1:
        return RANKED_LIMIT_S
    return min(RANKED_LIMIT_S, RANKED_S + RANKED_PER_PROVIDER_S * providers)


def _reasons(before: Iterable[tuple[str, str, str]], more: Iterable[tuple[Target, str]]) -> Exclusions:
    """Exclusions as they are kept with a decision."""
    found = {(agent, node): why for agent, node, why in before}
    found.update(more)
    return tuple((agent, node, why) for (agent, node), why in found.items())[:EXPLAINED_LIMIT]
