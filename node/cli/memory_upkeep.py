"""``caxton memory``, the keeping: out and in as a file, check and repair, copies, vectors, near-equals."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from node.cli.client import Client, find_target
from node.cli.errors import UsageFailed
from node.cli.memory_options import agent_option, asked, scope_option, workspace_option
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe
from node.cli.progress import bar
from node.cli.whole_file import check_free, force_option, whole_file
from node.errors import StorageFailed, ValidationFailed

if TYPE_CHECKING:
    from node.memory.checking import Checked

SILENCE_S: Final = 600.0
"""Longest time that the node may take for one piece: a batch of an import is embedded in it."""
DOCUMENT_BYTES_LIMIT: Final = 64 * 1024**2
"""Largest file that is one JSON document; lines may be of any number."""
PIECE_BYTES: Final = 64 * 1024
LOOK_EVERY_S: Final = 0.5
"""How often it is asked how far the vectors are, in seconds."""
_FOUND: Final = 1
"""Exit status when something is wrong, or was refused."""


@click.command(
    "export", epilog="For example: caxton memory export memory.jsonl, or --format mcp > graph.jsonl"
)
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path, dir_okay=False))
@force_option
@agent_option
@workspace_option
@scope_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "json", "mcp"]),
    default="jsonl",
    show_default=True,
    help="Lines, one document, or the lines of the MCP memory server.",
)
@click.option("--vectors", is_flag=True, help="With vectors, so that the same model need not embed again.")
@node_options
def export(
    file: Path | None,
    force: bool,
    agent: str | None,
    workspace: str | None,
    scope: str | None,
    form: str,
    vectors: bool,
    as_json: bool,
    where: Where,
) -> int:
    """Write all that is remembered to FILE, or to standard output."""
    if as_json and file is None:
        raise UsageFailed("--json and the export cannot both be printed", fix="Name a FILE.")
    if file is not None:
        check_free(file, force=force)
    target = find_target(where)
    query = asked(agent, workspace, scope) | {"format": form, "include_embeddings": vectors}
    with Client(target) as client, client.pieces("/memory/export", silence_s=SILENCE_S, **query) as (_, body):
        size = _print(body) if file is None else _save(body, file, "Exporting", None, force=force)
    if file is not None:
        _tell({"file": str(file), "bytes": size}, f"{size} bytes in {file}", as_json=as_json)
    return 0


@click.command("import", epilog="For example: caxton memory import memory.jsonl --merge skip_existing")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@agent_option
@workspace_option
@scope_option
@click.option(
    "--merge",
    type=click.Choice(["update_existing", "skip_existing", "error_on_conflict"]),
    default="update_existing",
    show_default=True,
    help="What becomes of values that are there and differ.",
)
@node_options
def import_(
    file: Path,
    agent: str | None,
    workspace: str | None,
    scope: str | None,
    merge: str,
    as_json: bool,
    where: Where,
) -> int:
    """Take an export, or the file of the MCP memory server; - for standard input.

    What is there already is not stored twice, so an import that was cut off is simply repeated.
    """
    target = find_target(where)
    query = asked(agent, workspace, scope) | {"merge_strategy": merge}
    name = str(file)
    try:
        with sys.stdin.buffer if name == "-" else file.open("rb") as source:
            total = None if name == "-" else os.fstat(source.fileno()).st_size
            with Client(target) as client, bar("Importing", total, in_bytes=True) as told:
                lines = _lines(source, total, told)
                found = client.send("/memory/import/stream", lines, silence_s=SILENCE_S, **query)
    except OSError as error:
        raise ValidationFailed(
            f"the file {name} cannot be read",
            why=error.strerror or str(error),
            fix="Name a file that is there, or - for standard input.",
        ) from error
    if as_json:
        print_json(found)
    else:
        _show_imported(found)
    return 0 if not found["refused"] and found["stopped_by"] is None else _FOUND


@click.command(
    "check", epilog="For example: caxton memory check --repair, or --data-dir ./data on a stopped node"
)
@click.option("--repair", is_flag=True, help="Make anew what is derived; no fact is taken out.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=True),
    metavar="DIR",
    help="Of a node that is stopped, or the file itself.",
)
@node_options
def check(
    repair: bool,
    data_dir: Path | None,
    as_json: bool,
    where: Where,
) -> int:
    """Compare all that is in the memory's file; the exit status is 1 when something is wrong."""
    if data_dir is not None:
        found = _check_offline(data_dir, repair=repair)
    else:
        target = find_target(where)
        with Client(target) as client:
            if repair:
                found = client.call("POST", "/memory/repair", wait_s=SILENCE_S)
            else:
                left = client.call("GET", "/memory/check", wait_s=SILENCE_S)
                found = {"found": left, "left": left}
    if as_json:
        print_json(found if repair else found["left"])
    else:
        _show_checked(found, repair=repair)
    return 0 if found["left"]["ok"] else _FOUND


@click.command("backup", epilog="For example: caxton memory backup memory-monday.db")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@force_option
@node_options
def backup(
    file: Path,
    force: bool,
    as_json: bool,
    where: Where,
) -> int:
    """Copy the memory's file while the node runs, and check the copy.

    To go back to it, stop the node and put it in the place of memory.db.
    """
    from node.memory.backup import check_copy  # noqa: PLC0415 - loads numpy

    check_free(file, force=force)
    checks: list[Checked] = []

    def look(part: Path) -> None:
        checks.append(check_copy(part, file.name))

    target = find_target(where)
    with Client(target) as client, client.pieces("/memory/backup", silence_s=SILENCE_S) as (headers, body):
        total = int(headers.get("content-length", "0")) or None
        size = _save(body, file, "Copying", total, force=force, look=look)
    [found] = checks
    told = {"file": str(file), "bytes": size, **found.as_json()}
    state = "it is whole" if found.ok else f"{len(found.findings)} findings, see `caxton memory check`"
    _tell(told, f"{size} bytes in {file}: {state}", as_json=as_json)
    return 0 if found.ok else _FOUND


@click.command("reembed", epilog="For example: caxton memory reembed, or --no-wait")
@click.option("--wait/--no-wait", default=True, help="Wait for the end, which is the default, or only begin.")
@node_options
def reembed(
    wait: bool,
    as_json: bool,
    where: Where,
) -> int:
    """Give vectors of the present model to all that has none; the node does so by itself, too."""
    target = find_target(where)
    with Client(target) as client:
        found = client.call("POST", "/memory/reembed")
        with bar("Embedding", found["total"]) as told:
            while wait and found["remaining"] and found["state"] not in ("no model", "failed"):
                told(found["done"])
                time.sleep(LOOK_EVERY_S)
                found = client.get("/memory/reembed")
                if found["state"] == "idle":
                    break
    if as_json:
        print_json(found)
    else:
        model = "no model" if found["model"] is None else found["model"]
        click.echo(safe(f"{found['done']} of {found['total']} observations have vectors of {model}"))
        if found["failure"]:
            click.echo(safe(f"The embedder fails: {found['failure']}"), err=True)
    return 0 if not wait or not found["remaining"] else _FOUND


@click.command("dedup", epilog="For example: caxton memory dedup --threshold 0.97, then with --apply")
@agent_option
@workspace_option
@scope_option
@click.option(
    "--threshold", type=click.FloatRange(0.8, 1), default=0.95, show_default=True, help="Least cosine."
)
@click.option("--apply", "apply_", is_flag=True, help="Supersede the older ones; without it they are shown.")
@node_options
def dedup(
    agent: str | None,
    workspace: str | None,
    scope: str | None,
    threshold: float,
    apply_: bool,
    as_json: bool,
    where: Where,
) -> None:
    """Find observations of one entity that say nearly the same, and let the newest stand for them."""
    target = find_target(where)
    place = {key: value for key, value in asked(agent, workspace, scope).items() if value is not None}
    pairs: list[dict[str, Any]] = []
    superseded, after = 0, None
    with Client(target) as client:
        while True:
            body = place | {"threshold": threshold, "dry_run": not apply_}
            body |= {} if after is None else {"after": after}
            found = client.call("POST", "/memory/dedup", body=body, wait_s=SILENCE_S)
            pairs, superseded, after = pairs + found["pairs"], superseded + found["superseded"], found["next"]
            if after is None:
                break
    if as_json:
        print_json({"pairs": pairs, "superseded": superseded, "dry_run": not apply_})
        return
    done = f"{superseded} superseded" if apply_ else "nothing was changed (--apply does)"
    click.echo(f"{len(pairs)} say nearly the same as a newer one, {done}")
    if pairs:
        columns = ("entity", "similarity", "older", "newer")
        rows = [
            (each["entity_name"], f"{each['similarity']:.3f}", each["superseded"], each["kept"])
            for each in pairs
        ]
        print_table("Near equal", columns, rows)


COMMANDS: Final = (export, import_, backup, check, reembed, dedup)
"""What :mod:`node.cli.memory` adds to its own."""


def _print(body: Iterator[bytes]) -> int:
    """Write what comes to standard output; returns bytes."""
    size = 0
    for piece in body:
        sys.stdout.buffer.write(piece)
        size += len(piece)
    sys.stdout.buffer.flush()
    return size


def _save(
    body: Iterator[bytes],
    file: Path,
    what: str,
    total: int | None,
    *,
    force: bool,
    look: Callable[[Path], None] | None = None,
) -> int:
    """Write what comes to a file, which appears when all has come; returns bytes.

    Args:
        body: What comes.
        file: Where it is written to, for its owner only.
        what: What is done, for people.
        total: How much will come, if that is known.
        force: Whether a file of that name may be overwritten.
        look: Is shown the file before it takes the place of another one; what it raises leaves that one.

    Raises:
        ValidationFailed: there is a file of that name.
        StorageFailed: the file cannot be written.
    """
    size = 0
    try:
        with whole_file(file, force=force, private=True) as target:
            with bar(what, total, in_bytes=True) as told:
                for piece in body:
                    target.write(piece)
                    size += len(piece)
                    told(size)
            if look is not None:
                target.flush()
                look(Path(target.name))
    except OSError as error:
        raise StorageFailed(
            f"the file {file} cannot be written",
            why=error.strerror or str(error),
            fix="Check free space and permissions, or name another file.",
        ) from error
    return size


def _lines(source: BinaryIO, total: int | None, told: Callable[[float], None]) -> Iterator[bytes]:
    """The bytes of a file of lines; of one that is a single JSON document, the lines that it stands for."""
    head = source.read(PIECE_BYTES)
    if _is_document(head, whole=total is not None and total <= len(head)):
        yield from _document(head, source)
        return
    done = 0
    while head:
        done += len(head)
        told(done)
        yield head
        head = source.read(PIECE_BYTES)


def _is_document(head: bytes, *, whole: bool) -> bool:
    """Whether a file is one JSON document: its first line is no JSON value, or one without a type."""
    first, newline, _ = head.lstrip().partition(b"\n")
    if not newline and not whole:
        return b'"entities"' in first[:4096]
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return first.lstrip()[:1] == b"{" and b'"type"' not in first
    return isinstance(value, dict) and "entities" in value


def _document(head: bytes, source: BinaryIO) -> Iterator[bytes]:
    raw = head + source.read(DOCUMENT_BYTES_LIMIT + 1 - len(head))
    if len(raw) > DOCUMENT_BYTES_LIMIT:
        raise ValidationFailed(
            f"the document has more than {DOCUMENT_BYTES_LIMIT} bytes",
            why="one document is read as a whole",
            fix="Export it as lines (--format jsonl), which may be of any number.",
        )
    try:
        found = json.loads(raw)
        entities, relations = found.get("entities", []), found.get("relations", [])
        told = (
            [{"type": "header", "format": found["format"], "version": found.get("version")}]
            if "format" in found
            else []
        )
        told += [{**each, "type": "entity"} for each in entities]
        told += [{**each, "type": "relation"} for each in relations]
        told += [{"type": "end"}] if "end" in found else []
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise ValidationFailed(
            "the file is neither lines nor a document of entities and relations",
            why=str(error)[:200],
            fix="docs/memory.md shows what an import may be.",
        ) from error
    for each in told:
        yield json.dumps(each).encode() + b"\n"


def _check_offline(data_dir: Path, *, repair: bool) -> dict[str, Any]:
    """Check the file of a node that is stopped.

    Raises:
        DataDirectoryInUse: it is not.
        StorageFailed: there is no such file, or it is none of a memory.
    """
    import trio  # noqa: PLC0415

    from node.environment import system_environment  # noqa: PLC0415
    from node.memory.absent import AbsentEmbedder  # noqa: PLC0415
    from node.memory.records import Limits  # noqa: PLC0415
    from node.memory.room import FILE, MemoryRoom  # noqa: PLC0415

    path = data_dir / FILE if data_dir.is_dir() else data_dir
    if not path.is_file():
        raise StorageFailed(
            f"there is no memory {path}",
            why="the file does not exist",
            fix="Name the data directory of a node that has remembered something, or its database file.",
        )

    async def run() -> dict[str, Any]:
        async def embedder() -> AbsentEmbedder:
            await trio.lowlevel.checkpoint()
            return AbsentEmbedder()

        room = MemoryRoom(
            environment=system_environment(),
            path=path,
            durability="full",
            node="",
            limits=Limits(),
            threshold=0.0,
            make_embedder=embedder,
        )
        try:
            upkeep = await room.upkeep()
            if repair:
                found, left = await upkeep.repair()
            else:
                found = left = await upkeep.check()
        finally:
            room.close()
        return {"found": found.as_json(), "left": left.as_json()}

    return trio.run(run)


def _show_imported(found: dict[str, Any]) -> None:
    added = [found[name] for name in ("entities_created", "observations_added", "relations_added")]
    known = [found[name] for name in ("entities_known", "observations_known", "relations_known")]
    click.echo("added {} entities, {} observations, {} relations".format(*added))
    click.echo("there before: {} entities, {} observations, {} relations".format(*known))
    for each in found["errors"]:
        error = each["error"]
        click.echo(safe(f"line {each['line']}: {error['message']}: {error['why']}"), err=True)
    if found["refused"]:
        click.echo(f"{found['refused']} of {found['lines']} lines were refused", err=True)
    if found["stopped_by"] is not None:
        stopped = found["stopped_by"]
        error = stopped["error"]
        text = f"Stopped at line {stopped['line']}: {error['message']}: {error['why']}. {error['fix']}"
        click.echo(safe(text), err=True)


def _show_checked(found: dict[str, Any], *, repair: bool) -> None:
    left = found["left"]
    if repair and not found["found"]["ok"]:
        _show_findings("Found", found["found"]["findings"])
        click.echo("repaired" if left["ok"] else "Some of it could not be repaired:")
    if left["ok"]:
        click.echo(
            f"whole: {left['entities']} entities, {left['observations']} observations ({left['unembedded']}"
            f" without a vector), {left['relations']} relations"
        )
    else:
        _show_findings("Wrong", left["findings"])
        if not repair:
            click.echo("`caxton memory check --repair` makes anew what is derived.", err=True)


def _show_findings(title: str, findings: list[dict[str, Any]]) -> None:
    rows = [(each["check"], each["count"], each["what"], ", ".join(each["examples"])) for each in findings]
    print_table(title, ("check", "places", "what", "for example"), rows)


def _tell(told: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(told)
    else:
        click.echo(safe(text))
