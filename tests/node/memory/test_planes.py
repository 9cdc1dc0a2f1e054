"""The signs in memory: always those of the reader's snapshot, of the scopes of who asks, or none at all."""

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.environment import system_environment
from node.errors import EmbeddingFailed, InvariantViolation
from node.memory import planes as planes_module
from node.memory import search
from node.memory.embedding import EmbeddingModel, Vectors
from node.memory.model import EntityDraft, ObservationDraft, Period, Realm, Scope, Timing
from node.memory.planes import WIDER, Planes
from node.memory.question import Question
from node.memory.records import MemorySettings
from node.memory.reembedding import Reembedding
from node.memory.schema import CHANGES_KEPT, MEMORY, STEPS
from node.memory.scopes import OPERATOR, REPLICA, Aim, Scoped, Viewer, for_agent
from node.memory.search import EXACT_LIMIT
from node.memory.store import MemoryStore
from node.memory.vectors import Packed, packed
from node.storage import Storage

DIMENSION = 100
"""Neither a multiple of 8 nor of 64."""
HERS, HIS, ALL = Realm(Scope.AGENT, "ada"), Realm(Scope.WORKSPACE, "shop"), Realm(Scope.GLOBAL)
ADA, BOB = for_agent("ada"), for_agent("bob", ["shop"])
VIEWERS = (ADA, BOB, for_agent("eve"), OPERATOR)
EVERYTHING = Period(Timing.ALL)


class ChanceEmbedder:
    """A vector for each text, by chance, always the same."""

    def __init__(self, name: str = "chance") -> None:
        self.model = EmbeddingModel(name, name.ljust(64, "0"), DIMENSION)

    def vector(self, text: str) -> np.ndarray:
        made = np.random.default_rng(zlib.crc32(f"{self.model.name} {text}".encode())).standard_normal(
            DIMENSION
        )
        return (made / np.linalg.norm(made)).astype(np.float32)

    async def embed(self, texts: list[str]) -> Vectors:
        return np.stack([self.vector(text) for text in texts])


@pytest.fixture
def chance() -> ChanceEmbedder:
    return ChanceEmbedder()


@pytest.fixture
def open_chance(
    open_memory: Callable[..., MemoryStore], chance: ChanceEmbedder
) -> Callable[..., MemoryStore]:
    def open_(**options: object) -> MemoryStore:
        memory = open_memory(**options)
        memory._embedder = chance
        return memory

    return open_


def sought(vector: np.ndarray) -> Packed:
    return packed([vector])[0]


def in_the_file(connection, viewer: Viewer, question: Packed, count: int, *, past: bool) -> list[int]:
    """The same as the signs in memory answer, from the rows, in the plainest way."""
    numbers = Scoped(connection, viewer).numbers
    weights = np.frombuffer(question.stored, np.int8).astype(int)
    found = []
    for key, realm, ended, vector in connection.execute(
        "SELECT key, realm, ended, vector FROM observations WHERE model = 1"
    ).fetchall():
        if (numbers is None or realm in numbers) and (past or not ended):
            positive = np.frombuffer(vector, np.int8) > 0
            there = np.packbits(positive, bitorder="little")
            differing = np.unpackbits(there ^ np.frombuffer(question.bits, np.uint8)).sum()
            found.append((int(differing), -key, -int(weights[positive].sum())))
    weighed = sorted((weight, key) for _, key, weight in sorted(found)[: WIDER * count])
    return sorted(-key for _, key in weighed[:count])


async def agree(
    storage: Storage, planes: Planes, vector: np.ndarray, counts: tuple[int, ...] = (1, 7, 500)
) -> None:
    """Hold what is found in memory against the rows, for everybody and all times."""

    def look(connection) -> None:
        for viewer in VIEWERS:
            for past in (False, True):
                for count in counts:
                    found = Scoped(connection, viewer).nearest(
                        1, sought(vector), count, past=past, planes=planes
                    )
                    assert found == in_the_file(connection, viewer, sought(vector), count, past=past)
            scoped = Scoped(connection, viewer)
            said = ["fact", "new", "unheard", "fact OR new"]
            for limit in (1, 3, 99):
                assert scoped.having(said, limit, planes) == scoped.having(said, limit)

    await storage.read(look)


changes = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "supersede", "forget", "embed", "lose", "fail", "look"]),
        st.integers(0, 30),
        st.sampled_from([HERS, HIS, ALL]),
    ),
    min_size=4,
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes)
def test_the_signs_in_memory_are_those_of_the_rows_whatever_is_done(tmp_path_factory, told) -> None:
    async def main() -> None:
        environment, chance = system_environment(), ChanceEmbedder()
        path = tmp_path_factory.mktemp("memory") / "memory.db"
        storage = Storage.open(path, durability="normal", environment=environment, design=MEMORY)
        try:
            memory = MemoryStore(storage, chance, environment, node="n1")
            await memory.remember(
                OPERATOR, ALL, [EntityDraft("first", "thing", (ObservationDraft("first"),))]
            )
            planes, ids = Planes(), list[str]()
            for number, each in enumerate(told):
                await change(memory, each, ids, number)
                if each[0] == "look":
                    await agree(storage, planes, chance.vector(f"question {number}"))
            await agree(storage, planes, chance.vector("last"))
            assert planes.statistics()["loads"] == 1  # all the rest was taken over
            assert planes.statistics()["vectors"] == await storage.read(
                lambda c: c.execute("SELECT count(*) FROM observations WHERE model = 1").fetchall()[0][0]
            )
        finally:
            storage.close()

    trio.run(main)


async def change(memory: MemoryStore, told: tuple[str, int, Realm], ids: list[str], number: int) -> None:
    """Change something, by every way that there is."""
    what, chosen, realm = told
    if what == "add":
        facts = tuple(ObservationDraft(f"fact {number} {each}") for each in range(1 + chosen % 4))
        [kept] = await memory.remember(OPERATOR, realm, [EntityDraft("thing", "thing", facts)])
        ids += kept.observation_ids
    elif what == "supersede" and ids:
        kept = await memory.supersede(OPERATOR, ids.pop(chosen % len(ids)), ObservationDraft(f"new {number}"))
        ids += kept.observation_ids
    elif what == "forget" and ids:  # the last as well: its key is given to the next
        await memory.forget_observation(OPERATOR, ids.pop(-1 if chosen % 2 else chosen % len(ids)))
    elif what == "lose":  # stored while the model does not answer
        model = EmbeddingModel("none", "", DIMENSION)
        memory._embedder, kept_embedder = _Silent(model), memory._embedder
        [kept] = await memory.remember(
            OPERATOR, realm, [EntityDraft("thing", "thing", (ObservationDraft(f"unheard {number}"),))]
        )
        memory._embedder = kept_embedder
        ids += kept.observation_ids
    elif what == "embed":  # what has none gets a vector later
        await Reembedding(memory.storage, memory._embedder, system_environment()).run_pass()
    elif what == "fail":
        with pytest.raises(ZeroDivisionError):
            await memory.storage.write(_spoil)


@pytest.mark.parametrize(
    "told",
    [
        # The key of the last row is given to the next.
        ["add 0", "look", "forget 1", "look", "add 0", "look", "forget 1", "look", "add 0", "supersede 0"],
        ["add 0", "look", "forget 1", "add 0", "look", "supersede 0", "look"],
        ["add 3", "add 3", "add 0", "look", "forget 1", "look", "add 0", "look", "forget 1", "look"],
        # So is that of a row without a vector, and then it has one.
        ["add 0", "lose 0", "look", "forget 1", "add 0", "look"],
        # A vector that comes late is found at its place, and goes from it.
        [
            "add 0",
            "lose 0",
            "add 3",
            "look",
            "embed 0",
            "look",
            "forget 2",
            "look",
            "add 0",
            "forget 2",
            "look",
        ],
        # Where many are gone, the rest moves together.
        [
            "add 3",
            "add 3",
            "look",
            "forget 2",
            "forget 2",
            "forget 2",
            "look",
            "add 1",
            "supersede 2",
            "look",
        ],
    ],
)
async def test_a_key_that_was_another_row_s_is_no_vector_of_before(open_chance, chance, told) -> None:
    memory, planes, ids = open_chance(), Planes(), list[str]()
    for number, step in enumerate(told):
        what, chosen = f"{step} 0".split()[:2]
        await change(memory, (what, int(chosen), ALL), ids, number)
        if what == "look":
            await agree(memory.storage, planes, chance.vector(f"question {number}"))
    await agree(memory.storage, planes, chance.vector("last"))
    assert planes.statistics()["loads"] == 1


class _Silent:
    def __init__(self, model: EmbeddingModel) -> None:
        self.model = model

    async def embed(self, texts: list[str]) -> Vectors:
        raise EmbeddingFailed("silent", why="on purpose")


def _spoil(connection) -> None:
    """A job that changes vectors and does not end well."""
    connection.execute("DELETE FROM observations WHERE key = 1")
    connection.execute("UPDATE observations SET ended = 1")
    raise ZeroDivisionError


async def test_what_was_not_committed_is_not_seen_and_what_was_acknowledged_is(open_chance, chance) -> None:
    memory, planes = open_chance(), Planes()
    storage = memory.storage

    def keys(connection) -> list[int]:
        return Scoped(connection, OPERATOR).nearest(
            1, sought(chance.vector("x")), 100, past=False, planes=planes
        )

    await memory.remember(OPERATOR, ALL, [EntityDraft("a", "thing", (ObservationDraft("one"),))])
    assert await storage.read(keys) == [1]
    seen = []

    def job(connection) -> None:
        connection.execute("UPDATE observations SET ended = 1")
        with storage._reader:  # another snapshot, in the midst of a writer's transaction
            seen.extend(keys(storage._reader))

    await storage.write(job)
    assert seen == [1]
    assert await storage.read(keys) == []


async def test_signs_that_need_too_much_memory_are_searched_in_the_file(
    open_chance, chance, monkeypatch
) -> None:
    monkeypatch.setattr(search, "EXACT_LIMIT", 0)
    limit = Planes.bytes_for(20, DIMENSION)
    memory = open_chance(settings=MemorySettings(planes_bytes=limit))

    async def stored(number: int) -> None:
        facts = tuple(ObservationDraft(f"fact {number} {each}") for each in range(10))
        await memory.remember(ADA, HERS, [EntityDraft(f"thing {number}", "thing", facts)])

    async def found() -> list[str]:
        hits = (await memory.search(ADA, Question("thing 1 (thing): fact 1 3", limit=100))).hits
        assert hits[0].entity.observations[0].text == "fact 1 3"
        return [hit.entity.name for hit in hits]

    await stored(0)
    await stored(1)
    before = await found()
    in_memory = memory.statistics()["signs"]
    assert (in_memory["vectors"], in_memory["too_large"], in_memory["loads"]) == (20, 0, 1)
    assert 0 < in_memory["bytes"] <= in_memory["limit_bytes"] == limit
    await stored(2)
    assert set(await found()) == {*before, "thing 2"}
    beyond = memory.statistics()["signs"]
    assert (beyond["vectors"], beyond["bytes"], beyond["too_large"]) == (0, 0, 1)
    await memory.forget(ADA, "thing 2")
    assert await found() == before
    assert memory.statistics()["signs"]["vectors"] == 20


async def test_signs_grow_within_their_memory(open_chance, chance) -> None:
    memory, planes = open_chance(), Planes(Planes.bytes_for(50, DIMENSION))
    sizes = []
    for number in range(25):
        facts = tuple(ObservationDraft(f"fact {number} {each}") for each in range(2))
        await memory.remember(OPERATOR, ALL, [EntityDraft("thing", "thing", facts)])
        await agree(memory.storage, planes, chance.vector(f"question {number}"))
        told = planes.statistics()
        assert told["bytes"] <= told["limit_bytes"]
        sizes.append(told["bytes"])
    assert planes.statistics()["vectors"] == 50
    assert len(set(sizes)) < len(sizes) / 2  # there is some room ahead


async def test_who_has_fallen_behind_reads_all_vectors_anew(open_chance, chance) -> None:
    memory, planes = open_chance(), Planes()
    facts = tuple(ObservationDraft(f"fact {each}") for each in range(20))
    await memory.remember(OPERATOR, ALL, [EntityDraft("a", "thing", facts)])
    await agree(memory.storage, planes, chance.vector("x"))

    def much(connection) -> None:
        connection.execute("UPDATE observations SET ended = 1 WHERE key = 3")
        for _ in range(3):
            connection.execute("UPDATE observations SET ended = 0 WHERE key > 10")
        connection.execute("DELETE FROM changes WHERE change <= 5")  # as the trigger does after many

    await memory.storage.write(much)
    await agree(memory.storage, planes, chance.vector("x"))
    assert planes.statistics()["loads"] == 2


async def test_of_the_changes_the_last_while_is_kept(open_chance) -> None:
    memory = open_chance()
    await memory.remember(OPERATOR, ALL, [EntityDraft("a", "thing", (ObservationDraft("one"),))])

    def much(connection) -> list[tuple[int, int]]:
        connection.execute("INSERT INTO changes (change, key) VALUES (?, 1)", (10 * CHANGES_KEPT,))
        connection.execute("INSERT INTO changes (change, key) VALUES (3, 1)")
        connection.execute("UPDATE observations SET ended = 1")
        return connection.execute("SELECT min(change), max(change) FROM changes").fetchall()

    assert await memory.storage.write(much) == [(10 * CHANGES_KEPT, 10 * CHANGES_KEPT + 1)]


async def test_vectors_of_another_model_are_another_copy(open_chance, chance) -> None:
    memory, planes = open_chance(), Planes()
    await memory.remember(OPERATOR, ALL, [EntityDraft("a", "thing", (ObservationDraft("one"),))])
    memory._embedder = ChanceEmbedder("other")
    await memory.remember(OPERATOR, ALL, [EntityDraft("a", "thing", (ObservationDraft("two"),))])
    x = sought(chance.vector("x"))

    def both(connection) -> list[list[int]]:
        scoped = Scoped(connection, OPERATOR)
        return [scoped.nearest(s, x, 9, past=False, planes=planes) for s in (1, 2, 1)]

    assert await memory.storage.read(both) == [[1], [2], [1]]


async def test_a_file_of_before_is_searched_and_followed(open_chance, chance, tmp_path, environment) -> None:
    """With a vector of one scale for all, and one that waits for its place in the file."""
    before = replace(MEMORY, steps=STEPS[:3])
    memory = open_chance(name="memory.db", design=before)
    facts = tuple(ObservationDraft(f"fact {each}") for each in range(4))
    await memory.remember(OPERATOR, ALL, [EntityDraft("a", "thing", facts)])

    def as_it_was(connection) -> None:
        for key, text in connection.execute("SELECT key, text FROM observations").fetchall():
            stored = np.rint(chance.vector(f"a (thing): {text}") * 127).astype(np.int8).tobytes()
            connection.execute("UPDATE observations SET vector = ? WHERE key = ?", (stored, key))
        connection.execute("DELETE FROM vectors_1 WHERE key = 3")
        connection.execute("INSERT INTO postponed (key) VALUES (3)")

    await memory.storage.write(as_it_was)
    memory.storage.close()
    after, planes = open_chance(name="memory.db"), Planes()
    await agree(after.storage, planes, chance.vector("x"))
    await after.forget_observation(OPERATOR, (await after.get(OPERATOR, "a")).observations[0].id)
    await after.remember(OPERATOR, ALL, [EntityDraft("a", "thing", (ObservationDraft("new"),))])
    await agree(after.storage, planes, chance.vector("x"))
    assert planes.statistics()["vectors"] == 4


async def test_a_damaged_vector_is_no_candidate(open_chance, chance) -> None:
    memory, planes = open_chance(), Planes()
    facts = tuple(ObservationDraft(f"fact {each}") for each in range(3))
    await memory.remember(OPERATOR, ALL, [EntityDraft("a", "thing", facts)])
    await memory.storage.write(
        lambda c: c.execute("UPDATE observations SET vector = x'01' WHERE key = 2").fetchall()
    )
    found = await memory.storage.read(
        lambda c: Scoped(c, OPERATOR).nearest(1, sought(chance.vector("x")), 9, past=False, planes=planes)
    )
    assert found == [1, 3]


async def test_other_nodes_and_who_sees_nothing_are_shown_no_key(open_chance, chance) -> None:
    memory, planes = open_chance(), Planes()
    await memory.remember(ADA, HERS, [EntityDraft("a", "thing", (ObservationDraft("one"),))])
    for viewer, aim in ((REPLICA, Aim()), (for_agent("eve"), Aim()), (OPERATOR, Aim(Scope.WORKSPACE))):
        assert not await memory.storage.read(
            lambda c, viewer=viewer, aim=aim: Scoped(c, viewer, aim).nearest(
                1, sought(chance.vector("x")), 9, past=True, planes=planes
            )
        )


def test_signs_that_were_not_loaded_are_not_searched() -> None:
    with pytest.raises(InvariantViolation):
        Planes().nearest(Packed(bytes(100), bytes(13)), None, 1, past=False)


async def test_many_scopes_are_looked_up_at_once(open_chance, chance) -> None:
    memory, planes = open_chance(), Planes()
    names = [f"w{number}" for number in range(12)]
    for name in names:
        realm = Realm(Scope.WORKSPACE, name)
        await memory.remember(OPERATOR, realm, [EntityDraft("a", "thing", (ObservationDraft(name),))])
    for some in (names[:2], names[3:12]):
        found = await memory.storage.read(
            lambda c, some=some: Scoped(c, for_agent("ada", some)).nearest(
                1, sought(chance.vector("x")), 99, past=False, planes=planes
            )
        )
        assert found == [names.index(name) + 1 for name in some]


@pytest.mark.parametrize("limit_bytes", [64 * 1024**2, 0])
async def test_searches_beyond_the_exact_limit_show_nothing_of_others(
    open_chance, chance, monkeypatch, limit_bytes
) -> None:
    """The two ways of many vectors, on a few: every answer is as if the others were not there."""
    monkeypatch.setattr(search, "EXACT_LIMIT", 0)
    assert EXACT_LIMIT > 0
    settings_ = MemorySettings(planes_bytes=limit_bytes)
    both, alone = (open_chance(settings=settings_, name=f"{name}/memory.db") for name in ("both", "alone"))
    for number in range(40):
        draft = EntityDraft(f"thing {number}", "thing", (ObservationDraft(f"of ada {number}"),))
        for memory in (both, alone):
            await memory.remember(ADA, HERS, [draft])
        for realm in (HIS, Realm(Scope.AGENT, "bob")):
            await both.remember(OPERATOR, realm, [replace(draft, observations=(ObservationDraft("no"),))])
    for question in (
        Question("of ada 7", limit=100, min_similarity=0.0),
        Question("of ada 7", limit=100, period=EVERYTHING),
        Question("of ada 7", limit=100, types=("thing",)),
        Question("of ada 7", limit=100, types=("none",)),
        Question("of ada 7", limit=100, aim=Aim(Scope.AGENT)),
    ):
        told = [
            [(hit.entity.name, hit.similarity) for hit in (await memory.search(ADA, question)).hits]
            for memory in (both, alone)
        ]
        assert told[0] == told[1]
        assert bool(told[0]) is (question.types != ("none",))
    assert bool(both.statistics()["signs"]["too_large"]) is (limit_bytes == 0)


@given(
    st.lists(st.integers(0, 385), max_size=400),
    st.integers(1, 40),
    st.integers(1, 30),
    st.sampled_from([1, 7]),
)
def test_the_nearest_are_among_those_that_a_sample_makes_likely(told, times, wide, every) -> None:
    distances = np.array(told * times, np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes_module, "SAMPLED_EVERY", every)
        likely = planes_module._likely(distances, wide)
    assert np.array_equal(np.sort(likely)[:wide], np.sort(distances)[:wide])
