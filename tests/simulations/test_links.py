"""Links: what becomes of a datagram, and how rules of faults add up."""

import random

from hypothesis import given
from hypothesis import strategies as st

from simulations.links import Change, Link, Links, Rule, flip_bits, separate

DATA = bytes(range(200))


def sent(link, count=2_000, seed=1):
    chance = random.Random(seed)
    return [link.datagram(DATA, 0, chance) for _ in range(count)]


def share(flights, fate):
    return sum(flight.fate == fate for flight in flights) / len(flights)


def test_a_delay_is_uniform_between_its_bounds():
    delays = [flight.after_us for flight in sent(Link(0.002, 0.003))]
    assert 2_000 <= min(delays) < 2_050
    assert 4_950 < max(delays) <= 5_000


def test_a_fixed_delay_is_always_the_same():
    assert {flight.after_us for flight in sent(Link(0.01, 0.0))} == {10_000}


def test_a_tail_is_exponential_and_bounded():
    delays = sorted(flight.after_us for flight in sent(Link(0.001, 0.0, tail_s=0.01)))
    mean_us = sum(delays) / len(delays)
    assert 10_000 < mean_us < 12_000
    assert (
        6_900 < delays[len(delays) // 2] - 1_000 < 7_400
    )  # the median of an exponential is ln 2 of its mean
    assert max(flight.after_us for flight in sent(Link(0.001, 0.0, tail_s=1e6))) == 60_000_000


def test_a_log_normal_factor_keeps_the_median():
    delays = sorted(flight.after_us for flight in sent(Link(0.01, 0.0, sigma=0.5)))
    assert 9_500 < delays[len(delays) // 2] < 10_500
    assert delays[-1] > 3 * delays[len(delays) // 2]


def test_loss_duplication_reordering_and_corruption_happen_as_often_as_they_should():
    flights = sent(Link(loss=0.2, duplicate=0.1, reorder=0.3, reorder_s=0.5, corrupt=0.05))
    arrived = [flight for flight in flights if flight.arrives]
    assert 0.17 < share(flights, "lost") < 0.23
    assert 0.03 < share(arrived, "corrupt") < 0.07
    assert 0.07 < sum(flight.again_us is not None for flight in arrived) / len(arrived) < 0.13
    assert 0.25 < sum(flight.after_us > 5_000 for flight in arrived) / len(arrived) < 0.35


@given(st.binary(min_size=1, max_size=300), st.integers(0, 2**32))
def test_a_corrupted_datagram_differs_and_has_the_same_length(data, seed):
    altered = flip_bits(data, random.Random(seed))
    assert len(altered) == len(data)
    flipped = sum((a ^ b).bit_count() for a, b in zip(data, altered, strict=True))
    assert 1 <= flipped <= 8


def test_a_link_of_limited_capacity_queues_and_then_drops():
    link = Link(0.0, 0.0, capacity_bytes_s=1_000, queue_bytes=500)
    flights = sent(link, 10)
    assert [flight.after_us for flight in flights[:3]] == [200_000, 400_000, 600_000]
    assert [flight.fate for flight in flights[3:]] == ["overflow"] * 7
    assert link.datagram(DATA, 2_000_000, random.Random(1)).after_us == 200_000


def test_nothing_passes_a_cut_and_no_datagram_passes_a_firewall():
    assert share(sent(Link(cut=True), 10), "cut") == 1
    assert share(sent(Link(cut_datagrams=True), 10), "cut") == 1


def test_rules_add_up_and_end():
    links = Links(Link(0.001, 0.0, loss=0.5))
    lossy = Rule(frozenset("a"), None, Change(loss=0.5, delay_s=0.01))
    slow = Rule(None, frozenset("b"), Change(delay_s=0.02, capacity_bytes_s=100.0))
    links.add([lossy, slow])
    both = links.of("a", "b")
    assert (both.loss, round(both.delay_s, 6), both.capacity_bytes_s) == (0.75, 0.031, 100.0)
    assert links.of("c", "d") is links.default
    links.remove([lossy])
    assert (links.of("a", "b").loss, links.of("a", "c").loss) == (0.5, 0.5)
    links.clear()
    assert links.of("a", "b") is links.default
    assert links.statistics() == {"rules": 0, "links": 0}


def test_each_pair_has_a_queue_of_its_own():
    links = Links(Link(capacity_bytes_s=1_000))
    assert links.of("a", "b") is links.of("a", "b")
    assert links.of("a", "b") is not links.of("b", "a")


def test_a_link_can_be_changed_by_hand():
    links = Links()
    links.own("a", "b").loss = 1.0
    assert links.of("a", "b").loss == 1.0
    assert links.of("b", "a").loss == 0.0


def reach(links, names="abcd"):
    return {one + other for one in names for other in names if one != other and not links.of(one, other).cut}


def test_a_partition_separates_sides_and_leaves_others_alone():
    links = Links()
    links.add(separate(["a", "bc"], Change(cut=True)))
    assert reach(links) == {"bc", "cb", "ad", "da", "bd", "db", "cd", "dc"}


def test_a_one_way_partition_lets_the_way_back_pass():
    links = Links()
    links.add(separate(["a", "b"], Change(cut=True), one_way=True))
    assert (links.of("a", "b").cut, links.of("b", "a").cut) == (True, False)
