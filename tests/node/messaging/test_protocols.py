"""What may answer what, as a table; whatever two agents say, neither is handed what is out of protocol."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.message import Message
from node.messaging.protocols import (
    LOOSE,
    OPENERS,
    RULES,
    SILENT,
    STARTS,
    Quoted,
    Stage,
    is_plain,
    is_void_when_late,
    judge,
    needs_quoted,
    protocol_of,
    stage_after,
    step,
)
from node.vocabulary import EXPECTS_REPLY, Performative

P = Performative


def message(performative, **fields):
    values = {"id": "m", "sender": "b@n", "receiver": "a@n", "conversation_id": "c", "reply_with": "m"}
    return Message(performative=P(performative), **(values | fields))


def answer(performative, question, stage=Stage.OPEN, **facts):
    quoted = Quoted(question, **({"is_own": True, "stage": stage} | facts))
    return judge(message(performative, in_reply_to="q"), quoted)


def asked(performative, protocol=None):
    return message(performative, id="q", sender="a@n", receiver="b@n", reply_with="q", protocol=protocol)


def test_no_two_rules_say_different_things():
    answers = [(r.protocol, r.to, r.stage, a) for r in RULES for a in r.answers]
    assert len(set(answers)) == len(answers)
    assert {r.protocol for r in RULES} == {LOOSE, *OPENERS}


@pytest.mark.parametrize("protocol", [LOOSE, *OPENERS])
def test_what_expects_a_reply_can_be_answered_and_its_exchange_ends(protocol):
    for performative in sorted(EXPECTS_REPLY if protocol == LOOSE else [OPENERS[protocol], P.CANCEL]):
        reached = {step(protocol, performative, stage, answer) for stage in Stage for answer in Performative}
        assert Stage.ANSWERED in reached, (protocol, performative)


def test_a_promise_is_followed_by_the_result_and_then_nothing():
    for protocol, question in (("fipa-request", "request"), ("fipa-query", "query")):
        sent = asked(question, protocol)
        assert stage_after(sent, Stage.OPEN, [P.AGREE]) is Stage.AGREED
        assert stage_after(sent, Stage.OPEN, [P.AGREE, P.INFORM]) is Stage.ANSWERED
        assert stage_after(sent, Stage.OPEN, [P.AGREE, P.AGREE, P.REFUSE]) is Stage.AGREED
        assert answer("refuse", sent, Stage.AGREED).expected
        assert "answered before" in answer("inform", sent, Stage.ANSWERED).reason


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.protocol != LOOSE], ids=str)
def test_under_a_protocol_nothing_follows_what_ends_an_exchange(rule):
    if rule.then is Stage.ANSWERED:
        after = {step(rule.protocol, rule.to, rule.then, each) for each in Performative}
        assert after == {None, Stage.ANSWERED}
        assert step(rule.protocol, rule.to, rule.then, P.NOT_UNDERSTOOD) is Stage.ANSWERED
        later = [each for each in Performative if each is not P.NOT_UNDERSTOOD]
        assert {step(rule.protocol, rule.to, rule.then, each) for each in later} == {None}


def test_without_a_protocol_more_may_follow_a_result():
    assert answer("inform", asked("request"), Stage.ANSWERED) is None
    assert answer("refuse", asked("request"), Stage.ANSWERED).answer is P.NOT_UNDERSTOOD


@pytest.mark.parametrize("performative", ["accept_proposal", "reject_proposal"])
@pytest.mark.parametrize("protocol", [None, "fipa-propose", "FIPA_Contract-Net"])
def test_a_decision_needs_a_proposal_that_is_known_own_undecided_and_still_stands(performative, protocol):
    proposal = asked("propose", protocol)
    assert answer(performative, proposal) is None
    assert judge(message(performative)).answer is P.NOT_UNDERSTOOD
    assert judge(message(performative, in_reply_to="q")).answer is P.NOT_UNDERSTOOD
    for facts in ({"is_own": False}, {"is_late": True}, {"stage": Stage.ANSWERED}):
        assert answer(performative, proposal, **facts).answer is P.NOT_UNDERSTOOD, facts
    assert answer(performative, asked("request", protocol)).answer is P.NOT_UNDERSTOOD


def test_a_bid_that_comes_late_is_rejected_and_a_result_that_comes_late_is_not():
    assert answer("propose", asked("cfp"), is_late=True).answer is P.REJECT_PROPOSAL
    assert answer("refuse", asked("cfp"), is_late=True) is None
    assert answer("inform", asked("request", "fipa-request"), is_late=True) is None


def test_a_cancel_needs_something_that_it_takes_back():
    assert judge(message("cancel"), has_begun=True) is None
    assert judge(message("cancel")).answer is P.NOT_UNDERSTOOD


def test_the_end_of_a_message_is_told_by_its_node_whatever_the_protocol():
    told = message("failure", sender="system@n", in_reply_to="q")
    assert judge(told, Quoted(asked("cfp", "fipa-contract-net"), is_own=False, stage=Stage.ANSWERED)) is None


@pytest.mark.parametrize("protocol", sorted(OPENERS))
def test_a_protocol_begins_with_its_opener(protocol):
    for performative in Performative:
        begins = judge(message(performative, protocol=protocol), has_begun=True) is None
        fine = (OPENERS[protocol], P.CANCEL, P.NOT_UNDERSTOOD)
        assert begins is (performative in fine), performative


def test_what_answers_something_that_was_forgotten_is_handed_over_unless_it_decides():
    for performative in Performative:
        objection = judge(message(performative, in_reply_to="q", protocol="fipa-request"), has_begun=True)
        decides = performative in (P.ACCEPT_PROPOSAL, P.REJECT_PROPOSAL)
        assert (objection is not None) is decides, performative


@given(
    st.sampled_from(Performative),
    st.sampled_from([None, "x", *OPENERS]),
    st.sampled_from([None, "q"]),
)
def test_what_is_plain_is_never_objected_to_and_needs_no_look(performative, protocol, quoted):
    sent = message(performative, protocol=protocol, in_reply_to=quoted)
    if is_plain(sent):
        assert judge(sent) is None
        assert not needs_quoted(sent)


# Two agents who say whatever comes to their minds

PROTOCOLS = [None, *OPENERS]
LETTERS = {
    P.AGREE: "a", P.REFUSE: "r", P.INFORM: "i", P.FAILURE: "f", P.NOT_UNDERSTOOD: "n", P.CONFIRM: "c",
    P.DISCONFIRM: "d", P.PROPOSE: "p", P.ACCEPT_PROPOSAL: "y", P.REJECT_PROPOSAL: "z",
}  # fmt: skip
ALLOWED = {
    ("fipa-request", P.REQUEST): "n*(a?[ifn]?|r?)n*",
    ("fipa-query", P.QUERY): "n*(a?[icdfn]?|r?)n*",
    ("fipa-propose", P.PROPOSE): "n*[yz]?n*",
    ("fipa-propose", P.ACCEPT_PROPOSAL): "n*[if]?n*",
    ("fipa-contract-net", P.CFP): "n*[prf]?n*",
    ("fipa-contract-net", P.PROPOSE): "n*[yz]?n*",
    ("fipa-contract-net", P.ACCEPT_PROPOSAL): "n*[if]?n*",
    ("fipa-subscribe", P.SUBSCRIBE): "n*([ai]i*f?|[rf]?)n*",
    (LOOSE, P.PROPOSE): "n*(a?[yzpif]?|r?)n*",
    (LOOSE, P.REQUEST): "n*(a?([ipf][if]*)?|r?[if]*)n*([if]*n*)*",
    (LOOSE, P.CFP): "n*[prf]?n*",
}
"""What one agent may be told about one message, written down apart from the table."""

STARTS_OFTEN = [*Performative, *(3 * [P.REQUEST, P.QUERY, P.PROPOSE, P.CFP, P.SUBSCRIBE])]


class Agent:
    """What an agent has sent, what has come in, in order, and what its handler was given."""

    def __init__(self, name):
        self.name = name
        self.sent = {}
        self.came = []
        self.handled = []

    def take(self, arrived, is_late):
        """Handle a message, or rule it out as the referee does; returns how its sender is answered."""
        quoted, question = None, self.sent.get(arrived.in_reply_to)
        if question is not None and needs_quoted(arrived):
            before = [
                each.performative
                for each, late in self.came
                if each.in_reply_to == question.id
                and not (late and is_void_when_late(question, each.performative))
            ]
            stage = stage_after(question, Stage.OPEN, before)
            quoted = Quoted(question, is_own=True, stage=stage, is_late=is_late)
        has_begun = any(each.performative in STARTS for each, _ in self.came)
        objection = judge(arrived, quoted, has_begun=has_begun)
        self.came.append((arrived, is_late))
        if objection is None:
            self.handled.append((arrived, is_late))
            return None
        return objection.answer

    def check(self):
        """That each exchange, as the handler has seen it, is one that is allowed."""
        told = {}
        for arrived, is_late in self.handled:
            question = self.sent.get(arrived.in_reply_to)
            if arrived.performative in (P.ACCEPT_PROPOSAL, P.REJECT_PROPOSAL):
                assert question is not None
                assert question.performative is P.PROPOSE
                assert not is_late
            if question is not None and arrived.performative in LETTERS:
                told.setdefault(question.id, []).append(arrived.performative)
        for label, answers in told.items():
            question = self.sent[label]
            word = "".join(LETTERS[each] for each in answers)
            allowed = ALLOWED.get((protocol_of(question), question.performative), ".*")
            assert re.fullmatch(allowed, word), (question.performative, question.protocol, word)


class Talk:
    """Two agents, and what is on its way between them, in order."""

    def __init__(self):
        self.agents = {True: Agent("a@n"), False: Agent("b@n")}
        self.said = []
        self.on_the_way = []

    def say(self, who, performative, protocol, label, is_late=False):
        identifier = f"m{len(self.said)}"
        sent = message(
            performative, id=identifier, reply_with=identifier, sender=self.agents[who].name,
            receiver=self.agents[not who].name, protocol=protocol, in_reply_to=label,
        )  # fmt: skip
        self.agents[who].sent[identifier] = sent
        self.said.append(sent)
        self.on_the_way.append((not who, sent, is_late))

    def deliver(self):
        who, sent, is_late = self.on_the_way.pop(0)
        back = self.agents[who].take(sent, is_late)
        if back is not None:
            assert sent.performative not in SILENT
            self.say(who, back, sent.protocol, sent.id)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_no_handler_sees_a_message_that_is_out_of_protocol(seed):
    chance = random.Random(
        seed
    )  # a script of this length, drawn act by act, would not be made smaller in time
    talk = Talk()
    acts = chance.randrange(1, 80)
    for _ in range(acts):
        who, performative, protocol = (chance.choice(c) for c in ((True, False), STARTS_OFTEN, PROTOCOLS))
        asked = chance.choice(talk.said[-6:]) if talk.said and chance.random() < 0.7 else None
        label = chance.choice([None, "unknown"]) if asked is None else asked.id
        if asked is not None and chance.random() < 0.7:  # something that may answer it at some stage
            about = (protocol_of(asked), asked.performative)
            fit = [each for rule in RULES if (rule.protocol, rule.to) == about for each in rule.answers]
            performative = chance.choice(fit) if fit else performative
            who, protocol = asked.receiver == "a@n", asked.protocol
        talk.say(who, performative, protocol, label, is_late=chance.random() < 0.2)
        for _ in range(min(chance.randrange(4), len(talk.on_the_way))):
            talk.deliver()
    rounds = 0
    while talk.on_the_way:
        talk.deliver()
        rounds += 1
        assert rounds <= 3 * acts, "they do not understand each other for ever"
    for agent in talk.agents.values():
        agent.check()
