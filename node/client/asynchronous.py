"""The client for applications on Trio or asyncio."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import anyio
import httpx
from opentelemetry import metrics

from node.client.calls import Answer, Calls, Meters, OnMetric, Retries
from node.client.failures import error_of
from node.client.files import Attachment, upload
from node.client.mailbox import AsyncMailbox
from node.client.shapes import Message, Receipt
from node.client.streaming import AsyncAnswer
from node.errors import CaxtonError, DuplicateMessage, NoReply

BATCH_LIMIT: Final = 1_000
"""Most messages of one call of a batch; more are sent in several."""
FETCH_S: Final = 120.0
"""Longest time that a node may take to have a file from another one, in seconds."""
AGENTS_PAGE: Final = 100
"""Agents of one page of a list."""
LOOK_FIRST_S: Final = 0.1
LOOK_LAST_S: Final = 2.0
"""Pauses between looks for the reply to a request whose answer was lost on the way, in seconds."""


class AsyncClient:
    """Talks to one node; an asynchronous context manager.

    Args:
        url: The node's address, as ``http://127.0.0.1:8080``.
        token: Bearer token; none for a node in dev mode on this machine.
        timeout_s: Longest time that an answer may take, beyond what the node is asked to wait.
        retries: How often, and after which pauses, calls are tried again.
        on_metric: Told name, value and attributes of each measurement.
        meter: Where measurements go as well; by default OpenTelemetry's global meter.
        transport: How requests are made; by default over the network.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        retries: Retries | None = None,
        on_metric: OnMetric | None = None,
        meter: metrics.Meter | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        meters = Meters(on_metric) if meter is None else Meters(on_metric, meter)
        self._calls = Calls(
            url,
            token=token,
            timeout_s=timeout_s,
            retries=retries or Retries(),
            meters=meters,
            transport=transport,
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._calls.aclose()

    async def send(self, content: Any = None, **fields: Any) -> Receipt:
        """Send a message; it is durable on the node when this returns.

        Args:
            content: JSON.
            fields: As in ``POST /messages``: ``capability``, ``receiver`` or ``topic``, ``performative``,
                ``conversation_id``, ``sender`` and so on. Without a ``message_id`` one is made.

        Raises:
            CaxtonError: the node refused.
            NodeUnreachable: it did not answer; ``details["unsure"]`` says that it may have it all the same.
        """
        message = _with_id({"content": content, **fields})
        try:
            answer = await self._calls.call("POST", "/messages", body=message)
        except DuplicateMessage as error:
            if not error.details.get("unsure"):
                raise
            return await self._known(message["message_id"])
        return Receipt.of(answer.body)

    async def request(self, content: Any = None, *, timeout_s: float = 30.0, **fields: Any) -> Message:
        """Send a message and wait for the first reply, which may be a failure; see :meth:`send`.

        Args:
            content: JSON.
            timeout_s: How long to wait for the reply, in seconds.
            fields: As for :meth:`send`.

        Raises:
            NoReply: none came in time; the message goes on.
        """
        found = await self._ask(content, timeout_s, fields)
        return found[0]

    def stream(self, content: Any = None, *, timeout_s: float = 60.0, **fields: Any) -> AsyncAnswer:
        """Send a message and see the answer while it is made; see :meth:`send`.

        Args:
            content: JSON.
            timeout_s: How long to wait for the reply, in seconds.
            fields: As for :meth:`send`; not for a topic or a broadcast.

        Returns:
            An asynchronous context manager, which sends, and iterator of the pieces; ``await reply()`` gives
            the reply.
        """
        message = _with_id({"content": content, **fields})

        async def later() -> Message:
            return await self._later(message["message_id"], timeout_s)

        return AsyncAnswer(self._calls, message, timeout_s, later)

    async def gather(self, content: Any = None, *, timeout_s: float = 30.0, **fields: Any) -> list[Message]:
        """Ask all that offer a capability, or subscribe to a topic; the replies that come in time."""
        if "topic" not in fields:
            fields = {"routing_strategy": "broadcast"} | fields
        return await self._ask(content, timeout_s, fields)

    async def batch(self, messages: Sequence[Mapping[str, Any]]) -> list[Receipt | CaxtonError]:
        """Send many messages, each accepted or refused by itself, in order.

        What is refused because there is no room is tried again, after what was behind it.

        Args:
            messages: Fields of each, as for :meth:`send`.

        Returns:
            For each its receipt, or why it was refused.
        """
        named = [_with_id(message) for message in messages]
        found: dict[int, Receipt | CaxtonError] = {}
        waiting = list(range(len(named)))
        for attempt in range(1, self._calls.retries.attempts + 1):
            later: list[int] = []
            pause_s = 0.0
            for start in range(0, len(waiting), BATCH_LIMIT):
                part = waiting[start : start + BATCH_LIMIT]
                answer = await self._calls.call(
                    "POST", "/messages/batch", body={"messages": [named[n] for n in part]}
                )
                for n, result in zip(part, answer.body["results"], strict=True):
                    found[n] = made = _result(named[n], result, repeated=answer.repeated or attempt > 1)
                    if isinstance(made, CaxtonError) and made.code == "RESOURCE_LIMIT_EXCEEDED":
                        later.append(n)
                        pause_s = max(pause_s, float(made.details.get("retry_after_s", 0.0)))
            waiting = later
            if not waiting:
                break
            if attempt < self._calls.retries.attempts:
                asked_s = pause_s or None
                await anyio.sleep(self._calls.retries.pause_s(attempt, asked_s, self._calls.chance))
        return [found[n] for n in range(len(named))]

    async def capabilities(self) -> list[dict[str, Any]]:
        """What is offered in the cluster: for each capability its name, how many agents, and who they are."""
        answer = await self._calls.call("GET", "/capabilities")
        return [dict(each) for each in answer.body["capabilities"]]

    async def agents(self) -> list[dict[str, Any]]:
        """The agents of the node, as ``GET /agents`` shows them."""
        found: list[dict[str, Any]] = []
        while True:
            query = {"limit": AGENTS_PAGE, "offset": len(found)}
            answer = await self._calls.call("GET", "/agents", query=query)
            found += [dict(each) for each in answer.body["agents"]]
            if not answer.body["agents"] or len(found) >= answer.body["total"]:
                return found

    async def message(self, message_id: str) -> Message:
        """What became of a message: its states, routes and replies.

        Raises:
            MessageNotFound: the node knows it no more.
        """
        path = f"/messages/{quote(message_id, safe='')}"
        answer = await self._calls.call("GET", path, route="/messages/{message_id}")
        return dict(answer.body)

    async def upload(
        self, source: bytes | str | PathLike[str], *, media_type: str | None = None
    ) -> Attachment:
        """Bring a file to the node that is too large for a message; then messages may carry it.

        Args:
            source: Its content, or its path; at most 64 MB. After a break only the rest is sent.
            media_type: As its receivers are told; guessed from its name otherwise.

        Returns:
            One of the ``attachments`` of a message.

        Raises:
            ValidationFailed: it is empty, or too large.
            OSError: it cannot be read.
        """
        return await upload(self._calls, source, media_type)

    async def file(self, message_id: str, name: str) -> bytes:
        """The content of a file that came with a message.

        Raises:
            MessageNotFound: the node knows the message no more.
            BlobNotFound: the message has no such file, or its content has gone.
        """
        path = f"/messages/{quote(message_id, safe='')}/attachments/{quote(name, safe='')}"
        route = "/messages/{message_id}/attachments/{name}"
        answer = await self._calls.call("GET", path, route=route, wait_s=FETCH_S)
        return bytes(answer.body)

    async def mailbox(
        self,
        name: str,
        *,
        topics: Sequence[str | Mapping[str, str]] | None = None,
        idle_s: float | None = None,
    ) -> AsyncMailbox:
        """A mailbox of this client, made if it is not there.

        Args:
            name: Its name.
            topics: What it subscribes to from now on; None keeps what it had.
            idle_s: Seconds without use after which it goes; None keeps what it had.
        """
        body = {"topics": topics, "idle_s": idle_s}
        answer = await self._calls.call(
            "PUT",
            f"/mailboxes/{quote(name, safe='')}",
            route="/mailboxes/{name}",
            body={key: value for key, value in body.items() if value is not None},
        )
        return AsyncMailbox(self._calls, answer.body)

    def conversation(self, conversation_id: str | None = None, **fields: Any) -> AsyncConversation:
        """A conversation: messages that belong together, and keep their order.

        Args:
            conversation_id: Its id; one is made otherwise.
            fields: Of every message in it, where the message has no other, as for :meth:`send`.
        """
        return AsyncConversation(self, self._calls, conversation_id or uuid.uuid4().hex, fields)

    # Inside

    async def _ask(self, content: Any, timeout_s: float, fields: Mapping[str, Any]) -> list[Message]:
        message = _with_id({"content": content, **fields})
        with anyio.move_on_after(timeout_s + 2 * self._calls.retries.last_s):
            try:
                answer = await self._calls.call(
                    "POST", "/messages", body=message, query={"wait": timeout_s}, wait_s=timeout_s
                )
            except DuplicateMessage as error:
                if not error.details.get("unsure"):
                    raise
                return [await self._later(message["message_id"], timeout_s)]
            return _replies(answer)
        raise _no_reply(message["message_id"], timeout_s)

    async def _known(self, message_id: str) -> Receipt:
        """The receipt of a message whose first answer was lost."""
        found = await self.message(message_id)
        return Receipt(
            message_id,
            str(found["message"]["conversation_id"]),
            tuple(found.get("routed_to") or ()),
            "duplicate",
        )

    async def _later(self, message_id: str, timeout_s: float) -> Message:
        """The reply to a request whose answer was lost: it is kept by the node."""
        pause_s = LOOK_FIRST_S
        with anyio.move_on_after(timeout_s):
            while True:
                replies = (await self.message(message_id)).get("replies") or []
                if replies:
                    shown = await self.message(replies[0]["message_id"])
                    return dict(shown["message"])
                await anyio.sleep(pause_s)
                pause_s = min(LOOK_LAST_S, 2 * pause_s)
        raise _no_reply(message_id, timeout_s)


class AsyncConversation:
    """See :meth:`AsyncClient.conversation`.

    Args:
        client: Sends its messages.
        calls: Calls of the node.
        id: Its id.
        fields: Of every message in it.
    """

    def __init__(self, client: AsyncClient, calls: Calls, id: str, fields: Mapping[str, Any]) -> None:  # noqa: A002
        self._client, self._calls, self.id = client, calls, id
        self._fields = {**fields, "conversation_id": id}

    async def send(self, content: Any = None, **fields: Any) -> Receipt:
        """Send a message in it."""
        return await self._client.send(content, **(self._fields | fields))

    async def request(self, content: Any = None, *, timeout_s: float = 30.0, **fields: Any) -> Message:
        """Send a message in it and wait for the reply."""
        return await self._client.request(content, timeout_s=timeout_s, **(self._fields | fields))

    def stream(self, content: Any = None, *, timeout_s: float = 60.0, **fields: Any) -> AsyncAnswer:
        """Send a message in it and see the answer while it is made."""
        return self._client.stream(content, timeout_s=timeout_s, **(self._fields | fields))

    async def shown(self) -> Message:
        """It, with its messages, as its node has seen it."""
        path = f"/conversations/{quote(self.id, safe='')}"
        answer = await self._calls.call("GET", path, route="/conversations/{conversation_id}")
        return dict(answer.body)


def _with_id(message: Mapping[str, Any]) -> dict[str, Any]:
    named = {key: value for key, value in message.items() if value is not None or key == "content"}
    named.setdefault("message_id", uuid.uuid4().hex)
    return named


def _replies(answer: Answer) -> list[Message]:
    body = answer.body
    return [dict(reply) for reply in body["replies"]] if "replies" in body else [dict(body["reply"])]


def _result(message: Mapping[str, Any], result: Message, *, repeated: bool) -> Receipt | CaxtonError:
    if "error" not in result:
        return Receipt.of(result)
    if result.get("status") == "duplicate" and repeated:
        return Receipt(message["message_id"], str(result.get("conversation_id", "")), (), "duplicate")
    return error_of(result["error"])


def _no_reply(message_id: str, timeout_s: float) -> NoReply:
    return NoReply(
        f"no reply within {timeout_s:g} s",
        fix=f"Look at its history (`caxton trace {message_id}`); its reply is kept when it comes.",
        details={"message_id": message_id},
    )
