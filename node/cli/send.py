"""``caxton send``: one message, and its reply."""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from node.cli.client import Client, find_target, pretty, segment
from node.cli.errors import FailureReply, Refused, UsageFailed
from node.cli.near import near_agent, near_capability, unknown_node
from node.cli.options import Where, node_options
from node.cli.output import print_json, safe
from node.errors import CapabilityNotFound, NoReply, ValidationFailed
from node.vocabulary import EXPECTS_REPLY, DeliveryClass, Performative

INPUT_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of standard input: no message carries more."""
INLINE_BYTES: Final = 256 * 1024
"""Most bytes of attachments inside a message; others are brought to the node beside it."""
NAMES_LIMIT: Final = 1_000
"""How many files of one name are saved beside each other."""
_LIMIT: Final = (
    f"a message carries at most {INPUT_LIMIT_BYTES:,} bytes (messaging.max_message_bytes may be less)"
)
_NO_AGENT: Final = "no such agent"
"""In the words of a node that was given a message for an agent that it has not."""
_WAITING: Final = frozenset({"accepted", "waiting"})
"""States of a message that may still find somebody."""
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
@click.option(
    "--require",
    metavar="LABEL=VALUE",
    multiple=True,
    help="Label that the provider must have (region=eu); repeatable.",
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
@click.option("--stream", is_flag=True, help="Show the answer while it is made.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 300),
    default=30.0,
    show_default=True,
    help="Longest wait for the reply, in seconds.",
)
@click.option(
    "--save-attachments",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the files of the answer are saved.",
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
    require: tuple[str, ...],
    at_most_once: bool,
    conversation: str | None,
    priority: int | None,
    attach: tuple[Path, ...],
    wait: bool | None,
    stream: bool,
    timeout_s: float,
    save_attachments: Path | None,
    as_json: bool,
    where: Where,
) -> None:
    """Send CONTENT, JSON or text (- reads standard input), and show the reply."""
    if [capability, receiver, topic].count(None) != 2:
        raise UsageFailed(
            "exactly one of --capability, --to and --topic must be given",
            fix='For example: caxton send --capability data-analysis \'{"action": "analyze"}\'.',
        )
    if stream and wait is False:
        raise UsageFailed("--stream waits for the reply", fix="Leave --no-wait out.")
    options = {
        "capability": capability,
        "receiver": receiver,
        "topic": topic,
        "routing_strategy": strategy,
        "conversation_id": conversation,
        "priority": priority,
        "fallback_versions": list(fallback_versions) or None,
        "routing_preferences": {"require": _labels(require)} if require else None,
        "delivery": DeliveryClass.AT_MOST_ONCE.value if at_most_once else None,
    }
    body: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    does = Performative.parse(performative)
    body |= {"performative": does.value, "content": content_of(content)}
    if wait is None:
        wait = does in EXPECTS_REPLY
    target = find_target(where)
    with Client(target) as client:
        if attach:
            body["attachments"] = attachments_of(client, attach)
        found, is_shown = _sent(client, body, timeout_s if wait or stream else 0.0, stream, as_json)
        saved = [] if save_attachments is None else _save(client, _replies(found), save_attachments)
        hint = "" if as_json else _hint(client, body, found)
    if as_json and not is_shown:
        print_json(found)
    elif not as_json:
        _show(found, with_content=not is_shown, hint=hint)
    for path in saved:
        click.echo(safe(f"saved {path}"), err=True)
    _raise_refusal(found, as_json=as_json, hint=hint)


def _sent(
    client: Client, body: dict[str, Any], wait_s: float, stream: bool, as_json: bool
) -> tuple[dict[str, Any], bool]:
    """Send a message; what came of it, and whether its reply has been shown already."""
    query = {"wait": wait_s} if wait_s else None
    try:
        if stream:
            from node.cli.send_stream import streamed  # noqa: PLC0415 - seldom

            return streamed(client, body, wait_s, as_json=as_json)
        return client.call("POST", "/messages", body=body, query=query, wait_s=wait_s), False
    except Refused as error:
        if error.code == NoReply.code:
            error.why = unknown_node(client, body.get("receiver", "")) or error.why
        raise


def _hint(client: Client, body: dict[str, Any], found: dict[str, Any]) -> str:
    """What the user may have meant whose message nobody is there for; empty where somebody is."""
    content = _of_the_node(found)
    is_nobody = content.get("code") == CapabilityNotFound.code or _NO_AGENT in str(content.get("why"))
    if found.get("status") == "routed":
        nowhere = unknown_node(client, body.get("receiver", ""))
        return f"{nowhere[:1].upper()}{nowhere[1:]}: the message waits for it" if nowhere else ""
    if found.get("status") != "waiting" and not is_nobody:
        return ""
    if "receiver" in body:
        return near_agent(client, body["receiver"])
    return near_capability(client, body["capability"]) if "capability" in body else ""


def _of_the_node(found: dict[str, Any]) -> dict[str, Any]:
    """The FAILURE with which the node itself has answered, for nobody else did; empty where there is none."""
    reply = found.get("reply") or {}
    content = reply.get("content")
    is_own = str(reply.get("sender")).startswith("system@") and reply.get("performative") == "failure"
    return content if is_own and isinstance(content, dict) and "what" in content else {}


def _labels(given: tuple[str, ...]) -> dict[str, list[str]]:
    """The labels of ``--require``.

    Raises:
        UsageFailed: one has no value.
    """
    found: dict[str, list[str]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageFailed(f"--require {text[:80]!r} is no label", fix="Write it as region=eu.")
        found.setdefault(name, []).append(value)
    return found


def _replies(found: dict[str, Any]) -> list[dict[str, Any]]:
    return found.get("replies") or ([found["reply"]] if found.get("reply") else [])


def _save(client: Client, replies: list[dict[str, Any]], directory: Path) -> list[Path]:
    """Save the files of replies under their names; what is there already is never overwritten.

    Raises:
        ValidationFailed: one cannot be written.
        Refused: the node does not have it.
    """
    saved: list[Path] = []
    for reply in replies:
        for told in reply.get("attachments") or []:
            name = str(told["name"])
            route = f"/messages/{segment(str(reply['message_id']))}/attachments/{segment(name)}"
            try:
                path, file = _free_file(directory, name)
                try:
                    with file:
                        client.download(route, file)
                except BaseException:
                    path.unlink()  # a part of a file looks like all of it
                    raise
            except OSError as error:
                raise ValidationFailed(
                    f"the attachment {name!r} cannot be saved in {directory}",
                    why=error.strerror or str(error),
                    fix="Name another directory.",
                ) from error
            saved.append(path)
    return saved


def _free_file(directory: Path, name: str) -> tuple[Path, BinaryIO]:
    """A new file with a name, or one like it where that is taken."""
    # The name comes from another program: of a path only its last part counts.
    plain = Path(name.replace("\\", "/")).name
    plain = "attachment" if plain in ("", "..") else plain
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(1, NAMES_LIMIT + 1):
        path = directory / (plain if number == 1 else f"{Path(plain).stem}-{number}{Path(plain).suffix}")
        with suppress(FileExistsError):
            return path, path.open("xb")
    raise ValidationFailed(f"{directory} has {NAMES_LIMIT} files named like {plain!r}", fix="Clear it.")


def _show(found: dict[str, Any], *, with_content: bool, hint: str) -> None:
    replies = _replies(found)
    if not replies:
        nobody = "waiting for a provider" if found.get("status") in _WAITING else "nobody subscribes"
        where = ", ".join(found.get("routed_to", [])) or nobody
        click.echo(safe(f"{found.get('message_id')}  {found.get('status')}  {where}"))
        if hint:
            click.echo(safe(hint), err=True)
    if _of_the_node(found):
        return  # the error that follows says all of it
    for reply in replies:
        click.echo(safe(f"{reply.get('sender')} ({reply.get('performative')})"), err=True)
        answer = reply.get("content")
        if with_content:
            click.echo(safe(answer if isinstance(answer, str) else pretty(answer)))
        for file in reply.get("attachments") or []:
            told = f"attached: {file.get('name')} ({file.get('media_type')}, {file.get('size_bytes')} bytes)"
            click.echo(safe(told), err=True)


def _raise_refusal(found: dict[str, Any], *, as_json: bool, hint: str) -> None:
    """End with a status other than 0 when the answer was no; the answer itself is printed already."""
    reply = found.get("reply") or {}
    if reply.get("performative") not in _REFUSALS:
        return
    if as_json:
        click.get_current_context().exit(FailureReply.exit_code)
    its_way = f"See its way with `caxton trace {found.get('message_id')}`."
    own = _of_the_node(found)
    if own:
        fix = hint or str(own.get("fix", ""))
        raise FailureReply(
            safe(own["what"])[:500],
            why=safe(own.get("why", ""))[:500],
            fix=safe(fix if "caxton trace" in fix else f"{fix} {its_way}".strip()),
        )
    answer = reply.get("content")
    why = answer.get("reason") or answer.get("message") if isinstance(answer, dict) else answer
    raise FailureReply(
        f"the answer was {reply['performative']}",
        why=safe(why or "")[:500],
        fix=its_way,
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
