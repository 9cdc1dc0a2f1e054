"""Who gets a message, given the registry, who is alive, who refused it, and the conversation so far."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from node.cluster.provider import CapabilityView, ClusterView, Provider
from node.messaging.explanation import EXPLAINED_LIMIT, Decision, Target
from node.messaging.letters import Letter
from node.messaging.ports import MembershipView, Time
from node.messaging.router import addressed, choose

STICKY_LIMIT: Final = 10_000
"""Conversations whose provider is remembered; the longest unused are forgotten."""

VIEW_S: Final = 0.25
"""How old the view of the cluster may be that is kept with a decision, in seconds."""


class Placement:
    """Decides, and remembers which provider has which conversation.

    Args:
        time: Now.
        chance: Draws for the router.
        node: This node's name.
        registry: Who offers what.
        membership: Who is there.
        in_flight: Messages that a provider was given and has not settled.
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
    ) -> None:
        self._time = time
        self._chance = chance
        self._node = node
        self._registry = registry
        self._membership = membership
        self._in_flight = in_flight
        self._sticky: OrderedDict[tuple[str, str], Target] = OrderedDict()
        self._waiting: dict[tuple[str, str], dict[int, Letter]] = {}
        self._view: ClusterView | None = None
        self._viewed_at = 0.0

    def decide(self, letter: Letter) -> Decision:
        """Who gets a message; nobody while an earlier one of its conversation waits for the same."""
        view = self._look()
        if letter.address is not None:
            if letter.excluded.get(letter.address, 0.0) > self._time.now():
                return Decision((), "addressed", "the addressed agent refused it for now", view=view)
            return addressed(*letter.address, view=view)
        how = letter.message.routing_strategy
        for earlier in self._waiting.get(letter.order, {}).values():
            if earlier.seq < letter.seq and earlier.wanted == letter.wanted:
                return Decision((), how.value, "an earlier message waits too", view=view)
        now = self._time.now()
        usable: list[Provider] = []
        excluded: list[tuple[str, str, str]] = []
        for p in self.providers(letter):
            left_out_s = letter.excluded.get((p.agent, p.node), 0.0) - now
            if p.health > 0.0 and left_out_s <= 0.0:
                usable.append(p)
            elif len(excluded) < EXPLAINED_LIMIT:
                why = f"left out for {left_out_s:.1f} s" if left_out_s > 0.0 else "its health is 0"
                excluded.append((p.agent, p.node, why))
        decision = choose(
            how,
            usable,
            in_flight=self._in_flight,
            chance=self._chance,
            sticky=self._sticky.get((letter.message.conversation_id, letter.wanted)),
            excluded=tuple(excluded),
            view=view,
        )
        if decision.targets and not letter.broadcast:
            self._remember((letter.message.conversation_id, letter.wanted), decision.targets[0])
        return decision

    def providers(self, letter: Letter) -> list[Provider]:
        """All that offer what a message wants, on nodes that are alive."""
        capability = letter.message.capability
        if capability is None:
            found = list(self._registry.instances(letter.message.receiver or ""))
        else:
            found = list(self._registry.providers(capability))
        return [p for p in found if self.reaches(p.node)]

    def reaches(self, node: str) -> bool:
        """Whether a node is there now."""
        return node == self._node or self._membership.is_alive(node)

    def is_hopeful(self, letter: Letter) -> bool:
        """Whether somebody who offers what a message wants is there, or may come back."""
        return bool(self.providers(letter)) or self._registry.expects(letter.wanted)

    def related(self, letter: Letter) -> list[tuple[str, int]]:
        """Capabilities like the wanted one, with their numbers of agents."""
        return list(self._registry.related(letter.wanted))

    def unstick(self, letter: Letter) -> None:
        """The conversation of a message needs another provider."""
        self._sticky.pop((letter.message.conversation_id, letter.wanted), None)

    def waits(self, letter: Letter) -> None:
        """A message has no provider for now; those behind it wait, too."""
        self._waiting.setdefault(letter.order, {})[letter.seq] = letter

    def waits_no_more(self, letter: Letter) -> None:
        """A message has a provider, or has ended."""
        waiting = self._waiting.get(letter.order)
        if waiting is not None and waiting.pop(letter.seq, None) is not None and not waiting:
            del self._waiting[letter.order]

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
        }

    def _look(self) -> ClusterView:
        """The cluster as it was seen at most :data:`VIEW_S` ago; it goes with every decision."""
        now = self._time.now()
        if self._view is None or now - self._viewed_at >= VIEW_S:
            self._view, self._viewed_at = self._membership.view(), now
        return self._view

    def _remember(self, key: tuple[str, str], target: Target) -> None:
        self._sticky[key] = target
        self._sticky.move_to_end(key)
        if len(self._sticky) > STICKY_LIMIT:
            self._sticky.popitem(last=False)
