"""What a user may have meant who addressed nobody: a name like it, and where the names are listed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from node.cli.client import Client
from node.cli.errors import Refused
from node.errors import NodeUnreachable, ValidationFailed, nearest

LISTED: Final = "`caxton status --cluster` lists who offers what."
NAMED_LIMIT: Final = 3
"""Most names in one hint."""


def near_capability(client: Client, wanted: str) -> str:
    """A hint for a capability that nobody offers; empty where the node does not tell what is offered.

    Args:
        client: The node to ask.
        wanted: What was asked for, with or without a version.
    """
    agents = _agents(client)
    if agents is None:
        return ""
    offered = {name for _, capabilities in agents.values() for name in capabilities}
    plain = wanted.partition(":")[0]
    guess = nearest(plain, offered)
    if plain in offered:
        return f"{plain!r} is offered in other versions. {LISTED}"
    if plain in agents:
        return f"{plain!r} is an agent; it offers {_some(agents[plain][1])}. {LISTED}"
    guess = nearest(plain, offered)
    if guess is not None:
        return f"Did you mean {guess!r}? {LISTED}"
    return f"Nothing of a name like it is offered. {LISTED}" if offered else "No agent offers anything yet."


def near_agent(client: Client, wanted: str) -> str:
    """A hint for an agent that is not there; empty where the node does not tell who is.

    Args:
        client: The node to ask.
        wanted: Who was asked for: ``name`` or ``name@node``.
    """
    agents = _agents(client)
    if agents is None:
        return ""
    name, at, node = wanted.partition("@")
    found = _same(name, agents)
    if found is not None:
        where = agents[found][0]
        if at and node not in where:
            return f"{found!r} runs on {_some(where)}: write --to {found}, or --to {found}@{min(where)}."
        return f"Did you mean '{found}{at}{node}'? {LISTED}" if found != name else LISTED
    if any(name in capabilities for _, capabilities in agents.values()):
        return f"{name!r} is a capability: write --capability {name}. {LISTED}"
    guess = nearest(name, agents)
    if guess is not None:
        place = f"@{min(agents[guess][0])}" if at else ""
        return f"Did you mean '{guess}{place}'? {LISTED}"
    there = {agent for agent, (nodes, _) in agents.items() if (node or name) in nodes}
    if there:
        return f"{(node or name)!r} is a node; its agents are {_some(there)}. {LISTED}"
    return f"No agent has a name like it. {LISTED}" if agents else "No agent is there yet."


def unknown_node(client: Client, receiver: str) -> str:
    """That the node of ``name@node`` is no member of the cluster; empty when it is one, or none is named."""
    _, _, node = receiver.partition("@")
    if not node:
        return ""
    try:
        members = [member["name"] for member in client.get("/cluster/members")["members"]]
    except (Refused, NodeUnreachable, KeyError, TypeError):
        return ""
    if node in members:
        return ""
    guess = nearest(node, members)
    return f"no member of the cluster is called {node!r}" + (f"; there is {guess!r}" if guess else "")


def _agents(client: Client) -> dict[str, tuple[set[str], set[str]]] | None:
    """Agent -> its nodes and what it offers, or None where the node does not say."""
    try:
        listed = client.get("/capabilities")["capabilities"]
        found: dict[str, tuple[set[str], set[str]]] = {}
        for entry in listed:
            for provider in entry["providers"]:
                nodes, capabilities = found.setdefault(provider["agent"], (set(), set()))
                nodes.add(provider["node"])
                capabilities.add(entry["capability"])
    except (Refused, NodeUnreachable, KeyError, TypeError):
        return None  # a hint that cannot be had is no second error
    return found


def _same(name: str, agents: dict[str, Any]) -> str | None:
    """The agent of a name, which may be written as in its file (``DataAnalyzer``)."""
    if name in agents:
        return name
    from node.agents.definition import normalise_name  # noqa: PLC0415 - loads YAML, and only a failure needs it

    try:
        found = normalise_name(name)
    except ValidationFailed:
        return None
    return found if found in agents else None


def _some(names: Collection[str]) -> str:
    more = len(names) - NAMED_LIMIT
    return ", ".join(sorted(names)[:NAMED_LIMIT]) + (f" and {more} more" if more > 0 else "")
