"""Every setting of a node: its key, its unit, its default.

A field's Python name ends with its unit; its key in YAML leaves the unit out (``agent_timeout: 30s`` is
``agent_timeout_s``), and both spellings are read. Unknown keys are errors: a misspelt limit is no limit.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from node.config.llm import LlmConfig
from node.config.memory import MemoryConfig
from node.config.section import Section
from node.config.swim_settings import SwimSettings
from node.config.tool_servers import ToolsConfig
from node.config.units import Bytes, Count, Networks, Port, PublicKeys, Seconds, Share, Text, Texts
from node.errors import ValidationFailed
from node.labels import Labels, check_labels, labels_of
from node.message import BLOB_LIMIT_BYTES
from swim.config import SwimConfig

TTL_LIMIT_S: Final = 30 * 86_400.0
"""Longest life of a message in seconds; the same as messaging's, which stands on a higher floor."""
NODE_NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

_BUNDLE_FILES: Final = ("ca_cert", "node_cert", "node_key", "credential", "gossip_key", "tokens")

KEY_ALIASES: Final[Mapping[str, str]] = {
    "cluster.peers": "cluster.seeds",
    "storage.path": "storage.data_dir",
    "messaging.max_message_size": "messaging.max_message_bytes",
    "messaging.queue_size": "messaging.outbox_capacity",
}
"""Other names that the public documents have used -> the key."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def default_node_name() -> str:
    """This machine's host name, made fit to name a node."""
    label = socket.gethostname().lower().partition(".")[0]
    return re.sub(r"[^a-z0-9]+", "-", label)[:63].strip("-") or "node"


class ServerConfig(Section):
    """The admin API.

    Attributes:
        host: Where it listens; beyond loopback only with security material.
        port: TCP port, 0 for a free one.
        dev_mode: Let requests without a token in; on loopback only.
        request_limit_bytes: Largest request body. Above ``messaging.max_message_bytes``, since
            attachments travel in base64.
        deploy_limit_bytes: Largest request body of a deployment, which carries modules in base64.
    """

    host: Text = "127.0.0.1"
    port: Port = 8080
    dev_mode: bool = False
    request_limit_bytes: Bytes = Field(default=8 * 1024**2, alias="request_limit")
    deploy_limit_bytes: Bytes = Field(default=48 * 1024**2, alias="deploy_limit", le=64 * 1024**2)


def _labels(value: Any) -> Labels:
    """Labels as a mapping of names to a text, or to several; environment variables hold ``name=value,...``.

    Raises:
        ValueError: they are none.
    """
    if isinstance(value, tuple | list) and not value:
        return ()
    try:
        if isinstance(value, str):
            pairs = (item.partition("=") for item in value.split(",") if item.strip())
            return check_labels([(name.strip(), text.strip()) for name, _, text in pairs])
        return labels_of(value)
    except ValidationFailed as error:
        why = error.why
    except (TypeError, AttributeError):
        why = "they are no names with texts"
    raise ValueError(f"{why}; write names and texts, as {{region: eu, gpu: 'yes'}}")


class PlacementConfig(Section):
    """Replicas that deployments of the cluster place on this node.

    Attributes:
        enabled: Whether this node takes any.
        settle_s: How long a node has to be dead, or a majority to be seen, before replicas are moved or
            started; the same on all nodes.
        drain_s: Time a replica that moves has for what it is handling.
    """

    enabled: bool = True
    settle_s: Seconds = Field(default=10.0, alias="settle")
    drain_s: Seconds = Field(default=5.0, alias="drain")


def check_seed(seed: str) -> None:
    """Whether a text is the address of a member to join.

    Raises:
        ValueError: it is not.
    """
    host, _, port = seed.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or (":" in host and not bracketed) or not port.isascii() or not port.isdigit():
        raise ValueError(f"the seed {seed!r} must be host:port, or [IPv6]:port")
    if not 0 < int(port) <= 65_535:
        raise ValueError(f"the seed {seed!r} has no port from 1 to 65535")


class ClusterConfig(Section):
    """Membership and peer links.

    Attributes:
        node_name: Unique in the cluster; with security material it must be the certificate's.
        bind_host: Where gossip and peer links listen.
        bind_port: Gossip, UDP and TCP.
        link_port: Peer links, TLS over TCP.
        advertise_host: The address that peers are told, where it is not ``bind_host``.
        seeds: ``host:port`` of members to join; tried for ever.
        profile: Timing: local, lan, wan, or edge (2 to 5 nodes).
        allowed_networks: Networks that members may have their addresses in; none for everywhere.
        stream_probes: Whether a silent member is also asked by TCP.
        no_stream_probes: Names of members that are not, though others are.
        swim: Single parameters of membership, on top of the profile.
        labels: What deployments may require of this node.
        placement: Replicas that deployments place on this node.
    """

    node_name: str = Field(default_factory=default_node_name)
    bind_host: Text = "127.0.0.1"
    bind_port: Port = 7946
    link_port: Port = 7947
    advertise_host: Text | None = None
    seeds: Texts = ()
    profile: Literal["local", "lan", "wan", "edge"] = "lan"
    allowed_networks: Networks = ()
    stream_probes: bool = True
    no_stream_probes: Texts = ()
    swim: SwimSettings = SwimSettings()
    labels: Annotated[Labels, BeforeValidator(_labels)] = ()
    placement: PlacementConfig = PlacementConfig()

    def swim_config(self, label: str) -> SwimConfig:
        """The parameters of membership.

        Args:
            label: The cluster's name.

        Raises:
            ValueError: they cannot work together; names one of them.
        """
        return SwimConfig.profile(
            self.profile,
            **self.swim.changes(),
            label=label,
            allowed_networks=self.allowed_networks,
            stream_probes=self.stream_probes,
        )

    @field_validator("no_stream_probes")
    @classmethod
    def _names_are_those_of_nodes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if re.fullmatch(NODE_NAME_PATTERN, name) is None:
                raise ValueError(f"{name!r} is no name of a node")
        return names

    @field_validator("node_name")
    @classmethod
    def _name_can_be_certified(cls, name: str) -> str:
        if re.fullmatch(NODE_NAME_PATTERN, name) is None:
            raise ValueError(
                "a name has 1 to 63 of a-z, 0-9 and '-', and begins and ends with a letter or digit"
            )
        return name

    @field_validator("seeds")
    @classmethod
    def _seeds_have_ports(cls, seeds: tuple[str, ...]) -> tuple[str, ...]:
        for seed in seeds:
            check_seed(seed)
        return seeds


class AgentSecurityConfig(Section):
    """Whose WebAssembly is run.

    Attributes:
        require_signed: Whether modules need a trusted signature; ``auto`` with a node bundle only.
        trusted_keys: Public keys that count beside the cluster authority's.
    """

    require_signed: Literal["auto", "always", "never"] = "auto"
    trusted_keys: PublicKeys = ()


class SecurityConfig(Section):
    """Where the files of the node bundle are, as ``caxton init DIR --node NAME`` wrote them: all or none.

    Without them the node makes itself a one-node cluster in its data directory, on loopback.

    Attributes:
        agents: Whose WebAssembly is run.
        key_rotation: Which members may change this node's gossip keys: all that the cluster authority has
            certified, or none.
    """

    ca_cert: Path | None = None
    node_cert: Path | None = None
    node_key: Path | None = None
    credential: Path | None = None
    gossip_key: Path | None = None
    tokens: Path | None = None
    key_rotation: Literal["members", "none"] = "members"
    agents: AgentSecurityConfig = AgentSecurityConfig()

    def files(self) -> dict[str, Path | None]:
        """The files of the bundle, by name."""
        return {name: getattr(self, name) for name in _BUNDLE_FILES}

    @model_validator(mode="after")
    def _all_or_none(self) -> SecurityConfig:
        missing = [name for name, path in self.files().items() if path is None]
        if missing and len(missing) < len(self.files()):
            raise ValueError(f"a node bundle has all its files or none; missing: {', '.join(missing)}")
        return self

    @property
    def present(self) -> bool:
        """Whether security material is configured."""
        return self.ca_cert is not None


class StorageConfig(Section):
    """The node's own database.

    Attributes:
        type: Only ``embedded``: a node needs no database server.
        data_dir: Directory of all that the node must remember; one node per directory.
        durability: ``normal`` survives kill -9, ``full`` power loss too (default of the edge profile).
    """

    type: Literal["embedded"] = "embedded"
    data_dir: Path
    durability: Literal["normal", "full"] = "normal"


class RoutingConfig(Section):
    """Who gets a message.

    Attributes:
        locality: Whether providers on this node, and near ones, are preferred to equally good ones far away.
    """

    locality: bool = True


class BreakerConfig(Section):
    """When an agent is left alone that keeps failing, as long as others offer the same.

    Attributes:
        failures: Messages in a row that it could not handle.
        open_s: For how long, before it is tried again.
        probes: Messages in a row that it must handle then.
    """

    failures: Count = 5
    open_s: Seconds = Field(default=60.0, alias="open")
    probes: Count = 3


class MessagingConfig(Section):
    """Acceptance, delivery and retention of messages.

    Attributes:
        max_message_bytes: Largest sealed message, attachments included.
        mailbox_capacity: Most messages waiting for one agent.
        outbox_capacity: Most messages waiting to leave this node; beyond it new ones are refused.
        backlog_capacity: Most messages for whom is away that wait on disk, beyond those in the outbox.
        backlog_bytes: Most bytes of them.
        blob_bytes: Most bytes of content that is too large for messages.
        blob_unused_s: How long a blob is kept that nobody uses and no message needs.
        inbox_capacity: Most messages from peers that are not settled yet.
        delivery_timeout_s: How long one provider may take to acknowledge before the next attempt.
        default_ttl_s: Life of a message whose sender names no ``reply_by``.
        max_attempts: Transmissions before a message becomes a dead letter.
        retry_initial_s: Pause before the second attempt; it doubles.
        retry_max_s: Longest pause between attempts.
        retention_s: How long settled messages and their history are kept.
        history_bytes: Most bytes of them, beyond those that are on their way.
        dead_letter_retention_s: How long dead letters are kept.
        conversation_ttl_s: How long a conversation may be silent; then no message is accepted into it.
        conversation_lifetime_s: How old a conversation may get; then no message is accepted into it.
        peer_window: Most unsettled messages towards one agent of a peer.
        link_window_bytes: Most bytes towards one peer that are not received yet.
        routing: Who gets a message.
        breaker: Who is left alone.
    """

    max_message_bytes: Annotated[Bytes, Field(le=4 * 1024**2)] = 1024**2
    mailbox_capacity: Count = 1000
    outbox_capacity: Count = 10_000
    backlog_capacity: Count = 1_000_000
    backlog_bytes: Bytes = Field(default=2 * 1024**3, alias="backlog_limit")
    blob_bytes: Annotated[Bytes, Field(ge=BLOB_LIMIT_BYTES)] = Field(default=1024**3, alias="blobs_limit")
    blob_unused_s: Seconds = Field(default=3600.0, alias="blobs_unused")
    inbox_capacity: Count = 10_000
    delivery_timeout_s: Seconds = Field(default=30.0, alias="delivery_timeout")
    default_ttl_s: Annotated[Seconds, Field(le=TTL_LIMIT_S)] = Field(default=3600.0, alias="default_ttl")
    max_attempts: Count = 10
    retry_initial_s: Seconds = Field(default=0.2, alias="retry_initial")
    retry_max_s: Seconds = Field(default=30.0, alias="retry_max")
    retention_s: Seconds = Field(default=86_400.0, alias="retention")
    history_bytes: Annotated[Bytes, Field(ge=16 * 1024**2)] = Field(default=1024**3, alias="history_limit")
    dead_letter_retention_s: Seconds = Field(default=7 * 86_400.0, alias="dead_letter_retention")
    conversation_ttl_s: Seconds = Field(default=86_400.0, alias="conversation_ttl")
    conversation_lifetime_s: Seconds = Field(default=7 * 86_400.0, alias="conversation_lifetime")
    peer_window: Count = 1024
    link_window_bytes: Bytes = Field(default=8 * 1024**2, alias="link_window")
    routing: RoutingConfig = RoutingConfig()
    breaker: BreakerConfig = BreakerConfig()

    @model_validator(mode="after")
    def _windows_fit(self) -> MessagingConfig:
        if self.retry_initial_s > self.retry_max_s:
            raise ValueError("retry_initial must not be above retry_max")
        if self.link_window_bytes < self.max_message_bytes:
            raise ValueError("link_window must not be below max_message_bytes")
        return self


class RuntimeConfig(Section):
    """Agents.

    Attributes:
        max_agents: Most agents on this node.
        agent_timeout_s: Longest handling of one message, where the agent sets none.
        agent_concurrency: Conversations that one agent works on at once.
    """

    max_agents: Count = 1000
    agent_timeout_s: Seconds = Field(default=30.0, alias="agent_timeout")
    agent_concurrency: Count = 8


class WebhooksConfig(Section):
    """Where others are told, over HTTP, of what happens here.

    Attributes:
        require_https: Whether webhooks need https; in dev mode this machine does not.
        allowed_networks: Networks that webhooks may lead to although their addresses are not public.
        max_attempts: Attempts before a delivery is dead.
    """

    require_https: bool = True
    allowed_networks: Networks = ()
    max_attempts: Annotated[Count, Field(le=20)] = 8


class LoggingConfig(Section):
    """Log records.

    Attributes:
        level: The least severity that is written.
        format: ``text`` for people, ``json`` for collectors.
        file: Where to write; standard error if absent.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    file: Path | None = None

    @field_validator("level", mode="before")
    @classmethod
    def _any_case(cls, level: Any) -> Any:
        return level.lower() if isinstance(level, str) else level


class TracingConfig(Section):
    """OpenTelemetry spans.

    Attributes:
        enabled: Whether spans are recorded.
        service_name: The resource attribute ``service.name``.
        sample_rate: Part of the traces started here that are recorded.
        otlp_endpoint: OTLP/HTTP collector that spans are sent to (``http://host:4318/v1/traces``); needs
            the extra ``otlp``. Without one, spans only carry their context on.
    """

    enabled: bool = False
    service_name: Text = "caxton"
    sample_rate: Share = 1.0
    otlp_endpoint: Text | None = None


class ObservabilityConfig(Section):
    """What the node tells about itself."""

    logging: LoggingConfig = LoggingConfig()
    tracing: TracingConfig = TracingConfig()


class NodeConfig(Section):
    """The whole configuration of one node; see each section."""

    server: ServerConfig = ServerConfig()
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    security: SecurityConfig = SecurityConfig()
    storage: StorageConfig
    messaging: MessagingConfig = MessagingConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    llm: LlmConfig = LlmConfig()
    memory: MemoryConfig = MemoryConfig()
    tools: ToolsConfig = ToolsConfig()
    webhooks: WebhooksConfig = WebhooksConfig()
    observability: ObservabilityConfig = ObservabilityConfig()

    @model_validator(mode="before")
    @classmethod
    def _edge_is_durable(cls, data: Any) -> Any:
        """Edge boxes lose power without warning, so their default is the durability that survives it."""
        if not isinstance(data, dict):
            return data
        cluster, storage = data.get("cluster"), data.get("storage")
        if isinstance(cluster, dict) and cluster.get("profile") == "edge" and isinstance(storage, dict):
            return data | {"storage": {"durability": "full"} | storage}
        return data
