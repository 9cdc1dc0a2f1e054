"""``caxton wasm``: sign the modules of WebAssembly agents, compose them, look into them, and try them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.agents.grants import Grant
from node.cli.deploy import MANIFEST_SUFFIX, read_file
from node.cli.options import json_option
from node.cli.output import print_json, print_table, safe
from node.errors import ValidationFailed

if TYPE_CHECKING:
    from node.agents.wasm.manifest import Manifest

DAY_S: Final = 86_400.0
DAYS_LIMIT: Final = 3_650
"""Longest time that a signature can be good for, in days."""
REPEAT_LIMIT: Final = 1_000_000
"""Most messages of one trial."""
SEED_LIMIT: Final = 4_102_444_800
"""Largest seed of a trial: as a time, the year 2100."""
_UNSOUND: Final = 1
"""Exit status when what was looked at could not be run."""
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.group("wasm")
def command() -> None:
    """Sign the modules of WebAssembly agents, compose them, look into them, and try them."""


@command.command("keygen", epilog="For example: caxton wasm keygen publisher.key")
@click.argument("file", type=_FILE)
@json_option
def keygen(file: Path, as_json: bool) -> None:
    """Make a key to sign modules with, write it to FILE, and show its public part.

    A node trusts what it signs when its security.agents.trusted_keys has the public part.
    """
    from node.environment import system_environment  # noqa: PLC0415 - not for --help
    from node.security import pki  # noqa: PLC0415
    from node.security.artifacts import public_key_hex  # noqa: PLC0415
    from node.security.files import SECRET_MODE, write_atomically  # noqa: PLC0415

    if file.exists():
        raise ValidationFailed(
            f"{file} exists already", why="a key is never overwritten", fix="Choose another file."
        )
    key = pki.new_key(system_environment())
    write_atomically(file, pki.key_pem(key), mode=SECRET_MODE)
    found = {"key": str(file), "public_key": public_key_hex(key)}
    if as_json:
        print_json(found)
        return
    click.echo(f"Wrote {file}; keep it secret. Its public key is:\n{found['public_key']}")


@command.command("sign", epilog="For example: caxton wasm sign echo.md --key publisher.key --days 365")
@click.argument("file", type=_FILE)
@click.option(
    "--key", "key_file", type=_FILE, required=True, help="Private key: of keygen, or a cluster's ca.key."
)
@click.option("--name", help="Name of the agent; of a module alone, by default its file's.")
@click.option("--version", help="Version of the agent; of a module alone, by default 1.0.0.")
@click.option(
    "--capability", "capabilities", multiple=True, help="What it may offer, of a module alone; repeatable."
)
@click.option(
    "--grant", "grants", multiple=True, help="What it may be granted, of a module alone; repeatable."
)
@click.option(
    "--tool", "tools", multiple=True, help="A tool or tool server it may call, of a module alone; repeatable."
)
@click.option("--language", default="", help="What it was written in; for people.")
@click.option(
    "--days", type=click.IntRange(1, DAYS_LIMIT), help="Until when it may be deployed; for ever without."
)
@json_option
def sign(
    file: Path,
    key_file: Path,
    name: str | None,
    version: str | None,
    capabilities: tuple[str, ...],
    grants: tuple[str, ...],
    tools: tuple[str, ...],
    language: str,
    days: int | None,
    as_json: bool,
) -> None:
    """Sign FILE: an agent file with its module beside it, or a module (.wasm, .wat).

    The manifest is written beside the module. An agent file says the name, the version, and the most that the
    agent may offer, be granted and use; without one the options do.
    """
    if file.suffix in (".wasm", ".wat"):
        module = file
        said: dict[str, Any] = {
            "name": name or file.stem,
            "version": version or "1.0.0",
            "capabilities": list(capabilities),
            "grants": list(grants),
            "tools": list(tools),
        }
    else:
        if name or version or capabilities or grants or tools:
            raise click.UsageError(
                "--name, --version, --capability, --grant and --tool are for a module alone."
            )
        module, said = _of_agent_file(file)
    path, manifest = _write_manifest(module, key_file, said | {"language": language}, days)
    if as_json:
        print_json({"manifest_file": str(path)} | manifest.model_dump())
        return
    until = "" if manifest.expires is None else f", good until {manifest.expires}"
    click.echo(safe(f"Signed {module.name} as {manifest.name} {manifest.version}{until}: {path}"))


@command.command("inspect", epilog="For example: caxton wasm inspect echo.wat")
@click.argument("file", type=_FILE)
@json_option
def inspect(file: Path, as_json: bool) -> int:
    """Show what the module FILE exports, imports and asks for, and who signed it; nothing of it is run.

    The exit status is 1 when no node could run it, or the manifest beside it is not of this module.
    """
    from node.cli.wasm_inspect import inspect as look  # noqa: PLC0415 - wasmtime takes 120 ms

    found = look(file)
    signature = found["signature"]
    sound = not found["problem"] and (signature is None or signature["valid"])
    if as_json:
        print_json(found)
        return 0 if sound else _UNSOUND
    for name in ("kind", "file_bytes", "binary_bytes", "sha256"):
        click.echo(f"{name.replace('_', ' ')}: {found[name]}")
    click.echo(safe(f"needs grants: {', '.join(found['grants']) or 'none'}"))
    click.echo(safe(f"as an agent: {found['problem'] or 'yes'}"))
    click.echo(safe(f"signature: {_signed_by(signature)}"))
    for name in ("exports", "imports"):
        print_table(name.capitalize(), (name,), [(entry,) for entry in found[name]])
    return 0 if sound else _UNSOUND


@command.command("compose", epilog="For example: caxton wasm compose agent.wasm --with greet.wasm")
@click.argument("file", type=_FILE)
@click.option(
    "--with", "plugs", type=_FILE, multiple=True, required=True, help="What exports it; repeatable."
)
@click.option("--output", type=_FILE, help="Where to write it; by default FILE with -composed in its name.")
@json_option
def compose(file: Path, plugs: tuple[Path, ...], output: Path | None, as_json: bool) -> None:
    """Write the component FILE with what it imports from other components inside it, by the tool wac.

    What is left to be imported must be of the world of agents. The result is a module like any other.
    """
    from node.cli.wasm_compose import PLUGS_LIMIT  # noqa: PLC0415 - not for --help
    from node.cli.wasm_compose import compose as put_together  # noqa: PLC0415

    if len(plugs) > PLUGS_LIMIT:
        raise click.UsageError(f"At most {PLUGS_LIMIT} components are put into one.")
    target = output or file.with_name(f"{file.stem}-composed.wasm")
    found = put_together(file, plugs, target)
    if as_json:
        print_json(found)
        return
    click.echo(safe(f"Composed {target}: {found['file_bytes']:,} bytes of {len(plugs) + 1} components"))


@command.command("run", epilog="For example: caxton wasm run agent.wasm --message '\"hello\"' --grant state")
@click.argument("file", type=_FILE)
@click.option(
    "--message", required=True, help="Content of the message: JSON or text; - reads standard input."
)
@click.option("--performative", default="request", show_default=True, help="What the message does.")
@click.option("--manifest", type=_FILE, help="Signed manifest whose grants and limits hold.")
@click.option(
    "--grant",
    "grants",
    multiple=True,
    type=click.Choice([str(grant) for grant in Grant]),
    help="What a module alone is granted; repeatable.",
)
@click.option(
    "--repeat",
    type=click.IntRange(1, REPEAT_LIMIT),
    default=1,
    show_default=True,
    help="How often it is handled.",
)
@click.option(
    "--deterministic",
    "seed",
    metavar="SEED",
    type=click.IntRange(0, SEED_LIMIT),
    help="Everything follows from this number, the time (Unix seconds) included.",
)
@json_option
def try_out(
    file: Path,
    message: str,
    performative: str,
    manifest: Path | None,
    grants: tuple[str, ...],
    repeat: int,
    seed: int | None,
    as_json: bool,
) -> int:
    """Run FILE, an agent file or a module, here and now: no node is needed, and nothing leaves.

    Shows what it sends and logs, what it took, and after a trap in which functions. The exit status is 1 when
    a message failed.
    """
    from node.cli.send import content_of  # noqa: PLC0415 - not for --help
    from node.cli.wasm_run import run, show  # noqa: PLC0415 - wasmtime takes 120 ms

    content = content_of(message)
    found = run(
        file,
        content,
        performative=performative,
        manifest=manifest,
        grants=grants,
        repeat=repeat,
        seed=seed,
    )
    return show(found, as_json=as_json)


def _signed_by(signature: dict[str, Any] | None) -> str:
    if signature is None:
        return "none"
    if not signature["valid"]:
        return f"not good: {signature['why']}"
    said = signature["manifest"]
    until = f", good until {said['expires']}" if said["expires"] else ""
    grants = ", ".join(said["grants"]) or "none"
    return f"by {signature['key']} as {said['name']} {said['version']}, grants {grants}{until}"


def sign_agent_file(file: Path, key_file: Path) -> None:
    """Sign the module of an agent file, as ``caxton wasm sign`` does; one without a module is left alone.

    Raises:
        CaxtonError: a file cannot be read, or is not what it should be.
    """
    from node.agents.definition import parse_definition  # noqa: PLC0415

    if parse_definition(read_file(file)).module is not None:
        module, said = _of_agent_file(file)
        _write_manifest(module, key_file, said, None)


def _write_manifest(
    module: Path, key_file: Path, said: dict[str, Any], days: int | None
) -> tuple[Path, Manifest]:
    """Write the signed manifest of a module beside it; returns where, and what it says."""
    from node.agents.wasm.manifest import new_manifest, sign_manifest, utc  # noqa: PLC0415 - not for --help
    from node.environment import system_environment  # noqa: PLC0415
    from node.security.authority import read_key  # noqa: PLC0415
    from node.security.files import PUBLIC_MODE, write_atomically  # noqa: PLC0415

    key = read_key(key_file)
    now_s = system_environment().clock.wall()
    manifest = new_manifest(
        **said,
        module=read_file(module),
        signed=utc(now_s),
        expires=None if days is None else utc(now_s + days * DAY_S),
    )
    path = module.with_name(module.name + MANIFEST_SUFFIX)
    write_atomically(path, sign_manifest(manifest, key), mode=PUBLIC_MODE)
    return path, manifest


def _of_agent_file(file: Path) -> tuple[Path, dict[str, Any]]:
    """Where the module of an agent file is, and what a manifest takes from the file."""
    from node.agents.definition import parse_definition  # noqa: PLC0415 - not for --help
    from node.agents.wasm.manifest import Limits, memory_scopes  # noqa: PLC0415

    definition = parse_definition(read_file(file))
    if definition.module is None or definition.runtime != "wasm":
        raise ValidationFailed(
            f"{file} has no module to sign",
            why=f"its runtime is {definition.runtime}",
            fix="Name an agent file with runtime: wasm, or a module.",
        )
    group = definition.groups.get("wasm", {})
    scopes = {
        name: list(found)
        for name, found in zip(("memory_read", "memory_write"), memory_scopes(definition), strict=True)
        if found
    }
    return file.parent / definition.module, {
        "name": definition.name,
        "version": definition.version,
        "capabilities": list(definition.capabilities),
        "grants": [str(grant) for grant in group.get("grants", ())],
        "tools": list(definition.tools),
        **scopes,
        "limits": {limit: group[limit] for limit in Limits.model_fields if limit in group},
    }
