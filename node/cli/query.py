"""``caxton query``: ask every node, or some, and show who answers what."""

from __future__ import annotations

from typing import Final

import click

from node.cli.client import Client, find_target
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe

LONGEST_S: Final = 60.0


@click.command("query")
@click.argument("name")
@click.argument("payload", required=False, default="")
@click.option("--member", "nodes", multiple=True, metavar="NAME", help="Who shall answer; repeatable.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, LONGEST_S),
    help="Longest wait for answers, in seconds; as long as gossip takes by default.",
)
@node_options
def command(
    name: str,
    payload: str,
    nodes: tuple[str, ...],
    timeout_s: float | None,
    as_json: bool,
    where: Where,
) -> None:
    """Ask the nodes NAME, with PAYLOAD. They answer ping (name and version) and uptime (seconds)."""
    target = find_target(where)
    body = {"name": name, "payload": payload, "nodes": list(nodes), "timeout_s": timeout_s}
    with Client(target) as client:
        found = client.call("POST", "/cluster/queries", body=body, wait_s=timeout_s or LONGEST_S)
    if as_json:
        print_json(found)
        return
    answers = found.get("answers", [])
    silent = [node for node in nodes if node not in {answer.get("node") for answer in answers}]
    click.echo(safe(f"{len(answers)} answers to {found.get('name')}, seen from {found.get('node')}"))
    rows = [(answer.get("node"), answer.get("answer")) for answer in answers]
    if rows:
        print_table("Answers", ("node", "answer"), rows)
    if silent:
        click.echo(safe(f"No answer from {', '.join(silent)}; `caxton members` lists who is there"), err=True)
