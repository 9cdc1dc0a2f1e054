"""``caxton stop``: an agent, or a whole node."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

import click

from node.cli.client import Client, find_target, segment
from node.cli.options import Where, node_options, one_of
from node.cli.output import print_json, safe
from node.errors import NodeUnreachable

LEAVE_LIMIT_S: Final = 30.0
"""Longest wait for a node to leave its cluster and end, in seconds."""
FORCE_AFTER_S: Final = 3.0
"""With --force, how long a node may take before it is killed, in seconds."""
_POLL_S: Final = 0.1


@click.command("stop")
@click.argument("agent", required=False)
@click.option("--agent", "named", metavar="AGENT", help="The same as the argument AGENT.")
@click.option("--force", is_flag=True, help="Without waiting for running work; a local node is killed.")
@node_options
def command(
    agent: str | None,
    named: str | None,
    force: bool,
    as_json: bool,
    where: Where,
) -> None:
    """Stop AGENT; without one, let the node leave its cluster and end."""
    agent = one_of("AGENT", agent, named)
    target = find_target(where)
    with Client(target) as client:
        if agent is not None:
            body = {"grace_period_seconds": 0.0} if force else None
            found = client.call("POST", f"/agents/{segment(agent)}/stop", body=body, wait_s=30.0)
            text = f"{found.get('name', agent)} is {found.get('status')}"
        else:
            found = client.call("POST", "/shutdown")
            found["status"] = _await_end(client, target.pid, force=force)
            text = f"{found.get('node')} has {found['status']}"
    if as_json:
        print_json(found)
    else:
        click.echo(safe(text))


def _await_end(client: Client, pid: int | None, *, force: bool) -> str:
    """Wait until the node has gone; says how it went.

    Raises:
        NodeUnreachable: it does not go.
    """
    start = time.monotonic()
    while _still_there(client, pid):
        waited = time.monotonic() - start
        if force and pid is not None and waited > FORCE_AFTER_S:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return "been killed"
        if waited > LEAVE_LIMIT_S:
            raise NodeUnreachable(
                "the node was told to stop and is still there",
                why=f"it has not ended within {LEAVE_LIMIT_S:.0f} s",
                fix="Look at its log, or use --force.",
            )
        time.sleep(_POLL_S)
    return "stopped"


def _still_there(client: Client, pid: int | None) -> bool:
    if pid is None:
        try:
            client.get("/health")
        except NodeUnreachable:
            return False
        return True
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended and only waits for its parent to notice (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
