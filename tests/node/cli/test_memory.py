"""caxton memory, against a node that answers what it was told to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.node.cli.conftest import FakeNode, Shell
from tests.node.cli.test_members import rows

ENTITY: dict[str, Any] = {
    "entity_id": "ent_1",
    "entity_name": "tea",
    "entity_type": "drink",
    "memory_scope": "agent-only",
    "owner": "ada",
    "version": 3,
    "updated_at": "2026-01-01T00:00:00.000Z",
    "observation_count": 2,
    "observations": [
        {
            "observation_id": "obs_1",
            "text": "is \x1b[2Jgreen",
            "valid_from": None,
            "valid_to": None,
            "created_at": "2026-01-01T00:00:00.000Z",
        }
    ],
    "relations": [
        {
            "relation_id": "rel_1",
            "from_entity": "tea",
            "to_entity": "uji",
            "relation_type": "grown_in",
            "strength": 0.5,
        }
    ],
}
HIT = ENTITY | {"score": 0.5, "similarity_score": None, "why": {"words": {"rank": 1}, "name": {"rank": 2}}}


def test_results_are_shown_with_their_reasons(node: FakeNode, shell: Shell) -> None:
    found = {"results": [HIT], "total_results": 7, "by_meaning": False}
    node.answers["GET", "/memory/search"] = 200, found
    assert shell("memory", "search", "green tea", "--agent", "ada", "--types", "drink", "--all-time") == 0
    assert rows(shell)[0] == ["1 of 7 results, by words only"]
    assert rows(shell)[2][2:5] == ["tea", "drink", "agent-only (ada)"]
    assert rows(shell)[2][-1] == "name 2, words 1"
    assert "\x1b" not in shell.out
    assert node.requests[-1][1] == (
        "/memory/search?query=green+tea&agent_id=ada&entity_types=drink&temporal_filter=all&limit=10&offset=0"
    )
    assert shell.json("memory", "search", "x")["total_results"] == 7


def test_entities_are_listed_and_one_is_shown(node: FakeNode, shell: Shell) -> None:
    node.answers["GET", "/memory/entities"] = 200, {"entities": [ENTITY], "next": None}
    assert shell("memory", "show") == 0
    assert rows(shell)[-1][:4] == ["tea", "drink", "agent-only (ada)", "2"]
    node.answers["GET", "/memory/entities/green%20tea"] = 200, ENTITY
    assert shell("memory", "show", "green tea") == 0
    assert "tea (drink), agent-only (ada), version 3" in shell.out
    assert "grown_in" in shell.out
    assert "2 observations in all" in shell.out
    assert "\x1b" not in shell.out


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ((), {"memory_scope": "global"}),
        (("--agent", "ada"), {"agent_id": "ada", "memory_scope": "agent-only"}),
        (("--workspace", "lab"), {"workspace": "lab", "memory_scope": "workspace"}),
        (("--agent", "ada", "--scope", "global"), {"agent_id": "ada", "memory_scope": "global"}),
    ],
)
def test_an_entity_is_added_where_it_belongs(
    node: FakeNode, shell: Shell, options: tuple[str, ...], place: dict[str, str]
) -> None:
    stored = {
        "entity_id": "ent_1",
        "entity_name": "tea",
        "observation_count": 2,
        "observations_added": 1,
        "embedding_generated": False,
    }
    node.answers["POST", "/memory/entities"] = 201, stored
    assert shell("memory", "add", "tea", "drink", "is green", "is hot", *options) == 0
    assert "tea (ent_1): 1 added, 1 known before" in shell.out
    assert "by its words only" in shell.err
    body = {"entity_name": "tea", "entity_type": "drink", "observations": ["is green", "is hot"]}
    assert node.requests[-1][2] == body | place


def test_a_relation_is_added_with_both_ends(node: FakeNode, shell: Shell) -> None:
    stored = {
        "entity_id": "ent_1",
        "entity_name": "tea",
        "observation_count": 0,
        "observations_added": 0,
        "embedding_generated": True,
    }
    node.answers["POST", "/memory/entities"] = 201, stored
    node.answers["POST", "/memory/relations"] = 201, {"relation_id": "rel_1"}
    found = shell.json("memory", "add", "tea", "drink", "--to", "uji", "--relation", "grown_in")
    assert found["relation"] == {"relation_id": "rel_1"}
    assert node.requests[-1][2] == {
        "from_entity": "tea",
        "to_entity": "uji",
        "relation_type": "grown_in",
        "memory_scope": "global",
    }
    assert shell("memory", "add", "tea", "drink", "--to", "uji") == 2


def test_things_are_forgotten_one_way_at_a_time(node: FakeNode, shell: Shell) -> None:
    for path in ("/memory/entities/tea", "/memory/observations/obs_1", "/memory/relations/rel_1"):
        node.answers["DELETE", path] = 204, b""
    assert shell("memory", "forget", "tea", "--agent", "ada") == 0
    assert node.requests[-1][:2] == ("DELETE", "/memory/entities/tea?agent_id=ada")
    assert shell("memory", "forget", "--observation", "obs_1") == 0
    assert shell("memory", "forget", "--relation", "rel_1") == 0
    assert shell("memory", "forget") == 2
    assert shell("memory", "forget", "tea", "--observation", "obs_1") == 2
    asked = len(node.requests)
    assert shell("memory", "forget", "--all", "--yes") == 2
    assert shell("memory", "forget", "--all", "--agent", "ada") == 2
    assert len(node.requests) == asked
    node.answers["DELETE", "/memory/ada"] = 200, {"deleted_entities": 4}
    assert shell("memory", "forget", "--all", "--agent", "ada", "--yes") == 0
    assert "4 entities forgotten" in shell.out
    assert node.requests[-1][1] == "/memory/ada?confirm=true"


def test_a_walk_is_drawn_and_a_way_that_is_not_there_is_told(node: FakeNode, shell: Shell) -> None:
    nodes = [
        {"entity_id": "ent_1", "entity_name": "tea", "entity_type": "drink", "depth": 0},
        {"entity_id": "ent_2", "entity_name": "uji", "entity_type": "town", "depth": 1},
    ]
    edge = {
        "from_entity_id": "ent_1",
        "to_entity_id": "ent_2",
        "relation_type": "grown_in",
        "strength": 0.5,
    }
    walk = {"graph": {"nodes": nodes, "edges": [edge]}, "traversal_stats": {"truncated": True}}
    node.answers["GET", "/memory/graph/tea"] = 200, walk
    assert shell("memory", "graph", "tea", "--depth-first") == 0
    assert "\n  uji (town)" in shell.out
    assert "a bound" in shell.err
    assert node.requests[-1][1] == "/memory/graph/tea?max_depth=3&traversal_strategy=depth_first"
    node.answers["GET", "/memory/graph/tea/path"] = 200, {"found": False}
    assert shell("memory", "graph", "tea", "--to", "mars") == 1
    assert "no way of at most 3" in shell.out
    node.answers["GET", "/memory/graph/tea/path"] = 200, {"found": True, "nodes": nodes, "edges": [edge]}
    assert shell("memory", "graph", "tea", "--to", "uji") == 0


def test_the_memory_tells_what_it_holds(node: FakeNode, shell: Shell) -> None:
    scope = {"memory_scope": "global", "owner": None, "entities": 1, "observations": 2, "relations": 3}
    room = {"entities_limit": 9, "bytes": 77, "embedding_error": "no model"}
    node.answers["GET", "/memory/stats"] = (
        200,
        {"entities": 1, "observations": 2, "relations": 3, "scopes": [scope], "room": room},
    )
    assert shell("memory", "stats") == 0
    assert "1 of 9 entities, 2 observations, 3 relations, 77 bytes" in shell.out
    assert rows(shell)[-1] == ["global", "-", "1", "2", "3"]
    assert "no model" in shell.err


def test_the_memory_tells_how_far_partners_are(node: FakeNode, shell: Shell) -> None:
    partner = {"behind": 3, "is_behind": None, "in_step": False, "refused": 1, "repairs": 0}
    replication = {
        "digest": "ab" * 16,
        "operations": 12,
        "logs": 2,
        "stalled": {"n3": "clock"},
        "peers": {"n2": partner, "n4": partner | {"behind": 0, "is_behind": 0, "in_step": True}},
    }
    node.answers["GET", "/memory/stats"] = (
        200,
        {
            "entities": 1,
            "observations": 2,
            "relations": 3,
            "scopes": [],
            "room": {"entities_limit": 9, "bytes": 77},
            "replication": replication,
        },
    )
    assert shell("memory", "stats") == 0
    assert f"Shared operations: 12 (logs: 2), digest {'ab' * 8}" in shell.out
    assert rows(shell)[-2:] == [["n2", "3", "-", "no", "1"], ["n4", "0", "0", "yes", "1"]]
    assert "n3 (clock)" in shell.err
