"""The gate above every backend: what it refuses before, and withholds after."""

from types import SimpleNamespace

import pytest

from node.errors import InvariantViolation, MemoryBackendFailed, ScopeDenied
from node.memory.backends.gate import ScopeGate, covers
from node.memory.exporting import Part
from node.memory.graph import Graph, Node, Path, Walk
from node.memory.model import EntityDraft, Realm, RelationDraft, Scope
from node.memory.question import Question
from node.memory.records import Outcome
from node.memory.scopes import EVERYWHERE, REPLICA, Aim, for_agent
from node.memory.search import Found, Hit

ADA, BOB = for_agent("ada", ["lab"]), for_agent("bob", ["shop"])
MINE, HERS = Realm(Scope.AGENT, "ada"), Realm(Scope.AGENT, "bob")


class Leaky:
    """Answers everybody with the same entity, and notes that it was asked."""

    def __init__(self, entity):
        self.entity, self.asked = entity, []

    def __getattr__(self, name):
        async def answer(*_, **__):
            self.asked.append(name)
            hit = Hit(self.entity, 1.0, 1.0, {}, {})
            node = Node(self.entity, 0)
            return {
                "search": Found((hit,), 1),
                "get": self.entity,
                "entities": [self.entity],
                "walk": Graph((node,), ()),
                "path": Path((node,), ()),
                "counts": {self.entity.realm: (1, 1, 1)},
            }[name]

        return answer

    def statistics(self):
        return {}

    def export(self, viewer, aim, *, vectors):
        line = {"memory_scope": self.entity.realm.scope.label, "owner": self.entity.realm.owner}

        async def relations():
            return [line]

        async def entities():
            return [Part(line, [], first=True, last=True)]

        return SimpleNamespace(entities=entities, relations=relations)


@pytest.fixture
async def hers(memory):
    await memory.remember(BOB, HERS, [EntityDraft("secret", "thing"), EntityDraft("other", "thing")])
    await memory.relate(BOB, HERS, [RelationDraft("secret", "other", "knows")])
    return await memory.get(BOB, "secret")


ASK = {
    "search": lambda gate, viewer: gate.search(viewer, Question("secret")),
    "get": lambda gate, viewer: gate.get(viewer, "secret"),
    "entities": lambda gate, viewer: gate.entities(viewer),
    "walk": lambda gate, viewer: gate.walk(viewer, "secret", Walk()),
    "path": lambda gate, viewer: gate.path(viewer, "secret", "secret", Walk()),
    "counts": lambda gate, viewer: gate.counts(viewer),
    "exported entities": lambda gate, viewer: gate.export(viewer).entities(),
    "exported relations": lambda gate, viewer: gate.export(viewer).relations(),
}


@pytest.mark.parametrize("verb", ASK)
async def test_an_answer_with_something_of_others_is_withheld(hers, verb):
    gate = ScopeGate(Leaky(hers))
    with pytest.raises(MemoryBackendFailed) as caught:
        await ASK[verb](gate, ADA)
    assert "secret" not in str(caught.value)
    assert "bob" not in str(caught.value)
    assert gate.statistics()["answers_withheld"] == 1
    await ASK[verb](gate, BOB)


async def test_a_relation_of_others_is_withheld_with_its_entity(hers):
    shown = hers._replace(realm=MINE)
    with pytest.raises(MemoryBackendFailed):
        await ScopeGate(Leaky(shown)).get(ADA, "secret")
    assert await ScopeGate(Leaky(shown._replace(relations=()))).get(ADA, "secret")


async def test_more_than_was_aimed_at_is_withheld(hers):
    with pytest.raises(MemoryBackendFailed):
        await ScopeGate(Leaky(hers)).get(BOB, "secret", aim=Aim(Scope.GLOBAL))


async def test_what_aims_at_others_never_reaches_the_backend(hers):
    leaky = Leaky(hers)
    gate, aim = ScopeGate(leaky), Aim(Scope.AGENT, "bob")
    for attempt in (
        lambda: gate.remember(ADA, HERS, []),
        lambda: gate.relate(ADA, HERS, []),
        lambda: gate.search(ADA, Question("x", aim=aim)),
        lambda: gate.get(ADA, "x", aim=aim),
        lambda: gate.entities(ADA, aim=aim),
        lambda: gate.walk(ADA, "x", Walk(aim=aim)),
        lambda: gate.path(ADA, "x", "y", Walk(aim=aim)),
        lambda: gate.forget(ADA, "x", aim=aim),
        lambda: gate.clear(ADA, aim),
        lambda: gate.counts(ADA, aim),
    ):
        with pytest.raises(ScopeDenied):
            await attempt()
    with pytest.raises(ScopeDenied):
        gate.export(ADA, aim)
    for attempt in (
        lambda: gate.record(REPLICA, ["obs_1"], Outcome.USED),
        lambda: gate.forget_observation(REPLICA, "obs_1"),
    ):
        with pytest.raises(InvariantViolation):
            await attempt()
    assert leaky.asked == []


@pytest.mark.parametrize(
    ("aim", "realm", "meant"),
    [
        (EVERYWHERE, HERS, True),
        (Aim(Scope.AGENT), HERS, True),
        (Aim(Scope.WORKSPACE), HERS, False),
        (Aim(Scope.AGENT, "ada"), HERS, False),
        (Aim(owner="bob"), HERS, True),
        (Aim(owner="bob"), Realm(Scope.GLOBAL), True),
        (Aim(Scope.GLOBAL, "bob"), Realm(Scope.GLOBAL), True),
        (Aim(owner="ada"), HERS, False),
    ],
)
def test_an_aim_covers_some_realms(aim, realm, meant):
    assert covers(aim, realm) is meant
