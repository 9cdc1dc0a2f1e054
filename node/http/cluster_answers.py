"""What the routes of the cluster answer: members, paths, gossip keys, user events and queries."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from node.http.answer import Answer
from node.http.answers import PartitionState, PartitionView, Time


class MemberView(Answer):
    """One member, with what else is known of it."""

    model_config = ConfigDict(extra="allow")

    name: str
    state: str


class MembersBody(Answer):
    """All members this node knows."""

    node: str
    partition_state: PartitionState
    partition: PartitionView
    members: list[MemberView]
    away: Annotated[list[str], Field(description="Who counts and is not up, also those not shown any more.")]


class ForgottenBody(Answer):
    """A member that was given up, and what is counted without it."""

    node: str
    name: str
    partition_state: PartitionState
    partition: PartitionView


class RevokedView(Answer):
    """A key that counts no more."""

    name: Annotated[str, Field(description="Of the node whose key it is.")]
    key_id: Annotated[str, Field(description="Identifier of the key (RFC 5280, 4.2.1.2), in hexadecimal.")]
    since: Annotated[Time, Field(description="What the key has signed since then does not count.")]
    not_after: Annotated[Time, Field(description="When its certificate ends anyway.")]


class RevokedBody(RevokedView):
    """A revocation that was taken."""

    node: str


class RevocationsBody(Answer):
    """All keys that count no more."""

    node: str
    revocations: list[RevokedView]


class FindingView(Answer):
    """One thing that was found out about a member."""

    time: Time
    seconds_ago: float
    what: Annotated[str, Field(examples=["probe_failed", "suspected", "refuted", "dead"])]
    by: Annotated[str, Field(description="Who found it out.")]
    detail: Annotated[str, Field(description="For people: by which paths, after how long.")]


class WhyBody(Answer):
    """Why a member is held for what it is; ``member`` is null when it is not shown any more."""

    node: str
    name: str
    member: MemberView | None
    doubted_by: Annotated[list[str], Field(description="Who could not reach it, as far as told here.")]
    findings: Annotated[list[FindingView], Field(description="The oldest first.")]


class UnreachedView(Answer):
    """The members that one node cannot reach directly, as it says itself."""

    node: str
    cannot_reach: Annotated[list[str], Field(description="Their names, at most 32.")]
    count: Annotated[int, Field(description="How many they are.")]


class LostPathView(Answer):
    """A member that lives, and that no datagrams pass to from here or from there."""

    member: str
    reached_by: Annotated[str, Field(examples=["relay", "stream"])]
    since: Time
    seconds_ago: float


class ReachabilityBody(Answer):
    """Who cannot reach whom, by the word of every node that is up; and the paths this node has lost."""

    node: str
    unreachable: list[UnreachedView]
    lost_paths: list[LostPathView]


class KeyMemberView(Answer):
    """What one member did, and which keys it holds."""

    name: str
    ok: bool
    error: Annotated[str, Field(description="Why not; empty if it did.")]
    key_ids: Annotated[list[str] | None, Field(description="The first encrypts; null if it has not said.")]


class KeyView(Answer):
    """One gossip key, by its id: who holds it never shows it."""

    key_id: str
    held_by: Annotated[int, Field(description="How many members hold it.")]
    encrypts_for: Annotated[int, Field(description="How many of them encrypt with it.")]


class KeysBody(Answer):
    """How an operation on the cluster's gossip keys went, member by member."""

    node: str
    operation: Annotated[str, Field(examples=["list", "install", "use", "remove"])]
    key_id: Annotated[str | None, Field(description="The key in question; null for list.")]
    ok: Annotated[bool, Field(description="Whether every member that is up did what was asked.")]
    members: list[KeyMemberView]
    absent: Annotated[list[str], Field(description="Members that are away, and were not asked.")]
    keys: list[KeyView]


class UserEventBody(Answer):
    """What a node has announced."""

    name: str
    payload: str
    author: str
    lamport_time: Annotated[int, Field(description="Events sort by it, then by author, on every node alike.")]
    heard_at: Time


class UserEventsBody(Answer):
    """The latest user events that a node has fired or heard, oldest first."""

    node: str
    events: list[UserEventBody]


class AnswerView(Answer):
    """What one node has answered."""

    node: str
    answer: str


class QueryBody(Answer):
    """What came back in time."""

    node: str
    name: str
    finished: Annotated[bool, Field(description="Whether all who were named have answered, or time is up.")]
    answers: list[AnswerView]


class ClusterStatisticsBody(Answer):
    """What membership, the replicated maps and the rooms around them count."""

    node: str
    partition: PartitionView
    swim: dict[str, int]
    maps: dict[str, int]
    registry: dict[str, int]
    spending: dict[str, int]
    memory: dict[str, int]
    reachability: dict[str, int]
    keys: dict[str, int]
    traffic: dict[str, int]
    forgetting: dict[str, int]
    revocations: dict[str, int]


class ClusterBody(MembersBody):
    """The cluster at a glance."""

    joined: bool
    members_by_state: dict[str, int]
    agents_count: int
    capabilities: Annotated[dict[str, int], Field(description="How many agents offer each.")]
    unsettled_by_node: dict[str, int]
    events: list[dict[str, Any]]
