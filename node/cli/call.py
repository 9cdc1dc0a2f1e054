"""``caxton call``: a task for whoever makes the best bid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from node.cli.client import Client, find_target, pretty
from node.cli.errors import FailureReply, UsageFailed
from node.cli.near import near_capability
from node.cli.options import Where, node_options
from node.cli.output import print_json, safe
from node.cli.send import attachments_of, content_of
from node.messaging.tender import DEADLINE_LIMIT_S, RESERVES_LIMIT, RESULT_LIMIT_S, WINNERS_LIMIT, Prefer


@click.command("call")
@click.argument("capability")
@click.argument("content", required=False)
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(0.1, DEADLINE_LIMIT_S),
    default=5.0,
    show_default=True,
    help="Longest wait for bids, in seconds.",
)
@click.option(
    "--result",
    "result_s",
    type=click.FloatRange(0.1, RESULT_LIMIT_S),
    default=30.0,
    show_default=True,
    help="Longest wait for the result of each award, in seconds.",
)
@click.option(
    "--award",
    metavar="RULE",
    default=Prefer.FIRST.value,
    show_default=True,
    help="lowest:content.cost, highest:content.quality, or first: which bid wins.",
)
@click.option(
    "--winners",
    type=click.IntRange(1, WINNERS_LIMIT),
    default=1,
    show_default=True,
    help="How many bids are awarded.",
)
@click.option(
    "--reserves",
    type=click.IntRange(0, RESERVES_LIMIT),
    default=2,
    show_default=True,
    help="How many of the next best may follow a winner that fails.",
)
@click.option("--priority", type=click.IntRange(0, 9), help="0 (least) to 9.")
@click.option(
    "--attach",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="File to send along; repeatable.",
)
@node_options
def command(
    capability: str,
    content: str | None,
    deadline_s: float,
    result_s: float,
    award: str,
    winners: int,
    reserves: int,
    priority: int | None,
    attach: tuple[Path, ...],
    as_json: bool,
    where: Where,
) -> None:
    """Have all providers of CAPABILITY bid for a task, CONTENT, and show what the winner makes of it.

    CONTENT is JSON or text; - reads standard input.
    """
    body: dict[str, Any] = {
        "capability": capability,
        "content": content_of(content),
        "deadline_s": deadline_s,
        "result_s": result_s,
        "award": {**_rule(award), "winners": winners, "reserves": reserves},
    }
    if priority is not None:
        body["priority"] = priority
    longest_s = deadline_s + result_s * (1 + reserves)
    target = find_target(where)
    with Client(target) as client:
        if attach:
            body["attachments"] = attachments_of(client, attach)
        found = client.call("POST", "/tasks", body=body, wait_s=longest_s)
        nobody = found.get("status") != "done" and not found.get("asked")
        hint = near_capability(client, capability) if nobody and not as_json else ""
    if as_json:
        print_json(found)
    else:
        _show(found)
    if found.get("status") == "done":
        return
    if as_json:
        click.get_current_context().exit(FailureReply.exit_code)
    raise FailureReply(
        f"the task ended as {safe(found.get('status'))}",
        why="; ".join(_reasons(found))[:500],
        fix=hint
        or "Wait longer for bids (--deadline) or results (--result), or have more in reserve (--reserves).",
    )


def _rule(award: str) -> dict[str, str]:
    prefer, _, by = award.partition(":")
    if prefer not in list(Prefer) or (prefer == Prefer.FIRST) != (not by):
        raise UsageFailed(
            f"{award[:80]!r} is no rule",
            why="it is first, or lowest or highest with the field of a bid",
            fix="For example: --award lowest:content.cost.",
        )
    return {"prefer": prefer} | ({"by": by} if by else {})


def _show(found: dict[str, Any]) -> None:
    """The bids on standard error, the results on standard output."""
    for bid in found.get("bids", []):
        told = f"{bid.get('from')}  {bid.get('state')}  {json.dumps(bid.get('content'), ensure_ascii=False)}"
        click.echo(safe(told), err=True)
    for result in found.get("results", []):
        answer = result.get("content")
        click.echo(safe(answer if isinstance(answer, str) else pretty(answer)))


def _reasons(found: dict[str, Any]) -> list[str]:
    failed = [bid for bid in found.get("bids", []) if bid.get("state") == "failed"]
    if failed:
        return [safe(f"{bid.get('from')}: {bid.get('reason')}") for bid in failed]
    asked = len(found.get("asked", []))
    return [f"{asked} were asked, and none has made a bid" if asked else "nobody offers it"]
