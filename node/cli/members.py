"""``caxton members``: who is in the cluster, why each is held for what it is, and who cannot reach whom."""

from __future__ import annotations

from typing import Any, Final

import click

from node.cli.client import Client, find_target, segment
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe

_TOLD: Final = {
    "probe_failed": "{by} could not reach it",
    "suspected": "{by} holds it suspect",
    "confirmed": "{by} could not reach it either",
    "alive_after_all": "{by} heard from it, although it has not answered the suspicion",
    "accused": "it is accused, says {by}",
    "dead": "{by} declared it dead",
    "refuted": "it answered: it lives",
    "restarted": "it has restarted",
    "left": "it said goodbye",
}
"""What was found -> how it is told; a word that is not in here is shown as it is."""
_REACHED_BY: Final = {"relay": "through others", "stream": "by TCP"}
_COLUMNS: Final = (
    "member",
    "state",
    "address",
    "version",
    "incarnation",
    "round trip",
    "impaired",
    "last heard",
)


@click.command("members")
@click.option("--why", metavar="NAME", help="Tell why a member is held for what it is.")
@click.option("--unreachable", is_flag=True, help="Show who cannot reach whom directly.")
@click.option("--forget", metavar="NAME", help="Give up a member that is lost for good: it counts no more.")
@click.option("--force", is_flag=True, help="With --forget: go ahead without a majority.")
@node_options
def command(
    why: str | None,
    unreachable: bool,
    forget: str | None,
    force: bool,
    as_json: bool,
    where: Where,
) -> None:
    """Show the members of the cluster, as one node sees them, or give one up that is lost for good."""
    if (why is not None) + unreachable + (forget is not None) > 1:
        raise click.UsageError("--why, --unreachable and --forget are three things; ask for one of them.")
    if force and forget is None:
        raise click.UsageError("--force goes with --forget.")
    path, show = "/cluster/members", _show_members
    if why is not None:
        path, show = f"/cluster/members/{segment(why)}/why", _show_why
    elif unreachable:
        path, show = "/cluster/reachability", _show_unreachable
    target = find_target(where)
    with Client(target) as client:
        if forget is not None:
            path, show = f"/cluster/members/{segment(forget)}/forget", _show_forgotten
            found = client.call("POST", path, body={"force": force})
        else:
            found = client.get(path)
    if as_json:
        print_json(found)
    else:
        show(found)


def partition_line(found: dict[str, Any]) -> str:
    """Who answers, and on which side of a partition it finds itself."""
    partition = found.get("partition") or {}
    counted = ""
    if partition:
        counted = f", {partition.get('up')} of {partition.get('remembered')} remembered members are up"
    return f"Seen from {found.get('node')}: {found.get('partition_state')}{counted}"


def _show_members(found: dict[str, Any]) -> None:
    _say(partition_line(found))
    shown = found.get("members", [])
    print_table("Members", _COLUMNS, [_row(member) for member in shown])
    not_shown = sorted({*found.get("away", [])} - {member.get("name") for member in shown})
    if not_shown:
        _say(f"Away for long, and still counted and tried: {', '.join(map(str, not_shown))}")


def _show_forgotten(found: dict[str, Any]) -> None:
    _say(f"{found.get('name')} is given up: it counts and is tried no more, unless it comes back")
    _say(partition_line(found))


def _row(member: dict[str, Any]) -> tuple[object, ...]:
    is_self = member.get("self", False)
    patience_s = _patience_s(member)
    return (
        member.get("name"),
        member.get("state"),
        member.get("address"),
        member.get("version") or "-",
        member.get("incarnation"),
        _milliseconds(member.get("rtt_seconds")),
        f"asks for {patience_s} s" if patience_s else "-",
        "(answers)" if is_self else _ago(member.get("last_heard_seconds")),
    )


def _show_why(found: dict[str, Any]) -> None:
    name, member = found.get("name"), found.get("member")
    _say(_present(name, member, found.get("node")))
    doubted_by = found.get("doubted_by", [])
    if doubted_by:
        _say(f"Doubted by {', '.join(map(str, doubted_by))}")
    findings = found.get("findings", [])
    if not findings and member is not None and member.get("state") in ("suspect", "dead"):
        _say(f"What {found.get('node')} had found about it has made room for what was found about others")
    elif not findings:
        _say(f"{found.get('node')} has found nothing against it")
    for finding in findings:
        _say(_line(finding))


def _present(name: object, member: dict[str, Any] | None, node: object) -> str:
    if member is None:
        return f"{name} is not shown by {node} any more"
    text = f"{name} is {member.get('state')}"
    if member.get("self"):
        text += f": it answers here, at {member.get('address')}"
    else:
        text += (
            f" for {member.get('state_changed_seconds_ago', 0):.0f} s, at {member.get('address')}, "
            f"last heard by {node} {_ago(member.get('last_heard_seconds'))}"
        )
    patience_s = _patience_s(member)
    return text + (
        f"; it knows itself impaired and asks for {patience_s} s of patience" if patience_s else ""
    )


def _patience_s(member: dict[str, Any]) -> object:
    """What a member that is up asks for; what a dead one asked for is of no more interest."""
    return member.get("patience_seconds") if member.get("state") in ("alive", "suspect") else 0


def _line(finding: dict[str, Any]) -> str:
    what, detail = str(finding.get("what")), finding.get("detail")
    told = _TOLD.get(what, what).replace("{by}", str(finding.get("by")))
    when = f"{finding.get('time')}  {_ago(finding.get('seconds_ago')):>14}"
    return f"{when}  {told}" + (f" ({detail})" if detail else "")


def _show_unreachable(found: dict[str, Any]) -> None:
    rows = [(row.get("node"), _names(row)) for row in found.get("unreachable", [])]
    if rows:
        print_table("Direct paths that are lost", ("member", "cannot reach"), rows)
        click.echo("All of them live. Look for firewalls that stop UDP, one way or both.")
    else:
        click.echo("Every member reaches every other one directly.")
    for path in found.get("lost_paths", []):
        reached_by = _REACHED_BY.get(str(path.get("reached_by")), path.get("reached_by"))
        since = f"for {path.get('seconds_ago', 0):.0f} s"
        _say(f"{found.get('node')} has reached {path.get('member')} only {reached_by} {since}")


def _say(text: str) -> None:
    """One line, whatever is in it."""
    click.echo(safe(text).replace("\n", "\\n"))


def _names(row: dict[str, Any]) -> str:
    names = row.get("cannot_reach", [])
    more = row.get("count", 0) - len(names)
    return ", ".join(map(str, names)) + (f" and {more} more" if more > 0 else "")


def _milliseconds(seconds: object) -> str:
    return f"{1000 * seconds:.1f} ms" if isinstance(seconds, int | float) else "-"


def _ago(seconds: object) -> str:
    return f"{seconds:.1f} s ago" if isinstance(seconds, int | float) else "-"
