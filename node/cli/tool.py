"""``caxton tool``: show the tool servers of a node, approve their tools, or serve one by itself."""

from __future__ import annotations

from typing import Any, Final

import click

from node.cli.client import Client, find_target, segment
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe
from node.cli.tool_serve import serve
from node.errors import ValidationFailed, nearest

HASH_SHOWN: Final = 12
"""Digits of a hash in the table; ``--json`` has all 64."""


@click.group("tool")
def command() -> None:
    """Show the tool servers of a node, approve their tools, or serve one by itself."""


command.add_command(serve)


@command.command("list", epilog="For example: caxton tool list --json")
@node_options
def list_tools(
    as_json: bool,
    where: Where,
) -> None:
    """Show the tool servers of a node, their states, their tools, and what waits for approval."""
    target = find_target(where)
    with Client(target) as client:
        found = client.get("/tools")
    if as_json:
        print_json(found)
        return
    rows = [row for server in found["servers"] for row in _rows(server)]
    print_table("Tools", ("server", "kind", "state", "tool", "status", "hash"), rows)
    for server in found["servers"]:
        for line in _remarks(server):
            click.echo(safe(line))


@command.command("approve", epilog="For example: caxton tool approve weather/forecast")
@click.argument("name", metavar="SERVER[/TOOL]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@node_options
def approve(
    name: str,
    yes: bool,
    as_json: bool,
    where: Where,
) -> None:
    """Show how tools differ from what was approved, and approve what was shown.

    Without a tool, all tools of the server that wait are approved.
    """
    target = find_target(where)
    server, _, tool = name.partition("/")
    with Client(target) as client:
        waiting = _waiting(client.get("/tools")["servers"], server, tool)
        if not as_json:
            for each in waiting:
                _show_changes(server, each)
        if not yes and not _confirmed(as_json=as_json):
            return
        wanted = {each["name"]: each["hash"] for each in waiting}
        found = client.call("POST", f"/tools/{segment(server)}/approve", body={"tools": wanted})
    if as_json:
        print_json(found)
    else:
        click.echo(safe(f"approved: {', '.join(found['approved'])}"))


def _rows(server: dict[str, Any]) -> list[tuple[object, ...]]:
    head = (server["name"], server["kind"], server["state"])
    tools = server["tools"] or [{"name": "", "status": ""}]
    return [(*head, tool["name"], tool["status"], (tool.get("hash") or "")[:HASH_SHOWN]) for tool in tools]


def _remarks(server: dict[str, Any]) -> list[str]:
    """What a table has no room for."""
    found = []
    if server.get("reason"):
        wait_s = server.get("next_try_s")
        again = "" if wait_s is None else f"; it is tried again in {wait_s:.0f} s"
        found.append(f"{server['name']}: {server['reason']}{again}")
    for what, why in server.get("not_confined", {}).items():
        found.append(f"{server['name']}: not confined: {what} ({why})")
    for tool in server["tools"]:
        if tool.get("why"):
            found.append(f"{server['name']}/{tool['name']}: {tool['why']}")
        parts = ", ".join(change["part"] for change in tool.get("changes", ()))
        if parts:
            see = f"see caxton tool approve {server['name']}/{tool['name']}"
            found.append(f"{server['name']}/{tool['name']} is {tool['status']} ({parts}); {see}")
    return found


def _waiting(servers: list[dict[str, Any]], name: str, tool: str) -> list[dict[str, Any]]:
    """The tools that are to be approved.

    Raises:
        ValidationFailed: there is no such server, or nothing of it waits.
    """
    names = [server["name"] for server in servers]
    found = next((server for server in servers if server["name"] == name), None)
    if found is None:
        guess = nearest(name, names)
        raise ValidationFailed(
            f"there is no tool server {name[:80]!r}",
            why=f"the node has {', '.join(names)}",
            fix=f"Did you mean {guess!r}?" if guess else "See `caxton tool list`.",
        )
    waiting = [each for each in found["tools"] if each["status"] in ("new", "changed")]
    chosen = [each for each in waiting if tool in ("", each["name"])]
    if not chosen:
        raise ValidationFailed(
            f"nothing of {name + ('/' if tool else '') + tool!r} waits for approval",
            why="what waits: " + (", ".join(each["name"] for each in waiting) or "nothing"),
            fix="See `caxton tool list`.",
        )
    return chosen


def _show_changes(server: str, tool: dict[str, Any]) -> None:
    click.echo(safe(f"{server}/{tool['name']} is {tool['status']} (hash {tool['hash']})"))
    for change in tool["changes"]:
        click.echo(safe(f"  {change['part']}"))
        if change["from"] is not None:
            click.echo(safe(f"    approved: {change['from']}"))
        click.echo(safe(f"    now:      {change['to']}"))


def _confirmed(*, as_json: bool) -> bool:
    if as_json:
        raise ValidationFailed("approving must be confirmed", why="there is nobody to ask", fix="Add --yes.")
    return click.confirm("Models will read this from now on. Approve it?", err=True)
