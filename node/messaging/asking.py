"""Asking and waiting: a message is accepted, and the task that sent it goes on when replies are here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from node.environment import Clock
from node.errors import NoReply
from node.message import Message
from node.messaging.conversations import Wait, Waits
from node.messaging.letters import Letter
from node.messaging.origin import RouteState
from node.messaging.receipt import Receipt
from node.messaging.settings import CLIENTS

Accept = Callable[..., Awaitable[Receipt]]
"""Takes a message: :meth:`node.messaging.bus.Bus.accept`."""


class Asking:
    """Requests of clients, and of agents in the middle of their work.

    Args:
        clock: Times the waits.
        waits: Who waits for which reply.
        sender: Gives a message the full address of its sender.
        accept: Takes a message.
        give_up: Told of a message (its id) whose sender, an agent, waits no more.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        waits: Waits,
        sender: Callable[[Message], Message],
        accept: Accept,
        give_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self._clock, self._waits, self._sender, self._accept = clock, waits, sender, accept
        self._give_up = give_up

    async def request(
        self,
        message: Message,
        *,
        timeout_s: float,
        traceparent: str = "",
        hops: int = 0,
        ttl_s: float | None = None,
        cause: str | None = None,
    ) -> Message:
        """Accept a message and wait for the first reply, which may be a FAILURE.

        Raises:
            NoReply: none came within ``timeout_s``; the message goes on. A reply that comes later is kept for
                a client, and late for an agent.
        """
        replies = await self._ask(
            message, timeout_s, 1, traceparent=traceparent, hops=hops, ttl_s=ttl_s, cause=cause
        )
        if not replies:
            is_client = message.sender.partition("@")[0] in CLIENTS
            if not is_client:
                await self._give_up(message.id)
            kept = "its reply is kept" if is_client else "its reply is kept as late"
            raise NoReply(
                f"no reply within {timeout_s:g} s",
                why="the provider is slow, or nobody offers what is wanted yet",
                fix=f"Look at its history (`caxton trace {message.id}`); {kept} when it comes.",
                details={"message_id": message.id, "conversation_id": message.conversation_id},
            )
        return replies[0]

    async def gather(
        self,
        message: Message,
        *,
        timeout_s: float,
        quorum: int | None = None,
        traceparent: str = "",
        hops: int = 0,
        ttl_s: float | None = None,
    ) -> list[Message]:
        """Accept a broadcast and wait for the replies of all its providers, or of ``quorum`` of them.

        Returns:
            The replies that came within ``timeout_s``, in order of arrival.
        """
        return await self._ask(message, timeout_s, quorum, traceparent=traceparent, hops=hops, ttl_s=ttl_s)

    def ended(self, letter: Letter) -> None:
        """A message has ended: of a broadcast, some of the providers may not answer any more."""
        wait: Wait | None = self._waits.find(letter.message) if letter.broadcast else None
        if wait is not None:
            routes = letter.routes.values()
            wait.ended(len(routes), sum(route.state is not RouteState.SETTLED for route in routes))

    async def _ask(
        self,
        message: Message,
        timeout_s: float,
        wanted: int | None,
        *,
        traceparent: str,
        hops: int,
        ttl_s: float | None,
        cause: str | None = None,
    ) -> list[Message]:
        message = self._sender(message)
        wait = self._waits.open(message, wanted)
        try:
            with self._clock.move_on_after(timeout_s):
                receipt = await self._accept(
                    message, traceparent=traceparent, hops=hops, ttl_s=ttl_s, cause=cause
                )
                if wanted is None and receipt.routed_to:  # who waits for providers learns how many at the end
                    wait.expect(len(receipt.routed_to))
                if receipt.status != "settled":  # to a topic that nobody subscribes to
                    await wait.satisfied.wait()
        finally:
            self._waits.close(wait)
        return wait.replies
