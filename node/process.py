"""One node as a process of this machine: finds or makes its security material, and runs it to its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import trio

from node.config import NodeConfig
from node.environment import Environment
from node.errors import CaxtonError, SecurityMaterialInvalid
from node.node import Node, ReadyInfo, first_error
from node.recording.tape import RecordTo
from node.security.identity import NodeCredentials, SecurityPaths, ensure_local_cluster
from node.security.tokens import Tokens
from node.telemetry.tracing import Tracing
from node.telemetry.version import software_version


async def run_node(
    config: NodeConfig,
    *,
    environment: Environment,
    on_ready: Callable[[ReadyInfo], None],
    shutdown: trio.Event | None = None,
    record: RecordTo | None = None,
) -> None:
    """Run one node of this machine: find or make its security material, and run it to its end.

    Args:
        config: What the operator wants.
        environment: Usually :func:`node.environment.system_environment`.
        on_ready: Called once, when the node takes messages.
        shutdown: Ends the node gracefully when it is set.
        record: Where to record what goes into the node's cores.

    Raises:
        CaxtonError: it cannot start, or not go on; says why.
    """
    security, token_file = config.security, None
    if security.present:
        paths = SecurityPaths.of_files(security.files())
    else:
        directory = config.storage.data_dir / "cluster"
        paths = ensure_local_cluster(directory, config.cluster.node_name, environment)
        token_file = directory / "admin.token"
    tracing = config.observability.tracing
    credentials = NodeCredentials.load(paths, environment)
    if "node_name" in config.cluster.model_fields_set and config.cluster.node_name != credentials.name:
        raise SecurityMaterialInvalid(
            f"the bundle is {credentials.name!r}, but cluster.node_name is {config.cluster.node_name!r}",
            why="a node speaks under the name that its certificate has",
            fix="Remove cluster.node_name, or issue a bundle for that name (caxton init DIR --node NAME).",
            details={"key": "cluster.node_name"},
        )
    node = Node(
        config,
        environment=environment,
        credentials=credentials,
        tokens=Tokens.load(paths.tokens, dev_mode=config.server.dev_mode),
        tracing=Tracing.create(
            node=credentials.name,
            enabled=tracing.enabled,
            clock=environment.clock,
            id_source=environment.randomness.stream("traces"),
            service=tracing.service_name,
            sample_rate=tracing.sample_rate,
            otlp_endpoint=tracing.otlp_endpoint or "",
        ),
        recorder=None
        if record is None
        else record.begin(credentials.name, software_version(), environment.clock),
        environ=os.environ,
    )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_shut_down_on, shutdown, node)
            async with trio.open_nursery() as inner:
                ready: ReadyInfo = await inner.start(node.run)
                on_ready(replace(ready, token_file=token_file))
            nursery.cancel_scope.cancel()
    except* CaxtonError as group:
        raise first_error(group) from group


async def _shut_down_on(shutdown: trio.Event | None, node: Node) -> None:
    if shutdown is not None:
        await shutdown.wait()
        node.shutdown()
