"""``caxton send --stream``: the text of the answer as it comes, and then the reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from node.cli.client import Client
from node.cli.errors import Refused
from node.cli.output import print_json, safe
from node.errors import NodeUnreachable

SILENCE_S: Final = 45.0
"""Longest time without a byte, in seconds; a node sends a comment every 15."""


def streamed(
    client: Client, body: Mapping[str, Any], timeout_s: float, *, as_json: bool
) -> tuple[dict[str, Any], bool]:
    """Send a message and show the text of its answer while it is made.

    Args:
        client: The node.
        body: The message.
        timeout_s: How long to wait for the reply, in seconds.
        as_json: Whether every event is shown, as one line of JSON.

    Returns:
        The receipt with the reply, and whether the reply has been shown already.

    Raises:
        NodeUnreachable: it ended the answer too early.
        Refused: it says no, or that no reply came.
    """
    found: dict[str, Any] = {}
    screen = _Screen()
    query = {"wait": timeout_s, "stream": True}
    for name, data in _events(client, body, query):
        if as_json:
            print_json({"event": name} | data)
        if name == "accepted":
            found = data
        elif name == "partial" and not as_json:
            screen.add(str(data.get("text", "")))
        elif name == "restart" and not as_json:
            screen.restart()
        elif name == "error":
            screen.end()
            raise Refused(data, 504)
        elif name == "reply":
            found |= {"status": "answered", "reply": data["reply"]}
            return found, as_json or screen.complete(data["reply"].get("content"))
    screen.end()
    raise NodeUnreachable(
        f"the node at {client.target.api} has ended the answer",
        why="it stops, or has stopped; the message goes on",
        fix=f"Look for the reply: GET /api/v1/messages/{found.get('message_id')}.",
    )


class _Screen:
    """The text of an answer on standard output, as it comes."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, text: str) -> None:
        self.text += text
        click.echo(safe(text), nl=False)

    def restart(self) -> None:
        self.end()
        click.echo("(the answer begins anew)", err=True)
        self.text = ""

    def complete(self, content: Any) -> bool:
        """Show what is left of a reply that begins with the text; False where it is another one."""
        whole = content
        if isinstance(content, dict) and content.keys() == {"provider", "answer"}:
            whole = content["answer"]
        is_same = bool(self.text) and isinstance(whole, str) and whole.startswith(self.text)
        if is_same:
            self.add(whole[len(self.text) :])
        self.end()
        return is_same

    def end(self) -> None:
        """The text ends here; what comes next begins on a line of its own."""
        if self.text and not self.text.endswith("\n"):
            click.echo()


def _events(
    client: Client, body: Mapping[str, Any], query: Mapping[str, object]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for event in client.events("/messages", silence_s=SILENCE_S, body=body, **query):
        yield event.name, client.object_of(event.data)
