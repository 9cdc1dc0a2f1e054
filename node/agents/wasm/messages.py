"""Messages as guests read and write them: JSON, without blanks between its tokens."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from node.agents.grants import Grant
from node.agents.wasm.failure import GuestFailed
from node.agents.wasm.host import Phase, Way
from node.agents.wasm.policy import WasmPolicy
from node.errors import ValidationFailed
from node.message import CONTENT_DEPTH_LIMIT, Message
from node.messaging.delivery import Draft
from node.vocabulary import TEXT_LIMIT, Performative, RoutingStrategy

_FIELDS: Final = frozenset(("performative", "content", "protocol", "receiver", "capability", "topic"))
_Label = Annotated[str, msgspec.Meta(max_length=TEXT_LIMIT)] | None


class _Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    performative: str
    content: Any = None
    receiver: _Label = None
    capability: _Label = None
    topic: _Label = None
    protocol: _Label = None


_SENT: Final = msgspec.json.Decoder(_Sent)


def guest_message(message: Message) -> bytes:
    """The public form of a message, always with content, attachments with their data."""
    shown = message.as_json() | {"content": message.content}
    files: list[dict[str, Any]] = []
    for attachment in message.attachments:
        entry: dict[str, Any] = {"name": attachment.name, "media_type": attachment.media_type}
        try:
            entry["text"] = attachment.data.decode()
        except UnicodeDecodeError:
            entry["base64"] = base64.b64encode(attachment.data).decode()
        files.append(entry)
    if files:
        shown["attachments"] = files
    return msgspec.json.encode(shown)


@dataclass(frozen=True, slots=True)
class Sending:
    """From where and under which rules a guest sends.

    Args:
        node: The name of this node.
        policy: What is granted.
        phase: What the guest was called for; in a timer there is nobody to reply to.
    """

    node: str
    policy: WasmPolicy
    phase: Phase

    def draft(self, way: Way, data: bytes) -> Draft:
        """Read what a guest sent.

        Raises:
            GuestFailed: it is not JSON of the right form, or not granted.
        """
        try:
            return self._draft(way, _read(data))
        except ValidationFailed as error:
            raise GuestFailed("message", f"the module sent no message: {error.why}") from None

    def _draft(self, way: Way, sent: _Sent) -> Draft:
        receiver = sent.receiver
        addresses = (receiver is not None) + (sent.capability is not None) + (sent.topic is not None)
        if addresses > 1:
            raise _wrong("at most one of receiver, capability and topic can be given")
        if way is Way.BROADCAST and sent.capability is None:
            raise _wrong("broadcast_message needs a capability")
        if way is Way.LOCAL:
            if receiver is None or "@" in receiver:
                raise _wrong("send_local_message needs a receiver on this node, without '@'")
            receiver = f"{receiver}@{self.node}"
        if not addresses and self.phase is Phase.TIMER:
            raise _wrong("in handle_timer a message needs a receiver, a capability or a topic")
        if addresses and way is Way.SEND and Grant.MESSAGES not in self.policy.grants:
            raise GuestFailed(
                "grants",
                "it sent a message to others, which its agent file does not grant (wasm.grants: [messages])",
            )
        strategy = RoutingStrategy.BROADCAST if way is Way.BROADCAST else RoutingStrategy.BEST_MATCH
        return Draft(
            Performative.parse(sent.performative),
            sent.content,
            receiver=receiver,
            capability=sent.capability,
            topic=sent.topic,
            protocol=sent.protocol,
            routing_strategy=strategy,
        )


def is_reply(draft: Draft) -> bool:
    """Whether it goes back to the sender."""
    return draft.receiver is None and draft.capability is None and draft.topic is None


def _read(data: bytes) -> _Sent:
    try:
        sent = _SENT.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _wrong(_what_is_wrong(data)) from None
    # so few brackets, and the content cannot be nested too deep
    brackets = data.count(b"[") + data.count(b"{")
    if brackets > CONTENT_DEPTH_LIMIT and _depth(sent.content) > CONTENT_DEPTH_LIMIT:
        raise _wrong(f"nested deeper than {CONTENT_DEPTH_LIMIT}")
    return sent


def _what_is_wrong(data: bytes) -> str:
    """Why something is no message, in the order in which an author looks for it."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return "it is not JSON"
    if not isinstance(value, dict) or not isinstance(value.get("performative"), str):
        return "it is no object with a performative"
    unknown = sorted(set(value) - _FIELDS)
    if unknown:
        return f"it has the unknown field {unknown[0][:80]!r}"
    return "receiver, capability, topic and protocol are texts"


def _wrong(why: str) -> ValidationFailed:
    return ValidationFailed("not a message", why=why)


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        level = [
            item
            for entry in level
            if isinstance(entry, dict | list)
            for item in (entry.values() if isinstance(entry, dict) else entry)
        ]
        depth += 1
    return depth
