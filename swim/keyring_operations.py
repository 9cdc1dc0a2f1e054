"""Rotating the gossip key of a whole cluster while it runs: install, use, remove, list.

    initiator                     member
    |--- request (sealed) -------->|    INSTALL: accept packets under the new key, too
    |<-- result (sealed) ----------|    done or why not, and the ids of the keys held
    |                              |
    |--- LIST, then USE ---------->|    encrypt with it; only if every member holds it
    |--- LIST, then REMOVE ------->|    forget the old one; only if no member encrypts with it

The initiator sends each member one small datagram and repeats it, less and less often, until the
member has answered or the time is up. USE and REMOVE look before they leap: a LIST goes first, and
what it finds, or a member that stays silent, can refuse the operation. What members do with a
request is in `swim.keyring_responder`, how both are sealed in `swim.keyring_messages`.

Two initiators at once are not kept apart: each sees in its result what its members hold, and the
last USE wins at each member.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from swim.identity import Identity
from swim.keyring import KEY_BYTES
from swim.keyring_messages import (
    NONCE_BYTES,
    OPERATION_ID_BYTES,
    Kind,
    Order,
    Request,
    Result,
    Sealed,
    Status,
    Verb,
    decode_result,
    decode_sealed,
    encode_request,
    key_digest,
    key_id,
)
from swim.keyring_responder import Entropy, PairwiseKey, Ring, apply
from swim.messages import BOOT_ID_BYTES, Boot

MAX_MEMBERS: Final = 8_192
MAX_RESULTS: Final = 8
"""Finished operations whose result is kept; the oldest makes room."""
BATCH: Final = 64
BATCH_INTERVAL_S: Final = 0.05
"""So many requests at once, then a pause: a thousand members are asked within a second."""
RETRY_INITIAL_S: Final = 0.5
RETRY_MAX_S: Final = 5.0
MAX_REBOOTS: Final = 3
"""How often a member that answers from another boot is asked again at once."""
_NOT_DONE: Final = "not done"


class OperationRunning(Exception):
    """This member is in the middle of another operation on the cluster's keys."""

    code = "keyring_operation_running"

    def __init__(self) -> None:
        super().__init__("another operation on the gossip keys is running here: wait for its result")


class UnknownOperation(LookupError):
    """No operation has that id, or its result has made room for later ones."""

    code = "unknown_keyring_operation"


@dataclass(frozen=True, slots=True)
class MemberResult:
    """How an operation went at one member.

    Attributes:
        ok: whether it did what was asked.
        error: why not, in words.
        key_ids: the keys it holds, the first encrypts; None if it has not said.
    """

    ok: bool
    error: str
    key_ids: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class OperationResult:
    """How an operation went, or goes.

    Attributes:
        verb: what was asked of the members.
        key_id: the key in question, empty for LIST.
        finished: whether all have answered, the time is up, or the operation was refused.
        refused: why nothing was changed, empty if the operation went ahead.
        members: every member, this one included.
    """

    verb: Verb
    key_id: str
    finished: bool
    refused: str
    members: dict[str, MemberResult]

    @property
    def ok(self) -> bool:
        """Whether it is finished and every member did what was asked."""
        return self.finished and not self.refused and all(each.ok for each in self.members.values())


@dataclass(slots=True)
class _Target:
    """A member that is asked."""

    boot_id: bytes
    pause_s: float
    reboots: int = 0
    result: MemberResult | None = None


@dataclass(slots=True)
class _Operation:
    """The operation that runs."""

    id: bytes
    verb: Verb
    key: bytes = field(repr=False)
    deadline_s: float
    targets: dict[str, _Target]
    looking: bool
    own: MemberResult
    order: Order
    deadline: float = 0.0
    awaited: int = 0
    refused: str = ""
    due: list[tuple[float, int, str]] = field(default_factory=list)

    def expects(self, sealed: Sealed) -> bool:
        """Say whether a message belongs to the round that runs."""
        return sealed.operation_id == self.order.operation_id


class KeyringInitiator:
    """Has every member carry out an operation on its keys, one operation at a time.

    Args:
        identity: signs the orders.
        boot: this life of the process.
        ring: this member's keys, changed along with those of the others.
        pairwise_key: returns the key shared with a peer.
        entropy: returns so many cryptographically random bytes.
    """

    def __init__(
        self, identity: Identity, boot: Boot, ring: Ring, pairwise_key: PairwiseKey, entropy: Entropy
    ) -> None:
        self._identity = identity
        self._boot = boot
        self._ring = ring
        self._pairwise_key = pairwise_key
        self._entropy = entropy
        self._sequence = 0
        self._scheduled = 0
        self._running: _Operation | None = None
        self._results: OrderedDict[bytes, OperationResult] = OrderedDict()
        self._outgoing: list[tuple[str, bytes]] = []
        self._finished: list[bytes] = []
        self._counts: Counter[str] = Counter({f"keyring_{what}": 0 for what in _OPERATIONS})

    def start(
        self,
        verb: Verb,
        key: bytes,
        members: Mapping[str, bytes | None],
        now: float,
        *,
        deadline_s: float = 30.0,
        force: bool = False,
    ) -> bytes:
        """Begin an operation on all members that are up.

        Args:
            verb: what to do.
            key: the 32 bytes in question, empty for LIST.
            members: the others that are up, each with the boot id that is known of it, if any.
            now: time in seconds.
            deadline_s: how long answers are waited for; USE and REMOVE wait up to twice that.
            force: go ahead with USE or REMOVE whatever the others hold. A member without the key
                that others use is cut off.

        Returns:
            The operation's id, for `result`.

        Raises:
            OperationRunning: if another one has not finished.
            ValueError: if the key has the wrong length, this member's own ring refuses, or there
                are too many members.
        """
        if self._running is not None:
            raise OperationRunning
        if len(key) != (0 if verb is Verb.LIST else KEY_BYTES):
            raise ValueError(f"a gossip key has {KEY_BYTES} bytes, and LIST takes none")
        if len(members) > MAX_MEMBERS or not 0.0 < deadline_s < float("inf"):
            raise ValueError(f"at most {MAX_MEMBERS} members, and a positive deadline_s")
        held = self._ring.key_ids()
        if verb is Verb.USE and key_id(key) not in held:
            raise ValueError("install the key before using it")
        if verb is Verb.REMOVE and key_id(key) == held[0]:
            raise ValueError("use another key before removing this one")
        error = apply(self._ring, verb, key) if verb is Verb.INSTALL else ""
        if error:
            raise ValueError(error)
        looking = verb in {Verb.USE, Verb.REMOVE} and not force
        order = self._order(Verb.LIST if looking else verb, b"" if looking else key)
        targets = {
            name: _Target(boot_id or bytes(BOOT_ID_BYTES), RETRY_INITIAL_S)
            for name, boot_id in members.items()
            if name != self._identity.name
        }
        own = MemberResult(ok=False, error=_NOT_DONE, key_ids=tuple(held))
        operation = _Operation(order.operation_id, verb, key, deadline_s, targets, looking, own, order)
        self._running = operation
        self._counts["keyring_operations"] += 1
        self._ask_all(operation, now)
        return operation.id

    def receive(self, encoded: bytes, now: float) -> None:
        """Take a sealed result from anybody."""
        try:
            sealed = decode_sealed(encoded)
        except ValueError:
            self._counts["keyring_results_malformed"] += 1
            return
        operation = self._running
        target = operation.targets.get(sealed.sender) if operation else None
        if operation is None or target is None or target.result is not None or not operation.expects(sealed):
            self._counts["keyring_results_late"] += 1
            return
        result = self._open(sealed)
        if result is None:
            self._counts["keyring_results_not_authentic"] += 1
        elif result.status is not Status.ANOTHER_BOOT or target.reboots >= MAX_REBOOTS:
            target.result = MemberResult(result.status is Status.DONE, result.error, result.key_ids)
            operation.awaited -= 1
            self._advance(operation, now)
        elif result.boot_id != target.boot_id:
            target.boot_id = result.boot_id
            target.reboots += 1
            self._ask(operation, sealed.sender, target)

    def _open(self, sealed: Sealed) -> Result | None:
        """Return the result that a member sealed for us, None if it did not."""
        pairwise_key = self._pairwise_key(sealed.sender)
        if sealed.kind is not Kind.RESULT or sealed.receiver != self._identity.name or pairwise_key is None:
            return None
        try:
            return decode_result(sealed.open(pairwise_key))
        except ValueError:
            return None

    def next_timer(self) -> float | None:
        """Return when a request is to be repeated, or the time is up."""
        if self._running is None:
            return None
        return min([self._running.deadline, *(due for due, _, _ in self._running.due[:1])])

    def handle_timer(self, now: float) -> None:
        """Send what is due, and end an operation whose time is up."""
        operation = self._running
        while operation is not None and operation.due and operation.due[0][0] <= now < operation.deadline:
            _, _, name = heappop(operation.due)
            target = operation.targets[name]
            if target.result is None:
                self._ask(operation, name, target)
                self._schedule(operation, name, now + target.pause_s)
                target.pause_s = min(2 * target.pause_s, RETRY_MAX_S)
        if operation is not None and now >= operation.deadline:
            self._advance(operation, now)

    def outgoing(self) -> list[tuple[str, bytes]]:
        """Drain the sealed requests to send, each with its receiver."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def finished(self) -> list[bytes]:
        """Drain the ids of operations that have finished since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def result(self, operation_id: bytes) -> OperationResult:
        """Return how an operation goes, or went.

        Raises:
            UnknownOperation: if there is none with this id among the last eight.
        """
        if self._running is not None and self._running.id == operation_id:
            return self._summary(self._running, finished=False)
        if operation_id not in self._results:
            raise UnknownOperation(f"no operation {operation_id.hex()} among the last {MAX_RESULTS}")
        return self._results[operation_id]

    def statistics(self) -> dict[str, int]:
        """Count operations, requests and results."""
        return {
            **self._counts,
            "keyring_operations_running": int(self._running is not None),
            "keyring_members_awaited": 0 if self._running is None else self._running.awaited,
            "keyring_results_kept": len(self._results),
        }

    def _order(self, verb: Verb, key: bytes) -> Order:
        """Sign the next order."""
        self._sequence += 1
        fields = (
            self._identity.name,
            self._boot,
            self._sequence,
            self._entropy(OPERATION_ID_BYTES),
            verb,
            key_digest(key),
        )
        return Order(*fields, self._identity.sign(Order(*fields).signed_bytes()))

    def _ask_all(self, operation: _Operation, now: float) -> None:
        """Begin a round: schedule a request to each member, some at a time."""
        operation.deadline = now + operation.deadline_s
        operation.due, operation.awaited = [], 0
        for index, (name, target) in enumerate(operation.targets.items()):
            target.result, target.pause_s, target.reboots = None, RETRY_INITIAL_S, 0
            if self._pairwise_key(name) is None:
                target.result = MemberResult(ok=False, error="no pairwise key with it", key_ids=None)
            else:
                operation.awaited += 1
                self._schedule(operation, name, now + index // BATCH * BATCH_INTERVAL_S)
        if not operation.looking:
            error = apply(self._ring, operation.verb, operation.key)
            operation.own = MemberResult(not error, error, tuple(self._ring.key_ids()))
        self._advance(operation, now)
        if self._running is operation:
            self.handle_timer(now)

    def _schedule(self, operation: _Operation, name: str, due: float) -> None:
        self._scheduled += 1
        heappush(operation.due, (due, self._scheduled, name))

    def _ask(self, operation: _Operation, name: str, target: _Target) -> None:
        """Seal the order for one member."""
        pairwise_key = self._pairwise_key(name)
        if pairwise_key is None:  # the peer is gone; if it comes back, the next repetition reaches it
            return
        key = b"" if operation.looking else operation.key
        sealed = Sealed.seal(
            Kind.REQUEST,
            encode_request(Request(operation.order.encode(), target.boot_id, key)),
            operation_id=operation.order.operation_id,
            sender=self._identity.name,
            receiver=name,
            pairwise_key=pairwise_key,
            nonce=self._entropy(NONCE_BYTES),
        )
        self._counts["keyring_requests_sent"] += 1
        self._outgoing.append((name, sealed.encode()))

    def _advance(self, operation: _Operation, now: float) -> None:
        """Go on to the next round, or end, if all have answered or the time is up."""
        if operation.awaited and now < operation.deadline:
            return
        if operation.looking:
            operation.refused = self._objection(operation)
            if not operation.refused:
                operation.looking = False
                operation.order = self._order(operation.verb, operation.key)
                self._ask_all(operation, now)
                return
        self._results[operation.id] = self._summary(operation, finished=True)
        if len(self._results) > MAX_RESULTS:
            self._results.popitem(last=False)
        self._finished = [*self._finished[1 - MAX_RESULTS :], operation.id]
        self._running = None

    def _objection(self, operation: _Operation) -> str:
        """Say which members stand against USE or REMOVE, after a LIST; nothing if none does."""
        wanted = key_id(operation.key)
        against = []
        for name, target in sorted(operation.targets.items()):
            held = target.result.key_ids if target.result and target.result.ok else None
            if held is None or (wanted not in held if operation.verb is Verb.USE else wanted in held[:1]):
                against.append(name)
        if not against:
            return ""
        shown = ", ".join(against[:5]) + (f" and {len(against) - 5} more" if len(against) > 5 else "")
        if operation.verb is Verb.USE:
            return f"members without the key, or without an answer: {shown}; install it there first"
        return f"members that encrypt with the key, or gave no answer: {shown}; have them use another first"

    def _summary(self, operation: _Operation, *, finished: bool) -> OperationResult:
        members = {self._identity.name: operation.own}
        for name, target in operation.targets.items():
            result = target.result or MemberResult(ok=False, error="no answer", key_ids=None)
            if operation.looking and result.ok:  # it has answered the LIST, and was asked nothing more
                result = MemberResult(ok=False, error=_NOT_DONE, key_ids=result.key_ids)
            members[name] = result
        shown = key_id(operation.key) if operation.key else ""
        return OperationResult(operation.verb, shown, finished, operation.refused, members)


_OPERATIONS: Final = (
    "operations", "requests_sent", "results_malformed", "results_late", "results_not_authentic",
)  # fmt: skip
