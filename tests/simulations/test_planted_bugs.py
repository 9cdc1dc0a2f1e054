"""Each property bites: a bug planted in the production core fails a scenario on exactly that property.

The scenario is not touched: without the patch it passes, and has put the property to the test.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

import swim.outgoing
import swim.own_word
from simulations.properties import PROPERTIES
from simulations.runner import NOT_LIVE, NOT_SAFE
from simulations.scenario import Scenario
from swim.accusations import Accusations
from swim.events import MemberLeft
from swim.keyring import PlainEnvelope
from swim.learning import Learning
from swim.members import PRECEDENCE, MemberTable, Need, Record, State
from swim.messages import Alive, Dead
from swim.own_word import OwnWord
from swim.probe import Prober
from swim.protocol import Swim
from swim.seeds import Seeds
from swim.suspicion import Case
from tests.simulations.scenarios import outcome, scenario

Patch = pytest.MonkeyPatch
SIDES = {"sides": [{"first": 3}, "rest"]}
ASLEEP = (  # m005 hears nothing for half a minute, and goes on with what it knew before
    {"pause": {"members": ["m005"], "at_s": 3, "for_s": 30}},
    {"partition": {"sides": [["m005"], "rest"], "at_s": 3, "for_s": 30}},
)


@dataclass(frozen=True)
class Planted:
    """A scenario, and a bug that it shall catch."""

    property: str
    scenario: Scenario
    plant: Callable[[Patch], None]
    seed: int = 2


def packets_without_a_limit(patch: Patch) -> None:
    """Room for messages is counted wrongly, and the last check is gone."""
    patch.setattr(swim.outgoing, "BODY_BYTES", 4_000)
    patch.setattr(swim.outgoing, "MAX_PACKET_BYTES", 9_000)


def older_words_win(patch: Patch) -> None:
    """Whatever differs from what is held is taken for news."""

    def accepts(record: Record, statement: object) -> bool:
        if isinstance(statement, Alive):
            return (statement.boot, statement.incarnation) != record.version
        return original(record, statement)

    original = Record.accepts
    patch.setattr(Record, "accepts", accepts)


def nobody_refutes(patch: Patch) -> None:
    """Accusations of oneself are not heard, and an answer to a probe does not postpone the verdict."""
    patch.setattr(OwnWord, "hear", lambda *_: None)
    patch.setattr(Accusations, "acked", lambda *_: None)


def an_address_book_without_a_limit(patch: Patch) -> None:
    """Every reaped member is remembered."""

    def remember(table: MemberTable, name: str, remembered: object) -> None:
        table._remembered[name] = remembered

    patch.setattr(MemberTable, "remember", remember)


def no_checksum(patch: Patch) -> None:
    """The checksum of a packet is not compared."""
    patch.setattr(PlainEnvelope, "open", lambda _, channel, data: data[6:])


def goodbyes_are_not_told(patch: Patch) -> None:
    """The application does not hear that somebody has left."""

    def events(self: Swim) -> list:
        return [event for event in original(self) if not isinstance(event, MemberLeft)]

    original = Swim.events
    patch.setattr(Swim, "events", events)


def the_past_is_forgotten(patch: Patch) -> None:
    """What is remembered of a reaped member is not looked at."""
    patch.setattr(MemberTable, "remembered", lambda *_: None)


def the_past_is_a_double(patch: Patch) -> None:
    """A word of one's own past life is taken for that of another process."""
    patch.setattr(swim.own_word, "MAX_REBASES", 0)


def suspicions_are_slow(patch: Patch) -> None:
    """Suspicions last far too long, and verdicts of others do not end them."""
    deadline = Case.deadline
    patch.setattr(Case, "deadline", lambda case, margin_s=0.0: deadline(case, margin_s) + 25)


def newcomers_are_ignored(patch: Patch) -> None:
    """Nobody takes notice of a member in the first seconds of its life."""

    def learn(
        self: Learning, statement: object, encoded: bytes, sender: str, now: float, **how: bool
    ) -> object:
        if (
            isinstance(statement, Alive)
            and statement.boot.time_ms / 1000 > now + self._owner.wall_offset - 15
        ):
            return ()
        return original(self, statement, encoded, sender, now, **how)

    original = Learning.learn
    patch.setattr(Learning, "learn", learn)


def nobody_is_reaped(patch: Patch) -> None:
    """The dead stay in the table."""
    patch.setattr(MemberTable, "next_reap", lambda *_: None)


def the_lost_are_not_tried(patch: Patch) -> None:
    """Neither lost members nor seeds are tried again."""
    patch.setattr(Swim, "_reconnect", lambda *_: None)
    patch.setattr(Seeds, "revisit", lambda *_: None)


def no_verdict_after_a_stall(patch: Patch) -> None:
    """A member that has stood still for long never declares anybody dead again, and believes no verdict."""
    review, hear = Accusations._review_suspicion, Accusations.hear

    def stalled(self: Accusations) -> bool:
        return self._health.longest_lag_s > 5

    def patched_review(self: Accusations, record: Record, case: Case, now: float) -> bool:
        if not stalled(self):
            return review(self, record, case, now)
        case.due = now + 1
        return False

    def patched_hear(self: Accusations, said: object, encoded: bytes, now: float, *, pass_on: bool) -> None:
        if not (stalled(self) and isinstance(said, Dead)):
            hear(self, said, encoded, now, pass_on=pass_on)

    patch.setattr(Accusations, "_review_suspicion", patched_review)
    patch.setattr(Accusations, "hear", patched_hear)


def addresses_are_kept(patch: Patch) -> None:
    """The application is shown the first address that a member ever had."""

    def view(record: Record) -> object:
        first = known.setdefault(id(record), record.alive.address)
        return replace(original(record), address=first)

    known: dict[int, tuple[str, int]] = {}
    original = Record.view
    patch.setattr(Record, "view", view)


def verdicts_that_do_not_last(patch: Patch) -> None:
    """Whoever cannot reach a member declares it dead alone, and believes the next old word that it lives."""

    def quorum(self: Accusations, wanted: int) -> int:
        return 1 if self._identity.name in alone else original_quorum(self, wanted)

    def review(self: Accusations, record: Record, case: Case, now: float) -> bool:
        if self._identity.name in case.signatures:
            alone.append(self._identity.name)
            case._longest_s = case._shortest_s
        is_due = original_review(self, record, case, now)
        alone.clear()
        return is_due

    alone: list[str] = []
    original_quorum, original_review = Accusations._quorum, Accusations._review
    patch.setattr(Accusations, "_quorum", quorum)
    patch.setattr(Accusations, "_review", review)
    patch.setattr(Prober, "_ask_others", lambda self, probe, now: setattr(probe, "indirect_at", None))
    patch.setitem(PRECEDENCE[State.DEAD], Alive, Need.SAME)


PLANTED = [
    Planted("always_packets_fit", scenario(members=12, start="join", safety_s=5), packets_without_a_limit),
    Planted(
        "always_words_go_forward",
        scenario(  # two members come back with the word of an earlier life, and compare notes
            {"partition": {"sides": [["m004", "m005"], "rest"], "at_s": 3, "for_s": 2.5}},
            {"crash": {"members": ["m001"], "at_s": 3.2}},
            {"restart": {"members": ["m001"], "at_s": 4.6}},
        ),
        older_words_win,
        seed=3,
    ),
    Planted(
        "always_no_false_death",
        scenario(
            {"crash": {"members": ["m001"], "at_s": 2}},
            {"starve": {"members": ["m002"], "at_s": 5, "running_s": 0.5, "paused_s": [1.5, 2.1]}},
        ),
        nobody_refutes,
    ),
    Planted(
        "always_within_bounds",
        scenario(
            {"crash": {"members": {"first": 3}, "at_s": 3}},
            config={"max_remembered": 2, "reap_after_s": 3},
            bounds={"detect_s": 20},
        ),
        an_address_book_without_a_limit,
    ),
    Planted(
        "always_corruption_is_dropped",
        scenario({"disturb": {"at_s": 3, "for_s": 10, "corrupt": 0.3}}),
        no_checksum,
    ),
    Planted(
        "always_events_tell_the_table",
        scenario({"leave": {"members": ["m003"], "at_s": 5}}),
        goodbyes_are_not_told,
    ),
    Planted(
        "always_the_gone_stay_gone",
        scenario(
            *ASLEEP,
            {"crash": {"members": ["m001"], "at_s": 4}},
            {"restart": {"members": ["m001"], "at_s": 45}},
            config={"reap_after_s": 5},
            safety_s=50,
            bounds={"detect_s": 15},
        ),
        the_past_is_forgotten,
    ),
    Planted(
        "always_nobody_is_twice",
        scenario(
            {"crash": {"members": ["m001"], "at_s": 3}},
            {"clock": {"members": ["m001"], "at_s": 4, "wall_offset_s": -60}},
            {"restart": {"members": ["m001"], "at_s": 5}},
        ),
        the_past_is_a_double,
    ),
    Planted(
        "eventually_crashes_are_detected",
        scenario({"crash": {"members": ["m001"], "at_s": 3}}, safety_s=40),
        suspicions_are_slow,
    ),
    Planted(
        "eventually_joiners_are_known",
        scenario({"join": {"members": ["new"], "at_s": 3}}, safety_s=30),
        newcomers_are_ignored,
    ),
    Planted(
        "eventually_the_gone_are_reaped",
        scenario({"leave": {"members": ["m001"], "at_s": 3}}, config={"reap_after_s": 5}),
        nobody_is_reaped,
    ),
    Planted(
        "finally_no_live_member_is_held_dead",
        scenario({"partition": {"at_s": 3, "for_s": 25, **SIDES}}, safety_s=40),
        the_lost_are_not_tried,
    ),
    Planted(
        "finally_everybody_is_known",
        scenario({"partition": {"at_s": 3, "for_s": 25, **SIDES}}, safety_s=40, config={"reap_after_s": 5}),
        the_lost_are_not_tried,
    ),
    Planted(
        "finally_nobody_gone_is_held_up",
        scenario(
            {"pause": {"members": ["m005"], "at_s": 3, "for_s": 20}},
            {"crash": {"members": ["m001"], "at_s": 4}},
            safety_s=30,
        ),
        no_verdict_after_a_stall,
    ),
    Planted(
        "finally_views_agree",
        scenario(
            {"crash": {"members": ["m001"], "at_s": 3}},
            {"restart": {"members": ["m001"], "at_s": 5, "moved": True}},
        ),
        addresses_are_kept,
    ),
    Planted(
        "finally_states_settle",
        scenario(
            {"partition": {"pairs": [["m001", "m002"]], "at_s": 3, "excuses": True}},
            heal=False,
            bounds={"quiet_s": 15},
        ),
        verdicts_that_do_not_last,
    ),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.property)
def test_a_planted_bug_fails_exactly_its_property(planted: Planted, monkeypatch: Patch) -> None:
    healthy = outcome(planted.scenario, planted.seed)
    assert healthy.failed == []
    assert healthy.checks[planted.property] > 0, "the scenario does not put the property to the test"
    planted.plant(monkeypatch)
    failed = outcome(planted.scenario, planted.seed)
    assert failed.failed == [planted.property], [violation.text for violation in failed.violations]
    is_safety = planted.property.startswith("always_")
    assert failed.code == (NOT_SAFE if is_safety else NOT_LIVE)
    if is_safety:
        assert failed.virtual_s == failed.violations[-1].at_us / 1_000_000, (
            "it ends the run, at its own instant"
        )


def test_every_property_has_a_planted_bug() -> None:
    assert sorted(planted.property for planted in PLANTED) == sorted(PROPERTIES)
