"""Credit: how many messages each origin may have unsettled here, for each agent, and is told so.

Theory of operation. A mailbox has a capacity, and any number of nodes may send to it. Each of them has a
*window* for each agent: most messages it may have there that it has not heard the end of. A node that is
new begins with :data:`FREE_CREDIT`, without asking. What more it may have it is told (:class:`Grant`), in the
same write as the acknowledgements that go to it anyway. Two rules make that safe:

- A window grows only by what no other window takes, so the windows that were told stay within the capacity.
- A window shrinks only by what the same write tells the end of: an origin that has used all of its window is
  within the new one when it hears of it, so nothing that is on its way is beyond it.

So n origins hold at most the capacity and n times :data:`FREE_CREDIT`. No window falls below 1, so whoever
has nothing under way can always send, hears how that ended, and hears of its window with it: there is no
window of 0 that could be forgotten, and no message whose loss would stop an origin for good. An origin that
is silent for :data:`RESERVED_S`, and has nothing here, gives its window back; it has counted on
:data:`FREE_CREDIT` for some time by then (:data:`node.messaging.lanes.KEPT_S`), and is told anew if it begins
again in between.

A peer that sends beyond what it was granted (and :data:`SLACK` beside it, for ends that are told twice) is
refused, which is counted. Peers that do not know of credit are not asked to keep to it.

Windows are those of TCP (RFC 9293, section 3.8.6) in that they do not shrink under what is on its way, and of
AMQP 1.0's link credit in that the receiver decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from node.messaging.settings import CLIENTS
from node.transport.frames import FREE_CREDIT, MAX_WINDOW, DeliveryKey, Grant, Outcome

RESERVED_S: Final = 5.0
"""How long the window of an origin is kept that has nothing here."""
SLACK: Final = FREE_CREDIT
"""How much more than its window an origin may have here before it is refused."""
RETOLD_S: Final = 1.0
"""Silence after which a window is told again: below what it takes an origin to forget it."""
STEPS: Final = 16
"""A window grows in steps of this part of the capacity, so that not every write tells a new one."""
ACCOUNTS_LIMIT: Final = 20_000
"""Agents whose windows are counted; further ones have :data:`FREE_CREDIT` from everywhere, and no more."""
BEYOND: Final = "it is beyond the credit of its node"

Window = int


@dataclass(slots=True)
class _Origin:
    """What one node has at one agent.

    Args:
        window: What it may have, as it was told last.
        seen_s: Monotonic seconds of its last message, or of its last end that was told.
        held: Its messages that have not ended here.
        is_forgotten: Whether it may have forgotten its window.
    """

    window: Window
    seen_s: float
    held: int = 0
    is_forgotten: bool = False

    @property
    def reserved(self) -> int:
        """What is kept free for it: it may begin anew without having heard of a smaller window."""
        return max(self.window, FREE_CREDIT)


@dataclass(slots=True)
class _Account:
    """One agent.

    Args:
        origins: By node.
        total: What is kept free for them together.
        swept_s: When the silent ones among them were last looked for.
    """

    origins: dict[str, _Origin] = field(default_factory=dict)
    total: int = 0
    swept_s: float = 0.0


class Credits:
    """The windows of all origins at this node's agents; see the module's docstring.

    Args:
        capacity: Most messages that wait for an agent.
        free: Most that may be unsettled of each origin where there is no mailbox to fill.
        room: How many more messages the whole inbox takes.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        capacity: Callable[[str], int],
        free: int,
        room: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        self._capacity, self._free, self._room, self._now = capacity, min(free, MAX_WINDOW), room, now
        self._accounts: dict[str, _Account] = {}
        self._knowing: dict[str, None] = {}  # as many as links, which are bounded
        self._counts = dict.fromkeys(("granted", "withdrawn", "beyond"), 0)

    def begins(self, origin: str, *, knows: bool) -> None:
        """A link of ``origin`` begins, where every window is :data:`FREE_CREDIT` until another is told."""
        if not knows:
            self._knowing.pop(origin, None)
            return
        self._knowing[origin] = None
        for account in self._accounts.values():
            found = account.origins.get(origin)
            if found is not None:
                self._set(account, found, max(FREE_CREDIT, found.held))

    def admit(self, origin: str, agent: str, more: int) -> bool:
        """Whether ``origin`` may have so many more messages at ``agent`` than are counted."""
        if origin not in self._knowing:
            return True
        account = self._accounts.get(agent)
        found = None if account is None else account.origins.get(origin)
        if found is None:
            return more <= FREE_CREDIT + SLACK
        return found.held + more <= found.reserved + SLACK

    def refused(self) -> None:
        """A message was refused because :meth:`admit` says no."""
        self._counts["beyond"] += 1

    def hold(self, origin: str, agent: str, count: int = 1) -> None:
        """So many messages of ``origin`` are held for ``agent`` from now on."""
        found = self._origin(agent, origin)
        if found is not None:
            found.held += count
            self._saw(found, self._now())

    def release(self, origin: str, agent: str, count: int = 1) -> None:
        """So many of them have ended."""
        account = self._accounts.get(agent)
        found = None if account is None else account.origins.get(origin)
        if found is not None:
            found.held = max(0, found.held - count)

    def grants(
        self, origin: str, received: Sequence[DeliveryKey], outcomes: Sequence[Outcome]
    ) -> tuple[Grant, ...]:
        """The windows that change with what ``origin`` is told now.

        Args:
            origin: A node.
            received: What it is told to be here.
            outcomes: What it is told the end of.
        """
        if origin not in self._knowing:
            return ()
        ended: dict[str, int] = dict.fromkeys([key.target for key in received], 0)
        for outcome in outcomes:
            agent = outcome.key.target
            ended[agent] = ended.get(agent, 0) + 1
        now, room = self._now(), self._room()
        found = []
        for agent, count in ended.items():
            window = self._window(agent, origin, count, now, room)
            if window is not None:
                found.append(Grant(agent, window))
        return tuple(found)

    def statistics(self) -> dict[str, int]:
        """Counts and sizes."""
        return {
            "accounts": len(self._accounts),
            "accounts_limit": ACCOUNTS_LIMIT,
            "origins": len(self._knowing),
            "windows": sum(len(account.origins) for account in self._accounts.values()),
            "held_max": max(
                (sum(o.held for o in a.origins.values()) for a in self._accounts.values()), default=0
            ),
            **self._counts,
        }

    def _window(self, agent: str, origin: str, ended: int, now: float, room: int) -> Window | None:
        """The new window of ``origin`` at ``agent``, if it changes now that so many ends are told."""
        found = self._origin(agent, origin)
        if found is None:
            return None
        account = self._accounts[agent]
        self._saw(found, now)
        before = found.window
        if agent in CLIENTS:
            target = after = self._free  # they wait in no mailbox
        else:
            self._forget_silent(account, now)
            capacity = min(self._capacity(agent), MAX_WINDOW)
            target = max(1, capacity // len(account.origins)) if room > 0 else 1
            if target < before:
                after = max(target, before - ended)
            else:
                after = min(target, before + max(0, min(capacity - account.total, room)))
                if after < target and after - before < capacity // STEPS:
                    after = before
        if after == before:
            is_told, found.is_forgotten = found.is_forgotten and before != FREE_CREDIT, False
            return before if is_told else None
        self._counts["granted" if after > before else "withdrawn"] += 1
        self._set(account, found, after)
        found.is_forgotten = False
        return after

    @staticmethod
    def _saw(origin: _Origin, now: float) -> None:
        """Something of an origin has come, or it is told something."""
        origin.is_forgotten = origin.is_forgotten or now - origin.seen_s >= RETOLD_S
        origin.seen_s = now

    def _origin(self, agent: str, origin: str) -> _Origin | None:
        account = self._accounts.get(agent)
        if account is None:
            if len(self._accounts) >= ACCOUNTS_LIMIT:
                self._forget_all_silent()
            if len(self._accounts) >= ACCOUNTS_LIMIT:
                return None
            account = self._accounts[agent] = _Account()
        found = account.origins.get(origin)
        if found is None:
            found = account.origins[origin] = _Origin(FREE_CREDIT, self._now())
            account.total += found.reserved
        return found

    @staticmethod
    def _set(account: _Account, origin: _Origin, window: Window) -> None:
        before = origin.reserved
        origin.window = window
        account.total += origin.reserved - before

    def _forget_silent(self, account: _Account, now: float) -> None:
        """Take back the windows of origins that have nothing here and are silent."""
        if now - account.swept_s < RESERVED_S / 5:
            return
        account.swept_s = now
        for name, origin in list(account.origins.items()):
            if not origin.held and now - origin.seen_s >= RESERVED_S:
                account.total -= origin.reserved
                del account.origins[name]

    def _forget_all_silent(self) -> None:
        now = self._now()
        for agent, account in list(self._accounts.items()):
            self._forget_silent(account, now)
            if not account.origins:
                del self._accounts[agent]
