import random

from hypothesis import given, settings
from hypothesis import strategies as st

from swim.hashtree import EMPTY, FANOUT, HashTree

fast = settings(derandomize=True, deadline=None, max_examples=60)
digests = st.binary(min_size=8, max_size=8)


def tree_of(present: list[bytes]) -> HashTree:
    tree = HashTree()
    for digest in present:
        tree.add(digest)
    return tree


def listed(tree: HashTree) -> list[bytes]:
    return [digest for child in range(FANOUT) for digest in tree.digests(0, child)]


@fast
@given(st.lists(st.tuples(st.booleans(), st.booleans(), digests), max_size=60))
def test_the_hashes_do_not_depend_on_when_they_are_read(changes: list[tuple[bool, bool, bytes]]) -> None:
    """Hashing is put off until somebody reads; a tree that is read all the time comes to the same."""
    lazy, eager = HashTree(), HashTree()
    for add, read, digest in changes:
        for tree in (lazy, eager):
            (tree.add if add else tree.remove)(digest)
        assert eager.root != b""
        if read:
            assert lazy.hashes(1 + (digest[0] >> 2)) == eager.hashes(1 + (digest[0] >> 2))
    assert lazy.root == eager.root == tree_of(listed(lazy)).root
    assert [lazy.hashes(node) for node in range(FANOUT + 1)] == [
        eager.hashes(node) for node in range(FANOUT + 1)
    ]
    assert lazy.occupied() == eager.occupied()


@fast
@given(
    st.lists(digests, max_size=20),
    st.lists(st.tuples(st.booleans(), st.booleans(), digests | st.integers(0, 19)), max_size=30),
    st.booleans(),
)
def test_a_copy_shares_nothing_that_changes(
    present: list[bytes], changes: list[tuple[bool, bool, bytes | int]], read_before: bool
) -> None:
    original = tree_of(present)
    if read_before:
        assert (original.root == EMPTY) == (not present)
    twin = original.copy()
    sets = [dict.fromkeys(present), dict.fromkeys(present)]
    for to_twin, add, which in changes:
        if isinstance(which, int) and not present:
            continue
        digest = present[which % len(present)] if isinstance(which, int) else which
        tree = twin if to_twin else original
        (tree.add if add else tree.remove)(digest)
        if add:
            sets[to_twin][digest] = None
        else:
            sets[to_twin].pop(digest, None)
    for tree, held in zip((original, twin), sets, strict=True):
        assert listed(tree) == sorted(held)
        assert tree.size == len(held)
        assert tree.root == tree_of(list(held)).root


def test_an_empty_tree_has_no_branches_and_the_empty_root() -> None:
    tree = HashTree()
    assert tree.root == EMPTY
    assert tree.occupied() == []
    assert tree.count(0, 5) == tree.count(5, 5) == 0
    assert tree.digests(0, 5) == tree.digests(5, 5) == []
    assert tree.hashes(5) == tree.hashes(0) == bytes(512)
    tree.add(bytes(8))
    tree.remove(bytes(8))
    tree.remove(bytes(8))
    assert tree.root == EMPTY


def test_five_thousand_digests_are_listed_by_slot_and_by_branch() -> None:
    rng = random.Random(1)
    present = sorted(rng.randbytes(8) for _ in range(5000))
    tree = tree_of(present)
    assert listed(tree) == present
    for branch in range(FANOUT):
        below = [digest for slot in range(FANOUT) for digest in tree.digests(1 + branch, slot)]
        assert below == tree.digests(0, branch)
        assert len(below) == tree.count(0, branch)
        assert [tree.count(1 + branch, slot) for slot in range(FANOUT)] == [
            len(tree.digests(1 + branch, slot)) for slot in range(FANOUT)
        ]
    assert [slot for slot, _ in tree.occupied()] == sorted({(d[0] << 4) | (d[1] >> 4) for d in present})


@fast
@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=8, max_size=8)), max_size=60))
def test_a_hash_tree_is_a_function_of_its_set(changes: list[tuple[bool, bytes]]) -> None:
    tree, present = HashTree(), {}
    for add, digest in changes:
        if add:
            tree.add(digest)
            present[digest] = None
        else:
            tree.remove(digest)
            present.pop(digest, None)
    rebuilt = HashTree()
    for digest in sorted(present, reverse=True):
        rebuilt.add(digest)
    assert tree.root == rebuilt.root
    assert tree.size == len(present)
    assert all(digest in tree for digest in present)
    assert listed(tree) == sorted(present)
    assert tree.differing(0, rebuilt.hashes(0)) == []
