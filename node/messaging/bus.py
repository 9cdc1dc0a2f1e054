"""The message bus of one node: what clients, agents, peers and membership see of messaging.

It wires the outbox (what this node sends), the inbox (what it receives), the agents' handlers and those who
wait for replies, and is the links' handler and membership's listener. The way of one message:

    accept -> route -> outbox (durable) -> link -> inbox (durable, deduplicated) -> "received" -> mailbox
           -> handler -> replies and "settled" in one transaction -> the origin forgets
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from node.blobs.store import BlobStore
from node.cluster.provider import CapabilityView, RegistryWriter
from node.config.model import MessagingConfig
from node.environment import Environment
from node.errors import CaxtonError
from node.message import Message
from node.messaging.acceptance import Acceptance, Lives
from node.messaging.asking import Asking
from node.messaging.blobs import BLOB, Blobs
from node.messaging.client_mailboxes import ClientMailboxes
from node.messaging.contract_net import ContractNet
from node.messaging.conversation_index import Conversations
from node.messaging.conversations import Wait, Waits
from node.messaging.delivery import BatchHandler, Handler
from node.messaging.expectations import Expectations
from node.messaging.handlers import Handlers
from node.messaging.history import MessageHistory
from node.messaging.inbox import Inbox
from node.messaging.investigation import Investigation
from node.messaging.kept import Kept
from node.messaging.letterbox import DeadLetters, Insertion
from node.messaging.letters import Letter
from node.messaging.local import LocalDeliveries, LocalEnds
from node.messaging.outbox import Outbox
from node.messaging.owed import Owed
from node.messaging.partials import QUESTIONS, Partials
from node.messaging.ports import LinkSender, MembershipView, Tracer
from node.messaging.preview import Previews
from node.messaging.receipt import Receipt
from node.messaging.retention import forget_old_rows
from node.messaging.settings import Timing
from node.messaging.subscriptions import Subscriptions
from node.messaging.tail import Tail
from node.recording.tape import Recorder
from node.storage.storage import Storage
from node.transport.frames import DeliveryKey, Grant, KeyState, Outcome, Partial
from node.transport.handler import Proven


class Bus:
    """See the module's docstring.

    Args:
        environment: Clock, ids, chance.
        node: This node's name.
        storage: The node's database.
        registry: Who offers what.
        announce: Where it is published what this node's mailboxes subscribe to.
        membership: Who is there.
        tracing: Starts spans.
        settings: The section ``messaging``.
        links: Links to peers; may be given later with :meth:`use_links`.
        timing: Times beside the settings.
        recorder: Writes down what goes into the cores, if they are to be replayed.
        blobs: Where content is kept that is too large for messages.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        node: str,
        storage: Storage,
        registry: CapabilityView,
        announce: RegistryWriter,
        membership: MembershipView,
        tracing: Tracer,
        settings: MessagingConfig,
        links: LinkSender | None = None,
        timing: Timing | None = None,
        recorder: Recorder | None = None,
        blobs: BlobStore,
    ) -> None:
        timing = timing or Timing()
        self._clock = environment.clock
        self._node = node
        self._membership = membership
        self._storage = storage
        self._settings, self._timing = settings, timing
        self._waits = Waits()
        self._local = LocalDeliveries(node, environment.clock)
        self._ended_here = LocalEnds(node, environment.clock)
        self._owed = Owed(lambda origin, outcomes: self._tell(origin, [], list(outcomes)))
        self.tail = Tail(node, environment.clock)
        self.letters = DeadLetters(environment=environment, storage=storage, accept=self.accept)
        self.conversations = Conversations(environment=environment, storage=storage, settings=settings)
        self.said = self.conversations.said
        self._kept = Kept(settings.history_bytes)
        self.blobs = Blobs(environment=environment, node=node, store=blobs, storage=storage)
        self._outbox = Outbox(
            environment=environment,
            node=node,
            storage=storage,
            registry=registry,
            membership=membership,
            settings=settings,
            timing=timing,
            deliver_locally=self._local.add,
            on_arrival=self._owed.arrived,
            on_end=self._on_end,
            on_dead=self.letters.note,
            tail=self.tail,
            kept=self._kept,
            recorder=recorder,
        )
        self.partials = Partials(node=node, clock=environment.clock, providers=self._outbox.providers)
        self.has_room, self.unsettled_by_node = self._outbox.has_room, self._outbox.unsettled_by_node
        self.registry_changed = self._outbox.registry_changed
        self._acceptance = Acceptance(
            node=node,
            storage=storage,
            outbox=self._outbox,
            tracing=tracing,
            max_bytes=settings.max_message_bytes,
            conversations=self.conversations,
            blobs=self.blobs,
        )
        self.expectations = Expectations(
            environment=environment, node=node, storage=storage, outbox=self._outbox
        )
        self._outbox.use_expectations(self.expectations)
        self._asking = Asking(
            clock=environment.clock,
            waits=self._waits,
            sender=self._acceptance.sender,
            accept=self.accept,
            give_up=self.expectations.give_up,
        )
        self.request, self.gather = self._asking.request, self._asking.gather
        self.contracts = ContractNet(
            environment=environment,
            storage=storage,
            waits=self._waits,
            sender=self._acceptance.sender,
            accept=self.accept,
            give_up=self.expectations.give_up,
            is_alive=lambda other: other == node or membership.is_alive(other),
        )
        self.call_for_proposals, self.task_of = self.contracts.call, self.contracts.task_of
        self.subscriptions = Subscriptions(
            environment=environment, node=node, storage=storage, accept_many=self.accept_many
        )
        self.preview = Previews(
            acceptance=self._acceptance,
            registry=registry,
            membership=membership,
            outbox=self._outbox,
            chance=environment.randomness.stream("messaging.preview"),
            locality=settings.routing.locality,
        ).preview
        self.mailboxes = ClientMailboxes(
            clock=environment.clock, node=node, storage=storage, settings=settings, announce=announce
        )
        self._handlers = Handlers(
            environment=environment,
            node=node,
            storage=storage,
            outbox=self._outbox,
            tracing=tracing,
            settings=settings,
            timing=timing,
            tail=self.tail,
            clients=self.mailboxes,
            blobs=self.blobs,
            sources=self.partials.sources,
            recorder=recorder,
        )
        self._inbox = Inbox(
            environment=environment,
            node=node,
            storage=storage,
            settings=settings,
            waits=self._waits,
            accepts=self._handlers.refusal,
            capacity=self._handlers.capacity,
            offer=self._handlers.offer,
            raise_epoch=self._handlers.raise_epoch,
            tell=self._tell,
            owed=self._owed,
            on_reply=self._outbox.answered,
            tail=self.tail,
            kept=self._kept,
            recorder=recorder,
        )
        self._acceptance.use_inbox(self._inbox)
        self._handlers.use_inbox(self._inbox)
        self.mailboxes.use_inbox(self._inbox, self._handlers.in_protocol)
        self.investigation = Investigation(
            node=node,
            clock=environment.clock,
            storage=storage,
            membership=membership,
            running_since=self._handlers.running_since,
        )
        if links is not None:
            self.use_links(links)

    def use_links(self, links: LinkSender) -> None:
        """Give the links, which need this bus in turn."""
        self._outbox.use_links(links)
        self.partials.use_links(links)
        self.investigation.links = self.blobs.links = links

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take up what was left at the last stop, then work until cancelled."""
        await self._inbox.load()
        await self.mailboxes.load()
        await self._outbox.load()
        await self.letters.load()
        await self.expectations.load()
        await self.contracts.load()
        await self.subscriptions.load()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._handlers.run)
            await nursery.start(self._outbox.run)
            nursery.start_soon(self._outbox.run_backlog)
            nursery.start_soon(self._local.run, self._inbox)
            nursery.start_soon(self._ended_here.run, self._outbox)
            for part in (self.expectations, self.contracts, self.subscriptions, self.mailboxes, self.blobs):
                nursery.start_soon(part.run)
            nursery.start_soon(self.partials.run)
            nursery.start_soon(self._forget)
            task_status.started()

    # For clients and agents

    async def accept(
        self,
        message: Message,
        *,
        traceparent: str = "",
        hops: int = 0,
        ttl_s: float | None = None,
        cause: str | None = None,
        together_with: Insertion | None = None,
    ) -> Receipt:
        """Take a message; it is durable when this returns.

        Args:
            message: Its sender is ``name`` or ``name@`` and this node.
            traceparent: W3C Trace Context of what caused it.
            hops: Messages that led to it.
            ttl_s: Its life in seconds; the section's default otherwise, never beyond ``reply_by``.
            cause: The id of the message that it was caused by.
            together_with: Written in the same transaction; what it raises undoes the acceptance.

        Raises:
            ValidationFailed: a field breaks its rule.
            DuplicateMessage: the id is known already.
            MessageTooLarge: it is.
            ResourceLimitExceeded: the outbox is full, or the chain of messages too long.
            StorageFailed: the disk refused; it was not accepted.
        """
        accepted = await self._acceptance.accept_many(
            [message],
            traceparent=traceparent,
            hops=hops,
            ttl_s=ttl_s,
            cause=cause,
            together_with=together_with,
        )
        if isinstance(accepted[0], CaxtonError):
            raise accepted[0]
        return accepted[0]

    async def accept_many(
        self, messages: Sequence[Message], *, traceparent: str = "", hops: int = 0, ttl_s: Lives = None
    ) -> list[Receipt | CaxtonError]:
        """Take messages in one write; they are durable when this returns.

        Args:
            messages: At most :data:`node.messaging.acceptance.BATCH_LIMIT`; each is judged by itself.
            traceparent: As for :meth:`accept`, as are the others.
            hops: Messages that led to them.
            ttl_s: Their life in seconds, of all or of each.

        Returns:
            For each the receipt, or the error that :meth:`accept` would have raised.

        Raises:
            StorageFailed: the disk refused; none was accepted.
        """
        return await self._acceptance.accept_many(messages, traceparent=traceparent, hops=hops, ttl_s=ttl_s)

    def expect(self, message: Message) -> Wait:
        """Wait for the first reply to a message that is accepted next, until :meth:`expect_no_more`.

        Raises:
            ResourceLimitExceeded: too many wait, or another request of the same sender has its label.
        """
        return self._waits.open(message, 1)

    def expect_no_more(self, wait: Wait) -> None:
        """End what :meth:`expect` began."""
        self._waits.close(wait)

    async def history(self, message_id: str) -> MessageHistory:
        """What became of a message.

        Raises:
            MessageNotFound: this node knows no such message (any more).
        """
        return await self._storage.read(lambda connection: MessageHistory.load(connection, message_id))

    def attach(self, agent: str, handler: Handler | BatchHandler, *, capacity: int, concurrency: int) -> None:
        """Deliver the agent's messages to ``handler`` from now on, those held for it first.

        Args:
            agent: Its id.
            handler: Called once per message, or with several; its answers are sent when it returns.
            capacity: Most messages of its mailbox in memory; more stay on disk.
            concurrency: Most runs at once that have one message.
        """
        self._handlers.attach(agent, handler, capacity=capacity, concurrency=concurrency)

    async def detach(self, agent: str, *, drain_s: float) -> None:
        """Stop delivering: what waits is handled for ``drain_s`` at most, the rest goes back."""
        await self._handlers.detach(agent, drain_s=drain_s)

    def load(self) -> float:
        """How busy this node's agents are, 0.0 to 1.0."""
        return self._handlers.load()

    def statistics(self) -> Mapping[str, Any]:
        """Counts and sizes of every part."""
        return {
            "outbox": self._outbox.statistics(),
            "inbox": self._inbox.statistics(),
            "history": self._kept.statistics(),
            "credit": self._inbox.credits.statistics(),
            "handlers": self._handlers.statistics(),
            "mailboxes": self.mailboxes.statistics(),
            "waits": self._waits.statistics(),
            "expectations": self.expectations.statistics(),
            "contracts": self.contracts.statistics(),
            "subscriptions": self.subscriptions.statistics(),
            "dead_letters": self.letters.statistics(),
            "conversations": self.conversations.statistics(),
            "tail": self.tail.statistics(),
            "blobs": self.blobs.statistics(),
            "partials": self.partials.statistics(),
            "breakers": self._outbox.breakers(),
            "investigation": self.investigation.statistics(),
            "local": len(self._local),
        }

    # For membership

    def node_alive(self, node: str) -> None:
        """``node`` is there (again)."""
        self._inbox.origin_back(node)
        self._outbox.node_alive(node)
        if self._outbox.unsettled(node):
            self._ensure_link(node)
        self._outbox.pump(node)
        self._outbox.registry_changed()

    def node_died(self, node: str) -> None:
        """``node`` is dead: its unsettled work goes to other providers."""
        self._lose(node, "died")

    def node_left(self, node: str) -> None:
        """``node`` has left: its unsettled work goes to other providers."""
        self._lose(node, "left")

    # For the links (node.transport.handler.LinkHandler)

    @property
    def storage_id(self) -> str:
        """Identifies this node's database."""
        return self._storage.storage_id

    def unsettled(self, peer: str) -> list[DeliveryKey]:
        """Deliveries towards ``peer`` that have not ended, in order."""
        return self._outbox.unsettled(peer)

    async def on_resume(self, peer: str, storage_id: str, keys: Sequence[DeliveryKey]) -> list[KeyState]:
        """Say what is known here of the peer's unsettled deliveries."""
        del storage_id  # what is unknown is said to be, whichever database of the peer asks
        return await self._inbox.states(peer, keys)

    async def on_resumed(self, peer: str, storage_id: str, states: Sequence[KeyState]) -> None:
        """Take what the peer knows of this node's deliveries; what it does not know is sent again."""
        del storage_id
        await self._outbox.report(peer, states)

    async def on_deliver(self, peer: str, frames: Sequence[Proven]) -> None:
        """Take the messages of frames; raises StorageFailed when they could not be stored."""
        await self._inbox.receive(peer, [([(i, None) for i in items], proof) for items, proof in frames])

    async def on_received(self, peer: str, keys: Sequence[DeliveryKey]) -> None:
        """The peer has these on disk."""
        await trio.lowlevel.checkpoint()
        self._outbox.received(peer, keys)

    async def on_settled(self, peer: str, outcomes: Sequence[Outcome]) -> None:
        """These have ended at the peer."""
        await self._outbox.report(peer, outcomes)

    def on_accepted(self, peer: str, *, knows_credit: bool) -> None:
        """A link of the peer begins; one that knows credit is told what this node takes, and keeps to it."""
        self._inbox.credits.begins(peer, knows=knows_credit)

    def on_granted(self, peer: str, grants: Sequence[Grant] | None) -> None:
        """The peer takes so much for its agents; None when it will not tell."""
        self._outbox.granted(peer, grants)

    async def on_ask(self, peer: str, question: str, about: str) -> bytes | None:
        """Answer the question of a peer about a message or a blob; every node of the cluster may ask."""
        if question in QUESTIONS:
            return self.partials.asked(peer, question, about)
        if question == BLOB:
            return await self.blobs.answer(about)
        return await self.investigation.answer(question, about)

    def on_partial(self, peer: str, partial: Partial) -> None:
        """A peer tells more of an answer that it is making."""
        self.partials.watches.on_partial(peer, partial)

    def on_writable(self, peer: str) -> None:
        """The link to ``peer`` takes messages again."""
        self._outbox.pump(peer)

    def on_link(self, peer: str, up: bool, reason: str) -> None:
        """The link this node dialled has opened or ended."""
        del reason
        if up:
            self._outbox.node_alive(peer)
            self.partials.watches.link_up(peer)
            return  # on_resumed comes next: what the peer knows is taken first, then the rest is sent, once
        if self._outbox.link_lost(peer) and self._membership.is_alive(peer):
            self._ensure_link(peer)

    def on_unreachable(self, peer: str, reason: str) -> None:
        """A dial of ``peer`` had no answer; what membership says of it is another matter."""
        del reason
        self._outbox.unreachable(peer)

    # Inside

    def _lose(self, node: str, how: str) -> None:
        self._inbox.origin_lost(node)
        self._outbox.node_lost(node, how)
        self.contracts.node_lost(node)
        self.partials.node_lost(node)
        if self._outbox.links is not None:
            self._outbox.links.drop(node)

    def _ensure_link(self, node: str) -> None:
        """Have a link: its opening tells what became of what was under way."""
        if self._outbox.links is not None:
            self._outbox.links.ensure(node)

    def _on_end(self, letter: Letter) -> None:
        if letter.answers is not None:
            self._owed.arrived(letter.message.id)
        if letter.broadcast:
            self._asking.ended(letter)
        if letter.message.in_reply_to is not None:
            self.subscriptions.ended(letter)
        self.partials.watches.ended(letter.message.id)

    def _tell(self, node: str, received: list[DeliveryKey], outcomes: list[Outcome]) -> None:
        """Tell an origin what was received and how it ended; this node's own outbox hears it as well."""
        grants = self._inbox.credits.grants(node, received, outcomes)
        if node == self._node:
            if grants:
                self._outbox.granted(node, grants)
            self._outbox.received(node, received)
            self._ended_here.add(self._outbox.ended_here(outcomes))
            return
        links = self._outbox.links
        if links is None:
            return  # the next opening tells
        if grants:
            links.grant(node, grants)
        if received:
            links.acknowledge(node, received)
        if outcomes:
            links.settle(node, outcomes)

    async def _forget(self) -> None:
        while True:
            with self._clock.move_on_after(self._timing.retention_every_s):
                await self._kept.wait_until_grown()
            wall, told = self._clock.wall(), {**self._outbox.confirmed(), self._node: self._ended_here.told_s}
            await forget_old_rows(
                *(self._storage, self._settings, wall, self._inbox, self.letters, self.conversations),
                self._kept,
                told,
            )
