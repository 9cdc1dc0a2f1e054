"""``caxton logs``: what agents have logged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Final

import click

from node.cli.client import Client, find_target, segment
from node.cli.options import Where, node_options, one_of
from node.cli.output import print_json, safe

FOLLOW_INTERVAL_S: Final = 1.0
"""Pause between two looks, in seconds."""
_SHOWN: Final = ("time", "level", "message", "agent")


@click.command("logs")
@click.argument("agent", required=False)
@click.option("--agent", "named", metavar="AGENT", help="The same as the argument AGENT.")
@click.option("--since", metavar="TIME", help="A time in ISO 8601, or a duration: 90s, 15m, 1h, 2d.")
@click.option("--tail", type=click.IntRange(1, 1000), default=100, show_default=True, help="Most records.")
@click.option(
    "--level", type=click.Choice(["debug", "info", "warning", "error"]), help="This level and above."
)
@click.option("--follow", "-f", is_flag=True, help="Go on until Ctrl-C.")
@node_options
def command(
    agent: str | None,
    named: str | None,
    since: str | None,
    tail: int,
    level: str | None,
    follow: bool,
    as_json: bool,
    where: Where,
) -> None:
    """Show the last log records of AGENT, or of all agents of a node, oldest first.

    With --json --follow, every line is one record.
    """
    agent = one_of("AGENT", agent, named)
    target = find_target(where)
    with Client(target) as client:
        records = _records(client, agent, since=since, tail=tail, level=level)
        if as_json and not follow:
            print_json({"records": records})
            return
        _show(records, as_json=as_json)
        while follow:
            time.sleep(FOLLOW_INTERVAL_S)
            last = records[-1]["time"] if records else None
            newer = _records(client, agent, since=last or since, tail=1000, level=level)
            seen = {_key(record) for record in records}
            _show((record for record in newer if _key(record) not in seen), as_json=as_json)
            records = newer or records


def _records(client: Client, agent: str | None, **query: object) -> list[dict[str, Any]]:
    names = [agent] if agent is not None else [a["name"] for a in client.get("/agents", limit=200)["agents"]]
    found = [
        {"agent": name, **record}
        for name in names
        for record in client.get(f"/agents/{segment(name)}/logs", **query)["records"]
    ]
    tail = query["tail"]
    found.sort(key=lambda record: str(record.get("time", "")))
    return found[-tail:] if isinstance(tail, int) else found


def _key(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True)


def _show(records: Iterator[dict[str, Any]] | list[dict[str, Any]], *, as_json: bool) -> None:
    for record in records:
        if as_json:
            print_json(record)
            continue
        more = " ".join(f"{key}={value}" for key, value in record.items() if key not in _SHOWN)
        line = f"{record.get('time')} {record.get('level', ''):<7} {record['agent']}: {record.get('message')}"
        click.echo(safe(f"{line} {more}".rstrip()).replace("\n", "\\n"))
