"""``caxton deploy``: an agent file to a node."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

import click

from node.cli.client import Client, find_target
from node.cli.deployment_lines import line_of
from node.cli.options import Where, node_options, one_of
from node.cli.output import print_json, safe
from node.deployments.limits import PRIORITY_LIMIT, REPLICAS_LIMIT
from node.errors import ValidationFailed

FILE_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Largest agent file or artifact, in bytes."""
MANIFEST_SUFFIX: Final = ".manifest.yaml"
"""Of the file that ``caxton wasm sign`` writes beside a module."""
WAIT_S: Final = 60.0
"""How long a node may take to start an agent, in seconds."""
COMPILE_WAIT_S: Final = 600.0
"""How long it may take with a module, which it compiles on one core: 18 MB of Python take half a minute."""


@click.command("deploy", epilog="For example: caxton deploy triage.md --replicas 2 --require gpu=yes")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--agent",
    "named",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The same as the argument FILE.",
)
@click.option("--name", help="Deploy it under another name.")
@click.option("--workspace", default="default", show_default=True)
@click.option("--replace", is_flag=True, help="Replace an agent of that name.")
@click.option("--no-start", is_flag=True, help="Deploy it without starting it.")
@click.option(
    "--replicas",
    type=click.IntRange(0, REPLICAS_LIMIT),
    help="Have so many nodes of the cluster run it, wherever they are.",
)
@click.option(
    "--require", "requires", metavar="NAME=VALUE", multiple=True, help="Label of those nodes; repeatable."
)
@click.option("--priority", type=click.IntRange(0, PRIORITY_LIMIT), help="Higher is started first (50).")
@click.option(
    "--minority",
    type=click.Choice(["keep", "stop"]),
    help="What replicas do on the smaller side of a partition (keep).",
)
@node_options
def command(
    file: Path | None,
    named: Path | None,
    name: str | None,
    workspace: str,
    replace: bool,
    no_start: bool,
    replicas: int | None,
    requires: tuple[str, ...],
    priority: int | None,
    minority: str | None,
    as_json: bool,
    where: Where,
) -> None:
    """Deploy FILE: an agent in Markdown, or a WebAssembly module (.wasm, .wat), with its manifest.

    It runs on the node that is asked, or, with --replicas, on so many nodes of the cluster, which move it
    when one is lost; `caxton deployments` shows where.
    """
    chosen = one_of("FILE", file, named)
    if chosen is None:
        raise click.UsageError("FILE is missing.")
    body = deployment(chosen)
    body |= {"workspace": workspace, "replace": replace}
    if name is not None:
        body["name"] = name
    placing = {"priority": priority, "minority": minority, "require": labels(requires)}
    placing = {key: value for key, value in placing.items() if value not in (None, {})}
    if replicas is None:
        if placing:
            raise click.UsageError(f"--{next(iter(placing))} needs --replicas.")
        body["auto_start"] = not no_start
    elif no_start:
        raise click.UsageError("--no-start does not go with --replicas; say --replicas 0.")
    else:
        body |= {"replicas": replicas} | placing
    target = find_target(where)
    with Client(target) as client:
        wait_s = COMPILE_WAIT_S if "content_base64" in body or body.get("artifacts") else WAIT_S
        route = "/agents" if replicas is None else "/deployments"
        found = client.call("POST", route, body=body, wait_s=wait_s)
    if as_json:
        print_json(found)
        return
    if replicas is not None:
        click.echo(safe(line_of(found)))
        return
    offers = ", ".join(str(c) for c in found.get("capabilities", []))
    click.echo(
        safe(f"{found.get('name')} is {found.get('status')}" + (f"; it offers {offers}" if offers else ""))
    )


def labels(given: tuple[str, ...]) -> dict[str, list[str]]:
    """Labels as ``NAME=VALUE``, each name with its values.

    Raises:
        click.UsageError: one is none.
    """
    found: dict[str, list[str]] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not (name and equals and value):
            raise click.UsageError(f"--require {each!r} is no label; write NAME=VALUE, as gpu=yes.")
        found.setdefault(name, []).append(value)
    return found


def deployment(file: Path) -> dict[str, Any]:
    """The request that deploys ``file``, with the WebAssembly module its front matter names, if any.

    Raises:
        ValidationFailed: a file cannot be read.
    """
    raw = read_file(file)
    if file.suffix in (".wasm", ".wat"):
        body: dict[str, Any] = {"content_base64": base64.b64encode(raw).decode(), "filename": file.name}
        manifest = _manifest_of(file)
        return body | ({"artifacts": manifest} if manifest else {})
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValidationFailed(
            f"{file} is not UTF-8 text",
            why=f"byte {error.start} cannot be decoded",
            fix="Save it as UTF-8; a WebAssembly module must end in .wasm or .wat.",
        ) from error
    body = {"content": text, "filename": file.name}
    module = module_of(text)
    if module is not None:
        path = file.parent / module
        body["artifacts"] = {module: base64.b64encode(read_file(path)).decode()} | _manifest_of(path)
    return body


def _manifest_of(module: Path) -> dict[str, str]:
    """The manifest beside a module, as an artifact; none if it is not signed."""
    path = manifest_path(module)
    return {path.name: base64.b64encode(read_file(path)).decode()} if path.exists() else {}


def manifest_path(module: Path) -> Path:
    """Where the manifest of a module is, if it is signed."""
    return module.with_name(module.name + MANIFEST_SUFFIX)


def module_of(text: str) -> str | None:
    """The module a front matter names; None where there is none or the node will refuse it anyway."""
    lines = text.lstrip("\ufeff").splitlines()
    if "module:" not in text or not lines or lines[0].strip() != "---":
        return None
    end = next((n for n, line in enumerate(lines[1:], 1) if line.strip() == "---"), None)
    if end is None:
        return None
    import yaml  # noqa: PLC0415 - only for agents that name a module

    try:
        front = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError:
        return None  # the node says where, with line and column
    module = front.get("module") if isinstance(front, dict) else None
    plain = isinstance(module, str) and module.endswith((".wasm", ".wat")) and Path(module).name == module
    return module if plain else None


def read_file(path: Path) -> bytes:
    """A file that is to be deployed, whole.

    Raises:
        ValidationFailed: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise ValidationFailed(
            f"{path} cannot be read", why=error.strerror or str(error), fix="Check the path."
        ) from error
    if len(raw) > FILE_LIMIT_BYTES:
        raise ValidationFailed(f"{path} is too large", why=f"the limit is {FILE_LIMIT_BYTES} bytes")
    return raw
