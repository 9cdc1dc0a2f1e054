"""``caxton conversations``: who speaks with whom about what, as one node has seen it."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from node.cli.client import Client, find_target, pretty, segment
from node.cli.errors import UsageFailed
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe
from node.errors import NodeUnreachable

PAGE: Final = 100
"""Conversations asked for at once."""
SILENCE_S: Final = 45.0
"""A followed node that says nothing for so long is taken for gone; an idle one says so every 15 s."""
CONTENT_WIDTH: Final = 100
"""Most characters of a message's content in a list of messages."""
_STATUS = click.option("--status", type=click.Choice(["active", "completed"]), help="Only those.")


@click.group("conversations", epilog="For example: caxton conversations list --status active")
def command() -> None:
    """Show conversations, follow one, or close them."""


@command.command("list", epilog="For example: caxton conversations list --participant data-analyzer")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most of them.")
@_STATUS
@click.option("--closed/--open", default=None, help="Only those that take no messages, or those that do.")
@click.option("--participant", metavar="AGENT", help="Those this agent takes part in: name or name@node.")
@click.option("--since", metavar="TIME", help="Active since: ISO 8601, or a duration: 90s, 15m, 1h, 2d.")
@node_options
def list_conversations(
    limit: int,
    status: str | None,
    closed: bool | None,
    participant: str | None,
    since: str | None,
    as_json: bool,
    where: Where,
) -> None:
    """Show the conversations that the node has seen, the latest first."""
    target = find_target(where)
    query = {"status": status, "closed": closed, "participant": participant, "since": since}
    conversations: list[dict[str, Any]] = []
    following = None
    with Client(target) as client:
        while len(conversations) < limit:
            size = min(PAGE, limit - len(conversations))
            found = client.get("/conversations", limit=size, before=following, **query)
            conversations += found["conversations"]
            following = found["next"]
            if following is None:
                break
    if as_json:
        print_json({"conversations": conversations, "limit": limit, "next": following})
        return
    if not conversations:
        click.echo("No conversations")
        return
    columns = ("conversation", "status", "messages", "last activity", "participants")
    print_table("Conversations", columns, [_row(each) for each in conversations])


@command.command("show", epilog="For example: caxton conversations show orders --follow")
@click.argument("conversation_id", metavar="ID")
@click.option("--follow", is_flag=True, help="Go on with the messages to come, until Ctrl-C.")
@click.option("--content", is_flag=True, help="Show the whole content of each message.")
@node_options
def show(
    conversation_id: str,
    follow: bool,
    content: bool,
    as_json: bool,
    where: Where,
) -> None:
    """Show one conversation: who takes part, what was said, and what answers what.

    With --follow and --json, every line is one message.
    """
    target = find_target(where)
    path = f"/conversations/{segment(conversation_id)}"
    with Client(target) as client:
        if not follow:
            found = client.get(path)
            if as_json:
                print_json(found)
            else:
                _show(found, whole=content)
            return
        for event in client.events(path, silence_s=SILENCE_S, follow=True):
            if event.name == "error":
                raise NodeUnreachable(
                    "the node has ended the answer", why=event.data[:500], fix="Look again."
                )
            message = json.loads(event.data)
            if as_json:
                print_json(message)
            else:
                click.echo(safe(_line(message, 0, whole=content)))
    raise NodeUnreachable(
        f"the node at {target.api} has ended the answer",
        why="it stops, or has stopped",
        fix="Start it again.",
    )


@command.command("close", epilog="For example: caxton conversations close --older-than 24h")
@click.argument("conversation_ids", metavar="[ID]...", nargs=-1)
@click.option("--older-than", metavar="TIME", help="Those silent for so long: 90s, 15m, 24h, 7d.")
@_STATUS
@node_options
def close(
    conversation_ids: tuple[str, ...],
    older_than: str | None,
    status: str | None,
    as_json: bool,
    where: Where,
) -> None:
    """Let conversations take no more messages on this node: those of the IDs, or the silent ones."""
    if bool(conversation_ids) == bool(older_than):
        raise UsageFailed(
            "say which conversations: IDs, or --older-than",
            fix="For example: caxton conversations close --older-than 24h.",
        )
    if conversation_ids and status:
        raise UsageFailed("--status belongs to --older-than", fix="Leave it out.")
    target = find_target(where)
    body: dict[str, Any] = {"conversations": list(conversation_ids)}
    if older_than:
        body = {"older_than": older_than} | ({"status": status} if status else {})
    closed: list[str] = []
    with Client(target) as client:
        while True:
            found = client.call("POST", "/conversations/archive", body=body)
            closed += found["conversations"]
            if found["next"] is None:
                break
            body["after"] = found["next"]
    if as_json:
        print_json({"archived": len(closed), "conversations": closed})
    else:
        click.echo(f"{len(closed)} closed")


def _row(conversation: dict[str, Any]) -> tuple[object, ...]:
    count = f"{conversation['message_count']}{'+' if conversation['truncated'] else ''}"
    closed = f" ({conversation['closed']})" if conversation["closed"] else ""
    return (
        conversation["id"],
        conversation["status"] + closed,
        count,
        conversation["last_activity"] or "-",
        ", ".join(conversation["participants"]),
    )


def _show(found: dict[str, Any], *, whole: bool) -> None:
    if not found["messages"]:
        click.echo(safe(f"{found['id']}: no message of it has been here"))
        return
    closed = f", closed ({found['closed']})" if found["closed"] else ""
    click.echo(safe(f"{found['id']}  {found['status']}{closed}  {found['created_at']}"))
    click.echo(safe(f"Participants: {', '.join(found['participants'])}"))
    for title, key in (
        ("Came out of", "parent_conversation"),
        ("Branches", "branches"),
        ("Merges", "merge_conversations"),
        ("Merged into", "merged_into"),
    ):
        if found[key]:
            others = found[key] if isinstance(found[key], list) else [found[key]]
            click.echo(safe(f"{title}: {', '.join(others)}"))
    if found["truncated"]:
        click.echo("Earlier messages are left out")
    click.echo()
    messages = {message["message_id"]: message for message in found["messages"]}
    for link in found["message_chain"]:
        click.echo(safe(_line(messages[link["message_id"]], link["depth"], whole=whole)))


def _line(message: dict[str, Any], depth: int, *, whole: bool) -> str:
    """One message: what it does, from whom to whom, where it stands, and what it says."""
    wanted = message.get("receiver") or message.get("capability") or message.get("topic")
    indent = "  " * depth
    line = (
        f"{indent}{message['timestamp']} {message['performative']} {message['sender']} -> {wanted}"
        f"  {message['message_id']}  {message.get('status', '')}"
    ).rstrip()
    content = message.get("content")
    if content is None:
        return line
    if whole:
        text = content if isinstance(content, str) else pretty(content)
        return "\n".join([line, *(f"{indent}    {each}" for each in text.splitlines())])
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    text = " ".join(text.split())
    cut = text if len(text) <= CONTENT_WIDTH else text[: CONTENT_WIDTH - 1] + "…"
    return f"{line}\n{indent}    {cut}"
