"""What the router would do with a message now: a question, which remembers and sends nothing."""

from __future__ import annotations

import random

from msgspec.structs import replace

from node.cluster.provider import CapabilityView
from node.message import Message
from node.messaging.acceptance import Acceptance
from node.messaging.audience import Audience
from node.messaging.explanation import Decision
from node.messaging.letters import wishes
from node.messaging.outbox import Outbox
from node.messaging.ports import MembershipView
from node.messaging.router import MAJORITY, Ranking, addressed, withheld
from node.vocabulary import RoutingStrategy


class Previews:
    """Asks the router without giving it a message.

    Args:
        acceptance: Checks messages.
        registry: Who offers what.
        membership: Who is there.
        outbox: Knows who is busy, and who has which conversation.
        chance: Draws in the place of the router's own, which must not notice that it was asked.
        locality: Whether near providers are preferred.
    """

    def __init__(
        self,
        *,
        acceptance: Acceptance,
        registry: CapabilityView,
        membership: MembershipView,
        outbox: Outbox,
        chance: random.Random,
        locality: bool,
    ) -> None:
        self._acceptance = acceptance
        self._registry = registry
        self._membership = membership
        self._outbox = outbox
        self._chance = chance
        self._locality = locality

    def preview(self, message: Message) -> Decision:
        """Who would get ``message``; nobody where it would wait, or where chance decides.

        Raises:
            ValidationFailed: a field breaks its rule.
            MessageTooLarge: it is.
        """
        self._acceptance.check(message)
        agent, at, node = (message.receiver or "").rpartition("@")
        if at:
            return addressed(agent, node)
        if message.topic is not None:
            return self._audience(message).choose(message.routing_strategy, self._chance).decision
        view = self._membership.view()
        if message.capability is not None and view.side != MAJORITY:
            policy = self._registry.minority(message.capability)
            if policy != "serve":
                return withheld(message, policy, view).decision
        found = [self._choose(message, wish) for wish in wishes(message)]
        decision = next((choice for choice in found if choice.targets), found[0])
        if decision.strategy != RoutingStrategy.LOAD_BALANCED or decision.considered == 1:
            return decision
        return replace(
            decision, targets=(), reason=f"the less loaded of two drawn from {decision.considered} providers"
        )

    def _audience(self, message: Message) -> Audience:
        topic = message.topic or ""
        audience = Audience(
            self._registry.subscribers(topic),
            topic,
            in_flight=self._outbox.in_flight,
            is_full=self._outbox.is_full,
            view=self._membership.view(),
            locality=self._locality,
        )
        return audience.accepting(message.content)

    def _choose(self, message: Message, wish: str) -> Decision:
        by_name = message.capability is None
        of_all = self._registry.instances if by_name else self._registry.providers
        ranking = Ranking.of(
            [p for p in of_all(wish) if self._reaches(p.node)],
            "" if by_name else wish,
            in_flight=self._outbox.in_flight,
            is_full=self._outbox.is_full,
            view=self._membership.view(),
            locality=self._locality,
        )
        if message.require:
            ranking = ranking.meeting(message.require)
        if not by_name:
            ranking = ranking.accepting(message.content)
        sticky = self._outbox.sticky(message.conversation_id, message.wanted)
        return ranking.choose(message.routing_strategy, self._chance, sticky).decision

    def _reaches(self, node: str) -> bool:
        return node == self._acceptance.node or self._membership.is_alive(node)
