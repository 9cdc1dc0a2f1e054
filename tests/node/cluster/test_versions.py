import pytest

from node.cluster.versions import base_name, best_offer, shown_version, split, with_version


def test_the_version_suffix_is_not_part_of_the_name():
    assert base_name("data-analysis:v2.1") == "data-analysis"
    assert base_name("system:routing-debug") == "system:routing-debug"
    assert base_name("ns:sum:v2") == "ns:sum"


@pytest.mark.parametrize(
    ("offer", "wanted"),
    [("sum", "sum"), ("sum:v2", "sum"), ("sum:v2.1", "sum:v2"), ("sum:v2.1.3", "sum:v2.1"),
     ("sum:2", "sum:v2"),     ("sum:v2", "sum:v2.0"), ("ns:sum:v2.1", "ns:sum:v2")],
)  # fmt: skip
def test_an_offer_satisfies_what_a_wish_names_of_the_version(offer, wanted):
    assert best_offer([offer], wanted) == offer


@pytest.mark.parametrize(
    ("offer", "wanted"),
    [("sum", "sum:v0"), ("sum:v2", "sum:v2.1"), ("sum:v1", "sum:v2"), ("sum:v20", "sum:v2"),
     ("sum:v2", "ns:sum:v2"), ("ns:sum:v2", "sum:v2")],
)  # fmt: skip
def test_an_offer_of_another_version_does_not_satisfy(offer, wanted):
    assert best_offer([offer], wanted) is None


def test_the_highest_version_is_found_by_number_and_not_by_letter():
    assert best_offer(["sum", "sum:v9", "sum:v10", "max:v11"], "sum") == "sum:v10"
    assert best_offer(["sum:v2.9", "sum:v2.10", "sum:v3"], "sum:v2") == "sum:v2.10"


def test_a_version_is_shown_as_it_is_written():
    assert [shown_version(split(c)[1]) for c in ("sum", "sum:2", "sum:v2.10")] == [None, "v2", "v2.10"]
    assert split(with_version("sum:v3", "1.2")) == split(with_version("sum", "v1.2")) == ("sum", (1, 2))
