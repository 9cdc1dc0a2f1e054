"""``caxton status``: a node, or its whole cluster."""

from __future__ import annotations

from typing import Any, Final

import click

from node.cli.client import Client, find_target
from node.cli.members import partition_line
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe
from node.cli.status_page import show_page

AGENTS_ASKED: Final = 200
"""Most agents that a node is asked for: more it does not tell at once."""


@click.command("status")
@click.option("--cluster", is_flag=True, help="Show the members, agents and capabilities of the cluster.")
@click.option("--all", "everything", is_flag=True, help="Show all that every room of the node counts, too.")
@node_options
def command(
    cluster: bool,
    everything: bool,
    as_json: bool,
    where: Where,
) -> None:
    """Show how a node does: what is under way, its agents, what is wrong; with --cluster, its cluster."""
    if cluster and everything:
        raise click.UsageError("--all is of one node; leave --cluster out.")
    target = find_target(where)
    with Client(target) as client:
        if cluster:
            found = client.get("/cluster/status") | client.get("/capabilities")
        else:
            found = client.get("/status") | {"agents": client.get("/agents", limit=AGENTS_ASKED)["agents"]}
    if as_json:
        print_json(found)
    elif cluster:
        _show_cluster(found)
    elif everything:
        show_page(found, agents_shown=AGENTS_ASKED)
        _show_counts(found)
    else:
        show_page(found)
        click.echo("\nAll that is counted: caxton status --all")


def _show_cluster(found: dict[str, Any]) -> None:
    click.echo(safe(partition_line(found)))
    if found.get("joined") is False:
        click.echo(safe(_still_trying(found.get("events", []))))
    unsettled = found.get("unsettled_by_node", {})
    rows = []
    for member in found.get("members", []):
        name = member.get("name", member.get("node", ""))
        address = member.get("address", "")
        rows.append((name, member.get("state", ""), _address(address), unsettled.get(name, 0)))
    print_table("Members", ("member", "state", "address", "unsettled"), rows)
    offers = [
        (entry["capability"], provider["agent"], provider["node"], provider["version"], provider["load"])
        for entry in found.get("capabilities", [])
        for provider in entry["providers"]
    ]
    if offers:
        click.echo()
        print_table("Capabilities", ("capability", "agent", "node", "version", "load"), offers)


def _still_trying(events: list[dict[str, Any]]) -> str:
    """Why a node has not joined yet: its seeds, each with the latest reason."""
    latest = {event["seed"]: event for event in events if event.get("event") == "SeedUnreachable"}
    seeds = [f"{seed}: {event['reason']} (attempt {event['attempt']})" for seed, event in latest.items()]
    return "Not joined yet, still trying " + ("; ".join(seeds) or "its seeds")


def _show_counts(found: dict[str, Any]) -> None:
    """All that every room counts."""
    rooms = {"messaging": found.get("messaging"), "membership": found.get("membership")} | found.get(
        "rooms", {}
    )
    counts = [(room, *row) for room, values in rooms.items() for row in _flat(values)]
    counts += [("unsettled", node, count) for node, count in found.get("unsettled_by_node", {}).items()]
    click.echo()
    print_table("Counts", ("room", "what", "value"), counts)


def _flat(values: object, prefix: str = "") -> list[tuple[str, object]]:
    """(dotted name, number or text) of everything inside nested objects."""
    if isinstance(values, dict):
        return [row for key, value in values.items() for row in _flat(value, f"{prefix}.{key}".lstrip("."))]
    return [(prefix, values)] if isinstance(values, int | float | str) else []


def _address(value: object) -> str:
    return ":".join(map(str, value)) if isinstance(value, list) else str(value)
