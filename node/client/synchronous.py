"""The client for applications without an event loop: the same, each call waited for.

One event loop runs beside the application, in a thread of its own, for as long as the client is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from types import TracebackType
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from node.client.asynchronous import AsyncClient, AsyncConversation
from node.client.files import Attachment
from node.client.mailbox import PATIENCE_S, AsyncMailbox, Subscription
from node.client.shapes import Delivery, Message, Receipt
from node.client.streaming import AsyncAnswer, Partial
from node.errors import CaxtonError


class Client:
    """Talks to one node; a context manager. Its methods are those of :class:`AsyncClient`.

    Args:
        url: The node's address, as ``http://127.0.0.1:8080``.
        options: As for :class:`AsyncClient`: ``token``, ``timeout_s``, ``retries``, ``on_metric``, ``meter``.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._stack = ExitStack()
        self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal())
        self._client = AsyncClient(url, **options)
        self._stack.callback(lambda: self._portal.call(self._client.aclose))

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and end the thread."""
        self._stack.close()

    def send(self, content: Any = None, **fields: Any) -> Receipt:
        """See :meth:`AsyncClient.send`."""
        return self._portal.call(lambda: self._client.send(content, **fields))

    def request(self, content: Any = None, *, timeout_s: float = 30.0, **fields: Any) -> Message:
        """See :meth:`AsyncClient.request`."""
        return self._portal.call(lambda: self._client.request(content, timeout_s=timeout_s, **fields))

    @contextmanager
    def stream(self, content: Any = None, *, timeout_s: float = 60.0, **fields: Any) -> Iterator[Answer]:
        """See :meth:`AsyncClient.stream`: a context manager that gives an iterator of the pieces."""
        inner = self._client.stream(content, timeout_s=timeout_s, **fields)
        with self._portal.wrap_async_context_manager(inner):
            yield Answer(self._portal, inner)

    def gather(self, content: Any = None, *, timeout_s: float = 30.0, **fields: Any) -> list[Message]:
        """See :meth:`AsyncClient.gather`."""
        return self._portal.call(lambda: self._client.gather(content, timeout_s=timeout_s, **fields))

    def batch(self, messages: Sequence[Mapping[str, Any]]) -> list[Receipt | CaxtonError]:
        """See :meth:`AsyncClient.batch`."""
        return self._portal.call(self._client.batch, messages)

    def capabilities(self) -> list[dict[str, Any]]:
        """See :meth:`AsyncClient.capabilities`."""
        return self._portal.call(self._client.capabilities)

    def agents(self) -> list[dict[str, Any]]:
        """See :meth:`AsyncClient.agents`."""
        return self._portal.call(self._client.agents)

    def message(self, message_id: str) -> Message:
        """See :meth:`AsyncClient.message`."""
        return self._portal.call(self._client.message, message_id)

    def upload(self, source: bytes | str | PathLike[str], *, media_type: str | None = None) -> Attachment:
        """See :meth:`AsyncClient.upload`."""
        return self._portal.call(lambda: self._client.upload(source, media_type=media_type))

    def file(self, message_id: str, name: str) -> bytes:
        """See :meth:`AsyncClient.file`."""
        return self._portal.call(self._client.file, message_id, name)

    def mailbox(self, name: str, **options: Any) -> Mailbox:
        """See :meth:`AsyncClient.mailbox`."""
        return Mailbox(self._portal, self._portal.call(lambda: self._client.mailbox(name, **options)))

    def conversation(self, conversation_id: str | None = None, **fields: Any) -> Conversation:
        """See :meth:`AsyncClient.conversation`."""
        return Conversation(self._portal, self._client.conversation(conversation_id, **fields))


class Conversation:
    """See :class:`AsyncConversation`.

    Args:
        portal: To the event loop.
        inner: The conversation there.
    """

    def __init__(self, portal: BlockingPortal, inner: AsyncConversation) -> None:
        self._portal, self._inner, self.id = portal, inner, inner.id

    def send(self, content: Any = None, **fields: Any) -> Receipt:
        """Send a message in it."""
        return self._portal.call(lambda: self._inner.send(content, **fields))

    def request(self, content: Any = None, *, timeout_s: float = 30.0, **fields: Any) -> Message:
        """Send a message in it and wait for the reply."""
        return self._portal.call(lambda: self._inner.request(content, timeout_s=timeout_s, **fields))

    def shown(self) -> Message:
        """It, with its messages, as its node has seen it."""
        return self._portal.call(self._inner.shown)


class Answer:
    """See :class:`AsyncAnswer`; an iterator of pieces, which waits for each.

    Args:
        portal: To the event loop.
        inner: The answer there.
    """

    def __init__(self, portal: BlockingPortal, inner: AsyncAnswer) -> None:
        self._portal, self._inner = portal, inner
        self.receipt = inner.receipt

    def __iter__(self) -> Iterator[Partial]:
        while (piece := self._portal.call(_next, self._inner)) is not None:
            yield piece

    @property
    def text(self) -> str:
        """What was shown of the answer so far, from where it began anew last."""
        return self._inner.text

    def reply(self) -> Message:
        """The reply, which may be a failure."""
        return self._portal.call(self._inner.reply)


class Mailbox:
    """See :class:`AsyncMailbox`.

    Args:
        portal: To the event loop.
        inner: The mailbox there.
    """

    def __init__(self, portal: BlockingPortal, inner: AsyncMailbox) -> None:
        self._portal, self._inner = portal, inner
        self.name, self.address = inner.name, inner.address

    @contextmanager
    def subscribe(self, *, window: int = 256, patience_s: float = PATIENCE_S) -> Iterator[Iterator[Delivery]]:
        """Read it: a context manager that gives an iterator of deliveries, which waits for each."""
        reading = self._inner.subscribe(window=window, patience_s=patience_s)
        try:
            yield _each(self._portal, reading)
        finally:
            self._portal.call(lambda: reading.__aexit__(None, None, None))

    def ack(self, *deliveries: Delivery) -> int:
        """These are done: the node holds them no more; returns how many it still held."""
        return self._portal.call(self._inner.ack, *deliveries)

    def delete(self) -> None:
        """Remove it, with what it holds; the senders are told."""
        self._portal.call(self._inner.delete)


def _each(portal: BlockingPortal, reading: Subscription) -> Iterator[Delivery]:
    following: Callable[[], Any] = reading.__anext__
    while True:
        yield portal.call(following)


async def _next(answer: AsyncAnswer) -> Partial | None:
    """The next piece; None at the end, since that of an iterator does not pass between threads."""
    return await anext(answer, None)
