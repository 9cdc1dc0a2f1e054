import pytest

from node.errors import CaxtonError, EntityNotFound
from node.memory.graph import Direction, Order, Walk
from node.memory.model import EntityDraft, ObservationDraft, Period, Realm, RelationDraft, Scope, Timing
from node.memory.scopes import for_agent

ADA = for_agent("ada")
HERS = Realm(Scope.AGENT, "ada")


async def draw(memory, *edges):
    """Relations written as ``a knows b``, with a strength where one follows."""
    drafts = []
    for edge in edges:
        source, kind, target, *strength = edge.split()
        both = kind.endswith("=")
        drafts.append(
            RelationDraft(source, target, kind.rstrip("="), *map(float, strength), bidirectional=both)
        )
    ends = sorted({end for draft in drafts for end in (draft.source, draft.target)})
    for at in range(0, len(ends), 100):
        some = ends[at : at + 100]
        await memory.remember(ADA, HERS, [EntityDraft(e, "n", (ObservationDraft(f"is {e}"),)) for e in some])
    for at in range(0, len(drafts), 1000):
        await memory.relate(ADA, HERS, drafts[at : at + 1000])


def nodes(graph):
    return [(node.entity.name, node.depth) for node in graph.nodes]


async def test_a_walk_goes_level_by_level_the_strongest_first(memory):
    await draw(memory, "a knows b 0.2", "a knows c 0.9", "b knows d", "d knows e", "c knows e")
    graph = await memory.walk(ADA, "a", Walk(depth=2))
    assert nodes(graph) == [("a", 0), ("c", 1), ("b", 1), ("d", 2), ("e", 2)]
    assert [node.depth for node in graph.nodes] == sorted(node.depth for node in graph.nodes)
    assert nodes(await memory.walk(ADA, "a", Walk(depth=1))) == [("a", 0), ("c", 1), ("b", 1)]
    assert nodes(await memory.walk(ADA, "a", Walk(depth=0))) == [("a", 0)]
    shown = (await memory.walk(ADA, "a", Walk(depth=3, observations=True))).as_json()
    assert shown["traversal_stats"]["nodes_visited"] == 5
    assert shown["traversal_stats"]["relation_types"] == {"knows": 5}
    assert shown["graph"]["nodes"][0]["observations"][0]["text"] == "is a"


async def test_depth_first_tells_the_same_in_another_order(memory):
    await draw(memory, "a knows b 0.9", "a knows c 0.8", "b knows d", "c knows e")
    graph = await memory.walk(ADA, "a", Walk(order=Order.DEPTH))
    assert [name for name, _ in nodes(graph)] == ["a", "b", "d", "c", "e"]
    other = await memory.walk(ADA, "a", Walk())
    assert sorted(nodes(graph)) == sorted(nodes(other))
    assert graph.edges == other.edges


async def test_direction_types_and_strength_choose_the_relations(memory):
    await draw(memory, "a knows b 0.9", "c knows a 0.9", "a owns d 0.9", "a knows e 0.1", "f likes= a 0.9")
    ask = lambda **more: memory.walk(ADA, "a", Walk(**more))  # noqa: E731
    names = lambda graph: {name for name, _ in nodes(graph)}  # noqa: E731
    assert names(await ask(direction=Direction.OUT)) == {"a", "b", "d", "e", "f"}
    assert names(await ask(direction=Direction.IN)) == {"a", "c", "f"}
    assert names(await ask()) == {"a", "b", "c", "d", "e", "f"}
    assert names(await ask(types=("owns", "likes"))) == {"a", "d", "f"}
    assert names(await ask(min_strength=0.5, types=("knows",))) == {"a", "b", "c"}


async def test_circles_end(memory):
    await draw(memory, "a knows b", "b knows c", "c knows a", "a knows a")
    graph = await memory.walk(ADA, "a", Walk(depth=10))
    assert len(graph.nodes) == 3
    assert len(graph.edges) == 4


async def test_bounds_on_nodes_and_edges_cut_and_say_so(memory):
    await draw(memory, *(f"a knows n{n} {n / 100}" for n in range(50)))
    graph = await memory.walk(ADA, "a", Walk(nodes=11))
    assert len(graph.nodes) == 11
    assert graph.cut
    assert nodes(graph)[1] == ("n49", 1)
    assert graph.as_json()["traversal_stats"]["truncated"]
    graph = await memory.walk(ADA, "a", Walk(edges=7))
    assert len(graph.edges) == 7
    assert graph.cut
    assert not (await memory.walk(ADA, "a", Walk(edges=50))).cut


async def test_relations_that_ended_are_walked_only_in_the_past(memory):
    await draw(memory, "a knows b 0.5")
    await draw(memory, "a knows b 0.6")
    assert len((await memory.walk(ADA, "a", Walk())).edges) == 1
    assert len((await memory.walk(ADA, "a", Walk(period=Period(Timing.ALL)))).edges) == 2


async def test_a_shortest_way_is_found_and_told(memory):
    await draw(memory, "a knows b", "b knows c", "c knows d", "a owns x", "d owns x")
    path = await memory.path(ADA, "a", "d", Walk(depth=5))
    assert [node.entity.name for node in path.nodes] == ["a", "x", "d"]
    assert [edge.type for edge in path.edges] == ["owns", "owns"]
    only = await memory.path(ADA, "a", "d", Walk(depth=5, types=("knows",), direction=Direction.OUT))
    assert [node.entity.name for node in only.nodes] == ["a", "b", "c", "d"]
    assert only.as_json()["length"] == 3
    assert await memory.path(ADA, "a", "d", Walk(depth=2, types=("knows",))) is None
    assert await memory.path(ADA, "d", "a", Walk(direction=Direction.OUT, types=("knows",))) is None
    here = await memory.path(ADA, "a", "a", Walk())
    assert (len(here.nodes), here.edges) == (1, ())


async def test_a_walk_from_nowhere_is_refused(memory):
    with pytest.raises(EntityNotFound):
        await memory.walk(ADA, "nobody", Walk())
    await draw(memory, "a knows b")
    with pytest.raises(EntityNotFound):
        await memory.path(ADA, "a", "nobody", Walk())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Walk(depth=11),
        lambda: Walk(depth=-1),
        lambda: Walk(nodes=0),
        lambda: Walk(nodes=2_001),
        lambda: Walk(edges=10_001),
        lambda: Walk(min_strength=float("nan")),
        lambda: Walk(types=("t",) * 33),
    ],
)
def test_a_walk_without_bounds_is_refused(make):
    with pytest.raises(CaxtonError):
        make()
