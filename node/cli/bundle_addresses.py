"""Where the nodes of one cluster directory listen: ports of their own for those that share this machine.

The first node of a cluster on loopback has the usual ports; each later one has its own, counted on from
there, and is told the addresses of those before it as seeds. So the bundles of one directory start
together as they are. Nodes that bind to another address each have a machine of their own, and its usual
ports.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from node.errors import CaxtonError, ValidationFailed
from node.security.files import read_bounded

HTTP_PORT: Final = 8080
GOSSIP_PORT: Final = 7946
LINK_PORT: Final = 7947
HTTP_STEP: Final = 1
PEER_STEP: Final = 10
"""Between the gossip ports, and the link ports, of two nodes of one machine."""
LOOPBACK_NODES_LIMIT: Final = 256
"""Most nodes of one cluster that share this machine's loopback address."""
SEEDS_LIMIT: Final = 16
"""Most nodes of this machine that a new one is told as seeds."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where one node listens.

    Args:
        host: Address of gossip and peer links.
        http_host: Address of the admin API.
        http: Its port.
        gossip: UDP and TCP port of membership.
        links: TCP port of peer links.
    """

    host: str
    http_host: str
    http: int
    gossip: int
    links: int

    def ports(self) -> frozenset[int]:
        """The ports that are fixed; 0 is chosen by the system at the start."""
        return frozenset({self.http, self.gossip, self.links} - {0})

    def as_json(self) -> dict[str, str]:
        """Host and port of each listener."""
        return {
            "http": _joined(self.http_host, self.http),
            "gossip": _joined(self.host, self.gossip),
            "links": _joined(self.host, self.links),
        }


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that the operator named; None for those left to us."""

    http: int | None = None
    gossip: int | None = None
    links: int | None = None


def choose(issued: Sequence[Addresses], ports: Ports, *, host: str, http_host: str) -> Addresses:
    """Where a new node listens.

    Args:
        issued: The nodes of the cluster directory.
        ports: The ports that were named.
        host: Where it listens for peers.
        http_host: Where its admin API listens.

    Raises:
        ValidationFailed: too many nodes share this machine.
    """
    if not is_loopback(host):
        return _numbered(0, ports, host, http_host)
    here = [found for found in issued if is_loopback(found.host)]
    taken = {port for found in here for port in found.ports()}
    named = {port for port in (ports.http, ports.gossip, ports.links) if port}
    for number in range(len(here), LOOPBACK_NODES_LIMIT):
        found = _numbered(number, ports, host, http_host)
        if not (found.ports() - named) & (taken | named):
            return found
    raise ValidationFailed(
        "this machine has no ports left for another node of the cluster",
        why=f"at most {LOOPBACK_NODES_LIMIT} of its nodes listen on loopback",
        fix="Name ports with --http-port, --gossip-port and --link-port, or use another --bind-host.",
    )


def local_seeds(issued: Sequence[Addresses]) -> list[str]:
    """``host:port`` of the nodes on this machine, for a new one to join."""
    here = [found for found in issued if is_loopback(found.host) and found.gossip]
    return [_joined(found.host, found.gossip) for found in here[:SEEDS_LIMIT]]


def issued_addresses(directory: Path) -> list[Addresses]:
    """Where the nodes of a cluster directory listen, by port; files that say nothing are left out."""
    configs = [key.with_name("node.yaml") for key in directory.glob("nodes/*/node.key")]
    found = [(address.gossip, config.parent.name, address) for config in configs if (address := read(config))]
    return [address for _, _, address in sorted(found, key=lambda entry: entry[:2])]


def read(config: Path) -> Addresses | None:
    """What a node.yaml says; None when it is missing, damaged, or leaves it to the environment."""
    try:
        found = yaml.safe_load(read_bounded(config, "node configuration"))
    except (CaxtonError, yaml.YAMLError, RecursionError, ValueError):
        return None
    server, cluster = _section(found, "server"), _section(found, "cluster")
    host, http_host = cluster.get("bind_host", "127.0.0.1"), server.get("host", "127.0.0.1")
    http, gossip = server.get("port", HTTP_PORT), cluster.get("bind_port", GOSSIP_PORT)
    links = cluster.get("link_port", LINK_PORT)
    ports = (http, gossip, links)
    if not isinstance(host, str) or not isinstance(http_host, str) or not all(map(_is_port, ports)):
        return None
    return Addresses(host, http_host, http, gossip, links)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_any(host: str) -> bool:
    """Whether ``host`` stands for every address of a machine, and so for no machine in particular."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _numbered(number: int, ports: Ports, host: str, http_host: str) -> Addresses:
    return Addresses(
        host,
        http_host,
        HTTP_PORT + HTTP_STEP * number if ports.http is None else ports.http,
        GOSSIP_PORT + PEER_STEP * number if ports.gossip is None else ports.gossip,
        LINK_PORT + PEER_STEP * number if ports.links is None else ports.links,
    )


def _section(found: Any, name: str) -> dict[str, Any]:
    section = found.get(name) if isinstance(found, dict) else None
    return section if isinstance(section, dict) else {}


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65_535


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
