"""Runs a member on the address that the configuration names, and says in words why it cannot."""

from __future__ import annotations

import errno
from collections.abc import Callable

import trio

from node.config import ClusterConfig
from node.environment import Environment
from node.errors import AddressInUse, ConfigInvalid
from swim import driver
from swim.events import Event
from swim.protocol import Swim


async def drive(
    swim: Swim,
    environment: Environment,
    cluster: ClusterConfig,
    on_event: Callable[[Event], None],
    *,
    task_status: trio.TaskStatus[driver.SwimHandle],
) -> None:
    """Run membership on the address of a configuration until cancelled.

    Args:
        swim: The member.
        environment: Its clock and network.
        cluster: The section ``cluster`` of the configuration.
        on_event: Is told what happens.
        task_status: Gets the handle of the driver, once it listens.

    Raises:
        AddressInUse: the gossip port is taken.
        ConfigInvalid: the address is none of this machine, or peers cannot be told it.
    """
    if cluster.bind_host in driver.UNSPECIFIED_HOSTS and cluster.advertise_host is None:
        raise ConfigInvalid(
            f"cluster.bind_host is {cluster.bind_host}, so peers cannot be told where this node is",
            why="a node bound to every address has to say by which one it is reached",
            fix="Set cluster.advertise_host to the address of this machine that peers use.",
            details={"key": "cluster.advertise_host"},
        )
    host = await advertised(environment, cluster)
    try:
        await driver.run_swim(
            swim,
            network=environment.network,
            clock=environment.clock,
            bind=(cluster.bind_host, cluster.bind_port),
            advertise=(host, 0) if host else None,
            on_event=on_event,
            task_status=task_status,
        )
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigInvalid(
                f"cannot listen on {cluster.bind_host}:{cluster.bind_port}",
                why=error.strerror or str(error),
                fix="Set cluster.bind_host to an address of this machine, and cluster.bind_port.",
                details={"key": "cluster.bind_port"},
            ) from None
        raise AddressInUse(
            f"port {cluster.bind_port} is taken on {cluster.bind_host}",
            why="another process listens there, by UDP or TCP",
            fix="Stop it, or set cluster.bind_port (0 takes a free one).",
            details={"key": "cluster.bind_port"},
        ) from None


async def advertised(environment: Environment, cluster: ClusterConfig) -> str | None:
    """The IP address of a configured host: what peers are told, because they look up no names."""
    host = cluster.advertise_host
    if host is None or driver.is_ip(host):
        return host
    try:
        found = await environment.network.resolve(host, cluster.bind_port)
    except OSError as error:
        raise ConfigInvalid(
            f"cluster.advertise_host is {host}, which has no address",
            why=str(error),
            fix="Set it to an IP address of this machine, or to a name that this machine can look up.",
            details={"key": "cluster.advertise_host"},
        ) from None
    is_v6 = ":" in cluster.bind_host
    addresses = [address for address, _ in found]
    return next((a for a in addresses if (":" in a) == is_v6), addresses[0])
