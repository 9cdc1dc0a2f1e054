"""What queries say: a signed question to everybody, and the responses that go straight to its author.

    question    [2, author, boot_time_ms, boot_id, time, name, payload,
                 nodes, tags, flags, timeout_ms, signature]
    response    [3, query id, is_answer, payload]

A question is a canonical CBOR array, signed by its author over `domain("question") + CBOR(the array
without the signature)` and forwarded verbatim, by members that it does not concern too. Its id is the
first 8 bytes of its SHA-256. It says for how long answers are waited for, not until when: clocks
differ. `flags`: 1 wants acknowledgements, 2 is not to be gossiped on.

Filters: `nodes` names the members that shall answer, none meaning all; `tags` is a table from tag to
accepted values, no value meaning that the tag must be there. There are no regular expressions,
because a stranger could ask for one that takes a year.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from swim import strict_cbor
from swim.identity import SIGNATURE_BYTES, Identity, domain, is_name
from swim.lamport import MAX_TIME
from swim.messages import BOOT_ID_BYTES, MAX_BOOT_TIME_MS, Boot
from swim.user_events import is_title

QUESTION: Final = 2
RESPONSE: Final = 3
MAX_QUERY_NAME_BYTES: Final = 64
MAX_QUERY_PAYLOAD_BYTES: Final = 1_024
MAX_RESPONSE_PAYLOAD_BYTES: Final = 1_024
MAX_QUESTION_BYTES: Final = 1_200
"""Longest question, encoded: filters and a full payload share what one datagram carries."""
MAX_RESPONSE_BYTES: Final = MAX_RESPONSE_PAYLOAD_BYTES + 16
MAX_NODES: Final = 64
MAX_TAGS: Final = 16
MAX_TAG_VALUES: Final = 16
MAX_TAG_BYTES: Final = 64
QUERY_ID_BYTES: Final = 8
MAX_TIMEOUT_S: Final = 600.0
_WANT_ACK: Final = 1
_NO_BROADCAST: Final = 2

Tags = Mapping[str, Sequence[str]]
"""Accepted values per tag."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a member asks.

    Attributes:
        name: what kind of question it is.
        payload: at most 1,024 bytes of the application's.
        author: who asks, and gets the responses.
        boot: the life in which it does.
        time: Lamport time.
        nodes: who shall answer; nobody means everybody.
        tags: accepted values per tag that who answers must carry.
        wants_ack: whether receipt shall be acknowledged at once.
        forward: whether the question shall be gossiped on.
        timeout_ms: how long answers are waited for, from when the question was asked.
        signature: the author's.
    """

    name: str
    payload: bytes
    author: str
    boot: Boot
    time: int
    nodes: tuple[str, ...]
    tags: dict[str, tuple[str, ...]]
    wants_ack: bool
    forward: bool
    timeout_ms: int
    signature: bytes = field(repr=False)

    def concerns(self, node: str, tags: Mapping[str, str]) -> bool:
        """Say whether the filters let a member with this name and these tags answer."""
        if self.nodes and node not in self.nodes:
            return False
        return all(tag in tags and (not values or tags[tag] in values) for tag, values in self.tags.items())

    def signed_bytes(self) -> bytes:
        """Return what the signature covers."""
        return domain("question") + strict_cbor.encode(_fields(self))


def encode_question(question: Question, identity: Identity) -> bytes:
    """Sign and encode a question.

    Raises:
        ValueError: if a receiver would not take it.
    """
    fields = _fields(question)
    signature = identity.sign(domain("question") + strict_cbor.encode(fields))
    encoded = strict_cbor.encode([*fields, signature])
    decode_question(encoded)
    return encoded


def question_id(encoded: bytes) -> bytes:
    """Return the 8 bytes by which responses refer to a question."""
    return sha256(encoded).digest()[:QUERY_ID_BYTES]


def decode_question(encoded: bytes) -> Question:
    """Decode a question and check every bound, but not the signature.

    Raises:
        ValueError: for every input that `encode_question` would not have written.
    """
    if len(encoded) > MAX_QUESTION_BYTES:
        raise ValueError(f"{len(encoded)} bytes of question, and {MAX_QUESTION_BYTES} fit a datagram")
    fields = strict_cbor.decode(encoded, max_bytes=MAX_QUESTION_BYTES)
    if type(fields) is not list or len(fields) != 12:
        raise ValueError("a question is an array of twelve fields")
    kind, author, boot_time_ms, boot_id, time, name, payload, nodes, tags, flags, timeout_ms, signature = (
        fields
    )
    rules = (
        (type(kind) is int and kind == QUESTION, "not a question"),
        (is_name(author), "not a name"),
        (type(boot_time_ms) is int and 0 <= boot_time_ms <= MAX_BOOT_TIME_MS, "not a boot time"),
        (type(boot_id) is bytes and len(boot_id) == BOOT_ID_BYTES, "not a boot id"),
        (type(time) is int and 1 <= time <= MAX_TIME, "not a Lamport time"),
        (is_title(name, MAX_QUERY_NAME_BYTES), "a query's name is 1 to 64 bytes of printable text"),
        (
            type(payload) is bytes and len(payload) <= MAX_QUERY_PAYLOAD_BYTES,
            "a payload has at most 1,024 bytes",
        ),
        (_are_nodes(nodes), "nodes are at most 64 different names"),
        (_are_tags(tags), "tags are at most 16 of at most 16 values, each of at most 64 bytes"),
        (type(flags) is int and 0 <= flags <= (_WANT_ACK | _NO_BROADCAST), "unknown flags"),
        (type(timeout_ms) is int and 1 <= timeout_ms <= MAX_TIMEOUT_S * 1000, "a query waits 1 ms to 600 s"),
        (type(signature) is bytes and len(signature) == SIGNATURE_BYTES, "not a signature"),
    )
    for holds, message in rules:
        if not holds:
            raise ValueError(message)
    return Question(
        name=name,
        payload=payload,
        author=author,
        boot=Boot(boot_time_ms, boot_id),
        time=time,
        nodes=tuple(nodes),
        tags={tag: tuple(values) for tag, values in tags.items()},
        wants_ack=bool(flags & _WANT_ACK),
        forward=not flags & _NO_BROADCAST,
        timeout_ms=timeout_ms,
        signature=signature,
    )


def encode_response(query_id: bytes, payload: bytes | None) -> bytes:
    """Encode an answer, or an acknowledgement if there is no payload."""
    return strict_cbor.encode([RESPONSE, query_id, payload is not None, bytes(payload or b"")])


def decode_response(encoded: bytes) -> tuple[bytes, bytes | None]:
    """Return a response's query id, and the answer, None if it is an acknowledgement.

    Raises:
        ValueError: for every input that `encode_response` would not have written.
    """
    fields = strict_cbor.decode(encoded, max_bytes=MAX_RESPONSE_BYTES)
    if type(fields) is not list or len(fields) != 4:
        raise ValueError("a response is an array of four fields")
    kind, query_id, is_answer, payload = fields
    holds = (
        type(kind) is int and kind == RESPONSE
        and type(query_id) is bytes and len(query_id) == QUERY_ID_BYTES
        and type(is_answer) is bool
        and type(payload) is bytes and len(payload) <= (MAX_RESPONSE_PAYLOAD_BYTES if is_answer else 0)
    )  # fmt: skip
    if not holds:
        raise ValueError("a field of a response is of the wrong type or out of its bounds")
    return query_id, payload if is_answer else None


def _fields(question: Question) -> list[Any]:
    boot = question.boot
    flags = question.wants_ack * _WANT_ACK | (not question.forward) * _NO_BROADCAST
    return [
        QUESTION, question.author, boot.time_ms, boot.id, question.time, question.name, question.payload,
        list(question.nodes), {tag: list(values) for tag, values in question.tags.items()}, flags,
        question.timeout_ms,
    ]  # fmt: skip


def _are_nodes(nodes: Any) -> bool:
    return (
        type(nodes) is list
        and len(nodes) <= MAX_NODES
        and all(is_name(node) for node in nodes)
        and len(dict.fromkeys(nodes)) == len(nodes)
    )


def _are_tags(tags: Any) -> bool:
    return (
        type(tags) is dict
        and len(tags) <= MAX_TAGS
        and all(
            is_title(tag, MAX_TAG_BYTES)
            and type(values) is list
            and len(values) <= MAX_TAG_VALUES
            and all(type(value) is str and len(value.encode()) <= MAX_TAG_BYTES for value in values)
            for tag, values in tags.items()
        )
    )
