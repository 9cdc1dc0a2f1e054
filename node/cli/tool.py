"""``caxton tool``: show the tool servers of a node, and their tools, or serve one by itself."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.client import Client, find_target
from node.cli.options import node_options
from node.cli.output import print_json, print_table
from node.cli.tool_serve import serve


@click.group("tool")
def command() -> None:
    """Show the tool servers of a node, and their tools, or serve one by itself."""


command.add_command(serve)


@command.command("list", epilog="For example: caxton tool list --json")
@node_options
def list_tools(
    as_json: bool, api: str | None, node_name: str | None, token: str | None, token_file: Path | None
) -> None:
    """Show the tool servers of a node, their states, and their tools."""
    target = find_target(api=api, node_name=node_name, token=token, token_file=token_file)
    with Client(target) as client:
        found = client.get("/tools")
    if as_json:
        print_json(found)
        return
    rows = [
        (server["name"], server["kind"], server["state"], tool["name"])
        for server in found["servers"]
        for tool in server["tools"]
    ]
    print_table("Tools", ("server", "kind", "state", "tool"), rows)
