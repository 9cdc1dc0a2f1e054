"""User events: short named announcements that every member hears about once (serf's events).

    [1, author, boot_time_ms, boot_id, time, name, payload, signature]

An event is a canonical CBOR array, forwarded verbatim. The signature is its author's, over
`domain("event") + CBOR(the array without the signature)`, so nobody can put words into another's
mouth. `time` is a Lamport time: an event that its author fired after hearing another sorts after it.
Events are delivered as they come; `UserEvent.order` is the order in which all members agree.

An event is delivered at most once to each process. One that is lost to a member for longer than 512
later events last is lost to it for good: events announce, they do not record. Coalescing several of
one name is the receiver's business.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from swim import strict_cbor
from swim.identity import SIGNATURE_BYTES, Identity, domain, is_name
from swim.lamport import MAX_TIME, MAX_TIMES, StatementLog, VerifyAuthor
from swim.messages import BOOT_ID_BYTES, MAX_BOOT_TIME_MS, Boot

KIND: Final = 1
MAX_EVENT_PAYLOAD_BYTES: Final = 512
MAX_EVENT_NAME_BYTES: Final = 64
MAX_EVENT_BYTES: Final = 768
"""Longest event, encoded: the longest names and payload with room to spare."""


@dataclass(frozen=True, slots=True)
class UserEvent:
    """What a member announced.

    Attributes:
        name: what kind of event it is, 1 to 64 bytes of printable text.
        payload: at most 512 bytes of the application's.
        author: the member that fired it.
        boot: the life in which it did.
        time: Lamport time.
        at: when this member heard of it, in seconds on its own clock.
    """

    name: str
    payload: bytes
    author: str
    boot: Boot
    time: int
    at: float = field(compare=False)

    @property
    def order(self) -> tuple[int, str, Boot]:
        """The key by which all members sort events alike."""
        return (self.time, self.author, self.boot)


class UserEvents:
    """The events of one member: fired, heard, and delivered once.

    Args:
        identity: signs what this member fires.
        boot: this life of the process.
        verify_author: says whether a member's key made a signature.
        max_buffer: Lamport times whose events are remembered.
    """

    def __init__(
        self, identity: Identity, boot: Boot, verify_author: VerifyAuthor, *, max_buffer: int = MAX_TIMES
    ) -> None:
        self._identity = identity
        self._boot = boot
        self._verify_author = verify_author
        self._log = StatementLog(max_times=max_buffer, keep=True)
        self._counts: Counter[str] = Counter(
            {f"events_{what}": 0 for what in ("fired", "delivered", "duplicate", *_REFUSALS)}
        )

    @property
    def clock(self) -> int:
        """The Lamport time, to be told in push-pulls."""
        return self._log.clock.time

    def joined(self, clock: int, *, replay: bool = False) -> None:
        """Take a peer's clock from a push-pull; events from before it are not delivered.

        Args:
            clock: the peer's `clock`, authenticated.
            replay: deliver what happened before us too, as far as peers remember it.
        """
        self._log.joined(clock, replay=replay)

    def fire(self, name: str, payload: bytes, now: float) -> tuple[UserEvent, bytes]:
        """Announce something to every member.

        Args:
            name: 1 to 64 bytes of printable text.
            payload: at most 512 bytes.
            now: time in seconds.

        Returns:
            The event, which is not delivered here a second time, and its encoding to gossip.

        Raises:
            ValueError: for a name or payload that is out of its bounds.
        """
        if not is_title(name, MAX_EVENT_NAME_BYTES):
            raise ValueError(f"an event's name is 1 to {MAX_EVENT_NAME_BYTES} bytes of printable text")
        if len(payload) > MAX_EVENT_PAYLOAD_BYTES:
            raise ValueError(f"{len(payload)} bytes in an event, and {MAX_EVENT_PAYLOAD_BYTES} are allowed")
        author = (self._identity.name, self._boot)
        event = UserEvent(name, bytes(payload), *author, self._log.next_time(author), now)
        fields = _fields(event)
        signature = self._identity.sign(_signed(fields))
        encoded = strict_cbor.encode([*fields, signature])
        self._log.add_own(encoded, author, event.time)
        self._counts["events_fired"] += 1
        return event, encoded

    def receive(self, encoded: bytes, now: float) -> UserEvent | None:
        """Take an event that gossip or a push-pull brought.

        Args:
            encoded: the event, from anybody.
            now: time in seconds.

        Returns:
            The event if it is new, to be delivered and gossiped on; None if it is to be dropped.
        """
        if self._log.holds(encoded):
            self._counts["events_duplicate"] += 1
            return None
        try:
            event, fields, signature = _decode(encoded, now)
        except ValueError:
            self._counts["events_malformed"] += 1
            return None
        refusal = self._log.take(
            encoded,
            (event.author, event.boot),
            event.time,
            lambda: self._verify_author(event.author, _signed(fields), signature),
        )
        if refusal:
            self._counts[f"events_{refusal}"] += 1
            return None
        self._counts["events_delivered"] += 1
        return event

    def recent(self, limit_bytes: int) -> list[bytes]:
        """Return the latest events that fit, for a push-pull: they repair what gossip lost."""
        return self._log.recent(limit_bytes)

    def statistics(self) -> dict[str, int]:
        """Count events by what became of them, and what is remembered."""
        return {**self._counts, **self._log.statistics("events")}


_REFUSALS: Final = ("malformed", "too_old", "conflicting", "bad_signature", "too_far_ahead")


def is_title(text: object, max_bytes: int) -> bool:
    """Say whether `text` can name an event or a query: printable, not empty, not too long."""
    return isinstance(text, str) and text.isprintable() and 1 <= len(text.encode()) <= max_bytes


def _fields(event: UserEvent) -> list[Any]:
    boot = event.boot
    return [KIND, event.author, boot.time_ms, boot.id, event.time, event.name, event.payload]


def _signed(fields: list[Any]) -> bytes:
    return domain("event") + strict_cbor.encode(fields)


def _decode(encoded: bytes, now: float) -> tuple[UserEvent, list[Any], bytes]:
    """Return the event, its fields without the signature, and the signature; or raise ValueError."""
    fields = strict_cbor.decode(encoded, max_bytes=MAX_EVENT_BYTES)
    if type(fields) is not list or len(fields) != 8:
        raise ValueError("an event is an array of eight fields")
    kind, author, boot_time_ms, boot_id, time, name, payload, signature = fields
    holds = (
        type(kind) is int and kind == KIND
        and is_name(author)
        and type(boot_time_ms) is int and 0 <= boot_time_ms <= MAX_BOOT_TIME_MS
        and type(boot_id) is bytes and len(boot_id) == BOOT_ID_BYTES
        and type(time) is int and 1 <= time <= MAX_TIME
        and is_title(name, MAX_EVENT_NAME_BYTES)
        and type(payload) is bytes and len(payload) <= MAX_EVENT_PAYLOAD_BYTES
        and type(signature) is bytes and len(signature) == SIGNATURE_BYTES
    )  # fmt: skip
    if not holds:
        raise ValueError("a field of an event is of the wrong type or out of its bounds")
    event = UserEvent(name, payload, author, Boot(boot_time_ms, boot_id), time, now)
    return event, fields[:-1], signature
