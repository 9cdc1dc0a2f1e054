"""Who gets a message to a topic: every subscriber, or one of each queue group.

A group shares what a topic brings: with ``load_balanced`` one of its members gets a message, the less loaded
of two. Subscribers without a group, and with any other strategy all of them, get each message.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Sequence
from typing import Final

from node.cluster.provider import ClusterView, Provider
from node.messaging.explanation import EXPLAINED_LIMIT, Decision, Target
from node.messaging.router import (
    NARROWED_LIMIT,
    Choice,
    Exclusions,
    InFlight,
    IsFull,
    Ranking,
    never_full,
    ranked,
)
from node.predicates import predicate
from node.topics import matches
from node.vocabulary import RoutingStrategy

BY_TOPIC: Final = "topic"
"""How the subscribers of a topic are chosen, where it is not one of each group."""
_SHARED: Final = RoutingStrategy.LOAD_BALANCED


class Audience:
    """The subscribers of one topic, for as long as the registry says the same.

    Args:
        found: All of them, on nodes that are alive, sorted by (node, agent).
        topic: The topic.
        in_flight: Asked of whoever is compared.
        is_full: Asked of whoever is about to be chosen.
        view: The cluster as it looks; kept with each decision.
        locality: Whether near members of a group are preferred.
        refusing: The predicates that do not take the content; whose they are is left out.
    """

    def __init__(
        self,
        found: Sequence[Provider],
        topic: str,
        *,
        in_flight: InFlight,
        is_full: IsFull = never_full,
        view: ClusterView | None,
        locality: bool = True,
        refusing: Sequence[str] = (),
    ) -> None:
        self._topic, self._view = topic, view
        self._found, self._in_flight, self._locality = found, in_flight, locality
        self._is_full = is_full
        self._predicates = dict.fromkeys(p.accepts for p in found if p.accepts)
        self._accepting: dict[tuple[str, ...], Audience] = {}
        ill: list[tuple[str, str, str]] = []
        members: dict[str, list[Provider]] = {}
        for provider in found:
            if provider.accepts in refusing:
                told = f"it does not accept the content: {provider.accepts}"
                ill.append((provider.agent, provider.node, told))
                continue
            if provider.health <= 0.0:
                ill.append((provider.agent, provider.node, "its health is 0"))
                continue
            for name in dict.fromkeys(g for pattern, g in provider.topics if matches(pattern, topic)):
                members.setdefault(name, []).append(provider)
        self._excluded: Exclusions = tuple(ill[:EXPLAINED_LIMIT])
        self._alone = tuple((p.agent, p.node) for p in members.pop("", ()))
        self._members = {name: [(p.agent, p.node) for p in each] for name, each in sorted(members.items())}
        self._groups = {
            name: Ranking(ranked(members[name], locality=locality), in_flight=in_flight, is_full=is_full)
            for name in self._members
        }
        everybody = self._sorted((*self._alone, *(t for each in self._members.values() for t in each)))
        reason = f"all {len(everybody)} subscribers" if everybody else "nobody subscribes to it"
        self._everybody = self._choice(everybody, BY_TOPIC, reason)

    def accepting(self, content: object) -> Audience:
        """The same audience but for those whose predicate does not take a content."""
        refusing = tuple(text for text in self._predicates if not predicate(text).takes(content))
        if not refusing:
            return self
        kept = self._accepting.get(refusing)
        if kept is None:
            kept = Audience(
                self._found,
                self._topic,
                in_flight=self._in_flight,
                is_full=self._is_full,
                view=self._view,
                locality=self._locality,
                refusing=refusing,
            )
            if len(self._accepting) < NARROWED_LIMIT:
                self._accepting[refusing] = kept
        return kept

    def choose(self, strategy: RoutingStrategy, chance: random.Random) -> Choice:
        """Who gets one message.

        Args:
            strategy: ``load_balanced`` for one of each group; all of them with any other.
            chance: Draws the two of a group that are compared.
        """
        if strategy is not RoutingStrategy.LOAD_BALANCED or not self._groups:
            return self._everybody
        chosen = [self._one(name, chance) for name in self._groups]
        reason = f"one of each of {len(chosen)} groups, and {len(self._alone)} subscribers without one"
        return self._choice(self._sorted((*self._alone, *chosen)), strategy.value, reason)

    def instead(
        self, tried: Container[Target], served: Container[Target], chance: random.Random
    ) -> list[Target]:
        """One more member of each group that no member has handled, or has been given, the message for.

        Args:
            tried: Who was given it, with whatever end.
            served: Those of them who have handled it, or are expected to.
            chance: Draws the two that are compared.
        """
        found: dict[Target, None] = {}
        for name, members in self._members.items():
            if not any(member in served or member in found for member in members):
                rest = self._groups[name].without(tried, ())
                found.update(dict.fromkeys(rest.choose(_SHARED, chance, None).decision.targets))
        return list(found)

    def _one(self, name: str, chance: random.Random) -> Target:
        return self._groups[name].choose(_SHARED, chance, None).decision.targets[0]

    @staticmethod
    def _sorted(targets: Iterable[Target]) -> tuple[Target, ...]:
        return tuple(sorted(dict.fromkeys(targets), key=lambda target: (target[1], target[0])))

    def _choice(self, targets: tuple[Target, ...], how: str, reason: str) -> Choice:
        return Choice.of(
            Decision(
                targets,
                how,
                reason,
                considered=len(self._alone) + sum(map(len, self._members.values())),
                excluded=self._excluded,
                view=self._view,
                wanted=self._topic,
            )
        )
