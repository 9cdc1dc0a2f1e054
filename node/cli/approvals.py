"""``caxton approvals``: calls of agents' tools that wait for an operator."""

from __future__ import annotations

import json
from typing import Any

import click

from node.cli.client import Client, find_target, segment
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe
from node.errors import ValidationFailed

_reason = click.option("--reason", metavar="TEXT", default="", help="Why; it is recorded.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_id = click.argument("approval_id", metavar="APPROVAL")


@click.group("approvals", epilog="For example: caxton approvals list")
def command() -> None:
    """Show the calls of tools that wait for an operator, and approve or deny them."""


@command.command("list", epilog="For example: caxton approvals list --agent operator --all")
@click.option("--all", "everything", is_flag=True, help="Those that have ended, too.")
@click.option("--agent", metavar="NAME", help="Only of the agent of this id.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="Most approvals.")
@node_options
def list_approvals(
    everything: bool,
    agent: str | None,
    limit: int,
    as_json: bool,
    where: Where,
) -> None:
    """Show the calls of a node's agents that wait, the newest first."""
    target = find_target(where)
    wanted = {"limit": limit} | ({"all": "true"} if everything else {}) | ({"agent": agent} if agent else {})
    with Client(target) as client:
        found = client.get("/approvals", **wanted)
    if as_json:
        print_json(found)
        return
    columns = ("approval", "agent", "tool", "arguments", "caller", "age", "state", "outcome")
    if found["approvals"]:
        print_table("Approvals", columns, [_row(each) for each in found["approvals"]])
    else:
        click.echo("No calls of tools wait" if not wanted.get("all") else "No approvals")


@command.command("show", epilog="For example: caxton approvals show 0196f0c2-7c1e-7cc3-98a5")
@_id
@node_options
def show(
    approval_id: str,
    as_json: bool,
    where: Where,
) -> None:
    """Show a call: the exact tool and arguments, for whom, and how long there is to decide."""
    target = find_target(where)
    with Client(target) as client:
        found = client.get(f"/approvals/{segment(approval_id)}")
    if as_json:
        print_json(found)
    else:
        _show(found)


@command.command("approve", epilog="For example: caxton approvals approve 0196f0c2-7c1e-7cc3-98a5")
@_id
@_reason
@_yes
@node_options
def approve(
    approval_id: str,
    reason: str,
    yes: bool,
    as_json: bool,
    where: Where,
) -> None:
    """Show a call and, when you agree, have it made as it is shown."""
    target = find_target(where)
    with Client(target) as client:
        found = client.get(f"/approvals/{segment(approval_id)}")
        if not as_json:
            _show(found)
        if not yes and not _confirmed("Have it called with exactly these arguments?", as_json=as_json):
            return
        decided = client.call("POST", f"/approvals/{segment(approval_id)}/approve", body={"reason": reason})
    _tell(decided, as_json=as_json)


@command.command(
    "deny",
    epilog='For example: caxton approvals deny 0196f0c2-7c1e-7cc3-98a5 --reason "not today"',
)
@_id
@_reason
@node_options
def deny(
    approval_id: str,
    reason: str,
    as_json: bool,
    where: Where,
) -> None:
    """Have a call not made; the model is told the reason, and goes on without it."""
    target = find_target(where)
    with Client(target) as client:
        decided = client.call("POST", f"/approvals/{segment(approval_id)}/deny", body={"reason": reason})
    _tell(decided, as_json=as_json)


def _row(found: dict[str, Any]) -> tuple[object, ...]:
    state = found["verdict"] if found["state"] == "decided" else found["state"]
    return (
        found["approval_id"],
        found["agent"],
        found["tool"],
        found["arguments_preview"],
        found["caller"],
        f"{found['age_s']:.0f} s",
        state,
        found["outcome"] or "",
    )


def _show(found: dict[str, Any]) -> None:
    lines = [
        f"approval      {found['approval_id']}",
        f"agent         {found['agent']}",
        f"tool          {found['tool']} (SHA-256 of its description {found['tool_sha256']})",
        f"for           {found['caller']}",
        f"message       {found['message_id']}, conversation {found['conversation_id']}",
        f"state         {found['state']}, since {found['created_at']}, until {found['expires_at']}",
    ]
    if found["verdict"]:
        who = f"{found['verdict']} by {found['decided_by']} at {found['decided_at']}"
        lines.append(f"decided       {who}" + (f": {found['reason']}" if found["reason"] else ""))
    if found["outcome"]:
        lines.append(f"outcome       {found['outcome']}")
    if len(found["calls"]) > 1:
        lines += [f"together with {each['tool']}: {each['status']}" for each in found["calls"]]
    lines += ["arguments", json.dumps(found["arguments"], indent=2, ensure_ascii=True)]
    click.echo(safe("\n".join(lines)))


def _confirmed(question: str, *, as_json: bool) -> bool:
    if as_json:
        raise ValidationFailed("approving must be confirmed", why="there is nobody to ask", fix="Add --yes.")
    return click.confirm(question, err=True)


def _tell(decided: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(decided)
    else:
        click.echo(safe(f"{decided['tool']}: {decided['verdict']}"))
