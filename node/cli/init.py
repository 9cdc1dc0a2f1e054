"""``caxton init``: a cluster's authority, and one bundle of files per node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from node.cli.options import json_option
from node.cli.output import print_json
from node.environment import system_environment
from node.security.authority import NodeSettings, create_cluster, issue_node, load_cluster


@click.command("init")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--cluster", metavar="NAME", help="The cluster's name; a random one by default.")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Write a bundle for a node; repeatable.")
@click.option("--bind-host", default="127.0.0.1", show_default=True, help="Where the nodes listen for peers.")
@click.option("--advertise-host", help="The address peers are told, if it is another one.")
@click.option("--http-host", default="127.0.0.1", show_default=True, help="Where their admin API listens.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--gossip-port", type=click.IntRange(0, 65535), default=7946, show_default=True)
@click.option("--link-port", type=click.IntRange(0, 65535), default=7947, show_default=True)
@click.option("--seed", "seeds", multiple=True, metavar="HOST:PORT", help="A member to join; repeatable.")
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
    http_port: int,
    gossip_port: int,
    link_port: int,
    seeds: tuple[str, ...],
    profile: str,
    renew: bool,
    as_json: bool,
) -> None:
    """Create a cluster in DIRECTORY: its CA, gossip key and first admin token.

    With --node, also write that node's bundle below DIRECTORY/nodes; run it again to add nodes later.
    """
    environment = system_environment()
    directory = directory.absolute()
    existed = (directory / "cluster.yaml").exists()
    if existed and nodes:
        files, _ = load_cluster(directory)
    else:
        files = create_cluster(directory, environment=environment, cluster=cluster)
    settings = NodeSettings(
        bind_host=bind_host,
        advertise_host=advertise_host,
        http_host=http_host,
        http_port=http_port,
        gossip_port=gossip_port,
        link_port=link_port,
        seeds=seeds,
        profile=profile,
    )
    bundles = [
        issue_node(directory, name, environment=environment, settings=settings, renew=renew) for name in nodes
    ]
    configs = {bundle.name: str(bundle.config) for bundle in bundles}
    following = (
        f"caxton start --config {bundles[0].config}" if bundles else f"caxton init {directory} --node NAME"
    )
    if as_json:
        found: dict[str, Any] = {
            "directory": str(directory),
            "cluster": files.cluster,
            "created": not existed,
            "ca_cert": str(files.ca_cert),
            "ca_key": str(files.ca_key),
            "admin_token_file": str(directory / "admin.token"),
            "nodes": configs,
            "next": following,
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
    click.echo(f"\nNext: {following}")
