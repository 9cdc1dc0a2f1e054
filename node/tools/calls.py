"""Calls of tools on their way to a server, and the part of a server's owner task that makes them.

A server's client connection is entered, used and left by one task (cancel scopes are bound to the task that
made them); calls reach it through a bounded channel. Whoever stops waiting for a call stops the work, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from node.tools.results import reason_of, value_of

if TYPE_CHECKING:
    from mcp.client.client import Client

QUEUE_LIMIT: Final = 256
"""Most calls waiting for one server's owner task."""
RUNNING_LIMIT: Final = 16
"""Most calls running on one server."""
STOPPED: Final = "its server has stopped"


@dataclass(slots=True)
class Call:
    """One call.

    Args:
        tool: The tool's name, as its server has it.
        arguments: Checked against its schema.
        meta: What the server is told beside.
        done: Set when it has ended.
        scope: Cancelled by whoever waits no more.
        result: As JSON values.
        media: What in the answer is described instead of shown.
        failure: Why it has none; empty if it has one.
    """

    tool: str
    arguments: dict[str, Any]
    meta: dict[str, Any]
    done: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    result: Any = None
    media: list[dict[str, Any]] = field(default_factory=list)
    failure: str = STOPPED


async def serve_calls(
    client: Client,
    calls: trio.MemoryReceiveChannel[Call],
    *,
    ending: Callable[[], str] = lambda: STOPPED,
    lost: Callable[[str], None] = lambda _reason: None,
) -> None:
    """Make calls until cancelled, a few at once; those that are left then fail, and say why.

    Args:
        client: The connection.
        calls: Where they come from; closed in the end.
        ending: Why the connection is over, when it is.
        lost: Told when a server says that it knows the connection no more.
    """
    running = trio.Semaphore(RUNNING_LIMIT)
    try:
        async with trio.open_nursery() as nursery:
            async for call in calls:
                await running.acquire()
                nursery.start_soon(_make, client, call, running, ending, lost)
    finally:
        while True:
            try:
                call = calls.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            call.failure = ending()
            call.done.set()
        calls.close()


async def _make(
    client: Client,
    call: Call,
    running: trio.Semaphore,
    ending: Callable[[], str],
    lost: Callable[[str], None],
) -> None:
    from mcp.shared.exceptions import MCPError  # noqa: PLC0415 - already imported by the owner
    from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST  # noqa: PLC0415

    failure: str | None = None
    try:
        with call.scope:
            answer = await client.call_tool(call.tool, call.arguments, meta=call.meta)  # type: ignore[arg-type]
            call.result, call.media = value_of(answer)
            failure = reason_of(answer, call.tool) if answer.is_error else ""
    except MCPError as error:
        failure = error.error.message
        if error.error.code == CONNECTION_CLOSED:
            failure = ending()
        elif error.error.code == INVALID_REQUEST and failure == "Session terminated":
            lost("its session has ended")
    except Exception as error:  # the SDK refuses a bad answer with many types
        failure = f"its answer is not valid ({type(error).__name__})"
    finally:
        running.release()
        call.failure = ending() if failure is None else failure
        call.done.set()
