"""How a node does, as one page for people: what it is, what is under way, its agents, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from node.cli.output import print_table, safe
from node.cli.troubles import troubles_of

AGENTS_SHOWN: Final = 20
"""Most agents on the page; those that do not run come first."""
NODES_SHOWN: Final = 3
"""Most nodes that are named for what is not settled with them."""
CAPABILITIES_SHOWN: Final = 48
"""Characters for what an agent offers."""


def show_page(found: Mapping[str, Any], *, agents_shown: int = AGENTS_SHOWN) -> None:
    """Print the page.

    Args:
        found: What ``GET /status`` answers, and the ``agents`` of ``GET /agents``.
        agents_shown: Most agents on it.
    """
    uptime = _span(found.get("uptime", 0))
    state = f"{found.get('status')}{'' if found.get('ready', True) else ', not ready yet'}"
    click.echo(safe(f"{found.get('node')}: {state}, up {uptime}, version {found.get('version')}"))
    for name, text in _lines(found):
        click.echo(safe(f"  {name:<11}{text}"))
    _show_agents(found["agents"], _number(found, "rooms.agents.agents"), agents_shown)
    _show_troubles(found)


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is said in a line each, as far as the node tells it."""
    partition = found.get("partition") or {}
    of = f": {partition.get('up')} of {partition.get('remembered')} members are up" if partition else ""
    yield "cluster", f"{found.get('partition_state')}{of}"
    outbox = _at(found, "messaging.outbox")
    if isinstance(outbox, Mapping):
        handled = _number(found, "messaging.handlers.handled")
        yield "messages", _under_way(outbox)
        yield "so far", f"{outbox.get('accepted', 0):,} accepted here, {handled:,} handled here"
    unsettled = found.get("unsettled_by_node") or {}
    if unsettled:
        yield "unsettled", _unsettled(unsettled)
    storage = _at(found, "rooms.storage")
    if isinstance(storage, Mapping):
        yield "disk", f"{_size(storage.get('bytes', 0))}, log {_size(storage.get('wal_bytes', 0))}"
    memory = _at(found, "rooms.memory")
    if isinstance(memory, Mapping):
        yield "memory", _memory(memory)
    llm = _at(found, "rooms.llm.default")
    if llm:
        yield "model", f"{llm}"


def _under_way(outbox: Mapping[str, Any]) -> str:
    told = [f"{outbox.get('open', 0):,} of {outbox.get('open_limit', 0):,} under way"]
    told += [f"{outbox['waiting']:,} without a provider"] if outbox.get("waiting") else []
    told += [f"{outbox['backlog']:,} for who is away"] if outbox.get("backlog") else []
    return ", ".join(told)


def _unsettled(unsettled: Mapping[str, int]) -> str:
    most = sorted(unsettled.items(), key=lambda entry: (-entry[1], entry[0]))
    named = ", ".join(f"{number} with {node}" for node, number in most[:NODES_SHOWN])
    more = len(most) - NODES_SHOWN
    return named + (f", and {more} more nodes" if more > 0 else "")


def _memory(memory: Mapping[str, Any]) -> str:
    if memory.get("embedding_error"):
        return f"searched by words only: {memory['embedding_error']}"
    if memory.get("upkeep", {}).get("reembedding", {}).get("state") == "running":
        return "being embedded with another model: see `caxton memory reembed`"
    if not memory.get("open", True):
        return f"{_size(memory.get('bytes', 0))}, not opened since the start"
    counted = f"{memory.get('stored', 0)} stored here, {memory.get('searches', 0)} searches"
    return f"{_size(memory.get('bytes', 0) + memory.get('wal_bytes', 0))}, {counted}"


def _show_agents(agents: list[dict[str, Any]], number: int, shown: int) -> None:
    if not agents:
        click.echo("\nNo agent is deployed here: caxton deploy FILE")
        return
    first = sorted(agents, key=lambda agent: agent.get("status") == "running")[:shown]
    click.echo()
    rows = [
        (a.get("id") or a.get("name"), a.get("status"), _offered(a.get("capabilities", []))) for a in first
    ]
    print_table("Agents", ("agent", "status", "offers"), rows)
    more = max(number, len(agents)) - len(first)
    if more > 0:
        click.echo(f"and {more} more")


def _offered(capabilities: list[str]) -> str:
    """As many of them as there is room for."""
    text = ", ".join(capabilities)
    return text if len(text) <= CAPABILITIES_SHOWN else text[: CAPABILITIES_SHOWN - 1] + "…"


def _show_troubles(found: Mapping[str, Any]) -> None:
    rows = [
        (number, trouble.what, "now" if trouble.now else "so far", trouble.look)
        for number, trouble in troubles_of(found)
    ]
    click.echo()
    if rows:
        print_table("Troubles", ("", "trouble", "when", "see"), rows)
    else:
        click.echo("No troubles so far.")


def _at(found: Any, way: str) -> Any:
    for name in way.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _number(found: Mapping[str, Any], way: str) -> int:
    value = _at(found, way)
    return value if isinstance(value, int) else 0


def _span(seconds: float) -> str:
    """A time in the two units that matter."""
    total = int(seconds)
    for unit, name, below, low in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if total >= unit:
            return f"{total // unit} {name} {total % unit // below} {low}"
    return f"{total} s"


def _size(number: float) -> str:
    for unit, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number:.0f} bytes"
