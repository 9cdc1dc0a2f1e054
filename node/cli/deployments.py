"""``caxton deployments``: what the cluster is to run, and what it does."""

from __future__ import annotations

from typing import Any

import click

from node.cli.client import Client, find_target, segment
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe


@click.command("deployments", epilog="For example: caxton deployments triage")
@click.argument("agent", required=False)
@click.option("--nodes", is_flag=True, help="Show who takes replicas, and with which labels.")
@node_options
def command(agent: str | None, nodes: bool, as_json: bool, where: Where) -> None:
    """Show what is wanted, what runs where, and why not; of AGENT with every node.

    A deployment is made by `caxton deploy FILE --replicas N`, changed by `caxton agent scale` and ended by
    `caxton agent undeploy`.
    """
    if agent is not None and nodes:
        raise click.UsageError("--nodes is about all deployments; give no AGENT.")
    with Client(find_target(where)) as client:
        found = client.get("/deployments" if agent is None else f"/deployments/{segment(agent)}")
    if as_json:
        print_json(found)
    elif agent is not None:
        _show(found)
    elif nodes:
        columns = ("node", "takes replicas", "labels")
        rows = [(n["node"], "yes" if n["takes"] else "no", " ".join(n["labels"])) for n in found["nodes"]]
        print_table("Nodes", columns, rows)
    elif not found["deployments"]:
        click.echo("No deployments")
    else:
        wide = ("agent", "version", "wanted", "running", "state", "where", "why")
        print_table("Deployments", wide, [_row(each) for each in found["deployments"]])


def _row(found: dict[str, Any]) -> tuple[object, ...]:
    where = " ".join(
        each["node"] if each["state"] == "running" else f"{each['node']}({each['state']})"
        for each in found["nodes"]
    )
    return (
        found["agent"],
        found["version"],
        found["replicas"],
        found["running"],
        found["state"],
        where or "-",
        found["why"] or "",
    )


def _show(found: dict[str, Any]) -> None:
    requires = ", ".join(f"{name}={value}" for name, values in found["requires"].items() for value in values)
    lines = [
        f"{found['name']} {found['version']} ({found['agent']}), by {found['by']} at {found['updated_at']}",
        f"{found['running']} of {found['replicas']} run: {found['state']}"
        + (f"; {found['why']}" if found["why"] else ""),
        f"requires {requires or 'nothing'}; priority {found['priority']}; in a minority: {found['minority']}",
        f"package {found['digest']} ({found['size_bytes']:,} bytes); revision {found['revision']}",
    ]
    for line in lines:
        click.echo(safe(line))
    for lost in found["conflicts"]:
        what = "a deletion" if lost["deleted"] else f"{lost['replicas']} replicas"
        click.echo(safe(f"a concurrent write by {lost['author']} at {lost['written_at']} lost: {what}"))
    for memory in found["memories"]:
        source = memory["from"] + ("" if memory["up"] else ", which is not up,")
        click.echo(safe(f"what it remembers for itself is on its way from {source} to {memory['to']}"))
    rows = [(each["node"], each["state"], each["why"] or "") for each in found["nodes"]]
    rows += [(each["node"], "excluded", each["why"]) for each in found["excluded"]]
    print_table("Nodes", ("node", "state", "why"), rows)
