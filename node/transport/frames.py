"""The frames of a peer link: what two nodes say to each other, as frozen types, and their one encoding.

On the wire each frame is four bytes of length (big-endian) and that many bytes of MessagePack: an array that
begins with the number of the frame's type. Types and bounds of the fields are checked while they are decoded.
A link goes one way: the **dialler** has messages for the **acceptor**, which answers on the same link.

    dialler                                acceptor
    Hello        -------------------------> who I am, and which storage and boot I have
                 <------------------------- Welcome
    Resume       -------------------------> what I hold unsettled towards you, in batches
                 <------------------------- ResumeStates: what you know of each
    Deliver      -------------------------> messages, one signature over all
                 <------------------------- Received: stored, you may free the bytes
                 <------------------------- Settled: done, you may forget
    Ask          -------------------------> a question about one thing, for an operator
                 <------------------------- Answer
                 <------------------------- Credit: how many messages I take for each agent
    Pull         -------------------------> how much of the shared memory I hold
                 <------------------------- Page: what of it you do not, or, later, that there is more
                 <------------------------- Partial: more of an answer that you have asked to see
    Ping, Pong, Goodbye                     both ways

:func:`decode` is total: whatever a peer sends, it returns a frame or raises PeerRejected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from node.errors import PeerRejected
from node.message import COUNTER_LIMIT, Counter, Envelope, Note, Text
from node.vocabulary import TEXT_LIMIT
from swim.identity import MAX_CREDENTIAL_BYTES, SIGNATURE_BYTES, is_name

PROTOCOL_VERSION: Final = 2
HEADER_BYTES: Final = 4
MAX_SEALED_BYTES: Final = 4 * 1024 * 1024
"""Largest sealed message that a link carries."""
MAX_FRAME_BYTES: Final = MAX_SEALED_BYTES + 64 * 1024
"""Largest frame: the largest message and what travels around it."""
MAX_ITEMS: Final = 256
"""Most messages in one Deliver."""
MAX_KEYS: Final = 512
"""Most keys in one Resume, ResumeStates, Received or Settled."""
MAX_GRANTS: Final = 512
"""Most grants in one Credit."""
MAX_WINDOW: Final = 65_536
"""Largest window that a Grant may name."""
FREE_CREDIT: Final = 32
"""Messages for one agent that a dialler may have unsettled before it has heard of more, or less."""
CREDIT_QUESTION: Final = "credit"
"""The question by which a dialler says that it understands Credit; who does not know it grants nothing."""
MAX_ANSWER_BYTES: Final = 65_536
"""Largest body of an Answer."""
MAX_PULL_BYTES: Final = 512 * 1024
"""Largest body of a Pull."""
MAX_PAGE_BYTES: Final = 2 * 1024 * 1024
"""Largest body of a Page."""
MAX_PARTIAL_CHARS: Final = 4_096
"""Longest text of a Partial, in characters."""
MAX_COUNTER: Final = COUNTER_LIMIT

OutcomeState = Literal["settled", "failed", "refused"]
HeldState = Literal["settled", "failed", "refused", "held", "unknown"]
AnswerState = Literal["known", "unknown", "refused"]


class DeliveryKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One delivery of one message.

    Args:
        message_id: The message.
        target: The agent instance it is for.
        epoch: The route epoch: grows each time the message is given another provider.
    """

    message_id: Text
    target: Text
    epoch: Counter


class DeliverItem(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One message on its way.

    Args:
        envelope: What changes on the way.
        message_id: The sealed message's id, so that it can be known without unsealing.
        sealed: ``Message.seal()``.
    """

    envelope: Envelope
    message_id: Text
    sealed: Annotated[bytes, Meta(min_length=1, max_length=MAX_SEALED_BYTES)]

    @property
    def key(self) -> DeliveryKey:
        """The delivery this is."""
        return DeliveryKey(self.message_id, self.envelope.target, self.envelope.route_epoch)


class Outcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """How a delivery ended at the acceptor.

    Args:
        key: The delivery.
        state: ``refused`` means that there was no room or no such agent: the origin decides what next.
        reason: Why, for a failure or a refusal.
    """

    key: DeliveryKey
    state: OutcomeState
    reason: Note = ""


class KeyState(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What the acceptor knows of a delivery when a link opens; see :class:`Outcome` for the ended ones."""

    key: DeliveryKey
    state: HeldState
    reason: Note = ""


Keys = Annotated[tuple[DeliveryKey, ...], Meta(min_length=1, max_length=MAX_KEYS)]


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """The dialler's first frame.

    Args:
        version: Of this protocol.
        node: The dialler's name, which must be its certificate's.
        storage_id: Identifies its database: another one means that it has forgotten.
        boot: Identifies this run of its process.
    """

    version: Counter
    node: Text
    storage_id: Text
    boot: Text


class Welcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """The acceptor's answer to Hello; fields as there."""

    version: Counter
    node: Text
    storage_id: Text


class Resume(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """Deliveries that the dialler holds unsettled towards the acceptor."""

    keys: Keys


class ResumeStates(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=4):
    """What the acceptor knows of each key of one Resume."""

    states: Annotated[tuple[KeyState, ...], Meta(min_length=1, max_length=MAX_KEYS)]


class Deliver(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=5):
    """Messages, and the origin's one signature over all of them (``node.transport.proof``)."""

    items: Annotated[tuple[DeliverItem, ...], Meta(min_length=1, max_length=MAX_ITEMS)]
    credential: Annotated[bytes, Meta(min_length=1, max_length=MAX_CREDENTIAL_BYTES)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class Received(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=6):
    """Deliveries that the acceptor has stored durably."""

    keys: Keys


class Settled(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=7):
    """Deliveries that have ended at the acceptor."""

    outcomes: Annotated[tuple[Outcome, ...], Meta(min_length=1, max_length=MAX_KEYS)]


class Ping(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=8):
    """Asks for a Pong, and shows that the sender lives."""

    number: Counter


class Pong(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=9):
    """Answers the Ping of that number."""

    number: Counter


class Goodbye(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=10):
    """The last frame: why the sender closes the link."""

    reason: Note


class Ask(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=11):
    """A question of the dialler, beside the messages.

    Args:
        number: Tells the answer to it from others.
        question: What is asked, a word: ``trace``.
        about: Of what, for example a message id.
    """

    number: Counter
    question: Text
    about: Text


class Answer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=12):
    """The acceptor's answer to an Ask.

    Args:
        number: Of the Ask.
        state: ``unknown`` means that there is nothing to tell, ``refused`` that too much is asked.
        body: What there is to tell, in the form that the question has.
    """

    number: Counter
    state: AnswerState
    body: Annotated[bytes, Meta(max_length=MAX_ANSWER_BYTES)] = b""


class Pull(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=13):
    """The dialler asks for what it does not hold of the shared memory; one at a time.

    Args:
        number: Tells the page that answers it from others.
        body: In the form of :mod:`node.memory.replication.wire`.
    """

    number: Counter
    body: Annotated[bytes, Meta(min_length=1, max_length=MAX_PULL_BYTES)]


class Page(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=14):
    """The acceptor's answer to a Pull, which may come much later; fields as there."""

    number: Counter
    body: Annotated[bytes, Meta(min_length=1, max_length=MAX_PAGE_BYTES)]


class Grant(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """How much the acceptor takes for one agent.

    Args:
        agent: Its name.
        window: Most messages of the dialler for it that may be unsettled.
    """

    agent: Text
    window: Annotated[int, Meta(ge=1, le=MAX_WINDOW)]


class Credit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=15):
    """Windows that have changed, in the write of a Received or Settled; only to who asked for them."""

    grants: Annotated[tuple[Grant, ...], Meta(min_length=1, max_length=MAX_GRANTS)]


class Partial(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=16):
    """A piece of the answer that an agent of the acceptor is making; sent to those only who have asked.

    Args:
        message_id: The message that is being answered.
        agent: Who answers it.
        turn: The turn of the model in which this is said, from 1.
        position: How many characters of the turn came before; 0 begins anew.
        text: What comes next; may be empty where it begins anew.
        last: Whether no more of this turn will be told, though it goes on.
    """

    message_id: Text
    agent: Text
    turn: Counter
    position: Counter
    text: Annotated[str, Meta(max_length=MAX_PARTIAL_CHARS)]
    last: bool = False


Frame = (
    Hello | Welcome | Resume | ResumeStates | Deliver | Received | Settled | Ping | Pong | Goodbye
    | Ask | Answer | Pull | Page | Credit | Partial
)  # fmt: skip

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
        Ask: "ask",
        Answer: "answer",
        Pull: "pull",
        Page: "page",
        Credit: "credit",
        Partial: "partial",
    }
)
"""Frame type -> its name in the table of permissions (``node.security.permissions.FRAMES``)."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Frame]] = msgspec.msgpack.Decoder(Frame)
_GREETINGS: Final = (Hello.__struct_config__.tag, Welcome.__struct_config__.tag)
_Told = TypeVar("_Told", Outcome, KeyState)


def rejected(reason: str, what: str) -> PeerRejected:
    """A refusal of a peer, with the reason under which it is counted."""
    return PeerRejected(what, details={"reason": reason})


def encode(frame: Frame) -> bytes:
    """The frame with its length before it, ready to be sent; reasons are cut to what a frame carries."""
    shorten = _SHORTENED.get(type(frame))
    body = _ENCODER.encode(frame if shorten is None else shorten(frame))
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def decode(body: bytes) -> Frame:
    """Read a frame, without its length.

    Raises:
        PeerRejected: the bytes are no frame of this version.
    """
    try:
        frame = _DECODER.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        _check_version(body)
        raise rejected("frame", f"not a frame: {error}") from None
    if isinstance(frame, Hello | Welcome):
        if frame.version != PROTOCOL_VERSION:
            raise _another_version(frame.version)
        if not is_name(frame.node):
            raise rejected("frame", "not a frame: expected a node's name")
    return frame


def envelopes_wire(items: Sequence[DeliverItem]) -> bytes:
    """The encoding of what travels with the sealed messages: the part of a Deliver that changes."""
    return _ENCODER.encode([(item.envelope, item.message_id) for item in items])


def _check_version(body: bytes) -> None:
    """Another version may have other fields, so this comes before everything else."""
    try:
        values: Any = msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return
    if type(values) is list and len(values) > 1 and type(values[0]) is int and values[0] in _GREETINGS:
        version = values[1]
        if type(version) is int and version != PROTOCOL_VERSION:
            raise _another_version(version)


def _another_version(version: int) -> PeerRejected:
    return rejected(
        "version", f"the peer speaks version {version} of the link protocol, not {PROTOCOL_VERSION}"
    )


def _short(told: tuple[_Told, ...]) -> tuple[_Told, ...]:
    for each in told:
        if len(each.reason) > TEXT_LIMIT:
            break
    else:
        return told
    return tuple(replace(each, reason=each.reason[:TEXT_LIMIT]) for each in told)


_SHORTENED: Final[Mapping[type, Callable[[Any], Frame]]] = {
    Settled: lambda frame: Settled(_short(frame.outcomes)),
    ResumeStates: lambda frame: ResumeStates(_short(frame.states)),
    Goodbye: lambda frame: Goodbye(frame.reason[:TEXT_LIMIT]),
}
