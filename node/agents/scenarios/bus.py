"""What a supervisor needs around it, in memory and for one run: a bus, a registry and a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import apsw
import trio

from node.cluster.provider import Offer
from node.environment import Environment
from node.errors import CapabilityNotFound, NoReply, nearest
from node.message import Message
from node.messaging.delivery import BatchHandler, Delivery, Draft, Handler, compose, handler_of_one
from node.storage.migrations import migrate
from node.vocabulary import Performative

T = TypeVar("T")
NODE: Final = "trial"
"""Name of the node that there seems to be."""


class TrialStore:
    """A database in memory with the tables of a node."""

    def __init__(self) -> None:
        self._connection = apsw.Connection(":memory:")
        migrate(self._connection)

    async def write(self, job: Callable[[apsw.Connection], T]) -> T:
        """Run ``job``; what it has begun when it raises ends with the run."""
        await trio.lowlevel.checkpoint()
        return job(self._connection)

    async def read(self, query: Callable[[apsw.Connection], T]) -> T:
        """Run ``query``."""
        await trio.lowlevel.checkpoint()
        return query(self._connection)


class TrialRegistry:
    """Who offers what, here alone."""

    def __init__(self) -> None:
        self._offers: dict[str, tuple[str, ...]] = {}

    def publish(self, agent: str, *, capabilities: tuple[str, ...], **_: object) -> None:
        """Say what an agent offers."""
        self._offers[agent] = capabilities

    def publish_many(self, offers: Sequence[Offer]) -> None:
        """Say what many agents offer."""
        for offer in offers:
            self._offers[offer.agent] = offer.capabilities

    def check(self, offer: Offer) -> None:
        """Here everything fits."""

    def withdraw(self, *agents: str) -> None:
        """Forget agents."""
        for agent in agents:
            self._offers.pop(agent, None)

    def provider(self, capability: str) -> str:
        """The first agent that offers a capability, in any version unless one is asked for.

        Raises:
            CapabilityNotFound: none does.
        """
        for agent, offered in self._offers.items():
            if any(capability in (offer, offer.partition(":")[0]) for offer in offered):
                return agent
        known = sorted({offer for offered in self._offers.values() for offer in offered})
        guess = nearest(capability, known)
        raise CapabilityNotFound(
            f"no agent of the scenario offers {capability!r}",
            why=f"offered are {', '.join(known)}",
            fix=f"Did you mean {guess!r}?" if guess else "Name an agent that does in the scenario's agents.",
        )


class NoMailboxes:
    """No client has a mailbox here."""

    def refuse_agent(self, agent: str) -> None:
        """Any name will do."""


class NoBlobs:
    """Attachments stay where they are."""

    async def outsourced(self, draft: Draft) -> Draft:
        """The same."""
        await trio.lowlevel.checkpoint()
        return draft


class TrialBus:
    """Hands messages to the agents of a scenario at once, one copy, without any storage.

    Args:
        environment: Clock and identifiers.
        asked: Told of every question of an agent: who asked, for what, what came of it, and why nothing did.
    """

    def __init__(self, environment: Environment, asked: Callable[[str, str, Any, str], None]) -> None:
        self._environment = environment
        self._asked = asked
        self._handlers: dict[str, Handler] = {}
        self._said: dict[str, list[Message]] = {}  # of one run, which sends a few messages
        self.registry = TrialRegistry()
        self.mailboxes = NoMailboxes()
        self.blobs = NoBlobs()
        self.store = TrialStore()

    async def deliver(
        self, agent: str, message: Message, *, hops: int = 0, timeout_s: float | None = None
    ) -> list[Draft]:
        """Have an agent handle a message; it and its answers belong to the conversation."""
        clock = self._environment.clock
        deadline = None if timeout_s is None else clock.now() + timeout_s
        conversation = self._said.setdefault(message.conversation_id, [])
        conversation.append(message)
        drafts = list(await self._handlers[agent](Delivery(message, NODE, "", 1, hops, deadline)))
        conversation += [self._composed(draft, message, agent) for draft in drafts]
        return drafts

    async def said(self, conversation_id: str, limit: int) -> Sequence[Message]:
        """The latest messages of a conversation."""
        await trio.lowlevel.checkpoint()
        return self._said.get(conversation_id, [])[-limit:]

    def _composed(self, draft: Draft, answered: Message, agent: str) -> Message:
        return compose(
            draft,
            answered,
            sender=f"{agent}@{NODE}",
            identifier=self._environment.new_id(),
            wall_s=self._environment.clock.wall(),
        )

    async def request(
        self,
        message: Message,
        *,
        timeout_s: float,
        traceparent: str = "",
        hops: int = 0,
        cause: str | None = None,
    ) -> Message:
        """Ask another agent of the scenario, and wait for its reply.

        Raises:
            CapabilityNotFound: none offers what is asked for.
            NoReply: it answered nothing, or not in time.
        """
        del traceparent, cause
        asker, wanted = message.sender.partition("@")[0], message.capability or ""
        try:
            answering = self.registry.provider(wanted)
        except CapabilityNotFound as error:
            self._asked(asker, wanted, None, str(error))
            raise
        drafts: Sequence[Draft] = ()
        with self._environment.clock.move_on_after(timeout_s):
            drafts = await self.deliver(answering, message, hops=hops, timeout_s=timeout_s)
        if not drafts:
            self._asked(asker, wanted, None, f"{answering} has not answered")
            raise NoReply(f"{answering} has not answered", why=f"it had {timeout_s:g} s")
        reply = self._composed(drafts[0], message, answering)
        self._asked(asker, wanted, {"from": reply.sender, "content": reply.content}, "")
        return reply

    async def accept(
        self,
        message: Message,
        *,
        traceparent: str = "",
        hops: int = 0,
        cause: str | None = None,
        together_with: Callable[[apsw.Connection, Any], None] | None = None,
    ) -> None:
        """Take a message that nobody waits for, which belongs to its conversation; nobody gets it."""
        del traceparent, hops, cause
        if together_with is not None:
            await self.store.write(lambda connection: together_with(connection, None))
        await trio.lowlevel.checkpoint()
        self._said.setdefault(message.conversation_id, []).append(message)

    def late_answer(self, asked: Message) -> Message | None:
        """What has answered a message after it had been agreed to."""
        said = self._said.get(asked.conversation_id, [])
        answers = (each for each in said if each.in_reply_to == asked.reply_with)
        return next((each for each in answers if each.performative is not Performative.AGREE), None)

    async def task_of(self, accept: Message) -> Message | None:
        """What a bid was made for; calls for proposals are not kept here."""
        del accept
        await trio.lowlevel.checkpoint()
        return None

    def load(self) -> float:
        """How busy the node is: not at all."""
        return 0.0

    def attach(self, agent: str, handler: Handler | BatchHandler, *, capacity: int, concurrency: int) -> None:
        """Deliver the agent's messages to ``handler`` from now on."""
        del capacity, concurrency
        self._handlers[agent] = handler_of_one(handler)

    async def detach(self, agent: str, *, drain_s: float) -> None:
        """Stop delivering."""
        del drain_s
        await trio.lowlevel.checkpoint()
        self._handlers.pop(agent, None)
