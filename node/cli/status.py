"""``caxton status``: a node, or its whole cluster."""

from __future__ import annotations

from typing import Any

import click

from node.cli.client import Client, find_target
from node.cli.members import partition_line
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe


@click.command("status")
@click.option("--cluster", is_flag=True, help="Show the members, agents and capabilities of the cluster.")
@node_options
def command(
    cluster: bool,
    as_json: bool,
    where: Where,
) -> None:
    """Show how a node does: agents, queues, links, bytes; with --cluster, its cluster."""
    target = find_target(where)
    with Client(target) as client:
        if cluster:
            found = client.get("/cluster/status") | client.get("/capabilities")
        else:
            found = client.get("/status") | {"agents": client.get("/agents", limit=200)["agents"]}
    if as_json:
        print_json(found)
    elif cluster:
        _show_cluster(found)
    else:
        _show_node(found)


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


def _show_node(found: dict[str, Any]) -> None:
    click.echo(
        safe(
            f"{found.get('node')}: {found.get('status')}, up {found.get('uptime', 0):.0f} s, "
            f"version {found.get('version')}, {found.get('partition_state')}"
        )
    )
    memory = found.get("rooms", {}).get("memory", {})
    if memory.get("embedding_error"):
        click.echo(safe(f"Memory is searched by words only: {memory['embedding_error']}"))
    elif memory.get("upkeep", {}).get("reembedding", {}).get("state") == "running":
        click.echo("Memory is being embedded with another model: see `caxton memory reembed`.")
    agents = [(a.get("name"), a.get("status"), ", ".join(a.get("capabilities", []))) for a in found["agents"]]
    if agents:
        click.echo()
        print_table("Agents", ("agent", "status", "capabilities"), agents)
    rooms = {"messaging": found.get("messaging"), "membership": found.get("membership")} | found.get(
        "rooms", {}
    )
    counts = [(room, *row) for room, values in rooms.items() for row in _flat(values)]
    counts += [("unsettled", node, count) for node, count in found.get("unsettled_by_node", {}).items()]
    if counts:
        click.echo()
        print_table("Counts", ("room", "what", "value"), counts)


def _flat(values: object, prefix: str = "") -> list[tuple[str, object]]:
    """(dotted name, number or text) of everything inside nested objects."""
    if isinstance(values, dict):
        return [row for key, value in values.items() for row in _flat(value, f"{prefix}.{key}".lstrip("."))]
    return [(prefix, values)] if isinstance(values, int | float | str) else []


def _address(value: object) -> str:
    return ":".join(map(str, value)) if isinstance(value, list) else str(value)
