"""On whose behalf, and in which scopes: the options that the commands of ``caxton memory`` share."""

from __future__ import annotations

from typing import Any

import click

agent_option = click.option(
    "--agent", metavar="ID", help="As this agent would be answered; everything without."
)
workspace_option = click.option(
    "--workspace", metavar="NAME", help="The workspace that it is in, or that is meant."
)
scope_option = click.option(
    "--scope", type=click.Choice(["agent-only", "workspace", "global"]), help="Only in this scope."
)


def asked(agent: str | None, workspace: str | None, scope: str | None) -> dict[str, Any]:
    """The same as parameters of a route."""
    return {"agent_id": agent, "workspace": workspace, "memory_scope": scope}
