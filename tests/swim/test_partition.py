"""On which side of a partition a member finds itself, so that two sides never both are the majority."""

from hypothesis import given
from hypothesis import strategies as st

from swim.partition import Side, judge
from tests.swim.net import settled

NAMES = [f"n{number}" for number in range(9)]


def side(own: str, up: list[str], lost: list[str]) -> Side:
    return judge(own, up, lost, heard_nobody=False).side


def test_more_than_half_is_the_majority_and_less_is_not() -> None:
    assert side("a", ["b"], ["c"]) is Side.MAJORITY
    assert side("c", ["d"], ["a", "b", "e"]) is Side.MINORITY
    assert side("a", [], ["b", "c"]) is Side.ISOLATED
    assert side("a", [], []) is Side.MAJORITY


def test_of_two_equal_halves_the_one_with_the_lowest_name_is_the_majority() -> None:
    assert side("b", ["a"], ["c", "d"]) is Side.MAJORITY
    assert side("c", ["d"], ["a", "b"]) is Side.MINORITY
    assert side("a", ["d"], ["b", "c"]) is Side.MAJORITY


def test_who_has_heard_nobody_is_isolated_whatever_its_table_says() -> None:
    assert judge("a", ["b", "c"], [], heard_nobody=True).side is Side.ISOLATED
    assert judge("a", [], [], heard_nobody=True).side is Side.MAJORITY  # there never was anybody


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9))
def test_however_the_members_are_split_at_most_one_part_is_the_majority(parts: list[int]) -> None:
    names = NAMES[: len(parts)]
    majorities = set()
    for name, part in zip(names, parts, strict=True):
        up = [n for n, p in zip(names, parts, strict=True) if p == part and n != name]
        lost = [n for n, p in zip(names, parts, strict=True) if p != part]
        verdict = judge(name, up, lost, heard_nobody=False)
        assert (verdict.up, verdict.remembered) == (len(up) + 1, len(names))
        if verdict.side is Side.MAJORITY:
            majorities.add(part)
    assert len(majorities) <= 1


def test_a_cluster_that_is_split_knows_who_is_on_which_side_for_as_long_as_it_lasts() -> None:
    net = settled(7, reap_after_s=20.0)
    one, two, alone = ["n0", "n1", "n2", "n3"], ["n4", "n5"], ["n6"]

    def sides(*names: str) -> set[Side]:
        return {net.hosts[name].swim.partition(net.now).side for name in names}

    assert sides(*net.hosts) == {Side.MAJORITY}
    net.partition(one, two, alone)
    net.run_for(net.config.isolation_s + 4)
    assert sides(*alone) == {Side.ISOLATED}  # before it has buried anybody
    for _ in range(2):  # while the others are held dead, and when they are reaped
        net.run_for(45)
        assert sides(*one) == {Side.MAJORITY}
        assert sides(*two) == {Side.MINORITY}
        assert sides(*alone) == {Side.ISOLATED}
    net.heal()
    net.run_for(60, until=net.all_up)
    assert sides(*net.hosts) == {Side.MAJORITY}


def test_a_member_that_has_left_does_not_count() -> None:
    net = settled(4)
    net.hosts["n3"].swim.leave(net.now)
    net.pump("n3")
    net.run_for(2)
    net.kill("n3")
    assert net.hosts["n0"].swim.partition(net.now).remembered == 3
    net.partition(["n0", "n1"], ["n2"])
    net.run_for(60)
    assert net.hosts["n1"].swim.partition(net.now).side is Side.MAJORITY
