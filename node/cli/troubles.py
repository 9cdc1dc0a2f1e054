"""What of all that a node counts speaks of trouble, in words, and where one goes on from there.

Counters of load (waiting, refused for a full inbox, moved to somebody else) are none: a busy node has them,
and what becomes of it is in here. A counter is looked up by its way through ``GET /status``; one that a node
of another version does not have counts as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple


class Trouble(NamedTuple):
    """One kind of trouble.

    Args:
        ways: Where it is counted in the status, from room to room, ``*`` for all that are in one; what is
            found is added up, and so is all that is counted below it.
        what: It, after its number.
        look: The command, or the page of the documentation, that tells more.
        now: Whether it is so now; else it has happened since the node started.
        state: The word that is counted, where the ways lead to words.
    """

    ways: tuple[str, ...]
    what: str
    look: str
    now: bool = False
    state: str = ""


TROUBLES: Final = (
    Trouble(("membership.swim.members_dead",), "members are dead", "caxton members", now=True),
    Trouble(("membership.swim.members_suspect",), "members are suspected", "caxton members", now=True),
    Trouble(
        ("membership.swim.paths_lost",),
        "members are not reached directly",
        "caxton members --unreachable",
        True,
    ),
    Trouble(("rooms.agents.by_status.error",), "agents are in error", "caxton logs AGENT", now=True),
    Trouble(
        ("messaging.outbox.breakers_open",),
        "agents or nodes fail and are left",
        "caxton status --json",
        True,
    ),
    Trouble(
        ("rooms.llm.providers.*.breaker.state",),
        "language models fail",
        "caxton llm show",
        True,
        state="open",
    ),
    Trouble(
        ("rooms.tools.external.*.state",), "tool servers are down", "caxton tool list", True, state="waiting"
    ),
    Trouble(
        ("rooms.agents.approvals.parked",), "calls of tools wait for you", "caxton approvals list", now=True
    ),
    Trouble(("rooms.webhooks.breakers_open",), "receivers of webhooks fail", "docs/api.md", now=True),
    Trouble(
        ("messaging.dead_letters.count",),
        "dead letters are kept",
        "caxton dead-letters list",
        True,
    ),
    Trouble(("messaging.outbox.failed",), "messages have failed", "caxton dead-letters list"),
    Trouble(("messaging.outbox.expired",), "messages were not handled in time", "caxton dead-letters list"),
    Trouble(("messaging.expectations.reply_timeouts",), "replies have not come in time", "caxton tail"),
    Trouble(("messaging.handlers.raised",), "messages have made an agent fail", "caxton logs"),
    Trouble(("messaging.inbox.poison",), "messages of peers were not readable", "the node's log"),
    Trouble(("messaging.blobs.corrupt",), "attachments have arrived damaged", "the node's log"),
    Trouble(("rooms.tools.failed",), "calls of tools have failed", "caxton tool list"),
    Trouble(("rooms.tools.refused",), "calls of tools were not permitted", "caxton tool list"),
    Trouble(("rooms.deployments.failed",), "replicas did not start here", "caxton deployments"),
    Trouble(("rooms.deployments.missing",), "packages of replicas were missing", "caxton deployments"),
    Trouble(
        ("rooms.webhooks.dead", "rooms.webhooks.missed"),
        "deliveries of webhooks failed",
        "docs/api.md",
    ),
    Trouble(
        (
            "rooms.storage.jobs_failed",
            "rooms.storage.groups_failed",
            "rooms.memory.jobs_failed",
            "rooms.memory.groups_failed",
        ),
        "writes to the disk have failed",
        "the node's log",
    ),
    Trouble(
        ("membership.memory.failures", "membership.keys.failures"),
        "notes on the cluster were not kept",
        "the node's log",
    ),
    Trouble(("membership.swim.stalls",), "times the node has stood still", "docs/performance.md"),
    Trouble(("rooms.links.rejects",), "links of peers were refused", "the node's log"),
    Trouble(
        ("membership.swim.dropped_network_not_allowed",),
        "packets came from strange networks",
        "cluster.allowed_networks",
    ),
    Trouble(
        (
            "membership.swim.events_bad_signature",
            "membership.swim.queries_bad_signature",
            "membership.swim.keyring_requests_bad_signature",
            "membership.registry.malformed_entries",
            "membership.reachability.malformed_entries",
            "membership.spending.malformed",
            "rooms.memory.replication.malformed",
            "rooms.deployments.malformed",
        ),
        "statements were not believed",
        "the node's log",
    ),
    Trouble(
        ("rooms.security.refused", "rooms.security.authority_refused"),
        "tokens or keys were refused",
        "docs/operations.md",
    ),
    Trouble(("http.failed",), "requests have met a bug", "the node's log"),
    Trouble(("rooms.tracing.spans_failed",), "spans were not exported", "the node's log"),
)
"""What is shown, the gravest first."""


def troubles_of(status: Mapping[str, Any]) -> Iterator[tuple[int, Trouble]]:
    """Each trouble that a node has, or has had, with its number.

    Args:
        status: What ``GET /status`` answers.
    """
    for trouble in TROUBLES:
        found = [value for way in trouble.ways for value in _led_to(status, way.split("."))]
        number = found.count(trouble.state) if trouble.state else sum(map(_counted, found))
        if number > 0:
            yield number, trouble


def _led_to(found: Any, way: Sequence[str]) -> Iterator[Any]:
    """All that a way leads to; nothing where it breaks off."""
    if not way:
        yield found
    elif isinstance(found, Mapping):
        inside = found.values() if way[0] == "*" else [found[way[0]]] if way[0] in found else []
        for value in inside:
            yield from _led_to(value, way[1:])


def _counted(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_counted, value.values()))
    return value if isinstance(value, int) else 0
