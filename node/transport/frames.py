"""The frames of a peer link: what two nodes say to each other, as frozen types, and their one encoding.

On the wire each frame is four bytes of length (big-endian) and that many bytes of canonical CBOR: an array
that begins with the number of the frame's type. A link goes one way: the **dialler** has messages for the
**acceptor**, which answers on the same link.

    dialler                                acceptor
    Hello        -------------------------> who I am, and which storage and boot I have
                 <------------------------- Welcome
    Resume       -------------------------> what I hold unsettled towards you, in batches
                 <------------------------- ResumeStates: what you know of each
    Deliver      -------------------------> messages, one signature over all
                 <------------------------- Received: stored, you may free the bytes
                 <------------------------- Settled: done, you may forget
    Ping, Pong, Goodbye                     both ways

:func:`decode` is total: whatever a peer sends, it returns a frame or raises PeerRejected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

from node.errors import PeerRejected
from node.message import TEXT_LIMIT, Envelope
from swim import strict_cbor
from swim.identity import MAX_CREDENTIAL_BYTES, SIGNATURE_BYTES, is_name

T = TypeVar("T")

PROTOCOL_VERSION: Final = 1
HEADER_BYTES: Final = 4
MAX_SEALED_BYTES: Final = 4 * 1024 * 1024
"""Largest sealed message that a link carries."""
MAX_FRAME_BYTES: Final = MAX_SEALED_BYTES + 64 * 1024
"""Largest frame: the largest message and what travels around it."""
MAX_ITEMS: Final = 256
"""Most messages in one Deliver."""
MAX_KEYS: Final = 512
"""Most keys in one Resume, ResumeStates, Received or Settled."""
MAX_COUNTER: Final = 2**31 - 1
MAX_REMAINING_S: Final = 1e9

OutcomeState = Literal["settled", "failed", "refused"]
HeldState = Literal["settled", "failed", "refused", "held", "unknown"]
_OUTCOMES: Final = ("settled", "failed", "refused")
_STATES: Final = (*_OUTCOMES, "held", "unknown")


@dataclass(frozen=True, slots=True)
class DeliveryKey:
    """One delivery of one message.

    Args:
        message_id: The message.
        target: The agent instance it is for.
        epoch: The route epoch: grows each time the message is given another provider.
    """

    message_id: str
    target: str
    epoch: int


@dataclass(frozen=True, slots=True)
class DeliverItem:
    """One message on its way.

    Args:
        envelope: What changes on the way.
        message_id: The sealed message's id, so that it can be known without unsealing.
        sealed: ``Message.seal()``.
    """

    envelope: Envelope
    message_id: str
    sealed: bytes

    @property
    def key(self) -> DeliveryKey:
        """The delivery this is."""
        return DeliveryKey(self.message_id, self.envelope.target, self.envelope.route_epoch)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a delivery ended at the acceptor.

    Args:
        key: The delivery.
        state: ``refused`` means that there was no room or no such agent: the origin decides what next.
        reason: Why, for a failure or a refusal.
    """

    key: DeliveryKey
    state: OutcomeState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class KeyState:
    """What the acceptor knows of a delivery when a link opens; see :class:`Outcome` for the ended ones."""

    key: DeliveryKey
    state: HeldState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Hello:
    """The dialler's first frame.

    Args:
        version: Of this protocol.
        node: The dialler's name, which must be its certificate's.
        storage_id: Identifies its database: another one means that it has forgotten.
        boot: Identifies this run of its process.
    """

    version: int
    node: str
    storage_id: str
    boot: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """The acceptor's answer to Hello; fields as there."""

    version: int
    node: str
    storage_id: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Deliveries that the dialler holds unsettled towards the acceptor."""

    keys: tuple[DeliveryKey, ...]


@dataclass(frozen=True, slots=True)
class ResumeStates:
    """What the acceptor knows of each key of one Resume."""

    states: tuple[KeyState, ...]


@dataclass(frozen=True, slots=True)
class Deliver:
    """Messages, and the origin's one signature over all of them (``node.transport.proof``)."""

    items: tuple[DeliverItem, ...]
    credential: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """Deliveries that the acceptor has stored durably."""

    keys: tuple[DeliveryKey, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """Deliveries that have ended at the acceptor."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a Pong, and shows that the sender lives."""

    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers the Ping of that number."""

    number: int


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The last frame: why the sender closes the link."""

    reason: str


Frame = Hello | Welcome | Resume | ResumeStates | Deliver | Received | Settled | Ping | Pong | Goodbye

FRAME_NAMES: Final[Mapping[type, str]] = MappingProxyType(
    {
        Hello: "hello",
        Welcome: "welcome",
        Resume: "resume",
        ResumeStates: "resume_states",
        Deliver: "deliver",
        Received: "received",
        Settled: "settled",
        Ping: "ping",
        Pong: "pong",
        Goodbye: "goodbye",
    }
)
"""Frame type -> its name in the table of permissions (``node.security.permissions.FRAMES``)."""

_NUMBERS: Final = {kind: number for number, kind in enumerate(FRAME_NAMES, start=1)}


def rejected(reason: str, what: str) -> PeerRejected:
    """A refusal of a peer, with the reason under which it is counted."""
    return PeerRejected(what, details={"reason": reason})


def encode(frame: Frame) -> bytes:
    """The frame with its length before it, ready to be sent."""
    body = strict_cbor.encode([_NUMBERS[type(frame)], *_ENCODERS[type(frame)](frame)])
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def decode(body: bytes) -> Frame:
    """Read a frame, without its length.

    Raises:
        PeerRejected: the bytes are no frame of this version.
    """
    try:
        values = strict_cbor.decode(body, max_bytes=MAX_FRAME_BYTES)
    except ValueError as error:
        raise rejected("frame", f"not a frame: {error}") from None
    if type(values) is not list or not values or type(values[0]) is not int:
        raise rejected("frame", "not a frame: no array that begins with a type")
    entry = _DECODERS.get(values[0])
    if entry is None:
        raise rejected("frame", f"unknown frame type {values[0]}")
    length, build = entry
    if values[0] in (_NUMBERS[Hello], _NUMBERS[Welcome]):
        _check_version(values)
    if len(values) - 1 != length:
        raise rejected("frame", f"frame type {values[0]} has {len(values) - 1} fields, not {length}")
    try:
        return build(values[1:])
    except ValueError as error:
        raise rejected("frame", f"frame type {values[0]}: {error}") from None


def envelopes_wire(items: Sequence[DeliverItem]) -> list[list[Any]]:
    """What travels with the sealed messages, in plain values: the part of a Deliver that changes."""
    return [_envelope_out(item) for item in items]


def _check_version(values: list[Any]) -> None:
    """Another version may have other fields, so this comes before everything else."""
    if len(values) > 1 and type(values[1]) is int and values[1] != PROTOCOL_VERSION:
        raise rejected(
            "version", f"the peer speaks version {values[1]} of the link protocol, not {PROTOCOL_VERSION}"
        )


def _envelope_out(item: DeliverItem) -> list[Any]:
    e = item.envelope
    return [
        item.message_id, e.target, e.attempt, e.route_epoch, e.hops,
        max(0.0, min(float(e.remaining_s), MAX_REMAINING_S)), e.traceparent,
    ]  # fmt: skip


def _key_out(key: DeliveryKey) -> list[Any]:
    return [key.message_id, key.target, key.epoch]


def _state_out(state: Outcome | KeyState) -> list[Any]:
    return [*_key_out(state.key), state.state, state.reason[:TEXT_LIMIT]]


_ENCODERS: Final[Mapping[type, Callable[[Any], list[Any]]]] = {
    Hello: lambda f: [f.version, f.node, f.storage_id, f.boot],
    Welcome: lambda f: [f.version, f.node, f.storage_id],
    Resume: lambda f: [[_key_out(key) for key in f.keys]],
    ResumeStates: lambda f: [[_state_out(state) for state in f.states]],
    Deliver: lambda f: [[[_envelope_out(i), i.sealed] for i in f.items], f.credential, f.signature],
    Received: lambda f: [[_key_out(key) for key in f.keys]],
    Settled: lambda f: [[_state_out(outcome) for outcome in f.outcomes]],
    Ping: lambda f: [f.number],
    Pong: lambda f: [f.number],
    Goodbye: lambda f: [f.reason[:TEXT_LIMIT]],
}


def _text(value: object, *, empty: bool = False) -> str:
    if type(value) is not str or len(value) > TEXT_LIMIT or not (value or empty):
        raise ValueError(f"expected text of at most {TEXT_LIMIT} characters")
    return value


def _node(value: object) -> str:
    if not is_name(value):
        raise ValueError("expected a node's name")
    return str(value)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNTER:
        raise ValueError("expected a small whole number")
    return value


def _bytes(value: object, low: int, high: int) -> bytes:
    if type(value) is not bytes or not low <= len(value) <= high:
        raise ValueError(f"expected {low} to {high} bytes")
    return value


def _many(value: object, most: int, build: Callable[[Any], T]) -> tuple[T, ...]:
    if type(value) is not list or not 1 <= len(value) <= most:
        raise ValueError(f"expected 1 to {most} entries")
    return tuple(build(entry) for entry in value)


def _fields(value: object, length: int) -> list[Any]:
    if type(value) is not list or len(value) != length:
        raise ValueError(f"expected an entry of {length} fields")
    return value


def _key(value: object) -> DeliveryKey:
    message_id, target, epoch = _fields(value, 3)
    return DeliveryKey(_text(message_id), _text(target), _count(epoch))


def _choice(value: object, choices: Sequence[str]) -> Any:
    if value not in choices:
        raise ValueError("expected one of " + ", ".join(choices))
    return value


def _outcome(value: object) -> Outcome:
    *key, state, reason = _fields(value, 5)
    return Outcome(_key(key), _choice(state, _OUTCOMES), _text(reason, empty=True))


def _key_state(value: object) -> KeyState:
    *key, state, reason = _fields(value, 5)
    return KeyState(_key(key), _choice(state, _STATES), _text(reason, empty=True))


def _item(value: object) -> DeliverItem:
    envelope, sealed = _fields(value, 2)
    message_id, target, attempt, epoch, hops, remaining_s, traceparent = _fields(envelope, 7)
    if type(remaining_s) is not float or not 0 <= remaining_s <= MAX_REMAINING_S:
        raise ValueError("expected the remaining seconds")
    return DeliverItem(
        Envelope(
            target=_text(target),
            attempt=_count(attempt),
            route_epoch=_count(epoch),
            hops=_count(hops),
            remaining_s=remaining_s,
            traceparent=_text(traceparent, empty=True),
        ),
        _text(message_id),
        _bytes(sealed, 1, MAX_SEALED_BYTES),
    )


_DECODERS: Final[Mapping[int, tuple[int, Callable[[list[Any]], Frame]]]] = {
    _NUMBERS[Hello]: (4, lambda v: Hello(_count(v[0]), _node(v[1]), _text(v[2]), _text(v[3]))),
    _NUMBERS[Welcome]: (3, lambda v: Welcome(_count(v[0]), _node(v[1]), _text(v[2]))),
    _NUMBERS[Resume]: (1, lambda v: Resume(_many(v[0], MAX_KEYS, _key))),
    _NUMBERS[ResumeStates]: (1, lambda v: ResumeStates(_many(v[0], MAX_KEYS, _key_state))),
    _NUMBERS[Deliver]: (
        3,
        lambda v: Deliver(
            _many(v[0], MAX_ITEMS, _item),
            _bytes(v[1], 1, MAX_CREDENTIAL_BYTES),
            _bytes(v[2], SIGNATURE_BYTES, SIGNATURE_BYTES),
        ),
    ),
    _NUMBERS[Received]: (1, lambda v: Received(_many(v[0], MAX_KEYS, _key))),
    _NUMBERS[Settled]: (1, lambda v: Settled(_many(v[0], MAX_KEYS, _outcome))),
    _NUMBERS[Ping]: (1, lambda v: Ping(_count(v[0]))),
    _NUMBERS[Pong]: (1, lambda v: Pong(_count(v[0]))),
    _NUMBERS[Goodbye]: (1, lambda v: Goodbye(_text(v[0], empty=True))),
}
