"""``caxton tail``: the messages of a node as they pass."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from node.cli.client import Client, find_target
from node.cli.options import Where, node_options
from node.cli.output import print_json, safe
from node.errors import NodeUnreachable

SILENCE_S: Final = 30.0
"""A node that says nothing for so long is taken for gone; an idle one says so every 10 s."""
_QUIET: Final = ("listening", "idle")
"""Lines that are no events of messages."""


@click.command("tail", epilog="For example: caxton tail --capability data-analysis --content")
@click.option("--capability", metavar="NAME", help="Messages that ask for this capability.")
@click.option("--agent", metavar="AGENT", help="Messages from or to this agent: name or name@node.")
@click.option("--conversation", metavar="ID", help="Messages of this conversation.")
@click.option("--performative", metavar="NAME", help="Messages that do this, for example request.")
@click.option("--content", is_flag=True, help="Show the content, too; the token needs ReadMessages.")
@click.option("--count", type=click.IntRange(1), help="End after so many events.")
@node_options
def command(
    capability: str | None,
    agent: str | None,
    conversation: str | None,
    performative: str | None,
    content: bool,
    count: int | None,
    as_json: bool,
    where: Where,
) -> None:
    """Show what happens to the messages of a node, one line per event, until Ctrl-C.

    With --json, every line is one event.
    """
    target = find_target(where)
    query = {
        "capability": capability,
        "agent": agent,
        "conversation": conversation,
        "performative": performative,
        "content": content,
    }
    told = 0
    with Client(target) as client:
        for event in client.lines("/messages/tail", silence_s=SILENCE_S, **query):
            if event.get("event") == "listening":
                click.echo("Listening; Ctrl-C ends it", err=True)
            if event.get("event") in _QUIET:
                continue
            _show(event, as_json=as_json)
            told += event.get("event") != "missed"
            if told == count:
                return
    raise NodeUnreachable(
        f"the node at {target.api} has ended the answer",
        why="it stops, or has stopped",
        fix="Start it again.",
    )


def _show(event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(event)
    elif event.get("event") == "missed":
        click.echo(f"{event.get('at')} {event.get('count')} events were missed", err=True)
    else:
        click.echo(safe(_line(event)).replace("\n", "\\n"))


def _line(event: dict[str, Any]) -> str:
    line = (
        f"{event.get('at')} {event.get('event', ''):<8} {event.get('message_id')} "
        f"{event.get('performative')} {event.get('from')} -> {event.get('to')}"
    )
    if event.get("detail"):
        line += f"  {event['detail']}"
    if "content" in event:
        line += f"  {json.dumps(event['content'], ensure_ascii=False)}"
    elif "content_left_out_bytes" in event:
        line += f"  ({event['content_left_out_bytes']} bytes)"
    return line
