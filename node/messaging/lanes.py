"""Lines of messages for each agent instance, and their way onto the links, in order.

A link takes what its window allows, and each lane has a window besides, so that a slow agent holds up its
own lane and no other one on the link; the rest stays in line here and is offered again when the link says
that it is writable, when it opens, when a window grows, and at every sweep. The windows of lanes are what the
node at the other end grants (:mod:`node.messaging.credit`); at one that grants nothing they are
``messaging.peer_window``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from node.message import Envelope, Message
from node.messaging.calendar import Calendar
from node.messaging.explanation import Target
from node.messaging.letters import Lane, Route
from node.messaging.origin import RouteEvent, RouteState, step
from node.messaging.ports import Carrier, Time
from node.transport.frames import FREE_CREDIT, DeliverItem, Grant

KEPT_S: Final = 2.0
"""How long the window of an empty lane is remembered; its node keeps it free for longer."""
KEPT_LIMIT: Final = 1_024
"""Windows of empty lanes of one node that are remembered."""
LocalDelivery = Callable[[DeliverItem, Message], None]


_NOTHING: Final[dict[str, tuple[int, float]]] = {}


class Lanes:
    """All lanes of one node.

    Args:
        node: This node's name.
        time: For remaining times.
        calendar: When an acknowledgement is overdue.
        window: Most unsettled messages of one lane on the way, whatever is granted.
        due_after: Seconds until an acknowledgement of the given attempt is overdue.
        deliver_locally: Takes what is for this node's own agents.
    """

    def __init__(
        self,
        *,
        node: str,
        time: Time,
        calendar: Calendar,
        window: int,
        due_after: Callable[[int], float],
        deliver_locally: LocalDelivery,
    ) -> None:
        self.links: Carrier | None = None
        self._node = node
        self._time, self._calendar = time, calendar
        self._window, self._free = window, min(FREE_CREDIT, window)
        self._due_after = due_after
        self._deliver_locally = deliver_locally
        self._by_node: dict[str, dict[str, Lane]] = {}
        self._kept: dict[str, dict[str, tuple[int, float]]] = {}
        self._windows: dict[str, int] = {}  # of new lanes to nodes that grant nothing, while a link is open
        self.transmitted = 0
        self._curbed = 0

    def in_flight(self, target: Target) -> int:
        """Messages that ``target`` was given and has not settled, those in line included."""
        lane = self._by_node.get(target[1], {}).get(target[0])
        return 0 if lane is None else lane.unsettled + len(lane.line)

    def is_full(self, target: Target) -> bool:
        """Whether one more message for ``target`` would have to wait for the end of another."""
        lane = self._by_node.get(target[1], {}).get(target[0])
        return lane is not None and lane.is_full

    def granted(self, node: str, grants: Sequence[Grant] | None) -> bool:
        """``node`` takes so much for its agents: nothing yet at first, or None if it will never tell.

        Returns:
            Whether somebody in line may be sent now.
        """
        lanes = self._by_node.get(node, {})
        if grants is None:
            self._kept.pop(node, None)
            self._windows[node] = self._window
            for lane in lanes.values():
                lane.window = self._window
            return True
        grew = False
        for grant in grants:
            self._curbed += grant.window > self._window
            granted = lanes.get(grant.agent)
            if granted is not None:
                window = min(grant.window, self._window)
                grew = grew or (window > granted.window and bool(granted.line))
                granted.window = window
        return grew

    def link_lost(self, node: str) -> None:
        """What ``node`` granted counts no more."""
        self._windows.pop(node, None)
        self._kept.pop(node, None)
        for lane in self._by_node.get(node, {}).values():
            lane.window = self._free

    def queue(self, route: Route) -> None:
        """Put a route in line; :meth:`pump` sends it."""
        if route.counted:
            self.release(route)
        lane = route.lane = self._lane(route.target)
        lane.join(route)

    def holds(self, route: Route) -> None:
        """The provider has a route's message, so that it takes a place in the window."""
        if not route.counted:
            lane = route.lane = self._lane(route.target)
            lane.count(route, unsettled=True)

    def release(self, route: Route) -> None:
        """A route needs its place in the window no more."""
        if route.counted and route.lane is not None:
            route.lane.count(route, unsettled=False)

    def queued(self) -> list[Route]:
        """The routes that stand in line."""
        return [
            route
            for lanes in self._by_node.values()
            for lane in lanes.values()
            for route in lane.line
            if route.state is RouteState.QUEUED
        ]

    def nodes(self) -> list[str]:
        """The nodes somebody stands in line for."""
        return [node for node, lanes in self._by_node.items() if any(lane.head() for lane in lanes.values())]

    def pump(self, node: str) -> None:
        """Send to ``node`` what its link and the windows take, one lane after the other."""
        lanes = self._by_node.get(node)
        if lanes is None:
            return
        moving = [lane for lane in lanes.values() if lane.line]
        now = self._time.now()
        if moving and not self._send(node, moving, now):
            return
        for agent in [agent for agent, lane in lanes.items() if not lane.line and not lane.unsettled]:
            self._keep(lanes.pop(agent), now)
        if not lanes:
            del self._by_node[node]

    def _send(self, node: str, moving: list[Lane], now: float) -> bool:
        """Send what stands in these lanes, as their windows allow; False where the link takes no more."""
        if node != self._node and (self.links is None or not self.links.is_ready(node)):
            if self.links is not None:
                self.links.ensure(node)
            return False
        routes = _in_turn(moving)
        items = [self._item(route, now) for route in routes]
        if node == self._node or self.links is None:
            for item, route in zip(items, routes, strict=True):
                self._deliver_locally(item, route.letter.message)
            taken = len(items)
        else:
            taken = self.links.deliver(node, items)
        wall = self._time.wall()
        first_due = now + self._due_after(1)  # of one batch, all are acknowledged at once
        for route in routes[:taken]:
            due = first_due if not route.attempts else now + self._due_after(route.attempts + 1)
            self._sent(route, wall, due)
        for route in routes[taken:]:
            self.release(route)
            self._lane(route.target).join(route)
        return taken == len(routes)

    def statistics(self) -> dict[str, int]:
        """Lanes and who stands in them."""
        lanes = [lane for lanes in self._by_node.values() for lane in lanes.values()]
        return {
            "lanes": len(lanes),
            "in_line": sum(len(lane.line) for lane in lanes),
            "lanes_out_of_credit": sum(lane.unsettled >= lane.window for lane in lanes),
            "on_the_way": sum(lane.unsettled for lane in lanes),
            "grants_curbed": self._curbed,
            "windows_kept": sum(map(len, self._kept.values())),
            "windows_kept_limit": KEPT_LIMIT,
            "transmitted": self.transmitted,
        }

    def _lane(self, target: Target) -> Lane:
        lanes = self._by_node.setdefault(target[1], {})
        lane = lanes.get(target[0])
        if lane is None:
            lane = lanes[target[0]] = Lane(target, self._first_window(target))
        return lane

    def _first_window(self, target: Target) -> int:
        """The window of a lane that is empty so far."""
        agent, node = target
        kept = self._kept.get(node, _NOTHING).get(agent)
        if kept is not None and self._time.now() < kept[1]:
            return kept[0]
        return self._windows.get(node, self._free)

    def _keep(self, lane: Lane, now: float) -> None:
        """Remember what an empty lane may have."""
        agent, node = lane.target
        kept = self._kept.setdefault(node, {})
        if len(kept) >= KEPT_LIMIT:
            kept.clear()
        kept[agent] = lane.window, now + KEPT_S

    def claim(self, route: Route, now: float) -> DeliverItem | None:
        """Give a route to an agent of this node a place in the window; None if it has to stand in line."""
        lane = self._lane(route.target)
        if lane.line or lane.unsettled >= lane.window:
            return None
        route.lane = lane
        lane.count(route, unsettled=True)
        return self._item(route, now)

    def handed_over(self, route: Route) -> None:
        """What was claimed is on disk on both sides."""
        self._sent(route, self._time.wall(), self._time.now() + self._due_after(1))

    @staticmethod
    def _item(route: Route, now: float) -> DeliverItem:
        letter = route.letter
        remaining_s = max(0.0, letter.deadline - now)
        envelope = Envelope(
            route.target[0], route.attempts + 1, route.epoch, letter.hops, remaining_s, letter.traceparent
        )
        return DeliverItem(envelope, letter.message.id, letter.sealed)

    def _sent(self, route: Route, wall: float, due: float) -> None:
        route.state, _ = step(route.state, RouteEvent.TRANSMITTED)
        route.attempts += 1
        route.sent_s, route.due = wall, due
        letter = route.letter
        self._calendar.by(letter, min(letter.deadline, due))
        self.transmitted += 1


def _in_turn(moving: list[Lane]) -> list[Route]:
    """The first in line that windows have room for, one lane after the other; they leave their lines."""
    routes: list[Route] = []
    while moving:
        still = []
        for lane in moving:
            route = lane.head() if lane.unsettled < lane.window else None
            if route is not None:
                lane.leave()
                lane.count(route, unsettled=True)
                routes.append(route)
                still.append(lane)
        moving = still
    return routes
