"""Labels are short, few and told one way; a requirement is met by whoever has all of it."""

import msgspec
import pytest

from node.errors import ValidationFailed
from node.labels import LABELS_LIMIT, REQUIRED_LIMIT, check_labels, labels_of, labels_shown, lacking
from node.message import Message, check
from node.vocabulary import Performative


def message(**fields):
    given = {
        "id": "m1",
        "performative": Performative.REQUEST,
        "sender": "client@a",
        "capability": "work",
        "conversation_id": "m1",
        "reply_with": "m1",
    }
    return Message(**(given | fields))


def test_they_are_sorted_and_each_is_there_once():
    found = labels_of({"region": "eu", "specialization": ["tax", "law", "tax"]})
    assert found == (("region", "eu"), ("specialization", "law"), ("specialization", "tax"))
    assert labels_shown(found) == {"region": ["eu"], "specialization": ["law", "tax"]}


@pytest.mark.parametrize(
    "given",
    [
        "region=eu",
        None,
        7,
        ["region"],
        [["region"]],
        [["Region", "eu"]],
        [["", "eu"]],
        [["a" * 33, "eu"]],
        [["region", ""]],
        [["region", "x" * 65]],
        [["region", "e\nu"]],
        [["region", 3]],
        [[["region"], "eu"]],
        [["region", str(number)] for number in range(LABELS_LIMIT + 1)],
    ],
)
def test_what_is_none_is_refused(given):
    with pytest.raises(ValidationFailed):
        check_labels(given)


def test_what_is_lacking_is_what_is_required_and_not_there():
    labels = labels_of({"region": "eu", "model": "large"})
    assert lacking(labels_of({"region": "eu", "node": "b"}), labels, "b") == ()
    assert lacking(labels_of({"region": "us", "node": "b"}), labels, "c") == (("node", "b"), ("region", "us"))


def test_a_message_says_what_it_requires_and_one_of_before_requires_nothing():
    required = labels_of({"region": "eu"})
    sealed = check(message(require=required))
    assert Message.unseal(sealed).require == required
    assert Message.unseal(sealed).as_json()["require"] == {"region": ["eu"]}
    before = msgspec.msgpack.decode(message().seal())
    assert before.pop() == []  # what a version without requirements does not write
    assert Message.unseal(msgspec.msgpack.encode(before)) == message()
    assert "require" not in message().as_json()


@pytest.mark.parametrize(
    "fields",
    [
        {"require": (("b", "1"), ("a", "1"))},
        {"require": (("a", "1"), ("a", "1"))},
        {"require": (("A", "1"),)},
        {"require": tuple(("a", str(number)) for number in range(REQUIRED_LIMIT + 1))},
        {"require": (("a", "1"),), "capability": None, "receiver": "worker@a"},
        {"require": (("a", "1"),), "capability": None, "topic": "orders"},
    ],
)
def test_a_message_that_requires_what_cannot_be_is_refused_here_and_from_a_peer(fields):
    wrong = message(**fields)
    with pytest.raises(ValidationFailed) as refusal:
        check(wrong)
    assert refusal.value.details["field"] == "require"
    with pytest.raises(ValidationFailed):
        Message.unseal(wrong.seal())
