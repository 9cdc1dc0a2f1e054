"""All peer links of a node: listens, dials on demand, and gives each its own fate.

Theory of operation. A link is dialled by the side that has something to deliver, so between two busy nodes
there are two, one each way; acknowledgements come back on the link that brought the messages. Each
connection has one task whose failures end that connection and nothing else. The calls from above are
synchronous and never wait: what cannot be queued now is refused, and the handler's own durable list is
exchanged at the next opening.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from node.environment import Address, Environment, Listener
from node.errors import AddressInUse, ConfigInvalid, PeerRejected, SecurityMaterialInvalid
from node.security.identity import NodeCredentials
from node.transport.frames import (
    Answer,
    DeliverItem,
    DeliveryKey,
    Goodbye,
    Grant,
    Hello,
    Outcome,
    Partial,
    encode,
    rejected,
)
from node.transport.handler import LinkCounters, LinkHandler, LinkLimits, PullHandler
from node.transport.inbound import InboundLink
from node.transport.outbound import OutboundLink
from node.transport.session import FrameChannel, LinkEnded

logger = logging.getLogger(__name__)

ACCEPT_PAUSE_S: Final = 0.1
"""Pause after the system refused to accept: usually it is out of file descriptors."""

PEERS_SHOWN: Final = 100
"""Most links that :meth:`Links.statistics` shows one by one."""


class Links:
    """The peer links of one node.

    Args:
        environment: Network, clock and randomness.
        credentials: Who this node is, and how it checks others.
        resolve: Where a node takes links now, or None while that is not known.
        handler: The room above.
        limits: Bounds.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        credentials: NodeCredentials,
        resolve: Callable[[str], Address | None],
        handler: LinkHandler,
        limits: LinkLimits | None = None,
    ) -> None:
        self._environment, self._credentials = environment, credentials
        self._resolve, self._handler = resolve, handler
        self._limits = limits or LinkLimits()
        self._counters = LinkCounters()
        self._boot = environment.randomness.token(8).hex()
        self._jitter = environment.randomness.stream("links")
        self._outbound: dict[str, OutboundLink] = {}
        self._inbound: dict[str, InboundLink] = {}
        self._inbound_count: dict[str, int] = {}
        self._inbound_total = 0
        self._handshakes = 0
        self._nursery: trio.Nursery | None = None
        self.pulls: PullHandler | None = None
        """What answers the pulls of peers; without it they are refused."""

    async def run(
        self, host: str, port: int, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and own all links until cancelled; reports the bound address when it listens.

        Raises:
            AddressInUse: the port is taken.
            ConfigInvalid: the system has no such address, or does not allow the port.
        """
        listener = await self._listen(host, port)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for link in self._outbound.values():
                    nursery.start_soon(self._run_outbound, link)
                task_status.started(listener.address)
                await self._accept(listener, nursery)
        finally:
            self._nursery = None
            await listener.aclose()

    def is_ready(self, peer: str) -> bool:
        """Whether the link to ``peer`` is open and its window has room; the first question starts to dial.

        Nothing has to be repeated for the first reason, as the opening exchanges the handler's unsettled
        list; for the second, ``on_writable`` is called when there is room.
        """
        link = self._ensure(peer)
        return link is not None and link.is_ready()

    def deliver(self, peer: str, items: Sequence[DeliverItem]) -> int:
        """Queue messages on the open link to ``peer``, in order.

        Returns:
            How many were taken before its window was full; see :meth:`is_ready`.

        Raises:
            MessageTooLarge: no frame can carry the first that is left; those before it were taken.
        """
        link = self._ensure(peer)
        return 0 if link is None else link.deliver(items)

    def ensure(self, peer: str) -> None:
        """Dial ``peer`` if there is no link to it, and keep dialling until :meth:`drop` or idleness."""
        self._ensure(peer)

    def drop(self, peer: str) -> None:
        """Close every link with ``peer`` and dial it no more: it is dead, or has left."""
        outbound = self._outbound.pop(peer, None)
        if outbound is not None:
            outbound.scope.cancel()
        inbound = self._inbound.get(peer)
        if inbound is not None:
            inbound.end("dropped")

    def acknowledge(self, peer: str, keys: Sequence[DeliveryKey]) -> None:
        """Tell ``peer`` that its deliveries are stored; without a link from it, nothing happens."""
        link = self._inbound.get(peer)
        if link is not None:
            link.acknowledge(keys)

    def confirmed(self) -> dict[str, float]:
        """Peer -> Unix seconds before which it has taken, and stored, all that it was told on its link."""
        return {
            peer: link.confirmed_s for peer, link in self._inbound.items() if link.confirmed_s is not None
        }

    def settle(self, peer: str, outcomes: Sequence[Outcome]) -> None:
        """Tell ``peer`` how its deliveries ended; without a link from it, nothing happens."""
        link = self._inbound.get(peer)
        if link is not None:
            link.settle(outcomes)

    def grant(self, peer: str, grants: Sequence[Grant]) -> None:
        """Have ``peer`` told these windows, with what it is told next; call before that."""
        link = self._inbound.get(peer)
        if link is not None:
            link.grant(grants)

    async def ask(self, peer: str, question: str, about: str, *, timeout_s: float) -> Answer | None:
        """Ask ``peer`` something beside the messages; opens a link if there is none.

        Args:
            peer: The node.
            question: A word that its room above understands.
            about: What is asked about.
            timeout_s: Longest wait, in seconds.

        Returns:
            Its answer, or None when none came in time or too many questions to it are open.
        """
        await trio.lowlevel.checkpoint()
        link = self._ensure(peer)
        asked = None if link is None else link.ask(question, about)
        if asked is None:
            self._counters.reject("limit")
            return None
        try:
            with self._environment.clock.move_on_after(timeout_s):
                await asked.done.wait()
        finally:
            asked.abandon()
        return asked.answer

    async def pull(self, peer: str, body: bytes) -> bytes | None:
        """Ask ``peer`` for a page of the shared memory, and wait for as long as the link is there.

        Returns:
            The body of the page, or None when the link is not open, has ended, or another pull is open.
        """
        link = self._outbound.get(peer)
        if link is None:
            await trio.lowlevel.checkpoint()
            return None
        return await link.pull(body)

    def answer_pull(self, peer: str, number: int, body: bytes) -> bool:
        """Answer a pull of ``peer``; False when the link is gone on which it came."""
        link = self._inbound.get(peer)
        return link is not None and link.answer_pull(number, body)

    def partial(self, peer: str, partial: Partial) -> bool:
        """Send ``peer`` a piece of an answer; False when it has no link to here, or takes no more now."""
        link = self._inbound.get(peer)
        return link is not None and link.partial(partial)

    def is_open(self, peer: str) -> bool:
        """Whether the link to ``peer`` takes deliveries."""
        link = self._outbound.get(peer)
        return link is not None and link.is_open

    def statistics(self) -> dict[str, Any]:
        """Links, what they hold, and what they have counted."""
        outbound = list(self._outbound.values())
        rtts = [link.rtt_s for link in outbound if link.rtt_s is not None]
        return {
            "outbound": len(outbound),
            "outbound_open": sum(link.is_open for link in outbound),
            "outbound_window_bytes": sum(link.window_used for link in outbound),
            "inbound": self._inbound_total,
            "handshakes": self._handshakes,
            "rtt_max_s": max(rtts, default=None),
            "peers": {
                peer: {"open": link.is_open, "protocol": link.protocol, "rtt_s": link.rtt_s}
                for peer, link in sorted(self._outbound.items())[:PEERS_SHOWN]
            },
        } | self._counters.as_json()

    async def _listen(self, host: str, port: int) -> Listener:
        try:
            return await self._environment.network.listen(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"port {port} is taken on {host}",
                    why="another process listens there",
                    fix="Stop it, or set cluster.link_port (0 takes a free one).",
                    details={"key": "cluster.link_port"},
                ) from None
            raise ConfigInvalid(
                f"cannot listen on {host}:{port}",
                why=error.strerror or str(error),
                fix="Set cluster.bind_host to an address of this machine, and cluster.link_port.",
                details={"key": "cluster.bind_host"},
            ) from None

    # Dialling

    def _ensure(self, peer: str) -> OutboundLink | None:
        link = self._outbound.get(peer)
        if link is not None:
            link.want()
            return link
        if len(self._outbound) >= self._limits.outbound_total:
            self._counters.reject("limit")
            return None
        link = self._outbound[peer] = OutboundLink(
            peer,
            environment=self._environment,
            credentials=self._credentials,
            resolve=self._resolve,
            handler=self._handler,
            limits=self._limits,
            counters=self._counters,
            boot=self._boot,
            jitter=self._jitter,
        )
        if self._nursery is not None:
            self._nursery.start_soon(self._run_outbound, link)
        return link

    async def _run_outbound(self, link: OutboundLink) -> None:
        try:
            await link.run()
        except Exception:
            self._counters.reject("handler")
            logger.exception("the link to %s is given up until it is asked for again", link.peer)
        finally:
            if self._outbound.get(link.peer) is link:
                del self._outbound[link.peer]

    # Accepting

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                logger.warning("cannot accept a link: %s", error)
                await self._environment.clock.sleep(ACCEPT_PAUSE_S)
                continue
            if (
                self._handshakes >= self._limits.handshakes
                or self._inbound_total >= self._limits.inbound_total
            ):
                self._counters.reject("limit")
                await trio.aclose_forcefully(stream)
                continue
            self._handshakes += 1
            nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        """One accepted connection, from its handshake to its end; never raises an Exception."""
        try:
            link = await self._admit(stream)
            if link is not None:
                await self._run_inbound(link)
        except Exception:
            self._counters.reject("handler")
            logger.exception("a connection failed in an unexpected way and is closed")
        finally:
            await trio.aclose_forcefully(stream)

    async def _admit(self, stream: trio.abc.Stream) -> InboundLink | None:
        """Shake hands with whoever has connected; None, and counted, if it may not stay."""
        refusal: str | None = None
        try:
            with self._environment.clock.move_on_after(self._limits.handshake_s) as scope:
                return await self._shake_hands(stream)
            if scope.cancelled_caught:
                refusal = "timeout"
        except PeerRejected as error:
            refusal = str(error.details.get("reason", "identity"))
            logger.warning("refused a link: %s", error)
        except SecurityMaterialInvalid as error:
            refusal = "handler"
            logger.error("cannot take links: %s", error)  # noqa: TRY400 - an operating error, it says it all
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, LinkEnded) as error:
            refusal = "tls"
            logger.info("a connection ended before it was a link: %s", error.__cause__ or error)
        finally:
            self._handshakes -= 1
        self._counters.reject(refusal or "tls")
        return None

    async def _shake_hands(self, stream: trio.abc.Stream) -> InboundLink:
        secure = await self._environment.network.secure_server(stream, self._credentials)
        peer = self._credentials.verify_peer(secure.peer_leaf)
        clock = self._environment.clock
        channel = FrameChannel(secure.stream, clock=clock, limits=self._limits, counters=self._counters)
        try:
            frame = await channel.receive()
            if not isinstance(frame, Hello):
                raise rejected("frame", f"{peer} began with a {type(frame).__name__}")
            if frame.node != peer:
                raise rejected("identity", f"{peer} calls itself {frame.node}")
            if self._inbound_count.get(peer, 0) >= self._limits.inbound_per_peer:
                raise rejected("limit", f"{peer} has {self._limits.inbound_per_peer} links already")
        except PeerRejected as refusal:
            await channel.send(encode(Goodbye(refusal.what)))
            raise
        logger.info("link from %s, boot %s", peer, frame.boot)
        return InboundLink(
            peer,
            frame.storage_id,
            channel,
            credentials=self._credentials,
            clock=clock,
            handler=self._handler,
            limits=self._limits,
            counters=self._counters,
            pulls=self.pulls,
        )

    async def _run_inbound(self, link: InboundLink) -> None:
        peer = link.peer
        older = self._inbound.get(peer)
        self._inbound[peer] = link
        self._inbound_total += 1
        self._inbound_count[peer] = self._inbound_count.get(peer, 0) + 1
        if older is not None:
            older.end("superseded by a newer link")
        dialled = self._outbound.get(peer)
        if dialled is not None:
            dialled.hurry()
        try:
            reason = await link.run()
            logger.info("link from %s ended: %s", peer, reason)
        finally:
            self._inbound_total -= 1
            self._inbound_count[peer] -= 1
            if not self._inbound_count[peer]:
                del self._inbound_count[peer]
            if self._inbound.get(peer) is link:
                del self._inbound[peer]
