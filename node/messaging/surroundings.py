"""What the core of deliveries asks of the node around it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from node.cluster.provider import CapabilityView
from node.messaging.lanes import LocalDelivery
from node.messaging.letters import Letter
from node.messaging.ports import MembershipView, Time


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the core asks of the node around it, and whom it tells.

    Args:
        time: Now, and the time of day.
        registry: Who offers what.
        membership: Who is there.
        new_id: Makes an identifier.
        router_chance: Draws for the router.
        retry_chance: Draws for pauses.
        deliver_locally: Takes what is for this node's own agents.
        on_arrival: Called with the id of each message that a peer has on disk.
        on_end: Called for each message that ended, after that is durable.
    """

    time: Time
    registry: CapabilityView
    membership: MembershipView
    new_id: Callable[[], str]
    router_chance: random.Random
    retry_chance: random.Random
    deliver_locally: LocalDelivery
    on_arrival: Callable[[str], None]
    on_end: Callable[[Letter], None]
