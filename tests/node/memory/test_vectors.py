"""Vectors as they are stored."""

import numpy as np

from node.memory.vectors import packed, quantised, signs, similarities, unquantised


def test_vectors_packed_together_are_as_each_alone():
    chance = np.random.default_rng(3)
    vectors = chance.standard_normal((5, 13)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[1] = 0.0
    vectors[2] = np.eye(13, dtype=np.float32)[0] * 1.5
    found = packed(list(vectors))
    assert [each.stored for each in found] == [quantised(vector) for vector in vectors]
    assert [each.bits for each in found] == [signs(vector) for vector in vectors]
    assert packed([]) == []


def test_a_vector_keeps_its_direction_whatever_its_largest_number_is():
    chance = np.random.default_rng(5)
    vectors = chance.standard_normal((200, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = np.stack([unquantised(each.stored) for each in packed(list(vectors))])
    assert np.abs(np.linalg.norm(kept, axis=1) - 1.0).max() < 1e-5
    cosines = np.einsum("ij,ij->i", kept, vectors)
    assert cosines.min() > 0.9999
    assert (
        abs(float(similarities(vectors[0], [quantised(vectors[1])])[0] - max(0.0, vectors[0] @ vectors[1])))
        < 2e-3
    )


def test_a_vector_of_one_scale_for_all_is_still_compared():
    chance = np.random.default_rng(6)
    vector = chance.standard_normal(384).astype(np.float32)
    vector /= np.linalg.norm(vector)
    before = np.rint(vector * 127).astype(np.int8).tobytes()
    assert float(similarities(vector, [before])[0]) > 0.99
    assert not unquantised(bytes(384)).any()
