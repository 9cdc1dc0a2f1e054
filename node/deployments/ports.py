"""What the deployments need of the rooms around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from node.agents.blueprint import Blueprint
from node.agents.deployed import AgentInfo
from node.blobs.tables import Row
from node.message import Attachment
from swim.map_events import MapEvent
from swim.partition import Partition


class Cluster(Protocol):
    """The part of membership that is needed here (``node.cluster.membership.Membership``)."""

    watchers: list[Callable[[Sequence[MapEvent]], None]]

    @property
    def joined(self) -> bool:
        """Whether the cluster has answered."""
        ...

    def alive_nodes(self) -> list[str]:
        """The nodes that are up, this one included."""
        ...

    def partition(self) -> Partition:
        """On which side of a partition this node is."""
        ...

    def flush(self) -> None:
        """Hand on what changed in the maps."""
        ...

    async def save(self) -> None:
        """Write what the maps hold to disk."""
        ...


class Agents(Protocol):
    """The part of the supervisor that is needed here (``node.agents.supervisor.AgentSupervisor``)."""

    async def examine(
        self, content: bytes, filename: str, files: Mapping[str, bytes], name: str | None, workspace: str
    ) -> Blueprint:
        """Read an agent, and change nothing."""
        ...

    async def deploy(
        self,
        content: bytes,
        *,
        filename: str,
        artifacts: Mapping[str, bytes],
        name: str | None,
        workspace: str,
        deployment: str,
    ) -> AgentInfo:
        """Deploy a replica."""
        ...

    async def start(self, agent: str) -> AgentInfo:
        """Bring one that waits, or has failed, into service."""
        ...

    async def delete(self, agent: str, *, grace_s: float, replica: bool) -> None:
        """Let one finish, and remove it."""
        ...

    def replicas(self) -> dict[str, tuple[str, str, str]]:
        """The replicas here: what each runs, its status, and why that is ``error``."""
        ...

    def knows(self, name: str) -> bool:
        """Whether an agent has this id."""
        ...


class Packages(Protocol):
    """The part of the blobs that is needed here (``node.messaging.blobs.Blobs``)."""

    also_needed: Callable[[], set[str]]

    async def keep(self, data: bytes) -> str:
        """Have content here as a blob; returns its digest."""
        ...

    async def is_here(self, digest: str) -> bool:
        """Whether a blob is here as a whole."""
        ...

    async def content(self, digest: str) -> bytes | None:
        """The content of a blob that is here."""
        ...

    async def drop(self, digests: Sequence[str]) -> None:
        """Let go of blobs."""
        ...

    async def fetch(self, origin: str, attachment: Attachment) -> Row:
        """Have a blob here, from another node."""
        ...
