"""Messages between agents of one node: given to their agents in the transaction that accepts them.

Theory of operation. A message for an agent of the origin's own node needs no link. Where nothing stands in
its way (its lane is empty and has credit, and nothing before it in its conversation is still on its way) it
is *claimed*: it takes its place in the lane's window, and its rows of outbox and inbox are written by one
transaction (:mod:`node.messaging.handover`). What is not claimed goes the way of all others. After a crash
both rows are there or neither is, which is how a delivery of the ordinary way stands before its acceptance or
after its receipt.

Likewise the end of a message that was handled here: its origin's row is written along with the settled mark.
Until that is durable nothing else may end the message, so it is *settling* meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from node.messaging.decisions import Decisions
from node.messaging.letters import OPEN, Letter, Route
from node.messaging.origin import RouteState
from node.messaging.ports import Time
from node.storage.outbox import EndWithRoute
from node.transport.frames import DeliverItem, DeliveryKey


class Claim(NamedTuple):
    """A message that goes to its agent at once."""

    letter: Letter
    item: DeliverItem


class Claims:
    """See the module's docstring.

    Args:
        time: Now, and the time of day.
        decisions: The open messages.
    """

    def __init__(self, *, time: Time, decisions: Decisions) -> None:
        self._time, self._decisions = time, decisions

    def claim(self, letters: Sequence[Letter]) -> list[Claim]:
        """Claim what can be claimed of prepared messages, each with one route, to an agent of this node."""
        now, claimed = self._time.now(), []
        held_up: set[str] = set()
        for letter in letters:
            route = letter.own
            if route is None:
                continue
            agent = route.target[0]
            item = None
            if agent not in held_up and not self._follows_another(letter, route):
                item = self._decisions.lanes.claim(route, now)
            if item is None:
                held_up.add(agent)
                continue
            letter.claimed = True
            claimed.append(Claim(letter, item))
        return claimed

    def settling(self, keys: Iterable[DeliveryKey], node: str) -> dict[str, EndWithRoute]:
        """The ends of messages that were handled on this very node, as they are to be written, by message id.

        A message that has more than the one route, or is not open any more, is left out: its end is judged.
        """
        wall = self._time.wall()
        found: dict[str, EndWithRoute] = {}
        for key in keys:
            route = self._decisions.route(key, node)
            if route is None or not route.own or route.decision is not None or not route.active:
                continue
            letter = route.letter
            if len(letter.routes) != 1:
                continue
            letter.settling = True
            settled = RouteState.SETTLED.value
            times = route.sent_s, route.received_s, wall
            found[key.message_id] = (letter.seq, settled, wall, "", settled, route.attempts, *times, "")
        return found

    def not_settled(self, message_ids: Iterable[str]) -> None:
        """These have ended otherwise before."""
        for message_id in message_ids:
            letter = self._decisions.open.get(message_id)
            if letter is not None:
                letter.settling = False

    def _follows_another(self, letter: Letter, route: Route) -> bool:
        """Whether something of the same conversation is on its way to the same agent, or waits to be."""
        for earlier in self._decisions.order.latest_first(letter):
            if earlier.ended != OPEN:
                continue
            same = earlier.routes.get(route.target)
            if same is not None and same.active:
                if same.state is not RouteState.RECEIVED:
                    return True
                if earlier.wanted == letter.wanted:
                    return False  # and so is what was before it
            elif earlier.waiting_since is not None and earlier.wanted == letter.wanted:
                return True
        return False
