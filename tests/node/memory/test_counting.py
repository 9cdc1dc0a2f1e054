"""How many rows a word has: counted by the scopes in memory as by those in the file."""

from node.memory.model import EntityDraft, ObservationDraft, Realm, Scope
from node.memory.planes import Planes
from node.memory.scopes import OPERATOR, Scoped, for_agent
from node.memory.vectors import packed
from node.memory.words import Vocabulary, match

ADA = for_agent("ada")
HERS, HIS = Realm(Scope.AGENT, "ada"), Realm(Scope.WORKSPACE, "shop")


async def observe(memory, text, realm=HERS):
    await memory.remember(OPERATOR, realm, [EntityDraft("a", "thing", (ObservationDraft(text),))])


async def in_step(embedder):
    """A function that brings the signs in memory in step with what a reader of hers sees."""
    [vector] = await embedder.embed(["x"])

    def bring(hers, planes):
        hers.nearest(1, packed([vector])[0], 1, past=True, planes=planes)

    return bring


async def test_rows_of_a_word_are_counted_by_the_scopes_in_memory_page_by_page(memory, embedder):
    planes, bring = Planes(), await in_step(embedder)
    for number in range(10):
        await observe(memory, f"hers {number}")
        await observe(memory, f"his {number}", HIS)

    def counted(connection):
        both, hers = "hers OR his", Scoped(connection, ADA)

        def count(limit):
            [page] = hers._keys_of([both], 0, limit)
            return hers._counted(both, page, limit, planes)

        before = count(4)
        bring(hers, planes)
        return [before, *map(count, (4, 10, 99))]

    assert await memory.storage.read(counted) == [None, 4, 10, 10]


async def test_a_word_of_a_row_without_a_vector_is_looked_up_and_the_others_are_not(
    memory, embedder, monkeypatch
):
    planes, bring = Planes(), await in_step(embedder)
    await observe(memory, "seen")
    embedder.broken = True
    await observe(memory, "unseen")
    looked_up, before = [], Scoped._looked_up
    monkeypatch.setattr(
        Scoped, "_looked_up", lambda self, word, limit: looked_up.append(word) or before(self, word, limit)
    )

    def counted(connection):
        hers = Scoped(connection, ADA)
        bring(hers, planes)
        return hers.having(["seen", "unseen", "unheard"], 9, planes)

    assert await memory.storage.read(counted) == [1, 1, 0]
    assert looked_up == ["unseen"]


async def test_words_of_any_script_are_counted_alike_in_memory_and_in_the_file(memory, embedder):
    planes, bring = Planes(), await in_step(embedder)
    text = "das 𐐷𐐷 Ünïcode 日本語 o'neil x\"y"
    await observe(memory, text)

    def counted(connection):
        hers = Scoped(connection, ADA)
        bring(hers, planes)
        said = [match([term]) for term in (*Vocabulary(connection).all_terms(text), 'a"b', "nothing")]
        return hers.having(said, 9, planes), hers.having(said, 9)

    in_memory, in_the_file = await memory.storage.read(counted)
    assert in_memory == in_the_file == [1] * 8 + [0, 0]
