"""``caxton revoke``: the cluster's authority says that the key of a node counts no more, and all are told."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from node.cli.client import Client, find_target
from node.cli.errors import UsageFailed
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe

_PATH = "/cluster/revocations"


@click.command("revoke")
@click.argument("directory", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("name", required=False)
@click.option(
    "--cert",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Revoke the key of this certificate; by default that of DIRECTORY/nodes/NAME.",
)
@click.option("--since", metavar="TIME", help="What the key has signed since then does not count; now.")
@click.option("--offline", is_flag=True, help="Sign it and write the file, and tell no node.")
@click.option(
    "--send",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Give a node this file, which was written before.",
)
@node_options
def command(
    directory: Path | None,
    name: str | None,
    cert: Path | None,
    since: str | None,
    offline: bool,
    send: Path | None,
    as_json: bool,
    where: Where,
) -> None:
    """Revoke the key of node NAME, with the authority in DIRECTORY; without arguments, show what is revoked.

    Whoever speaks under that key is a member no more, for no node. It also knows the gossip key: change that
    next, with `caxton keys`. A new key for the name: `caxton init DIRECTORY --node NAME --renew`.
    """
    if directory is None:
        if cert is not None or since is not None or offline:
            raise click.UsageError("--cert, --since and --offline need DIRECTORY and NAME.")
        if send is None:
            _show_all(where, as_json=as_json)
        else:
            _send(send, where, as_json=as_json)
        return
    if name is None or send is not None:
        raise click.UsageError("It takes DIRECTORY and NAME, or --send FILE alone.")
    file = _sign(directory.absolute(), name, cert, since)
    if offline:
        if as_json:
            print_json({"file": str(file)})
        else:
            click.echo(f"Signed: {file}")
            click.echo(f"Next: caxton revoke --send {file}")
        return
    if where.token is None and where.token_file is None and (directory / "admin.token").exists():
        where = replace(where, token_file=directory / "admin.token")
    click.echo(f"Signed: {file}", err=True)
    _send(file, where, as_json=as_json)


def _sign(directory: Path, name: str, cert: Path | None, since: str | None) -> Path:
    """Write the revocation of a node's key into the cluster's directory; returns the file."""
    from node.environment import system_environment  # noqa: PLC0415 - not for --help
    from node.http.models import moment  # noqa: PLC0415 - as above
    from node.security import authority, pki  # noqa: PLC0415 - as above
    from node.security.files import PUBLIC_MODE, make_directory, write_atomically  # noqa: PLC0415 - as above

    _, secrets = authority.load_cluster(directory)
    path = cert or directory / "nodes" / name / "node.crt"
    if cert is None and not path.exists():
        raise UsageFailed(
            f"{directory} has no node {name[:80]!r}",
            why=f"{path} does not exist",
            fix="Name the certificate of its key with --cert; those that were renewed are in "
            f"{directory / 'replaced'}.",
        )
    found = authority.read_cert(path)
    authority.check_issued(found, secrets.ca_cert)
    if pki.common_name(found.subject) != name:
        raise UsageFailed(f"{path} is the certificate of {pki.common_name(found.subject)!r}, not of {name!r}")
    now_s = system_environment().clock.wall()
    since_s = now_s if since is None else moment(since, now_s)
    if since_s > now_s:
        raise UsageFailed("--since is in the future", fix="Leave it out: a key is revoked from now on.")
    make_directory(directory / "revoked")
    file = directory / "revoked" / f"{name}-{pki.key_id(found).hex()[:8]}.revocation"
    write_atomically(file, base64.b64encode(pki.revoke(secrets, found, since_s)) + b"\n", mode=PUBLIC_MODE)
    return file


def _send(file: Path, where: Where, *, as_json: bool) -> None:
    from node.security.files import read_bounded  # noqa: PLC0415 - not for --help

    try:
        text = read_bounded(file, "revocation").decode("ascii").strip()
    except UnicodeDecodeError:
        raise UsageFailed(f"{file} is no revocation") from None
    with Client(find_target(where)) as client:
        found = client.call("POST", _PATH, body={"revocation": text})
    if as_json:
        print_json(found)
        return
    since, node = found.get("since"), found.get("node")
    click.echo(safe(f"The key {found.get('key_id')} of {found.get('name')} is revoked since {since}"))
    click.echo(safe(f"{node} was told, and tells all; who is away learns of it when it is back"))
    click.echo("Next: caxton keys install: whoever has the key knows the gossip key, too")


def _show_all(where: Where, *, as_json: bool) -> None:
    with Client(find_target(where)) as client:
        found = client.get(_PATH)
    if as_json:
        print_json(found)
        return
    rows = [_row(each) for each in found.get("revocations", [])]
    if rows:
        print_table("Revoked keys", ("node", "key", "since", "certificate ends"), rows)
    else:
        click.echo(safe(f"{found.get('node')} knows of no key that is revoked"))


def _row(found: dict[str, Any]) -> tuple[object, ...]:
    return found.get("name"), found.get("key_id"), found.get("since"), found.get("not_after")
