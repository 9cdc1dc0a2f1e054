"""Vectors as they are stored."""

import numpy as np

from node.memory.vectors import packed, quantised, signs


def test_vectors_packed_together_are_as_each_alone():
    chance = np.random.default_rng(3)
    vectors = chance.standard_normal((5, 13)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[1] = 0.0
    vectors[2] = np.eye(13, dtype=np.float32)[0] * 1.5  # longer than a vector may be: cut
    found = packed(list(vectors))
    assert [each.stored for each in found] == [quantised(vector) for vector in vectors]
    assert [each.bits for each in found] == [signs(vector) for vector in vectors]
    assert packed([]) == []
