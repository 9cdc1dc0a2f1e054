"""``caxton init``: a cluster's authority, and one bundle of files per node."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from node.cli import bundle_addresses as addresses
from node.cli.errors import UsageFailed
from node.cli.options import json_option
from node.cli.output import print_json
from node.environment import Environment, system_environment
from node.errors import ValidationFailed
from node.security.authority import ClusterFiles, NodeSettings, create_cluster, issue_node, load_cluster

_COUNTED: Final = "on loopback counted on for each further node; 0 takes a free one at the start"


class _Directory(click.Path):
    """A directory that was named: ``init "$UNSET"`` makes no keys in the one that the shell is in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, which is not empty."""
        return super().convert(value, param, ctx) if value else self.fail("it is empty", param, ctx)


@click.command("init")
@click.argument("directory", type=_Directory(path_type=Path, file_okay=False))
@click.option("--cluster", metavar="NAME", help="The cluster's name; a random one by default.")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Write a bundle for a node; repeatable.")
@click.option("--bind-host", default="127.0.0.1", show_default=True, help="Where the nodes listen for peers.")
@click.option("--advertise-host", help="The address peers are told, if it is another one.")
@click.option("--http-host", default="127.0.0.1", show_default=True, help="Where their admin API listens.")
@click.option("--http-port", type=click.IntRange(0, 65535), help=f"{addresses.HTTP_PORT}, {_COUNTED}.")
@click.option("--gossip-port", type=click.IntRange(0, 65535), help=f"{addresses.GOSSIP_PORT}, {_COUNTED}.")
@click.option("--link-port", type=click.IntRange(0, 65535), help=f"{addresses.LINK_PORT}, {_COUNTED}.")
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    metavar="HOST:PORT",
    help="A member to join; repeatable. By default the cluster's other nodes on this machine.",
)
@click.option(
    "--profile",
    type=click.Choice(["local", "lan", "wan", "edge"]),
    default="lan",
    show_default=True,
    help="Timing of failure detection.",
)
@click.option("--renew", is_flag=True, help="Replace the keys of nodes that exist already.")
@json_option
def command(
    directory: Path,
    cluster: str | None,
    nodes: tuple[str, ...],
    bind_host: str,
    advertise_host: str | None,
    http_host: str,
    http_port: int | None,
    gossip_port: int | None,
    link_port: int | None,
    seeds: tuple[str, ...],
    profile: str,
    renew: bool,
    as_json: bool,
) -> None:
    """Create a cluster in DIRECTORY: its CA, gossip key and first admin token.

    With --node, also write that node's bundle below DIRECTORY/nodes; run it again to add nodes later.
    """
    ports = addresses.Ports(http_port, gossip_port, link_port)
    _check_apart(nodes, bind_host, advertise_host, ports)
    _check_seeds(seeds)
    environment = system_environment()
    directory = directory.absolute()
    existed = (directory / "cluster.yaml").exists()
    files = _cluster(directory, cluster, environment, wanted=existed and bool(nodes))
    bundles = []
    for name in nodes:
        issued = addresses.issued_addresses(directory)
        chosen = addresses.choose(issued, ports, host=bind_host, http_host=http_host)
        settings = NodeSettings(
            bind_host=bind_host,
            advertise_host=advertise_host,
            http_host=http_host,
            http_port=chosen.http,
            gossip_port=chosen.gossip,
            link_port=chosen.links,
            seeds=seeds or (addresses.local_seeds(issued) if addresses.is_loopback(bind_host) else ()),
            profile=profile,
        )
        bundles.append(issue_node(directory, name, environment=environment, settings=settings, renew=renew))
    listening = {
        bundle.name: where.as_json() for bundle in bundles if (where := addresses.read(bundle.config))
    }
    configs = {bundle.name: str(bundle.config) for bundle in bundles}
    following = [f"caxton start --config {bundle.config}" for bundle in bundles]
    following = following or [f"caxton init {directory} --node NAME"]
    if as_json:
        found: dict[str, Any] = {
            "directory": str(directory),
            "cluster": files.cluster,
            "created": not existed,
            "ca_cert": str(files.ca_cert),
            "ca_key": str(files.ca_key),
            "admin_token_file": str(directory / "admin.token"),
            "nodes": configs,
            "addresses": listening,
            "next": following[0],
        }
        print_json(found)
        return
    if existed:
        click.echo(f"Cluster {files.cluster} in {directory}")
    else:
        click.echo(f"Created cluster {files.cluster} in {directory}")
        click.echo(f"  {files.ca_key}   keep it offline: whoever has it can add nodes")
        click.echo(f"  {directory / 'admin.token'}   the first token of the admin API")
    for bundle in bundles:
        click.echo(f"  {bundle.directory}   the bundle of {bundle.name}: copy it to its machine")
        for what, address in listening.get(bundle.name, {}).items():
            click.echo(f"    {what:<6}  {address}")
    if nodes and addresses.is_any(bind_host) and advertise_host is None:
        click.echo()
        click.echo(
            f"{bind_host} is no address that peers could be told: set cluster.advertise_host before a start"
        )
    click.echo()
    for line in following:
        click.echo(f"Next: {line}")


def _cluster(directory: Path, name: str | None, environment: Environment, *, wanted: bool) -> ClusterFiles:
    """The cluster in ``directory``: the one that is there if it is wanted, else a new one.

    Raises:
        ValidationFailed: the one that is there has another name.
        SecurityMaterialInvalid: there is one and it is not wanted, or its files are damaged.
    """
    if not wanted:
        return create_cluster(directory, environment=environment, cluster=name)
    files, _ = load_cluster(directory)
    if name is not None and name != files.cluster:
        raise ValidationFailed(
            f"{directory} holds another cluster than {name[:80]!r}",
            why=f"its name is {files.cluster!r}, and a cluster cannot be renamed",
            fix=f"Leave --cluster out, write --cluster {files.cluster}, or choose another directory.",
            details={"field": "cluster", "cluster": files.cluster},
        )
    return files


def _check_seeds(seeds: tuple[str, ...]) -> None:
    """Refuse a seed that no node would start with.

    Raises:
        UsageFailed: one is not the address of a member.
    """
    from node.config.model import check_seed  # noqa: PLC0415 - not for --help

    for seed in seeds:
        try:
            check_seed(seed)
        except ValueError as error:
            raise UsageFailed(str(error), fix="Write it as 10.0.0.5:7946 or [2001:db8::5]:7946.") from None


def _check_apart(
    nodes: tuple[str, ...], bind_host: str, advertise_host: str | None, ports: addresses.Ports
) -> None:
    """Refuse to give several nodes of one call the same address.

    Raises:
        UsageFailed: the options would.
    """
    if len(nodes) < 2:
        return
    here = addresses.is_loopback(bind_host)
    named = {"--http-port": ports.http, "--gossip-port": ports.gossip, "--link-port": ports.links}
    shared = [f"{option} {port}" for option, port in named.items() if here and port]
    if advertise_host is not None:
        shared.append(f"--advertise-host {advertise_host[:80]}")
    if not here and not addresses.is_any(bind_host):
        shared.append(f"--bind-host {bind_host[:80]}")
    if shared:
        raise UsageFailed(
            f"several nodes cannot share {' and '.join(shared)}",
            why="each node needs an address of its own",
            fix="Call init once for each node, with the address of that node.",
        )
