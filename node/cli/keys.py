"""``caxton keys``: which gossip keys the members hold, and their rotation while the cluster runs."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from node.cli.client import Client, find_target
from node.cli.errors import UsageFailed
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe

TIMEOUT_S: Final = 10.0
"""How long members may take to answer, unless told otherwise; twice that for use and remove, at most."""
ACTIONS: Final = ("list", "install", "use", "remove")
_NEXT: Final = {
    "install": "Next, when all have it: caxton keys use {key_id}",
    "use": "Next, when all use it: caxton keys remove KEY_ID, with the id of the old one",
    "remove": "Copy gossip.key of a node to the cluster's directory: nodes that are added later need it",
}
_KEY_ID: Final = re.compile("[0-9a-f]{8}")
_INCOMPLETE: Final = 1
"""Exit status when some member has not done what was asked."""


@click.command("keys")
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("key_id", required=False)
@click.option("--force", is_flag=True, help="Go ahead with use or remove whoever is away or cut off.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 60),
    default=TIMEOUT_S,
    show_default=True,
    help="Longest wait for the members' answers, in seconds.",
)
@node_options
def command(
    action: str,
    key_id: str | None,
    force: bool,
    timeout_s: float,
    as_json: bool,
    where: Where,
) -> int:
    """Show the gossip keys of all members, or change them: install, then use KEY_ID, then remove the old one.

    The keys themselves are never shown: KEY_ID is the 8 digits that the list shows.
    """
    needs_key = action in ("use", "remove")
    if needs_key and key_id is None:
        raise click.UsageError(f"keys {action} needs a KEY_ID; `caxton keys list` shows them.")
    if key_id is not None and _KEY_ID.fullmatch(key_id) is None:
        raise UsageFailed(
            f"{key_id[:80]!r} is no KEY_ID",
            why="it has 8 digits, of 0-9 and a-f",
            fix="`caxton keys list` shows them.",
        )
    if not needs_key and key_id is not None:
        raise click.UsageError(f"keys {action} takes no KEY_ID.")
    if force and not needs_key:
        raise click.UsageError(f"keys {action} takes no --force: it cuts nobody off.")
    target = find_target(where)
    with Client(target) as client:
        if action == "list":
            query = {"timeout_s": timeout_s}
            found = client.call("GET", "/cluster/keys", query=query, wait_s=timeout_s)
        else:
            body = {"operation": action, "key_id": key_id, "force": force, "timeout_s": timeout_s}
            found = client.call("POST", "/cluster/keys", body=body, wait_s=2 * timeout_s)
    if as_json:
        print_json(found)
    else:
        _show(found)
    return 0 if found.get("ok") else _INCOMPLETE


def _show(found: dict[str, Any]) -> None:
    members = found.get("members", [])
    done = sum(bool(member.get("ok")) for member in members)
    what = f"{found.get('operation')} {found.get('key_id') or ''}".strip()
    click.echo(safe(f"{what}: {done} of {len(members)} members that are up, seen from {found.get('node')}"))
    print_table("Members", ("member", "result", "keys, the first encrypts"), [_row(m) for m in members])
    absent = found.get("absent", [])
    if absent:
        click.echo(safe(f"Away, and not asked: {', '.join(map(str, absent))}"))
    following = _NEXT.get(str(found.get("operation"))) if found.get("ok") else None
    if following:
        click.echo(safe(following.replace("{key_id}", str(found.get("key_id")))))


def _row(member: dict[str, Any]) -> tuple[object, ...]:
    key_ids = member.get("key_ids")
    return (
        member.get("name"),
        "done" if member.get("ok") else member.get("error") or "not done",
        "not said" if key_ids is None else " ".join(map(str, key_ids)),
    )
