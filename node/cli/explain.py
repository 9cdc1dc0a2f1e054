"""``caxton explain``: why a message went where it went."""

from __future__ import annotations

from typing import Any

import click

from node.cli.client import Client, find_target, segment
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe

_COLUMNS = ("candidate", "score", "priority", "health", "load", "nearness", "in flight", "")


@click.command("explain", epilog="For example: caxton explain 0197c1f0-8f7e-7d22-8a35-6f1f6f3f1c11")
@click.argument("message_id", metavar="ID")
@node_options
def command(
    message_id: str,
    as_json: bool,
    where: Where,
) -> None:
    """Show every decision about a message: who was chosen, among whom, by which figures.

    Ask the node that accepted the message: it decides, and keeps its decisions with the message.
    """
    target = find_target(where)
    with Client(target) as client:
        found = client.get(f"/messages/{segment(message_id)}/explain")
    if as_json:
        print_json(found)
        return
    why = f": {found['reason']}" if found["reason"] else ""
    _say(f"{found['message_id']} wants {found['wanted']}, and is {found['status']}{why}")
    for decision in found["decisions"]:
        click.echo()
        _show(decision)


def _show(decision: dict[str, Any]) -> None:
    chosen = ", ".join(decision["targets"]) or "nobody"
    _say(f"{decision['at']}  {chosen}, by {decision['strategy']}: {decision['reason']}")
    view = decision["view"]
    if view is not None:
        _say(
            f"  {view['up']} of {view['remembered']} members were up, side {view['side']}; "
            f"the registry had last changed {view['registry_age_s']:.1f} s before"
        )
    if decision["sticky"]:
        _say(f"  {decision['sticky']} had the conversation so far")
    for excluded in decision["excluded"]:
        _say(f"  {excluded['agent']}@{excluded['node']} could not be chosen: {excluded['reason']}")
    rows = [_row(candidate, decision["targets"]) for candidate in decision["candidates"]]
    if rows:
        print_table("Candidates", _COLUMNS, rows)
    left_out = decision["considered"] - len(rows)
    if left_out > 0:
        _say(f"  and {left_out} more")


def _row(candidate: dict[str, Any], targets: list[str]) -> tuple[object, ...]:
    name = f"{candidate['agent']}@{candidate['node']}"
    return (
        name,
        f"{candidate['score']:.2f}",
        candidate["priority"],
        f"{candidate['health']:.2f}",
        f"{candidate['load']:.2f}",
        f"{candidate['nearness']:.2f}",
        candidate["in_flight"],
        "chosen" if name in targets else "",
    )


def _say(text: str) -> None:
    """One line, whatever is in it."""
    click.echo(safe(text).replace("\n", "\\n"))
