"""What the routes of the cluster need of membership, as protocols: the rooms below know nothing of HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from swim.keyring_messages import Verb


class Rendered(Protocol):
    """Anything that knows its own form in the public API."""

    def as_json(self) -> dict[str, Any]:
        """JSON values only."""
        ...


class PartitionView(Protocol):
    """On which side of a partition a node finds itself (``swim.partition.Partition``)."""

    @property
    def side(self) -> str:
        """Majority, minority or isolated."""
        ...

    @property
    def up(self) -> int:
        """Members that are up, this one included."""
        ...

    @property
    def remembered(self) -> int:
        """All members that count, this one included."""
        ...


class Keys(Protocol):
    """The verbs of ``cluster.keyring.GossipKeys`` that HTTP calls."""

    async def list(self, *, timeout_s: float) -> Rendered:
        """Ask every member which keys it holds."""
        ...

    async def install(self, *, timeout_s: float) -> Rendered:
        """Make a new key and have every member accept it."""
        ...

    async def change(self, verb: Verb, wanted: str, *, timeout_s: float, force: bool = False) -> Rendered:
        """Have every member use or remove a key."""
        ...


class UserTraffic(Protocol):
    """The verbs of ``cluster.user_traffic.UserTraffic`` that HTTP calls."""

    def fire(self, name: str, payload: str) -> Mapping[str, Any]:
        """Announce something to every node."""
        ...

    async def ask(
        self, name: str, payload: str, *, nodes: Sequence[str] = (), timeout_s: float | None = None
    ) -> Mapping[str, Any]:
        """Ask the nodes."""
        ...

    def recent_events(self) -> Sequence[Mapping[str, Any]]:
        """The latest user events, oldest first."""
        ...


class Forgetting(Protocol):
    """The verb of ``cluster.forgetting.Forgetting``."""

    async def forget(self, name: str, *, force: bool = False) -> None:
        """Have all count a lost member no more; raises MemberNotFound, ForgetRefused, StorageFailed."""
        ...


class Revocations(Protocol):
    """The verbs of ``cluster.revocations.Revocations``."""

    def all(self) -> Sequence[Rendered]:
        """Every revocation known."""
        ...

    async def revoke(self, encoded: bytes) -> Rendered:
        """Take a revocation and tell it to all; raises RevocationInvalid, StorageFailed."""
        ...


class Members(Protocol):
    """The verbs of ``cluster.membership.Membership`` that HTTP calls."""

    @property
    def keys(self) -> Keys:
        """The gossip keys of the cluster."""
        ...

    @property
    def traffic(self) -> UserTraffic:
        """User events and queries."""
        ...

    @property
    def forgetting(self) -> Forgetting:
        """Members that are lost for good."""
        ...

    @property
    def revocations(self) -> Revocations:
        """Keys that count no more."""
        ...

    def members(self) -> Sequence[Rendered]:
        """All members known."""
        ...

    def why(self, name: str) -> Rendered:
        """Why a member is held for what it is; raises MemberNotFound."""
        ...

    def unreachable(self) -> Mapping[str, Any]:
        """Who cannot reach whom directly, and the paths this node has lost."""
        ...

    def partition(self) -> PartitionView:
        """Whether this node sees a majority, and of how many."""
        ...

    def away(self) -> Sequence[str]:
        """The members that count and are not up, sorted."""
        ...

    @property
    def joined(self) -> bool:
        """Whether a seed has answered, or none was given."""
        ...

    def recent_events(self) -> Sequence[Mapping[str, Any]]:
        """What happened to the membership lately, oldest first."""
        ...

    def statistics(self) -> Mapping[str, Any]:
        """Counts and sizes."""
        ...
