"""``caxton send``: one message, and its reply."""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
from pathlib import Path
from typing import Any, Final

import click

from node.cli.client import Client, find_target, pretty
from node.cli.errors import FailureReply, UsageFailed
from node.cli.options import node_options
from node.cli.output import print_json, safe
from node.errors import ValidationFailed
from node.message import EXPECTS_REPLY, DeliveryClass, Performative

INPUT_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of standard input: no message carries more."""
INLINE_BYTES: Final = 256 * 1024
"""Most bytes of attachments inside a message; others are brought to the node beside it."""
_LIMIT: Final = (
    f"a message carries at most {INPUT_LIMIT_BYTES:,} bytes (messaging.max_message_bytes may be less)"
)
_REFUSALS: Final = frozenset({"failure", "not_understood", "refuse"})


@click.command("send")
@click.argument("content", required=False)
@click.option("--capability", metavar="NAME", help="Send to whoever offers this capability.")
@click.option("--to", "receiver", metavar="AGENT", help="Send to this agent: name or name@node.")
@click.option("--topic", metavar="NAME", help="Send to every subscriber of this topic: orders.eu.created.")
@click.option("--performative", metavar="NAME", default="request", show_default=True, help="What it does.")
@click.option("--strategy", metavar="NAME", help="best_match, load_balanced or broadcast.")
@click.option(
    "--fallback-version",
    "fallback_versions",
    metavar="VERSION",
    multiple=True,
    help="Version of the capability that does, too (v1); repeatable, tried in this order.",
)
@click.option("--at-most-once", is_flag=True, help="Better lost than handled twice, if something fails.")
@click.option("--conversation", metavar="ID", help="Continue a conversation.")
@click.option("--priority", type=click.IntRange(0, 9), help="0 (least) to 9.")
@click.option(
    "--attach",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="File to send along; repeatable.",
)
@click.option("--wait/--no-wait", default=None, help="Wait for the reply; by default if one is expected.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 300),
    default=30.0,
    show_default=True,
    help="Longest wait for the reply, in seconds.",
)
@node_options
def command(
    content: str | None,
    capability: str | None,
    receiver: str | None,
    topic: str | None,
    performative: str,
    strategy: str | None,
    fallback_versions: tuple[str, ...],
    at_most_once: bool,
    conversation: str | None,
    priority: int | None,
    attach: tuple[Path, ...],
    wait: bool | None,
    timeout_s: float,
    as_json: bool,
    api: str | None,
    node_name: str | None,
    token: str | None,
    token_file: Path | None,
) -> None:
    """Send CONTENT, JSON or text (- reads standard input), and show the reply."""
    if [capability, receiver, topic].count(None) != 2:
        raise UsageFailed(
            "exactly one of --capability, --to and --topic must be given",
            fix='For example: caxton send --capability data-analysis \'{"action": "analyze"}\'.',
        )
    options = {
        "capability": capability,
        "receiver": receiver,
        "topic": topic,
        "routing_strategy": strategy,
        "conversation_id": conversation,
        "priority": priority,
        "fallback_versions": list(fallback_versions) or None,
        "delivery": DeliveryClass.AT_MOST_ONCE.value if at_most_once else None,
    }
    body: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    does = Performative.parse(performative)
    body |= {"performative": does.value, "content": content_of(content)}
    if wait is None:
        wait = does in EXPECTS_REPLY
    target = find_target(api=api, node_name=node_name, token=token, token_file=token_file)
    with Client(target) as client:
        if attach:
            body["attachments"] = attachments_of(client, attach)
        query = {"wait": timeout_s} if wait else None
        found = client.call("POST", "/messages", body=body, query=query, wait_s=timeout_s if wait else 0.0)
    if as_json:
        print_json(found)
    else:
        _show(found)
    _raise_refusal(found, as_json=as_json)


def _show(found: dict[str, Any]) -> None:
    replies = found.get("replies") or ([found["reply"]] if found.get("reply") else [])
    if not replies:
        nobody = "nobody subscribes" if found.get("status") == "settled" else "waiting for a provider"
        where = ", ".join(found.get("routed_to", [])) or nobody
        click.echo(safe(f"{found.get('message_id')}  {found.get('status')}  {where}"))
    for reply in replies:
        click.echo(safe(f"{reply.get('sender')} ({reply.get('performative')})"), err=True)
        answer = reply.get("content")
        click.echo(safe(answer if isinstance(answer, str) else pretty(answer)))


def _raise_refusal(found: dict[str, Any], *, as_json: bool) -> None:
    """End with a status other than 0 when the answer was no; the answer itself is printed already."""
    reply = found.get("reply") or {}
    if reply.get("performative") not in _REFUSALS:
        return
    if as_json:
        click.get_current_context().exit(FailureReply.exit_code)
    answer = reply.get("content")
    why = answer.get("reason") or answer.get("message") if isinstance(answer, dict) else answer
    raise FailureReply(
        f"the answer was {reply['performative']}",
        why=safe(why or "")[:500],
        fix=f"See the way of the message: GET /api/v1/messages/{found.get('message_id')}.",
    )


def content_of(text: str | None) -> Any:
    """The content that an argument stands for: JSON, or text; standard input for ``-``.

    Raises:
        ValidationFailed: standard input is too large, or no text.
    """
    if text == "-":
        raw = sys.stdin.buffer.read(INPUT_LIMIT_BYTES + 1)
        if len(raw) > INPUT_LIMIT_BYTES:
            raise ValidationFailed("standard input is too large", why=_LIMIT, fix="Send less at once.")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise ValidationFailed(
                "standard input is not UTF-8 text", fix="Send other files with --attach FILE."
            ) from None
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def attachments_of(client: Client, paths: tuple[Path, ...]) -> list[dict[str, str]]:
    """Files as the admin API takes them; those that are too large for a message are brought to the node.

    Raises:
        ValidationFailed: one cannot be read.
        Refused: the node does not take one.
    """
    found: list[dict[str, str]] = []
    left = INLINE_BYTES
    for path in paths:
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        attachment = {"name": path.name, "media_type": media_type}
        try:
            size = path.stat().st_size
            if size <= left:
                attachment["base64"] = base64.b64encode(path.read_bytes()).decode()
                left -= size
            else:
                attachment["blob"] = client.upload(path)
        except OSError as error:
            raise ValidationFailed(
                f"the attachment {path} cannot be read",
                why=error.strerror or str(error),
                fix="Check the path.",
            ) from error
        found.append(attachment)
    return found
