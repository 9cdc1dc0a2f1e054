"""``caxton dead-letters``: what could not be delivered, and what to do about it."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from node.cli.client import Client, find_target, pretty, segment
from node.cli.errors import UsageFailed
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe
from node.errors import CaxtonError

PAGE: Final = 200
"""Letters asked for at once."""
CALL_S: Final = 120.0
"""Longest time for one call about many letters, in seconds: each is a write of its own."""
_INCOMPLETE: Final = 1
"""Exit status when some letter has stayed as it was."""

_all = click.option("--all", "everything", is_flag=True, help="All of them.")
_capability = click.option("--capability", metavar="NAME", help="Those that asked for this capability.")
_reason = click.option("--reason", metavar="TEXT", help="Those whose reason has this in it.")
_since = click.option(
    "--since", metavar="TIME", help="Given up since: ISO 8601, or a duration: 90s, 15m, 1h, 2d."
)


@click.group(
    "dead-letters",
    epilog="For example: caxton dead-letters list --since 1h",
)
def command() -> None:
    """Show what could not be delivered, send it again, or drop it."""


@command.command("list", epilog="For example: caxton dead-letters list --capability data-analysis --since 1h")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most letters.")
@_capability
@_reason
@_since
@click.option("--retried/--not-retried", default=None, help="Only those sent again, or those that were not.")
@node_options
def list_letters(
    limit: int,
    capability: str | None,
    reason: str | None,
    since: str | None,
    retried: bool | None,
    as_json: bool,
    where: Where,
) -> None:
    """Show dead letters, the newest first."""
    target = find_target(where)
    letters: list[dict[str, Any]] = []
    query = {"capability": capability, "reason": reason, "since": since, "retried": retried}
    with Client(target) as client:
        found: dict[str, Any] = {"next": None}
        while len(letters) < limit:
            found = client.get(
                "/dead-letters", limit=min(PAGE, limit - len(letters)), before=found["next"], **query
            )
            letters += found["dead_letters"]
            if found["next"] is None:
                break
    if as_json:
        print_json(found | {"dead_letters": letters, "limit": limit})
        return
    click.echo(safe(f"{len(letters)} of {found['count']} dead letters, {found['bytes']} bytes in all"))
    if letters:
        columns = ("given up", "message", "from", "to", "reason", "sent again as")
        print_table("Dead letters", columns, [_row(letter) for letter in letters])


@command.command("show", epilog="For example: caxton dead-letters show 0197c1f0-8f7e-7d22")
@click.argument("message_id", metavar="ID")
@node_options
def show(
    message_id: str,
    as_json: bool,
    where: Where,
) -> None:
    """Show one dead letter: the message, why it was given up, and all that happened to it."""
    target = find_target(where)
    with Client(target) as client:
        letter = client.get(f"/dead-letters/{segment(message_id)}")
    if as_json:
        print_json(letter)
    else:
        _show(letter)


@command.command(
    "retry",
    epilog="For example: caxton dead-letters retry 0197c1f0-8f7e-7d22, or caxton dead-letters retry --all",
)
@click.argument("message_ids", metavar="[ID]...", nargs=-1)
@_all
@_capability
@_reason
@_since
@click.option("--to", "receiver", metavar="AGENT", help="Send it to this agent instead (with an ID).")
@click.option("--to-capability", metavar="NAME", help="Send it to this capability instead (with an ID).")
@click.option(
    "--ttl",
    "ttl_s",
    type=click.FloatRange(0, 86_400, min_open=True),
    help="How long the new message may live, in seconds.",
)
@click.option("--force", is_flag=True, help="Also what was sent again before.")
@node_options
def retry(
    message_ids: tuple[str, ...],
    everything: bool,
    capability: str | None,
    reason: str | None,
    since: str | None,
    receiver: str | None,
    to_capability: str | None,
    ttl_s: float | None,
    force: bool,
    as_json: bool,
    where: Where,
) -> int:
    """Send messages again: those of the IDs, or of a choice, the oldest first.

    Each becomes a new message that names the old one.
    """
    choice = {"capability": capability, "reason": reason, "since": since}
    _check_choice(message_ids, choice, everything=everything)
    change = {"receiver": receiver, "capability": to_capability, "ttl_s": ttl_s, "force": force}
    if not message_ids and (receiver or to_capability):
        raise UsageFailed("only letters that are named one by one are sent elsewhere", fix="Give their IDs.")
    target = find_target(where)
    with Client(target) as client:
        if message_ids:
            found = _retry_each(client, message_ids, _given(change))
        else:
            found = _retry_choice(client, _given(choice), {"force": force} | _given({"ttl_s": ttl_s}))
    if as_json:
        print_json(found)
    else:
        _show_retried(found)
    return 0 if not found["refused"] and found["stopped_by"] is None else _INCOMPLETE


@command.command(
    "drop",
    epilog="For example: caxton dead-letters drop --capability data-analysis --yes",
)
@click.argument("message_ids", metavar="[ID]...", nargs=-1)
@_all
@_capability
@_reason
@_since
@click.option("--yes", is_flag=True, help="Drop a choice without asking.")
@node_options
def drop(
    message_ids: tuple[str, ...],
    everything: bool,
    capability: str | None,
    reason: str | None,
    since: str | None,
    yes: bool,
    as_json: bool,
    where: Where,
) -> int:
    """Forget dead letters for good: those of the IDs, or of a choice."""
    choice = {"capability": capability, "reason": reason, "since": since}
    _check_choice(message_ids, choice, everything=everything)
    if not message_ids and not yes and not _confirmed(as_json=as_json):
        click.echo("Nothing was dropped.")
        return _INCOMPLETE
    target = find_target(where)
    with Client(target) as client:
        if message_ids:
            for message_id in message_ids:
                client.call("DELETE", f"/dead-letters/{segment(message_id)}")
            dropped = len(message_ids)
        else:
            dropped = _drop_choice(client, _given(choice))
    if as_json:
        print_json({"dropped": dropped})
    else:
        click.echo(f"{dropped} dropped")
    return 0


def _check_choice(message_ids: tuple[str, ...], where: dict[str, str | None], *, everything: bool) -> None:
    """IDs, or a choice, or all: exactly one way of saying which."""
    ways = bool(message_ids) + any(where.values()) + everything
    if ways != 1:
        raise UsageFailed(
            "say which letters: IDs, or a choice (--capability, --reason, --since), or --all",
            why="nothing was given" if not ways else "more than one of them was given",
            fix="For example: caxton dead-letters retry --since 1h.",
        )


def _confirmed(*, as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        raise UsageFailed(
            "dropping a choice of letters must be confirmed",
            why="there is nobody to ask",
            fix="Add --yes.",
        )
    return click.confirm("These letters will be gone for good. Go on?", err=True)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _retry_each(client: Client, message_ids: tuple[str, ...], body: dict[str, Any]) -> dict[str, Any]:
    """Every letter on its own; what is refused keeps no other from being sent."""
    messages: list[dict[str, str]] = []
    refusals: list[dict[str, str]] = []
    for message_id in message_ids:
        try:
            found = client.call("POST", f"/dead-letters/{segment(message_id)}/retry", body=body)
        except CaxtonError as error:
            if len(message_ids) == 1:
                raise
            refusals.append({"message_id": message_id, "code": error.code, "reason": error.what})
        else:
            messages.append({"retry_of": message_id, "message_id": found["message_id"]})
    return {
        "retried": len(messages),
        "messages": messages,
        "refused": len(refusals),
        "refusals": refusals,
        "stopped_by": None,
    }


def _retry_choice(client: Client, where: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """All letters of a choice that there are now; what dies again meanwhile is not sent in a circle."""
    newest = client.get("/dead-letters", limit=1)["dead_letters"]
    told: dict[str, Any] = {"retried": 0, "messages": [], "refused": 0, "refusals": [], "stopped_by": None}
    if not newest:
        return told
    where = where | {"before": newest[0]["seq"] + 1}
    more = True
    while more:
        found = client.call("POST", "/dead-letters/retry", body={"where": where} | change, wait_s=CALL_S)
        for key in ("retried", "messages", "refused", "refusals"):
            told[key] += found[key]
        told["stopped_by"] = found["stopped_by"]
        more = found["more"] and found["stopped_by"] is None and found["last"] is not None
        where["after"] = found["last"]
    return told


def _drop_choice(client: Client, where: dict[str, Any]) -> int:
    dropped, more = 0, True
    while more:
        found = client.call("POST", "/dead-letters/drop", body={"where": where}, wait_s=CALL_S)
        dropped += found["dropped"]
        more = found["more"] and found["dropped"] > 0
    return dropped


def _row(letter: dict[str, Any]) -> tuple[object, ...]:
    message = letter["history"].get("message", {})
    return (
        letter["at"],
        letter["message_id"],
        message.get("sender", "-"),
        message.get("receiver") or message.get("capability") or "-",
        letter["reason"],
        letter["retried_as"] or "-",
    )


def _show(letter: dict[str, Any]) -> None:
    history = letter["history"]
    message = history.get("message", {})
    wanted = message.get("receiver") or message.get("capability")
    click.echo(
        safe(
            f"{letter['message_id']}  {message.get('performative')}  {message.get('sender')} -> {wanted}\n"
            f"given up at {letter['at']}: {letter['reason']}"
        )
    )
    if letter["retried_as"]:
        click.echo(safe(f"sent again at {letter['retried_at']} as {letter['retried_as']}"))
    rows = [(state["at"], state["state"], state["detail"]) for state in history.get("states", [])]
    click.echo()
    print_table("What happened", ("time", "what", "detail"), rows)
    content = message.get("content")
    if content is not None:
        click.echo()
        click.echo(safe(content if isinstance(content, str) else pretty(content)))


def _show_retried(found: dict[str, Any]) -> None:
    for message in found["messages"]:
        click.echo(safe(f"{message['retry_of']} is sent again as {message['message_id']}"))
    for refusal in found["refusals"]:
        text = f"{refusal['message_id']} stays as it is: {refusal['reason']} ({refusal['code']})"
        click.echo(safe(text), err=True)
    click.echo(f"{found['retried']} sent again, {found['refused']} refused")
    if found["stopped_by"] is not None:
        stopped = found["stopped_by"]
        click.echo(safe(f"Stopped before the end: {stopped['reason']} ({stopped['code']})"), err=True)
