"""The composition root: builds every room from the configuration and runs them in one nursery.

It wires and decides nothing. The order of starting is the order of need: storage, then the port for peer
links (whose number travels in the membership's metadata), the bus, the agents that were deployed before,
membership, and last the admin API, so that a node that answers its health check is ready for work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from node.agents.settings import AgentSettings
from node.agents.supervisor import AgentSupervisor
from node.blobs.store import FILE as BLOB_FILE
from node.blobs.store import BlobLimits, BlobStore
from node.cluster.membership import Membership
from node.cluster.replicas import Replicas
from node.config import NodeConfig
from node.config.memory import EmbeddingConfig
from node.deployments.room import Deployments
from node.environment import Address, Environment
from node.errors import CaxtonError
from node.llm.budgets import Budgets
from node.llm.provider import Provider
from node.llm.registry import ProviderRegistry
from node.memory.absent import AbsentEmbedder
from node.memory.backends.factory import how_kept
from node.memory.embedding import Embedder, EmbeddingSettings, make_embedder
from node.memory.records import Limits, Retain
from node.memory.room import FILE, MemoryRoom
from node.messaging.bus import Bus
from node.messaging.conversation_view import Limits as ConversationLimits
from node.recording.tape import Recorder
from node.security.artifacts import ArtifactTrust
from node.security.identity import NodeCredentials
from node.security.tokens import Tokens
from node.storage.storage import Storage
from node.telemetry.tracing import Tracing
from node.telemetry.version import Release, software_version
from node.tools.builtin_servers import builtin_servers
from node.tools.host import ToolHost, ToolSettings
from node.transport.handler import LinkLimits
from node.transport.links import Links
from node.webhooks.webhooks import Webhooks
from swim.identity import ClusterAuthority

if TYPE_CHECKING:
    from fastapi import FastAPI

    from node.memory.replication.replica import Replica

log = logging.getLogger(__name__)

DATABASE: Final = "caxton.db"
DRAIN_S: Final = 5.0
"""How long a node that ends lets its agents finish what they are handling."""
FLUSH_S: Final = 1.0
"""How long it then waits for its own last messages to be taken."""
CLOSE_S: Final = 2.0
"""How long it may then take to close what is open elsewhere."""
LOAD_INTERVAL_S: Final = 1.0
"""How often the node tells the cluster how busy it is."""


@dataclass(frozen=True, slots=True)
class ReadyInfo:
    """Where a node that has become ready is reached.

    Args:
        node: Its name.
        api: Address of the admin API, None where it serves none.
        gossip: Address of membership.
        links: Address of peer links.
        data_dir: Where it keeps its data.
        token_file: The operator's token, where this machine has it.
    """

    node: str
    api: Address | None
    gossip: Address
    links: Address
    data_dir: Path
    token_file: Path | None = None


class Node:
    """One node; its rooms are its attributes, there once :meth:`run` has started them.

    Args:
        config: What the operator wants.
        environment: Clock, chance, network and blocking work.
        credentials: Who this node is, and whom it trusts.
        tokens: Which bearers the admin API accepts.
        tracing: Where spans go; tracing that is off, by default.
        serve_http: Whether to serve the admin API; a simulation does without.
        release: What it says it is; by default the installed one.
        recorder: Writes down what goes into the cores, for a replay; ended by :meth:`run`.
        environ: Variables, for ``llm.provider: auto`` and the few that tool servers get; none by default.
        around_models: Put around every language model, below the budgets; a simulation lets models fail so.
    """

    storage: Storage
    memory: MemoryRoom
    blobs: BlobStore
    membership: Membership
    bus: Bus
    links: Links
    tools: ToolHost
    providers: ProviderRegistry
    budgets: Budgets
    supervisor: AgentSupervisor
    webhooks: Webhooks
    replicas: Replicas
    deployments: Deployments

    def __init__(
        self,
        config: NodeConfig,
        *,
        environment: Environment,
        credentials: NodeCredentials,
        tokens: Tokens,
        tracing: Tracing | None = None,
        serve_http: bool = True,
        release: Release | None = None,
        recorder: Recorder | None = None,
        environ: Mapping[str, str] | None = None,
        around_models: Callable[[Provider], Provider] = lambda provider: provider,
    ) -> None:
        self.config, self.environment = config, environment
        self.credentials, self.tokens = credentials, tokens
        self.tracing, self.release = tracing or Tracing.off(), release or Release()
        self.name, self._started_at = credentials.name, environment.clock.now()
        self._serve_http, self._recorder = serve_http, recorder
        self._environ, self._around_models = environ or {}, around_models
        self._shutdown, self._ready = trio.Event(), False

    def shutdown(self) -> None:
        """Ask the node to say goodbye and end; returns at once."""
        self._shutdown.set()

    async def run(self, *, task_status: trio.TaskStatus[ReadyInfo] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until :meth:`shutdown` is called, or the task is cancelled.

        Raises:
            CaxtonError: it cannot start, or not go on; says why.
        """
        try:
            await self._run(task_status)
        finally:
            if self._recorder is not None:
                self._recorder.stop("the node has ended")

    def statistics(self) -> dict[str, Any]:
        """What every room counts."""
        return {
            "messaging": self.bus.statistics(),
            "links": self.links.statistics(),
            "storage": self.storage.statistics(),
            "memory": self.memory.statistics() | {"replication": self.replicas.statistics()},
            "agents": self.supervisor.statistics(),
            "deployments": self.deployments.statistics(),
            "webhooks": self.webhooks.statistics(),
            "membership": self.membership.statistics(),
            "security": self.credentials.statistics() | self.tokens.statistics(),
            "tools": self.tools.statistics(),
            "llm": self.providers.statistics(),
            "tracing": self.tracing.statistics(),
            "recording": {} if self._recorder is None else self._recorder.statistics(),
        }

    async def _run(self, task_status: trio.TaskStatus[ReadyInfo]) -> None:
        self.storage = Storage.open(
            self.config.storage.data_dir / DATABASE,
            durability=self.config.storage.durability,
            environment=self.environment,
        )
        try:
            self._build()
            try:
                await self._run_rooms(task_status)
            finally:
                with trio.CancelScope(shield=True), self.environment.clock.move_on_after(CLOSE_S):
                    await self.providers.aclose()
        finally:
            self._close()
            with trio.CancelScope(shield=True), self.environment.clock.move_on_after(CLOSE_S):
                await self.tracing.aclose(self.environment.workers)

    def _close(self) -> None:
        for room in ("memory", "blobs"):
            if hasattr(self, room):
                getattr(self, room).close()
        self.storage.close()

    def _build(self) -> None:
        config = self.config
        embedded, keep = config.memory.embedded, config.memory.retention
        kept = how_kept(config.memory, self.environment, self.name)
        self.memory = MemoryRoom(
            environment=self.environment,
            path=embedded.database_path or config.storage.data_dir / FILE,
            durability=config.storage.durability,
            node=self.name,
            limits=Limits(embedded.max_entities, embedded.max_entities_per_owner),
            threshold=embedded.semantic_threshold,
            planes_bytes=embedded.signs_memory_bytes,
            make_embedder=partial(_embedder, config.memory.embedding, self.environment),
            retain=Retain(keep.max_age_s, keep.max_entities_per_owner, keep.every_s),
            make_replica=self._make_replica,
            make_vectors=kept.vectors,
            make_outside=kept.outside,
        )
        self.blobs = BlobStore(
            environment=self.environment,
            path=config.storage.data_dir / BLOB_FILE,
            durability=config.storage.durability,
            limits=BlobLimits(config.messaging.blob_bytes, config.messaging.blob_unused_s),
        )
        self.membership = Membership(
            environment=self.environment,
            config=config,
            credentials=self.credentials,
            storage=self.storage,
            release=self.release,
            recorder=self._recorder,
        )
        self.bus = Bus(
            environment=self.environment,
            node=self.name,
            storage=self.storage,
            registry=self.membership.registry,
            announce=self.membership.registry,
            membership=self.membership,
            tracing=self.tracing,
            settings=config.messaging,
            recorder=self._recorder,
            blobs=self.blobs,
        )
        self.links = Links(
            environment=self.environment,
            credentials=self.credentials,
            resolve=self.membership.link_address,
            handler=self.bus,
            limits=LinkLimits(window_bytes=config.messaging.link_window_bytes),
        )
        self.bus.use_links(self.links)
        self.replicas = Replicas(
            environment=self.environment,
            node=self.name,
            memory=self.memory,
            links=self.links,
            holders=self.membership.holders,
        )
        self.membership.listeners.append(self.bus)
        self.tools = ToolHost(
            environment=self.environment,
            tracing=self.tracing,
            settings=ToolSettings.from_config(config.tools),
            servers=builtin_servers(self.memory, environment=self.environment, config=config.tools),
            store=self.storage,
            environ=self._environ,
        )
        self.providers = ProviderRegistry.from_config(config.llm, self.environment, self._environ)
        self.providers.around(self._around_models)
        self.budgets = Budgets(
            config.llm,
            models=self.providers.models,
            clock=self.environment.clock,
            storage=self.storage,
            shared=self.membership.spending,
        )
        if config.llm.budgets.bounded:
            self.providers.within(self.budgets)
        self.supervisor = AgentSupervisor(
            environment=self.environment,
            node=self.name,
            storage=self.storage,
            registry=self.membership.registry,
            bus=self.bus,
            providers=self.providers,
            tools=self.tools,
            tracing=self.tracing,
            settings=AgentSettings.from_config(
                config.runtime,
                config.messaging,
                ArtifactTrust.of(config.security, self.credentials.authority.ca_public_key),
            ),
            wasm_cache=config.storage.data_dir / "wasm-cache",
            memory=self.memory,
            offered=lambda capability: bool(self.membership.registry.providers(capability)),
        )
        self.deployments = Deployments(
            environment=self.environment,
            node=self.name,
            maps=self.membership.replicated,
            cluster=self.membership,
            agents=self.supervisor,
            packages=self.bus.blobs,
            memory=self.memory,
            settings=config.cluster.placement,
            labels=config.cluster.labels,
        )
        self.membership.listeners.append(self.deployments)
        self.webhooks = Webhooks(
            environment=self.environment,
            node=self.name,
            storage=self.storage,
            settings=config.webhooks,
            dev_mode=config.server.dev_mode,
            limits=ConversationLimits(
                config.messaging.conversation_ttl_s, config.messaging.conversation_lifetime_s
            ),
            version=software_version(),
        )

    def _make_replica(self) -> Replica:
        from node.memory.replication.replica import Replica  # noqa: PLC0415 - numpy comes with it

        authority = self.credentials.authority
        # Its own, for it is asked on the memory's thread.
        asked = ClusterAuthority(authority.ca_public_key, authority.cluster)
        environment = self.environment
        return Replica(
            self.credentials.identity, asked, environment.randomness.token, environment.workers.rests
        )

    async def _run_rooms(self, task_status: trio.TaskStatus[ReadyInfo]) -> None:
        cluster = self.config.cluster
        # Before membership, which would take half a second of building for a stall, and distrust itself.
        application = self._create_application() if self._serve_http else None
        async with trio.open_nursery() as nursery:
            await nursery.start(self.credentials.run)
            await nursery.start(self.storage.run)
            await nursery.start(self.memory.run)
            links: Address = await nursery.start(self.links.run, cluster.bind_host, cluster.link_port)
            self.membership.announce_link_port(links[1])
            await nursery.start(self.bus.run)
            await nursery.start(self.tools.run)
            if self.config.llm.budgets.bounded:
                await nursery.start(self.budgets.run)
            await nursery.start(self.supervisor.run)
            gossip: Address = await nursery.start(self.membership.run)
            await nursery.start(self.deployments.run)
            nursery.start_soon(self._tell_load)
            if self.config.memory.replicated:
                await nursery.start(self.replicas.run)
            if application is not None:
                await nursery.start(self.webhooks.run)
            api = None if application is None else await nursery.start(self._serve, application)
            self._ready = True
            log.info("node %s is ready", self.name)
            task_status.started(ReadyInfo(self.name, api, gossip, links, self.config.storage.data_dir))
            await self._shutdown.wait()
            self._ready = False
            self.deployments.end()
            await self.supervisor.drain(grace_s=DRAIN_S)
            await self._send_what_is_left()
            await self.membership.leave()
            nursery.cancel_scope.cancel()

    async def _send_what_is_left(self) -> None:
        """Let replies and refusals leave before the goodbye, at which peers re-route what is open."""
        clock = self.environment.clock
        with clock.move_on_after(FLUSH_S):
            while self.bus.unsettled_by_node():
                await clock.sleep(0.02)

    async def _tell_load(self) -> None:
        clock = self.environment.clock
        while True:
            self.membership.registry.set_load(self.bus.load(), clock.now())
            await clock.sleep(LOAD_INTERVAL_S)

    def _create_application(self) -> FastAPI:
        from node.http.app import create_app  # noqa: PLC0415 - 220 ms of import that a simulation is spared
        from node.http.services import NodeServices  # noqa: PLC0415

        services = NodeServices(
            environment=self.environment,
            config=self.config,
            node=self.name,
            membership=self.membership,
            registry=self.membership.registry,
            bus=self.bus,
            supervisor=self.supervisor,
            deployments=self.deployments,
            webhooks=self.webhooks,
            memory=self.memory,
            models=self.providers,
            tools=self.tools,
            storage=self.storage,
            tokens=self.tokens,
            tracing=self.tracing,
            started_at=self._started_at,
            shutdown=self.shutdown,
            statistics=self.statistics,
            ready=lambda: self._ready,
            replication=self.replicas.statistics_of_logs if self.config.memory.replicated else None,
        )
        return create_app(services)

    async def _serve(self, application: FastAPI, *, task_status: trio.TaskStatus[Address]) -> None:
        from node.http.server import serve  # noqa: PLC0415 - as above

        await serve(
            application,
            environment=self.environment,
            host=self.config.server.host,
            port=self.config.server.port,
            shutdown=self._shutdown.wait,
            task_status=task_status,
        )


async def _embedder(config: EmbeddingConfig, environment: Environment) -> Embedder:
    """What turns text into vectors; made when the memory is opened.

    Raises:
        EmbeddingFailed: the configuration does not say enough, or the model is not there.
    """
    if config.provider == "none":
        await trio.lowlevel.checkpoint()
        return AbsentEmbedder()
    settings = EmbeddingSettings(
        provider=config.provider,
        path=config.path,
        url=config.url or "",
        model=config.model or "",
        dimension=config.dimension,
        api_key=config.api_key or "",
        timeout_s=config.timeout_s,
        threads=config.threads,
        cache_entries=config.cache_entries,
    )
    return await make_embedder(settings, environment)


def first_error(group: BaseExceptionGroup[CaxtonError]) -> CaxtonError:
    """The first operating error in a group, however deep."""
    inner = group.exceptions[0]
    return first_error(inner) if isinstance(inner, BaseExceptionGroup) else inner
