"""``caxton event``: announce something to every node, or show what was announced."""

from __future__ import annotations

import click

from node.cli.client import Client, find_target
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe


@click.command("event")
@click.argument("name", required=False)
@click.argument("payload", required=False, default="")
@node_options
def command(
    name: str | None,
    payload: str,
    as_json: bool,
    where: Where,
) -> None:
    """Announce NAME, with PAYLOAD, to every node; without NAME, show what a node has heard lately."""
    target = find_target(where)
    with Client(target) as client:
        if name is None:
            found = client.get("/cluster/events")
        else:
            found = client.call("POST", "/cluster/events", body={"name": name, "payload": payload})
    if as_json:
        print_json(found)
    elif name is not None:
        click.echo(safe(f"{found.get('author')} has announced {found.get('name')}"))
    elif not found.get("events"):
        click.echo("Nothing was announced lately")
    else:
        fields = ("heard_at", "author", "name", "payload")
        rows = [[event.get(field) for field in fields] for event in found.get("events", [])]
        print_table("User events", ("heard", "by", "name", "payload"), rows)
