"""``caxton memory``: look at what agents remember, add to it, forget; :mod:`.memory_upkeep` keeps it."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from node.cli.client import Client, find_target, segment
from node.cli.errors import UsageFailed
from node.cli.memory_migrate import migrate
from node.cli.memory_options import agent_option, asked, scope_option, workspace_option
from node.cli.memory_upkeep import COMMANDS
from node.cli.options import Where, node_options
from node.cli.output import print_json, print_table, safe

CALL_S: Final = 120.0
"""Longest time for one call that embeds or forgets much, in seconds."""
_TEXT: Final = 100
"""Characters of an observation that a table shows."""

_types = click.option("--types", metavar="A,B", help="Only entities of these types; of graph, relations.")
_time = click.option("--all-time", is_flag=True, help="Also what no longer holds.")


@click.group("memory", epilog="For example: caxton memory search 'what does the customer prefer?'")
def command() -> None:
    """Search, show, add to, forget or keep what agents remember."""


@command.command("search", epilog="For example: caxton memory search 'green tea' --types drink --limit 3")
@click.argument("query", metavar="TEXT")
@agent_option
@workspace_option
@scope_option
@_types
@_time
@click.option("--limit", type=click.IntRange(1, 100), default=10, show_default=True, help="Most results.")
@click.option("--offset", type=click.IntRange(0, 400), default=0, help="Results to leave out.")
@click.option("--min-similarity", type=click.FloatRange(0, 1), help="Least cosine of every result.")
@click.option("--max-tokens", type=click.IntRange(1), help="Budget of all texts, in tokens of a model.")
@node_options
def search(
    query: str,
    agent: str | None,
    workspace: str | None,
    scope: str | None,
    types: str | None,
    all_time: bool,
    limit: int,
    offset: int,
    min_similarity: float | None,
    max_tokens: int | None,
    as_json: bool,
    where: Where,
) -> None:
    """Search by meaning, words and names, the best first."""
    target = find_target(where)
    with Client(target) as client:
        found = client.get(
            "/memory/search",
            query=query,
            **asked(agent, workspace, scope),
            entity_types=types,
            temporal_filter="all" if all_time else None,
            limit=limit,
            offset=offset,
            min_similarity=min_similarity,
            max_tokens=max_tokens,
        )
    if as_json:
        print_json(found)
        return
    how = "" if found["by_meaning"] else ", by words only"
    click.echo(f"{len(found['results'])} of {found['total_results']} results{how}")
    if found["results"]:
        columns = ("score", "similarity", "entity", "type", "scope", "what is known", "found by")
        print_table("Memory", columns, [_hit_row(hit) for hit in found["results"]])


@command.command("show", epilog="For example: caxton memory show 'Green tea', or caxton memory show")
@click.argument("entity", metavar="[NAME]", required=False)
@agent_option
@workspace_option
@scope_option
@_types
@_time
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="Most entities.")
@node_options
def show(
    entity: str | None,
    agent: str | None,
    workspace: str | None,
    scope: str | None,
    types: str | None,
    all_time: bool,
    limit: int,
    as_json: bool,
    where: Where,
) -> None:
    """Show an entity by its name or id, or list entities."""
    target = find_target(where)
    place = asked(agent, workspace, scope)
    with Client(target) as client:
        if entity is None:
            found = client.get("/memory/entities", **place, entity_types=types, limit=limit)
        else:
            period = "all" if all_time else None
            found = client.get(f"/memory/entities/{segment(entity)}", **place, temporal_filter=period)
    if as_json:
        print_json(found)
    elif entity is None:
        rows = [
            (
                each["entity_name"],
                each["entity_type"],
                _place(each),
                each["observation_count"],
                each["updated_at"],
            )
            for each in found["entities"]
        ]
        print_table("Entities", ("name", "type", "scope", "observations", "changed"), rows)
    else:
        _show(found)


@command.command(
    "add", epilog="For example: caxton memory add 'Green tea' drink 'is grown in Uji' --scope global"
)
@click.argument("entity", metavar="NAME")
@click.argument("entity_type", metavar="TYPE")
@click.argument("observations", metavar="[TEXT]...", nargs=-1)
@agent_option
@workspace_option
@scope_option
@click.option("--to", "target_entity", metavar="NAME", help="Relate it to this entity; TYPE is that of both.")
@click.option("--relation", metavar="TYPE", help="How it relates to the entity of --to.")
@click.option("--strength", type=click.FloatRange(0, 1), help="Of the relation.")
@node_options
def add(
    entity: str,
    entity_type: str,
    observations: tuple[str, ...],
    agent: str | None,
    workspace: str | None,
    scope: str | None,
    target_entity: str | None,
    relation: str | None,
    strength: float | None,
    as_json: bool,
    where: Where,
) -> None:
    """Store an entity with what is known about it, and relate it to another.

    Without --scope it is agent-only where --agent names its owner, workspace where --workspace does, and
    global else.
    """
    if (target_entity is None) != (relation is None):
        raise UsageFailed("a relation needs its type and its other end", fix="Give --relation and --to.")
    place = _given(asked(agent, workspace, scope or _own_scope(agent, workspace)))
    body = {"entity_name": entity, "entity_type": entity_type, "observations": list(observations)}
    target = find_target(where)
    with Client(target) as client:
        stored = client.call("POST", "/memory/entities", body=body | place, wait_s=CALL_S)
        if relation is not None:
            ends = {"from_entity": entity, "to_entity": target_entity, "relation_type": relation}
            related = client.call(
                "POST", "/memory/relations", body=ends | place | _given({"strength": strength})
            )
            stored |= {"relation": related}
    if as_json:
        print_json(stored)
        return
    known = stored["observation_count"] - stored["observations_added"]
    text = f"{stored['entity_name']} ({stored['entity_id']}): {stored['observations_added']} added"
    click.echo(safe(text + (f", {known} known before" if known else "")))
    if not stored["embedding_generated"]:
        click.echo("Without vectors: it is found by its words only.", err=True)


@command.command(
    "forget", epilog="For example: caxton memory forget 'Green tea', or --agent helper --all --yes"
)
@click.argument("entity", metavar="[NAME]", required=False)
@agent_option
@workspace_option
@scope_option
@click.option("--observation", metavar="ID", help="Only this observation.")
@click.option("--relation", metavar="ID", help="Only this relation.")
@click.option("--all", "everything", is_flag=True, help="All that --agent remembers for itself.")
@click.option("--yes", is_flag=True, help="Forget --all without asking.")
@node_options
def forget(
    entity: str | None,
    agent: str | None,
    workspace: str | None,
    scope: str | None,
    observation: str | None,
    relation: str | None,
    everything: bool,
    yes: bool,
    as_json: bool,
    where: Where,
) -> int:
    """Forget for good: an entity, one observation, one relation, or all of an agent."""
    if sum(map(bool, (entity, observation, relation, everything))) != 1:
        raise UsageFailed(
            "say what to forget: a NAME, --observation, --relation, or --all of an --agent",
            fix="For example: caxton memory forget 'Green tea'.",
        )
    if everything and agent is None:
        raise UsageFailed("--all forgets what one agent remembers", fix="Name it with --agent.")
    if everything and not yes and not _confirmed(as_json=as_json):
        click.echo("Nothing was forgotten.")
        return 1
    place = asked(agent, workspace, scope)
    if everything:
        path, place = f"/memory/{segment(str(agent))}", {"confirm": True}
    elif observation is not None:
        path = f"/memory/observations/{segment(observation)}"
    elif relation is not None:
        path = f"/memory/relations/{segment(relation)}"
    else:
        path = f"/memory/entities/{segment(str(entity))}"
    target = find_target(where)
    with Client(target) as client:
        gone = client.call("DELETE", path, query=place, wait_s=CALL_S)
    if as_json:
        print_json(gone or {"forgotten": entity or observation or relation})
    else:
        click.echo("forgotten" if gone is None else f"{gone['deleted_entities']} entities forgotten")
    return 0


@command.command("graph", epilog="For example: caxton memory graph 'Green tea' --depth 2")
@click.argument("entity", metavar="NAME")
@agent_option
@workspace_option
@scope_option
@_types
@click.option("--depth", type=click.IntRange(0, 10), default=3, show_default=True, help="How far to walk.")
@click.option("--min-strength", type=click.FloatRange(0, 1), help="Least strength of a relation.")
@click.option("--direction", type=click.Choice(["out", "in", "both"]), help="Which way; both by default.")
@click.option("--depth-first", is_flag=True, help="Tell each entity with what follows from it.")
@click.option("--to", "target_entity", metavar="NAME", help="Only the shortest way to this entity.")
@node_options
def graph(
    entity: str,
    agent: str | None,
    workspace: str | None,
    scope: str | None,
    types: str | None,
    depth: int,
    min_strength: float | None,
    direction: str | None,
    depth_first: bool,
    target_entity: str | None,
    as_json: bool,
    where: Where,
) -> int:
    """Walk from an entity along its relations, or to another entity."""
    target = find_target(where)
    how: dict[str, Any] = {
        **asked(agent, workspace, scope),
        "relation_types": types,
        "max_depth": depth,
        "min_strength": min_strength,
        "direction": direction,
        "traversal_strategy": "depth_first" if depth_first else None,
    }
    path = f"/memory/graph/{segment(entity)}"
    with Client(target) as client:
        if target_entity is None:
            found = client.get(path, **how)
            drawn, cut = found["graph"], found["traversal_stats"]["truncated"]
        else:
            found = client.get(f"{path}/path", **how, to=target_entity)
            drawn, cut = found, False
    missing = target_entity is not None and not found["found"]
    if as_json:
        print_json(found)
    elif missing:
        click.echo(f"There is no way of at most {depth} relations.")
    else:
        _draw(drawn)
        if cut:
            click.echo("There is more: a bound on entities or relations was reached.", err=True)
    return 1 if missing else 0


@command.command("stats", epilog="For example: caxton memory stats --json")
@node_options
def stats(
    as_json: bool,
    where: Where,
) -> None:
    """Show what the memory holds, by scope and owner, and what it costs."""
    target = find_target(where)
    with Client(target) as client:
        found = client.get("/memory/stats")
    if as_json:
        print_json(found)
        return
    room = found["room"]
    click.echo(
        f"{found['entities']} of {room['entities_limit']} entities, {found['observations']} observations,"
        f" {found['relations']} relations, {room['bytes']} bytes"
    )
    if room.get("embedding_error"):
        click.echo(safe(f"By words only: {room['embedding_error']}"), err=True)
    if found["scopes"]:
        columns = ("scope", "owner", "entities", "observations", "relations")
        rows = [
            (
                each["memory_scope"],
                each["owner"] or "-",
                each["entities"],
                each["observations"],
                each["relations"],
            )
            for each in found["scopes"]
        ]
        print_table("Scopes", columns, rows)
    if found.get("replication"):
        _show_replication(found["replication"])


def _show_replication(told: dict[str, Any]) -> None:
    digest = told["digest"][:16] if told["digest"] else "nothing is shared"
    click.echo(f"\nShared operations: {told['operations']} (logs: {told['logs']}), digest {digest}")
    for node, why in sorted(told["stalled"].items()):
        click.echo(safe(f"Not followed for now: {node} ({why})"), err=True)
    rows = [
        (
            peer,
            each["behind"],
            "-" if each["is_behind"] is None else each["is_behind"],
            "yes" if each["in_step"] else "no",
            each["refused"],
        )
        for peer, each in sorted(told["peers"].items())
    ]
    if rows:
        print_table("Partners", ("node", "ahead of us", "behind us", "in step", "refused"), rows)


for _verb in (*COMMANDS, migrate):
    command.add_command(_verb)


def _own_scope(agent: str | None, workspace: str | None) -> str:
    """Where something is stored when nobody says so."""
    if workspace is not None:
        return "workspace"
    return "global" if agent is None else "agent-only"


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _confirmed(*, as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        raise UsageFailed(
            "forgetting all of an agent must be confirmed", why="there is nobody to ask", fix="Add --yes."
        )
    return click.confirm("What is forgotten is gone for good. Go on?", err=True)


def _place(entity: dict[str, Any]) -> str:
    owner = entity["owner"]
    return entity["memory_scope"] if owner is None else f"{entity['memory_scope']} ({owner})"


def _hit_row(hit: dict[str, Any]) -> tuple[object, ...]:
    similarity = "-" if hit["similarity_score"] is None else f"{hit['similarity_score']:.2f}"
    text = hit["observations"][0]["text"] if hit["observations"] else "-"
    shown = text if len(text) <= _TEXT else text[: _TEXT - 3] + "..."
    why = ", ".join(f"{name} {reason['rank']}" for name, reason in sorted(hit["why"].items()))
    name, kind = hit["entity_name"], hit["entity_type"]
    return f"{hit['score']:.2f}", similarity, name, kind, _place(hit), shown, why


def _show(entity: dict[str, Any]) -> None:
    head = f"{entity['entity_name']} ({entity['entity_type']}), {_place(entity)}, version {entity['version']}"
    click.echo(safe(f"{head}\n{entity['entity_id']}, changed {entity['updated_at']}"))
    columns = ("observation", "since", "until", "text")
    rows = [
        (
            each["observation_id"],
            each["valid_from"] or each["created_at"],
            each["valid_to"] or "-",
            each["text"],
        )
        for each in entity["observations"]
    ]
    if rows:
        click.echo()
        print_table("What is known", columns, rows)
    _show_relations(entity["relations"])
    if len(rows) < entity["observation_count"]:
        click.echo(f"{entity['observation_count']} observations in all, past ones included")


def _show_relations(relations: list[dict[str, Any]]) -> None:
    if relations:
        click.echo()
        columns = ("relation", "from", "how", "to", "strength")
        rows = [
            (
                each["relation_id"],
                each["from_entity"],
                each["relation_type"],
                each["to_entity"],
                each["strength"],
            )
            for each in relations
        ]
        print_table("Relations", columns, rows)


def _draw(found: dict[str, Any]) -> None:
    names = {node["entity_id"]: node["entity_name"] for node in found["nodes"]}
    for node in found["nodes"]:
        click.echo(safe(f"{'  ' * node['depth']}{node['entity_name']} ({node['entity_type']})"))
    rows = [
        (names[edge["from_entity_id"]], edge["relation_type"], names[edge["to_entity_id"]], edge["strength"])
        for edge in found["edges"]
    ]
    if rows:
        click.echo()
        print_table("Relations", ("from", "how", "to", "strength"), rows)
