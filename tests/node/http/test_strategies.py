import pytest

from node.errors import ValidationFailed
from node.http.models import PreferencesBody
from node.http.strategies import read_strategy
from node.vocabulary import RoutingStrategy


def test_a_strategy_may_be_named_in_three_ways():
    assert read_strategy(None) is RoutingStrategy.BEST_MATCH
    assert read_strategy(None, preferred="Broadcast") is RoutingStrategy.BROADCAST
    assert read_strategy("load-balance", preferred="least_loaded") is RoutingStrategy.LOAD_BALANCED
    assert read_strategy(None, load_algorithm="round-robin") is RoutingStrategy.LOAD_BALANCED
    assert read_strategy("load_balanced", load_algorithm="performance") is RoutingStrategy.BEST_MATCH


@pytest.mark.parametrize(
    ("given", "field", "nearest"),
    [
        ({"strategy": "best_match", "preferred": "broadcast"}, "routing_preferences", None),
        ({"strategy": "broadcast", "load_algorithm": "least_loaded"}, "load_algorithm", None),
        ({"strategy": None, "load_algorithm": "least-load"}, "load_algorithm", "least_loaded"),
        ({"strategy": None, "preferred": "failovr"}, "routing_strategy", "failover"),
    ],
)
def test_contradictions_and_unknown_names_of_strategies_are_refused(given, field, nearest):
    with pytest.raises(ValidationFailed) as caught:
        read_strategy(**given)
    assert caught.value.details["field"] == field
    assert caught.value.details.get("nearest") == nearest


def test_requirements_are_labels_from_two_places():
    body = PreferencesBody(
        require={"region": "eu", "model": ["large", "small"]}, required_specializations=["tax"]
    )
    assert body.requirements() == (
        ("model", "large"),
        ("model", "small"),
        ("region", "eu"),
        ("specialization", "tax"),
    )
    assert PreferencesBody().requirements() == ()


@pytest.mark.parametrize(
    "given",
    [
        {"require": {"Region": "eu"}},
        {"require": {"region": "e\nu"}},
        {"require": {"region": [str(number) for number in range(9)]}},
        {"require": {"region": "eu"}, "required_specializations": [str(number) for number in range(8)]},
    ],
)
def test_requirements_that_are_no_labels_or_too_many_are_refused(given):
    with pytest.raises(ValidationFailed):
        PreferencesBody(**given).requirements()
