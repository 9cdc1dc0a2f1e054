"""Where HTTP requests of a node may lead, when it is others who name the URL.

The node can reach what a client or a model cannot. So a name is resolved first, every address it has is
judged, and the connection goes to the very address that was judged: a name that answers differently the
second time (DNS rebinding) gains nothing. TLS and the ``Host`` header still carry the name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from node.environment import Network

if TYPE_CHECKING:
    import httpx

URL_LIMIT: Final = 2_048
"""Longest URL, in characters."""
PORTS: Final = {"http": 80, "https": 443}
"""The schemes that are called, and their ports."""
_NAT64: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def split_url(url: str) -> SplitResult:
    """The parts of a URL that may be called at all.

    Raises:
        ValueError: it is none, has a user, a fragment or an impossible port; the text says what it must be.
    """
    parts = urlsplit(url)
    port = parts.port
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise ValueError("it begins with https:// (or http://) and a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("it has no user, no password and no fragment")
    if len(url) > URL_LIMIT or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"it has at most {URL_LIMIT} printable ASCII characters and no spaces")
    return parts


def target_of(parts: SplitResult) -> tuple[str, int]:
    """Host and port."""
    return parts.hostname or "", parts.port or PORTS[parts.scheme]


def plain_address(address: str) -> Ip:
    """An address without its zone; the IPv4 address that an IPv6 one stands for, where it does."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        return ip.ipv4_mapped or ip.sixtofour or ip
    return ip


def is_public(ip: Ip) -> bool:
    """Whether everybody can reach it, so that calling it shows nothing that only this node can reach."""
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NAT64)


def is_within(ip: Ip, networks: Collection[str]) -> bool:
    """Whether an address lies in one of ``networks``, in CIDR notation."""
    return any(ip in ipaddress.ip_network(network) for network in networks)


async def resolve_all(network: Network, host: str, port: int) -> list[str]:
    """Every address of a host, each to be judged.

    Raises:
        OSError: the name cannot be resolved.
    """
    return [address for address, _ in await network.resolve(host, port)]


def domain_allowed(host: str, patterns: Collection[str]) -> bool:
    """Whether one of the patterns covers a host.

    ``example.org`` is that host alone, ``*.example.org`` every host below it, ``*`` every host.
    """
    wanted = host.lower().removesuffix(".")
    for pattern in patterns:
        plain = pattern.lower()
        if plain in ("*", wanted) or (plain.startswith("*.") and wanted.endswith(plain[1:])):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Pinned:
    """A request to the address that was judged, in the name of the host that was asked for.

    Args:
        parts: The URL.
        address: Where the connection goes.
    """

    parts: SplitResult
    address: str

    def request(
        self, http: httpx.AsyncClient, method: str, *, headers: Mapping[str, str], content: bytes | None
    ) -> httpx.Request:
        """The request for ``http``, which must follow no redirects and keep no connections.

        A kept connection to an address could be taken for another host's at the same address.
        """
        import httpx  # noqa: PLC0415 - 100 ms of import that most nodes are spared

        host, port = target_of(self.parts)
        shown = f"[{self.address}]" if ":" in self.address else self.address
        named = f"[{host}]" if ":" in host else host
        named = named if port == PORTS[self.parts.scheme] else f"{named}:{port}"
        return http.build_request(
            method,
            httpx.URL(self.parts.geturl()).copy_with(host=shown, port=port),
            headers={**headers, "host": named},
            content=content,
            extensions={"sni_hostname": host},
        )
