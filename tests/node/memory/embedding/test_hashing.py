"""Hashed words: the same everywhere, and near where words are shared."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import trio

from node.errors import InvariantViolation
from node.memory.embedding import HashEmbedder

TEXTS = ["The quarterly report is late", "the report of the quarter was late", "Bake bread at 220 degrees"]


async def test_texts_that_share_words_are_nearer_than_texts_that_do_not() -> None:
    rows = await HashEmbedder().embed(TEXTS)
    assert rows.shape == (3, 384)
    assert rows.dtype == np.float32
    near, far = rows[0] @ rows[1], rows[0] @ rows[2]
    assert near > 0.5
    assert abs(far) < 0.2


async def test_parts_of_words_are_somewhat_near() -> None:
    rows = await HashEmbedder().embed(["deployment", "deployments", "breakfast"])
    assert 0.2 < rows[0] @ rows[1] < 1
    assert abs(rows[0] @ rows[2]) < 0.2


async def test_vectors_have_length_one_or_are_zeros() -> None:
    rows = await HashEmbedder().embed([*TEXTS, "", " \n", "!?", "\x00", "\ud800", "a" * 1_000_000])
    lengths = np.linalg.norm(rows, axis=1)
    assert np.allclose(lengths, [1, 1, 1, 0, 0, 0, 0, 0, 1], atol=1e-6)


async def test_case_and_composition_do_not_matter() -> None:
    rows = await HashEmbedder().embed(["CAFÉ noir", "cafe\u0301 NOIR"])
    assert (rows[0] == rows[1]).all()


async def test_only_the_beginning_of_a_text_counts() -> None:
    rows = await HashEmbedder().embed(["word " * 10_000 + "end", "word " * 10_000])
    assert (rows[0] == rows[1]).all()


def test_another_process_finds_the_same_vectors() -> None:
    code = (
        "import hashlib, trio\nfrom node.memory.embedding import HashEmbedder\n"
        f"rows = trio.run(HashEmbedder().embed, {TEXTS!r})\nprint(hashlib.sha256(rows.tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = trio.run(HashEmbedder().embed, TEXTS)
    assert done.stdout.strip() == hashlib.sha256(rows.tobytes()).hexdigest()


async def test_a_text_alone_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(InvariantViolation):
        await HashEmbedder().embed("text")


async def test_no_texts_have_no_rows() -> None:
    embedder = HashEmbedder()
    assert (await embedder.embed([])).shape == (0, 384)
    await embedder.embed(TEXTS)
    assert embedder.statistics() == {"model": "hashed-words-384", "embedded": 3}
    await embedder.aclose()


async def test_long_texts_without_a_word_in_common_are_far() -> None:
    texts = [" ".join(f"{start}{number * number}" for number in range(150)) for start in ("q", "z")]
    rows = await HashEmbedder().embed(texts)
    assert abs(rows[0] @ rows[1]) < 0.3
