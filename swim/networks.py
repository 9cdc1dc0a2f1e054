"""Where members may have their addresses: an allow list of networks in CIDR notation (RFC 4632)."""

import ipaddress
from collections.abc import Sequence


class AllowedNetworks:
    """The networks that members are allowed in.

    Args:
        networks: in CIDR notation; none allows everything.

    Raises:
        ValueError: for something that is no network.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def allows(self, host: str) -> bool:
        """Say whether a member may have this address; what is no IP address is not allowed in a list."""
        if not self._networks:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)
