import numpy as np
import pytest

from node.errors import CaxtonError
from node.memory import search, words
from node.memory.graph import Walk
from node.memory.model import EntityDraft, ObservationDraft, Period, Realm, RelationDraft, Scope, Timing
from node.memory.question import Question, Weighing
from node.memory.records import MemorySettings, Outcome
from node.memory.scopes import Aim, for_agent
from node.memory.search import tokens

ADA = for_agent("ada")
HERS = Realm(Scope.AGENT, "ada")
NOW_S = 1_800_000_000.0


async def fill(memory, *told, **more):
    """Entities named by what comes before the colon."""
    stored = []
    for line in told:
        name, _, text = line.partition(": ")
        draft = EntityDraft(name, more.get("type", "note"), (ObservationDraft(text),), more.get("metadata"))
        stored += await memory.remember(ADA, HERS, [draft])
    return stored


def names(found):
    return [hit.entity.name for hit in found.hits]


def scores(found):
    return {hit.entity.name: hit.score for hit in found.hits}


async def test_a_hit_by_meaning_and_words_stands_first_and_says_why(memory):
    await fill(memory, "a: the kettle whistles", "b: green tea from uji", "c: the train to uji was late")
    found = await memory.search(ADA, Question("green tea from uji"))
    assert names(found)[0] == "b"
    best = found.hits[0]
    assert set(best.reasons) == {"meaning", "words"}
    assert best.reasons["meaning"].rank == best.reasons["words"].rank == 1
    assert set(best.reasons["words"].terms) >= {"green", "tea", "uji"}
    shown = best.as_json()
    assert shown["why"]["words"]["terms"] == list(best.reasons["words"].terms)
    assert shown["observations"][0]["similarity_score"] == shown["similarity_score"] == best.similarity
    assert 0.5 < best.similarity <= 1.0
    assert found.by_meaning
    assert not found.degraded


async def test_similarity_is_a_cosine_from_0_to_1(memory, embedder):
    await fill(memory, "a: green tea")
    told = (await embedder.embed(["a (note): green tea"]))[0]
    asked = (await embedder.embed(["green tea"]))[0]
    [hit] = (await memory.search(ADA, Question("green tea"))).hits
    assert hit.similarity == pytest.approx(float(told @ asked), abs=0.01)
    same = (await memory.search(ADA, Question("a (note): green tea"))).hits[0]
    assert same.similarity == pytest.approx(1.0, abs=0.01)


async def test_min_similarity_holds_for_every_hit_and_the_threshold_for_hits_by_meaning_alone(memory):
    await fill(memory, "a: green tea", "b: nothing of that kind at all but tea once")
    assert names(await memory.search(ADA, Question("green tea", min_similarity=0.6))) == ["a"]
    assert set(names(await memory.search(ADA, Question("green tea")))) == {"a", "b"}
    assert names(await memory.search(ADA, Question("green tea", min_similarity=1.0))) == []
    await fill(memory, "c: wholly unrelated words")
    assert "c" not in names(await memory.search(ADA, Question("green tea")))


async def test_words_are_found_in_other_forms(memory, embedder):
    await fill(memory, "a: she was running quickly")
    embedder.broken = True
    assert names(await memory.search(ADA, Question("runs"))) == ["a"]


async def test_an_entity_is_found_by_its_name_and_type(memory):
    await memory.remember(ADA, HERS, [EntityDraft("Uji Kanbayashi", "merchant")])
    found = await memory.search(ADA, Question("kanbayashi"))
    assert names(found) == ["Uji Kanbayashi"]
    assert found.hits[0].reasons["name"].rank == 1
    assert names(await memory.search(ADA, Question("merchants"))) == ["Uji Kanbayashi"]


@pytest.mark.parametrize(
    "text",
    [
        'tea" OR "kettle',
        "tea AND NOT kettle",
        "tea*",
        "text:tea",
        "NEAR(tea kettle, 2)",
        "^tea",
        "{tea}",
        "tea'); DROP TABLE words; --",
        "tea\x00kettle",
        "tea \ud800",
        "(((tea",
        "-tea +",
    ],
)
async def test_syntax_in_a_query_is_text(memory, text):
    await fill(memory, "a: tea", "b: kettle")
    assert "a" in names(await memory.search(ADA, Question(text)))


@pytest.mark.parametrize("text", ["?!", "\u3000.", "..."])
async def test_a_query_without_words_finds_nothing_and_fails_not(memory, text):
    await fill(memory, "a: tea")
    await memory.search(ADA, Question(text))


async def test_a_query_of_a_megabyte_is_cut(memory):
    await fill(memory, "a: tea")
    found = await memory.search(ADA, Question("tea " + "word " * 200_000))
    assert names(found) == ["a"]
    assert len(found.terms) <= words.TERMS_LIMIT


@pytest.mark.parametrize(
    "make",
    [
        lambda: Question(""),
        lambda: Question(" \n"),
        lambda: Question("x" * (1024**2 + 1)),
        lambda: Question("x", limit=0),
        lambda: Question("x", limit=101),
        lambda: Question("x", offset=-1),
        lambda: Question("x", offset=401),
        lambda: Question("x", min_similarity=float("nan")),
        lambda: Question("x", min_similarity=1.5),
        lambda: Question("x", max_tokens=-1),
        lambda: Question("x", types=("t",) * 33),
        lambda: Question("x", metadata={'a"b': 1}),
        lambda: Question("x", metadata={str(n): n for n in range(9)}),
        lambda: Weighing(recency=2.0),
        lambda: Weighing(half_life_s=0.0),
    ],
)
def test_a_bad_question_is_refused(make):
    with pytest.raises(CaxtonError):
        make()


async def test_filters_narrow_by_type_metadata_time_and_scope(memory, environment):
    await fill(memory, "a: tea", type="drink", metadata={"lang": "en", "page": 3})
    await fill(memory, "b: tea", type="plant", metadata={"lang": "ja", "page": 3.5, "old": True})
    await memory.remember(ADA, Realm(Scope.GLOBAL), [EntityDraft("c", "plant", (ObservationDraft("tea"),))])
    ask = lambda **more: memory.search(ADA, Question("tea", **more))  # noqa: E731
    assert set(names(await ask())) == {"a", "b", "c"}
    assert set(names(await ask(types=("plant",)))) == {"b", "c"}
    assert names(await ask(metadata={"lang": "en"})) == ["a"]
    assert names(await ask(metadata={"page": 3})) == ["a"]
    assert names(await ask(metadata={"old": True})) == ["b"]
    assert names(await ask(metadata={"lang": "en' OR 1"})) == []
    assert names(await ask(aim=Aim(Scope.GLOBAL))) == ["c"]
    [observation] = (await memory.get(ADA, "a")).observations
    environment.clock.wall_s += 100
    await memory.supersede(ADA, observation.id, ObservationDraft("coffee"))
    environment.clock.wall_s += 100
    assert set(names(await ask())) == {"b", "c"}
    assert set(names(await ask(period=Period(Timing.ALL)))) == {"a", "b", "c"}
    assert set(names(await ask(period=Period(Timing.RANGE, NOW_S, NOW_S + 50)))) == {"a", "b", "c"}
    assert set(names(await ask(period=Period(Timing.RANGE, NOW_S + 150, NOW_S + 160)))) == {"b", "c"}


async def test_pages_follow_each_other(memory):
    await fill(memory, *(f"e{n}: green tea number {n}" for n in range(25)))
    pages = [await memory.search(ADA, Question("green tea", limit=10, offset=at)) for at in (0, 10, 20)]
    found = [name for page in pages for name in names(page)]
    assert len(found) == len(set(found)) == 25
    assert [page.total for page in pages] == [25] * 3


async def test_an_entity_stands_once_with_its_best_observations(memory):
    texts = tuple(ObservationDraft(f"tea fact {n}") for n in range(9))
    await memory.remember(ADA, HERS, [EntityDraft("tea", "drink", (*texts, ObservationDraft("of trains")))])
    [hit] = (await memory.search(ADA, Question("tea fact 4"))).hits
    assert len(hit.entity.observations) == search.SHOWN
    assert hit.entity.observations[0].text == "tea fact 4"


async def test_a_budget_of_tokens_keeps_the_best_and_says_so(memory):
    await fill(memory, *(f"e{n}: green tea " + "and more " * 20 for n in range(5)))
    whole = await memory.search(ADA, Question("green tea"))
    cut = await memory.search(ADA, Question("green tea", max_tokens=120))
    assert not whole.cut
    assert cut.cut
    assert names(cut) == names(whole)[: len(cut.hits)]
    assert 0 < sum(tokens(o.text) for hit in cut.hits for o in hit.entity.observations) <= 120
    assert (await memory.search(ADA, Question("green tea", max_tokens=1))).hits == ()


async def test_relations_come_along_when_asked_for(memory):
    await fill(memory, "tea: is green", "uji: is a town")
    await memory.relate(ADA, HERS, [RelationDraft("tea", "uji", "grown_in")])
    [hit] = (await memory.search(ADA, Question("green", relations=True))).hits
    assert [(r.source, r.type, r.target) for r in hit.entity.relations] == [("tea", "grown_in", "uji")]
    [bare] = (await memory.search(ADA, Question("green"))).hits
    assert bare.entity.relations == ()


async def test_without_the_embedder_words_are_searched_and_the_answer_says_so(memory, embedder):
    await fill(memory, "a: green tea")
    embedder.broken = True
    found = await memory.search(ADA, Question("tea", min_similarity=0.9))
    assert names(found) == ["a"]
    assert (found.degraded, found.by_meaning, found.hits[0].similarity) == (True, False, None)
    assert memory.statistics()["searches_without_vectors"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        np.full((1, 384), np.nan, np.float32),
        np.full((1, 384), np.inf, np.float32),
        np.ones((1, 383), np.float32),
        np.ones((2, 384), np.float32),
        np.ones(384, np.float32),
    ],
)
async def test_vectors_of_no_form_are_not_stored_nor_compared(memory, embedder, answer):
    embedder.answer = answer
    [stored] = await fill(memory, "a: green tea")
    assert not stored.embedded
    assert (await memory.search(ADA, Question("tea"))).degraded


async def test_a_text_without_direction_is_found_by_its_words(memory, embedder):
    embedder.answer = np.zeros((1, 384), np.float32)
    await fill(memory, "a: green tea")
    embedder.answer = None
    found = await memory.search(ADA, Question("green"))
    assert names(found) == ["a"]
    assert found.hits[0].similarity == 0.0


async def test_recency_and_use_weigh_only_when_asked_for(memory, environment):
    await fill(memory, "old: green tea")
    environment.clock.wall_s += 90 * 86_400
    [new] = await fill(memory, "new: green tea")
    assert names(await memory.search(ADA, Question("green tea", weighing=Weighing(recency=0.9))))[0] == "new"
    plain = scores(await memory.search(ADA, Question("green tea")))
    for _ in range(5):
        await memory.record(ADA, [new.observation_ids[0]], Outcome.USED)
    assert scores(await memory.search(ADA, Question("green tea"))) == plain
    used = await memory.search(ADA, Question("green tea", weighing=Weighing(use=1.0)))
    assert names(used)[0] == "new"


async def test_what_helped_ranks_before_what_was_rejected(memory):
    first, second = await fill(memory, "a: the answer is forty one", "b: the answer is forty two")
    ask = Question("the answer is forty")
    await memory.record(ADA, first.observation_ids, Outcome.REJECTED)
    await memory.record(ADA, second.observation_ids, Outcome.ACCEPTED)
    assert names(await memory.search(ADA, ask)) == ["b", "a"]
    for _ in range(3):
        await memory.record(ADA, first.observation_ids, Outcome.ACCEPTED)
        await memory.record(ADA, second.observation_ids, Outcome.CORRECTED)
    assert names(await memory.search(ADA, ask)) == ["a", "b"]


async def test_common_words_are_dropped_beside_rare_ones(memory, monkeypatch):
    monkeypatch.setattr(words, "COMMON_ROWS", 5)
    await fill(memory, *(f"e{n}: the tea {n}" for n in range(8)), "x: the kettle")
    found = await memory.search(ADA, Question("the kettle"))
    assert found.terms == ("kettl",)
    assert names(found)[0] == "x"
    assert len((await memory.search(ADA, Question("the"))).hits) == 9


async def test_the_rarest_words_that_few_observations_have_together_are_searched(memory, monkeypatch):
    monkeypatch.setattr(words, "RANKED_ROWS", 6)
    await fill(
        memory, *(f"e{n}: a kettle" for n in range(4)), *(f"f{n}: tin pots" for n in range(2)), "x: spout"
    )
    found = await memory.search(ADA, Question("kettle tin spout pots"))
    assert found.terms == ("tin", "spout", "pot")  # 2 + 1 + 2 observations; 4 more are too many
    monkeypatch.setattr(words, "RANKED_ROWS", 3)
    assert (await memory.search(ADA, Question("kettle"))).terms == ("kettl",)  # at least one


async def test_no_statement_of_a_search_or_a_walk_goes_through_all_of_a_scope(memory, monkeypatch):
    monkeypatch.setattr(search, "EXACT_LIMIT", 0)
    await fill(memory, *(f"e{n}: the tea {n}" for n in range(30)))
    await memory.relate(ADA, HERS, [RelationDraft("e0", f"e{n}", "near") for n in range(1, 30)])
    asked = []

    def trace(_cursor, sql, bindings):
        asked.append((sql, bindings))
        return True

    await memory.storage.read(lambda c: setattr(c, "exec_trace", trace))
    assert (await memory.search(ADA, Question("tea 3"))).hits
    assert len((await memory.walk(ADA, "e0", Walk())).nodes) == 30
    await memory.storage.read(lambda c: setattr(c, "exec_trace", None))

    def plans(connection):
        return {
            sql: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", bindings)]
            for sql, bindings in asked
        }

    for sql, plan in (await memory.storage.read(plans)).items():
        assert not [step for step in plan if "(realm=?)" in step or step.startswith("SCAN entities")], sql


@pytest.mark.parametrize("planes_bytes", [64 * 1024**2, 0])
async def test_signs_and_rescoring_find_what_comparing_everything_finds(
    open_memory, monkeypatch, planes_bytes
):
    """The candidates in memory, and of the sixteen parts in the file, hold nearly all of the exact best."""
    memory = open_memory(settings=MemorySettings(planes_bytes=planes_bytes))
    vocabulary = [f"word{n}" for n in range(200)]
    chance = np.random.default_rng(5)
    drafts = [
        EntityDraft(
            f"e{n}",
            "odd" if n % 2 else "even",
            (ObservationDraft(" ".join(chance.choice(vocabulary, 8).tolist())),),
        )
        for n in range(600)
    ]
    for at in range(0, 600, 100):
        await memory.remember(ADA, HERS, drafts[at : at + 100])
    shared = 0
    for kind in ((), ("odd",)):
        for _ in range(10):
            text = " ".join(chance.choice(vocabulary, 8).tolist())
            ask = Question(text, types=kind, min_similarity=0.05, limit=10)
            monkeypatch.setattr(search, "EXACT_LIMIT", 2_000)
            exact = names(await memory.search(ADA, ask))
            monkeypatch.setattr(search, "EXACT_LIMIT", 0)
            monkeypatch.setattr(search, "NEAREST", 128)
            monkeypatch.setattr(search, "NEAREST_FILTERED", (32, 256))
            quick = names(await memory.search(ADA, ask))
            shared += len(set(exact) & set(quick)) / len(exact)
    assert shared / 20 >= 0.9
    [hers] = (await memory.get(ADA, "e1")).observations
    await memory.supersede(ADA, hers.id, ObservationDraft("something else"))
    gone = await memory.search(ADA, Question(hers.text, min_similarity=0.5))
    assert "e1" not in names(gone)
    past = await memory.search(ADA, Question(hers.text, min_similarity=0.5, period=Period(Timing.ALL)))
    assert "e1" in names(past)
