"""Rotating the cluster's gossip keys from any member, as a part of `Swim`.

What the operations do is in `swim.keyring_operations` and `swim.keyring_responder`. Here they meet the
cluster: who is asked, by which packets, and who may ask. Nobody may, until the owner of this member has said
who (`allow`).
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from swim.events import Event, KeyOperationFinished, KeyringChanged
from swim.identity import Identity
from swim.keyring import Keyring
from swim.keyring_messages import Verb
from swim.keyring_operations import KeyringInitiator, OperationResult
from swim.keyring_responder import KeyringResponder
from swim.members import MemberTable, Record
from swim.messages import Boot, Message, UserFrame
from swim.pairwise import Pairwise
from swim.user_traffic import Kind


class Owner(Protocol):
    """What key rotation needs of the protocol around it."""

    name: str

    def send(self, record: Record, messages: Sequence[Message], *, statements: Sequence[bytes] = ()) -> None:
        """Send messages in a datagram, tagged for the receiver."""

    def is_by(self, author: str, signed: bytes, signature: bytes) -> bool:
        """Say whether a member's key made a signature."""


class KeyRotation:
    """The rotation of one member's keyring along with those of all others.

    Args:
        identity: signs this member's orders.
        owner: the protocol around it.
        ring: the keys; None without encryption, and then there is nothing to rotate.
        table: whose pair keys are known.
        pairwise: agrees on them.
        entropy: returns so many cryptographically random bytes.
        events: where events are appended.
    """

    def __init__(
        self,
        identity: Identity,
        owner: Owner,
        *,
        ring: Keyring | None,
        table: MemberTable,
        pairwise: Pairwise,
        entropy: Callable[[int], bytes],
        events: list[Event],
    ) -> None:
        self._identity = identity
        self._owner = owner
        self._ring = ring
        self._table = table
        self._pairwise = pairwise
        self._entropy = entropy
        self._events = events
        self._is_allowed: Callable[[str], bool] = lambda _author: False
        self._initiator: KeyringInitiator | None = None
        self._responder: KeyringResponder | None = None

    def begin_life(self, boot: Boot) -> None:
        """Begin, in this life of the process."""
        if self._ring is None:
            return
        self._initiator = KeyringInitiator(self._identity, boot, self._ring, self._pair_key, self._entropy)
        self._responder = KeyringResponder(
            self._owner.name,
            boot,
            self._ring,
            pairwise_key=self._pair_key,
            verify_author=self._owner.is_by,
            is_allowed=self._may_order,
            entropy=self._entropy,
        )

    def allow(self, is_allowed: Callable[[str], bool]) -> None:
        """Say which members may change this member's keys; none, at first."""
        self._is_allowed = is_allowed

    def start(
        self, verb: Verb, key: bytes, now: float, *, deadline_s: float = 30.0, force: bool = False
    ) -> bytes:
        """Begin an operation on this member and all that are up; return its id, for `result`.

        Args:
            verb: what to do.
            key: the 32 bytes in question, empty for LIST.
            now: the time.
            deadline_s: how long answers are waited for; USE and REMOVE wait up to twice that.
            force: go ahead with USE or REMOVE whatever the others hold.

        Raises:
            OperationRunning: if another one has not finished.
            ValueError: for a key of the wrong length, an own ring that refuses, or without encryption.
        """
        if self._initiator is None:
            raise ValueError("this cluster has no gossip key, so there is none to change")
        members: dict[str, bytes | None] = {r.name: r.alive.boot.id for r in self._table.up()}
        operation = self._initiator.start(verb, key, members, now, deadline_s=deadline_s, force=force)
        self._send_on()
        return operation

    def result(self, operation_id: bytes) -> OperationResult:
        """Return how an operation goes, or went.

        Raises:
            UnknownOperation: if there is none with this id among the last eight.
            ValueError: without encryption.
        """
        if self._initiator is None:
            raise ValueError("this cluster has no gossip key, so there is none to change")
        return self._initiator.result(operation_id)

    def take(self, frame: UserFrame, now: float) -> None:
        """Take a sealed request or result, from anybody."""
        if self._initiator is None or self._responder is None:
            return
        if frame.kind == Kind.KEY_RESULT:
            self._initiator.receive(frame.frame, now)
            self._send_on()
            return
        reply = self._responder.receive(frame.frame)
        if reply is None:
            return
        self._send(reply.to, Kind.KEY_RESULT, reply.encoded)
        if reply.change is not None:
            self._events.append(KeyringChanged(reply.change.author, reply.change.verb, reply.change.key))

    def handle_timer(self, now: float) -> None:
        """Ask again who has not answered."""
        if self._initiator is not None:
            self._initiator.handle_timer(now)
            self._send_on()

    def next_timer(self) -> float | None:
        """Return when somebody is to be asked again."""
        return None if self._initiator is None else self._initiator.next_timer()

    def statistics(self) -> dict[str, int]:
        """Count operations, requests and results."""
        if self._initiator is None or self._responder is None:
            return {}
        return {**self._initiator.statistics(), **self._responder.statistics()}

    def _may_order(self, author: str) -> bool:
        return self._is_allowed(author)

    def _send_on(self) -> None:
        if self._initiator is not None:
            for name, request in self._initiator.outgoing():
                self._send(name, Kind.KEY_REQUEST, request)
            self._events += [KeyOperationFinished(operation) for operation in self._initiator.finished()]

    def _send(self, name: str, kind: Kind, frame: bytes) -> None:
        record = self._table.get(name)
        if record is not None:
            self._owner.send(record, [UserFrame(kind, frame)])

    def _pair_key(self, name: str) -> bytes | None:
        record = self._table.get(name)
        return None if record is None else self._pairwise.derived(record.alive.exchange_key, b"keyring")
