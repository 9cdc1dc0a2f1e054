"""User events and queries among members: heard once by all, answered by whom they were put to."""

import pytest

from swim.events import QueryFinished, QuestionHeard, UserEventHeard
from swim.messages import TAG_BYTES, UserFrame
from swim.queries import Asked
from swim.query_messages import encode_response
from swim.user_traffic import Kind
from tests.swim.net import CLUSTER, Net, settled


def fire(net: Net, name: str, title: str, payload: bytes = b"") -> None:
    net.hosts[name].swim.traffic.fire(title, payload, net.now)
    net.pump(name)


def ask(net: Net, name: str, title: str, **arguments: object) -> bytes:
    query_id = net.hosts[name].swim.traffic.ask(title, b"", net.now, **arguments)  # type: ignore[arg-type]
    net.pump(name)
    return query_id


def asked(net: Net, name: str) -> Asked:
    (heard,) = net.told(name, QuestionHeard)
    question: Asked = heard.asked
    return question


def answer(net: Net, name: str, payload: bytes) -> bool:
    is_waited_for = net.hosts[name].swim.traffic.answer(asked(net, name), payload, net.now)
    net.pump(name)
    return is_waited_for


def test_an_event_is_heard_once_by_everybody_else_in_a_lossy_network() -> None:
    net = settled(12)
    net.loss = 0.1
    for number in range(5):
        fire(net, "n3", "deployed", b"%d" % number)
    net.run_for(10)
    for name in net.hosts:
        heard = [(e.event.author, e.event.payload) for e in net.told(name, UserEventHeard)]
        expected = [] if name == "n3" else [("n3", b"%d" % number) for number in range(5)]
        assert sorted(heard) == expected


def test_who_was_cut_off_hears_the_latest_events_once_it_is_back_and_a_newcomer_none_of_them() -> None:
    net = settled(4)
    net.partition(["n0", "n1", "n2"], ["n3"])
    fire(net, "n0", "while-away")
    net.run_for(20)
    assert not net.told("n3", UserEventHeard)
    net.heal()
    net.run_for(60, until=net.all_up)
    net.run_for(10)
    assert [e.event.name for e in net.told("n3", UserEventHeard)] == ["while-away"]
    net.add("n4", seeds=["n0:7946"])
    net.run_for(20, until=net.all_up)
    fire(net, "n1", "all-here")
    net.run_for(5)
    assert [e.event.name for e in net.told("n4", UserEventHeard)] == ["all-here"]


def test_a_question_is_answered_by_those_it_was_put_to_and_ends_with_the_last_of_them() -> None:
    net = settled(5)
    query_id = ask(net, "n0", "ping", timeout_s=30.0, nodes=["n1", "n3"], want_ack=True)
    net.run_for(2)
    assert [name for name in net.hosts if net.told(name, QuestionHeard)] == ["n1", "n3"]
    assert answer(net, "n1", b"one")
    net.run_for(1)
    assert not net.told("n0", QueryFinished)
    assert answer(net, "n3", b"three")
    net.run_for(1)
    assert net.told("n0", QueryFinished) == [QueryFinished(query_id)]
    result = net.hosts["n0"].swim.traffic.collect(query_id)
    assert (sorted(result.acks), result.responses) == (["n1", "n3"], {"n1": b"one", "n3": b"three"})


def test_a_query_ends_in_time_whatever_has_died_meanwhile() -> None:
    net = settled(4)
    query_id = ask(net, "n0", "ping", timeout_s=3.0, nodes=["n1", "n2"])
    net.run_for(1)
    net.kill("n2")
    assert answer(net, "n1", b"one")
    net.run_for(2.5)
    assert net.told("n0", QueryFinished) == [QueryFinished(query_id)]
    result = net.hosts["n0"].swim.traffic.collect(query_id)
    assert (result.responses, result.finished) == ({"n1": b"one"}, True)


@pytest.mark.parametrize("tag", ["none", "of another", "guessed"])
def test_nobody_answers_in_the_name_of_another(tag: str) -> None:
    net = settled(4)
    query_id = ask(net, "n0", "ping", timeout_s=10.0, nodes=["n1"])
    net.run_for(1)
    forged = UserFrame(Kind.ANSWER, encode_response(query_id, b"forged"))
    if tag == "of another":
        forged = net.tagged(forged, "n2", "n0")  # type: ignore[assignment]
    elif tag == "guessed":
        forged = UserFrame(forged.kind, forged.frame, bytes(TAG_BYTES))
    net.inject("n0", forged, sender="n1")
    assert net.count("n0", "dropped_bad_tag") == 1
    assert net.hosts["n0"].swim.traffic.collect(query_id).responses == {}
    assert answer(net, "n1", b"genuine")
    net.run_for(1)
    assert net.hosts["n0"].swim.traffic.collect(query_id).responses == {"n1": b"genuine"}


def test_an_event_of_a_stranger_or_under_anothers_name_is_heard_by_nobody() -> None:
    net = settled(3)
    outside = Net(config=net.config)
    for name in ("n1", "far"):
        outside.add(name, label=CLUSTER)
        _, encoded = outside.hosts[name].swim.traffic._said().fire("forged", b"", 0.0)
        if name == "n1":  # a member's name, and not quite its signature
            encoded = encoded[:-1] + bytes([encoded[-1] ^ 1])
        net.inject("n0", UserFrame(Kind.EVENT, encoded), sender="n2")
    assert not net.told("n0", UserEventHeard)
    assert net.count("n0", "events_bad_signature") == 2
    assert net.count("n0", "user_frames_waiting") == 0
