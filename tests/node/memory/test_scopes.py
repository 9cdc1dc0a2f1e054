import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import node.memory
from node.environment import system_environment
from node.errors import CaxtonError, EntityNotFound, InvariantViolation, ScopeDenied, ValidationFailed
from node.memory.graph import Walk
from node.memory.model import EntityDraft, ObservationDraft, Period, Realm, RelationDraft, Scope, Timing
from node.memory.question import Question
from node.memory.records import Outcome
from node.memory.schema import MEMORY
from node.memory.scopes import OPERATOR, Aim, Scoped, Viewer, for_agent
from node.memory.store import MemoryStore
from node.storage import Storage
from tests.node.memory.stand_in import WordEmbedder

ADA, BOB = for_agent("ada", ["lab"]), for_agent("bob", ["shop"])
REALMS = {
    "ada": Realm(Scope.AGENT, "ada"),
    "lab": Realm(Scope.WORKSPACE, "lab"),
    "bob": Realm(Scope.AGENT, "bob"),
    "shop": Realm(Scope.WORKSPACE, "shop"),
    "world": Realm(Scope.GLOBAL),
}
OWN = {"ada": ADA, "lab": ADA, "bob": BOB, "shop": BOB, "world": BOB}
EVERYTHING = Period(Timing.ALL)
WORDS = ["tea", "uji", "green", "kettle", "secret"]

facts = st.lists(
    st.tuples(st.sampled_from(sorted(REALMS)), st.sampled_from(WORDS), st.sampled_from(WORDS)),
    min_size=1,
    max_size=12,
)


async def fill(memory, told):
    ids = {}
    for place, name, word in told:
        draft = EntityDraft(name, "thing", (ObservationDraft(f"{word} of {place}"),), {"word": word})
        [stored] = await memory.remember(OWN[place], REALMS[place], [draft])
        ids.setdefault(place, []).append((name, stored.entity_id, stored.observation_ids[0]))
    for place, found in list(ids.items()):
        for (one, *_), (other, *_) in pairwise(found):
            [related] = await memory.relate(OWN[place], REALMS[place], [RelationDraft(one, other, "knows")])
            ids.setdefault(f"{place} relations", []).append(related.relation_id)
    return ids


async def seen(memory, viewer):
    """All that the questions of a viewer are answered with."""
    answers = []
    for word in [*WORDS, "of bob", "secret shop green"]:
        for question in (
            Question(word, limit=50),
            Question(word, period=EVERYTHING, relations=True, limit=50),
        ):
            found = await memory.search(viewer, question)
            answers.append((found.total, found.terms, [without_ids(hit.as_json()) for hit in found.hits]))
    listed = [without_ids(each.as_json()) for each in await memory.entities(viewer)]
    answers.append(sorted(listed, key=lambda each: (each["entity_name"], each["memory_scope"])))
    answers.append(sorted((await memory.counts(viewer)).items()))
    for name in WORDS:
        try:
            answers.append(without_ids((await memory.get(viewer, name, period=EVERYTHING)).as_json()))
            graph = await memory.walk(viewer, name, Walk(observations=True, period=EVERYTHING))
            answers.append(without_ids(graph.as_json()))
        except EntityNotFound as error:
            answers.append(str(error))
        for other in WORDS:
            try:
                path = await memory.path(viewer, name, other, Walk(period=EVERYTHING))
                answers.append(path and without_ids(path.as_json()))
            except EntityNotFound as error:
                answers.append(str(error))
    return answers


def without_ids(value):
    """An answer without ids, which are drawn anew in every memory."""
    if isinstance(value, dict):
        return {key: without_ids(each) for key, each in value.items() if not key.endswith(("_id", "_by"))}
    if isinstance(value, list):
        return [without_ids(each) for each in value]
    return value


def in_memories(tmp_path_factory, *tasks):
    """Run each task with a memory of its own, under a clock that stands."""

    async def main():
        results = []
        for task in tasks:
            environment = system_environment()
            object.__setattr__(environment, "clock", _Standing())
            path = tmp_path_factory.mktemp("memory") / "memory.db"
            storage = Storage.open(path, durability="normal", environment=environment, design=MEMORY)
            try:
                results.append(await task(MemoryStore(storage, WordEmbedder(), environment, node="n1")))
            finally:
                storage.close()
        return results

    return trio.run(main)


class _Standing:
    def wall(self):
        return 1_800_000_000.0

    def now(self):
        return 0.0


_settings = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@_settings
@given(facts)
def test_what_others_remember_changes_no_answer(tmp_path_factory, told):
    own = [fact for fact in told if fact[0] in ("ada", "lab", "world")]

    async def with_others(memory):
        await fill(memory, told)
        return await seen(memory, ADA)

    async def alone(memory):
        await fill(memory, own)
        return await seen(memory, ADA)

    one, other = in_memories(tmp_path_factory, with_others, alone)
    assert one == other


@_settings
@given(facts)
def test_nothing_of_others_can_be_changed_or_told_from_what_is_not_there(tmp_path_factory, told):
    async def task(memory):
        ids = await fill(memory, told)
        before = await seen(memory, BOB)
        for place in ("bob", "shop"):
            for name, entity, observation in ids.get(place, []):
                for call in (
                    memory.get(ADA, entity),
                    memory.walk(ADA, entity, Walk()),
                    memory.path(ADA, entity, entity, Walk()),
                    memory.forget(ADA, entity),
                    memory.forget_observation(ADA, observation),
                    memory.supersede(ADA, observation, ObservationDraft("mine")),
                    memory.record(ADA, [observation], Outcome.ACCEPTED),
                ):
                    with pytest.raises(EntityNotFound) as refused:
                        await call
                    assert name not in str(refused.value)
            for relation in ids.get(f"{place} relations", []):
                with pytest.raises(EntityNotFound):
                    await memory.forget_relation(ADA, relation)
            aim = Aim(REALMS[place].scope, REALMS[place].owner)
            draft = EntityDraft("tea", "other type", (ObservationDraft("mine"),))
            for call in (
                memory.remember(ADA, REALMS[place], [draft], key="k"),
                memory.relate(ADA, REALMS[place], [RelationDraft("tea", "uji", "knows")]),
                memory.search(ADA, Question("tea", aim=aim)),
                memory.get(ADA, "tea", aim=aim),
                memory.entities(ADA, aim=aim),
                memory.walk(ADA, "tea", Walk(aim=aim)),
                memory.path(ADA, "tea", "uji", Walk(aim=aim)),
                memory.clear(ADA, aim),
                memory.forget(ADA, "tea", aim=aim),
                memory.counts(ADA, aim),
            ):
                with pytest.raises(ScopeDenied):
                    await call
        assert await memory.clear(ADA, Aim(owner="bob")) == len(
            {name for place, name, _ in told if place == "world"}
        )
        await memory.clear(ADA, Aim())
        return before, await seen(memory, BOB), told

    [(before, after, told)] = in_memories(tmp_path_factory, task)
    if not any(place == "world" for place, _, _ in told):
        assert before == after


def test_every_public_method_is_tried_above():
    public = {name for name in vars(MemoryStore) if not name.startswith("_")}
    assert public == {
        "clear",
        "counts",
        "entities",
        "export",
        "forget",
        "forget_observation",
        "forget_relation",
        "get",
        "path",
        "record",
        "relate",
        "remember",
        "search",
        "statistics",
        "storage",
        "supersede",
        "vectors",
        "walk",
    }, "a new method belongs into the two tests above"


async def test_an_operator_sees_and_clears_everything(memory):
    await fill(memory, [(place, "tea", "green") for place in REALMS])
    assert len(await memory.entities(OPERATOR)) == 5
    assert (await memory.search(OPERATOR, Question("green"))).total == 5
    found = await memory.search(OPERATOR, Question("green", aim=Aim(Scope.AGENT)))
    assert {hit.entity.realm.owner for hit in found.hits} == {"ada", "bob"}
    assert await memory.clear(OPERATOR, Aim(Scope.AGENT, "bob")) == 1
    assert await memory.clear(OPERATOR, Aim()) == 4


async def test_a_statement_that_evades_the_scope_is_refused_before_sqlite_sees_it(memory):
    def attempt(connection):
        scoped = Scoped(connection, ADA)
        for sql in (
            "SELECT * FROM entities",
            "SELECT * FROM {entities} e JOIN observations o ON o.entity = e.key",
            "SELECT * FROM words WHERE words MATCH 'tea'",
            "SELECT * FROM vectors_1 JOIN {observations} USING (key)",
            "SELECT * FROM realms JOIN {entities}",
            "SELECT 1",
        ):
            with pytest.raises(InvariantViolation):
                scoped.rows(sql)
        with pytest.raises(InvariantViolation):
            scoped.change("DELETE FROM entities WHERE key = 1")
        with pytest.raises(InvariantViolation):
            scoped.insert("entities", 99, {})

    await memory.storage.read(attempt)


def test_no_other_module_talks_to_sqlite():
    """The gate, indexes (keys only), schema and logs have connections; others have what the gate gives.

    So have those that keep the file as a whole, or note which rows a server has not heard of: they show
    numbers of rows, and nothing of what is in them.
    """
    allowed = {"scopes.py", "indexes.py", "schema.py", "oplog.py", "proofs.py"}
    allowed |= {"checking.py", "repairing.py", "outbox.py"}
    folder = Path(node.memory.__file__).parent
    for path in sorted([*folder.glob("*.py"), *folder.glob("*/*.py"), *folder.glob("backends/*/*.py")]):
        tree = ast.parse(path.read_text())
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            name = ast.unparse(call.func)
            if path.name not in allowed and re.search(r"\.execute(many)?$", name):
                assert "PRAGMA" in ast.unparse(call), f"{path.name}:{call.lineno} goes past the gate"


@pytest.mark.parametrize("workspaces", [["w"] * 65, ["a\x00"], [""]])
def test_a_viewer_of_no_form_is_refused(workspaces):
    with pytest.raises(CaxtonError):
        Viewer(agent="ada", workspaces=tuple(workspaces))


def test_scopes_have_aliases_and_others_are_refused():
    assert [Scope.parse(text) for text in ("agent-only", "AGENT_ONLY", "agent", "workspace", "global")] == [
        *[Scope.AGENT] * 3,
        Scope.WORKSPACE,
        Scope.GLOBAL,
    ]
    with pytest.raises(ValidationFailed, match="globl"):
        Scope.parse("globl")
