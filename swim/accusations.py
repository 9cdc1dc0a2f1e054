"""From a failed probe to a verdict: who doubts a member, who confirms, and when that is enough.

No single member can have another one declared dead. With n members up:

    suspicion   min(2, n - 2) members have signed that they could not reach the subject, at least one
    verdict     min(3, n - 2) have, at least one, and the subject has not answered in time

A prober whose relays confirm its doubt (their Nack is such a signature) has them all at once; one that is
cut off alone has nobody to confirm, and its doubt stays private: it is not told to anybody. After the
longest suspicion, however, a member judges by whom it can reach: one that hears nobody at all is left with
its own probes, and two that are cut off together with each other's.

The members that have signed pass the verdict; others wait `doubt_margin_s` longer for it. Just before, the
subject is asked once more, and others for its latest word. A Dead carries the signatures and is believed at
once by whoever already suspects the subject. Whoever has no doubt yet takes it for a suspicion and tells the
subject: so the two halves of a healed partition refute before they bury each other twice.

A subject that is impaired and says so (`Alive.patience_s`) is doubted in silence for that long.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from swim.broadcast import RumourQueue
from swim.codec import encode_message
from swim.config import SwimConfig
from swim.events import Event, MemberDied, MemberSuspected
from swim.evidence import Evidence
from swim.health import Health
from swim.identity import Identity
from swim.members import MemberTable, Record
from swim.messages import MAX_AUTHORS, Accusation, Alive, Dead, DecodeError, Statement, Suspect, doubt_bytes
from swim.suspicion import Case

SUSPICION_QUORUM: Final = 2
VERDICT_QUORUM: Final = 3
MAX_DECLARERS: Final = 4
"""Declarers that are told apart per case."""
TELL_PAUSE_S: Final = 0.5
"""Least time between two accusations passed on to one subject that are not believed here."""

Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key, signature, data) -> whether the signature is the key's."""


class Owner(Protocol):
    """What accusing needs of the protocol around it."""

    name: str

    def size(self) -> int:
        """Return how many members are up, this one included."""

    def reachable(self, exclude: str, now: float) -> int:
        """Return how many others were heard from lately, as far as it matters for a quorum."""

    def check(self, record: Record, now: float) -> None:
        """Ask a member whether it lives, outside the turn."""

    def tell_subject(self, record: Record, encoded: bytes) -> None:
        """Send a member what is said about it."""

    def gone(self, record: Record, now: float) -> None:
        """A member is not up any more."""


class Accusations:
    """All cases of one member against others.

    Args:
        config: the parameters.
        identity: signs this member's doubts and verdicts.
        owner: the protocol around it.
        verify: checks a signature.
        table: what is believed.
        rumours: where accusations are queued for others.
        health: local health, which is part of the evidence.
        evidence: where findings are noted.
        events: where events are appended.
        counts: where drops are counted.
    """

    def __init__(
        self,
        config: SwimConfig,
        identity: Identity,
        owner: Owner,
        *,
        verify: Verify,
        table: MemberTable,
        rumours: RumourQueue,
        health: Health,
        evidence: Evidence,
        events: list[Event],
        counts: Counter[str],
    ) -> None:
        self._config = config
        self._identity = identity
        self._owner = owner
        self._verify = verify
        self._table = table
        self._rumours = rumours
        self._health = health
        self._evidence = evidence
        self._events = events
        self._counts = counts
        self._cases: dict[str, Case] = {}
        self._told: dict[str, float] = {}
        self._next: float | None = None  # the least `due`, or something before it

    def doubt(self, record: Record, confirmations: Mapping[str, bytes], now: float) -> None:
        """Our own probe of a member has failed.

        Args:
            record: of the member.
            confirmations: signed doubts of the relays that were asked; one that is about another word of
                the member than the one held here is no confirmation.
            now: the time.
        """
        case = self._case(record, now)
        case.sign(self._owner.name, self.sign(record))
        for author, signature in confirmations.items():
            if author not in case.signatures:
                try:
                    if self._is_valid(record, author, signature) and case.sign(author, signature):
                        self._note_confirmed(record.name, case, author, now)
                except DecodeError:
                    self._counts["nacks_about_another_word"] += 1
        self._review(record, case, now)

    def sign(self, record: Record) -> bytes:
        """Return this member's signature for its doubt of a member's latest word."""
        known = self._cases.get(record.name)
        own = self._owner.name
        alive = record.alive
        if known is not None and (known.boot, known.incarnation) == (alive.boot, alive.incarnation):
            signed = known.signatures.get(own)
            if signed is not None:
                return signed
        return self._identity.sign(doubt_bytes(alive.name, alive.boot, alive.incarnation, own))

    def sign_past(self, name: str) -> bytes:
        """Return this member's signature for its doubt of somebody who was reaped; empty for a stranger."""
        past = self._table.remembered(name)
        if past is None or past.boot is None:
            return b""
        return self._identity.sign(doubt_bytes(name, past.boot, past.incarnation, self._owner.name))

    def signatures_in(self, statement: Statement, own: Alive) -> int:
        """Count the members whose doubt of this member's own word a statement holds; no other one has any."""
        if not isinstance(statement, (Suspect, Dead)):
            return 0
        valid = 0
        for author, signature in statement.authors:
            record = self._table.get(author)
            signed = doubt_bytes(own.name, own.boot, own.incarnation, author)
            valid += record is not None and self._verify(record.public_key, signature, signed)
        return valid

    def hear(self, accusation: Accusation, encoded: bytes, now: float, *, pass_on: bool) -> None:
        """Take an accusation, from anybody.

        Args:
            accusation: what was said.
            encoded: the same, as it came.
            now: the time.
            pass_on: whether to tell the subject of what is not enough to be believed here: it came from
                a peer that compares notes, perhaps across a partition that has just healed.

        Raises:
            DecodeError: if a signature is not its author's.
        """
        record = self._table.get(accusation.name)
        if record is None:
            self._refuse("accusation_of_stranger")
            return
        if not record.is_quoted_by(accusation):
            if (accusation.boot, accusation.incarnation) > record.version:
                self._refuse("accusation_of_unseen_incarnation")
            return
        if not record.is_up:
            return
        known = self._cases.get(record.name)
        news = [pair for pair in accusation.authors if known is None or pair[0] not in known.signatures]
        if not news and isinstance(accusation, Suspect):
            return
        valid = [pair for pair in news if self._is_valid(record, *pair)]
        if isinstance(accusation, Dead) and not self._is_declared(accusation):
            return
        if valid or not news:
            case = self._case(record, now)
            case.is_public |= len(accusation.authors) >= self._quorum(SUSPICION_QUORUM)
            fresh = [author for author, signature in valid if case.sign(author, signature)]
            for author in fresh:
                self._note_confirmed(record.name, case, author, now)
            if fresh and case.suspected_at is not None and len(case.signatures) <= MAX_AUTHORS:
                self._spread(record, case)
            if isinstance(accusation, Dead) and len(case.signatures) >= self._quorum(VERDICT_QUORUM):
                self._take_verdict(record, case, accusation, encoded, now)
            else:
                self._review(record, case, now)
        if pass_on and record.is_up and self._may_tell(record.name, now):
            self._owner.tell_subject(record, encoded)

    def acked(self, record: Record, now: float) -> None:
        """A member has proved that it lives: a private doubt is over, a verdict of ours postponed."""
        case = self._cases.get(record.name)
        if case is None:
            return
        if case.suspected_at is None:
            del self._cases[record.name]
        else:
            if case.heard_at < case.suspected_at:
                self._evidence.note(
                    record.name, now, "alive_after_all", "it answered a probe, but has not refuted"
                )
            case.heard_at = now
            case.checked = False
            self._plan(case, now)

    def close(self, name: str) -> None:
        """Drop a case: its subject has refuted, left, or is not known any more."""
        self._cases.pop(name, None)
        self._told.pop(name, None)

    def doubters(self, name: str) -> tuple[str, ...]:
        """Return who doubts a member now, in the order heard."""
        case = self._cases.get(name)
        return () if case is None else tuple(case.signatures)

    def postpone(self, seconds: float) -> None:
        """Give all cases back the time during which this process did not run."""
        for case in self._cases.values():
            case.postpone(seconds)
        self._next = min((case.due for case in self._cases.values()), default=None)

    def handle_timer(self, now: float) -> None:
        """Look at the cases that are due."""
        if self._next is None or now < self._next:
            return
        for name, case in [(n, c) for n, c in self._cases.items() if c.due <= now]:
            record = self._table.get(name)
            if record is not None and self._cases.get(name) is case:
                self._decide(record, case, now)
        self._next = min((case.due for case in self._cases.values()), default=None)

    def next_timer(self) -> float | None:
        """Return when a case wants to be looked at."""
        return self._next

    def statistics(self) -> dict[str, int]:
        """Count the open cases."""
        suspicions = sum(case.suspected_at is not None for case in self._cases.values())
        return {"suspicions": suspicions, "private_doubts": len(self._cases) - suspicions}

    # ---- inside -----------------------------------------------------------------------------

    def _case(self, record: Record, now: float) -> Case:
        alive = record.alive
        case = self._cases.get(record.name)
        if case is None or (case.boot, case.incarnation) != (alive.boot, alive.incarnation):
            case = self._cases[record.name] = Case(
                alive.boot,
                alive.incarnation,
                now,
                shortest_s=self._config.suspicion_min_s,
                longest_s=self._config.suspicion_max_s,
            )
        return case

    def _quorum(self, wanted: int) -> int:
        """Return how many of `wanted` signatures a cluster of this size can give."""
        return max(1, min(wanted, self._owner.size() - 2))

    def _is_valid(self, record: Record, author: str, signature: bytes) -> bool:
        if author == self._owner.name:
            # What we signed as somebody's relay comes back to us, and is first-hand. Ed25519 signs alike each
            # time (RFC 8032); what an earlier life signed with another key is no word of this one.
            return signature == self.sign(record)
        accuser = self._table.get(author)
        if accuser is None or author == record.name:
            self._refuse("accusation_by_stranger")
            return False
        if not accuser.is_up:
            self._refuse("accusation_by_the_dead")
            return False
        alive = record.alive
        signed = doubt_bytes(alive.name, alive.boot, alive.incarnation, author)
        if not self._verify(accuser.public_key, signature, signed):
            raise DecodeError("bad_signature")
        return True

    def _is_declared(self, dead: Dead) -> bool:
        if dead.declarer == self._owner.name:
            return False
        declarer = self._table.get(dead.declarer)
        if declarer is None:
            self._refuse("accusation_by_stranger")
            return False
        if not self._verify(declarer.public_key, dead.signature, dead.signed_bytes()):
            raise DecodeError("bad_signature")
        return True

    def _may_tell(self, name: str, now: float) -> bool:
        told = self._told.get(name)
        if told is not None and now < told + TELL_PAUSE_S:
            return False
        self._told[name] = now
        return True

    def _decide(self, record: Record, case: Case, now: float) -> None:
        """Bury a member if it is time to, else plan when to look again: called by timers alone.

        A timer fires when all that had arrived was read. Who has stood still would else bury a member on the
        word of one packet, whose refutation is in the next.
        """
        if case.verdict is not None:
            (dead, encoded), case.verdict = case.verdict, None
            if self._believes(case, dead, now):
                self._bury(record, case, dead, encoded, now)
                return
        if self._review(record, case, now):
            own = self._owner.name
            dead = Dead(record.name, case.boot, case.incarnation, case.authors(), own)
            dead = replace(dead, signature=self._identity.sign(dead.signed_bytes()))
            self._bury(record, case, dead, encode_message(dead), now)

    def _review(self, record: Record, case: Case, now: float) -> bool:
        """Do what signatures and time allow short of a verdict, and plan the next look; say if one is due."""
        if case.suspected_at is None:
            self._review_doubt(record, case, now)
        is_due = case.suspected_at is not None and record.is_up and self._review_suspicion(record, case, now)
        if self._cases.get(record.name) is case:
            self._plan(case, now if is_due or case.verdict is not None else case.due)
        return is_due

    def _review_doubt(self, record: Record, case: Case, now: float) -> None:
        own_only = set(case.signatures) == {self._owner.name}
        case.due = now + self._config.probe_interval_s
        patient_until = case.opened_at + record.alive.patience_s
        if now < patient_until and not case.is_public:
            case.due = patient_until
            return
        needed = self._quorum(SUSPICION_QUORUM)
        signed = len(case.signatures)
        if signed < needed and now >= case.opened_at + self._config.suspicion_min_s:
            needed = min(needed, 1 + self._owner.reachable(record.name, now))
        if signed < needed:
            if now >= case.longest_end:
                self.close(record.name)
            return
        members = self._owner.size()
        case.suspect(now, min(self._config.suspicion_confirmations, members - 2))
        self._counts["suspicions_begun"] += 1
        self._evidence.note(
            record.name,
            now,
            "suspected",
            f"doubted by {', '.join(case.signatures)}; {members} members up; local health penalty "
            f"{self._health.penalty}" + ("; by our own probe alone" if own_only else ""),
        )
        suspect = self._spread(record, case)
        encoded = encode_message(suspect)
        self._table.apply(record, suspect, encoded, now)
        if self._owner.name in case.signatures:
            self._owner.tell_subject(record, encoded)
        self._events.append(MemberSuspected(record.view(), next(iter(case.signatures))))

    def _spread(self, record: Record, case: Case) -> Suspect:
        """Tell everybody who doubts, as far as known."""
        suspect = Suspect(record.name, case.boot, case.incarnation, case.authors())
        self._rumours.add(suspect, encode_message(suspect))
        return suspect

    def _review_suspicion(self, record: Record, case: Case, now: float) -> bool:
        """Say whether the time is up and as many have signed as a verdict takes; plan when to look again."""
        is_author = self._owner.name in case.signatures
        deadline = case.deadline(0.0 if is_author else self._config.doubt_margin_s)
        if len(case.declarers) > 1 and case.suspected_at is not None and case.heard_at < case.suspected_at:
            deadline = min(deadline, case.suspected_at + self._config.doubt_margin_s)
        check_s = self._config.probe_timeout_s * self._config.probe_verdict_mult
        if now < deadline:
            if not case.checked and now >= deadline - check_s:
                case.checked = True
                self._owner.check(record, now)
            case.due = deadline if case.checked else deadline - check_s
            return False
        case.due = now + self._config.probe_interval_s
        needed = self._quorum(VERDICT_QUORUM)
        signed = len(case.signatures)
        if signed < needed and now >= case.longest_end:
            needed = min(needed, 1 + self._owner.reachable(record.name, now))
        return signed >= needed

    def _take_verdict(self, record: Record, case: Case, dead: Dead, encoded: bytes, now: float) -> None:
        """A verdict that proves itself: believed by whoever suspects already, else taken for a suspicion.

        The doubts in it may be honest and its declarer in a hurry, so the subject first has half of the
        shortest suspicion: an honest verdict comes after all of it, and our own began with the rumour.
        Who has missed that rumour, and hears the same verdict from several declarers, waits only for
        the refutation that the subject of a healed partition would send at once.

        Who has come back lately declares what it held while a partition kept it from the subject. That
        shortens nothing: here the subject has all of the shortest suspicion.
        """
        if self._is_settled(dead, now) and len(case.declarers) < MAX_DECLARERS:
            case.declarers[dead.declarer] = None
        if self._believes(case, dead, now):
            case.verdict = dead, encoded
            self._plan(case, now)
            return
        self._note_declared(record.name, case, dead.declarer, now)
        if case.suspected_at is None:
            self._review_doubt(record, case, now)
            self._owner.tell_subject(record, encoded)
        self._review(record, case, now)

    def _is_settled(self, dead: Dead, now: float) -> bool:
        """Whether the declarer has been up for longer than any suspicion lasts."""
        declarer = self._table.get(dead.declarer)
        return declarer is not None and now >= declarer.changed_at + self._config.suspicion_max_s

    def _believes(self, case: Case, dead: Dead, now: float) -> bool:
        """Whether the subject has had its time, and has not been heard since it was suspected."""
        wait_s = self._config.suspicion_min_s / (2 if self._is_settled(dead, now) else 1)
        if len(case.declarers) > 1:
            wait_s = min(wait_s, self._config.doubt_margin_s)
        since = case.suspected_at
        return since is not None and now >= since + wait_s and case.heard_at < since

    def _note_confirmed(self, name: str, case: Case, author: str, now: float) -> None:
        """Keep who has confirmed a suspicion; who doubted the member before is told with its beginning."""
        if case.suspected_at is not None and author != self._owner.name:
            self._evidence.note(name, now, "confirmed", by=author)

    def _note_declared(self, name: str, case: Case, declarer: str, now: float) -> None:
        """Keep that somebody has declared a death, once: repetitions would push out all other findings."""
        said = [f.by for f in self._evidence.why(name) if f.what == "accused" and f.at >= case.opened_at]
        if declarer not in said and len(said) < MAX_DECLARERS:
            self._evidence.note(name, now, "accused", "declared dead elsewhere", by=declarer)

    def _bury(self, record: Record, case: Case, dead: Dead, encoded: bytes, now: float) -> None:
        self._table.apply(record, dead, encoded, now)
        self._rumours.add(dead, encoded)
        self.close(record.name)
        silent_for_s = now - record.last_heard
        accusers = tuple(case.signatures)
        self._evidence.note(
            record.name,
            now,
            "dead",
            f"doubted by {', '.join(accusers)} for {now - case.opened_at:.1f} s; itself silent here for "
            f"{silent_for_s:.1f} s; local health penalty {self._health.penalty}",
            by=dead.declarer,
        )
        self._owner.gone(record, now)
        self._events.append(MemberDied(record.view(), dead.declarer, accusers, silent_for_s))

    def _plan(self, case: Case, due: float) -> None:
        case.due = due
        self._next = due if self._next is None else min(self._next, due)

    def _refuse(self, reason: str) -> None:
        self._counts[f"dropped_{reason}"] += 1
