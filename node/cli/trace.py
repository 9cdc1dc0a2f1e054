"""``caxton trace``: the way of a message across the nodes, and of all that it caused, as a tree."""

from __future__ import annotations

from typing import Any, Final

import click

from node.cli.client import Client, find_target, segment
from node.cli.options import Where, node_options
from node.cli.output import print_json, safe

WAIT_S: Final = 10.0
"""How long the node may take to ask the others, in seconds."""


@click.command("trace", epilog="For example: caxton trace 0197c1f0-8f7e-7d22-8a35-6f1f6f3f1c11")
@click.argument("message_id", metavar="ID")
@node_options
def command(
    message_id: str,
    as_json: bool,
    where: Where,
) -> None:
    """Show every step of a message, on every node, and what it caused.

    The time beside a step is the milliseconds since its node first had the message, by that node's own clock.
    """
    target = find_target(where)
    with Client(target) as client:
        found = client.call("GET", f"/messages/{segment(message_id)}/trace", wait_s=WAIT_S)
    if as_json:
        print_json(found)
        return
    _show(found["trace"], "", "")
    if found["away"]:
        _say(f"Not complete: {', '.join(found['away'])} did not answer")
    elif not found["complete"]:
        _say("Not complete: there is more than one trace shows")


def _show(message: dict[str, Any], branch: str, stem: str) -> None:
    """A message with its steps, then what it caused below it.

    Args:
        message: The message.
        branch: What stands before its first line.
        stem: What stands before all others.
    """
    _say(branch + _headline(message))
    caused, steps = message["caused"], message["steps"]
    gutter = stem + ("│ " if caused else "  ")
    nodes = max((len(str(step["node"])) for step in steps), default=0)
    for step in steps:
        detail = f"  {step['detail']}" if step["detail"] else ""
        _say(f"{gutter} {step['node']:<{nodes}}  {_ms(step['ms']):>14}  {step['event']}{detail}".rstrip())
    for node in message["away"]:
        _say(f"{gutter} {node:<{nodes}}  {'?':>14}  did not answer")
    for place, each in enumerate(caused):
        is_last = place == len(caused) - 1
        _show(each, stem + ("└─ " if is_last else "├─ "), stem + ("   " if is_last else "│  "))


def _headline(message: dict[str, Any]) -> str:
    took = "" if message["ms"] is None else f" in {message['ms']:.1f} ms"
    why = f": {message['reason']}" if message["reason"] else ""
    return (
        f"{message['message_id']}  {message['performative']}  {message['sender']} -> {message['to']}  "
        f"{message['status']}{took}{why}"
    )


def _ms(value: float) -> str:
    return f"+{value:.1f} ms" if value >= 0 else f"{value:.1f} ms"


def _say(text: str) -> None:
    """One line, whatever is in it."""
    click.echo(safe(text).replace("\n", "\\n"))
