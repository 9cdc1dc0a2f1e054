"""Every event of the membership is told in words, as loudly as it matters, and the latest are kept."""

import json
import logging
from typing import get_args

import pytest

from node.cluster.journal import RECENT_EVENTS, RECENT_FAILURES, TELLERS, Journal, tell
from swim import events
from swim.members import Member, State
from swim.messages import Boot
from tests.node.security.environments import SetClock

BETA = Member(
    "beta", ("10.0.0.2", 7946), State.DEAD, Boot(1, b"x" * 8), 3, b"", b"", (1, 1), 0, last_heard=0.0,
    changed_at=0.0,
)  # fmt: skip

CASES = [
    (events.Joined(("10.0.0.9:7946",), 4), "INFO", "joined through 10.0.0.9:7946; 4 members are up"),
    (events.Joined((), 1), "INFO", "every seed is this node itself"),
    (events.SeedUnreachable("n9:7946", "refused", 1, 0.5), "WARNING", "seed n9:7946: refused (attempt 1"),
    (events.SeedUnreachable("n9:7946", "refused", 3, 0.5), "DEBUG", "(attempt 3, next in 0.5 s)"),
    (events.MemberJoined(BETA), "INFO", "beta is a member, at 10.0.0.2:7946"),
    (events.MemberAlive(BETA, True), "INFO", "beta is back (restarted)"),
    (events.MemberAlive(BETA, False), "INFO", "beta is back (the same process as before)"),
    (events.MemberUpdated(BETA, True), "INFO", "beta has restarted before anybody noticed"),
    (events.MemberSuspected(BETA, "gamma"), "INFO", "beta is suspected: gamma"),
    (events.MemberRefuted(BETA, False), "INFO", "it lives"),
    (events.MemberDied(BETA, "gamma", ("gamma", "delta"), 9.25), "WARNING",
     "beta died: declared by gamma, unreachable for gamma, delta, silent here for 9.2 s"),
    (events.MemberLeft(BETA), "INFO", "beta has said goodbye"),
    (events.MemberReaped(BETA), "INFO", "beta is not shown any more; its address is tried on"),
    (events.MemberForgotten("beta"), "INFO", "beta was given up as lost for good"),
    (events.MemberRevoked(BETA), "WARNING", "beta is a member no more: its key is revoked"),
    (events.MemberRefused("eta", ("::1", 7), "it speaks another version"), "WARNING",
     "eta at [::1]:7 has a certificate of this cluster and cannot be a member: it speaks another version"),
    (events.DuplicateName("alpha", ("10.0.0.7", 7946)), "ERROR", "another process speaks as alpha"),
    (events.Impaired(8), "WARNING", "asks the others to bear 8 s of silence"),
    (events.Impaired(0), "INFO", "this node has been well for a while"),
    (events.PathLost("beta", "relay"), "WARNING",
     "no datagrams pass between this node and beta, which lives and is reached through others"),
    (events.PathLost("beta", "stream"), "WARNING", "reached by TCP"),
    (events.PathRestored("beta"), "INFO", "datagrams pass again between this node and beta"),
]  # fmt: skip


@pytest.fixture
def journal():
    return Journal(SetClock(1_700_000_000.0))


OF_OTHERS = {
    events.UserEventHeard, events.QuestionHeard, events.QueryFinished, events.KeyringChanged,
    events.KeyOperationFinished,
}  # fmt: skip
"""Events that are not about the membership."""


def test_every_event_of_the_membership_is_told():
    assert {type(event) for event, *_ in CASES} == set(TELLERS) == set(get_args(events.Event)) - OF_OTHERS


def test_what_is_not_about_the_membership_is_left_to_others(journal, caplog):
    caplog.set_level(logging.DEBUG)
    journal.note(events.QueryFinished(b"q"))
    assert (journal.recent(), caplog.records) == ([], [])


@pytest.mark.parametrize(("event", "level", "words"), CASES)
def test_an_event_is_logged_in_words_and_kept_as_facts(event, level, words, journal, caplog):
    caplog.set_level(logging.DEBUG, "node.cluster.journal")
    journal.note(event)
    [record] = caplog.records
    assert (record.levelname, words in record.getMessage()) == (level, True)
    [kept] = journal.recent()
    assert (kept["event"], kept["time"]) == (type(event).__name__, "2023-11-14T22:13:20.000Z")
    assert kept["text"] == record.getMessage()
    assert json.loads(json.dumps(kept)) == kept


def test_programs_find_who_and_what_without_reading_the_words():
    died = tell(events.MemberDied(BETA, "gamma", ("gamma",), 9.25)).facts
    assert died == {"node": "beta", "author": "gamma", "accusers": ["gamma"], "silent_seconds": 9.25}
    assert tell(events.PathLost("beta", "relay")).facts == {"node": "beta", "by": "relay"}
    assert tell(events.Impaired(8)).facts == {"patience_seconds": 8}


def test_a_member_that_knows_itself_impaired_is_told_to_ask_for_patience():
    member = Member(*(getattr(BETA, name) for name in BETA.__slots__[:8]), 12, 0.0, 0.0)
    assert "knows itself impaired and asks for 12 s" in tell(events.MemberUpdated(member, False)).text


def test_the_journal_is_bounded_and_a_seed_that_fails_for_ever_pushes_nothing_out(journal):
    journal.note(events.MemberJoined(BETA))
    for attempt in range(1, 50):
        journal.note(events.SeedUnreachable("n9:7946", "refused", attempt, 0.5))
    kept = journal.recent()
    assert [event["event"] for event in kept] == ["MemberJoined", *["SeedUnreachable"] * RECENT_FAILURES]
    assert [event["attempt"] for event in kept[1:]] == [46, 47, 48, 49]
    for _ in range(2 * RECENT_EVENTS):
        journal.note(events.MemberJoined(BETA))
    assert len(journal.recent()) == RECENT_EVENTS
