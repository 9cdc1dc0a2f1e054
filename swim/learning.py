"""What a member comes to believe: statements heard are checked against the table, then applied and told.

Every statement takes the same way, wherever it came from (a rumour, a comparison, a push-pull, our own
probe): is it news by the precedence table, is it signed by whom it speaks for, then the record changes,
the news is queued for others, and the owner is told. What is not news costs a look at the table.

A member that was reaped here does not come back by hearsay: an Alive of a life that is known to be over is
kept aside, its subject is asked, and shown only when it has answered (`knock`).
"""

from collections import Counter, OrderedDict
from typing import Final, Protocol

from swim.accusations import Accusations, Verify
from swim.broadcast import RumourQueue
from swim.config import SwimConfig
from swim.events import (
    Event,
    MemberAlive,
    MemberJoined,
    MemberLeft,
    MemberRefused,
    MemberRefuted,
    MemberUpdated,
)
from swim.evidence import Evidence
from swim.identity import Authority, Revocation
from swim.members import MAX_INCARNATION_JUMP, MemberTable, Record, State, digest_of
from swim.messages import Alive, Boot, DecodeError, Left, Statement
from swim.networks import AllowedNetworks

SANE_WALL_S: Final = 1_704_067_200.0
"""1 January 2024. A clock before it was never set, and is no judge of anybody's future."""
MAX_KNOCKS: Final = 256
"""Members of the past that are asked whether they live; the one asked first gives way."""
MAX_REFUSED: Final = 64
"""Names whose refusal was reported; each is reported once."""


class Owner(Protocol):
    """What learning needs of the protocol around it."""

    name: str
    wall_offset: float

    def about_self(self, statement: Statement, now: float) -> tuple[bytes, ...]:
        """Handle a statement about this member; return its word if that is ahead of an accusation."""

    def knock(self, record: Record, now: float) -> None:
        """Ask somebody who is not in the table whether it lives."""

    def came(self, record: Record, now: float) -> None:
        """A member is up that was not."""

    def gone(self, record: Record, now: float) -> None:
        """A member is not up any more."""

    def agree_on_version(self) -> None:
        """A member understands other versions than before."""


class Learning:
    """Beliefs of one member about the others.

    Args:
        config: the parameters.
        owner: the protocol around it.
        authority: decides whose statements count.
        verify: checks a signature.
        versions: lowest and highest protocol version that is understood here.
        networks: where members may have their addresses.
        accusations: the cases against members.
        table: what is believed.
        rumours: where news is queued for others.
        evidence: where findings are noted.
        events: where events are appended.
        counts: where drops are counted.
    """

    def __init__(
        self,
        config: SwimConfig,
        owner: Owner,
        authority: Authority,
        *,
        verify: Verify,
        versions: tuple[int, int],
        networks: AllowedNetworks,
        accusations: Accusations,
        table: MemberTable,
        rumours: RumourQueue,
        evidence: Evidence,
        events: list[Event],
        counts: Counter[str],
    ) -> None:
        self._config = config
        self._owner = owner
        self._authority = authority
        self._verify = verify
        self._versions = versions
        self._networks = networks
        self._accusations = accusations
        self._table = table
        self._rumours = rumours
        self._evidence = evidence
        self._events = events
        self._counts = counts
        self._knocks: OrderedDict[str, Record] = OrderedDict()
        self._refused: OrderedDict[str, None] = OrderedDict()

    def learn(
        self, statement: Statement, encoded: bytes, sender: str, now: float, *, compared: bool = False
    ) -> tuple[bytes, ...]:
        """Take one statement, from anybody.

        Args:
            statement: what was said.
            encoded: the same, as it came.
            sender: who passed it on.
            now: the time.
            compared: whether the sender compares what it holds with us, instead of spreading news.

        Returns:
            The statements held here that beat it, for the sender: against an accusation always, against
            another statement if the sender compares.

        Raises:
            DecodeError: if a signature is not its author's.
        """
        if isinstance(statement, Left) and self._is_ahead_of_time(statement.boot, now):
            self._refuse("boot_time_ahead")
            return ()
        if statement.name == self._owner.name:
            return self._owner.about_self(statement, now)
        if isinstance(statement, Alive):
            return self._learn_alive(statement, encoded, sender, now, compared=compared)
        if isinstance(statement, Left):
            self._learn_left(statement, encoded, now)
            return ()
        record = self._table.get(statement.name)
        if record is not None and record.is_up and record.is_ahead_of(statement):
            return (record.encoded,)
        self._accusations.hear(statement, encoded, now, pass_on=compared)
        return ()

    def load(self, alive: Alive, encoded: bytes, now: float) -> bool:
        """Take back a member known in an earlier life; nobody is told. Say whether it is news."""
        if alive.name == self._owner.name or self._table.get(alive.name) is not None or self._table.is_full:
            return False
        public_key = self.verify(alive, now)
        if public_key is None:
            return False
        self._insert(alive, encoded, public_key, now)
        return True

    def knock_answered(self, name: str, now: float) -> None:
        """Somebody of the past who was asked whether it lives does."""
        record = self._knocks.pop(name, None)
        if record is not None and self._table.get(name) is None and not self._table.is_full:
            self._insert(record.alive, record.encoded, record.public_key, now)
            self._rumours.add(record.alive, record.encoded)

    def revoke(self, encoded: bytes) -> Revocation | None:
        """Take note of a revocation; return what it says, or None where the authority has not signed it."""
        revocation = self._authority.revoke(encoded)
        if revocation is not None:
            self._knocks.pop(revocation.name, None)
        return revocation

    def knocked(self, name: str) -> Record | None:
        """Return what is known of somebody who was asked whether it lives."""
        return self._knocks.get(name)

    def verify(self, alive: Alive, now: float) -> bytes | None:
        """Return the subject's public key if its word is its own and acceptable, or count why not.

        Raises:
            DecodeError: if the signature is not the subject's.
        """
        admitted = self._authority.admit(alive.credential, now + self._owner.wall_offset)
        if self._is_ahead_of_time(alive.boot, now):
            self._refuse("boot_time_ahead")
        elif len(alive.meta) > self._config.max_meta_bytes:
            self._refuse("meta_too_long")
        elif not self._networks.allows(alive.host):
            self._refuse("network_not_allowed")
        elif admitted is None or self._authority.is_revoked(admitted.public_key):
            self._refuse("credential_refused")
        elif admitted.name != alive.name:
            self._refuse("credential_of_another")
        elif not self._verify(admitted.public_key, alive.signature, alive.signed_bytes()):
            raise DecodeError("bad_signature")
        elif not self._is_spoken_here(alive):
            self._refuse("protocol_version")
            self._report(alive, "it speaks no protocol version that is understood here")
        else:
            return admitted.public_key
        return None

    def statistics(self) -> dict[str, int]:
        """Count those who were asked whether they live."""
        return {"knocks_waiting": len(self._knocks)}

    # ---- inside -----------------------------------------------------------------------------

    def _learn_alive(
        self, alive: Alive, encoded: bytes, sender: str, now: float, *, compared: bool
    ) -> tuple[bytes, ...]:
        record = self._table.get(alive.name)
        if record is None:
            against = self._meet(alive, encoded, sender, now)
            return against if compared else ()
        if not record.accepts(alive):
            return record.against(alive) if compared else ()
        if self._is_jump(record, alive):
            return ()
        public_key = self.verify(alive, now)
        if public_key is not None:
            self._rumours.add(alive, encoded)
            self._update(record, alive, encoded, public_key, now)
        return ()

    def _meet(self, alive: Alive, encoded: bytes, sender: str, now: float) -> tuple[bytes, ...]:
        """Hear of a name that is not in the table; return what ended that life, if it is over."""
        if self._table.is_full:
            self._refuse("member_table_full")
            return ()
        public_key = self.verify(alive, now)
        if public_key is None:
            return ()
        past = self._table.remembered(alive.name)
        if past is not None and past.is_over(alive) and sender != alive.name:
            record = Record(alive, encoded, digest_of(encoded), public_key, State.ALIVE, None, b"", now, now)
            self._knocks[alive.name] = record
            self._knocks.move_to_end(alive.name)
            if len(self._knocks) > MAX_KNOCKS:
                self._knocks.popitem(last=False)
            self._owner.knock(record, now)
            return past.ending
        self._knocks.pop(alive.name, None)
        self._rumours.add(alive, encoded)
        self._insert(alive, encoded, public_key, now)
        return ()

    def _insert(self, alive: Alive, encoded: bytes, public_key: bytes, now: float) -> None:
        record = Record(alive, encoded, digest_of(encoded), public_key, State.ALIVE, None, b"", now, now)
        self._table.insert(record)
        self._owner.came(record, now)
        self._events.append(MemberJoined(record.view()))

    def _update(self, record: Record, alive: Alive, encoded: bytes, public_key: bytes, now: float) -> None:
        before, said_before = record.state, record.alive
        restarted = alive.boot != said_before.boot
        self._table.apply(record, alive, encoded, now)
        record.public_key = public_key
        self._accusations.close(alive.name)
        if restarted:
            self._evidence.note(alive.name, now, "restarted", "it speaks for a later life", by=alive.name)
        if before is State.SUSPECT:
            self._evidence.note(alive.name, now, "refuted", f"incarnation {alive.incarnation}", by=alive.name)
            self._events.append(MemberRefuted(record.view(), restarted))
        elif before is not State.ALIVE:
            self._owner.came(record, now)
            self._evidence.note(alive.name, now, "refuted", f"incarnation {alive.incarnation}", by=alive.name)
            self._events.append(MemberAlive(record.view(), restarted))
        self._owner.agree_on_version()
        shown = (alive.address, alive.meta, alive.patience_s)
        if before <= State.SUSPECT and (
            restarted or shown != (said_before.address, said_before.meta, said_before.patience_s)
        ):
            self._events.append(MemberUpdated(record.view(), restarted))

    def _learn_left(self, left: Left, encoded: bytes, now: float) -> None:
        record = self._table.get(left.name)
        if record is None:
            self._refuse("goodbye_of_stranger")
            return
        if not record.accepts(left) or self._is_jump(record, left):
            return
        if not self._verify(record.public_key, left.signature, left.signed_bytes()):
            raise DecodeError("bad_signature")
        was_up = record.is_up
        self._table.apply(record, left, encoded, now)
        self._accusations.close(left.name)
        self._rumours.add(left, encoded)
        self._evidence.note(left.name, now, "left", "it said goodbye", by=left.name)
        if was_up:
            self._owner.gone(record, now)
        self._events.append(MemberLeft(record.view()))

    def _is_ahead_of_time(self, boot: Boot, now: float) -> bool:
        """Say whether a life began further in our future than clocks are off; an unset clock cannot tell."""
        wall = now + self._owner.wall_offset
        return wall >= SANE_WALL_S and boot.time_ms / 1000 - wall > self._config.max_clock_lead_s

    def _is_jump(self, record: Record, said: Alive | Left) -> bool:
        """Say, and count, whether a member would raise its incarnation further at once than it has to."""
        jump = said.incarnation - record.alive.incarnation
        if said.boot != record.alive.boot or jump <= MAX_INCARNATION_JUMP:
            return False
        self._refuse("incarnation_jump")
        return True

    def _is_spoken_here(self, alive: Alive) -> bool:
        lowest, highest = self._versions
        return alive.lowest_version <= highest and alive.highest_version >= lowest

    def _report(self, alive: Alive, reason: str) -> None:
        if alive.name in self._refused:
            return
        self._refused[alive.name] = None
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)
        self._events.append(MemberRefused(alive.name, alive.address, reason))

    def _refuse(self, reason: str) -> None:
        self._counts[f"dropped_{reason}"] += 1
